//! From one line or a TOML file to rewards.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::kinds::{self, KINDS, Kind};
use crate::of::Of;
use crate::options::Options;
use crate::rewards::{Reward, Rewards};

/// What reading a spec may need beside the spec.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    #[cfg(feature = "http")]
    pub(crate) agent: Option<ureq::Agent>,
}

impl Setup {
    /// Services are asked with this agent. Without one, addresses with `https` are refused: encryption is the program's
    /// to set up, once. Time limits, statuses and redirects are set for each request; the agent's own do not count.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn with_agent(self, agent: ureq::Agent) -> Setup {
        Setup { agent: Some(agent) }
    }

    /// As [`Rewards::parse`].
    ///
    /// # Errors
    /// What is wrong with the spec.
    pub fn parse(&self, spec: &str) -> Result<Rewards> {
        let spec = spec.trim();
        let is_address = spec.starts_with("http://") || spec.starts_with("https://");
        let (name, option) = match spec.split_once(':') {
            _ if is_address => ("http", Some(spec)),
            Some((name, option)) => (name, Some(option)),
            None => (spec, None),
        };
        let Some(kind) = KINDS.iter().find(|kind| kind.name == name) else {
            if is_address {
                return Err(Error::new("reward `http`: this program is built without asking services"));
            }
            return self.open(spec);
        };
        let mut table = match option {
            None => Table::new(),
            Some(option) => kind.short.table(option).map_err(|expected| {
                Error::new(format!(
                    "reward `{spec}`: expected `{name}:` to be followed by {expected}, found `{option}`"
                ))
            })?,
        };
        table.insert("kind".to_owned(), Value::String(kind.name.to_owned()));
        // An address may hold a password.
        let shown = if is_address { kind.name } else { spec };
        let options = Options::new(table, format!("reward `{shown}`"), Path::new(""));
        Ok(Rewards::new(vec![self.reward(options)?]))
    }

    /// As [`Rewards::from_toml`].
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn from_toml(&self, text: &str, origin: &Path) -> Result<Rewards> {
        let file = origin.display();
        let mut table: Table = toml::from_str(text).map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            Error::new(format!("{file}: line {line}: {}", error.message()))
        })?;
        let list = match table.remove("reward") {
            Some(Value::Array(list)) if !list.is_empty() => list,
            Some(Value::Table(_)) => {
                return Err(Error::new(format!("{file}: expected [[reward]], found [reward]")));
            }
            Some(other) => {
                return Err(Error::new(format!("{file}: expected [[reward]], found reward = {other}")));
            }
            None => return Err(Error::new(format!("{file}: expected at least one [[reward]], found none"))),
        };
        if let Some(key) = table.keys().next() {
            return Err(Error::new(format!("{file}: unknown key `{key}`; known here: [[reward]]")));
        }
        let folder = origin.parent().unwrap_or(Path::new(""));
        let mut rewards: Vec<Reward> = Vec::with_capacity(list.len());
        for (i, entry) in list.into_iter().enumerate() {
            let place = format!("{file}: reward {}", i + 1);
            let Value::Table(table) = entry else {
                return Err(Error::new(format!("{place}: expected a table, found {entry}")));
            };
            let reward = self.reward(Options::new(table, place, folder))?;
            if rewards.iter().any(|other| other.name == reward.name) {
                return Err(Error::new(format!(
                    "{file}: two rewards are called `{}`; give one of them another `name`",
                    reward.name
                )));
            }
            rewards.push(reward);
        }
        Ok(Rewards::new(rewards))
    }

    /// A spec that is no kind is a file.
    fn open(&self, spec: &str) -> Result<Rewards> {
        let path = Path::new(spec);
        if !spec.ends_with(".toml") && !path.is_file() {
            return Err(Error::new(format!(
                "reward `{spec}`: expected KIND or KIND:OPTION with one of the kinds {}, an http address, or a TOML file",
                kinds::names()
            )));
        }
        let text = fs::read_to_string(path)
            .map_err(|error| Error::caused_by(format!("{spec}: cannot be read"), error))?;
        self.from_toml(&text, path)
    }

    /// One reward of a spec.
    fn reward(&self, mut options: Options) -> Result<Reward> {
        let kind = options.required("kind")?;
        let Some(kind) = KINDS.iter().find(|known| known.name == kind) else {
            return Err(options.wrong(
                "kind",
                &format!("one of {}", kinds::names()),
                format_args!("\"{kind}\""),
            ));
        };
        let name = options.text("name")?.unwrap_or_else(|| kind.name.to_owned());
        let is_plain = |c: char| c.is_alphanumeric() || "_-./ ".contains(c);
        if name.trim().is_empty() || !name.chars().all(is_plain) {
            let expected = "letters, digits, `_`, `-`, `.`, `/` and spaces";
            return Err(options.wrong("name", expected, format_args!("{name:?}")));
        }
        if name != kind.name {
            options.place = format!("{} (`{name}`)", options.place);
        }
        let weight = options.any_number("weight")?.unwrap_or(1.0);
        let gate = options.flag("gate")?;
        let of = Of::read(&mut options)?;
        let Kind { make, .. } = kind;
        let made = make(&mut options, self, of.is_some())?;
        options.finish()?;
        Ok(Reward { name, weight, gate, of, parts: made.parts, judge: made.judge })
    }
}
