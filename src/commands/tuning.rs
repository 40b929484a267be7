//! Models that are tuned: loaded as training wants them, with their adapters, and what that takes.

use super::memory;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::sync::Arc;
use wootz_kernels::{DType, Precision};
use wootz_model::Model;
use wootz_model::adapter::{self, Base};
use wootz_model::arch::identify;
use wootz_model::load::{self, LoadOptions};
use wootz_model::lora::Adapter;
use wootz_model::plan::{Plan, Shape, Share};
use wootz_text::Tokenizer;
use wootz_train::fit::{DtypeName, Learning};
use wootz_train::optimizer::{Optimizer, Rule};
use wootz_train::trainer::Format;

/// The adapter to go on with.
///
/// # Errors
/// It cannot be read, or replaces whole parameters.
pub fn given_adapter(model: &Model, name: &str) -> Result<Adapter> {
    let adapter = read_adapter(model, &crate::model_arg::resolve_adapter(name)?)?;
    if let Some((id, _)) = adapter.saved.first() {
        bail!(
            "--adapter {name}: it replaces `{id}` (modules_to_save), which is not trained on; merge it first with `wootz merge`"
        );
    }
    Ok(adapter)
}

/// Reads an adapter for this model.
///
/// # Errors
/// It cannot be read, or is for another model.
pub fn read_adapter(model: &Model, path: &Path) -> Result<Adapter> {
    let base = Base { architecture: model.architecture(), config: model.config() };
    Ok(adapter::read(path, &base, model.pool())?)
}

/// The model's tokenizer, with another chat template if there is one.
///
/// # Errors
/// It has none, or a file cannot be read.
pub fn tokenizer(path: &Path, template: Option<&Path>) -> Result<Arc<Tokenizer>> {
    let mut tokenizer = load::tokenizer(path)
        .with_context(|| format!("{}: texts are read with the model's tokenizer", path.display()))?;
    if let Some(file) = template {
        tokenizer.set_chat_template(load::chat_template(file)?);
    }
    Ok(Arc::new(tokenizer))
}

/// What products usually multiply: f32 where most weights are f32 or f16, which say no less; otherwise what is fast.
///
/// # Errors
/// A model that cannot be opened.
pub fn usual_dtype(model: &str) -> Result<DtypeName> {
    let checkpoint = load::open(&crate::model_arg::resolve(Some(model))?)?;
    let largest = checkpoint.tensors().max_by_key(|tensor| tensor.shape.iter().product::<usize>());
    Ok(match largest.map(|tensor| tensor.dtype) {
        Some(DType::F32 | DType::F16) | None => DtypeName::F32,
        Some(_) => DtypeName::Bf16,
    })
}

/// The longest sequence of a model.
///
/// # Errors
/// A model that cannot be opened.
pub fn longest(model: &str) -> Result<usize> {
    let checkpoint = load::open(&crate::model_arg::resolve(Some(model))?)?;
    Ok(identify(&checkpoint)?.1.max_seq)
}

/// Loads the model. All that is trained is brought into f32 anyhow; what stays as it is takes the products' type, unless
/// it is quantised.
///
/// # Errors
/// A model that cannot be loaded.
pub fn load_model(path: &Path, learning: &Learning, full: bool, threads: usize) -> Result<Model> {
    let exact = full || learning.dtype == DtypeName::F32;
    let precision = if exact { Precision::F32 } else { Precision::Native };
    let mut model = Model::load(path, &LoadOptions { precision, threads })?;
    if !exact {
        convert(&mut model, learning.format())?;
    }
    Ok(model)
}

/// Weights that are not quantised take the type that products multiply.
///
/// # Errors
/// What a device meets that has them.
pub fn convert(model: &mut Model, format: Format) -> Result<()> {
    let (weights, pool) = model.weights_mut();
    Ok(weights.convert(pool, format.dtype(), |_, of| of.block_len() == 1)?)
}

/// Prints what training such a model will take, and refuses what does not fit. `more` is what it takes beside, for each
/// share of the model.
///
/// # Errors
/// It does not; `advice` says what would.
pub fn check_memory(
    model: &Model,
    shape: &Shape,
    learning: &Learning,
    more: &dyn Fn(Share) -> Vec<(&'static str, usize)>,
    limit: Option<usize>,
    advice: &str,
) -> Result<()> {
    for (whose, share) in memory::places_of(model) {
        let shape = Shape { memory: whose.memory(), share, ..shape.clone() };
        let mut rows = rows(model, &shape, learning);
        rows.extend(more(share));
        memory::check(&rows, whose, limit, advice)?;
    }
    Ok(())
}

/// What training takes of one place.
fn rows(model: &Model, shape: &Shape, learning: &Learning) -> Vec<(&'static str, usize)> {
    let rule = learning.options().rule;
    let config = model.config();
    let (plan, moments, masters) = match model.adapters().first() {
        Some(adapter) => {
            let plan = Plan::of_adapter(config, shape, adapter, model.weight_bytes_of(shape.share));
            let per_weight = match rule {
                Rule::AdamW(_) | Rule::Muon { .. } => 2,
                Rule::Sgd(momentum) => usize::from(momentum.is_some()),
            };
            (plan, per_weight * plan.gradients, 0)
        }
        None => {
            let [moments, masters] = Optimizer::bytes(rule, config, shape.dtype, shape.share);
            (Plan::new(config, shape), moments, masters)
        }
    };
    plan_rows(&plan, moments, masters)
}

/// A plan, and what its optimiser takes.
pub fn plan_rows(plan: &Plan, moments: usize, masters: usize) -> Vec<(&'static str, usize)> {
    vec![
        ("weights", plan.weights),
        ("weights in f32", masters),
        ("gradients", plan.gradients),
        ("moments", moments),
        ("activations", plan.activations),
        ("logits", plan.logits),
        ("workspace", plan.workspace),
    ]
}
