//! Plain Rust: runs everywhere, and shows what each operation means.

use super::{Isa, Kernel, LANES};
use half::f16;
use std::array::from_fn;

/// No instruction set at all.
#[derive(Clone, Copy)]
pub struct Scalar;

type F = [f32; LANES];

impl Isa for Scalar {
    const NAME: &'static str = "scalar";
    type F = F;
    type I = [i32; LANES];
    type B = [[u8; 4]; LANES];
    const ROWS: usize = 2;
    const ROWS_I8: usize = 2;
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }

    #[inline(always)]
    fn zero(self) -> F {
        [0.0; LANES]
    }
    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> F {
        // SAFETY: 32 floats are readable, says the caller.
        unsafe { p.cast::<F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: F) {
        // SAFETY: 32 floats are writable, says the caller.
        unsafe { p.cast::<F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> F {
        // SAFETY: 32 numbers are readable, says the caller.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|b| f16::from_bits(b).to_f32())
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: F) {
        let bits = x.map(|v| f16::from_f32(v).to_bits());
        // SAFETY: 32 numbers are writable, says the caller.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(bits) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> F {
        // SAFETY: 32 bytes are readable, says the caller.
        unsafe { p.cast::<[u8; LANES]>().read() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> F {
        // SAFETY: 32 bytes are readable, says the caller.
        unsafe { p.cast::<[i8; LANES]>().read() }.map(f32::from)
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: F, b: F) -> F {
        from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn fma(self, a: F, b: F, c: F) -> F {
        // Not `mul_add`: without the instruction that is a function call a lane.
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn fnma(self, a: F, b: F, c: F) -> F {
        from_fn(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    fn round(self, a: F) -> F {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn exp2i(self, n: F) -> F {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn sum(self, mut a: F) -> f32 {
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                a[i] += a[i + half];
            }
            half /= 2;
        }
        a[0]
    }
    #[inline(always)]
    fn largest(self, a: F) -> f32 {
        a.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> Self::B {
        // SAFETY: 128 bytes are readable, says the caller.
        unsafe { p.cast::<Self::B>().read() }
    }
    #[inline(always)]
    unsafe fn store_b(self, p: *mut u8, b: Self::B) {
        // SAFETY: 128 bytes are writable, says the caller.
        unsafe { p.cast::<Self::B>().write(b) }
    }
    #[inline(always)]
    fn shr_and(self, b: Self::B, shift: usize, mask: u8) -> Self::B {
        b.map(|lane| lane.map(|byte| (byte >> shift) & mask))
    }
    #[inline(always)]
    fn shl_4(self, b: Self::B) -> Self::B {
        b.map(|lane| lane.map(|byte| byte << 4))
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        from_fn(|i| from_fn(|j| a[i][j] | b[i][j]))
    }
    #[inline(always)]
    fn signed(self, b: Self::B) -> Self::B {
        b.map(|lane| lane.map(|byte| byte ^ 128))
    }
    #[inline(always)]
    fn add_bytes(self, b: Self::B, x: u8) -> Self::B {
        b.map(|lane| lane.map(|byte| byte.wrapping_add(x)))
    }
    #[inline(always)]
    fn byte(self, b: Self::B, j: usize) -> F {
        b.map(|lane| f32::from(lane[j]))
    }
    #[inline(always)]
    fn bf16_low(self, b: Self::B) -> F {
        b.map(|lane| f32::from_bits(u32::from_le_bytes(lane) << 16))
    }
    #[inline(always)]
    fn bf16_high(self, b: Self::B) -> F {
        b.map(|lane| f32::from_bits(u32::from_le_bytes(lane) & 0xffff_0000))
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        [x; LANES]
    }
    #[inline(always)]
    fn to_f(self, x: Self::I) -> F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        let x = x.to_le_bytes().map(|byte| i32::from(byte as i8));
        from_fn(|i| (0..4).fold(acc[i], |sum, j| sum.wrapping_add(i32::from(w[i][j]) * x[j])))
    }
    #[inline(always)]
    fn dot_bf16(self, acc: F, w: Self::B, x: u32) -> F {
        let (low, high) = (f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000));
        let acc = self.fma(self.splat(low), self.bf16_low(w), acc);
        self.fma(self.splat(high), self.bf16_high(w), acc)
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
