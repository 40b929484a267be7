//! The learning rate as a function of the step.
//!
//! A run warms up linearly to the peak rate and then follows a [`Shape`] down to a fraction of it. Steps count from
//! 0, as in llm.c (`llmc/schedulers.h`), whose formulas these are: step 0 of a warm-up of W steps has
//! `peak · 1 / W`, step W - 1 has the peak, and the last step is one short of the end of the descent.

use std::f64::consts::PI;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, fail};

/// What part of the run the decay of [`Shape::Wsd`] takes, unless it is said otherwise.
pub const DECAY_FRACTION: f64 = 0.2;

/// A learning rate for every step. It is a pure function: what is resumed needs no state of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// The highest rate, which the warm-up ends at.
    pub peak: f64,
    /// What follows the warm-up.
    pub shape: Shape,
    /// Steps of the warm-up; 0 for none. It may be longer than the run, which then ends below the peak.
    pub warmup: u64,
    /// Steps of the run, the warm-up included.
    pub total: u64,
    /// The rate at the end, as a fraction of the peak. [`Shape::Constant`] stays at the peak.
    pub final_fraction: f64,
}

/// The course of the rate between warm-up and end.
///
/// With r the part of the steps after the warm-up that is done, the rate is `end + c · (peak - end)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// c = 1.
    Constant,
    /// c = 1 - r.
    Linear,
    /// c = (1 + cos(π r)) / 2 (Loshchilov and Hutter, 2016, without restarts).
    Cosine,
    /// Warm-up, stable, decay (MiniCPM, Hu et al., 2024): c = 1 until the decay.
    Wsd {
        /// What part of the whole run the decay takes, 0 to 1; it starts after the warm-up at the earliest.
        decay_fraction: f64,
        /// The decay's course.
        decay: Decay,
    },
}

/// How [`Shape::Wsd`] comes down, with r the part of the decay that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// c = 1 - r.
    Linear,
    /// c = 1 - √r, which Hägele et al., 2024 found to be better than linear; llm.c has this one.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl Schedule {
    /// Fails for numbers that no run can mean: rates that are negative or not finite, fractions outside 0 to 1.
    pub fn check(&self) -> Result<()> {
        if !self.peak.is_finite() || self.peak < 0.0 {
            fail!("the learning rate is {}; expected a number that is not negative", self.peak);
        }
        if !(0.0..=1.0).contains(&self.final_fraction) {
            fail!("the final fraction of the learning rate is {}; expected 0 to 1", self.final_fraction);
        }
        match self.shape {
            Shape::Wsd { decay_fraction, .. } if !(0.0..=1.0).contains(&decay_fraction) => {
                fail!("the decay takes the fraction {decay_fraction} of the run; expected 0 to 1")
            }
            Shape::Wsd { .. } | Shape::Constant | Shape::Linear | Shape::Cosine => Ok(()),
        }
    }

    /// The rate of a step, counted from 0. From step `total` on it is what the run comes down to.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let end = self.peak * self.final_fraction;
        end + self.coefficient(step) * (self.peak - end)
    }

    /// How far the rate is above its end, 1 to 0, for a step after the warm-up.
    fn coefficient(&self, step: u64) -> f64 {
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear => 1.0 - part_done(step, self.warmup, self.total),
            Shape::Cosine => 0.5 * (1.0 + (PI * part_done(step, self.warmup, self.total)).cos()),
            Shape::Wsd { decay_fraction, decay } => {
                let length = (self.total as f64 * decay_fraction).round() as u64;
                let start = self.total.saturating_sub(length).max(self.warmup);
                let done = part_done(step, start, self.total);
                match decay {
                    Decay::Linear => 1.0 - done,
                    Decay::OneMinusSqrt => 1.0 - done.sqrt(),
                }
            }
        }
    }
}

/// What part of the steps from `start` to `end` lies before `step`, 0 to 1.
fn part_done(step: u64, start: u64, end: u64) -> f64 {
    if step >= end {
        return 1.0; // also where there are no steps between the two
    }
    step.saturating_sub(start) as f64 / (end - start.min(step)) as f64
}

impl FromStr for Shape {
    type Err = Error;

    /// `constant`, `linear`, `cosine` or `wsd`, the last with its usual decay.
    fn from_str(text: &str) -> Result<Shape> {
        match text {
            "constant" => Ok(Shape::Constant),
            "linear" => Ok(Shape::Linear),
            "cosine" => Ok(Shape::Cosine),
            "wsd" => Ok(Shape::Wsd { decay_fraction: DECAY_FRACTION, decay: Decay::OneMinusSqrt }),
            other => fail!("learning-rate schedule {other:?}; expected constant, linear, cosine or wsd"),
        }
    }
}

impl FromStr for Decay {
    type Err = Error;

    /// `linear` or `1-sqrt`.
    fn from_str(text: &str) -> Result<Decay> {
        match text {
            "linear" => Ok(Decay::Linear),
            "1-sqrt" => Ok(Decay::OneMinusSqrt),
            other => fail!("learning-rate decay {other:?}; expected linear or 1-sqrt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [&str; 4] = ["constant", "linear", "cosine", "wsd"];

    fn schedule(shape: &str, warmup: u64, total: u64) -> Schedule {
        Schedule { peak: 1e-3, shape: shape.parse().unwrap(), warmup, total, final_fraction: 0.1 }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "found {found}, expected {expected}");
    }

    #[test]
    fn every_shape_warms_up_to_the_peak() {
        for shape in SHAPES {
            let schedule = schedule(shape, 10, 100);
            close(schedule.lr(0), 1e-4);
            close(schedule.lr(4), 5e-4);
            close(schedule.lr(9), 1e-3);
            close(schedule.lr(10), 1e-3);
        }
    }

    #[test]
    fn shapes_come_down_by_their_formulas() {
        // Half and three quarters of the 90 steps after the warm-up.
        let linear = schedule("linear", 10, 100);
        close(linear.lr(55), 0.55e-3);
        let cosine = schedule("cosine", 10, 100);
        close(cosine.lr(55), 0.55e-3);
        close(cosine.lr(85), 1e-4 + 9e-4 * 0.5 * (1.0 + (PI * 75.0 / 90.0).cos()));
        close(schedule("constant", 10, 100).lr(99), 1e-3);
        let mut wsd = schedule("wsd", 10, 100);
        close(wsd.lr(79), 1e-3);
        close(wsd.lr(80), 1e-3);
        close(wsd.lr(85), 1e-4 + 9e-4 * 0.5);
        wsd.shape = Shape::Wsd { decay_fraction: 0.5, decay: Decay::Linear };
        close(wsd.lr(50), 1e-3);
        close(wsd.lr(75), 1e-4 + 9e-4 * 0.5);
    }

    #[test]
    fn cosine_is_that_of_llm_c() {
        let schedule = Schedule { peak: 6e-4, ..schedule("cosine", 10, 40) };
        // What its formula gives in C with single precision.
        let cases = [
            (0, 6.000_000_2e-5),
            (6, 4.200_000_26e-4),
            (9, 6.000_000_28e-4),
            (10, 6.000_000_28e-4),
            (11, 5.985_209_14e-4),
            (25, 3.299_999_81e-4),
            (33, 1.293_509_12e-4),
            (39, 6.147_908_43e-5),
        ];
        for (step, expected) in cases {
            let lr = schedule.lr(step);
            assert!((lr / expected - 1.0).abs() < 5e-7, "step {step}: {lr}, expected {expected}");
        }
    }

    #[test]
    fn beyond_the_end_the_rate_is_the_final_one() {
        for shape in SHAPES {
            let expected = if shape == "constant" { 1e-3 } else { 1e-4 };
            for step in [100, 101, u64::MAX] {
                close(schedule(shape, 10, 100).lr(step), expected);
            }
            // Without a single step, and with a warm-up that is just as long as the run.
            close(schedule(shape, 0, 0).lr(0), expected);
            close(schedule(shape, 7, 7).lr(7), expected);
        }
    }

    #[test]
    fn a_warmup_longer_than_the_run_goes_on_to_the_end() {
        for shape in SHAPES {
            let schedule = schedule(shape, 1000, 100);
            close(schedule.lr(99), 1e-4);
            close(schedule.lr(100), 1.01e-4);
            assert!(schedule.lr(5000).is_finite());
        }
    }

    #[test]
    fn the_rate_never_rises_after_the_warmup_and_stays_in_bounds() {
        for shape in SHAPES {
            for (warmup, total) in [(0, 1), (0, 7), (3, 7), (6, 7), (0, 1000), (950, 1000)] {
                let schedule = schedule(shape, warmup, total);
                let mut last = f64::INFINITY;
                for step in warmup..total + 3 {
                    let rate = schedule.lr(step);
                    assert!(
                        (9.9999e-5..=1.0001e-3).contains(&rate),
                        "{shape} {warmup} {total} {step}: {rate}"
                    );
                    assert!(rate <= last, "{shape} {warmup} {total} {step}");
                    last = rate;
                }
            }
        }
    }

    #[test]
    fn a_decay_that_would_begin_in_the_warmup_begins_after_it() {
        let mut wsd = schedule("wsd", 50, 100);
        wsd.shape = Shape::Wsd { decay_fraction: 1.0, decay: Decay::Linear };
        close(wsd.lr(49), 1e-3);
        close(wsd.lr(50), 1e-3);
        close(wsd.lr(75), 1e-4 + 9e-4 * 0.5);
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let good = schedule("wsd", 1, 2);
        good.check().unwrap();
        for peak in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(Schedule { peak, ..good }.check().is_err());
        }
        for final_fraction in [f64::NAN, -0.1, 1.5] {
            assert!(Schedule { final_fraction, ..good }.check().is_err());
        }
        for decay_fraction in [f64::NAN, -0.1, 1.5] {
            let shape = Shape::Wsd { decay_fraction, decay: Decay::Linear };
            let bad = Schedule { shape, ..good };
            assert!(bad.check().is_err());
            bad.lr(0); // and does not panic
        }
        let error = "cosin".parse::<Shape>().unwrap_err().to_string();
        assert!(error.contains("\"cosin\"") && error.contains("constant, linear, cosine or wsd"), "{error}");
        assert!("sqrt".parse::<Decay>().is_err());
        assert_eq!("1-sqrt".parse::<Decay>().unwrap(), Decay::OneMinusSqrt);
    }
}
