//! From logits to sequences of tokens. Everything here knows token ids only; text is the caller's affair.
//!
//! In reading order:
//! - [`sampler`]: the next token of one row of logits
//! - [`drawn`]: what that token was drawn from, for training to replay
//! - [`lookup`]: guesses at the next tokens, from what the sequence has said before
//! - [`engine`]: many sequences over one model, a step at a time
//! - [`stop`]: strings at which a text ends; the one part that works on text, after decoding

pub mod drawn;
pub mod engine;
pub mod lookup;
pub mod sampler;
pub mod stop;

#[cfg(test)]
mod tests;

pub use drawn::{Drawn, Kept};
pub use engine::{
    Engine, EngineOptions, Event, Finish, FinishReason, Request, SequenceId, Session, Stats, Token,
};
pub use sampler::{Sampler, SamplerOptions};
pub use stop::StopStrings;
