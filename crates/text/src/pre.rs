//! How the text of byte-level vocabularies is cut into words before anything is merged. GGUF files name the way in
//! `tokenizer.ggml.pre`; a `tokenizer.json` spells it out.

use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use crate::error::Error;

/// One way to cut text into words.
#[derive(Debug)]
pub(crate) struct Pre {
    /// The names that files have for it, llama.cpp's converter's first.
    pub names: &'static [&'static str],
    /// Regular expressions whose matches are words, and so is what lies between them; each cuts what the one before
    /// it left.
    pub patterns: &'static [&'static str],
    /// A word that is a token is that token, whatever the merges would make of it.
    pub ignore_merges: bool,
    /// The family puts its begin token before every text, unless the file says otherwise.
    pub add_bos: bool,
}

/// GPT-2's pattern, which `ByteLevel` brings along in a `tokenizer.json`.
pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every known way. The first is taken for files that name none.
pub(crate) const PRE: &[Pre] = &[
    Pre {
        names: &["gpt-2", "gpt2", "phi-2", "olmo", "mpt", "jais", "trillion", "granite-docling"],
        patterns: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Pre { names: &["smaug-bpe", "dbrx"], patterns: &[LLAMA3], ignore_merges: false, add_bos: false },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"],
        patterns: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Pre { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    Pre { names: &["gpt-4o", "llama4"], patterns: &[GPT4O], ignore_merges: false, add_bos: false },
    Pre {
        names: &["default"],
        patterns: &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ],
        ignore_merges: false,
        add_bos: false,
    },
];

impl Pre {
    /// The way called `name`.
    pub fn find(name: &str) -> Option<&'static Pre> {
        PRE.iter().find(|pre| pre.names.contains(&name))
    }

    /// The names of all of them, for messages.
    pub fn names() -> String {
        PRE.iter().flat_map(|pre| pre.names).copied().collect::<Vec<_>>().join(", ")
    }

    /// Splits by the patterns, then writes each word's bytes in the byte-level alphabet.
    pub fn build(&self) -> Result<PreTokenizerWrapper, Error> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for &pattern in self.patterns {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|error| Error::malformed("pre-tokenizer", error.to_string()))?;
            steps.push(split.into());
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles_and_every_name_is_there_once() {
        let mut seen = std::collections::HashSet::new();
        for pre in PRE {
            pre.build().unwrap();
            for name in pre.names {
                assert!(seen.insert(name), "{name} twice");
                assert_eq!(Pre::find(name).unwrap().patterns, pre.patterns);
            }
        }
        assert!(Pre::find("no such").is_none());
    }
}
