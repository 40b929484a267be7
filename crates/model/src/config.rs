//! What the network is: every switch of the one decoder, as data.
//!
//! Symbols used in shapes everywhere: B sequences, T tokens of a sequence, V vocabulary, C model width (`dim`),
//! H query heads, G key/value heads, D width of a head, F width of the MLP's hidden layer, L layers.

use wootz_kernels::device::launch::attention::Attention;

/// The blueprint of a decoder. An architecture file (`arch/<name>.rs`) makes one from a file's metadata;
/// `decoder.rs` runs it. There is no other place where models differ.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Rows of the embedding that stand for tokens (V).
    pub vocab_size: usize,
    /// Width of the residual stream (C).
    pub dim: usize,
    /// Query heads (H).
    pub n_heads: usize,
    /// Key/value heads (G); divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head (D).
    pub head_dim: usize,
    /// Width of the MLP's hidden layer (F).
    pub hidden_dim: usize,
    /// The longest sequence that the model was made for.
    pub max_seq: usize,
    /// Which normalisation, everywhere.
    pub norm: Norm,
    /// Added to the variance under the root.
    pub norm_eps: f32,
    /// Where the norms stand.
    pub placement: NormPlacement,
    /// How positions enter.
    pub positions: Positions,
    /// Which projections have a bias.
    pub bias: Bias,
    /// RMSNorm over each head of q and k before RoPE.
    pub qk_norm: QkNorm,
    /// Factor of q·k before the softmax; usually D^-1/2.
    pub attention_scale: f32,
    /// The MLP.
    pub mlp: Mlp,
    /// Factor of the embedding rows; 1 but for Gemma (sqrt(C)).
    pub embedding_scale: f32,
    /// Whether the head is the embedding.
    pub head: Head,
    /// `cap * tanh(logits / cap)` on the logits.
    pub logit_softcap: Option<f32>,
    /// One entry a layer (L of them).
    pub layers: Vec<LayerConfig>,
}

/// What differs from layer to layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerConfig {
    /// Rotary embedding of this layer; `None` with learned positions.
    pub rope: Option<Rope>,
    /// Sliding window: a token sees itself and the `window - 1` before it. `None`: everything before it.
    pub window: Option<usize>,
}

/// Normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// `(x - mean) / sqrt(var + eps) * w + b` (GPT-2).
    LayerNorm,
    /// `x / sqrt(mean(x²) + eps) * w`.
    RmsNorm,
    /// `x / sqrt(mean(x²) + eps) * (1 + w)`: Gemma's safetensors. (Its GGUF files hold `1 + w`: `RmsNorm`.)
    RmsNormOnePlus,
}

/// Where the norms of a block stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// Before attention and before the MLP.
    Pre,
    /// Before and after each of the two (Gemma).
    Sandwich,
}

/// How positions enter the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// A learned table `[max_seq, C]` added to the embedding.
    Learned,
    /// Rotation of q and k, as each layer's `rope` says.
    Rotary,
}

/// Rotary embedding: dimension pair `(i, i + D/2)` of a head turns by `position * frequency[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies: `theta^(-2i/D)`.
    pub theta: f32,
    /// How the frequencies are changed for longer contexts.
    pub scaling: RopeScaling,
}

/// Changes to the rotary frequencies. Formulas as in transformers' `modeling_rope_utils.py`.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, between them interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Waves longer than `original_max_seq / low_freq_factor` are low.
        low_freq_factor: f32,
        /// Waves shorter than `original_max_seq / high_freq_factor` are high.
        high_freq_factor: f32,
        /// The context that the model was pretrained with.
        original_max_seq: usize,
    },
    /// YaRN: interpolation by wavelength, and q·k scaled through `attention_factor`.
    Yarn {
        /// The divisor of low frequencies.
        factor: f32,
        /// Rotations above which a dimension keeps its frequency.
        beta_fast: f32,
        /// Rotations below which a dimension is divided by `factor`.
        beta_slow: f32,
        /// The context that the model was pretrained with.
        original_max_seq: usize,
        /// Factor of cos and sin.
        attention_factor: f32,
        /// Whether the correction range is rounded to whole dimensions (transformers' `truncate`, default true).
        truncate: bool,
    },
    /// A divisor for each of the D/2 frequencies, as GGUF's `rope_freqs.weight` holds it (Llama 3.1 in llama.cpp).
    Divisors(Vec<f32>),
}

/// Which projections have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// None.
    None,
    /// q, k and v (Qwen2).
    Qkv,
    /// All of attention and MLP (GPT-2).
    All,
}

/// Normalisation of q and k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMSNorm over each head's D values, one weight `[D]` for all heads (Qwen3, Gemma3; `1 + w` where `norm` says so).
    PerHead,
}

/// The MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mlp {
    /// `down(gelu(up(x)))` with the tanh form of GELU (GPT-2).
    Gelu,
    /// `down(silu(gate(x)) * up(x))`.
    SwiGlu,
    /// `down(gelu(gate(x)) * up(x))` with the tanh form of GELU (Gemma).
    GeGlu,
}

/// The output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The embedding, used again.
    Tied,
    /// A matrix `[V, C]` of its own.
    Untied,
}

impl DecoderConfig {
    /// Layers (L).
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Width of all query heads together, H·D.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together, G·D.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Attention in one of the layers.
    pub fn attention(&self, layer: usize) -> Attention {
        Attention {
            heads: self.n_heads,
            kv_heads: self.n_kv_heads,
            dim: self.head_dim,
            scale: self.attention_scale,
            window: self.layers[layer].window,
        }
    }
}
