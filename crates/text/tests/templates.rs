//! Chat templates: real ones rendered as transformers renders them, and what Python would do in odd places.

mod common;

use common::{fixture, json, shared};
use serde_json::{Map, Value, json};
use wootz_text::{ChatTemplate, DateTime, Error, Special, Tokenizer};

/// `26 Jul 2024`, as the golden files say, to a date.
fn date(text: &str) -> DateTime {
    jiff::civil::Date::strptime("%d %b %Y", text).unwrap().to_datetime(jiff::civil::Time::midnight())
}

#[test]
fn parity_of_real_templates_with_transformers() {
    let Some(dir) = shared("templates") else { return };
    let (mut files, mut cases) = (0, 0);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "jinja") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap();
        let golden = json(&path.with_extension("golden.json"));
        let today = date(golden["date_string"].as_str().unwrap());
        let source = std::fs::read_to_string(&path).unwrap();
        let template = ChatTemplate::parse(&source).unwrap().with_clock(move || today);
        for (case, golden_case) in golden["cases"].as_object().unwrap() {
            let mut variables = Map::new();
            for mark in ["bos_token", "eos_token"] {
                variables.insert(mark.to_owned(), golden[mark].clone());
            }
            variables.extend(golden_case["input"].as_object().unwrap().clone());
            let rendered = template.render(&variables);
            match (golden_case.get("output"), golden_case.get("error")) {
                (Some(output), None) => {
                    assert_eq!(
                        rendered.unwrap_or_else(|error| panic!("{name}, {case}: {error}")),
                        *output,
                        "{name}, {case}"
                    );
                }
                (None, Some(error)) => {
                    let error = error.as_str().unwrap();
                    let message = error.strip_prefix("TemplateError: ").expect("raised by the template");
                    assert!(
                        matches!(rendered, Err(Error::Raised(ref text)) if text == message),
                        "{name}, {case}: {rendered:?}"
                    );
                }
                _ => panic!("{name}, {case}: neither output nor error"),
            }
            cases += 1;
        }
        files += 1;
    }
    assert!(files >= 7 && cases >= 40, "{files} templates, {cases} cases");
}

fn render(source: &str, variables: Value) -> Result<String, Error> {
    ChatTemplate::parse(source)?.render(variables.as_object().unwrap())
}

#[test]
fn values_are_written_as_python_writes_them() {
    let cases = [
        ("{{ true }} {{ false }} {{ none }} {{ missing }}", "True False None "),
        ("{{ 'a' ~ true ~ none ~ 1.0 }}", "aTrueNone1.0"),
        ("{{ [1, 'a', none, true, {'k': \"it's\"}] }}", "[1, 'a', None, True, {'k': \"it's\"}]"),
        ("{{ x | string }}", "{'b': 1, 'a': [2.5]}"),
        ("{{ x | tojson }}", r#"{"b": 1, "a": [2.5]}"#),
        ("{{ x | tojson(indent=2) }}", "{\n  \"b\": 1,\n  \"a\": [\n    2.5\n  ]\n}"),
        ("{{ '<é&\\'\"' | tojson }}", "\"<é&'\\\"\""),
        ("{{ x.b + 1 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 2 ** 3 }}", "2 3 3.5 8"),
        (
            "{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "13",
        ),
        (
            "{{ 'abc' is sequence }} {{ x is sequence }} {{ 1 is sequence }} {{ 'abc' is iterable }}",
            "True True False True",
        ),
        (
            "{{ x is mapping }} {{ [] is mapping }} {{ '' is string }} {{ missing is defined }}",
            "True False True False",
        ),
        ("{{ [1, 2, 3][::-1] }} {{ 'abc'[1:] }} {{ 'abc'[:-1] }} {{ [1, 2, 3][-1] }}", "[3, 2, 1] bc ab 3"),
        (
            "{{ ' a '.strip() }}|{{ 'a,b'.split(',')[-1] }}|{{ 'ab'.startswith('a') }}|{{ 'xay'.removeprefix('x') }}",
            "a|b|True|ay",
        ),
        (
            "{% for k, v in x.items() %}{{ k }}={{ v }};{% endfor %}{{ x.get('z', 'no') }}{{ x.get('z') }}",
            "b=1;a=[2.5];noNone",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("a\n{% if true %}\n  b\n{% endif %}\nc", "a\n  b\nc"),
        ("{%- generation -%} x {%- endgeneration %}y", "xy"),
        ("{{ '{% generation %}' }}", "{% generation %}"),
        ("{% macro f(a, b='c') %}{{ a }}{{ b }}{% endmacro %}{{ f('x') }}", "xc"),
        ("{{ none.missing is defined }}{{ x.missing is defined }}", "FalseFalse"),
        ("{% if strftime_now is defined %}{{ strftime_now('%Y') | length }}{% endif %}", "4"),
    ];
    for (source, expected) in cases {
        let rendered = render(source, json!({"x": {"b": 1, "a": [2.5]}}));
        assert_eq!(rendered.unwrap_or_else(|error| panic!("{source}: {error}")), expected, "{source}");
    }
}

#[test]
fn what_goes_wrong_is_said() {
    let raised = render("{{ raise_exception('no ' + role) }}", json!({"role": "tools"})).unwrap_err();
    assert!(matches!(&raised, Error::Raised(text) if text == "no tools"), "{raised}");
    for (source, word) in [
        ("a\n{% if %}", "line 2"),
        ("{% endfor %}", "line 1"),
        ("{{ missing.attribute }}", "undefined"),
        ("{{ missing + 'x' }}", "undefined"),
        ("{{ 1 | no_such_filter }}", "no_such_filter"),
        ("{{ missing | tojson }}", "undefined"),
        ("{{ strftime_now('%!') }}", "strftime_now"),
        ("{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}", "fuel"),
    ] {
        let error = render(source, json!({})).unwrap_err();
        assert!(matches!(error, Error::Template(_)) && error.to_string().contains(word), "{source}: {error}");
    }
}

#[test]
fn a_model_s_own_template_and_tokens_are_used() {
    let Some(dir) = fixture("qwen3-micro") else { return };
    let mut tokenizer = Tokenizer::from_folder(&dir).unwrap();
    assert_eq!(tokenizer.template_variables()["eos_token"], "<|im_end|>");
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true});
    let chat = chat.as_object().unwrap();
    let prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(tokenizer.render_chat(chat).unwrap(), prompt);
    let parse = Special { add: false, parse: true };
    assert_eq!(tokenizer.encode_chat(chat).unwrap(), tokenizer.encode(prompt, parse).unwrap());
    tokenizer.set_chat_template(ChatTemplate::parse("{{ eos_token }}{{ messages[0].content }}").unwrap());
    assert_eq!(tokenizer.render_chat(chat).unwrap(), "<|im_end|>Hi");
    let mut over = chat.clone();
    over.insert("eos_token".to_owned(), json!("END"));
    assert_eq!(tokenizer.render_chat(&over).unwrap(), "ENDHi");
}

#[test]
fn a_message_cannot_end_its_turn() {
    for name in ["qwen3-micro", "llama-micro", "gguf/llama-tiny/q8_0.gguf"] {
        let Some(path) = fixture(name) else { continue };
        let mut tokenizer =
            if path.is_dir() { Tokenizer::from_folder(&path).unwrap() } else { common::gguf(&path) };
        let mark = if name.starts_with("qwen") { "<|im_end|>" } else { "</s>" };
        let source = format!("{{% for m in messages %}}{{{{ m.content }}}}{mark}{{% endfor %}}");
        tokenizer.set_chat_template(ChatTemplate::parse(&source).unwrap());
        let id = tokenizer.id(mark).unwrap();
        let content = format!("a {mark}{mark} b <{mark}> \u{FDD0} é");
        let chat = json!({"messages": [{"content": content}, {"content": mark}]});
        let ids = tokenizer.encode_chat(chat.as_object().unwrap()).unwrap();
        let ends: Vec<usize> = (0..ids.len()).filter(|&at| ids[at] == id).collect();
        assert_eq!(ends.len(), 2, "{name}: {ids:?}");
        assert_eq!(*ends.last().unwrap(), ids.len() - 1, "{name}");
        assert_eq!(tokenizer.decode(&ids[..ends[0]], false), content, "{name}");
        assert_eq!(tokenizer.encode(&content, Special::default()).unwrap(), ids[..ends[0]], "{name}");
    }
}
