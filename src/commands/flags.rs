//! Flags that several commands share.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::ValueEnum;
use wootz_kernels::ops::attention::CacheType;
use wootz_kernels::{Pool, Precision, pool};
use wootz_model::Model;
use wootz_model::adapter::{self, Base};
use wootz_model::generate::SamplerOptions;
use wootz_model::load::LoadOptions;
use wootz_model::lora::Adapter;
use wootz_model::quantize::Mix;

use super::device::DeviceArgs;
use crate::model_arg;

/// How tokens are chosen.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Randomness: 0 always takes the most likely token, 1 draws from the model's own distribution
    #[arg(short = 't', long, value_name = "T", default_value = "0.8", value_parser = from_zero, allow_hyphen_values = true)]
    pub temperature: f32,
    /// Draw from the K most likely tokens; 0 from all
    #[arg(long, value_name = "K", default_value = "40")]
    pub top_k: usize,
    /// Draw from the fewest tokens whose probabilities sum to P
    #[arg(long, value_name = "P", default_value = "0.95", value_parser = share, allow_hyphen_values = true)]
    pub top_p: f32,
    /// Draw from tokens at least P times as likely as the most likely one
    #[arg(long, value_name = "P", default_value = "0", value_parser = share_or_none, allow_hyphen_values = true)]
    pub min_p: f32,
    /// Draw from the most typical tokens, up to this share of the probability
    #[arg(long, value_name = "P", default_value = "1", value_parser = share, allow_hyphen_values = true)]
    pub typical: f32,
    /// Divide the logits of tokens that have occurred
    #[arg(long, value_name = "R", default_value = "1", value_parser = above_zero, allow_hyphen_values = true)]
    pub repeat_penalty: f32,
    /// How many tokens back the three penalties look; -1: to the beginning
    #[arg(long, value_name = "N", default_value = "64", value_parser = count_or_all, allow_hyphen_values = true)]
    pub repeat_last_n: Count,
    /// Taken from the logits of tokens for each time that they have occurred
    #[arg(long, value_name = "X", default_value = "0", value_parser = finite, allow_hyphen_values = true)]
    pub frequency_penalty: f32,
    /// Taken from the logits of tokens that have occurred
    #[arg(long, value_name = "X", default_value = "0", value_parser = finite, allow_hyphen_values = true)]
    pub presence_penalty: f32,
    /// Add X to the logit of token ID; -inf rules it out. May be given several times
    #[arg(long, value_name = "ID=X", value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Names the random numbers; without it a new one is taken and printed
    #[arg(short = 's', long)]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The options, with a seed of this run if none was given.
    pub fn options(&self) -> SamplerOptions {
        SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical: self.typical,
            repeat_penalty: self.repeat_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            repeat_last_n: self.repeat_last_n.0,
            logit_bias: self.logit_bias.clone(),
            // The standard library's maps are keyed by the system's random numbers. 32 bits are easier to type again.
            seed: self.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
        }
    }
}

/// Adapters of the model.
#[derive(Debug, Default, clap::Args)]
pub struct AdapterArgs {
    /// Change the model by an adapter: a folder of PEFT's, a GGUF adapter, or a run that trained one. With `:S`, take S
    /// times the change. May be given several times
    #[arg(id = "adapter", long = "adapter", value_name = "A[:S]")]
    names: Vec<String>,
}

impl AdapterArgs {
    /// Reads them, for this base.
    ///
    /// # Errors
    /// There is no such adapter, or it is damaged, or another base's.
    pub fn read(&self, base: &Base, pool: &Pool) -> Result<Vec<Adapter>> {
        self.names.iter().map(|name| read_adapter(name, base, pool)).collect()
    }

    /// As they were given: `A` or `A:S`.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads them, and puts them on the model.
    ///
    /// # Errors
    /// As [`AdapterArgs::read`].
    pub fn put_on(&self, model: &mut Model) -> Result<()> {
        let base = Base { architecture: model.architecture(), config: model.config() };
        let adapters = self.read(&base, model.pool())?;
        for (adapter, name) in adapters.into_iter().zip(&self.names) {
            model.put_on(adapter).with_context(|| format!("--adapter {name}"))?;
        }
        Ok(())
    }
}

/// Reads an adapter for this base, from `A` or `A:S`.
///
/// # Errors
/// As [`AdapterArgs::read`].
pub fn read_adapter(name: &str, base: &Base, pool: &Pool) -> Result<Adapter> {
    let (name, strength) = with_strength(name);
    let path = model_arg::resolve_adapter(name)?;
    Ok(Adapter { strength, ..adapter::read(&path, base, pool)? })
}

/// `A:S`, where S is a number and there is no file of the whole name.
pub fn with_strength(name: &str) -> (&str, f32) {
    let strength = |text: &str| text.parse::<f32>().ok().filter(|strength| strength.is_finite());
    match name.rsplit_once(':').and_then(|(path, text)| Some((path, strength(text)?))) {
        Some((path, strength)) if !path.is_empty() && !Path::new(name).exists() => (path, strength),
        Some(_) | None => (name, 1.0),
    }
}

/// How the model runs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Running")]
pub struct RunningArgs {
    /// Tokens of prompt and answer together, at the most [default: what the model was made for; up to 8192 where an
    /// answer has no length]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// The type of cached keys and values
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub kv: CacheArg,
    /// `auto` rounds the inputs of a product as its weights' type wants it; `f32` never does
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub dtype: PrecisionArg,
    /// Round the weights to a type of `wootz quantize` while they are loaded: Q8_0, Q4_K_M and so on
    #[arg(long, value_name = "TYPE", value_parser = super::quantize::mix)]
    pub quantize: Option<Mix>,
    /// Threads that compute [default: one a physical core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: Option<u32>,
    /// Guess up to N tokens ahead from what was said before, and verify them together; never changes the result
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "7", value_parser = clap::value_parser!(u32).range(1..512))]
    pub lookup: Option<u32>,
    #[command(flatten)]
    pub adapters: AdapterArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl RunningArgs {
    /// Loads the model, and puts its adapters on.
    pub fn load(&self, path: &Path) -> Result<Arc<Model>> {
        let mut model = self.load_base(path)?;
        self.adapters.put_on(&mut model)?;
        Ok(Arc::new(model))
    }

    /// Loads the model as it is without adapters, to where it is to run.
    pub fn load_base(&self, path: &Path) -> Result<Model> {
        let precision = self.dtype.precision();
        let threads = self.threads.map_or_else(pool::default_threads, |n| n as usize);
        let mut model = load(path, &LoadOptions { precision, threads }, self.quantize)?;
        self.device.place(&mut model)?;
        Ok(model)
    }

    /// The context of a run whose longest sequence takes `needed` tokens, as far as that is known.
    pub fn context(&self, model: &Model, needed: usize) -> usize {
        const ENDLESS: usize = 8192;
        let reach = model.config().max_seq;
        match self.ctx {
            Some(ctx) => ctx as usize,
            None => reach.min(needed.max(ENDLESS)),
        }
    }

    /// The type of cached keys and values.
    pub fn cache(&self) -> CacheType {
        self.kv.cache_type()
    }

    /// Tokens to guess ahead.
    pub fn lookup(&self) -> usize {
        self.lookup.unwrap_or(0) as usize
    }
}

/// Loads a model, rounded to a mixture if one is given.
pub fn load(path: &Path, options: &LoadOptions, mix: Option<Mix>) -> Result<Model> {
    Ok(match mix {
        Some(mix) => Model::load_quantized(path, options, mix)?,
        None => Model::load(path, options)?,
    })
}

/// A type of cached keys and values.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CacheArg {
    /// Half precision
    F16,
    /// Full precision
    F32,
}

impl CacheArg {
    /// The kernels' name of it.
    pub fn cache_type(self) -> CacheType {
        match self {
            CacheArg::F16 => CacheType::F16,
            CacheArg::F32 => CacheType::F32,
        }
    }
}

/// What products may do to their inputs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PrecisionArg {
    /// Round them to what the weights' type multiplies fastest with
    Auto,
    /// Nothing
    F32,
}

impl PrecisionArg {
    /// The kernels' name of it.
    pub fn precision(self) -> Precision {
        match self {
            PrecisionArg::Auto => Precision::Native,
            PrecisionArg::F32 => Precision::F32,
        }
    }
}

/// A number of tokens, or `usize::MAX` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub usize);

/// Reads a number of tokens; -1 is no limit.
pub fn count_or_all(text: &str) -> Result<Count, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Count(usize::MAX)),
        Ok(n) if n >= 0 => usize::try_from(n).map(Count).map_err(|_| "too large".to_owned()),
        _ => Err("expected a number of tokens, or -1 for no limit".to_owned()),
    }
}

fn number(text: &str, is_valid: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    let value: f32 = text.parse().map_err(|_| format!("expected {expected}"))?;
    if is_valid(value) { Ok(value) } else { Err(format!("expected {expected}")) }
}

fn from_zero(text: &str) -> Result<f32, String> {
    number(text, |x| x >= 0.0 && x.is_finite(), "a number from 0 up")
}

fn above_zero(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0 && x.is_finite(), "a number above 0")
}

fn share(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0 && x <= 1.0, "a number above 0, up to 1")
}

fn share_or_none(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, f32::is_finite, "a number")
}

fn bias(text: &str) -> Result<(u32, f32), String> {
    let expected = "a token id and a number, as in 50256=-1.5 or 50256=-inf";
    let (id, value) = text.split_once('=').ok_or_else(|| format!("expected {expected}"))?;
    let id = id.trim().parse().map_err(|_| format!("expected {expected}"))?;
    let value = number(value.trim(), |x| x.is_finite() || x == f32::NEG_INFINITY, expected)?;
    Ok((id, value))
}

/// One of the names of a setting of the library.
pub fn parse_name<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).map_err(|error| {
        // "unknown variant `x`, expected `a` or `b`"
        let text = error.to_string();
        text.split_once(", ").map_or(text.clone(), |(_, expected)| expected.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in ["-1", "nan", "inf", "x", ""] {
            assert!(from_zero(text).is_err(), "{text}");
            assert!(above_zero(text).is_err(), "{text}");
            assert!(share(text).is_err(), "{text}");
        }
        assert_eq!((from_zero("0"), share("1"), finite("-2")), (Ok(0.0), Ok(1.0), Ok(-2.0)));
        assert!(above_zero("0").is_err() && share("0").is_err() && share("2").is_err());
        assert!(share_or_none("0").is_ok() && share_or_none("1.01").is_err());
        assert_eq!(count_or_all("-1"), Ok(Count(usize::MAX)));
        assert!(count_or_all("-2").is_err() && count_or_all("1.5").is_err());
    }

    #[test]
    fn a_strength_is_a_number_behind_the_last_colon() {
        assert_eq!(with_strength("a"), ("a", 1.0));
        assert_eq!(with_strength("a:0.5"), ("a", 0.5));
        assert_eq!(with_strength("a:-1"), ("a", -1.0));
        for name in ["C:\\a", "a:", "a:inf", "a:nan", ":2"] {
            assert_eq!(with_strength(name), (name, 1.0));
        }
    }

    #[test]
    fn biases_are_pairs() {
        assert_eq!(bias("5=-1.5"), Ok((5, -1.5)));
        assert_eq!(bias("5=-inf"), Ok((5, f32::NEG_INFINITY)));
        for text in ["5", "=1", "5=", "-1=1", "5=nan", "5=inf"] {
            assert!(bias(text).is_err(), "{text}");
        }
    }
}
