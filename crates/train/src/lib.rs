//! Training, and the data to train on.
#![forbid(unsafe_code)]

pub mod optimizer;
pub mod stories;
pub mod trainer;
