//! Every operation of every instruction set that this machine has, against plain Rust: equal bits, unless the
//! operation says otherwise.

use super::*;
use crate::rng::Rng;
use half::{bf16, f16};
use std::array::from_fn;

type Lanes = [f32; LANES];

/// Runs a check with every instruction set.
fn check_all<K: Kernel<Output = ()> + Clone>(check: K) {
    for kind in IsaKind::available() {
        dispatch_to(kind, check.clone());
    }
}

fn lanes<I: Isa>(isa: I, x: I::F) -> Lanes {
    let mut out = [f32::NAN; LANES];
    isa.store_slice(&mut out, x);
    out
}

#[track_caller]
fn assert_bits<I: Isa>(_: I, what: &str, found: Lanes, expected: Lanes) {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{} {what}, lane {i}: {found:e}, expected {expected:e}", I::NAME);
    }
}

/// Where `WOOTZ_REQUIRE` names an instruction set, doing without it is no success.
#[test]
fn required_instruction_sets_are_here() {
    let required = std::env::var("WOOTZ_REQUIRE").unwrap_or_default();
    for kind in IsaKind::ALL {
        // Of another architecture's nothing is compiled; who requires those runs the tests for that one.
        let ours = match kind {
            IsaKind::Avx512 | IsaKind::Avx2 => cfg!(target_arch = "x86_64"),
            IsaKind::Neon => cfg!(target_arch = "aarch64"),
            IsaKind::Scalar => true,
        };
        if !ours || kind.is_available() {
            continue;
        }
        assert!(!required.split(',').any(|name| name == kind.name()), "this CPU has no {}", kind.name());
        println!("skipped: this CPU has no {}", kind.name());
    }
}

#[derive(Clone)]
struct Arithmetic {
    a: Lanes,
    b: Lanes,
}

impl Kernel for Arithmetic {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Arithmetic { a, b } = self;
        let (x, y) = (isa.load_slice(&a, 0.0), isa.load_slice(&b, 0.0));
        assert_bits(isa, "zero", lanes(isa, isa.zero()), [0.0; LANES]);
        assert_bits(isa, "splat", lanes(isa, isa.splat(a[3])), [a[3]; LANES]);
        assert_bits(isa, "add", lanes(isa, isa.add(x, y)), from_fn(|i| a[i] + b[i]));
        assert_bits(isa, "sub", lanes(isa, isa.sub(x, y)), from_fn(|i| a[i] - b[i]));
        assert_bits(isa, "mul", lanes(isa, isa.mul(x, y)), from_fn(|i| a[i] * b[i]));
        assert_bits(isa, "div", lanes(isa, isa.div(x, y)), from_fn(|i| a[i] / b[i]));
        assert_bits(isa, "max", lanes(isa, isa.max(x, y)), from_fn(|i| a[i].max(b[i])));
        assert_bits(isa, "min", lanes(isa, isa.min(x, y)), from_fn(|i| a[i].min(b[i])));
        assert_bits(isa, "round", lanes(isa, isa.round(x)), a.map(f32::round_ties_even));
        // Halves: ties are what rounding is about. The lanes are small enough to be exact.
        let halves: Lanes = from_fn(|i| (a[i] * 8.0).round() / 2.0);
        let rounded = isa.round(isa.load_slice(&halves, 0.0));
        assert_bits(isa, "round", lanes(isa, rounded), halves.map(f32::round_ties_even));
        // Integers, whose products are exact, so that it does not matter how often they are rounded.
        let [p, q, r]: [Lanes; 3] = [a, b, from_fn(|i| a[i] - b[i])].map(|x| x.map(|x| (x * 100.0).round()));
        let [u, v, w] = [p, q, r].map(|x| isa.load_slice(&x, 0.0));
        assert_bits(isa, "fma", lanes(isa, isa.fma(u, v, w)), from_fn(|i| p[i] * q[i] + r[i]));
        assert_bits(isa, "fnma", lanes(isa, isa.fnma(u, v, w)), from_fn(|i| r[i] - p[i] * q[i]));
        let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(isa.largest(x), largest, "{}", I::NAME);
        assert_eq!(isa.largest(isa.splat(-3.0)), -3.0, "{}", I::NAME);
        // The tree: halves of the lanes are added until one is left.
        let mut tree = a;
        for half in [16, 8, 4, 2, 1] {
            tree = from_fn(|i| if i < half { tree[i] + tree[i + half] } else { 0.0 });
        }
        assert_eq!(isa.sum(x).to_bits(), tree[0].to_bits(), "{}: sum", I::NAME);
        for len in 0..LANES {
            let expected = from_fn(|i| if i < len { a[i] } else { 7.0 });
            assert_bits(isa, "load_slice", lanes(isa, isa.load_slice(&a[..len], 7.0)), expected);
            let mut out = [7.0; LANES];
            isa.store_slice(&mut out[..len], x);
            assert_bits(isa, "store_slice", out, expected);
        }
        for bad in [isa.max(x, isa.splat(f32::NAN)), isa.min(x, isa.splat(f32::NAN))] {
            assert_bits(isa, "NaN", lanes(isa, bad), [f32::NAN; LANES]);
        }
        // Where neither is above the other it is the second.
        for good in [isa.max(isa.splat(f32::NAN), x), isa.min(isa.splat(f32::NAN), x)] {
            assert_bits(isa, "a number after NaN", lanes(isa, good), a);
        }
        let (zero, negative) = (isa.splat(0.0), isa.splat(-0.0));
        assert_bits(isa, "max of zeros", lanes(isa, isa.max(zero, negative)), [-0.0; LANES]);
        assert_bits(isa, "min of zeros", lanes(isa, isa.min(negative, zero)), [0.0; LANES]);
    }
}

#[test]
fn arithmetic() {
    let mut rng = Rng::new(1, 0);
    for _ in 0..50 {
        let (a, b) = (from_fn(|_| rng.normal() * 3.0), from_fn(|_| rng.normal()));
        check_all(Arithmetic { a, b });
    }
}

#[derive(Clone)]
struct Powers;

impl Kernel for Powers {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for first in (-127..=96).step_by(LANES) {
            let n: Lanes = from_fn(|i| (first + i as i32).min(127) as f32);
            let power = |n: f32| if n == -127.0 { 0.0 } else { f64::from(n).exp2() as f32 };
            assert_bits(isa, "exp2i", lanes(isa, isa.exp2i(isa.load_slice(&n, 0.0))), n.map(power));
        }
    }
}

#[test]
fn powers_of_two() {
    check_all(Powers);
}

#[derive(Clone)]
struct Halves;

impl Kernel for Halves {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let narrow = |x: Lanes| -> [u16; LANES] {
            let mut out = [0; LANES];
            // SAFETY: there is room for 32 numbers.
            unsafe { isa.store_f16(out.as_mut_ptr(), isa.load_slice(&x, 0.0)) };
            out
        };
        for first in (0..=u16::MAX).step_by(LANES) {
            let bits: [u16; LANES] = from_fn(|i| first + i as u16);
            // SAFETY: there are 32 numbers.
            let wide = lanes(isa, unsafe { isa.load_f16(bits.as_ptr()) });
            assert_bits(isa, "load_f16", wide, bits.map(|b| f16::from_bits(b).to_f32()));
            for (back, bits) in narrow(wide).into_iter().zip(bits) {
                let nan = f16::from_bits(back).is_nan() && f16::from_bits(bits).is_nan();
                assert!(back == bits || nan, "{}: {bits:#06x} became {back:#06x}", I::NAME);
            }
        }
        // Half way between neighbours, and a hair to both sides; the last half way is where infinity begins.
        for first in (0..0x7c00u16).step_by(LANES) {
            let value = |bits: u16| if bits == 0x7c00 { 65536.0 } else { f16::from_bits(bits).to_f32() };
            let middle: Lanes = from_fn(|i| (value(first + i as u16) + value(first + i as u16 + 1)) / 2.0);
            let found =
                [narrow(middle.map(f32::next_down)), narrow(middle), narrow(middle.map(f32::next_up))];
            for i in 0..LANES {
                let low = first + i as u16;
                let expected = [low, low + low % 2, low + 1];
                assert_eq!(found.map(|f| f[i]), expected, "{}: rounds {:e}", I::NAME, middle[i]);
            }
        }
        let negative = narrow(from_fn(|i| -(1.0 + i as f32)));
        assert_eq!(negative, from_fn(|i| f16::from_f32(-(1.0 + i as f32)).to_bits()), "{}", I::NAME);
    }
}

#[test]
fn half_precision() {
    check_all(Halves);
}

#[derive(Clone)]
struct Brain {
    x: Lanes,
    y: Lanes,
}

impl Kernel for Brain {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let round = |x: f32| bf16::from_f32(x).to_bits();
        let (mut out, mut pairs) = ([0u16; LANES], [0u32; LANES]);
        let [x, y] = [&self.x, &self.y].map(|x| isa.load_slice(x, 0.0));
        // SAFETY: there is room for 32 numbers of 2 bytes, and of 4.
        unsafe {
            isa.store_bf16(out.as_mut_ptr(), x);
            isa.store_b(pairs.as_mut_ptr().cast(), isa.pair_bf16(x, y));
        }
        for i in 0..LANES {
            let (low, high) = (round(self.x[i]), round(self.y[i]));
            assert_eq!(out[i], low, "{}: {:e} rounded", I::NAME, self.x[i]);
            assert_eq!(pairs[i], u32::from(low) | u32::from(high) << 16, "{}: pair {i}", I::NAME);
        }
    }
}

#[test]
fn brain_floats() {
    let mut rng = Rng::new(3, 0);
    for _ in 0..50 {
        check_all(Brain { x: from_fn(|_| rng.normal()), y: from_fn(|_| rng.normal() * 1e20) });
    }
    // Ties, and what is beyond the largest.
    let ties = from_fn(|i| f32::from_bits((0x3f80_7fff + i as u32) ^ (i as u32 % 3) << 16));
    let edges = [0.0, -0.0, f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1.0];
    check_all(Brain { x: ties, y: from_fn(|i| edges[i % 8]) });
}

#[derive(Clone)]
struct Squares;

impl Kernel for Squares {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let floats: Vec<f32> = (0..LANES * LANES).map(|i| i as f32).collect();
        let mut out = vec![-1.0; LANES * LANES];
        let halves: Vec<u16> = (0..(LANES * LANES) as u16).collect();
        let mut out_halves = vec![u16::MAX; LANES * LANES];
        // SAFETY: squares of 32 x 32.
        unsafe {
            isa.transpose(floats.as_ptr(), out.as_mut_ptr());
            isa.transpose_bf16(halves.as_ptr(), out_halves.as_mut_ptr());
        }
        for i in 0..LANES {
            for j in 0..LANES {
                assert_eq!(out[j * LANES + i], floats[i * LANES + j], "{}: {i}, {j}", I::NAME);
                let from = halves[(i / 2 * LANES + j) * 2 + i % 2];
                assert_eq!(
                    out_halves[(j / 2 * LANES + i) * 2 + j % 2],
                    from,
                    "{}: {i}, {j} in pairs",
                    I::NAME
                );
            }
        }
    }
}

#[test]
fn squares_are_transposed() {
    check_all(Squares);
}

#[derive(Clone)]
struct Bytes {
    bytes: [u8; 4 * LANES],
    x: u32,
}

impl Kernel for Bytes {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Bytes { bytes, x } = self;
        let lane = |i: usize| -> [u8; 4] { from_fn(|j| bytes[4 * i + j]) };
        // SAFETY: there are 128 bytes.
        let b = unsafe { isa.load_b(bytes.as_ptr()) };
        let stored = |b: I::B| -> [u8; 4 * LANES] {
            let mut out = [0; 4 * LANES];
            // SAFETY: there is room for 128 bytes.
            unsafe { isa.store_b(out.as_mut_ptr(), b) };
            out
        };
        assert_eq!(stored(b), bytes, "{}: load_b, store_b", I::NAME);
        for shift in 0..8 {
            for mask in [1, 3, 15, 63, 127, 255u8].map(|mask| mask & (0xff >> shift)) {
                let expected = bytes.map(|byte| (byte >> shift) & mask);
                assert_eq!(stored(isa.shr_and(b, shift, mask)), expected, "{}: {shift} {mask}", I::NAME);
            }
        }
        let low = isa.shr_and(b, 0, 15);
        assert_eq!(stored(isa.shl_4(low)), bytes.map(|byte| byte << 4), "{}: shl_4", I::NAME);
        assert_eq!(
            stored(isa.or(low, isa.shl_4(low))),
            bytes.map(|byte| (byte & 15) * 17),
            "{}: or",
            I::NAME
        );

        // SAFETY: there are 128 bytes, of which 32 are read.
        unsafe {
            let expected = from_fn(|i| f32::from(bytes[i + 7]));
            assert_bits(isa, "load_u8", lanes(isa, isa.load_u8(bytes.as_ptr().add(7))), expected);
            let expected = from_fn(|i| f32::from(bytes[i + 9] as i8));
            assert_bits(isa, "load_i8", lanes(isa, isa.load_i8(bytes.as_ptr().add(9).cast())), expected);
        }
        // Signed bytes as an operand, and small unsigned ones, which are an operand as they are.
        let (signed, small) = (isa.signed(b), isa.shr_and(b, 1, 127));
        let offset = I::SIGNED_OFFSET;
        for j in 0..4 {
            let expected = from_fn(|i| (i32::from(lane(i)[j] as i8) + offset) as f32);
            assert_bits(isa, "byte of signed", lanes(isa, isa.byte(signed, j)), expected);
            let expected = from_fn(|i| f32::from(lane(i)[j] >> 1));
            assert_bits(isa, "byte", lanes(isa, isa.byte(small, j)), expected);
        }
        let xs = x.to_le_bytes().map(|x| i32::from(x as i8));
        let dot = |w: [i32; 4]| 5 + (0..4).map(|j| w[j] * xs[j]).sum::<i32>();
        let acc = isa.splat_i(5);
        let expected = from_fn(|i| dot(lane(i).map(|w| i32::from(w as i8) + offset)) as f32);
        assert_bits(isa, "dot_i8", lanes(isa, isa.to_f(isa.dot_i8(acc, signed, x as i32))), expected);
        let expected = from_fn(|i| dot(lane(i).map(|w| i32::from(w >> 1))) as f32);
        assert_bits(isa, "dot_i8", lanes(isa, isa.to_f(isa.dot_i8(acc, small, x as i32))), expected);

        let pair = |bits: u32| [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)];
        let pairs: [[f32; 2]; LANES] = from_fn(|i| pair(u32::from_le_bytes(lane(i))));
        assert_bits(isa, "bf16_low", lanes(isa, isa.bf16_low(b)), pairs.map(|p| p[0]));
        assert_bits(isa, "bf16_high", lanes(isa, isa.bf16_high(b)), pairs.map(|p| p[1]));
        // Small integers are bf16 numbers, and their sums exact.
        let whole = |i: usize| [f32::from(lane(i)[0]), f32::from(lane(i)[1] as i8)];
        let bits: [u32; LANES] =
            from_fn(|i| whole(i)[0].to_bits() >> 16 | (whole(i)[1].to_bits() & 0xffff_0000));
        let x: [f32; 2] = [xs[0] as f32, xs[1] as f32];
        // SAFETY: 32 words are 128 bytes.
        let w = unsafe { isa.load_b(bits.as_ptr().cast()) };
        let sums = isa.dot_bf16(isa.splat(3.0), w, x[0].to_bits() >> 16 | (x[1].to_bits() & 0xffff_0000));
        let expected = from_fn(|i| 3.0 + whole(i)[0] * x[0] + whole(i)[1] * x[1]);
        assert_bits(isa, "dot_bf16", lanes(isa, sums), expected);
        isa.prefetch(bytes.as_ptr());
        isa.prefetch(std::ptr::null());
    }
}

#[test]
fn bytes() {
    let mut rng = Rng::new(2, 0);
    for round in 0..50 {
        let mut bytes = from_fn(|_| rng.next() as u8);
        // The ends of the range, where products saturate in narrower arithmetic.
        match round {
            0 => bytes.fill(0x80),
            1 => bytes.fill(0x7f),
            2 => bytes.fill(0xff),
            _ => {}
        }
        for x in [rng.next() as u32, 0x7f7f_7f7f, 0x8181_8181, 0x8080_8080] {
            check_all(Bytes { bytes, x });
        }
    }
}
