//! `wootz data view FILE...`: what is in token shards, and in texts; with `--model`, in samples to fine-tune on.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use wootz_formats::tokens::{TokenFormat, Tokens};
use wootz_text::{Special, Tokenizer};
use wootz_train::data::documents::Documents;
use wootz_train::data::encode::document_token;
use wootz_train::data::inputs::{self, Input};
use wootz_train::data::manifest::Manifest;
use wootz_train::data::{Split, shards};

use super::ReadingArgs;
use super::samples::{self, SampleArgs, Showing};
use crate::commands::answer::{note, show};
use crate::commands::tokenizer::named;

/// Arguments of `wootz data view`.
#[derive(Debug, clap::Args)]
pub struct ViewArgs {
    /// Token shards, a folder of them (the first of each split), text, .jsonl or .parquet files, or `stories`; with
    /// --model, samples in .jsonl, .parquet, .safetensors or .bin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Show samples as this model is to learn them: what is learnt green, or in brackets
    #[arg(long, value_name = "MODEL", conflicts_with = "tokenizer")]
    model: Option<String>,
    /// Documents, or samples, to show
    #[arg(short = 'n', long, value_name = "N", default_value = "3")]
    documents: usize,
    /// Tokens of each to show [default: 128, of a sample 1024]
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// `gpt2`, `bytes`, a tokenizer.json, or a model [default: what data.json beside the shard says]
    #[arg(long, value_name = "T")]
    tokenizer: Option<String>,
    /// Print one JSON object a file
    #[arg(long)]
    json: bool,
    /// Never in colour (nor does NO_COLOR in the environment, or without a terminal)
    #[arg(long, alias = "no-color")]
    no_colour: bool,
    #[command(flatten)]
    reading: ReadingArgs,
    #[command(flatten)]
    samples: SampleArgs,
}

/// Prints what is in each file.
pub fn run(args: &ViewArgs) -> Result<()> {
    if let Some(model) = &args.model {
        let showing = Showing {
            samples: args.documents,
            tokens: args.tokens.unwrap_or(1024),
            as_json: args.json,
            look: args.look(),
        };
        return samples::view(&args.files, model, &args.samples, args.reading.reading().on_bad, &showing);
    }
    args.files.iter().try_for_each(|name| view(name, args))
}

/// How text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// For a terminal, in colour.
    Colour,
    /// As text and nothing else.
    Plain,
}

impl ViewArgs {
    /// Tokens of a document to show.
    fn tokens(&self) -> usize {
        self.tokens.unwrap_or(128)
    }

    fn look(&self) -> Look {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if self.no_colour || forbidden || !io::stdout().is_terminal() { Look::Plain } else { Look::Colour }
    }
}

/// What is known of a file, and its first documents.
struct View {
    path: PathBuf,
    /// In the order in which they are shown.
    facts: Vec<(&'static str, Value)>,
    documents: Vec<Shown>,
    tokenizer: Option<Rc<Tokenizer>>,
}

/// The beginning of a document.
struct Shown {
    ids: Vec<u32>,
    /// The text, where there are no ids.
    text: Option<String>,
    /// Tokens (or bytes) that are not shown.
    more: u64,
}

fn view(name: &str, args: &ViewArgs) -> Result<()> {
    let path = Path::new(name);
    let tokenizer = args.tokenizer.as_deref().map(|name| named(name).map(|named| Rc::new(named.tokenizer)));
    let tokenizer = tokenizer.transpose()?;
    let mut views = Vec::new();
    if path.is_dir() {
        let of = |split| shards(name, split).unwrap_or_default();
        for shards in [of(Split::Train), of(Split::Val)].iter().filter(|shards| !shards.is_empty()) {
            views.push(view_shard(&shards[0], tokenizer.as_ref(), args)?);
            if shards.len() > 1 {
                note(&format!("{}: the first of {} shards", shards[0].display(), shards.len()));
            }
        }
    } else if path.extension().is_some_and(|extension| extension == "bin") && path.exists() {
        views.push(view_shard(path, tokenizer.as_ref(), args)?);
    }
    if views.is_empty() {
        for input in inputs::find(&[name])? {
            views.push(view_text(input, tokenizer.as_ref(), args)?);
        }
    }
    let text: Vec<String> =
        views.iter().map(|view| if args.json { view.json() } else { view.text(args.look()) }).collect();
    show(&text.join(if args.json { "" } else { "\n" })).map(|_| ())
}

/// The tokenizer that `data.json` in a folder names.
fn beside(folder: &Path, manifest: &Manifest) -> Option<Tokenizer> {
    let name = match &manifest.tokenizer.file {
        Some(file) => folder.join(file).to_string_lossy().into_owned(),
        None => manifest.tokenizer.name.clone(),
    };
    let found = named(&name);
    if let Err(error) = &found {
        note(&format!("the tokenizer {name} that data.json names cannot be read: {error:#}"));
    }
    found.ok().map(|named| named.tokenizer)
}

fn view_shard(path: &Path, tokenizer: Option<&Rc<Tokenizer>>, args: &ViewArgs) -> Result<View> {
    const BLOCK: usize = 1 << 16;
    /// No vocabulary is so large.
    const UNLIKELY: u32 = 1 << 24;
    let tokens = Tokens::open(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    // Somebody else's data.json has nothing to say here.
    let manifest = Manifest::read(folder).ok().flatten();
    let tokenizer = match (tokenizer, &manifest) {
        (Some(tokenizer), _) => Some(tokenizer.clone()),
        (None, Some(manifest)) => beside(folder, manifest).map(Rc::new),
        (None, None) => None,
    };
    let mark = match &manifest {
        Some(manifest) if args.tokenizer.is_none() => manifest.tokenizer.document_token,
        _ => tokenizer.as_deref().and_then(document_token),
    };
    let size = tokenizer.as_deref().map_or(usize::MAX, Tokenizer::vocab_size);
    let (mut largest, mut marks, mut outside) = (None, 0u64, 0u64);
    let mut first_outside = None;
    let mut documents: Vec<Shown> = Vec::new();
    let mut block = vec![0; BLOCK];
    for start in (0..tokens.len()).step_by(BLOCK) {
        let block = &mut block[..BLOCK.min(tokens.len() - start)];
        tokens.read(start, block)?;
        largest = largest.max(block.iter().copied().max());
        for (at, &id) in (start..).zip(block.iter()) {
            if id as usize >= size {
                outside += 1;
                first_outside = first_outside.or(Some(at));
            }
            let starts = Some(id) == mark;
            marks += u64::from(starts);
            if starts || at == 0 {
                documents.extend((documents.len() <= args.documents).then(Shown::empty));
            }
            // The last one is only there to end the one before.
            if let Some(last) = documents.last_mut() {
                if last.ids.len() < args.tokens() { last.ids.push(id) } else { last.more += 1 }
            }
        }
    }
    documents.truncate(args.documents);
    let format = match tokens.format() {
        TokenFormat::ShardU16 => "llm.c shard, 16 bits",
        TokenFormat::ShardU32 => "llm.c shard, 32 bits",
        TokenFormat::Plain32 => "plain, 32 bits",
    };
    let mut facts = vec![("format", json!(format)), ("tokens", json!(tokens.len()))];
    facts.push(("largest_id", json!(largest)));
    if let Some(mark) = mark {
        facts.push(("documents", json!(marks)));
        facts.push(("document_token", json!(mark)));
    }
    if tokenizer.is_some() {
        facts.push(("vocab_size", json!(size)));
        facts.push(("outside_vocabulary", json!(outside)));
    }
    if let Some(first) = first_outside {
        facts.push(("first_outside", json!(first)));
    }
    if tokens.format() == TokenFormat::Plain32 && largest.is_some_and(|id| id >= UNLIKELY) {
        note(&format!(
            "warning: {}: numbers so large are hardly token ids: is this another file?",
            path.display()
        ));
    }
    if let (Some(name), Some(manifest), Some(tokenizer)) = (&args.tokenizer, &manifest, &tokenizer)
        && let Err(error) = manifest.tokenizer.check(tokenizer, name)
    {
        note(&format!("warning: {}: {error:#}", path.display()));
    }
    Ok(View { path: path.to_owned(), facts, documents, tokenizer })
}

impl Shown {
    fn empty() -> Shown {
        Shown { ids: Vec::new(), text: None, more: 0 }
    }
}

fn view_text(input: Input, tokenizer: Option<&Rc<Tokenizer>>, args: &ViewArgs) -> Result<View> {
    const CHARACTERS: usize = 400;
    let Input { path, kind, bytes } = input.clone();
    let mut reader = Documents::new(vec![input], args.reading.reading());
    let (mut n_documents, mut text_bytes, mut longest, mut n_tokens) = (0u64, 0u64, 0u64, 0u64);
    let (mut documents, mut length): (Vec<Shown>, u64) = (Vec::new(), 0);
    for piece in reader.by_ref() {
        let piece = piece?;
        if piece.starts {
            n_documents += 1;
            length = 0;
            documents.extend((n_documents as usize <= args.documents).then(Shown::empty));
        }
        text_bytes += piece.text.len() as u64;
        length += piece.text.len() as u64;
        longest = longest.max(length);
        let ids = match tokenizer {
            Some(tokenizer) => tokenizer
                .encode(&piece.text, Special::default())
                .with_context(|| format!("{}:{}", path.display(), piece.line))?,
            None => Vec::new(),
        };
        n_tokens += ids.len() as u64;
        let Some(last) = documents.last_mut().filter(|_| n_documents as usize <= args.documents) else {
            continue;
        };
        if tokenizer.is_some() {
            let room = args.tokens().saturating_sub(last.ids.len()).min(ids.len());
            last.ids.extend_from_slice(&ids[..room]);
            last.more += (ids.len() - room) as u64;
        } else if piece.starts {
            let end = piece.text.char_indices().nth(CHARACTERS).map_or(piece.text.len(), |(at, _)| at);
            last.text = Some(piece.text[..end].to_owned());
            last.more = (piece.text.len() - end) as u64;
        } else {
            last.more += piece.text.len() as u64;
        }
    }
    let format = match kind {
        inputs::Kind::Text => "text",
        inputs::Kind::JsonLines => "JSON lines",
        inputs::Kind::Parquet => "Parquet",
        inputs::Kind::Stories(_) => "built-in stories",
    };
    let mut facts =
        vec![("format", json!(format)), ("bytes", json!(bytes)), ("documents", json!(n_documents))];
    facts.push(("text_bytes", json!(text_bytes)));
    facts.push(("longest_document_bytes", json!(longest)));
    if let Some(tokenizer) = tokenizer {
        facts.push(("tokens", json!(n_tokens)));
        facts.push(("vocab_size", json!(tokenizer.vocab_size())));
    }
    if reader.bad() > 0 {
        facts.push(("skipped", json!(reader.bad())));
    }
    Ok(View { path, facts, documents, tokenizer: tokenizer.cloned() })
}

impl View {
    fn json(&self) -> String {
        let mut object = serde_json::Map::new();
        object.insert("file".to_owned(), json!(self.path.to_string_lossy()));
        object.extend(self.facts.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let documents = self.documents.iter().map(|shown| {
            let text = match (&shown.text, &self.tokenizer) {
                (Some(text), _) => json!(text),
                (None, Some(tokenizer)) => json!(tokenizer.decode(&shown.ids, false)),
                (None, None) => Value::Null,
            };
            json!({"ids": shown.ids, "text": text, "more": shown.more})
        });
        object.insert("samples".to_owned(), documents.collect());
        format!("{}\n", Value::Object(object))
    }

    fn text(&self, look: Look) -> String {
        let mut out = format!("{}\n", self.path.display());
        for (key, value) in &self.facts {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(out, "  {:<24}{value}", key.replace('_', " "));
        }
        let fact =
            |key: &str| self.facts.iter().find(|(k, _)| *k == key).and_then(|(_, value)| value.as_u64());
        if let Some(count) = fact("outside_vocabulary").filter(|&count| count > 0) {
            let _ = writeln!(
                out,
                "  {count} ids lie outside the vocabulary of {} tokens, the first at token {}: these data were made \
                 with another tokenizer",
                fact("vocab_size").unwrap_or(0),
                fact("first_outside").unwrap_or(0)
            );
        }
        for (number, shown) in (1..).zip(&self.documents) {
            let _ = writeln!(out, "\n--- {number}");
            let unit = match (&shown.text, &self.tokenizer) {
                (Some(text), _) => {
                    out += &printable(text);
                    "bytes"
                }
                (None, Some(tokenizer)) => {
                    out += &with_boundaries(&shown.ids, tokenizer, look);
                    "tokens"
                }
                (None, None) => {
                    let ids: Vec<String> = shown.ids.iter().map(u32::to_string).collect();
                    out += &ids.join(" ");
                    "tokens"
                }
            };
            if shown.more > 0 {
                let _ = write!(out, " [... {} {unit} more]", shown.more);
            }
            out.push('\n');
        }
        if self.tokenizer.is_none() && self.documents.iter().any(|shown| shown.text.is_none()) {
            out += "\n(--tokenizer shows the text of these ids)\n";
        }
        out
    }
}

/// Text without anything that a terminal would act upon.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The text of ids, each told from the next by its color, or by a bar. Half a character is U+FFFD.
fn with_boundaries(ids: &[u32], tokenizer: &Tokenizer, look: Look) -> String {
    let piece = |id: u32| {
        if id as usize >= tokenizer.vocab_size() {
            return format!("<{id}?>");
        }
        printable(&String::from_utf8_lossy(&tokenizer.token_bytes(id)))
    };
    let pieces = ids.iter().map(|&id| piece(id));
    if look == Look::Plain {
        return pieces.collect::<Vec<_>>().join("|");
    }
    const COLORS: [&str; 2] = ["\x1b[30;46m", "\x1b[30;43m"];
    let colored = pieces.zip(COLORS.iter().cycle()).map(|(piece, color)| {
        // A color that goes on over the end of a line would fill the rest of it.
        format!("{color}{}\x1b[0m", piece.replace('\n', &format!("\x1b[0m\n{color}")))
    });
    colored.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wootz_text::train;

    #[test]
    fn boundaries_are_seen_and_nothing_reaches_the_terminal() {
        let tokenizer = train::bytes().unwrap().tokenizer;
        let mut ids = tokenizer.encode("a\x1b\n", Special::default()).unwrap();
        ids.push(999);
        assert_eq!(with_boundaries(&ids, &tokenizer, Look::Plain), "a|\\u{1b}|\n|<999?>");
        let colored = with_boundaries(&ids, &tokenizer, Look::Colour);
        assert!(colored.starts_with("\x1b[30;46ma\x1b[0m\x1b[30;43m\\u{1b}\x1b[0m"), "{colored:?}");
        assert!(colored.contains("\x1b[0m\n\x1b["), "{colored:?}");
    }
}
