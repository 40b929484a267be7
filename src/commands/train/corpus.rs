//! What `--data` names, as token ids, and the tokenizer that they are of.

use anyhow::{Context, Result, bail};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use wootz_text::{Tokenizer, train};
use wootz_train::data::documents::{Boundary, Documents, Ends, Field, OnBad, Reading};
use wootz_train::data::encode::{self, Encoding, document_token};
use wootz_train::data::inputs::{self, Input, Kind};
use wootz_train::data::manifest::Manifest;
use wootz_train::data::{Source, Split, shards};

/// Built-in stories that a run without data learns from: more than it sees in its minutes.
const STORIES: u64 = 40_000;
/// Text that a vocabulary is learnt from, in bytes: more changes little in so few tokens.
const VOCABULARY_TEXT: usize = 4 << 20;
/// One document in so many is held out, where nothing else is said.
const HELD_OUT: u64 = 50;

/// Data to train on.
pub struct Corpus {
    pub train: Arc<Source>,
    pub val: Option<Arc<Source>>,
    /// What the ids are of, if that is known.
    pub tokenizer: Option<Arc<Tokenizer>>,
}

/// Which tokenizer texts are read with.
pub enum Wanted {
    /// This one.
    Given(Arc<Tokenizer>),
    /// One of so many tokens, made for the texts.
    Learnt(usize),
}

/// Whether every name is of token shards: a `.bin`, a pattern for such, or a folder with some.
pub fn is_shards(names: &[String]) -> bool {
    let one = |name: &String| {
        let path = Path::new(name);
        name.ends_with(".bin") || path.is_dir() && shards(name, Split::Train).is_ok()
    };
    !names.is_empty() && names.iter().all(one)
}

/// Opens shards; those to validate with are `val`, or the others of the same folders.
pub fn open_shards(data: &[String], val: &[String]) -> Result<Corpus> {
    let mut train_files = Vec::new();
    let mut val_files = Vec::new();
    for name in data {
        train_files.extend(shards(name, Split::Train)?);
        if val.is_empty() && Path::new(name).is_dir() {
            val_files.extend(shards(name, Split::Val).unwrap_or_default());
        }
    }
    for name in val {
        val_files.extend(shards(name, Split::Val)?);
    }
    let folder = train_files.first().and_then(|file| file.parent()).unwrap_or(Path::new("."));
    let tokenizer = match Manifest::read(folder)? {
        Some(manifest) => Some(Arc::new(of_manifest(folder, &manifest)?)),
        None => None,
    };
    let source = |files: &[_]| -> Result<Arc<Source>> { Ok(Arc::new(Source::open(files)?)) };
    let val = if val_files.is_empty() { None } else { Some(source(&val_files)?) };
    Ok(Corpus { train: source(&train_files)?, val, tokenizer })
}

fn of_manifest(folder: &Path, manifest: &Manifest) -> Result<Tokenizer> {
    let note = &manifest.tokenizer;
    let name = match &note.file {
        Some(file) => folder.join(file).display().to_string(),
        None => note.name.clone(),
    };
    let named = super::super::tokenizer::named(&name)
        .with_context(|| format!("{}: the tokenizer of these shards", folder.display()))?;
    Ok(named.tokenizer)
}

/// Reads texts, or the built-in stories where none are named, and encodes them in memory.
pub fn read_texts(data: &[String], val: &[String], wanted: Wanted, threads: usize) -> Result<Corpus> {
    let texts = if data.is_empty() { vec![Input::stories(STORIES)] } else { inputs::find(data)? };
    let reading = |inputs: &[Input]| Reading {
        boundary: Boundary::Separator(train::END_OF_TEXT.to_owned()),
        field: Field::Usual,
        ends: if inputs.iter().all(|input| input.kind == Kind::Text) { Ends::Keep } else { Ends::Trim },
        on_bad: OnBad::Stop,
    };
    let tokenizer = match wanted {
        Wanted::Given(tokenizer) => tokenizer,
        Wanted::Learnt(size) => Arc::new(learn(&texts, reading(&texts), size)?),
    };
    let encode = |inputs: &[Input], hold_out: HoldOut| -> Result<[Vec<u32>; 2]> {
        let encoding = Encoding { reading: reading(inputs), threads };
        encode_all(inputs, &tokenizer, &encoding, hold_out)
    };
    let (train_ids, val_ids) = if val.is_empty() {
        let [train, val] = encode(&texts, HoldOut::Some)?;
        (train, val)
    } else {
        let [train, _] = encode(&texts, HoldOut::Nothing)?;
        let [val, _] = encode(&inputs::find(val)?, HoldOut::Nothing)?;
        (train, val)
    };
    let names = if data.is_empty() { "the built-in stories".to_owned() } else { data.join(", ") };
    let vocab = tokenizer.vocab_size();
    let source =
        |ids: Vec<u32>| -> Result<Arc<Source>> { Ok(Arc::new(Source::from_ids(&names, ids, vocab)?)) };
    let val = if val_ids.is_empty() { None } else { Some(source(val_ids)?) };
    Ok(Corpus { train: source(train_ids)?, val, tokenizer: Some(tokenizer) })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HoldOut {
    Nothing,
    Some,
}

/// The ids of all documents, each with the token that begins one; those that are held out apart. A text of a single
/// document has its last tenth held out.
fn encode_all(
    inputs: &[Input],
    tokenizer: &Tokenizer,
    encoding: &Encoding,
    hold_out: HoldOut,
) -> Result<[Vec<u32>; 2]> {
    let mark = document_token(tokenizer);
    let [mut train, mut val] = [Vec::new(), Vec::new()];
    let counts = encode::encode(inputs, tokenizer, encoding, |piece, counts| {
        let is_held_out = hold_out == HoldOut::Some && counts.documents.is_multiple_of(HELD_OUT);
        let to = if is_held_out { &mut val } else { &mut train };
        if piece.starts {
            to.extend(mark);
        }
        to.extend(piece.ids);
        Ok(ControlFlow::Continue(()))
    })?;
    if train.is_empty() {
        bail!("there is no text in the data");
    }
    if hold_out == HoldOut::Some && counts.documents < HELD_OUT {
        train.append(&mut val);
        val = train.split_off(train.len() - train.len() / 10);
    }
    Ok([train, val])
}

fn learn(texts: &[Input], reading: Reading, size: usize) -> Result<Tokenizer> {
    let mut documents = Documents::new(texts.to_vec(), reading);
    let (mut bytes, mut failed) = (0, None);
    let texts = documents.by_ref().map_while(|piece| match piece {
        Ok(piece) if bytes < VOCABULARY_TEXT => {
            bytes += piece.text.len();
            Some(piece.text)
        }
        Ok(_) => None,
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let learnt = train::byte_level_bpe(texts, size, &[train::END_OF_TEXT])?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(learnt.tokenizer),
    }
}
