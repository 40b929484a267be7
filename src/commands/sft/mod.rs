//! `wootz sft`: fine-tunes a model on samples.

mod settings;

use super::data::samples::notes;
use super::memory;
use super::settings::{RunArgs, checkpoint};
use super::watch::{Samples as Shown, Screen};
use crate::interrupt::Listener;
use anyhow::{Context, Result, bail};
use serde_json::json;
use settings::SettingsArgs;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wootz_kernels::peak::Peaks;
use wootz_kernels::{DType, Precision};
use wootz_model::adapter::{self, Base};
use wootz_model::arch::identify;
use wootz_model::flops::{TokenFlops, parameters};
use wootz_model::load::{self, LoadOptions};
use wootz_model::lora::Adapter;
use wootz_model::plan::{Plan, Shape};
use wootz_model::weights::Parameter;
use wootz_model::{Model, Recompute};
use wootz_text::Tokenizer;
use wootz_train::data::documents::OnBad;
use wootz_train::data::samples::{Order, ReadOptions, Report, Samples};
use wootz_train::fit::{DtypeName, End, Run};
use wootz_train::optimizer::{Optimizer, Rule};
use wootz_train::progress::{Progress, Style};
use wootz_train::run::Folder;
use wootz_train::run::checkpoint::Checkpoint;
use wootz_train::sft::{Inputs, Settings};

/// Fine-tune a model on samples: with an adapter (LoRA) over weights that stay as they are, or with all its weights
#[derive(Debug, clap::Args)]
pub struct SftArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs the command.
pub fn run(args: SftArgs) -> Result<()> {
    let threads = args.run.threads();
    let begun = Instant::now();
    let Ready { mut run, mut screen, settings } = match &args.run.resume {
        Some(path) => resume(&args, path, threads)?,
        None => begin(&args, threads)?,
    };
    let end = run.train(&mut screen);
    let Screen { progress, last_val, last_step, .. } = screen;
    progress.finish();
    let end = end?;
    if args.run.json {
        let result = json!({
            "run": run.folder().path().display().to_string(),
            "complete": end == End::Complete,
            "step": run.step(),
            "loss": last_step.map(|step| step.loss),
            "val_loss": last_val.map(|val| val.loss),
            "tokens_per_second": last_step.map(|step| step.tokens_per_second),
            "train_seconds": begun.elapsed().as_secs_f64(),
        });
        println!("{result}");
        return Ok(());
    }
    let path = run.folder().path().display();
    match end {
        End::Interrupted => {
            println!("stopped after step {}; everything is saved. Go on with:", run.step());
            println!("  wootz sft --resume {path}");
        }
        End::Complete => {
            println!("{} steps in {:.0} s. What to try next:", run.step(), begun.elapsed().as_secs_f64());
            let model = match settings.full {
                true => path.to_string(),
                false => format!("{} --adapter {path}", settings.model),
            };
            println!("  wootz generate {model} -p \"…\"");
            println!("  open {path}/report.html");
        }
    }
    Ok(())
}

/// A run with its screen.
struct Ready {
    run: Run,
    screen: Screen,
    settings: Settings,
}

fn begin(args: &SftArgs, threads: usize) -> Result<Ready> {
    let mut asked = args.settings.resolve(args.run.config.as_deref(), usual_dtype)?;
    let path = crate::model_arg::resolve(Some(&asked.settings.model))?;
    let (_, config) = identify(&load::open(&path)?)?;
    asked.fit(config.max_seq)?;
    let tokenizer = tokenizer(&path, &asked.settings)?;
    let data = Data::read(&asked.settings, &tokenizer, threads)?;
    let settings = asked.complete(data.samples.len(), |settings, epochs| {
        let (train, _) = data.samples.hold_out(settings.val_share, settings.learning.seed)?;
        Ok(Order::new(&data.samples, train, settings.order_options())?.steps(epochs))
    })?;
    settings.check()?;
    let mut model = load_model(&path, &settings, threads)?;
    if !settings.full {
        let adapter = match &settings.adapter {
            Some(name) => given_adapter(&model, name)?,
            None => {
                let options = settings.lora_options(&model.projections())?;
                Adapter::new(model.config(), model.pool(), &options)?
            }
        };
        model.put_on(adapter)?;
    }
    check_memory(&model, &settings, &data.samples, threads, args.run.memory)?;
    let screen = Screening::new(args, &model, &settings, &data, &tokenizer);
    let run = data
        .into_inputs(settings.clone(), model, tokenizer)
        .begin(|| args.run.make_folder(&settings.model, "-sft"))?;
    Ok(Ready { screen: screen.show(&run), run, settings })
}

fn resume(args: &SftArgs, path: &Path, threads: usize) -> Result<Ready> {
    let folder = Folder::open(path)?;
    let old: Settings =
        folder.read_config().with_context(|| format!("{}: expected a run of `wootz sft`", path.display()))?;
    let settings = args.settings.change(&old)?;
    let checkpoint = checkpoint(path, &folder, settings.learning.steps)?;
    let base = crate::model_arg::resolve(Some(&settings.model))
        .with_context(|| format!("{}: the model that this run tunes", path.display()))?;
    let tokenizer = tokenizer(&base, &settings)?;
    let data = Data::read(&settings, &tokenizer, threads)?;
    let model = model_at(&base, &settings, &checkpoint, threads)?;
    check_memory(&model, &settings, &data.samples, threads, args.run.memory)?;
    let screen = Screening::new(args, &model, &settings, &data, &tokenizer);
    let run = data.into_inputs(settings.clone(), model, tokenizer).resume(folder, &checkpoint)?;
    Ok(Ready { screen: screen.show(&run), run, settings })
}

/// The model as a checkpoint has it.
fn model_at(base: &Path, settings: &Settings, checkpoint: &Checkpoint, threads: usize) -> Result<Model> {
    if settings.full {
        return load_model(&checkpoint.path, settings, threads);
    }
    let mut model = load_model(base, settings, threads)?;
    let mut adapter = read_adapter(&model, &checkpoint.path)?;
    adapter.dropout = settings.lora_dropout;
    model.put_on(adapter)?;
    Ok(model)
}

/// The adapter to go on with.
fn given_adapter(model: &Model, name: &str) -> Result<Adapter> {
    let adapter = read_adapter(model, &crate::model_arg::resolve_adapter(name)?)?;
    if let Some((id, _)) = adapter.saved.first() {
        bail!(
            "--adapter {name}: it replaces `{id}` (modules_to_save), which is not trained on; merge it first with `wootz merge`"
        );
    }
    Ok(adapter)
}

fn read_adapter(model: &Model, path: &Path) -> Result<Adapter> {
    let base = Base { architecture: model.architecture(), config: model.config() };
    Ok(adapter::read(path, &base, model.pool())?)
}

fn tokenizer(path: &Path, settings: &Settings) -> Result<Arc<Tokenizer>> {
    let mut tokenizer = load::tokenizer(path)
        .with_context(|| format!("{}: samples are read with the model's tokenizer", path.display()))?;
    if let Some(file) = &settings.template {
        tokenizer.set_chat_template(load::chat_template(file)?);
    }
    Ok(Arc::new(tokenizer))
}

/// What products usually multiply: f32 where most weights are f32 or f16, which say no less; otherwise what is fast.
fn usual_dtype(model: &str) -> Result<DtypeName> {
    let checkpoint = load::open(&crate::model_arg::resolve(Some(model))?)?;
    let largest = checkpoint.tensors().max_by_key(|tensor| tensor.shape.iter().product::<usize>());
    Ok(match largest.map(|tensor| tensor.dtype) {
        Some(DType::F32 | DType::F16) | None => DtypeName::F32,
        Some(_) => DtypeName::Bf16,
    })
}

/// Loads the model. All that is trained is brought into f32 anyhow; what stays as it is takes the products' type, unless
/// it is quantised.
fn load_model(path: &Path, settings: &Settings, threads: usize) -> Result<Model> {
    let exact = settings.full || settings.learning.dtype == DtypeName::F32;
    let precision = if exact { Precision::F32 } else { Precision::Native };
    let mut model = Model::load(path, &LoadOptions { precision, threads })?;
    let dtype = settings.learning.format().dtype();
    if !exact {
        let (weights, pool) = model.weights_mut();
        let floats: HashSet<_> = (weights.parameters_mut().into_iter())
            .filter_map(|(id, parameter)| match parameter {
                Parameter::Matrix(matrix) => {
                    matches!(matrix.dtype(), DType::F32 | DType::F16 | DType::BF16).then_some(id.place)
                }
                Parameter::Vector(_) => None,
            })
            .collect();
        weights.convert(pool, dtype, |place| floats.contains(&place));
    }
    Ok(model)
}

/// Prints what the run will take, and refuses what does not fit.
fn check_memory(
    model: &Model,
    settings: &Settings,
    samples: &Samples,
    threads: usize,
    limit: Option<usize>,
) -> Result<()> {
    let (train, _) = samples.hold_out(settings.val_share, settings.learning.seed)?;
    let order = Order::new(samples, train, settings.order_options())?;
    let shape = Shape {
        rows: order.max_rows(),
        lengths: order.max_lengths(),
        dtype: settings.learning.format().dtype(),
        recompute: settings.learning.recompute(),
        threads,
    };
    let rule = settings.learning.options().rule;
    let config = model.config();
    let (plan, moments, masters) = match model.adapters().first() {
        Some(adapter) => {
            let plan = Plan::of_adapter(config, &shape, adapter, model.weight_bytes());
            let per_weight = match rule {
                Rule::AdamW(_) | Rule::Muon { .. } => 2,
                Rule::Sgd(momentum) => usize::from(momentum.is_some()),
            };
            (plan, per_weight * plan.gradients, 0)
        }
        None => {
            let [moments, masters] = Optimizer::bytes(rule, config, shape.dtype);
            (Plan::new(config, &shape), moments, masters)
        }
    };
    let rows = [
        ("weights", plan.weights),
        ("weights in f32", masters),
        ("gradients", plan.gradients),
        ("moments", moments),
        ("activations", plan.activations),
        ("logits", plan.logits),
        ("workspace", plan.workspace),
    ];
    let advice = "a smaller --batch with --accumulate, a smaller --max-tokens, --recompute block, or a quantised model";
    memory::check(&rows, model.weight_bytes(), limit, advice)
}

/// Samples to learn from and to validate with.
struct Data {
    samples: Samples,
    val: Option<Samples>,
}

impl Data {
    fn read(settings: &Settings, tokenizer: &Tokenizer, threads: usize) -> Result<Data> {
        let options = ReadOptions {
            train_on: settings.train_on,
            max_tokens: settings.max_tokens,
            truncation: settings.truncation,
            on_bad: if settings.skip_bad { OnBad::Skip } else { OnBad::Stop },
            threads,
        };
        let read = |names: &[String]| -> Result<Samples> {
            let (samples, report) = Samples::read(names, tokenizer, &options)?;
            describe(&names.join(", "), &samples, &report);
            Ok(samples)
        };
        let val = if settings.val_data.is_empty() { None } else { Some(read(&settings.val_data)?) };
        Ok(Data { samples: read(&settings.data)?, val })
    }

    fn into_inputs(self, settings: Settings, model: Model, tokenizer: Arc<Tokenizer>) -> Inputs {
        Inputs { settings, model, tokenizer, samples: self.samples, val_samples: self.val }
    }
}

/// What was read, and what was not.
fn describe(names: &str, samples: &Samples, report: &Report) {
    eprintln!(
        "{names}: {} samples, {} tokens, {} of them to be learnt",
        samples.len(),
        samples.tokens(),
        samples.targets()
    );
    for line in notes(report) {
        eprintln!("  {line}");
    }
}

/// What a screen shows of a run that is about to begin.
struct Screening {
    screen: Screen,
    head: String,
    style: Style,
    steps: u64,
}

impl Screening {
    fn new(
        args: &SftArgs,
        model: &Model,
        settings: &Settings,
        data: &Data,
        tokenizer: &Arc<Tokenizer>,
    ) -> Screening {
        let config = model.config();
        let learning = &settings.learning;
        let peaks = Peaks::measure(model.pool());
        let peak = match learning.dtype {
            DtypeName::F32 | DtypeName::F16 => peaks.f32_flops,
            DtypeName::Bf16 => peaks.bf16_flops,
        };
        let mean = data.samples.tokens() / data.samples.len().max(1);
        let flops = TokenFlops::new(config, mean);
        let (what, flops) = match model.adapters().first() {
            Some(adapter) => {
                let trained: usize =
                    adapter.parts.values().map(|lora| lora.rank() * (lora.a.cols() + lora.b.rows())).sum();
                let what = format!(
                    "an adapter of {:.2} million parameters over {:.0} million",
                    trained as f64 / 1e6,
                    parameters(config) as f64 / 1e6
                );
                // No gradients of the weights: two thirds of the products.
                (what, flops.training() * 2.0 / 3.0)
            }
            None => {
                (format!("all {:.0} million parameters", parameters(config) as f64 / 1e6), flops.training())
            }
        };
        let again = match learning.recompute() {
            Recompute::None => "",
            Recompute::Block | Recompute::All => ", activations computed again",
        };
        // What the model says to the first sample, before and after.
        let prompt = data.val.as_ref().unwrap_or(&data.samples).get(0).map_or(Vec::new(), |sample| {
            let first = (0..sample.tokens.len()).find(|&i| sample.is_learnt(i)).unwrap_or(1);
            sample.tokens[..first].to_vec()
        });
        Screening {
            head: format!("{what}, {} steps{again}, {} threads", learning.steps, model.pool().threads()),
            style: args.run.style(),
            steps: learning.steps,
            screen: Screen {
                progress: Progress::new(learning.steps, 0, Style::Lines(Default::default())),
                listener: Listener::new(),
                tokenizer: Some(tokenizer.clone()),
                seed: learning.seed,
                prompt,
                steps: learning.steps,
                flops,
                peak: (peak > 0.0).then_some(peak),
                samples: if args.run.json { Shown::LeftOut } else { Shown::Shown },
                last_val: None,
                last_step: None,
            },
        }
    }

    fn show(self, run: &Run) -> Screen {
        eprintln!("{}: {}", run.folder().path().display(), self.head);
        Screen { progress: Progress::new(self.steps, run.step(), self.style), ..self.screen }
    }
}
