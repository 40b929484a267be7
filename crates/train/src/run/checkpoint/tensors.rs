//! Tensors in f32 as a file of a checkpoint: weights, moments, gradients.
//!
//! The format is safetensors, so that any tool can look into it. Tensors are written one after the other from wherever
//! they lie, and read into where they belong: none is in memory twice.

use std::collections::HashSet;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Map, json};
use wootz_kernels::DType;

use crate::error::{AnyError, Context, Result, fail};

/// Elements that are turned to bytes at a time.
const STRETCH: usize = 4096;

/// A tensor to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorSpec<'a> {
    /// Its name, which no other of the same file has.
    pub name: &'a str,
    /// Outermost dimension first, row-major.
    pub shape: &'a [usize],
}

/// Where the elements of one tensor go, in as many pieces as there are.
pub struct TensorSink<'a> {
    out: &'a mut dyn Write,
    bytes: Vec<u8>,
    /// Elements that are still to come.
    left: usize,
}

impl TensorSink<'_> {
    /// Writes the next elements. Fails for more than the tensor has, and where the disk is full.
    pub fn write(&mut self, elements: &[f32]) -> io::Result<()> {
        let Some(left) = self.left.checked_sub(elements.len()) else {
            return Err(io::Error::other(format!("{} elements too many", elements.len() - self.left)));
        };
        for stretch in elements.chunks(STRETCH) {
            self.bytes.clear();
            self.bytes.extend(stretch.iter().flat_map(|x| x.to_le_bytes()));
            self.out.write_all(&self.bytes)?;
        }
        self.left = left;
        Ok(())
    }
}

impl fmt::Debug for TensorSink<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorSink").field("left", &self.left).finish_non_exhaustive()
    }
}

/// Writes a safetensors file: length of the header as u64, header as JSON, elements.
///
/// Fails before anything is written when two tensors have one name or a shape overflows; and on the way when `fill`
/// fails, or gives too few elements or too many.
pub(super) fn write(
    out: &mut dyn Write,
    tensors: &[TensorSpec<'_>],
    mut fill: impl FnMut(usize, &mut TensorSink<'_>) -> Result<(), AnyError>,
) -> Result<()> {
    let (header, lengths) = header(tensors)?;
    let started = out.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| out.write_all(&header));
    started.context(|| "the header")?;
    for (index, (tensor, &left)) in tensors.iter().zip(&lengths).enumerate() {
        let mut sink = TensorSink { out, bytes: Vec::with_capacity(4 * STRETCH), left };
        fill(index, &mut sink).context(|| format!("tensor {:?}", tensor.name))?;
        if sink.left > 0 {
            fail!("tensor {:?}: {} of its {left} elements were not given", tensor.name, sink.left);
        }
    }
    Ok(())
}

/// The header, padded so that elements start at a multiple of 8, and the number of elements of each tensor.
fn header(tensors: &[TensorSpec<'_>]) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut names = HashSet::from(["__metadata__"]);
    let mut entries = Map::new();
    let mut lengths = Vec::with_capacity(tensors.len());
    let mut end = 0usize;
    for &TensorSpec { name, shape } in tensors {
        if !names.insert(name) {
            fail!("tensor {name:?}: its name is taken");
        }
        let elements = shape.iter().try_fold(1usize, |n, &dimension| n.checked_mul(dimension));
        let after = elements.and_then(|n| n.checked_mul(4)).and_then(|bytes| end.checked_add(bytes));
        let (Some(elements), Some(after)) = (elements, after) else {
            fail!("tensor {name:?}: shape {shape:?} is larger than this machine can address");
        };
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [end, after]});
        entries.insert(name.to_owned(), entry);
        lengths.push(elements);
        end = after;
    }
    let mut json = serde_json::to_vec(&entries).context(|| "the header cannot be JSON")?;
    json.resize(json.len().next_multiple_of(8), b' ');
    Ok((json, lengths))
}

/// An open file of tensors, memory-mapped.
#[derive(Debug)]
pub struct Tensors(wootz_formats::Checkpoint);

impl Tensors {
    /// Opens a safetensors file.
    pub(super) fn open(path: &Path) -> Result<Tensors> {
        wootz_formats::Checkpoint::open(path).map(Tensors).context(|| "cannot read tensors")
    }

    /// Names and shapes, in the order of the file.
    pub fn list(&self) -> impl Iterator<Item = TensorSpec<'_>> {
        self.0.tensors().map(|tensor| TensorSpec { name: tensor.name, shape: tensor.shape })
    }

    /// Reads the tensor of this name into `elements`, which is as long as `shape` says.
    ///
    /// Fails when there is none, when it has another shape, or is not in f32.
    pub fn read(&self, name: &str, shape: &[usize], elements: &mut [f32]) -> Result<()> {
        let path = self.0.path().display();
        let Some(tensor) = self.0.tensor(name) else {
            fail!("{path}: has no tensor {name:?}; is it of another model?");
        };
        if tensor.shape != shape {
            fail!("{path}: tensor {name:?}: expected shape {shape:?}, found {:?}", tensor.shape);
        }
        if tensor.dtype != DType::F32 {
            fail!("{path}: tensor {name:?}: expected F32, found {}", tensor.dtype);
        }
        if tensor.elements() != elements.len() {
            fail!("{path}: tensor {name:?}: has {} elements, not {}", tensor.elements(), elements.len());
        }
        for (element, bytes) in elements.iter_mut().zip(tensor.bytes.as_chunks::<4>().0) {
            *element = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::scratch::Scratch;
    use super::*;

    const SPECS: [TensorSpec<'_>; 4] = [
        TensorSpec { name: "m.wte", shape: &[3, 5000] },
        TensorSpec { name: "a \"name\"", shape: &[2] },
        TensorSpec { name: "scalar", shape: &[] },
        TensorSpec { name: "none", shape: &[0, 7] },
    ];

    /// Elements with every kind of bits in them: NaNs with a payload, infinities, denormal numbers, -0.
    fn elements(index: usize, n: usize) -> Vec<f32> {
        (0..n as u32)
            .map(|i| f32::from_bits((i + 1).wrapping_mul(0x9E37_79B9).rotate_left(index as u32)))
            .collect()
    }

    fn bits(elements: &[f32]) -> Vec<u32> {
        elements.iter().map(|x| x.to_bits()).collect()
    }

    fn count(spec: &TensorSpec<'_>) -> usize {
        spec.shape.iter().product()
    }

    fn written() -> Vec<u8> {
        let mut file = Vec::new();
        let fill = |index: usize, sink: &mut TensorSink<'_>| -> Result<(), AnyError> {
            let all = elements(index, count(&SPECS[index]));
            Ok(all.chunks(1 + all.len() / 3).try_for_each(|piece| sink.write(piece))?)
        };
        write(&mut file, &SPECS, fill).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_to_the_last_bit() {
        let scratch = Scratch::new();
        let path = scratch.path().join("optimizer.safetensors");
        std::fs::write(&path, written()).unwrap();
        let tensors = Tensors::open(&path).unwrap();
        assert_eq!(tensors.list().collect::<Vec<_>>(), SPECS);
        for (index, spec) in SPECS.iter().enumerate() {
            let mut found = vec![0.0; count(spec)];
            tensors.read(spec.name, spec.shape, &mut found).unwrap();
            assert_eq!(bits(&found), bits(&elements(index, count(spec))));
        }

        let error = |name, shape: &[usize], n| {
            let error = tensors.read(name, shape, &mut vec![0.0; n]).unwrap_err().to_string();
            assert!(error.contains("optimizer.safetensors: "), "{error}");
            error
        };
        assert!(
            error("m.lm_head", &[1], 1).ends_with("has no tensor \"m.lm_head\"; is it of another model?")
        );
        let shape = error("m.wte", &[5000, 3], 15_000);
        assert!(shape.ends_with("tensor \"m.wte\": expected shape [5000, 3], found [3, 5000]"), "{shape}");
        assert!(error("m.wte", &[3, 5000], 7).ends_with("has 15000 elements, not 7"));
        let header = br#"{"x":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}"#;
        let file = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
        std::fs::write(&path, file).unwrap();
        let error = Tensors::open(&path).unwrap().read("x", &[1], &mut [0.0]).unwrap_err().to_string();
        assert!(error.ends_with("tensor \"x\": expected F32, found I32"), "{error}");
    }

    #[test]
    fn a_shape_is_kept_to() {
        let spec = [TensorSpec { name: "w", shape: &[2, 3] }];
        let attempt = |pieces: &[usize]| {
            let fill = |_: usize, sink: &mut TensorSink<'_>| -> Result<(), AnyError> {
                Ok(pieces.iter().try_for_each(|&n| sink.write(&vec![1.0; n]))?)
            };
            write(&mut Vec::new(), &spec, fill).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(attempt(&[4, 0, 2]), Ok(()));
        assert_eq!(attempt(&[4, 1]).unwrap_err(), "tensor \"w\": 1 of its 6 elements were not given");
        assert_eq!(attempt(&[4, 5]).unwrap_err(), "tensor \"w\": 3 elements too many");
    }

    #[test]
    fn what_no_file_can_hold_is_refused_before_anything_is_written() {
        let refused = |tensors: &[TensorSpec<'_>]| {
            let mut file = Vec::new();
            let error = write(&mut file, tensors, |_, _| panic!("nothing is asked for")).unwrap_err();
            assert!(file.is_empty());
            error.to_string()
        };
        let spec = |name, shape| TensorSpec { name, shape };
        assert_eq!(refused(&[spec("a", &[1]), spec("a", &[2])]), "tensor \"a\": its name is taken");
        assert_eq!(refused(&[spec("__metadata__", &[1])]), "tensor \"__metadata__\": its name is taken");
        for shape in [&[usize::MAX, 2][..], &[usize::MAX / 2][..]] {
            assert!(refused(&[spec("a", shape)]).contains("is larger than this machine can address"));
        }
        let half = &[usize::MAX / 8][..];
        assert!(refused(&[spec("a", half), spec("b", half), spec("c", half)]).starts_with("tensor \"c\""));
    }

    /// A disk with room for so many bytes.
    struct Small(usize);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.0);
            self.0 -= n;
            if n == 0 && !bytes.is_empty() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_seen_wherever_it_ends() {
        let whole = written().len();
        for room in [0, 5, 8, 100, 1000, 30_000, 59_000, whole - 1] {
            let fill = |index: usize, sink: &mut TensorSink<'_>| -> Result<(), AnyError> {
                Ok(sink.write(&elements(index, count(&SPECS[index])))?)
            };
            let error = format!("{:#}", write(&mut Small(room), &SPECS, fill).unwrap_err());
            let (place, why) = error.split_once(": ").unwrap();
            assert!(place == "the header" || place.starts_with("tensor "), "{error}");
            assert_eq!(why, "no storage space", "{room}");
        }
    }
}
