//! PEFT's folder: adapter_config.json, and adapter_model.safetensors with two tensors for each module.
//!
//! ```text
//! base_model.model.<module>.lora_A.weight   [r, k]      <module>: transformers' name, as model.layers.0.self_attn.q_proj
//! base_model.model.<module>.lora_B.weight   [n, r]
//! base_model.model.<module>.weight          what takes the base's place (modules_to_save)
//! ```
//!
//! Details that have caused bugs:
//! - B's rows are outputs for GPT-2's Conv1D too, whose weight is transposed.
//! - PEFT ignores what a config has and the file has not, and the reverse; here both are errors.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use wootz_formats::{Checkpoint, Format, Metadata, TensorSpec, TensorView, safetensors, write_atomically};
use wootz_kernels::Pool;

use super::config::{Config, MAX_RANK};
use super::modules::{Change, Module, modules};
use super::{Base, Scales, WriteOptions, decode, decode_shaped};
use crate::arch::Architecture;
use crate::config::{DecoderConfig, Head};
use crate::error::{Context, Result, fail};
use crate::lora::{Adapter, Scaling};
use crate::names::{Place, Source, TensorId};
use crate::save::{NormShift, encode};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";
/// The note, in the file's `__metadata__`, with the ranks of the blocks of joined modules (see [`super::modules`]), by
/// module. PEFT does not look at it.
const BLOCKS: &str = "wootz.blocks";

/// Whether a folder holds an adapter of PEFT's.
pub(super) fn is_folder(path: &Path) -> bool {
    path.join(CONFIG).is_file()
}

/// Reads an adapter for this base.
pub(super) fn read(folder: &Path, base: &Base, pool: &Pool) -> Result<Adapter> {
    let path = folder.join(WEIGHTS);
    if !path.is_file() {
        let pickle = folder.join("adapter_model.bin");
        if pickle.is_file() {
            fail!(
                "{} is a PyTorch pickle, which is not read; load the adapter with PEFT and save it again, which writes {WEIGHTS}",
                pickle.display()
            )
        }
        fail!("{} is missing, beside {CONFIG}", path.display())
    }
    let checkpoint = Checkpoint::open(&path).context(|| "cannot open the adapter")?;
    let Metadata::Config(json) = checkpoint.metadata() else {
        fail!("{}: expected safetensors, found {}", path.display(), checkpoint.format())
    };
    let config = Config::parse(json).context(|| folder.join(CONFIG).display().to_string())?;
    let reader = Reader { checkpoint: &checkpoint, config, base };
    reader.all(pool).context(|| path.display().to_string())
}

struct Reader<'a> {
    checkpoint: &'a Checkpoint,
    config: Config,
    base: &'a Base<'a>,
}

impl Reader<'_> {
    fn all(&self, pool: &Pool) -> Result<Adapter> {
        let mut files = self.pairs()?;
        let modules = self.modules(&files)?;
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        if let Some(name) = self.config.unknown_target(&names) {
            fail!(
                "{CONFIG}: target_modules: `{name}` is none of the modules of a {} model that can be adapted, which are {}",
                self.base.architecture.name,
                ends(&names)
            )
        }
        let blocks = self.blocks();
        let mut adapter = Adapter {
            parts: BTreeMap::new(),
            strength: 1.0,
            dropout: self.config.dropout,
            saved: Vec::new(),
        };
        for module in &modules {
            let pair = files.pairs.get(module.name.as_str());
            match (pair, self.config.targets(&module.name, module.layer())?) {
                (None, false) => {}
                (Some(pair), true) => {
                    let mut change = self.change(module, pair)?;
                    change.magnitude =
                        self.magnitude(module, files.magnitudes.remove(module.name.as_str()))?;
                    change.blocks = blocks.get(&module.name).cloned();
                    adapter.parts.extend(module.split(pool, &change));
                }
                (Some(_), false) => fail!(
                    "tensors of `{}` are there, which {CONFIG} does not name as a target; do the two files belong together?",
                    module.name
                ),
                (None, true) => fail!(
                    "`{}.lora_A.weight` is missing: {CONFIG} names `{}` as a target; is the file complete?",
                    module.name,
                    module.name
                ),
            }
        }
        if let Some(tensor) = files.magnitudes.values().next() {
            fail!("tensor `{}` belongs to no pair that is there", tensor.name)
        }
        let known: HashSet<&str> = names.into_iter().collect();
        if let Some(name) = files.pairs.keys().find(|name| !known.contains(**name)) {
            fail!("{}", self.not_a_module(name))
        }
        adapter.saved = self.saved(&files)?;
        Ok(adapter)
    }

    /// The tensors by their modules.
    fn pairs(&self) -> Result<Files<'_>> {
        let mut files = Files::default();
        for tensor in self.checkpoint.tensors() {
            let name = tensor.name;
            let Some(rest) = name.strip_prefix(PREFIX) else {
                fail!("tensor `{name}`: expected a name that begins with `{PREFIX}`")
            };
            if let Some((module, end)) = rest.split_once(".lora_magnitude_vector") {
                // With the adapter's name and `.weight` behind it, or without.
                let is_name = end.is_empty() || end.starts_with('.') && end.matches('.').count() <= 2;
                if !is_name || files.magnitudes.insert(module, tensor).is_some() {
                    fail!("tensor `{name}` is not part of an adapter as this program knows it")
                }
                continue;
            }
            if rest.contains(".lora_embedding_") {
                fail!("tensor `{name}`: adapters of an embedding are not supported")
            }
            let (module, side, end) = match (rest.split_once(".lora_A."), rest.split_once(".lora_B.")) {
                (Some((module, end)), _) => (module, 0, end),
                (None, Some((module, end))) => (module, 1, end),
                (None, None) => {
                    files.whole.push(tensor);
                    continue;
                }
            };
            // `weight`, or with the adapter's name before it.
            let is_weight =
                end == "weight" || end.strip_suffix(".weight").is_some_and(|adapter| !adapter.contains('.'));
            if !is_weight {
                fail!("tensor `{name}` is not part of an adapter as this program knows it")
            }
            let pair: &mut [Option<TensorView>; 2] = files.pairs.entry(module).or_default();
            if let Some(other) = pair[side].replace(tensor) {
                fail!("`{}` and `{name}` are both there; expected one adapter in the file", other.name)
            }
        }
        Ok(files)
    }

    /// The base's modules, under the names that this file has for them: a bare base model's begin with nothing.
    fn modules(&self, files: &Files) -> Result<Vec<Module>> {
        let mut all = modules(self.base.architecture, self.base.config, Format::Safetensors)?;
        let own = self.base.architecture.hf_prefixes[0];
        let is_there = |prefix: &&&str| {
            all.iter().any(|module| {
                let name = module.name.strip_prefix(own).map(|rest| format!("{prefix}{rest}"));
                name.is_some_and(|name| files.pairs.contains_key(name.as_str()))
            })
        };
        if let Some(prefix) = self.base.architecture.hf_prefixes.iter().find(is_there) {
            for module in &mut all {
                if let Some(rest) = module.name.strip_prefix(own) {
                    module.name = format!("{prefix}{rest}");
                }
            }
        }
        Ok(all)
    }

    /// The pair of a module.
    fn change(&self, module: &Module, pair: &[Option<TensorView>; 2]) -> Result<Change> {
        let name = &module.name;
        let (a, b) = match pair {
            [Some(a), Some(b)] => (a, b),
            [Some(a), None] => fail!("`{}` is there, and `{name}.lora_B.weight` is missing", a.name),
            [None, Some(b)] => fail!("`{}` is there, and `{name}.lora_A.weight` is missing", b.name),
            [None, None] => fail!("`{name}.lora_A.weight` is missing"),
        };
        let rank = self.config.rank(name)?;
        let found = a.shape.first().copied().unwrap_or(0);
        if a.shape.len() == 2 && a.shape[1] == module.inputs && found != rank {
            fail!(
                "tensor `{}`: expected rank {rank}, as {CONFIG} says, found {found}, the rows of {:?}",
                a.name,
                a.shape
            )
        }
        Ok(Change {
            a: decode_shaped(a, [rank, module.inputs], "rank, inputs")?,
            b: decode_shaped(b, [module.outputs, rank], "outputs, rank")?,
            rank,
            alpha: self.config.alpha(name)?,
            scaling: self.config.scaling,
            magnitude: None,
            blocks: None,
            scales: Scales::Kept,
        })
    }

    /// The lengths of a module's outputs: there if use_dora says so, and only then.
    fn magnitude(&self, module: &Module, tensor: Option<TensorView>) -> Result<Option<Vec<f32>>> {
        let Some(tensor) = tensor else {
            if self.config.magnitudes {
                fail!("`{}.lora_magnitude_vector` is missing: {CONFIG} says use_dora", module.name)
            }
            return Ok(None);
        };
        if !self.config.magnitudes {
            fail!(
                "tensor `{}` is there, and {CONFIG} does not say use_dora; do the two belong together?",
                tensor.name
            )
        }
        // Older versions keep a dimension of 1.
        if tensor.elements() != module.outputs || tensor.shape.iter().filter(|&&len| len != 1).count() > 1 {
            fail!(
                "tensor `{}`: expected [{}] (outputs), found {:?}; is this an adapter of another base?",
                tensor.name,
                module.outputs,
                tensor.shape
            )
        }
        Ok(Some(decode(&tensor)?))
    }

    /// What [`BLOCKS`] says; a note that makes no sense says nothing.
    fn blocks(&self) -> HashMap<String, Vec<usize>> {
        let note = self.checkpoint.notes().iter().find(|(name, _)| name == BLOCKS);
        let json = note.and_then(|(_, note)| serde_json::from_str::<Value>(note).ok());
        let ranks = |value: &Value| -> Option<Vec<usize>> {
            let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
            value.as_array()?.iter().map(number).collect()
        };
        let entries = json.as_ref().and_then(Value::as_object).into_iter().flatten();
        entries.filter_map(|(name, value)| Some((name.clone(), ranks(value)?))).collect()
    }

    /// The tensors that take the place of the base's.
    fn saved(&self, files: &Files) -> Result<Vec<(TensorId, Vec<f32>)>> {
        let mut left: HashMap<&str, &TensorView> =
            files.whole.iter().map(|tensor| (&tensor.name[PREFIX.len()..], tensor)).collect();
        let mut saved = Vec::new();
        let sources = with_head(self.base.architecture, self.base.config)?;
        let mut used = HashSet::new();
        let is_named = |source: &Source| {
            self.config.saved.iter().any(|end| module_of(&source.name).ends_with(end.as_str()))
        };
        let is_end = |source: &Source| matches!(source.to.place, Place::Embed | Place::Head);
        let ties = self.config.ties && self.base.config.head == Head::Tied;
        let both = ties && sources.iter().any(|source| is_end(source) && is_named(source));
        for source in &sources {
            let is_saved = is_named(source) || both && is_end(source);
            if !is_saved {
                continue;
            }
            let Some(tensor) = left.get(source.name.as_str()) else {
                fail!("`{PREFIX}{}` is missing, which {CONFIG} names in modules_to_save", source.name)
            };
            used.insert(source.name.as_str());
            if tensor.shape != source.stored {
                fail!(
                    "tensor `{}`: expected {:?}, found {:?}; is this an adapter of another base?",
                    tensor.name,
                    source.stored,
                    tensor.shape
                )
            }
            let values = decode(tensor)?;
            let element = |at: usize| values[source.stored_element(at / source.cols(), at % source.cols())];
            let mut values: Vec<f32> = (0..source.rows() * source.cols()).map(element).collect();
            norms(self.base)?.apply(source.to, &mut values);
            saved.push((source.to, values));
        }
        left.retain(|name, _| !used.contains(name));
        if let Some(name) = left.keys().min() {
            fail!(
                "tensor `{PREFIX}{name}` is not part of the adapter: it is no pair, and {CONFIG} does not name it in \
                 modules_to_save"
            )
        }
        let of =
            |end: &&String| !sources.iter().any(|source| module_of(&source.name).ends_with(end.as_str()));
        if let Some(end) = self.config.saved.iter().find(of) {
            fail!("{CONFIG}: modules_to_save: a {} model has no module `{end}`", self.base.architecture.name)
        }
        Ok(saved)
    }

    /// Why a pair is for nothing.
    fn not_a_module(&self, name: &str) -> String {
        if name == "lm_head" || name.ends_with("embed_tokens") || name.ends_with("wte") {
            return format!("tensors of `{name}`: adapters of the embedding or the head are not supported");
        }
        format!(
            "tensors of `{name}`, which is no module of this {} model of {} layers that can be adapted; is this an adapter \
             of another base?",
            self.base.architecture.name,
            self.base.config.n_layers()
        )
    }
}

/// The tensors of a file.
#[derive(Default)]
struct Files<'a> {
    /// A and B by module.
    pairs: BTreeMap<&'a str, [Option<TensorView<'a>>; 2]>,
    /// The lengths of outputs, by module.
    magnitudes: BTreeMap<&'a str, TensorView<'a>>,
    /// The others.
    whole: Vec<TensorView<'a>>,
}

/// Where the base's tensors are, with a head of its own even where that is the embedding: an adapter may part the two.
fn with_head(architecture: &Architecture, config: &DecoderConfig) -> Result<Vec<Source>> {
    let config = DecoderConfig { head: Head::Untied, ..config.clone() };
    architecture.tensors(&config, Format::Safetensors)
}

/// What changes in norms from transformers' file to this base: a Gemma of a GGUF has `1 + w`.
fn norms(base: &Base) -> Result<NormShift> {
    let (_, transformers) = base.architecture.config_json(base.config)?;
    Ok(NormShift::new(transformers.norm, base.config.norm))
}

/// A tensor's name without `.weight` or `.bias`.
fn module_of(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(module, _)| module)
}

/// The distinct ends of names, behind the layers' numbers.
fn ends(names: &[&str]) -> String {
    let mut ends: Vec<&str> = Vec::new();
    for name in names {
        let end = name.rsplit_once('.').map_or(*name, |(_, end)| end);
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    ends.join(", ")
}

/// Writes an adapter of this base.
pub(super) fn write(folder: &Path, base: &Base, adapter: &Adapter, options: &WriteOptions) -> Result<Scales> {
    for name in [WEIGHTS, CONFIG] {
        options.existing.check(&folder.join(name))?;
    }
    let modules = modules(base.architecture, base.config, Format::Safetensors)?;
    let mut changes = Vec::new();
    for module in &modules {
        if let Some(change) = module.join(adapter)? {
            changes.push((module, change));
        }
    }
    let saved = stored(base, &adapter.saved)?;
    let config = config_json(adapter, &modules, &changes, &saved, options)?;

    let mut specs = Vec::new();
    let mut tensors: Vec<&[f32]> = Vec::new();
    let mut push = |name: String, shape: Vec<usize>, values| {
        specs.push(TensorSpec { name: format!("{PREFIX}{name}"), dtype: options.dtype, shape });
        tensors.push(values);
    };
    for (Module { name, inputs, outputs, .. }, change) in &changes {
        push(format!("{name}.lora_A.weight"), vec![change.rank, *inputs], &change.a[..]);
        push(format!("{name}.lora_B.weight"), vec![*outputs, change.rank], &change.b[..]);
        if let Some(magnitude) = &change.magnitude {
            push(format!("{name}.lora_magnitude_vector"), vec![*outputs], magnitude);
        }
    }
    for (name, shape, values) in &saved {
        push(name.clone(), shape.clone(), values);
    }

    let blocks: Map<String, Value> = changes
        .iter()
        .filter_map(|(module, change)| Some((module.name.clone(), json!(change.blocks.as_ref()?))))
        .collect();
    let blocks = (!blocks.is_empty()).then(|| Value::Object(blocks).to_string());
    let mut notes = vec![("format", "pt")];
    notes.extend(blocks.as_deref().map(|blocks| (BLOCKS, blocks)));

    fs::create_dir_all(folder).context(|| format!("cannot make the folder {}", folder.display()))?;
    let fill = &mut |index: usize, file: &mut dyn std::io::Write| encode(&specs[index], tensors[index], file);
    safetensors::write_streamed(&folder.join(WEIGHTS), &specs, &notes, fill).context(|| "the weights")?;
    let mut text = serde_json::to_vec_pretty(&config).context(|| CONFIG)?;
    text.push(b'\n');
    // Last: a folder without it is no adapter.
    write_atomically(&folder.join(CONFIG), |file| file.write_all(&text)).context(|| "the configuration")?;
    Ok(changes.iter().fold(Scales::Kept, |all, (_, change)| all.and(change.scales)))
}

/// A tensor under transformers' name, in its shape.
type Whole<'a> = (String, Vec<usize>, Cow<'a, [f32]>);

/// What takes the base's place, as transformers has it.
fn stored<'a>(base: &Base, saved: &'a [(TensorId, Vec<f32>)]) -> Result<Vec<Whole<'a>>> {
    let mut all: Vec<Whole> = Vec::new();
    if saved.is_empty() {
        return Ok(all);
    }
    let (_, transformers) = base.architecture.config_json(base.config)?;
    let shift = NormShift::new(base.config.norm, transformers.norm);
    for source in with_head(base.architecture, base.config)? {
        let Some((id, values)) = saved.iter().find(|(id, _)| *id == source.to) else { continue };
        if values.len() != source.rows() * source.cols() {
            fail!("`{id}`: expected {:?}, found {} values", source.shape, values.len())
        }
        let at = all.iter().position(|(name, ..)| *name == source.name).unwrap_or_else(|| {
            let empty = vec![0.0; source.stored.iter().product()];
            all.push((source.name.clone(), source.stored.clone(), empty.into()));
            all.len() - 1
        });
        let mut values = values.clone();
        shift.apply(*id, &mut values);
        let out = all[at].2.to_mut();
        for (index, value) in values.iter().enumerate() {
            out[source.stored_element(index / source.cols(), index % source.cols())] = *value;
        }
    }
    Ok(all)
}

/// adapter_config.json: the commonest rank and alpha for all, the others by name.
fn config_json(
    adapter: &Adapter,
    modules: &[Module],
    changes: &[(&Module, Change)],
    saved: &[Whole],
    options: &WriteOptions,
) -> Result<Map<String, Value>> {
    let Some((_, first)) = changes.first() else { fail!("the adapter changes no projection of this model") };
    if let Some((module, _)) = changes.iter().find(|(_, change)| change.scaling != first.scaling) {
        fail!(
            "`{}` is scaled by {:?}, others by {:?}; PEFT's config has one scaling for all",
            module.name,
            changes.iter().find(|(m, _)| m.name == module.name).map(|(_, c)| c.scaling),
            first.scaling
        )
    }
    let magnitudes = first.magnitude.is_some();
    if let Some((module, _)) = changes.iter().find(|(_, change)| change.magnitude.is_some() != magnitudes) {
        fail!(
            "`{}` and others: only some have lengths (DoRA); PEFT's config has one use_dora for all",
            module.name
        )
    }
    let rank = commonest(changes.iter().map(|(_, change)| change.rank)).unwrap_or(first.rank);
    let alpha = commonest(changes.iter().map(|(_, change)| change.alpha.to_bits()));
    let alpha = alpha.map_or(first.alpha, f32::from_bits);
    if let Some((module, change)) = changes.iter().find(|(_, change)| change.rank > MAX_RANK) {
        fail!("`{}` has a rank of {}, expected at most {MAX_RANK}", module.name, change.rank)
    }
    let mut ranks = Map::new();
    let mut alphas = Map::new();
    for (module, change) in changes {
        if change.rank != rank {
            ranks.insert(module.name.clone(), json!(change.rank));
        }
        if change.alpha != alpha {
            alphas.insert(module.name.clone(), number(change.alpha));
        }
    }
    // A module's weight and bias stand side by side.
    let mut whole: Vec<&str> = saved.iter().map(|(name, ..)| module_of(name)).collect();
    whole.dedup();
    let keys = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": options.base,
        "r": rank,
        "lora_alpha": number(alpha),
        "target_modules": targets(modules, changes),
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": first.scaling == Scaling::RootOfRank,
        "use_dora": magnitudes,
        "lora_dropout": number(adapter.dropout),
        "bias": "none",
        "fan_in_fan_out": changes.iter().any(|(module, _)| module.transposed),
        "modules_to_save": (!whole.is_empty()).then_some(whole),
        "init_lora_weights": true,
        "inference_mode": true,
    });
    match keys {
        Value::Object(keys) => Ok(keys),
        other => fail!("{CONFIG}: expected an object, made {other}"),
    }
}

/// Ends of names that stand for the changed modules and no others: `q_proj`, or a whole name where one layer has a change
/// and another none.
fn targets(modules: &[Module], changes: &[(&Module, Change)]) -> Vec<String> {
    let changed: HashSet<&str> = changes.iter().map(|(module, _)| module.name.as_str()).collect();
    let end = |name: &str| {
        // GPT-2 has two projections of one last name: the one before it belongs to the name.
        let mut parts = name.rsplitn(3, '.');
        let (last, before) = (parts.next().unwrap_or(name), parts.next().unwrap_or_default());
        let is_same = |other: &&Module| other.name.ends_with(&format!(".{last}"));
        let all = modules.iter().filter(is_same).all(|other| changed.contains(other.name.as_str()));
        if all { last.to_owned() } else { format!("{before}.{last}") }
    };
    let mut all: Vec<String> = Vec::new();
    for (module, _) in changes {
        let end = end(&module.name);
        let suffix = format!(".{end}");
        let of_end = |other: &&Module| other.name.ends_with(&suffix);
        let whole = modules.iter().filter(of_end).all(|other| changed.contains(other.name.as_str()));
        let name = if whole { end } else { module.name.clone() };
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

fn commonest<T: PartialEq + Copy>(values: impl Iterator<Item = T>) -> Option<T> {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(other, _)| *other == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    // The first of equals.
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(value, _)| value)
}

/// A whole number as one; otherwise the shortest that gives the same f32.
fn number(x: f32) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e9 {
        json!(x as i64)
    } else {
        json!(x.to_string().parse::<f64>().unwrap_or(x.into()))
    }
}
