//! From an op's buffers and shape to launches of its kernels, the same for each driver.
//!
//! A launcher checks that each buffer is as large as the shape says, before any kernel sees it; on that check
//! rests the safety of [`Gpu::launch`].

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dora;
pub mod dropout;
pub mod embedding;
pub mod grad_norm;
pub mod layernorm;
pub mod matmul;
pub mod mlp;
pub mod moves;
pub mod packed;
pub mod peak;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
pub mod round;
pub mod sampling;
pub mod sgd;

use super::gpu::{DeviceBuffer, Error, Gpu, Result};

/// The most workgroups in one dimension of a grid that every device takes.
const MAX_GROUPS: usize = 65535;

/// A grid in x and y of at least `groups` workgroups; the kernel's index is `y * groups_x + x`, and it
/// returns when that is too large.
fn fold(place: &'static str, groups: usize) -> Result<[u32; 3]> {
    let x = groups.clamp(1, MAX_GROUPS);
    let y = groups.div_ceil(x).max(1);
    grid(place, x, y)
}

/// The grid `x` by `y`.
fn grid(place: &'static str, x: usize, y: usize) -> Result<[u32; 3]> {
    if x > MAX_GROUPS || y > MAX_GROUPS {
        return Err(Error::Argument {
            place,
            what: "grid".into(),
            expected: format!("at most {MAX_GROUPS} x {MAX_GROUPS} workgroups"),
            found: format!("{x} x {y}"),
        });
    }
    Ok([x as u32, y as u32, 1])
}

/// How the rows of a sum over rows are cut, by their number alone: rows of a chunk, and chunks, of which there are at most
/// 256.
fn row_chunks(rows: usize) -> [usize; 2] {
    let chunk_rows = rows.div_ceil(256).max(64);
    [chunk_rows, rows.div_ceil(chunk_rows)]
}

/// `a * b`, which must fit the 32-bit indices of the kernels.
fn elements(place: &'static str, a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b).filter(|&n| u32::try_from(n).is_ok()).ok_or_else(|| Error::Argument {
        place,
        what: "number of elements".into(),
        expected: "less than 2^32".into(),
        found: format!("{a} x {b}"),
    })
}

/// Checks that `buffer` holds `count` elements of `element_bytes`.
fn check_size<B: DeviceBuffer>(
    place: &'static str,
    name: &str,
    buffer: &B,
    count: usize,
    element_bytes: usize,
) -> Result<()> {
    let bytes = count.checked_mul(element_bytes);
    if bytes.is_none_or(|bytes| buffer.bytes() < bytes) {
        return Err(Error::Argument {
            place,
            what: name.into(),
            expected: format!("{count} elements of {element_bytes} bytes"),
            found: format!("a buffer of {} bytes", buffer.bytes()),
        });
    }
    Ok(())
}

/// A buffer with these values.
pub fn from_f32<G: Gpu>(gpu: &G, values: &[f32]) -> Result<G::Buffer> {
    let buffer = gpu.alloc(size_of_val(values))?;
    // SAFETY: f32 has no padding, so its bytes may be read; the length is that of `values`.
    let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) };
    gpu.upload(&buffer, 0, bytes)?;
    Ok(buffer)
}

/// A buffer with these values: ids of rows.
pub fn from_u32<G: Gpu>(gpu: &G, values: &[u32]) -> Result<G::Buffer> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let buffer = gpu.alloc(bytes.len())?;
    gpu.upload(&buffer, 0, &bytes)?;
    Ok(buffer)
}

/// All values of a buffer.
pub fn to_f32<G: Gpu>(gpu: &G, buffer: &G::Buffer) -> Result<Vec<f32>> {
    let mut values = vec![0.0f32; buffer.bytes() / 4];
    let bytes = size_of_val(values.as_slice());
    // SAFETY: any four bytes are an f32, and nobody else holds `values`.
    let data = unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), bytes) };
    gpu.download(buffer, 0, data)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(usize);

    impl DeviceBuffer for Bytes {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn folded_grids_cover_every_group() {
        for groups in [0, 1, 2, 65534, 65535, 65536, 200_000] {
            let [x, y, z] = fold("op", groups).unwrap();
            assert!(x as usize * y as usize >= groups && x as usize <= MAX_GROUPS && z == 1);
        }
        assert!(fold("op", MAX_GROUPS * MAX_GROUPS + 1).is_err());
    }

    #[test]
    fn chunks_cover_every_row() {
        for rows in [0, 1, 63, 64, 65, 16_384, 16_385, 1 << 20, (1 << 20) + 1, u32::MAX as usize] {
            let [chunk_rows, chunks] = row_chunks(rows);
            assert!(chunks <= 256 && chunk_rows * chunks >= rows && chunk_rows * chunks < rows + chunk_rows);
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        assert!(check_size("op", "x", &Bytes(16), 4, 4).is_ok());
        let small = check_size("op", "x", &Bytes(12), 4, 4).unwrap_err().to_string();
        assert_eq!(small, "op: x: expected 4 elements of 4 bytes, found a buffer of 12 bytes");
        assert!(check_size("op", "x", &Bytes(16), usize::MAX, 4).is_err());
        assert!(elements("op", 1 << 16, 1 << 16).is_err());
        assert!(elements("op", usize::MAX, 2).is_err());
    }
}
