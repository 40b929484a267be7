//! Operations where their values lie: on the CPU or on a GPU, by the same call.
//!
//! The decoder is written once, in terms of [`Exec`]. Each method here is an operation of [`crate::ops`]: on the CPU it calls
//! that, on a GPU the launchers of [`crate::device::launch`]. Nothing is computed here, and there is no other place where
//! the two are told apart.
//!
//! - [`Floats`]: what flows through the network; [`Ids`]: numbers of rows; [`Weight`]: what it is multiplied with;
//!   [`Values`]: what is kept beside a parameter
//! - one file a group of operations, forward beside backward
//!
//! Operations on a GPU return before they are done. What they meet is returned by a later one, at the latest when values
//! are read.

mod attention;
mod floats;
mod head;
mod ids;
mod linear;
mod mlp;
mod norm;
mod rope;
mod slab;
mod update;
mod values;
mod weight;

pub use attention::{AttentionScratch, Tables};
pub use floats::Floats;
pub use head::{LeftOut, Losses};
pub use ids::Ids;
pub use linear::{GradientTerm, LinearGradient, Output};
pub use rope::Turns;
pub use slab::{LayerShape, Slab, Slot};
pub use update::Moved;
pub use values::Values;
pub use weight::Weight;

use crate::Pool;
use crate::device::Accelerator;

/// Who computes.
#[derive(Clone, Copy)]
pub struct Exec<'a> {
    /// The CPU's threads.
    pub pool: &'a Pool,
    /// The GPU; `None` for the CPU.
    pub gpu: Option<&'a Accelerator>,
}

impl<'a> Exec<'a> {
    /// The CPU.
    pub fn cpu(pool: &'a Pool) -> Exec<'a> {
        Exec { pool, gpu: None }
    }
}
