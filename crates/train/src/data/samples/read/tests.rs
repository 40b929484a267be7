//! From files to samples.

use super::*;
use crate::data::Batch;
use serde_json::json;
use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use wootz_formats::TensorView;
use wootz_formats::tokens::{TokenFormat, TokenWriter};
use wootz_kernels::DType;
use wootz_text::{ChatTemplate, train};

/// A token a byte, 1 to 256 for bytes 0 to 255, and 0 for the end of text; each message on a line of its own.
static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut tokenizer = train::bytes().unwrap().tokenizer;
    let source = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<|endoftext|>{% endfor %}\
                  {% if add_generation_prompt %}a:{% endif %}";
    tokenizer.set_chat_template(ChatTemplate::parse(source).unwrap());
    tokenizer
});

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("wootz-samples-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn lines(&self, name: &str, lines: &[Value]) -> String {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn options() -> ReadOptions {
    ReadOptions {
        train_on: TrainOn::Assistant,
        max_tokens: 1000,
        truncation: Truncation::End,
        on_bad: OnBad::Stop,
        threads: 3,
    }
}

fn read(name: &str, options: &ReadOptions) -> (Samples, Report) {
    Samples::read(&[name], &TOKENIZER, options).unwrap()
}

fn failure(name: &str, options: &ReadOptions) -> String {
    format!("{:#}", Samples::read(&[name], &TOKENIZER, options).unwrap_err())
}

/// The samples' texts, with brackets around what is learnt.
fn shown(samples: &Samples) -> Vec<String> {
    let show = |sample: crate::data::samples::Sample| {
        let mut text = String::new();
        for (i, &id) in sample.tokens.iter().enumerate() {
            let (here, before) = (sample.is_learnt(i), i > 0 && sample.is_learnt(i - 1));
            text += if here && !before {
                "["
            } else if before && !here {
                "]"
            } else {
                ""
            };
            text += &TOKENIZER.decode(&[id], false).replace("<|endoftext|>", "$");
        }
        text + "]"
    };
    samples.iter().map(show).collect()
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn talk() -> Value {
    json!([
        message("user", "hi"),
        message("assistant", "yes"),
        message("user", "so"),
        message("assistant", "no")
    ])
}

#[test]
fn every_form_is_masked_as_asked() {
    let folder = Folder::new();
    let file = folder.lines(
        "a.jsonl",
        &[
            json!({"messages": talk()}),
            json!({"prompt": "one", "completion": "two"}),
            json!({"prompt": [message("user", "p")], "completion": [message("assistant", "q")]}),
            json!({"text": "xyz"}),
        ],
    );
    let of = |train_on| shown(&read(&file, &ReadOptions { train_on, ..options() }).0);
    let rest = ["one[two$]", "u:p$a:[q$]", "x[yz$]"];
    assert_eq!(of(TrainOn::Assistant), [&["u:hi$a:[yes$]u:so$a:[no$]"], &rest[..]].concat());
    assert_eq!(of(TrainOn::Completion), [&["u:hi$a:yes$u:so$a:[no$]"], &rest[..]].concat());
    let all = ["u[:hi$a:yes$u:so$a:no$]", "o[netwo$]", "u[:p$a:q$]", "x[yz$]"];
    assert_eq!(of(TrainOn::All), all);

    let (samples, report) = read(&file, &options());
    assert_eq!(report, Report { read: 4, ..Report::default() });
    assert_eq!(samples.place(2), format!("{file}:3"));
    assert_eq!(samples.place(4), "");
}

#[test]
fn files_folders_and_threads_give_one_order() {
    let folder = Folder::new();
    let text = |i: usize| json!({"text": format!("{i} {}", "é".repeat(i % 97))});
    // More than a thread takes at once.
    let many: Vec<Value> = (0..9000).map(text).collect();
    folder.lines("b.jsonl", &many);
    folder.lines("a.json", &[text(1), text(2)]);
    fs::write(folder.0.join("c.txt"), "left alone").unwrap();
    let of = |names: &[&str], threads| {
        let names: Vec<String> = names.iter().map(|name| folder.path(name)).collect();
        Samples::read(&names, &TOKENIZER, &ReadOptions { threads, ..options() }).unwrap()
    };
    let (samples, report) = of(&[""], 1);
    assert_eq!((samples.len(), report.read), (9002, 9002));
    assert_eq!(samples.place(2), folder.path("b.jsonl:1"));
    let again = of(&["a.json", "*.jsonl", "a.json"], 4).0;
    assert_eq!((samples.tokens, samples.learnt, samples.ends), (again.tokens, again.learnt, again.ends));
}

#[test]
fn bad_lines_are_named_or_counted() {
    let folder = Folder::new();
    let good = json!({"text": "good"}).to_string();
    for (bad, expected) in [
        ("{\"text\": ", "is no JSON"),
        ("[1]", "expected a JSON object"),
        ("{\"a\": 1}", "there are the fields `a`"),
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "no message of the assistant"),
        ("{\"messages\": [{\"role\": \"bot\", \"content\": \"x\"}]}", "role \"bot\" is not known"),
        ("{\"text\": \"\"}", "nothing to learn"),
    ] {
        let path = folder.path("bad.jsonl");
        fs::write(&path, format!("{good}\n\n{bad}\n{good}\n")).unwrap();
        let error = failure(&path, &options());
        assert!(error.contains("bad.jsonl:3: ") && error.contains(expected), "{error}");
        assert!(error.contains("--skip-bad"), "{error}");
        let (samples, report) = read(&path, &ReadOptions { on_bad: OnBad::Skip, ..options() });
        assert_eq!((samples.len(), report.read, report.bad), (2, 3, 1));
        assert!(report.first_bad[0].contains(expected));
    }
    let path = folder.path("worse.jsonl");
    fs::write(&path, [&good[..], "\n\u{FEFF}\n"].concat().repeat(20)).unwrap();
    let report = read(&path, &ReadOptions { on_bad: OnBad::Skip, ..options() }).1;
    assert_eq!((report.bad, report.first_bad.len()), (20, Report::FIRST_BAD));
    fs::write(&path, b"{\"text\": \"\xFF\"}\n").unwrap();
    assert!(failure(&path, &options()).contains("worse.jsonl:1: expected UTF-8"));
    let error = failure(&path, &ReadOptions { on_bad: OnBad::Skip, ..options() });
    assert!(error.contains("no samples to learn from") && error.contains("0xFF"), "{error}");
    fs::write(&path, "").unwrap();
    assert!(failure(&path, &options()).contains("0 were read"));
    for (name, expected) in
        [("no.jsonl", "no.jsonl"), ("a.txt", "expected samples in"), ("a.jsonl.gz", "packed")]
    {
        assert!(failure(&folder.path(name), &options()).contains(expected));
    }
    assert!(failure(&path, &ReadOptions { max_tokens: 1, ..options() }).contains("at least 2"));
}

#[test]
fn a_model_without_a_template_says_so() {
    let folder = Folder::new();
    let file = folder.lines("a.jsonl", &[json!({"messages": talk()})]);
    let plain = train::bytes().unwrap().tokenizer;
    let error = Samples::read(&[file], &plain, &options()).unwrap_err().to_string();
    assert!(error.contains("a.jsonl:1") && error.contains("--template"), "{error}");
}

#[test]
fn long_samples_are_cut_as_asked() {
    let folder = Folder::new();
    let file = folder.lines(
        "a.jsonl",
        &[
            json!({"prompt": "abc", "completion": "defg"}), // 8 tokens with the end
            json!({"prompt": "a", "completion": "b"}),
            json!({"prompt": "abcdefghij", "completion": "k"}),
        ],
    );
    let of = |truncation| {
        let options = ReadOptions { truncation, max_tokens: 6, on_bad: OnBad::Skip, ..options() };
        let (samples, report) = read(&file, &options);
        let counts = [report.cut, report.cut_tokens, report.too_long, report.cut_away, report.bad];
        (shown(&samples), counts)
    };
    let shown = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    assert_eq!(of(Truncation::End), (shown(&["abc[def]", "a[b$]"]), [1, 2, 0, 1, 0]));
    assert_eq!(of(Truncation::Start), (shown(&["c[defg$]", "a[b$]", "ghij[k$]"]), [2, 8, 0, 0, 0]));
    assert_eq!(of(Truncation::Drop), (shown(&["a[b$]"]), [0, 0, 2, 0, 0]));
    assert_eq!(of(Truncation::Refuse), (shown(&["a[b$]"]), [0, 0, 0, 0, 2]));
    let error = failure(&file, &ReadOptions { truncation: Truncation::Refuse, max_tokens: 6, ..options() });
    assert!(error.contains("a.jsonl:1: has 8 tokens") && error.contains("6"), "{error}");
}

fn tensors(path: &str, tensors: &[(&str, DType, &[usize], Vec<i64>)]) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(_, dtype, _, values)| match *dtype == DType::I32 {
            true => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            false => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        })
        .collect();
    let views: Vec<TensorView> = tensors
        .iter()
        .zip(&bytes)
        .map(|(&(name, dtype, shape, _), bytes)| TensorView { name, dtype, shape, bytes })
        .collect();
    wootz_formats::safetensors::write(Path::new(path), &views, &[]).unwrap();
}

#[test]
fn tensors_of_ids_are_samples() {
    let folder = Folder::new();
    let path = folder.path("a.safetensors");
    let ids = vec![5, 6, 7, 8, 9, 1, 2, 3, 0, 0];
    let targets = vec![-100, 7, 8, 9, 4, 2, -1, -100, -100, -100];
    for dtype in [DType::I32, DType::I64] {
        let all =
            [("input_ids", dtype, &[2, 5][..], ids.clone()), ("targets", dtype, &[2, 5], targets.clone())];
        tensors(&path, &all);
        let (samples, report) = read(&path, &options());
        assert_eq!((samples.len(), report.read), (2, 2));
        let mut batch = Batch::default();
        samples.batch(&[0, 1], &mut batch).unwrap();
        let targets = vec![-100, 7, 8, 9, 4, 2];
        assert_eq!(batch, Batch { inputs: vec![5, 6, 7, 8, 9, 1], targets, lengths: vec![5, 1] });
        let lengths = ("lengths", DType::I64, &[2][..], vec![3, 2]);
        tensors(&path, &[all[0].clone(), all[1].clone(), lengths]);
        let samples = read(&path, &options()).0;
        assert_eq!(
            samples.iter().map(|sample| sample.tokens.to_vec()).collect::<Vec<_>>(),
            [vec![5, 6, 7, 8], vec![1, 2]]
        );
    }
    let i32s = |name, shape, values: &[i64]| (name, DType::I32, shape, values.to_vec());
    let good = i32s("input_ids", &[1, 3][..], &[1, 2, 3]);
    for (bad, expected) in [
        (vec![good.clone()], "expected tensors `input_ids` and `targets`"),
        (vec![good.clone(), i32s("targets", &[3], &[2, 3, 4])], "expected the shape [1, 3]"),
        (
            vec![i32s("input_ids", &[3], &[1, 2, 3]), i32s("targets", &[3], &[2, 3, 4])],
            "expected the shape [N, T]",
        ),
        (vec![good.clone(), i32s("targets", &[1, 3], &[2, 4, 4])], "row 1: the target of token 1 is 4"),
        (vec![good.clone(), i32s("targets", &[1, 3], &[1, 2, 3])], "not moved by one"),
        (vec![good.clone(), i32s("targets", &[1, 3], &[-1, -1, -1])], "row 1: there is nothing to learn"),
        (vec![i32s("input_ids", &[1, 3], &[-1, 2, 3]), i32s("targets", &[1, 3], &[2, 3, 4])], "negative"),
        (
            vec![good.clone(), i32s("targets", &[1, 3], &[2, 3, 4]), i32s("lengths", &[1], &[4])],
            "says 4, expected 0 to 3",
        ),
        (
            vec![good.clone(), i32s("targets", &[1, 3], &[2, 3, 4]), i32s("lengths", &[2], &[1, 1])],
            "expected the shape [1]",
        ),
        (vec![good.clone(), ("targets", DType::U16, &[1, 4][..], vec![1])], "expected I32 or I64, found"),
    ] {
        tensors(&path, &bad);
        let error = failure(&path, &options());
        assert!(error.contains("a.safetensors") && error.contains(expected), "{error}");
    }
}

#[test]
fn token_files_are_told_apart_by_the_end_of_text() {
    let folder = Folder::new();
    let path = folder.path("a.bin");
    for format in [TokenFormat::ShardU16, TokenFormat::ShardU32, TokenFormat::Plain32] {
        let mut writer = TokenWriter::create(Path::new(&path), format).unwrap();
        writer.push(&[0, 5, 6, 0, 0, 7, 8, 9, 0, 10, 11]).unwrap();
        writer.finish().unwrap();
        if format == TokenFormat::ShardU32 {
            // The version that others write.
            let mut bytes = fs::read(&path).unwrap();
            bytes[4] = 1;
            fs::write(&path, bytes).unwrap();
        }
        let (samples, report) = read(&path, &options());
        let found: Vec<_> = samples.iter().map(|sample| (sample.tokens.to_vec(), sample.targets())).collect();
        assert_eq!(found, [(vec![5, 6, 0], 2), (vec![7, 8, 9, 0], 3), (vec![10, 11], 1)]);
        assert_eq!(report.read, 3);
    }
    fs::write(&path, [0; 6]).unwrap();
    assert!(failure(&path, &options()).contains("a.bin"));
    let none = train::byte_level_bpe(["a"].into_iter(), 256, &[]).unwrap().tokenizer;
    let error = Samples::read(&[path], &none, &options()).unwrap_err().to_string();
    assert!(error.contains("a.bin") && error.contains("no such token"), "{error}");
}

#[test]
fn what_a_reader_should_know_is_counted() {
    let folder = Folder::new();
    let mut tokenizer = train::bytes().unwrap().tokenizer;
    // A template that leaves no mark at the end, and shows the last turn otherwise.
    let source = "{% for m in messages %}({{ m.content }}){% if loop.last %}!{% endif %}{% endfor %}";
    tokenizer.set_chat_template(ChatTemplate::parse(source).unwrap());
    let file = folder.lines("a.jsonl", &[json!({"messages": talk()}), json!({"text": "é"})]);
    let (samples, report) = Samples::read(&[file], &tokenizer, &options()).unwrap();
    assert_eq!((report.read, report.split, report.unended, samples.len()), (2, 1, 2, 3));
    let lines = [0, 1, 2].map(|i| samples.place(i).rsplit(':').next().unwrap().to_owned());
    assert_eq!(lines, ["1", "1", "2"]);
}
