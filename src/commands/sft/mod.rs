//! `wootz sft`: fine-tunes a model on samples.

mod settings;

use super::data::samples::notes;
use super::device::report_fallbacks;
use super::settings::{RunArgs, checkpoint};
use super::tuning;
use super::watch::{Samples as Shown, Screen};
use crate::interrupt::Listener;
use anyhow::{Context, Result};
use settings::SettingsArgs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use wootz_kernels::peak::Peaks;
use wootz_model::adapter::{self, Base};
use wootz_model::arch::identify;
use wootz_model::flops::{TokenFlops, parameters};
use wootz_model::load;
use wootz_model::lora::{Adapter, Lora};
use wootz_model::plan::{Memory, Shape, Share};
use wootz_model::{Model, Recompute};
use wootz_text::Tokenizer;
use wootz_train::data::documents::OnBad;
use wootz_train::data::samples::{Order, ReadOptions, Report, Samples};
use wootz_train::fit::{DtypeName, End, Run};
use wootz_train::progress::Progress;
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
    let mut ready = match &args.run.resume {
        Some(path) => resume(&args, path, threads)?,
        None => begin(&args, threads)?,
    };
    let mut screen = screen(&args, &ready);
    let end = ready.run.train(&mut screen);
    screen.progress.finish();
    let end = end?;
    report_fallbacks(ready.run.model());
    let Ready { run, settings, .. } = ready;
    if args.run.json {
        println!("{}", screen.result(&run, end, begun));
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

/// A run with what its screen needs.
struct Ready {
    run: Run,
    settings: Settings,
    tokenizer: Arc<Tokenizer>,
    question: Vec<u32>,
    /// Of a sample, on average.
    tokens: usize,
}

impl Ready {
    fn new(
        data: Data,
        settings: Settings,
        model: Model,
        tokenizer: Arc<Tokenizer>,
        start: impl FnOnce(Inputs) -> wootz_train::Result<Run>,
    ) -> Result<Ready> {
        let tokens = data.samples.tokens() / data.samples.len().max(1);
        let question = question(&data);
        let Data { samples, val: val_samples } = data;
        let inputs =
            Inputs { settings: settings.clone(), model, tokenizer: tokenizer.clone(), samples, val_samples };
        Ok(Ready { run: start(inputs)?, settings, tokenizer, question, tokens })
    }
}

fn begin(args: &SftArgs, threads: usize) -> Result<Ready> {
    let mut asked = args.settings.resolve(args.run.config.as_deref(), tuning::usual_dtype)?;
    let path = crate::model_arg::resolve(Some(&asked.settings.model))?;
    let (_, config) = identify(&load::open(&path)?)?;
    asked.fit(config.max_seq)?;
    let tokenizer = tuning::tokenizer(&path, asked.settings.template.as_deref())?;
    let data = Data::read(&asked.settings, &tokenizer, threads)?;
    let dropout = asked.lora_dropout;
    let mut settings = asked.complete(data.samples.len(), |settings, epochs| {
        let (train, _) = data.samples.hold_out(settings.val_share, settings.learning.seed)?;
        Ok(Order::new(&data.samples, train, settings.order_options())?.steps(epochs))
    })?;
    settings.check()?;
    let name = settings.model.clone();
    let mut model = tuning::load_model(&path, &settings.learning, settings.full, threads)?;
    args.run.device.place(&mut model)?;
    if !settings.full {
        let adapter = match &settings.adapter {
            Some(name) => {
                let mut adapter = tuning::given_adapter(&model, name)?;
                settings.lora_dropout = dropout.unwrap_or(adapter.dropout);
                adapter.dropout = settings.lora_dropout;
                adapter
            }
            None => {
                let options = settings.lora_options(&model.projections())?;
                Adapter::new(model.config(), model.pool(), &options)?
            }
        };
        model.put_on(adapter)?;
        let base = Base { architecture: model.architecture(), config: model.config() };
        model.adapters().first().map_or(Ok(()), |adapter| adapter::check_writable(&base, adapter))?;
    }
    check_memory(&mut model, &settings, &data.samples, &args.run, threads)?;
    let make_folder = || args.run.make_folder(&name, "-sft");
    Ready::new(data, settings, model, tokenizer, |inputs| inputs.begin(make_folder))
}

fn resume(args: &SftArgs, path: &Path, threads: usize) -> Result<Ready> {
    let folder = Folder::open(path)?;
    let old: Settings =
        folder.read_config().with_context(|| format!("{}: expected a run of `wootz sft`", path.display()))?;
    let settings = args.settings.change(&old)?;
    let checkpoint = checkpoint(path, &folder, settings.learning.steps)?;
    let base = crate::model_arg::resolve(Some(&settings.model))
        .with_context(|| format!("{}: the model that this run tunes", path.display()))?;
    let tokenizer = tuning::tokenizer(&base, settings.template.as_deref())?;
    let data = Data::read(&settings, &tokenizer, threads)?;
    let mut model = model_at(&base, &settings, &checkpoint, threads)?;
    args.run.device.place(&mut model)?;
    check_memory(&mut model, &settings, &data.samples, &args.run, threads)?;
    Ready::new(data, settings, model, tokenizer, |inputs| inputs.resume(folder, &checkpoint))
}

/// The model as a checkpoint has it.
fn model_at(base: &Path, settings: &Settings, checkpoint: &Checkpoint, threads: usize) -> Result<Model> {
    if settings.full {
        return tuning::load_model(&checkpoint.path, &settings.learning, true, threads);
    }
    let mut model = tuning::load_model(base, &settings.learning, false, threads)?;
    let mut adapter = tuning::read_adapter(&model, &checkpoint.path)?;
    adapter.dropout = settings.lora_dropout;
    model.put_on(adapter)?;
    Ok(model)
}

/// Prints what the run will take, and refuses what does not fit; what does not fit on a GPU that nobody asked for is left to
/// the CPU.
fn check_memory(
    model: &mut Model,
    settings: &Settings,
    samples: &Samples,
    run: &RunArgs,
    threads: usize,
) -> Result<()> {
    let (train, _) = samples.hold_out(settings.val_share, settings.learning.seed)?;
    let order = Order::new(samples, train, settings.order_options())?;
    let check = |model: &Model| {
        let shape = Shape {
            rows: order.max_rows(),
            lengths: order.max_lengths(),
            dtype: settings.learning.format().dtype(),
            recompute: settings.learning.recompute(),
            threads,
            memory: Memory::Host,
            share: Share::All,
        };
        let advice = "a smaller --batch with --accumulate, a smaller --max-tokens, --recompute block, or a quantised model";
        tuning::check_memory(model, &shape, &settings.learning, &|_| Vec::new(), run.memory, advice)
    };
    run.device.fit(model, check)
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

/// What the model is asked before and after: the first sample, up to what is learnt of it.
fn question(data: &Data) -> Vec<u32> {
    let first = data.val.as_ref().unwrap_or(&data.samples).get(0);
    first.map_or(Vec::new(), |sample| {
        let end = (0..sample.tokens.len()).find(|&i| sample.is_learnt(i)).unwrap_or(1);
        sample.tokens[..end].to_vec()
    })
}

fn screen(args: &SftArgs, ready: &Ready) -> Screen {
    let Ready { run, settings, tokenizer, question, tokens } = ready;
    let (model, learning) = (run.model(), &settings.learning);
    let peaks = Peaks::measure(model.pool());
    let peak = match learning.dtype {
        DtypeName::F32 | DtypeName::F16 => peaks.f32_flops,
        DtypeName::Bf16 => peaks.bf16_flops,
    };
    let millions = |count: f64| count / 1e6;
    let all = millions(parameters(model.config()) as f64);
    let flops = TokenFlops::new(model.config(), *tokens).training();
    let (what, flops) = match model.adapters().first() {
        Some(adapter) => {
            let of = |lora: &Lora| lora.rank() * (lora.a.cols() + lora.b.rows());
            let trained = adapter.parts.values().map(of).sum::<usize>();
            let what = format!(
                "an adapter of {:.2} million parameters over {all:.0} million",
                millions(trained as f64)
            );
            // No gradients of the weights: two thirds of the products.
            (what, flops * 2.0 / 3.0)
        }
        None => (format!("all {all:.0} million parameters"), flops),
    };
    let again = match learning.recompute() {
        Recompute::None => "",
        Recompute::Block | Recompute::All => ", activations computed again",
    };
    eprintln!(
        "{}: {what}, {} steps{again}, {} threads",
        run.folder().path().display(),
        learning.steps,
        model.pool().threads()
    );
    Screen {
        progress: Progress::new(learning.steps, run.step(), args.run.style()),
        listener: Listener::new(),
        tokenizer: Some(tokenizer.clone()),
        seed: learning.seed,
        prompt: question.clone(),
        steps: learning.steps,
        flops,
        peak: (peak > 0.0).then_some(peak),
        samples: if args.run.json { Shown::LeftOut } else { Shown::Shown },
        last_val: None,
        last_step: None,
    }
}
