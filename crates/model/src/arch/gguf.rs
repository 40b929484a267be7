//! Reading a GGUF file's metadata: typed keys under the architecture's prefix, and what the families share.

use wootz_formats::gguf::Value;
use wootz_formats::{Checkpoint, GgufMetadata};
use wootz_kernels::DType;

use super::{Dims, FACTORS, KeyNames, MAX_LAYERS, MAX_SIZE, check_dims};
use crate::config::{
    Bias, DecoderConfig, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope, RopeScaling,
};
use crate::error::{Result, fail};
use crate::names::{Kind, Part, Place, TensorId};
use crate::rope::yarn_attention_factor;

/// The token embedding's name.
pub(super) const EMBEDDING: &str = "token_embd.weight";
/// The head's name; a file without it uses the embedding.
pub(super) const HEAD: &str = "output.weight";
/// Divisors of the rotary frequencies (Llama 3.1): settings in the form of a tensor.
pub(crate) const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// llama.cpp's name of a canonical tensor: the same in every architecture.
pub(super) fn name(id: TensorId) -> String {
    let kind = id.kind.name();
    match id.place {
        Place::Embed => format!("token_embd.{kind}"),
        Place::PosEmbed => format!("position_embd.{kind}"),
        Place::FinalNorm => format!("output_norm.{kind}"),
        Place::Head => format!("output.{kind}"),
        Place::Layer(layer, part) => {
            let part = match part {
                Part::AttnNorm => "attn_norm",
                Part::Q => "attn_q",
                Part::K => "attn_k",
                Part::V => "attn_v",
                Part::QNorm => "attn_q_norm",
                Part::KNorm => "attn_k_norm",
                Part::O => "attn_output",
                Part::AttnPostNorm => "post_attention_norm",
                Part::MlpNorm => "ffn_norm",
                Part::Gate => "ffn_gate",
                Part::Up => "ffn_up",
                Part::Down => "ffn_down",
                Part::MlpPostNorm => "post_ffw_norm",
            };
            format!("blk.{layer}.{part}.{kind}")
        }
    }
}

/// The keys of a file that begin with its architecture's name.
pub(super) struct Keys<'a> {
    metadata: &'a GgufMetadata,
    checkpoint: &'a Checkpoint,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// The keys of the architecture that the file names.
    pub fn new(metadata: &'a GgufMetadata, checkpoint: &'a Checkpoint) -> Result<Self> {
        let Ok(architecture) = metadata.get_str("general.architecture") else {
            fail!("metadata key general.architecture: expected a name, found none")
        };
        Ok(Keys { metadata, checkpoint, architecture })
    }

    /// The full name of a key.
    pub fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number from 0 to [`MAX_SIZE`]. A list with one number a layer is taken when all are the same.
    pub fn find_count(&self, key: &str) -> Result<Option<usize>> {
        let full = self.full(key);
        let Some(value) = self.metadata.value(&full) else { return Ok(None) };
        let number = match (self.metadata.find_u64(&full), self.metadata.find_i32s(&full)) {
            (Ok(number), _) => number.and_then(|n| usize::try_from(n).ok()),
            (Err(_), Ok(Some(list))) => match list.split_first() {
                Some((first, rest)) if rest.iter().all(|n| n == first) => usize::try_from(*first).ok(),
                Some(_) => fail!("{full}: numbers that differ from layer to layer are not supported"),
                None => None,
            },
            (Err(_), Ok(None) | Err(_)) => None,
        };
        match number {
            Some(count) if count <= MAX_SIZE => Ok(Some(count)),
            Some(count) => fail!("{full}: expected a whole number up to {MAX_SIZE}, found {count}"),
            None => fail!("{full}: expected a whole number up to {MAX_SIZE}, found {}", shown(value)),
        }
    }

    /// A whole number from 1 to [`MAX_SIZE`].
    pub fn find_size(&self, key: &str) -> Result<Option<usize>> {
        match self.find_count(key)? {
            Some(0) => fail!("{}: expected a whole number above 0, found 0", self.full(key)),
            size => Ok(size),
        }
    }

    /// As [`Keys::find_size`]; the key must be there.
    pub fn size(&self, key: &str) -> Result<usize> {
        match self.find_size(key)? {
            Some(size) => Ok(size),
            None => fail!("metadata key {} is missing; it should be a whole number above 0", self.full(key)),
        }
    }

    /// A finite number above zero; zero is how some writers say that there is none.
    pub fn find_number(&self, key: &str) -> Result<Option<f32>> {
        let full = self.full(key);
        let Some(value) = self.metadata.value(&full) else { return Ok(None) };
        match self.metadata.find_f32(&full) {
            Ok(Some(0.0)) => Ok(None),
            Ok(Some(x)) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            Ok(_) | Err(_) => fail!("{full}: expected a finite number above 0, found {}", shown(value)),
        }
    }

    /// As [`Keys::find_number`]; the key must be there.
    pub fn number(&self, key: &str) -> Result<f32> {
        match self.find_number(key)? {
            Some(number) => Ok(number),
            None => fail!("metadata key {} is missing; it should be a number above 0", self.full(key)),
        }
    }

    /// The number of layers: small enough to make a list of, and no more than the file can hold.
    pub fn layers(&self) -> Result<usize> {
        let layers = self.size("block_count")?;
        let most = self.checkpoint.tensors().len().min(MAX_LAYERS);
        if layers > most {
            fail!(
                "{}: expected at most {most} layers in a file of {} tensors, found {layers}",
                self.full("block_count"),
                self.checkpoint.tensors().len()
            );
        }
        Ok(layers)
    }

    /// The sliding window; 0 is none.
    pub fn window(&self) -> Result<Option<usize>> {
        Ok(self.find_count("attention.sliding_window")?.filter(|&window| window > 0))
    }

    /// Every how many layers one has no window: a number, or a list with true for each layer that has one.
    pub fn sliding(&self, layers: usize, default_period: usize) -> Result<Vec<bool>> {
        let full = self.full("attention.sliding_window_pattern");
        if let Ok(Some(list)) = self.metadata.find_bools(&full) {
            return match list.get(..layers) {
                Some(list) => Ok(list.to_vec()),
                None => fail!("{full}: expected {layers} entries, one a layer, found {}", list.len()),
            };
        }
        let period = self.find_size("attention.sliding_window_pattern")?.unwrap_or(default_period);
        Ok((0..layers).map(|i| (i + 1) % period != 0).collect())
    }

    /// The rotary embedding, with scaling.
    pub fn rope(&self, head_dim: usize, default_theta: f32) -> Result<Rope> {
        let theta = self.find_number("rope.freq_base")?.unwrap_or(default_theta);
        if theta <= 1.0 {
            fail!("{}: expected a base above 1, found {theta}", self.full("rope.freq_base"));
        }
        let scaling = match (self.scaling()?, self.rope_divisors(head_dim)?) {
            (scaling, None) => scaling,
            (RopeScaling::None, Some(divisors)) => RopeScaling::Divisors(divisors),
            (RopeScaling::Linear { factor }, Some(divisors)) => {
                RopeScaling::Divisors(divisors.into_iter().map(|divisor| divisor * factor).collect())
            }
            (RopeScaling::Yarn { .. } | RopeScaling::Llama3 { .. } | RopeScaling::Divisors(_), Some(_)) => {
                fail!(
                    "{}: YaRN together with {ROPE_DIVISORS} is not supported",
                    self.full("rope.scaling.type")
                )
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn scaling(&self) -> Result<RopeScaling> {
        let full = self.full("rope.scaling.type");
        let Ok(kind) = self.metadata.find_str(&full) else { fail!("{full}: expected a name, found none") };
        // Older files have `rope.scale_linear` in place of the factor, and no type.
        let factor = match self.find_number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.find_number("rope.scale_linear")?,
        };
        if let Some(factor) = factor.filter(|factor| !FACTORS.contains(factor)) {
            let (full, least, most) = (self.full("rope.scaling.factor"), FACTORS.start(), FACTORS.end());
            fail!("{full}: expected a factor from {least} to {most}, found {factor}");
        }
        match (kind, factor) {
            (Some("none"), _) | (None | Some("linear"), None) => Ok(RopeScaling::None),
            (None | Some("linear"), Some(1.0)) => Ok(RopeScaling::None),
            (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
            (Some("yarn"), factor) => {
                let original_max_seq = match self.find_size("rope.scaling.original_context_length")? {
                    Some(length) => length,
                    None => self.size("context_length")?,
                };
                let Some(factor) = factor else {
                    fail!("metadata key {} is missing; YaRN needs it", self.full("rope.scaling.factor"))
                };
                // llama.cpp multiplies its own default by what the file gives.
                let given = match self.find_number("rope.scaling.yarn_attn_factor")? {
                    Some(given) => Some(given),
                    None => self.find_number("rope.scaling.attn_factor")?,
                };
                Ok(RopeScaling::Yarn {
                    factor,
                    beta_fast: self.find_number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    beta_slow: self.find_number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    original_max_seq,
                    attention_factor: yarn_attention_factor(factor, 1.0) * given.unwrap_or(1.0),
                    truncate: true,
                })
            }
            (Some(other), _) => fail!(
                "{full}: RoPE scaling `{other}` is not supported; supported are none, linear, yarn, and the tensor \
                 {ROPE_DIVISORS}"
            ),
        }
    }

    fn rope_divisors(&self, head_dim: usize) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = self.checkpoint.tensor(ROPE_DIVISORS) else { return Ok(None) };
        if tensor.dtype != DType::F32 || tensor.shape != [head_dim / 2] {
            fail!(
                "{ROPE_DIVISORS}: expected F32 [{}], found {} {:?}",
                head_dim / 2,
                tensor.dtype,
                tensor.shape
            );
        }
        let mut divisors = Vec::with_capacity(head_dim / 2);
        for chunk in tensor.bytes.chunks_exact(4) {
            let divisor = f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
            if !(divisor.is_finite() && divisor > 0.0) {
                fail!("{ROPE_DIVISORS}: expected finite numbers above 0, found {divisor}");
            }
            divisors.push(divisor);
        }
        Ok(Some(divisors))
    }

    /// Sizes of attention, checked.
    pub fn dims(&self, positions: Positions) -> Result<HeadDims> {
        let n_heads = self.size("attention.head_count")?;
        let dims = Dims {
            dim: self.size("embedding_length")?,
            n_heads,
            n_kv_heads: self.find_size("attention.head_count_kv")?.unwrap_or(n_heads),
            head_dim: self.find_size("attention.key_length")?,
        };
        let head_dim = check_dims(&dims, &self.names(), positions)?;
        for key in ["attention.value_length", "rope.dimension_count"] {
            match self.find_size(key)? {
                Some(size) if size != head_dim => fail!(
                    "{}: expected the width of a head, {head_dim}, found {size}; heads of several widths and rotation of a \
                     part of a head are not supported",
                    self.full(key)
                ),
                Some(_) | None => {}
            }
        }
        Ok(HeadDims { dim: dims.dim, n_heads, n_kv_heads: dims.n_kv_heads, head_dim })
    }

    fn names(&self) -> KeyNames {
        KeyNames {
            dim: self.full("embedding_length"),
            n_heads: self.full("attention.head_count"),
            n_kv_heads: self.full("attention.head_count_kv"),
            head_dim: self.full("attention.key_length"),
        }
    }

    /// Rows of the token embedding.
    pub fn vocab_size(&self) -> Result<usize> {
        match self.checkpoint.tensor(EMBEDDING).map(|tensor| tensor.shape) {
            Some(&[rows, _]) if (1..=MAX_SIZE).contains(&rows) => Ok(rows),
            Some(shape) => fail!("{EMBEDDING}: expected [tokens, width], found {shape:?}"),
            None => fail!("tensor {EMBEDDING} is missing; it should be [tokens, width]"),
        }
    }

    /// The head: a file without one uses the embedding.
    pub fn head(&self) -> Head {
        if self.checkpoint.tensor(HEAD).is_some() { Head::Untied } else { Head::Tied }
    }
}

/// Sizes of attention: width of the model, heads, key/value heads, width of a head.
pub(super) struct HeadDims {
    pub dim: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
}

/// A value for a message.
fn shown(value: &Value) -> String {
    match value {
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::I8(n) => n.to_string(),
        Value::I16(n) => n.to_string(),
        Value::I32(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::U64(n) => n.to_string(),
        Value::U8(_)
        | Value::U16(_)
        | Value::U32(_)
        | Value::Bool(_)
        | Value::String(_)
        | Value::Array(_) => value.type_name(),
    }
}

/// A Llama-like decoder (RMSNorm, RoPE, SwiGLU, no bias) with the sizes of the metadata; a family overrides the rest.
pub(super) fn decoder(keys: &Keys, layers: Vec<LayerConfig>) -> Result<DecoderConfig> {
    let HeadDims { dim, n_heads, n_kv_heads, head_dim } = keys.dims(Positions::Rotary)?;
    let norm_eps = keys.number("attention.layer_norm_rms_epsilon")?;
    Ok(DecoderConfig {
        vocab_size: keys.vocab_size()?,
        dim,
        n_heads,
        n_kv_heads,
        head_dim,
        hidden_dim: keys.size("feed_forward_length")?,
        max_seq: keys.size("context_length")?,
        norm: Norm::RmsNorm,
        norm_eps,
        placement: NormPlacement::Pre,
        positions: Positions::Rotary,
        bias: Bias::None,
        qk_norm: QkNorm::None,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        mlp: Mlp::SwiGlu,
        embedding_scale: 1.0,
        head: keys.head(),
        logit_softcap: None,
        layers,
    })
}

/// Layers that are all alike: one rotary embedding, and the window if the file has one.
pub(super) fn layers(keys: &Keys) -> Result<Vec<LayerConfig>> {
    let rope = keys.rope(keys.dims(Positions::Rotary)?.head_dim, 10_000.0)?;
    let layer = LayerConfig { rope: Some(rope), window: keys.window()? };
    Ok(vec![layer; keys.layers()?])
}

/// A bias or weight of a fused tensor takes the name of the whole.
pub(super) fn fused_qkv(layer: usize, kind: Kind) -> String {
    format!("blk.{layer}.attn_qkv.{}", kind.name())
}
