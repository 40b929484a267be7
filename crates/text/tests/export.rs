//! Tokenizers written as GGUF metadata, as a folder's files and as llm.c's file: what is read back makes the same ids.

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Folder, fixture, gguf_vocab, ids, json, shared};
use wootz_text::{GgufVocab, Special, Tokenizer};

/// Folders of the fixtures that hold a tokenizer, and what its ids should be.
fn folders() -> Vec<PathBuf> {
    let Some(root) = fixture("llama-micro").and_then(|path| Some(path.parent()?.to_owned())) else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .filter(|dir| dir.join("tokenizer.json").is_file() && dir.join("golden_tokens.json").is_file())
        .collect();
    found.sort();
    found
}

fn read_back(tokenizer: &Tokenizer) -> (GgufVocab, Tokenizer) {
    let vocab = tokenizer.to_gguf().unwrap();
    (vocab.clone(), Tokenizer::from_gguf(vocab).unwrap())
}

/// The tokenizer of a folder that holds what `tokenizer` writes, and the ends of a text, as a model's folder does.
fn through_a_folder(tokenizer: &Tokenizer) -> Tokenizer {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let folder = Folder::new(&format!("export-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    for (name, text) in tokenizer.to_folder().unwrap() {
        folder.write(name, text);
    }
    let ends = serde_json::json!({"eos_token_id": tokenizer.end_tokens()});
    folder.write("generation_config.json", ends.to_string());
    Tokenizer::from_folder(folder.path()).unwrap()
}

/// Same marks, same templates, same spelling and bytes of every token.
fn check_same(name: &str, expected: &Tokenizer, found: &Tokenizer) {
    assert_eq!(found.vocab_size(), expected.vocab_size(), "{name}");
    assert_eq!((found.bos(), found.eos()), (expected.bos(), expected.eos()), "{name}");
    assert_eq!(found.end_tokens(), expected.end_tokens(), "{name}");
    let source = |tokenizer: &Tokenizer| tokenizer.chat_template().map(|t| t.source().to_owned());
    assert_eq!(source(found), source(expected), "{name}");
    for id in 0..u32::try_from(expected.vocab_size()).unwrap() {
        assert_eq!(found.token_bytes(id), expected.token_bytes(id), "{name}: token {id}");
        assert_eq!(found.is_special(id), expected.is_special(id), "{name}: token {id}");
    }
}

#[test]
fn parity_of_folders_written_again() {
    let folders = folders();
    if folders.is_empty() {
        println!("skipped: no folders with a tokenizer");
    }
    for dir in folders {
        let name = dir.display().to_string();
        let original = Tokenizer::from_folder(&dir).unwrap();
        for written in [read_back(&original).1, through_a_folder(&original)] {
            check_same(&name, &original, &written);
            for case in json(&dir.join("golden_tokens.json")).as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let plain = written.encode(text, Special { add: false, parse: true }).unwrap();
                assert_eq!(plain, ids(&case["ids"]), "{name}: {text:?}");
                let special = written.encode(text, Special { add: true, parse: true }).unwrap();
                assert_eq!(special, ids(&case["ids_special"]), "{name}: {text:?} with special tokens");
            }
        }
    }
}

/// Real vocabularies: what goes in comes out, but for what no reader looks at.
#[test]
fn parity_of_gguf_written_again() {
    let Some(dir) = shared("tokenizers") else { return };
    for name in ["gpt-2", "llama-bpe", "llama-spm", "qwen2"] {
        let vocab = gguf_vocab(&dir.join(format!("ggml-vocab-{name}.gguf")));
        let original = Tokenizer::from_gguf(vocab.clone()).unwrap();
        let (again, tokenizer) = read_back(&original);
        check_same(name, &original, &tokenizer);
        assert_eq!((&again.model, &again.pre), (&vocab.model, &vocab.pre), "{name}");
        assert_eq!((&again.tokens, &again.merges), (&vocab.tokens, &vocab.merges), "{name}");
        assert_eq!(again.token_types, vocab.token_types, "{name}");
        let folder = through_a_folder(&original);
        check_same(name, &original, &folder);
        let input = std::fs::read_to_string(dir.join(format!("ggml-vocab-{name}.gguf.inp"))).unwrap();
        for text in input.split("\n__ggml_vocab_test__\n") {
            let special = Special { add: true, parse: true };
            let expected = original.encode(text, special).unwrap();
            assert_eq!(tokenizer.encode(text, special).unwrap(), expected, "{name}: {text:?}");
            assert_eq!(folder.encode(text, special).unwrap(), expected, "{name} in a folder: {text:?}");
        }
    }
}

#[cfg(feature = "gpt2")]
#[test]
fn parity_of_the_built_in_gpt2_written_again() {
    let built_in = Tokenizer::gpt2().unwrap();
    let (vocab, tokenizer) = read_back(&built_in);
    check_same("gpt2", &built_in, &tokenizer);
    let folder = through_a_folder(&built_in);
    check_same("gpt2", &built_in, &folder);
    let text = "Hello<|endoftext|> wörld  \n  1234";
    for special in [Special::default(), Special { add: true, parse: true }] {
        assert_eq!(folder.encode(text, special).unwrap(), built_in.encode(text, special).unwrap());
    }
    assert_eq!((vocab.pre.as_deref(), vocab.tokens.len()), (Some("gpt-2"), 50_257));
    let Some(dir) = shared("tokenizers") else { return };
    let file = gguf_vocab(&dir.join("ggml-vocab-gpt-2.gguf"));
    assert!(vocab.tokens == file.tokens && vocab.merges == file.merges);
    assert_eq!(vocab.token_types, file.token_types);
}

#[test]
fn parity_of_llm_c_files() {
    let Some(dir) = fixture("gpt2-micro") else { return };
    let written = Tokenizer::from_folder(&dir).unwrap().to_llmc().unwrap();
    assert!(written == std::fs::read(dir.join("llmc/tokenizer.bin")).unwrap());
}

#[test]
fn llama2_c_becomes_scores_with_escaped_spaces() {
    let vocab = common::small_scores();
    let llama2c = Tokenizer::from_llama2c(&common::llama2c_file(&vocab), vocab.tokens.len()).unwrap();
    let (written, tokenizer) = read_back(&llama2c);
    assert_eq!((written.tokens, written.token_types), (vocab.tokens, vocab.token_types));
    assert_eq!(written.add_space_prefix, Some(true));
    let folder = through_a_folder(&llama2c);
    let special = Special { add: true, parse: false };
    for text in ["the he the", "  é日", "x"] {
        assert_eq!(tokenizer.encode(text, special).unwrap(), llama2c.encode(text, special).unwrap());
        assert_eq!(folder.encode(text, special).unwrap(), llama2c.encode(text, special).unwrap());
    }
}

#[test]
fn padding_stands_for_nothing() {
    for mut vocab in [common::small_scores(), common::small_merges()] {
        let size = vocab.tokens.len();
        vocab.pad(size + 3);
        vocab.pad(size);
        assert_eq!((vocab.tokens.len(), vocab.token_types.len()), (size + 3, size + 3));
        assert_eq!(vocab.tokens.last().unwrap(), &format!("[PAD{}]", size + 2));
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        let ids = tokenizer.encode("the [PAD9]", Special::default()).unwrap();
        assert!(ids.iter().all(|&id| (id as usize) < size));
    }
}

#[test]
fn an_end_that_readers_do_not_know_is_named() {
    let mut vocab = common::small_merges();
    let other = u32::try_from(vocab.tokens.len() - 1).unwrap(); // <think>
    vocab.eot = Some(other);
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    let (written, again) = read_back(&tokenizer);
    assert_eq!(written.eot, Some(other));
    check_same("eot", &tokenizer, &again);
    check_same("eot in a folder", &tokenizer, &through_a_folder(&tokenizer));
}

#[test]
fn several_templates_go_into_a_folder() {
    let mut vocab = common::small_merges();
    vocab.chat_template = Some("plain {{ messages }}".to_owned());
    let one = through_a_folder(&Tokenizer::from_gguf(vocab.clone()).unwrap());
    assert_eq!(one.chat_template().unwrap().source(), "plain {{ messages }}");
    vocab.named_templates = vec![("tool_use".to_owned(), "tools {{ tools }}".to_owned())];
    let two = through_a_folder(&Tokenizer::from_gguf(vocab).unwrap());
    assert_eq!(two.chat_template().unwrap().source(), "plain {{ messages }}");
    assert_eq!(two.chat_template_named("tool_use").unwrap().source(), "tools {{ tools }}");
}

#[test]
fn a_spelling_with_two_ids_is_refused_in_a_folder() {
    for mut vocab in [common::small_scores(), common::small_merges()] {
        vocab.tokens.push("he".to_owned());
        vocab.token_types.push(1);
        if !vocab.scores.is_empty() {
            vocab.scores.push(-99.0);
        }
        let error = Tokenizer::from_gguf(vocab).unwrap().to_folder().unwrap_err().to_string();
        assert!(error.contains("does another token have its spelling?"), "{error}");
    }
}

#[test]
fn what_gguf_cannot_say_is_an_error() {
    let message = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut file = common::small_json();
        change(&mut file);
        let folder = Folder::new("export");
        folder.write("tokenizer.json", file.to_string());
        folder.write("tokenizer_config.json", r#"{"bos_token": "<s>", "eos_token": "<|im_end|>"}"#);
        Tokenizer::from_folder(folder.path()).unwrap().to_gguf().map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(message(&|_| ()), Ok(()));
    let split = serde_json::json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    for (found, expected) in [
        (message(&|file| file["pre_tokenizer"] = split.clone()), "no name for the pre-tokenizer"),
        (message(&|file| file["pre_tokenizer"]["add_prefix_space"] = true.into()), "ByteLevel"),
        (message(&|file| file["normalizer"] = serde_json::json!({"type": "Lowercase"})), "normalizer"),
        (message(&|file| file["model"]["ignore_merges"] = true.into()), "pre-tokenizer"),
        (
            message(&|file| file["post_processor"]["special_tokens"]["<s>"]["ids"] = vec![1, 2].into()),
            "GGUF can only say BOS",
        ),
    ] {
        match found {
            Err(error) => assert!(error.contains(expected), "{error}"),
            Ok(()) => panic!("expected an error with {expected}"),
        }
    }
    let llmc = Tokenizer::from_llmc(&common::llmc_file(&[b"a", b"b"]), None).unwrap();
    assert!(llmc.to_gguf().unwrap_err().to_string().contains("holds no merges"));
    assert!(llmc.to_folder().unwrap_err().to_string().contains("holds no merges"));
    let none = GgufVocab { model: GgufVocab::NO_MODEL.to_owned(), ..GgufVocab::default() };
    assert!(Tokenizer::from_gguf(none).unwrap_err().to_string().contains("holds no tokenizer"));
}
