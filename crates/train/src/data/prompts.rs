//! Prompts to be answered: from a file, or problems of a built-in task.
//!
//! A line of a file is an object with a `prompt` (a text, or a list of messages) or `messages`, perhaps `tools` and
//! `chat_template_kwargs`; whatever else stands there (`answer`, ...) is for those who judge the answers.

use super::lines::{Lines, object_of};
use super::samples::conversation;
#[cfg(feature = "parquet")]
use super::samples::rows::Rows;
use super::{Permutation, inputs};
use crate::error::{Context as _, Error, Result, fail};
use crate::stories::heroes;
use serde_json::{Map, Value};
use std::path::Path;
use std::str::FromStr;
use wootz_rewards::{Rewards, Split, Task};
use wootz_text::{Special, Tokenizer};

/// A prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// As the model reads it.
    pub tokens: Vec<u32>,
    /// The same as text.
    pub text: String,
    /// The record that it is from.
    pub fields: Map<String, Value>,
}

/// Prompts, as many as are asked for.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Those of files; after the last the first comes again, in another order.
    Listed {
        /// In the order of the files.
        prompts: Vec<Prompt>,
        /// Makes the orders; none for that of the files.
        seed: Option<u64>,
    },
    /// Problems of a task, which have no end.
    Generated {
        /// Which.
        task: Built,
        /// How hard.
        level: u8,
        /// What they are for.
        split: Split,
        /// Makes them.
        seed: u64,
    },
}

/// A task that is built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Built {
    /// Tell of the hero whom the beginning of a story names ([`heroes`]).
    Heroes,
    /// Problems with one right answer.
    Puzzle(Task),
}

/// The reward of [`Built::Heroes`]: 1 if the hero's name comes again, as a word of its own.
const HEROES: &str = "\
[[reward]]
name = 'hero'
kind = 'contains'
field = 'hero'
";

impl Built {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Built::Heroes => "heroes",
            Built::Puzzle(task) => task.name(),
        }
    }

    /// How its answers are judged.
    ///
    /// # Errors
    /// None: the tests read every one.
    pub fn rewards(self) -> Result<Rewards> {
        let spec = match self {
            Built::Heroes => HEROES,
            Built::Puzzle(task) => task.spec(),
        };
        Rewards::from_toml(spec, Path::new(self.name())).context(|| format!("task {}", self.name()))
    }

    fn problem(self, split: Split, seed: u64, index: u64, level: u8) -> (String, Map<String, Value>) {
        match self {
            Built::Heroes => {
                let beginning = heroes::beginning(split == Split::Test, seed, index);
                let fields = [("prompt", beginning.text.clone()), ("hero", beginning.hero.to_owned())];
                (
                    beginning.text,
                    fields.map(|(name, text)| (name.to_owned(), text.into())).into_iter().collect(),
                )
            }
            Built::Puzzle(task) => {
                let problem = task.problem(split, seed, index, level);
                let fields = problem.fields();
                (problem.prompt, fields)
            }
        }
    }
}

impl FromStr for Built {
    type Err = Error;

    fn from_str(name: &str) -> Result<Built> {
        let all = || std::iter::once(Built::Heroes).chain(Task::ALL.iter().copied().map(Built::Puzzle));
        all().find(|task| task.name() == name).ok_or_else(|| {
            let names: Vec<&str> = all().map(Built::name).collect();
            Error::new(format!("--task {name}: expected one of {}", names.join(", ")))
        })
    }
}

/// What was left out while reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines that are no prompts.
    pub bad: usize,
    /// Prompts that are too long.
    pub too_long: usize,
    /// Why, of the first few.
    pub first: Vec<String>,
}

impl Report {
    const FIRST: usize = 10;

    fn note(&mut self, why: String) {
        if self.first.len() < Report::FIRST {
            self.first.push(why);
        }
    }
}

/// How prompts are read.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions {
    /// Tokens of a prompt, at the most; longer ones are left out.
    pub max_tokens: usize,
    /// Leave out what is no prompt, instead of failing.
    pub skip_bad: bool,
}

/// Extensions that are taken from a folder.
const IN_FOLDERS: &[&str] = &["jsonl", "ndjson", "json", "parquet"];

/// Reads the prompts of files. Each must have what `rewards` ask for.
///
/// # Errors
/// A file that cannot be read, a line that is no prompt unless those are skipped, no prompt at all.
pub fn read(
    names: &[String],
    tokenizer: &Tokenizer,
    rewards: &Rewards,
    options: ReadOptions,
) -> Result<(Vec<Prompt>, Report)> {
    let (mut prompts, mut report) = (Vec::new(), Report::default());
    for name in names {
        for path in inputs::files(name, IN_FOLDERS)? {
            let mut add = |number: u64, object: Result<Map<String, Value>, String>| {
                let place = || format!("{}:{number}", path.display());
                let read = object.and_then(|fields| prompt(fields, tokenizer));
                let read = read.and_then(|prompt| match rewards.check(&prompt.fields) {
                    Ok(()) => Ok(prompt),
                    Err(failure) => Err(failure.to_string()),
                });
                match read {
                    Ok(prompt) if prompt.tokens.len() > options.max_tokens => {
                        let tokens = prompt.tokens.len();
                        report.too_long += 1;
                        report.note(format!(
                            "{}: {tokens} tokens, more than {}",
                            place(),
                            options.max_tokens
                        ));
                    }
                    Ok(prompt) => prompts.push(prompt),
                    Err(why) if options.skip_bad => {
                        report.bad += 1;
                        report.note(format!("{}: {why}", place()));
                    }
                    Err(why) => fail!("{}: {why} (--skip-bad goes on without such lines)", place()),
                }
                Ok(())
            };
            each_object(&path, &mut add)?;
        }
    }
    if prompts.is_empty() {
        let first = report.first.first().map(|first| format!("; the first: {first}")).unwrap_or_default();
        fail!(
            "{}: there are no prompts: {} lines are bad, and {} prompts are too long{first}",
            names.join(", "),
            report.bad,
            report.too_long
        );
    }
    Ok((prompts, report))
}

/// The objects of a file, with the numbers of their lines or rows.
fn each_object(
    path: &Path,
    each: &mut dyn FnMut(u64, Result<Map<String, Value>, String>) -> Result<()>,
) -> Result<()> {
    match inputs::extension(path).as_str() {
        "jsonl" | "ndjson" | "json" => {
            let mut lines = Lines::open(path)?;
            while let Some((number, line)) = lines.next()? {
                each(number, object_of(&line, number))?;
            }
        }
        #[cfg(feature = "parquet")]
        "parquet" => {
            let mut rows = Rows::all(path)?;
            let mut number = 0;
            while let Some(row) = rows.next() {
                number += 1;
                let row = row.context(|| format!("{}: row {number}", path.display()))?;
                each(number, Ok(row))?;
            }
        }
        #[cfg(not(feature = "parquet"))]
        "parquet" => fail!("{}: this program was built without the feature `parquet`", path.display()),
        _ => fail!("{}: expected prompts in .jsonl, .json (an object a line) or .parquet", path.display()),
    }
    Ok(())
}

/// The prompt of a record, or why there is none.
fn prompt(fields: Map<String, Value>, tokenizer: &Tokenizer) -> Result<Prompt, String> {
    let (tokens, text) = match conversation(&fields)? {
        Some(variables) => {
            let text = tokenizer.render_chat(&variables).map_err(|error| error.to_string())?;
            (tokenizer.encode_chat(&variables).map_err(|error| error.to_string())?, text)
        }
        None => {
            let Some(text) = fields.get("prompt").and_then(Value::as_str) else {
                let keys: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
                return Err(format!(
                    "expected a `prompt` (a text, or a list of messages) or `messages`; there are the fields `{}`",
                    keys.join("`, `")
                ));
            };
            (plain(text, tokenizer).map_err(|error| error.to_string())?, text.to_owned())
        }
    };
    match tokens.is_empty() {
        true => Err("the prompt is empty: there is nothing to go on from".to_owned()),
        false => Ok(Prompt { tokens, text, fields }),
    }
}

/// The tokens of a text that is to be continued.
fn plain(text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, wootz_text::Error> {
    let ids = tokenizer.encode(text, Special { add: true, parse: false })?;
    // A model that ends its texts with a token has its tokenizer write it; here the text goes on.
    let end = ids.iter().rposition(|id| !tokenizer.end_tokens().contains(id)).map_or(0, |last| last + 1);
    Ok(match end {
        0 => ids,
        end => ids[..end].to_vec(),
    })
}

impl Prompts {
    /// Prompt `index`; they count from 0 and have no end.
    ///
    /// # Errors
    /// A problem that the tokenizer has no tokens for.
    pub fn get(&self, index: u64, tokenizer: &Tokenizer) -> Result<Prompt> {
        match self {
            Prompts::Listed { prompts, seed } => {
                let count = prompts.len() as u64;
                let (epoch, at) = (index / count, index % count);
                let at = seed.map_or(at, |seed| Permutation::new(count, seed, epoch).at(at));
                Ok(prompts[at as usize].clone())
            }
            Prompts::Generated { task, level, split, seed } => {
                let (text, fields) = task.problem(*split, *seed, index, *level);
                let cannot = || format!("task {}: cannot encode {text:?}", task.name());
                let tokens = plain(&text, tokenizer).context(cannot)?;
                if tokens.is_empty() {
                    return Err(Error::new(cannot()));
                }
                Ok(Prompt { tokens, text, fields })
            }
        }
    }

    /// Tokens of the longest: of the first of them where there is no end.
    ///
    /// # Errors
    /// As [`Prompts::get`].
    pub fn longest(&self, tokenizer: &Tokenizer) -> Result<usize> {
        /// Problems of a task are about as long as each other.
        const LOOKED_AT: u64 = 256;
        let mut lengths = (0..self.count().unwrap_or(LOOKED_AT)).map(|index| match self {
            Prompts::Listed { prompts, .. } => Ok(prompts[index as usize].tokens.len()),
            Prompts::Generated { .. } => Ok(self.get(index, tokenizer)?.tokens.len()),
        });
        lengths.try_fold(1, |longest, length| length.map(|length: usize| longest.max(length)))
    }

    /// How many different ones there are; `None` where there is no end.
    pub fn count(&self) -> Option<u64> {
        match self {
            Prompts::Listed { prompts, .. } => Some(prompts.len() as u64),
            Prompts::Generated { .. } => None,
        }
    }
}
