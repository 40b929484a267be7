//! Tokenizers from the metadata of GGUF files.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::bpe::{Bpe, BpeParts};
use crate::error::Error;
use crate::pieces::{Pieces, byte_level_bytes, fallback_byte};
use crate::pre::{PRE, Pre};
use crate::spm::{Role, Spm, SpmOptions, SpmToken};
use crate::tokenizer::{END_TOKENS, Encoder, Parts, Tokenizer};

/// The token type of an id that no text has.
pub(crate) const UNUSED: i32 = 5;

/// What a GGUF file's metadata says about its tokenizer, each field under the key that its comment names
/// (`tokenizer.ggml.` before it where there is no other prefix).
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `model`: `gpt2` (merges) or `llama` (scores).
    pub model: String,
    /// `pre`: how the text is cut into words, for `gpt2`.
    pub pre: Option<String>,
    /// `tokens`, in the order of their ids.
    pub tokens: Vec<String>,
    /// `scores`, one a token, for `llama`.
    pub scores: Vec<f32>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. None: all normal.
    pub token_types: Vec<i32>,
    /// `merges`, best first, each two tokens with a space between, for `gpt2`.
    pub merges: Vec<String>,
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `eot_token_id`: end of turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: end of message.
    pub eom: Option<u32>,
    /// `unknown_token_id`
    pub unk: Option<u32>,
    /// `padding_token_id`
    pub pad: Option<u32>,
    /// `add_bos_token`
    pub add_bos: Option<bool>,
    /// `add_eos_token`
    pub add_eos: Option<bool>,
    /// `add_space_prefix`
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.NAME`, as (NAME, template).
    pub named_templates: Vec<(String, String)>,
}

impl Tokenizer {
    /// The tokenizer of a GGUF file.
    ///
    /// # Errors
    /// A kind of vocabulary that is not supported, or one that contradicts itself.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Self, Error> {
        if vocab.model == GgufVocab::NO_MODEL {
            return Err(Error::malformed("tokenizer.ggml.model", "the file says that it holds no tokenizer"));
        }
        if vocab.tokens.is_empty() {
            return Err(Error::malformed("tokenizer.ggml.tokens", "is empty, expected the vocabulary"));
        }
        if !vocab.token_types.is_empty() && vocab.token_types.len() != vocab.tokens.len() {
            let what = format!("has {} entries for {} tokens", vocab.token_types.len(), vocab.tokens.len());
            return Err(Error::malformed("tokenizer.ggml.token_type", what));
        }
        let named_ids = [
            ("bos_token_id", vocab.bos),
            ("eos_token_id", vocab.eos),
            ("eot_token_id", vocab.eot),
            ("eom_token_id", vocab.eom),
            ("unknown_token_id", vocab.unk),
            ("padding_token_id", vocab.pad),
        ];
        for (key, id) in named_ids {
            if let Some(id) = id.filter(|&id| id as usize >= vocab.tokens.len()) {
                let what = format!("{id} is out of range: there are {} tokens", vocab.tokens.len());
                return Err(Error::malformed(format!("tokenizer.ggml.{key}"), what));
            }
        }
        match vocab.model.as_str() {
            "gpt2" => merges(vocab),
            "llama" => scores(vocab),
            other => Err(Error::unsupported(
                "tokenizer.ggml.model",
                format!("`{other}` is not supported; supported are `gpt2` (merges) and `llama` (scores)"),
            )),
        }
    }
}

impl GgufVocab {
    /// `model` of a file without a vocabulary.
    pub const NO_MODEL: &str = "none";

    /// Appends tokens that stand for nothing until there are `size`: a GGUF file names every row of its embedding.
    pub fn pad(&mut self, size: usize) {
        for id in self.tokens.len()..size {
            self.tokens.push(format!("[PAD{id}]"));
            self.token_types.push(UNUSED);
            if !self.scores.is_empty() {
                self.scores.push(0.0);
            }
        }
    }

    fn role(&self, id: usize) -> Role {
        match self.token_types.get(id) {
            Some(2 | 3) => Role::Special,
            Some(4) => Role::UserDefined,
            Some(6) => Role::Byte,
            // Some converters left the type of the marks at "normal".
            _ if self.is_named_mark(id) => Role::Special,
            _ => Role::Ordinary,
        }
    }

    fn is_named_mark(&self, id: usize) -> bool {
        let marks = [self.bos, self.eos, self.eot, self.eom];
        let token = &self.tokens[id];
        let named = marks.into_iter().flatten().any(|mark| mark as usize == id)
            || END_TOKENS.contains(&token.as_str());
        named && token.starts_with(['<', '[']) && token.ends_with(['>', ']'])
    }

    /// The rest of the parts, which do not depend on the kind of vocabulary.
    fn parts(self, encoder: Encoder, pieces: Pieces, roles: &[Role], add_bos: bool) -> Parts {
        let added = |role: &Role| matches!(role, Role::Special | Role::UserDefined);
        let known_ends = self.tokens.iter().zip(roles).zip(0u32..).filter_map(|((token, role), id)| {
            (added(role) && END_TOKENS.contains(&token.as_str())).then_some(id)
        });
        let ends = [self.eot, self.eom].into_iter().flatten().chain(known_ends).collect();
        let specials = self.tokens.iter().zip(roles).filter(|&(_, role)| *role == Role::Special);
        let special = specials.map(|(token, _)| token.clone()).collect();
        let mut template_variables = Map::new();
        let names = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unk),
            ("pad_token", self.pad),
        ];
        for (name, id) in names {
            if let Some(token) = id.and_then(|id| self.tokens.get(id as usize)) {
                template_variables.insert(name.to_owned(), Value::String(token.clone()));
            }
        }
        let default = self.chat_template.map(|source| ("default".to_owned(), source));
        Parts {
            place: "tokenizer.ggml".to_owned(),
            encoder,
            pieces,
            prefix: self.bos.filter(|_| self.add_bos.unwrap_or(add_bos)).into_iter().collect(),
            suffix: self.eos.filter(|_| self.add_eos.unwrap_or(false)).into_iter().collect(),
            bos: self.bos,
            eos: self.eos,
            ends,
            special,
            template_variables,
            templates: default.into_iter().chain(self.named_templates).collect(),
        }
    }
}

/// Byte-level merges, `gpt2`.
fn merges(mut vocab: GgufVocab) -> Result<Tokenizer, Error> {
    let pre = match vocab.pre.as_deref() {
        None => &PRE[0],
        Some(name) => Pre::find(name).ok_or_else(|| {
            let what = format!("`{name}` is not supported; supported are {}", Pre::names());
            Error::unsupported("tokenizer.ggml.pre", what)
        })?,
    };
    let roles: Vec<Role> = (0..vocab.tokens.len()).map(|id| vocab.role(id)).collect();
    let mut pieces = Pieces::default();
    let mut parts = BpeParts {
        ignore_merges: pre.ignore_merges,
        pre_tokenizer: Some(pre.build()?),
        byte_level: true,
        ..BpeParts::default()
    };
    parts.vocab.reserve(vocab.tokens.len());
    for ((id, token), &role) in (0u32..).zip(&vocab.tokens).zip(&roles) {
        match role {
            Role::Special | Role::UserDefined => {
                let special = role == Role::Special;
                pieces.push(token.as_bytes(), special);
                parts.added.push((id, AddedToken::from(token.as_str(), special).normalized(false)));
            }
            Role::Ordinary | Role::Byte => {
                pieces.push(&byte_level_bytes(token), false);
                parts.vocab.insert(token.clone(), id);
            }
        }
    }
    parts.merges.reserve(vocab.merges.len());
    for (rank, merge) in std::mem::take(&mut vocab.merges).into_iter().enumerate() {
        // A token never holds a space, but a merge may begin with one in old files.
        let (left, right) = merge
            .char_indices()
            .skip(1)
            .find(|&(_, c)| c == ' ')
            .map_or((&merge[..], ""), |(at, _)| (&merge[..at], &merge[at + 1..]));
        if right.is_empty() {
            let what = format!("merge {rank} is `{merge}`, expected two tokens with a space between");
            return Err(Error::malformed("tokenizer.ggml.merges", what));
        }
        parts.merges.push((left.to_owned(), right.to_owned()));
    }
    let encoder = Encoder::Bpe(Box::new(Bpe::new("tokenizer.ggml", parts)?));
    Tokenizer::new(vocab.parts(encoder, pieces, &roles, pre.add_bos))
}

/// SentencePiece scores, `llama`.
fn scores(mut vocab: GgufVocab) -> Result<Tokenizer, Error> {
    let size = vocab.tokens.len();
    if vocab.scores.len() != size {
        let what = format!("has {} entries for {size} tokens", vocab.scores.len());
        return Err(Error::malformed("tokenizer.ggml.scores", what));
    }
    // The ids that SentencePiece gives them where the file is silent.
    let or_usual = |id: Option<u32>, usual: u32, name: &str| {
        id.or_else(|| (vocab.tokens.get(usual as usize).map(String::as_str) == Some(name)).then_some(usual))
    };
    let (unk, bos, eos) =
        (or_usual(vocab.unk, 0, "<unk>"), or_usual(vocab.bos, 1, "<s>"), or_usual(vocab.eos, 2, "</s>"));
    (vocab.unk, vocab.bos, vocab.eos) = (unk, bos, eos);

    let space_prefix = vocab.add_space_prefix.unwrap_or(true);
    let roles: Vec<Role> = (0..size).map(|id| vocab.role(id)).collect();
    let mut pieces = Pieces::new(space_prefix);
    for (token, role) in vocab.tokens.iter().zip(&roles) {
        match role {
            Role::Special => pieces.push(token.as_bytes(), true),
            Role::Byte => pieces.push(fallback_byte(token).as_slice(), false),
            Role::Ordinary | Role::UserDefined => {
                pieces.push(token.replace('\u{2581}', " ").as_bytes(), false)
            }
        }
    }
    let tokens = vocab.tokens.iter().zip(&vocab.scores).zip(&roles);
    let tokens = tokens.map(|((text, &score), &role)| SpmToken { text, score, role });
    let spm =
        Spm::new("tokenizer.ggml", tokens, SpmOptions { escape_spaces: true, space_prefix, unk: vocab.unk })?;
    let spellings = vocab.tokens.iter().map(|token| token.as_str().into()).collect();
    let encoder = Encoder::Spm { spm: Box::new(spm), spellings };
    Tokenizer::new(vocab.parts(encoder, pieces, &roles, true))
}
