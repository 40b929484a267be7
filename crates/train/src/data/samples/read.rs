//! How samples are read, and what was found while reading them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use wootz_text::{Masked, Tokenizer};

use super::forms::{Form, form};
#[cfg(feature = "parquet")]
use super::rows::Rows;
use super::tokenised::{Tokenised, read_tensors, read_tokens};
use super::{Samples, place_in};
use crate::data::documents::OnBad;
use crate::data::encode::document_token;
use crate::data::lines::{Lines, object_of};
use crate::data::{inputs, pipeline};
#[cfg(feature = "parquet")]
use crate::error::Context as _;
use crate::error::{Error, Result, fail};

/// Which tokens are to be learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// What the assistant says, in every turn; the completion of a prompt; a text as a whole.
    #[default]
    Assistant,
    /// The assistant's last turn; the completion of a prompt; a text as a whole.
    Completion,
    /// Everything, the user's words too.
    All,
}

/// What is done with a sample that is longer than allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// Its end is cut off.
    #[default]
    End,
    /// Its start is cut off, all but the token that begins every text of the model.
    Start,
    /// It is left out.
    Drop,
    /// It is an error, as a line is that cannot be read.
    Refuse,
}

/// How to read samples.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Which tokens are to be learnt.
    pub train_on: TrainOn,
    /// Tokens of a sample, at the most.
    pub max_tokens: usize,
    /// What is done with a longer one.
    pub truncation: Truncation,
    /// What is done with a line that cannot be read, or holds nothing to learn.
    pub on_bad: OnBad,
    /// Threads that encode. They never change the result.
    pub threads: usize,
}

/// What was found while reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines, rows or documents.
    pub read: u64,
    /// Of these, those that were left out because they cannot be read or hold nothing to learn.
    pub bad: u64,
    /// Why, of the first [`FIRST_BAD`](Self::FIRST_BAD).
    pub first_bad: Vec<String>,
    /// Samples that were cut, and the tokens that they lost.
    pub cut: u64,
    /// Tokens that were cut off.
    pub cut_tokens: u64,
    /// Samples that were left out because they are too long.
    pub too_long: u64,
    /// Samples that were left out because nothing that is to be learnt was left of them.
    pub cut_away: u64,
    /// Conversations that became several samples, because the template shows a turn otherwise once others follow it.
    pub split: u64,
    /// Samples in which the last token of a prompt reaches into what is to be learnt: that token is not learnt.
    pub straddled: u64,
    /// Answers after which the template writes no token that ends a turn: the model does not learn to stop.
    pub unended: u64,
}

impl Report {
    /// How many reasons are kept.
    pub const FIRST_BAD: usize = 10;
}

/// Extensions that are taken from a folder.
const IN_FOLDERS: &[&str] = &["jsonl", "ndjson", "json", "parquet"];
/// Bytes of lines that a thread takes at once, and rows of a table.
const BATCH_BYTES: usize = 256 << 10;
#[cfg(feature = "parquet")]
const BATCH_ROWS: usize = 64;

impl Samples {
    /// Reads all samples that `names` mean: files, folders of `.jsonl`, `.json` and `.parquet` files, and patterns. A file
    /// that is named twice is read once.
    ///
    /// An object holds a conversation (`messages`, perhaps `tools` and `chat_template_kwargs`), a `prompt` and a
    /// `completion` (two texts or two lists of messages), or a `text`. Files of tokens are described in `tokenised`.
    ///
    /// # Errors
    /// A file that cannot be read; the first bad line, unless they are to be skipped; no samples.
    pub fn read<S: AsRef<str>>(
        names: &[S],
        tokenizer: &Tokenizer,
        options: &ReadOptions,
    ) -> Result<(Samples, Report)> {
        if options.max_tokens < 2 {
            fail!("samples of {} tokens at the most: expected at least 2", options.max_tokens);
        }
        let mut files: Vec<PathBuf> = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            files.extend(inputs::files(name, IN_FOLDERS)?);
        }
        let mut reader =
            Reader { samples: Samples::default(), report: Report::default(), tokenizer, options };
        for path in files {
            if !reader.samples.files.contains(&path) {
                reader.samples.files.push(path.clone());
                reader.file(&path)?;
            }
        }
        let Reader { samples, report, .. } = reader;
        if samples.is_empty() {
            let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
            let first = report.first_bad.first().map(|first| format!("; the first: {first}"));
            fail!(
                "{}: there are no samples to learn from: {} were read, {} of them are bad, and {} are too long{}",
                names.join(", "),
                report.read,
                report.bad,
                report.too_long + report.cut_away,
                first.unwrap_or_default()
            );
        }
        Ok((samples, report))
    }
}

/// What is read so far.
struct Reader<'a> {
    samples: Samples,
    report: Report,
    tokenizer: &'a Tokenizer,
    options: &'a ReadOptions,
}

/// A line, or a row of a table.
enum Raw {
    Line(Vec<u8>),
    #[cfg(feature = "parquet")]
    Row(Map<String, Value>),
}

/// Some lines with their numbers.
type Objects = Vec<(u64, Raw)>;

impl Reader<'_> {
    fn file(&mut self, path: &Path) -> Result<()> {
        match inputs::extension(path).as_str() {
            "jsonl" | "ndjson" | "json" => {
                let mut lines = Lines::open(path)?;
                self.objects(path, move || next_lines(&mut lines).transpose())
            }
            #[cfg(feature = "parquet")]
            "parquet" => {
                let mut rows = Rows::open(path)?;
                let mut number = 0;
                let place = path.display().to_string();
                self.objects(path, move || {
                    next_rows(&mut rows, &mut number).context(|| format!("{place}: row {number}")).transpose()
                })
            }
            #[cfg(not(feature = "parquet"))]
            "parquet" => fail!("{}: this program was built without the feature `parquet`", path.display()),
            "safetensors" => read_tensors(path, |number, row| self.tokens(path, number, row)),
            "bin" => {
                let end = document_token(self.tokenizer);
                read_tokens(path, end, |number, document| self.tokens(path, number, document))
            }
            "gz" | "zst" | "xz" | "bz2" | "zip" | "tar" => {
                fail!("{}: is packed; unpack it first", path.display())
            }
            _ => fail!(
                "{}: expected samples in .jsonl, .json (an object a line), .parquet, .safetensors or .bin",
                path.display()
            ),
        }
    }

    /// Encodes what `next` reads, on all threads.
    fn objects(&mut self, path: &Path, next: impl FnMut() -> Option<Result<Objects>> + Send) -> Result<()> {
        let (tokenizer, train_on) = (self.tokenizer, self.options.train_on);
        let work = |batch: Result<Objects>| {
            let encode = |(number, raw)| (number, encode(raw, number, tokenizer, train_on));
            batch.map(|batch| batch.into_iter().map(encode).collect::<Vec<_>>())
        };
        pipeline::run(self.options.threads, next, work, |done| {
            for (number, masked) in done? {
                self.add(path, number, masked)?;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    fn tokens(&mut self, path: &Path, number: u64, sample: Tokenised) -> Result<()> {
        let masked = |(ids, learnt)| vec![Masked { ids, learnt, ..Masked::default() }];
        self.add(path, number, sample.map(masked))
    }

    /// Takes up the samples of a line, or says why there are none.
    fn add(&mut self, path: &Path, number: u64, samples: Result<Vec<Masked>, String>) -> Result<()> {
        self.report.read += 1;
        let added = samples.and_then(|samples| self.fit(samples));
        let why = match added {
            Ok(samples) => {
                self.report.split += u64::from(samples.len() > 1);
                let file = self.samples.files.len() - 1;
                for masked in samples {
                    self.report.straddled += masked.straddled as u64;
                    self.report.unended += masked.unended as u64;
                    self.samples.push(&masked.ids, &masked.learnt, file, number);
                }
                return Ok(());
            }
            Err(why) => format!("{}: {why}", place_in(path, number)),
        };
        match self.options.on_bad {
            OnBad::Stop => Err(Error::new(format!("{why} (--skip-bad goes on without it)"))),
            OnBad::Skip => {
                self.report.bad += 1;
                if self.report.first_bad.len() < Report::FIRST_BAD {
                    self.report.first_bad.push(why);
                }
                Ok(())
            }
        }
    }

    /// Cuts samples that are too long, or leaves them out.
    fn fit(&mut self, samples: Vec<Masked>) -> Result<Vec<Masked>, String> {
        let most = self.options.max_tokens;
        let mut kept = Vec::with_capacity(samples.len());
        for mut masked in samples {
            let is_target = |(i, &learnt): (usize, &bool)| learnt && i > 0;
            let Some(last) = masked.learnt.iter().enumerate().rposition(is_target) else {
                return Err(match masked.straddled {
                    0 => "there is nothing to learn: no token of it is a target".to_owned(),
                    _ => "there is nothing to learn: the answer begins inside a token that the prompt ends with; move \
                          white space from the end of the prompt to the beginning of the answer"
                        .to_owned(),
                });
            };
            masked.ids.truncate(last + 1); // nobody learns from what comes after
            masked.learnt.truncate(last + 1);
            let n = masked.ids.len();
            if n <= most {
                kept.push(masked);
                continue;
            }
            match self.options.truncation {
                Truncation::Refuse => {
                    return Err(format!("has {n} tokens, and --max-tokens allows {most}"));
                }
                Truncation::Drop => {
                    self.report.too_long += 1;
                    continue;
                }
                Truncation::End => {
                    masked.ids.truncate(most);
                    masked.learnt.truncate(most);
                }
                Truncation::Start => {
                    let first = usize::from(self.tokenizer.bos() == Some(masked.ids[0]));
                    masked.ids.drain(first..n - most + first);
                    masked.learnt.drain(first..n - most + first);
                }
            }
            if masked.learnt.iter().enumerate().any(is_target) {
                self.report.cut += 1;
                self.report.cut_tokens += (n - most) as u64;
                kept.push(masked);
            } else {
                self.report.cut_away += 1;
            }
        }
        Ok(kept)
    }
}

fn next_lines(lines: &mut Lines) -> Result<Option<Objects>> {
    let (mut batch, mut bytes) = (Objects::new(), 0);
    while bytes < BATCH_BYTES
        && let Some((number, line)) = lines.next()?
    {
        bytes += line.len();
        batch.push((number, Raw::Line(line)));
    }
    Ok((!batch.is_empty()).then_some(batch))
}

#[cfg(feature = "parquet")]
fn next_rows(rows: &mut Rows, number: &mut u64) -> Result<Option<Objects>> {
    let mut batch = Objects::new();
    while batch.len() < BATCH_ROWS
        && let Some(row) = rows.next()
    {
        *number += 1;
        batch.push((*number, Raw::Row(row?)));
    }
    Ok((!batch.is_empty()).then_some(batch))
}

/// From an object to tokens, or why there are none.
fn encode(raw: Raw, number: u64, tokenizer: &Tokenizer, train_on: TrainOn) -> Result<Vec<Masked>, String> {
    let object: Map<String, Value> = match raw {
        Raw::Line(line) => object_of(&line, number)?,
        #[cfg(feature = "parquet")]
        Raw::Row(row) => row,
    };
    let one = |masked| vec![masked];
    let encoded = match form(object, train_on)? {
        Form::Turns(variables, turns) => tokenizer.encode_turns(&variables, &turns),
        Form::WholeChat(variables) => tokenizer.encode_whole_chat(&variables).map(one),
        Form::Completion(prompt, completion) => tokenizer.encode_completion(&prompt, &completion).map(one),
        Form::Text(text) => tokenizer.encode_text(&text).map(one),
    };
    encoded.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
