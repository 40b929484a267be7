//! The size of gradients.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::grad_norm::{GradNorm, sums_of_squares};
use wootz_kernels::device::launch::{from_f32, to_f32};
use wootz_kernels::ops::grad_norm::reference;

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    Some(match kernel {
        "grad_norm_sum_of_squares" | "grad_norm_sum_of_squares_total" => {
            the_sum_tells_what_is_not_finite_and_what_is_zero(gpu);
            sums(gpu)
        }
        "grad_norm_scale" => scale(gpu),
        _ => return None,
    })
}

const BLOCK: usize = 1 << 14;

fn lengths() -> Vec<usize> {
    sizes().into_iter().chain([0, 1000, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 77]).collect()
}

/// A buffer of garbage.
fn some<G: Gpu>(gpu: &G, bytes: usize) -> G::Buffer {
    from_f32(gpu, &numbers(bytes / 4, 9)).unwrap()
}

fn sum_of<G: Gpu>(gpu: &G, x: &[f32]) -> f64 {
    let op = GradNorm { count: x.len() };
    let (scratch, out) = (some(gpu, op.scratch_bytes()), some(gpu, 3 * 32));
    let before = sums_of_squares(gpu, &out).unwrap();
    let mut longer = x.to_vec();
    longer.extend([1e9; 5]); // must not be read
    op.sum_of_squares(gpu, &from_f32(gpu, &longer).unwrap(), &scratch, &out, 1).unwrap();
    let found = sums_of_squares(gpu, &out).unwrap();
    assert_eq!([found[0], found[2]], [before[0], before[2]], "another slot was written");
    found[1].value()
}

/// 2^-34: a square's lower part is at most 2^-10 of it, and is rounded to 24 bits. What the sum of pairs loses is less.
const RELATIVE: f64 = 6e-11;

fn sums<G: Gpu>(gpu: &G) -> usize {
    let mut cases = 0;
    let close = |what: &str, found: f64, want: f64| {
        assert!((found - want).abs() <= RELATIVE * want, "{what}: {found}, expected {want}");
    };
    for len in lengths() {
        let x = numbers(len, 1);
        close(&format!("{len}"), sum_of(gpu, &x), reference(&x));
        // Of every magnitude that f32 has, of one that is mixed, and equal ones, whose errors add up.
        let wild: Vec<f32> =
            (x.iter().enumerate()).map(|(i, x)| x * 2f32.powi((i * 37 % 250) as i32 - 125)).collect();
        close(&format!("wild {len}"), sum_of(gpu, &wild), reference(&wild));
        let equal = vec![0.333_333_34; len];
        close(&format!("equal {len}"), sum_of(gpu, &equal), reference(&equal));
        cases += 3;
    }
    for exponent in -149..=127 {
        let x: Vec<f32> = numbers(100, 2)
            .iter()
            .map(|x| ((1.0 + x.abs() / 2.0) as f64 * 2f64.powi(exponent)) as f32)
            .collect();
        close(&format!("2^{exponent}"), sum_of(gpu, &x), reference(&x));
        cases += 1;
    }
    let many: Vec<f32> = numbers(300 * BLOCK + 5, 3); // more blocks than the last workgroup has threads
    close("many", sum_of(gpu, &many), reference(&many));
    let small = GradNorm { count: 9 };
    let [x, scratch, out] = [32, 32, 32].map(|bytes| gpu.alloc(bytes).unwrap());
    assert!(small.sum_of_squares(gpu, &x, &scratch, &out, 0).is_err());
    assert!(GradNorm { count: 8 }.sum_of_squares(gpu, &x, &scratch, &out, 1).is_err());
    cases + 1
}

fn the_sum_tells_what_is_not_finite_and_what_is_zero<G: Gpu>(gpu: &G) {
    let mut x = vec![0.0f32; 3 * BLOCK + 5];
    x[7] = -0.0;
    assert_eq!(sum_of(gpu, &x), 0.0);
    for at in [0, 1500, BLOCK + 3, 3 * BLOCK + 4] {
        for (bad, is_expected) in [
            (f32::NAN, (|sum| sum.is_nan()) as fn(f64) -> bool),
            (-f32::NAN, |sum| sum.is_nan()),
            (f32::from_bits(0x7f80_0001), |sum| sum.is_nan()),
            (f32::NEG_INFINITY, |sum| sum == f64::INFINITY),
            (f32::MAX, |sum| sum.is_finite() && sum > 1e76),
            (f32::from_bits(1), |sum| sum > 0.0 && sum < 1e-89),
        ] {
            x[at] = bad;
            let sum = sum_of(gpu, &x);
            assert!(is_expected(sum), "{bad} at {at}: {sum}");
            x[at] = 0.0;
        }
    }
}

fn scale<G: Gpu>(gpu: &G) -> usize {
    for len in lengths() {
        let past = numbers(len + 5, 1);
        let x = from_f32(gpu, &past).unwrap();
        GradNorm { count: len }.scale(gpu, &x, 0.3).unwrap();
        let want: Vec<f32> =
            past.iter().enumerate().map(|(i, x)| if i < len { 0.3 * x } else { *x }).collect();
        assert_eq!(to_f32(gpu, &x).unwrap(), want, "{len}"); // one rounding, as exact on every device
    }
    lengths().len()
}
