//! Which columns of a matrix matter: the mean square of what multiplies them, over a text.
//!
//! The error that rounding makes in an output is `Σ (ŵ - w) x`, and its expected square, taking columns to be independent, is
//! `Σ (ŵ - w)² E[x²]`. So `E[x²]` is the weight with which rounding should count a column's error. llama.cpp calls
//! the collection an importance matrix; its files are read and written here:
//!
//! ```text
//!   GGUF     general.type "imatrix"; for each matrix NAME a tensor NAME.in_sum2 (sums of squares) and NAME.counts (of rows)
//!   older    i32 entries; for each: i32 length, name, i32 calls, i32 columns, f32 means times calls
//! ```
//!
//! Names are those of GGUF's tensors.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use wootz_formats::gguf::{self, Array, Strings, Value};
use wootz_formats::{Checkpoint, Format, TensorSpec};
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::{DType, quant};

use crate::arch::Architecture;
use crate::block::Observer;
use crate::config::DecoderConfig;
use crate::decoder::{Chunk, Model, Rows, Scratch};
use crate::error::{Context, Result, fail};
use crate::names::{Place, TensorId};

/// Tokens of a piece of text that is run through the model at once, without what came before.
pub const PIECE: usize = 512;
/// Tokens of a forward pass: few, because each has a whole vocabulary of logits.
const STEP: usize = 64;

/// Sums of squares of a matrix's inputs.
#[derive(Clone, Debug, PartialEq)]
struct Sums {
    squares: Vec<f64>,
    rows: f64,
}

/// Importances of many matrices, by their names in GGUF.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importances {
    matrices: BTreeMap<String, Sums>,
    /// Pieces of text that they are from.
    pieces: usize,
}

impl Importances {
    /// Runs `tokens` through a model, in pieces of [`PIECE`]; `watch` is told how many tokens are done, and may end it with
    /// an error.
    ///
    /// # Errors
    /// No tokens; what the model fails with, or `watch`.
    pub fn collect(
        model: &Model,
        tokens: &[u32],
        watch: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Importances> {
        if tokens.is_empty() {
            fail!("the text to calibrate with has no tokens");
        }
        let names = names(model.architecture(), model.config())?;
        let collector = Collector { names, matrices: RefCell::default() };
        let mut scratch = Scratch::default();
        let piece_len = PIECE.min(model.config().max_seq).max(1);
        let mut done = 0;
        for piece in tokens.chunks(piece_len) {
            let mut cache = model.new_cache(piece_len, CacheType::F16)?;
            for tokens in piece.chunks(STEP) {
                let chunk = Chunk { tokens, cache: &mut cache, logits: Rows::All };
                model.observe(&mut scratch, &mut [chunk], &collector)?;
                done += tokens.len();
                watch(done)?;
            }
        }
        Ok(Importances {
            matrices: collector.matrices.into_inner(),
            pieces: tokens.len().div_ceil(piece_len),
        })
    }

    /// How many matrices there are importances of.
    pub fn len(&self) -> usize {
        self.matrices.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.matrices.is_empty()
    }

    /// The importance of each of the `cols` columns of a matrix; `None` where nothing is known of it.
    ///
    /// # Errors
    /// They are for another number of columns.
    pub fn of(&self, name: &str, cols: usize) -> Result<Option<Vec<f32>>> {
        let Some(sums) = self.matrices.get(name).filter(|sums| sums.rows > 0.0) else { return Ok(None) };
        if sums.squares.len() != cols {
            fail!(
                "tensor `{name}` has {cols} columns, and its importances are for {}; are they another model's?",
                sums.squares.len()
            );
        }
        // As a file holds the sum, so that rounding is the same from one.
        let mean = |sum: &f64| (f64::from(*sum as f32) / sums.rows) as f32;
        Ok(Some(sums.squares.iter().map(mean).collect()))
    }

    /// Writes them as llama.cpp does; `dataset` is the text that they are from.
    ///
    /// # Errors
    /// The disk.
    pub fn write(&self, path: &Path, dataset: &str) -> Result<()> {
        let datasets: Strings = [dataset].into_iter().collect();
        let metadata = [
            ("general.type", Value::String("imatrix".to_owned())),
            ("imatrix.datasets", Value::Array(Array::String(datasets))),
            ("imatrix.chunk_count", Value::U32(u32::try_from(self.pieces).unwrap_or(u32::MAX))),
            ("imatrix.chunk_size", Value::U32(PIECE as u32)),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let mut tensors: Vec<(TensorSpec, Vec<f32>)> = Vec::new();
        for (name, sums) in &self.matrices {
            let squares = sums.squares.iter().map(|&sum| sum as f32).collect();
            for (suffix, values) in [(SQUARES, squares), (COUNTS, vec![sums.rows as f32])] {
                let shape = vec![1, values.len()];
                let spec = TensorSpec { name: format!("{name}{suffix}"), dtype: DType::F32, shape };
                tensors.push((spec, values));
            }
        }
        let specs: Vec<TensorSpec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
        gguf::write(path, &metadata, &specs, &mut |index, file| {
            tensors[index].1.iter().try_for_each(|value| file.write_all(&value.to_le_bytes()))
        })
        .context(|| "cannot write the importances")
    }

    /// Reads a file of importances, in either form.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or something else.
    pub fn read(path: &Path) -> Result<Importances> {
        let whose = || format!("cannot read the importances {}", path.display());
        let mut magic = [0; 4];
        let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut magic));
        read.context(whose)?;
        if &magic == b"GGUF" {
            let checkpoint = Checkpoint::open(path).context(whose)?;
            return from_gguf(&checkpoint).context(whose);
        }
        let bytes = std::fs::read(path).context(whose)?;
        from_older(&bytes).context(whose)
    }
}

const SQUARES: &str = ".in_sum2";
const COUNTS: &str = ".counts";

fn from_gguf(checkpoint: &Checkpoint) -> Result<Importances> {
    let mut all = Importances::default();
    for tensor in checkpoint.tensors() {
        let Some(name) = tensor.name.strip_suffix(SQUARES) else { continue };
        let values = |tensor: wootz_formats::TensorView| -> Result<Vec<f32>> {
            let mut values = vec![0.0; tensor.elements()];
            quant::decode(tensor.dtype, tensor.bytes, &mut values)
                .context(|| format!("tensor `{}`", tensor.name))?;
            Ok(values)
        };
        let Some(counts) = checkpoint.tensor(&format!("{name}{COUNTS}")) else {
            fail!("tensor `{name}{COUNTS}` is missing");
        };
        let (squares, counts) = (values(tensor)?, values(counts)?);
        let [rows] = counts.as_slice() else {
            fail!(
                "tensor `{name}{COUNTS}`: expected one count, found {}; experts are not supported",
                counts.len()
            );
        };
        check(name, &squares)?;
        let squares = squares.into_iter().map(f64::from).collect();
        all.matrices.insert(name.to_owned(), Sums { squares, rows: f64::from(*rows) });
    }
    if all.is_empty() {
        fail!("expected tensors named NAME{SQUARES}, found none; is it a file of importances?");
    }
    Ok(all)
}

fn check(name: &str, squares: &[f32]) -> Result<()> {
    match squares.iter().position(|&x| !(x.is_finite() && x >= 0.0)) {
        Some(at) => fail!("`{name}`: column {at} is {}, expected a number that is not negative", squares[at]),
        None => Ok(()),
    }
}

fn from_older(bytes: &[u8]) -> Result<Importances> {
    /// Longer names and more columns are taken for another kind of file.
    const MOST: usize = 1 << 24;
    struct Reader<'a>(&'a [u8]);
    impl<'a> Reader<'a> {
        fn take(&mut self, count: usize) -> Result<&'a [u8]> {
            let Some((taken, rest)) = self.0.split_at_checked(count) else {
                fail!(
                    "expected {count} bytes more, found {}; is it a file of importances, and whole?",
                    self.0.len()
                );
            };
            self.0 = rest;
            Ok(taken)
        }

        fn number(&mut self, what: &str) -> Result<usize> {
            let bytes = self.take(4)?;
            let number = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            match usize::try_from(number) {
                Ok(number) if number <= MOST => Ok(number),
                _ => fail!("{what}: expected 0 to {MOST}, found {number}; is it a file of importances?"),
            }
        }
    }
    let mut reader = Reader(bytes);
    let entries = reader.number("number of matrices")?;
    let mut all = Importances::default();
    for _ in 0..entries {
        let length = reader.number("length of a name")?;
        let name = String::from_utf8_lossy(reader.take(length)?).into_owned();
        let calls = reader.number("number of calls")?.max(1);
        let columns = reader.number("number of columns")?;
        let values = reader.take(4 * columns)?;
        let values: Vec<f32> = values.as_chunks().0.iter().map(|&x| f32::from_le_bytes(x)).collect();
        check(&name, &values)?;
        let squares = values.into_iter().map(f64::from).collect();
        all.matrices.insert(name, Sums { squares, rows: calls as f64 });
    }
    Ok(all)
}

/// What the matrices at each place are called in GGUF.
fn names(architecture: &Architecture, config: &DecoderConfig) -> Result<HashMap<Place, String>> {
    let tensors = architecture.tensors(config, Format::Gguf)?;
    let weights = tensors.into_iter().filter(|source| source.to == TensorId::weight(source.to.place));
    Ok(weights.map(|source| (source.to.place, source.name)).collect())
}

/// Adds up what it is shown.
struct Collector {
    names: HashMap<Place, String>,
    matrices: RefCell<BTreeMap<String, Sums>>,
}

impl Observer for Collector {
    fn inputs(&self, places: &[Place], x: &[f32], width: usize) {
        let mut squares = vec![0.0f64; width];
        for row in x.chunks_exact(width) {
            for (sum, &x) in squares.iter_mut().zip(row) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        let mut matrices = self.matrices.borrow_mut();
        // Queries, keys and values may be one matrix in the file: it counts once. A place that this decoder has not has no
        // name.
        let mut names: Vec<&String> = places.iter().filter_map(|place| self.names.get(place)).collect();
        names.dedup();
        for name in names {
            let zeros = || Sums { squares: vec![0.0; width], rows: 0.0 };
            let sums = matrices.entry(name.clone()).or_insert_with(zeros);
            sums.rows += (x.len() / width) as f64;
            for (sum, more) in sums.squares.iter_mut().zip(&squares) {
                *sum += more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Importances {
        let mut all = Importances { pieces: 3, ..Default::default() };
        let sums = |squares: &[f64], rows| Sums { squares: squares.to_vec(), rows };
        all.matrices.insert("blk.0.attn_q.weight".to_owned(), sums(&[2.0, 0.0, 6.5], 2.0));
        all.matrices.insert("output.weight".to_owned(), sums(&[1.0], 1.0));
        all
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("wootz-imatrix-{name}-{}", std::process::id()))
    }

    #[test]
    fn means_are_of_rows_and_belong_to_columns() {
        let all = sample();
        assert_eq!(all.of("blk.0.attn_q.weight", 3).unwrap(), Some(vec![1.0, 0.0, 3.25]));
        assert_eq!(all.of("other", 3).unwrap(), None);
        let error = all.of("blk.0.attn_q.weight", 4).unwrap_err().to_string();
        assert!(error.contains("has 4 columns, and its importances are for 3"), "{error}");
    }

    #[test]
    fn a_file_comes_back() {
        let path = scratch("gguf");
        sample().write(&path, "text.txt").unwrap();
        let found = Importances::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found.matrices, sample().matrices);
    }

    /// The older form of [`sample`]: means times calls.
    fn older() -> Vec<u8> {
        let mut bytes = 2i32.to_le_bytes().to_vec();
        for (name, calls, values) in
            [("blk.0.attn_q.weight", 2i32, &[2.0f32, 0.0, 6.5][..]), ("output.weight", 1, &[1.0])]
        {
            bytes.extend((name.len() as i32).to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend(calls.to_le_bytes());
            bytes.extend((values.len() as i32).to_le_bytes());
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        bytes.extend(7i32.to_le_bytes()); // the last chunk, which nobody needs
        bytes
    }

    #[test]
    fn the_older_form_is_read() {
        let path = scratch("older");
        std::fs::write(&path, older()).unwrap();
        let found = Importances::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found.matrices, sample().matrices);
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = older();
        for length in 0..bytes.len() - 4 {
            assert!(from_older(&bytes[..length]).is_err(), "{length} bytes");
        }
        assert!(from_older(b"this is some text").is_err());
        let mut negative = bytes.clone();
        let at = 4 + 4 + 19 + 8;
        negative[at..at + 4].copy_from_slice(&(-1f32).to_le_bytes());
        let error = from_older(&negative).unwrap_err().to_string();
        assert!(error.contains("column 0 is -1"), "{error}");
        assert!(
            Importances::read(Path::new("/no/such/file")).unwrap_err().to_string().contains("/no/such/file")
        );
    }
}
