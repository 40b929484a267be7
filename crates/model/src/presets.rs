//! Models by name, to train from nothing: published sizes, the built-in story model's, and one that trains in a minute.

use serde_json::{Value, json};

use crate::arch::{self, Architecture, MAX_LAYERS, MAX_SIZE};
use crate::config::DecoderConfig;
use crate::error::{Context, Result, fail};

/// A model by name.
#[derive(Debug)]
pub struct Preset {
    /// What it is called.
    pub name: &'static str,
    /// Where the sizes come from, and what it is good for; one line.
    pub about: &'static str,
    /// The architecture's name.
    pub architecture: &'static str,
    sizes: Sizes,
    hidden: Hidden,
}

#[derive(Clone, Copy, Debug)]
struct Sizes {
    n_layers: usize,
    dim: usize,
    n_heads: usize,
    n_kv_heads: usize,
    /// `None`: `dim / n_heads`.
    head_dim: Option<usize>,
    vocab_size: usize,
    max_seq: usize,
}

/// How wide the MLP's hidden layer is.
#[derive(Clone, Copy, Debug)]
enum Hidden {
    /// 4·C.
    FourTimes,
    /// 8/3·C, rounded up to a multiple of 32: two thirds of 4·C, for the MLP has three matrices (llama2.c).
    TwoThirds,
    /// So many C, as a fraction, rounded up to a multiple of 32.
    Ratio(usize, usize),
}

/// Every preset.
pub static PRESETS: &[Preset] = &[
    Preset {
        name: "tiny",
        about: "0.9 million parameters in Qwen3's form, for the built-in stories: a minute on two cores",
        architecture: "qwen3",
        sizes: Sizes {
            n_layers: 4,
            dim: 128,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: Some(32),
            vocab_size: 1024,
            max_seq: 256,
        },
        hidden: Hidden::Ratio(11, 4),
    },
    Preset {
        name: "story",
        about: "the built-in story model: 1.6 million parameters in Qwen3's form",
        architecture: "qwen3",
        sizes: Sizes {
            n_layers: 5,
            dim: 160,
            n_heads: 6,
            n_kv_heads: 3,
            head_dim: Some(32),
            vocab_size: 1024,
            max_seq: 512,
        },
        hidden: Hidden::Ratio(13, 5),
    },
    gpt2("gpt2-124m", "GPT-2, the small one of 2019", 12, 768, 12),
    gpt2("gpt2-350m", "GPT-2 medium", 24, 1024, 16),
    gpt2("gpt2-774m", "GPT-2 large", 36, 1280, 20),
    gpt2("gpt2-1558m", "GPT-2 XL", 48, 1600, 25),
    llama2c("llama-15m", "llama2.c's stories15M", 6, 288, 6, 256),
    llama2c("llama-42m", "llama2.c's stories42M", 8, 512, 8, 1024),
    llama2c("llama-110m", "llama2.c's stories110M", 12, 768, 12, 1024),
    Preset {
        name: "qwen3-0.6b",
        about: "Qwen3 0.6B",
        architecture: "qwen3",
        sizes: Sizes {
            n_layers: 28,
            dim: 1024,
            n_heads: 16,
            n_kv_heads: 8,
            head_dim: Some(128),
            vocab_size: 151_936,
            max_seq: 40_960,
        },
        hidden: Hidden::Ratio(3, 1),
    },
    gemma3("gemma3-270m", "Gemma 3 270M", 18, 640, Hidden::Ratio(16, 5)),
    gemma3("gemma3-1b", "Gemma 3 1B", 26, 1152, Hidden::Ratio(6, 1)),
];

const fn gpt2(
    name: &'static str,
    about: &'static str,
    n_layers: usize,
    dim: usize,
    n_heads: usize,
) -> Preset {
    Preset {
        name,
        about,
        architecture: "gpt2",
        sizes: Sizes {
            n_layers,
            dim,
            n_heads,
            n_kv_heads: n_heads,
            head_dim: None,
            vocab_size: 50_257,
            max_seq: 1024,
        },
        hidden: Hidden::FourTimes,
    }
}

const fn llama2c(
    name: &'static str,
    about: &'static str,
    n_layers: usize,
    dim: usize,
    n_heads: usize,
    max_seq: usize,
) -> Preset {
    Preset {
        name,
        about,
        architecture: "llama",
        sizes: Sizes {
            n_layers,
            dim,
            n_heads,
            n_kv_heads: n_heads,
            head_dim: None,
            vocab_size: 32_000,
            max_seq,
        },
        hidden: Hidden::TwoThirds,
    }
}

const fn gemma3(
    name: &'static str,
    about: &'static str,
    n_layers: usize,
    dim: usize,
    hidden: Hidden,
) -> Preset {
    Preset {
        name,
        about,
        architecture: "gemma3",
        sizes: Sizes {
            n_layers,
            dim,
            n_heads: 4,
            n_kv_heads: 1,
            head_dim: Some(256),
            vocab_size: 262_144,
            max_seq: 32_768,
        },
        hidden,
    }
}

/// Sizes to take in place of a preset's. The width of a head is the preset's where its family has it as a number of its
/// own (Qwen3, Gemma 3), otherwise `dim / n_heads`; the hidden layer keeps the family's rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Layers (L).
    pub n_layers: Option<usize>,
    /// Width of the residual stream (C).
    pub dim: Option<usize>,
    /// Query heads (H).
    pub n_heads: Option<usize>,
    /// Key/value heads (G). When absent, as many query heads share one as in the preset.
    pub n_kv_heads: Option<usize>,
    /// Tokens (V).
    pub vocab_size: Option<usize>,
    /// The longest sequence.
    pub max_seq: Option<usize>,
}

/// The preset of this name.
///
/// # Errors
/// There is none; the message lists those that there are.
pub fn preset(name: &str) -> Result<&'static Preset> {
    match PRESETS.iter().find(|preset| preset.name == name) {
        Some(preset) => Ok(preset),
        None => fail!(
            "there is no preset `{name}`; there are {}",
            PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", ")
        ),
    }
}

impl Preset {
    /// The architecture and the configuration, with some sizes changed.
    ///
    /// # Errors
    /// Sizes that do not fit together; the message says which, and what would fit.
    pub fn config(&self, overrides: &Overrides) -> Result<(&'static Architecture, DecoderConfig)> {
        let whose = || format!("preset {}", self.name);
        let architecture = arch::named(self.architecture)?;
        let sizes = self.sizes(overrides).context(whose)?;
        let file = self.config_json(sizes);
        Ok((architecture, (architecture.from_hf)(&file).context(whose)?))
    }

    fn sizes(&self, overrides: &Overrides) -> Result<Sizes> {
        /// Wider than any model; products of two of these are far from overflowing.
        const WIDEST: usize = 1 << 20;
        let Sizes { n_layers, dim, n_heads, n_kv_heads, head_dim, vocab_size, max_seq } = self.sizes;
        let n_kv_heads = match (overrides.n_kv_heads, overrides.n_heads) {
            (Some(given), _) => given,
            (None, Some(heads)) => {
                let shared = n_heads / n_kv_heads;
                if !heads.is_multiple_of(shared) {
                    fail!(
                        "{shared} query heads share a key/value head, and {heads} query heads are no multiple of that; \
                         give the number of key/value heads too"
                    );
                }
                heads / shared
            }
            (None, None) => n_kv_heads,
        };
        let sizes = Sizes {
            n_layers: overrides.n_layers.unwrap_or(n_layers),
            dim: overrides.dim.unwrap_or(dim),
            n_heads: overrides.n_heads.unwrap_or(n_heads),
            n_kv_heads,
            head_dim,
            vocab_size: overrides.vocab_size.unwrap_or(vocab_size),
            max_seq: overrides.max_seq.unwrap_or(max_seq),
        };
        for (what, size, most) in [
            ("layers", sizes.n_layers, MAX_LAYERS),
            ("a width", sizes.dim, WIDEST),
            ("heads", sizes.n_heads, WIDEST),
            ("key/value heads", sizes.n_kv_heads, WIDEST),
            ("tokens", sizes.vocab_size, MAX_SIZE),
            ("positions", sizes.max_seq, MAX_SIZE),
        ] {
            if !(1..=most).contains(&size) {
                fail!("expected {what} from 1 to {most}, found {size}");
            }
        }
        let Sizes { dim, n_heads, n_kv_heads, .. } = sizes;
        if !n_heads.is_multiple_of(n_kv_heads) {
            fail!(
                "expected a number of key/value heads that divides the {n_heads} query heads, found {n_kv_heads}"
            );
        }
        if self.architecture == "gpt2" && n_kv_heads != n_heads {
            fail!("GPT-2 has a key/value head for each of its {n_heads} query heads, and not {n_kv_heads}");
        }
        if head_dim.is_none() {
            if !dim.is_multiple_of(n_heads) {
                fail!("expected a number of heads that divides the width {dim}, found {n_heads}");
            }
            if self.architecture != "gpt2" && !(dim / n_heads).is_multiple_of(2) {
                fail!("a head would be {} wide; rotary pairs need an even width", dim / n_heads);
            }
        }
        Ok(sizes)
    }

    /// What the family's config.json would say: families differ in nothing else.
    fn config_json(&self, sizes: Sizes) -> Value {
        let Sizes { n_layers, dim, n_heads, n_kv_heads, head_dim, vocab_size, max_seq } = sizes;
        let hidden = match self.hidden {
            Hidden::FourTimes => 4 * dim,
            Hidden::TwoThirds => (8 * dim / 3).next_multiple_of(32),
            Hidden::Ratio(numerator, denominator) => {
                (numerator * dim).div_ceil(denominator).next_multiple_of(32)
            }
        };
        if self.architecture == "gpt2" {
            return json!({
                "n_layer": n_layers, "n_embd": dim, "n_head": n_heads, "n_inner": hidden, "vocab_size": vocab_size,
                "n_positions": max_seq,
            });
        }
        let (theta, eps) = match self.name {
            "story" | "tiny" => (1e4, 1e-6),
            _ if self.architecture == "llama" => (1e4, 1e-5),
            _ => (1e6, 1e-6),
        };
        let mut keys = json!({
            "num_hidden_layers": n_layers, "hidden_size": dim, "intermediate_size": hidden,
            "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads, "head_dim": head_dim,
            "vocab_size": vocab_size, "max_position_embeddings": max_seq, "rope_theta": theta, "rms_norm_eps": eps,
            "tie_word_embeddings": true,
        });
        if self.architecture == "gemma3" {
            keys["query_pre_attn_scalar"] = json!(head_dim);
            keys["sliding_window"] = json!(512);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flops::parameters;

    fn with(name: &str, overrides: Overrides) -> Result<DecoderConfig> {
        Ok(preset(name)?.config(&overrides)?.1)
    }

    fn plain(name: &str) -> DecoderConfig {
        with(name, Overrides::default()).unwrap()
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let published = [
            ("tiny", 869_760),
            ("story", 1_625_120),
            ("gpt2-124m", 124_439_808),
            ("gpt2-350m", 354_823_168),
            ("gpt2-774m", 774_030_080),
            ("gpt2-1558m", 1_557_611_200),
            ("llama-15m", 15_191_712),
            ("llama-42m", 41_689_600),
            ("llama-110m", 109_529_856),
            ("qwen3-0.6b", 596_049_920),
            ("gemma3-270m", 268_098_176),
            ("gemma3-1b", 999_885_952),
        ];
        assert_eq!(published.map(|(name, _)| name).len(), PRESETS.len());
        for (name, expected) in published {
            assert_eq!(parameters(&plain(name)), expected, "{name}");
        }
    }

    #[test]
    fn presets_can_be_saved_in_every_format_of_their_family() {
        let mut names = std::collections::HashSet::new();
        for preset in PRESETS {
            assert!(names.insert(preset.name), "{} twice", preset.name);
            let (architecture, config) = preset.config(&Overrides::default()).unwrap();
            assert_eq!(architecture.name, preset.architecture);
            assert_eq!(architecture.config_json(&config).unwrap().1, config, "{}", preset.name);
            architecture.gguf_head(&config).unwrap();
        }
    }

    #[test]
    fn story_is_the_story_model() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/story.gguf");
        let file = wootz_formats::Checkpoint::open(&path).unwrap();
        assert_eq!(arch::identify(&file).unwrap().1, plain("story"));
    }

    #[test]
    fn sizes_that_follow_from_others_do() {
        let none = Overrides::default();
        let gpt2 = with("gpt2-124m", Overrides { dim: Some(384), n_heads: Some(6), ..none }).unwrap();
        assert_eq!((gpt2.head_dim, gpt2.n_kv_heads, gpt2.hidden_dim), (64, 6, 1536));
        let llama = with("llama-15m", Overrides { dim: Some(512), n_heads: Some(8), ..none }).unwrap();
        assert_eq!((llama.head_dim, llama.n_kv_heads, llama.hidden_dim), (64, 8, 1376));
        let qwen = with("qwen3-0.6b", Overrides { n_heads: Some(6), n_layers: Some(2), ..none }).unwrap();
        assert_eq!((qwen.head_dim, qwen.n_kv_heads, qwen.n_layers()), (128, 3, 2));
        let grouped = with("llama-15m", Overrides { n_kv_heads: Some(2), ..none }).unwrap();
        assert_eq!((grouped.n_heads, grouped.n_kv_heads), (6, 2));
        let tiny = with("tiny", Overrides { vocab_size: Some(300), max_seq: Some(64), ..none }).unwrap();
        assert_eq!((tiny.vocab_size, tiny.max_seq, tiny.hidden_dim), (300, 64, 352));
        let gemma = plain("gemma3-270m");
        let sliding: Vec<_> = gemma.layers[..7].iter().map(|layer| layer.window).collect();
        assert_eq!(sliding, [Some(512), Some(512), Some(512), Some(512), Some(512), None, Some(512)]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_in_the_callers_words() {
        let none = Overrides::default();
        for (name, overrides, expected) in [
            ("gpt2-125m", none, "no preset `gpt2-125m`; there are tiny, story"),
            ("gpt2-124m", Overrides { dim: Some(770), ..none }, "divides the width 770, found 12"),
            ("gpt2-124m", Overrides { n_kv_heads: Some(4), ..none }, "GPT-2 has a key/value head for each"),
            ("llama-15m", Overrides { dim: Some(30), ..none }, "a head would be 5 wide"),
            ("llama-15m", Overrides { n_kv_heads: Some(4), ..none }, "divides the 6 query heads, found 4"),
            ("tiny", Overrides { n_heads: Some(3), ..none }, "2 query heads share a key/value head"),
            ("tiny", Overrides { n_layers: Some(0), ..none }, "layers from 1 to 10000, found 0"),
            ("tiny", Overrides { n_heads: Some(0), ..none }, "found 0"),
            ("tiny", Overrides { n_kv_heads: Some(0), ..none }, "found 0"),
            ("tiny", Overrides { dim: Some(usize::MAX), ..none }, "a width from 1 to"),
            ("tiny", Overrides { vocab_size: Some(usize::MAX), ..none }, "tokens from 1 to"),
            ("gemma3-1b", Overrides { n_heads: Some(1 << 30), ..none }, "heads from 1 to"),
        ] {
            let error = format!("{:#}", with(name, overrides).unwrap_err());
            assert!(error.contains(expected) && !error.contains("config.json"), "{error}");
        }
    }
}
