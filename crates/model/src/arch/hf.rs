//! Reading a transformers config.json: typed keys, both styles of RoPE settings, and what the families share.
//!
//! Published files come in two styles. The older has `rope_theta`, `rope_scaling {type or rope_type, …}`,
//! `rope_local_base_freq`, `sliding_window_pattern`; the newer has `rope_parameters` (one, or one a layer type) and
//! `layer_types`. Both are read everywhere. A key that is absent has transformers' default for the family.

use serde_json::{Map, Value};

use super::{Dims, FACTORS, KeyNames, MAX_LAYERS, MAX_SIZE, check_dims};
use crate::config::{
    Bias, DecoderConfig, Head, LayerConfig, Mlp, Norm, NormPlacement, Positions, QkNorm, Rope, RopeScaling,
};
use crate::error::{Error, Result, fail};
use crate::rope::{yarn_attention_factor, yarn_attention_quotient};

/// An object of the config, with the path to it for messages.
pub(super) struct Keys<'a> {
    object: &'a Map<String, Value>,
    path: String,
}

impl<'a> Keys<'a> {
    /// The whole config.
    pub fn new(config: &'a Value) -> Result<Self> {
        match config {
            Value::Object(object) => Ok(Keys { object, path: String::new() }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                fail!("config.json: expected an object, found {}", shown(config))
            }
        }
    }

    /// The object under `key`; `None` when absent or null.
    pub fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Keys { object, path: format!("{}{key}.", self.path) })),
            Some(other) => Err(self.wrong(key, "an object", other)),
        }
    }

    /// A value; null counts as absent.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, null or not: some defaults hold only when it is not.
    pub fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// A whole number from 1 to [`MAX_SIZE`].
    pub fn find_size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size)),
            _ => Err(self.wrong(key, &format!("a whole number from 1 to {MAX_SIZE}"), value)),
        }
    }

    /// A whole number, 0 included.
    pub fn find_count(&self, key: &str) -> Result<Option<usize>> {
        match self.get(key) {
            Some(value) if value.as_u64() == Some(0) => Ok(Some(0)),
            Some(_) | None => self.find_size(key),
        }
    }

    /// The sliding window: null is none, an absent key means the default.
    pub fn window(&self, default: usize) -> Result<Option<usize>> {
        if self.has("sliding_window") { self.find_size("sliding_window") } else { Ok(Some(default)) }
    }

    /// As [`Keys::find_size`], with a default; without one the key must be there.
    pub fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        self.find_size(key)?.or(default).ok_or_else(|| self.missing(key, "a whole number"))
    }

    /// A finite number above zero that f32 holds as such.
    pub fn find_number(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().map(|x| x as f32) {
            Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(key, "a finite number above 0", value)),
        }
    }

    /// As [`Keys::find_number`]; the key must be there.
    pub fn number(&self, key: &str) -> Result<f32> {
        self.find_number(key)?.ok_or_else(|| self.missing(key, "a number"))
    }

    /// True or false.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a string", other)),
        }
    }

    /// Fails when a switch for something that this decoder does not do is on.
    pub fn forbid(&self, key: &str) -> Result<()> {
        if self.flag(key, false)? {
            fail!(
                "config.json: {}{key}: expected false, found true; this mechanism is not supported",
                self.path
            );
        }
        Ok(())
    }

    /// The activation function must be one of `supported`; absent means the family's default, which is among them.
    pub fn activation(&self, key: &str, supported: &[&str]) -> Result<()> {
        match self.text(key)? {
            Some(name) if !supported.contains(&name) => {
                fail!("config.json: {}{key}: expected {}, found `{name}`", self.path, supported.join(" or "))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The number of layers, small enough to make a list of.
    pub fn layers(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let layers = self.size(key, default)?;
        if layers > MAX_LAYERS {
            fail!("config.json: {}{key}: expected at most {MAX_LAYERS} layers, found {layers}", self.path);
        }
        Ok(layers)
    }

    /// Which layers have a sliding window: `layer_types` where the file has it, otherwise `default(i)`.
    pub fn sliding(&self, layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        let Some(value) = self.get("layer_types") else { return Ok((0..layers).map(default).collect()) };
        let Value::Array(types) = value else { return Err(self.wrong("layer_types", "an array", value)) };
        if types.len() < layers {
            fail!(
                "config.json: {}layer_types: expected {layers} entries, one a layer, found {}",
                self.path,
                types.len()
            );
        }
        let sliding = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.wrong("layer_types", "`full_attention` or `sliding_attention`", value)),
        };
        types[..layers].iter().map(sliding).collect()
    }

    /// An error about the value of a key.
    pub fn wrong(&self, key: &str, expected: &str, found: &Value) -> Error {
        Error::new(format!("config.json: {}{key}: expected {expected}, found {}", self.path, shown(found)))
    }

    fn missing(&self, key: &str, expected: &str) -> Error {
        Error::new(format!("config.json: {}{key} is missing; it should be {expected}", self.path))
    }
}

/// A value for a message, cut when it is long.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("an array of {}", list.len()),
        Value::Object(_) => "an object".into(),
        Value::String(text) if text.chars().count() > 60 => "a long string".into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// What transformers takes for keys that a family's config.json leaves out; `None`: the key must be there.
pub(super) struct Defaults {
    pub vocab_size: Option<usize>,
    pub dim: Option<usize>,
    pub hidden_dim: Option<usize>,
    pub n_heads: Option<usize>,
    /// When the key is absent; `None`: as many as query heads. (Null always means as many as query heads.)
    pub n_kv_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub max_seq: usize,
    pub head: Head,
}

impl Defaults {
    /// Nothing but the context length.
    pub const fn context(max_seq: usize) -> Self {
        Defaults {
            vocab_size: None,
            dim: None,
            hidden_dim: None,
            n_heads: None,
            n_kv_heads: None,
            head_dim: None,
            max_seq,
            head: Head::Untied,
        }
    }
}

/// A Llama-like decoder (RMSNorm, RoPE, SwiGLU, no bias) with the sizes of the config; a family overrides the rest.
pub(super) fn decoder(keys: &Keys, defaults: &Defaults, layers: Vec<LayerConfig>) -> Result<DecoderConfig> {
    let dim = keys.size("hidden_size", defaults.dim)?;
    let n_heads = keys.size("num_attention_heads", defaults.n_heads)?;
    let n_kv_heads = match defaults.n_kv_heads {
        Some(default) if !keys.has("num_key_value_heads") => default,
        _ => keys.size("num_key_value_heads", Some(n_heads))?,
    };
    let sizes =
        Dims { dim, n_heads, n_kv_heads, head_dim: keys.find_size("head_dim")?.or(defaults.head_dim) };
    let head_dim = check_dims(&sizes, &names(&keys.path), Positions::Rotary)?;
    Ok(DecoderConfig {
        vocab_size: keys.size("vocab_size", defaults.vocab_size)?,
        dim,
        n_heads,
        n_kv_heads,
        head_dim,
        hidden_dim: keys.size("intermediate_size", defaults.hidden_dim)?,
        max_seq: keys.size("max_position_embeddings", Some(defaults.max_seq))?,
        norm: Norm::RmsNorm,
        norm_eps: keys.find_number("rms_norm_eps")?.unwrap_or(1e-6),
        placement: NormPlacement::Pre,
        positions: Positions::Rotary,
        bias: Bias::None,
        qk_norm: QkNorm::None,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        mlp: Mlp::SwiGlu,
        embedding_scale: 1.0,
        head: if keys.flag("tie_word_embeddings", defaults.head == Head::Tied)? {
            Head::Tied
        } else {
            Head::Untied
        },
        logit_softcap: None,
        layers,
    })
}

fn names(path: &str) -> KeyNames {
    let key = |name: &str| format!("config.json: {path}{name}");
    KeyNames {
        dim: key("hidden_size"),
        n_heads: key("num_attention_heads"),
        n_kv_heads: key("num_key_value_heads"),
        head_dim: key("head_dim"),
    }
}

/// Layers of one rotary embedding, those with a `true` in `sliding` with the window.
pub(super) fn layers(
    keys: &Keys,
    rope: &Rope,
    sliding: &[bool],
    window: Option<usize>,
) -> Result<Vec<LayerConfig>> {
    let layer = |&sliding: &bool| match (sliding, window) {
        (true, None) => {
            fail!(
                "config.json: {}sliding_window: expected a number (and use_sliding_window where there is such a key), for \
                 the sliding layers of layer_types; found none",
                keys.path
            )
        }
        (true, Some(_)) => Ok(LayerConfig { rope: Some(rope.clone()), window }),
        (false, _) => Ok(LayerConfig { rope: Some(rope.clone()), window: None }),
    };
    sliding.iter().map(layer).collect()
}

/// The one rotary embedding of a model, from either style.
pub(super) fn rope(keys: &Keys, default_theta: f32, max_seq: usize) -> Result<Rope> {
    let parameters = match keys.object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => keys.object("rope_parameters")?,
    };
    // A family without layer types may still be written with one entry a type; then it is the full layers' that counts.
    let nested = match &parameters {
        Some(parameters) => parameters.object("full_attention")?,
        None => None,
    };
    rope_of(keys, nested.or(parameters).as_ref(), "rope_theta", default_theta, max_seq)
}

/// A rotary embedding from its own object (either style) and the config's older key for theta.
pub(super) fn rope_of(
    keys: &Keys,
    parameters: Option<&Keys>,
    theta_key: &str,
    default_theta: f32,
    max_seq: usize,
) -> Result<Rope> {
    partial_rotary(keys)?;
    let own_theta = match parameters {
        Some(parameters) => {
            partial_rotary(parameters)?;
            parameters.find_number("rope_theta")?
        }
        None => None,
    };
    let theta = match own_theta {
        Some(theta) => theta,
        None => keys.find_number(theta_key)?.unwrap_or(default_theta),
    };
    if theta <= 1.0 {
        fail!("config.json: {}{theta_key}: expected a base above 1, found {theta}", keys.path);
    }
    let scaling = match parameters {
        Some(parameters) => scaling(keys, parameters, max_seq)?,
        None => RopeScaling::None,
    };
    Ok(Rope { theta, scaling })
}

fn partial_rotary(keys: &Keys) -> Result<()> {
    match keys.find_number("partial_rotary_factor")? {
        Some(part) if part != 1.0 => fail!(
            "config.json: {}partial_rotary_factor: expected 1, found {part}; rotation of a part of a head is not supported",
            keys.path
        ),
        Some(_) | None => Ok(()),
    }
}

/// The divisor of a RoPE scaling.
fn factor(rope: &Keys) -> Result<f32> {
    let factor = rope.number("factor")?;
    if !FACTORS.contains(&factor) {
        let (least, most) = (FACTORS.start(), FACTORS.end());
        fail!("config.json: {}factor: expected a factor from {least} to {most}, found {factor}", rope.path);
    }
    Ok(factor)
}

fn scaling(keys: &Keys, rope: &Keys, max_seq: usize) -> Result<RopeScaling> {
    let (key, kind) = match rope.text("rope_type")? {
        Some(kind) => ("rope_type", Some(kind)),
        None => ("type", rope.text("type")?),
    };
    // Some published configs keep the original length beside the object; transformers gives that one priority.
    let original_max_seq = || -> Result<usize> {
        let own = rope.find_size("original_max_position_embeddings")?;
        Ok(keys.find_size("original_max_position_embeddings")?.or(own).unwrap_or(max_seq))
    };
    match kind {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor(rope)? }),
        Some("llama3") => {
            let low_freq_factor = rope.number("low_freq_factor")?;
            let high_freq_factor = rope.number("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                fail!(
                    "config.json: {}high_freq_factor: expected more than low_freq_factor {low_freq_factor}, found \
                     {high_freq_factor}",
                    rope.path
                );
            }
            Ok(RopeScaling::Llama3 {
                factor: factor(rope)?,
                low_freq_factor,
                high_freq_factor,
                original_max_seq: original_max_seq()?,
            })
        }
        Some("yarn") => {
            let original_max_seq = original_max_seq()?;
            let factor = match rope.find_number("factor")? {
                Some(_) => factor(rope)?,
                None => max_seq as f32 / original_max_seq as f32,
            };
            let mscales = (rope.find_number("mscale")?, rope.find_number("mscale_all_dim")?);
            let attention_factor = match (rope.find_number("attention_factor")?, mscales) {
                (Some(given), _) => given,
                (None, (Some(mscale), Some(all))) => yarn_attention_quotient(factor, mscale, all),
                (None, _) => yarn_attention_factor(factor, 1.0),
            };
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: rope.find_number("beta_fast")?.unwrap_or(32.0),
                beta_slow: rope.find_number("beta_slow")?.unwrap_or(1.0),
                original_max_seq,
                attention_factor,
                truncate: rope.flag("truncate", true)?,
            })
        }
        Some(other) => fail!(
            "config.json: {}{key}: RoPE scaling `{other}` is not supported; supported are default, linear, llama3, yarn",
            rope.path
        ),
    }
}
