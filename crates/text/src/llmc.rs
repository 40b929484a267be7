//! llm.c's `tokenizer.bin`: the bytes of each token, and nothing to encode with.
//!
//! 256 32-bit little-endian words (magic 20240328, version 1 or 2, vocabulary size, in version 2 the end-of-text
//! token), then for each token a length byte and as many bytes.

use serde_json::Map;

use crate::error::Error;
use crate::pieces::Pieces;
use crate::tokenizer::{Encoder, Parts, Tokenizer};

const PLACE: &str = "llm.c tokenizer.bin";
const MAGIC: u32 = 20_240_328;
const HEADER_BYTES: usize = 1024;
/// Version 1 was only ever written for GPT-2 and does not state its end-of-text token.
const GPT2_EOT: u32 = 50_256;

impl Tokenizer {
    /// llm.c's `tokenizer.bin` (version 2) of this vocabulary: the bytes of each token, and the end-of-text token. The
    /// rest of the tokenizer is lost: the file can only decode.
    ///
    /// # Errors
    /// No end-of-text token, or a token of more than 255 bytes.
    pub fn to_llmc(&self) -> Result<Vec<u8>, Error> {
        let Some(eot) = self.eos().or(self.bos()) else {
            return Err(Error::unsupported(
                PLACE,
                "the vocabulary has no end-of-text token, which the file must name",
            ));
        };
        let size = u32::try_from(self.vocab_size())
            .map_err(|_| Error::unsupported(PLACE, "more tokens than 32 bits can count"))?;
        let mut file: Vec<u8> = [MAGIC, 2, size, eot].iter().flat_map(|word| word.to_le_bytes()).collect();
        file.resize(HEADER_BYTES, 0);
        for id in 0..size {
            let token = self.token_bytes(id);
            let length = u8::try_from(token.len()).map_err(|_| {
                let what = format!("token {id} has {} bytes, and the file has room for 255", token.len());
                Error::unsupported(PLACE, what)
            })?;
            file.push(length);
            file.extend(token);
        }
        Ok(file)
    }

    /// Reads llm.c's `tokenizer.bin`. `eot` stands over the end-of-text token that the file names.
    ///
    /// The result decodes only: [`encode`](Self::encode) is an error that says so.
    ///
    /// # Errors
    /// Another magic or version, or a file that does not hold what its header says.
    pub fn from_llmc(bytes: &[u8], eot: Option<u32>) -> Result<Self, Error> {
        let malformed = |what: String| Error::malformed(PLACE, what);
        let Some((header, mut rest)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(malformed(format!("{} bytes, expected a header of {HEADER_BYTES}", bytes.len())));
        };
        let word = |index: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&header[index * 4..index * 4 + 4]);
            u32::from_le_bytes(word)
        };
        let (magic, version, size) = (word(0), word(1), word(2) as usize);
        if magic != MAGIC {
            return Err(malformed(format!("magic number {magic}, expected {MAGIC}")));
        }
        let stated_eot = match version {
            1 => GPT2_EOT,
            2 => word(3),
            other => {
                return Err(Error::unsupported(PLACE, format!("version {other}, supported are 1 and 2")));
            }
        };
        // Every token takes a byte at the least.
        if size == 0 || size > rest.len() {
            return Err(malformed(format!("{size} tokens in {} bytes", rest.len())));
        }
        let eot = eot.unwrap_or(stated_eot);
        let mut pieces = Pieces::default();
        let mut special = Vec::new();
        for id in 0..size {
            let token = rest.split_first().and_then(|(&length, after)| after.split_at_checked(length.into()));
            let Some((token, after)) = token else {
                return Err(malformed(format!("ends within token {id} of {size}")));
            };
            rest = after;
            let is_eot = id == eot as usize;
            pieces.push(token, is_eot);
            if is_eot {
                special.push(String::from_utf8_lossy(token).into_owned());
            }
        }
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after the last of {size} tokens", rest.len())));
        }
        Tokenizer::new(Parts {
            place: PLACE.to_owned(),
            encoder: Encoder::DecodeOnly(
                "llm.c's tokenizer.bin holds no merges, only the bytes of tokens; \
                 use the tokenizer.json of the model's folder, or give token ids",
            ),
            pieces,
            prefix: Vec::new(),
            suffix: Vec::new(),
            bos: Some(eot), // GPT-2 begins a text with the token that ended the one before
            eos: Some(eot),
            ends: Vec::new(),
            special,
            template_variables: Map::new(),
            templates: Vec::new(),
        })
    }
}
