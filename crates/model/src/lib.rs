//! What the network is, and running it.
//!
//! In reading order:
//! - [`config`]: every switch of the decoder, as data
//! - [`arch`]: from a file's metadata to a config, one file an architecture; [`names`]: where each tensor is in a file
//! - [`weights`]: the parameters in memory; [`kv_cache`]: what a sequence leaves behind; [`rope`]: rotary frequencies
//! - `block`: one block, forward and backward; [`decoder`]: the forward pass of all; [`training`]: forward, loss and
//!   backward; [`gradients`]: what comes of it; [`plan`]: the memory that it takes
//! - [`load`]: from a path to a model and its tokenizer; [`save`]: from a model to a file; [`quantize`](mod@quantize): to a
//!   small one
//! - [`lora`]: adapters; [`adapter`]: adapters in files; [`merge`]: adapters in the weights;
//!   [`compare`](mod@compare): how far two models are apart
//! - [`presets`]: models by name; [`init`]: their first parameters; [`flops`]: what they cost
//! - [`reference`](mod@reference): the same decoder in f64 and plain loops, to be read, and compared with; [`differences`]:
//!   gradients checked by it

#![forbid(unsafe_code)]

pub mod adapter;
pub mod arch;
mod block;
pub mod compare;
pub mod config;
pub mod decoder;
pub mod differences;
pub mod error;
pub mod flops;
pub mod generate;
pub mod gradients;
pub mod init;
pub mod kv_cache;
pub mod load;
pub mod lora;
pub mod merge;
pub mod names;
pub mod plan;
pub mod presets;
pub mod quantize;
pub mod reference;
pub mod rope;
pub mod save;
pub mod training;
pub mod weights;

pub use block::Observer;
pub use config::DecoderConfig;
pub use decoder::{Chunk, Model, Picked, Rows, Scratch};
pub use error::{Error, Result};
pub use gradients::Gradients;
pub use kv_cache::{KvCache, MAX_CHUNK};
pub use training::{Batch, Distribution, Recompute, Training};
