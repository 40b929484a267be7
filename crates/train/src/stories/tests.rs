//! What every story must be: the same each time, well formed, and unlike the others.

use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// Told once for all the tests.
static STORIES: LazyLock<Vec<String>> = LazyLock::new(|| corpus(1, 10_000).collect());

/// The 64-bit FNV-1a hash, to pin texts down.
fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3))
}

#[test]
fn a_story_depends_on_its_seed_and_index_alone() {
    let first: Vec<String> = corpus(7, 50).collect();
    let again: Vec<String> = (0..50).rev().map(|index| story(7, index)).collect();
    assert!(first.iter().eq(again.iter().rev()));
    assert_ne!(story(7, 1), story(8, 0), "neighbouring seeds must not share stories");
    assert_ne!(story(7, 0), story(7, 1));
}

#[test]
fn the_stories_stay_as_they_are() {
    // A change of any word changes this, and with it what a recorded validation loss means.
    let text: Vec<String> = corpus(1, 100).collect();
    assert_eq!(format!("{:016x}", fnv(&text.join("\n"))), "c01823502d17c4dc");
}

#[test]
fn almost_no_story_comes_twice() {
    let distinct: BTreeSet<&String> = STORIES.iter().collect();
    assert!(distinct.len() + 10 >= STORIES.len(), "{} distinct", distinct.len());
    assert!(corpus(2, 1000).filter(|story| distinct.contains(story)).count() <= 1);
}

#[test]
fn stories_are_short_and_their_words_are_few_but_not_too_few() {
    let mut words: BTreeMap<String, u32> = BTreeMap::new();
    for (index, text) in STORIES.iter().enumerate() {
        let n = text.split_whitespace().count();
        assert!((40..=220).contains(&n), "story {index} has {n} words:\n{text}");
        for word in text.split(|c: char| !c.is_ascii_alphabetic() && c != '\'').filter(|w| !w.is_empty()) {
            *words.entry(word.to_ascii_lowercase()).or_default() += 1;
        }
    }
    assert!((1200..4000).contains(&words.len()), "{} words", words.len());
}

/// The first thing that is wrong with a text, if any.
fn fault(text: &str) -> Option<&'static str> {
    let lower_words: Vec<&str> = text.split_whitespace().collect();
    if !text.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)) {
        return Some("not plain ASCII");
    }
    if text.contains(['[', ']', '{', '}', '|', '/', '_', '~']) {
        return Some("a mark of the grammar is left");
    }
    if text.contains("  ") || text.contains(" \n") || text.contains("\n ") || text.contains("\n\n\n") {
        return Some("doubled or stray white space");
    }
    if text.replace("\n\n", "").contains('\n') {
        return Some("a single line break");
    }
    if [" .", " ,", " !", " ?", "..", ",,", ",.", ".,", "!.", "?.", "!,", "?,", "!!", "??", ":."]
        .iter()
        .any(|p| text.contains(p))
    {
        return Some("wrong punctuation");
    }
    for pair in lower_words.windows(2) {
        let (article, next) = (pair[0].trim_start_matches('"').to_ascii_lowercase(), pair[1]);
        let vowel = next.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
        if (article == "a" && vowel) || (article == "an" && !vowel) {
            return Some("a wrong article");
        }
        let repeated = article.chars().all(char::is_alphabetic) && article == next.to_ascii_lowercase();
        if repeated {
            return Some("a doubled word");
        }
    }
    for paragraph in text.split("\n\n") {
        if !paragraph.ends_with(['.', '!', '?', '"']) {
            return Some("a paragraph without an end");
        }
        if paragraph.matches('"').count() % 2 != 0 {
            return Some("an open quotation");
        }
        // Odd pieces lie inside quotation marks.
        let mut before = "";
        for (at, piece) in paragraph.split('"').enumerate() {
            let inside = at % 2 == 1;
            let goes_on = before.ends_with(", ");
            if inside && !goes_on && !piece.starts_with(|c: char| c.is_ascii_uppercase()) {
                return Some("a quotation begins in lower case");
            }
            if inside && !piece.ends_with(['.', ',', '!', '?']) {
                return Some("a quotation ends without punctuation");
            }
            let sentences: Vec<&str> = piece.split_inclusive(['.', '!', '?']).collect();
            for sentence in sentences.iter().skip(usize::from(at > 0)) {
                let start = sentence.trim_start();
                if start.starts_with(|c: char| c.is_ascii_lowercase()) {
                    return Some("a sentence begins in lower case");
                }
            }
            before = piece;
        }
    }
    None
}

#[test]
fn every_story_is_well_formed() {
    for (index, text) in STORIES.iter().enumerate() {
        assert_eq!(fault(text), None, "story {index}:\n{text}");
    }
}

#[test]
fn the_check_itself_finds_faults() {
    let faults = [
        ("She had a apple.", "a wrong article"),
        ("She had an kite.", "a wrong article"),
        ("She  ran.", "doubled or stray white space"),
        ("She ran. he fell.", "a sentence begins in lower case"),
        ("She ran. \"yes,\" she said.", "a quotation begins in lower case"),
        ("She said, \"Yes\" and ran.", "a quotation ends without punctuation"),
        ("She ran", "a paragraph without an end"),
        ("She saw {him}.", "a mark of the grammar is left"),
        ("She saw the the cat.", "a doubled word"),
        ("She ran ..", "wrong punctuation"),
    ];
    for (text, expected) in faults {
        assert_eq!(fault(text), Some(expected), "{text}");
    }
    assert_eq!(fault("\"Yes!\" she said. \"An owl?\""), None);
}

#[test]
fn every_plot_and_phrasing_is_told() {
    let plots: Vec<&Plot> = PLOTS.iter().flat_map(|theme| theme.iter()).collect();
    assert!(plots.len() >= 12);
    assert_eq!(super::plots().collect::<BTreeSet<_>>().len(), plots.len(), "two plots have one name");
    for plot in plots {
        for choice in plot.choices {
            let width = choice.rows[0].len();
            assert!(
                choice.rows.iter().all(|row| row.len() == width),
                "{}: rows of different lengths",
                plot.name
            );
            assert_eq!(choice.slots.len() % width, 0, "{}: {:?}", plot.name, choice.slots);
            assert!(choice.rows.len() >= choice.slots.len() / width, "{}: too few rows", plot.name);
        }
        // Told often enough, each plot gives well-formed stories whatever is drawn.
        for index in 0..200 {
            let text = tell(plot, &mut Rng::new(99, index));
            assert_eq!(fault(&text), None, "{} {index}:\n{text}", plot.name);
        }
    }
}

#[test]
fn friends_differ_and_sums_are_right() {
    for index in 0..2000 {
        let mut rng = Rng::new(5, index);
        let slots = cast(Cast::Anyone, &mut rng);
        let value = |name: &str| filled(&format!("{{{name}}}"), &slots, &mut Rng::new(0, 0));
        assert_ne!(value("hero"), value("friend"));
        let number = |name: &str| words::NUMBERS.iter().position(|n| *n == value(name)).unwrap();
        assert_eq!(number("n1") + number("n2"), number("n12"));
        assert_eq!(number("n12") - number("n3"), number("n_left"));
    }
}
