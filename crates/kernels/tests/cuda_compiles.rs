//! Every `.cu` kernel to machine code of Ampere and Hopper, without a GPU.
//!
//! The compiler is NVIDIA's libnvrtc: `pip install nvidia-cuda-nvrtc`, and `WOOTZ_NVRTC` is the file or a
//! folder above it. `WOOTZ_REQUIRE=nvrtc` turns a missing compiler into a failure.

#[cfg(feature = "cuda")]
mod with_compiler {
    use wootz_kernels::device::nvrtc::Nvrtc;
    use wootz_kernels::device::{Error, Kernel, kernels};

    fn compiler() -> Option<Nvrtc> {
        Nvrtc::load().map_err(|error| super::skip(&error.to_string())).ok()
    }

    #[test]
    fn kernels_become_machine_code() {
        let Some(nvrtc) = compiler() else { return };
        println!("NVRTC {}.{} of {}", nvrtc.version().0, nvrtc.version().1, nvrtc.path().display());
        for architecture in ["sm_80", "sm_90a"] {
            for kernel in kernels().filter(|kernel| kernel.cuda.is_some()) {
                let cubin = nvrtc.to_cubin(kernel, architecture).unwrap();
                assert_eq!(
                    cubin.get(..4),
                    Some(b"\x7fELF".as_slice()),
                    "{}: a cubin is an ELF file",
                    kernel.name
                );
                // The kernel's code lies in a section of its own name.
                let section = format!(".text.{}\0", kernel.entry);
                let found = cubin.windows(section.len()).any(|bytes| bytes == section.as_bytes());
                assert!(found, "{} is not in its cubin for {architecture}", kernel.name);
                println!("{} {architecture}: {} bytes", kernel.name, cubin.len());
            }
        }
    }

    #[test]
    fn an_error_names_kernel_and_line() {
        static BROKEN: Kernel = Kernel {
            name: "broken",
            entry: "broken",
            wgsl: None,
            cuda: Some("extern \"C\" __global__ void broken() {\n  nonsense();\n}\n"),
            workgroup: [1, 1, 1],
            buffers: &[],
            scalars: &[],
        };
        let Some(nvrtc) = compiler() else { return };
        match nvrtc.to_cubin(&BROKEN, "sm_80") {
            Err(Error::Compile { kernel: "broken", line: Some(2), message }) => {
                assert!(message.contains("nonsense"), "{message}");
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(nvrtc.to_cubin(kernels().next().unwrap(), "sm_1"), Err(Error::Compile { .. })));
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn kernels_become_machine_code() {
    skip("built without the feature cuda");
}

/// Prints that a test did not run, or fails where `WOOTZ_REQUIRE` names the compiler.
fn skip(why: &str) {
    let required = std::env::var("WOOTZ_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == "nvrtc"), "nvrtc is required: {why}");
    println!("skipped: {why}");
}
