#![no_main]
//! llm.c's files: models, debug states (of a small model), token shards.

use libfuzzer_sys::fuzz_target;
use wootz_formats::{LlmcHeader, llmc, tokens};

fuzz_target!(|file: &[u8]| {
    if let Ok(model) = llmc::parse(file) {
        assert_eq!(model.tensors.last().map(|t| t.range.end), Some(file.len()));
    }
    let small =
        LlmcHeader { version: 3, max_seq: 2, vocab: 3, layers: 1, heads: 1, channels: 2, padded_vocab: 4 };
    if let Ok(state) = llmc::parse_state(file, &small) {
        assert_eq!(state.logits.view(file).bytes.len(), state.batch * state.seq * 3 * 4);
    }
    if let Ok((format, range)) = tokens::parse(file) {
        assert!(file[range].len().is_multiple_of(format.width()));
    }
});
