//! One file a command: its arguments, and `run`.

pub mod answer;
pub mod bench;
pub mod chat;
pub mod check;
pub mod comparison;
pub mod data;
pub mod device;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod flags;
pub mod generate;
pub mod grpo;
pub mod inspect;
mod memory;
pub mod merge;
#[cfg(feature = "onnx")]
mod onnx_logits;
mod prompts;
pub mod pull;
pub mod quantize;
mod settings;
pub mod sft;
mod staged;
pub mod tokenizer;
pub mod train;
mod tuning;
mod watch;

use anyhow::{Context, Result};
use std::path::Path;

/// The text of a file; an error names it.
fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
