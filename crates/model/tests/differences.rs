//! Backward against differences of the loss: every architecture, every switch beside every other, and that a wrong
//! gradient is found.

use wootz_kernels::rng::Rng;
use wootz_model::DecoderConfig;
use wootz_model::arch::ARCHITECTURES;
use wootz_model::config::{
    Bias, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope, RopeScaling,
};
use wootz_model::differences::{Case, LOSS_TOLERANCE, TOLERANCE, typical};
use wootz_model::names::{Kind, Part, Place, TensorId};

/// Elements of each tensor: all of a vector's, some of a matrix's.
const ELEMENTS: usize = 20;

fn assert_passes(name: &str, config: &DecoderConfig) {
    let case = Case::new(config, 1);
    let (loss, gradients) = case.gradients().unwrap();
    let expected = case.reference_loss();
    let off = (loss - expected).abs() / expected;
    assert!(off <= LOSS_TOLERANCE, "{name}: loss {loss}, in f64 {expected}");
    let rows = case.compare(&gradients, ELEMENTS);
    // All of them: the last one in the order of the forward pass is where to look.
    let wrong = rows.iter().filter(|row| !row.passed());
    let wrong: Vec<String> = wrong.map(|row| format!("{} by {:.1e}", row.id, row.relative)).collect();
    assert!(wrong.is_empty(), "{name}: gradients are off: {}", wrong.join(", "));
    for row in &rows {
        assert_eq!(row.compared, ELEMENTS.min(row.shape.iter().product()), "{name}: {}", row.id);
    }
    let worst = rows.iter().fold(0.0, |a: f64, row| a.max(row.relative));
    println!("{name}: {} tensors, off by {worst:.1e} at most, loss by {off:.1e}", rows.len());
}

#[test]
fn every_architecture() {
    for architecture in ARCHITECTURES {
        assert_passes(architecture.name, &typical(architecture).unwrap_or_else(|e| panic!("{e:#}")));
    }
}

/// A setting of a switch.
type Setting = (&'static str, fn(&mut DecoderConfig));

/// Every switch, with all of its settings.
const SWITCHES: &[&[Setting]] = &[
    &[
        ("no scaling", |c| rotary(c, RopeScaling::None)),
        ("linear", |c| rotary(c, RopeScaling::Linear { factor: 4.0 })),
        ("llama3", |c| {
            rotary(
                c,
                RopeScaling::Llama3 {
                    factor: 8.0,
                    low_freq_factor: 1.0,
                    high_freq_factor: 4.0,
                    original_max_seq: 64,
                },
            );
        }),
        ("yarn", |c| {
            rotary(
                c,
                RopeScaling::Yarn {
                    factor: 4.0,
                    beta_fast: 32.0,
                    beta_slow: 1.0,
                    original_max_seq: 64,
                    attention_factor: 1.14,
                    truncate: true,
                },
            );
        }),
        ("divisors", |c| rotary(c, RopeScaling::Divisors(vec![1.0, 2.0, 8.0]))),
        ("two thetas", |c| {
            rotary(c, RopeScaling::None);
            if let Some(rope) = &mut c.layers[1].rope {
                rope.theta = 1e6;
            }
        }),
        ("learned", |c| {
            c.positions = Positions::Learned;
            c.layers.iter_mut().for_each(|layer| layer.rope = None);
        }),
    ],
    &[
        ("LayerNorm", |c| c.norm = Norm::LayerNorm),
        ("RMSNorm", |c| c.norm = Norm::RmsNorm),
        ("1 + w", |c| c.norm = Norm::RmsNormOnePlus),
    ],
    &[
        ("no window", |_| {}),
        ("windows", |c| c.layers.iter_mut().for_each(|layer| layer.window = Some(4))),
        ("one window", |c| c.layers[0].window = Some(4)),
    ],
    &[
        ("no bias", |c| c.bias = Bias::None),
        ("bias of q, k, v", |c| c.bias = Bias::Qkv),
        ("biases", |c| c.bias = Bias::All),
    ],
    &[
        ("GELU", |c| c.mlp = Mlp::Gelu),
        ("SwiGLU", |c| c.mlp = Mlp::SwiGlu),
        ("GeGLU", |c| c.mlp = Mlp::GeGlu),
    ],
    &[
        ("a head each", |c| (c.n_heads, c.n_kv_heads) = (2, 2)),
        ("groups", |c| (c.n_heads, c.n_kv_heads) = (4, 2)),
        ("one group", |c| (c.n_heads, c.n_kv_heads) = (3, 1)),
    ],
    &[("pre", |c| c.placement = NormPlacement::Pre), ("sandwich", |c| c.placement = NormPlacement::Sandwich)],
    &[("no qk norm", |c| c.qk_norm = QkNorm::None), ("qk norm", |c| c.qk_norm = QkNorm::PerHead)],
    &[("tied", |c| c.head = Head::Tied), ("untied", |c| c.head = Head::Untied)],
    &[("no cap", |c| c.logit_softcap = None), ("cap", |c| c.logit_softcap = Some(30.0))],
    &[("embedding", |c| c.embedding_scale = 1.0), ("scaled", |c| c.embedding_scale = 4.5)],
];

fn rotary(config: &mut DecoderConfig, scaling: RopeScaling) {
    config.positions = Positions::Rotary;
    let rope = Rope { theta: 10_000.0, scaling };
    config.layers.iter_mut().for_each(|layer| layer.rope = Some(rope.clone()));
}

fn base() -> DecoderConfig {
    DecoderConfig {
        layers: vec![LayerConfig { rope: None, window: None }; 2],
        ..typical(ARCHITECTURES[0]).unwrap()
    }
}

/// Choices of one setting a switch, so that any two settings of different switches meet in one of them. Greedy: of some
/// random choices, always the one with the most new pairs.
fn pairwise() -> Vec<Vec<usize>> {
    let count = SWITCHES.len();
    let mut open: Vec<[usize; 4]> = Vec::new();
    for a in 0..count {
        for b in a + 1..count {
            for x in 0..SWITCHES[a].len() {
                open.extend((0..SWITCHES[b].len()).map(|y| [a, x, b, y]));
            }
        }
    }
    let meets = |choice: &[usize], &[a, x, b, y]: &[usize; 4]| choice[a] == x && choice[b] == y;
    let mut rng = Rng::new(1, 0);
    let mut chosen = Vec::new();
    while let Some(&[a, x, b, y]) = open.first() {
        let mut random = || -> Vec<usize> {
            let mut choice: Vec<usize> =
                SWITCHES.iter().map(|settings| (rng.next() % settings.len() as u64) as usize).collect();
            (choice[a], choice[b]) = (x, y);
            choice
        };
        let news = |choice: &Vec<usize>| open.iter().filter(|pair| meets(choice, pair)).count();
        let best = (0..200).map(|_| random()).max_by_key(news).unwrap();
        open.retain(|pair| !meets(&best, pair));
        chosen.push(best);
    }
    chosen
}

#[test]
fn every_switch_beside_every_other() {
    let choices = pairwise();
    for choice in &choices {
        let mut config = base();
        let settings: Vec<&Setting> = SWITCHES.iter().zip(choice).map(|(all, &i)| &all[i]).collect();
        settings.iter().for_each(|(_, set)| set(&mut config));
        let names: Vec<&str> = settings.iter().map(|(name, _)| *name).collect();
        assert_passes(&names.join(", "), &config);
    }
    println!("{} configurations", choices.len());
}

/// A thousandth too much, the wrong sign, no number: each is found in each tensor, and nothing else is.
#[test]
fn a_wrong_gradient_is_found() {
    for architecture in ARCHITECTURES {
        let case = Case::new(&typical(architecture).unwrap(), 2);
        let (_, mut gradients) = case.gradients().unwrap();
        let ids: Vec<TensorId> = gradients.iter().map(|(id, _)| id).collect();
        // The true gradient of this bias is 0 where nothing rotates it: a factor changes nothing.
        let is_zero = |id: &TensorId| {
            let of_k = matches!(id.place, Place::Layer(_, Part::K)) && id.kind == Kind::Bias;
            of_k && case.config().positions == Positions::Learned
        };
        let wrong = |gradients: &wootz_model::Gradients| -> Vec<TensorId> {
            let rows = case.compare(gradients, 4);
            rows.into_iter().filter(|row| !row.passed()).map(|row| row.id).collect()
        };
        for (i, id) in ids.iter().enumerate().filter(|(_, id)| !is_zero(id)) {
            let right = gradients.get(*id).unwrap().to_vec();
            let tensor = gradients.get_mut(*id).unwrap();
            match i % 3 {
                0 => tensor.iter_mut().for_each(|x| *x *= 1.001),
                1 => tensor.iter_mut().for_each(|x| *x *= -1.0),
                _ => tensor.fill(f32::NAN),
            }
            assert_eq!(wrong(&gradients), [*id], "{}", architecture.name);
            gradients.get_mut(*id).unwrap().copy_from_slice(&right);
        }
        assert_eq!(wrong(&gradients), [], "{} (tolerance {TOLERANCE:e})", architecture.name);
    }
}
