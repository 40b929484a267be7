//! `wootz export MODEL OUT`: a model in another program's format.

use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::{Path, PathBuf};
use wootz_kernels::DType;
use wootz_model::arch::identify;
use wootz_model::flops::parameters;
use wootz_model::load;
use wootz_model::save::{self, CheckpointTensors, Existing, SaveFormat, SaveOptions};

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
    /// Replace what is there
    #[arg(long)]
    overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum TypeArg {
    F32,
    Bf16,
    F16,
}

/// Writes the model.
///
/// # Errors
/// A model that cannot be read, or that the format has no words for; a file that is there already; the disk.
pub fn run(args: ExportArgs) -> Result<()> {
    let path = crate::model_arg::resolve(Some(&args.model))?;
    let format = format(&args)?;
    let dtype = match args.dtype {
        TypeArg::F32 => DType::F32,
        TypeArg::Bf16 => DType::BF16,
        TypeArg::F16 => DType::F16,
    };
    let checkpoint = load::open(&path)?;
    let (architecture, config) = identify(&checkpoint)?;
    let tensors = CheckpointTensors::new(&checkpoint, architecture, &config)?;
    // A model without a tokenizer is one all the same; the other program will say what it misses.
    let tokenizer = load::tokenizer(&path);
    if let Err(error) = &tokenizer {
        super::answer::note(&format!("without a tokenizer: {error:#}"));
    }
    let tokenizer = tokenizer.ok();
    let name = args.out.file_stem().map_or("model".into(), |stem| stem.to_string_lossy());
    let has_files = path.join("tokenizer.json").is_file();
    let options = SaveOptions {
        format,
        dtype,
        name: &name,
        tokenizer: tokenizer.as_ref(),
        tokenizer_folder: has_files.then_some(path.as_path()),
        existing: if args.overwrite { Existing::Replace } else { Existing::Keep },
    };
    save::save(&args.out, architecture, &config, &tensors, &options)?;
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

/// As it was said, or by the ending of the name.
fn format(args: &ExportArgs) -> Result<SaveFormat> {
    if let Some(name) = &args.format {
        return SaveFormat::from_name(name).with_context(|| {
            let names: Vec<&str> = SaveFormat::ALL.iter().map(|format| format.name()).collect();
            format!("--format {name}: expected one of {}", names.join(", "))
        });
    }
    match args.out.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Ok(SaveFormat::Gguf),
        Some("bin") => Ok(SaveFormat::LlmC),
        None => Ok(SaveFormat::Hf),
        Some(_) if args.out.is_dir() => Ok(SaveFormat::Hf),
        Some(other) => bail!("{}: `.{other}` says nothing of the format; give --format", args.out.display()),
    }
}

/// Bytes of a file, or of the files of a folder.
fn size(path: &Path) -> std::io::Result<u64> {
    if !path.is_dir() {
        return Ok(path.metadata()?.len());
    }
    std::fs::read_dir(path)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}
