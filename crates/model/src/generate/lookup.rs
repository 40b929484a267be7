//! Prompt lookup: a guess at the next tokens that needs no second model.
//!
//! Where the last few tokens have occurred before, what followed them then is likely to follow again (Saxena 2023,
//! <https://github.com/apoorvumang/prompt-lookup-decoding>): in summaries, in code that is being edited, in questions
//! about a text. The engine runs the guess through the model in one pass and keeps what the model itself would have
//! said, so a wrong guess costs time and never changes the result.

/// The longest run of tokens that is looked for.
const LONGEST: usize = 4;
/// The shortest. A single token that has occurred before says too little.
const SHORTEST: usize = 2;

/// Up to `count` tokens that may follow `history`: those after the latest earlier occurrence of its last tokens, of as
/// many of them as possible. Where that reaches the end of the history it goes on with what it has proposed itself, so
/// that a loop is guessed in full. Empty when nothing has occurred before.
pub fn propose(history: &[u32], count: usize) -> Vec<u32> {
    for length in (SHORTEST..=LONGEST).rev() {
        let Some(start) = history.len().checked_sub(length).filter(|&start| start > 0) else { continue };
        let last = &history[start..];
        // Windows that end before the last token, the latest first.
        if let Some(at) = history[..history.len() - 1].windows(length).rposition(|window| window == last) {
            // Since it has occurred so many tokens ago, the continuation has that period.
            let period = start - at;
            return (0..count).map(|i| history[history.len() - period + i % period]).collect();
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continues_the_latest_longest_match() {
        assert_eq!(propose(&[1, 2, 3, 4, 5, 1, 2], 2), [3, 4]);
        assert_eq!(propose(&[1, 2, 3, 4, 5, 1, 2], 5), [3, 4, 5, 1, 2]);
        // Beyond the end it goes round.
        assert_eq!(propose(&[1, 2, 3, 4, 5, 1, 2], 8), [3, 4, 5, 1, 2, 3, 4, 5]);
        // [2, 3] occurs later than [1, 2, 3], which is longer.
        assert_eq!(propose(&[1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 1), [7]);
        // The later of two equally long ones.
        assert_eq!(propose(&[1, 2, 7, 1, 2, 8, 1, 2], 1), [8]);
        // An occurrence may overlap the end.
        assert_eq!(propose(&[4, 4, 4], 3), [4, 4, 4]);
        assert_eq!(propose(&[9, 1, 2, 1, 2], 3), [1, 2, 1]);
    }

    #[test]
    fn nothing_to_go_by() {
        for history in [&[][..], &[1], &[1, 1], &[1, 2], &[1, 2, 3], &[5, 1, 2, 1]] {
            assert!(propose(history, 4).is_empty(), "{history:?}");
        }
        assert!(propose(&[1, 2, 3, 1, 2], 0).is_empty());
    }
}
