use std::fs;

use wootz_formats::tokens::Tokens;
use wootz_text::train;

use super::super::documents::{Boundary, Ends, OnBad, Reading};
use super::super::encode::encode_to_memory;
use super::super::manifest::MANIFEST;
use super::super::{inputs, shards};
use super::*;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("wootz-prepare-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> Vec<Input> {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        inputs::find(&[path.to_str().unwrap()]).unwrap()
    }

    fn options(&self, out: &str) -> Options {
        Options {
            encoding: Encoding { reading: Reading::default(), threads: 2 },
            out: self.0.join(out),
            name: "data".to_owned(),
            tokenizer_name: "bytes".to_owned(),
            tokenizer_json: None,
            document_token: Some(0),
            hold_out: HoldOut::Nothing,
            shard_tokens: 1 << 20,
            existing: Existing::Keep,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bytes() -> Tokenizer {
    train::bytes().unwrap().tokenizer
}

fn run(inputs: &[Input], options: &Options) -> Manifest {
    prepare(inputs, &bytes(), options, |_| ControlFlow::Continue(())).unwrap().unwrap()
}

fn failure(inputs: &[Input], options: &Options) -> String {
    let error = prepare(inputs, &bytes(), options, |_| ControlFlow::Continue(())).unwrap_err();
    format!("{error:#}")
}

fn tokens(folder: &Path, note: &SplitNote) -> Vec<u32> {
    note.shards.iter().flat_map(|shard| Tokens::open(&folder.join(&shard.file)).unwrap().to_vec()).collect()
}

fn spell(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode(ids, false).replace("<|endoftext|>", "|")
}

/// The names and contents of all files.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn story(n: usize) -> String {
    (0..n)
        .map(|i| format!("Story {i} begins.\nIt goes on for {} words.\n<|endoftext|>\n", i * i % 97))
        .collect()
}

#[test]
fn shards_hold_the_documents_and_their_separators() {
    let folder = Folder::new("small");
    let input = folder.file("a.txt", "one\n<|endoftext|>\ntwo <|endoftext|>three");
    let options = folder.options("out");
    let manifest = run(&input, &options);
    let ids = tokens(&options.out, &manifest.train);
    assert_eq!(spell(&bytes(), &ids), "|one|two |three");
    assert_eq!(ids, encode_to_memory(&input, &bytes(), &options.encoding, Some(0)).unwrap());
    assert_eq!((manifest.documents, manifest.text_bytes, manifest.train.tokens), (3, 12, 15));
    assert_eq!((manifest.val.tokens, manifest.tokenizer.vocab_size, manifest.id_bytes), (0, 257, 2));
    assert_eq!(Manifest::read(&options.out).unwrap(), Some(manifest));
    let out = options.out.to_str().unwrap();
    assert_eq!(shards(out, Split::Train).unwrap(), [options.out.join("data_train_000001.bin")]);
    assert!(shards(out, Split::Val).is_err());
    fs::remove_file(options.out.join(MANIFEST)).unwrap();
    assert_eq!(shards(out, Split::Train).unwrap().len(), 1, "llm.c's folders have no data.json");
}

#[test]
fn threads_never_change_a_byte() {
    let folder = Folder::new("threads");
    let mut input = folder.file("a.txt", story(5000));
    let lines: String = (0..3000).map(|i| format!("{{\"text\": \"line {i}\"}}\n")).collect();
    input.extend(folder.file("b.jsonl", lines));
    input.extend(folder.file("c.txt", "A long one.\nIt has lines.\n".repeat(9000)));
    let written = [1, 2, 3, 8].map(|threads| {
        let mut options = folder.options(&format!("out{threads}"));
        options.encoding.threads = threads;
        options.hold_out = HoldOut::Fraction(0.1);
        options.shard_tokens = 100_000;
        let manifest = run(&input, &options);
        assert!(manifest.train.shards.len() > 3);
        contents(&options.out)
    });
    assert!(written.iter().all(|files| *files == written[0]));
}

#[test]
fn held_out_tokens_are_as_many_as_asked_for() {
    let folder = Folder::new("hold-out");
    let input = folder.file("a.txt", story(2000));
    let whole = encode_to_memory(&input, &bytes(), &folder.options("x").encoding, Some(0)).unwrap();
    let of = |name: &str, hold_out| {
        let options = Options { hold_out, ..folder.options(name) };
        let manifest = run(&input, &options);
        assert_eq!(manifest.train.tokens + manifest.val.tokens, whole.len() as u64, "{name}");
        (tokens(&options.out, &manifest.train), tokens(&options.out, &manifest.val))
    };
    let (train, val) = of("first", HoldOut::First(1001));
    assert_eq!((val, train), (whole[..1001].to_vec(), whole[1001..].to_vec()));

    let (train, val) = of("fraction", HoldOut::Fraction(0.1));
    let share = val.len() as f64 / whole.len() as f64;
    assert!((0.099..0.101).contains(&share), "{share}");
    let documents = spell(&bytes(), &val);
    assert!(documents.split('|').skip(1).all(|text| text.starts_with("Story")), "documents are whole");
    assert!(val[0] == 0 && train[0] == 0);
    assert!(spell(&bytes(), &val[val.len() - 400..]).contains("Story 19"), "from all over the data");

    let (_, val) = of("tokens", HoldOut::Tokens(3000));
    assert!((3000..3100).contains(&val.len()), "{}", val.len());
    let (train, val) = of("more than all", HoldOut::First(u64::MAX));
    assert_eq!((train.len(), val.len()), (0, whole.len()));
    let (train, val) = of("all", HoldOut::Fraction(1.0));
    assert_eq!((train.len(), val.len()), (0, whole.len()));
    let (_, val) = of("nothing", HoldOut::Nothing);
    assert!(val.is_empty());
}

#[test]
fn files_for_validation_are_taken_whole() {
    let folder = Folder::new("files");
    let (input, held_out) = (folder.file("a.txt", story(9)), folder.file("b.txt", "one<|endoftext|>two"));
    let options = Options { hold_out: HoldOut::Files(held_out.clone()), ..folder.options("out") };
    let mut last = Counts::default();
    let manifest = prepare(&input, &bytes(), &options, |counts| {
        assert!(counts.tokens > last.tokens && counts.bytes_read >= last.bytes_read);
        last = *counts;
        ControlFlow::Continue(())
    });
    let manifest = manifest.unwrap().unwrap();
    assert_eq!(spell(&bytes(), &tokens(&options.out, &manifest.val)), "|one|two");
    let train = encode_to_memory(&input, &bytes(), &options.encoding, Some(0)).unwrap();
    assert_eq!(tokens(&options.out, &manifest.train), train);
    assert_eq!((manifest.documents, last.documents), (11, 11));

    let empty = HoldOut::Files(folder.file("empty.txt", ""));
    let message = failure(&input, &Options { hold_out: empty, ..folder.options("none") });
    assert!(message.contains("no text in") && message.contains("empty.txt"), "{message}");
    assert!(!folder.0.join("none").exists());
}

#[test]
fn a_long_document_gives_its_share_and_begins_anew() {
    let folder = Folder::new("long");
    let text = "A long text.\nIt has lines.\n";
    for (repeat, share) in [(2000, 0.01), (5000, 0.2), (40_000, 0.01)] {
        let input = folder.file("a.txt", text.repeat(repeat));
        let options = Options { hold_out: HoldOut::Fraction(share), ..folder.options(&format!("{repeat}")) };
        let manifest = run(&input, &options);
        let all = manifest.train.tokens + manifest.val.tokens;
        let found = manifest.val.tokens as f64 / all as f64;
        assert!((share * 0.7..share * 1.05).contains(&found), "{found} of {all}, wanted {share}");
        let mut letters = 0;
        for note in [&manifest.train, &manifest.val] {
            let ids = tokens(&options.out, note);
            assert_eq!(ids[0], 0);
            letters += ids.iter().filter(|&&id| id != 0).count();
        }
        assert_eq!((letters, manifest.documents), (text.len() * repeat, 1));
    }
}

#[test]
fn shakespeares_recipe_keeps_blank_lines() {
    let folder = Folder::new("blank");
    let mut options = folder.options("out");
    options.encoding.reading.boundary = Boundary::BlankLines;
    let input = folder.file("a.txt", "A:\nhi\n\nB:\nyes\n");
    let manifest = run(&input, &options);
    assert_eq!(spell(&bytes(), &tokens(&options.out, &manifest.train)), "|A:\nhi\n\n|B:\nyes\n");
    let mut options = folder.options("trimmed");
    options.encoding.reading =
        Reading { boundary: Boundary::BlankLines, ends: Ends::Trim, ..Reading::default() };
    options.document_token = None;
    let manifest = run(&input, &options);
    assert_eq!(spell(&bytes(), &tokens(&options.out, &manifest.train)), "A:\nhiB:\nyes");
}

#[test]
fn old_shards_are_kept_or_replaced_but_never_mixed() {
    let folder = Folder::new("existing");
    let input = folder.file("a.txt", story(100));
    let options = Options { shard_tokens: 1000, ..folder.options("out") };
    assert!(run(&input, &options).train.shards.len() > 3);
    let before = contents(&options.out);
    let message = failure(&input, &options);
    assert!(message.contains("is there already") && message.contains("--overwrite"), "{message}");
    assert_eq!(contents(&options.out), before);

    fs::write(options.out.join("data_train_notes.bin"), "mine").unwrap();
    let json = Some("{}".to_owned());
    let replace = Options { existing: Existing::Replace, tokenizer_json: json, ..folder.options("out") };
    run(&input, &replace);
    let names: Vec<String> = contents(&options.out).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["data.json", "data_train_000001.bin", "data_train_notes.bin", "tokenizer.json"]);
}

#[test]
fn what_fails_leaves_no_half_file() {
    let folder = Folder::new("fails");
    let input = folder.file("a.jsonl", "{\"text\": \"a\"}\n{\"text\": 1}\n{\"text\": \"b\"}\n");
    let options = folder.options("out");
    let message = failure(&input, &options);
    assert!(message.contains("a.jsonl:2: ") && message.contains("--skip-bad"), "{message}");
    assert!(!options.out.exists());
    let mut skip = options.clone();
    skip.encoding.reading.on_bad = OnBad::Skip;
    let manifest = run(&input, &skip);
    assert_eq!((manifest.skipped, manifest.documents), (1, 2));
    // Nor does it touch what it was to replace.
    let before = contents(&options.out);
    failure(&input, &Options { existing: Existing::Replace, ..options.clone() });
    assert_eq!(contents(&options.out), before);
}

#[test]
fn two_runs_do_not_write_at_once_and_one_that_was_killed_does_not_matter() {
    let folder = Folder::new("killed");
    let input = folder.file("a.txt", story(10));
    let options = folder.options("out");
    let stage = Stage::new(&options).unwrap();
    fs::write(stage.folder().join("data_train_000001.bin"), "half").unwrap();
    assert!(failure(&input, &options).contains("another run"));
    // As if the process had ended: the lock is gone, and the folder is not.
    let left = stage.folder().to_owned();
    drop(stage);
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("data_train_000009.bin"), "half").unwrap();
    run(&input, &options);
    let names: Vec<String> = contents(&options.out).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["data.json", "data_train_000001.bin"]);
}

#[test]
fn nothing_to_read_is_an_error() {
    let folder = Folder::new("nothing");
    let message = failure(&folder.file("empty.txt", ""), &folder.options("out"));
    assert!(message.contains("no text in") && message.contains("empty.txt"), "{message}");
    for tokens in [0, MAX_SHARD_TOKENS + 1] {
        let options = Options { shard_tokens: tokens, ..folder.options("out") };
        assert!(failure(&folder.file("a.txt", "x"), &options).contains(&tokens.to_string()));
    }
}

#[test]
fn a_disk_that_refuses_is_named() {
    let folder = Folder::new("refuses");
    let input = folder.file("a.txt", story(10));
    let out = folder.0.join("file");
    fs::write(&out, "no folder").unwrap();
    let message = failure(&input, &Options { out, ..folder.options("") });
    assert!(message.contains("file: cannot create the folder"), "{message}");
    // A folder stands where a shard should go.
    let options = folder.options("out");
    fs::create_dir_all(options.out.join("data_train_000001.bin/x")).unwrap();
    let message = failure(&input, &Options { existing: Existing::Replace, ..options });
    assert!(message.contains("data_train_000001.bin") && message.contains("no file"), "{message}");
}

#[test]
fn an_interrupted_run_leaves_no_half_shard() {
    let folder = Folder::new("interrupted");
    let input = folder.file("a.txt", story(2000));
    let options = folder.options("out");
    let mut heard = 0;
    let result = prepare(&input, &bytes(), &options, |counts| {
        heard += 1;
        assert!(counts.bytes_read <= input[0].bytes);
        if heard < 50 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    assert!(result.unwrap().is_none());
    assert_eq!(heard, 50);
    assert!(!options.out.exists());
}
