//! `wootz merge MODEL OUT --adapter A`: a model with adapters in its weights, and what that has cost.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;
use wootz_formats::{Checkpoint, write_atomically};
use wootz_kernels::{DType, Pool, Precision, pool};
use wootz_model::adapter::{self, AdapterFormat, Base, Scales, WriteOptions};
use wootz_model::arch::{Architecture, identify};
use wootz_model::compare::{Comparison, compare, logits};
use wootz_model::load::{self, LoadOptions};
use wootz_model::lora::Adapter;
use wootz_model::save::{Existing, SaveFormat};
use wootz_model::{DecoderConfig, Model, merge};
use wootz_text::Tokenizer;

use super::comparison;
use super::export::{self, TypeArg};
use super::flags::AdapterArgs;

/// Arguments of `wootz merge`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").args(["adapter"]).required(true).multiple(true)))]
pub struct MergeArgs {
    /// The base: a run, a folder, a .gguf, a .bin, or an id of the hub
    model: String,
    /// What to write: NAME.gguf, NAME.bin (llm.c, GPT-2 only), or a folder (safetensors; with `--how keep`, two .gguf)
    out: PathBuf,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// `hf`, `gguf` or `llmc` [default: by the name]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Type of the weights: `f32`, `bf16`, or `f16` (not llm.c) [default: the base's]
    #[arg(long, value_name = "TYPE", conflicts_with = "how")]
    dtype: Option<TypeArg>,
    /// What becomes of a quantised base
    #[arg(long, value_name = "HOW")]
    how: Option<How>,
    /// A text to measure by what merging changes [default: a few built-in lines]
    #[arg(long, value_name = "FILE", conflicts_with = "no_check")]
    text: Option<PathBuf>,
    /// Do not compare what was written with the base and its adapter
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

/// What becomes of a quantised base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum How {
    /// Nothing: the base as it is, and the adapter beside it as a GGUF adapter
    Keep,
    /// The changed tensors are decoded, merged, and rounded to the types that they had
    Requantise,
    /// Everything is decoded, merged, and rounded to F16
    F16,
}

/// The base, open, and what changes it.
struct Task<'a> {
    args: &'a MergeArgs,
    path: &'a Path,
    checkpoint: Checkpoint,
    architecture: &'static Architecture,
    config: DecoderConfig,
    adapters: Vec<Adapter>,
    tokenizer: Option<Tokenizer>,
    threads: usize,
}

/// What was written.
struct Written {
    /// The merged model, or the base.
    model: PathBuf,
    /// Adapters that are still beside it.
    adapters: Vec<PathBuf>,
    /// For reading.
    about: String,
}

/// Merges, and compares.
///
/// # Errors
/// A base or an adapter that cannot be read, or do not belong together; types or formats that cannot be written; a file
/// that is there already; the disk.
pub fn run(args: MergeArgs) -> Result<()> {
    let path = crate::model_arg::resolve(Some(&args.model))?;
    let threads = args.threads.map_or_else(pool::default_threads, |n| n as usize);
    let checkpoint = load::open(&path)?;
    let (architecture, config) = identify(&checkpoint)?;
    let base = Base { architecture, config: &config };
    let adapters = args.adapters.read(&base, &Pool::new(threads))?;
    let tokenizer = export::tokenizer(&path);
    let task =
        Task { args: &args, path: &path, checkpoint, architecture, config, adapters, tokenizer, threads };

    let is_quantised = task.checkpoint.tensors().any(|tensor| tensor.dtype.block_len() > 1);
    let written = match (is_quantised, args.how) {
        (false, None) => task.merge(args.dtype.map_or_else(|| task.dtype(), TypeArg::dtype))?,
        (false, Some(_)) => {
            bail!("--how is for quantised models, and {} is none; give --dtype", path.display())
        }
        (true, None) => bail!(
            "{} is quantised; say what is to become of it: --how keep (it and the adapter side by side), --how requantise (in \
             the types that it has), --how f16",
            path.display()
        ),
        (true, Some(How::Keep)) => task.keep()?,
        (true, Some(How::Requantise)) => task.requantise()?,
        (true, Some(How::F16)) => task.merge(DType::F16)?,
    };
    let found = if args.no_check { None } else { Some(task.compare(&written)?) };
    print(&args, &written, found.as_ref());
    Ok(())
}

impl Task<'_> {
    /// The type of most of the base's matrices.
    fn dtype(&self) -> DType {
        let matrices = self.checkpoint.tensors().filter(|tensor| tensor.shape.len() > 1);
        let largest = matrices.max_by_key(|tensor| tensor.elements());
        largest.map_or(DType::F32, |tensor| tensor.dtype)
    }

    fn existing(&self) -> Existing {
        if self.args.overwrite { Existing::Replace } else { Existing::Keep }
    }

    /// Writes the merged model with weights of this type.
    fn merge(&self, dtype: DType) -> Result<Written> {
        let out = &self.args.out;
        let format = export::format(out, self.args.format.as_deref())?;
        match format {
            SaveFormat::Hf | SaveFormat::Gguf | SaveFormat::LlmC => {}
            SaveFormat::Onnx(_) => bail!(
                "what is merged is read again and compared, and ONNX is not read; `wootz export --adapter` writes it"
            ),
        }
        let model = export::Model {
            path: self.path,
            checkpoint: &self.checkpoint,
            architecture: self.architecture,
            config: &self.config,
            adapters: &self.adapters,
            tokenizer: self.tokenizer.as_ref(),
        };
        model.save(out, format, dtype, self.existing())?;
        Ok(Written {
            model: out.clone(),
            adapters: Vec::new(),
            about: format!("{} as {format}, {dtype}, merged", self.architecture.name),
        })
    }

    /// Writes the merged model in the base's own types.
    fn requantise(&self) -> Result<Written> {
        let out = &self.args.out;
        match export::format(out, self.args.format.as_deref())? {
            SaveFormat::Gguf => {}
            other => bail!("--how requantise writes GGUF, not {other}; name the file NAME.gguf"),
        }
        merge::requantise(
            out,
            &self.checkpoint,
            self.architecture,
            &self.config,
            &self.adapters,
            self.existing(),
            &Pool::new(self.threads),
        )?;
        Ok(Written {
            model: out.clone(),
            adapters: Vec::new(),
            about:
                "the changed tensors merged and rounded to the types that they had, everything else as it was"
                    .into(),
        })
    }

    /// Writes the base as it is, and the adapters beside it.
    fn keep(&self) -> Result<Written> {
        let out = &self.args.out;
        if out.extension().is_some_and(|extension| extension == "gguf") || out.is_file() {
            bail!("{}: --how keep writes two files; name a folder", out.display());
        }
        std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
        let base = Base { architecture: self.architecture, config: &self.config };
        let mut adapters = Vec::new();
        let mut scales = "bit for bit";
        for (index, adapter) in self.adapters.iter().enumerate() {
            let name = match self.adapters.len() {
                1 => "adapter.gguf".to_owned(),
                _ => format!("adapter-{}.gguf", index + 1),
            };
            let to = out.join(name);
            let options = WriteOptions {
                format: AdapterFormat::Gguf,
                dtype: DType::F32,
                base: None,
                existing: self.existing(),
            };
            match adapter::write(&to, &base, &adapter.at_full_strength()?, &options)? {
                Scales::Kept => {}
                Scales::Rounded => scales = "with scales rounded",
            }
            adapters.push(to);
        }
        let mut files = Vec::new();
        for file in self.checkpoint.files() {
            let name = file.file_name().with_context(|| format!("{}: has no name", file.display()))?;
            let to = out.join(name);
            self.existing().check(&to)?;
            write_atomically(&to, |out| std::io::copy(&mut File::open(file)?, out).map(|_| ()))?;
            files.push(to);
        }
        let model = files.into_iter().next().context("a model of no files")?;
        Ok(Written {
            model,
            adapters,
            about: format!("the base as it is, not merged; beside it its adapter as GGUF, {scales}"),
        })
    }

    /// Runs the base with its adapters apart, then what was written.
    fn compare(&self, written: &Written) -> Result<Comparison> {
        // Merging is to be seen, and not the rounding of inputs too.
        let options = LoadOptions { precision: Precision::F32, threads: self.threads };
        let texts =
            comparison::tokens(self.args.text.as_deref(), self.tokenizer.as_ref(), self.config.vocab_size)?;
        let mut model = Model::from_checkpoint(&self.checkpoint, &options)?;
        for adapter in &self.adapters {
            model.put_on(adapter.copy()?)?;
        }
        let apart = logits(&model, &texts)?;
        drop(model);
        let mut model = Model::load(&written.model, &options).context("what was written")?;
        for path in &written.adapters {
            let base = Base { architecture: model.architecture(), config: model.config() };
            let adapter = adapter::read(path, &base, model.pool()).context("what was written")?;
            model.put_on(adapter)?;
        }
        Ok(compare(&apart, &logits(&model, &texts)?)?)
    }
}

fn print(args: &MergeArgs, written: &Written, found: Option<&Comparison>) {
    let paths: Vec<String> = written.adapters.iter().map(|path| path.display().to_string()).collect();
    if args.json {
        let mut result = json!({
            "path": args.out.display().to_string(),
            "model": written.model.display().to_string(),
            "adapters": paths,
        });
        if let Some(found) = found {
            comparison::add(found, &mut result);
        }
        println!("{result}");
        return;
    }
    println!("{}: {}", args.out.display(), written.about);
    if !paths.is_empty() {
        let adapters: Vec<String> = paths.iter().map(|path| format!("--adapter {path}")).collect();
        println!("to run it: wootz generate {} {}", written.model.display(), adapters.join(" "));
    }
    if let Some(found) = found {
        println!("against the base with its adapter apart, {found}");
    }
}
