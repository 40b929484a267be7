//! SentencePiece vocabularies that come as scores: Llama's and Gemma's in GGUF files, and llama2.c's.
//!
//! The text's characters are the first symbols. Of all neighbours whose concatenation is a token, the pair with the
//! highest score is joined first (the leftmost of equals), until none is left. A character that is no token is
//! spelled in bytes, `<0xE2>`, or is the unknown token where the vocabulary has no bytes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ahash::{AHashMap, AHashSet};
use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::Error;
use crate::pieces::fallback_byte;
use crate::tokenizer::Encoding;

/// What a token is for; GGUF's token types, as far as they make a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Made of characters by joining.
    Ordinary,
    /// Added by hand: recognised in any text, before anything is joined.
    UserDefined,
    /// Marks of the format, recognised only where special tokens are parsed; unknown and control tokens.
    Special,
    /// One byte of a character that has no token of its own.
    Byte,
}

/// One token of the vocabulary that [`Spm::new`] reads.
pub(crate) struct SpmToken<'a> {
    pub text: &'a str,
    pub score: f32,
    pub role: Role,
}

pub(crate) struct SpmOptions {
    /// Spaces are written U+2581 in the tokens.
    pub escape_spaces: bool,
    /// A space goes before the text, and after a special token.
    pub space_prefix: bool,
    pub unk: Option<u32>,
}

pub(crate) struct Spm {
    tokens: AHashMap<Box<str>, (u32, f32)>,
    /// Names of the tokens that cannot come of joining, for look-up by name.
    names: AHashMap<Box<str>, u32>,
    bytes: Box<[Option<u32>; 256]>,
    user_defined: AHashSet<u32>,
    always: Splitter,
    parsing: Splitter,
    pub options: SpmOptions,
}

impl Spm {
    /// `tokens` in the order of their ids.
    pub fn new<'a>(
        place: &str,
        tokens: impl IntoIterator<Item = SpmToken<'a>>,
        options: SpmOptions,
    ) -> Result<Self, Error> {
        let mut by_text = AHashMap::new();
        let mut names = AHashMap::new();
        let mut bytes = Box::new([None; 256]);
        let (mut user_defined, mut special) = (Vec::new(), Vec::new());
        for (id, token) in (0u32..).zip(tokens) {
            if token.score.is_nan() {
                return Err(Error::malformed(place, format!("the score of token {id} is not a number")));
            }
            match token.role {
                Role::Ordinary | Role::UserDefined => {
                    by_text.insert(token.text.into(), (id, token.score));
                    if token.role == Role::UserDefined && !token.text.is_empty() {
                        user_defined.push((token.text, id));
                    }
                }
                Role::Special => {
                    names.insert(token.text.into(), id);
                    if !token.text.is_empty() {
                        special.push((token.text, id));
                    }
                }
                Role::Byte => {
                    let byte = fallback_byte(token.text).ok_or_else(|| {
                        let what = format!("byte token {id} is `{}`, expected the form `<0x0A>`", token.text);
                        Error::malformed(place, what)
                    })?;
                    names.insert(token.text.into(), id);
                    bytes[usize::from(byte)] = Some(id);
                }
            }
        }
        let always = Splitter::new(place, &user_defined)?;
        let by_hand = user_defined.iter().map(|&(_, id)| id).collect();
        user_defined.extend(special);
        let parsing = Splitter::new(place, &user_defined)?;
        Ok(Spm { tokens: by_text, names, bytes, user_defined: by_hand, always, parsing, options })
    }

    /// The ids of `text`, and where in it each token begins (a space that was put before it, where it does). With
    /// `parse`, special tokens in the text are recognised; `marker`, if any, is a character that keeps the text around
    /// it from being a special token and is then left out.
    pub fn encode(&self, text: &str, parse: bool, marker: Option<char>) -> Result<Encoding, Error> {
        let splitter = if parse { &self.parsing } else { &self.always };
        let mut encoding = Encoding::default();
        let mut after_special = true;
        let mut normalized = Normalized::default();
        for part in splitter.split(text) {
            match part {
                Part::Token(id, start) => {
                    encoding.push(id, start);
                    after_special = true;
                }
                Part::Text(text, start) => {
                    normalized.text.clear();
                    normalized.origins.clear();
                    if self.options.space_prefix && after_special {
                        normalized.push(self.space(), start);
                    }
                    for (at, c) in text.char_indices().filter(|&(_, c)| Some(c) != marker) {
                        normalized.push(if c == ' ' { self.space() } else { c }, start + at);
                    }
                    self.join(&normalized, &mut encoding)?;
                    after_special = false;
                }
            }
        }
        Ok(encoding)
    }

    /// The id of the token that is spelled `token` in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.tokens.get(token).map(|&(id, _)| id).or_else(|| self.names.get(token).copied())
    }

    /// Score and role of token `id` with this spelling, as [`Spm::new`] was given them; a score of no consequence is 0.
    pub fn entry(&self, id: u32, spelling: &str) -> (f32, Role) {
        if self.names.get(spelling) == Some(&id) {
            let is_byte =
                fallback_byte(spelling).is_some_and(|byte| self.bytes[usize::from(byte)] == Some(id));
            return (0.0, if is_byte { Role::Byte } else { Role::Special });
        }
        let score = self.tokens.get(spelling).map_or(0.0, |&(_, score)| score);
        (score, if self.user_defined.contains(&id) { Role::UserDefined } else { Role::Ordinary })
    }

    fn space(&self) -> char {
        if self.options.escape_spaces { '\u{2581}' } else { ' ' }
    }

    fn join(&self, normalized: &Normalized, encoding: &mut Encoding) -> Result<(), Error> {
        let Normalized { text, origins } = normalized;
        // Symbols are a doubly linked list over the text; a joined symbol takes the place of its left half, and the
        // right half becomes empty. A queued pair whose halves changed meanwhile has another length, and is dropped.
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (start, c) in text.char_indices() {
            let index = symbols.len();
            symbols.push(Symbol {
                start,
                end: start + c.len_utf8(),
                previous: index.checked_sub(1),
                next: Some(index + 1),
            });
        }
        let Some(last) = symbols.last_mut() else {
            return Ok(());
        };
        last.next = None;

        let mut queue = BinaryHeap::new();
        let candidate = |symbols: &[Symbol], left: usize| {
            let right = symbols[left].next?;
            let (start, end) = (symbols[left].start, symbols[right].end);
            let &(_, score) = self.tokens.get(&text[start..end])?;
            Some(Pair { score, left, right, length: end - start })
        };
        queue.extend((0..symbols.len() - 1).filter_map(|left| candidate(&symbols, left)));
        while let Some(Pair { left, right, length, .. }) = queue.pop() {
            let (first, second) = (&symbols[left], &symbols[right]);
            // The order matters: an empty symbol may lie anywhere, even behind its old right neighbour.
            if first.is_empty() || second.is_empty() || second.end - first.start != length {
                continue;
            }
            symbols[left].end = symbols[right].end;
            symbols[right].start = symbols[right].end;
            symbols[left].next = symbols[right].next;
            if let Some(next) = symbols[right].next {
                symbols[next].previous = Some(left);
            }
            queue.extend(symbols[left].previous.and_then(|previous| candidate(&symbols, previous)));
            queue.extend(candidate(&symbols, left));
        }

        let mut fused_unknown = false;
        // A symbol begins with the character that it was made of first: the one of its own number.
        for (symbol, &origin) in symbols.iter().zip(origins).filter(|(symbol, _)| !symbol.is_empty()) {
            let piece = &text[symbol.start..symbol.end];
            let unknown = match self.tokens.get(piece) {
                Some(&(id, _)) => {
                    encoding.push(id, origin);
                    false
                }
                None => !self.spell(piece, origin, encoding),
            };
            if unknown && !fused_unknown {
                let unk = self.options.unk.ok_or_else(|| {
                    Error::Encode(format!(
                        "the vocabulary has no token for `{piece}`, no bytes and no unknown token"
                    ))
                })?;
                encoding.push(unk, origin);
            }
            fused_unknown = unknown;
        }
        Ok(())
    }

    /// Appends `piece`, which begins at `origin`, in bytes, or nothing where one of them has no token.
    fn spell(&self, piece: &str, origin: usize, encoding: &mut Encoding) -> bool {
        let ids: Option<Vec<u32>> = piece.bytes().map(|byte| self.bytes[usize::from(byte)]).collect();
        let spelled = ids.is_some();
        ids.into_iter().flatten().for_each(|id| encoding.push(id, origin));
        spelled
    }
}

/// A text as the tokens spell it, and where each of its characters is from.
#[derive(Default)]
struct Normalized {
    text: String,
    origins: Vec<usize>,
}

impl Normalized {
    fn push(&mut self, c: char, origin: usize) {
        self.text.push(c);
        self.origins.push(origin);
    }
}

struct Symbol {
    start: usize,
    end: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

impl Symbol {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

struct Pair {
    score: f32,
    left: usize,
    right: usize,
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        // -0.0 and 0.0 are equal scores, which `total_cmp` would not say; there are no NaN here.
        let score = self.score.partial_cmp(&other.score).unwrap_or(Ordering::Equal);
        score.then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// A part of a text, and where it begins.
enum Part<'a> {
    Text(&'a str, usize),
    Token(u32, usize),
}

/// Finds whole tokens in a text: leftmost first, the longest of those that begin there.
struct Splitter {
    finder: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Splitter {
    fn new(place: &str, tokens: &[(&str, u32)]) -> Result<Self, Error> {
        let finder = match tokens {
            [] => None,
            _ => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(tokens.iter().map(|(text, _)| text))
                    .map_err(|error| Error::malformed(place, format!("special tokens: {error}")))?,
            ),
        };
        Ok(Splitter { finder, ids: tokens.iter().map(|&(_, id)| id).collect() })
    }

    fn split<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = Vec::new();
        let mut done = 0;
        for found in self.finder.iter().flat_map(|finder| finder.find_iter(text)) {
            if done < found.start() {
                parts.push(Part::Text(&text[done..found.start()], done));
            }
            parts.push(Part::Token(self.ids[found.pattern().as_usize()], found.start()));
            done = found.end();
        }
        if done < text.len() {
            parts.push(Part::Text(&text[done..], done));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spm(tokens: &[(&str, f32, Role)]) -> Spm {
        let options = SpmOptions { escape_spaces: true, space_prefix: false, unk: None };
        let tokens = tokens.iter().map(|&(text, score, role)| SpmToken { text, score, role });
        Spm::new("test", tokens, options).unwrap()
    }

    #[test]
    fn the_highest_score_is_joined_first_and_the_leftmost_of_equals() {
        use Role::Ordinary as O;
        let plain = spm(&[("a", 0.0, O), ("b", 0.0, O), ("ab", -2.0, O), ("ba", -1.0, O), ("aa", -1.0, O)]);
        assert_eq!(plain.encode("aba", false, None).unwrap().ids, [0, 3]); // ba before ab
        assert_eq!(plain.encode("aaa", false, None).unwrap().ids, [4, 0]); // the left of two aa
        assert_eq!(plain.encode("", false, None).unwrap().ids, [0u32; 0]);
        assert!(matches!(plain.encode("c", false, None), Err(Error::Encode(_))));
    }

    #[test]
    fn pairs_that_others_overtook_are_dropped() {
        use Role::Ordinary as O;
        // `bc` waits in the queue while b takes cd, then e, and is taken by a.
        let joined =
            [("cd", -1.0, O), ("bcd", -2.0, O), ("bcde", -3.0, O), ("abcde", -4.0, O), ("bc", -9.0, O)];
        let letters = ["a", "b", "c", "d", "e"].map(|letter| (letter, 0.0, O));
        let plain = spm(&[&letters[..], &joined].concat());
        assert_eq!(plain.encode("abcde", false, None).unwrap().ids, [8]);
        assert_eq!(plain.encode("abcd", false, None).unwrap().ids, [0, 6]);
    }

    #[test]
    fn special_tokens_are_never_made_of_text() {
        use Role::{Ordinary as O, Special, UserDefined};
        let tokens = [("<", 0.0, O), ("s", 0.0, O), (">", 0.0, O), ("<s", -1.0, O), ("<s>", 0.0, Special)];
        let plain = spm(&tokens);
        assert_eq!(plain.encode("<s>", false, None).unwrap().ids, [3, 2]);
        assert_eq!(plain.encode("<s>", true, None).unwrap().ids, [4]);
        assert_eq!(plain.encode("<\u{FDD0}s>", true, Some('\u{FDD0}')).unwrap().ids, [3, 2]);
        let by_hand = spm(&[tokens[0], tokens[1], tokens[2], tokens[3], ("<s>", 0.0, UserDefined)]);
        assert_eq!(by_hand.encode("<s>", false, None).unwrap().ids, [4]);
    }
}
