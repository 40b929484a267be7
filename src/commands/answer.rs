//! The text of an answer, from its tokens.

use std::io::{self, Write};

use anyhow::{Context, Result};
use wootz_model::generate::{StopStrings, Token};
use wootz_text::{Stream, Tokenizer};

/// An answer as it comes.
pub struct Answer {
    /// The tokens so far, the one that ended it included.
    pub tokens: Vec<Token>,
    /// The text so far, as far as it may be shown.
    pub text: String,
    stream: Option<Stream>,
    stops: StopStrings,
    end_tokens: Vec<u32>,
}

impl Answer {
    /// An answer that follows `prompt`. Without a tokenizer its text is the ids.
    pub fn new(
        tokenizer: Option<&Tokenizer>,
        prompt: &[u32],
        end_tokens: Vec<u32>,
        stops: &[String],
    ) -> Answer {
        let continues = |t: &Tokenizer| prompt.iter().any(|&id| !t.is_special(id));
        let stream = tokenizer.map(|t| if continues(t) { t.stream().continuing() } else { t.stream() });
        Answer {
            tokens: Vec::new(),
            text: String::new(),
            stream,
            stops: StopStrings::new(stops.iter().cloned()),
            end_tokens,
        }
    }

    /// Adds a token; returns what it adds to the text. Nothing once a stop string has come.
    pub fn push(&mut self, token: Token) -> String {
        let id = token.id;
        self.tokens.push(token);
        let piece = match &mut self.stream {
            _ if self.end_tokens.contains(&id) => String::new(), // how the text is said to end is no part of it
            Some(stream) => stream.push(id),
            None if self.tokens.len() == 1 => id.to_string(),
            None => format!(" {id}"),
        };
        let shown = self.stops.push(&piece);
        self.text.push_str(&shown);
        shown
    }

    /// Whether a stop string has come.
    pub fn stopped(&self) -> bool {
        self.stops.stopped()
    }

    /// The answer is complete; returns the text that was held back until that was known.
    pub fn finish(&mut self) -> String {
        let rest = self.stream.as_mut().map(Stream::finish).unwrap_or_default();
        let mut shown = self.stops.push(&rest);
        shown.push_str(&self.stops.finish());
        self.text.push_str(&shown);
        shown
    }
}

/// Writes to stdout at once. False when nobody reads it any more, which is no error.
pub fn show(text: &str) -> Result<bool> {
    if text.is_empty() {
        return Ok(true);
    }
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Writes a note to stderr; where that is closed there is nobody to tell.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Tokens a second; 0 where there was nothing to measure.
pub fn rate(tokens: usize, seconds: f64) -> f64 {
    if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
}
