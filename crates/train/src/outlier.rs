//! Steps whose loss or gradient norm stands out, as llm.c finds them (`llmc/outlier_detector.h`).
//!
//! A value's z-score is its distance from the mean of the last 128 values, itself included, in standard deviations.
//! The first 128 values have none.
//! A step whose loss or gradient norm scores above a threshold may be skipped: its data is likely bad, and one large
//! update can undo many good ones.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, fail};

/// How many values a score is taken from.
pub const WINDOW: usize = 128;

/// Watches loss and gradient norm. It is part of what a resumed run needs: serialise it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    loss: Detector,
    grad_norm: Detector,
}

/// Above which score a step is skipped; `None` for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// For the loss (llm.c's `-sl`).
    pub loss: Option<f64>,
    /// For the gradient norm (llm.c's `-sg`).
    pub grad_norm: Option<f64>,
}

/// What [`Guard::judge`] says of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// The loss's score; NaN for the first [`WINDOW`] steps.
    pub loss_z: f64,
    /// The gradient norm's score; NaN for the first [`WINDOW`] steps.
    pub grad_norm_z: f64,
    /// What the step should be skipped for.
    pub skip: Option<Outlier>,
}

impl Judgement {
    /// Of a step that measured nothing.
    pub const NONE: Judgement = Judgement { loss_z: f64::NAN, grad_norm_z: f64::NAN, skip: None };
}

/// What stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlier {
    /// The loss.
    Loss,
    /// The gradient norm.
    GradNorm,
}

impl Limits {
    /// Limits from flags, where 0 means never.
    pub fn from_flags(loss: f64, grad_norm: f64) -> Result<Limits> {
        let limit = |what: &str, value: f64| match value {
            0.0 => Ok(None),
            _ if value.is_finite() && value > 0.0 => Ok(Some(value)),
            _ => fail!(
                "the limit for outliers of the {what} is {value}; expected a score such as 3, or 0 for none"
            ),
        };
        Ok(Limits { loss: limit("loss", loss)?, grad_norm: limit("gradient norm", grad_norm)? })
    }
}

impl Guard {
    /// Takes the values of one step, and says whether to skip its update. A value that is no number is above
    /// every limit.
    pub fn judge(&mut self, loss: f64, grad_norm: f64, limits: &Limits) -> Judgement {
        let loss_z = self.loss.score(loss);
        let grad_norm_z = self.grad_norm.score(grad_norm);
        let above = |z: f64, limit: Option<f64>| limit.is_some_and(|limit| z > limit);
        let skip = if above(loss_z, limits.loss) {
            Some(Outlier::Loss)
        } else if above(grad_norm_z, limits.grad_norm) {
            Some(Outlier::GradNorm)
        } else {
            None
        };
        Judgement { loss_z, grad_norm_z, skip }
    }
}

/// The last values of one quantity, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct Detector(VecDeque<f64>);

impl Detector {
    /// Adds a value and gives its score: NaN until there are [`WINDOW`] values before it, 0 where all are equal.
    ///
    /// NaN and infinities score infinity and are left out: one of them would spoil the scores of 128 steps.
    pub fn score(&mut self, value: f64) -> f64 {
        if !value.is_finite() {
            return f64::INFINITY;
        }
        self.0.push_back(value);
        if self.0.len() <= WINDOW {
            return f64::NAN;
        }
        self.0.pop_front();
        // Summed anew each time, unlike llm.c's running sums: they drift, and then a resumed run would score
        // differently. Distances from one of the values, so that equal values have a deviation of exactly 0.
        let distances = || self.0.iter().map(|v| v - value);
        let mean = distances().sum::<f64>() / WINDOW as f64;
        let variance = distances().map(|d| (d - mean) * (d - mean)).sum::<f64>() / WINDOW as f64;
        if variance == 0.0 { 0.0 } else { -mean / variance.sqrt() }
    }
}

impl TryFrom<Vec<f64>> for Detector {
    type Error = Error;

    fn try_from(values: Vec<f64>) -> Result<Detector> {
        if values.len() > WINDOW || values.iter().any(|v| !v.is_finite()) {
            fail!("the outlier detector's state: expected at most {WINDOW} finite numbers");
        }
        Ok(Detector(values.into()))
    }
}

impl From<Detector> for Vec<f64> {
    fn from(detector: Detector) -> Vec<f64> {
        detector.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern, between 0 and 1.
    fn noise(i: u64) -> f64 {
        (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1u64 << 53) as f64
    }

    #[test]
    fn scores_begin_when_the_window_is_full() {
        let mut detector = Detector::default();
        assert!((0..128).all(|i| detector.score(noise(i)).is_nan()));
        assert!(detector.score(noise(128)).is_finite());
        assert!(detector.score(noise(129)).is_finite());
    }

    #[test]
    fn a_score_is_the_distance_from_the_mean_in_deviations() {
        let mut detector = Detector::default();
        let values: Vec<f64> = (0..300).map(|i| 5.0 + noise(i)).collect();
        for (i, &value) in values.iter().enumerate() {
            let score = detector.score(value);
            if i >= WINDOW {
                let window = &values[i + 1 - WINDOW..=i];
                let mean = window.iter().sum::<f64>() / 128.0;
                let square = window.iter().map(|v| v * v).sum::<f64>() / 128.0;
                let expected = (value - mean) / (square - mean * mean).sqrt();
                assert!((score - expected).abs() < 1e-9, "{i}: {score}, expected {expected}");
            }
        }
    }

    #[test]
    fn equal_values_score_zero() {
        let mut detector = Detector::default();
        (0..128).for_each(|_| assert!(detector.score(0.1).is_nan()));
        assert_eq!(detector.score(0.1), 0.0);
    }

    #[test]
    fn values_that_are_no_numbers_leave_no_trace() {
        let (mut clean, mut dirty) = (Detector::default(), Detector::default());
        for i in 0..200 {
            if i % 7 == 0 {
                assert_eq!(dirty.score([f64::NAN, f64::INFINITY, f64::NEG_INFINITY][i % 3]), f64::INFINITY);
            }
            let (a, b) = (clean.score(noise(i as u64)), dirty.score(noise(i as u64)));
            assert_eq!(a.to_bits(), b.to_bits());
        }
    }

    #[test]
    fn a_step_is_skipped_for_what_is_above_its_limit() {
        let full = || {
            let mut guard = Guard::default();
            for i in 0..128 {
                assert_eq!(
                    guard.judge(noise(i), noise(i), &Limits::from_flags(5.0, 5.0).unwrap()).skip,
                    None
                );
            }
            guard
        };
        let limits = |l, g| Limits::from_flags(l, g).unwrap();
        assert_eq!(full().judge(50.0, 0.5, &limits(3.0, 3.0)).skip, Some(Outlier::Loss));
        assert_eq!(full().judge(0.5, 50.0, &limits(3.0, 3.0)).skip, Some(Outlier::GradNorm));
        assert_eq!(full().judge(0.5, 50.0, &limits(3.0, 0.0)).skip, None);
        assert_eq!(full().judge(-50.0, 0.5, &limits(3.0, 3.0)).skip, None); // a low loss is welcome
        assert_eq!(full().judge(0.5, f64::NAN, &limits(0.0, 3.0)).skip, Some(Outlier::GradNorm));
        assert_eq!(full().judge(f64::NAN, f64::NAN, &limits(0.0, 0.0)).skip, None);
        assert!(Limits::from_flags(-1.0, 0.0).is_err() && Limits::from_flags(0.0, f64::NAN).is_err());
    }

    #[test]
    fn the_state_survives_json_to_the_last_bit() {
        let mut guard = Guard::default();
        let limits = Limits::default();
        for i in 0..150 {
            guard.judge(f64::from(noise(i) as f32), noise(i) / 3.0, &limits);
        }
        let mut again: Guard = serde_json::from_str(&serde_json::to_string(&guard).unwrap()).unwrap();
        assert_eq!(guard, again);
        for i in 150..300 {
            let (a, b) = (guard.judge(noise(i), noise(i), &limits), again.judge(noise(i), noise(i), &limits));
            assert_eq!(a.loss_z.to_bits(), b.loss_z.to_bits());
            assert_eq!(a.grad_norm_z.to_bits(), b.grad_norm_z.to_bits());
        }
        let long = format!("[{}1]", "1,".repeat(128));
        assert!(serde_json::from_str::<Detector>(&long).is_err());
    }
}
