//! adapter_config.json: what PEFT says of an adapter, as far as it changes what the adapter computes.
//!
//! PEFT tells a module by its name, and has three rules for it: a list holds names or their ends (`q_proj` stands for
//! `model.layers.0.self_attn.q_proj`), a string is a regular expression over the whole name, and the keys of
//! `rank_pattern` and `alpha_pattern` are regular expressions that must match the name's end from a dot on.
//! <https://huggingface.co/docs/peft/package_reference/lora>

use fancy_regex::Regex;
use serde_json::{Map, Value};

use crate::error::{Context, Result, fail};
use crate::lora::Scaling;

/// The largest rank; more is taken for a damaged file.
pub(super) const MAX_RANK: usize = 1 << 16;

/// What an adapter_config.json says.
pub(super) struct Config {
    rank: usize,
    alpha: f32,
    targets: Names,
    excluded: Option<Names>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f32)>,
    layers: Option<Vec<usize>>,
    /// How α and r make the scale, of all modules.
    pub scaling: Scaling,
    /// Whether each output has a length (DoRA).
    pub magnitudes: bool,
    /// Share of inputs that is left out in training.
    pub dropout: f32,
    /// Ends of names of modules that the adapter replaces.
    pub saved: Vec<String>,
    /// Whether an embedding and a head that are one are replaced together.
    pub ties: bool,
}

/// Names of modules.
enum Names {
    /// Names, or ends of names from a dot on.
    List(Vec<String>),
    /// A regular expression over the whole name.
    Pattern(Regex),
    /// Every projection.
    All,
}

/// Keys that change what an adapter computes in ways that are not known here: unless they are null, false or empty.
const REFUSED: &[(&str, &str)] = &[
    ("lora_bias", "a bias of lora_B is not read"),
    ("use_qalora", "QALoRA pools its inputs, which is not supported"),
    ("use_bdlora", "block-diagonal adapters are not read"),
    ("target_parameters", "adapters of single parameters (mixtures of experts) are not read"),
    ("trainable_token_indices", "single trained rows of the embedding are not read"),
    ("layer_replication", "repeated layers are not supported"),
    ("alora_invocation_tokens", "adapters that begin to work at a token (aLoRA) are not supported"),
    ("arrow_config", "mixtures of adapters (Arrow) are not supported"),
    ("kasa_config", "KaSA changes the base, which is not supported"),
    ("monteclora_config", "MonteCLoRA is not supported"),
    ("loftq_config", "LoftQ changes the base, which is not supported"),
];

/// Values of `init_lora_weights` by which PEFT changes the base when it loads the adapter.
const CHANGES_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

impl Config {
    /// Reads the config.
    ///
    /// # Errors
    /// A key that is missing, of another type or out of range; what is not supported. The message names the key.
    pub fn parse(json: &Value) -> Result<Config> {
        let Some(keys) = json.as_object() else { fail!("expected a JSON object") };
        match keys.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(other) => fail!("peft_type: expected \"LORA\", found {other:?}, which is not supported"),
            None => fail!("peft_type: expected \"LORA\", found none; is this an adapter of PEFT?"),
        }
        refuse(keys)?;
        let rank = rank("r", need(keys, "r")?)?;
        let alpha = match filled(keys, "lora_alpha") {
            Some(alpha) => number("lora_alpha", alpha)?,
            None => 8.0, // PEFT's default
        };
        let dropout = match filled(keys, "lora_dropout") {
            Some(dropout) => number("lora_dropout", dropout)?,
            None => 0.0,
        };
        if !(0.0..1.0).contains(&dropout) {
            fail!("lora_dropout: expected a share from 0 to 1, without 1, found {dropout}")
        }
        let layers = match filled(keys, "layers_to_transform") {
            None => None,
            Some(layers) => Some(layer_list(layers)?),
        };
        Ok(Config {
            rank,
            alpha,
            targets: names("target_modules", need(keys, "target_modules")?)?,
            excluded: match filled(keys, "exclude_modules") {
                Some(value) if !is_empty(value) => Some(names("exclude_modules", value)?),
                Some(_) | None => None,
            },
            ranks: patterns(keys, "rank_pattern", self::rank)?,
            alphas: patterns(keys, "alpha_pattern", number)?,
            layers: layers.filter(|layers| !layers.is_empty()),
            scaling: match flag(keys, "use_rslora")? {
                true => Scaling::RootOfRank,
                false => Scaling::Rank,
            },
            magnitudes: flag(keys, "use_dora")?,
            dropout,
            ties: flag(keys, "ensure_weight_tying")?,
            saved: match filled(keys, "modules_to_save") {
                Some(value) => strings("modules_to_save", value)?,
                None => Vec::new(),
            },
        })
    }

    /// Whether the adapter changes this module, which is in this layer.
    pub fn targets(&self, module: &str, layer: Option<usize>) -> Result<bool> {
        if let Some(excluded) = &self.excluded
            && excluded.name(module)?
        {
            return Ok(false);
        }
        if !self.targets.name(module)? {
            return Ok(false);
        }
        // PEFT looks at layers where it has a list of names alone.
        let by_layer = matches!(self.targets, Names::List(_)) && !self.targets.has(module);
        Ok(match (&self.layers, layer) {
            (Some(layers), Some(layer)) if by_layer => layers.contains(&layer),
            (Some(_), None) if by_layer => false,
            (Some(_) | None, _) => true,
        })
    }

    /// The targets of a list of names that name none of these modules.
    pub fn unknown_target(&self, modules: &[&str]) -> Option<&str> {
        let Names::List(names) = &self.targets else { return None };
        let is_known = |name: &&String| modules.iter().any(|module| is_end(module, name));
        names.iter().find(|name| !is_known(name)).map(String::as_str)
    }

    /// The rank of a module.
    pub fn rank(&self, module: &str) -> Result<usize> {
        Ok(find(&self.ranks, module)?.unwrap_or(self.rank))
    }

    /// The alpha of a module.
    pub fn alpha(&self, module: &str) -> Result<f32> {
        Ok(find(&self.alphas, module)?.unwrap_or(self.alpha))
    }
}

impl Names {
    fn name(&self, module: &str) -> Result<bool> {
        Ok(match self {
            Names::List(names) => names.iter().any(|name| is_end(module, name)),
            Names::Pattern(pattern) => is_match(pattern, module)?,
            Names::All => true,
        })
    }

    /// Whether a list holds the whole name.
    fn has(&self, module: &str) -> bool {
        match self {
            Names::List(names) => names.iter().any(|name| name == module),
            Names::Pattern(_) | Names::All => false,
        }
    }
}

/// Whether `name` is the module's, or its end from a dot on.
fn is_end(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn refuse(keys: &Map<String, Value>) -> Result<()> {
    for (key, why) in REFUSED {
        if let Some(value) = filled(keys, key)
            && !is_empty(value)
        {
            fail!("{key}: found {value}: {why}")
        }
    }
    if let Some(bias) = filled(keys, "bias")
        && bias != "none"
    {
        fail!(
            "bias: expected \"none\", found {bias}: biases that were trained with an adapter are not read; merge it with PEFT"
        )
    }
    if let Some(method) = filled(keys, "init_lora_weights").and_then(Value::as_str)
        && CHANGES_BASE.iter().any(|name| method.to_lowercase().starts_with(name))
    {
        fail!(
            "init_lora_weights: found {method:?}, which changes the base too; save the adapter with PEFT's \
             path_initial_model_for_weight_conversion"
        )
    }
    Ok(())
}

/// The value of a key; `None` for null too.
fn filled<'a>(keys: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    keys.get(key).filter(|value| !value.is_null())
}

fn need<'a>(keys: &'a Map<String, Value>, key: &str) -> Result<&'a Value> {
    match filled(keys, key) {
        Some(value) => Ok(value),
        None => fail!("{key}: is missing"),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(array) => array.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

fn flag(keys: &Map<String, Value>, key: &str) -> Result<bool> {
    match filled(keys, key) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => fail!("{key}: expected true or false, found {other}"),
    }
}

fn rank(key: &str, value: &Value) -> Result<usize> {
    match value.as_u64().and_then(|r| usize::try_from(r).ok()) {
        Some(rank) if (1..=MAX_RANK).contains(&rank) => Ok(rank),
        Some(_) | None => fail!("{key}: expected a rank from 1 to {MAX_RANK}, found {value}"),
    }
}

fn number(key: &str, value: &Value) -> Result<f32> {
    match value.as_f64().map(|x| x as f32).filter(|x| x.is_finite()) {
        Some(number) => Ok(number),
        None => fail!("{key}: expected a number, found {value}"),
    }
}

fn strings(key: &str, value: &Value) -> Result<Vec<String>> {
    let all = match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(array) => array.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    };
    match all {
        Some(all) if all.iter().all(|name| !name.is_empty()) => Ok(all),
        Some(_) | None => fail!("{key}: expected a list of names, found {value}"),
    }
}

fn layer_list(value: &Value) -> Result<Vec<usize>> {
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let all = match value {
        Value::Array(array) => array.iter().map(number).collect(),
        other => number(other).map(|layer| vec![layer]),
    };
    match all {
        Some(all) => Ok(all),
        None => fail!("layers_to_transform: expected a list of layers, found {value}"),
    }
}

fn names(key: &str, value: &Value) -> Result<Names> {
    match value {
        Value::String(all) if all == "all-linear" => Ok(Names::All),
        Value::String(pattern) => Ok(Names::Pattern(regex(key, &format!("^(?:{pattern})$"))?)),
        other => match strings(key, other)? {
            empty if empty.is_empty() => fail!("{key}: expected names of modules, found none"),
            names => Ok(Names::List(names)),
        },
    }
}

/// The values of a map by patterns, in its order: the first that matches counts.
fn patterns<T>(
    keys: &Map<String, Value>,
    key: &str,
    read: impl Fn(&str, &Value) -> Result<T>,
) -> Result<Vec<(Regex, T)>> {
    let Some(value) = filled(keys, key) else { return Ok(Vec::new()) };
    let Some(map) = value.as_object() else { fail!("{key}: expected an object, found {value}") };
    let entry = |(name, value): (&String, &Value)| {
        let about = format!("{key}: {name}");
        Ok((regex(&about, &format!(r"^(?:.*\.)?(?:{name})$"))?, read(&about, value)?))
    };
    map.iter().map(entry).collect()
}

fn regex(key: &str, pattern: &str) -> Result<Regex> {
    /// Longer ones could take long to compile.
    const LONGEST: usize = 10_000;
    if pattern.len() > LONGEST {
        fail!("{key}: a pattern of {} bytes, expected at most {LONGEST}", pattern.len())
    }
    Regex::new(pattern).context(|| format!("{key}: no regular expression"))
}

fn is_match(pattern: &Regex, name: &str) -> Result<bool> {
    pattern.is_match(name).context(|| format!("the pattern `{}` over `{name}`", pattern.as_str()))
}

fn find<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if is_match(pattern, module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: Value) -> Result<Config> {
        let mut json = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]});
        for (key, value) in change.as_object().unwrap() {
            json[key] = value.clone();
        }
        Config::parse(&json)
    }

    const Q: &str = "model.layers.1.self_attn.q_proj";
    const GATE: &str = "model.layers.11.mlp.gate_proj";

    #[test]
    fn targets_are_ends_patterns_or_all() {
        for (value, q, gate) in [
            (json!(["q_proj"]), true, false),
            (json!(["_proj"]), false, false),
            (json!(["self_attn.q_proj", "gate_proj"]), true, true),
            (json!(Q), true, false),
            (json!("q_proj"), false, false), // a pattern is of the whole name
            (json!(r".*\.(q|gate)_proj"), true, true),
            (json!(r".*(?<!gate)_proj"), true, false),
            (json!("all-linear"), true, true),
        ] {
            let config = parse(json!({ "target_modules": value })).unwrap();
            let found = (config.targets(Q, Some(1)).unwrap(), config.targets(GATE, Some(11)).unwrap());
            assert_eq!(found, (q, gate), "{value}");
        }
        let config = parse(json!({"target_modules": "all-linear", "exclude_modules": ["q_proj"]})).unwrap();
        assert!(!config.targets(Q, Some(1)).unwrap() && config.targets(GATE, Some(11)).unwrap());
        let config = parse(json!({"layers_to_transform": [0, 2]})).unwrap();
        assert!(!config.targets(Q, Some(1)).unwrap());
        let config = parse(json!({"layers_to_transform": 1})).unwrap();
        assert!(config.targets(Q, Some(1)).unwrap());
        assert_eq!(parse(json!({})).unwrap().unknown_target(&[GATE]), Some("q_proj"));
    }

    #[test]
    fn patterns_give_ranks_and_alphas() {
        let config = parse(json!({
            "rank_pattern": {"layers.1.self_attn.q_proj": 4, r"^model.layers.11\..*": 2},
            "alpha_pattern": {"gate_proj": 3.5, "mlp.gate_proj": 9},
        }))
        .unwrap();
        assert_eq!((config.rank(Q).unwrap(), config.alpha(Q).unwrap()), (4, 16.0));
        assert_eq!((config.rank(GATE).unwrap(), config.alpha(GATE).unwrap()), (2, 3.5));
        assert_eq!(config.rank("model.layers.2.self_attn.q_proj").unwrap(), 8);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (change, expected) in [
            (json!({"peft_type": "IA3"}), "IA3"),
            (json!({"peft_type": null}), "peft_type"),
            (json!({"bias": "all"}), "bias: expected \"none\", found \"all\""),
            (json!({"use_dora": 1}), "use_dora"),
            (json!({"init_lora_weights": "pissa_niter_4"}), "pissa_niter_4"),
            (json!({"loftq_config": {"loftq_bits": 4}}), "LoftQ"),
            (json!({"r": 0}), "r: expected a rank from 1"),
            (json!({"r": 1e9}), "r: expected a rank"),
            (json!({"lora_alpha": "x"}), "lora_alpha: expected a number"),
            (json!({"lora_dropout": 1}), "lora_dropout"),
            (json!({"target_modules": []}), "found none"),
            (json!({"target_modules": null}), "target_modules: is missing"),
            (json!({"target_modules": "("}), "target_modules: no regular expression"),
            (json!({"rank_pattern": {"q_proj": -1}}), "rank_pattern: q_proj"),
            (json!({"rank_pattern": []}), "rank_pattern: expected an object"),
            (json!({"modules_to_save": 3}), "modules_to_save"),
            (json!({"use_rslora": "yes"}), "use_rslora"),
        ] {
            let error = match parse(change.clone()) {
                Ok(_) => panic!("{change} was taken"),
                Err(error) => format!("{error:#}"),
            };
            assert!(error.contains(expected), "{change}: {error}");
        }
        for change in [
            json!({"bias": null, "use_dora": false, "loftq_config": {}, "init_lora_weights": "gaussian"}),
            json!({"init_lora_weights": true, "unheard_of": {"a": 1}, "task_type": null}),
        ] {
            assert!(parse(change).is_ok());
        }
    }
}
