#![no_main]
//! A llama2.c file.

use libfuzzer_sys::fuzz_target;
use wootz_formats::llama2c;

fuzz_target!(|file: &[u8]| {
    let Ok(model) = llama2c::parse(file) else { return };
    for tensor in &model.tensors {
        assert_eq!(tensor.dtype.bytes(&tensor.shape), Some(tensor.view(file).bytes.len()));
    }
});
