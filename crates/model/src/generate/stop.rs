//! Strings at which a text ends.

/// Watches a text that comes in pieces for strings that end it.
///
/// What it lets through never holds a stop string or a part of one that has come in full: text that may be the
/// beginning of one waits until that is known. How the text is cut into pieces makes no difference to the result.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Watches for any of `stops`; empty ones are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> StopStrings {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty()).collect();
        StopStrings { stops, ..StopStrings::default() }
    }

    /// Adds a piece; returns what may be shown now. After a stop string, nothing may.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped {
            return String::new();
        }
        self.held.push_str(piece);
        // The one that is complete first ends the text; of several that end together, the longest.
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = found.min() {
            self.stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let starts = self.held.char_indices().map(|(start, _)| start);
        let keep = starts
            .into_iter()
            .find(|&start| self.stops.iter().any(|stop| stop.starts_with(&self.held[start..])))
            .unwrap_or(self.held.len());
        let rest = self.held.split_off(keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Whether a stop string has come.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// The text ends here: what was held back and became no stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut filter = StopStrings::new(stops.iter().map(|s| s.to_string()));
        let mut text: String = pieces.into_iter().map(|piece| filter.push(piece)).collect();
        text.push_str(&filter.finish());
        (text, filter.stopped())
    }

    #[test]
    fn cuts_before_the_stop_string() {
        assert_eq!(run(&["END"], ["ab", "cEN", "D and more"]), ("abc".into(), true));
        assert_eq!(run(&["END"], ["abcEN"]), ("abcEN".into(), false));
        assert_eq!(run(&["\n\n", "User:"], ["a\nUs", "er", ": b"]), ("a\n".into(), true));
        assert_eq!(run(&["é!"], ["caf", "é", "é", "!"]), ("café".into(), true));
        assert_eq!(run(&[""], ["a"]), ("a".into(), false));
        assert_eq!(run(&[], ["a", "b"]), ("ab".into(), false));
    }

    #[test]
    fn holds_back_only_what_may_be_a_beginning() {
        let mut filter = StopStrings::new(["<end>".to_string()]);
        assert_eq!(filter.push("a <"), "a ");
        assert_eq!(filter.push("e"), "");
        assert_eq!(filter.push("x <en"), "<ex ");
        assert_eq!(filter.push("<end"), "<en");
        assert!(!filter.stopped());
        assert_eq!(filter.push(">b"), "");
        assert!(filter.stopped());
        assert_eq!((filter.push("c"), filter.finish()), (String::new(), String::new()));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[abé]{0,20}", stops in proptest::collection::vec("[abé]{1,4}", 0..4)) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut letters = [0; 4];
            let single: Vec<String> = text.chars().map(|c| c.encode_utf8(&mut letters).to_string()).collect();
            let whole = run(&stops, [text.as_str()]);
            prop_assert_eq!(&whole, &run(&stops, single.iter().map(String::as_str)));
            prop_assert_eq!(whole.1, stops.iter().any(|stop| text.contains(stop)));
            prop_assert!(text.starts_with(&whole.0));
            prop_assert!(stops.iter().all(|stop| !whole.0.contains(stop)));
        }
    }
}
