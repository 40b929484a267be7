//! What this machine can do at most: the yardstick of every benchmark.
//!
//! Multiply-adds on registers alone, and a read of memory that no cache holds; on all threads of a pool, the best of
//! several tries, because a machine is shared and a peak is what it does undisturbed.

use crate::buffer::Buffer;
use crate::pool::Pool;
use crate::simd::{Isa, Kernel, LANES, dispatch};
use std::hint::black_box;
use std::time::Instant;

/// Rates per second, on all threads.
#[derive(Clone, Copy, Debug)]
pub struct Peaks {
    /// f32 multiply-adds, two operations each.
    pub f32_flops: f64,
    /// bf16 multiply-adds with f32 sums, two operations each.
    pub bf16_flops: f64,
    /// Byte multiply-adds with int32 sums, two operations each.
    pub i8_ops: f64,
    /// Bytes read from memory.
    pub read_bytes: f64,
}

/// Independent sums: enough to hide the latency of the multiply-add; fewer where they would not fit the registers.
const CHAINS: usize = 6;
const ROUNDS: usize = 4_000_000;
const TRIES: usize = 5;

impl Peaks {
    /// Measures, in about half a second.
    pub fn measure(pool: &Pool) -> Peaks {
        let threads = pool.threads();
        // Operations of one round: each chain multiplies and adds 32 lanes of `pairs`.
        let chains = dispatch(Chains);
        let rate = |kind: Products, pairs: usize| {
            let operations = (threads * ROUNDS * chains * LANES * 2 * pairs) as f64;
            best(|| pool.run(threads, |_| dispatch(Multiply(kind))), operations)
        };
        let (f32_flops, bf16_flops, i8_ops) =
            (rate(Products::F32, 1), rate(Products::Bf16, 2), rate(Products::I8, 4));
        let mut memory = Buffer::<f32>::zeroed(1 << 26);
        memory.fill(1.0);
        let bytes = (memory.len() * 4) as f64;
        let read_bytes = best(
            || {
                pool.run_ranges(memory.len(), 1 << 18, |range| {
                    black_box(dispatch(Read(&memory[range])));
                })
            },
            bytes,
        );
        Peaks { f32_flops, bf16_flops, i8_ops, read_bytes }
    }
}

fn best(mut run: impl FnMut(), work: f64) -> f64 {
    (0..TRIES).fold(0.0, |best: f64, _| {
        let start = Instant::now();
        run();
        best.max(work / start.elapsed().as_secs_f64())
    })
}

#[derive(Clone, Copy)]
enum Products {
    F32,
    Bf16,
    I8,
}

/// How many sums [`Multiply`] keeps.
struct Chains;

impl Kernel for Chains {
    type Output = usize;
    #[inline(always)]
    fn run<I: Isa>(self, _: I) -> usize {
        I::ROWS.min(CHAINS)
    }
}

struct Multiply(Products);

impl Kernel for Multiply {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let bytes = black_box([1u8; 4 * LANES]);
        // SAFETY: the array has 128 bytes.
        let w = unsafe { isa.load_b(bytes.as_ptr()) };
        let x = black_box(0x3f80_3f80u32);
        match self.0 {
            Products::F32 => {
                let (a, b) = (isa.splat(black_box(0.999)), isa.splat(black_box(1e-9)));
                let mut sums = [isa.splat(black_box(1.0)); CHAINS];
                for _ in 0..ROUNDS {
                    for sum in &mut sums[..I::ROWS.min(CHAINS)] {
                        *sum = isa.fma(*sum, a, b);
                    }
                }
                black_box(sums.map(|sum| isa.sum(sum)));
            }
            Products::Bf16 => {
                let mut sums = [isa.splat(black_box(1.0)); CHAINS];
                for _ in 0..ROUNDS {
                    for sum in &mut sums[..I::ROWS.min(CHAINS)] {
                        *sum = isa.dot_bf16(*sum, w, x);
                    }
                }
                black_box(sums.map(|sum| isa.sum(sum)));
            }
            Products::I8 => {
                let mut sums = [isa.splat_i(black_box(1)); CHAINS];
                for _ in 0..ROUNDS {
                    for sum in &mut sums[..I::ROWS.min(CHAINS)] {
                        *sum = isa.dot_i8(*sum, w, x as i32);
                    }
                }
                black_box(sums.map(|sum| isa.sum(isa.to_f(sum))));
            }
        }
    }
}

struct Read<'a>(&'a [f32]);

impl Kernel for Read<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        let mut sums = [isa.zero(); 4];
        for part in self.0.chunks_exact(4 * LANES) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the part has four vectors.
                *sum = isa.add(*sum, unsafe { isa.load(part.as_ptr().add(i * LANES)) });
            }
        }
        sums.map(|sum| isa.sum(sum)).iter().sum()
    }
}
