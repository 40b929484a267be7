//! `wootz grpo`: a model answers prompts, and learns from what its answers are worth.

mod rescore;
mod settings;

use super::device::{DeviceArgs, report_fallbacks};
use super::prompts::{read_prompts, rewards};
use super::settings::{RunArgs, checkpoint};
use super::tuning;
use super::watch::{Samples as Shown, Screen};
use crate::interrupt::Listener;
use anyhow::{Context, Result, bail};
use settings::SettingsArgs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wootz_model::adapter::{self, Base};
use wootz_model::arch::identify;
use wootz_model::flops::parameters;
use wootz_model::load;
use wootz_model::lora::{Adapter, Lora};
use wootz_model::plan::{Memory, Shape, Share};
use wootz_model::{DecoderConfig, KvCache, Model};
use wootz_rewards::{Rewards, Split};
use wootz_text::Tokenizer;
use wootz_train::data::prompts::{Built, Prompts, ReadOptions};
use wootz_train::fit::{End, Run};
use wootz_train::grpo::rollout::CACHE;
use wootz_train::grpo::{Inputs, Mode, Reference, Settings};
use wootz_train::progress::Progress;
use wootz_train::run::Folder;
use wootz_train::run::checkpoint::Checkpoint;

/// Reinforce a model by rewards: without arguments, the built-in story model learns to remember its hero, in a minute
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct GrpoArgs {
    #[command(subcommand)]
    command: Option<GrpoCommand>,
    #[command(flatten)]
    settings: SettingsArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// What else can be done with such runs.
#[derive(Debug, clap::Subcommand)]
enum GrpoCommand {
    /// Judge the answers of a run again, with other rewards
    Rescore(rescore::RescoreArgs),
}

/// Runs the command.
pub fn run(args: GrpoArgs) -> Result<()> {
    if let Some(GrpoCommand::Rescore(rescore)) = args.command {
        return rescore::run(&rescore);
    }
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
            println!("  wootz grpo --resume {path}");
        }
        End::Complete => {
            println!("{} steps in {:.0} s. What to try next:", run.step(), begun.elapsed().as_secs_f64());
            let model = match settings.mode {
                Mode::FullParam | Mode::Accurate => path.to_string(),
                Mode::Lora => format!("{} --adapter {path}", settings.model),
            };
            println!("  wootz generate {model} -p \"…\"");
            println!("  open {path}/report.html           how the reward rose");
            println!("  head -1 {path}/rollouts.jsonl     every answer with its reward");
        }
    }
    Ok(())
}

/// A run with what its screen needs.
struct Ready {
    run: Run,
    settings: Settings,
    tokenizer: Arc<Tokenizer>,
    /// What the model is asked before and after.
    question: Vec<u32>,
}

/// What a run asks, and how it is judged.
struct Questions {
    prompts: Prompts,
    val: Option<Prompts>,
    rewards: Rewards,
}

fn begin(args: &GrpoArgs, threads: usize) -> Result<Ready> {
    let settings = args.settings.resolve(args.run.config.as_deref(), tuning::usual_dtype, tuning::longest)?;
    settings.check()?;
    let path = crate::model_arg::resolve(Some(&settings.model))?;
    let (_, config) = identify(&load::open(&path)?)?;
    let tokenizer = tuning::tokenizer(&path, settings.template.as_deref())?;
    let questions = Questions::read(&settings, &config, &tokenizer)?;
    let (mut model, mut reference) = models(&path, None, &settings, &args.run.device, threads)?;
    let longest = questions.prompts.longest(&tokenizer)? + settings.max_new_tokens;
    check_memory(&mut model, &mut reference, &settings, longest, &args.run, threads)?;
    let name = settings.model.clone();
    let make_folder = || args.run.make_folder(&name, "-grpo");
    Ready::new(questions, settings, (model, reference), tokenizer, |inputs| inputs.begin(make_folder))
}

fn resume(args: &GrpoArgs, path: &Path, threads: usize) -> Result<Ready> {
    let folder = Folder::open(path)?;
    let old: Settings = folder
        .read_config()
        .with_context(|| format!("{}: expected a run of `wootz grpo`", path.display()))?;
    let settings = args.settings.change(&old)?;
    let checkpoint = checkpoint(path, &folder, settings.learning.steps)?;
    let base = crate::model_arg::resolve(Some(&settings.model))
        .with_context(|| format!("{}: the model that this run tunes", path.display()))?;
    let tokenizer = tuning::tokenizer(&base, settings.template.as_deref())?;
    let (mut model, mut reference) = models(&base, Some(&checkpoint), &settings, &args.run.device, threads)?;
    let questions = Questions::read(&settings, model.config(), &tokenizer)?;
    let longest = questions.prompts.longest(&tokenizer)? + settings.max_new_tokens;
    check_memory(&mut model, &mut reference, &settings, longest, &args.run, threads)?;
    let resume = |inputs: Inputs| inputs.resume(folder, &checkpoint);
    Ready::new(questions, settings, (model, reference), tokenizer, resume)
}

impl Ready {
    fn new(
        questions: Questions,
        settings: Settings,
        (model, reference): (Model, Reference),
        tokenizer: Arc<Tokenizer>,
        start: impl FnOnce(Inputs) -> wootz_train::Result<Run>,
    ) -> Result<Ready> {
        let Questions { prompts, val, rewards } = questions;
        let question = val.as_ref().unwrap_or(&prompts).get(0, &tokenizer)?.tokens;
        let inputs = Inputs {
            settings: settings.clone(),
            model,
            reference,
            tokenizer: tokenizer.clone(),
            prompts,
            val,
            rewards,
        };
        Ok(Ready { run: start(inputs)?, settings, tokenizer, question })
    }
}

/// The model as a run begins with it, or goes on with it, and as it was before the run.
fn models(
    base: &Path,
    checkpoint: Option<&Checkpoint>,
    settings: &Settings,
    device: &DeviceArgs,
    threads: usize,
) -> Result<(Model, Reference)> {
    let learning = &settings.learning;
    let asks = settings.beta > 0.0;
    if settings.mode != Mode::Lora {
        let path = checkpoint.map_or(base, |checkpoint| &checkpoint.path);
        let mut model = tuning::load_model(path, learning, true, threads)?;
        device.place(&mut model)?;
        if !asks {
            return Ok((model, Reference::None));
        }
        let mut reference = tuning::load_model(base, learning, true, threads)?;
        tuning::convert(&mut reference, learning.format())?;
        // Beside the model, on the device that it is on.
        if let Some(gpu) = model.gpu() {
            reference.place(gpu, model.gpu_layers())?;
        }
        return Ok((model, Reference::Model(Box::new(reference))));
    }
    let mut model = tuning::load_model(base, learning, false, threads)?;
    device.place(&mut model)?;
    let given = match &settings.adapter {
        Some(name) => Some(model.bring(tuning::given_adapter(&model, name)?)?),
        None => None,
    };
    let mut adapter = match (checkpoint, &given) {
        (Some(checkpoint), _) => tuning::read_adapter(&model, &checkpoint.path)?,
        (None, Some(given)) => given.copy()?,
        (None, None) => {
            Adapter::new(model.config(), model.pool(), &settings.lora_options(&model.projections())?)?
        }
    };
    // What is left out at random would make another policy of the one that answered.
    adapter.dropout = 0.0;
    model.put_on(adapter)?;
    let of = Base { architecture: model.architecture(), config: model.config() };
    model.adapters().first().map_or(Ok(()), |adapter| adapter::check_writable(&of, adapter))?;
    let reference = if asks { Reference::Adapters(given.into_iter().collect()) } else { Reference::None };
    Ok((model, reference))
}

impl Questions {
    fn read(settings: &Settings, config: &DecoderConfig, tokenizer: &Tokenizer) -> Result<Questions> {
        let built = settings.task.as_deref().map(str::parse::<Built>).transpose()?;
        let rewards = rewards(built, &settings.reward)?;
        let seed = settings.learning.seed;
        if let Some(task) = built {
            let of = |split| Prompts::Generated { task, level: settings.level, split, seed };
            return Ok(Questions { prompts: of(Split::Train), val: Some(of(Split::Test)), rewards });
        }
        let room = config.max_seq.saturating_sub(settings.max_new_tokens);
        if room == 0 {
            bail!(
                "--max-new-tokens {}: the model's longest sequence is {}, and a prompt comes before the answer",
                settings.max_new_tokens,
                config.max_seq
            );
        }
        let options =
            ReadOptions { max_tokens: settings.max_prompt_tokens.min(room), skip_bad: settings.skip_bad };
        let read = |names: &[String]| read_prompts(names, tokenizer, &rewards, options);
        let mut learnt = read(&settings.data)?;
        let held_out = match settings.val_data.is_empty() {
            false => read(&settings.val_data)?,
            true => {
                let count = (learnt.len() as f64 * settings.val_share) as usize;
                learnt.split_off(learnt.len() - count)
            }
        };
        let val = (!held_out.is_empty()).then_some(Prompts::Listed { prompts: held_out, seed: None });
        Ok(Questions { prompts: Prompts::Listed { prompts: learnt, seed: Some(seed) }, val, rewards })
    }
}

/// Prints what the run will take, and refuses what does not fit; what does not fit on a GPU that nobody asked for is left to
/// the CPU. The longest prompt and answer have `longest` tokens together.
fn check_memory(
    model: &mut Model,
    reference: &mut Reference,
    settings: &Settings,
    longest: usize,
    run: &RunArgs,
    threads: usize,
) -> Result<()> {
    let answers = settings.prompts_per_step * settings.group_size;
    let count = match settings.mode {
        Mode::Lora | Mode::Accurate => settings.batch.min(answers),
        Mode::FullParam => 1,
    };
    let cache = KvCache::new(model.config(), longest, CACHE).bytes();
    let caches = cache * settings.parallel.min(answers + settings.prompts_per_step);
    let check = |model: &Model| {
        let shape = Shape {
            rows: count * longest,
            lengths: vec![longest; count],
            dtype: settings.learning.format().dtype(),
            recompute: settings.learning.recompute(),
            threads,
            memory: Memory::Host,
            share: Share::All,
        };
        let config = model.config();
        let more = |share: Share| {
            let other = match &*reference {
                Reference::Model(model) => model.weight_bytes_of(share),
                Reference::None | Reference::Adapters(_) => 0,
            };
            let caches = caches * share.blocks(config).len() / config.n_layers().max(1);
            vec![("caches of answers", caches), ("reference", other)]
        };
        let advice = "a smaller --parallel or --batch, a smaller --max-new-tokens, --recompute block, or a quantised model";
        tuning::check_memory(model, &shape, &settings.learning, &more, run.memory, advice)
    };
    let was_on_gpu = model.gpu().is_some();
    run.device.fit(model, check)?;
    if !was_on_gpu || model.gpu().is_some() {
        return Ok(());
    }
    match reference {
        Reference::None => {}
        Reference::Model(reference) => reference.take_back()?,
        Reference::Adapters(adapters) => {
            for adapter in adapters {
                *adapter = model.bring(adapter.copy()?)?;
            }
        }
    }
    Ok(())
}

fn screen(args: &GrpoArgs, ready: &Ready) -> Screen {
    let Ready { run, settings, tokenizer, question } = ready;
    let (model, learning) = (run.model(), &settings.learning);
    let all = parameters(model.config()) as f64 / 1e6;
    let what = match model.adapters().first() {
        Some(adapter) => {
            let of = |lora: &Lora| lora.rank() * (lora.a.cols() + lora.b.rows());
            let trained = adapter.parts.values().map(of).sum::<usize>() as f64 / 1e6;
            format!("an adapter of {trained:.2} million parameters over {all:.1} million")
        }
        None => format!("all {all:.1} million parameters"),
    };
    eprintln!(
        "{}: {what}, {} steps of {} prompts with {} answers each, {} threads",
        run.folder().path().display(),
        learning.steps,
        settings.prompts_per_step,
        settings.group_size,
        model.pool().threads()
    );
    Screen {
        progress: Progress::new(learning.steps, run.step(), args.run.style()),
        listener: Listener::new(),
        tokenizer: Some(tokenizer.clone()),
        seed: learning.seed,
        prompt: question.clone(),
        steps: learning.steps,
        // Most of the time goes into answers, of which it is not known how long they will be.
        flops: 0.0,
        peak: None,
        samples: if args.run.json { Shown::LeftOut } else { Shown::Shown },
        last_val: None,
        last_step: None,
    }
}

/// The answers of a run.
fn rollouts(run: &Path) -> PathBuf {
    run.join(wootz_train::grpo::ROLLOUTS)
}
