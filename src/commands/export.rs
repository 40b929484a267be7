//! `wootz export MODEL OUT`: a model in another program's format.

use anyhow::{Context, Result, bail};
use serde_json::json;
use std::path::{Path, PathBuf};
use wootz_formats::Checkpoint;
use wootz_kernels::{DType, Pool, Precision, pool};
use wootz_model::DecoderConfig;
use wootz_model::adapter::Base;
use wootz_model::arch::{Architecture, identify};
use wootz_model::compare::{Comparison, Logits, compare, logits};
use wootz_model::flops::parameters;
use wootz_model::load::{self, LoadOptions};
use wootz_model::lora::Adapter;
use wootz_model::merge::Merged;
use wootz_model::save::{self, CheckpointTensors, Existing, OnnxGraph, OnnxOptions, SaveFormat, SaveOptions};
use wootz_text::Tokenizer;

use super::comparison;
use super::flags::AdapterArgs;
use super::staged::Staged;

/// Arguments of `wootz export`.
#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    /// A run, a folder, a .gguf, a .bin, or an id of the hub
    model: String,
    /// What to write: NAME.gguf, NAME.onnx, NAME.bin (llm.c, GPT-2 only), or a folder (safetensors, as transformers reads
    /// it; with `--format onnx` model.onnx and the tokenizer's files)
    out: PathBuf,
    /// `hf`, `gguf`, `onnx` or `llmc` [default: by the name]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Type of the weights: `f32`, `bf16`, or `f16` (not llm.c)
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    dtype: TypeArg,
    /// Of ONNX: what the graph is [default: plain]
    #[arg(long, value_name = "GRAPH")]
    graph: Option<GraphArg>,
    /// Of ONNX: weights in a second file, NAME.onnx.data, also where one file has room for them (2 GB)
    #[arg(long)]
    external_data: bool,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// Do not run what was written beside the original
    #[arg(long)]
    no_check: bool,
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

/// The graph of an ONNX model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum GraphArg {
    /// From token ids to logits
    Plain,
    /// With the keys and values of earlier tokens as inputs and outputs
    Cache,
    /// Weights alone, as transformers has them
    Weights,
}

impl GraphArg {
    fn graph(self) -> OnnxGraph {
        match self {
            GraphArg::Plain => OnnxGraph::Plain,
            GraphArg::Cache => OnnxGraph::Cache,
            GraphArg::Weights => OnnxGraph::Weights,
        }
    }
}

/// Writes the model, with adapters merged into it if there are any.
///
/// # Errors
/// A model that cannot be read, or that the format has no words for; a file that is there already; the disk.
pub fn run(args: ExportArgs) -> Result<()> {
    let path = crate::model_arg::resolve(Some(&args.model))?;
    let format = with_options(format(&args.out, args.format.as_deref())?, &args)?;
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
    let existing = if args.overwrite { Existing::Replace } else { Existing::Keep };
    // Known before the work begins.
    let main = main_file(&args.out, format);
    if main != args.out && args.out.is_file() {
        bail!(
            "{}: is a file, and a model in this form is a folder; choose another place",
            args.out.display()
        );
    }
    existing.check(&main)?;
    let staged = Staged::new(&args.out, existing)?;
    model.save(&staged.path(), format, dtype, existing)?;
    let found = if args.no_check { None } else { model.test(&staged.path(), format, dtype)? };
    staged.publish()?;
    let files = format.files(&args.out);
    let sizes: std::io::Result<Vec<u64>> = files.iter().map(|file| size(file)).collect();
    let bytes: u64 = sizes.with_context(|| format!("{}: was written", args.out.display()))?.iter().sum();
    if args.json {
        let mut result = json!({
            "path": args.out.display().to_string(),
            "format": format.name(),
            "dtype": dtype.to_string(),
            "architecture": architecture.name,
            "parameters": parameters(&config),
            "bytes": bytes,
        });
        if let Some(found) = &found {
            comparison::add(found, &mut result);
        }
        if let SaveFormat::Onnx(onnx) = format {
            result["graph"] = onnx.graph.name().into();
            result["files"] = files.iter().map(|file| file.display().to_string()).collect();
        }
        println!("{result}");
        return Ok(());
    }
    println!(
        "{}: {} as {format}, {dtype}, {:.1} million parameters, {:.1} MB",
        args.out.display(),
        architecture.name,
        parameters(&config) as f64 / 1e6,
        bytes as f64 / 1e6
    );
    if let Some(found) = &found {
        println!("against the original, {found}");
    }
    if let SaveFormat::Onnx(onnx) = format {
        describe(onnx.graph, &files, &args.out);
    }
    Ok(())
}

/// Says what goes into the graph and comes out, and what else it takes.
fn describe(graph: OnnxGraph, files: &[PathBuf], out: &Path) {
    match graph {
        OnnxGraph::Plain => println!("input_ids [batch, sequence] -> logits [batch, sequence, vocabulary]"),
        OnnxGraph::Cache => println!(
            "input_ids, attention_mask, past_key_values.N.key and .value -> logits, present.N.key and .value"
        ),
        OnnxGraph::Weights => println!("nothing is computed; each weight is an initialiser and an output"),
    }
    if let [_, data] = files {
        println!("the weights are in {}, which belongs beside the model", data.display());
    }
    if files.iter().any(|file| file == out) {
        println!("the tokenizer is not in it; `--format onnx FOLDER` writes a folder with both");
    }
}

/// The format with what the flags say of it.
fn with_options(format: SaveFormat, args: &ExportArgs) -> Result<SaveFormat> {
    match format {
        SaveFormat::Onnx(options) => Ok(SaveFormat::Onnx(OnnxOptions {
            graph: args.graph.map_or(options.graph, GraphArg::graph),
            longest_file: if args.external_data { 0 } else { options.longest_file },
        })),
        SaveFormat::Hf | SaveFormat::Gguf | SaveFormat::LlmC => {
            if args.graph.is_some() || args.external_data {
                bail!(
                    "--graph and --external-data are for ONNX, and this is {format}; name the file NAME.onnx"
                );
            }
            Ok(format)
        }
    }
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

    /// Runs a few texts through the model and through what was written of it; `None` where nothing here runs that.
    ///
    /// # Errors
    /// They say more different things than rounding to this type explains: something was written wrong.
    fn test(&self, written: &Path, format: SaveFormat, dtype: DType) -> Result<Option<Comparison>> {
        let options = LoadOptions { precision: Precision::F32, threads: pool::default_threads() };
        let texts = comparison::tokens(None, self.tokenizer, self.config.vocab_size)?;
        let found = match format {
            SaveFormat::Hf | SaveFormat::Gguf | SaveFormat::LlmC => {
                let model = wootz_model::Model::load(written, &options);
                logits(&model.context("what was written cannot be read")?, &texts)?
            }
            SaveFormat::Onnx(onnx) => match self.onnx_logits(written, onnx, dtype, &texts)? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let mut model = wootz_model::Model::from_checkpoint(self.checkpoint, &options)?;
        for adapter in self.adapters {
            model.put_on(adapter.copy()?)?;
        }
        let found = compare(&logits(&model, &texts)?, &found)?;
        let most = divergence_of(dtype);
        if found.mean > most {
            bail!(
                "what was written does not say what the model says: {found}. Rounding to {dtype} explains a divergence of at \
                 most {most:.0e}. Nothing is left of it; try --dtype f32, or --no-check to keep it all the same"
            );
        }
        Ok(Some(found))
    }

    /// What a graph says, where it says something and the library that runs it knows its types.
    #[cfg(feature = "onnx")]
    fn onnx_logits(
        &self,
        written: &Path,
        onnx: OnnxOptions,
        dtype: DType,
        texts: &[Vec<u32>],
    ) -> Result<Option<Logits>> {
        match (onnx.graph, dtype) {
            (OnnxGraph::Weights, _) => Ok(None),
            (OnnxGraph::Plain | OnnxGraph::Cache, DType::F32) => {
                let files = SaveFormat::Onnx(onnx).files(written);
                let model = files.first().context("nothing was written")?;
                Ok(Some(super::onnx_logits::logits(model, self.config, texts)?))
            }
            (OnnxGraph::Plain | OnnxGraph::Cache, _) => {
                super::answer::note(&format!(
                    "not run beside the original: weights of {dtype} are not run here"
                ));
                Ok(None)
            }
        }
    }

    #[cfg(not(feature = "onnx"))]
    fn onnx_logits(&self, _: &Path, _: OnnxOptions, _: DType, _: &[Vec<u32>]) -> Result<Option<Logits>> {
        super::answer::note("not run beside the original: this program was built without the feature `onnx`");
        Ok(None)
    }
}

/// The file that says that the whole is there.
fn main_file(out: &Path, format: SaveFormat) -> PathBuf {
    match format {
        SaveFormat::Hf => out.join("config.json"),
        SaveFormat::Onnx(_) if out.extension().is_none_or(|ending| ending != "onnx") => {
            out.join("config.json")
        }
        SaveFormat::Gguf | SaveFormat::LlmC | SaveFormat::Onnx(_) => out.to_owned(),
    }
}

/// The mean divergence in nats that rounding weights to a type may cause: some ten times what it is for trained models, and a
/// tenth of what any mistake in names, shapes or order makes.
fn divergence_of(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1e-2,
        DType::F16 => 1e-3,
        // An adapter apart adds its change to the output, and one that was merged to the weights.
        _ => 1e-6,
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
        return SaveFormat::from_name(name)
            .with_context(|| format!("--format {name}: expected one of {}", SaveFormat::NAMES.join(", ")));
    }
    match out.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => Ok(SaveFormat::Gguf),
        Some("bin") => Ok(SaveFormat::LlmC),
        Some("onnx") => Ok(SaveFormat::Onnx(OnnxOptions::default())),
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
