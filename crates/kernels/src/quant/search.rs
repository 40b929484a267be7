//! The search for scales: which ones make the squared error of a group least.
//!
//! A group's error is `Σ w (x - value)²`, with a weight `w` for each value's importance. Two facts lead to its minimum:
//!
//! - given a scale (and a minimum), the best integer of each value is the nearest one;
//! - given the integers, the best scale (and minimum) is that of weighted least squares, in closed form.
//!
//! Each step can only lower the error, and taking them in turns leads to a minimum near the start. Which one it is depends on
//! the start, so there are 32 of them, one a lane: a pass over the group's values serves all at once and needs
//! no sum across lanes. The last pass measures the error of scales as the file will hold them, and the best lane wins.
//!
//! Values are divided by the largest magnitude of their block before ([`Target`]), so nothing overflows on the way, and
//! one set of starts fits all.

use half::f16;

use crate::simd::{Isa, Kernel, LANES};

/// What replaces a zero in a denominator: below anything that values of magnitude 1 add up to.
const TINY: f32 = 1e-30;

/// The share of its first term below which a determinant is rounding alone. One integer of 31 that differs makes 6e-5.
pub(super) const SINGULAR: f32 = 1e-6;

/// What a block is to say: values, and how much the error of each of them counts.
pub(super) struct Target<const LEN: usize> {
    /// The values over `unit`.
    pub x: [f32; LEN],
    /// Positive; 1 for all where nothing is known.
    pub w: [f32; LEN],
    /// The largest magnitude of the values.
    pub unit: f32,
}

impl<const LEN: usize> Target<LEN> {
    #[inline(always)]
    pub fn new<I: Isa>(isa: I, values: &[f32; LEN], importance: Option<&[f32; LEN]>) -> Self {
        let unit = ends(isa, values).magnitude();
        let divisor = unit.max(f32::MIN_POSITIVE);
        let mut target = Target { x: [0.0; LEN], w: [1.0; LEN], unit };
        for (x, value) in target.x.iter_mut().zip(values) {
            *x = value / divisor;
        }
        if let Some(importance) = importance {
            let greatest = ends(isa, importance).high;
            if greatest > 0.0 {
                let mean = importance.iter().map(|w| w / greatest).sum::<f32>() / LEN as f32;
                for (w, importance) in target.w.iter_mut().zip(importance) {
                    // A column that calibration never saw counts a little all the same.
                    *w = importance / greatest + 1e-3 * mean;
                }
            }
        }
        target
    }

    /// The values and weights of group `g`, each of `len`.
    #[inline(always)]
    pub fn group(&self, g: usize, len: usize) -> Group<'_> {
        Group { x: &self.x[g * len..][..len], w: &self.w[g * len..][..len] }
    }

    /// A scale over `unit` as the file holds it: the f16, and its exact value, over `unit` again.
    #[inline(always)]
    pub fn stored(&self, scale: f32) -> (f16, f32) {
        let f16 = f16::from_f32((scale * self.unit).clamp(-F16_MOST, F16_MOST));
        (f16, f16.to_f32() / self.unit.max(f32::MIN_POSITIVE))
    }

    /// [`Target::stored`], but never below the scale: where numbers are so small that f16 has few left, integers could not
    /// make up for that.
    #[inline(always)]
    pub fn stored_above(&self, scale: f32) -> (f16, f32) {
        let (near, value) = self.stored(scale);
        if value.abs() >= scale.abs() || near.to_f32().abs() >= F16_MOST {
            return (near, value);
        }
        let above = f16::from_bits(near.to_bits() + 1); // away from zero, whatever the sign
        (above, above.to_f32() / self.unit.max(f32::MIN_POSITIVE))
    }

    /// Rounds each scale to what [`Target::stored`] makes of it.
    #[inline(always)]
    fn store<I: Isa>(&self, isa: I, scales: &mut Lanes) {
        isa.run(Store { unit: self.unit, scales });
    }
}

/// A number for each of the 32 attempts.
pub(super) type Lanes = [f32; LANES];

/// Functions that formats share are kernels of their own, so that each is compiled once for an instruction set and not
/// once more for every format that calls it.
struct Store<'a> {
    unit: f32,
    scales: &'a mut Lanes,
}

impl Kernel for Store<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let most = isa.splat(F16_MOST);
        let scales = isa.mul(isa.load_slice(self.scales, 0.0), isa.splat(self.unit));
        let scales = isa.max(isa.min(scales, most), isa.splat(-F16_MOST));
        let mut rounded = [0u16; LANES];
        // SAFETY: an array of 32 numbers.
        let scales = unsafe {
            isa.store_f16(rounded.as_mut_ptr(), scales);
            isa.load_f16(rounded.as_ptr())
        };
        isa.store_slice(self.scales, isa.div(scales, isa.splat(self.unit.max(f32::MIN_POSITIVE))));
    }
}

/// The least and the greatest of some values.
pub(super) struct Ends {
    pub low: f32,
    pub high: f32,
}

impl Ends {
    #[inline(always)]
    fn magnitude(&self) -> f32 {
        self.high.max(-self.low)
    }
}

#[inline(always)]
pub(super) fn ends<I: Isa>(isa: I, values: &[f32]) -> Ends {
    let (mut low, mut high) = (isa.splat(f32::INFINITY), isa.splat(f32::NEG_INFINITY));
    for values in values.chunks(LANES) {
        low = isa.min(low, isa.load_slice(values, f32::INFINITY));
        high = isa.max(high, isa.load_slice(values, f32::NEG_INFINITY));
    }
    Ends { low: -isa.largest(isa.sub(isa.zero(), low)), high: isa.largest(high) }
}

/// The largest f16. A scale beyond it is cut: the block then holds the nearest values that it can.
const F16_MOST: f32 = 65504.0;

/// Values that share a scale.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    x: &'a [f32],
    w: &'a [f32],
}

impl Group<'_> {
    /// The value of largest magnitude, with its sign.
    #[inline(always)]
    pub fn extreme<I: Isa>(&self, isa: I) -> f32 {
        let Ends { low, high } = ends(isa, self.x);
        if -low > high { low } else { high }
    }

    /// Values and weights of a group of up to 32, one a lane; the lanes that are left weigh nothing.
    #[inline(always)]
    pub fn load<I: Isa>(&self, isa: I) -> (I::F, I::F) {
        (isa.load_slice(self.x, 0.0), isa.load_slice(self.w, 0.0))
    }

    #[inline(always)]
    pub fn values(&self) -> &[f32] {
        self.x
    }

    #[inline(always)]
    fn pairs(&self) -> impl Iterator<Item = (f32, f32)> {
        self.x.iter().copied().zip(self.w.iter().copied())
    }
}

/// What a value over its scale can be.
pub(super) trait Codes: Copy {
    /// The nearest possible value, in every lane; one of them for NaN too.
    fn nearest<I: Isa>(self, isa: I, v: I::F) -> I::F;
}

/// The integers from `least` to `greatest`.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    pub least: f32,
    pub greatest: f32,
}

impl Codes for Integers {
    #[inline(always)]
    fn nearest<I: Isa>(self, isa: I, v: I::F) -> I::F {
        isa.min(isa.max(isa.round(v), isa.splat(self.least)), isa.splat(self.greatest))
    }
}

impl Integers {
    /// The integer nearest to each value over the scale.
    #[inline(always)]
    pub fn round(self, group: Group<'_>, scale: f32, min: f32, q: &mut [i8]) {
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (q, &x) in q.iter_mut().zip(group.x) {
            *q = ((x + min) * inverse).round_ties_even().clamp(self.least, self.greatest) as i8;
        }
    }

    /// 32 scales to start from, for values of largest magnitude `extreme` (with its sign). The first 16 have one sign,
    /// the others the other: where the ends of the range differ, it matters which of them the extreme value meets.
    #[inline(always)]
    pub fn starts(self, extreme: f32) -> Lanes {
        std::array::from_fn(|i| {
            // The extreme value's integer: from well inside the range to beyond its end, where it is cut.
            let beyond = STARTS[i % 16];
            extreme / if i < 16 { self.least - beyond } else { self.greatest + beyond }
        })
    }
}

/// How many steps beyond the end of the range the extreme value is, at the start.
const STARTS: [f32; 16] =
    [-1.5, -1.2, -1.0, -0.8, -0.6, -0.45, -0.3, -0.15, 0.0, 0.15, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3];

/// Replaces each scale with the one that least squares gives for the codes that it gives.
#[inline(always)]
pub(super) fn refit<I: Isa, C: Codes>(isa: I, codes: C, group: Group<'_>, scales: &mut Lanes) {
    isa.run(Refit { codes, group, scales });
}

struct Refit<'a, C> {
    codes: C,
    group: Group<'a>,
    scales: &'a mut Lanes,
}

impl<C: Codes> Kernel for Refit<'_, C> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let inverse = isa.div(isa.splat(1.0), isa.load_slice(self.scales, 0.0));
        let (mut xq, mut qq) = (isa.zero(), isa.zero());
        for (x, w) in self.group.pairs() {
            let q = self.codes.nearest(isa, isa.mul(isa.splat(x), inverse));
            let wq = isa.mul(isa.splat(w), q);
            xq = isa.fma(isa.splat(x), wq, xq);
            qq = isa.fma(q, wq, qq);
        }
        isa.store_slice(self.scales, isa.div(xq, isa.max(qq, isa.splat(TINY))));
    }
}

/// The error of a group under each scale.
#[inline(always)]
pub(super) fn errors<I: Isa, C: Codes>(isa: I, codes: C, group: Group<'_>, scales: &Lanes) -> Lanes {
    isa.run(Errors { codes, group, scales })
}

struct Errors<'a, C> {
    codes: C,
    group: Group<'a>,
    scales: &'a Lanes,
}

impl<C: Codes> Kernel for Errors<'_, C> {
    type Output = Lanes;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Lanes {
        let scale = isa.load_slice(self.scales, 0.0);
        let inverse = isa.div(isa.splat(1.0), scale);
        let mut sum = isa.zero();
        for (x, w) in self.group.pairs() {
            let x = isa.splat(x);
            let q = self.codes.nearest(isa, isa.mul(x, inverse));
            let rest = isa.fnma(q, scale, x);
            sum = isa.fma(isa.mul(rest, isa.splat(w)), rest, sum);
        }
        let mut errors = [0.0; LANES];
        isa.store_slice(&mut errors, sum);
        errors
    }
}

/// A scale and a minimum, or 32 of each: `value = scale * q - min`.
#[derive(Clone, Copy)]
pub(super) struct Line<T> {
    pub scale: T,
    pub min: T,
}

/// Lines through the ends of a group's values, or by parts of a step outside and inside of them.
///
/// `floor` is the least minimum: 0 in formats whose minimums have no sign, where 0 is then always in reach.
#[inline(always)]
pub(super) fn line_starts<I: Isa>(isa: I, codes: Integers, group: Group<'_>, floor: f32) -> Line<Lanes> {
    let Ends { low, high } = ends(isa, group.x);
    let low = low.min(-floor);
    let step = (high - low) / codes.greatest;
    let inside = |k: usize| (-0.25 + 0.25 * k as f32) * step;
    let below = |i: usize| low + inside(i % 4);
    let above = |i: usize| high - inside(i / 4);
    Line {
        scale: std::array::from_fn(|i| (above(i) - below(i)) / codes.greatest),
        min: std::array::from_fn(|i| -below(i)),
    }
}

/// Replaces each line with the one that least squares gives for the integers that it gives, `times` times.
#[inline(always)]
pub(super) fn refit_lines<I: Isa>(
    isa: I,
    codes: Integers,
    group: Group<'_>,
    lines: &mut Line<Lanes>,
    floor: f32,
    times: usize,
) {
    for _ in 0..times {
        isa.run(RefitLines { codes, group, lines, floor });
    }
}

struct RefitLines<'a> {
    codes: Integers,
    group: Group<'a>,
    lines: &'a mut Line<Lanes>,
    floor: f32,
}

impl Kernel for RefitLines<'_> {
    type Output = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Line { scale, min } = self.lines;
        let inverse = isa.div(isa.splat(1.0), isa.load_slice(scale, 0.0));
        let offset = isa.mul(isa.load_slice(min, 0.0), inverse);
        let (mut wq, mut qq, mut xq) = (isa.zero(), isa.zero(), isa.zero());
        let (mut sum_w, mut sum_x) = (0.0, 0.0);
        for (x, w) in self.group.pairs() {
            let q = self.codes.nearest(isa, isa.fma(isa.splat(x), inverse, offset));
            let part = isa.mul(isa.splat(w), q);
            wq = isa.add(wq, part);
            qq = isa.fma(q, part, qq);
            xq = isa.fma(isa.splat(x), part, xq);
            sum_w += w;
            sum_x += w * x;
        }
        // The normal equations: [qq, -wq; -wq, sum_w] [scale, min] = [xq, -sum_x].
        let (sum_w, sum_x) = (isa.splat(sum_w), isa.splat(sum_x));
        let square = isa.mul(sum_w, qq);
        let determinant = isa.fnma(wq, wq, square);
        // Where all integers are the same it is nothing but rounding: then any line through the mean will do.
        let least = isa.max(isa.mul(square, isa.splat(SINGULAR)), isa.splat(TINY));
        let free = isa.div(isa.fnma(wq, sum_x, isa.mul(sum_w, xq)), isa.max(determinant, least));
        let best = isa.max(isa.div(isa.sub(isa.mul(free, wq), sum_x), sum_w), isa.splat(self.floor));
        isa.store_slice(min, best);
        // The best scale for this minimum: `free` again, unless the floor holds it.
        isa.store_slice(scale, isa.div(isa.fma(best, wq, xq), isa.max(qq, isa.splat(TINY))));
    }
}

/// One of the 32 attempts: its lane, and its error.
pub(super) struct Best {
    pub lane: usize,
    pub error: f32,
}

/// The line with the least error.
#[inline(always)]
pub(super) fn best_line<I: Isa>(isa: I, codes: Integers, group: Group<'_>, lines: &Line<Lanes>) -> Best {
    isa.run(BestLine { codes, group, lines })
}

struct BestLine<'a> {
    codes: Integers,
    group: Group<'a>,
    lines: &'a Line<Lanes>,
}

impl Kernel for BestLine<'_> {
    type Output = Best;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Best {
        let (scale, min) = (isa.load_slice(&self.lines.scale, 0.0), isa.load_slice(&self.lines.min, 0.0));
        let inverse = isa.div(isa.splat(1.0), scale);
        let mut sum = isa.zero();
        for (x, w) in self.group.pairs() {
            let x = isa.add(isa.splat(x), min);
            let q = self.codes.nearest(isa, isa.mul(x, inverse));
            let rest = isa.fnma(q, scale, x);
            sum = isa.fma(isa.mul(rest, isa.splat(w)), rest, sum);
        }
        let mut errors = [0.0; LANES];
        isa.store_slice(&mut errors, sum);
        least(isa, &errors)
    }
}

/// The least error; of equal ones the first.
#[inline(always)]
pub(super) fn least<I: Isa>(isa: I, errors: &[f32]) -> Best {
    let Ends { low, .. } = ends(isa, errors);
    Best { lane: errors.iter().position(|&error| error == low).unwrap_or(0), error: low }
}

/// The best f16 scale of a block that has only one. `plain` is the scale of the reference rounding, which takes part: so the
/// search is never worse.
#[inline(always)]
pub(super) fn one_scale<I: Isa, C: Codes, const LEN: usize>(
    isa: I,
    codes: C,
    target: &Target<LEN>,
    mut scales: Lanes,
    plain: f32,
) -> (f16, f32) {
    let group = target.group(0, LEN);
    refit(isa, codes, group, &mut scales);
    scales[0] = plain;
    let mut stored = scales;
    target.store(isa, &mut stored);
    let best = least(isa, &errors(isa, codes, group, &stored));
    target.stored(scales[best.lane])
}

/// The best f16 scale and minimum of a block that has only one of each; `plain` as in [`one_scale`].
#[inline(always)]
pub(super) fn one_line<I: Isa, const LEN: usize>(
    isa: I,
    codes: Integers,
    target: &Target<LEN>,
    plain: Line<f32>,
) -> Line<(f16, f32)> {
    let group = target.group(0, LEN);
    let mut lines = line_starts(isa, codes, group, f32::NEG_INFINITY);
    refit_lines(isa, codes, group, &mut lines, f32::NEG_INFINITY, 2);
    (lines.scale[0], lines.min[0]) = (plain.scale, plain.min);
    let mut stored = lines;
    target.store(isa, &mut stored.scale);
    target.store(isa, &mut stored.min);
    let best = best_line(isa, codes, group, &stored).lane;
    Line { scale: target.stored(lines.scale[best]), min: target.stored(lines.min[best]) }
}
