//! The operations of a network, one file each: formula, shapes, fast code over [`crate::simd::Isa`], a plain
//! `reference`, and tests that compare the two on every instruction set.
//!
//! In the order of the data flow:

pub mod attention;
pub mod layernorm;
pub mod matmul;
pub mod mlp;
pub mod residual;
pub mod rmsnorm;
pub mod rope;
pub mod softmax;
