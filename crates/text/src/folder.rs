//! Tokenizers of model folders, as transformers writes them: `tokenizer.json` and the small files around it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use ahash::AHashMap;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::bpe::{Bpe, BpeParts};
use crate::error::Error;
use crate::pieces::{Pieces, byte_level_bytes, fallback_byte};
use crate::tokenizer::{END_TOKENS, Encoder, Parts, Tokenizer};
use crate::train::END_OF_TEXT;

impl Tokenizer {
    /// Reads `tokenizer.json` and, where they are there, `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json`, `config.json` and `chat_template.jinja`.
    ///
    /// # Errors
    /// No `tokenizer.json`, a kind of tokenizer that is not supported, or a file that contradicts itself.
    pub fn from_folder(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        let text = read(&path)?.ok_or_else(|| missing(dir))?;
        let config = Config::read(dir)?;
        from_json(&path.display().to_string(), &text, config)
    }

    /// Reads a `tokenizer.json` that stands alone. `<|endoftext|>`, if it is a special token, begins and ends a text;
    /// other files name their tokens for that in the files around it. `place` names the file in messages.
    ///
    /// # Errors
    /// Those of [`from_folder`](Self::from_folder).
    pub fn from_json(place: &str, text: &str) -> Result<Self, Error> {
        let mut config = Config::default();
        for name in ["bos_token", "eos_token"].into_iter().filter(|_| text.contains(END_OF_TEXT)) {
            config.special.insert(name.to_owned(), Value::String(END_OF_TEXT.to_owned()));
        }
        from_json(place, text, config)
    }
}

/// The text of a file; none if there is no such file.
fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

fn read_json(path: &Path) -> Result<Map<String, Value>, Error> {
    let Some(text) = read(path)? else {
        return Ok(Map::new());
    };
    serde_json::from_str(&text)
        .map_err(|error| Error::malformed(path.display().to_string(), error.to_string()))
}

fn missing(dir: &Path) -> Error {
    let other = ["tokenizer.model", "vocab.json"].iter().find(|name| dir.join(name).exists());
    match other {
        Some(other) => Error::unsupported(
            dir.display().to_string(),
            format!("holds {other} but no tokenizer.json; transformers' `save_pretrained` writes one"),
        ),
        None => Error::malformed(
            dir.display().to_string(),
            "holds no tokenizer.json; a model's folder has one beside its config.json",
        ),
    }
}

/// What the small files say.
#[derive(Default)]
pub(crate) struct Config {
    /// `bos_token` and the like, with their contents.
    special: Map<String, Value>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    end_ids: BTreeSet<u32>,
    templates: Vec<(String, String)>,
}

impl Config {
    fn read(dir: &Path) -> Result<Self, Error> {
        let tokenizer_config = read_json(&dir.join("tokenizer_config.json"))?;
        let mut config = Config {
            add_bos: tokenizer_config.get("add_bos_token").and_then(Value::as_bool),
            add_eos: tokenizer_config.get("add_eos_token").and_then(Value::as_bool),
            ..Config::default()
        };
        for source in [read_json(&dir.join("special_tokens_map.json"))?, tokenizer_config.clone()] {
            for name in
                ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"]
            {
                if let Some(content) = source.get(name).and_then(token_content) {
                    config.special.insert(name.to_owned(), Value::String(content.to_owned()));
                }
            }
        }
        for name in ["generation_config.json", "config.json"] {
            let path = dir.join(name);
            let file = read_json(&path)?;
            let nested = file.get("text_config").and_then(|text| text.get("eos_token_id"));
            for value in [file.get("eos_token_id"), nested].into_iter().flatten() {
                config.end_ids.extend(token_ids(value, &path)?);
            }
        }
        // A template in a file of its own is the newer form, and stands over the other.
        match read(&dir.join("chat_template.jinja"))? {
            Some(source) => config.templates.push(("default".to_owned(), source)),
            None => config.templates = templates(tokenizer_config.get("chat_template")),
        }
        Ok(config)
    }
}

/// A token is written as its text, or as an object that holds it.
fn token_content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn token_ids(value: &Value, path: &Path) -> Result<Vec<u32>, Error> {
    let id = |value: &Value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let what = format!("eos_token_id is `{value}`, expected a token id or a list of them");
            Error::malformed(path.display().to_string(), what)
        })
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items.iter().map(id).collect(),
        single => Ok(vec![id(single)?]),
    }
}

/// One template, or a list of named ones; the one called `default` comes first.
fn templates(value: Option<&Value>) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = match value {
        Some(Value::String(source)) => vec![("default".to_owned(), source.clone())],
        Some(Value::Array(items)) => items
            .iter()
            .filter_map(|item| {
                Some((item.get("name")?.as_str()?.to_owned(), item.get("template")?.as_str()?.to_owned()))
            })
            .collect(),
        _ => Vec::new(),
    };
    found.sort_by_key(|(name, _)| name != "default");
    found
}

#[derive(serde::Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: Model,
}

#[derive(serde::Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

#[derive(serde::Deserialize)]
struct Model {
    /// Files from before there were others leave it out.
    r#type: Option<String>,
    vocab: AHashMap<String, u32>,
    merges: Vec<Merge>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Two tokens: `["Ġ", "t"]`, or `"Ġ t"` in older files.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a merge: two tokens, in a list or with a space between")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                let (left, right) =
                    text.split_once(' ').ok_or_else(|| E::custom(format!("merge `{text}` has no space")))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let short = |length| serde::de::Error::invalid_length(length, &self);
                let left = seq.next_element()?.ok_or_else(|| short(0))?;
                let right = seq.next_element()?.ok_or_else(|| short(1))?;
                match seq.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Merge(left, right)),
                    Some(_) => Err(short(3)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The tokenizer of the text of a `tokenizer.json`, with what the small files say.
pub(crate) fn from_json(place: &str, text: &str, config: Config) -> Result<Tokenizer, Error> {
    let other_model = |kind: &str| {
        Error::unsupported(place, format!("model type `{kind}` is not supported, expected `BPE`"))
    };
    let file: File = serde_json::from_str(text).map_err(|error| match model_kind(text).as_deref() {
        None | Some("BPE") => Error::malformed(place, error.to_string()),
        Some(other) => other_model(other),
    })?;
    if let Some(other) = file.model.r#type.as_deref().filter(|&kind| kind != "BPE") {
        return Err(other_model(other));
    }
    for (name, value) in [
        ("continuing_subword_prefix", &file.model.continuing_subword_prefix),
        ("end_of_word_suffix", &file.model.end_of_word_suffix),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            return Err(Error::unsupported(
                place,
                format!("{name} `{value}` is not supported, expected none"),
            ));
        }
    }
    let decoder = Decoding::read(place, file.decoder.as_ref())?;

    let mut tokens: Vec<(u32, Vec<u8>, bool)> =
        Vec::with_capacity(file.model.vocab.len() + file.added_tokens.len());
    tokens.extend(file.model.vocab.iter().map(|(token, &id)| (id, decoder.bytes(token), false)));
    tokens.extend(file.added_tokens.iter().map(|token| {
        let bytes = if token.special {
            token.content.clone().into_bytes()
        } else {
            decoder.added_bytes(&token.content)
        };
        (token.id, bytes, token.special)
    }));
    let mut pieces = Pieces::from_ids(place, tokens)?;
    pieces.strip_first_space = decoder.strip_first_space;

    let (template_prefix, template_suffix) = post_processor(place, file.post_processor.as_ref())?;
    let special: Vec<String> =
        file.added_tokens.iter().filter(|token| token.special).map(|token| token.content.clone()).collect();
    let known_ends = file.added_tokens.iter().filter(|token| END_TOKENS.contains(&token.content.as_str()));
    let known_ends: Vec<u32> = known_ends.map(|token| token.id).collect();
    let added = file.added_tokens.into_iter().map(|token| {
        let added = AddedToken::from(token.content, token.special)
            .single_word(token.single_word)
            .lstrip(token.lstrip)
            .rstrip(token.rstrip)
            .normalized(token.normalized.unwrap_or(!token.special));
        (token.id, added)
    });
    let bpe = Bpe::new(
        place,
        BpeParts {
            vocab: file.model.vocab,
            merges: file.model.merges.into_iter().map(|Merge(left, right)| (left, right)).collect(),
            unk_token: file.model.unk_token,
            fuse_unk: file.model.fuse_unk,
            byte_fallback: file.model.byte_fallback,
            ignore_merges: file.model.ignore_merges,
            normalizer: step(place, "normalizer", file.normalizer, NORMALIZERS)?,
            pre_tokenizer: step(place, "pre_tokenizer", file.pre_tokenizer, PRE_TOKENIZERS)?,
            added: added.collect(),
            byte_level: decoder.byte_level,
        },
    )?;

    let named = |name: &str| config.special.get(name).and_then(Value::as_str).and_then(|token| bpe.id(token));
    let (bos, eos) = (named("bos_token"), named("eos_token"));
    // The configuration may add to what the post-processor does, or take from it.
    let with = |template: Vec<u32>, mark: Option<u32>, wanted: Option<bool>| match (wanted, mark) {
        (Some(true), Some(mark)) if !template.contains(&mark) => vec![mark],
        (Some(false), Some(mark)) => template.into_iter().filter(|&id| id != mark).collect(),
        _ => template,
    };
    // Ids of models whose embedding is larger than their vocabulary may lie beyond it: nothing can be made of them.
    let size = pieces.len();
    let ends = config.end_ids.into_iter().filter(|&id| (id as usize) < size);
    Tokenizer::new(Parts {
        place: place.to_owned(),
        pieces,
        prefix: with(template_prefix, bos, config.add_bos),
        suffix: with(template_suffix, eos, config.add_eos),
        bos,
        eos,
        ends: ends.chain(known_ends).collect(),
        special,
        template_variables: config.special,
        templates: config.templates,
        encoder: Encoder::Bpe(Box::new(bpe)),
    })
}

/// The type of a tokenizer.json's model, for a file whose model could not be read.
fn model_kind(text: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Outer {
        model: Inner,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        r#type: String,
    }
    serde_json::from_str::<Outer>(text).ok().map(|outer| outer.model.r#type)
}

const NORMALIZERS: &[&str] =
    &["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Replace", "Prepend"];
const PRE_TOKENIZERS: &[&str] = &[
    "Sequence",
    "ByteLevel",
    "Split",
    "Metaspace",
    "Digits",
    "Whitespace",
    "WhitespaceSplit",
    "Punctuation",
];

/// Builds a normalizer or pre-tokenizer, of the kinds in `known`: others are for other models, and not all of them
/// bear a file that was tampered with.
fn step<T: serde::de::DeserializeOwned>(
    place: &str,
    name: &str,
    value: Option<Value>,
    known: &[&str],
) -> Result<Option<T>, Error> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let mut inside = vec![&value];
    while let Some(value) = inside.pop() {
        let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
        if !known.contains(&kind) {
            let what = format!("{name} `{kind}` is not supported; supported are {}", known.join(", "));
            return Err(Error::unsupported(place, what));
        }
        for list in ["normalizers", "pretokenizers"] {
            inside.extend(value.get(list).and_then(Value::as_array).into_iter().flatten());
        }
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|error| Error::malformed(place, format!("{name}: {error}")))
}

/// How the vocabulary writes bytes, as the `decoder` says.
#[derive(Debug, Default)]
struct Decoding {
    byte_level: bool,
    byte_fallback: bool,
    /// What stands for another text in tokens: U+2581 for a space.
    replace: Vec<(String, String)>,
    strip_first_space: bool,
}

impl Decoding {
    fn read(place: &str, value: Option<&Value>) -> Result<Self, Error> {
        let mut decoding = Decoding::default();
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Err(Error::unsupported(place, "has no decoder, so ids cannot be made into text"));
        };
        decoding.step(place, value, 0)?;
        Ok(decoding)
    }

    fn step(&mut self, place: &str, value: &Value, depth: usize) -> Result<(), Error> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        match text("type") {
            Some("Sequence") if depth < 8 => {
                for inner in value.get("decoders").and_then(Value::as_array).into_iter().flatten() {
                    self.step(place, inner, depth + 1)?;
                }
            }
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Fuse") => {}
            Some("Replace") => {
                let from =
                    value.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str);
                let (Some(from), Some(to)) = (from.filter(|from| !from.is_empty()), text("content")) else {
                    return Err(Error::unsupported(
                        place,
                        format!("decoder `{value}`: expected a string to replace"),
                    ));
                };
                self.replace.push((from.to_owned(), to.to_owned()));
            }
            Some("Strip") => {
                let number = |name: &str| value.get(name).and_then(Value::as_u64);
                if (text("content"), number("start"), number("stop")) != (Some(" "), Some(1), Some(0)) {
                    let what = format!("decoder `{value}`: expected to strip one space at the start");
                    return Err(Error::unsupported(place, what));
                }
                self.strip_first_space = true;
            }
            Some("Metaspace") => {
                self.replace.push((text("replacement").unwrap_or("\u{2581}").to_owned(), " ".to_owned()));
                let old = value.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(true);
                self.strip_first_space = text("prepend_scheme").map_or(old, |scheme| scheme != "never");
            }
            kind => {
                let what = format!(
                    "decoder `{}` is not supported; supported are ByteLevel, ByteFallback, Replace, Strip, Fuse, Metaspace",
                    kind.unwrap_or("?"),
                );
                return Err(Error::unsupported(place, what));
            }
        }
        Ok(())
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_level {
            return byte_level_bytes(token);
        }
        if let Some(byte) = fallback_byte(token).filter(|_| self.byte_fallback) {
            return vec![byte];
        }
        self.added_bytes(token)
    }

    /// Tokens that were added by hand are not written in the alphabet of bytes.
    fn added_bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_level {
            return token.as_bytes().to_vec();
        }
        let replaced =
            self.replace.iter().fold(token.to_owned(), |token, (from, to)| token.replace(from.as_str(), to));
        replaced.into_bytes()
    }
}

/// The ids that the post-processor puts before and after a text.
fn post_processor(place: &str, value: Option<&Value>) -> Result<(Vec<u32>, Vec<u32>), Error> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Default::default());
    };
    let list =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    match value.get("type").and_then(Value::as_str) {
        Some("ByteLevel") => Ok(Default::default()),
        Some("Sequence") => {
            let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
            for inner in list(value, "processors") {
                if inner.get("type").and_then(Value::as_str) == Some("Sequence") {
                    return Err(Error::unsupported(place, "post_processor: a sequence in a sequence"));
                }
                let (before, after) = post_processor(place, Some(&inner))?;
                prefix.splice(0..0, before);
                suffix.extend(after);
            }
            Ok((prefix, suffix))
        }
        Some("TemplateProcessing") => {
            let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
            let mut seen_text = false;
            for item in list(value, "single") {
                if item.get("Sequence").is_some() {
                    seen_text = true;
                    continue;
                }
                let name = item.get("SpecialToken").and_then(|token| token.get("id")).and_then(Value::as_str);
                let ids =
                    name.and_then(|name| value.get("special_tokens")?.get(name)?.get("ids")?.as_array());
                let ids: Option<Vec<u32>> =
                    ids.and_then(|ids| ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect());
                let ids = ids.ok_or_else(|| {
                    Error::malformed(
                        place,
                        format!("post_processor: `{item}` names no token of special_tokens"),
                    )
                })?;
                if seen_text { suffix.extend(ids) } else { prefix.extend(ids) }
            }
            Ok((prefix, suffix))
        }
        kind => Err(Error::unsupported(
            place,
            format!(
                "post_processor `{}` is not supported; supported are ByteLevel, TemplateProcessing, Sequence",
                kind.unwrap_or("?"),
            ),
        )),
    }
}
