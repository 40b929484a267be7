//! Documents, one after the other, from files of any length: text, JSON lines, Parquet.
//!
//! A long document comes in pieces of about [`PIECE`] bytes, so that memory is bounded and all threads have work. The
//! cut is made where the tokenisers that are in use cut words anyhow (`clean_cut`), so that ids are those of the whole.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::inputs::{Input, Kind};
use super::lines::{BYTE_ORDER_MARK, Lines, object_of};
use crate::error::{Context as _, Error, Result};
use crate::stories;

/// Bytes of a piece, about.
pub const PIECE: usize = 64 << 10;
/// Bytes that are read at once.
const READ: usize = 256 << 10;

/// Where a text file's documents end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// At this text. It is no part of the documents, and neither is a line break on either side of it.
    Separator(String),
    /// After every blank line, which stays with the document before it: llm.c's recipe for Shakespeare.
    BlankLines,
    /// At the end of the file.
    File,
}

/// What to do with white space at both ends of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Leave it.
    Keep,
    /// Take it off: llm.c's recipe for TinyStories.
    Trim,
}

/// What to do with a line that is no JSON, bytes that are no UTF-8, a row without text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBad {
    /// Give up, and say where it is.
    Stop,
    /// Leave it out, and count.
    Skip,
}

/// The field of an object, or the column of a table, that holds the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// This one.
    Named(String),
    /// The first of `text`, `content` and `story` that is there.
    Usual,
}

impl Field {
    const USUAL: [&'static str; 3] = ["text", "content", "story"];

    /// The names to look for, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let (one, usual) = match self {
            Field::Named(name) => (Some(name.as_str()), &[][..]),
            Field::Usual => (None, &Field::USUAL[..]),
        };
        one.into_iter().chain(usual.iter().copied())
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.names().collect::<Vec<_>>().join("` or `"))
    }
}

/// How to read documents.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Where a text file's documents end.
    pub boundary: Boundary,
    /// Where an object or a table has its text.
    pub field: Field,
    /// White space around documents.
    pub ends: Ends,
    /// What cannot be read.
    pub on_bad: OnBad,
}

impl Default for Reading {
    fn default() -> Self {
        let boundary = Boundary::Separator(wootz_text::train::END_OF_TEXT.to_owned());
        Reading { boundary, field: Field::Usual, ends: Ends::Keep, on_bad: OnBad::Stop }
    }
}

/// A document, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Never empty.
    pub text: String,
    /// Whether a document begins here, and not one goes on.
    pub starts: bool,
    /// Which file it is from.
    pub file: usize,
    /// The line, or row, in which it begins; from 1.
    pub line: u64,
}

/// Why the next document could not be read.
enum Failure {
    /// The document is at fault; the next may be well.
    Bad(Error),
    /// Nothing more can be read.
    Fatal(Error),
}

/// The documents of several files, in order.
pub struct Documents {
    inputs: Vec<Input>,
    reading: Reading,
    next_file: usize,
    file: Option<FileReader>,
    /// What is left of the last text that was read: the text, from where, and its line.
    rest: Option<Rest>,
    /// Nothing of a document was left so far but its beginning, which was white space.
    is_blank: bool,
    bad: u64,
    bytes_before: u64,
}

struct Rest {
    text: String,
    from: usize,
    starts: bool,
    line: u64,
}

/// A text as a file gave it: a document, or a part of one.
struct Raw {
    text: String,
    starts: bool,
    ends: bool,
    line: u64,
}

impl Documents {
    /// Begins to read.
    pub fn new(inputs: Vec<Input>, reading: Reading) -> Self {
        Documents {
            inputs,
            reading,
            next_file: 0,
            file: None,
            rest: None,
            is_blank: false,
            bad: 0,
            bytes_before: 0,
        }
    }

    /// How many documents were left out.
    pub fn bad(&self) -> u64 {
        self.bad
    }

    /// Bytes of the files that were read so far, about.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before + self.file.as_ref().map_or(0, FileReader::bytes_read)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.bytes).sum()
    }

    /// The path of a file, for messages.
    pub fn path(&self, file: usize) -> &Path {
        self.inputs.get(file).map_or(Path::new(""), |input| &input.path)
    }

    fn next_raw(&mut self) -> Result<Option<Raw>> {
        loop {
            let Some(file) = &mut self.file else {
                let Some(input) = self.inputs.get(self.next_file) else { return Ok(None) };
                self.file = Some(FileReader::open(input, &self.reading)?);
                self.next_file += 1;
                continue;
            };
            match file.next() {
                Ok(Some(raw)) => return Ok(Some(raw)),
                Ok(None) => {
                    self.file = None;
                    self.bytes_before = self.inputs[..self.next_file].iter().map(|input| input.bytes).sum();
                }
                Err(Failure::Bad(_)) if self.reading.on_bad == OnBad::Skip => self.bad += 1,
                Err(Failure::Bad(error)) => {
                    return Err(Error::new(format!("{error:#} (--skip-bad goes on without it)")));
                }
                Err(Failure::Fatal(error)) => return Err(error),
            }
        }
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        loop {
            if let Some(rest) = &mut self.rest {
                let text = &rest.text[rest.from..];
                let end = if text.len() > PIECE + PIECE / 2 { cut(text, PIECE) } else { text.len() };
                let text = text[..end].to_owned();
                let piece = Piece { starts: rest.starts, file: self.next_file - 1, line: rest.line, text };
                rest.from += end;
                rest.starts = false;
                if rest.from == rest.text.len() {
                    self.rest = None;
                }
                if !piece.text.is_empty() {
                    return Ok(Some(piece));
                }
            }
            let Some(mut raw) = self.next_raw()? else { return Ok(None) };
            if self.reading.ends == Ends::Trim {
                if raw.ends {
                    raw.text.truncate(raw.text.trim_end().len());
                }
                if raw.starts || self.is_blank {
                    raw.text = raw.text.trim_start().to_owned();
                    raw.starts = true;
                }
                self.is_blank = raw.starts && !raw.ends && raw.text.is_empty();
            }
            self.rest = Some(Rest { text: raw.text, from: 0, starts: raw.starts, line: raw.line });
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        let next = self.next_piece();
        if next.is_err() {
            // Nothing after an error: the file's position is not known.
            self.next_file = self.inputs.len();
            (self.file, self.rest) = (None, None);
        }
        next.transpose()
    }
}

/// Where to cut `text` so that the first part has about `most` bytes: at a [`clean_cut`], or where there is none
/// anywhere between characters.
fn cut(text: &str, most: usize) -> usize {
    let end = character_at(text, most);
    let anywhere = if end > 0 { end } else { text.len() };
    clean_cut(text, most).unwrap_or(anywhere)
}

/// The last place between characters that is not behind `most` bytes.
fn character_at(text: &str, most: usize) -> usize {
    (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

/// Where to cut `text`, at `most` bytes or up to half as many, so that both parts have the tokens that they have in
/// the whole. That is so after a line break that stands alone, with a letter or digit after it, and before a space
/// that stands alone between letters: none of the ways to cut words joins these. (A vocabulary of SentencePiece, which
/// writes a space before a text, gets one at the cut.)
fn clean_cut(text: &str, most: usize) -> Option<usize> {
    let end = character_at(text, most);
    let head = &text[..end];
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let before = |at: usize| text[..at].chars().next_back();
    let after = |at: usize| text[at..].chars().next();
    let not_space = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace());
    let line = head
        .rmatch_indices('\n')
        .map(|(at, _)| at + 1)
        .take_while(|&at| at > end / 2)
        .find(|&at| is_word(after(at)) && not_space(before(at - 1)));
    let space = || {
        let places = head.rmatch_indices(' ').map(|(at, _)| at).take_while(|&at| at > end / 2);
        places.into_iter().find(|&at| is_word(after(at + 1)) && is_word(before(at)))
    };
    line.or_else(space)
}

enum FileReader {
    Text(TextFile),
    JsonLines(JsonLines),
    #[cfg(feature = "parquet")]
    Parquet(Box<Table>),
    Stories {
        next: u64,
        end: u64,
        bytes: u64,
    },
}

/// Which collection of stories is the built-in one.
const STORIES_SEED: u64 = 1;

impl FileReader {
    fn open(input: &Input, reading: &Reading) -> Result<FileReader> {
        let open = || File::open(&input.path).context(|| format!("{}: cannot open", input.path.display()));
        Ok(match input.kind {
            Kind::Text => FileReader::Text(TextFile {
                path: input.path.clone(),
                file: open()?,
                boundary: reading.boundary.clone(),
                buffer: Vec::new(),
                consumed: 0,
                dropped: 0,
                line: 1,
                state: State::Between,
                at_end: false,
            }),
            Kind::JsonLines => FileReader::JsonLines(JsonLines {
                lines: Lines::open(&input.path)?,
                field: reading.field.clone(),
            }),
            #[cfg(feature = "parquet")]
            Kind::Parquet => FileReader::Parquet(Box::new(Table {
                path: input.path.clone(),
                column: super::parquet::Column::open(&input.path, &reading.field)?,
                bytes: input.bytes,
                row: 0,
            })),
            #[cfg(not(feature = "parquet"))]
            Kind::Parquet => {
                crate::error::fail!(
                    "{}: this program was built without the feature `parquet`",
                    input.path.display()
                )
            }
            Kind::Stories(end) => FileReader::Stories { next: 0, end, bytes: input.bytes },
        })
    }

    fn next(&mut self) -> Result<Option<Raw>, Failure> {
        match self {
            FileReader::Text(file) => file.next(),
            FileReader::JsonLines(file) => file.next(),
            #[cfg(feature = "parquet")]
            FileReader::Parquet(file) => file.next(),
            FileReader::Stories { next, end, .. } if *next == *end => Ok(None),
            FileReader::Stories { next, .. } => {
                let text = stories::story(STORIES_SEED, *next);
                *next += 1;
                Ok(Some(Raw { text, starts: true, ends: true, line: *next }))
            }
        }
    }

    fn bytes_read(&self) -> u64 {
        match self {
            FileReader::Text(file) => file.dropped + file.consumed as u64,
            FileReader::JsonLines(file) => file.lines.bytes(),
            #[cfg(feature = "parquet")]
            FileReader::Parquet(file) => (file.bytes as f64 * file.column.progress()) as u64,
            FileReader::Stories { next, end, bytes } => bytes / (*end).max(1) * next,
        }
    }
}

/// Plain text, of which a window is in memory.
struct TextFile {
    path: PathBuf,
    file: File,
    boundary: Boundary,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are done with.
    consumed: usize,
    /// Bytes of the file that were taken out of the buffer.
    dropped: u64,
    /// The line in which what is left begins.
    line: u64,
    state: State,
    at_end: bool,
}

/// Where a reader of text is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// A document begins here.
    Between,
    /// A separator ended here: a line break after it belongs to it.
    AfterSeparator,
    /// In the middle of a document.
    Inside,
}

impl TextFile {
    fn next(&mut self) -> Result<Option<Raw>, Failure> {
        loop {
            let rest = &self.buffer[self.consumed..];
            if self.state == State::AfterSeparator && (rest.len() >= 2 || self.at_end) {
                let line_break = [&b"\r\n"[..], b"\n"].into_iter().find(|b| rest.starts_with(b));
                self.consume(line_break.map_or(0, <[u8]>::len));
                self.state = State::Between;
                continue;
            }
            let found = if self.state == State::AfterSeparator { None } else { self.boundary.find(rest) };
            if let Some((text, all)) = found {
                let after = match self.boundary {
                    Boundary::Separator(_) => State::AfterSeparator,
                    Boundary::BlankLines | Boundary::File => State::Between,
                };
                if let Some(raw) = self.take(text, all, after)? {
                    return Ok(Some(raw));
                }
            } else if rest.len() >= 2 * PIECE + self.boundary.len() {
                // What follows the cut is longer than a separator that is there in part.
                let window = &rest[..PIECE];
                let valid = match std::str::from_utf8(window) {
                    Ok(text) => text,
                    Err(error) => std::str::from_utf8(&window[..error.valid_up_to()]).unwrap_or_default(),
                };
                // Bytes that are no UTF-8 are in the piece that is refused, up to the next line.
                let is_bad = valid.len() + 4 < window.len();
                let length = if is_bad {
                    let from = valid.len();
                    window[from..].iter().position(|&b| b == b'\n').map_or(PIECE, |at| from + at + 1)
                } else {
                    cut(valid, valid.len())
                };
                if let Some(raw) = self.take(length, length, State::Inside)? {
                    return Ok(Some(raw));
                }
            } else if !self.at_end {
                self.read()?;
            } else if rest.is_empty() {
                return Ok(None);
            } else {
                let length = rest.len();
                if let Some(raw) = self.take(length, length, State::Between)? {
                    return Ok(Some(raw));
                }
            }
        }
    }

    /// Takes `text` bytes as a document or a part of one, and passes `all`.
    fn take(&mut self, text: usize, all: usize, after: State) -> Result<Option<Raw>, Failure> {
        let (line, starts) = (self.line, self.state != State::Inside);
        let bytes = self.buffer[self.consumed..self.consumed + text].to_vec();
        self.consume(all);
        self.state = after;
        match String::from_utf8(bytes) {
            Ok(text) if text.is_empty() => Ok(None),
            Ok(text) => Ok(Some(Raw { text, starts, ends: after != State::Inside, line })),
            Err(error) => {
                if after == State::Inside {
                    self.state = State::Between; // what goes on after a gap is a document of its own
                }
                let at = error.utf8_error().valid_up_to();
                let bytes = error.as_bytes();
                let line = line + count_lines(&bytes[..at]);
                let path = self.path.display();
                let what = format!("{path}:{line}: expected UTF-8, found the byte 0x{:02X}", bytes[at]);
                Err(Failure::Bad(Error::new(what)))
            }
        }
    }

    fn consume(&mut self, bytes: usize) {
        self.line += count_lines(&self.buffer[self.consumed..self.consumed + bytes]);
        self.consumed += bytes;
    }

    fn read(&mut self) -> Result<(), Failure> {
        self.buffer.drain(..self.consumed);
        self.dropped += self.consumed as u64;
        self.consumed = 0;
        let cannot =
            |error| Failure::Fatal(Error::caused_by(format!("{}: cannot read", self.path.display()), error));
        let read = (&mut self.file).take(READ as u64).read_to_end(&mut self.buffer).map_err(cannot)?;
        if self.dropped == 0 && self.buffer.len() == read && self.buffer.starts_with(BYTE_ORDER_MARK) {
            self.consumed = BYTE_ORDER_MARK.len();
        }
        self.at_end = read == 0;
        Ok(())
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&b| b == b'\n').count() as u64
}

impl Boundary {
    /// The bytes that a boundary takes, at the most.
    fn len(&self) -> usize {
        match self {
            Boundary::Separator(separator) => separator.len() + 2,
            Boundary::BlankLines => 3,
            Boundary::File => 0,
        }
    }

    /// Where the first document ends, and where what belongs to its end is over.
    fn find(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        match self {
            Boundary::Separator(separator) => {
                let at = find(bytes, separator.as_bytes())?;
                let text = &bytes[..at];
                let text = text.strip_suffix(b"\n").map_or(text, |t| t.strip_suffix(b"\r").unwrap_or(t));
                Some((text.len(), at + separator.len()))
            }
            Boundary::BlankLines => {
                let mut breaks = bytes.iter().enumerate().filter(|&(_, &b)| b == b'\n').map(|(at, _)| at + 1);
                let end = breaks.find_map(|at| {
                    let blank = [&b"\n"[..], b"\r\n"].into_iter().find(|b| bytes[at..].starts_with(b));
                    blank.map(|blank| at + blank.len())
                })?;
                Some((end, end))
            }
            Boundary::File => None,
        }
    }
}

/// Where `what` first is; nowhere if it is empty.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let (&first, _) = what.split_first()?;
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&b| b == first) {
        if bytes[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// A JSON object a line.
struct JsonLines {
    lines: Lines,
    field: Field,
}

impl JsonLines {
    fn next(&mut self) -> Result<Option<Raw>, Failure> {
        loop {
            let Some((number, line)) = self.lines.next().map_err(Failure::Fatal)? else { return Ok(None) };
            let text = text_of(&line, &self.field, number);
            let place = || format!("{}:{number}", self.lines.path().display());
            let text = text.map_err(|what| Failure::Bad(Error::new(format!("{}: {what}", place()))))?;
            if !text.is_empty() {
                return Ok(Some(Raw { text, starts: true, ends: true, line: number }));
            }
        }
    }
}

/// The text in a line of JSON.
fn text_of(line: &[u8], field: &Field, number: u64) -> Result<String, String> {
    let mut object = object_of(line, number)?;
    let Some(found) = field.names().find(|name| object.contains_key(*name)) else {
        let keys: Vec<&str> = object.keys().map(String::as_str).take(12).collect();
        return Err(format!("no field {field}; there are `{}`: name one with --field", keys.join("`, `")));
    };
    match object.get_mut(found).map(Value::take) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(format!("field `{found}`: expected a text")),
    }
}

/// A text a row.
#[cfg(feature = "parquet")]
struct Table {
    path: PathBuf,
    column: super::parquet::Column,
    bytes: u64,
    row: u64,
}

#[cfg(feature = "parquet")]
impl Table {
    fn next(&mut self) -> Result<Option<Raw>, Failure> {
        loop {
            let next = self.column.next();
            self.row += 1;
            let place = || format!("{}: row {}", self.path.display(), self.row);
            let Some(row) = next.map_err(|error| Failure::Fatal(Error::caused_by(place(), error)))? else {
                return Ok(None);
            };
            let bad = |what: &str| Failure::Bad(Error::new(format!("{}: {what}", place())));
            let bytes = row.ok_or_else(|| bad("has no text"))?;
            let text = String::from_utf8(bytes).map_err(|_| bad("expected UTF-8"))?;
            if !text.is_empty() {
                return Ok(Some(Raw { text, starts: true, ends: true, line: self.row }));
            }
        }
    }
}

#[cfg(test)]
mod tests;
