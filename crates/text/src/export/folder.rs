//! A tokenizer as the files of a model's folder, as transformers reads them.
//!
//! `tokenizer.json` knows merges and no scores, so the scores of a SentencePiece vocabulary become merges: one for each way
//! to make a token of two others, those of the token with the highest score first (`SentencePieceExtractor` of
//! transformers does the same). Where two neighbouring pairs have equal scores the leftmost is joined first by scores, and
//! the one that is listed first by merges; the scores of trained vocabularies are all different.

use std::cmp::Ordering;

use ahash::AHashMap;
use serde_json::{Map, Value, json};

use super::gguf::{BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, scores};
use crate::bpe::Bpe;
use crate::error::Error;
use crate::folder::{Config, from_json};
use crate::gguf::GgufVocab;
use crate::spm::Spm;
use crate::tokenizer::{Encoder, Tokenizer};

const PLACE: &str = "tokenizer for a folder";

impl Tokenizer {
    /// `tokenizer.json` and `tokenizer_config.json`, each with its text; [`Tokenizer::from_folder`] makes the same ids of
    /// them. The tokens that end a text belong into `generation_config.json`, which is the model's.
    ///
    /// # Errors
    /// A vocabulary that can only decode, or one that does not come back as it was: two ids for one spelling.
    pub fn to_folder(&self) -> Result<[(&'static str, String); 2], Error> {
        let parts = match &self.encoder {
            Encoder::Bpe(bpe) => of_merges(bpe, self.pieces.strip_first_space)?,
            Encoder::Spm { spm, spellings } => of_scores(spm, spellings)?,
            Encoder::DecodeOnly(why) => return Err(Error::unsupported(PLACE, *why)),
        };
        let file = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": parts.added,
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": parts.decoder,
            "model": parts.model,
        });
        let text = file.to_string();
        self.check(&from_json(PLACE, &text, Config::default())?)?;
        let config = Value::Object(self.tokenizer_config());
        Ok([("tokenizer.json", text), ("tokenizer_config.json", format!("{config:#}\n"))])
    }

    /// The marks around a text.
    fn post_processor(&self) -> Value {
        if self.prefix.is_empty() && self.suffix.is_empty() {
            return Value::Null;
        }
        let name = |id: u32| self.token(id).unwrap_or_default();
        let mut single = Vec::new();
        let mut pair = Vec::new();
        for (sequence, type_id) in [("A", 0), ("B", 1)] {
            let mark = |&id: &u32| json!({"SpecialToken": {"id": name(id), "type_id": type_id}});
            let text = json!({"Sequence": {"id": sequence, "type_id": type_id}});
            let items: Vec<Value> =
                self.prefix.iter().map(mark).chain([text]).chain(self.suffix.iter().map(mark)).collect();
            pair.extend(items.iter().cloned());
            if type_id == 0 {
                single = items;
            }
        }
        let marks = self.prefix.iter().chain(&self.suffix);
        let special: Map<String, Value> =
            marks.map(|&id| (name(id), json!({"id": name(id), "ids": [id], "tokens": [name(id)]}))).collect();
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
    }

    fn tokenizer_config(&self) -> Map<String, Value> {
        let mut keys = self.template_variables().clone();
        for (key, mark, around) in
            [("add_bos_token", self.bos(), &self.prefix), ("add_eos_token", self.eos(), &self.suffix)]
        {
            if let Some(mark) = mark {
                keys.insert(key.to_owned(), around.contains(&mark).into());
            }
        }
        keys.insert("clean_up_tokenization_spaces".to_owned(), false.into());
        // The class that takes tokenizer.json as it is.
        keys.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
        let templates: Vec<Value> = self
            .templates
            .iter()
            .map(|(name, template)| json!({"name": name, "template": template.source()}))
            .collect();
        match self.templates.as_slice() {
            [] => {}
            [(name, only)] if name == "default" => {
                keys.insert("chat_template".to_owned(), only.source().into());
            }
            _ => {
                keys.insert("chat_template".to_owned(), templates.into());
            }
        }
        keys
    }

    /// Fails unless `read` has the same tokens and marks.
    fn check(&self, read: &Tokenizer) -> Result<(), Error> {
        let size = u32::try_from(self.vocab_size().max(read.vocab_size())).unwrap_or(u32::MAX);
        let differs = |&id: &u32| {
            self.pieces.bytes(id) != read.pieces.bytes(id) || self.is_special(id) != read.is_special(id)
        };
        if let Some(id) = (0..size).find(differs) {
            let what = format!(
                "token {id} ({:?}) cannot be written: expected it to come back as the same bytes, found {:?}; does \
                 another token have its spelling?",
                self.token(id).unwrap_or_default(),
                String::from_utf8_lossy(read.pieces.bytes(id)),
            );
            return Err(Error::unsupported(PLACE, what));
        }
        let around = |tokenizer: &Tokenizer| {
            (tokenizer.prefix.clone(), tokenizer.suffix.clone(), tokenizer.pieces.strip_first_space)
        };
        if around(self) != around(read) {
            let (prefix, suffix, _) = around(self);
            let what = format!(
                "the ids {prefix:?} and {suffix:?} around a text are not those of tokens with a spelling"
            );
            return Err(Error::unsupported(PLACE, what));
        }
        Ok(())
    }
}

/// What the two kinds of vocabularies do not have in common.
struct Parts {
    added: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

fn malformed(error: serde_json::Error) -> Error {
    Error::malformed(PLACE, error.to_string())
}

fn of_merges(bpe: &Bpe, strip_first_space: bool) -> Result<Parts, Error> {
    let mut model = serde_json::to_value(&bpe.model).map_err(malformed)?;
    let mut added: Vec<_> = bpe.added().iter().collect();
    added.sort_unstable_by_key(|(id, _)| **id);
    // transformers numbers added tokens on from the end of the vocabulary, unless they are in it.
    if let Some(Value::Object(vocab)) = model.get_mut("vocab") {
        for (id, token) in &added {
            vocab.entry(token.content.as_str()).or_insert_with(|| (**id).into());
        }
    }
    let added = added.into_iter().map(|(id, token)| {
        json!({
            "id": id,
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized,
            "special": token.special,
        })
    });
    Ok(Parts {
        added: added.collect(),
        normalizer: serde_json::to_value(&bpe.normalizer).map_err(malformed)?,
        pre_tokenizer: serde_json::to_value(&bpe.pre_tokenizer).map_err(malformed)?,
        decoder: match bpe.byte_level {
            true => byte_level(),
            false => escaped_spaces(strip_first_space),
        },
        model,
    })
}

fn of_scores(spm: &Spm, spellings: &[Box<str>]) -> Result<Parts, Error> {
    let GgufVocab { tokens, scores, token_types, unk, .. } = scores(spm, spellings);
    let vocab: Map<String, Value> =
        tokens.iter().zip(0u32..).map(|(token, id)| (token.clone(), id.into())).collect();
    let of_kinds = |kinds: &'static [i32]| {
        let all = tokens.iter().zip(&token_types).zip(0u32..);
        all.filter(|((_, kind), _)| kinds.contains(kind)).map(|((token, kind), id)| (token, *kind, id))
    };
    let added = of_kinds(&[UNKNOWN, CONTROL, USER_DEFINED]).map(|(token, kind, id)| {
        json!({
            "id": id,
            "content": token,
            "single_word": false,
            "lstrip": false,
            "rstrip": false,
            "normalized": false,
            "special": kind != USER_DEFINED,
        })
    });
    let joined: AHashMap<&str, u32> =
        of_kinds(&[NORMAL, USER_DEFINED]).map(|(token, _, id)| (token.as_str(), id)).collect();
    let mut normalizers = Vec::new();
    if spm.options.space_prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": "\u{2581}"}));
    }
    normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}));
    Ok(Parts {
        added: added.collect(),
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: escaped_spaces(spm.options.space_prefix),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unk.and_then(|unk| tokens.get(unk as usize)),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": token_types.contains(&BYTE),
            "ignore_merges": false,
            "vocab": vocab,
            "merges": merges_of(&joined, &scores),
        }),
    })
}

/// Every way to make a token of two others, the token with the highest score first.
fn merges_of<'t>(tokens: &AHashMap<&'t str, u32>, scores: &[f32]) -> Vec<(&'t str, &'t str)> {
    struct Merge<'t> {
        score: f32,
        ids: [u32; 2],
        halves: (&'t str, &'t str),
    }
    let mut all = Vec::new();
    for (&token, &id) in tokens {
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (tokens.get(left), tokens.get(right)) {
                let score = scores.get(id as usize).copied().unwrap_or(0.0);
                all.push(Merge { score, ids: [l, r], halves: (left, right) });
            }
        }
    }
    all.sort_unstable_by(|a, b| {
        let score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal); // no vocabulary has NaN
        score.then(a.ids.cmp(&b.ids))
    });
    all.into_iter().map(|merge| merge.halves).collect()
}

fn byte_level() -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})
}

fn escaped_spaces(strip_first_space: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strip_first_space {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}
