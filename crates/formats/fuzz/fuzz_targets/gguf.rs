#![no_main]
//! A GGUF file: parsed, every value asked for as every type, every tensor's bytes in their place.

use libfuzzer_sys::fuzz_target;
use wootz_formats::gguf;

fuzz_target!(|file: &[u8]| {
    let Ok(parsed) = gguf::parse(file) else { return };
    let m = &parsed.metadata;
    for (key, value) in m.iter() {
        assert_eq!(m.value(key).map(|v| v.type_name()), Some(value.type_name()));
        let _ = (m.get_u64(key), m.get_f32(key), m.get_bool(key), m.get_str(key));
        let _ = (m.get_f32s(key), m.get_i32s(key), m.get_bools(key));
        if let Ok(strings) = m.get_strings(key) {
            assert_eq!(strings.iter().last(), strings.len().checked_sub(1).and_then(|i| strings.get(i)));
        }
    }
    for tensor in &parsed.tensors {
        assert_eq!(tensor.dtype.bytes(&tensor.shape), Some(tensor.view(file).bytes.len()));
    }
});
