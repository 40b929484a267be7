//! Backward against differences of the loss: every architecture, every switch beside every other, and that a wrong
//! gradient is found.

mod switches;

use wootz_model::DecoderConfig;
use wootz_model::arch::ARCHITECTURES;
use wootz_model::config::Positions;
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

#[test]
fn every_switch_beside_every_other() {
    let configurations = switches::configurations();
    configurations.iter().for_each(|(name, config)| assert_passes(name, config));
    println!("{} configurations", configurations.len());
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
            let right = gradients.get(*id).unwrap().host().to_vec();
            let tensor = gradients.get_mut(*id).unwrap().host_mut();
            match i % 3 {
                0 => tensor.iter_mut().for_each(|x| *x *= 1.001),
                1 => tensor.iter_mut().for_each(|x| *x *= -1.0),
                _ => tensor.fill(f32::NAN),
            }
            assert_eq!(wrong(&gradients), [*id], "{}", architecture.name);
            gradients.get_mut(*id).unwrap().write(&right).unwrap();
        }
        assert_eq!(wrong(&gradients), [], "{} (tolerance {TOLERANCE:e})", architecture.name);
    }
}
