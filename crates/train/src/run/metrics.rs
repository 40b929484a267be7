//! `metrics.jsonl`: what a run measures, one JSON object a line.
//!
//! ```text
//! {"step":1,"tokens":4096,"loss":10.98,"grad_norm":3.2,"lr":0.0001,"tokens_per_second":5120.5}
//! {"step":50,"val_loss":5.1,"bits_per_byte":1.74}
//! ```
//! The names below are what scripts rely on; a run may add others. A number has as many digits as it takes to read it
//! back to the last bit. One that JSON has no word for (NaN, an infinity) is written as `null`, and read as NaN.
//!
//! A line goes to the system in one piece as soon as it is written, so a killed process loses none, and a power cut
//! those of the last seconds.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

use crate::error::{Context, Result};

/// Updates done so far, this one included. Every line has it.
pub const STEP: &str = "step";
/// Tokens trained on so far.
pub const TOKENS: &str = "tokens";
/// Training loss of the step, in nats a token.
pub const LOSS: &str = "loss";
/// Norm of the gradient before it is clipped.
pub const GRAD_NORM: &str = "grad_norm";
/// Learning rate of the step.
pub const LR: &str = "lr";
/// Training throughput of the step.
pub const TOKENS_PER_SECOND: &str = "tokens_per_second";
/// Validation loss, in nats a token.
pub const VAL_LOSS: &str = "val_loss";
/// Validation loss in bits a byte of text, which does not depend on the vocabulary.
pub const BITS_PER_BYTE: &str = "bits_per_byte";
/// Mean reward of answers to problems that are not learnt from.
pub const VAL_REWARD: &str = "val_reward";
/// Mean reward of the answers that were drawn for a step.
pub const REWARD_MEAN: &str = "reward_mean";

/// A longer line is taken to be damaged: no writer of ours makes one.
const LONGEST_LINE: u64 = 64 << 20;

/// What is measured at every step of training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// [`STEP`].
    pub step: u64,
    /// [`TOKENS`].
    pub tokens: u64,
    /// [`LOSS`].
    pub loss: f64,
    /// [`GRAD_NORM`].
    pub grad_norm: f64,
    /// [`LR`].
    pub lr: f64,
    /// [`TOKENS_PER_SECOND`].
    pub tokens_per_second: f64,
}

/// What is measured when a run validates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Validation {
    /// [`STEP`].
    pub step: u64,
    /// [`VAL_LOSS`].
    pub val_loss: f64,
    /// [`BITS_PER_BYTE`]; `None` where the length of the text is not known.
    pub bits_per_byte: Option<f64>,
}

/// One line: what is known after a step. A [`Step`] or [`Validation`] becomes one, and others may be added.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    step: u64,
    fields: Vec<(String, Field)>,
}

/// A value in a [`Row`].
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// A number of things.
    Count(u64),
    /// Written with as many digits as an `f32` needs.
    Single(f32),
    /// Written with as many digits as an `f64` needs.
    Double(f64),
    /// Anything else, such as why a step was skipped.
    Text(String),
}

impl Row {
    /// A line of this step, with nothing else in it.
    pub fn new(step: u64) -> Row {
        Row { step, fields: Vec::new() }
    }

    /// The line with a value more; one of the same name is replaced.
    pub fn with(mut self, name: &str, value: impl Into<Field>) -> Row {
        let value = value.into();
        match self.fields.iter_mut().find(|(known, _)| known == name) {
            Some((_, field)) => *field = value,
            None => self.fields.push((name.to_owned(), value)),
        }
        self
    }

    /// Updates done so far.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The numbers of the line, in their order.
    pub fn numbers(&self) -> impl Iterator<Item = (&str, f64)> {
        self.fields.iter().filter_map(|(name, field)| Some((name.as_str(), field.number()?)))
    }
}

impl From<Step> for Row {
    fn from(step: Step) -> Row {
        Row::new(step.step)
            .with(TOKENS, step.tokens)
            .with(LOSS, step.loss)
            .with(GRAD_NORM, step.grad_norm)
            .with(LR, step.lr)
            .with(TOKENS_PER_SECOND, step.tokens_per_second)
    }
}

impl From<Validation> for Row {
    fn from(validation: Validation) -> Row {
        let row = Row::new(validation.step).with(VAL_LOSS, validation.val_loss);
        match validation.bits_per_byte {
            Some(bits) => row.with(BITS_PER_BYTE, bits),
            None => row,
        }
    }
}

impl Field {
    fn number(&self) -> Option<f64> {
        match *self {
            Field::Count(n) => Some(n as f64),
            Field::Single(x) => Some(f64::from(x)),
            Field::Double(x) => Some(x),
            Field::Text(_) => None,
        }
    }
}

impl From<u64> for Field {
    fn from(n: u64) -> Field {
        Field::Count(n)
    }
}

impl From<f32> for Field {
    fn from(x: f32) -> Field {
        Field::Single(x)
    }
}

impl From<f64> for Field {
    fn from(x: f64) -> Field {
        Field::Double(x)
    }
}

impl From<&str> for Field {
    fn from(text: &str) -> Field {
        Field::Text(text.to_owned())
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(STEP, &self.step)?;
        for (name, field) in self.fields.iter().filter(|(name, _)| name != STEP) {
            match field {
                Field::Count(n) => map.serialize_entry(name, n)?,
                Field::Single(x) => map.serialize_entry(name, x)?,
                Field::Double(x) => map.serialize_entry(name, x)?,
                Field::Text(text) => map.serialize_entry(name, text)?,
            }
        }
        map.end()
    }
}

/// `metrics.jsonl`, open for lines to be added.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
}

/// What [`Metrics::resume`] did to the lines that were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumed {
    /// Lines that stay.
    pub kept: usize,
    /// Lines of later steps, which were removed.
    pub cut: usize,
    /// Lines that are no JSON object with a step, such as the half of a last one; removed too.
    pub damaged: usize,
}

impl Metrics {
    /// Begins the file. Fails where there is one.
    pub fn create(path: &Path) -> Result<Metrics> {
        let file = OpenOptions::new().append(true).create_new(true).open(path);
        let file = file.context(|| format!("{}: cannot make the file", path.display()))?;
        Ok(Metrics { path: path.to_owned(), file })
    }

    /// Goes on with the file of a run that is resumed after `step` updates: lines of later steps are cut off, for
    /// those steps will be made again. The shorter file takes the other's place in one move. One that is not there
    /// is begun.
    pub fn resume(path: &Path, step: u64) -> Result<(Metrics, Resumed)> {
        let mut resumed = Resumed::default();
        match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            file => {
                let file = file.context(|| format!("{}: cannot open", path.display()))?;
                let mut lines = Lines::new(file);
                let cut = wootz_formats::write_atomically(path, |out| {
                    while let Some(line) = lines.next_line()? {
                        match line.map(|object| object.step) {
                            None => resumed.damaged += 1,
                            Some(later) if later > step => resumed.cut += 1,
                            Some(_) => {
                                resumed.kept += 1;
                                out.write_all(lines.text())?;
                                out.write_all(b"\n")?;
                            }
                        }
                    }
                    Ok(())
                });
                cut.context(|| format!("cannot cut off the lines after step {step}"))?;
            }
        }
        let file = OpenOptions::new().append(true).create(true).open(path);
        let file = file.context(|| format!("{}: cannot open", path.display()))?;
        Ok((Metrics { path: path.to_owned(), file }, resumed))
    }

    /// Adds a line: an object that has a [`STEP`].
    pub fn append(&mut self, row: &impl Serialize) -> Result<()> {
        let cannot = || format!("{}: cannot write", self.path.display());
        let mut line = serde_json::to_vec(row).context(cannot)?;
        line.push(b'\n');
        self.file.write_all(&line).context(cannot)
    }

    /// Brings the lines to the disk: before a checkpoint is saved, so that a resumed run has all lines up to it.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().context(|| format!("{}: cannot write", self.path.display()))
    }
}

/// All numbers of a `metrics.jsonl`, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Steps and values of each name, in the order of the file. `null` is NaN.
    pub series: BTreeMap<String, Vec<(u64, f64)>>,
    /// How many lines could not be read.
    pub damaged: usize,
}

impl History {
    /// Reads the file. Fails where it cannot be opened or read; damaged lines are passed over and counted.
    pub fn read(path: &Path) -> Result<History> {
        let file = File::open(path).context(|| format!("{}: cannot open", path.display()))?;
        let mut lines = Lines::new(file);
        let mut history = History::default();
        while let Some(line) = lines.next_line().context(|| format!("{}: cannot read", path.display()))? {
            let Some(Line { step, object }) = line else {
                history.damaged += 1;
                continue;
            };
            for (name, value) in object {
                let number = match value {
                    Value::Null => Some(f64::NAN),
                    Value::Number(number) => number.as_f64(),
                    Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
                };
                if let Some(number) = number.filter(|_| name != STEP) {
                    history.series.entry(name).or_default().push((step, number));
                }
            }
        }
        Ok(history)
    }

    /// Steps and values of a name; none where it was never written.
    pub fn of(&self, name: &str) -> &[(u64, f64)] {
        self.series.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last value of a name.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.of(name).last().map(|&(_, value)| value)
    }
}

/// A line that could be read.
struct Line {
    step: u64,
    object: serde_json::Map<String, Value>,
}

/// The lines of a file, none of them longer in memory than [`LONGEST_LINE`].
struct Lines {
    reader: BufReader<File>,
    buffer: Vec<u8>,
}

impl Lines {
    fn new(file: File) -> Lines {
        Lines { reader: BufReader::new(file), buffer: Vec::new() }
    }

    /// The next line; `Some(None)` for one that is damaged. The last line counts only with its line break, without
    /// which it may be the first half of a longer number.
    fn next_line(&mut self) -> io::Result<Option<Option<Line>>> {
        self.buffer.clear();
        let read = io::Read::take(&mut self.reader, LONGEST_LINE).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        if self.buffer.last() != Some(&b'\n') {
            self.buffer.clear();
            self.reader.skip_until(b'\n')?;
            return Ok(Some(None));
        }
        self.buffer.pop();
        let object: Option<serde_json::Map<String, Value>> = serde_json::from_slice(&self.buffer).ok();
        let line = object.and_then(|object| Some(Line { step: object.get(STEP)?.as_u64()?, object }));
        Ok(Some(line))
    }

    /// The text of the line that was read last, without its line break.
    fn text(&self) -> &[u8] {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::scratch::Scratch;
    use super::*;

    fn row(step: u64) -> Row {
        Row::new(step).with(LOSS, 10.0 / step as f32).with(TOKENS, 4096 * step).with(LR, 1e-4f32)
    }

    #[test]
    fn a_line_has_the_names_that_scripts_rely_on() {
        let step = Step {
            step: 7,
            tokens: 28672,
            loss: 3.2,
            grad_norm: f64::NAN,
            lr: 3e-4,
            tokens_per_second: 5120.5,
        };
        let row = Row::from(step).with("skipped", "loss").with("step", 9u64).with(LOSS, 3.1f32);
        let expected = r#"{"step":7,"tokens":28672,"loss":3.1,"grad_norm":null,"lr":0.0003,"tokens_per_second":5120.5,"skipped":"loss"}"#;
        assert_eq!(serde_json::to_string(&row).unwrap(), expected);
        assert_eq!(row.numbers().count(), 6);
        let validation = Validation { step: 7, val_loss: 3.25, bits_per_byte: Some(1.1) };
        let json = |row: Validation| serde_json::to_string(&Row::from(row)).unwrap();
        assert_eq!(json(validation), r#"{"step":7,"val_loss":3.25,"bits_per_byte":1.1}"#);
        assert_eq!(json(Validation { bits_per_byte: None, ..validation }), r#"{"step":7,"val_loss":3.25}"#);
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let scratch = Scratch::new();
        let path = scratch.path().join("metrics.jsonl");
        let mut metrics = Metrics::create(&path).unwrap();
        let noise = |i: u64| (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let numbers = |i: u64| (f32::from_bits(noise(i) as u32), f64::from_bits(noise(i).rotate_left(9)));
        const COUNT: u64 = 5000;
        for i in 0..COUNT {
            let (single, double) = numbers(i);
            metrics.append(&Row::new(i).with("single", single).with("double", double)).unwrap();
        }
        let history = History::read(&path).unwrap();
        let is_same = |found: f64, written: f64| {
            found.to_bits() == written.to_bits() || (found.is_nan() && !written.is_finite())
        };
        for i in 0..COUNT {
            let (single, double) = numbers(i);
            let found = history.of("single")[i as usize].1;
            assert!(is_same(f64::from(found as f32), f64::from(single)), "{single}, found {found}");
            let found = history.of("double")[i as usize].1;
            assert!(is_same(found, double), "{double}, found {found}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let scratch = Scratch::new();
        let path = scratch.path().join("metrics.jsonl");
        let mut metrics = Metrics::create(&path).unwrap();
        (1..=3).for_each(|step| metrics.append(&row(step)).unwrap());
        metrics.append(&Row::new(3).with(VAL_LOSS, f32::INFINITY).with("note", "x")).unwrap();
        metrics.sync().unwrap();
        let history = History::read(&path).unwrap();
        assert_eq!(history.of(TOKENS), [(1, 4096.0), (2, 8192.0), (3, 12288.0)]);
        assert_eq!(history.last(LOSS).unwrap() as f32, 10.0 / 3.0);
        assert!(history.last(VAL_LOSS).unwrap().is_nan());
        assert!(history.of("note").is_empty() && history.of(STEP).is_empty());
        assert_eq!(history.damaged, 0);
        let error = format!("{:#}", Metrics::create(&path).unwrap_err());
        assert!(error.contains("metrics.jsonl: cannot make the file: "), "{error}");
    }

    #[test]
    fn resuming_cuts_off_what_came_later() {
        let scratch = Scratch::new();
        let path = scratch.path().join("metrics.jsonl");
        let mut metrics = Metrics::create(&path).unwrap();
        (1..=5).for_each(|step| metrics.append(&row(step)).unwrap());
        metrics.append(&Row::new(3).with(VAL_LOSS, 1.0f32)).unwrap();
        drop(metrics);
        let before = fs::read(&path).unwrap();
        let (mut metrics, resumed) = Metrics::resume(&path, 3).unwrap();
        assert_eq!(resumed, Resumed { kept: 4, cut: 2, damaged: 0 });
        (4..=5).for_each(|step| metrics.append(&row(step)).unwrap());
        let mut lines: Vec<_> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        let mut expected: Vec<_> = String::from_utf8(before).unwrap().lines().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(lines, expected);
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    }

    #[test]
    fn half_a_line_is_dropped_wherever_it_was_cut() {
        let scratch = Scratch::new();
        let path = scratch.path().join("metrics.jsonl");
        let mut metrics = Metrics::create(&path).unwrap();
        (1..=2).for_each(|step| metrics.append(&row(step)).unwrap());
        let whole = fs::read(&path).unwrap();
        let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for cut in first..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let damaged = usize::from(cut > first);
            let history = History::read(&path).unwrap();
            assert_eq!((history.of(LOSS).len(), history.damaged), (1, damaged), "{cut}");
            let (mut metrics, resumed) = Metrics::resume(&path, 9).unwrap();
            assert_eq!(resumed, Resumed { kept: 1, cut: 0, damaged });
            metrics.append(&row(2)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), whole);
        }
    }

    #[test]
    fn odd_lines_are_passed_over() {
        let scratch = Scratch::new();
        let path = scratch.path().join("metrics.jsonl");
        let long = "x".repeat(3 << 20);
        let text = format!(
            "{{\"step\":1,\"loss\":2}}\n\n[1]\n{{\"loss\":3}}\n{{\"step\":-1}}\n{long}\n\u{0}\n{{\"step\":2,\"loss\":1}}\n"
        );
        fs::write(&path, text).unwrap();
        let history = History::read(&path).unwrap();
        assert_eq!(history.of(LOSS), [(1, 2.0), (2, 1.0)]);
        assert_eq!(history.damaged, 6);
        let (_, resumed) = Metrics::resume(&path, 1).unwrap();
        assert_eq!(resumed, Resumed { kept: 1, cut: 1, damaged: 6 });
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1,\"loss\":2}\n");
    }

    #[test]
    fn a_file_that_is_not_there_is_begun() {
        let scratch = Scratch::new();
        let path = scratch.path().join("metrics.jsonl");
        let (mut metrics, resumed) = Metrics::resume(&path, 3).unwrap();
        assert_eq!(resumed, Resumed::default());
        metrics.append(&row(4)).unwrap();
        assert_eq!(History::read(&path).unwrap().of(LOSS), [(4, 2.5)]);
        let error = format!("{:#}", History::read(&scratch.path().join("no")).unwrap_err());
        assert!(error.contains("no: cannot open: "), "{error}");
    }
}
