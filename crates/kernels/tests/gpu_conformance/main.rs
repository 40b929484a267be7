//! Every GPU kernel, on whatever device there is, against plain loops in f64; and those loops' gradients
//! against finite differences.
//!
//! The cases are generic over the driver. `WOOTZ_REQUIRE=vulkan` (or `cuda`) turns a missing device into a
//! failure.

#![cfg_attr(not(any(feature = "wgpu", feature = "cuda")), allow(dead_code, unused_imports))]

mod adamw;
mod attention;
mod contract;
mod cross_entropy;
mod dora;
mod dropout;
mod embedding;
mod grad_norm;
mod layernorm;
mod matmul;
mod mlp;
mod moves;
mod numbers;
mod packed;
mod peak;
mod residual;
mod rmsnorm;
mod rope;
mod round;
mod sampling;
mod sgd;

use wootz_kernels::device::{Ability, Error, Gpu, Kernel, kernels, trial};

/// Kernels are tried in two halves, at the same time: a software driver is slow.
#[test]
fn every_kernel_on_vulkan_or_metal() {
    half_on_vulkan_or_metal(0);
}

#[test]
fn every_other_kernel_on_vulkan_or_metal() {
    half_on_vulkan_or_metal(1);
}

fn half_on_vulkan_or_metal(half: usize) {
    #[cfg(feature = "wgpu")]
    match wootz_kernels::device::wgpu::Wgpu::open(None) {
        Ok(gpu) => {
            every_kernel(&gpu, |i, _| i % 2 == half);
            the_contract(&gpu);
            if half == 0 {
                contract::a_buffer_beyond_the_limit_is_an_error(&gpu);
            }
        }
        Err(error) => skip("vulkan", &format!("no Vulkan adapter: {error}")),
    }
    #[cfg(not(feature = "wgpu"))]
    {
        let _ = half;
        skip("vulkan", "built without the feature wgpu");
    }
}

/// Where a device is able to more, kernels have texts for it, which the tests above take. Here are those for lesser devices.
#[test]
fn kernels_for_lesser_devices() {
    #[cfg(feature = "wgpu")]
    {
        use wootz_kernels::device::wgpu::Wgpu;
        let able = match Wgpu::open(None) {
            Ok(gpu) => gpu,
            Err(error) => return skip("vulkan", &format!("no Vulkan adapter: {error}")),
        };
        for most in [Ability::Plain, Ability::Subgroups] {
            if able.info().ability > most {
                let less = Wgpu::open_by(None, most, |_| true).unwrap();
                assert_eq!(less.info().ability, most);
                every_kernel(&less, |_, kernel| {
                    kernel
                        .wgsl
                        .is_some_and(|texts| texts.text_for(most) != texts.text_for(able.info().ability))
                });
            }
        }
        for asked in [Ability::Subgroups, Ability::Matrices] {
            if able.info().ability < asked {
                println!("skipped: {} has no {} for kernels", able.info().name, asked.name());
            }
        }
        contract::subgroups_change_no_bit(&able, &Wgpu::open_by(None, Ability::Plain, |_| true).unwrap());
    }
    #[cfg(not(feature = "wgpu"))]
    skip("vulkan", "built without the feature wgpu");
}

#[test]
fn every_kernel_on_cuda() {
    #[cfg(feature = "cuda")]
    match wootz_kernels::device::cuda::Cuda::open(0) {
        Ok(gpu) => {
            every_kernel(&gpu, |_, _| true);
            the_contract(&gpu);
        }
        Err(error) => skip("cuda", &error.to_string()),
    }
    #[cfg(not(feature = "cuda"))]
    skip("cuda", "built without the feature cuda");
}

/// Prints that a test did not run, or fails where `WOOTZ_REQUIRE` names what is missing.
fn skip(what: &str, why: &str) {
    let required = std::env::var("WOOTZ_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == what), "{what} is required: {why}");
    println!("skipped: {why}");
}

/// Tries the kernels that `takes` says yes to, of which it gets the number too.
fn every_kernel<G: Gpu>(gpu: &G, takes: impl Fn(usize, &Kernel) -> bool) {
    let info = gpu.info();
    println!("adapter: {} ({}, {}), kernels: {}", info.name, info.api, info.driver, info.ability.name());
    for (_, kernel) in kernels().enumerate().filter(|(i, kernel)| takes(*i, kernel)) {
        if (info.api == "CUDA" && kernel.cuda.is_none()) || (info.api != "CUDA" && kernel.wgsl.is_none()) {
            let refused = gpu.compile(kernel);
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{}: {refused:?}", kernel.name);
            println!("{}: not written for {}", kernel.name, info.api);
            continue;
        }
        gpu.compile(kernel).unwrap();
        let cases = matmul::cases(gpu, kernel.name)
            .or_else(|| rmsnorm::cases(gpu, kernel.name))
            .or_else(|| packed::cases(gpu, kernel.name))
            .or_else(|| layernorm::cases(gpu, kernel.name))
            .or_else(|| residual::cases(gpu, kernel.name))
            .or_else(|| mlp::cases(gpu, kernel.name))
            .or_else(|| rope::cases(gpu, kernel.name))
            .or_else(|| embedding::cases(gpu, kernel.name))
            .or_else(|| cross_entropy::cases(gpu, kernel.name))
            .or_else(|| adamw::cases(gpu, kernel.name))
            .or_else(|| sgd::cases(gpu, kernel.name))
            .or_else(|| grad_norm::cases(gpu, kernel.name))
            .or_else(|| sampling::cases(gpu, kernel.name))
            .or_else(|| dropout::cases(gpu, kernel.name))
            .or_else(|| dora::cases(gpu, kernel.name))
            .or_else(|| moves::cases(gpu, kernel.name))
            .or_else(|| round::cases(gpu, kernel.name))
            .or_else(|| peak::cases(gpu, kernel.name))
            .or_else(|| attention::cases(gpu, kernel.name))
            .unwrap_or_else(|| panic!("kernel {} has no conformance case here", kernel.name));
        println!("{}: {cases} cases", kernel.name);
    }
}

fn the_contract<G: Gpu>(gpu: &G) {
    assert!(trial::succeeds(gpu).unwrap());
    contract::row_bits_do_not_depend_on_the_batch(gpu);
    contract::launches_run_in_order(gpu);
    contract::wrong_use_is_an_error(gpu);
}
