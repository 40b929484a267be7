//! Reading a table of options without overlooking a key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};

use crate::error::{Error, Result};

/// The longest time that an option may ask for.
const LONGEST: f64 = 86_400.0;

/// The options of one reward. Each is taken out when it is read; in the end none may be left.
pub(crate) struct Options {
    table: Table,
    /// What messages begin with: the file, the reward.
    pub place: String,
    /// Where files that it names are looked for.
    folder: PathBuf,
    known: Vec<&'static str>,
}

impl Options {
    pub fn new(table: Table, place: String, folder: &Path) -> Options {
        Options { table, place, folder: folder.to_owned(), known: Vec::new() }
    }

    /// An error about an option.
    pub fn wrong(&self, key: &str, expected: &str, found: impl std::fmt::Display) -> Error {
        Error::new(format!("{}: `{key}`: expected {expected}, found {found}", self.place))
    }

    /// An error about several options.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::new(format!("{}: {message}", self.place))
    }

    /// Takes an option out, whatever it is.
    pub fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, "a text", other)),
        }
    }

    /// A text that must be there.
    pub fn required(&mut self, key: &'static str) -> Result<String> {
        self.text(key)?.ok_or_else(|| self.error(format_args!("`{key}` is missing")))
    }

    /// A text, or a list of them that is not empty.
    pub fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let expected = "a text or a list of texts";
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(vec![text])),
            Some(Value::Array(values)) if !values.is_empty() => {
                let text = |value| match value {
                    Value::String(text) => Ok(text),
                    other => Err(self.wrong(key, expected, format_args!("{other} in the list"))),
                };
                values.into_iter().map(text).collect::<Result<_>>().map(Some)
            }
            Some(other) => Err(self.wrong(key, expected, other)),
        }
    }

    /// A number that is not negative.
    pub fn number(&mut self, key: &'static str) -> Result<Option<f64>> {
        match self.any_number(key)? {
            Some(number) if number < 0.0 => Err(self.wrong(key, "a number that is not negative", number)),
            number => Ok(number),
        }
    }

    /// A finite number.
    pub fn any_number(&mut self, key: &'static str) -> Result<Option<f64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(number)),
            Some(Value::Integer(number)) => Ok(Some(number as f64)),
            Some(other) => Err(self.wrong(key, "a number", other)),
        }
    }

    /// A number from 0 to 1.
    pub fn share(&mut self, key: &'static str) -> Result<Option<f64>> {
        match self.number(key)? {
            Some(number) if number > 1.0 => Err(self.wrong(key, "a number from 0 to 1", number)),
            number => Ok(number),
        }
    }

    /// A whole number, at least `least`.
    pub fn count(&mut self, key: &'static str, least: usize) -> Result<Option<usize>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Integer(number)) if usize::try_from(number).is_ok_and(|number| number >= least) => {
                Ok(usize::try_from(number).ok())
            }
            Some(other) => Err(self.wrong(key, &format!("a whole number, {least} or more"), other)),
        }
    }

    /// Seconds, more than none.
    pub fn seconds(&mut self, key: &'static str, usual: f64) -> Result<Duration> {
        let seconds = self.any_number(key)?.unwrap_or(usual);
        if seconds > 0.0 && seconds <= LONGEST {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(self.wrong(key, "seconds, more than 0 and at most a day's", seconds))
    }

    /// Yes or no; no if nothing is said.
    pub fn flag(&mut self, key: &'static str) -> Result<bool> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Boolean(flag)) => Ok(flag),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// One of several words; the first if nothing is said.
    pub fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Result<T> {
        let word = self.text(key)?;
        let chosen = choices.iter().find(|(name, _)| word.as_deref().is_none_or(|word| word == *name));
        chosen.map(|(_, choice)| *choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.wrong(key, &names.join(" or "), format_args!("\"{}\"", word.unwrap_or_default()))
        })
    }

    /// A path, from the folder of the file that names it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// # Errors
    /// A key that nobody asked for.
    pub fn finish(self) -> Result<()> {
        let Some(key) = self.table.keys().next() else { return Ok(()) };
        let mut known = self.known.clone();
        known.sort_unstable();
        known.dedup();
        Err(self.error(format_args!("unknown key `{key}`; known here: {}", known.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        Options::new(text.parse().unwrap(), "f.toml: reward `x`".into(), Path::new("a"))
    }

    #[test]
    fn what_is_read_has_its_type() {
        let mut options = options("a = 'x'\nb = ['y', 'z']\nc = 3\nd = 0.5\ne = true\nf = 'two'\ng = 1.5");
        assert_eq!(options.texts("a").unwrap().unwrap(), ["x"]);
        assert_eq!(options.texts("b").unwrap().unwrap(), ["y", "z"]);
        assert_eq!(options.count("c", 3).unwrap(), Some(3));
        assert_eq!(options.share("d").unwrap(), Some(0.5));
        assert!(options.flag("e").unwrap() && !options.flag("no").unwrap());
        assert_eq!(options.choice("f", &[("one", 1), ("two", 2)]).unwrap(), 2);
        assert_eq!(options.choice("h", &[("one", 1), ("two", 2)]).unwrap(), 1);
        assert_eq!(options.seconds("g", 9.0).unwrap(), Duration::from_millis(1500));
        assert_eq!(options.path("b.json"), Path::new("a").join("b.json"));
        options.finish().unwrap();
    }

    type Read = fn(&mut Options) -> Result<()>;

    #[test]
    fn errors_name_the_file_the_key_and_what_was_found() {
        let error = |text: &str, read: Read| read(&mut options(text)).unwrap_err().to_string();
        let cases: &[(&str, Read, &str)] = &[
            ("a = 1", |o| o.text("a").map(|_| ()), "`a`: expected a text, found 1"),
            ("", |o| o.required("a").map(|_| ()), "`a` is missing"),
            ("a = []", |o| o.texts("a").map(|_| ()), "`a`: expected a text or a list of texts, found []"),
            ("a = ['x', 2]", |o| o.texts("a").map(|_| ()), "found 2 in the list"),
            (
                "a = -1",
                |o| o.number("a").map(|_| ()),
                "`a`: expected a number that is not negative, found -1",
            ),
            ("a = nan", |o| o.number("a").map(|_| ()), "`a`: expected a number, found nan"),
            ("a = 2", |o| o.share("a").map(|_| ()), "`a`: expected a number from 0 to 1, found 2"),
            ("a = 2", |o| o.count("a", 3).map(|_| ()), "`a`: expected a whole number, 3 or more, found 2"),
            (
                "a = 0",
                |o| o.seconds("a", 1.0).map(|_| ()),
                "`a`: expected seconds, more than 0 and at most a day's, found 0",
            ),
            ("a = 'yes'", |o| o.flag("a").map(|_| ()), "`a`: expected true or false, found \"yes\""),
            ("a = 'c'", |o| o.choice("a", &[("b", ())]), "`a`: expected \"b\", found \"c\""),
        ];
        for (text, read, expected) in cases {
            let found = error(text, *read);
            assert!(found.starts_with("f.toml: reward `x`: ") && found.ends_with(expected), "{found}");
        }
        let mut options = options("wight = 2");
        options.number("weight").unwrap();
        options.flag("gate").unwrap();
        let error = options.finish().unwrap_err().to_string();
        assert_eq!(error, "f.toml: reward `x`: unknown key `wight`; known here: gate, weight");
    }
}
