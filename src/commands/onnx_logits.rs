//! What an exported ONNX graph says, run by a library that shares no code with the decoder.

use anyhow::{Context, Result, bail};
use rten::{NodeId, Value};
use std::path::Path;
use wootz_model::DecoderConfig;
use wootz_model::compare::Logits;

/// A graph, and the model that it is of.
struct Graph<'a> {
    model: rten::Model,
    config: &'a DecoderConfig,
}

/// The logits of all positions of `texts`, as [`wootz_model::compare::logits`] has them of our own models. A graph with a
/// cache gets each text in two parts.
///
/// # Errors
/// The library cannot read or run the graph, or something else comes out than logits.
pub fn logits(path: &Path, config: &DecoderConfig, texts: &[Vec<u32>]) -> Result<Logits> {
    let whose = || format!("the graph {} does not run", path.display());
    let model = rten::Model::load_file(path).with_context(whose)?;
    let graph = Graph { model, config };
    let mut all = Vec::new();
    for text in texts {
        let text = &text[..text.len().min(config.max_seq)];
        all.extend(graph.text(text).with_context(whose)?);
    }
    Ok(Logits::new(config.vocab_size, all))
}

impl Graph<'_> {
    fn text(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut past = self.nothing()?;
        let first = if past.is_empty() { tokens.len() } else { tokens.len() / 2 };
        let mut all = Vec::new();
        for range in [0..first, first..tokens.len()].into_iter().filter(|range| !range.is_empty()) {
            let end = range.end;
            all.extend(self.run(&tokens[range], end, &mut past)?);
        }
        Ok(all)
    }

    /// Caches of no tokens, for the inputs that are caches.
    fn nothing(&self) -> Result<Vec<(NodeId, Value)>> {
        let mut past = Vec::new();
        for &id in self.model.input_ids() {
            if self.name(id).starts_with("past_key_values.") {
                let shape = [1, self.config.n_kv_heads, 0, self.config.head_dim];
                past.push((id, Value::from_shape(&shape, Vec::<f32>::new())?));
            }
        }
        Ok(past)
    }

    /// The logits of `tokens`, which end at position `end`; `past` becomes the one of what comes after them.
    fn run(&self, tokens: &[u32], end: usize, past: &mut Vec<(NodeId, Value)>) -> Result<Vec<f32>> {
        let row = |values: Vec<i32>| -> Result<Value> {
            let shape = [1, values.len()];
            Ok(Value::from_shape(&shape, values)?)
        };
        let ids = tokens.iter().map(|&id| i32::try_from(id)).collect::<Result<Vec<i32>, _>>()?;
        let mut inputs = vec![(self.model.node_id("input_ids")?, row(ids)?)];
        if !past.is_empty() {
            inputs.push((self.model.node_id("attention_mask")?, row(vec![1; end])?));
        }
        inputs.append(past);
        let inputs = inputs.into_iter().map(|(id, value)| (id, value.into())).collect();
        let outputs = self.model.output_ids();
        let mut logits = None;
        for (&id, value) in outputs.iter().zip(self.model.run(inputs, outputs, None)?) {
            match self.name(id).strip_prefix("present.") {
                Some(rest) => past.push((self.model.node_id(&format!("past_key_values.{rest}"))?, value)),
                None => logits = Some(value),
            }
        }
        let (shape, values) = logits.context("no logits come out")?.into_shape_vec::<f32, 3>()?;
        if shape != [1, tokens.len(), self.config.vocab_size] {
            bail!("logits of {} tokens have the shape {shape:?}", tokens.len());
        }
        Ok(values)
    }

    fn name(&self, id: NodeId) -> String {
        self.model.node_info(id).and_then(|node| node.name().map(str::to_owned)).unwrap_or_default()
    }
}
