//! The search in formats of two levels: the scales of a block's groups are small integers, `s`, times one f16, `d`.
//!
//! Each group is fitted alone first ([`super::search`]), which says how large `d` must be for all scales to be in
//! range. Then, in turns: for this `d` every group takes the integer scale of the least error among some neighbours; and for
//! these integers `d` is fitted to the whole block.
//!
//! The blocks of a [`Batch`] are searched together. `GROUPS` lanes are a block: what a block has one of, its lanes have all.

use std::array::from_fn;

use half::f16;

use super::search::{
    Batch, Codes, Integers, Lanes, Line, SINGULAR, Starts, best_lines, best_scales, errors, line_sums_under,
    sums_under,
};
use crate::simd::{Isa, LANES};

/// Turns of choosing the groups' integers and fitting the block's scales to them.
const TURNS: usize = 3;

/// The integers beside the likeliest that are tried too, for each one's codes lead to a minimum of its own. The
/// first turn looks furthest.
const NEAR: [f32; 17] =
    [0.0, -1.0, 1.0, -2.0, 2.0, -3.0, 3.0, -4.0, 4.0, -5.0, 5.0, -6.0, 6.0, -7.0, 7.0, -8.0, 8.0];

/// The scales of blocks: `scale = d * s`.
pub(super) struct Scales {
    d: [f16; LANES],
    s: [i8; LANES],
    /// `d * s` over the batch's units.
    scale: Lanes,
}

/// The sum over each block's lanes, in all of them.
#[inline(always)]
fn block_sums<const GROUPS: usize>(lanes: &Lanes) -> Lanes {
    let mut sums = [0.0; LANES];
    for (sums, lanes) in sums.chunks_exact_mut(GROUPS).zip(lanes.chunks_exact(GROUPS)) {
        sums.fill(lanes.iter().sum());
    }
    sums
}

/// The largest magnitude of each block's lanes with its sign, in all of them.
#[inline(always)]
fn block_extremes<const GROUPS: usize>(lanes: &Lanes) -> Lanes {
    let mut extremes = [0.0; LANES];
    for (extremes, lanes) in extremes.chunks_exact_mut(GROUPS).zip(lanes.chunks_exact(GROUPS)) {
        extremes.fill(lanes.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most }));
    }
    extremes
}

/// How many of `unit` a value is, to the nearest.
#[inline(always)]
fn over(value: f32, unit: f32) -> f32 {
    if unit == 0.0 { 0.0 } else { (value / unit).round_ties_even() }
}

/// The best scales, whose integers lie in `range`. `starts` are what a group's extreme value becomes at the start, for either
/// sign.
#[inline(always)]
pub(super) fn scales<I: Isa, C: Codes, const GROUPS: usize>(
    isa: I,
    codes: C,
    range: (i8, i8),
    batch: &Batch,
    starts: &Starts,
) -> Scales {
    let (least_s, most_s) = (f32::from(range.0), f32::from(range.1));
    let extremes = batch.extremes(isa);
    let alone = starts.each_ref().map(|starts| best_scales(isa, codes, batch, &extremes, starts));
    let better = from_fn(|g| alone[usize::from(alone[1].gain[g] > alone[0].gain[g])].scale[g]);
    let largest = block_extremes::<GROUPS>(&better);
    let (mut d16, mut d) = batch.stored_above(&largest.map(|largest| largest / least_s));
    let mut s = better;
    let mut best = Scales { d: d16, s: [0; LANES], scale: [0.0; LANES] };
    let mut least = [f32::INFINITY; LANES];
    for turn in 0..TURNS {
        // At first around the best scale of either sign, then around what was found.
        let centres: &[Lanes] = match turn {
            0 => &alone.each_ref().map(|alone| from_fn(|g| over(alone.scale[g], d[g]))),
            _ => &[s],
        };
        let mut error = [f32::INFINITY; LANES];
        for centre in centres {
            for step in &NEAR[..if turn == 0 { 17 } else { 5 }] {
                let tried: Lanes = from_fn(|g| (centre[g] + step).clamp(least_s, most_s));
                let scale = from_fn(|g| d[g] * tried[g]);
                let found = errors(isa, codes, batch, &Line { scale, min: [0.0; LANES] });
                for g in 0..LANES {
                    if found[g] < error[g] {
                        (error[g], s[g]) = (found[g], tried[g]);
                    }
                }
            }
        }
        let scale: Lanes = from_fn(|g| d[g] * s[g]);
        // Fitting lowers the error but for the rounding of `d`, and of numbers too small for their squares.
        let error = block_sums::<GROUPS>(&error);
        for g in 0..LANES {
            if error[g] < least[g] {
                (least[g], best.d[g], best.s[g], best.scale[g]) = (error[g], d16[g], s[g] as i8, scale[g]);
            }
        }
        if turn + 1 == TURNS {
            break;
        }
        let [xq, qq] = sums_under(isa, codes, batch, &scale);
        let xv = block_sums::<GROUPS>(&from_fn(|g| s[g] * xq[g]));
        let vv = block_sums::<GROUPS>(&from_fn(|g| s[g] * s[g] * qq[g]));
        (d16, d) = batch.stored(&from_fn(|g| if vv[g] > 0.0 { xv[g] / vv[g] } else { d[g] }));
    }
    best
}

/// The scales and minimums of blocks: `value = (d * s) * q - (dmin * m)`.
pub(super) struct LineScales {
    d: [f16; LANES],
    dmin: [f16; LANES],
    s: [u8; LANES],
    m: [u8; LANES],
    /// `d * s` and `dmin * m` over the batch's units.
    lines: Line<Lanes>,
}

/// The best scales and minimums, whose integers lie in `0..=most`.
#[inline(always)]
pub(super) fn lines<I: Isa, const GROUPS: usize>(
    isa: I,
    codes: Integers,
    most: u8,
    batch: &Batch,
) -> LineScales {
    let most = f32::from(most);
    let alone = best_lines(isa, codes, batch, 0.0);
    let largest = [&alone.scale, &alone.min].map(block_extremes::<GROUPS>);
    let [(mut d16, mut d), (mut dmin16, mut dmin)] =
        largest.map(|largest| batch.stored_above(&largest.map(|largest| largest / most)));
    let mut s: Lanes = from_fn(|g| over(alone.scale[g], d[g]));
    let mut m: Lanes = from_fn(|g| over(alone.min[g], dmin[g]));
    let mut best = LineScales {
        d: d16,
        dmin: dmin16,
        s: [0; LANES],
        m: [0; LANES],
        lines: Line { scale: [0.0; LANES], min: [0.0; LANES] },
    };
    let mut least = [f32::INFINITY; LANES];
    for turn in 0..TURNS {
        let line =
            |s: &Lanes, m: &Lanes| Line { scale: from_fn(|g| d[g] * s[g]), min: from_fn(|g| dmin[g] * m[g]) };
        let (centre, mut error) = ((s, m), [f32::INFINITY; LANES]);
        for step in &NEAR[..if turn == 0 { 9 } else { 5 }] {
            let s_tried: Lanes = from_fn(|g| (centre.0[g] + step).clamp(0.0, most));
            let tried = line(&s_tried, &centre.1);
            let sums = line_sums_under(isa, codes, batch, &tried);
            // The best minimum for these integers.
            let m_tried: Lanes = from_fn(|g| {
                let min = (tried.scale[g] * sums.q[g] - sums.x[g]) / sums.w[g];
                over(min, dmin[g]).clamp(0.0, most)
            });
            for beside in &NEAR[..5] {
                let m_tried = m_tried.map(|m| (m + beside).clamp(0.0, most));
                let found = errors(isa, codes, batch, &line(&s_tried, &m_tried));
                for g in 0..LANES {
                    if found[g] < error[g] {
                        (error[g], s[g], m[g]) = (found[g], s_tried[g], m_tried[g]);
                    }
                }
            }
        }
        let lines = line(&s, &m);
        let error = block_sums::<GROUPS>(&error);
        for g in 0..LANES {
            if error[g] < least[g] {
                (least[g], best.d[g], best.dmin[g]) = (error[g], d16[g], dmin16[g]);
                (best.s[g], best.m[g]) = (s[g] as u8, m[g] as u8);
                (best.lines.scale[g], best.lines.min[g]) = (lines.scale[g], lines.min[g]);
            }
        }
        if turn + 1 == TURNS {
            break;
        }
        // Least squares for x = d v - dmin m with v = s q, over a block.
        let sums = line_sums_under(isa, codes, batch, &lines);
        let sum = |term: &dyn Fn(usize) -> f32| block_sums::<GROUPS>(&from_fn(term));
        let vv = sum(&|g| s[g] * s[g] * sums.qq[g]);
        let vm = sum(&|g| s[g] * m[g] * sums.q[g]);
        let mm = sum(&|g| m[g] * m[g] * sums.w[g]);
        let xv = sum(&|g| s[g] * sums.xq[g]);
        let xm = sum(&|g| m[g] * sums.x[g]);
        let fitted: [Option<Line<f32>>; LANES] = from_fn(|g| fit([vv[g], vm[g], mm[g]], [xv[g], xm[g]]));
        (d16, d) = batch.stored(&from_fn(|g| fitted[g].map_or(d[g], |line| line.scale)));
        (dmin16, dmin) = batch.stored(&from_fn(|g| fitted[g].map_or(dmin[g], |line| line.min)));
    }
    best
}

/// `[vv, -vm; -vm, mm] [d, dmin] = [xv, -xm]`; `None` where the block does not say both, or they would
/// have another sign than the groups chose them for.
#[inline(always)]
fn fit([vv, vm, mm]: [f32; 3], [xv, xm]: [f32; 2]) -> Option<Line<f32>> {
    if mm == 0.0 {
        let scale = xv / vv;
        return (scale > 0.0 && scale.is_finite()).then_some(Line { scale, min: 0.0 });
    }
    let determinant = vv * mm - vm * vm;
    if determinant <= SINGULAR * vv * mm {
        return None;
    }
    let scale = (xv * mm - xm * vm) / determinant;
    let min = (xv * vm - xm * vv) / determinant;
    (scale > 0.0 && min > 0.0 && scale.is_finite() && min.is_finite()).then_some(Line { scale, min })
}

impl Scales {
    /// Those of block `b`: `d`, and of each group the integer and the scale.
    #[inline(always)]
    pub fn of<const GROUPS: usize>(&self, b: usize) -> (f16, [i8; GROUPS], [f32; GROUPS]) {
        let first = b * GROUPS;
        (self.d[first], from_fn(|g| self.s[first + g]), from_fn(|g| self.scale[first + g]))
    }

    /// The integers of block `b`.
    #[inline(always)]
    pub fn round<const GROUPS: usize>(&self, codes: Integers, batch: &Batch, b: usize) -> [i8; 256] {
        let line = |g: usize| Line { scale: self.scale[g], min: 0.0 };
        round::<GROUPS>(codes, batch, b, line)
    }
}

impl LineScales {
    /// Those of block `b`: `d` and `dmin`, and of each group the integers.
    #[inline(always)]
    pub fn of<const GROUPS: usize>(&self, b: usize) -> ([f16; 2], [u8; GROUPS], [u8; GROUPS]) {
        let first = b * GROUPS;
        ([self.d[first], self.dmin[first]], from_fn(|g| self.s[first + g]), from_fn(|g| self.m[first + g]))
    }

    /// The integers of block `b`.
    #[inline(always)]
    pub fn round<const GROUPS: usize>(&self, codes: Integers, batch: &Batch, b: usize) -> [u8; 256] {
        let line = |g: usize| Line { scale: self.lines.scale[g], min: self.lines.min[g] };
        round::<GROUPS>(codes, batch, b, line).map(|q| q as u8)
    }
}

/// The integers of block `b`, whose groups have these lines.
#[inline(always)]
fn round<const GROUPS: usize>(
    codes: Integers,
    batch: &Batch,
    b: usize,
    line: impl Fn(usize) -> Line<f32>,
) -> [i8; 256] {
    let mut q = [0; 256];
    for (g, q) in (b * GROUPS..).zip(q.chunks_exact_mut(const { 256 / GROUPS })) {
        codes.round(batch.group(g), line(g), q);
    }
    q
}
