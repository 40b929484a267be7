//! llama.cpp's GGUF adapters: one file, with two tensors for each matrix of the base that changes.
//!
//! ```text
//! general.type = "adapter"   adapter.type = "lora"   general.architecture: the base's   adapter.lora.alpha: one for all
//! <tensor of the base>.lora_a   [r, k]      blk.0.attn_q.weight.lora_a
//! <tensor of the base>.lora_b   [n, r]
//! ```
//!
//! llama.cpp computes `w + (alpha / r) b a`, with r from the tensor (an alpha of 0 stands for r). Rows of b stand as rows of
//! the base's tensor do, so those of a Llama's q and k are reordered. What other scales there are is multiplied into b.
//! Format: `convert_lora_to_gguf.py` and `src/llama-adapter.cpp` of llama.cpp.

use std::collections::BTreeMap;
use std::path::Path;

use wootz_formats::gguf::{self, Value};
use wootz_formats::{Checkpoint, Format, GgufMetadata, Metadata, TensorSpec, TensorView};
use wootz_kernels::Pool;

use super::config::MAX_RANK;
use super::modules::{Change, Module, is_power_of_two, modules};
use super::{Base, Scales, WriteOptions, decode_shaped};
use crate::error::{Context, Result, fail};
use crate::lora::{Adapter, Scaling};
use crate::save::encode;

/// Whether an open file is an adapter, whole or not.
pub(super) fn is_adapter(checkpoint: &Checkpoint) -> bool {
    match checkpoint.metadata() {
        Metadata::Gguf(metadata) => metadata.find_str("general.type").ok().flatten() == Some("adapter"),
        Metadata::Config(_) | Metadata::LlmC(_) | Metadata::Llama2C(_) => false,
    }
}

/// Reads an adapter for this base.
pub(super) fn read(path: &Path, base: &Base, pool: &Pool) -> Result<Adapter> {
    let checkpoint = Checkpoint::open(path).context(|| "cannot open the adapter")?;
    let Metadata::Gguf(metadata) = checkpoint.metadata() else {
        fail!("expected a folder of PEFT or a GGUF adapter, found {}", checkpoint.format())
    };
    if !is_adapter(&checkpoint) {
        fail!("general.type: expected \"adapter\"; is this a model?")
    }
    let alpha = check(metadata, base)?;
    let mut pairs = pairs(&checkpoint)?;
    let mut adapter = Adapter { parts: BTreeMap::new(), strength: 1.0, dropout: 0.0, saved: Vec::new() };
    for module in modules(base.architecture, base.config, Format::Gguf)? {
        if let Some(pair) = pairs.remove(format!("{}.weight", module.name).as_str()) {
            adapter.parts.extend(module.split(pool, &change(&module, &pair, alpha)?));
        }
    }
    if let Some(name) = pairs.keys().next() {
        fail!(
            "tensors of `{name}`, which is no matrix of this {} model of {} layers that can be adapted; is this an adapter \
             of another base?",
            base.architecture.name,
            base.config.n_layers()
        )
    }
    if adapter.parts.is_empty() {
        fail!("the file holds no tensor, and so changes nothing")
    }
    Ok(adapter)
}

/// Kind and base of the adapter; its alpha.
fn check(metadata: &GgufMetadata, base: &Base) -> Result<f32> {
    let text = |key: &str| metadata.get_str(key).context(|| "an adapter");
    match text("adapter.type")? {
        "lora" => {}
        other => fail!("adapter.type: expected \"lora\", found {other:?}, which is not supported"),
    }
    let name = text("general.architecture")?;
    if !names(base).contains(&name) {
        fail!(
            "general.architecture: expected {}, the base's, found {name:?}; is this an adapter of another base?",
            names(base).join(" or ")
        )
    }
    if metadata.value("adapter.alora.invocation_tokens").is_some() {
        fail!(
            "adapter.alora.invocation_tokens: adapters that begin to work at a token (aLoRA) are not supported"
        )
    }
    let alpha = metadata.get_f32("adapter.lora.alpha").context(|| "an adapter")?;
    if !alpha.is_finite() {
        fail!("adapter.lora.alpha: expected a number, found {alpha}")
    }
    Ok(alpha)
}

/// What GGUF files call models of this base.
fn names(base: &Base) -> Vec<&'static str> {
    let written = base.architecture.gguf_head(base.config).ok().map(|head| head.architecture);
    let others = base.architecture.gguf_names.iter().copied().filter(|name| Some(*name) != written);
    written.into_iter().chain(others).collect()
}

/// a and b, by the tensor of the base.
type Pairs<'a> = BTreeMap<&'a str, [Option<TensorView<'a>>; 2]>;

fn pairs(checkpoint: &Checkpoint) -> Result<Pairs<'_>> {
    let mut pairs = Pairs::new();
    for tensor in checkpoint.tensors() {
        let (a, b) = (tensor.name.strip_suffix(".lora_a"), tensor.name.strip_suffix(".lora_b"));
        match (a, b) {
            (Some(name), _) => pairs.entry(name).or_default()[0] = Some(tensor),
            (None, Some(name)) => pairs.entry(name).or_default()[1] = Some(tensor),
            (None, None) => {
                fail!("tensor `{}`: expected a name that ends with .lora_a or .lora_b", tensor.name)
            }
        }
    }
    Ok(pairs)
}

fn change(module: &Module, pair: &[Option<TensorView>; 2], alpha: f32) -> Result<Change> {
    let name = &module.name;
    let (a, b) = match pair {
        [Some(a), Some(b)] => (a, b),
        [Some(a), None] => fail!("`{}` is there, and `{name}.weight.lora_b` is missing", a.name),
        [None, Some(b)] => fail!("`{}` is there, and `{name}.weight.lora_a` is missing", b.name),
        [None, None] => fail!("`{name}.weight.lora_a` is missing"),
    };
    let rank = a.shape.first().copied().unwrap_or(0);
    if !(1..=MAX_RANK).contains(&rank) {
        fail!("tensor `{}`: expected a rank from 1 to {MAX_RANK}, found {rank}", a.name)
    }
    Ok(Change {
        a: decode_shaped(a, [rank, module.inputs], "rank, inputs")?,
        b: decode_shaped(b, [module.outputs, rank], "outputs, rank")?,
        rank,
        alpha: if alpha == 0.0 { rank as f32 } else { alpha },
        scaling: Scaling::Rank,
        magnitude: None,
        blocks: None,
        scales: Scales::Kept,
    })
}

/// Writes an adapter of this base.
pub(super) fn write(path: &Path, base: &Base, adapter: &Adapter, options: &WriteOptions) -> Result<Scales> {
    options.existing.check(path)?;
    if let Some((id, _)) = adapter.saved.first() {
        fail!(
            "the adapter replaces `{id}` (modules_to_save), which a GGUF adapter cannot; merge it with its base instead"
        )
    }
    if adapter.has_magnitudes() {
        fail!(
            "the adapter gives weights a length (DoRA), for which GGUF adapters have no place; merge it with its base instead"
        )
    }
    let architecture = base.architecture.gguf_head(base.config)?.architecture;
    let mut changes = Vec::new();
    for module in modules(base.architecture, base.config, Format::Gguf)? {
        if let Some(change) = module.join(adapter)? {
            changes.push((module, change));
        }
    }
    let Some(alpha) = common_alpha(&changes) else {
        fail!("the adapter changes no projection of this model")
    };
    let mut scales = Scales::Kept;
    for (_, change) in &mut changes {
        let factor = change.scale() * change.rank as f64 / f64::from(alpha);
        if !is_power_of_two(factor) {
            scales = Scales::Rounded;
        }
        if factor != 1.0 {
            change.b.iter_mut().for_each(|b| *b *= factor as f32);
        }
        scales = scales.and(change.scales);
    }

    let name = path.file_stem().map_or("adapter".into(), |stem| stem.to_string_lossy());
    let text = |key: &str, text: &str| (key.to_owned(), Value::String(text.to_owned()));
    let mut metadata = vec![
        text("general.architecture", architecture),
        text("general.type", "adapter"),
        text("adapter.type", "lora"),
        text("general.name", &name),
        ("adapter.lora.alpha".to_owned(), Value::F32(alpha)),
    ];
    metadata.extend(options.base.map(|base| text("general.base_model.0.name", base)));
    let mut specs = Vec::new();
    let mut tensors = Vec::new();
    for (module, change) in &changes {
        for (end, shape, values) in [
            ("lora_a", vec![change.rank, module.inputs], &change.a),
            ("lora_b", vec![module.outputs, change.rank], &change.b),
        ] {
            let name = format!("{}.weight.{end}", module.name);
            specs.push(TensorSpec { name, dtype: options.dtype, shape });
            tensors.push(values);
        }
    }
    gguf::write(path, &metadata, &specs, &mut |index, file| encode(&specs[index], tensors[index], file))
        .context(|| "the file")?;
    Ok(scales)
}

/// The alpha that leaves most changes as they are, but for a power of two; `None` where there is no change.
fn common_alpha(changes: &[(Module, Change)]) -> Option<f32> {
    let alphas: Vec<f64> = changes.iter().map(|(_, change)| change.scale() * change.rank as f64).collect();
    let kept = |alpha: f32| alphas.iter().filter(|own| is_power_of_two(*own / f64::from(alpha))).count();
    // The first of equals. An alpha of 0 means something else to llama.cpp.
    let candidates = alphas.iter().rev().map(|&alpha| alpha as f32).filter(|&alpha| alpha != 0.0);
    candidates.max_by_key(|&alpha| kept(alpha)).or((!alphas.is_empty()).then_some(1.0))
}
