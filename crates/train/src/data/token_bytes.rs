//! How many bytes of text tokens stand for, so that losses of different vocabularies can be compared.

use wootz_text::Tokenizer;

/// The number of bytes of each token: bits per byte are `loss in nats / ln 2 / bytes`, both summed over the targets.
/// A special token stands for no text; nor does an id outside the vocabulary.
#[derive(Clone, Debug)]
pub struct TokenBytes(Vec<u32>);

impl TokenBytes {
    /// The table of a vocabulary.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let length = |id| if tokenizer.is_special(id) { 0 } else { tokenizer.token_bytes(id).len() };
        TokenBytes(ids.map(|id| u32::try_from(length(id)).unwrap_or(u32::MAX)).collect())
    }

    /// The bytes of one token.
    pub fn of(&self, id: u32) -> u64 {
        self.0.get(id as usize).copied().unwrap_or(0).into()
    }

    /// The bytes of targets; those that are negative are ignored.
    pub fn of_targets(&self, targets: &[i32]) -> u64 {
        targets.iter().filter_map(|&id| u32::try_from(id).ok()).map(|id| self.of(id)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::IGNORED;
    use super::*;
    use wootz_text::{Special, train};

    #[test]
    fn bytes_of_all_tokens_are_the_bytes_of_the_text() {
        let text = "Grüße, 世界! the the the";
        let tokenizer =
            train::byte_level_bpe([text].into_iter(), 270, &[train::END_OF_TEXT]).unwrap().tokenizer;
        let bytes = TokenBytes::new(&tokenizer);
        let ids = tokenizer.encode(text, Special::default()).unwrap();
        let mut targets: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        assert_eq!(bytes.of_targets(&targets), text.len() as u64);
        targets.extend([IGNORED, 0, 9999, -1]);
        assert_eq!(bytes.of_targets(&targets), text.len() as u64);
    }
}
