//! What must hold for any text, any ids and any file.

mod common;

use common::{Folder, llama2c_file, llmc_file, small_json, small_merges, small_scores, streamed};
use proptest::prelude::*;
use std::sync::LazyLock;
use wootz_text::{ChatTemplate, Special, Tokenizer};

static MERGES: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(small_merges()).unwrap());
static SCORES: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(small_scores()).unwrap());
static LLAMA2C: LazyLock<Tokenizer> = LazyLock::new(|| {
    let vocab = small_scores();
    Tokenizer::from_llama2c(&llama2c_file(&vocab), vocab.tokens.len()).unwrap()
});
static LLMC: LazyLock<Tokenizer> = LazyLock::new(|| {
    let pieces: [&[u8]; 6] = [b"<|endoftext|>", b"a", "é".as_bytes(), b"\xF0\x9F", b"\xA6\x99", b"\xFF"];
    Tokenizer::from_llmc(&llmc_file(&pieces), None).unwrap()
});
static JSON: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = Folder::new("properties");
    folder.write("tokenizer.json", small_json().to_string());
    Tokenizer::from_folder(folder.path()).unwrap()
});

fn all() -> [&'static Tokenizer; 5] {
    [&MERGES, &SCORES, &LLAMA2C, &LLMC, &JSON]
}

/// Any Unicode text, rich in spaces, in what the small vocabularies know, and in pieces of special tokens.
fn texts() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        " ",
        "  ",
        "\n",
        "the",
        " the",
        "é",
        "日",
        "<s>",
        "</s>",
        "<|im_end|>",
        "<|im_end",
        "<think>",
        "<0x41>",
        "\r\n",
    ]);
    let part =
        prop_oneof![known.prop_map(str::to_owned), any::<String>(), any::<char>().prop_map(String::from)];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Ids of the small vocabularies and some beyond them.
fn many_ids() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![8 => 0u32..300, 1 => any::<u32>()], 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_comes_back_and_is_never_a_special_token(text in texts(), add in any::<bool>()) {
        for tokenizer in [&*MERGES, &*JSON, &*SCORES, &*LLAMA2C] {
            // U+2581 is how SentencePiece writes a space; it cannot be told from one afterwards.
            if text.contains('\u{2581}') && std::ptr::eq(tokenizer, &*SCORES) {
                continue;
            }
            let plain = tokenizer.encode(&text, Special::default()).unwrap();
            prop_assert!(plain.iter().all(|&id| !tokenizer.is_special(id)));
            prop_assert_eq!(&tokenizer.decode(&plain, false), &text);
            let parsed = tokenizer.encode(&text, Special { add, parse: true }).unwrap();
            if add && tokenizer.bos().is_some() {
                prop_assert_eq!(parsed.first().copied(), tokenizer.bos());
            }
        }
    }

    #[test]
    fn a_stream_gives_the_text_of_the_whole(ids in many_ids(), skip in any::<bool>()) {
        for tokenizer in all() {
            prop_assert_eq!(streamed(tokenizer, &ids, skip), tokenizer.decode(&ids, skip));
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id)).collect();
            let whole = String::from_utf8_lossy(&bytes);
            let decoded = tokenizer.decode(&ids, false);
            let with_space = format!(" {decoded}"); // the one that the vocabulary wrote before the first word
            prop_assert!(decoded == whole || with_space == whole);
        }
    }

    #[test]
    fn a_stream_never_ends_within_a_character(text in texts()) {
        for tokenizer in [&*MERGES, &*SCORES] {
            let mut stream = tokenizer.stream().with_special();
            for id in tokenizer.encode(&text, Special::default()).unwrap() {
                let whole = text.contains(char::REPLACEMENT_CHARACTER);
                prop_assert!(whole || !stream.push(id).contains(char::REPLACEMENT_CHARACTER));
            }
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_or_another_vocabulary(
        cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        let vocab = small_scores();
        let llama2c = llama2c_file(&vocab);
        let llmc = llmc_file(&[b"<|endoftext|>", b"a", b"bc"]);
        for file in [&llama2c, &llmc] {
            let short = &file[..cut.index(file.len())];
            prop_assert!(Tokenizer::from_llama2c(short, vocab.tokens.len()).is_err());
            prop_assert!(Tokenizer::from_llmc(short, None).is_err());
            let mut wrong = file.clone();
            let at = at.index(wrong.len());
            wrong[at] ^= flip;
            for tokenizer in [Tokenizer::from_llama2c(&wrong, vocab.tokens.len()), Tokenizer::from_llmc(&wrong, None)] {
                exercise(tokenizer);
            }
        }
    }

    #[test]
    fn a_damaged_json_is_an_error_or_another_vocabulary(
        cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in 32u8..127,
    ) {
        let text = small_json().to_string();
        let folder = Folder::new("damaged");
        folder.write("tokenizer.json", &text.as_bytes()[..cut.index(text.len())]);
        prop_assert!(Tokenizer::from_folder(folder.path()).is_err());
        let mut wrong = text.into_bytes();
        let at = at.index(wrong.len());
        wrong[at] = byte;
        folder.write("tokenizer.json", wrong);
        exercise(Tokenizer::from_folder(folder.path()));
    }

    #[test]
    fn any_gguf_metadata_is_an_error_or_a_vocabulary(
        scores in any::<bool>(), drop_token in any::<prop::sample::Index>(), text in texts(), id in any::<Option<u32>>(),
        kinds in prop::collection::vec(-1i32..8, 0..4), pre in prop::sample::select(vec!["qwen2", "smollm", "default", "tekken"]),
    ) {
        let mut vocab = if scores { small_scores() } else { small_merges() };
        let at = drop_token.index(vocab.tokens.len());
        vocab.tokens[at] = text;
        vocab.eot = id;
        vocab.pre = Some(pre.to_owned());
        for (place, kind) in kinds.into_iter().enumerate() {
            vocab.token_types[place * 7] = kind;
        }
        exercise(Tokenizer::from_gguf(vocab));
    }

    #[test]
    fn no_template_panics(parts in prop::collection::vec(prop::sample::select(vec![
        "{%", "%}", "{{", "}}", "{#", "#}", "-", " if ", " for ", " x ", " in ", " endif ", " endfor ", "'", "\"", "messages",
        "[", "]", "::-1", ".", "(", ")", "|", "tojson", " generation ", " endgeneration ", "\n", "é", "0", "=", " set ", "+",
    ]), 0..16), any in any::<String>()) {
        let variables = serde_json::json!({"messages": [{"role": "user", "content": "x"}], "x": 1});
        for source in [parts.concat(), any] {
            if let Ok(template) = ChatTemplate::parse(&source) {
                let _ = template.render(variables.as_object().unwrap());
            }
        }
    }
}

/// What was read from a damaged file must still encode and decode without a panic.
fn exercise(tokenizer: Result<Tokenizer, wootz_text::Error>) {
    if let Ok(tokenizer) = tokenizer {
        for text in ["the é <s>", " 日\n", ""] {
            let _ = tokenizer.encode(text, Special { add: true, parse: true });
            let _ = tokenizer.encode(text, Special::default());
        }
        let ids: Vec<u32> = (0..300).collect();
        let _ = streamed(&tokenizer, &ids, true);
        let _ = (tokenizer.token(5), tokenizer.id("the"));
    }
}
