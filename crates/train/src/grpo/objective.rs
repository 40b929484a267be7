//! What GRPO minimises: a function of the log-probabilities of answers, now and when they were drawn.
//!
//! With `l` a token's log-probability, `o` what it was when the token was drawn, `f` what it is under the reference, and `A`
//! the answer's advantage:
//!
//! ```text
//!   r      = e^(l - o)                                   gspo: e^(mean over the answer of (l - o))
//!   loss   = -min(r A, clip(r, 1 - ε, 1 + ε_high) A)     cispo: -min(r, 1 + ε_high) A l, the minimum taken as a constant
//!          + β (e^(f - l) - (f - l) - 1)                 an estimate of the KL divergence from the reference
//! ```
//!
//! Its derivative by `l` is `-r A` where the minimum is the first (and 0 where it is clipped), plus `β (1 - e^(f - l))`. For
//! gspo the derivative by each `l` of an answer is the same: the ratio moves by `r / tokens`, and the answer's loss counts
//! once for each of its tokens.
//!
//! The total is a weighted sum of the tokens' losses. The weights are what tells the forms apart:
//!
//! ```text
//!   grpo, gspo     1 / (answers · tokens of the answer)      Shao et al. 2024, Zheng et al. 2025
//!   bnpo           1 / tokens of the forward pass, and the mean over forward passes
//!   dapo, cispo    1 / tokens of all answers                 Yu et al. 2025, MiniMax 2025
//!   dr_grpo        1 / (answers · most tokens that an answer may have)       Liu et al. 2025
//! ```

use serde::{Deserialize, Serialize};

/// A form of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Every answer counts the same.
    Grpo,
    /// Every token counts the same within a forward pass.
    Bnpo,
    /// Every token counts the same, however long the answers are.
    DrGrpo,
    /// Every token counts the same within a step.
    Dapo,
    /// As `dapo`; ratios are clipped as weights, so that no token is without a gradient.
    Cispo,
    /// As `grpo`; the ratio is that of the whole answer.
    Gspo,
}

/// Which loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Loss {
    /// Its form.
    pub form: Form,
    /// ε: how far below 1 a ratio counts.
    pub epsilon: f64,
    /// ε_high: how far above 1.
    pub epsilon_high: f64,
    /// β: what the divergence from the reference counts.
    pub beta: f64,
}

/// What is known of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// `l - o`, or its mean over the answer for gspo.
    pub log_ratio: f64,
    /// `l`.
    pub log_p: f64,
    /// `f`; none where β is 0.
    pub reference: Option<f64>,
    /// `A`.
    pub advantage: f64,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Term {
    /// The token's loss.
    pub loss: f64,
    /// Its derivative by `l`.
    pub derivative: f64,
    /// The estimated divergence from the reference; 0 without one.
    pub kl: f64,
    /// The ratio was too far off to count in full.
    pub clipped: bool,
}

impl Loss {
    /// The loss of one token.
    pub fn term(&self, token: Known) -> Term {
        let Known { log_ratio, log_p, reference, advantage } = token;
        let ratio = log_ratio.exp();
        let high = 1.0 + self.epsilon_high;
        let mut term = match self.form {
            Form::Cispo => {
                let weight = ratio.min(high) * advantage;
                Term {
                    loss: -weight * log_p,
                    derivative: -weight,
                    kl: 0.0,
                    clipped: ratio > high && advantage > 0.0,
                }
            }
            Form::Grpo | Form::Bnpo | Form::DrGrpo | Form::Dapo | Form::Gspo => {
                let (free, bound) = (ratio * advantage, ratio.clamp(1.0 - self.epsilon, high) * advantage);
                match free > bound {
                    true => Term { loss: -bound, derivative: 0.0, kl: 0.0, clipped: true },
                    false => Term { loss: -free, derivative: -free, kl: 0.0, clipped: false },
                }
            }
        };
        if let Some(reference) = reference {
            let further = reference - log_p;
            term.kl = further.exp_m1() - further;
            term.loss += self.beta * term.kl;
            term.derivative -= self.beta * further.exp_m1();
        }
        term
    }

    /// Whether a token's loss depends on the whole answer.
    pub fn is_of_answers(&self) -> bool {
        self.form == Form::Gspo
    }
}

/// How many there are of what a token's weight is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// Answers of the step, those included that have no gradient.
    pub answers: usize,
    /// Tokens of all answers of the step.
    pub tokens: usize,
    /// Forward passes of the step, and tokens of answers in this one.
    pub passes: usize,
    /// See `passes`.
    pub pass_tokens: usize,
    /// Tokens of this answer.
    pub answer_tokens: usize,
    /// Tokens that an answer may have.
    pub most_tokens: usize,
}

impl Form {
    /// What a token's loss counts in the total.
    pub fn weight(self, counts: &Counts) -> f64 {
        let divisor = match self {
            Form::Grpo | Form::Gspo => counts.answers * counts.answer_tokens,
            Form::Bnpo => counts.passes * counts.pass_tokens,
            Form::DrGrpo => counts.answers * counts.most_tokens,
            Form::Dapo | Form::Cispo => counts.tokens,
        };
        1.0 / divisor.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Form; 6] = [Form::Grpo, Form::Bnpo, Form::DrGrpo, Form::Dapo, Form::Cispo, Form::Gspo];

    fn loss(form: Form) -> Loss {
        Loss { form, epsilon: 0.2, epsilon_high: 0.3, beta: 0.05 }
    }

    /// A token that was drawn with log-probability `old` and has `log_p`.
    fn token(log_p: f64, old: f64, advantage: f64) -> Known {
        Known { log_ratio: log_p - old, log_p, reference: Some(-1.1), advantage }
    }

    #[test]
    fn the_derivative_is_that_of_the_loss() {
        const H: f64 = 1e-6;
        for form in FORMS {
            for advantage in [-1.5, 0.0, 0.7] {
                for log_p in [-2.0, -1.301, -1.25, -1.0, -0.8, -0.2] {
                    let old = -1.0;
                    let term = loss(form).term(token(log_p, old, advantage));
                    // For cispo the weight is a constant: only the factor `l` moves.
                    let of = |h: f64| match form {
                        Form::Cispo => {
                            let known = Known { log_ratio: log_p - old, ..token(log_p + h, old, advantage) };
                            loss(form).term(known).loss
                        }
                        _ => loss(form).term(token(log_p + h, old, advantage)).loss,
                    };
                    let slope = (of(H) - of(-H)) / (2.0 * H);
                    let what = format!("{form:?} {advantage} {log_p}: {} {slope}", term.derivative);
                    assert!((term.derivative - slope).abs() < 1e-7, "{what}");
                }
            }
        }
    }

    #[test]
    fn a_ratio_of_one_is_never_clipped() {
        for form in FORMS {
            let free = Loss { beta: 0.0, ..loss(form) };
            for advantage in [-2.0, 2.0] {
                let term = free.term(Known { reference: None, ..token(-1.0, -1.0, advantage) });
                assert_eq!((term.derivative, term.clipped, term.kl), (-advantage, false, 0.0), "{form:?}");
            }
        }
    }

    #[test]
    fn clipping_takes_the_gradient_from_what_went_too_far() {
        let free = Loss { beta: 0.0, ..loss(Form::Grpo) };
        let of = |ratio: f64, advantage| {
            free.term(Known { reference: None, ..token(-1.0 + ratio.ln(), -1.0, advantage) })
        };
        // Good answers that are likelier by more than 1.3, bad ones less likely by more than 0.8.
        for (ratio, advantage, clipped) in [
            (1.29, 1.0, false),
            (1.31, 1.0, true),
            (0.5, 1.0, false),
            (0.79, -1.0, true),
            (0.81, -1.0, false),
        ] {
            let term = of(ratio, advantage);
            assert_eq!(term.clipped, clipped, "{ratio} {advantage}");
            assert_eq!(term.derivative == 0.0, clipped, "{ratio} {advantage}");
        }
        assert_eq!(of(2.0, -1.0).loss, 2.0, "a bad answer that became likelier counts in full");
        // Cispo weighs it less, and goes on.
        let cispo = Loss { form: Form::Cispo, ..free };
        let term = cispo.term(Known { reference: None, ..token(-0.2, -1.0, 1.0) });
        assert_eq!((term.derivative, term.clipped), (-1.3, true));
    }

    #[test]
    fn the_divergence_is_never_negative() {
        for log_p in [-9.0, -1.2, -1.1, -1.0, -0.001] {
            let kl = loss(Form::Grpo).term(token(log_p, -1.0, 0.0)).kl;
            assert!(kl >= 0.0 && (kl == 0.0) == (log_p == -1.1), "{log_p}: {kl}");
        }
    }

    #[test]
    fn weights_sum_to_what_the_form_says() {
        // Two answers of 3 and 5 tokens in two passes; an answer may have 10.
        let counts = |answer_tokens| Counts {
            answers: 2,
            tokens: 8,
            passes: 2,
            pass_tokens: answer_tokens,
            answer_tokens,
            most_tokens: 10,
        };
        for (form, sum) in FORMS.into_iter().zip([1.0, 1.0, 0.4, 1.0, 1.0, 1.0]) {
            let found = 3.0 * form.weight(&counts(3)) + 5.0 * form.weight(&counts(5));
            assert!((found - sum).abs() < 1e-12, "{form:?}: {found}");
        }
        assert_eq!(Form::Dapo.weight(&counts(3)), 1.0 / 8.0);
    }
}
