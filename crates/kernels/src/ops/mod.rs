//! The operations of a network, one file each: formula, shapes, fast code over [`crate::simd::Isa`], a plain
//! `reference`, and tests that compare the two on every instruction set. Backward stands beside forward; its plain
//! `reference_backward` is checked against differences of `reference`.
//!
//! Gradients of parameters are added, those of activations are set, unless [`Write`] says otherwise. No bit depends on
//! the number of threads.
//!
//! In the order of the data flow:

pub mod attention;
pub mod cross_entropy;
pub mod dora;
pub mod dropout;
pub mod embedding;
pub mod layernorm;
pub mod matmul;
pub mod mlp;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
pub mod softmax;

// What makes a step of the gradients.
pub mod adamw;
pub mod grad_norm;
pub mod muon;
pub mod sgd;

mod rows;

pub use rows::Write;

#[cfg(test)]
mod check;
