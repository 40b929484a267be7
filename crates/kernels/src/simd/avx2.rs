//! AVX2 with FMA and F16C: four registers make a vector of 32 lanes.

use super::{Isa, Kernel};
use std::arch::x86_64::*;

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2 {
    _private: (),
}

impl Avx2 {
    /// The token, if this CPU has the instructions.
    #[inline]
    pub fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Avx2 { _private: () })
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn run<K: Kernel>(isa: Avx2, kernel: K) -> K::Output {
    kernel.run(isa)
}

/// Sum of 8 lanes: halves are added until one lane is left.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn sum8(x: __m256) -> f32 {
    // SAFETY: the caller has AVX.
    unsafe {
        let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }
}

/// Largest of 8 lanes.
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn largest8(x: __m256) -> f32 {
    // SAFETY: the caller has AVX.
    unsafe {
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
    }
}

/// A lane-wise operation on all four registers.
macro_rules! each {
    (|$i:ident| $e:expr) => {
        // SAFETY: the token proves that the CPU has the instructions; pointers are the caller's promise.
        unsafe {
            [
                { const $i: usize = 0; $e },
                { const $i: usize = 1; $e },
                { const $i: usize = 2; $e },
                { const $i: usize = 3; $e },
            ]
        }
    };
}

#[allow(non_upper_case_globals)] // `each!` binds the index as a constant, so that it can be one
impl Isa for Avx2 {
    const NAME: &'static str = "avx2";
    type F = [__m256; 4];
    type I = [__m256i; 4];
    type B = [__m256i; 4];
    // 3 rows x 4 accumulators = 12 of 16 registers.
    const ROWS: usize = 3;
    const ROWS_I8: usize = 2;
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the CPU has the features that the function is compiled for.
        unsafe { run(self, kernel) }
    }

    #[inline(always)]
    fn zero(self) -> Self::F {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm256_setzero_ps(); 4] }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm256_set1_ps(x); 4] }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        each!(|i| _mm256_loadu_ps(p.add(8 * i)))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::F) {
        each!(|i| _mm256_storeu_ps(p.add(8 * i), x[i]));
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        each!(|i| _mm256_cvtph_ps(_mm_loadu_si128(p.add(8 * i).cast())))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: Self::F) {
        each!(|i| _mm_storeu_si128(p.add(8 * i).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[i])));
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::F {
        each!(|i| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(p.add(8 * i).cast()))))
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::F {
        each!(|i| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.add(8 * i).cast()))))
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| _mm256_add_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| _mm256_sub_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| _mm256_mul_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| _mm256_div_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| _mm256_max_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each!(|i| _mm256_min_ps(a[i], b[i]))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|i| _mm256_fmadd_ps(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(|i| _mm256_fnmadd_ps(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        each!(|i| _mm256_round_ps::<NEAREST>(a[i]))
    }
    #[inline(always)]
    fn exp2i(self, n: Self::F) -> Self::F {
        each!(|i| {
            let bits = _mm256_add_epi32(_mm256_cvtps_epi32(n[i]), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(bits))
        })
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        // The same tree as AVX-512's: 32, 16, 8, 4, 2, 1.
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let (x, y) = (_mm256_add_ps(a[0], a[2]), _mm256_add_ps(a[1], a[3]));
            sum8(_mm256_add_ps(x, y))
        }
    }
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe { largest8(_mm256_max_ps(_mm256_max_ps(a[0], a[2]), _mm256_max_ps(a[1], a[3]))) }
    }
    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> Self::B {
        each!(|i| _mm256_loadu_si256(p.add(32 * i).cast()))
    }
    #[inline(always)]
    unsafe fn store_b(self, p: *mut u8, b: Self::B) {
        each!(|i| _mm256_storeu_si256(p.add(32 * i).cast(), b[i]));
    }
    #[inline(always)]
    fn shr_and(self, b: Self::B, shift: usize, mask: u8) -> Self::B {
        each!(|i| _mm256_and_si256(
            _mm256_srl_epi16(b[i], _mm_cvtsi32_si128(shift as i32)),
            _mm256_set1_epi8(mask as i8)
        ))
    }
    #[inline(always)]
    fn shl_4(self, b: Self::B) -> Self::B {
        each!(|i| _mm256_slli_epi16::<4>(b[i]))
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        each!(|i| _mm256_or_si256(a[i], b[i]))
    }
    #[inline(always)]
    fn signed(self, b: Self::B) -> Self::B {
        each!(|i| _mm256_xor_si256(b[i], _mm256_set1_epi8(-128)))
    }
    #[inline(always)]
    fn add_bytes(self, b: Self::B, x: u8) -> Self::B {
        each!(|i| _mm256_add_epi8(b[i], _mm256_set1_epi8(x as i8)))
    }
    #[inline(always)]
    fn byte(self, b: Self::B, j: usize) -> Self::F {
        each!(|i| {
            let shifted = _mm256_srl_epi32(b[i], _mm_cvtsi32_si128(8 * j as i32));
            _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(255)))
        })
    }
    #[inline(always)]
    fn bf16_low(self, b: Self::B) -> Self::F {
        each!(|i| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b[i])))
    }
    #[inline(always)]
    fn bf16_high(self, b: Self::B) -> Self::F {
        each!(|i| _mm256_castsi256_ps(_mm256_and_si256(b[i], _mm256_set1_epi32(-65536))))
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm256_set1_epi32(x); 4] }
    }
    #[inline(always)]
    fn to_f(self, x: Self::I) -> Self::F {
        each!(|i| _mm256_cvtepi32_ps(x[i]))
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        // maddubs would saturate (255 * 127 * 2 > 32767): even and odd bytes are widened to 16 bits instead, which
        // costs one instruction more and is exact.
        each!(|i| {
            let x = _mm256_set1_epi32(x);
            let (x_even, x_odd) =
                (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x));
            let (w_even, w_odd) =
                (_mm256_and_si256(w[i], _mm256_set1_epi16(255)), _mm256_srli_epi16::<8>(w[i]));
            let dot = _mm256_add_epi32(_mm256_madd_epi16(w_even, x_even), _mm256_madd_epi16(w_odd, x_odd));
            _mm256_add_epi32(acc[i], dot)
        })
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::B, x: u32) -> Self::F {
        let (low, high) = (f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000));
        let acc = self.fma(self.splat(low), self.bf16_low(w), acc);
        self.fma(self.splat(high), self.bf16_high(w), acc)
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, to: *mut f32) {
        for i in (0..32).step_by(8) {
            for j in (0..32).step_by(8) {
                // SAFETY: a part of the square; the token proves that the CPU has the instructions.
                unsafe { transpose_8(from.add(i * 32 + j), to.add(j * 32 + i)) }
            }
        }
    }
}

/// Transposes 8 x 8 floats of squares of 32 x 32: neighbours are brought together in ones, twos and fours.
///
/// # Safety
/// The CPU has AVX; 8 floats are there in each of 8 rows of 32.
#[inline(always)]
unsafe fn transpose_8(from: *const f32, to: *mut f32) {
    // SAFETY: the caller has AVX, and the squares have these rows.
    unsafe {
        let rows: [__m256; 8] = std::array::from_fn(|i| _mm256_loadu_ps(from.add(32 * i)));
        // fours[4r + c]: columns c and c + 4 of rows 4r..4r + 4.
        let mut fours = [_mm256_setzero_ps(); 8];
        for i in [0, 4] {
            let (a, b) =
                (_mm256_unpacklo_ps(rows[i], rows[i + 1]), _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]));
            let (c, d) =
                (_mm256_unpackhi_ps(rows[i], rows[i + 1]), _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]));
            fours[i] = _mm256_shuffle_ps::<0x44>(a, b);
            fours[i + 1] = _mm256_shuffle_ps::<0xee>(a, b);
            fours[i + 2] = _mm256_shuffle_ps::<0x44>(c, d);
            fours[i + 3] = _mm256_shuffle_ps::<0xee>(c, d);
        }
        for c in 0..4 {
            let (a, b) = (fours[c], fours[4 + c]);
            _mm256_storeu_ps(to.add(32 * c), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add(32 * (c + 4)), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}
