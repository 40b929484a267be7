//! The tokenizer of a model, whatever file it came from.

use std::fmt;
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use serde_json::{Map, Value};

use crate::bpe::Bpe;
use crate::chat::ChatTemplate;
use crate::error::Error;
use crate::pieces::Pieces;
use crate::spm::Spm;
use crate::stream::Stream;

/// What [`Tokenizer::encode`] does about special tokens. The default is nothing: text is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Special {
    /// Put the tokens around the text that the model was trained with (BOS, EOS), as its files say.
    pub add: bool,
    /// Take special tokens that are written in the text for what they name. Never for text from outside: a user who
    /// types `<|im_end|>` would end his own turn.
    pub parse: bool,
}

/// Tokens of a text, and where in it each begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each the byte of the text that it begins at, never less than for the one before. Tokens that stand for parts
    /// of one character all begin where it does; those that were put before or after the text begin at its ends.
    pub starts: Vec<usize>,
}

impl Encoding {
    pub(crate) fn push(&mut self, id: u32, start: usize) {
        self.ids.push(id);
        self.starts.push(start);
    }
}

/// Strings to token ids and back. Shared between threads by reference or in an `Arc`.
pub struct Tokenizer {
    pub(crate) encoder: Encoder,
    pub(crate) pieces: Arc<Pieces>,
    pub(crate) prefix: Vec<u32>,
    pub(crate) suffix: Vec<u32>,
    bos: Option<u32>,
    eos: Option<u32>,
    end_tokens: Vec<u32>,
    /// Finds the special tokens, overlapping ones too.
    special_finder: Option<AhoCorasick>,
    template_variables: Map<String, Value>,
    /// By name; the first is the one to take.
    pub(crate) templates: Vec<(String, ChatTemplate)>,
}

/// How a vocabulary makes ids of text.
pub(crate) enum Encoder {
    Bpe(Box<Bpe>),
    Spm {
        spm: Box<Spm>,
        spellings: Vec<Box<str>>,
    },
    /// It cannot, for this reason.
    DecodeOnly(&'static str),
}

/// All that a file says about its tokenizer.
pub(crate) struct Parts {
    pub place: String,
    pub encoder: Encoder,
    pub pieces: Pieces,
    /// Ids before and after every text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    /// Ids that end a text, in any order, more than once if need be.
    pub ends: Vec<u32>,
    /// The texts of the special tokens.
    pub special: Vec<String>,
    pub template_variables: Map<String, Value>,
    /// Chat templates by name, `default` for the nameless.
    pub templates: Vec<(String, String)>,
}

/// Tokens by which the known model families end a turn or a text. A vocabulary that has one among its added tokens
/// means it so, whether or not its metadata says it (files often name one of two).
pub(crate) const END_TOKENS: &[&str] = &[
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
];

impl Tokenizer {
    pub(crate) fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { place, encoder, pieces, prefix, suffix, bos, eos, mut ends, special, .. } = parts;
        ends.extend(eos);
        let named = prefix.iter().chain(&suffix).chain(&bos).chain(&ends);
        if let Some(id) = named.copied().find(|&id| id as usize >= pieces.len()) {
            let what =
                format!("special token id {id} is out of range: the vocabulary has {} tokens", pieces.len());
            return Err(Error::malformed(place, what));
        }
        ends.sort_unstable();
        ends.dedup();
        let special: Vec<&String> = special.iter().filter(|text| !text.is_empty()).collect();
        let special_finder = match special.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::new(special)
                    .map_err(|error| Error::malformed(place, format!("special tokens: {error}")))?,
            ),
        };
        Ok(Tokenizer {
            encoder,
            pieces: Arc::new(pieces),
            prefix,
            suffix,
            bos,
            eos,
            end_tokens: ends,
            special_finder,
            template_variables: parts.template_variables,
            templates: parts
                .templates
                .into_iter()
                .map(|(name, source)| (name, ChatTemplate::deferred(&source)))
                .collect(),
        })
    }

    /// The ids of `text`.
    ///
    /// # Errors
    /// A vocabulary that can only decode, or one that has no way to spell a character of the text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>, Error> {
        self.encode_marked(text, special, None)
    }

    fn encode_marked(&self, text: &str, special: Special, marker: Option<char>) -> Result<Vec<u32>, Error> {
        let ids = match &self.encoder {
            Encoder::Bpe(bpe) => bpe.encode(text, special.parse, marker)?,
            Encoder::Spm { spm, .. } => spm.encode(text, special.parse, marker)?.ids,
            Encoder::DecodeOnly(why) => return Err(Error::Encode((*why).to_owned())),
        };
        Ok(match special.add {
            true => [&self.prefix[..], &ids, &self.suffix].concat(),
            false => ids,
        })
    }

    /// As [`encode`](Self::encode), and where in `text` each token begins.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encode_with_starts(&self, text: &str, special: Special) -> Result<Encoding, Error> {
        let mut encoding = self.encode_marked_with_starts(text, special.parse, None)?;
        if special.add {
            encoding.ids = [&self.prefix[..], &encoding.ids, &self.suffix].concat();
            encoding.starts.splice(0..0, self.prefix.iter().map(|_| 0));
            encoding.starts.extend(self.suffix.iter().map(|_| text.len()));
        }
        Ok(encoding)
    }

    pub(crate) fn encode_marked_with_starts(
        &self,
        text: &str,
        parse: bool,
        marker: Option<char>,
    ) -> Result<Encoding, Error> {
        match &self.encoder {
            Encoder::Bpe(bpe) => bpe.encode_with_starts(text, parse, marker),
            Encoder::Spm { spm, .. } => spm.encode(text, parse, marker),
            Encoder::DecodeOnly(why) => Err(Error::Encode((*why).to_owned())),
        }
    }

    /// The text of `ids`. Bytes that are no UTF-8 become U+FFFD, ids outside the vocabulary nothing.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut at_start = true;
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(self.pieces.text_bytes(id, skip_special, &mut at_start));
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }

    /// Decodes ids that come one at a time; leaves special tokens out unless told otherwise.
    pub fn stream(&self) -> Stream {
        Stream::new(Arc::clone(&self.pieces))
    }

    /// One more than the largest token id. A model's embedding may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The id of a token by its spelling in the vocabulary (`Ġthe`, `▁the`, `<|im_end|>`).
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.encoder {
            Encoder::Bpe(bpe) => bpe.id(token),
            Encoder::Spm { spm, .. } => spm.id(token),
            Encoder::DecodeOnly(_) => {
                let ids = 0..u32::try_from(self.pieces.len()).unwrap_or(u32::MAX);
                ids.into_iter().find(|&id| self.pieces.bytes(id) == token.as_bytes())
            }
        }
    }

    /// The spelling of a token in the vocabulary; the bytes, made into UTF-8, where the vocabulary has only those.
    pub fn token(&self, id: u32) -> Option<String> {
        if id as usize >= self.pieces.len() {
            return None;
        }
        let spelling = match &self.encoder {
            Encoder::Bpe(bpe) => bpe.token(id),
            Encoder::Spm { spellings, .. } => spellings.get(id as usize).map(|text| text.to_string()),
            Encoder::DecodeOnly(_) => None,
        };
        Some(spelling.unwrap_or_else(|| String::from_utf8_lossy(self.pieces.bytes(id)).into_owned()))
    }

    /// The bytes that a token stands for: often a part of a character, nothing for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.pieces.bytes(id).to_vec()
    }

    /// Whether a token is a mark of the format (beginning, end, turn) and no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.is_special(id)
    }

    /// The token before every text, for models that have one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token after every text. [`end_tokens`](Self::end_tokens) is what generation stops at.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Every token that ends a generation, ascending: those that the files name (end of text, of turn, of message),
    /// and added tokens that are known to mean it.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// The model's own chat template.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.templates.first().map(|(_, template)| template)
    }

    /// A chat template by name, for models that carry several (`default`, `tool_use`, `rag`).
    pub fn chat_template_named(&self, name: &str) -> Option<&ChatTemplate> {
        self.templates.iter().find(|(other, _)| other == name).map(|(_, template)| template)
    }

    /// Takes another template in place of all of the model's own.
    pub fn set_chat_template(&mut self, template: ChatTemplate) {
        self.templates = vec![("default".to_owned(), template)];
    }

    /// What the model gives its template besides the conversation: `bos_token`, `eos_token` and the like.
    pub fn template_variables(&self) -> &Map<String, Value> {
        &self.template_variables
    }

    /// The prompt that the model's template makes of `variables` (`messages`, `tools`, `add_generation_prompt`, ...),
    /// which stand over the model's own. With tools, a model's `tool_use` template is taken if it has one.
    ///
    /// # Errors
    /// No template, one that cannot be rendered, or one that refuses the conversation.
    pub fn render_chat(&self, variables: &Map<String, Value>) -> Result<String, Error> {
        self.template_for(variables)?.render(&self.with_own_variables(variables))
    }

    pub(crate) fn template_for(&self, variables: &Map<String, Value>) -> Result<&ChatTemplate, Error> {
        let has_tools = variables.get("tools").is_some_and(|tools| !tools.is_null());
        let for_tools = self.chat_template_named("tool_use").filter(|_| has_tools);
        for_tools.or_else(|| self.chat_template()).ok_or_else(|| {
            Error::Template("the model has none; give one with --template, or use plain text".to_owned())
        })
    }

    pub(crate) fn with_own_variables(&self, variables: &Map<String, Value>) -> Map<String, Value> {
        let mut all = self.template_variables.clone();
        all.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
        all
    }

    /// The ids of [`render_chat`](Self::render_chat)'s prompt. Special tokens are those that the template wrote:
    /// what a message says is text, even if it spells one.
    ///
    /// # Errors
    /// Those of [`render_chat`](Self::render_chat) and [`encode`](Self::encode).
    pub fn encode_chat(&self, variables: &Map<String, Value>) -> Result<Vec<u32>, Error> {
        let (shielded, marker) = self.shielded(variables)?;
        let prompt = self.render_chat(&shielded)?;
        self.encode_marked(&prompt, Special { add: false, parse: true }, marker)
    }

    /// The variables with a character that no text has, in what looks like a special token and is none: it is to be
    /// taken out again after the true ones were found.
    pub(crate) fn shielded(
        &self,
        variables: &Map<String, Value>,
    ) -> Result<(Map<String, Value>, Option<char>), Error> {
        let Some(finder) = &self.special_finder else { return Ok((variables.clone(), None)) };
        let marker =
            noncharacters().find(|&marker| !variables.iter().any(|(_, value)| contains(value, marker)));
        let Some(marker) = marker else {
            return Err(Error::Encode("the conversation holds all of Unicode's noncharacters".to_owned()));
        };
        let shielded = variables.iter().map(|(name, value)| {
            let own = name.ends_with("_token"); // overrides of the model's marks are marks
            (name.clone(), if own { value.clone() } else { shield(value, finder, marker) })
        });
        Ok((shielded.collect(), Some(marker)))
    }
}

/// Code points that Unicode will never give to a character. The last three of them mark what the assistant says
/// (`turns`).
fn noncharacters() -> impl Iterator<Item = char> {
    '\u{FDD0}'..='\u{FDEC}'
}

/// Whether a text in `value` has this character.
pub(crate) fn contains(value: &Value, marker: char) -> bool {
    match value {
        Value::String(text) => text.contains(marker),
        Value::Array(items) => items.iter().any(|item| contains(item, marker)),
        Value::Object(map) => map.iter().any(|(key, item)| key.contains(marker) || contains(item, marker)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn shield(value: &Value, finder: &AhoCorasick, marker: char) -> Value {
    let shield_text = |text: &str| {
        // One marker after the first character of each token; a token of one character gets it before.
        let mut at: Vec<usize> = finder
            .find_overlapping_iter(text)
            .map(|found| {
                let first = text[found.range()].chars().next().map_or(0, char::len_utf8);
                if first < found.len() { found.start() + first } else { found.start() }
            })
            .collect();
        at.sort_unstable();
        at.dedup();
        let mut shielded = text.to_owned();
        at.into_iter().rev().for_each(|at| shielded.insert(at, marker));
        shielded
    };
    match value {
        Value::String(text) => Value::String(shield_text(text)),
        Value::Array(items) => items.iter().map(|item| shield(item, finder, marker)).collect(),
        Value::Object(map) => Value::Object(
            map.iter().map(|(key, item)| (shield_text(key), shield(item, finder, marker))).collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.encoder {
            Encoder::Bpe(_) => "merges",
            Encoder::Spm { .. } => "scores",
            Encoder::DecodeOnly(_) => "decode only",
        };
        f.debug_struct("Tokenizer")
            .field("kind", &kind)
            .field("vocab_size", &self.vocab_size())
            .field("bos", &self.bos)
            .field("end_tokens", &self.end_tokens)
            .finish_non_exhaustive()
    }
}
