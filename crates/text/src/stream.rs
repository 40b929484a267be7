//! Text from ids that come one at a time.

use std::sync::Arc;

use crate::pieces::Pieces;

/// Decodes a token at a time. What [`push`](Stream::push) returns is always whole characters: bytes of a character
/// that is not complete yet wait for the next token. All that was returned, up to and with
/// [`finish`](Stream::finish), is what [`Tokenizer::decode`](crate::Tokenizer::decode) makes of the whole.
///
/// It holds its own reference to the vocabulary, so it may outlive a borrow of the tokenizer and move to another thread.
#[derive(Clone, Debug)]
pub struct Stream {
    pieces: Arc<Pieces>,
    pending: Vec<u8>,
    at_start: bool,
    skip_special: bool,
}

impl Stream {
    pub(crate) fn new(pieces: Arc<Pieces>) -> Self {
        Stream { pieces, pending: Vec::new(), at_start: true, skip_special: true }
    }

    /// Writes special tokens out too (they are left out otherwise).
    pub fn with_special(mut self) -> Self {
        self.skip_special = false;
        self
    }

    /// The text goes on from an earlier one, such as a prompt: a leading space is part of it. Without this, the space
    /// that SentencePiece vocabularies write before the first word of a text is taken away.
    pub fn continuing(mut self) -> Self {
        self.at_start = false;
        self
    }

    /// The characters that token `id` completes; often none, sometimes several. An id outside the vocabulary
    /// adds nothing, bytes that are no UTF-8 give U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        let bytes = self.pieces.text_bytes(id, self.skip_special, &mut self.at_start);
        if bytes.is_empty() {
            return String::new();
        }
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    // No length: the bytes are the beginning of a character. Otherwise they can never become one.
                    let Some(wrong) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[wrong..];
                }
            }
        }
        let keep = self.pending.len() - rest.len();
        self.pending.drain(..keep);
        text
    }

    /// What is left when no more tokens come: nothing, or U+FFFD for a character that was cut off.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}
