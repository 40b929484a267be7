//! A tokenizer as the metadata of a GGUF file, whatever it was read from.
//!
//! GGUF knows two kinds. `gpt2` is byte-level merges, with a name for the way in which text is cut into words. `llama` is
//! SentencePiece: a score a token, the highest is joined first. A `tokenizer.json` of the second kind holds merges too,
//! ranked by those scores, so that a score is made of the rank again: the first merge that makes a token counts.

use ahash::AHashMap;
use serde_json::Value;
use tokenizers::Model;

use crate::bpe::Bpe;
use crate::error::Error;
use crate::gguf::{GgufVocab, UNUSED};
use crate::pieces::fallback_byte;
use crate::pre::{GPT2, PRE, Pre};
use crate::spm::{Role, Spm};
use crate::tokenizer::{END_TOKENS, Encoder, Tokenizer};

const PLACE: &str = "tokenizer for GGUF";

/// `tokenizer.ggml.token_type`.
pub(super) const NORMAL: i32 = 1;
pub(super) const UNKNOWN: i32 = 2;
pub(super) const CONTROL: i32 = 3;
pub(super) const USER_DEFINED: i32 = 4;
pub(super) const BYTE: i32 = 6;
/// `tokenizer.ggml.pre` of vocabularies that do not cut text into words.
const NO_WORDS: &str = "default";

impl Tokenizer {
    /// What a GGUF file would say of this tokenizer; [`Tokenizer::from_gguf`] makes the same ids of it.
    ///
    /// # Errors
    /// What GGUF has no words for: a vocabulary that can only decode, an unknown way to cut text into words, a
    /// normalizer that changes more than spaces, marks around a text that are neither BOS nor EOS.
    pub fn to_gguf(&self) -> Result<GgufVocab, Error> {
        let mut vocab = match &self.encoder {
            Encoder::Bpe(bpe) => match words(bpe)? {
                Words::ByteLevel(pre) => byte_level(bpe, pre, self.vocab_size())?,
                Words::Whole { space_prefix } => sentence_piece(bpe, space_prefix, self.vocab_size())?,
            },
            Encoder::Spm { spm, spellings } => scores(spm, spellings),
            Encoder::DecodeOnly(why) => return Err(Error::unsupported(PLACE, *why)),
        };
        let around = |ids: &[u32], mark: Option<u32>, what: &str| match (ids, mark) {
            ([], _) => Ok(Some(false)),
            ([only], Some(mark)) if *only == mark => Ok(Some(true)),
            _ => {
                let what = format!("puts the ids {ids:?} around a text; GGUF can only say {what} ({mark:?})");
                Err(Error::unsupported(PLACE, what))
            }
        };
        vocab.add_bos = around(&self.prefix, self.bos(), "BOS")?;
        vocab.add_eos = around(&self.suffix, self.eos(), "EOS")?;
        (vocab.bos, vocab.eos) = (self.bos(), self.eos());
        let named = |name: &str| self.id(self.template_variables().get(name)?.as_str()?);
        vocab.unk = vocab.unk.or_else(|| named("unk_token"));
        vocab.pad = named("pad_token");
        // Readers know the usual ends by their text; another has to be named.
        let known = |id: u32| self.token(id).is_some_and(|token| END_TOKENS.contains(&token.as_str()));
        vocab.eot = self.end_tokens().iter().copied().find(|&id| Some(id) != self.eos() && !known(id));
        for (name, template) in &self.templates {
            let source = template.source().to_owned();
            match name.as_str() {
                "default" => vocab.chat_template = Some(source),
                name => vocab.named_templates.push((name.to_owned(), source)),
            }
        }
        Ok(vocab)
    }
}

/// How a merging tokenizer cuts its text into words.
enum Words {
    /// In one of the ways that GGUF has a name for, and writes each word's bytes.
    ByteLevel(&'static Pre),
    /// Not at all: spaces become U+2581.
    Whole {
        /// A space goes before the text.
        space_prefix: bool,
    },
}

fn words(bpe: &Bpe) -> Result<Words, Error> {
    let value =
        |value: serde_json::Result<Value>| value.map_err(|error| Error::malformed(PLACE, error.to_string()));
    let pre = value(serde_json::to_value(&bpe.pre_tokenizer))?;
    let normalizer = value(serde_json::to_value(&bpe.normalizer))?;
    let unnamed = |what: &str, value: &Value| {
        Error::unsupported(PLACE, format!("GGUF has no name for the {what} {value}"))
    };

    let mut patterns = Vec::new();
    let (mut byte_level, mut space_prefix) = (false, false);
    for step in steps(&pre, "pretokenizers") {
        let text = |name: &str| step.get(name).and_then(Value::as_str);
        let flag = |name: &str| step.get(name).and_then(Value::as_bool);
        let pattern = |kind: &str| step.get("pattern").and_then(|p| p.get(kind)).and_then(Value::as_str);
        match text("type") {
            Some("Split") if pattern("String") == Some(" ") => {} // there are no spaces left: see the normalizer
            Some("Split") if text("behavior") == Some("Isolated") && flag("invert") == Some(false) => {
                match pattern("Regex") {
                    Some(pattern) => patterns.push(pattern.to_owned()),
                    None => return Err(unnamed("pre-tokenizer", step)),
                }
            }
            Some("Digits") if flag("individual_digits") == Some(true) => patterns.push(r"\p{N}".to_owned()),
            Some("ByteLevel") if flag("add_prefix_space") == Some(false) => {
                byte_level = true;
                if flag("use_regex") != Some(false) {
                    patterns.push(GPT2.to_owned());
                }
            }
            Some("Metaspace") if text("replacement") == Some("\u{2581}") => {
                space_prefix |= text("prepend_scheme") != Some("never");
            }
            _ => return Err(unnamed("pre-tokenizer", step)),
        }
    }
    for step in steps(&normalizer, "normalizers") {
        let text = |name: &str| step.get(name).and_then(Value::as_str);
        let replaced = step.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
        match text("type") {
            // llama.cpp takes text as it is composed, and so do GGUF files of models whose tokenizer composes it.
            Some("NFC") if byte_level => {}
            Some("Prepend") if !byte_level && text("prepend") == Some("\u{2581}") => space_prefix = true,
            Some("Replace")
                if !byte_level && (replaced, text("content")) == (Some(" "), Some("\u{2581}")) => {}
            _ => return Err(unnamed("normalizer", step)),
        }
    }
    if !byte_level {
        return match patterns.first() {
            None => Ok(Words::Whole { space_prefix }),
            Some(pattern) => Err(unnamed("pre-tokenizer", &Value::String(pattern.clone()))),
        };
    }
    let known = PRE
        .iter()
        .find(|pre| pre.patterns.iter().eq(patterns.iter()) && pre.ignore_merges == bpe.model.ignore_merges);
    known.map(Words::ByteLevel).ok_or_else(|| unnamed("pre-tokenizer", &pre))
}

/// The steps of a normalizer or pre-tokenizer, sequences opened.
fn steps<'a>(value: &'a Value, list: &str) -> Vec<&'a Value> {
    match value.get(list).and_then(Value::as_array) {
        Some(inner) => inner.iter().flat_map(|inner| steps(inner, list)).collect(),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

/// Merges, best first.
fn merges(bpe: &Bpe) -> Result<Vec<(String, String)>, Error> {
    #[derive(serde::Deserialize)]
    struct Merges {
        merges: Vec<(String, String)>,
    }
    // The library keeps them to itself, but writes them.
    let written: serde_json::Result<Merges> =
        serde_json::to_value(&bpe.model).and_then(serde_json::from_value);
    written.map(|written| written.merges).map_err(|error| Error::malformed(PLACE, error.to_string()))
}

/// Tokens by id with their types; `ordinary` says what those are that were not added by hand.
fn tokens(bpe: &Bpe, size: usize, ordinary: impl Fn(&str) -> i32) -> GgufVocab {
    let mut vocab = GgufVocab::default();
    for id in (0u32..).take(size) {
        let kind = match bpe.added().get(&id) {
            Some(added) if added.special => CONTROL,
            Some(_) => USER_DEFINED,
            None => NORMAL,
        };
        match bpe.token(id) {
            Some(token) => {
                vocab.token_types.push(if kind == NORMAL { ordinary(&token) } else { kind });
                vocab.tokens.push(token);
            }
            None => {
                vocab.token_types.push(UNUSED);
                vocab.tokens.push(format!("[PAD{id}]"));
            }
        }
    }
    vocab
}

fn byte_level(bpe: &Bpe, pre: &Pre, size: usize) -> Result<GgufVocab, Error> {
    Ok(GgufVocab {
        model: "gpt2".to_owned(),
        pre: pre.names.first().map(|&name| name.to_owned()),
        merges: merges(bpe)?.into_iter().map(|(left, right)| format!("{left} {right}")).collect(),
        ..tokens(bpe, size, |_| NORMAL)
    })
}

fn sentence_piece(bpe: &Bpe, space_prefix: bool, size: usize) -> Result<GgufVocab, Error> {
    let byte_fallback = bpe.model.byte_fallback;
    let is_byte = |token: &str| byte_fallback && fallback_byte(token).is_some();
    let mut vocab = tokens(bpe, size, |token| if is_byte(token) { BYTE } else { NORMAL });
    vocab.model = "llama".to_owned();
    vocab.pre = Some(NO_WORDS.to_owned());
    vocab.add_space_prefix = Some(space_prefix);
    vocab.unk = bpe.model.unk_token.as_deref().and_then(|unk| bpe.model.token_to_id(unk));
    if let Some(kind) = vocab.unk.and_then(|unk| vocab.token_types.get_mut(unk as usize)) {
        *kind = UNKNOWN;
    }
    let mut ranks: AHashMap<String, usize> = AHashMap::new();
    for (left, right) in merges(bpe)? {
        let rank = ranks.len() + 1;
        ranks.entry(left + &right).or_insert(rank);
    }
    // A token that no merge makes comes after all others.
    let score = |token: &String| -(ranks.get(token).copied().unwrap_or(ranks.len() + 1) as f32);
    let scores = vocab.tokens.iter().zip(&vocab.token_types);
    vocab.scores = scores
        .map(|(token, &kind)| if [NORMAL, USER_DEFINED].contains(&kind) { score(token) } else { 0.0 })
        .collect();
    Ok(vocab)
}

/// Scores as GGUF has them, with the tokens and their types.
pub(super) fn scores(spm: &Spm, spellings: &[Box<str>]) -> GgufVocab {
    let mut vocab = GgufVocab {
        model: "llama".to_owned(),
        pre: Some(NO_WORDS.to_owned()),
        unk: spm.options.unk,
        add_space_prefix: Some(spm.options.space_prefix),
        ..GgufVocab::default()
    };
    for (id, spelling) in (0u32..).zip(spellings) {
        let (score, role) = spm.entry(id, spelling);
        let kind = match role {
            Role::Special if Some(id) == spm.options.unk => UNKNOWN,
            Role::Special => CONTROL,
            Role::UserDefined => USER_DEFINED,
            Role::Byte => BYTE,
            Role::Ordinary => NORMAL,
        };
        let token = match spm.options.escape_spaces {
            true => spelling.to_string(),
            false => spelling.replace(' ', "\u{2581}"),
        };
        vocab.tokens.push(token);
        vocab.scores.push(score);
        vocab.token_types.push(kind);
    }
    vocab
}
