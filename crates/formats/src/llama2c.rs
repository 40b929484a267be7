//! llama2.c's model files, in the first ("legacy") layout.
//!
//! ```text
//! i32: dim · hidden_dim · n_layers · n_heads · n_kv_heads · vocab_size · seq_len
//! f32 tensors one after the other; two tables of rotary cosines and sines that nobody needs; the classifier
//! ```
//! A negative vocabulary size says that the classifier is a tensor of its own and not the embedding.
//! The file has no magic: that its length is exactly what the header says is what tells it apart.
//! Source: `legacy_export` of <https://github.com/karpathy/llama2.c/blob/master/export.py>.

use wootz_kernels::DType;

use crate::Error;
use crate::bytes::{Reader, leading_u32};
use crate::tensor::{Layout, TensorEntry};

/// Bytes of the header.
const HEADER_BYTES: usize = 7 * 4;
/// "ak42": llama2.c's later layouts start with it.
const LATER_MAGIC: u32 = 0x616b_3432;

/// The header: what Llama it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Llama2cHeader {
    /// Width of the residual stream (C).
    pub dim: usize,
    /// Width of the MLP's hidden layer (F).
    pub hidden_dim: usize,
    /// Blocks (L).
    pub n_layers: usize,
    /// Query heads (H); `dim` is H times the width of a head.
    pub n_heads: usize,
    /// Key/value heads (G); divides `n_heads`.
    pub n_kv_heads: usize,
    /// Tokens (V).
    pub vocab_size: usize,
    /// The longest sequence.
    pub seq_len: usize,
    /// Whether the classifier is the token embedding.
    pub shared_classifier: bool,
}

impl Llama2cHeader {
    /// Width of a head (D).
    pub fn head_dim(&self) -> usize {
        self.dim / self.n_heads
    }

    /// Reads and checks the header.
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        if leading_u32(file) == Some(LATER_MAGIC) {
            return Err(Error::unsupported(
                "a later version of llama2.c's format; only the legacy one is read (export with --version 0)",
            ));
        }
        let mut r = Reader::new(file);
        let mut numbers = [0i32; 7];
        for n in &mut numbers {
            *n = r.i32().map_err(|e| e.about("llama2.c header"))?;
        }
        let [dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len] = numbers;
        let size = |name: &str, n: i32| {
            usize::try_from(n)
                .ok()
                .filter(|&n| n > 0)
                .ok_or_else(|| Error::invalid(format!("llama2.c header: {name} must be positive, found {n}")))
        };
        let header = Llama2cHeader {
            dim: size("dim", dim)?,
            hidden_dim: size("hidden_dim", hidden_dim)?,
            n_layers: size("n_layers", n_layers)?,
            n_heads: size("n_heads", n_heads)?,
            n_kv_heads: size("n_kv_heads", n_kv_heads)?,
            vocab_size: match vocab_size {
                0 => return Err(Error::invalid("llama2.c header: vocab_size is 0")),
                n => n.unsigned_abs() as usize,
            },
            seq_len: size("seq_len", seq_len)?,
            shared_classifier: vocab_size > 0,
        };
        let divides = |what: &str, a: usize, b: usize| {
            if a.is_multiple_of(b) {
                return Ok(());
            }
            Err(Error::invalid(format!("llama2.c header: {what}: {a} is not a multiple of {b}")))
        };
        divides("dim and n_heads", header.dim, header.n_heads)?;
        divides("n_heads and n_kv_heads", header.n_heads, header.n_kv_heads)?;
        divides("width of a head (rotary pairs)", header.head_dim(), 2)?;
        Ok(header)
    }
}

/// A model file's header and parameters.
#[derive(Clone, Debug)]
pub struct Llama2cModel {
    /// What Llama it is.
    pub header: Llama2cHeader,
    /// The parameters, f32, under llama2.c's names; `wcls` only where it is not the embedding.
    pub tensors: Vec<TensorEntry>,
}

/// Reads a whole model file: the parameters must fill it exactly.
pub fn parse(file: &[u8]) -> Result<Llama2cModel, Error> {
    let h = Llama2cHeader::parse(file)?;
    let (c, f, l) = (h.dim, h.hidden_dim, h.n_layers);
    let kv = h.n_kv_heads * h.head_dim();
    let mut layout = Layout::new(HEADER_BYTES, file.len());
    let mut push = |name: &str, shape: &[usize]| layout.push(name, DType::F32, shape);
    push("token_embedding_table", &[h.vocab_size, c])?;
    push("rms_att_weight", &[l, c])?;
    push("wq", &[l, c, c])?;
    push("wk", &[l, kv, c])?;
    push("wv", &[l, kv, c])?;
    push("wo", &[l, c, c])?;
    push("rms_ffn_weight", &[l, c])?;
    push("w1", &[l, f, c])?;
    push("w2", &[l, c, f])?;
    push("w3", &[l, f, c])?;
    push("rms_final_weight", &[c])?;
    layout.skip("freq_cis_real", DType::F32, &[h.seq_len, h.head_dim() / 2])?;
    layout.skip("freq_cis_imag", DType::F32, &[h.seq_len, h.head_dim() / 2])?;
    if !h.shared_classifier {
        layout.push("wcls", DType::F32, &[h.vocab_size, c])?;
    }
    Ok(Llama2cModel { header: h, tensors: layout.finish()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(numbers: [i32; 7], floats: usize) -> Vec<u8> {
        let mut file: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        file.resize(HEADER_BYTES + 4 * floats, 0);
        file
    }

    /// C 4, F 3, L 2, H 2, G 1, T 5: kv 2, head 2. Embedding 4V, per layer 4 + 16 + 8 + 8 + 16 + 4 + 3·12, 4, 2·5.
    const BODY: usize = 2 * 92 + 4 + 10;

    #[test]
    fn size_must_match_the_header() {
        let tied = parse(&file([4, 3, 2, 2, 1, 6, 5], 24 + BODY)).unwrap();
        assert_eq!(tied.tensors.len(), 11);
        let untied = parse(&file([4, 3, 2, 2, 1, -6, 5], 24 + BODY + 24)).unwrap();
        assert_eq!(untied.tensors[11].name, "wcls");
        assert_eq!(untied.tensors[11].range.end, HEADER_BYTES + 4 * (24 + BODY + 24));
        assert!(parse(&file([4, 3, 2, 2, 1, 6, 5], 24 + BODY + 24)).is_err());
        assert!(parse(&file([4, 3, 2, 2, 1, -6, 5], 24 + BODY)).is_err());
    }

    #[test]
    fn headers_that_lie_are_refused() {
        for (numbers, expected) in [
            ([4, 3, 2, 3, 1, 6, 5], "dim and n_heads"),
            ([4, 3, 2, 2, 3, 6, 5], "n_heads and n_kv_heads"),
            ([2, 3, 2, 2, 1, 6, 5], "rotary"),
            ([4, 3, 0, 2, 1, 6, 5], "n_layers must be positive, found 0"),
            ([4, 3, 2, 2, 1, 0, 5], "vocab_size is 0"),
            ([i32::MAX - 1, i32::MAX, i32::MAX, 1, 1, i32::MIN, i32::MAX], "cut short"),
            ([LATER_MAGIC as i32, 1, 0, 0, 0, 0, 0], "--version 0"),
        ] {
            let error = parse(&file(numbers, 10)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
