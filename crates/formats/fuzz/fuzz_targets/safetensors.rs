#![no_main]
//! A safetensors file: what parses covers the data without overlap.

use libfuzzer_sys::fuzz_target;
use wootz_formats::safetensors;

fuzz_target!(|file: &[u8]| {
    let Ok(parsed) = safetensors::parse(file) else { return };
    let covered: usize = parsed.tensors.iter().map(|t| t.view(file).bytes.len()).sum();
    assert!(covered + 8 <= file.len());
    for tensor in &parsed.tensors {
        assert_eq!(tensor.dtype.bytes(&tensor.shape), Some(tensor.range.len()));
    }
});
