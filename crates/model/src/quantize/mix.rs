//! Which tensor gets which type: the mixtures that GGUF files are known by.
//!
//! A mixture has one type for most matrices, and more bits where a tensor's error costs most: the output head, values
//! and the narrowing projection of some layers. The choice is llama.cpp's (`llama_tensor_get_type` in `llama-quant.cpp`), so
//! that a file of a name has the size and the quality that one expects of the name. The head is Q6_K (in Q8_0: Q8_0);
//! the rest says `TABLE`.
//!
//! Norms, biases and learned positions stay F32. A row that is no whole number of blocks gets a type with smaller blocks.

use std::fmt;

use wootz_kernels::DType;

use crate::config::{DecoderConfig, Head};
use crate::names::{Part, Place, Source};

/// What a quantised file is called, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)] // the names that files have
pub enum Mix {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q5_K_S,
    Q5_1,
    Q5_0,
    Q4_K_M,
    Q4_K_S,
    Q4_1,
    Q4_0,
    IQ4_NL,
    IQ4_XS,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
}

/// One row of the table of mixtures.
struct Row {
    mix: Mix,
    name: &'static str,
    /// `LLAMA_FTYPE_…` of llama.h, which `general.file_type` holds.
    file_type: u32,
    /// The type of most matrices.
    most: DType,
    /// Queries, keys and values in one matrix.
    fused: Choice,
    /// Values.
    v: Choice,
    /// Attention's output.
    o: Choice,
    /// The narrowing projection.
    down: Choice,
}

/// Which type a kind of projection has, layer by layer.
enum Choice {
    /// The type of most.
    Most,
    /// Another.
    All(DType),
    /// Another at both ends and in every third layer between ([`more_bits`]).
    Half(DType),
    /// Another in so many first layers, and then a third.
    First(usize, DType, DType),
    /// Another in the first sixteenth of the layers, and then a third.
    Sixteenth(DType, DType),
    /// Another in the first eighth of the layers.
    Eighth(DType),
    /// The same, where rounding knows the importances, or where it does not.
    EighthIf(Informed, DType),
    /// Another where at least four query heads share a head of values (which then costs little), or else a third.
    Shared(DType, DType),
}

const fn plain(mix: Mix, name: &'static str, file_type: u32, most: DType) -> Row {
    use Choice::Most;
    Row { mix, name, file_type, most, fused: Most, v: Most, o: Most, down: Most }
}

/// In the order of the enum (tested): from the largest file to the smallest.
#[rustfmt::skip] // a table
static TABLE: [Row; 19] = {
    use Choice::{All, Eighth, EighthIf, First, Half, Shared, Sixteenth};
    use DType::{Q3_K, Q4_1, Q4_K, Q5_1, Q5_K, Q6_K};
    use Informed::{No, Yes};
    [
        plain(Mix::F32, "F32", 0, DType::F32),
        plain(Mix::F16, "F16", 1, DType::F16),
        plain(Mix::BF16, "BF16", 32, DType::BF16),
        plain(Mix::Q8_0, "Q8_0", 7, DType::Q8_0),
        plain(Mix::Q6_K, "Q6_K", 18, Q6_K),
        Row { fused: All(Q6_K), v: Half(Q6_K), down: Half(Q6_K), ..plain(Mix::Q5_K_M, "Q5_K_M", 17, Q5_K) },
        plain(Mix::Q5_K_S, "Q5_K_S", 16, Q5_K),
        plain(Mix::Q5_1, "Q5_1", 9, Q5_1),
        Row { down: EighthIf(Yes, Q5_1), ..plain(Mix::Q5_0, "Q5_0", 8, DType::Q5_0) },
        Row { fused: All(Q5_K), v: Half(Q6_K), down: Half(Q6_K), ..plain(Mix::Q4_K_M, "Q4_K_M", 15, Q4_K) },
        Row { v: First(4, Q5_K, Q4_K), down: Eighth(Q5_K), ..plain(Mix::Q4_K_S, "Q4_K_S", 14, Q4_K) },
        plain(Mix::Q4_1, "Q4_1", 3, Q4_1),
        Row { down: EighthIf(Yes, Q4_1), ..plain(Mix::Q4_0, "Q4_0", 2, DType::Q4_0) },
        Row { v: Shared(Q5_K, DType::IQ4_NL), down: EighthIf(No, Q5_K), ..plain(Mix::IQ4_NL, "IQ4_NL", 25, DType::IQ4_NL) },
        Row { v: Shared(Q5_K, DType::IQ4_XS), down: EighthIf(No, Q5_K), ..plain(Mix::IQ4_XS, "IQ4_XS", 30, DType::IQ4_XS) },
        Row { fused: All(Q4_K), v: All(Q5_K), o: All(Q5_K), down: All(Q5_K), ..plain(Mix::Q3_K_L, "Q3_K_L", 13, Q3_K) },
        Row {
            fused: All(Q4_K), v: First(2, Q5_K, Q4_K), o: All(Q4_K), down: Sixteenth(Q5_K, Q4_K),
            ..plain(Mix::Q3_K_M, "Q3_K_M", 12, Q3_K)
        },
        plain(Mix::Q3_K_S, "Q3_K_S", 11, Q3_K),
        Row { v: Shared(Q4_K, Q3_K), o: All(Q3_K), down: All(Q3_K), ..plain(Mix::Q2_K, "Q2_K", 10, DType::Q2_K) },
    ]
};

/// Names that people use for the middle one of a family.
const ALIASES: [(&str, Mix); 3] = [("Q5_K", Mix::Q5_K_M), ("Q4_K", Mix::Q4_K_M), ("Q3_K", Mix::Q3_K_M)];

/// What a matrix does, as far as its type depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The output head, or the embedding that is it too.
    Head,
    /// The embedding of a model that has a head of its own.
    Embed,
    /// Learned positions.
    Positions,
    /// Queries, keys and values in one matrix.
    FusedQkv,
    /// Values.
    Values,
    /// Attention's output.
    AttentionOutput,
    /// The narrowing projection.
    Down,
    /// Any other projection.
    Projection,
}

/// Where a matrix stands in its model.
#[derive(Clone, Copy, Debug)]
pub struct Tensor {
    /// What it does.
    pub role: Role,
    /// Its layer; 0 outside of layers.
    pub layer: usize,
    /// Layers of the model.
    pub n_layers: usize,
    /// Query heads that share a head of keys and values.
    pub shared: usize,
    /// Values in a row.
    pub cols: usize,
}

/// Whether importances were given: some of llama.cpp's caution is for their absence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Informed {
    /// Rounding knows which columns matter.
    Yes,
    /// It does not.
    No,
}

impl Mix {
    /// Every mixture, from the largest file to the smallest.
    pub fn all() -> impl Iterator<Item = Mix> {
        TABLE.iter().map(|row| row.mix)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name: `Q4_K_M`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The mixture of this name, in upper or lower case; `Q4_K` is `Q4_K_M`.
    pub fn from_name(name: &str) -> Option<Mix> {
        let names = TABLE.iter().map(|row| (row.name, row.mix)).chain(ALIASES);
        names.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, mix)| mix)
    }

    /// The number that `general.file_type` has for it.
    pub fn file_type(self) -> u32 {
        self.row().file_type
    }

    /// The type that most matrices have.
    pub fn most(self) -> DType {
        self.row().most
    }

    /// The type of a matrix.
    pub fn dtype(self, tensor: &Tensor, informed: Informed) -> DType {
        let row = self.row();
        let dtype = match tensor.role {
            Role::Positions => return DType::F32,
            Role::Head if row.most.block_len() == 1 || row.most == DType::Q8_0 => row.most,
            // Where rows are no whole blocks of most tensors' type, llama.cpp does not try Q6_K.
            Role::Head if !tensor.cols.is_multiple_of(row.most.block_len()) => DType::Q8_0,
            Role::Head => DType::Q6_K,
            Role::Embed => row.most,
            Role::FusedQkv => row.fused.of(row.most, tensor, informed),
            Role::Values => row.v.of(row.most, tensor, informed),
            Role::AttentionOutput => row.o.of(row.most, tensor, informed),
            Role::Down => row.down.of(row.most, tensor, informed),
            Role::Projection => row.most,
        };
        fitting(dtype, tensor.cols)
    }
}

impl Choice {
    fn of(&self, most: DType, tensor: &Tensor, informed: Informed) -> DType {
        let Tensor { layer, n_layers, shared, .. } = *tensor;
        match *self {
            Choice::Most => most,
            Choice::All(dtype) => dtype,
            Choice::Half(dtype) if more_bits(layer, n_layers) => dtype,
            Choice::First(count, dtype, _) if layer < count => dtype,
            Choice::Sixteenth(dtype, _) if layer < n_layers / 16 => dtype,
            Choice::Eighth(dtype) if layer < n_layers / 8 => dtype,
            Choice::EighthIf(when, dtype) if layer < n_layers / 8 && when == informed => dtype,
            Choice::Shared(dtype, _) if shared >= 4 => dtype,
            Choice::First(.., then) | Choice::Sixteenth(_, then) | Choice::Shared(_, then) => then,
            Choice::Half(_) | Choice::Eighth(_) | Choice::EighthIf(..) => most,
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The layers whose v and down projections get more bits: the first and the last eighth, and every third between.
fn more_bits(layer: usize, n: usize) -> bool {
    layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2
}

/// The type, or one of about its size whose blocks fill rows of `cols` values.
fn fitting(dtype: DType, cols: usize) -> DType {
    let fits = |dtype: DType| cols.is_multiple_of(dtype.block_len());
    if fits(dtype) {
        return dtype;
    }
    let smaller = match dtype {
        DType::Q6_K => DType::Q8_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q4_K => DType::Q5_0,
        // Some versions of llama.cpp take Q4_0 here, which is of the same size and less near.
        _ => DType::IQ4_NL,
    };
    if fits(smaller) { smaller } else { DType::F16 }
}

impl Tensor {
    /// The matrix that a file makes of these canonical tensors; `None` for norms and biases, which stay F32.
    pub fn of(config: &DecoderConfig, sources: &[Source]) -> Option<Tensor> {
        let first = sources.first().filter(|source| source.shape.len() == 2)?;
        let (role, layer) = match (first.to.place, sources.len()) {
            (Place::Embed, _) => match config.head {
                Head::Tied => (Role::Head, 0),
                Head::Untied => (Role::Embed, 0),
            },
            (Place::Head, _) => (Role::Head, 0),
            (Place::PosEmbed, _) => (Role::Positions, 0),
            (Place::FinalNorm, _) => return None,
            (Place::Layer(layer, Part::Q), 3) => (Role::FusedQkv, layer),
            (Place::Layer(layer, Part::V), _) => (Role::Values, layer),
            (Place::Layer(layer, Part::O), _) => (Role::AttentionOutput, layer),
            (Place::Layer(layer, Part::Down), _) => (Role::Down, layer),
            (Place::Layer(layer, _), _) => (Role::Projection, layer),
        };
        let shared = config.n_heads / config.n_kv_heads.max(1);
        Some(Tensor { role, layer, n_layers: config.n_layers(), shared, cols: first.cols() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(role: Role, layer: usize) -> Tensor {
        Tensor { role, layer, n_layers: 32, shared: 1, cols: 1024 }
    }

    #[test]
    fn names_and_numbers_are_unique_and_found() {
        for (i, mix) in Mix::all().enumerate() {
            assert_eq!(mix as usize, i, "{mix}");
            assert_eq!(Mix::from_name(mix.name()), Some(mix));
            assert_eq!(Mix::from_name(&mix.name().to_lowercase()), Some(mix));
            assert_eq!(Mix::all().filter(|other| other.file_type() == mix.file_type()).count(), 1);
        }
        assert_eq!(Mix::from_name("q4_k"), Some(Mix::Q4_K_M));
        assert_eq!(Mix::from_name("Q9"), None);
    }

    #[test]
    fn more_bits_go_to_the_ends_and_to_every_third_layer_between() {
        let given = |n_layers| (0..n_layers).filter(|&layer| more_bits(layer, n_layers)).collect::<Vec<_>>();
        assert_eq!(given(2), [1]);
        assert_eq!(given(16), [0, 1, 4, 7, 10, 13, 14, 15]);
    }

    #[test]
    fn mixtures_differ_where_they_should() {
        let informed = Informed::No;
        let v = Role::Values;
        let down = Role::Down;
        let o = Role::AttentionOutput;
        let q = Role::Projection;
        for (mix, role, layer, expected) in [
            (Mix::Q4_K_M, v, 0, DType::Q6_K),
            (Mix::Q4_K_M, v, 4, DType::Q4_K),
            (Mix::Q4_K_M, down, 6, DType::Q6_K),
            (Mix::Q4_K_M, q, 0, DType::Q4_K),
            (Mix::Q4_K_M, Role::FusedQkv, 9, DType::Q5_K),
            (Mix::Q4_K_M, Role::Head, 0, DType::Q6_K),
            (Mix::Q4_K_M, Role::Embed, 0, DType::Q4_K),
            (Mix::Q4_K_S, down, 3, DType::Q5_K),
            (Mix::Q4_K_S, down, 4, DType::Q4_K),
            (Mix::Q5_K_M, down, 31, DType::Q6_K),
            (Mix::Q5_K_S, down, 31, DType::Q5_K),
            (Mix::Q3_K_M, v, 1, DType::Q5_K),
            (Mix::Q3_K_M, down, 1, DType::Q5_K),
            (Mix::Q3_K_M, down, 2, DType::Q4_K),
            (Mix::Q3_K_L, o, 20, DType::Q5_K),
            (Mix::Q3_K_S, o, 20, DType::Q3_K),
            (Mix::Q2_K, v, 20, DType::Q3_K),
            (Mix::Q2_K, o, 20, DType::Q3_K),
            (Mix::IQ4_XS, down, 0, DType::Q5_K),
            (Mix::Q8_0, Role::Head, 0, DType::Q8_0),
            (Mix::Q4_0, Role::Head, 0, DType::Q6_K),
            (Mix::Q4_0, Role::Positions, 0, DType::F32),
            (Mix::F16, Role::Head, 0, DType::F16),
        ] {
            assert_eq!(mix.dtype(&tensor(role, layer), informed), expected, "{mix} {role:?} {layer}");
        }
        assert_eq!(Mix::IQ4_XS.dtype(&tensor(down, 0), Informed::Yes), DType::IQ4_XS);
        assert_eq!(Mix::Q2_K.dtype(&Tensor { shared: 4, ..tensor(v, 9) }, informed), DType::Q4_K);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_a_type_that_fits() {
        let q = Role::Projection;
        for mix in Mix::all() {
            for cols in [256, 288, 100] {
                for role in [q, Role::Head, Role::Embed, Role::Down] {
                    let dtype = mix.dtype(&Tensor { cols, ..tensor(role, 0) }, Informed::No);
                    assert!(dtype.bytes(&[cols]).is_some(), "{mix} {role:?} {cols}: {dtype}");
                }
            }
        }
        let of = |mix: Mix, cols| mix.dtype(&Tensor { cols, ..tensor(q, 5) }, Informed::No);
        assert_eq!(of(Mix::Q4_K_M, 288), DType::Q5_0);
        assert_eq!(of(Mix::Q5_K_M, 288), DType::Q5_1);
        assert_eq!(of(Mix::Q6_K, 288), DType::Q8_0);
        assert_eq!(of(Mix::Q2_K, 288), DType::IQ4_NL);
        assert_eq!(of(Mix::Q4_0, 100), DType::F16);
    }
}
