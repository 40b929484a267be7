//! The GPU of tests: whatever there is, a software driver too.

use wootz_kernels::device::{Accelerator, Api};

/// A GPU on which an operation without a kernel is an error; prints that the test is skipped where there is none, or fails
/// where `WOOTZ_REQUIRE` names `vulkan`.
pub fn open() -> Option<Accelerator> {
    match Accelerator::open(Api::Any, None, true) {
        Ok(gpu) => {
            gpu.forbid_fallback();
            Some(gpu)
        }
        Err(error) => {
            let required = std::env::var("WOOTZ_REQUIRE").unwrap_or_default();
            let is_required = required.split(',').any(|name| name.trim() == "vulkan");
            assert!(!is_required, "vulkan is required: {error}");
            println!("skipped: {error}");
            None
        }
    }
}
