//! `wootz check`: this program's logits, loss, gradients and optimiser steps against a reference's; or its gradients
//! against differences of the loss.

mod differences;
mod gradients;
mod steps;

use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::{Path, PathBuf};
use wootz_formats::llmc::DebugState;
use wootz_formats::{Checkpoint, FileKind, Format, Metadata, TensorView, identify, safetensors};
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::ops::softmax::log_sum_exp;
use wootz_kernels::{DType, Precision, pool, quant};
use wootz_model::arch::sources;
use wootz_model::compare::{Logits, compare};
use wootz_model::gradients::Stored;
use wootz_model::load::LoadOptions;
use wootz_model::names::Source;
use wootz_model::{Batch, Chunk, MAX_CHUNK, Model, Rows, Scratch};
use wootz_train::trainer as train;

/// Compare logits, loss and every gradient with a reference file, or gradients with differences of the loss
#[derive(Debug, clap::Args)]
#[command(override_usage = "wootz check <MODEL> --reference <FILE> [OPTIONS]\n       \
                            wootz check --gradients [MODEL|ARCHITECTURE] [--threads <THREADS>] [--json]")]
pub struct CheckArgs {
    /// The model; with --gradients, a model, an architecture's name, or nothing for all architectures
    #[arg(required_unless_present = "gradients")]
    model: Option<String>,
    /// Safetensors with `input_ids` [B, T], `logits` [B, T, V] and perhaps `targets` [B, T] (negative: not counted) and
    /// `grad.NAME` of every parameter, under transformers' names; or llm.c's debug state
    #[arg(long, value_name = "FILE", required_unless_present = "gradients")]
    reference: Option<PathBuf>,
    /// Compare every gradient with `(loss(w + h) - loss(w - h)) / 2h` in f64 instead, for the model's configuration in a
    /// tiny size and with random weights; no reference is needed
    #[arg(long, conflicts_with_all = ["reference", "logits_key", "steps", "dump", "dtype"])]
    gradients: bool,
    /// The reference's tensor of logits [default: `logits.NAME` for a model file NAME.gguf if there is one, else `logits`]
    #[arg(long, value_name = "NAME")]
    logits_key: Option<String>,
    /// Take N optimiser steps on the reference's batch, and compare their losses with those in golden.json or
    /// train_losses.json beside it
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    steps: usize,
    /// Write this program's `logits`, `loss` and `grad.NAME` to a safetensors file, whether or not they agree
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
    /// `f32` never rounds inputs; `auto` computes as `generate` does
    #[arg(long, default_value = "f32")]
    dtype: super::flags::PrecisionArg,
    #[command(flatten)]
    adapters: super::flags::AdapterArgs,
    #[command(flatten)]
    device: super::device::DeviceArgs,
    /// Threads [default: one a physical core]
    #[arg(long)]
    threads: Option<usize>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// The tolerance table: largest difference of logits over their largest magnitude, and of the loss over itself.
const LOGITS_F32: f64 = 2e-5;
const LOSS_F32: f64 = 2e-5;
/// Where products round their inputs, single logits may be far off: the distributions are compared instead. In nats.
const DIVERGENCE_ROUNDED: f64 = 0.01;

/// What a reference file holds.
struct Reference {
    ids: Vec<u32>,
    /// B and T.
    shape: [usize; 2],
    targets: Option<Vec<i64>>,
    logits: Vec<f32>,
    loss: Option<f64>,
    /// Under the names of `format`; empty if the file has none.
    gradients: Vec<Stored>,
    format: Format,
}

/// Runs the command.
pub fn run(args: CheckArgs) -> Result<()> {
    let threads = args.threads.unwrap_or_else(pool::default_threads).max(1);
    if args.gradients {
        return differences::run(args.model.as_deref(), threads, args.json);
    }
    let (Some(model), Some(file)) = (&args.model, &args.reference) else {
        bail!("expected a model and --reference FILE, or --gradients")
    };
    against_reference(&args, model, file, threads)
}

fn against_reference(args: &CheckArgs, model: &str, file: &Path, threads: usize) -> Result<()> {
    let path = crate::model_arg::resolve(Some(model))?;
    let precision = args.dtype.precision();
    let checkpoint = wootz_model::load::open(&path)?;
    let mut model = Model::from_checkpoint(&checkpoint, &LoadOptions { precision, threads })?;
    args.device.place(&mut model)?;
    args.adapters.put_on(&mut model)?;
    let reference = read_reference(args, file, &path, &checkpoint, model.config().vocab_size)
        .with_context(|| format!("reference {}", file.display()))?;

    let logits = forward(&model, &reference)?;
    let vocab = model.config().vocab_size;
    let loss = reference.targets.as_ref().map(|targets| mean_loss(&logits, targets, vocab));
    let own = own_gradients(&model, &checkpoint, &reference, args.dump.is_some())?;
    if let Some(path) = &args.dump {
        dump(path, &model, &reference, &logits, loss, &own)?;
    }
    super::device::report_fallbacks(&model);
    let gradients = match reference.gradients.is_empty() {
        true => Vec::new(),
        false => gradients::compare(&own, &reference.gradients)?,
    };
    let steps = match args.steps {
        0 => Vec::new(),
        count => take_steps(model, precision, file, &reference, count)?,
    };

    let (mut largest, mut magnitude) = (0f64, 0f64);
    for (got, want) in logits.iter().zip(&reference.logits) {
        largest = largest.max(difference(*got, *want));
        magnitude = magnitude.max(f64::from(want.abs()));
    }
    let relative = largest / magnitude;
    let of = |values: &[f32]| Logits::new(vocab, values.to_vec());
    let divergence = compare(&of(&reference.logits), &of(&logits)).map_or(f64::INFINITY, |found| found.mean);
    // Without a loss of its own, the reference's follows from its logits.
    let want_loss = match (&reference.loss, &reference.targets) {
        (Some(loss), _) => Some(*loss),
        (None, Some(targets)) => Some(mean_loss(&reference.logits, targets, vocab)),
        (None, None) => None,
    };
    let loss_error = loss.zip(want_loss).map(|(got, want)| (got - want).abs() / want.abs());
    let (of_gradients, of_steps) = match precision {
        Precision::F32 => (gradients::TOLERANCE_F32, steps::TOLERANCE_F32),
        Precision::Native => (gradients::TOLERANCE_ROUNDED, steps::TOLERANCE_ROUNDED),
    };
    let forward_passed = match precision {
        Precision::F32 => relative <= LOGITS_F32 && loss_error.is_none_or(|e| e <= LOSS_F32),
        Precision::Native => divergence <= DIVERGENCE_ROUNDED,
    };
    let passed = forward_passed && gradients::pass(&gradients, of_gradients) && steps::pass(&steps, of_steps);
    if args.json {
        println!(
            "{}",
            json!({
                "passed": passed,
                "rows": reference.ids.len(),
                "logits_max_difference": largest,
                "logits_relative_difference": relative,
                "kl_divergence": divergence,
                "loss": loss,
                "reference_loss": want_loss,
                "loss_relative_difference": loss_error,
                "gradients": gradients::to_json(&gradients),
                "steps": steps::to_json(&steps),
            })
        );
    } else {
        let tolerance = |limit: f64, counts: bool| {
            if counts { format!("(tolerance {limit:.0e})") } else { String::new() }
        };
        let exact = precision == Precision::F32;
        println!("rows        {} of {vocab} logits", reference.ids.len());
        println!(
            "logits      largest difference {largest:.3e}, of the largest magnitude {relative:.3e} {}",
            tolerance(LOGITS_F32, exact)
        );
        println!("divergence  {divergence:.3e} nats {}", tolerance(DIVERGENCE_ROUNDED, !exact));
        if let (Some(got), Some(want), Some(error)) = (loss, want_loss, loss_error) {
            println!(
                "loss        {got:.6}, expected {want:.6}, off by {error:.3e} {}",
                tolerance(LOSS_F32, exact)
            );
        }
        if !gradients.is_empty() {
            println!();
            gradients::print(&gradients, of_gradients);
        }
        if !steps.is_empty() {
            println!();
            steps::print(&steps, of_steps);
        }
        println!("{}", if passed { "passed" } else { "FAILED" });
    }
    if !passed {
        bail!("{} disagrees with {}", path.display(), file.display());
    }
    Ok(())
}

/// The difference of two logits; infinite where only one is a number.
fn difference(got: f32, want: f32) -> f64 {
    if got.to_bits() == want.to_bits() {
        return 0.0;
    }
    let difference = f64::from((got - want).abs());
    if difference.is_nan() { f64::INFINITY } else { difference }
}

fn forward(model: &Model, reference: &Reference) -> Result<Vec<f32>> {
    let [_, seq] = reference.shape;
    let mut scratch = Scratch::default();
    let mut logits = Vec::with_capacity(reference.ids.len() * model.config().vocab_size);
    for tokens in reference.ids.chunks(seq) {
        let mut cache = model.new_cache(seq, CacheType::F32)?;
        for tokens in tokens.chunks(MAX_CHUNK) {
            let chunk = Chunk { tokens, cache: &mut cache, logits: Rows::All };
            logits.extend_from_slice(model.forward(&mut scratch, &mut [chunk])?);
        }
    }
    Ok(logits)
}

/// Mean cross-entropy over the rows that have a target.
fn mean_loss(logits: &[f32], targets: &[i64], vocab: usize) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for (row, &target) in logits.chunks_exact(vocab).zip(targets) {
        if let Some(logit) = usize::try_from(target).ok().and_then(|t| row.get(t)) {
            sum += f64::from(log_sum_exp(row)) - f64::from(*logit);
            count += 1;
        }
    }
    sum / count.max(1) as f64
}

/// Our gradients, under the reference's names, if it has any or they are to be written.
fn own_gradients(
    model: &Model,
    checkpoint: &Checkpoint,
    reference: &Reference,
    dump: bool,
) -> Result<Vec<Stored>> {
    let Some(targets) = &reference.targets else { return Ok(Vec::new()) };
    if reference.gradients.is_empty() && !dump {
        return Ok(Vec::new());
    }
    let targets = narrow(targets);
    let sources = reference_sources(model, checkpoint, reference.format)?;
    gradients::compute(model, &reference.ids, &targets, reference.shape, &sources)
}

/// Where a reference has each parameter's gradient: under transformers' names, or where the model's own file has the
/// parameter, padding included (llm.c).
fn reference_sources(model: &Model, checkpoint: &Checkpoint, format: Format) -> Result<Vec<Source>> {
    let (architecture, config) = (model.architecture(), model.config());
    Ok(match format {
        Format::Safetensors => architecture.tensors(config, format)?,
        Format::LlmC | Format::Gguf | Format::Llama2C => sources(architecture, config, checkpoint)?,
    })
}

/// Targets as training takes them: whatever does not count is -1.
fn narrow(targets: &[i64]) -> Vec<i32> {
    targets.iter().map(|&target| i32::try_from(target).map_or(-1, |target| target.max(-1))).collect()
}

fn take_steps(
    model: Model,
    precision: Precision,
    file: &Path,
    reference: &Reference,
    count: usize,
) -> Result<Vec<steps::Row>> {
    let Some(targets) = &reference.targets else {
        bail!("{} has no `targets`, which optimiser steps need", file.display())
    };
    let format = match precision {
        Precision::F32 => train::Format::F32,
        Precision::Native => train::Format::Bf16,
    };
    let [batch, seq] = reference.shape;
    let (targets, lengths) = (narrow(targets), vec![seq; batch]);
    let batch = Batch { tokens: &reference.ids, targets: &targets, lengths: &lengths };
    steps::Reference::beside(file)?.take(model, format, &batch, count)
}

fn dump(
    path: &Path,
    model: &Model,
    reference: &Reference,
    logits: &[f32],
    loss: Option<f64>,
    own: &[Stored],
) -> Result<()> {
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|x| x.to_le_bytes()).collect() };
    let [batch, seq] = reference.shape;
    let mut all = vec![("logits".to_owned(), vec![batch, seq, model.config().vocab_size], bytes(logits))];
    if let Some(loss) = loss {
        all.push(("loss".to_owned(), vec![], bytes(&[loss as f32])));
    }
    // Always under transformers' names, whatever the names of the reference.
    let renamed = match (reference.format, &reference.targets) {
        (Format::Safetensors, _) | (_, None) => None,
        (_, Some(targets)) => {
            let (ids, targets) = (&reference.ids, narrow(targets));
            let sources = model.architecture().tensors(model.config(), Format::Safetensors)?;
            Some(gradients::compute(model, ids, &targets, reference.shape, &sources)?)
        }
    };
    for stored in renamed.as_deref().unwrap_or(own) {
        all.push((format!("grad.{}", stored.name), stored.shape.clone(), bytes(&stored.values)));
    }
    let tensors: Vec<TensorView> =
        all.iter().map(|(name, shape, bytes)| TensorView { name, dtype: DType::F32, shape, bytes }).collect();
    safetensors::write(path, &tensors, &[]).with_context(|| format!("cannot write {}", path.display()))
}

fn read_reference(
    args: &CheckArgs,
    file: &Path,
    model: &Path,
    checkpoint: &Checkpoint,
    vocab: usize,
) -> Result<Reference> {
    let reference = if identify(file)? == FileKind::DebugState {
        let Metadata::LlmC(header) = checkpoint.metadata() else {
            bail!("is llm.c's debug state, which belongs to an llm.c model; {} is none", model.display())
        };
        let state = DebugState::open(file, header)?;
        Reference {
            ids: ids(&state.inputs().iter().map(|&id| i64::from(id)).collect::<Vec<_>>(), vocab)?,
            shape: [state.batch(), state.seq()],
            targets: Some(state.targets().iter().map(|&id| i64::from(id)).collect()),
            logits: floats(&state.logits())?,
            loss: Some(f64::from(state.loss())),
            gradients: state.gradients().map(|tensor| stored(&tensor, tensor.name)).collect::<Result<_>>()?,
            format: Format::LlmC,
        }
    } else {
        read_safetensors(args, file, model, vocab)?
    };
    let [batch, seq] = reference.shape;
    let rows = batch * seq;
    if rows == 0 || reference.logits.len() != rows * vocab {
        bail!(
            "`logits`: expected [{batch}, {seq}, {vocab}], found {} values; is it another model's reference?",
            reference.logits.len()
        );
    }
    if reference.targets.as_ref().is_some_and(|targets| targets.len() != rows) {
        bail!("`targets`: expected [{batch}, {seq}] as `input_ids` has");
    }
    Ok(reference)
}

fn read_safetensors(args: &CheckArgs, file: &Path, model: &Path, vocab: usize) -> Result<Reference> {
    let file = Checkpoint::open(file)?;
    let tensor = |name: &str| {
        file.tensor(name).with_context(|| {
            let names: Vec<_> = file.tensors().map(|t| t.name).take(8).collect();
            format!("tensor `{name}` is missing; the file has {}", names.join(", "))
        })
    };
    let input = tensor("input_ids")?;
    let shape = match *input.shape {
        [batch, seq] => [batch, seq],
        [seq] => [1, seq],
        _ => bail!("`input_ids`: expected [B, T], found {:?}", input.shape),
    };
    let key = args.logits_key.clone().unwrap_or_else(|| {
        let own = format!("logits.{}", model.file_stem().unwrap_or_default().to_string_lossy());
        if file.tensor(&own).is_some() { own } else { "logits".into() }
    });
    let targets = match file.tensor("targets") {
        Some(targets) => Some(integers(&targets)?),
        None => None,
    };
    let loss = match file.tensor("loss") {
        Some(loss) => floats(&loss)?.first().map(|&x| f64::from(x)),
        None => None,
    };
    Ok(Reference {
        ids: ids(&integers(&input)?, vocab)?,
        shape,
        targets,
        logits: floats(&tensor(&key)?)?,
        loss,
        gradients: file
            .tensors()
            .filter_map(|tensor| Some(stored(&tensor, tensor.name.strip_prefix("grad.")?)))
            .collect::<Result<_>>()?,
        format: Format::Safetensors,
    })
}

fn stored(tensor: &TensorView, name: &str) -> Result<Stored> {
    Ok(Stored { name: name.to_owned(), shape: tensor.shape.to_vec(), values: floats(tensor)? })
}

/// Token ids that the model has.
fn ids(values: &[i64], vocab: usize) -> Result<Vec<u32>> {
    let id = |&value: &i64| match u32::try_from(value) {
        Ok(id) if (id as usize) < vocab => Ok(id),
        _ => bail!("`input_ids`: {value} is not in the model's vocabulary of {vocab}"),
    };
    values.iter().map(id).collect()
}

fn integers(tensor: &TensorView) -> Result<Vec<i64>> {
    Ok(match tensor.dtype {
        DType::I32 => tensor.bytes.as_chunks().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        DType::U32 => tensor.bytes.as_chunks().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect(),
        DType::I64 => tensor.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        other => bail!("`{}`: expected I32, U32 or I64, found {other}", tensor.name),
    })
}

fn floats(tensor: &TensorView) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.elements()];
    quant::decode(tensor.dtype, tensor.bytes, &mut values).with_context(|| format!("`{}`", tensor.name))?;
    Ok(values)
}
