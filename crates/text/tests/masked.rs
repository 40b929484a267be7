//! Which tokens are learnt: of texts and completions, and of conversations through real templates.

mod common;

use common::{fixture, json, shared, small_merges, small_scores};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use wootz_text::{ChatTemplate, DateTime, GgufVocab, Masked, Special, Tokenizer};

static MERGES: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(small_merges()).unwrap());
static SCORES: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_gguf(small_scores()).unwrap());

/// The text of the stretches that are learnt.
fn learnt(tokenizer: &Tokenizer, masked: &Masked) -> Vec<String> {
    let stretches = masked.ids.iter().zip(&masked.learnt).collect::<Vec<_>>();
    let stretches = stretches.chunk_by(|a, b| a.1 == b.1).filter(|stretch| *stretch[0].1);
    let text = |stretch: &[(&u32, &bool)]| {
        tokenizer.decode(&stretch.iter().map(|(id, _)| **id).collect::<Vec<_>>(), false)
    };
    stretches.map(text).collect()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn turns_of(messages: &Value) -> Vec<usize> {
    let messages = messages.as_array().unwrap();
    (0..messages.len()).filter(|&i| messages[i]["role"] == "assistant").collect()
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// A real template, over a small vocabulary that has the marks that it writes.
fn templated(name: &str) -> Option<(Tokenizer, Value)> {
    let path = shared("templates")?.join(format!("{name}.jinja"));
    let golden = json(&path.with_extension("golden.json"));
    let source = std::fs::read_to_string(path).unwrap();
    let mut vocab = GgufVocab { add_bos: Some(false), ..small_merges() };
    let mark = |name: &str| golden[name].as_str().map(str::to_owned);
    let marks = [mark("bos_token"), mark("eos_token")].into_iter().flatten();
    let marks = marks.chain(
        ["<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"]
            .into_iter()
            .chain([
                "<end_of_turn>",
                "<｜end▁of▁sentence｜>",
                "<｜User｜>",
                "<｜Assistant｜>",
                "[INST]",
                "[/INST]",
                "<|endoftext|>",
            ])
            .map(str::to_owned),
    );
    for mark in marks {
        if !vocab.tokens.contains(&mark) {
            vocab.tokens.push(mark);
            vocab.token_types.push(3);
        }
    }
    let id = |mark: &str| vocab.tokens.iter().position(|token| token == mark).map(|id| id as u32);
    vocab.bos = golden["bos_token"].as_str().and_then(id);
    vocab.eos = golden["eos_token"].as_str().and_then(id);
    let mut tokenizer = Tokenizer::from_gguf(vocab).unwrap();
    let clock = || DateTime::constant(2024, 7, 26, 0, 0, 0, 0);
    tokenizer.set_chat_template(ChatTemplate::parse(&source).unwrap().with_clock(clock));
    Some((tokenizer, golden))
}

/// What is learnt of a conversation: of each text the stretches. Whatever the template, what stands before the last of
/// them is the prompt that the model would be given to answer it.
fn said(tokenizer: &Tokenizer, chat: &Map<String, Value>) -> Vec<Vec<String>> {
    let turns = turns_of(&chat["messages"]);
    let texts = tokenizer.encode_turns(chat, &turns).unwrap();
    let mut next = 0;
    let mut said = Vec::new();
    for text in &texts {
        assert_eq!((text.ids.len(), text.straddled, text.unended), (text.learnt.len(), 0, 0));
        let stretches = learnt(tokenizer, text);
        next += stretches.len();
        let mut prompt = chat.clone();
        let before = chat["messages"].as_array().unwrap()[..turns[next - 1]].to_vec();
        prompt.insert("messages".to_owned(), before.into());
        prompt.insert("add_generation_prompt".to_owned(), true.into());
        let end = text.learnt.iter().rposition(|&learnt| learnt).unwrap();
        let start = text.learnt[..end].iter().rposition(|&learnt| !learnt).unwrap() + 1;
        assert_eq!(text.ids[..start], tokenizer.encode_chat(&prompt).unwrap());
        said.push(stretches);
    }
    assert_eq!(next, turns.len(), "no message twice, none left out");
    said
}

/// Template, how it ends a turn, what it writes before an answer, and whether each turn has a text of its own.
const TEMPLATES: [(&str, &str, &str, bool); 7] = [
    ("Qwen-Qwen2.5-7B-Instruct", "<|im_end|>", "", false),
    ("Qwen-Qwen3-0.6B", "<|im_end|>", "<think>\n\n</think>\n\n", true),
    ("HuggingFaceTB-SmolLM3-3B", "<|im_end|>", "", false),
    ("google-gemma-2-2b-it", "<end_of_turn>", "", false),
    ("meta-llama-Llama-3.1-8B-Instruct", "<|eot_id|>", "", false),
    ("mistralai-Mistral-Nemo-Instruct-2407", "</s>", "", false),
    // The prompt for an answer opens and closes a thought, which is not there once it is answered.
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "<｜end▁of▁sentence｜>", "", true),
];

#[test]
fn the_answers_of_real_templates_are_found() {
    for (name, end, before, apart) in TEMPLATES {
        let Some((tokenizer, _)) = templated(name) else { return };
        let messages = [
            message("user", "the first <|im_end|></s> question"),
            message("assistant", "the first answer é"),
            message("user", "?"),
            message("assistant", "<|im_end|> is no mark here</s>"),
            message("user", "unanswered"),
        ];
        let answers = ["the first answer é", "<|im_end|> is no mark here</s>"]
            .map(|answer| format!("{before}{answer}{end}"));
        let split = |apart| match apart {
            true => answers.iter().map(|answer| vec![answer.clone()]).collect(),
            false => vec![answers.to_vec()],
        };
        let chat = object(json!({ "messages": messages }));
        assert_eq!(said(&tokenizer, &chat), split(apart), "{name}");

        // The last turn alone.
        let last = tokenizer.encode_turns(&chat, &[3]).unwrap();
        assert_eq!(last.len(), 1, "{name}");
        assert_eq!(learnt(&tokenizer, &last[0]), answers[1..], "{name}");

        if !name.starts_with("google") {
            // Mistral shows the system message in the last turn of the user, while that is unanswered.
            let apart = apart || name.starts_with("mistral");
            let messages = [&[message("system", "be the system")], &messages[..]].concat();
            let chat = object(json!({ "messages": messages }));
            assert_eq!(said(&tokenizer, &chat), split(apart), "{name}, system");
            for text in tokenizer.encode_turns(&chat, &[2, 4]).unwrap() {
                assert!(tokenizer.decode(&text.ids, false).contains("be the system"), "{name}");
            }
        }
    }
}

#[test]
fn thoughts_are_learnt_where_the_template_shows_them() {
    let Some((tokenizer, _)) = templated("Qwen-Qwen3-0.6B") else { return };
    let thought = "<think>\nhm\n</think>\n\nyes<|im_end|>";
    for answer in [
        message("assistant", "<think>\nhm\n</think>\n\nyes"),
        json!({"role": "assistant", "content": "yes", "reasoning_content": "hm"}),
    ] {
        let messages = [message("user", "a"), answer.clone(), message("user", "b"), answer];
        let texts = said(&tokenizer, &object(json!({ "messages": messages })));
        assert_eq!(texts, [[thought], [thought]]);
        // Of the first thought, nothing is left where the second is learnt.
        let chat = object(json!({ "messages": messages }));
        let last = &tokenizer.encode_turns(&chat, &[3]).unwrap()[0];
        assert_eq!(tokenizer.decode(&last.ids, false).matches("hm").count(), 1);
        // A prompt that has the empty thought already.
        let mut chat = object(json!({"messages": [message("user", "a"), message("assistant", "yes")]}));
        chat.insert("enable_thinking".to_owned(), false.into());
        assert_eq!(said(&tokenizer, &chat), [["yes<|im_end|>"]]);
    }
    let Some((tokenizer, _)) = templated("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B") else { return };
    let messages = [message("user", "a"), message("assistant", "<think>\nhm\n</think>yes")];
    assert_eq!(said(&tokenizer, &object(json!({ "messages": messages }))), [["yes<｜end▁of▁sentence｜>"]]);
}

#[test]
fn calls_of_tools_are_learnt_and_their_answers_are_not() {
    let call = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Kyōto\", \"days\": 2}}\n</tool_call>";
    let llama = r#"{"name": "get_weather", "parameters": {"city": "Kyōto", "days": 2}}"#;
    let mistral = r#"[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Kyōto", "days": 2}, "id": "call00001"}]"#;
    for (name, expected) in [
        (
            "Qwen-Qwen2.5-7B-Instruct",
            vec![vec![format!("\n{call}<|im_end|>"), "Clear.<|im_end|>".to_owned()]],
        ),
        (
            "Qwen-Qwen3-0.6B",
            vec![
                vec![format!("<think>\n\n</think>\n\n{call}<|im_end|>")],
                vec!["<think>\n\n</think>\n\nClear.<|im_end|>".to_owned()],
            ],
        ),
        (
            "meta-llama-Llama-3.1-8B-Instruct",
            vec![vec![format!("{llama}<|eot_id|>"), "Clear.<|eot_id|>".to_owned()]],
        ),
        (
            "mistralai-Mistral-Nemo-Instruct-2407",
            vec![vec![format!("{mistral}</s>"), "Clear.</s>".to_owned()]],
        ),
    ] {
        let Some((tokenizer, golden)) = templated(name) else { return };
        let mut chat = object(golden["cases"]["tools"]["input"].clone());
        let mut messages = chat["messages"].as_array().unwrap().clone();
        messages.push(message("assistant", "Clear."));
        chat.insert("messages".to_owned(), messages.into());
        if name.starts_with("Qwen-Qwen2.5") {
            // `<|im_start|>assistant` and a line break come before a call; the prompt has both.
            let texts = tokenizer.encode_turns(&chat, &[1, 3]);
            let found: Vec<_> = texts.unwrap().iter().map(|text| learnt(&tokenizer, text)).collect();
            let expected = vec![vec![expected[0][0].trim_start().to_owned(), expected[0][1].clone()]];
            assert_eq!(found, expected, "{name}");
            continue;
        }
        assert_eq!(said(&tokenizer, &chat), expected, "{name}");
    }
    // Two texts after the prompt, neither of which is the content: what cannot be told is refused.
    let Some((tokenizer, golden)) = templated("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B") else { return };
    let chat = object(golden["cases"]["tools"]["input"].clone());
    let error = tokenizer.encode_turns(&chat, &[1]).unwrap_err().to_string();
    assert!(error.contains("message 2") && error.contains("cannot be told"), "{error}");
}

#[test]
fn a_whole_conversation_is_what_the_template_writes() {
    let mut cases = 0;
    for (name, ..) in TEMPLATES {
        let Some((tokenizer, golden)) = templated(name) else { return };
        for (case, golden) in golden["cases"].as_object().unwrap() {
            let Some(output) = golden.get("output") else { continue };
            let masked = tokenizer.encode_whole_chat(&object(golden["input"].clone())).unwrap();
            assert_eq!(tokenizer.decode(&masked.ids, false), *output, "{name}, {case}");
            assert!(masked.learnt.iter().all(|&learnt| learnt));
            cases += 1;
        }
    }
    assert!(cases >= 35, "{cases}");
}

#[test]
fn a_real_vocabulary_masks_as_a_small_one() {
    let Some(dir) = fixture("qwen3-micro") else { return };
    let tokenizer = Tokenizer::from_folder(&dir).unwrap();
    let messages = [
        message("system", "Be kind."),
        message("user", "Once upon a time"),
        message("assistant", " there was <|im_end|> a dog.\n\n"),
        message("user", "And?"),
        message("assistant", "日本語"),
    ];
    let chat = object(json!({ "messages": messages }));
    let stretches = [" there was <|im_end|> a dog.\n\n<|im_end|>", "日本語<|im_end|>"];
    assert_eq!(said(&tokenizer, &chat), [stretches]);
    let whole = tokenizer.encode_chat(&chat).unwrap();
    let masked = &tokenizer.encode_turns(&chat, &[2, 4]).unwrap()[0];
    assert_eq!(masked.ids, whole);

    // The prompt ends with a line break, and the answer begins with one: they are one token.
    let joined = object(json!({"messages": [message("user", "a"), message("assistant", "\n\nb")]}));
    let template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}\n\n{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}";
    let mut tokenizer = tokenizer;
    tokenizer.set_chat_template(ChatTemplate::parse(template).unwrap());
    let masked = &tokenizer.encode_turns(&joined, &[1]).unwrap()[0];
    let one = tokenizer.encode("\n\n\n\n", Special::default()).unwrap().len() == 1;
    assert_eq!(masked.straddled, usize::from(one));
}

/// What transformers' `apply_chat_template(return_assistant_tokens_mask=True)` gives for the same template with marks.
#[test]
fn parity_of_masks_with_transformers() {
    let Some(dir) = fixture("qwen3-micro") else { return };
    let cases = [
        (
            vec![
                message("user", "Hi there"),
                message("assistant", "Hello. How are you?"),
                message("user", "Fine, über"),
                message("assistant", "日本語 ok\n\n x"),
            ],
            63,
            vec![(16, 27), (47, 63)],
        ),
        (
            vec![
                message("system", "be kind\n"),
                message("user", "\n\nq"),
                message("assistant", "\nstarts with a break"),
                message("user", "b"),
                message("assistant", " spaces "),
            ],
            58,
            vec![(28, 39), (52, 58)],
        ),
        (vec![message("user", "emoji 😀"), message("assistant", "😀😀 é")], 33, vec![(21, 33)]),
    ];
    let marked = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}\
                  {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\
                  {% endif %}\n{% endfor %}";
    let plain = marked.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let tokenizers = [marked, &plain].map(|source| {
        let mut tokenizer = Tokenizer::from_folder(&dir).unwrap();
        tokenizer.set_chat_template(ChatTemplate::parse(source).unwrap());
        tokenizer
    });
    for (messages, tokens, spans) in cases {
        let chat = object(json!({ "messages": messages }));
        let turns = turns_of(&chat["messages"]);
        let learnt: Vec<bool> =
            (0..tokens).map(|i| spans.iter().any(|&(start, end)| (start..end).contains(&i))).collect();
        for tokenizer in &tokenizers {
            assert_eq!(tokenizer.encode_turns(&chat, &turns).unwrap()[0].learnt, learnt, "{messages:?}");
        }
    }
}

#[test]
fn marks_of_a_template_say_what_is_learnt() {
    let Some(dir) = fixture("qwen3-micro") else { return };
    let mut tokenizer = Tokenizer::from_folder(&dir).unwrap();
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}\
                  {% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>\
                  {% endif %}\n{% endfor %}";
    tokenizer.set_chat_template(ChatTemplate::parse(source).unwrap());
    let messages = [message("user", "a"), message("assistant", "b<|im_end|>"), message("assistant", "c")];
    let chat = object(json!({ "messages": messages }));
    let masked = &tokenizer.encode_turns(&chat, &[1, 2]).unwrap()[0];
    assert_eq!(learnt(&tokenizer, masked), ["b<|im_end|><|im_end|>", "c<|im_end|>"]);
    assert_eq!(tokenizer.decode(&masked.ids, false), tokenizer.render_chat(&chat).unwrap());
    let reserved = object(json!({"messages": [message("user", "\u{FDEE}"), message("assistant", "b")]}));
    assert!(tokenizer.encode_turns(&reserved, &[1]).unwrap_err().to_string().contains("U+FDEE"));
    assert!(tokenizer.encode_turns(&object(json!({"messages": 3})), &[1]).is_err());
    assert!(tokenizer.encode_turns(&Map::new(), &[]).is_err());
}

#[test]
fn a_completion_is_learnt_with_its_end() {
    let masked = MERGES.encode_completion("the", " the é").unwrap();
    assert_eq!(masked.ids[0], MERGES.bos().unwrap());
    assert_eq!(masked.ids.last().copied(), MERGES.eos());
    assert_eq!(learnt(&MERGES, &masked), [" the é<|im_end|>"]);
    assert_eq!((masked.straddled, masked.unended), (0, 0));
    // The space belongs to the token that it begins.
    let masked = MERGES.encode_completion("the ", "the").unwrap();
    assert_eq!((learnt(&MERGES, &masked), masked.straddled), (vec!["<|im_end|>".to_owned()], 1));
    let masked = MERGES.encode_text("the<|im_end|>").unwrap();
    assert_eq!(learnt(&MERGES, &masked), ["the<|im_end|><|im_end|>"]);
    assert_eq!(masked.ids.iter().filter(|&&id| Some(id) == MERGES.eos()).count(), 1, "text is text");
    assert_eq!(MERGES.encode_completion("the", "").unwrap().straddled, 0);

    // SentencePiece writes a space before the text, which is no part of it.
    let masked = SCORES.encode_completion("", "the").unwrap();
    assert!(masked.learnt[1..].iter().all(|&learnt| learnt) && !masked.learnt[0]);

    let endless = GgufVocab { eos: None, tokens: vec!["a".into()], ..GgufVocab::default() };
    let endless = GgufVocab { model: "gpt2".into(), token_types: vec![1], ..endless };
    assert_eq!(Tokenizer::from_gguf(endless).unwrap().encode_text("").unwrap().unended, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Where tokens begin is where the bytes of those before them end.
    #[test]
    fn tokens_begin_where_those_before_them_end(parts in prop::collection::vec(prop_oneof![
        Just("the".to_owned()), Just(" the".to_owned()), Just("<s>".to_owned()), Just("<think>".to_owned()),
        Just("\n\n".to_owned()), any::<String>(),
    ], 0..8), parse: bool) {
        let text = parts.concat();
        let special = Special { add: false, parse };
        for tokenizer in [&*MERGES, &*SCORES] {
            let encoding = tokenizer.encode_with_starts(&text, special).unwrap();
            prop_assert_eq!(&encoding.ids, &tokenizer.encode(&text, special).unwrap());
            prop_assert!(encoding.starts.is_sorted());
            prop_assert!(encoding.starts.iter().all(|&start| text.is_char_boundary(start)));
        }
        let encoding = MERGES.encode_with_starts(&text, special).unwrap();
        let mut bytes = 0;
        for (&id, &start) in encoding.ids.iter().zip(&encoding.starts) {
            prop_assert_eq!(start, text.floor_char_boundary(bytes), "{:?}", encoding);
            bytes += MERGES.token_bytes(id).len();
        }
        prop_assert_eq!(bytes, text.len());
        let added = MERGES.encode_with_starts(&text, Special { add: true, parse }).unwrap();
        prop_assert_eq!(added.ids.len(), added.starts.len());
        prop_assert_eq!(added.ids, MERGES.encode(&text, Special { add: true, parse }).unwrap());
    }
}
