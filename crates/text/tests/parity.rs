//! Ids and text equal to what transformers and llama.cpp make of the same vocabularies.

mod common;

use std::path::Path;

use common::{fixture, gguf, ids, json, shared, streamed};
use wootz_text::{Special, Tokenizer};

const FOLDERS: &[&str] = &[
    "gpt2-micro",
    "llama-micro",
    "qwen3-micro",
    "gemma3-micro",
    "qwen2-micro",
    "mistral-micro",
    "llama3-rope-micro",
    "qwen3-yarn-micro",
    "gemma3-rope8-micro",
    "qwen3-sharded",
];

fn check_golden(name: &str, tokenizer: &Tokenizer, golden: &Path) {
    let golden = json(golden);
    let cases = golden.as_array().unwrap();
    assert!(cases.len() > 5, "{name}: only {} cases", cases.len());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        // transformers always recognises special tokens in a text.
        let plain = tokenizer.encode(text, Special { add: false, parse: true }).unwrap();
        assert_eq!(plain, ids(&case["ids"]), "{name}: {text:?}");
        let special = tokenizer.encode(text, Special { add: true, parse: true }).unwrap();
        assert_eq!(special, ids(&case["ids_special"]), "{name}: {text:?} with special tokens");
        let decoded = case["decoded"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&plain, false), decoded, "{name}");
        assert_eq!(streamed(tokenizer, &plain, false), decoded, "{name}");
        // Unless asked to, we do not: the text is the same, its ids are not if it holds such a token.
        let as_text = tokenizer.encode(text, Special::default()).unwrap();
        assert!(as_text.iter().all(|&id| !tokenizer.is_special(id)), "{name}: {text:?}");
        assert_eq!(as_text == plain, plain.iter().all(|&id| !tokenizer.is_special(id)), "{name}: {text:?}");
        assert_eq!(tokenizer.decode(&as_text, true), text, "{name}");
    }
}

#[test]
fn parity_of_folders_with_transformers() {
    for name in FOLDERS {
        let Some(dir) = fixture(name) else { continue };
        let tokenizer = Tokenizer::from_folder(&dir).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_golden(name, &tokenizer, &dir.join("golden_tokens.json"));
    }
}

#[test]
fn parity_of_gguf_metadata_with_transformers() {
    for name in ["gguf/llama-tiny", "gguf/qwen3-tiny", "gguf/gemma3-tiny"] {
        let Some(dir) = fixture(name) else { continue };
        let file = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        let file = file.filter(|path| path.extension().is_some_and(|end| end == "gguf")).min().unwrap();
        check_golden(name, &gguf(&file), &dir.join("golden_tokens.json"));
    }
}

#[test]
fn parity_of_real_models_from_folder_and_gguf() {
    for name in ["stories260k", "babyllama"] {
        let Some(dir) = shared(&format!("fixtures/real/{name}")) else {
            continue;
        };
        let folder = Tokenizer::from_folder(&dir).unwrap();
        let from_gguf = gguf(&dir.join("q8_0.gguf"));
        assert_eq!(folder.vocab_size(), from_gguf.vocab_size());
        assert_eq!((folder.bos(), folder.end_tokens()), (from_gguf.bos(), from_gguf.end_tokens()));
        let golden = json(&dir.join("golden.json"));
        for (prompt, case) in golden["greedy_80_new_tokens"].as_object().unwrap() {
            let (all, text) = (ids(&case["ids"]), case["text"].as_str().unwrap());
            for tokenizer in [&folder, &from_gguf] {
                let start = tokenizer.encode(prompt, Special { add: true, parse: false }).unwrap();
                assert!(all.starts_with(&start), "{name}: {prompt:?} is {start:?}");
                assert_eq!(tokenizer.decode(&all, true), text, "{name}");
                assert_eq!(streamed(tokenizer, &all, true), text, "{name}");
                // A stream that begins after the prompt keeps the space of the first word.
                let mut stream = tokenizer.stream().continuing();
                let mut after: String = all[start.len()..].iter().map(|&id| stream.push(id)).collect();
                after.push_str(&stream.finish());
                assert_eq!(format!("{prompt}{after}"), text, "{name}");
            }
            for text in [text, "Ünïcödé — 日本 🦙", "  two  spaces ", "tab\tand\nline", ""] {
                let special = Special { add: true, parse: false };
                let (a, b) =
                    (folder.encode(text, special).unwrap(), from_gguf.encode(text, special).unwrap());
                assert_eq!(a, b, "{name}: {text:?}");
            }
        }
    }
}

/// The line between the strings of llama.cpp's test vectors.
const END_OF_TEXT: &str = "\n__ggml_vocab_test__\n";

/// llama.cpp's own test vectors: strings separated by a marked line, ids a line each.
#[test]
fn parity_of_vocabularies_with_llama_cpp() {
    let Some(dir) = shared("tokenizers") else { return };
    for name in ["gpt-2", "llama-bpe", "llama-spm", "qwen2"] {
        let file = dir.join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = gguf(&file);
        let input = std::fs::read_to_string(file.with_extension("gguf.inp")).unwrap();
        let output = std::fs::read_to_string(file.with_extension("gguf.out")).unwrap();
        let texts = input.strip_suffix(END_OF_TEXT).unwrap_or(&input);
        let texts: Vec<&str> = texts.split(END_OF_TEXT).collect();
        let lines: Vec<&str> = output.lines().collect();
        assert!(
            texts.len() > 40 && texts.len() == lines.len(),
            "{name}: {} texts, {} lines",
            texts.len(),
            lines.len()
        );
        for (text, line) in texts.iter().zip(&lines) {
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let encoded = tokenizer.encode(text, Special::default()).unwrap();
            assert_eq!(encoded, expected, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&encoded, false), *text, "{name}");
        }
        println!("{name}: {} texts", texts.len());
    }
}

#[cfg(feature = "gpt2")]
#[test]
fn parity_of_the_built_in_gpt2_with_llama_cpp() {
    let Some(dir) = shared("tokenizers") else { return };
    let built_in = Tokenizer::gpt2().unwrap();
    let file = gguf(&dir.join("ggml-vocab-gpt-2.gguf"));
    assert_eq!(built_in.vocab_size(), file.vocab_size());
    assert_eq!((built_in.bos(), built_in.end_tokens()), (file.bos(), file.end_tokens()));
    for id in 0..u32::try_from(file.vocab_size()).unwrap() {
        assert_eq!(built_in.token_bytes(id), file.token_bytes(id), "token {id}");
        assert_eq!(built_in.token(id), file.token(id), "token {id}");
        assert_eq!(built_in.is_special(id), file.is_special(id), "token {id}");
    }
    let input = std::fs::read_to_string(dir.join("ggml-vocab-gpt-2.gguf.inp")).unwrap();
    for text in input.split(END_OF_TEXT).chain([input.as_str()]) {
        let ids = built_in.encode(text, Special::default()).unwrap();
        assert_eq!(ids, file.encode(text, Special::default()).unwrap(), "{text:?}");
    }
}

#[test]
fn parity_of_llm_c_with_the_folder() {
    let Some(dir) = fixture("gpt2-micro") else { return };
    let folder = Tokenizer::from_folder(&dir).unwrap();
    let llmc = Tokenizer::from_llmc(&std::fs::read(dir.join("llmc/tokenizer.bin")).unwrap(), None).unwrap();
    assert_eq!((llmc.vocab_size(), llmc.end_tokens()), (folder.vocab_size(), folder.end_tokens()));
    for id in 0..u32::try_from(folder.vocab_size()).unwrap() {
        assert_eq!(llmc.token_bytes(id), folder.token_bytes(id), "token {id}");
    }
    for case in json(&dir.join("golden_tokens.json")).as_array().unwrap() {
        assert_eq!(llmc.decode(&ids(&case["ids"]), false), case["decoded"].as_str().unwrap());
    }
    let error = llmc.encode("text", Special::default()).unwrap_err().to_string();
    assert!(error.contains("holds no merges"), "{error}");
}

/// llama2.c's file, written here from the GGUF vocabulary as llama2.c's exporter lays it out.
#[test]
fn parity_of_llama2_c_with_gguf() {
    let Some(dir) = shared("tokenizers") else { return };
    let path = dir.join("ggml-vocab-llama-spm.gguf");
    let vocab = common::gguf_vocab(&path);
    let file = common::llama2c_file(&vocab);
    let llama2c = Tokenizer::from_llama2c(&file, vocab.tokens.len()).unwrap();
    let reference = gguf(&path);
    let input = std::fs::read_to_string(dir.join("ggml-vocab-llama-spm.gguf.inp")).unwrap();
    for text in input.split(END_OF_TEXT).filter(|text| !text.contains('\u{2581}')) {
        let special = Special { add: true, parse: false };
        let ids = llama2c.encode(text, special).unwrap();
        assert_eq!(ids, reference.encode(text, special).unwrap(), "{text:?}");
        assert_eq!(llama2c.decode(&ids, true), text);
    }
    assert!(Tokenizer::from_llama2c(&file, vocab.tokens.len() - 1).is_err());
    assert!(Tokenizer::from_llama2c(&file, vocab.tokens.len() + 1).is_err());
    assert!(Tokenizer::from_llama2c(&file, usize::MAX).is_err());
}
