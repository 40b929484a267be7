//! The devices that compute beside the CPU, behind one small trait.
//!
//! [`Accelerator`] is a GPU as the rest of the program sees it. [`gpu`] says what a device can do ([`Gpu`]) and what a kernel is ([`Kernel`]: data, not code). Two drivers
//! implement the trait: `wgpu` (Vulkan and Metal; feature `wgpu`) runs the `.wgsl` of an op, `cuda` (NVIDIA;
//! feature `cuda`) its `.cu`. [`launch`] turns an op's buffers and shape into launches of its kernels, for
//! either driver.
//!
//! A new op adds its kernels to the list of [`kernels`]; nothing else here changes. The tests `gpu_conformance`,
//! `wgsl_to_metal` and `cuda_compiles` walk that list.

pub mod accelerator;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod gpu;
pub mod launch;
#[cfg(feature = "cuda")]
pub mod nvrtc;
pub mod peak;
pub mod trial;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use accelerator::{Accelerator, Api, Memory};
pub use gpu::{
    Ability, Access, Binding, DeviceBuffer, Error, Gpu, Info, Kernel, Result, Scalar, ScalarKind, Wgsl,
};

/// The kernels of each op.
static OPS: &[&[&Kernel]] = &[
    launch::rmsnorm::KERNELS,
    launch::matmul::KERNELS,
    launch::packed::KERNELS,
    launch::attention::KERNELS,
    launch::layernorm::KERNELS,
    launch::residual::KERNELS,
    launch::mlp::KERNELS,
    launch::rope::KERNELS,
    launch::embedding::KERNELS,
    launch::cross_entropy::KERNELS,
    launch::adamw::KERNELS,
    launch::sgd::KERNELS,
    launch::grad_norm::KERNELS,
    launch::sampling::KERNELS,
    launch::dropout::KERNELS,
    launch::dora::KERNELS,
    launch::moves::KERNELS,
    launch::peak::KERNELS,
    launch::round::KERNELS,
];

/// Every GPU kernel. Tests walk them: a kernel that is not here is not tested.
pub fn kernels() -> impl Iterator<Item = &'static Kernel> {
    OPS.iter().copied().flatten().copied()
}
