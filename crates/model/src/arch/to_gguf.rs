//! Writing a GGUF file's metadata: the reverse of `gguf`, under the keys and in the types that llama.cpp's converter writes.
//!
//! What GGUF has no key for is an error here: a file must not say less than the model is.

use wootz_formats::gguf::Value;

use super::Architecture;
use crate::config::{DecoderConfig, Rope, RopeScaling};
use crate::error::{Error, Result, fail};
use crate::rope::{frequencies, yarn_attention_factor};

/// What a GGUF file says of a network.
#[derive(Clone, Debug)]
pub struct GgufHead {
    /// `general.architecture`, which all other keys begin with.
    pub architecture: &'static str,
    /// Keys, complete, and values.
    pub entries: Vec<(String, Value)>,
    /// Divisors of the rotary frequencies, `[D/2]`: what the file holds as the tensor `rope_freqs.weight`.
    pub rope_divisors: Option<Vec<f32>>,
}

impl Architecture {
    /// The metadata of a GGUF file that says what the network is.
    ///
    /// # Errors
    /// A configuration that is not of this architecture, or that GGUF has no keys for.
    pub fn gguf_head(&self, config: &DecoderConfig) -> Result<GgufHead> {
        self.check(config)?;
        (self.to_gguf)(config)
    }
}

impl GgufHead {
    /// The sizes that every architecture has.
    pub(super) fn new(architecture: &'static str, config: &DecoderConfig) -> Result<Self> {
        let mut head = GgufHead { architecture, entries: Vec::new(), rope_divisors: None };
        for (key, size) in [
            ("context_length", config.max_seq),
            ("embedding_length", config.dim),
            ("block_count", config.n_layers()),
            ("feed_forward_length", config.hidden_dim),
            ("attention.head_count", config.n_heads),
            ("vocab_size", config.vocab_size),
        ] {
            head.size(key, size)?;
        }
        Ok(head)
    }

    /// What the families with rotary embeddings share: one embedding for all layers, and one window or none.
    pub(super) fn rotary(architecture: &'static str, config: &DecoderConfig) -> Result<Self> {
        let mut head = Self::rotary_sizes(architecture, config)?;
        head.check_scale(config, config.head_dim)?;
        let Some(first) = config.layers.first() else { fail!("expected a layer at least, found none") };
        if config.layers.iter().any(|layer| layer.window != first.window) {
            fail!(
                "GGUF files of {architecture} models cannot say that some layers have a sliding window and some have none"
            );
        }
        if let Some(window) = first.window {
            head.size("attention.sliding_window", window)?;
        }
        head.rope(first.rope.as_ref(), config)?;
        Ok(head)
    }

    /// Sizes of heads, the norm's epsilon.
    pub(super) fn rotary_sizes(architecture: &'static str, config: &DecoderConfig) -> Result<Self> {
        let mut head = Self::new(architecture, config)?;
        head.size("attention.head_count_kv", config.n_kv_heads)?;
        for key in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            head.size(key, config.head_dim)?;
        }
        head.number("attention.layer_norm_rms_epsilon", config.norm_eps);
        Ok(head)
    }

    /// Fails unless attention is scaled by `scalar^-1/2`: llama.cpp takes that for granted.
    pub(super) fn check_scale(&self, config: &DecoderConfig, scalar: usize) -> Result<()> {
        let expected = (scalar as f64).powf(-0.5) as f32;
        if config.attention_scale != expected {
            fail!(
                "GGUF files of {} models cannot say that attention is scaled by {}; it is taken to be {expected}",
                self.architecture,
                config.attention_scale
            );
        }
        Ok(())
    }

    pub(super) fn size(&mut self, key: &str, size: usize) -> Result<()> {
        let size = u32::try_from(size).map_err(|_| Error::new(format!("{key}: {size} is beyond 32 bits")))?;
        self.put(key, Value::U32(size));
        Ok(())
    }

    pub(super) fn number(&mut self, key: &str, number: f32) {
        self.put(key, Value::F32(number));
    }

    fn put(&mut self, key: &str, value: Value) {
        self.entries.push((format!("{}.{key}", self.architecture), value));
    }

    /// Theta and scaling.
    pub(super) fn rope(&mut self, rope: Option<&Rope>, config: &DecoderConfig) -> Result<()> {
        let Some(rope) = rope else { return Ok(()) };
        self.number("rope.freq_base", rope.theta);
        let kind =
            |head: &mut Self, name: &str| head.put("rope.scaling.type", Value::String(name.to_owned()));
        match &rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => {
                kind(self, "linear");
                self.number("rope.scaling.factor", *factor);
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_seq,
                attention_factor,
                truncate,
            } => {
                if !truncate {
                    fail!("GGUF files cannot say that YaRN's bounds are not rounded (`truncate` false)");
                }
                kind(self, "yarn");
                self.number("rope.scaling.factor", *factor);
                self.size("rope.scaling.original_context_length", *original_max_seq)?;
                // llama.cpp multiplies its own default by what the file gives.
                let default = yarn_attention_factor(*factor, 1.0);
                for (key, value, usual) in [
                    ("rope.scaling.yarn_beta_fast", *beta_fast, 32.0),
                    ("rope.scaling.yarn_beta_slow", *beta_slow, 1.0),
                    ("rope.scaling.yarn_attn_factor", attention_factor / default, 1.0),
                ] {
                    if value != usual {
                        self.number(key, value);
                    }
                }
            }
            RopeScaling::Llama3 { .. } => {
                let plain = Rope { theta: rope.theta, scaling: RopeScaling::None };
                let frequencies = |rope: &Rope| frequencies(rope, config.head_dim).0;
                let quotients = frequencies(&plain).into_iter().zip(frequencies(rope));
                let divisors = quotients.map(|(plain, scaled)| (f64::from(plain) / f64::from(scaled)) as f32);
                self.rope_divisors = Some(divisors.collect());
            }
            RopeScaling::Divisors(divisors) => self.rope_divisors = Some(divisors.clone()),
        }
        match (&self.rope_divisors, self.architecture) {
            // llama.cpp looks for the tensor in this architecture alone.
            (None, _) | (Some(_), "llama") => Ok(()),
            (Some(_), other) => {
                fail!(
                    "GGUF files of {other} models cannot say that rotary frequencies are scaled as Llama 3's are"
                )
            }
        }
    }
}
