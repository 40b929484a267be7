//! GPT-2's vocabulary, without a file.

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::bpe::{Bpe, BpeParts};
use crate::error::Error;
use crate::pieces::{Pieces, byte_to_char};
use crate::pre::PRE;
use crate::tokenizer::{Encoder, Parts, Tokenizer};

const PLACE: &str = "GPT-2's vocabulary";
const EOT: u32 = 50_256;

impl Tokenizer {
    /// GPT-2's own tokenizer: 50 257 tokens, the last is `<|endoftext|>`.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn gpt2() -> Result<Self, Error> {
        let malformed = |what: String| Error::malformed(PLACE, what);
        let bpe = tiktoken_rs::r50k_base().map_err(|error| malformed(error.to_string()))?;
        let mut parts =
            BpeParts { pre_tokenizer: Some(PRE[0].build()?), byte_level: true, ..BpeParts::default() };
        let mut pieces = Pieces::default();
        let mut ranks = ahash::AHashMap::new();
        for id in 0..EOT {
            let bytes = bpe.decode_bytes(&[id]).map_err(|error| malformed(format!("token {id}: {error}")))?;
            // Tokens are numbered in the order in which merges made them, so the last merge of a token is found by
            // doing all merges that came before it: two parts are left.
            if bytes.len() > 1 {
                let (left, right) = last_merge(&bytes, &ranks)
                    .ok_or_else(|| malformed(format!("token {id} is no merge of two")))?;
                parts.merges.push((spell(left), spell(right)));
            }
            parts.vocab.insert(spell(&bytes), id);
            pieces.push(&bytes, false);
            ranks.insert(bytes, id);
        }
        let eot = "<|endoftext|>";
        pieces.push(eot.as_bytes(), true);
        parts.added.push((EOT, AddedToken::from(eot, true)));
        let mark = |name: &str| (name.to_owned(), Value::String(eot.to_owned()));
        Tokenizer::new(Parts {
            place: PLACE.to_owned(),
            encoder: Encoder::Bpe(Box::new(Bpe::new(PLACE, parts)?)),
            pieces,
            prefix: Vec::new(),
            suffix: Vec::new(),
            bos: Some(EOT),
            eos: Some(EOT),
            ends: Vec::new(),
            special: vec![eot.to_owned()],
            template_variables: Map::from_iter([mark("bos_token"), mark("eos_token")]),
            templates: Vec::new(),
        })
    }
}

fn spell(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| byte_to_char(byte)).collect()
}

/// The two tokens that were merged into `token`, which is not in `ranks` yet.
fn last_merge<'t>(token: &'t [u8], ranks: &ahash::AHashMap<Vec<u8>, u32>) -> Option<(&'t [u8], &'t [u8])> {
    let mut cuts: Vec<usize> = (0..=token.len()).collect();
    while cuts.len() > 3 {
        let pairs = cuts.windows(3).enumerate();
        let ranked = pairs.filter_map(|(at, cut)| ranks.get(&token[cut[0]..cut[2]]).map(|&rank| (rank, at)));
        let (_, best) = ranked.min()?;
        cuts.remove(best + 1);
    }
    Some(token.split_at(*cuts.get(1)?))
}
