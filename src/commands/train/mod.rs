//! `wootz train`: pretrains a model, or goes on with one.

mod corpus;
mod settings;

use super::device::report_fallbacks;
use super::memory::{self, Whose};
use super::settings::{RunArgs, checkpoint};
use super::tuning::plan_rows;
use super::watch::{Samples, Screen, beginning};
use crate::interrupt::Listener;
use anyhow::{Context, Result, bail};
use corpus::{Corpus, Wanted};
use settings::SettingsArgs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wootz_kernels::device::Accelerator;
use wootz_kernels::peak::Peaks;
use wootz_kernels::{DType, Pool, Precision};
use wootz_model::flops::{TokenFlops, parameters};
use wootz_model::init::Init;
use wootz_model::load::{self, LoadOptions};
use wootz_model::plan::{Plan, Shape, Share};
use wootz_model::presets::{Overrides, preset};
use wootz_model::weights::Weights;
use wootz_model::{DecoderConfig, Model};
use wootz_text::Tokenizer;
use wootz_train::data::hellaswag;
use wootz_train::fit::{DtypeName, End, Run};
use wootz_train::optimizer::Optimizer;
use wootz_train::pretrain::{Inputs, Settings};
use wootz_train::progress::Progress;
use wootz_train::run::Folder;

/// Pretrain a model, or go on with one: without arguments, a small one on the built-in stories, in about a minute
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Runs the command.
pub fn run(args: TrainArgs) -> Result<()> {
    let threads = args.run.threads();
    let begun = Instant::now();
    let mut run = match &args.run.resume {
        Some(path) => resume(&args, path, threads)?,
        None => begin(&args, threads)?,
    };
    let mut screen = screen(&args, &run, threads);
    let end = run.run.train(&mut screen);
    screen.progress.finish();
    let end = end?;
    report_fallbacks(run.run.model());
    if args.run.json {
        println!("{}", screen.result(&run.run, end, begun));
    } else {
        advise(&run.run, end, begun);
    }
    Ok(())
}

/// A run with what its screen needs.
struct Ready {
    run: Run,
    settings: Settings,
    tokenizer: Option<Arc<Tokenizer>>,
}

fn begin(args: &TrainArgs, threads: usize) -> Result<Ready> {
    let settings = args.settings.resolve(args.run.config.as_deref())?;
    settings.check()?;
    let source = Source::find(&settings)?;
    let corpus = read_data(&settings, &source, threads)?;
    let (architecture, config) = source.config(&settings, corpus.tokenizer.as_deref())?;
    check_vocabulary(&config, corpus.tokenizer.as_deref())?;
    check_context(&config, &settings)?;
    let check = |config: &DecoderConfig, gpu: Option<&Accelerator>, layers| {
        let places = memory::places(gpu, layers, config, 0);
        check_memory(config, &settings, threads, &places, args.run.memory)
    };
    let device = &args.run.device;
    let layers = device.gpu_layers.map_or(usize::MAX, |layers| layers as usize);
    let mut gpu = device.open()?;
    // Before anything is made.
    if let Err(error) = check(&config, gpu.as_ref(), layers) {
        device.leave_to_cpu(gpu.is_some(), error)?;
        gpu = None;
        check(&config, None, 0)?;
    }
    let mut model = match source {
        Source::File { path, .. } => load_model(&path, threads)?,
        Source::Preset(_) => {
            let pool = Pool::new(threads);
            let init = Init { seed: settings.learning.seed, std: settings.init_std };
            let weights = Weights::generate(&config, &pool, DType::F32, |id, first, out| {
                init.fill(&config, id, first, out)
            });
            Model::from_weights(architecture, config, weights, pool)
        }
    };
    if let Some(gpu) = &gpu {
        device.place_on(gpu, &mut model)?;
        if model.gpu().is_none() {
            check(model.config(), None, 0)?;
        }
    }
    let tokenizer = corpus.tokenizer.clone();
    let inputs = inputs(settings.clone(), model, corpus)?;
    let run = inputs.begin(|| args.run.make_folder(&settings.model, ""))?;
    Ok(Ready { run, settings, tokenizer })
}

fn resume(args: &TrainArgs, path: &Path, threads: usize) -> Result<Ready> {
    let folder = Folder::open(path)?;
    let old: Settings = folder
        .read_config()
        .with_context(|| format!("{}: expected a run of `wootz train`", path.display()))?;
    let settings = args.settings.change(&old)?;
    let checkpoint = checkpoint(path, &folder, settings.learning.steps)?;
    let mut model = load_model(&checkpoint.path, threads)?;
    args.run.device.place(&mut model)?;
    // The run's own tokenizer: one that was learnt from the texts is not learnt again.
    let tokenizer = load::tokenizer(&checkpoint.path).ok().map(Arc::new);
    let source = Source::File { path: checkpoint.path.clone(), tokenizer };
    let corpus = read_data(&settings, &source, threads)?;
    args.run.device.fit(&mut model, |model| {
        check_memory(model.config(), &settings, threads, &memory::places_of(model), args.run.memory)
    })?;
    let tokenizer = corpus.tokenizer.clone();
    let run = inputs(settings.clone(), model, corpus)?.resume(folder, &checkpoint)?;
    Ok(Ready { run, settings, tokenizer })
}

fn inputs(settings: Settings, model: Model, corpus: Corpus) -> Result<Inputs> {
    let questions = match (&settings.hellaswag, &corpus.tokenizer) {
        (Some(path), Some(tokenizer)) => hellaswag::read(path, tokenizer)?,
        (Some(path), None) => bail!("{}: questions need a tokenizer, and the data has none", path.display()),
        (None, _) => Vec::new(),
    };
    let Corpus { train: data, val: val_data, tokenizer } = corpus;
    Ok(Inputs { settings, model, tokenizer, data, val_data, questions })
}

fn load_model(path: &Path, threads: usize) -> Result<Model> {
    Ok(Model::load(path, &LoadOptions { precision: Precision::F32, threads })?)
}

/// Where the model comes from.
enum Source {
    Preset(&'static wootz_model::presets::Preset),
    File { path: PathBuf, tokenizer: Option<Arc<Tokenizer>> },
}

impl Source {
    /// A preset of this name, or else a model.
    fn find(settings: &Settings) -> Result<Source> {
        let name = settings.model.as_str();
        let no_preset = match preset(name) {
            Ok(preset) => return Ok(Source::Preset(preset)),
            Err(error) => error,
        };
        if !settings.sizes.is_empty() {
            bail!(
                "--layers, --dim, --heads, --kv-heads, --vocab and --context are for presets, and {no_preset}"
            );
        }
        let path = match crate::model_arg::resolve(Some(name)) {
            Ok(path) => path,
            Err(error) => bail!("--model {name}: {no_preset}; and as a file or folder: {error:#}"),
        };
        let tokenizer = load::tokenizer(&path).ok().map(Arc::new);
        Ok(Source::File { path, tokenizer })
    }

    fn config(
        &self,
        settings: &Settings,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<(&'static wootz_model::arch::Architecture, DecoderConfig)> {
        match self {
            Source::File { path, .. } => Ok(wootz_model::arch::identify(&load::open(path)?)?),
            Source::Preset(preset) => {
                let sizes = settings.sizes;
                // A vocabulary that is made for the texts may be smaller than was asked for; beside shards, which were
                // made with another, what was asked for counts.
                let of_data = tokenizer.map(Tokenizer::vocab_size).filter(|_| self.learns_vocabulary());
                let vocab = match corpus::is_shards(&settings.data) {
                    true => sizes.vocab.or(of_data),
                    false => of_data.or(sizes.vocab),
                };
                Ok(preset.config(&Overrides {
                    n_layers: sizes.layers,
                    dim: sizes.dim,
                    n_heads: sizes.heads,
                    n_kv_heads: sizes.kv_heads,
                    vocab_size: vocab,
                    max_seq: sizes.context,
                })?)
            }
        }
    }

    /// Whether a vocabulary is made for the texts: for presets that are no published model's.
    fn learns_vocabulary(&self) -> bool {
        matches!(self, Source::Preset(preset) if preset.architecture != "gpt2")
    }
}

fn read_data(settings: &Settings, source: &Source, threads: usize) -> Result<Corpus> {
    if corpus::is_shards(&settings.data) {
        let own = match source {
            Source::File { tokenizer, .. } => tokenizer.clone(),
            Source::Preset(_) => None,
        };
        let mut corpus = corpus::open_shards(&settings.data, &settings.val_data, own)?;
        // Shards that say nothing of their vocabulary, for GPT-2: llm.c's.
        if let (None, Source::Preset(preset)) = (&corpus.tokenizer, source)
            && preset.architecture == "gpt2"
            && settings.sizes.vocab.is_none()
        {
            corpus.tokenizer = Some(Arc::new(Tokenizer::gpt2()?));
        }
        return Ok(corpus);
    }
    let wanted = match source {
        Source::File { path, tokenizer } => match tokenizer {
            Some(tokenizer) => Wanted::Given(tokenizer.clone()),
            None => {
                bail!("{}: has no tokenizer to read texts with; give token shards as --data", path.display())
            }
        },
        Source::Preset(preset) if source.learns_vocabulary() => {
            let (_, config) = preset.config(&Overrides::default())?;
            Wanted::Learnt(settings.sizes.vocab.unwrap_or(config.vocab_size.min(32_000)))
        }
        Source::Preset(_) => Wanted::Given(Arc::new(Tokenizer::gpt2()?)),
    };
    corpus::read_texts(&settings.data, &settings.val_data, wanted, threads)
}

fn check_vocabulary(config: &DecoderConfig, tokenizer: Option<&Tokenizer>) -> Result<()> {
    if let Some(tokenizer) = tokenizer
        && tokenizer.vocab_size() > config.vocab_size
    {
        bail!(
            "the data's tokenizer has {} tokens and the model {}; prepare the data with the model's tokenizer, or give \
             the model --vocab {}",
            tokenizer.vocab_size(),
            config.vocab_size,
            tokenizer.vocab_size()
        );
    }
    Ok(())
}

fn check_context(config: &DecoderConfig, settings: &Settings) -> Result<()> {
    if settings.seq > config.max_seq {
        bail!(
            "--seq {}: the model's longest sequence is {}; use a shorter one, or --context for a new model",
            settings.seq,
            config.max_seq
        );
    }
    Ok(())
}

/// Prints what the run will take, and refuses what does not fit.
fn check_memory(
    config: &DecoderConfig,
    settings: &Settings,
    threads: usize,
    places: &[(Whose, Share)],
    limit: Option<usize>,
) -> Result<()> {
    let dtype = settings.learning.format().dtype();
    let recompute = settings.learning.recompute();
    let advice =
        "a smaller --batch with --accumulate, a shorter --seq, --recompute block, or a smaller model";
    for &(whose, share) in places {
        let even = Shape::even([settings.batch, settings.seq], dtype, recompute, threads);
        let shape = Shape { memory: whose.memory(), share, ..even };
        let plan = Plan::new(config, &shape);
        let rule = settings.learning.options().rule;
        let [moments, masters] = Optimizer::bytes(rule, config, dtype, share);
        memory::check(&plan_rows(&plan, moments, masters), whose, limit, advice)?;
    }
    Ok(())
}

fn screen(args: &TrainArgs, ready: &Ready, threads: usize) -> Screen {
    let Ready { run, settings, tokenizer } = ready;
    let config = run.model().config();
    let peaks = Peaks::measure(run.model().pool());
    let peak = match settings.learning.dtype {
        DtypeName::F32 | DtypeName::F16 => peaks.f32_flops,
        DtypeName::Bf16 => peaks.bf16_flops,
    };
    eprintln!(
        "{}: {} million parameters, {} tokens a step, {} steps, {threads} threads",
        run.folder().path().display(),
        (parameters(config) as f64 / 1e5).round() / 10.0,
        settings.tokens_per_step(),
        settings.learning.steps
    );
    Screen {
        progress: Progress::new(settings.learning.steps, run.step(), args.run.style()),
        listener: Listener::new(),
        tokenizer: tokenizer.clone(),
        seed: settings.learning.seed,
        steps: settings.learning.steps,
        flops: TokenFlops::new(config, settings.seq).training(),
        peak: (peak > 0.0).then_some(peak),
        prompt: tokenizer.as_deref().map(beginning).unwrap_or_default(),
        samples: if args.run.json { Samples::LeftOut } else { Samples::Shown },
        last_val: None,
        last_step: None,
    }
}

/// The last words: where everything is, and what to try next.
fn advise(run: &Run, end: End, begun: Instant) {
    let path = run.folder().path().display();
    match end {
        End::Interrupted => {
            println!("stopped after step {}; everything is saved. Go on with:", run.step());
            println!("  wootz train --resume {path}");
        }
        End::Complete => {
            println!("{} steps in {:.0} s. What to try next:", run.step(), begun.elapsed().as_secs_f64());
            println!("  wootz generate {path} -p \"Once upon a time\"     let it tell a story");
            println!("  open {path}/report.html                       see how it learned");
            println!("  wootz train --data book.txt --steps 2000          your own text");
            println!("  wootz train --model story --steps 20000           a larger model, for longer");
        }
    }
}
