//! Strings and token ids, and the templates that make a prompt of a conversation.
//!
//! [`Tokenizer`] reads whatever a model comes with: a folder's `tokenizer.json`, the metadata of a GGUF file
//! ([`GgufVocab`]), llm.c's and llama2.c's `tokenizer.bin`, or GPT-2's own vocabulary built in. [`Stream`] decodes
//! a token at a time and never gives half a character. [`ChatTemplate`] renders the Jinja templates that models
//! carry as Python's transformers does; [`Masked`] has which tokens of a conversation the assistant says.
//!
//! Two rules hold everywhere. Text is text: what looks like a special token is one only when the caller asks for it
//! ([`Special::parse`]), and in a chat only where the template wrote it ([`Tokenizer::encode_chat`]). And a file is
//! never believed: every id, merge and length is checked when a vocabulary is read, so that nothing can go wrong
//! afterwards but a text that the vocabulary has no way to spell.

#![forbid(unsafe_code)]

mod bpe;
mod chat;
mod error;
mod export;
mod folder;
mod gguf;
#[cfg(feature = "gpt2")]
mod gpt2;
mod llama2c;
mod llmc;
mod masked;
mod pieces;
mod pre;
mod python;
mod spm;
mod stream;
mod tokenizer;
pub mod train;
mod turns;

pub use chat::{ChatTemplate, DateTime};
pub use error::Error;
pub use gguf::GgufVocab;
pub use masked::Masked;
pub use stream::Stream;
pub use tokenizer::{Encoding, Special, Tokenizer};
