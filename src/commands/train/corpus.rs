//! What `--data` names, as token ids, and the tokenizer that they are of.

use anyhow::{Context, Result};
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

/// Opens shards; those to validate with are `val`, or the others of the same folders. `own` is the model's tokenizer,
/// where it has one: all ids must be of its vocabulary, as far as the shards say whose they are.
pub fn open_shards(data: &[String], val: &[String], own: Option<Arc<Tokenizer>>) -> Result<Corpus> {
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
    let mut tokenizer = own.map(|own| ("the model".to_owned(), own));
    let mut folders: Vec<&Path> =
        train_files.iter().chain(&val_files).filter_map(|file| file.parent()).collect();
    folders.dedup();
    for folder in folders {
        let Some(manifest) = Manifest::read(folder)? else { continue };
        match &tokenizer {
            Some((whose, tokenizer)) => {
                let wrong = || folder.display().to_string();
                manifest.tokenizer.check(tokenizer, whose).with_context(wrong)?;
            }
            None => {
                tokenizer = Some((folder.display().to_string(), Arc::new(of_manifest(folder, &manifest)?)))
            }
        }
    }
    let source = |files: &[_]| -> Result<Arc<Source>> { Ok(Arc::new(Source::open(files)?)) };
    let val = if val_files.is_empty() { None } else { Some(source(&val_files)?) };
    Ok(Corpus { train: source(&train_files)?, val, tokenizer: tokenizer.map(|(_, tokenizer)| tokenizer) })
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
    let encoding = |inputs: &[Input]| Encoding { reading: reading(inputs), threads };
    let all = |inputs: &[Input]| {
        encode::encode_to_memory(inputs, &tokenizer, &encoding(inputs), document_token(&tokenizer))
    };
    let (train_ids, val_ids) = if val.is_empty() {
        hold_out(&texts, &tokenizer, &encoding(&texts))?
    } else {
        (all(&texts)?, all(&inputs::find(val)?)?)
    };
    let names = if data.is_empty() { "the built-in stories".to_owned() } else { data.join(", ") };
    let vocab = tokenizer.vocab_size();
    let source =
        |ids: Vec<u32>| -> Result<Arc<Source>> { Ok(Arc::new(Source::from_ids(&names, ids, vocab)?)) };
    let val = if val_ids.is_empty() { None } else { Some(source(val_ids)?) };
    Ok(Corpus { train: source(train_ids)?, val, tokenizer: Some(tokenizer) })
}

/// The ids of all documents, each with the token that begins one; those that are held out apart. Of a text of few
/// documents the last tenth is held out.
fn hold_out(inputs: &[Input], tokenizer: &Tokenizer, encoding: &Encoding) -> Result<(Vec<u32>, Vec<u32>)> {
    let mark = document_token(tokenizer);
    let [mut train, mut val] = [Vec::new(), Vec::new()];
    let counts = encode::encode(inputs, tokenizer, encoding, |piece, counts| {
        let to = if counts.documents.is_multiple_of(HELD_OUT) { &mut val } else { &mut train };
        if piece.starts {
            to.extend(mark);
        }
        to.extend(piece.ids);
        Ok(ControlFlow::Continue(()))
    })?;
    if counts.documents < HELD_OUT {
        val = train.split_off(train.len() - train.len() / 10);
    }
    Ok((train, val))
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
