//! `wootz data view FILE... --model MODEL`: samples to fine-tune on, with what is learnt of each.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};
use wootz_model::load;
use wootz_text::Tokenizer;
use wootz_train::data::documents::OnBad;
use wootz_train::data::samples::{ReadOptions, Report, Sample, Samples, TrainOn, Truncation};

use super::view::{Look, printable};
use crate::commands::answer::{note, show};
use crate::commands::flags::parse_name;
use crate::model_arg;

/// How to make samples of files.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Samples")]
pub struct SampleArgs {
    /// What is learnt: `assistant` (what the assistant says; of a prompt and its completion the second), `completion`
    /// (of a conversation, the last turn alone), or `all`
    #[arg(long, value_name = "WHAT", value_parser = parse_name::<TrainOn>, default_value = "assistant")]
    train_on: TrainOn,
    /// Tokens of a sample, at the most
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// What is done with a longer one: `end` or `start` is cut off, or `drop`, or `refuse`
    #[arg(long, value_name = "WHAT", value_parser = parse_name::<Truncation>, default_value = "end")]
    truncation: Truncation,
    /// Take this chat template (a Jinja file) in place of the model's own
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

impl SampleArgs {
    /// The library's form of it. `longest` is what is allowed where nobody says.
    pub fn options(&self, longest: usize, on_bad: OnBad) -> ReadOptions {
        ReadOptions {
            train_on: self.train_on,
            max_tokens: self.max_tokens.unwrap_or(longest),
            truncation: self.truncation,
            on_bad,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        }
    }

    /// The tokenizer of a model, with the chat template that is to be taken.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn tokenizer(&self, model: &str) -> Result<Tokenizer> {
        let mut tokenizer = load::tokenizer(&model_arg::resolve_tokenizer(model)?)?;
        if let Some(file) = &self.template {
            tokenizer.set_chat_template(load::chat_template(file)?);
        }
        Ok(tokenizer)
    }
}

/// What of samples is shown, and how.
pub struct Showing {
    /// Samples.
    pub samples: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// As one JSON object.
    pub as_json: bool,
    /// In colour or not.
    pub look: Look,
}

/// Shows the first samples of some files as the model is to learn them.
pub fn view(
    files: &[String],
    model: &str,
    args: &SampleArgs,
    on_bad: OnBad,
    showing: &Showing,
) -> Result<()> {
    let tokenizer = args.tokenizer(model)?;
    let (samples, report) = Samples::read(files, &tokenizer, &args.options(usize::MAX, on_bad))?;
    for line in notes(&report) {
        note(&line);
    }
    let text = if showing.as_json {
        format!("{}\n", as_json(files, &samples, &report, &tokenizer, showing))
    } else {
        as_text(files, &samples, &tokenizer, showing)
    };
    show(&text).map(|_| ())
}

/// What somebody should know who trains on the samples, a line each.
pub fn notes(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> = report.first_bad.iter().map(|why| format!("left out: {why}")).collect();
    let more = report.bad - report.first_bad.len() as u64;
    let mut tell = |count: u64, what: &str| lines.extend((count > 0).then(|| format!("{count} {what}")));
    tell(more, "more lines were left out");
    tell(report.cut, &format!("samples were cut to --max-tokens, by {} tokens in all", report.cut_tokens));
    tell(report.too_long, "samples were left out: they are longer than --max-tokens");
    tell(report.cut_away, "samples were left out: nothing that is to be learnt was left after the cut");
    tell(
        report.split,
        "conversations became several samples: the template shows a turn otherwise once others follow it",
    );
    tell(
        report.straddled,
        "answers begin inside a token that the prompt ends with, which is not learnt: move white space from the end of \
         the prompt to the beginning of the answer",
    );
    tell(
        report.unended,
        "answers end without a token that ends a turn: the model does not learn from them when to stop",
    );
    lines
}

fn share(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn longest(samples: &Samples) -> usize {
    samples.iter().map(|sample| sample.tokens.len()).max().unwrap_or(0)
}

fn as_json(
    files: &[String],
    samples: &Samples,
    report: &Report,
    tokenizer: &Tokenizer,
    showing: &Showing,
) -> Value {
    let shown = samples.iter().zip(0..).take(showing.samples).map(|(sample, i)| {
        let n = sample.tokens.len().min(showing.tokens);
        json!({
            "place": samples.place(i),
            "tokens": sample.tokens.len(),
            "learnt_tokens": sample.targets(),
            "ids": sample.tokens[..n],
            "learnt": (0..n).map(|i| sample.is_learnt(i)).collect::<Vec<_>>(),
            "text": tokenizer.decode(&sample.tokens[..n], false),
        })
    });
    json!({
        "files": files,
        "read": report.read,
        "bad": report.bad,
        "cut": report.cut,
        "cut_tokens": report.cut_tokens,
        "too_long": report.too_long,
        "cut_away": report.cut_away,
        "split": report.split,
        "straddled": report.straddled,
        "unended": report.unended,
        "samples": samples.len(),
        "tokens": samples.tokens(),
        "learnt_tokens": samples.targets(),
        "longest": longest(samples),
        "shown": shown.collect::<Vec<_>>(),
    })
}

fn as_text(files: &[String], samples: &Samples, tokenizer: &Tokenizer, showing: &Showing) -> String {
    let (tokens, learnt) = (samples.tokens(), samples.targets());
    let mut out = format!("{}\n", files.join(", "));
    let mut fact = |name: &str, value: String| {
        let _ = writeln!(out, "  {name:<24}{value}");
    };
    fact("samples", samples.len().to_string());
    fact("tokens", tokens.to_string());
    fact("learnt tokens", format!("{learnt} ({:.1} %)", share(learnt, tokens)));
    fact("longest sample", format!("{} tokens", longest(samples)));
    for (sample, i) in samples.iter().zip(0..).take(showing.samples) {
        let (n, targets) = (sample.tokens.len(), sample.targets());
        let _ = writeln!(
            out,
            "\n--- {}  {}, {n} tokens, {targets} learnt ({:.0} %)",
            i + 1,
            samples.place(i),
            share(targets, n)
        );
        out += &marked(&sample, tokenizer, showing.tokens, showing.look);
        if n > showing.tokens {
            let _ = write!(out, " [... {} tokens more]", n - showing.tokens);
        }
        out.push('\n');
    }
    out
}

/// The text of a sample's first tokens, with what is learnt told from the rest.
fn marked(sample: &Sample, tokenizer: &Tokenizer, most: usize, look: Look) -> String {
    // What stands before and after tokens that are learnt, and those that are not: green and bold, and dim; or brackets
    // that texts hardly have.
    let (learnt, other) = match look {
        Look::Colour => (["\x1b[1;32m", "\x1b[0m"], ["\x1b[2m", "\x1b[0m"]),
        Look::Plain => (["⟦", "⟧"], ["", ""]),
    };
    let ids: Vec<(u32, bool)> =
        sample.tokens.iter().zip(0..).take(most).map(|(&id, i)| (id, sample.is_learnt(i))).collect();
    let mut out = String::new();
    for stretch in ids.chunk_by(|a, b| a.1 == b.1) {
        let bytes: Vec<u8> = stretch.iter().flat_map(|&(id, _)| tokenizer.token_bytes(id)).collect();
        let text = printable(&String::from_utf8_lossy(&bytes));
        let [before, after] = if stretch[0].1 { learnt } else { other };
        let _ = write!(out, "{before}{text}{after}");
    }
    out
}
