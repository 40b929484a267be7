//! AVX-512: two registers make a vector of 32 lanes.

use super::{Isa, Kernel};
use std::arch::x86_64::*;

/// Proof that the CPU has AVX-512 F, BW, DQ, VL, VNNI and BF16.
///
/// CPUs with VNNI but without BF16 (Ice Lake) are served by AVX2: a second copy of every kernel is not worth them.
#[derive(Clone, Copy)]
pub struct Avx512 {
    _private: (),
}

impl Avx512 {
    /// The token, if this CPU has the instructions.
    #[inline]
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx512 { _private: () })
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,fma,f16c")]
fn run<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
    kernel.run(isa)
}

/// A lane-wise operation on both registers.
macro_rules! both {
    ($op:ident, $a:expr) => {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [$op($a[0]), $op($a[1])] }
    };
    ($op:ident, $a:expr, $b:expr) => {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [$op($a[0], $b[0]), $op($a[1], $b[1])] }
    };
    ($op:ident, $a:expr, $b:expr, $c:expr) => {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [$op($a[0], $b[0], $c[0]), $op($a[1], $b[1], $c[1])] }
    };
}

impl Isa for Avx512 {
    const NAME: &'static str = "avx512";
    type F = [__m512; 2];
    type I = [__m512i; 2];
    type B = [__m512i; 2];
    // 12 rows x 2 accumulators = 24 of 32 registers, 2 for the weights, 1 for the broadcast.
    const ROWS: usize = 12;
    // 6 rows x 2 x (i32 and f32) = 24, 2 for the weights, 1 for the broadcast.
    const ROWS_I8: usize = 6;
    const SIGNED_OFFSET: i32 = 128;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        // SAFETY: the token proves that the CPU has the features that the function is compiled for.
        unsafe { run(self, kernel) }
    }

    #[inline(always)]
    fn zero(self) -> Self::F {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm512_setzero_ps(); 2] }
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm512_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: 32 floats are readable, says the caller.
        unsafe { [_mm512_loadu_ps(p), _mm512_loadu_ps(p.add(16))] }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::F) {
        // SAFETY: 32 floats are writable, says the caller.
        unsafe {
            _mm512_storeu_ps(p, x[0]);
            _mm512_storeu_ps(p.add(16), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // SAFETY: 64 bytes are readable, says the caller.
        unsafe {
            [
                _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())),
                _mm512_cvtph_ps(_mm256_loadu_si256(p.add(16).cast())),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: Self::F) {
        // SAFETY: 64 bytes are writable, says the caller.
        unsafe {
            _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm256_storeu_si256(p.add(16).cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> Self::F {
        // SAFETY: 32 bytes are readable, says the caller.
        unsafe {
            [
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))),
                _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.add(16).cast()))),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> Self::F {
        // SAFETY: 32 bytes are readable, says the caller.
        unsafe {
            [
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))),
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.add(16).cast()))),
            ]
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm512_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm512_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm512_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm512_div_ps, a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm512_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm512_min_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm512_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm512_fnmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm512_roundscale_ps::<NEAREST>(a[0]), _mm512_roundscale_ps::<NEAREST>(a[1])] }
    }
    #[inline(always)]
    fn exp2i(self, n: Self::F) -> Self::F {
        // SAFETY: the token proves that the CPU has the instruction.
        let one = |n| unsafe {
            let bits = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(bits))
        };
        [one(n[0]), one(n[1])]
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        // Halves are added until one lane is left: 32, 16, 8, 4, 2, 1.
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let x = _mm512_add_ps(a[0], a[1]);
            let y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            super::avx2::sum8(y)
        }
    }
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe {
            let x = _mm512_max_ps(a[0], a[1]);
            let y = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps::<1>(x));
            super::avx2::largest8(y)
        }
    }
    #[inline(always)]
    unsafe fn load_b(self, p: *const u8) -> Self::B {
        // SAFETY: 128 bytes are readable, says the caller.
        unsafe { [_mm512_loadu_si512(p.cast()), _mm512_loadu_si512(p.add(64).cast())] }
    }
    #[inline(always)]
    unsafe fn store_b(self, p: *mut u8, b: Self::B) {
        // SAFETY: 128 bytes are writable, says the caller.
        unsafe {
            _mm512_storeu_si512(p.cast(), b[0]);
            _mm512_storeu_si512(p.add(64).cast(), b[1]);
        }
    }
    #[inline(always)]
    fn shr_and(self, b: Self::B, shift: usize, mask: u8) -> Self::B {
        // SAFETY: the token proves that the CPU has the instructions.
        let one = |b| unsafe {
            let shifted = _mm512_srl_epi16(b, _mm_cvtsi32_si128(shift as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        };
        [one(b[0]), one(b[1])]
    }
    #[inline(always)]
    fn shl_4(self, b: Self::B) -> Self::B {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm512_slli_epi16::<4>(b[0]), _mm512_slli_epi16::<4>(b[1])] }
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        both!(_mm512_or_si512, a, b)
    }
    #[inline(always)]
    fn signed(self, b: Self::B) -> Self::B {
        // SAFETY: the token proves that the CPU has the instruction.
        let flip = unsafe { _mm512_set1_epi8(-128) };
        both!(_mm512_xor_si512, b, [flip, flip])
    }
    #[inline(always)]
    fn add_bytes(self, b: Self::B, x: u8) -> Self::B {
        // SAFETY: the token proves that the CPU has the instructions.
        let x = unsafe { _mm512_set1_epi8(x as i8) };
        both!(_mm512_add_epi8, b, [x, x])
    }
    #[inline(always)]
    fn byte(self, b: Self::B, j: usize) -> Self::F {
        // SAFETY: the token proves that the CPU has the instructions.
        let one = |b| unsafe {
            let count = _mm_cvtsi32_si128(8 * j as i32);
            _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srl_epi32(b, count), _mm512_set1_epi32(255)))
        };
        [one(b[0]), one(b[1])]
    }
    #[inline(always)]
    fn bf16_low(self, b: Self::B) -> Self::F {
        // SAFETY: the token proves that the CPU has the instructions.
        let one = |b| unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(b)) };
        [one(b[0]), one(b[1])]
    }
    #[inline(always)]
    fn bf16_high(self, b: Self::B) -> Self::F {
        // SAFETY: the token proves that the CPU has the instructions.
        let one = |b| unsafe { _mm512_castsi512_ps(_mm512_and_si512(b, _mm512_set1_epi32(-65536))) };
        [one(b[0]), one(b[1])]
    }
    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        // SAFETY: the token proves that the CPU has the instruction.
        unsafe { [_mm512_set1_epi32(x); 2] }
    }
    #[inline(always)]
    fn to_f(self, x: Self::I) -> Self::F {
        both!(_mm512_cvtepi32_ps, x)
    }
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        // SAFETY: the token proves that the CPU has the instruction.
        let x = unsafe { _mm512_set1_epi32(x) };
        both!(_mm512_dpbusd_epi32, acc, w, [x, x])
    }
    #[inline(always)]
    fn dot_bf16(self, acc: Self::F, w: Self::B, x: u32) -> Self::F {
        // SAFETY: the token proves that the CPU has the instructions; the casts are between 64-byte vectors.
        unsafe {
            let bf = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
            let x = bf(_mm512_set1_epi32(x as i32));
            [_mm512_dpbf16_ps(acc[0], x, bf(w[0])), _mm512_dpbf16_ps(acc[1], x, bf(w[1]))]
        }
    }
    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, x: Self::F) {
        // SAFETY: the token proves that the CPU has the instructions; 64 bytes are writable, says the caller.
        unsafe {
            let halves = x.map(|x| std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)));
            _mm256_storeu_si256(p.cast(), halves[0]);
            _mm256_storeu_si256(p.add(16).cast(), halves[1]);
        }
    }
    #[inline(always)]
    fn pair_bf16(self, low: Self::F, high: Self::F) -> Self::B {
        // SAFETY: the token proves that the CPU has the instructions.
        let widen = |x: __m512| unsafe {
            _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)))
        };
        // SAFETY: as above.
        let one = |low, high| unsafe { _mm512_or_si512(widen(low), _mm512_slli_epi32::<16>(widen(high))) };
        [one(low[0], high[0]), one(low[1], high[1])]
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, to: *mut f32) {
        for (i, j) in [(0, 0), (0, 16), (16, 0), (16, 16)] {
            // SAFETY: a quarter of the square; the token proves that the CPU has the instructions.
            unsafe { transpose_16(from.add(i * 32 + j), to.add(j * 32 + i)) }
        }
    }
    #[inline(always)]
    unsafe fn transpose_bf16(self, from: *const u16, to: *mut u16) {
        // A square of 16 x 16 words of 64 bits, each a square of 2 x 2 numbers.
        for (i, j) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: a quarter of the square; the token proves that the CPU has the instructions.
            unsafe {
                transpose_8_words(from.add((i * 16 + j) * 4).cast(), to.add((j * 16 + i) * 4).cast());
            }
        }
    }
}

/// Transposes 16 x 16 floats of squares of 32 x 32: neighbours are brought together in ones, twos, fours and eights.
///
/// # Safety
/// The CPU has AVX-512; 16 floats are there in each of 16 rows of 32.
#[inline(always)]
unsafe fn transpose_16(from: *const f32, to: *mut f32) {
    // SAFETY: the caller has AVX-512, and the squares have these rows.
    unsafe {
        let rows: [__m512; 16] = std::array::from_fn(|i| _mm512_loadu_ps(from.add(32 * i)));
        // Within each 128 bits: columns 0 1 and 2 3 of two rows, then one column of four rows.
        let mut fours = [_mm512_setzero_ps(); 16];
        for i in (0..16).step_by(4) {
            let twos = |a, b| {
                let (a, b) = (rows[i + a], rows[i + b]);
                (_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(a, b)))
            };
            let ((a, c), (b, d)) = (twos(0, 1), twos(2, 3));
            fours[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            fours[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(c, d));
            fours[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(c, d));
        }
        // fours[4r + c]: columns c, c + 4, c + 8, c + 12 of rows 4r..4r + 4. Now the 128 bits themselves.
        for c in 0..4 {
            let [a, b, c2, d] = [fours[c], fours[4 + c], fours[8 + c], fours[12 + c]];
            let (low, high) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c2, d));
            let (low_odd, high_odd) =
                (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c2, d));
            _mm512_storeu_ps(to.add(32 * c), _mm512_shuffle_f32x4::<0x88>(low, high));
            _mm512_storeu_ps(to.add(32 * (c + 4)), _mm512_shuffle_f32x4::<0x88>(low_odd, high_odd));
            _mm512_storeu_ps(to.add(32 * (c + 8)), _mm512_shuffle_f32x4::<0xdd>(low, high));
            _mm512_storeu_ps(to.add(32 * (c + 12)), _mm512_shuffle_f32x4::<0xdd>(low_odd, high_odd));
        }
    }
}

/// Transposes 8 x 8 words of 64 bits of squares of 16 x 16, and each word as a square of 2 x 2 numbers.
///
/// # Safety
/// The CPU has AVX-512 F and BW; 8 words are there in each of 8 rows of 16.
#[inline(always)]
unsafe fn transpose_8_words(from: *const u64, to: *mut u64) {
    // SAFETY: the caller has AVX-512, and the squares have these rows.
    unsafe {
        // The middle two of each four numbers change places.
        let inner = _mm512_set1_epi64(0x0f0e_0b0a_0d0c_0908_u64 as i64);
        let order = _mm512_mask_set1_epi64(inner, 0x55, 0x0706_0302_0504_0100);
        let rows: [__m512i; 8] =
            std::array::from_fn(|i| _mm512_shuffle_epi8(_mm512_loadu_si512(from.add(16 * i).cast()), order));
        let mut twos = [_mm512_setzero_si512(); 8];
        for i in (0..8).step_by(2) {
            twos[i] = _mm512_unpacklo_epi64(rows[i], rows[i + 1]);
            twos[i + 1] = _mm512_unpackhi_epi64(rows[i], rows[i + 1]);
        }
        // twos[2r + c]: columns c, c + 2, c + 4, c + 6 of rows 2r and 2r + 1.
        for c in 0..2 {
            let [a, b, c2, d] = [twos[c], twos[2 + c], twos[4 + c], twos[6 + c]];
            let (low, high) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0x88>(c2, d));
            let (low_odd, high_odd) =
                (_mm512_shuffle_i64x2::<0xdd>(a, b), _mm512_shuffle_i64x2::<0xdd>(c2, d));
            let column = |j: usize, x| _mm512_storeu_si512(to.add(16 * j).cast(), x);
            column(c, _mm512_shuffle_i64x2::<0x88>(low, high));
            column(c + 2, _mm512_shuffle_i64x2::<0x88>(low_odd, high_odd));
            column(c + 4, _mm512_shuffle_i64x2::<0xdd>(low, high));
            column(c + 6, _mm512_shuffle_i64x2::<0xdd>(low_odd, high_odd));
        }
    }
}
