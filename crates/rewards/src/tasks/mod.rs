//! Problems whose answers are known, made as they are needed.
//!
//! A problem is a function of task, split, seed, index and level alone, so that a run can be resumed anywhere, and nothing
//! is stored. Which split a problem belongs to is decided by its own content: no seed and no level puts it into the other
//! one.
//!
//! A prompt is plain ASCII and ends so that the answer follows at once: `12+34=` and `46`. Answers are judged by their
//! first line with anything on it, for a model that has not learnt to stop writes on.

mod arithmetic;
mod brackets;
mod copy;
mod letters;
mod random;
mod sort;

use std::path::Path;
use std::str::FromStr;

use serde_json::Value;

use crate::answer::Fields;
use crate::error::{Error, Result};
use crate::rewards::Rewards;
use random::{Random, mix};

/// One problem of this many is for testing.
const TEST_SHARE: u64 = 8;

/// A kind of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Task {
    /// `12+34=`, `46`: sums and differences of numbers with up to `level` digits; products from level 3 on.
    Arithmetic,
    /// `copy 4821=`, `4821`: two digits more than `level`.
    Copy,
    /// `sort 4821=`, `1248`: two digits more than `level`.
    Sort,
    /// `balanced ([)]=`, `no`, and `close ([{}=`, `])`: up to `level` + 2 pairs of brackets.
    Brackets,
    /// `count r in tarter=`, `2`: two letters more than `level`, twice over.
    Letters,
}

/// What a problem is for. No problem is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// To learn from.
    Train,
    /// To be tested with: about an eighth of all problems.
    Test,
}

/// A prompt and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is asked.
    pub prompt: String,
    /// What is right.
    pub answer: String,
}

/// A problem that was drawn.
struct Draw {
    prompt: String,
    answer: String,
    /// What decides on the split: equal for problems that are the same but for their looks, such as `1+2=` and `2+1=`.
    content: String,
}

impl Draw {
    /// A problem that is the same as no other.
    fn unique(prompt: String, answer: impl Into<String>) -> Draw {
        Draw { content: prompt.clone(), prompt, answer: answer.into() }
    }
}

impl Task {
    /// Every task.
    pub const ALL: &[Task] = &[Task::Arithmetic, Task::Copy, Task::Sort, Task::Brackets, Task::Letters];
    /// The hardest level. The easiest is 1.
    pub const LEVELS: u8 = 9;

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Task::Arithmetic => "arithmetic",
            Task::Copy => "copy",
            Task::Sort => "sort",
            Task::Brackets => "brackets",
            Task::Letters => "letters",
        }
    }

    /// A problem: a function of its arguments alone. A level below 1 is 1, one above [`Task::LEVELS`] is that.
    pub fn problem(self, split: Split, seed: u64, index: u64, level: u8) -> Problem {
        let level = level.clamp(1, Task::LEVELS);
        // A stream of its own for each problem; both splits draw from it, and keep what is theirs.
        let mut stream = 0;
        for part in [self as u64, u64::from(level), seed, index] {
            stream = mix(stream ^ part);
        }
        let mut random = Random::new(stream);
        // The tests see to it that every level has problems of both splits.
        loop {
            let draw = self.draw(&mut random, usize::from(level));
            if Split::of(&draw.content) == split {
                return Problem { prompt: draw.prompt, answer: draw.answer };
            }
        }
    }

    fn draw(self, random: &mut Random, level: usize) -> Draw {
        match self {
            Task::Arithmetic => arithmetic::draw(random, level),
            Task::Copy => copy::draw(random, level),
            Task::Sort => sort::draw(random, level),
            Task::Brackets => brackets::draw(random, level),
            Task::Letters => letters::draw(random, level),
        }
    }

    /// How its answers are judged, as a TOML file: 1 for a right answer, less for one that is partly right where that
    /// helps to learn. Each task's file says which.
    pub fn spec(self) -> &'static str {
        match self {
            Task::Arithmetic => arithmetic::SPEC,
            Task::Copy => copy::SPEC,
            Task::Sort => sort::SPEC,
            Task::Brackets => brackets::SPEC,
            Task::Letters => letters::SPEC,
        }
    }

    /// [`Task::spec`], read.
    ///
    /// # Errors
    /// None: the tests read every one.
    pub fn rewards(self) -> Result<Rewards> {
        Rewards::from_toml(self.spec(), Path::new(self.name()))
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Task> {
        Task::ALL.iter().copied().find(|task| task.name() == name).ok_or_else(|| {
            let names: Vec<_> = Task::ALL.iter().map(|task| task.name()).collect();
            Error::new(format!("task `{name}`: expected one of {}", names.join(", ")))
        })
    }
}

impl Split {
    fn of(content: &str) -> Split {
        let hash = content.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        if hash % TEST_SHARE == 0 { Split::Test } else { Split::Train }
    }
}

impl Problem {
    /// Its record, as a line of a prompt file has it: `prompt` and `answer`.
    pub fn fields(&self) -> Fields {
        let entry = |name: &str, text: &str| (name.to_owned(), Value::String(text.to_owned()));
        Fields::from_iter([entry("prompt", &self.prompt), entry("answer", &self.answer)])
    }
}

#[cfg(test)]
mod tests;
