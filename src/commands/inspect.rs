//! `wootz inspect FILE`: what is in a model, an adapter, a token shard, a debug state.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use wootz_formats::gguf::{self, Array};
use wootz_formats::llmc::{self, DebugState};
use wootz_formats::tokens::{TokenFormat, Tokens};
use wootz_formats::{Checkpoint, FileKind, GgufMetadata, LlmcHeader, Metadata, TensorView, config, identify};
use wootz_kernels::DType;

/// Arguments of `wootz inspect`.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A model (file, folder, hub id, or `story`), adapter, token shard, or debug state of llm.c
    pub file: PathBuf,
    /// Print one JSON object; the chat template is whole in it
    #[arg(long)]
    pub json: bool,
    /// Show long metadata arrays and the chat template in full
    #[arg(long)]
    pub all: bool,
}

/// Prints what the file holds, to stdout.
pub fn run(args: InspectArgs) -> Result<()> {
    let file = match args.file.to_str() {
        // Of a run its newest checkpoint, a model or an adapter.
        _ if wootz_train::run::is_run(&args.file) => wootz_train::run::newest_model(&args.file)?,
        Some(name) if !args.file.exists() => crate::model_arg::resolve(Some(name))?,
        _ => args.file,
    };
    let report = Report::of(&file, args.all)?;
    let text = if args.json { format!("{:#}\n", report.json()) } else { report.text(args.all) };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()), // `| head` has seen enough
        other => other.context("cannot write to stdout"),
    }
}

/// What is known of a file. Both forms of output are made from it.
#[derive(Default)]
struct Report {
    path: PathBuf,
    /// `model`, `adapter`, `vocabulary`, `tensors`, `tokens`, `debug state`, `tokenizer`.
    kind: &'static str,
    /// In the order in which they are shown: key in JSON, value.
    facts: Vec<(&'static str, Value)>,
    metadata: Vec<Entry>,
    chat_template: Option<String>,
    tensors: Vec<Row>,
}

/// A line of metadata.
struct Entry {
    key: String,
    json: Value,
    text: String,
}

/// A line of the table of tensors.
struct Row {
    name: String,
    shape: Vec<usize>,
    dtype: DType,
    elements: usize,
    bytes: usize,
}

impl Row {
    fn of(tensor: TensorView<'_>) -> Self {
        Row {
            name: tensor.name.to_owned(),
            shape: tensor.shape.to_vec(),
            dtype: tensor.dtype,
            elements: tensor.elements(),
            bytes: tensor.bytes.len(),
        }
    }
}

impl Report {
    fn of(path: &Path, all: bool) -> Result<Report> {
        let kind = if path.is_dir() { None } else { Some(identify(path)?) };
        let mut report = match kind {
            None | Some(FileKind::Model(_)) => model(path, all)?,
            Some(FileKind::Tokens) => tokens(path)?,
            Some(FileKind::DebugState) => debug_state(path)?,
            Some(FileKind::Tokenizer) => tokenizer(path)?,
        };
        report.path = path.to_owned();
        Ok(report)
    }

    fn fact(&mut self, key: &'static str, value: impl Into<Value>) {
        self.facts.push((key, value.into()));
    }

    /// Tensors, elements and bytes of each type that occurs, in the order of [`DType`].
    fn totals(&self) -> Vec<(DType, usize, usize, usize)> {
        DType::all()
            .map(|dtype| {
                let of_type = || self.tensors.iter().filter(|row| row.dtype == dtype);
                (
                    dtype,
                    of_type().count(),
                    of_type().map(|r| r.elements).sum(),
                    of_type().map(|r| r.bytes).sum(),
                )
            })
            .filter(|&(_, tensors, ..)| tensors > 0)
            .collect()
    }
}

fn model(path: &Path, all: bool) -> Result<Report> {
    let checkpoint = Checkpoint::open(path)?;
    let mut report = Report { kind: "model", ..Report::default() };
    report.tensors = checkpoint.tensors().map(Row::of).collect();
    let mut parameters: usize = report.tensors.iter().map(|row| row.elements).sum();
    report.fact("format", checkpoint.format().name());
    match checkpoint.metadata() {
        Metadata::Gguf(metadata) => gguf_model(&mut report, metadata, all)?,
        Metadata::Config(config) => config_model(&mut report, &checkpoint, config, all)?,
        Metadata::LlmC(h) => {
            parameters -= (h.padded_vocab - h.vocab) * h.channels; // the padding is nobody's parameter
            llmc_model(&mut report, h);
        }
        Metadata::Llama2C(h) => {
            report.fact("architecture", "llama");
            report.fact("tokenizer", json!({"kind": "in a file of its own", "size": h.vocab_size}));
            report.metadata = numbers(&[
                ("dim", h.dim),
                ("hidden_dim", h.hidden_dim),
                ("n_layers", h.n_layers),
                ("n_heads", h.n_heads),
                ("n_kv_heads", h.n_kv_heads),
                ("vocab_size", h.vocab_size),
                ("seq_len", h.seq_len),
            ]);
            report.metadata.push(entry("shared_classifier", h.shared_classifier.into(), all));
        }
    }
    report.metadata.extend(
        checkpoint
            .notes()
            .iter()
            .map(|(key, value)| entry(&format!("__metadata__.{key}"), value.as_str().into(), all)),
    );
    report.fact("parameters", parameters);
    let files = checkpoint.files();
    let mut bytes = 0;
    for file in files {
        bytes +=
            fs::metadata(file).with_context(|| format!("{}: cannot read its length", file.display()))?.len();
    }
    report.fact("bytes", bytes);
    if files.len() > 1 {
        report.fact("files", files.iter().map(|f| Value::from(f.to_string_lossy())).collect::<Vec<_>>());
    }
    Ok(report)
}

fn gguf_model(report: &mut Report, metadata: &GgufMetadata, all: bool) -> Result<()> {
    if report.tensors.is_empty() {
        report.kind = "vocabulary";
    } else if metadata.find_str("general.type")? == Some("adapter") {
        report.kind = "adapter";
    }
    report.fact("version", metadata.version());
    if let Some(architecture) = metadata.find_str("general.architecture")? {
        report.fact("architecture", architecture);
    }
    if let Some(tokens) = metadata.find_strings("tokenizer.ggml.tokens")? {
        let model = metadata.find_str("tokenizer.ggml.model")?.unwrap_or("unknown");
        let mut kind = match model {
            "gpt2" => "byte-level BPE (gpt2".to_owned(),
            "llama" => "SentencePiece BPE (llama".to_owned(),
            other => format!("({other}"),
        };
        if let Some(pre) = metadata.find_str("tokenizer.ggml.pre")? {
            kind += &format!(", pre-tokenizer {pre}");
        }
        report.fact("tokenizer", json!({"kind": kind + ")", "size": tokens.len()}));
    }
    report.chat_template = metadata.find_str("tokenizer.chat_template")?.map(str::to_owned);
    for (key, value) in metadata.iter() {
        if key != "tokenizer.chat_template" {
            report.metadata.push(gguf_entry(key, value, all));
        }
    }
    Ok(())
}

fn llmc_model(report: &mut Report, h: &LlmcHeader) {
    report.fact("version", h.version);
    report.fact("architecture", "gpt2");
    report.fact("tokenizer", json!({"kind": "in a file of its own", "size": h.vocab}));
    report.metadata = numbers(&[
        ("max_seq", h.max_seq),
        ("vocab", h.vocab),
        ("padded_vocab", h.padded_vocab),
        ("layers", h.layers),
        ("heads", h.heads),
        ("channels", h.channels),
    ]);
}

fn config_model(report: &mut Report, checkpoint: &Checkpoint, config: &Value, all: bool) -> Result<()> {
    let Some(keys) = config.as_object() else {
        report.kind = "tensors";
        return Ok(());
    };
    if let Some(method) = keys.get("peft_type") {
        report.kind = "adapter";
        report.fact("method", method.clone());
        for (fact, key) in [("base_model", "base_model_name_or_path"), ("rank", "r"), ("alpha", "lora_alpha")]
        {
            if let Some(value) = keys.get(key).filter(|v| !v.is_null()) {
                report.fact(fact, value.clone());
            }
        }
    } else {
        let class = config["architectures"][0].as_str();
        if let Some(architecture) = config["model_type"].as_str().or(class) {
            report.fact("architecture", architecture);
        }
    }
    let folder = checkpoint.folder();
    if let Some((kind, size)) = tokenizer_beside(folder)? {
        report.fact("tokenizer", json!({"kind": kind, "size": size}));
    }
    report.chat_template = chat_template_beside(folder)?;
    report.metadata = keys.iter().map(|(key, value)| entry(key, value.clone(), all)).collect();
    Ok(())
}

/// Kind of the tokenizer in a model's folder and, where it can be counted, its tokens.
fn tokenizer_beside(folder: &Path) -> Result<Option<(String, Option<usize>)>> {
    let Some(json) = config::read_if_there(&folder.join("tokenizer.json"))? else {
        let sentencepiece = folder.join("tokenizer.model").exists();
        return Ok(sentencepiece.then(|| ("SentencePiece (tokenizer.model)".to_owned(), None)));
    };
    let kind = json["model"]["type"].as_str().unwrap_or("of unknown kind");
    let mut size = 0;
    let mut known = HashSet::new();
    match &json["model"]["vocab"] {
        Value::Object(vocab) => known.extend(vocab.keys().map(String::as_str)),
        Value::Array(pieces) => size = pieces.len(), // Unigram: pairs of piece and score, added tokens among them
        _ => {}
    }
    if size == 0 {
        let added = json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        known.extend(added.iter().filter_map(|token| token["content"].as_str()));
        size = known.len();
    }
    Ok(Some((format!("{kind} (tokenizer.json)"), Some(size))))
}

/// The chat template of a model's folder: its own file, else the tokenizer's (of several, the default one).
fn chat_template_beside(folder: &Path) -> Result<Option<String>> {
    let own = folder.join("chat_template.jinja");
    if own.exists() {
        let text = fs::read_to_string(&own).with_context(|| format!("{}: cannot read", own.display()))?;
        return Ok(Some(text));
    }
    let Some(json) = config::read_if_there(&folder.join("tokenizer_config.json"))? else { return Ok(None) };
    Ok(match &json["chat_template"] {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => named
            .iter()
            .find(|t| t["name"] == "default")
            .or(named.first())
            .and_then(|t| t["template"].as_str())
            .map(str::to_owned),
        _ => None,
    })
}

fn tokens(path: &Path) -> Result<Report> {
    let tokens = Tokens::open(path)?;
    let mut report = Report { kind: "tokens", ..Report::default() };
    let format = match tokens.format() {
        TokenFormat::ShardU16 => "llm.c shard, 16-bit ids",
        TokenFormat::ShardU32 => "llm.c shard, 32-bit ids",
        TokenFormat::Plain32 => "32-bit ids, no header",
    };
    report.fact("format", format);
    report.fact("tokens", tokens.len());
    let (mut smallest, mut largest) = (u32::MAX, 0);
    let mut ids = vec![0; tokens.len().min(1 << 16)];
    let mut start = 0;
    while start < tokens.len() {
        let part = ids.len().min(tokens.len() - start);
        tokens.read(start, &mut ids[..part])?;
        smallest = ids[..part].iter().copied().fold(smallest, u32::min);
        largest = ids[..part].iter().copied().fold(largest, u32::max);
        start += part;
    }
    if !tokens.is_empty() {
        report.fact("smallest_id", smallest);
        report.fact("largest_id", largest);
        let mut first = vec![0; tokens.len().min(16)];
        tokens.read(0, &mut first)?;
        report.fact("first_ids", first);
    }
    Ok(report)
}

fn debug_state(path: &Path) -> Result<Report> {
    let header = first_bytes(path)?;
    let (batch, seq) = llmc::parse_state_header(&header).with_context(|| path.display().to_string())?;
    let mut report = Report { kind: "debug state", ..Report::default() };
    report.fact("format", "llm.c");
    report.fact("version", 2);
    report.fact("batch", batch);
    report.fact("sequence", seq);
    // The file does not say what model it is for. A model beside it that it fits exactly is that model.
    match beside(path).into_iter().find_map(|header| DebugState::open(path, &header).ok()) {
        None => report
            .fact("model", "not found in the same folder, so that logits and gradients cannot be told apart"),
        Some(state) => {
            report.fact("loss", short_float(state.loss()));
            report.tensors = [state.logits()].into_iter().chain(state.gradients()).map(Row::of).collect();
            for gradient in &mut report.tensors[1..] {
                gradient.name.insert_str(0, "grad.");
            }
        }
    }
    report.fact("bytes", fs::metadata(path)?.len());
    Ok(report)
}

/// As much of a file of llm.c as its header may be long.
fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(1024).read_to_end(&mut bytes));
    read.with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(bytes)
}

/// Headers of the llm.c models in the folder of `path`.
fn beside(path: &Path) -> Vec<LlmcHeader> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
        .iter()
        .filter(|file| file.extension().is_some_and(|e| e == "bin"))
        .filter_map(|file| match Checkpoint::open(file).ok()?.metadata() {
            Metadata::LlmC(header) => Some(*header),
            _ => None,
        })
        .collect()
}

fn tokenizer(path: &Path) -> Result<Report> {
    let header = first_bytes(path)?;
    let number = |i: usize| header.get(4 * i..)?.first_chunk().map(|&b| u32::from_le_bytes(b));
    let mut report = Report { kind: "tokenizer", ..Report::default() };
    report.fact("format", "llm.c");
    for (key, i) in [("version", 1), ("tokens", 2)] {
        report.fact(key, number(i).with_context(|| format!("{}: the header is cut short", path.display()))?);
    }
    Ok(report)
}

/// Header numbers as metadata.
fn numbers(numbers: &[(&str, usize)]) -> Vec<Entry> {
    numbers.iter().map(|&(key, n)| entry(key, n.into(), true)).collect()
}

/// Metadata that is JSON already.
fn entry(key: &str, json: Value, all: bool) -> Entry {
    let text = match &json {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    Entry { key: key.to_owned(), json, text: if all { text } else { shortened(&text) } }
}

/// Metadata of GGUF. Arrays are shown by their first elements, unless all is asked for.
fn gguf_entry(key: &str, value: &gguf::Value, all: bool) -> Entry {
    let gguf::Value::Array(array) = value else {
        return entry(key, gguf_json(value), all);
    };
    const SHOWN: usize = 6;
    let shown = if all || array.len() <= SHOWN { array.len() } else { SHOWN };
    let elements = elements(array, shown);
    let mut text = format!("{} x {}: ", thousands(array.len()), array.element_type());
    text += &elements.iter().map(Value::to_string).collect::<Vec<_>>().join(" ");
    if shown < array.len() {
        text = shortened(&text) + " …";
    }
    let json = if shown == array.len() {
        elements.into()
    } else {
        json!({"type": array.element_type(), "length": array.len(), "first": elements})
    };
    Entry { key: key.to_owned(), json, text }
}

fn gguf_json(value: &gguf::Value) -> Value {
    match value {
        gguf::Value::U8(n) => (*n).into(),
        gguf::Value::I8(n) => (*n).into(),
        gguf::Value::U16(n) => (*n).into(),
        gguf::Value::I16(n) => (*n).into(),
        gguf::Value::U32(n) => (*n).into(),
        gguf::Value::I32(n) => (*n).into(),
        gguf::Value::U64(n) => (*n).into(),
        gguf::Value::I64(n) => (*n).into(),
        gguf::Value::F32(x) => short_float(*x),
        gguf::Value::F64(x) => (*x).into(),
        gguf::Value::Bool(b) => (*b).into(),
        gguf::Value::String(s) => s.as_str().into(),
        gguf::Value::Array(array) => elements(array, array.len()).into(),
    }
}

/// The first `count` elements.
fn elements(array: &Array, count: usize) -> Vec<Value> {
    fn all<T: Copy + Into<Value>>(numbers: &[T], count: usize) -> Vec<Value> {
        numbers.iter().take(count).map(|&n| n.into()).collect()
    }
    match array {
        Array::U8(n) => all(n, count),
        Array::I8(n) => all(n, count),
        Array::U16(n) => all(n, count),
        Array::I16(n) => all(n, count),
        Array::U32(n) => all(n, count),
        Array::I32(n) => all(n, count),
        Array::U64(n) => all(n, count),
        Array::I64(n) => all(n, count),
        Array::F32(x) => x.iter().take(count).map(|&x| short_float(x)).collect(),
        Array::F64(x) => all(x, count),
        Array::Bool(b) => all(b, count),
        Array::String(s) => s.iter().take(count).map(Value::from).collect(),
        Array::Array(a) => a.iter().take(count).map(|a| elements(a, a.len()).into()).collect(),
    }
}

/// An f32 as the shortest number that stands for it: 1e-5, not 9.999999747378752e-6.
fn short_float(x: f32) -> Value {
    x.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

// Output.

/// Longest text of a metadata value, and lines of a chat template, that are shown without `--all`.
const LONGEST_VALUE: usize = 80;
const TEMPLATE_LINES: usize = 6;

impl Report {
    fn json(&self) -> Value {
        let mut object = Map::new();
        object.insert("path".into(), self.path.to_string_lossy().into());
        object.insert("kind".into(), self.kind.into());
        for (key, value) in &self.facts {
            object.insert((*key).into(), value.clone());
        }
        if let Some(template) = &self.chat_template {
            object.insert("chat_template".into(), template.as_str().into());
        }
        if !self.metadata.is_empty() {
            let metadata: Map<String, Value> =
                self.metadata.iter().map(|e| (e.key.clone(), e.json.clone())).collect();
            object.insert("metadata".into(), metadata.into());
        }
        if !self.tensors.is_empty() {
            let tensor = |row: &Row| json!({"name": row.name, "shape": row.shape, "type": row.dtype.name(), "bytes": row.bytes});
            object.insert("tensors".into(), self.tensors.iter().map(tensor).collect());
            let totals: Map<String, Value> = self
                .totals()
                .into_iter()
                .map(|(dtype, tensors, elements, bytes)| {
                    (
                        dtype.name().to_owned(),
                        json!({"tensors": tensors, "elements": elements, "bytes": bytes}),
                    )
                })
                .collect();
            object.insert("totals".into(), totals.into());
        }
        object.into()
    }

    fn text(&self, all: bool) -> String {
        let mut out = format!("{}\n", printable(&self.path.to_string_lossy()));
        let mut facts = vec![vec!["kind".to_owned(), self.kind.to_owned()]];
        facts
            .extend(self.facts.iter().map(|(key, value)| vec![key.replace('_', " "), fact_text(key, value)]));
        if let Some(bits) = self.bits_per_parameter() {
            facts.push(vec!["bits per parameter".to_owned(), format!("{bits:.2}")]);
        }
        table(&mut out, &facts, &[]);

        if !self.metadata.is_empty() {
            out += "\nMetadata\n";
            let rows: Vec<_> =
                self.metadata.iter().map(|e| vec![printable(&e.key), printable(&e.text)]).collect();
            table(&mut out, &rows, &[]);
        }
        if let Some(template) = &self.chat_template {
            out += "\nChat template\n";
            let shown = if all { usize::MAX } else { TEMPLATE_LINES };
            for line in template.lines().take(shown) {
                let line = if all { line.to_owned() } else { shortened(line) };
                let _ = writeln!(out, "  {}", printable(&line));
            }
            if let Some(more) = template.lines().count().checked_sub(shown).filter(|&n| n > 0) {
                let _ = writeln!(out, "  … {more} more lines");
            }
        }
        if !self.tensors.is_empty() {
            out += "\nTensors\n";
            let mut rows = vec![["name", "type", "shape", "bytes"].map(String::from).to_vec()];
            rows.extend(self.tensors.iter().map(|row| {
                let shape = row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
                let shape = if row.shape.is_empty() { "scalar".to_owned() } else { shape };
                vec![printable(&row.name), row.dtype.name().to_owned(), shape, thousands(row.bytes)]
            }));
            table(&mut out, &rows, &[3]);
            out += "\nTotals\n";
            let mut rows = vec![["type", "tensors", "elements", "bytes"].map(String::from).to_vec()];
            rows.extend(self.totals().into_iter().map(|(dtype, tensors, elements, bytes)| {
                vec![dtype.name().to_owned(), thousands(tensors), thousands(elements), thousands(bytes)]
            }));
            table(&mut out, &rows, &[1, 2, 3]);
        }
        out
    }

    /// Bits of weights for each parameter, of models.
    fn bits_per_parameter(&self) -> Option<f64> {
        let elements: usize = self.tensors.iter().map(|row| row.elements).sum();
        let bytes: usize = self.tensors.iter().map(|row| row.bytes).sum();
        (self.kind == "model" && elements > 0).then(|| 8.0 * bytes as f64 / elements as f64)
    }
}

/// A fact for people: counts with separators, the tokenizer in words.
fn fact_text(key: &str, value: &Value) -> String {
    match (key, value) {
        ("version" | "rank" | "alpha", _) => value.to_string(),
        ("tokenizer", Value::Object(tokenizer)) => {
            let kind = printable(tokenizer["kind"].as_str().unwrap_or_default());
            match tokenizer["size"].as_u64() {
                Some(size) => format!("{kind}, {} tokens", thousands(size as usize)),
                None => kind,
            }
        }
        ("files", Value::Array(files)) => thousands(files.len()),
        (_, Value::Array(numbers)) => numbers.iter().map(Value::to_string).collect::<Vec<_>>().join(" "),
        (_, Value::String(s)) => printable(s),
        (_, Value::Number(n)) => n.as_u64().map_or_else(|| n.to_string(), |n| thousands(n as usize)),
        (_, other) => other.to_string(),
    }
}

/// Rows in aligned columns, two spaces in; the columns in `right` are set to the right.
fn table(out: &mut String, rows: &[Vec<String>], right: &[usize]) {
    /// A column does not widen beyond this for one long value.
    const WIDEST: usize = 60;
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|c| rows.iter().map(|row| row[c].chars().count()).filter(|&w| w <= WIDEST).max().unwrap_or(0))
        .collect();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let width = widths[c];
            let _ = if right.contains(&c) {
                write!(line, "  {cell:>width$}")
            } else {
                write!(line, "  {cell:<width$}")
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// The first part of a long text.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_VALUE) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}

/// Text from a file for the terminal: what would move the cursor is escaped.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// 1234567 as 1,234,567.
fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn nothing_from_a_file_moves_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jé\n"), "a\\u{1b}[2Jé\\n");
    }

    #[test]
    fn floats_are_shown_as_short_as_they_are() {
        assert_eq!(short_float(1e-5), json!(1e-5));
        assert_eq!(short_float(f32::NAN), Value::Null);
        assert_eq!(short_float(0.1), json!(0.1));
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(81)).chars().count(), LONGEST_VALUE + 1);
        assert_eq!(shortened("short"), "short");
    }
}
