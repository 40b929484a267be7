//! NEON with dot products: eight registers make a vector of 32 lanes.
//!
//! Three instructions are written in assembly, because their intrinsics are not in every stable Rust that this
//! workspace builds with: `sdot`, and `fcvtl` and `fcvtn`, which convert half precision.

use super::{Isa, Kernel};
use std::arch::aarch64::*;
use std::arch::asm;

/// Proof that the CPU has NEON and its int8 dot products (Armv8.2 `dotprod`: Cortex-A75, Neoverse N1, Apple A11
/// and later).
#[derive(Clone, Copy)]
pub struct Neon {
    _private: (),
}

impl Neon {
    /// The token, if this CPU has the instructions.
    #[inline]
    pub fn new() -> Option<Self> {
        use std::arch::is_aarch64_feature_detected;
        (is_aarch64_feature_detected!("neon") && is_aarch64_feature_detected!("dotprod"))
            .then_some(Neon { _private: () })
    }
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn run<K: Kernel>(isa: Neon, kernel: K) -> K::Output {
    kernel.run(isa)
}

/// `acc + w[0] x[0] + .. + w[3] x[3]` in each lane, over signed bytes.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(acc: int32x4_t, w: uint8x16_t, x: int32x4_t) -> int32x4_t {
    let mut sum = acc;
    // SAFETY: the function is compiled for CPUs that have the instruction, which touches registers alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Four halves, widened: every value is exact, a signalling NaN becomes a quiet one.
#[inline]
#[target_feature(enable = "neon")]
fn widen_f16(halves: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: every CPU with NEON has the instruction, which touches registers alone.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            wide = lateout(vreg) wide,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    wide
}

/// Four floats, rounded to half precision: to nearest, ties to even, the mode that a Rust program runs in.
#[inline]
#[target_feature(enable = "neon")]
fn narrow_f16(wide: float32x4_t) -> uint16x4_t {
    let halves;
    // SAFETY: every CPU with NEON has the instruction, which touches registers alone.
    unsafe {
        asm!(
            "fcvtn {halves:v}.4h, {wide:v}.4s",
            halves = lateout(vreg) halves,
            wide = in(vreg) wide,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    halves
}

/// A lane-wise operation on all eight registers.
macro_rules! each {
    (|$i:ident| $e:expr) => {
        // SAFETY: the token proves that the CPU has the instructions; pointers are the caller's promise.
        unsafe {
            [
                { const $i: usize = 0; $e },
                { const $i: usize = 1; $e },
                { const $i: usize = 2; $e },
                { const $i: usize = 3; $e },
                { const $i: usize = 4; $e },
                { const $i: usize = 5; $e },
                { const $i: usize = 6; $e },
                { const $i: usize = 7; $e },
            ]
        }
    };
}

#[allow(non_upper_case_globals)] // `each!` binds the index as a constant, so that it can be one
impl Isa for Neon {
    const NAME: &'static str = "neon";
    type F = [float32x4_t; 8];
    type I = [int32x4_t; 8];
    type B = [uint8x16_t; 8];
    // 2 rows x 8 accumulators = 16 of 32 registers, 8 for the weights, one or two a row for the broadcasts. A third
    // row would do no more multiply-adds an instruction, and would put accumulators on the stack.
    const ROWS: usize = 2;
    // 2 rows x 8 sums stay in registers. As many f32 accumulators do not: they are needed only once in 16 or 32
    // values of k.
    const ROWS_I8: usize = 2;
    const SIGNED_OFFSET: i32 = 0;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the CPU has the features that the function is compiled for.
        unsafe { run(self, kernel) }
    }

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [vdupq_n_f32(x); 8] }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        each!(|i| vld1q_f32(p.add(4 * i)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::F) {
        each!(|i| vst1q_f32(p.add(4 * i), x[i]));
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        each!(|i| widen_f16(vld1_u16(p.add(4 * i))))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: Self::F) {
        each!(|i| vst1_u16(p.add(4 * i), narrow_f16(x[i])));
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::F {
        // SAFETY: 32 bytes are readable, says the caller.
        let bytes = unsafe { [vld1_u8(p), vld1_u8(p.add(8)), vld1_u8(p.add(16)), vld1_u8(p.add(24))] };
        each!(|i| {
            let wide = vmovl_u8(bytes[i / 2]);
            let half = if i % 2 == 0 { vget_low_u16(wide) } else { vget_high_u16(wide) };
            vcvtq_f32_u32(vmovl_u16(half))
        })
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::F {
        // SAFETY: 32 bytes are readable, says the caller.
        let bytes = unsafe { [vld1_s8(p), vld1_s8(p.add(8)), vld1_s8(p.add(16)), vld1_s8(p.add(24))] };
        each!(|i| {
            let wide = vmovl_s8(bytes[i / 2]);
            let half = if i % 2 == 0 { vget_low_s16(wide) } else { vget_high_s16(wide) };
            vcvtq_f32_s32(vmovl_s16(half))
        })
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vaddq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vsubq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vmulq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vdivq_f32(a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // The instruction for it gives NaN where either is one.
        each!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|i| vfmaq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|i| vfmsq_f32(c[i], a[i], b[i]))
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        each!(|i| vrndnq_f32(a[i]))
    }
    #[inline(always)]
    fn exp2i(self, n: Self::F) -> Self::F {
        each!(|i| {
            let bits = vaddq_s32(vcvtnq_s32_f32(n[i]), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(bits))
        })
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        // The same tree as AVX-512's: 32, 16, 8, 4, 2, 1.
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let (x, y) = (vaddq_f32(a[0], a[4]), vaddq_f32(a[1], a[5]));
            let (z, w) = (vaddq_f32(a[2], a[6]), vaddq_f32(a[3], a[7]));
            let four = vaddq_f32(vaddq_f32(x, z), vaddq_f32(y, w));
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let (x, y) = (vmaxq_f32(a[0], a[4]), vmaxq_f32(a[1], a[5]));
            let (z, w) = (vmaxq_f32(a[2], a[6]), vmaxq_f32(a[3], a[7]));
            vmaxvq_f32(vmaxq_f32(vmaxq_f32(x, z), vmaxq_f32(y, w)))
        }
    }
    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> Self::B {
        each!(|i| vld1q_u8(p.add(16 * i)))
    }
    #[inline(always)]
    unsafe fn store_b(self, p: *mut u8, b: Self::B) {
        each!(|i| vst1q_u8(p.add(16 * i), b[i]));
    }
    #[inline(always)]
    fn shr_and(self, b: Self::B, shift: usize, mask: u8) -> Self::B {
        // A shift to the left by a negative count goes to the right.
        each!(|i| vandq_u8(vshlq_u8(b[i], vdupq_n_s8(-(shift as i8))), vdupq_n_u8(mask)))
    }
    #[inline(always)]
    fn shl_4(self, b: Self::B) -> Self::B {
        each!(|i| vshlq_n_u8::<4>(b[i]))
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        each!(|i| vorrq_u8(a[i], b[i]))
    }
    #[inline(always)]
    fn signed(self, b: Self::B) -> Self::B {
        // `sdot` takes signed bytes as they are.
        b
    }
    #[inline(always)]
    fn add_bytes(self, b: Self::B, x: u8) -> Self::B {
        each!(|i| vaddq_u8(b[i], vdupq_n_u8(x)))
    }
    #[inline(always)]
    fn byte(self, b: Self::B, j: usize) -> Self::F {
        each!(|i| {
            let top = vshlq_s32(vreinterpretq_s32_u8(b[i]), vdupq_n_s32(24 - 8 * j as i32));
            vcvtq_f32_s32(vshrq_n_s32::<24>(top))
        })
    }
    #[inline(always)]
    fn bf16_low(self, b: Self::B) -> Self::F {
        each!(|i| vreinterpretq_f32_u32(vshlq_n_u32::<16>(vreinterpretq_u32_u8(b[i]))))
    }
    #[inline(always)]
    fn bf16_high(self, b: Self::B) -> Self::F {
        each!(|i| vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(b[i]), vdupq_n_u32(0xffff_0000))))
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [vdupq_n_s32(x); 8] }
    }
    #[inline(always)]
    fn to_f(self, x: Self::I) -> Self::F {
        each!(|i| vcvtq_f32_s32(x[i]))
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        each!(|i| sdot(acc[i], w[i], vdupq_n_s32(x)))
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::B, x: u32) -> Self::F {
        // Not `bfdot`: few CPUs have it, and on those it rounds otherwise.
        let (low, high) = (f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000));
        let acc = self.fma(self.splat(low), self.bf16_low(w), acc);
        self.fma(self.splat(high), self.bf16_high(w), acc)
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
}
