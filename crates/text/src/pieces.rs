//! What each token id stands for: bytes.
//!
//! Every vocabulary is turned into this one table when it is read, so that decoding is the same for all of them:
//! bytes one after the other, and UTF-8 made of them at the end.

use crate::error::Error;

/// The bytes of every token, and which tokens are special.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    special: Vec<bool>,
    /// The vocabulary writes a space before the first word that the text did not have.
    pub strip_first_space: bool,
}

impl Pieces {
    /// An empty table.
    pub fn new(strip_first_space: bool) -> Self {
        Pieces { strip_first_space, ..Pieces::default() }
    }

    /// Appends the token with the next id.
    pub fn push(&mut self, bytes: &[u8], special: bool) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
        self.special.push(special);
    }

    /// The table of `tokens`, given as (id, bytes, special) in any order; ids that nothing names stand for no bytes.
    /// A later token takes the place of an earlier one with the same id.
    pub fn from_ids(place: &str, tokens: Vec<(u32, Vec<u8>, bool)>) -> Result<Self, Error> {
        // Real vocabularies have few holes; an id far beyond the number of tokens would make the table huge.
        let limit = tokens.len().saturating_mul(4).saturating_add(1 << 16);
        let mut table: Vec<Option<(Vec<u8>, bool)>> = vec![None; tokens.len()];
        for (id, bytes, special) in tokens {
            let id = id as usize;
            if id >= limit {
                return Err(Error::malformed(
                    place,
                    format!("token id {id} is out of range: a vocabulary of this size ends below {limit}"),
                ));
            }
            if id >= table.len() {
                table.resize(id + 1, None);
            }
            table[id] = Some((bytes, special));
        }
        while table.last().is_some_and(Option::is_none) {
            table.pop();
        }
        let mut pieces = Pieces::default();
        for entry in table {
            match entry {
                Some((bytes, special)) => pieces.push(&bytes, special),
                None => pieces.push(&[], false),
            }
        }
        Ok(pieces)
    }

    /// How many ids the table has: one more than the largest.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a token; none for an id that the vocabulary does not have.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// Whether a token is a mark of the format (beginning, end, turn) and no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// The bytes that token `id` adds to a text. `at_start` says that nothing has been written yet, and is kept
    /// up to date.
    pub fn text_bytes(&self, id: u32, skip_special: bool, at_start: &mut bool) -> &[u8] {
        if skip_special && self.is_special(id) {
            return &[];
        }
        let bytes = self.bytes(id);
        if bytes.is_empty() || !std::mem::take(at_start) || !self.strip_first_space {
            return bytes;
        }
        bytes.strip_prefix(b" ").unwrap_or(bytes)
    }
}

/// The byte that a byte-fallback token such as `<0x0A>` stands for.
pub(crate) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The character that GPT-2's byte-level vocabularies write for a byte: printable Latin-1 bytes stand for themselves,
/// the other 68 for U+0100 and on, in order.
pub(crate) fn byte_to_char(byte: u8) -> char {
    let shifted = match byte {
        0..=32 => u32::from(byte),
        127..=160 => u32::from(byte) - 127 + 33,
        173 => 67,
        _ => return char::from(byte),
    };
    char::from_u32(0x100 + shifted).unwrap_or('\u{FFFD}')
}

/// The inverse of [`byte_to_char`].
pub(crate) fn char_to_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    let byte = match code {
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 127,
        0x143 => 173,
        33..=126 | 161..=172 | 174..=255 => code,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes of a token of a byte-level vocabulary. A token with a character outside the alphabet was added by hand
/// and is meant literally.
pub(crate) fn byte_level_bytes(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(char_to_byte).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255u8 {
            let c = byte_to_char(byte);
            assert!(seen.insert(c) && !c.is_whitespace() && !c.is_control(), "byte {byte} is {c:?}");
            assert_eq!(char_to_byte(c), Some(byte));
        }
        assert_eq!((byte_to_char(b' '), byte_to_char(b'\n'), byte_to_char(b'a')), ('Ġ', 'Ċ', 'a'));
        let characters = (0..0x3000).filter_map(char::from_u32);
        assert_eq!(characters.filter(|&c| char_to_byte(c).is_some()).count(), 256);
    }

    #[test]
    fn ids_may_have_holes_but_no_end_of_the_world() {
        let pieces =
            Pieces::from_ids("test", vec![(3, b"c".to_vec(), true), (0, b"a".to_vec(), false)]).unwrap();
        assert_eq!(
            (pieces.len(), pieces.bytes(0), pieces.bytes(1), pieces.bytes(3)),
            (4, &b"a"[..], &b""[..], &b"c"[..])
        );
        assert_eq!((pieces.bytes(4), pieces.bytes(u32::MAX)), (&b""[..], &b""[..]));
        assert!(pieces.is_special(3) && !pieces.is_special(0) && !pieces.is_special(9));
        assert!(Pieces::from_ids("test", vec![(u32::MAX, vec![], false)]).is_err());
    }

    #[test]
    fn fallback_tokens_are_two_hexadecimal_digits() {
        assert_eq!((fallback_byte("<0x0A>"), fallback_byte("<0xff>")), (Some(10), Some(255)));
        for other in ["<0x>", "<0x0>", "<0x0G>", "<0x+1>", "0x0A", "<0x0A", "<0x00A>"] {
            assert_eq!(fallback_byte(other), None, "{other}");
        }
    }
}
