//! Weights in f32, rounded to the type of others: bits against bits of the CPU.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::packed::PackedMatrix;
use wootz_kernels::{DType, Matrix, Pool, panels};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "round_to_bf16" => {
            matrices(gpu, DType::F32) + matrices(gpu, DType::BF16) + every_kind(gpu, DType::BF16)
        }
        "round_to_f16" => matrices(gpu, DType::F16) + every_kind(gpu, DType::F16),
        _ => return None,
    })
}

/// As many parts as panels allow, where `whole` is false.
fn upload<G: Gpu>(gpu: &G, matrix: &Matrix, whole: bool) -> PackedMatrix<G::Buffer> {
    let most = if whole { usize::MAX } else { 2 * 4 * 32 * matrix.cols() };
    PackedMatrix::upload_in_parts(gpu, matrix, most).unwrap()
}

/// Matrices as [`Matrix::set`] rounds them.
fn matrices<G: Gpu>(gpu: &G, dtype: DType) -> usize {
    let shapes: Vec<[usize; 2]> =
        sizes().into_iter().flat_map(|size| [[size, 7], [70, size]]).chain([[97, 1100]]).collect();
    let pool = Pool::new(1);
    for &[n, k] in &shapes {
        let values = Matrix::from_f32(&pool, [n, k], &numbers(n * k, 1));
        let mut padded = vec![0.0; panels::len([n, k])];
        values.decode(&pool, &mut padded);
        let mut expected = Matrix::zeroed(dtype, [n, k]);
        expected.set(&pool, &padded);
        for whole in [true, false] {
            let mut before = Matrix::zeroed(dtype, [n, k]);
            before.set(&pool, &numbers(padded.len(), 2)); // overwritten, where the last panel is filled up too
            let rounded = upload(gpu, &before, whole);
            rounded.round_from(gpu, &upload(gpu, &values, whole)).unwrap();
            let expected = upload(gpu, &expected, true).download(gpu).unwrap();
            assert!(rounded.download(gpu).unwrap() == expected, "{n} x {k} to {dtype}");
        }
    }
    let of = |dtype, shape| upload(gpu, &Matrix::zeroed(dtype, shape), true);
    let to = of(dtype, [100, 4]);
    assert!(to.round_from(gpu, &of(DType::F32, [100, 5])).is_err(), "another shape");
    assert!(to.round_from(gpu, &of(DType::BF16, [100, 4])).is_err(), "no f32");
    let cut = upload(gpu, &Matrix::zeroed(DType::F32, [100, 4]), false);
    assert!(to.round_from(gpu, &cut).is_err(), "other parts");
    of(dtype, [0, 4]).round_from(gpu, &of(DType::F32, [0, 4])).unwrap();
    shapes.len()
}

/// All upper halves of an f32, with lower halves around a tie: infinities, NaN and numbers below the smallest normal ones
/// among them. What the CPU gives for the latter depends on its instructions; here they are numbers like any other.
fn every_kind<G: Gpu>(gpu: &G, dtype: DType) -> usize {
    let lower = [0x0000u32, 0x0001, 0x0fff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001, 0xf000, 0xffff];
    let [n, k] = [lower.len() * 32, 2048];
    let bits: Vec<u32> =
        lower.iter().flat_map(|lower| (0..=0xffff).map(move |upper| upper << 16 | lower)).collect();
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let source = PackedMatrix::zeroed(gpu, [n, k]).unwrap();
    source.set_panels(gpu, &bytes).unwrap();
    let rounded = upload(gpu, &Matrix::zeroed(dtype, [n, k]), true);
    rounded.round_from(gpu, &source).unwrap();
    let found = rounded.download(gpu).unwrap();
    for (i, &bits) in bits.iter().enumerate() {
        let x = f32::from_bits(bits);
        // An f16 lies where its f32 lies; two bf16 of neighbours in k lie together.
        let (at, expected) = match dtype {
            DType::F16 => (i, half::f16::from_f32(x).to_bits()),
            _ => (i / 64 * 64 + i % 32 * 2 + i / 32 % 2, half::bf16::from_f32(x).to_bits()),
        };
        let found = u16::from_le_bytes([found[2 * at], found[2 * at + 1]]);
        assert_eq!(found, expected, "{bits:08x} to {dtype}: {found:04x}, not {expected:04x}");
    }
    1
}
