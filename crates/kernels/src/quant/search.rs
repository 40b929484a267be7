//! The search for scales: which ones make the squared error of a group least.
//!
//! A group's error is `Σ w (x - value)²`, with a weight `w` for each value's importance. Two facts lead to its minimum:
//!
//! - given a scale (and a minimum), the best integer of each value is the nearest one;
//! - given the integers, the best scale (and minimum) is that of weighted least squares, in closed form.
//!
//! Each step can only lower the error, and taking them in turns leads to a minimum near the start. Which one it is depends on
//! the start, so several are tried.
//!
//! 32 groups are searched side by side, one a lane ([`Batch`]): a pass over their values tries one scale for each, and
//! needs no sum across lanes.
//!
//! Values are divided by a power of two near the largest magnitude of their block before, so nothing overflows on the
//! way.

use half::f16;

use crate::simd::{Isa, Kernel, LANES};

/// What replaces a zero in a denominator: below anything that values of magnitude 1 add up to.
const TINY: f32 = 1e-30;

/// The share of its first term below which a determinant is rounding alone. One integer of 31 that differs makes 6e-5.
pub(super) const SINGULAR: f32 = 1e-6;

/// The largest f16. A scale beyond it is cut: the block then holds the nearest values that it can.
const F16_MOST: f32 = 65504.0;

/// A number for each of 32 groups.
pub(super) type Lanes = [f32; LANES];

/// The most values that share a scale.
const GROUP: usize = 32;

/// What some blocks are to say: values in 32 groups of `len`, and how much the error of each value counts.
#[repr(align(64))]
pub(super) struct Batch {
    /// Value `i` of every group over its unit, in row `i`; and how much it counts.
    x: [Lanes; GROUP],
    w: [Lanes; GROUP],
    /// The values over their units as they came, group after group.
    rows: [f32; GROUP * LANES],
    /// What the values of each group are over: of the groups of a block the same.
    unit: Lanes,
    /// Values of a group.
    len: usize,
    /// Whether `w` says anything: else every value counts the same.
    weighted: bool,
}

impl Batch {
    /// A batch of groups of `len` values, for [`Batch::set`] to fill.
    pub fn new(len: usize) -> Self {
        Batch {
            x: [[0.0; LANES]; GROUP],
            w: [[1.0; LANES]; GROUP],
            rows: [0.0; GROUP * LANES],
            unit: [1.0; LANES],
            len,
            weighted: false,
        }
    }

    /// Takes blocks of `block` values, of which there may be less than fill the batch. `importance` gives the importances of
    /// a row, and the place of the first value in such a row.
    #[inline(always)]
    pub fn set<I: Isa>(&mut self, isa: I, values: &[f32], block: usize, importance: Option<(&[f32], usize)>) {
        let groups = block / self.len;
        self.rows[values.len()..].fill(0.0);
        for (b, (values, rows)) in
            values.chunks_exact(block).zip(self.rows.chunks_exact_mut(block)).enumerate()
        {
            let mut largest = isa.zero();
            for part in values.chunks_exact(LANES) {
                let part = isa.load_slice(part, 0.0);
                largest = isa.max(largest, isa.max(part, isa.sub(isa.zero(), part)));
            }
            // The power of two below: nothing is lost by dividing.
            let exponent = (isa.largest(largest).max(f32::MIN_POSITIVE)).to_bits() & 0x7F80_0000;
            let unit = f32::from_bits(exponent);
            let inverse = isa.splat(1.0 / unit);
            for (part, row) in values.chunks_exact(LANES).zip(rows.chunks_exact_mut(LANES)) {
                isa.store_slice(row, isa.mul(isa.load_slice(part, 0.0), inverse));
            }
            self.unit[b * groups..(b + 1) * groups].fill(unit);
        }
        spread(isa, &self.rows, self.len, &mut self.x);
        self.weighted = importance.is_some();
        if let Some((row, first)) = importance {
            let mut weights = [1.0; GROUP * LANES];
            for at in (0..values.len()).step_by(block) {
                weigh(isa, &row[(first + at) % row.len()..][..block], &mut weights[at..at + block]);
            }
            spread(isa, &weights, self.len, &mut self.w);
        }
    }

    /// The values of group `g`.
    #[inline(always)]
    pub fn group(&self, g: usize) -> &[f32] {
        &self.rows[g * self.len..(g + 1) * self.len]
    }

    /// Scales over the units as the file holds them: the f16s, and their exact values, over the units again.
    #[inline(always)]
    pub fn stored(&self, scales: &Lanes) -> ([f16; LANES], Lanes) {
        let stored = std::array::from_fn(|g| to_f16(scales[g] * self.unit[g]));
        (stored, std::array::from_fn(|g| stored[g].to_f32() / self.unit[g]))
    }

    /// [`Batch::stored`], but never below the scale: where numbers are so small that f16 has few left, integers could not
    /// make up for that.
    #[inline(always)]
    pub fn stored_above(&self, scales: &Lanes) -> ([f16; LANES], Lanes) {
        let stored = std::array::from_fn(|g| {
            let scale = scales[g] * self.unit[g];
            let near = to_f16(scale);
            if near.to_f32().abs() >= scale.abs() || near.to_f32().abs() >= F16_MOST {
                return near;
            }
            f16::from_bits(near.to_bits() + 1) // away from zero, whatever the sign
        });
        (stored, std::array::from_fn(|g| stored[g].to_f32() / self.unit[g]))
    }

    /// [`Batch::stored`], the exact values alone, and faster.
    #[inline(always)]
    fn as_stored<I: Isa>(&self, isa: I, scales: &mut Lanes) {
        let (most, unit) = (isa.splat(F16_MOST), isa.load_slice(&self.unit, 0.0));
        let scale = isa.mul(isa.load_slice(scales, 0.0), unit);
        let scale = isa.round_to_f16(isa.max(isa.min(scale, most), isa.sub(isa.zero(), most)));
        isa.store_slice(scales, isa.div(scale, unit));
    }

    /// The least and the greatest value of each group.
    #[inline(always)]
    pub fn ends<I: Isa>(&self, isa: I) -> (Lanes, Lanes) {
        let (mut low, mut high) = (isa.splat(f32::INFINITY), isa.splat(f32::NEG_INFINITY));
        for x in &self.x[..self.len] {
            let x = isa.load_slice(x, 0.0);
            low = isa.min(low, x);
            high = isa.max(high, x);
        }
        (lanes(isa, low), lanes(isa, high))
    }

    /// The value of largest magnitude of each group, with its sign.
    #[inline(always)]
    pub fn extremes<I: Isa>(&self, isa: I) -> Lanes {
        let (low, high) = self.ends(isa);
        std::array::from_fn(|g| if -low[g] > high[g] { low[g] } else { high[g] })
    }

    /// `Σ w` and `Σ w x` of each group.
    #[inline(always)]
    fn sums<I: Isa>(&self, isa: I) -> (I::F, I::F) {
        let (mut sum_w, mut sum_x) = (isa.zero(), isa.zero());
        for (x, w) in self.x.iter().zip(&self.w).take(self.len) {
            let w = if self.weighted { isa.load_slice(w, 0.0) } else { isa.splat(1.0) };
            sum_w = isa.add(sum_w, w);
            sum_x = isa.fma(isa.load_slice(x, 0.0), w, sum_x);
        }
        (sum_w, sum_x)
    }
}

#[inline(always)]
fn to_f16(scale: f32) -> f16 {
    f16::from_f32(scale.clamp(-F16_MOST, F16_MOST))
}

#[inline(always)]
fn lanes<I: Isa>(isa: I, x: I::F) -> Lanes {
    let mut lanes = [0.0; LANES];
    isa.store_slice(&mut lanes, x);
    lanes
}

/// Groups of `len` values, one after the other, to value `i` of every group in row `i`.
#[inline(always)]
fn spread<I: Isa>(isa: I, rows: &[f32; GROUP * LANES], len: usize, to: &mut [Lanes; GROUP]) {
    if len == GROUP {
        // SAFETY: squares of 32 x 32.
        unsafe { isa.transpose(rows.as_ptr(), to.as_mut_ptr().cast()) }
        return;
    }
    for (g, row) in rows.chunks_exact(len).take(LANES).enumerate() {
        for (x, to) in row.iter().zip(to.iter_mut()) {
            to[g] = *x;
        }
    }
}

/// The weights of a block: importances over the largest.
#[inline(always)]
fn weigh<I: Isa>(isa: I, importance: &[f32], w: &mut [f32]) {
    let mut greatest = isa.zero();
    for part in importance.chunks_exact(LANES) {
        greatest = isa.max(greatest, isa.load_slice(part, 0.0));
    }
    let greatest = isa.largest(greatest);
    if greatest == 0.0 {
        return; // nothing is known: all count the same
    }
    let inverse = isa.splat(1.0 / greatest.max(f32::MIN_POSITIVE));
    let mut sum = isa.zero();
    for part in importance.chunks_exact(LANES) {
        sum = isa.fma(isa.load_slice(part, 0.0), inverse, sum);
    }
    // A column that calibration never saw counts a little all the same.
    let least = isa.splat(1e-3 * isa.sum(sum) / importance.len() as f32);
    for (w, part) in w.chunks_exact_mut(LANES).zip(importance.chunks_exact(LANES)) {
        isa.store_slice(w, isa.fma(isa.load_slice(part, 0.0), inverse, least));
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
    pub fn round(self, group: &[f32], line: Line<f32>, q: &mut [i8]) {
        /// Added to a small number, it leaves the nearest integer in the lowest bits. (A conversion would be of one number
        /// at a time.)
        const SHIFT: f32 = 12_582_912.0;
        let inverse = if line.scale == 0.0 { 0.0 } else { 1.0 / line.scale };
        for (q, &x) in q.iter_mut().zip(group) {
            let v = (x + line.min) * inverse;
            let v = if v > self.least { v } else { self.least };
            let v = if v < self.greatest { v } else { self.greatest };
            *q = (v + SHIFT).to_bits() as i8;
        }
    }

    /// What the value of largest magnitude is to become at the start, for scales of either sign: from well inside the range
    /// to beyond its end, where it is cut. Where the ends of the range differ, it matters which of them it meets.
    pub const fn starts(self) -> Starts {
        let mut starts = [[0.0; STARTS.len()]; 2];
        let mut i = 0;
        while i < STARTS.len() {
            starts[0][i] = self.least - STARTS[i];
            starts[1][i] = self.greatest + STARTS[i];
            i += 1;
        }
        starts
    }
}

/// What the value of largest magnitude of a group becomes at the start, for scales of either sign.
pub(super) type Starts = [[f32; STARTS.len()]; 2];

/// How many steps beyond the end of the range the value of largest magnitude is, at the start.
const STARTS: [f32; 8] = [-1.2, -0.8, -0.5, -0.2, 0.1, 0.4, 0.7, 1.1];

/// `value = scale * q - min`, for one group or for 32.
#[derive(Clone, Copy)]
pub(super) struct Line<T> {
    pub scale: T,
    pub min: T,
}

/// The best scales of the groups, by themselves, and how much of `Σ w x²` each of them explains.
#[derive(Clone, Copy)]
pub(super) struct Scales {
    pub scale: Lanes,
    pub gain: Lanes,
}

/// Tries scales with which each group's extreme value becomes each of `starts`, and improves each once by least squares.
#[inline(always)]
pub(super) fn best_scales<I: Isa, C: Codes>(
    isa: I,
    codes: C,
    batch: &Batch,
    extremes: &Lanes,
    starts: &[f32],
) -> Scales {
    match batch.weighted {
        false => isa.run(BestScales::<C, false> { codes, batch, extremes, starts }),
        true => isa.run(BestScales::<C, true> { codes, batch, extremes, starts }),
    }
}

/// Functions that formats share are kernels of their own, so that each is compiled once for an instruction set and not
/// once more for every format that calls it.
struct BestScales<'a, C, const WEIGHTED: bool> {
    codes: C,
    batch: &'a Batch,
    extremes: &'a Lanes,
    starts: &'a [f32],
}

impl<C: Codes, const WEIGHTED: bool> Kernel for BestScales<'_, C, WEIGHTED> {
    type Output = Scales;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Scales {
        let over_extreme = isa.div(isa.splat(1.0), isa.load_slice(self.extremes, 0.0));
        let mut best = Scales { scale: [0.0; LANES], gain: [-1.0; LANES] };
        for &start in self.starts {
            let inverse = isa.mul(isa.splat(start), over_extreme);
            let [xq, qq] = scale_sums::<I, C, WEIGHTED>(isa, self.codes, self.batch, inverse);
            let scale = isa.div(xq, isa.max(qq, isa.splat(TINY)));
            let (gain, scale) = (lanes(isa, isa.mul(xq, scale)), lanes(isa, scale));
            for g in 0..LANES {
                if gain[g] > best.gain[g] {
                    (best.gain[g], best.scale[g]) = (gain[g], scale[g]);
                }
            }
        }
        best
    }
}

/// `Σ w x q` and `Σ w q²` of each group, for the codes of one over these scales.
#[inline(always)]
fn scale_sums<I: Isa, C: Codes, const WEIGHTED: bool>(
    isa: I,
    codes: C,
    batch: &Batch,
    inverse: I::F,
) -> [I::F; 2] {
    let (mut xq, mut qq) = (isa.zero(), isa.zero());
    for (x, w) in batch.x.iter().zip(&batch.w).take(batch.len) {
        let x = isa.load_slice(x, 0.0);
        let q = codes.nearest(isa, isa.mul(x, inverse));
        let wq = if WEIGHTED { isa.mul(isa.load_slice(w, 0.0), q) } else { q };
        xq = isa.fma(x, wq, xq);
        qq = isa.fma(q, wq, qq);
    }
    [xq, qq]
}

/// [`scale_sums`] for scales.
#[inline(always)]
pub(super) fn sums_under<I: Isa, C: Codes>(isa: I, codes: C, batch: &Batch, scales: &Lanes) -> [Lanes; 2] {
    match batch.weighted {
        false => isa.run(SumsUnder::<C, false> { codes, batch, scales }),
        true => isa.run(SumsUnder::<C, true> { codes, batch, scales }),
    }
}

struct SumsUnder<'a, C, const WEIGHTED: bool> {
    codes: C,
    batch: &'a Batch,
    scales: &'a Lanes,
}

impl<C: Codes, const WEIGHTED: bool> Kernel for SumsUnder<'_, C, WEIGHTED> {
    type Output = [Lanes; 2];
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> [Lanes; 2] {
        let inverse = isa.div(isa.splat(1.0), isa.load_slice(self.scales, 0.0));
        scale_sums::<I, C, WEIGHTED>(isa, self.codes, self.batch, inverse).map(|sums| lanes(isa, sums))
    }
}

/// The error of each group under a line.
#[inline(always)]
pub(super) fn errors<I: Isa, C: Codes>(isa: I, codes: C, batch: &Batch, lines: &Line<Lanes>) -> Lanes {
    match batch.weighted {
        false => isa.run(Errors::<C, false> { codes, batch, lines }),
        true => isa.run(Errors::<C, true> { codes, batch, lines }),
    }
}

struct Errors<'a, C, const WEIGHTED: bool> {
    codes: C,
    batch: &'a Batch,
    lines: &'a Line<Lanes>,
}

impl<C: Codes, const WEIGHTED: bool> Kernel for Errors<'_, C, WEIGHTED> {
    type Output = Lanes;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Lanes {
        let [scale, min] = [&self.lines.scale, &self.lines.min].map(|lanes| isa.load_slice(lanes, 0.0));
        let inverse = isa.div(isa.splat(1.0), scale);
        let mut sum = isa.zero();
        for (x, w) in self.batch.x.iter().zip(&self.batch.w).take(self.batch.len) {
            let x = isa.add(isa.load_slice(x, 0.0), min);
            let q = self.codes.nearest(isa, isa.mul(x, inverse));
            let rest = isa.fnma(q, scale, x);
            let weighted = if WEIGHTED { isa.mul(isa.load_slice(w, 0.0), rest) } else { rest };
            sum = isa.fma(weighted, rest, sum);
        }
        lanes(isa, sum)
    }
}

/// `Σ w q`, `Σ w q²` and `Σ w x q` of each group under a line; `Σ w` and `Σ w x`.
#[derive(Clone, Copy)]
pub(super) struct LineSums<T> {
    pub q: T,
    pub qq: T,
    pub xq: T,
    pub w: T,
    pub x: T,
}

#[inline(always)]
fn line_sums<I: Isa, const WEIGHTED: bool>(
    isa: I,
    codes: Integers,
    batch: &Batch,
    line: Line<I::F>,
    (w, x): (I::F, I::F),
) -> LineSums<I::F> {
    let inverse = isa.div(isa.splat(1.0), line.scale);
    let offset = isa.mul(line.min, inverse);
    let mut sums = LineSums { q: isa.zero(), qq: isa.zero(), xq: isa.zero(), w, x };
    for (x, w) in batch.x.iter().zip(&batch.w).take(batch.len) {
        let x = isa.load_slice(x, 0.0);
        let q = codes.nearest(isa, isa.fma(x, inverse, offset));
        let wq = if WEIGHTED { isa.mul(isa.load_slice(w, 0.0), q) } else { q };
        sums.q = isa.add(sums.q, wq);
        sums.qq = isa.fma(q, wq, sums.qq);
        sums.xq = isa.fma(x, wq, sums.xq);
    }
    sums
}

/// [`LineSums`] of the integers that a line gives.
#[inline(always)]
pub(super) fn line_sums_under<I: Isa>(
    isa: I,
    codes: Integers,
    batch: &Batch,
    lines: &Line<Lanes>,
) -> LineSums<Lanes> {
    match batch.weighted {
        false => isa.run(LineSumsUnder::<false> { codes, batch, lines }),
        true => isa.run(LineSumsUnder::<true> { codes, batch, lines }),
    }
}

struct LineSumsUnder<'a, const WEIGHTED: bool> {
    codes: Integers,
    batch: &'a Batch,
    lines: &'a Line<Lanes>,
}

impl<const WEIGHTED: bool> Kernel for LineSumsUnder<'_, WEIGHTED> {
    type Output = LineSums<Lanes>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> LineSums<Lanes> {
        let line =
            Line { scale: isa.load_slice(&self.lines.scale, 0.0), min: isa.load_slice(&self.lines.min, 0.0) };
        let sums = line_sums::<I, WEIGHTED>(isa, self.codes, self.batch, line, self.batch.sums(isa));
        LineSums {
            q: lanes(isa, sums.q),
            qq: lanes(isa, sums.qq),
            xq: lanes(isa, sums.xq),
            w: lanes(isa, sums.w),
            x: lanes(isa, sums.x),
        }
    }
}

/// By how much of a step the first lines run inside of the least and the greatest value.
const INSIDE: [[f32; 2]; 14] = [
    [0.0, 0.0],
    [0.0, 0.4],
    [0.4, 0.0],
    [0.3, 0.3],
    [-0.1, 0.8],
    [0.8, -0.1],
    [0.6, 0.6],
    [0.3, 0.9],
    [0.9, 0.3],
    [-0.2, -0.2],
    [1.0, 1.0],
    [0.1, 1.3],
    [1.3, 0.1],
    [-0.25, 0.2],
];

/// How often the best of these is improved once more.
const AGAIN: usize = 2;

/// The best line of each group, by itself. `floor` is the least minimum: 0 in formats whose minimums have no sign, where 0
/// is then always in reach.
#[inline(always)]
pub(super) fn best_lines<I: Isa>(isa: I, codes: Integers, batch: &Batch, floor: f32) -> Line<Lanes> {
    match batch.weighted {
        false => isa.run(BestLines::<false> { codes, batch, floor }),
        true => isa.run(BestLines::<true> { codes, batch, floor }),
    }
}

struct BestLines<'a, const WEIGHTED: bool> {
    codes: Integers,
    batch: &'a Batch,
    floor: f32,
}

impl<const WEIGHTED: bool> Kernel for BestLines<'_, WEIGHTED> {
    type Output = Line<Lanes>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Line<Lanes> {
        let (low, high) = self.batch.ends(isa);
        let low = isa.min(isa.load_slice(&low, 0.0), isa.splat(-self.floor));
        let high = isa.load_slice(&high, 0.0);
        let step = isa.mul(isa.sub(high, low), isa.splat(1.0 / self.codes.greatest));
        let constant = self.batch.sums(isa);
        let mut best = Line { scale: [0.0; LANES], min: [0.0; LANES] };
        let mut most = [f32::NEG_INFINITY; LANES];
        for turn in 0..INSIDE.len() + AGAIN {
            let (scale, min) = match INSIDE.get(turn) {
                Some([below, above]) => {
                    let least = isa.fma(step, isa.splat(*below), low);
                    let share = 1.0 - (below + above) / self.codes.greatest;
                    (isa.mul(step, isa.splat(share)), isa.sub(isa.zero(), least))
                }
                None => (isa.load_slice(&best.scale, 0.0), isa.load_slice(&best.min, 0.0)),
            };
            let sums = line_sums::<I, WEIGHTED>(isa, self.codes, self.batch, Line { scale, min }, constant);
            let line = sums.fit(isa, self.floor);
            let sums = line_sums::<I, WEIGHTED>(isa, self.codes, self.batch, line, constant);
            let line = sums.fit(isa, self.floor);
            let gain = lanes(isa, sums.gain(isa, line));
            let (scale, min) = (lanes(isa, line.scale), lanes(isa, line.min));
            for g in 0..LANES {
                if gain[g] > most[g] {
                    (most[g], best.scale[g], best.min[g]) = (gain[g], scale[g], min[g]);
                }
            }
        }
        best
    }
}

impl<F: Copy> LineSums<F> {
    /// The line that least squares gives: `[qq, -q; -q, w] [scale, min] = [xq, -x]`.
    #[inline(always)]
    fn fit<I: Isa<F = F>>(&self, isa: I, floor: f32) -> Line<F> {
        let square = isa.mul(self.w, self.qq);
        let determinant = isa.fnma(self.q, self.q, square);
        // Where all integers are the same it is nothing but rounding: then any line through the mean will do.
        let least = isa.max(isa.mul(square, isa.splat(SINGULAR)), isa.splat(TINY));
        let free = isa.div(isa.fnma(self.q, self.x, isa.mul(self.w, self.xq)), isa.max(determinant, least));
        let min = isa.max(isa.div(isa.sub(isa.mul(free, self.q), self.x), self.w), isa.splat(floor));
        // The best scale for this minimum: `free` again, unless the floor holds it.
        Line { scale: isa.div(isa.fma(min, self.q, self.xq), isa.max(self.qq, isa.splat(TINY))), min }
    }

    /// How much of `Σ w x²` a line explains with these integers.
    #[inline(always)]
    fn gain<I: Isa<F = F>>(&self, isa: I, Line { scale, min }: Line<F>) -> F {
        // scale (2 xq - scale qq + 2 min q) - min (2 x + min w)
        let two = isa.splat(2.0);
        let inner = isa.fma(two, isa.fma(min, self.q, self.xq), isa.sub(isa.zero(), isa.mul(scale, self.qq)));
        isa.fnma(min, isa.fma(two, self.x, isa.mul(min, self.w)), isa.mul(scale, inner))
    }
}

/// The best f16 scales of blocks that have only one, and their exact values over the units. `plain` is what the extreme
/// value becomes in the reference rounding, which takes part: so the search is never worse.
#[inline(always)]
pub(super) fn one_scale<I: Isa, C: Codes>(
    isa: I,
    codes: C,
    batch: &Batch,
    starts: &Starts,
    plain: f32,
) -> ([f16; LANES], Lanes) {
    let extremes = batch.extremes(isa);
    let [first, second] = starts.each_ref().map(|starts| best_scales(isa, codes, batch, &extremes, starts));
    let found: Lanes = std::array::from_fn(|g| match second.gain[g] > first.gain[g] {
        true => second.scale[g],
        false => first.scale[g],
    });
    let [xq, qq] = sums_under(isa, codes, batch, &found);
    let again = std::array::from_fn(|g| xq[g] / qq[g].max(TINY));
    let mut best = found;
    let mut least = [f32::INFINITY; LANES];
    for scales in [extremes.map(|extreme| extreme / plain), found, again] {
        let mut stored = scales;
        batch.as_stored(isa, &mut stored);
        let errors = errors(isa, codes, batch, &Line { scale: stored, min: [0.0; LANES] });
        for g in 0..LANES {
            if errors[g] < least[g] {
                (least[g], best[g]) = (errors[g], scales[g]);
            }
        }
    }
    batch.stored(&best)
}

/// The best f16 scales and minimums of blocks that have only one of each, with the reference rounding as one of those tried.
#[inline(always)]
pub(super) fn one_line<I: Isa>(isa: I, codes: Integers, batch: &Batch) -> Line<([f16; LANES], Lanes)> {
    let (low, high) = batch.ends(isa);
    let plain = Line {
        scale: std::array::from_fn(|g| (high[g] - low[g]) / codes.greatest),
        min: low.map(|low| -low),
    };
    let found = best_lines(isa, codes, batch, f32::NEG_INFINITY);
    let mut best = found;
    let mut least = [f32::INFINITY; LANES];
    for line in [plain, found] {
        let mut stored = line;
        batch.as_stored(isa, &mut stored.scale);
        batch.as_stored(isa, &mut stored.min);
        let errors = errors(isa, codes, batch, &stored);
        for g in 0..LANES {
            if errors[g] < least[g] {
                (least[g], best.scale[g], best.min[g]) = (errors[g], line.scale[g], line.min[g]);
            }
        }
    }
    Line { scale: batch.stored(&best.scale), min: batch.stored(&best.min) }
}
