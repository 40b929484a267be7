//! Configurations in which any two settings of different switches of the decoder meet.

use wootz_kernels::rng::Rng;
use wootz_model::DecoderConfig;
use wootz_model::arch::ARCHITECTURES;
use wootz_model::config::{
    Bias, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope, RopeScaling,
};
use wootz_model::differences::typical;

/// Every setting of every switch beside every setting of every other, in as few configurations as it takes, with their names.
pub fn configurations() -> Vec<(String, DecoderConfig)> {
    let configuration = |choice: Vec<usize>| {
        let mut config = base();
        let settings: Vec<&Setting> = SWITCHES.iter().zip(&choice).map(|(all, &i)| &all[i]).collect();
        settings.iter().for_each(|(_, set)| set(&mut config));
        let names: Vec<&str> = settings.iter().map(|(name, _)| *name).collect();
        (names.join(", "), config)
    };
    pairwise().into_iter().map(configuration).collect()
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
