//! Tensors' element types, devices, and all compute. Nothing here knows what a language model is.
//!
//! In reading order:
//! - [`dtype`]: element types and block formats; [`quant`]: what each block format means
//! - [`simd`]: one vocabulary of vector operations for every instruction set; [`pool`]: threads
//! - [`panels`], [`matrix`]: weights, packed for the kernels
//! - [`ops`]: the operations, one file each; [`device`]: GPUs, and the same operations on them; [`exec`]: either, by one call

pub mod buffer;
pub mod device;
pub mod dtype;
pub mod exec;
pub mod matrix;
pub mod ops;
pub mod panels;
pub mod peak;
pub mod pool;
pub mod quant;
pub mod rng;
pub mod simd;

pub use buffer::Buffer;
pub use dtype::DType;
pub use matrix::{Matrix, Operand, Precision};
pub use pool::Pool;
