//! `wootz export MODEL OUT`: a model in another program's format.

use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::{Path, PathBuf};
use wootz_formats::Checkpoint;
use wootz_kernels::{DType, Pool};
use wootz_model::DecoderConfig;
use wootz_model::adapter::Base;
use wootz_model::arch::{Architecture, identify};
use wootz_model::flops::parameters;
use wootz_model::load;
use wootz_model::lora::Adapter;
use wootz_model::merge::Merged;
use wootz_model::save::{self, CheckpointTensors, Existing, SaveFormat, SaveOptions};
use wootz_text::Tokenizer;

use super::flags::AdapterArgs;

/// Arguments of `wootz export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A run, a folder, a .gguf, a .bin, or an id of the hub
    model: String,
    /// What to write: NAME.gguf, NAME.bin (llm.c, GPT-2 only), or a folder (safetensors, as transformers reads it)
    out: PathBuf,
    /// `hf`, `gguf` or `llmc` [default: by the name]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Type of the weights: `f32`, `bf16`, or `f16` (not llm.c)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: TypeArg,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// Replace what is there
    #[arg(long)]
    overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// A type that weights are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TypeArg {
    /// 32 bits
    F32,
    /// 16 bits with the range of 32
    Bf16,
    /// 16 bits
    F16,
}

impl TypeArg {
    /// The kernels' name of it.
    pub fn dtype(self) -> DType {
        match self {
            TypeArg::F32 => DType::F32,
            TypeArg::Bf16 => DType::BF16,
            TypeArg::F16 => DType::F16,
        }
    }
}

/// Writes the model, with adapters merged into it if there are any.
///
/// # Errors
/// A model that cannot be read, or that the format has no words for; a file that is there already; the disk.
pub fn run(args: ExportArgs) -> Result<()> {
    let path = crate::model_arg::resolve(Some(&args.model))?;
    let format = format(&args.out, args.format.as_deref())?;
    let dtype = args.dtype.dtype();
    let checkpoint = load::open(&path)?;
    let (architecture, config) = identify(&checkpoint)?;
    let base = Base { architecture, config: &config };
    let adapters = args.adapters.read(&base, &Pool::new(1))?;
    let tokenizer = tokenizer(&path);
    let model = Model {
        path: &path,
        checkpoint: &checkpoint,
        architecture,
        config: &config,
        adapters: &adapters,
        tokenizer: tokenizer.as_ref(),
    };
    model.save(&args.out, format, dtype, if args.overwrite { Existing::Replace } else { Existing::Keep })?;
    let bytes = size(&args.out).with_context(|| format!("{}: was written", args.out.display()))?;
    if args.json {
        let result = json!({
            "path": args.out.display().to_string(),
            "format": format.name(),
            "dtype": dtype.to_string(),
            "architecture": architecture.name,
            "parameters": parameters(&config),
            "bytes": bytes,
        });
        println!("{result}");
    } else {
        println!(
            "{}: {} as {format}, {dtype}, {:.1} million parameters, {:.1} MB",
            args.out.display(),
            architecture.name,
            parameters(&config) as f64 / 1e6,
            bytes as f64 / 1e6
        );
    }
    Ok(())
}

/// A model to be written.
pub(super) struct Model<'a> {
    /// Where it is.
    pub path: &'a Path,
    /// The same, open.
    pub checkpoint: &'a Checkpoint,
    /// What it is.
    pub architecture: &'static Architecture,
    /// What it is.
    pub config: &'a DecoderConfig,
    /// What is merged into it.
    pub adapters: &'a [Adapter],
    /// What its text is read with.
    pub tokenizer: Option<&'a Tokenizer>,
}

impl Model<'_> {
    /// Writes it.
    pub fn save(&self, out: &Path, format: SaveFormat, dtype: DType, existing: Existing) -> Result<()> {
        let tensors = CheckpointTensors::new(self.checkpoint, self.architecture, self.config)?;
        let merged = Merged::new(self.config, &tensors, self.adapters)?;
        let name = out.file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
        let has_files = self.path.join("tokenizer.json").is_file();
        let options = SaveOptions {
            format,
            dtype,
            name: &name,
            tokenizer: self.tokenizer,
            tokenizer_folder: has_files.then_some(self.path),
            existing,
        };
        Ok(save::save(out, self.architecture, merged.config(), &merged, &options)?)
    }
}

/// The model's tokenizer. A model without one is one all the same; the other program will say what it misses.
pub(super) fn tokenizer(path: &Path) -> Option<Tokenizer> {
    let tokenizer = load::tokenizer(path);
    if let Err(error) = &tokenizer {
        super::answer::note(&format!("without a tokenizer: {error:#}"));
    }
    tokenizer.ok()
}

/// As it was said, or by the ending of the name.
pub(super) fn format(out: &Path, name: Option<&str>) -> Result<SaveFormat> {
    if let Some(name) = name {
        return SaveFormat::from_name(name).with_context(|| {
            let names: Vec<&str> = SaveFormat::ALL.iter().map(|format| format.name()).collect();
            format!("--format {name}: expected one of {}", names.join(", "))
        });
    }
    match out.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Ok(SaveFormat::Gguf),
        Some("bin") => Ok(SaveFormat::LlmC),
        None => Ok(SaveFormat::Hf),
        Some(_) if out.is_dir() => Ok(SaveFormat::Hf),
        Some(other) => bail!("{}: `.{other}` says nothing of the format; give --format", out.display()),
    }
}

/// Bytes of a file, or of the files of a folder.
fn size(path: &Path) -> std::io::Result<u64> {
    if !path.is_dir() {
        return Ok(path.metadata()?.len());
    }
    std::fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}
