//! Making a vocabulary: byte-level BPE, learnt from a text.
//!
//! Sources: Sennrich, Haddow and Birch, "Neural machine translation of rare words with subword units" (2016); the
//! bytes and the way to cut words are GPT-2's (Radford and others, 2019). The work is done by the `tokenizers` crate.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, Model as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
    Trainer as _,
};

use crate::error::Error;
use crate::tokenizer::Tokenizer;

const PLACE: &str = "the new tokenizer";
/// The token that stands between documents.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Tokens of a vocabulary, at the most: room for them is taken before the text is seen.
pub const LARGEST_VOCABULARY: usize = 1 << 20;
/// Bytes of text that are learnt from, at the most: the library counts pairs in signed 32-bit numbers.
pub const MOST_TEXT: usize = i32::MAX as usize;

/// A vocabulary that was just made.
#[derive(Debug)]
pub struct Trained {
    /// Ready to use; [`END_OF_TEXT`] begins and ends a text in it, if it is one of its special tokens.
    pub tokenizer: Tokenizer,
    /// What belongs into a `tokenizer.json`.
    pub json: String,
    /// Whether there was more text than [`MOST_TEXT`], which was then left out.
    pub cut: bool,
}

/// Learns `vocab_size` tokens from `texts`: `special` ones first, then the 256 bytes, then merges in the order of how
/// often they occur. Words are cut as GPT-2 cuts them; a text's own special tokens are plain text. The same texts
/// give the same vocabulary, whatever the number of threads.
///
/// A small text may have fewer different words than `vocab_size` asks for; then the vocabulary is smaller.
///
/// # Errors
/// A vocabulary that is too small for special tokens and bytes, or larger than [`LARGEST_VOCABULARY`].
pub fn byte_level_bpe<S: AsRef<str> + Send>(
    texts: impl Iterator<Item = S> + Send,
    vocab_size: usize,
    special: &[&str],
) -> Result<Trained, Error> {
    let least = 256 + special.len();
    if !(least..=LARGEST_VOCABULARY).contains(&vocab_size) {
        let what = format!(
            "a vocabulary of {vocab_size} tokens; expected at least {least} (256 bytes, {} special) and at most \
             {LARGEST_VOCABULARY}",
            special.len()
        );
        return Err(Error::malformed(PLACE, what));
    }
    let failed = |error: tokenizers::Error| Error::malformed(PLACE, error.to_string());
    let added: Vec<AddedToken> =
        special.iter().map(|&token| AddedToken::from(token, true).normalized(false)).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(added.clone())
        .build();

    let cut_words = ByteLevel::new(false, true, true);
    let seen = AtomicUsize::new(0);
    let texts = texts.take_while(|text| {
        let bytes = text.as_ref().len();
        seen.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= MOST_TEXT
    });
    trainer
        .feed(texts, |text| {
            let mut words = PreTokenizedString::from(text);
            cut_words.pre_tokenize(&mut words)?;
            let words = words.get_splits(OffsetReferential::Original, OffsetType::None);
            Ok(words.into_iter().map(|(word, ..)| word.to_owned()).collect())
        })
        .map_err(failed)?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed)?;
    debug_assert!(model.get_vocab_size() <= vocab_size);

    let mut whole = tokenizers::Tokenizer::new(model);
    whole.with_pre_tokenizer(Some(cut_words));
    whole.with_decoder(Some(ByteLevel::default()));
    whole.add_special_tokens(added).map_err(failed)?;
    let json = whole.to_string(true).map_err(failed)?;
    let tokenizer = Tokenizer::from_json(PLACE, &json)?;
    Ok(Trained { tokenizer, json, cut: seen.into_inner() > MOST_TEXT })
}

/// A vocabulary of the 256 bytes and [`END_OF_TEXT`], for which nothing need be learnt.
///
/// # Errors
/// None that a caller could cause.
pub fn bytes() -> Result<Trained, Error> {
    byte_level_bpe(std::iter::empty::<&str>(), 257, &[END_OF_TEXT])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Special;

    const TEXT: &str = "the cat sat on the mat; the cat's hat is the cat's, isn't it?\n\nNaïve 世界 123.\n";

    #[test]
    fn what_is_learnt_spells_every_text() {
        let trained = byte_level_bpe([TEXT; 3].into_iter(), 285, &[END_OF_TEXT, "<|user|>"]).unwrap();
        let tokenizer = trained.tokenizer;
        assert_eq!(tokenizer.vocab_size(), 285);
        assert_eq!((tokenizer.id(END_OF_TEXT), tokenizer.id("<|user|>")), (Some(0), Some(1)));
        assert_eq!((tokenizer.eos(), tokenizer.end_tokens()), (Some(0), &[0][..]));
        for text in [TEXT, "", "zebra \0\t ß <|endoftext|>", " the  the\r\n"] {
            let ids = tokenizer.encode(text, Special::default()).unwrap();
            assert_eq!(tokenizer.decode(&ids, false), text);
            assert!(ids.iter().all(|&id| id > 1), "text is text: {ids:?}");
        }
        assert!(tokenizer.encode(TEXT, Special::default()).unwrap().len() < TEXT.len() * 2 / 3);
    }

    #[test]
    fn the_same_text_gives_the_same_vocabulary() {
        let words: Vec<String> = (0..4000u32).map(|i| format!("w{} {} ", i * i % 97, i % 61)).collect();
        let train = || byte_level_bpe(words.iter(), 600, &[END_OF_TEXT]).unwrap().json;
        let first = train();
        assert!((0..3).all(|_| train() == first));
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        for size in [0, 256, LARGEST_VOCABULARY + 1, usize::MAX] {
            let error = byte_level_bpe([TEXT].into_iter(), size, &[END_OF_TEXT]).unwrap_err().to_string();
            assert!(error.contains(&size.to_string()) && error.contains("257"), "{error}");
        }
        // A text with few words gives a small vocabulary.
        let trained = byte_level_bpe(["ab ab"].into_iter(), 1000, &[END_OF_TEXT]).unwrap();
        assert!((258..265).contains(&trained.tokenizer.vocab_size()));
    }

    #[test]
    fn bytes_are_a_vocabulary() {
        let tokenizer = bytes().unwrap().tokenizer;
        assert_eq!(tokenizer.vocab_size(), 257);
        let ids = tokenizer.encode("aé", Special::default()).unwrap();
        assert_eq!(
            ids.iter().map(|&id| tokenizer.token_bytes(id)).collect::<Vec<_>>().concat(),
            "aé".as_bytes()
        );
        assert_eq!(ids.len(), 3);
    }
}
