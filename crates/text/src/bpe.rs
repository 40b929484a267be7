//! Vocabularies that come as merges: byte-level ones (GPT-2, Llama 3, Qwen, Mistral-Nemo) and SentencePiece ones in
//! the form of a `tokenizer.json`. The work is done by the parts of the `tokenizers` crate.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ahash::AHashMap;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    Token,
};

use crate::error::Error;
use crate::pieces::byte_to_char;
use crate::tokenizer::Encoding;

/// All that makes a merging tokenizer, as a file gave it.
#[derive(Default)]
pub(crate) struct BpeParts {
    pub vocab: AHashMap<String, u32>,
    pub merges: Vec<(String, String)>,
    pub unk_token: Option<String>,
    pub fuse_unk: bool,
    pub byte_fallback: bool,
    /// A word that is a token is that token, whatever the merges would make of it.
    pub ignore_merges: bool,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    /// Tokens that are found in the text before it is split, with their ids.
    pub added: Vec<(u32, AddedToken)>,
    /// The vocabulary spells bytes as [`byte_to_char`] does.
    pub byte_level: bool,
}

pub(crate) struct Bpe {
    pub model: BPE,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    /// The vocabulary spells bytes as [`byte_to_char`] does.
    pub byte_level: bool,
    /// Finds added tokens that are not special.
    ordinary: AddedVocabulary,
    /// Finds special tokens too.
    parsing: AddedVocabulary,
    /// Bytes that a byte-level vocabulary has no token for; the library would leave them out without a word.
    missing: Vec<u8>,
}

impl Bpe {
    pub fn new(place: &str, parts: BpeParts) -> Result<Self, Error> {
        let malformed = |what: String| Error::malformed(place, what);
        // The library's builder reads merges into a buffer as long as the longest token.
        let longest = parts.vocab.keys().map(String::len).max().unwrap_or(0);
        for (rank, (left, right)) in parts.merges.iter().enumerate() {
            if left.len() + right.len() > longest {
                return Err(malformed(format!("merge {rank} makes `{left}{right}`, which is no token")));
            }
        }
        if let Some(unk) = &parts.unk_token
            && !parts.vocab.contains_key(unk)
        {
            return Err(malformed(format!("the unknown token `{unk}` is not in the vocabulary")));
        }
        let missing = (0..=255u8)
            .filter(|_| parts.byte_level && parts.unk_token.is_none())
            .filter(|&byte| !parts.vocab.contains_key(byte_to_char(byte).encode_utf8(&mut [0; 4]) as &str))
            .collect();

        let mut builder = BPE::builder()
            .vocab_and_merges(parts.vocab, parts.merges)
            .fuse_unk(parts.fuse_unk)
            .byte_fallback(parts.byte_fallback)
            .ignore_merges(parts.ignore_merges);
        if let Some(unk) = parts.unk_token {
            builder = builder.unk_token(unk);
        }
        let model = builder.build().map_err(|error| malformed(format!("merges: {error}")))?;

        let ids = Ids(parts.added.iter().map(|(id, token)| (token.content.clone(), *id)).collect());
        let mut parsing = AddedVocabulary::new();
        parsing
            .add_tokens(parts.added.into_iter().map(|(_, token)| token), &ids, parts.normalizer.as_ref())
            .map_err(|error| malformed(format!("added tokens: {error}")))?;
        let mut ordinary = parsing.clone();
        ordinary.set_encode_special_tokens(true);
        Ok(Bpe {
            model,
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            byte_level: parts.byte_level,
            ordinary,
            parsing,
            missing,
        })
    }

    /// The ids of `text`. With `parse`, special tokens in the text are recognised; `marker`, if any, is a character
    /// that keeps the text around it from being a special token and is then left out.
    pub fn encode(&self, text: &str, parse: bool, marker: Option<char>) -> Result<Vec<u32>, Error> {
        let parts = self.tokenize(text, parse, marker)?;
        let splits = parts.get_splits(OffsetReferential::Original, OffsetType::None);
        let tokens = splits.iter().filter_map(|(_, _, tokens)| tokens.as_ref()).flatten();
        Ok(tokens.map(|token| token.id).collect())
    }

    /// As [`encode`](Self::encode), and where in `text` each token begins.
    pub fn encode_with_starts(
        &self,
        text: &str,
        parse: bool,
        marker: Option<char>,
    ) -> Result<Encoding, Error> {
        let parts = self.tokenize(text, parse, marker)?;
        let encoding = parts.into_encoding(None, 0, OffsetType::Byte).map_err(failed)?;
        let starts = encoding.get_offsets().iter().map(|&(start, _)| start).collect();
        Ok(Encoding { ids: encoding.get_ids().to_vec(), starts })
    }

    fn tokenize(&self, text: &str, parse: bool, marker: Option<char>) -> Result<PreTokenizedString, Error> {
        if !self.missing.is_empty() {
            let kept: String = text.chars().filter(|&c| Some(c) != marker).collect();
            if let Some(byte) = kept.bytes().find(|byte| self.missing.contains(byte)) {
                return Err(Error::Encode(format!("the vocabulary has no token for the byte 0x{byte:02X}")));
            }
        }
        let added = if parse { &self.parsing } else { &self.ordinary };
        let mut parts = added.extract_and_normalize(self.normalizer.as_ref(), text);
        if let Some(marker) = marker {
            parts.normalize(|part| part.replace(marker, "")).map_err(failed)?;
        }
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut parts).map_err(failed)?;
        }
        parts.tokenize(|part| self.model.tokenize(part.get())).map_err(failed)?;
        Ok(parts)
    }

    /// The id of the token that is spelled `token` in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token, &self.model)
    }

    /// The tokens that are found in the text before it is split, with their ids.
    pub fn added(&self) -> &AHashMap<u32, AddedToken> {
        self.parsing.get_added_tokens_decoder()
    }

    /// How the vocabulary spells a token.
    pub fn token(&self, id: u32) -> Option<String> {
        let added = self.parsing.get_added_tokens_decoder().get(&id);
        added.map(|token| token.content.clone()).or_else(|| self.model.id_to_token(id))
    }
}

fn failed(error: tokenizers::Error) -> Error {
    Error::Encode(error.to_string())
}

/// Gives added tokens the ids that their file states: the library asks the model for them, and would number them on
/// from its end otherwise.
struct Ids(AHashMap<String, u32>);

impl Model for Ids {
    type Trainer = BpeTrainer;

    fn tokenize(&self, _: &str) -> tokenizers::Result<Vec<Token>> {
        Ok(Vec::new())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.get(token).copied()
    }

    fn id_to_token(&self, _: u32) -> Option<String> {
        None
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        HashMap::new()
    }

    fn get_vocab_size(&self) -> usize {
        0
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
