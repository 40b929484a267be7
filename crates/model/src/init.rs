//! The parameters of a model before its first step: each a function of seed, tensor and place.

use std::f64::consts::TAU;

use wootz_kernels::rng::Rng;

use crate::config::{DecoderConfig, Norm};
use crate::names::{Kind, Part, Place, TensorId};

/// How to begin, as GPT-2 did and llm.c, nanoGPT and llama2.c do:
/// - matrices, embeddings and learned positions are normal with mean 0 and standard deviation `std`;
/// - the two matrices that write into the residual stream, attention's output and the MLP's narrowing one, have
///   `std / sqrt(2L)`, in every family: the stream is the sum of 2L of them;
/// - norms multiply by 1 (their weights are 0 where `1 + w` multiplies), and biases are 0.
///
/// OpenAI's first GPT-2 had 0.01 for positions; transformers, nanoGPT and llm.c have 0.02, and so has this.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Init {
    /// Another seed is another model.
    pub seed: u64,
    /// Standard deviation of matrices; 0.02 by default. Models narrower than GPT-2 learn faster from more.
    pub std: f32,
}

impl Default for Init {
    fn default() -> Self {
        Init { seed: 0, std: 0.02 }
    }
}

impl Init {
    /// Fills `out` with the elements of tensor `id` from number `first` on, row-major.
    ///
    /// An element depends on seed, tensor and its own number alone, so a tensor may be filled in parts, in any order
    /// and on any number of threads.
    pub fn fill(&self, config: &DecoderConfig, id: TensorId, first: usize, out: &mut [f32]) {
        match kind_of(id) {
            Values::Norm => out.fill(match config.norm {
                Norm::LayerNorm | Norm::RmsNorm => 1.0,
                Norm::RmsNormOnePlus => 0.0,
            }),
            Values::Zero => out.fill(0.0),
            Values::Normal => self.normal(id, f64::from(self.std), first, out),
            Values::Residual => {
                let std = f64::from(self.std) / (2.0 * config.n_layers() as f64).sqrt();
                self.normal(id, std, first, out);
            }
        }
    }

    fn normal(&self, id: TensorId, std: f64, first: usize, out: &mut [f32]) {
        let rng = Rng::new(self.seed, stream(id));
        let first = first as u64;
        // Numbers come in pairs; a part may begin or end within one.
        let (before, whole) = out.split_at_mut((first as usize % 2).min(out.len()));
        if let [only] = before {
            *only = pair(&rng, first / 2, std)[1];
        }
        for (index, two) in (first.div_ceil(2)..).zip(whole.chunks_mut(2)) {
            two.copy_from_slice(&pair(&rng, index, std)[..two.len()]);
        }
    }
}

/// Two normal numbers (Box and Muller) from numbers `2 index` and `2 index + 1` of the stream.
fn pair(rng: &Rng, index: u64, std: f64) -> [f32; 2] {
    let uniform = |at: u64| (rng.at(at) >> 11) as f64 * (1.0 / (1u64 << 53) as f64); // in [0, 1)
    let radius = std * (-2.0 * (1.0 - uniform(2 * index)).ln()).sqrt();
    let (sin, cos) = (TAU * uniform(2 * index + 1)).sin_cos();
    [(radius * cos) as f32, (radius * sin) as f32]
}

enum Values {
    Normal,
    Residual,
    Norm,
    Zero,
}

fn kind_of(id: TensorId) -> Values {
    match id.kind {
        Kind::Bias | Kind::LoraA | Kind::LoraB | Kind::LoraMagnitude => return Values::Zero,
        Kind::Weight => {}
    }
    match id.place {
        Place::Embed | Place::PosEmbed | Place::Head => Values::Normal,
        Place::FinalNorm => Values::Norm,
        Place::Layer(_, part) => match part {
            Part::Q | Part::K | Part::V | Part::Gate | Part::Up => Values::Normal,
            Part::O | Part::Down => Values::Residual,
            Part::AttnNorm
            | Part::QNorm
            | Part::KNorm
            | Part::AttnPostNorm
            | Part::MlpNorm
            | Part::MlpPostNorm => Values::Norm,
        },
    }
}

/// The number of a tensor's stream. These numbers stay as they are: a seed is to mean the same model tomorrow.
fn stream(id: TensorId) -> u64 {
    match id.place {
        Place::Embed => 0,
        Place::PosEmbed => 1,
        Place::Head => 2,
        Place::FinalNorm => 3,
        Place::Layer(layer, part) => {
            let part = match part {
                Part::Q => 0,
                Part::K => 1,
                Part::V => 2,
                Part::O => 3,
                Part::Gate => 4,
                Part::Up => 5,
                Part::Down => 6,
                Part::AttnNorm => 7,
                Part::QNorm => 8,
                Part::KNorm => 9,
                Part::AttnPostNorm => 10,
                Part::MlpNorm => 11,
                Part::MlpPostNorm => 12,
            };
            16 + 16 * layer as u64 + part
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::names::canonical;
    use crate::presets::{Overrides, PRESETS, preset};

    /// The first elements of a tensor, 65,536 at the most.
    fn filled(init: Init, config: &DecoderConfig, id: TensorId, shape: &[usize]) -> Vec<f32> {
        let mut out = vec![f32::NAN; shape.iter().product::<usize>().min(1 << 16)];
        init.fill(config, id, 0, &mut out);
        out
    }

    #[test]
    fn every_tensor_of_every_preset_has_its_spread() {
        for preset in PRESETS {
            let small = Overrides {
                n_layers: Some(2),
                vocab_size: Some(256),
                max_seq: Some(64),
                ..Overrides::default()
            };
            let (_, config) = preset.config(&small).unwrap();
            let mut streams = HashSet::new();
            for (id, shape) in canonical(&config) {
                assert!(id.kind == Kind::Bias || streams.insert(stream(id)), "{id}");
                let values = filled(Init::default(), &config, id, &shape);
                let n = values.len() as f64;
                let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
                let std = (values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n).sqrt();
                let name = id.to_string();
                if name.ends_with("bias") {
                    assert!(values.iter().all(|&x| x == 0.0), "{name}");
                } else if shape.len() == 1 {
                    let one = if config.norm == Norm::RmsNormOnePlus { 0.0 } else { 1.0 };
                    assert!(values.iter().all(|&x| x == one), "{name}");
                } else {
                    let residual = name.contains(".o.") || name.contains(".down.");
                    let expected = if residual { 0.01 } else { 0.02 }; // sqrt(2 · 2 layers) is 2
                    assert!((std / expected - 1.0).abs() < 0.03, "{}: {name}: {std}", preset.name);
                    assert!(mean.abs() < 5.0 * expected / n.sqrt(), "{}: {name}: {mean}", preset.name);
                }
            }
        }
    }

    #[test]
    fn parts_make_the_whole_in_any_cut() {
        let (_, config) = preset("tiny").unwrap().config(&Overrides::default()).unwrap();
        let id = TensorId::weight(Place::Layer(1, Part::Q));
        let init = Init { seed: 7, std: 0.02 };
        let whole = filled(init, &config, id, &[33]);
        for cut in [0, 1, 2, 7, 16, 31, 33] {
            let mut parts = vec![f32::NAN; 33];
            let (left, right) = parts.split_at_mut(cut);
            init.fill(&config, id, cut, right);
            init.fill(&config, id, 0, left);
            assert_eq!(parts, whole, "{cut}");
        }
    }

    #[test]
    fn seeds_and_tensors_differ_and_a_seed_stays_what_it_is() {
        let (_, config) = preset("tiny").unwrap().config(&Overrides::default()).unwrap();
        let of = |seed, place| filled(Init { seed, std: 1.0 }, &config, TensorId::weight(place), &[64]);
        let all = [
            of(0, Place::Embed),
            of(1, Place::Embed),
            of(0, Place::Layer(0, Part::Q)),
            of(0, Place::Layer(1, Part::Q)),
            of(0, Place::Layer(0, Part::K)),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert!(a.iter().zip(b).all(|(a, b)| a != b));
            }
        }
        assert_eq!(of(0, Place::Embed)[..3], [-0.108_922_6, 0.901_816_96, -0.789_892_8]);
    }
}
