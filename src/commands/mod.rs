//! One file a command: its arguments, and `run`.

pub mod answer;
pub mod bench;
pub mod chat;
pub mod check;
pub mod data;
pub mod export;
pub mod flags;
pub mod generate;
pub mod inspect;
pub mod quantize;
pub mod tokenizer;
pub mod train;
