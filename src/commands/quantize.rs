//! `wootz quantize MODEL OUT --type T`: any model as a quantised GGUF file, and what that has cost.

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wootz_formats::Format;
use wootz_kernels::{Pool, Precision, pool};
use wootz_model::compare::{Comparison, compare, logits};
use wootz_model::load::{self, LoadOptions};
use wootz_model::quantize::importance::PIECE;
use wootz_model::quantize::{Importances, Mix, Quantised, QuantizeOptions, Summary, quantize};
use wootz_model::save::Existing;
use wootz_model::{Model, Result as ModelResult};
use wootz_text::{Special, Tokenizer};

use super::answer::note;
use super::comparison;
use crate::interrupt::{Interrupted, Listener};

/// Arguments of `wootz quantize`.
#[derive(Debug, clap::Args)]
pub struct QuantizeArgs {
    /// A run, a folder, a .gguf, a .bin, or an id of the hub
    model: String,
    /// The GGUF file to write
    out: PathBuf,
    /// F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, Q3_K_L, Q3_K_M,
    /// Q3_K_S or Q2_K
    #[arg(long = "type", value_name = "TYPE", value_parser = mix)]
    mix: Mix,
    /// Find out which columns matter by running the model over this text
    #[arg(long, value_name = "TEXT", conflicts_with = "imatrix")]
    calibrate: Option<PathBuf>,
    /// Pieces of 512 tokens of that text to run, at the most
    #[arg(long, value_name = "N", requires = "calibrate", value_parser = clap::value_parser!(u32).range(1..))]
    pieces: Option<u32>,
    /// Read which columns matter from a file of llama.cpp's or of --save-imatrix
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Write what --calibrate found, as llama.cpp reads it
    #[arg(long, value_name = "FILE", requires = "calibrate")]
    save_imatrix: Option<PathBuf>,
    /// Round weights that are quantised already once more
    #[arg(long)]
    requantize: bool,
    /// Do not compare the written file with the original
    #[arg(long)]
    no_check: bool,
    /// Replace what is there
    #[arg(long)]
    overwrite: bool,
    /// Threads that compute [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Reads the name of a mixture.
pub fn mix(name: &str) -> Result<Mix, String> {
    Mix::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Mix::all().map(Mix::name).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// Tokens of the calibration text that the two models are compared by.
const COMPARED: usize = 512;

/// Quantises the model.
///
/// # Errors
/// A model that cannot be read or quantised, or that GGUF has no words for; a file that is there already; the disk.
pub fn run(args: QuantizeArgs) -> Result<()> {
    let begun = Instant::now();
    let path = crate::model_arg::resolve(Some(&args.model))?;
    let existing = if args.overwrite { Existing::Replace } else { Existing::Keep };
    existing.check(&args.out)?;
    if same_file(&path, &args.out) {
        bail!("{}: is the model itself; write the new file to another place", args.out.display());
    }
    let tokenizer = match tokenizer(&path) {
        Ok(tokenizer) => Some(tokenizer),
        Err(error) => {
            note(&format!("without a tokenizer: {error:#}"));
            None
        }
    };
    let job = Job {
        path: &path,
        tokenizer: tokenizer.as_ref(),
        threads: args.threads.map_or_else(pool::default_threads, |n| n as usize),
        listener: Listener::new(),
    };
    let text = args.calibrate.as_deref().map(|file| job.read_text(file, args.pieces)).transpose()?;
    let importances = match (&text, &args.imatrix) {
        (Some(ids), _) => Some(job.calibrate(ids)?),
        (None, Some(file)) => Some(Importances::read(file)?),
        (None, None) => None,
    };
    if let (Some(importances), Some(file), Some(text)) = (&importances, &args.save_imatrix, &args.calibrate) {
        importances.write(file, &text.display().to_string())?;
    }
    let summary = job.write(&args, existing, importances.as_ref())?;
    let seconds = begun.elapsed().as_secs_f64();
    let comparison = if args.no_check { None } else { Some(job.compare(&args.out, text.as_deref())?) };
    print(&args, &summary, comparison.as_ref(), seconds)
}

/// What the steps of a run share.
struct Job<'a> {
    path: &'a Path,
    tokenizer: Option<&'a Tokenizer>,
    threads: usize,
    listener: Listener,
}

impl Job<'_> {
    fn load(&self, path: &Path, precision: Precision) -> Result<Model> {
        Ok(Model::load(path, &LoadOptions { precision, threads: self.threads })?)
    }

    /// Fails when Ctrl-C was pressed: what is being written is thrown away.
    fn go_on(&self) -> ModelResult<()> {
        match self.listener.asked() {
            true => Err(wootz_model::Error::new("interrupted")),
            false => Ok(()),
        }
    }

    /// An error that Ctrl-C caused is not worth a message.
    fn settle<T>(&self, result: ModelResult<T>) -> Result<T> {
        if result.is_err() && self.listener.asked() {
            bail!(Interrupted);
        }
        Ok(result?)
    }

    /// The tokens of a text file, or of as many pieces of it.
    fn read_text(&self, file: &Path, pieces: Option<u32>) -> Result<Vec<u32>> {
        let Some(tokenizer) = self.tokenizer else {
            bail!("--calibrate {}: a text needs a tokenizer, and the model has none", file.display());
        };
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        let mut ids = tokenizer.encode(&text, Special::default())?;
        if let Some(pieces) = pieces {
            ids.truncate((pieces as usize).saturating_mul(PIECE));
        }
        if ids.is_empty() {
            bail!("--calibrate {}: expected text, found none", file.display());
        }
        Ok(ids)
    }

    fn calibrate(&self, ids: &[u32]) -> Result<Importances> {
        let model = self.load(self.path, Precision::Native)?;
        let mut bar = Bar::new("calibrating", "tokens", ids.len() as u64);
        let found = Importances::collect(&model, ids, &mut |done| {
            bar.set(done as u64);
            self.go_on()
        });
        self.settle(found)
    }

    fn write(
        &self,
        args: &QuantizeArgs,
        existing: Existing,
        importances: Option<&Importances>,
    ) -> Result<Summary> {
        let checkpoint = load::open(self.path)?;
        let name = args.out.file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
        let options = QuantizeOptions {
            mix: args.mix,
            importances,
            quantised: if args.requantize { Quantised::Requantise } else { Quantised::Refuse },
            name: &name,
            tokenizer: self.tokenizer,
            existing,
        };
        let mut bar: Option<Bar> = None;
        let summary = quantize(&checkpoint, &args.out, &options, &Pool::new(self.threads), &mut |progress| {
            let bar = bar.get_or_insert_with(|| Bar::new("quantising", "weights", progress.weights[1]));
            bar.set(progress.weights[0]);
            self.go_on()
        });
        drop(bar);
        self.settle(summary)
    }

    /// Runs a text through both models.
    fn compare(&self, out: &Path, text: Option<&[u32]>) -> Result<Comparison> {
        // Rounding weights is to be seen, and not that of inputs too.
        let original = self.load(self.path, Precision::F32)?;
        let texts = match text {
            Some(ids) => vec![ids[..ids.len().min(COMPARED)].to_vec()],
            None => comparison::tokens(None, self.tokenizer, original.config().vocab_size)?,
        };
        let first = logits(&original, &texts)?;
        drop(original);
        let written = self.load(out, Precision::F32).context("the written file")?;
        Ok(compare(&first, &logits(&written, &texts)?)?)
    }
}

/// The model's tokenizer, where a GGUF file can hold it.
fn tokenizer(path: &Path) -> Result<Tokenizer> {
    let tokenizer = load::tokenizer(path)?;
    // A GGUF file's own is kept as it is.
    if load::open(path)?.format() != Format::Gguf {
        tokenizer.to_gguf()?;
    }
    Ok(tokenizer)
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn print(
    args: &QuantizeArgs,
    summary: &Summary,
    comparison: Option<&Comparison>,
    seconds: f64,
) -> Result<()> {
    let bytes = args.out.metadata().with_context(|| format!("{}: was written", args.out.display()))?.len();
    if args.json {
        let types: Map<String, Value> =
            summary.types.iter().map(|(dtype, count)| (dtype.to_string(), json!(count))).collect();
        let mut result = json!({
            "path": args.out.display().to_string(),
            "type": args.mix.name(),
            "bytes": bytes,
            "tensor_bytes_before": summary.bytes[0],
            "tensor_bytes_after": summary.bytes[1],
            "bits_per_weight": summary.bits_per_weight(),
            "types": types,
            "informed_tensors": summary.informed,
            "quantize_seconds": seconds,
        });
        if let Some(found) = comparison {
            comparison::add(found, &mut result);
        }
        println!("{result}");
        return Ok(());
    }
    let types: Vec<String> = summary.types.iter().map(|(dtype, count)| format!("{count} {dtype}")).collect();
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{}: {}, {:.1} MB (tensors {:.1} MB before, {:.1} after), {:.2} bits a weight, {seconds:.1} s",
        args.out.display(),
        args.mix,
        megabytes(bytes),
        megabytes(summary.bytes[0]),
        megabytes(summary.bytes[1]),
        summary.bits_per_weight(),
    );
    println!("tensors: {}; rounded by importance: {}", types.join(", "), summary.informed);
    if let Some(found) = comparison {
        println!("against the original, {found}");
    }
    Ok(())
}

/// How far a step is: a bar where stderr is a terminal, a line now and then where it is not.
struct Bar {
    what: &'static str,
    unit: &'static str,
    all: u64,
    begun: Instant,
    shown: Instant,
    bar: Option<ProgressBar>,
}

impl Bar {
    /// Time between lines.
    const EVERY: Duration = Duration::from_secs(10);

    fn new(what: &'static str, unit: &'static str, all: u64) -> Bar {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(all);
            let template = format!("{what} {{bar:30}} {{percent}} % of {{len}} {unit} · {{eta}} left");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar
        });
        Bar { what, unit, all, begun: Instant::now(), shown: Instant::now(), bar }
    }

    fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.shown.elapsed() >= Self::EVERY {
            self.shown = Instant::now();
            let share = done as f64 / self.all.max(1) as f64;
            let left = self.begun.elapsed().as_secs_f64() * (1.0 / share.max(1e-9) - 1.0);
            note(&format!(
                "{}: {:.0} % of {} {} · {left:.0} s left",
                self.what,
                100.0 * share,
                self.all,
                self.unit
            ));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
