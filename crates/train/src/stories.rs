//! Short stories for children, written by a grammar: the built-in data that a small model can learn in
//! minutes.
//!
//! A story is drawn in three moves. A cast is chosen (a hero, a friend, a grown-up, a toy, a place), then a
//! plot, and then every step of the plot is told in one of its phrasings. What is chosen early comes back
//! late (the color of a kite, the name of a friend, how many apples there were), so that there is something
//! to learn beyond the next word: a model must look back to tell a story well.
//!
//! The same `(seed, index)` gives the same story on every machine.
//!
//! ```
//! let stories: Vec<String> = wootz_train::stories::corpus(1, 3).collect();
//! assert_eq!(stories[2], wootz_train::stories::story(1, 2));
//! ```

mod grammar;
pub mod heroes;
mod plots;
mod words;

use grammar::{Rng, Slots, expand, settle_articles};
use plots::{Cast, Choice, PLOTS, Plot};

/// Story number `index` of the collection `seed`: three paragraphs of plain ASCII, separated by blank lines,
/// with no line break at the end.
pub fn story(seed: u64, index: u64) -> String {
    let mut rng = Rng::new(seed, index);
    let plots: Vec<&Plot> = PLOTS.iter().flat_map(|theme| theme.iter()).collect();
    match rng.pick(&plots) {
        Some(plot) => tell(plot, &mut rng),
        None => String::new(),
    }
}

/// The first `stories` stories of the collection `seed`, in order.
pub fn corpus(seed: u64, stories: u64) -> impl Iterator<Item = String> {
    (0..stories).map(move |index| story(seed, index))
}

/// The names of the plots.
pub fn plots() -> impl Iterator<Item = &'static str> {
    PLOTS.iter().flat_map(|theme| theme.iter()).map(|plot| plot.name)
}

/// Tells a plot with a fresh cast.
fn tell(plot: &Plot, rng: &mut Rng) -> String {
    let mut slots = cast(plot.cast, rng);
    for choice in plot.choices {
        choose(choice, &mut slots, rng);
    }
    let mut paragraphs: Vec<Vec<String>> = Vec::new();
    for steps in plot.paragraphs {
        let sentences = steps.iter().map(|phrasings| say(phrasings, &slots, rng));
        paragraphs.push(sentences.collect());
    }
    // A long story needs no ornaments.
    let n_words: usize = paragraphs.iter().flatten().map(|sentences| sentences.split(' ').count()).sum();
    if let Some(first) = paragraphs.first_mut() {
        if n_words < 165 && rng.below(2) == 0 {
            first.insert(0, say(words::HABITS, &slots, rng));
        }
        first.insert(0, say(words::OPENINGS, &slots, rng));
    }
    if let Some(last) = paragraphs.last_mut().filter(|_| n_words < 165 && rng.below(3) == 0) {
        last.push(say(words::CLOSINGS, &slots, rng));
    }
    let text: Vec<String> = paragraphs.iter().map(|sentences| sentences.join(" ")).collect();
    settle_articles(&text.join("\n\n"))
}

/// One phrasing, filled in.
fn say(phrasings: &[&str], slots: &Slots, rng: &mut Rng) -> String {
    let mut out = String::new();
    if let Some(template) = rng.pick(phrasings) {
        expand(template, slots, rng, &mut out);
    }
    out
}

/// A pronoun's three forms are set as `he`, `him` and `his`, after a prefix that says whose they are.
fn set_pronouns(slots: &mut Slots, prefix: &str, female: bool) {
    let forms = if female { ["she", "her", "her"] } else { ["he", "him", "his"] };
    for (name, form) in ["he", "him", "his"].into_iter().zip(forms) {
        slots.set(&format!("{prefix}{name}"), form);
    }
    slots.set(&format!("{prefix}himself"), if female { "herself" } else { "himself" });
}

/// Chooses who and what a story is about.
fn cast(wanted: Cast, rng: &mut Rng) -> Slots {
    let mut slots = Slots::default();
    let animals = match wanted {
        Cast::Children => false,
        Cast::Anyone => rng.below(3) == 0,
    };

    // Two different people. Where both are she or both are he, a sentence is harder to read: that is drawn
    // once more.
    let girl = rng.below(2) == 0;
    let friend_girl = if rng.below(4) == 0 { girl } else { !girl };
    let names = |female: bool| match (animals, female) {
        (false, true) => words::GIRLS,
        (false, false) => words::BOYS,
        (true, true) => words::SHE_ANIMALS,
        (true, false) => words::HE_ANIMALS,
    };
    let hero = draw(names(girl), rng);
    let friend = draw_other(names(friend_girl), hero, rng);
    let child = |female: bool| if female { "girl" } else { "boy" };
    let (kind, friend_kind) = if animals {
        let kind = draw(words::KINDS, rng);
        (kind, draw_other(words::KINDS, kind, rng))
    } else {
        (child(girl), child(friend_girl))
    };
    slots.set("hero", hero);
    slots.set("kind", kind);
    set_pronouns(&mut slots, "", girl);
    slots.set("intro", format!("a/an {} {kind} named {hero}", draw(words::TRAITS, rng)));
    slots.set("friend", friend);
    set_pronouns(&mut slots, "f_", friend_girl);
    slots.set("friend_intro", format!("a/an {friend_kind} named {friend}"));
    slots.set("friend_full", if animals { format!("{friend} the {friend_kind}") } else { friend.to_owned() });
    slots.set("hand", if animals { "paw" } else { "hand" });
    slots.set("hands", if animals { "paws" } else { "hands" });
    slots.set("home", draw(if animals { words::DENS } else { words::HOMES }, rng));
    if let Some(&(elder, female)) = rng.pick(words::ELDERS) {
        slots.set("elder", elder);
        set_pronouns(&mut slots, "e_", female);
    }

    for (name, list) in [
        ("color", words::COLORS),
        ("look", words::LOOKS),
        ("treat", words::TREATS),
        ("place", words::PLACES),
        ("one_day", words::DAYS),
        ("pet_name", words::PET_NAMES),
    ] {
        slots.set(name, draw(list, rng));
    }
    if let Some([toy, act, acted, together]) = rng.pick(words::TOYS) {
        slots.set("toy", *toy);
        slots.set("do_toy", *act);
        slots.set("played_toy", *acted);
        slots.set("together_toy", *together);
        let a_toy = filled("a/an {look} {toy}", &slots, rng);
        slots.set("a_toy", a_toy);
    }
    if let Some([baby, mother, place, says, food]) = rng.pick(words::BABIES) {
        for (name, value) in
            [("baby", baby), ("mother", mother), ("where", place), ("says", says), ("food", food)]
        {
            slots.set(name, *value);
        }
    }
    let aside = say(words::ASIDES, &slots, rng);
    slots.set("aside", aside);

    // Numbers that add up: n1 and n2 make n12, and taking n3 away leaves n_left.
    let (n1, n2, n3) = (3 + rng.below(6), 2 + rng.below(5), 2 + rng.below(2));
    for (name, n) in [("n1", n1), ("n2", n2), ("n12", n1 + n2), ("n3", n3), ("n_left", n1 + n2 - n3)] {
        slots.set(name, words::NUMBERS.get(n).copied().unwrap_or_default());
    }
    slots
}

/// Sets a choice's slots from different rows.
fn choose(choice: &Choice, slots: &mut Slots, rng: &mut Rng) {
    let width = choice.rows.first().map_or(1, |row| row.len().max(1));
    let mut rows: Vec<&[&str]> = choice.rows.to_vec();
    for names in choice.slots.chunks(width) {
        if rows.is_empty() {
            return;
        }
        let row = rows.swap_remove(rng.below(rows.len()));
        for (name, template) in names.iter().zip(row) {
            let value = filled(template, slots, rng);
            slots.set(name, value);
        }
    }
}

/// A template, filled in.
fn filled(template: &str, slots: &Slots, rng: &mut Rng) -> String {
    say(&[template], slots, rng)
}

/// One word of a list.
fn draw(list: &[&'static str], rng: &mut Rng) -> &'static str {
    rng.pick(list).copied().unwrap_or_default()
}

/// One word of a list other than `not`.
fn draw_other(list: &[&'static str], not: &str, rng: &mut Rng) -> &'static str {
    let others: Vec<&'static str> = list.iter().copied().filter(|word| *word != not).collect();
    draw(&others, rng)
}

#[cfg(test)]
mod tests;
