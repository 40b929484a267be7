//! Names of tensors: the canonical set of a decoder, and where each comes from in a file.
//!
//! The decoder knows tensors by [`TensorId`] and in one orientation: a projection is `[rows, cols]` =
//! `[outputs, inputs]`, q and k are in half-split rotary order, q, k and v are three matrices, every layer is on its own.
//! Files differ: [`Source`] says which tensor of the file holds a canonical one, and [`Transform`] how its elements
//! are found there. The tables from name to name belong to the architectures (`arch/<name>.rs`).

use std::fmt;

use crate::config::{Bias, DecoderConfig, Head, Mlp, Norm, NormPlacement, Positions, QkNorm};

/// A tensor of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId {
    /// Where it stands in the network.
    pub place: Place,
    /// What it is there.
    pub kind: Kind,
}

/// A place in the network that has parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The token embedding, `[V, C]`.
    Embed,
    /// The learned position table, `[max_seq, C]`.
    PosEmbed,
    /// A part of the layer of this index.
    Layer(usize, Part),
    /// The norm before the head, `[C]`.
    FinalNorm,
    /// The output head, `[V, C]`, where it is not the embedding.
    Head,
}

/// A part of a layer, in the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The norm before attention, `[C]`.
    AttnNorm,
    /// Queries, `[H·D, C]`.
    Q,
    /// Keys, `[G·D, C]`.
    K,
    /// Values, `[G·D, C]`.
    V,
    /// The norm over each query head, `[D]`.
    QNorm,
    /// The norm over each key head, `[D]`.
    KNorm,
    /// Attention's output projection, `[C, H·D]`.
    O,
    /// The norm after attention (Gemma), `[C]`.
    AttnPostNorm,
    /// The norm before the MLP, `[C]`.
    MlpNorm,
    /// The MLP's gate, `[F, C]`.
    Gate,
    /// The MLP's widening projection, `[F, C]`.
    Up,
    /// The MLP's narrowing projection, `[C, F]`.
    Down,
    /// The norm after the MLP (Gemma), `[C]`.
    MlpPostNorm,
}

/// What a tensor is at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The matrix of a projection, or the factors of a norm.
    Weight,
    /// What is added.
    Bias,
    /// The first matrix of an adapter (see [`crate::lora`]).
    LoraA,
    /// The second matrix of an adapter.
    LoraB,
    /// The lengths that an adapter gives to the rows of what it changes.
    LoraMagnitude,
}

impl Part {
    /// Every part, in the order of the forward pass.
    pub const ALL: [Part; 13] = [
        Part::AttnNorm,
        Part::Q,
        Part::K,
        Part::V,
        Part::QNorm,
        Part::KNorm,
        Part::O,
        Part::AttnPostNorm,
        Part::MlpNorm,
        Part::Gate,
        Part::Up,
        Part::Down,
        Part::MlpPostNorm,
    ];

    /// Whether it is a matrix that rows are multiplied with, and not a norm.
    pub fn is_projection(self) -> bool {
        match self {
            Part::Q | Part::K | Part::V | Part::O | Part::Gate | Part::Up | Part::Down => true,
            Part::AttnNorm
            | Part::QNorm
            | Part::KNorm
            | Part::AttnPostNorm
            | Part::MlpNorm
            | Part::MlpPostNorm => false,
        }
    }

    /// The part's canonical name.
    pub fn name(self) -> &'static str {
        match self {
            Part::AttnNorm => "attn_norm",
            Part::Q => "q",
            Part::K => "k",
            Part::V => "v",
            Part::QNorm => "q_norm",
            Part::KNorm => "k_norm",
            Part::O => "o",
            Part::AttnPostNorm => "attn_post_norm",
            Part::MlpNorm => "mlp_norm",
            Part::Gate => "gate",
            Part::Up => "up",
            Part::Down => "down",
            Part::MlpPostNorm => "mlp_post_norm",
        }
    }
}

impl Kind {
    /// The kind's canonical name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Weight => "weight",
            Kind::Bias => "bias",
            Kind::LoraA => "lora_a",
            Kind::LoraB => "lora_b",
            Kind::LoraMagnitude => "lora_magnitude",
        }
    }
}

impl TensorId {
    /// The weight at a place.
    pub fn weight(place: Place) -> Self {
        TensorId { place, kind: Kind::Weight }
    }

    /// The bias at a place.
    pub fn bias(place: Place) -> Self {
        TensorId { place, kind: Kind::Bias }
    }
}

impl fmt::Display for TensorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name();
        match self.place {
            Place::Embed => write!(f, "embed.{kind}"),
            Place::PosEmbed => write!(f, "pos_embed.{kind}"),
            Place::Layer(layer, part) => write!(f, "layers.{layer}.{}.{kind}", part.name()),
            Place::FinalNorm => write!(f, "final_norm.{kind}"),
            Place::Head => write!(f, "head.{kind}"),
        }
    }
}

/// Every tensor that a decoder of this configuration has, with its canonical shape, in the order of the forward pass.
///
/// Shapes: a weight matrix `[rows, cols]` = `[outputs, inputs]`, everything else `[len]`.
pub fn canonical(config: &DecoderConfig) -> Vec<(TensorId, Vec<usize>)> {
    let mut all = Vec::new();
    let dim = config.dim;
    all.push((TensorId::weight(Place::Embed), vec![config.vocab_size, dim]));
    match config.positions {
        Positions::Learned => all.push((TensorId::weight(Place::PosEmbed), vec![config.max_seq, dim])),
        Positions::Rotary => {}
    }
    for layer in 0..config.n_layers() {
        for part in Part::ALL {
            let Some(shape) = part_shape(config, part) else { continue };
            let place = Place::Layer(layer, part);
            let rows = shape[0];
            all.push((TensorId::weight(place), shape));
            if has_bias(config, part) {
                all.push((TensorId::bias(place), vec![rows]));
            }
        }
    }
    all.push((TensorId::weight(Place::FinalNorm), vec![dim]));
    if config.norm == Norm::LayerNorm {
        all.push((TensorId::bias(Place::FinalNorm), vec![dim]));
    }
    match config.head {
        Head::Tied => {}
        Head::Untied => all.push((TensorId::weight(Place::Head), vec![config.vocab_size, dim])),
    }
    all
}

/// The shape of a part's weight; `None` where this decoder has no such part.
fn part_shape(config: &DecoderConfig, part: Part) -> Option<Vec<usize>> {
    let (dim, hidden) = (config.dim, config.hidden_dim);
    match part {
        Part::AttnNorm | Part::MlpNorm => Some(vec![dim]),
        Part::Q => Some(vec![config.q_dim(), dim]),
        Part::K | Part::V => Some(vec![config.kv_dim(), dim]),
        Part::O => Some(vec![dim, config.q_dim()]),
        Part::QNorm | Part::KNorm => match config.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => Some(vec![config.head_dim]),
        },
        Part::AttnPostNorm | Part::MlpPostNorm => match config.placement {
            NormPlacement::Pre => None,
            NormPlacement::Sandwich => Some(vec![dim]),
        },
        Part::Gate => match config.mlp {
            Mlp::Gelu => None,
            Mlp::SwiGlu | Mlp::GeGlu => Some(vec![hidden, dim]),
        },
        Part::Up => Some(vec![hidden, dim]),
        Part::Down => Some(vec![dim, hidden]),
    }
}

/// Whether a part has a bias: a LayerNorm always, a projection as `config.bias` says.
fn has_bias(config: &DecoderConfig, part: Part) -> bool {
    match part {
        Part::AttnNorm | Part::MlpNorm | Part::AttnPostNorm | Part::MlpPostNorm => {
            config.norm == Norm::LayerNorm
        }
        Part::QNorm | Part::KNorm => false,
        Part::Q | Part::K | Part::V => match config.bias {
            Bias::None => false,
            Bias::Qkv | Bias::All => true,
        },
        Part::O | Part::Gate | Part::Up | Part::Down => match config.bias {
            Bias::None | Bias::Qkv => false,
            Bias::All => true,
        },
    }
}

/// How a canonical tensor is found in the stored one. The default is the tensor as it stands.
///
/// A stored tensor is seen as `[layers?] × matrix`; a vector is a matrix of one column. From the canonical row `r` to
/// the stored element the steps are, in this order:
/// 1. `unpermute_heads`: `r` becomes the row that llama.cpp and llama2.c put it in (see [`unpermuted_row`]);
/// 2. `first_row` is added: the canonical tensor is a part of a fused one (q, k and v of GPT-2), or its beginning
///    (llm.c pads the vocabulary);
/// 3. `transpose`: that row is a column of the stored matrix (GPT-2's Conv1D stores `[inputs, outputs]`);
/// 4. `layer`: within this slice of the outermost dimension (llm.c and llama2.c keep all layers in one tensor).
///
/// Steps 1, 2 and 4 move whole rows, so they work on rows in any block format; step 3 needs plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Transform {
    /// Slice of the outermost dimension.
    pub layer: Option<usize>,
    /// The stored matrix is `[cols, rows]`.
    pub transpose: bool,
    /// Where the canonical rows begin among the stored ones.
    pub first_row: usize,
    /// Heads in the tensor whose rows are interleaved for rotation in neighbouring pairs.
    pub unpermute_heads: Option<usize>,
}

impl Transform {
    /// Whether the canonical rows stand in the file in order and side by side, so that they can be used where they are.
    pub fn is_contiguous(&self) -> bool {
        !self.transpose && self.unpermute_heads.is_none()
    }
}

/// The row of a q or k matrix in interleaved rotary order that holds row `row` of the half-split order.
///
/// A head of D rows in half-split order rotates rows `(i, i + D/2)` together; llama.cpp's Llama and llama2.c store the
/// two side by side, as `(2i, 2i + 1)`. `rows` is `heads · D`.
pub fn unpermuted_row(row: usize, rows: usize, heads: usize) -> usize {
    let head_dim = rows / heads;
    let half = head_dim / 2;
    let (head, within) = (row / head_dim, row % head_dim);
    let (side, pair) = (within / half, within % half);
    head * head_dim + 2 * pair + side
}

/// Where a canonical tensor comes from in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The canonical tensor.
    pub to: TensorId,
    /// Its shape: `[rows, cols]` or `[len]`.
    pub shape: Vec<usize>,
    /// The name in the file.
    pub name: String,
    /// The shape in the file, outermost dimension first. Where `first_row` and the shape leave rows over, they are other
    /// tensors' or padding.
    pub stored: Vec<usize>,
    /// How to find the elements there.
    pub transform: Transform,
    /// transformers' name of the tensor (GPT-2's q, k and v share one).
    pub hf_name: String,
}

impl Source {
    /// Canonical rows: outputs of a matrix, elements of a vector.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Canonical columns: inputs of a matrix, 1 for a vector.
    pub fn cols(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }

    /// The stored row of a canonical row, counted from the file's tensor's start in rows of `cols` elements, layers
    /// included. For a transposed tensor it is the stored *column*, and the layer is not in it.
    pub fn stored_row(&self, row: usize) -> usize {
        let row = match self.transform.unpermute_heads {
            Some(heads) => unpermuted_row(row, self.rows(), heads),
            None => row,
        };
        let row = self.transform.first_row + row;
        if self.transform.transpose { row } else { self.layer() * self.stored_rows() + row }
    }

    /// The stored element (counted in elements from the start of the file's tensor) of canonical `[row, col]`.
    /// For plain number types; a block format goes by [`Source::stored_row`].
    pub fn stored_element(&self, row: usize, col: usize) -> usize {
        let stored = self.stored_row(row);
        if self.transform.transpose {
            let rows = self.stored_rows();
            self.layer() * rows * self.cols() + col * rows + stored
        } else {
            stored * self.cols() + col
        }
    }

    fn layer(&self) -> usize {
        self.transform.layer.unwrap_or(0)
    }

    /// Rows (in the canonical sense: outputs) of one layer's stored matrix.
    fn stored_rows(&self) -> usize {
        let matrix = if self.transform.layer.is_some() { &self.stored[1..] } else { &self.stored[..] };
        if self.transform.transpose { matrix[1] } else { matrix[0] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(shape: &[usize], stored: &[usize], transform: Transform) -> Source {
        Source {
            to: TensorId::weight(Place::Layer(0, Part::Q)),
            shape: shape.to_vec(),
            name: String::new(),
            stored: stored.to_vec(),
            transform,
            hf_name: String::new(),
        }
    }

    /// Applies the transform to a tensor whose elements are their own positions.
    fn elements(source: &Source) -> Vec<usize> {
        (0..source.rows())
            .flat_map(|r| (0..source.cols()).map(move |c| source.stored_element(r, c)))
            .collect()
    }

    #[test]
    fn default_is_the_tensor_as_it_stands() {
        let plain = source(&[3, 2], &[3, 2], Transform::default());
        assert_eq!(elements(&plain), [0, 1, 2, 3, 4, 5]);
        assert!(plain.transform.is_contiguous());
    }

    #[test]
    fn unpermute_undoes_the_interleaving() {
        // Two heads of four rows: halves (0, 1 | 2, 3) are stored as 0, 2, 1, 3 in neighbouring pairs.
        let rows: Vec<_> = (0..8).map(|r| unpermuted_row(r, 8, 2)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        // The permutation as the converter states it: reshape [heads, 2, D/2], swap the last two.
        let (heads, half) = (3, 5);
        let mut interleaved = vec![0; heads * 2 * half];
        for h in 0..heads {
            for side in 0..2 {
                for i in 0..half {
                    interleaved[(h * half + i) * 2 + side] = (h * 2 + side) * half + i;
                }
            }
        }
        for row in 0..interleaved.len() {
            assert_eq!(interleaved[unpermuted_row(row, interleaved.len(), heads)], row);
        }
    }

    #[test]
    fn fused_transposed_part_of_a_layer() {
        // Conv1D [2 layers][2 inputs][6 outputs]; k of layer 1 is outputs 2..4.
        let transform = Transform { layer: Some(1), transpose: true, first_row: 2, unpermute_heads: None };
        let k = source(&[2, 2], &[2, 2, 6], transform);
        assert_eq!(elements(&k), [14, 20, 15, 21]);
        // The same stored as [layers][outputs][inputs].
        let rows = source(&[2, 2], &[2, 6, 2], Transform { transpose: false, ..transform });
        assert_eq!(elements(&rows), [16, 17, 18, 19]);
        assert_eq!(rows.stored_row(1), 9);
        // A bias, fused.
        let bias = source(&[2], &[2, 6], Transform { transpose: false, ..transform });
        assert_eq!(elements(&bias), [8, 9]);
    }

    #[test]
    fn unpermute_within_a_layer_and_a_fused_matrix() {
        let transform =
            Transform { layer: Some(1), transpose: false, first_row: 4, unpermute_heads: Some(1) };
        let q = source(&[4, 1], &[2, 8, 1], transform);
        assert_eq!(elements(&q), [12, 14, 13, 15]);
    }
}
