//! What an answer is worth, and problems to answer.
//!
//! A spec says how answers are judged: one line, or a TOML file with several rewards and their weights
//! (`docs/rewards.md`). [`Rewards`] is a spec that was read; it gives every answer a [`Score`] or a [`Failure`], and never
//! passes a failure off as a score. [`Task`] makes problems whose answers are known.
//!
//! Nothing here knows tokens or models: strings come in, numbers go out.
//!
//! In reading order:
//! - `answer`: what is judged, and what comes of it
//! - `rewards`: the weighted sum
//! - `spec`: from one line or a TOML file to rewards; `options`: reading a table without overlooking a key
//! - `of`: the part of an answer that is looked at; `reference`: what it is compared with; `pattern`: regular expressions
//! - [`kinds`]: one kind of reward a file, and the list of them
//! - [`tasks`]: problems and their answers, one task a file

#![forbid(unsafe_code)]

mod answer;
mod error;
pub mod kinds;
mod of;
mod options;
mod pattern;
mod reference;
mod rewards;
mod spec;
pub mod tasks;

pub use answer::{Answer, Failure, Fields, Score};
pub use error::{Error, Result};
pub use rewards::Rewards;
pub use spec::Setup;
pub use tasks::{Problem, Split, Task};
/// What sends requests; see [`Setup::with_agent`].
#[cfg(feature = "http")]
pub use ureq::Agent;
