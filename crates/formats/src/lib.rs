//! Files of models and tokens, opened as named tensors. Nothing is computed here.
//!
//! [`Checkpoint::open`] takes any model file or folder and gives its metadata and its tensors, memory-mapped.
//! Every reader also has a `parse` that works on bytes in memory, which is what the property tests and the
//! fuzz targets call.
//!
//! Rules that all readers keep:
//! - A number read from a file is compared with the length of the file before anything is allocated by it.
//! - A shape is checked for overflow, and a tensor's bytes lie inside its file, before a caller sees it.
//! - An error names the file and the thing, what was expected and what was found.

#![deny(unsafe_code)] // allowed in `mmap` alone

mod atomic;
mod bytes;
mod checkpoint;
pub mod config;
mod error;
pub mod gguf;
mod identify;
pub mod llama2c;
pub mod llmc;
mod mmap;
pub mod onnx;
pub mod safetensors;
mod tensor;
pub mod tokens;

pub use atomic::write_atomically;
pub use checkpoint::{Checkpoint, Format, Metadata};
pub use error::{Error, ErrorKind};
pub use gguf::GgufMetadata;
pub use identify::{FileKind, identify};
pub use llama2c::Llama2cHeader;
pub use llmc::LlmcHeader;
pub use tensor::{Fill, TensorEntry, TensorSpec, TensorView};
