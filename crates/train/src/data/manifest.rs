//! What a folder of shards says of itself.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use wootz_text::{Special, Tokenizer};

use super::Split;
use crate::error::{Context as _, Result, fail};

/// The name of the file that says what is in a folder of shards.
pub const MANIFEST: &str = "data.json";

/// What is in a folder of shards: `data.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The first part of the shards' names.
    pub name: String,
    /// Whose ids they are.
    pub tokenizer: TokenizerNote,
    /// Bytes of an id: 2 or 4.
    pub id_bytes: usize,
    /// Documents.
    pub documents: u64,
    /// Lines, rows or pieces that were left out because they could not be read.
    pub skipped: u64,
    /// Bytes of the documents' text.
    pub text_bytes: u64,
    /// To learn from.
    pub train: SplitNote,
    /// Held out.
    pub val: SplitNote,
}

/// Whose ids are in a folder of shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerNote {
    /// As it was named: `gpt2`, `bytes`, a model.
    pub name: String,
    /// One more than the largest id.
    pub vocab_size: usize,
    /// The id before every document.
    pub document_token: Option<u32>,
    /// A `tokenizer.json` in the same folder.
    pub file: Option<String>,
    /// The ids of a certain sentence, by which another vocabulary is noticed.
    pub probe: Vec<u32>,
}

/// Letters, digits, accents, punctuation, white space, and writing without spaces: no two vocabularies in use cut it
/// alike.
const PROBE: &str = "The 12 quick cats weren't at Zoë's café, but \"outside\": 世界!\n\n  Once upon a time\n";

impl TokenizerNote {
    /// What is to be known of a tokenizer that is called `name`.
    pub fn new(name: &str, tokenizer: &Tokenizer, document_token: Option<u32>) -> Self {
        TokenizerNote {
            name: name.to_owned(),
            vocab_size: tokenizer.vocab_size(),
            document_token,
            file: None,
            probe: probe(tokenizer),
        }
    }

    /// Fails if `tokenizer`, which messages call `name`, makes other ids of a text than the one that made the data.
    /// Sizes may differ: many models have more rows than their vocabulary has tokens.
    ///
    /// # Errors
    /// The two are not of one vocabulary.
    pub fn check(&self, tokenizer: &Tokenizer, name: &str) -> Result<()> {
        let (theirs, ours) = (&self.probe, probe(tokenizer));
        if *theirs != ours {
            fail!(
                "the data were made with the tokenizer {} (a vocabulary of {}), and that of {name} makes other ids of \
                 the same text (a vocabulary of {}); prepare the data with --tokenizer {name}",
                self.name,
                self.vocab_size,
                tokenizer.vocab_size()
            );
        }
        Ok(())
    }
}

/// None where the sentence cannot be written.
fn probe(tokenizer: &Tokenizer) -> Vec<u32> {
    tokenizer.encode(PROBE, Special::default()).unwrap_or_default()
}

/// What was written of one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitNote {
    /// Tokens of all shards.
    pub tokens: u64,
    /// The shards, in order.
    pub shards: Vec<ShardNote>,
}

/// What was written into one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardNote {
    /// Its name in the folder.
    pub file: String,
    /// How many tokens it has.
    pub tokens: u64,
}

impl Manifest {
    /// Reads `data.json` of a folder; none if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or says something else.
    pub fn read(folder: &Path) -> Result<Option<Manifest>> {
        let path = folder.join(MANIFEST);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map(Some)
                .context(|| format!("{}: is no description of shards", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("{}: cannot read", path.display())),
        }
    }

    /// The note of a split.
    pub fn split(&self, split: Split) -> &SplitNote {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wootz_text::train;

    #[test]
    fn another_vocabulary_is_noticed() {
        let gpt2 = Tokenizer::gpt2().unwrap();
        let bytes = train::bytes().unwrap().tokenizer;
        let note = TokenizerNote::new("gpt2", &gpt2, Some(50_256));
        note.check(&gpt2, "the model").unwrap();
        let message = note.check(&bytes, "the model").unwrap_err().to_string();
        for expected in ["gpt2", "50257", "257", "--tokenizer the model"] {
            assert!(message.contains(expected), "{message}");
        }
        // A special token more changes no id.
        let more =
            |special: &[&str]| train::byte_level_bpe(["a"].into_iter(), 262, special).unwrap().tokenizer;
        let (one, two) = (more(&[train::END_OF_TEXT]), more(&[train::END_OF_TEXT, "<x>"]));
        assert!(
            TokenizerNote::new("one", &one, None).check(&two, "two").is_err(),
            "its ids are all one higher"
        );
    }
}
