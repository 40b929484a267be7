//! Files that contradict themselves: each an error that names the place and what is wrong with it.

mod common;

use common::{Folder, llmc_file, small_json, small_merges, small_scores};
use serde_json::{Value, json};
use wootz_text::{Error, GgufVocab, Special, Tokenizer};

fn gguf_error(vocab: GgufVocab) -> String {
    Tokenizer::from_gguf(vocab).expect_err("the vocabulary is wrong").to_string()
}

#[test]
fn gguf_vocabularies() {
    type Change = fn(&mut GgufVocab);
    let of_merges: &[(Change, &str)] = &[
        (|v| v.tokens.clear(), "tokens: is empty"),
        (|v| v.model = "bert".into(), "`bert` is not supported"),
        (|v| v.pre = Some("klingon".into()), "`klingon` is not supported"),
        (|v| v.token_types.truncate(9), "token_type: has"),
        (|v| v.eos = Some(1_000_000), "eos_token_id: 1000000 is out of range"),
        (|v| v.pad = Some(u32::MAX), "padding_token_id"),
        (|v| v.merges.push("x".into()), "expected two tokens with a space between"),
        (|v| v.merges.push("日 本".into()), "`日本`, which is no token"),
        (|v| v.merges.push("<|im <|im<|im<|im<|im".into()), "which is no token"),
        (|v| v.merges.push("a b".into()), "out of vocabulary"),
    ];
    let of_scores: &[(Change, &str)] = &[
        (|v| v.scores.truncate(9), "scores: has"),
        (|v| v.scores.clear(), "scores: has 0 entries"),
        (|v| v.scores[7] = f32::NAN, "score of token 7"),
        (|v| v.tokens[10] = "<0xZZ>".into(), "byte token 10 is `<0xZZ>`"),
        (|v| v.bos = Some(9999), "bos_token_id: 9999"),
    ];
    for (small, changes) in [(small_merges as fn() -> GgufVocab, of_merges), (small_scores, of_scores)] {
        Tokenizer::from_gguf(small()).unwrap();
        for (change, expected) in changes {
            let mut vocab = small();
            change(&mut vocab);
            let error = gguf_error(vocab).to_lowercase();
            assert!(error.contains(&expected.to_lowercase()), "expected `{expected}`, found `{error}`");
        }
    }
}

#[test]
fn bytes_that_a_vocabulary_lacks_are_said() {
    let mut vocab = small_merges();
    let at = vocab.tokens.iter().position(|token| token == "z").unwrap();
    vocab.tokens[at] = "zzz".to_owned();
    let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    tokenizer.encode("the", Special::default()).unwrap();
    let error = tokenizer.encode("a z", Special::default()).unwrap_err();
    assert!(matches!(&error, Error::Encode(what) if what.contains("0x7A")), "{error}");
}

fn folder_error(name: &str, change: impl Fn(&mut Value), files: &[(&str, &str)]) -> String {
    let folder = Folder::new(name);
    let mut tokenizer = small_json();
    change(&mut tokenizer);
    folder.write("tokenizer.json", tokenizer.to_string());
    for (file, content) in files {
        folder.write(file, content);
    }
    Tokenizer::from_folder(folder.path()).expect_err(name).to_string()
}

#[test]
fn folders() {
    type Change = fn(&mut Value);
    let changes: &[(Change, &str)] = &[
        (|t| t["model"]["type"] = json!("Unigram"), "`Unigram` is not supported"),
        (|t| t["model"] = json!({"type": "Unigram", "vocab": [["a", -1.0]]}), "`Unigram` is not supported"),
        (|t| t["model"]["merges"] = json!([["a", "b", "c"]]), "expected a merge"),
        (|t| t["model"]["merges"] = json!(["ab"]), "has no space"),
        (|t| t["model"]["merges"] = json!([["日", "本"]]), "is no token"),
        (|t| t["model"]["vocab"]["x"] = json!(4_000_000_000u32), "out of range"),
        (|t| t["model"]["vocab"]["x"] = json!(-1), "tokenizer.json"),
        (|t| t["model"]["unk_token"] = json!("nobody"), "`nobody` is not in the vocabulary"),
        (|t| t["model"]["end_of_word_suffix"] = json!("</w>"), "end_of_word_suffix"),
        (|t| t["added_tokens"][0]["id"] = json!(3_000_000), "out of range"),
        (|t| t["decoder"] = json!(null), "no decoder"),
        (|t| t["decoder"] = json!({"type": "WordPiece"}), "`WordPiece` is not supported"),
        (|t| t["pre_tokenizer"] = json!({"type": "BertPreTokenizer"}), "`BertPreTokenizer` is not supported"),
        (|t| t["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": ""}), "`Precompiled`"),
        (|t| t["post_processor"]["single"][0]["SpecialToken"]["id"] = json!("no"), "names no token"),
        (|t| t["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([70_000]), "out of range"),
        (|t| t["post_processor"] = json!({"type": "BertProcessing"}), "`BertProcessing` is not supported"),
    ];
    for (change, expected) in changes {
        let error = folder_error("folders", change, &[]);
        assert!(
            error.contains(expected) && error.contains("tokenizer.json"),
            "expected `{expected}`, found `{error}`"
        );
    }
    let keep = |_: &mut Value| {};
    let error = folder_error("config", keep, &[("tokenizer_config.json", "{")]);
    assert!(error.contains("tokenizer_config.json"), "{error}");
    let error = folder_error("ends", keep, &[("generation_config.json", r#"{"eos_token_id": [1, "x"]}"#)]);
    assert!(error.contains("generation_config.json") && error.contains("\"x\""), "{error}");
}

#[test]
fn folders_without_a_tokenizer() {
    let folder = Folder::new("empty");
    let error = Tokenizer::from_folder(folder.path()).unwrap_err();
    assert!(error.to_string().contains("holds no tokenizer.json"), "{error}");
    folder.write("tokenizer.model", b"");
    let error = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.model") && error.contains("save_pretrained"), "{error}");
}

#[test]
fn what_the_small_files_say_is_used() {
    let folder = Folder::new("small-files");
    folder
        .write("tokenizer.json", small_json().to_string())
        .write(
            "tokenizer_config.json",
            r#"{"eos_token": {"content": "<|im_end|>"}, "bos_token": "<s>", "add_bos_token": false,
            "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]}"#,
        )
        .write("generation_config.json", r#"{"eos_token_id": [3, 5]}"#)
        .write("config.json", r#"{"eos_token_id": 7}"#);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let end = tokenizer.id("<|im_end|>").unwrap();
    assert_eq!((tokenizer.eos(), tokenizer.end_tokens()), (Some(end), &[3, 5, 7, end][..]));
    assert_eq!(tokenizer.encode("", Special { add: true, parse: false }).unwrap(), [0u32; 0]);
    let render = |chat: Value| tokenizer.render_chat(chat.as_object().unwrap()).unwrap();
    assert_eq!((render(json!({})), render(json!({"tools": [1]}))), ("D".to_owned(), "T".to_owned()));
    // A file of its own stands over the list, and a broken template is an error only where it is used.
    folder.write("chat_template.jinja", "{% if %}");
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let error = tokenizer.render_chat(&Default::default()).unwrap_err();
    assert!(matches!(&error, Error::Template(what) if what.contains("line 1")), "{error}");
}

#[test]
fn llm_c_files() {
    let file = llmc_file(&[b"a", b"b"]);
    Tokenizer::from_llmc(&file, None).unwrap();
    let with = |word: usize, value: u32| {
        let mut file = file.clone();
        file[word * 4..word * 4 + 4].copy_from_slice(&value.to_le_bytes());
        Tokenizer::from_llmc(&file, None).expect_err("the header is wrong").to_string()
    };
    for (error, expected) in [
        (with(0, 20_240_326), "magic number 20240326, expected 20240328"),
        (with(1, 3), "version 3"),
        (with(2, u32::MAX), "4294967295 tokens in 4 bytes"),
        (with(2, 1), "2 bytes after"),
        (with(2, 0), "0 tokens"),
        (with(3, 2), "out of range"),
        (with(1, 1), "50256 is out of range"),
    ] {
        assert!(error.contains(expected), "expected `{expected}`, found `{error}`");
    }
}
