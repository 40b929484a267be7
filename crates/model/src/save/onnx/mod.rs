//! ONNX: the decoder as a graph of standard operations, for ONNX Runtime, OpenVINO and others; or its weights alone.
//!
//! In a graph weights have their canonical names ([`crate::names`]); the matrices of projections lie `[inputs, outputs]`.
//! Weights alone have transformers' names and orientation. Matrices are written in the type that was asked for, vectors in F32,
//! and all is computed in F32.

mod decoder;
mod graph;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use wootz_formats::onnx::{self, Dim, LONGEST_MESSAGE, Model, Value};
use wootz_formats::{Fill, Format, TensorSpec};
use wootz_kernels::DType;

use super::hf::Folder;
use super::stored::{NormShift, encode, stored};
use super::{SaveOptions, Tensors};
use crate::arch::Architecture;
use crate::config::{DecoderConfig, Norm};
use crate::error::{Context, Error, Result};
use crate::names::Source;
use decoder::{Cache, decoder};
use graph::{Graph, Weight};

/// What is particular to ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// What the graph is.
    pub graph: OnnxGraph,
    /// A model of more bytes has its weights in a second file beside it, `NAME.onnx.data`. At most [`LONGEST_MESSAGE`].
    pub longest_file: u64,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        OnnxOptions { graph: OnnxGraph::Plain, longest_file: LONGEST_MESSAGE }
    }
}

/// What the graph of an ONNX model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnnxGraph {
    /// `input_ids [B, S]` → `logits [B, S, V]`.
    #[default]
    Plain,
    /// The same with the keys and values of earlier tokens: `attention_mask [B, P + S]` and, for each layer N,
    /// `past_key_values.N.key` and `.value` `[B, G, P, D]` come in; `present.N.key` and `.value` `[B, G, P + S, D]` go out.
    Cache,
    /// Nothing is computed: each weight is an output.
    Weights,
}

impl OnnxGraph {
    /// Its name: `plain`, `cache`, `weights`.
    pub fn name(self) -> &'static str {
        match self {
            OnnxGraph::Plain => "plain",
            OnnxGraph::Cache => "cache",
            OnnxGraph::Weights => "weights",
        }
    }
}

/// The ending of a path that is a file; any other is a folder.
const ENDING: &str = "onnx";
/// The model's file in a folder.
const MODEL: &str = "model.onnx";

/// The model's file or files for this path, the second of which is not always there.
pub(crate) fn files(path: &Path) -> [PathBuf; 2] {
    let is_file = path.extension().is_some_and(|ending| ending == ENDING);
    let model = if is_file { path.to_owned() } else { path.join(MODEL) };
    [model.clone(), onnx::data_path(&model)]
}

pub(super) fn save(
    path: &Path,
    architecture: &Architecture,
    config: &DecoderConfig,
    tensors: &dyn Tensors,
    options: &SaveOptions,
    onnx: OnnxOptions,
) -> Result<()> {
    let [model, data] = files(path);
    let export = Export { path: &model, architecture, config, tensors, options, onnx };
    if model == path {
        options.existing.check(&model)?;
        options.existing.check(&data)?;
        return export.write();
    }
    let (folder, _) = Folder::new(architecture, config, options)?;
    folder.write(path, &[&model, &data], || export.write())
}

/// A model, and where it goes.
struct Export<'a> {
    path: &'a Path,
    architecture: &'a Architecture,
    config: &'a DecoderConfig,
    tensors: &'a dyn Tensors,
    options: &'a SaveOptions<'a>,
    onnx: OnnxOptions,
}

impl Export<'_> {
    fn write(&self) -> Result<()> {
        match self.onnx.graph {
            OnnxGraph::Plain => self.write_decoder(Cache::None),
            OnnxGraph::Cache => self.write_decoder(Cache::Given),
            OnnxGraph::Weights => self.write_weights(),
        }
    }

    fn write_decoder(&self, cache: Cache) -> Result<()> {
        let dtype = self.options.dtype;
        let Graph { mut model, weights, .. } = decoder(self.config, cache, dtype);
        self.name(&mut model);
        let spec = |weight: &Weight| TensorSpec {
            name: weight.id.to_string(),
            dtype: dtype_of(&weight.shape, dtype),
            shape: weight.shape.clone(),
        };
        let specs: Vec<TensorSpec> = weights.iter().map(spec).collect();
        let in_graph = match self.config.norm {
            Norm::RmsNorm | Norm::RmsNormOnePlus => Norm::RmsNorm,
            Norm::LayerNorm => Norm::LayerNorm,
        };
        let shift = NormShift::new(self.config.norm, in_graph);
        let (mut values, mut transposed) = (Vec::new(), Vec::new());
        self.finish(&model, &specs, &mut |index, file| {
            let (weight, spec) = (&weights[index], &specs[index]);
            let about = |what: &dyn Display| io::Error::other(format!("tensor `{}`: {what}", spec.name));
            self.tensors.read(weight.id, &mut values).map_err(|error: Error| io::Error::other(error))?;
            let expected: usize = weight.shape.iter().product();
            if values.len() != expected {
                let shape = &weight.shape;
                return Err(about(&format!(
                    "expected {expected} values for {shape:?}, found {}",
                    values.len()
                )));
            }
            shift.apply(weight.id, &mut values);
            let values = match &*weight.shape {
                &[inputs, outputs] if weight.transposed => {
                    transpose(&values, outputs, inputs, &mut transposed);
                    &transposed
                }
                _ => &values,
            };
            encode(spec, values, file).map_err(|what| about(&what))
        })
    }

    fn write_weights(&self) -> Result<()> {
        let (keys, written) = self.architecture.config_json(self.config)?;
        let dtype = |source: &Source| dtype_of(&source.shape, self.options.dtype);
        let all = stored(self.architecture, &written, Format::Safetensors, dtype)?;
        let specs: Vec<TensorSpec> = all.iter().map(|stored| stored.spec.clone()).collect();
        let output = |spec: &TensorSpec| Value {
            name: spec.name.clone(),
            dtype: spec.dtype,
            shape: spec.shape.iter().map(|&size| Dim::Fixed(size)).collect(),
        };
        let mut model = Model { outputs: specs.iter().map(output).collect(), ..Model::default() };
        self.name(&mut model);
        model.notes.push(("config".into(), Json::Object(keys).to_string()));
        let shift = NormShift::new(self.config.norm, written.norm);
        self.finish(&model, &specs, &mut |index, file| {
            all[index].write(self.tensors, shift, &mut encode, file)
        })
    }

    /// What the model says of itself.
    fn name(&self, model: &mut Model) {
        self.options.name.clone_into(&mut model.name);
        let notes = [
            ("name", self.options.name.to_owned()),
            ("architecture", self.architecture.name.to_owned()),
            ("graph", self.onnx.graph.name().to_owned()),
            ("dtype", self.options.dtype.to_string()),
            ("max_sequence", self.config.max_seq.to_string()),
        ];
        model.notes.extend(notes.map(|(key, value)| (key.to_owned(), value)));
    }

    fn finish(&self, model: &Model, specs: &[TensorSpec], fill: &mut Fill<'_>) -> Result<()> {
        onnx::write(self.path, model, specs, self.onnx.longest_file, fill).context(|| "the file")
    }
}

/// What is added, and not multiplied or looked up, is small and stays exact.
fn dtype_of(shape: &[usize], dtype: DType) -> DType {
    if shape.len() == 2 { dtype } else { DType::F32 }
}

/// `[rows, cols]` → `[cols, rows]`, in squares that a cache holds.
fn transpose(from: &[f32], rows: usize, cols: usize, to: &mut Vec<f32>) {
    const SIDE: usize = 32;
    to.clear();
    to.resize(rows * cols, 0.0);
    for first_row in (0..rows).step_by(SIDE) {
        for first_col in (0..cols).step_by(SIDE) {
            for row in first_row..rows.min(first_row + SIDE) {
                for col in first_col..cols.min(first_col + SIDE) {
                    to[col * rows + row] = from[row * cols + col];
                }
            }
        }
    }
}
