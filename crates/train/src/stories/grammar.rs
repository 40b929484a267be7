//! The small template language that the stories are written in, and the random numbers that drive it.
//!
//! A template is plain English with two marks:
//!
//! * `[one|another|]` becomes one of its alternatives, which may hold further marks and may be empty;
//! * `{name}` becomes the value of that slot, and `{Name}` the same with a capital first letter.
//!
//! `a/an` is settled at the very end, when the word that follows is known.

/// SplitMix64: 64 bits of state, a constant added at each draw, and a finaliser that mixes the bits.
///
/// Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014). It uses wrapping
/// integer arithmetic only, so that a story is the same on every machine.
#[derive(Clone, Debug)]
pub struct Rng(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The finaliser of SplitMix64, a bijection on 64 bits.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Rng {
    /// The generator of one story. Mixing `seed` before `index` is added keeps neighbouring seeds apart: with
    /// a plain sum, story 1 of seed 0 would be story 0 of seed 1.
    pub fn new(seed: u64, index: u64) -> Self {
        Rng(mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add(index.wrapping_mul(GOLDEN))))
    }

    /// The next 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `n`, or 0 where `n` is 0. The bias of the multiply-and-shift is below n / 2^64.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    /// One item of a slice, or `None` where it is empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len()))
    }
}

/// The values of the slots of one story: plain text, with every choice already made.
#[derive(Clone, Debug, Default)]
pub struct Slots(Vec<(String, String)>);

impl Slots {
    /// Sets a slot; a later value replaces an earlier one.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// A slot's value; a name that begins with a capital asks for the value with a capital.
    fn get(&self, name: &str) -> Option<String> {
        let find = |wanted: &str| self.0.iter().find(|(n, _)| n == wanted).map(|(_, v)| v.clone());
        find(name).or_else(|| {
            let lower = name.to_ascii_lowercase();
            if lower == name { None } else { find(&lower).map(|v| capitalise(&v)) }
        })
    }
}

/// The text with its first letter in upper case.
pub fn capitalise(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

/// Appends `template` to `out`, with its alternatives chosen and its slots filled. What is not well formed,
/// such as an unknown slot or a missing bracket, is kept as it stands, for the tests to find.
pub fn expand(template: &str, slots: &Slots, rng: &mut Rng, out: &mut String) {
    let mut rest = template;
    while let Some(at) = rest.find(['[', '{']) {
        let (plain, marked) = rest.split_at(at);
        out.push_str(plain);
        let Some(close) = closing(marked) else {
            out.push_str(marked);
            return;
        };
        let inside = &marked[1..close];
        if marked.starts_with('{') {
            match slots.get(inside) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&marked[..=close]),
            }
        } else {
            let alternatives = split_top(inside);
            if let Some(chosen) = rng.pick(&alternatives) {
                expand(chosen, slots, rng, out);
            }
        }
        rest = &marked[close + 1..];
    }
    out.push_str(rest);
}

/// Where the bracket or brace that `text` begins with is closed, in bytes.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Splits at the bars that lie in no inner bracket.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            '|' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Settles every `a/an` and `A/an` by the sound that the next word begins with.
pub fn settle_articles(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/an ") {
        // The `a` itself was already copied with what stands before it.
        out.push_str(&rest[..at]);
        rest = &rest[at + 3..];
        if begins_with_vowel_sound(rest.trim_start()) {
            out.push('n');
        }
    }
    out + rest
}

/// Whether a word is said with a vowel first. The stories' words are few; the exceptions among them are
/// these.
fn begins_with_vowel_sound(word: &str) -> bool {
    let silent_h = ["hour", "honest"].iter().any(|w| word.starts_with(w));
    let glide = ["one", "use", "uni"].iter().any(|w| word.starts_with(w));
    silent_h || (!glide && word.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(template: &str, slots: &Slots, seed: u64) -> String {
        let mut out = String::new();
        expand(template, slots, &mut Rng::new(seed, 0), &mut out);
        settle_articles(&out)
    }

    #[test]
    fn splitmix_follows_the_published_sequence() {
        let mut rng = Rng(1_234_567);
        let drawn = [rng.next(), rng.next(), rng.next()];
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn slots_alternatives_and_articles_are_filled() {
        let mut slots = Slots::default();
        slots.set("toy", "orange kite");
        slots.set("he", "she");
        for seed in 0..20 {
            let text =
                expanded("{He} had a/an {toy}[ and a/an hour|[ and|, then] a/an useful box].", &slots, seed);
            assert!(text.starts_with("She had an o"), "{text}");
            assert!(text.contains("an hour.") || text.contains("a useful box."), "{text}");
        }
    }

    #[test]
    fn every_alternative_is_reached() {
        let seen: std::collections::BTreeSet<String> =
            (0..100).map(|seed| expanded("[a|b[c|d]|]", &Slots::default(), seed)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["", "a", "bc", "bd"]);
    }

    #[test]
    fn malformed_templates_are_kept_for_the_tests_to_find() {
        assert_eq!(expanded("an {unknown} and a [half", &Slots::default(), 0), "an {unknown} and a [half");
        assert_eq!(expanded("", &Slots::default(), 0), "");
    }
}
