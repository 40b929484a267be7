//! `wootz check --gradients`: every gradient beside differences of the loss, a row a tensor. Nothing is needed for it
//! but a configuration.

use crate::commands::answer::show;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use wootz_model::DecoderConfig;
use wootz_model::arch::{ARCHITECTURES, identify};
use wootz_model::differences::{Case, Comparison, LOSS_TOLERANCE, TOLERANCE, typical};

/// Elements of each tensor that are compared, at the most: all of a norm or a bias.
const ELEMENTS: usize = 36;

/// One decoder's check.
struct Check {
    name: String,
    config: DecoderConfig,
    /// In f32, and in f64.
    loss: [f64; 2],
    rows: Vec<Comparison>,
}

/// Checks a model's configuration or an architecture's; every architecture's where none is named.
pub fn run(target: Option<&str>, threads: usize, as_json: bool) -> Result<()> {
    let checks: Vec<Check> = configurations(target)?
        .into_iter()
        .map(|(name, config)| Check::of(name, &config, threads))
        .collect::<Result<_>>()?;
    let texts: Vec<String> = checks.iter().map(Check::text).collect();
    let output = if as_json { to_json(&checks).to_string() } else { texts.join("\n\n") };
    show(&format!("{output}\n"))?; // where nobody reads on, the exit code still counts
    verdict(&checks)
}

/// What is to be checked. A name of an architecture is one; a file of that name is `./NAME`.
fn configurations(target: Option<&str>) -> Result<Vec<(String, DecoderConfig)>> {
    let Some(target) = target else {
        return ARCHITECTURES.iter().map(|a| Ok((a.name.to_owned(), typical(a)?))).collect();
    };
    if let Some(architecture) = ARCHITECTURES.iter().find(|a| a.name == target) {
        return Ok(vec![(target.to_owned(), typical(architecture)?)]);
    }
    let path = crate::model_arg::resolve(Some(target)).with_context(|| {
        let names: Vec<_> = ARCHITECTURES.iter().map(|a| a.name).collect();
        format!("{target} is no architecture ({}), so it should be a model", names.join(", "))
    })?;
    let (_, config) = identify(&wootz_model::load::open(&path)?)?;
    Ok(vec![(target.to_owned(), config)])
}

impl Check {
    fn of(name: String, config: &DecoderConfig, threads: usize) -> Result<Check> {
        let case = Case::new(config, threads);
        let (loss, gradients) = case.gradients().with_context(|| name.clone())?;
        let rows = case.compare(&gradients, ELEMENTS);
        Ok(Check { name, config: case.config().clone(), loss: [loss, case.reference_loss()], rows })
    }

    /// The difference of the losses, relative to the one in f64.
    fn loss_error(&self) -> f64 {
        let [found, want] = self.loss;
        let error = (found - want).abs() / want.abs();
        if error.is_nan() { f64::INFINITY } else { error }
    }

    fn passed(&self) -> bool {
        self.loss_error() <= LOSS_TOLERANCE && self.rows.iter().all(Comparison::passed)
    }

    fn text(&self) -> String {
        let config = &self.config;
        let mut lines = vec![
            format!(
                "{}, as {} layers of width {} with {} heads of {} over {} of keys and values, and random weights",
                self.name,
                config.n_layers(),
                config.dim,
                config.n_heads,
                config.head_dim,
                config.n_kv_heads
            ),
            format!(
                "loss {:.6} in f32, off by {:.1e} from f64 (tolerance {LOSS_TOLERANCE:.0e})",
                self.loss[0],
                self.loss_error()
            ),
        ];
        let width = self.rows.iter().map(|row| row.id.to_string().len()).max().unwrap_or(0);
        lines.push(format!(
            "{:width$}  {:>9}  {:>8}  {:>9}  {:>9}  {:>9}",
            "gradient", "shape", "compared", "slope", "largest", "relative"
        ));
        lines.extend(self.rows.iter().map(|row| {
            format!(
                "{:width$}  {:>9}  {:>8}  {:>9.2e}  {:>9.2e}  {:>9.2e}{}",
                row.id.to_string(),
                row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x "),
                row.compared,
                row.slope,
                row.error,
                row.relative,
                if row.passed() { "" } else { "  FAILED" }
            )
        }));
        lines.push(format!(
            "{} gradients (tolerance {TOLERANCE:.0e} of each tensor's largest slope)",
            self.rows.len()
        ));
        lines.push(if self.passed() { "passed" } else { "FAILED" }.to_owned());
        lines.join("\n")
    }

    fn to_json(&self) -> Value {
        let row = |row: &Comparison| {
            json!({
                "name": row.id.to_string(),
                "shape": row.shape,
                "compared": row.compared,
                "max_slope": row.slope,
                "max_difference": row.error,
                "relative_difference": row.relative,
                "passed": row.passed(),
            })
        };
        json!({
            "name": self.name,
            "passed": self.passed(),
            "loss": self.loss[0],
            "reference_loss": self.loss[1],
            "loss_relative_difference": self.loss_error(),
            "gradients": self.rows.iter().map(row).collect::<Value>(),
        })
    }
}

fn to_json(checks: &[Check]) -> Value {
    json!({
        "passed": checks.iter().all(Check::passed),
        "tolerance": TOLERANCE,
        "loss_tolerance": LOSS_TOLERANCE,
        "checks": checks.iter().map(Check::to_json).collect::<Value>(),
    })
}

/// An error that names every tensor that is not within the tolerance.
fn verdict(checks: &[Check]) -> Result<()> {
    let mut wrong = Vec::new();
    for check in checks.iter().filter(|check| !check.passed()) {
        let ids: Vec<_> =
            check.rows.iter().filter(|row| !row.passed()).map(|row| row.id.to_string()).collect();
        let what = if ids.is_empty() { "the loss".to_owned() } else { ids.join(", ") };
        wrong.push(format!("{}: {what}", check.name));
    }
    if !wrong.is_empty() {
        bail!("backward disagrees with differences of the loss: {}", wrong.join("; "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_or_loss_beyond_the_tolerance_fails() {
        let (name, config) = configurations(Some("llama")).unwrap().remove(0);
        let mut check = Check::of(name, &config, 1).unwrap();
        check.rows.truncate(2);
        assert!(check.passed() && verdict(std::slice::from_ref(&check)).is_ok());
        let mut loss_is_wrong = Check { name: "b".into(), rows: check.rows.clone(), ..check };
        loss_is_wrong.loss[0] *= 1.00001;
        check = Check { name: "a".into(), config, loss: [1.0, 1.0], rows: loss_is_wrong.rows.clone() };
        check.rows[1].relative = f64::INFINITY;
        assert!(check.text().lines().any(|line| line.ends_with("inf  FAILED")), "{}", check.text());
        let error = verdict(&[check, loss_is_wrong]).unwrap_err().to_string();
        assert!(error.ends_with("a: layers.0.attn_norm.weight; b: the loss"), "{error}");
    }
}
