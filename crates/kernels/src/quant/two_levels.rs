//! The search in formats of two levels: the scales of a block's groups are small integers, `s`, times one f16, `d`.
//!
//! Each group is fitted alone first ([`super::search`]), which says how large `d` must be for all scales to be in
//! range. Then, in turns: for this `d` every group takes the integer scale of the least error, from as many neighbours as there
//! are lanes; and for these integers `d` is fitted to the whole block.

use std::array::from_fn;

use half::f16;

use super::search::{
    Codes, Group, Integers, Lanes, Line, SINGULAR, Target, best_line, errors, least, line_starts, refit,
    refit_lines,
};
use crate::simd::Isa;

/// Turns of choosing the groups' integers and fitting the block's scales to them.
const TURNS: usize = 3;

/// The scales of a block: `scale of group g = d * s[g]`.
pub(super) struct Scales<const GROUPS: usize> {
    pub d: f16,
    pub s: [i8; GROUPS],
    /// `d * s[g]` over the target's unit.
    pub scale: [f32; GROUPS],
}

/// The best scales, whose integers lie in `range`. `starts` gives scales to start a group from: 16 lanes of one sign,
/// 16 of the other.
#[inline(always)]
pub(super) fn scales<I: Isa, C: Codes, const LEN: usize, const GROUPS: usize>(
    isa: I,
    codes: C,
    range: (i8, i8),
    target: &Target<LEN>,
    starts: impl Fn(f32) -> Lanes,
) -> Scales<GROUPS> {
    let len = const { LEN / GROUPS };
    let (least_s, most_s) = (f32::from(range.0), f32::from(range.1));
    // The best scale of either sign for each group, and of them all the largest.
    let mut alone = [[0.0f32; 2]; GROUPS];
    let mut largest = 0.0f32;
    for g in 0..GROUPS {
        let group = target.group(g, len);
        let mut scales = starts(group.extreme(isa));
        refit(isa, codes, group, &mut scales);
        let errors = errors(isa, codes, group, &scales);
        let [first, second] = [least(isa, &errors[..16]), least(isa, &errors[16..])];
        alone[g] = [scales[first.lane], scales[16 + second.lane]];
        let better = alone[g][usize::from(second.error < first.error)];
        if better.abs() > largest.abs() {
            largest = better;
        }
    }
    let (mut f16, mut d) = target.stored_above(largest / least_s);
    let mut best = Scales { d: f16, s: [0; GROUPS], scale: [0.0; GROUPS] };
    let mut least_error = f32::INFINITY;
    for _ in 0..TURNS {
        let mut s = [0.0f32; GROUPS];
        let mut error = 0.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let (mut xv, mut vv) = (0.0, 0.0);
        for g in 0..GROUPS {
            let group = target.group(g, len);
            let centre = alone[g].map(|scale| (scale * inverse).round_ties_even());
            let near: Lanes = from_fn(|i| (centre[i / 16] + (i % 16) as f32 - 8.0).clamp(least_s, most_s));
            let found = least(isa, &errors(isa, codes, group, &near.map(|s| d * s)));
            s[g] = near[found.lane];
            error += found.error;
            let (x, w) = group.load(isa);
            let q = codes.nearest(isa, isa.mul(x, isa.splat(if s[g] == 0.0 { 0.0 } else { inverse / s[g] })));
            let v = isa.mul(q, isa.splat(s[g]));
            let wv = isa.mul(w, v);
            xv += isa.sum(isa.mul(x, wv));
            vv += isa.sum(isa.mul(v, wv));
        }
        // Fitting lowers the error but for the rounding of `d`, and of numbers too small for their squares.
        if error < least_error {
            least_error = error;
            best = Scales { d: f16, s: s.map(|s| s as i8), scale: s.map(|s| d * s) };
        }
        if vv == 0.0 {
            break;
        }
        (f16, d) = target.stored(xv / vv);
    }
    best
}

/// The scales and minimums of a block: `value = (d * s[g]) * q - (dmin * m[g])`.
pub(super) struct LineScales<const GROUPS: usize> {
    pub d: f16,
    pub dmin: f16,
    pub s: [u8; GROUPS],
    pub m: [u8; GROUPS],
    /// `d * s[g]` and `dmin * m[g]` over the target's unit.
    pub lines: [Line<f32>; GROUPS],
}

/// The best scales and minimums, whose integers lie in `0..=most`.
#[inline(always)]
pub(super) fn lines<I: Isa, const LEN: usize, const GROUPS: usize>(
    isa: I,
    codes: Integers,
    most: u8,
    target: &Target<LEN>,
) -> LineScales<GROUPS> {
    let len = const { LEN / GROUPS };
    let most = f32::from(most);
    let mut alone = [Line { scale: 0.0f32, min: 0.0f32 }; GROUPS];
    let mut largest = Line { scale: 0.0f32, min: 0.0f32 };
    for g in 0..GROUPS {
        let group = target.group(g, len);
        let mut tried = line_starts(isa, codes, group, 0.0);
        refit_lines(isa, codes, group, &mut tried, 0.0, 2);
        let best = best_line(isa, codes, group, &tried).lane;
        alone[g] = Line { scale: tried.scale[best], min: tried.min[best] };
        largest.scale = largest.scale.max(alone[g].scale);
        largest.min = largest.min.max(alone[g].min);
    }
    let (mut d16, mut d) = target.stored_above(largest.scale / most);
    let (mut dmin16, mut dmin) = target.stored_above(largest.min / most);
    let (mut s, mut m) = ([0.0f32; GROUPS], [0.0f32; GROUPS]);
    let mut best = LineScales {
        d: d16,
        dmin: dmin16,
        s: [0; GROUPS],
        m: [0; GROUPS],
        lines: [Line { scale: 0.0, min: 0.0 }; GROUPS],
    };
    let mut least_error = f32::INFINITY;
    for turn in 0..TURNS {
        let mut error = 0.0;
        let over = |value: f32, unit: f32| if unit == 0.0 { 0.0 } else { (value / unit).round_ties_even() };
        let mut sums = Sums::default();
        for g in 0..GROUPS {
            let group = target.group(g, len);
            // After the first turn the integers are near already: those of the last turn are the centre.
            let centre = match turn {
                0 => [over(alone[g].scale, d), over(alone[g].min, dmin)],
                _ => [s[g], m[g]],
            };
            let near_s: Lanes = from_fn(|i| (centre[0] + (i % 4) as f32 - 1.0).clamp(0.0, most));
            let near_m: Lanes = from_fn(|i| (centre[1] + (i / 4) as f32 - 4.0).clamp(0.0, most));
            let tried = Line { scale: near_s.map(|s| d * s), min: near_m.map(|m| dmin * m) };
            let found = best_line(isa, codes, group, &tried);
            (s[g], m[g]) = (near_s[found.lane], near_m[found.lane]);
            error += found.error;
            sums.add(isa, codes, group, Line { scale: d * s[g], min: dmin * m[g] }, [s[g], m[g]]);
        }
        if error < least_error {
            least_error = error;
            let lines = from_fn(|g| Line { scale: d * s[g], min: dmin * m[g] });
            let (s, m) = (s.map(|s| s as u8), m.map(|m| m as u8));
            best = LineScales { d: d16, dmin: dmin16, s, m, lines };
        }
        let Some(fitted) = sums.solve() else { break };
        (d16, d) = target.stored(fitted.scale);
        (dmin16, dmin) = target.stored(fitted.min);
    }
    best
}

impl<const GROUPS: usize> LineScales<GROUPS> {
    /// The integers of all values.
    #[inline(always)]
    pub fn round<const LEN: usize>(&self, codes: Integers, target: &Target<LEN>, q: &mut [i8; LEN]) {
        let len = const { LEN / GROUPS };
        for (g, q) in q.chunks_exact_mut(len).enumerate() {
            codes.round(target.group(g, len), self.lines[g].scale, self.lines[g].min, q);
        }
    }
}

/// The sums of least squares for `x = d * v - dmin * m`, with `v = s * q`.
#[derive(Default)]
struct Sums {
    vv: f32,
    vm: f32,
    mm: f32,
    xv: f32,
    xm: f32,
}

impl Sums {
    #[inline(always)]
    fn add<I: Isa>(&mut self, isa: I, codes: Integers, group: Group<'_>, line: Line<f32>, [s, m]: [f32; 2]) {
        let inverse = if line.scale == 0.0 { 0.0 } else { 1.0 / line.scale };
        let (x, w) = group.load(isa);
        let q = codes.nearest(isa, isa.mul(isa.add(x, isa.splat(line.min)), isa.splat(inverse)));
        let v = isa.mul(q, isa.splat(s));
        let wv = isa.mul(w, v);
        self.vv += isa.sum(isa.mul(v, wv));
        self.vm += isa.sum(wv) * m;
        self.mm += isa.sum(w) * m * m;
        self.xv += isa.sum(isa.mul(x, wv));
        self.xm += isa.sum(isa.mul(x, w)) * m;
    }

    /// `[vv, -vm; -vm, mm] [d, dmin] = [xv, -xm]`; `None` where the block does not say both, or they would
    /// have another sign than the groups chose them for.
    fn solve(&self) -> Option<Line<f32>> {
        if self.mm == 0.0 {
            let scale = self.xv / self.vv;
            return (scale > 0.0 && scale.is_finite()).then_some(Line { scale, min: 0.0 });
        }
        let determinant = self.vv * self.mm - self.vm * self.vm;
        if determinant <= SINGULAR * self.vv * self.mm {
            return None;
        }
        let scale = (self.xv * self.mm - self.xm * self.vm) / determinant;
        let min = (self.xv * self.vm - self.xm * self.vv) / determinant;
        (scale > 0.0 && min > 0.0 && scale.is_finite() && min.is_finite()).then_some(Line { scale, min })
    }
}
