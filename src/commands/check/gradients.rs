//! Every gradient beside a reference's, a row a tensor.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use wootz_kernels::ops::Write;
use wootz_kernels::ops::attention::CacheType;
use wootz_model::gradients::Stored;
use wootz_model::names::Source;
use wootz_model::{Batch, Gradients, Model, Recompute, Training};

/// Largest difference of a gradient, as the norm of the difference over the tensor's norm.
pub const TOLERANCE_F32: f64 = 1e-4;
/// The same with bf16 products: 2^-9 for each rounding, and every layer adds some.
pub const TOLERANCE_ROUNDED: f64 = 5e-2;

/// The gradients of the mean loss, as `sources` say that a file holds the parameters.
pub fn compute(
    model: &Model,
    ids: &[u32],
    targets: &[i32],
    [batch, seq]: [usize; 2],
    sources: &[Source],
) -> Result<Vec<Stored>> {
    let mut gradients = Gradients::new(model, |_| true)?;
    let lengths = vec![seq; batch];
    let count = targets.iter().filter(|&&target| target >= 0).count();
    let weight = 1.0 / count.max(1) as f32;
    let batch = Batch { tokens: ids, targets, lengths: &lengths };
    let mut training = Training::new(Recompute::None, CacheType::F32);
    training.gradients(model, &batch, &|_, _| weight, &mut gradients, Write::Set)?;
    Ok(gradients.in_file(sources)?)
}

/// One tensor's comparison.
pub struct Row {
    name: String,
    shape: Vec<usize>,
    /// Of the reference.
    norm: f64,
    largest: f64,
    relative: f64,
}

/// Compares each gradient of the reference with ours; a tensor that is missing on either side is an error.
pub fn compare(ours: &[Stored], reference: &[Stored]) -> Result<Vec<Row>> {
    let by_name: HashMap<&str, &Stored> = ours.iter().map(|stored| (stored.name.as_str(), stored)).collect();
    let mut rows = Vec::new();
    for want in reference {
        let found = by_name.get(want.name.as_str()).with_context(|| {
            format!("the reference has a gradient of `{}`, and the model no such tensor", want.name)
        })?;
        if found.shape != want.shape {
            anyhow::bail!(
                "gradient of `{}`: the reference's shape is {:?}, the model's {:?}",
                want.name,
                want.shape,
                found.shape
            );
        }
        let (mut squares, mut errors, mut largest) = (0.0, 0.0, 0f64);
        for (found, want) in found.values.iter().zip(&want.values) {
            let difference = f64::from(*found) - f64::from(*want);
            let difference = if difference.is_nan() { f64::INFINITY } else { difference };
            errors += difference * difference;
            squares += f64::from(*want) * f64::from(*want);
            largest = largest.max(difference.abs());
        }
        let (name, shape) = (want.name.clone(), want.shape.clone());
        let relative = if errors == 0.0 { 0.0 } else { (errors / squares).sqrt() };
        rows.push(Row { name, shape, norm: squares.sqrt(), largest, relative });
    }
    let compared: Vec<&str> = reference.iter().map(|stored| stored.name.as_str()).collect();
    if let Some(missing) = ours.iter().find(|stored| !compared.contains(&stored.name.as_str())) {
        anyhow::bail!("the reference has no gradient of `{}`", missing.name);
    }
    Ok(rows)
}

/// Whether all are within the tolerance.
pub fn pass(rows: &[Row], tolerance: f64) -> bool {
    rows.iter().all(|row| row.relative <= tolerance)
}

/// The table on stdout.
pub fn print(rows: &[Row], tolerance: f64) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    println!("{:width$}  {:>16}  {:>10}  {:>10}  {:>10}", "gradient", "shape", "norm", "largest", "relative");
    for row in rows {
        let shape = row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        let verdict = if row.relative <= tolerance { "" } else { "  FAILED" };
        println!(
            "{:width$}  {shape:>16}  {:>10.3e}  {:>10.3e}  {:>10.3e}{verdict}",
            row.name, row.norm, row.largest, row.relative
        );
    }
    println!("{} gradients (tolerance {tolerance:.0e} of each norm)", rows.len());
}

/// The same as JSON.
pub fn to_json(rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "name": row.name,
            "norm": row.norm,
            "max_difference": row.largest,
            "relative_difference": row.relative,
        })
    };
    rows.iter().map(row).collect()
}
