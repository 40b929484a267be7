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
/// many of them as possible. Empty when there is none.
pub fn propose(history: &[u32], count: usize) -> &[u32] {
    for length in (SHORTEST..=LONGEST).rev() {
        let Some(start) = history.len().checked_sub(length).filter(|&start| start > 0) else { continue };
        let last = &history[start..];
        // Windows that end before the last token, the latest first.
        if let Some(at) = history[..history.len() - 1].windows(length).rposition(|window| window == last) {
            let next = at + length;
            return &history[next..history.len().min(next.saturating_add(count))];
        }
    }
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continues_the_latest_longest_match() {
        assert_eq!(propose(&[1, 2, 3, 4, 5, 1, 2], 2), [3, 4]);
        assert_eq!(propose(&[1, 2, 3, 4, 5, 1, 2], 100), [3, 4, 5, 1, 2]);
        // [2, 3] occurs later than [1, 2, 3], which is longer.
        assert_eq!(propose(&[1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 1), [7]);
        // The later of two equally long ones.
        assert_eq!(propose(&[1, 2, 7, 1, 2, 8, 1, 2], 1), [8]);
        // An occurrence may overlap the end.
        assert_eq!(propose(&[4, 4, 4], 5), [4]);
    }

    #[test]
    fn nothing_to_go_by() {
        for history in [&[][..], &[1], &[1, 1], &[1, 2], &[1, 2, 3], &[5, 1, 2, 1]] {
            assert_eq!(propose(history, 4), &[] as &[u32], "{history:?}");
        }
        assert_eq!(propose(&[1, 2, 3, 1, 2], 0), &[] as &[u32]);
    }
}
