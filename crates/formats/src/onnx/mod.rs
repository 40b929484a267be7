//! ONNX: a graph of operations with its weights, as one protobuf message. It is written here, and not read.
//!
//! The message nests: a model holds a graph, a graph holds nodes, tensors and the names of its inputs and outputs. The
//! numbers of the fields are those of `onnx.proto` (<https://github.com/onnx/onnx/blob/main/onnx/onnx.proto>). A message has
//! fewer than 2 GiB; weights beyond that lie in a file beside it, to which each tensor points with a name, an offset and
//! a length (<https://onnx.ai/onnx/repo-docs/ExternalData.html>).
//!
//! Everything but the weights is small and built in memory. Weights are asked for one after the other, and go to the disk as
//! they come.

mod message;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use wootz_kernels::DType;

use crate::atomic::AtomicFile;
use crate::error::quoted;
use crate::tensor::{bytes_of, write_exactly};
use crate::{Error, Fill, TensorSpec};
use message::Message;

/// The longest message that protobuf's libraries read, in bytes.
pub const LONGEST_MESSAGE: u64 = i32::MAX as u64;

/// Of the format; the first that has [`OPERATIONS`].
const VERSION: i64 = 8;
/// The version of ONNX's operations that nodes are of.
const OPERATIONS: i64 = 17;
/// A weight of so many bytes begins at a multiple of [`MAPPED`] in the file beside, so that it can be mapped by itself; a
/// smaller one at a multiple of [`ALIGNED`].
const LARGE: u64 = 1 << 20;
/// What the most demanding system maps files by.
const MAPPED: u64 = 1 << 16;
const ALIGNED: u64 = 64;

/// A model: all of it but the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The name of the graph.
    pub name: String,
    /// What else there is to say, by key.
    pub notes: Vec<(String, String)>,
    /// What is given to it.
    pub inputs: Vec<Value>,
    /// What it gives: outputs of nodes, or weights.
    pub outputs: Vec<Value>,
    /// What it does; a node comes after those whose outputs it takes.
    pub nodes: Vec<Node>,
    /// Small tensors that nodes take.
    pub constants: Vec<Constant>,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Vec<Dim>,
}

/// A dimension.
#[derive(Clone, Debug, PartialEq)]
pub enum Dim {
    /// Of this size.
    Fixed(usize),
    /// Of a size that is known when the model runs; the same name is the same size.
    Named(&'static str),
}

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name, which no other node has.
    pub name: String,
    /// ONNX's name of what it does.
    pub op: &'static str,
    /// Names of what it takes.
    pub inputs: Vec<String>,
    /// Names of what it gives.
    pub outputs: Vec<String>,
    /// Its settings.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A setting of a node.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Float(f32),
    /// A whole number.
    Int(i64),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// The type of a tensor.
    Type(DType),
    /// A tensor without a name.
    Tensor(Constant),
}

/// A small tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Constant {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// `dtype.bytes(shape)` bytes, little-endian.
    pub bytes: Vec<u8>,
}

/// The file of weights beside the model at `path`, where there is one: its name with `.data` after it.
pub fn data_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".data");
    PathBuf::from(name)
}

/// Writes a model with its weights, whole or not at all: in one file, if that has no more than `longest` bytes, and
/// otherwise in two, the weights at [`data_path`]. What was at the two places is replaced, or removed.
///
/// Fails before anything is written when a type is none of ONNX's, a shape overflows, or even without its weights the
/// message is longer than protobuf allows; and on the way, leaving nothing behind, when `fill` fails or writes too little
/// or too much.
pub fn write(
    path: &Path,
    model: &Model,
    weights: &[TensorSpec],
    longest: u64,
    fill: &mut Fill<'_>,
) -> Result<(), Error> {
    let plan = Plan::new(path, model, weights, longest).map_err(|e| e.in_file(path))?;
    let data_path = data_path(path);
    let remove = |path: &Path| match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "remove", e)),
        _ => Ok(()),
    };
    let data = match &plan.data {
        None => None,
        Some(offsets) => {
            let mut file = AtomicFile::create(&data_path)?;
            plan.write_data(&mut file.writer, weights, offsets, fill)
                .map_err(|e| Error::io(&data_path, "write", e))?;
            Some(file)
        }
    };
    let mut file = AtomicFile::create(path)?;
    plan.write_message(&mut file.writer, weights, fill).map_err(|e| Error::io(path, "write", e))?;
    match data {
        Some(data) => {
            // An older model must not be found with the new weights, should it all end here.
            remove(path)?;
            data.commit()?;
            file.commit()
        }
        None => {
            file.commit()?;
            remove(&data_path)
        }
    }
}

/// What goes where.
struct Plan {
    /// The model up to the graph's length.
    model: Message,
    /// The graph but for the weights.
    graph: Message,
    /// Each weight up to its bytes: the field's tag, its length, the tensor's head.
    heads: Vec<Message>,
    /// Bytes of each weight.
    lengths: Vec<usize>,
    /// Bytes of the whole message.
    message_bytes: u64,
    /// Where each weight begins in the file beside; `None` where they are in the message.
    data: Option<Vec<u64>>,
}

impl Plan {
    fn new(path: &Path, model: &Model, weights: &[TensorSpec], longest: u64) -> Result<Self, Error> {
        let types = model.inputs.iter().chain(&model.outputs).map(|value| (&value.name, value.dtype));
        for (name, dtype) in types.chain(weights.iter().map(|weight| (&weight.name, weight.dtype))) {
            if type_number(dtype).is_none() {
                return Err(Error::unsupported(format!("{}: ONNX has no type {dtype}", quoted(name))));
            }
        }
        let lengths: Vec<usize> = weights
            .iter()
            .map(|weight| bytes_of(&weight.name, weight.dtype, &weight.shape))
            .collect::<Result<_, _>>()?;
        let total = lengths.iter().try_fold(0, |sum: usize, &length| sum.checked_add(length));
        if total.is_none_or(|total| total > isize::MAX as usize) {
            return Err(Error::invalid("the weights would take more bytes than this machine can address"));
        }

        let inside = Plan::with(model, weights, lengths.clone(), None);
        if inside.message_bytes <= longest.min(LONGEST_MESSAGE) {
            return Ok(inside);
        }
        let data_path = data_path(path);
        let Some(location) = data_path.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::unsupported(
                "the name of the file must be text, for it is written into the model",
            ));
        };
        let beside = Plan::with(model, weights, lengths, Some(location));
        let bytes = beside.message_bytes;
        if bytes > LONGEST_MESSAGE {
            return Err(Error::unsupported(format!(
                "the graph alone takes {bytes} bytes, and protobuf reads at most {LONGEST_MESSAGE}"
            )));
        }
        Ok(beside)
    }

    /// Weights are in the file `location` beside the model, or inside.
    fn with(model: &Model, weights: &[TensorSpec], lengths: Vec<usize>, location: Option<&str>) -> Self {
        let mut end = 0u64;
        let mut offsets = Vec::with_capacity(weights.len());
        let mut heads = Vec::with_capacity(weights.len());
        for (weight, &length) in weights.iter().zip(&lengths) {
            let length = length as u64;
            let offset = end.next_multiple_of(if length >= LARGE { MAPPED } else { ALIGNED });
            end = offset + length;
            offsets.push(offset);
            let head = tensor(&weight.name, weight.dtype, &weight.shape);
            heads.push(match location {
                None => {
                    let head = head.begin(9, length); // raw_data
                    let whole = head.len() + length;
                    Message::default().begin(5, whole).then(&head) // initializer
                }
                Some(location) => {
                    let entry = |key: &str, value: &str| Message::default().text(1, key).text(2, value);
                    let head = head
                        .message(13, &entry("location", location)) // external_data
                        .message(13, &entry("offset", &offset.to_string()))
                        .message(13, &entry("length", &length.to_string()))
                        .int(14, 1); // data_location: EXTERNAL
                    Message::default().message(5, &head)
                }
            });
        }
        let graph = graph(model);
        let inside = if location.is_none() { lengths.iter().map(|&length| length as u64).sum() } else { 0 };
        let graph_bytes = graph.len() + heads.iter().map(Message::len).sum::<u64>() + inside;
        let model = header(model).begin(7, graph_bytes); // graph
        let message_bytes = model.len() + graph_bytes;
        Plan { model, graph, heads, lengths, message_bytes, data: location.is_some().then_some(offsets) }
    }

    fn write_message(
        &self,
        file: &mut dyn Write,
        weights: &[TensorSpec],
        fill: &mut Fill<'_>,
    ) -> io::Result<()> {
        file.write_all(self.model.as_bytes())?;
        file.write_all(self.graph.as_bytes())?;
        for (index, (head, &length)) in self.heads.iter().zip(&self.lengths).enumerate() {
            file.write_all(head.as_bytes())?;
            if self.data.is_none() {
                write_exactly(file, index, &weights[index], length, fill)?;
            }
        }
        Ok(())
    }

    fn write_data(
        &self,
        file: &mut dyn Write,
        weights: &[TensorSpec],
        offsets: &[u64],
        fill: &mut Fill<'_>,
    ) -> io::Result<()> {
        let mut end = 0;
        for (index, (&offset, &length)) in offsets.iter().zip(&self.lengths).enumerate() {
            io::copy(&mut io::Read::take(io::repeat(0), offset - end), file)?;
            write_exactly(file, index, &weights[index], length, fill)?;
            end = offset + length as u64;
        }
        Ok(())
    }
}

/// `ModelProto` but for its graph.
fn header(model: &Model) -> Message {
    let notes = model.notes.iter().map(|(key, value)| Message::default().text(1, key).text(2, value));
    Message::default()
        .int(1, VERSION) // ir_version
        .text(2, "wootz") // producer_name
        .text(3, env!("CARGO_PKG_VERSION")) // producer_version
        .message(8, &Message::default().text(1, "").int(2, OPERATIONS)) // opset_import
        .messages(14, notes) // metadata_props
}

/// `GraphProto` but for its weights.
fn graph(model: &Model) -> Message {
    let constant = |constant: &Constant| {
        tensor(&constant.name, constant.dtype, &constant.shape).bytes(9, &constant.bytes)
    };
    Message::default()
        .messages(1, model.nodes.iter().map(node))
        .text(2, &model.name)
        .messages(5, model.constants.iter().map(constant)) // initializer
        .messages(11, model.inputs.iter().map(value))
        .messages(12, model.outputs.iter().map(value))
}

/// `NodeProto`
fn node(node: &Node) -> Message {
    let names = |message, field, names: &[String]| {
        names.iter().fold(message, |message: Message, name| message.text(field, name))
    };
    let message = names(Message::default(), 1, &node.inputs);
    names(message, 2, &node.outputs)
        .text(3, &node.name)
        .text(4, node.op)
        .messages(5, node.attributes.iter().map(|(name, value)| attribute(name, value)))
}

/// `AttributeProto`: the value in the field of its kind, and the kind.
fn attribute(name: &str, attribute: &Attribute) -> Message {
    const KIND: u64 = 20;
    let message = Message::default().text(1, name);
    match attribute {
        Attribute::Float(value) => message.float(2, *value).int(KIND, 1),
        Attribute::Int(value) => message.int(3, *value).int(KIND, 2),
        Attribute::Type(dtype) => message.int(3, type_number(*dtype).unwrap_or_default()).int(KIND, 2),
        Attribute::Tensor(constant) => {
            let tensor = tensor(&constant.name, constant.dtype, &constant.shape).bytes(9, &constant.bytes);
            message.message(5, &tensor).int(KIND, 4)
        }
        Attribute::Ints(values) => message.ints(8, values.iter().copied()).int(KIND, 7),
    }
}

/// `TensorProto` but for its values.
fn tensor(name: &str, dtype: DType, shape: &[usize]) -> Message {
    Message::default()
        .ints(1, shape.iter().map(|&size| size as i64)) // dims
        .int(2, type_number(dtype).unwrap_or_default()) // data_type
        .text(8, name)
}

/// `ValueInfoProto`
fn value(value: &Value) -> Message {
    let dim = |dim: &Dim| match dim {
        Dim::Fixed(size) => Message::default().int(1, *size as i64),
        Dim::Named(name) => Message::default().text(2, name),
    };
    let shape = Message::default().messages(1, value.shape.iter().map(dim));
    let tensor = Message::default().int(1, type_number(value.dtype).unwrap_or_default()).message(2, &shape);
    Message::default().text(1, &value.name).message(2, &Message::default().message(1, &tensor))
}

/// `TensorProto.DataType`; `None` for the block formats of GGUF.
fn type_number(dtype: DType) -> Option<i64> {
    const NUMBERS: &[(DType, i64)] = &[
        (DType::F32, 1),
        (DType::U8, 2),
        (DType::I8, 3),
        (DType::U16, 4),
        (DType::I16, 5),
        (DType::I32, 6),
        (DType::I64, 7),
        (DType::Bool, 9),
        (DType::F16, 10),
        (DType::F64, 11),
        (DType::U32, 12),
        (DType::BF16, 16),
    ];
    NUMBERS.iter().find(|(known, _)| *known == dtype).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests;
