#![no_main]
//! The JSON beside safetensors: config.json and the index of shards.

use libfuzzer_sys::fuzz_target;
use wootz_formats::{config, safetensors::Index};

fuzz_target!(|json: &[u8]| {
    let _ = config::parse(json);
    if let Ok(index) = Index::parse(json) {
        assert!(index.files().iter().all(|file| !file.contains('/')));
    }
});
