//! llama2.c's `tokenizer.bin`: SentencePiece tokens with scores.
//!
//! A 32-bit little-endian length of the longest token, then for each token its score (f32), its length (i32) and its
//! bytes. Spaces are spaces; ids 0, 1, 2 are unknown, begin and end; `<0xNN>` are bytes.

use serde_json::{Map, Value};

use crate::error::Error;
use crate::pieces::{Pieces, fallback_byte};
use crate::spm::{Role, Spm, SpmOptions, SpmToken};
use crate::tokenizer::{Encoder, Parts, Tokenizer};

const PLACE: &str = "llama2.c tokenizer.bin";
const UNK: u32 = 0;
const BOS: u32 = 1;
const EOS: u32 = 2;

impl Tokenizer {
    /// Reads llama2.c's `tokenizer.bin`, which does not say how many tokens it has: the model's vocabulary size does.
    ///
    /// # Errors
    /// A file that does not hold exactly that many tokens.
    pub fn from_llama2c(bytes: &[u8], vocab_size: usize) -> Result<Self, Error> {
        let malformed = |what: String| Error::malformed(PLACE, what);
        let mut reader = Reader(bytes);
        let longest = reader.word().map(i32::from_le_bytes);
        let Some(longest) = longest.and_then(|longest| usize::try_from(longest).ok()) else {
            return Err(malformed("no length of the longest token at its beginning".to_owned()));
        };
        // Every token takes eight bytes at the least.
        if vocab_size <= EOS as usize || vocab_size > reader.0.len() / 8 {
            return Err(malformed(format!("{} bytes cannot hold {vocab_size} tokens", bytes.len())));
        }
        let mut tokens: Vec<(Box<str>, f32)> = Vec::with_capacity(vocab_size);
        for id in 0..vocab_size {
            let token =
                reader.token().ok_or_else(|| malformed(format!("ends within token {id} of {vocab_size}")))?;
            let (score, text) = token;
            if text.len() > longest {
                return Err(malformed(format!(
                    "token {id} has {} bytes, the longest has {longest}",
                    text.len()
                )));
            }
            let text = std::str::from_utf8(text).map_err(|_| malformed(format!("token {id} is no UTF-8")))?;
            // The marks are written on lines of their own, "\n<s>\n".
            let text = if id <= EOS as usize { text.trim() } else { text };
            tokens.push((text.into(), score));
        }
        if !reader.0.is_empty() {
            let what = format!("{} bytes after token {vocab_size}; is this another model's?", reader.0.len());
            return Err(malformed(what));
        }

        let role = |id: usize, text: &str| match () {
            () if id <= EOS as usize => Role::Special,
            () if fallback_byte(text).is_some() => Role::Byte,
            () => Role::Ordinary,
        };
        let mut pieces = Pieces::new(true);
        for (id, (text, _)) in tokens.iter().enumerate() {
            match role(id, text) {
                Role::Byte => pieces.push(fallback_byte(text).as_slice(), false),
                role => pieces.push(text.as_bytes(), role == Role::Special),
            }
        }
        let entries = tokens.iter().enumerate();
        let entries =
            entries.map(|(id, (text, score))| SpmToken { text, score: *score, role: role(id, text) });
        let options = SpmOptions { escape_spaces: false, space_prefix: true, unk: Some(UNK) };
        let spm = Spm::new(PLACE, entries, options)?;
        let mark = |id: u32| tokens[id as usize].0.to_string();
        let template_variables: Map<String, Value> = [("bos_token", BOS), ("eos_token", EOS)]
            .map(|(name, id)| (name.to_owned(), mark(id).into()))
            .into_iter()
            .collect();
        Tokenizer::new(Parts {
            place: PLACE.to_owned(),
            special: vec![mark(UNK), mark(BOS), mark(EOS)],
            encoder: Encoder::Spm {
                spm: Box::new(spm),
                spellings: tokens.into_iter().map(|(text, _)| text).collect(),
            },
            pieces,
            prefix: vec![BOS],
            suffix: Vec::new(),
            bos: Some(BOS),
            eos: Some(EOS),
            ends: Vec::new(),
            template_variables,
            templates: Vec::new(),
        })
    }
}

/// What is left of the file.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn word(&mut self) -> Option<[u8; 4]> {
        self.take(4)?.try_into().ok()
    }

    fn token(&mut self) -> Option<(f32, &'a [u8])> {
        let score = f32::from_le_bytes(self.word()?);
        let length = usize::try_from(i32::from_le_bytes(self.word()?)).ok()?;
        Some((score, self.take(length)?))
    }
}
