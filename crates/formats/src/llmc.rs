//! llm.c's model files (`gpt2_124M.bin`, `gpt2_124M_bf16.bin`) and debug states.
//!
//! ```text
//! 256 × i32: 20240326 · version (3: f32, 5: bf16) · max_seq · vocab · layers · heads · channels · padded_vocab · 0 …
//! the parameters, one tensor after the other, the layers of each stacked
//! ```
//! Matrices are stored as llm.c multiplies them: `[output, input]`, so GPT-2's weights are already transposed.
//! Source: `write_model` and `write_state` of <https://github.com/karpathy/llm.c/blob/master/train_gpt2.py>.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use wootz_kernels::DType;

use crate::bytes::{Reader, f32s, i32s};
use crate::mmap::Mmap;
use crate::tensor::{Fill, Layout, TensorEntry, TensorSpec, TensorView, write_exactly};
use crate::{Error, ErrorKind, write_atomically};

/// First number of a model file.
pub const MODEL_MAGIC: u32 = 20_240_326;
/// First number of a debug state.
pub const STATE_MAGIC: u32 = 20_240_327;
/// First number of a tokenizer file, which the tokenizer reads.
pub const TOKENIZER_MAGIC: u32 = 20_240_328;

/// Bytes of the header of all these files.
pub(crate) const HEADER_BYTES: usize = 256 * 4;
/// The debug state's version since the vocabulary is padded.
const STATE_VERSION: u32 = 2;

/// The header of a model: what GPT-2 it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LlmcHeader {
    /// 3 (f32) or 5 (bf16).
    pub version: u32,
    /// The longest sequence: rows of the position embedding (maxT).
    pub max_seq: usize,
    /// Tokens (V).
    pub vocab: usize,
    /// Blocks (L).
    pub layers: usize,
    /// Attention heads; divides `channels`.
    pub heads: usize,
    /// Width of the residual stream (C).
    pub channels: usize,
    /// Rows of the token embedding (Vp): V, rounded up. The rows from V on stand for no token.
    pub padded_vocab: usize,
}

impl LlmcHeader {
    /// Type of all parameters.
    pub fn dtype(&self) -> DType {
        if self.version == 5 { DType::BF16 } else { DType::F32 }
    }

    /// Reads and checks the header of a model file.
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new(file);
        expect_magic(&mut r, MODEL_MAGIC, "llm.c model")?;
        let version = r.u32()?;
        if !matches!(version, 3 | 5) {
            return Err(Error::unsupported(format!(
                "llm.c model version {version} is not read, 3 (f32) and 5 (bf16) are; write the model anew with \
                 llm.c's train_gpt2.py"
            )));
        }
        let mut size = |name| size(&mut r, name);
        let header = LlmcHeader {
            version,
            max_seq: size("max_seq")?,
            vocab: size("vocab")?,
            layers: size("layers")?,
            heads: size("heads")?,
            channels: size("channels")?,
            padded_vocab: size("padded_vocab")?,
        };
        if header.padded_vocab < header.vocab {
            return Err(Error::invalid(format!(
                "header: padded_vocab {} is smaller than vocab {}",
                header.padded_vocab, header.vocab
            )));
        }
        if !header.channels.is_multiple_of(header.heads) {
            return Err(Error::invalid(format!(
                "header: channels {} is not a multiple of heads {}",
                header.channels, header.heads
            )));
        }
        Ok(header)
    }

    /// The parameters in llm.c's order and under its names, as [`write()`] writes them.
    ///
    /// # Errors
    /// Sizes whose file could not be addressed.
    pub fn tensors(&self) -> Result<Vec<TensorSpec>, Error> {
        let mut layout = Layout::new(HEADER_BYTES, usize::MAX);
        self.lay_out(self.dtype(), &mut layout)?;
        let spec =
            |entry: TensorEntry| TensorSpec { name: entry.name, dtype: entry.dtype, shape: entry.shape };
        Ok(layout.entries.into_iter().map(spec).collect())
    }

    /// The header's bytes; what [`LlmcHeader::parse`] refuses is refused here too.
    fn bytes(&self) -> Result<Vec<u8>, Error> {
        let sizes = [self.max_seq, self.vocab, self.layers, self.heads, self.channels, self.padded_vocab];
        let mut bytes = [MODEL_MAGIC, self.version].map(u32::to_le_bytes).concat();
        for size in sizes {
            let size = i32::try_from(size)
                .map_err(|_| Error::invalid(format!("header: expected a number below 2^31, found {size}")))?;
            bytes.extend(size.to_le_bytes());
        }
        bytes.resize(HEADER_BYTES, 0);
        LlmcHeader::parse(&bytes)?;
        Ok(bytes)
    }

    /// The parameters in llm.c's order and under its names, of type `dtype`, into `layout`.
    fn lay_out(&self, dtype: DType, layout: &mut Layout) -> Result<(), Error> {
        let (l, c) = (self.layers, self.channels);
        // Header numbers are below 2^31, so 4c fits.
        layout.push("wte", dtype, &[self.padded_vocab, c])?;
        layout.push("wpe", dtype, &[self.max_seq, c])?;
        layout.push("ln1w", dtype, &[l, c])?;
        layout.push("ln1b", dtype, &[l, c])?;
        layout.push("qkvw", dtype, &[l, 3 * c, c])?;
        layout.push("qkvb", dtype, &[l, 3 * c])?;
        layout.push("attprojw", dtype, &[l, c, c])?;
        layout.push("attprojb", dtype, &[l, c])?;
        layout.push("ln2w", dtype, &[l, c])?;
        layout.push("ln2b", dtype, &[l, c])?;
        layout.push("fcw", dtype, &[l, 4 * c, c])?;
        layout.push("fcb", dtype, &[l, 4 * c])?;
        layout.push("fcprojw", dtype, &[l, c, 4 * c])?;
        layout.push("fcprojb", dtype, &[l, c])?;
        layout.push("lnfw", dtype, &[c])?;
        layout.push("lnfb", dtype, &[c])
    }
}

/// A model file's header and parameters.
#[derive(Clone, Debug)]
pub struct LlmcModel {
    /// What GPT-2 it is.
    pub header: LlmcHeader,
    /// The 16 parameters.
    pub tensors: Vec<TensorEntry>,
}

/// Reads a whole model file: the parameters must fill it exactly.
pub fn parse(file: &[u8]) -> Result<LlmcModel, Error> {
    let header = LlmcHeader::parse(file)?;
    let mut layout = Layout::new(HEADER_BYTES, file.len());
    header.lay_out(header.dtype(), &mut layout)?;
    Ok(LlmcModel { header, tensors: layout.finish()? })
}

/// Writes a model file, whole or not at all: the header, then each of [`LlmcHeader::tensors`] as `fill` gives it, in
/// that order, of the header's type and with the vocabulary's padding.
///
/// # Errors
/// A header that [`LlmcHeader::parse`] would refuse; what `fill` fails with, or that it wrote too little or too much.
pub fn write(path: &Path, header: &LlmcHeader, fill: &mut Fill<'_>) -> Result<(), Error> {
    let head = header.bytes().map_err(|e| e.in_file(path))?;
    let tensors = header.tensors().map_err(|e| e.in_file(path))?;
    write_atomically(path, |file| {
        file.write_all(&head)?;
        for (index, spec) in tensors.iter().enumerate() {
            let length = spec.dtype.bytes(&spec.shape).unwrap_or(0); // laid out already, so it does not overflow
            write_exactly(file, index, spec, length, fill)?;
        }
        Ok(())
    })
}

/// A batch, the loss and logits that PyTorch computed for it, and the gradient of every parameter.
///
/// The file does not say what model it is for: the model's header must be at hand.
#[derive(Debug)]
pub struct DebugState {
    map: Mmap,
    parts: StateParts,
}

/// Where the parts of a debug state are.
#[derive(Clone, Debug)]
pub struct StateParts {
    /// Sequences (B).
    pub batch: usize,
    /// Tokens of a sequence (T).
    pub seq: usize,
    /// `[B,T]` i32.
    pub inputs: Range<usize>,
    /// `[B,T]` i32: the token after each input.
    pub targets: Range<usize>,
    /// `[B,T,V]` f32, without padding.
    pub logits: TensorEntry,
    /// One f32.
    pub loss: Range<usize>,
    /// f32, shapes and names of the model's parameters (the vocabulary padded).
    pub gradients: Vec<TensorEntry>,
}

/// B and T of a debug state: all that its header says.
pub fn parse_state_header(file: &[u8]) -> Result<(usize, usize), Error> {
    let mut r = Reader::new(file);
    expect_magic(&mut r, STATE_MAGIC, "llm.c debug state")?;
    let version = r.u32()?;
    if version != STATE_VERSION {
        return Err(Error::unsupported(format!(
            "llm.c debug state version {version} is not read, {STATE_VERSION} is; write it anew with llm.c's train_gpt2.py"
        )));
    }
    Ok((size(&mut r, "batch")?, size(&mut r, "sequence length")?))
}

/// Reads a whole debug state of the model with this header: the parts must fill the file exactly.
pub fn parse_state(file: &[u8], model: &LlmcHeader) -> Result<StateParts, Error> {
    let (batch, seq) = parse_state_header(file)?;
    let mut layout = Layout::new(HEADER_BYTES, file.len());
    let inputs = layout.skip("inputs", DType::I32, &[batch, seq])?;
    let targets = layout.skip("targets", DType::I32, &[batch, seq])?;
    layout.push("logits", DType::F32, &[batch, seq, model.vocab])?;
    let loss = layout.skip("loss", DType::F32, &[])?;
    model.lay_out(DType::F32, &mut layout)?;
    let mut entries = layout.finish().map_err(|e| e.about("is it the state of another model?"))?;
    let gradients = entries.split_off(1);
    let logits = entries.pop().ok_or_else(|| Error::new(ErrorKind::Invalid, "no logits"))?;
    Ok(StateParts { batch, seq, inputs, targets, logits, loss, gradients })
}

impl DebugState {
    /// Opens the debug state at `path`, of the model with this header.
    pub fn open(path: &Path, model: &LlmcHeader) -> Result<Self, Error> {
        let map = Mmap::open(path)?;
        let parts = parse_state(&map, model).map_err(|e| e.in_file(path))?;
        Ok(DebugState { map, parts })
    }

    /// Sequences (B).
    pub fn batch(&self) -> usize {
        self.parts.batch
    }

    /// Tokens of a sequence (T).
    pub fn seq(&self) -> usize {
        self.parts.seq
    }

    /// Token ids, `[B,T]`.
    pub fn inputs(&self) -> Vec<i32> {
        i32s(&self.map[self.parts.inputs.clone()])
    }

    /// The token after each input, `[B,T]`.
    pub fn targets(&self) -> Vec<i32> {
        i32s(&self.map[self.parts.targets.clone()])
    }

    /// f32 `[B,T,V]`.
    pub fn logits(&self) -> TensorView<'_> {
        self.parts.logits.view(&self.map)
    }

    /// Mean cross-entropy over the batch.
    pub fn loss(&self) -> f32 {
        f32s(&self.map[self.parts.loss.clone()]).first().copied().unwrap_or(f32::NAN)
    }

    /// Gradients of the loss, f32, under llm.c's parameter names and in its order.
    pub fn gradients(&self) -> impl ExactSizeIterator<Item = TensorView<'_>> {
        self.parts.gradients.iter().map(|entry| entry.view(&self.map))
    }
}

pub(crate) fn expect_magic(r: &mut Reader<'_>, expected: u32, what: &str) -> Result<(), Error> {
    let found = r.u32().map_err(|e| e.about(what))?;
    if found == expected {
        return Ok(());
    }
    Err(Error::invalid(format!("expected the magic {expected} of a {what} file, found {found}")))
}

/// A header number that counts something: from 1 to 2^31 - 1.
fn size(r: &mut Reader<'_>, name: &str) -> Result<usize, Error> {
    let number = r.i32()?;
    usize::try_from(number)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| Error::invalid(format!("header: {name} must be positive, found {number}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(numbers: &[i32], data: usize) -> Vec<u8> {
        let mut file: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        file.resize(HEADER_BYTES + data, 0);
        file
    }

    /// maxT 4, V 3, L 2, 1 head, C 2, Vp 8: 8·2 + 4·2 + 2·(4·2 + 16 + 16+10 + 24) … counted by hand below.
    fn tiny(version: i32, data: usize) -> Vec<u8> {
        file(&[MODEL_MAGIC as i32, version, 4, 3, 2, 1, 2, 8], data)
    }

    /// C = 2: wte 16, wpe 8, per layer ln 8, qkv 12 + 6, attproj 4 + 2, fc 16 + 8, fcproj 16 + 2, then lnf 4.
    const TINY_PARAMETERS: usize = 16 + 8 + 2 * (8 + 18 + 6 + 24 + 18) + 4;

    #[test]
    fn size_must_match_the_header() {
        let parsed = parse(&tiny(3, 4 * TINY_PARAMETERS)).unwrap();
        assert_eq!(parsed.tensors.len(), 16);
        assert_eq!(parse(&tiny(5, 2 * TINY_PARAMETERS)).unwrap().header.dtype(), DType::BF16);
        for wrong in [0, 4 * TINY_PARAMETERS - 1, 4 * TINY_PARAMETERS + 1] {
            assert!(parse(&tiny(3, wrong)).is_err(), "{wrong}");
        }
        assert_eq!(parse(&tiny(1, 0)).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = std::env::temp_dir().join(format!("wootz-llmc-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("model.bin");
        for (version, size) in [(3, 4), (5, 2)] {
            let original = tiny(version, size * TINY_PARAMETERS);
            let model = parse(&original).unwrap();
            write(&path, &model.header, &mut |index, file| {
                file.write_all(&original[model.tensors[index].range.clone()])
            })
            .unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), original);
        }
        let header = parse(&tiny(3, 4 * TINY_PARAMETERS)).unwrap().header;
        for (wrong, expected) in [
            (LlmcHeader { version: 4, ..header }, "version 4"),
            (LlmcHeader { heads: 0, ..header }, "heads must be positive"),
            (LlmcHeader { padded_vocab: 2, ..header }, "smaller than vocab"),
            (LlmcHeader { vocab: 1 << 31, ..header }, "below 2^31, found 2147483648"),
        ] {
            let error = write(&path, &wrong, &mut |_, _| Ok(())).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let m = MODEL_MAGIC as i32;
        for (numbers, expected) in [
            ([m, 3, 4, 3, 2, 1, 2, 2], "smaller than vocab"),
            ([m, 3, 4, 3, 2, 3, 2, 8], "multiple of heads"),
            ([m, 3, 4, 3, -2, 1, 2, 8], "layers must be positive, found -2"),
            ([m, 3, i32::MAX, i32::MAX, i32::MAX, 1, i32::MAX, i32::MAX], "cut short"),
            ([m + 1, 3, 4, 3, 2, 1, 2, 8], "magic 20240326"),
        ] {
            let error = parse(&file(&numbers, 100)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
