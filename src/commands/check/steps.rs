//! Optimiser steps on the reference's batch, beside the losses of somebody else's.
//!
//! The settings and losses stand beside the reference: in `golden.json` (an object `adamw` with `lr`, `betas`, `eps`,
//! `weight_decay`, `clip`, and `steps` of `loss` and `grad_norm`), or in llm.c's way, which is fixed: AdamW with a rate
//! of 1e-4, betas 0.9 and 0.999, a decay of 0.01 on every tensor, no clipping, and `losses` in `train_losses.json`.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::Path;
use wootz_model::{Batch, Model, Recompute};
use wootz_train::optimizer::{Adam, Decay, Options, Rule};
use wootz_train::trainer::{Format, Trained, Trainer};

/// Largest difference of a loss over itself, after ten steps.
pub const TOLERANCE_F32: f64 = 1e-4;
/// The same with bf16 products.
pub const TOLERANCE_ROUNDED: f64 = 2e-2;

/// What somebody else's steps were.
pub struct Reference {
    options: Options,
    lr: f64,
    clip: Option<f64>,
    /// Loss before each step, and the norm of its gradient if that is known.
    steps: Vec<(f64, Option<f64>)>,
}

/// One step of ours beside one of theirs.
pub struct Row {
    loss: [f64; 2],
    grad_norm: (f64, Option<f64>),
}

impl Row {
    fn relative(&self) -> f64 {
        let [found, want] = self.loss;
        let error = (found - want).abs() / want.abs();
        if error.is_nan() { f64::INFINITY } else { error }
    }
}

impl Reference {
    /// Reads what stands beside a reference file.
    pub fn beside(reference: &Path) -> Result<Reference> {
        let folder = reference.parent().unwrap_or(Path::new("."));
        let golden = folder.join("golden.json");
        if golden.is_file() {
            let value = read(&golden)?;
            return Reference::from_golden(&value["adamw"])
                .with_context(|| format!("{}: `adamw`", golden.display()));
        }
        let losses = folder.join("train_losses.json");
        if losses.is_file() {
            let value = read(&losses)?;
            return Reference::from_llmc(&value).with_context(|| losses.display().to_string());
        }
        bail!(
            "{}: there are no optimiser steps to compare with: neither golden.json nor train_losses.json",
            folder.display()
        )
    }

    fn from_golden(value: &Value) -> Result<Reference> {
        let adam = Adam {
            beta1: number(&value["betas"][0], "betas")?,
            beta2: number(&value["betas"][1], "betas")?,
            eps: number(&value["eps"], "eps")?,
        };
        let steps = value["steps"].as_array().context("expected a list `steps`")?;
        let steps = steps.iter().map(|step| Ok((number(&step["loss"], "loss")?, step["grad_norm"].as_f64())));
        Ok(Reference {
            options: Options {
                rule: Rule::AdamW(adam),
                weight_decay: number(&value["weight_decay"], "weight_decay")?,
                decay: Decay::Matrices,
            },
            lr: number(&value["lr"], "lr")?,
            clip: value["clip"].as_f64(),
            steps: steps.collect::<Result<_>>()?,
        })
    }

    fn from_llmc(value: &Value) -> Result<Reference> {
        let rule = Rule::AdamW(Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 });
        let losses = value["losses"].as_array().context("expected a list `losses`")?;
        Ok(Reference {
            options: Options { rule, weight_decay: 0.01, decay: Decay::All },
            lr: 1e-4,
            clip: None,
            steps: losses.iter().map(|x| Ok((number(x, "losses")?, None))).collect::<Result<_>>()?,
        })
    }

    /// Takes the first `count` steps with `model`.
    pub fn take(self, model: Model, format: Format, batch: &Batch, count: usize) -> Result<Vec<Row>> {
        if count > self.steps.len() {
            bail!("the reference has {} optimiser steps, not {count}", self.steps.len());
        }
        let mut trainer =
            Trainer::new(model, self.options, format, Recompute::None, self.clip, Trained::All)?;
        let mut rows = Vec::new();
        for &(loss, grad_norm) in &self.steps[..count] {
            let step = trainer.step(&[*batch], self.lr)?;
            rows.push(Row { loss: [step.loss, loss], grad_norm: (step.grad_norm, grad_norm) });
        }
        Ok(rows)
    }
}

fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value.as_f64().with_context(|| format!("`{name}`: expected a number, found {value}"))
}

/// Whether all are within the tolerance.
pub fn pass(rows: &[Row], tolerance: f64) -> bool {
    rows.iter().all(|row| row.relative() <= tolerance)
}

/// The table on stdout.
pub fn print(rows: &[Row], tolerance: f64) {
    println!(
        "step  {:>12}  {:>12}  {:>10}  {:>12}  {:>12}",
        "loss", "expected", "relative", "norm", "expected"
    );
    for (i, row) in rows.iter().enumerate() {
        let [found, want] = row.loss;
        let (norm, want_norm) = row.grad_norm;
        let want_norm = want_norm.map_or(String::new(), |x| format!("{x:.6}"));
        let verdict = if row.relative() <= tolerance { "" } else { "  FAILED" };
        println!(
            "{i:>4}  {found:>12.6}  {want:>12.6}  {:>10.3e}  {norm:>12.6}  {want_norm:>12}{verdict}",
            row.relative()
        );
    }
    println!("{} optimiser steps (tolerance {tolerance:.0e} of each loss)", rows.len());
}

/// The same as JSON.
pub fn to_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "loss": row.loss[0],
            "reference_loss": row.loss[1],
            "relative_difference": row.relative(),
            "grad_norm": row.grad_norm.0,
            "reference_grad_norm": row.grad_norm.1,
        })
    };
    rows.iter().map(row).collect()
}
