//! `wootz data prepare INPUT...`: from text to token shards. `wootz data view FILE...`: what is in them, and in samples
//! to fine-tune on.

pub mod samples;
mod view;

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use wootz_text::{Tokenizer, train};
use wootz_train::data::documents::{Boundary, Ends, Field, OnBad, Reading};
use wootz_train::data::encode::{Counts, Encoding, document_token};
use wootz_train::data::inputs;
use wootz_train::data::manifest::{Manifest, SplitNote};
use wootz_train::data::prepare::{self, Existing, HoldOut, Options};

use super::answer::{note, rate, show};
use super::tokenizer::{Named, named};
use crate::interrupt::{Interrupted, Listener};

/// Arguments of `wootz data`.
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    #[command(subcommand)]
    action: Action,
}

/// What to do with data.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Turn texts into token shards (llm.c's format), for training and for validation
    Prepare(Box<PrepareArgs>),
    /// Show what is in token shards, in texts, or in samples to fine-tune on
    View(Box<view::ViewArgs>),
}

/// How to find documents in files.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Documents")]
pub struct ReadingArgs {
    /// The field of .jsonl, or column of .parquet, with the text [default: text, content or story]
    #[arg(long, value_name = "NAME")]
    field: Option<String>,
    /// What stands between the documents of a text file; '' takes each file as one document
    #[arg(long, value_name = "TEXT", default_value = train::END_OF_TEXT)]
    separator: String,
    /// A document ends after each blank line, which it keeps
    #[arg(long, conflicts_with = "separator")]
    blank_lines: bool,
    /// Take white space off both ends of each document
    #[arg(long)]
    trim: bool,
    /// Leave out what cannot be read, and count it, instead of giving up
    #[arg(long)]
    skip_bad: bool,
}

impl ReadingArgs {
    /// The library's form of it.
    pub fn reading(&self) -> Reading {
        let boundary = match self.separator.as_str() {
            _ if self.blank_lines => Boundary::BlankLines,
            "" => Boundary::File,
            separator => Boundary::Separator(separator.to_owned()),
        };
        Reading {
            boundary,
            field: self.field.clone().map_or(Field::Usual, Field::Named),
            ends: if self.trim { Ends::Trim } else { Ends::Keep },
            on_bad: if self.skip_bad { OnBad::Skip } else { OnBad::Stop },
        }
    }
}

#[derive(Debug, clap::Args)]
struct PrepareArgs {
    /// Text, .jsonl and .parquet files, folders of them, patterns, or `stories` (`stories:N`), the built-in ones
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// `gpt2`, `bytes`, a tokenizer.json, or a model whose tokenizer to take
    #[arg(long, value_name = "T", default_value = "gpt2")]
    tokenizer: String,
    /// The folder to write NAME_train_000001.bin, NAME_val_000000.bin and data.json to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the shards are called [default: as their folder]
    #[arg(long)]
    name: Option<String>,
    /// The token before every document, or `none` [default: the tokenizer's end of text]
    #[arg(long, value_name = "TOKEN")]
    document_token: Option<String>,
    /// Take these files for validation, and hold nothing out. May be given several times
    #[arg(long, value_name = "INPUT", group = "held_out")]
    val: Vec<String>,
    /// Hold out this share for validation, spread evenly over the documents [default: 0.01]
    #[arg(long, value_name = "F", value_parser = fraction, group = "held_out")]
    val_fraction: Option<f64>,
    /// Hold out N tokens for validation, in documents spread over the first half
    #[arg(long, value_name = "N", group = "held_out")]
    val_tokens: Option<u64>,
    /// Hold out exactly the first N tokens for validation
    #[arg(long, value_name = "N", group = "held_out")]
    val_first: Option<u64>,
    /// Tokens of a shard, at the most
    #[arg(long, value_name = "N", default_value = "100000000")]
    shard_tokens: u64,
    /// Threads that encode; the result is the same with any number [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Replace shards of this name that are in the folder already
    #[arg(long)]
    overwrite: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

fn fraction(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "expected a number from 0 to 1")?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("expected a number from 0 to 1".to_owned()) }
}

/// Writes shards, or prints what is in some.
pub fn run(args: DataArgs) -> Result<()> {
    match args.action {
        Action::Prepare(args) => prepare(*args),
        Action::View(args) => view::run(&args),
    }
}

fn prepare(args: PrepareArgs) -> Result<()> {
    let begun = Instant::now();
    let listener = Listener::new();
    let inputs = inputs::find(&args.inputs)?;
    let Named { tokenizer, json } = named(&args.tokenizer)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => match args.out.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => "data".to_owned(),
        },
    };
    if name.is_empty() || name.contains(['/', '\\']) {
        bail!("--name {name:?}: expected the first part of a file's name");
    }
    let hold_out = match (args.val_fraction, args.val_tokens, args.val_first) {
        _ if !args.val.is_empty() => HoldOut::Files(inputs::find(&args.val)?),
        (Some(share), ..) => HoldOut::Fraction(share),
        (_, Some(tokens), _) => HoldOut::Tokens(tokens),
        (.., Some(tokens)) => HoldOut::First(tokens),
        (None, None, None) => HoldOut::Fraction(0.01),
    };
    let threads = args.threads.map_or_else(
        || std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        |n| n as usize,
    );
    let options = Options {
        encoding: Encoding { reading: args.reading.reading(), threads },
        document_token: mark(args.document_token.as_deref(), &tokenizer, &args.tokenizer)?,
        tokenizer_name: args.tokenizer,
        tokenizer_json: json,
        name,
        hold_out,
        shard_tokens: args.shard_tokens,
        existing: if args.overwrite { Existing::Replace } else { Existing::Keep },
        out: args.out,
    };
    let held_out = if let HoldOut::Files(files) = &options.hold_out { files.as_slice() } else { &[] };
    let mut progress = Progress::new(inputs.iter().chain(held_out).map(|input| input.bytes).sum());
    let encoding = Instant::now();
    let made = prepare::prepare(&inputs, &tokenizer, &options, |counts| {
        progress.tell(counts);
        if listener.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let seconds = encoding.elapsed().as_secs_f64();
    progress.bar.finish_and_clear();
    let Some(manifest) = made? else { return Err(Interrupted.into()) };
    if manifest.val.tokens == 0 && matches!(options.hold_out, HoldOut::Fraction(share) if share > 0.0) {
        note("nothing is held out: so small a share of so little text is none; see --val-fraction and --val");
    }
    if args.json {
        let mut result = serde_json::to_value(&manifest).context("cannot print the result")?;
        let tokens = manifest.train.tokens + manifest.val.tokens;
        result["folder"] = json!(options.out.to_string_lossy());
        result["encode_seconds"] = json!(seconds);
        result["tokens_per_second"] = json!(rate(tokens as usize, seconds));
        result["total_seconds"] = json!(begun.elapsed().as_secs_f64());
        show(&format!("{result}\n"))?;
    } else {
        show(&summary(&manifest, &options.out, seconds))?;
    }
    Ok(())
}

/// The id of the token between documents.
fn mark(asked: Option<&str>, tokenizer: &Tokenizer, name: &str) -> Result<Option<u32>> {
    match asked {
        Some("none") => Ok(None),
        Some(token) => match tokenizer.id(token) {
            Some(id) => Ok(Some(id)),
            None => bail!("--document-token {token:?}: there is no such token in the vocabulary of {name}"),
        },
        None => match document_token(tokenizer) {
            Some(id) => Ok(Some(id)),
            None => bail!(
                "the vocabulary of {name} names no token that ends a text; choose one with --document-token, or none"
            ),
        },
    }
}

fn summary(manifest: &Manifest, folder: &Path, seconds: f64) -> String {
    let tokens = manifest.train.tokens + manifest.val.tokens;
    let mut text = format!(
        "{}: {} document{}, {:.1} MB of text, {tokens} tokens of {} ({:.2} bytes a token), {:.0} tokens/s\n",
        folder.display(),
        manifest.documents,
        if manifest.documents == 1 { "" } else { "s" },
        manifest.text_bytes as f64 / 1e6,
        manifest.tokenizer.name,
        manifest.text_bytes as f64 / tokens.max(1) as f64,
        rate(tokens as usize, seconds)
    );
    if manifest.skipped > 0 {
        let _ = writeln!(text, "  skipped  {} that could not be read", manifest.skipped);
    }
    let mut line = |name: &str, split: &SplitNote| {
        let files = match split.shards.as_slice() {
            [] => String::new(),
            [one] => one.file.clone(),
            [first, .., last] => format!("{} to {}", first.file, last.file),
        };
        let _ = writeln!(text, "  {name:<6} {:>12} tokens  {files}", split.tokens);
    };
    line("train", &manifest.train);
    line("val", &manifest.val);
    text
}

/// How far it is: a bar on a terminal, a line now and then elsewhere.
struct Progress {
    bar: ProgressBar,
    bytes: u64,
    begun: Instant,
    last: Instant,
}

impl Progress {
    fn new(bytes: u64) -> Progress {
        let bar = if io::stderr().is_terminal() { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
        let template = "{bar:30} {bytes} of {total_bytes}, {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Progress { bar, bytes, begun: Instant::now(), last: Instant::now() }
    }

    fn tell(&mut self, counts: &Counts) {
        let interval = Duration::from_millis(if self.bar.is_hidden() { 5000 } else { 100 });
        if self.last.elapsed() < interval {
            return;
        }
        self.last = Instant::now();
        let speed = rate(counts.tokens as usize, self.begun.elapsed().as_secs_f64());
        let message = format!("{} tokens, {speed:.0} tokens/s", counts.tokens);
        if self.bar.is_hidden() {
            let megabytes = |bytes: u64| bytes as f64 / 1e6;
            note(&format!(
                "{:.0} of {:.0} MB, {message}",
                megabytes(counts.bytes_read),
                megabytes(self.bytes)
            ));
        } else {
            self.bar.set_position(counts.bytes_read);
            self.bar.set_message(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_numbers_from_0_to_1() {
        assert_eq!((fraction("0"), fraction("1"), fraction("0.5")), (Ok(0.0), Ok(1.0), Ok(0.5)));
        for bad in ["-0.1", "1.1", "nan", "x", ""] {
            assert!(fraction(bad).is_err(), "{bad}");
        }
    }
}
