//! One vocabulary of vector operations for every instruction set.
//!
//! A kernel is written once, over [`Isa`], in vectors of [`LANES`] = 32 lanes whatever the hardware's width: two
//! registers on AVX-512, four on AVX2, eight on NEON. So there is one packed layout of weights for all, and the
//! order in which an output element is summed up is the same everywhere.
//!
//! ```text
//!   kernel (ops/*.rs)  --  generic over I: Isa, #[inline(always)]
//!        |  dispatch(kernel)            chooses once, by what the CPU has
//!   Avx512 / Avx2 / Neon / Scalar       values that prove that the CPU has it; the only code with core::arch
//! ```
//!
//! `WOOTZ_ISA=avx2` (or `avx512`, `neon`, `scalar`) forces one, if the machine has it.

pub mod math;
pub mod scalar;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;

use half::bf16;
use std::sync::OnceLock;

/// Lanes of every vector type.
pub const LANES: usize = 32;

/// A set of instructions, as a value: whoever holds one has proof that this CPU executes them.
///
/// Methods are to be `#[inline(always)]`: they become instructions only inside the `#[target_feature]` function
/// through which [`Isa::run`] calls a kernel.
///
/// Pointers: a `load*` or `store*` touches exactly the bytes that it names and needs no alignment.
#[allow(clippy::missing_safety_doc)] // one contract for all, above: the bytes are readable (writable)
pub trait Isa: Copy + Send + Sync + 'static {
    /// `avx512`, as `WOOTZ_ISA` spells it.
    const NAME: &'static str;
    /// 32 lanes of f32.
    type F: Copy;
    /// 32 lanes of i32.
    type I: Copy;
    /// 32 lanes of four bytes each: int8 products take four neighbours of k at a time, bf16 products two.
    type B: Copy;
    /// Rows of the f32 and bf16 tile: as many as leave registers for the weights.
    const ROWS: usize;
    /// Rows of the int8 tile, which holds an i32 and an f32 accumulator a row.
    const ROWS_I8: usize;
    /// What [`Isa::signed`] added to every byte, and what the kernel has to take off again: 128 where the instruction
    /// takes unsigned bytes of weights, 0 where it takes signed ones.
    const SIGNED_OFFSET: i32;

    /// Runs a kernel with this instruction set switched on.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    /// All lanes 0.
    fn zero(self) -> Self::F;
    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::F;
    /// 32 floats.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// 32 floats.
    unsafe fn store(self, p: *mut f32, x: Self::F);
    /// 32 half-precision floats, widened.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// 32 floats, rounded to half precision (to nearest, ties to even).
    unsafe fn store_f16(self, p: *mut u16, x: Self::F);
    /// The nearest f16, ties to even; what is too large becomes infinite.
    #[inline(always)]
    fn round_to_f16(self, x: Self::F) -> Self::F {
        let mut halves = [0u16; LANES];
        // SAFETY: there are 32 of them.
        unsafe {
            self.store_f16(halves.as_mut_ptr(), x);
            self.load_f16(halves.as_ptr())
        }
    }
    /// 32 unsigned bytes, as floats.
    unsafe fn load_u8(self, p: *const u8) -> Self::F;
    /// 32 signed bytes, as floats.
    unsafe fn load_i8(self, p: *const i8) -> Self::F;
    /// Lane-wise `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise `a` where it is above `b`, otherwise `b`: also where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// Lane-wise `a` where it is below `b`, otherwise `b`: also where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once (scalar: twice).
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once (scalar: twice).
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2^n` for lanes that hold integers in -126..=127; 0 for -127.
    fn exp2i(self, n: Self::F) -> Self::F;
    /// Sum of all lanes, as a tree of fixed shape: the same bits on every ISA.
    fn sum(self, a: Self::F) -> f32;
    /// Largest lane.
    fn largest(self, a: Self::F) -> f32;

    /// 128 bytes: 32 lanes of four.
    unsafe fn load_b(self, p: *const u8) -> Self::B;
    /// 128 bytes.
    unsafe fn store_b(self, p: *mut u8, b: Self::B);
    /// Each byte `(b >> shift) & mask`; `mask` must not reach beyond `0xff >> shift`.
    fn shr_and(self, b: Self::B, shift: usize, mask: u8) -> Self::B;
    /// Each byte `b << 4`, for bytes below 16.
    fn shl_4(self, b: Self::B) -> Self::B;
    /// Bitwise or.
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Adds `x` to each byte, modulo 256.
    fn add_bytes(self, b: Self::B, x: u8) -> Self::B;
    /// Makes signed bytes an operand of [`Isa::dot_i8`]: adds [`Isa::SIGNED_OFFSET`] to each.
    fn signed(self, b: Self::B) -> Self::B;
    /// Byte `j` of every lane, as the number that [`Isa::dot_i8`] takes it for, as a float.
    fn byte(self, b: Self::B, j: usize) -> Self::F;
    /// The first bf16 of every lane, widened.
    fn bf16_low(self, b: Self::B) -> Self::F;
    /// The second bf16 of every lane, widened.
    fn bf16_high(self, b: Self::B) -> Self::F;
    /// All lanes `x`.
    fn splat_i(self, x: i32) -> Self::I;
    /// Lane-wise conversion.
    fn to_f(self, x: Self::I) -> Self::F;
    /// `acc + w[0] x[0] + w[1] x[1] + w[2] x[2] + w[3] x[3]` in every lane: exact in int32. `w`'s bytes come from
    /// [`Isa::signed`] or are in 0..=127; `x` are four signed bytes, the same for all lanes, little end first.
    fn dot_i8(self, acc: Self::I, w: Self::B, x: i32) -> Self::I;
    /// `acc + w[0] x[0] + w[1] x[1]` in every lane, over pairs of bf16, in f32.
    fn dot_bf16(self, acc: Self::F, w: Self::B, x: u32) -> Self::F;
    /// Asks for the cache line at `p`; never faults.
    fn prefetch(self, p: *const u8);

    /// 32 floats, rounded to bf16 (to nearest, ties to even). Where the hardware rounds, denormal numbers become 0.
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, x: Self::F) {
        let mut lanes = [0f32; LANES];
        self.store_slice(&mut lanes, x);
        // SAFETY: 32 numbers are writable, says the caller.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(lanes.map(|x| bf16::from_f32(x).to_bits())) }
    }

    /// Pairs for [`Isa::dot_bf16`]: each lane `(low, high)`, rounded as [`Isa::store_bf16`] rounds.
    #[inline(always)]
    fn pair_bf16(self, low: Self::F, high: Self::F) -> Self::B {
        let (mut halves, mut pairs) = ([[0u16; LANES]; 2], [0u32; LANES]);
        // SAFETY: arrays of 32 numbers, and of 128 bytes.
        unsafe {
            self.store_bf16(halves[0].as_mut_ptr(), low);
            self.store_bf16(halves[1].as_mut_ptr(), high);
            for ((pair, low), high) in pairs.iter_mut().zip(halves[0]).zip(halves[1]) {
                *pair = u32::from(low) | u32::from(high) << 16;
            }
            self.load_b(pairs.as_ptr().cast())
        }
    }

    /// Transposes a square of 32 x 32 floats: `to[j][i] = from[i][j]`. The two do not overlap.
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, to: *mut f32) {
        for i in 0..LANES {
            for j in 0..LANES {
                // SAFETY: squares of 32 x 32, says the caller.
                unsafe { *to.add(j * LANES + i) = *from.add(i * LANES + j) }
            }
        }
    }

    /// Transposes a square of 32 x 32 bf16 whose first dimension lies in pairs into one whose second does: from
    /// `[i/2][j][i%2]` to `[j/2][i][j%2]`. The two do not overlap.
    #[inline(always)]
    unsafe fn transpose_bf16(self, from: *const u16, to: *mut u16) {
        for i in 0..LANES {
            for j in 0..LANES {
                // SAFETY: squares of 32 x 32, says the caller.
                unsafe {
                    *to.add((j / 2 * LANES + i) * 2 + j % 2) = *from.add((i / 2 * LANES + j) * 2 + i % 2);
                }
            }
        }
    }

    /// Up to 32 floats; the lanes beyond the slice are `fill`.
    #[inline(always)]
    fn load_slice(self, x: &[f32], fill: f32) -> Self::F {
        if x.len() >= LANES {
            // SAFETY: the slice has 32 elements.
            unsafe { self.load(x.as_ptr()) }
        } else {
            let mut lanes = [fill; LANES];
            lanes[..x.len()].copy_from_slice(x);
            // SAFETY: the array has 32 elements.
            unsafe { self.load(lanes.as_ptr()) }
        }
    }

    /// Writes up to 32 lanes: as many as the slice takes.
    #[inline(always)]
    fn store_slice(self, out: &mut [f32], x: Self::F) {
        if out.len() >= LANES {
            // SAFETY: the slice has 32 elements.
            unsafe { self.store(out.as_mut_ptr(), x) }
        } else {
            let mut lanes = [0.0; LANES];
            // SAFETY: the array has 32 elements.
            unsafe { self.store(lanes.as_mut_ptr(), x) }
            let n = out.len();
            out.copy_from_slice(&lanes[..n]);
        }
    }
}

/// Something to compute, written once for every instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The computation; mark it `#[inline(always)]`, and everything that it calls with `isa`.
    fn run<I: Isa>(self, isa: I) -> Self::Output;
}

/// Which instruction set, as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsaKind {
    /// AVX-512 with F, BW, DQ, VL, VNNI and BF16: Zen 4, Cooper Lake, Sapphire Rapids and later.
    Avx512,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// NEON with dot products.
    Neon,
    /// Plain Rust.
    Scalar,
}

impl IsaKind {
    /// Every kind, the fastest first.
    pub const ALL: [IsaKind; 4] = [IsaKind::Avx512, IsaKind::Avx2, IsaKind::Neon, IsaKind::Scalar];

    /// The spelling of `WOOTZ_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            IsaKind::Avx512 => "avx512",
            IsaKind::Avx2 => "avx2",
            IsaKind::Neon => "neon",
            IsaKind::Scalar => "scalar",
        }
    }

    /// Whether this machine executes it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx512 => avx512::Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            IsaKind::Avx2 => avx2::Avx2::new().is_some(),
            #[cfg(target_arch = "aarch64")]
            IsaKind::Neon => neon::Neon::new().is_some(),
            IsaKind::Scalar => true,
            #[cfg(not(target_arch = "x86_64"))]
            IsaKind::Avx512 | IsaKind::Avx2 => false,
            #[cfg(not(target_arch = "aarch64"))]
            IsaKind::Neon => false,
        }
    }

    /// The kinds that this machine executes, the fastest first.
    pub fn available() -> impl Iterator<Item = IsaKind> {
        Self::ALL.into_iter().filter(|kind| kind.is_available())
    }

    /// The kind in use: the fastest, or what `WOOTZ_ISA` names. Decided once in a process.
    pub fn current() -> IsaKind {
        static CURRENT: OnceLock<IsaKind> = OnceLock::new();
        *CURRENT.get_or_init(|| {
            let forced = std::env::var("WOOTZ_ISA").ok();
            Self::available()
                .find(|kind| forced.as_deref().is_none_or(|name| name.eq_ignore_ascii_case(kind.name())))
                .unwrap_or(IsaKind::Scalar)
        })
    }

    /// Says why `WOOTZ_ISA` cannot be had, if it cannot.
    pub fn check_environment() -> Result<(), String> {
        let Ok(name) = std::env::var("WOOTZ_ISA") else { return Ok(()) };
        let here: Vec<_> = Self::available().map(|kind| kind.name()).collect();
        if here.iter().any(|n| n.eq_ignore_ascii_case(&name)) {
            return Ok(());
        }
        Err(format!("WOOTZ_ISA={name}: this machine has {}; unset it, or name one of them", here.join(", ")))
    }
}

/// Runs a kernel with the instruction set in use.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    dispatch_to(IsaKind::current(), kernel)
}

/// Runs a kernel with a given instruction set; with `scalar` where the machine does not have it.
#[inline]
pub fn dispatch_to<K: Kernel>(kind: IsaKind, kernel: K) -> K::Output {
    match kind {
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx512 => {
            if let Some(isa) = avx512::Avx512::new() {
                return isa.run(kernel);
            }
        }
        #[cfg(target_arch = "x86_64")]
        IsaKind::Avx2 => {
            if let Some(isa) = avx2::Avx2::new() {
                return isa.run(kernel);
            }
        }
        #[cfg(target_arch = "aarch64")]
        IsaKind::Neon => {
            if let Some(isa) = neon::Neon::new() {
                return isa.run(kernel);
            }
        }
        _ => {}
    }
    scalar::Scalar.run(kernel)
}

#[cfg(test)]
mod tests;
