//! Beginnings of stories whose hero is named: does the model remember who the story is about?
//!
//! A small model soon tells of somebody else. Whether the hero's name comes again is easy to judge, so it is what a model can
//! be taught by reward alone.

use super::grammar::Rng;
use super::words;

/// A beginning, and the name that a story about it has to say again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Ends with the hero's name.
    pub text: String,
    /// The name.
    pub hero: &'static str,
}

/// One name of this many is not learnt with.
const HELD_OUT: usize = 5;

/// Beginning `index`: a function of its arguments alone. Those that are `held_out` have names of their own.
pub fn beginning(held_out: bool, seed: u64, index: u64) -> Beginning {
    let mut rng = Rng::new(seed, index);
    let names: Vec<&'static str> = words::GIRLS
        .iter()
        .chain(words::BOYS)
        .enumerate()
        .filter(|(i, _)| (i % HELD_OUT == HELD_OUT - 1) == held_out)
        .map(|(_, name)| *name)
        .collect();
    let hero = names[rng.below(names.len())];
    let kind = if words::GIRLS.contains(&hero) { "girl" } else { "boy" };
    let how = words::TRAITS[rng.below(words::TRAITS.len())];
    let text = match rng.below(3) {
        0 => format!("Once upon a time, there was a {how} {kind} named {hero}. One day, {hero}"),
        1 => format!("There once was a {how} {kind} whose name was {hero}. One morning, {hero}"),
        _ => format!("This is the story of {hero}, a {how} {kind}. One afternoon, {hero}"),
    };
    Beginning { text, hero }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn held_out_names_are_never_learnt_with() {
        let names = |held_out| (0..2000).map(|i| beginning(held_out, 1, i).hero).collect::<BTreeSet<_>>();
        let (learnt, held_out) = (names(false), names(true));
        assert_eq!((learnt.len(), held_out.len()), (32, 8));
        assert!(learnt.is_disjoint(&held_out));
    }

    #[test]
    fn a_beginning_is_a_function_of_its_arguments() {
        assert_eq!(beginning(true, 3, 4), beginning(true, 3, 4));
        let all: BTreeSet<String> = (0..500).map(|i| beginning(false, 3, i).text).collect();
        assert!(all.len() > 200, "{}", all.len());
        for index in 0..50 {
            let Beginning { text, hero } = beginning(false, 9, index);
            assert!(text.ends_with(hero) && text.matches(hero).count() == 2, "{text}");
        }
    }
}
