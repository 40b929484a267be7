//! Chat templates: the Jinja programs that models carry to make a prompt of a conversation.
//!
//! They were written for Python's Jinja2 in the environment that transformers gives them: blocks take their line
//! with them (`trim_blocks`, `lstrip_blocks`), `raise_exception`, `strftime_now`, a `tojson` without HTML escapes,
//! `break` and `continue`, and the methods of Python's strings, lists and dictionaries.

use std::fmt;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, State, Value};
use serde_json::Map;

use crate::error::Error;
use crate::python::Dumps;

pub use jiff::civil::DateTime;

const NAME: &str = "chat template";
/// The same template, with [`OPEN`] and [`CLOSE`] around what the assistant says.
const MARKED: &str = "marked chat template";
/// The filter that writes them.
const MARK: &str = "mark_generation";
/// Stand at both ends of what the assistant says. Unicode gives them to no character.
pub(crate) const OPEN: char = '\u{FDEE}';
/// As [`OPEN`].
pub(crate) const CLOSE: char = '\u{FDEF}';
/// Steps that a render may take; real templates take thousands. A template that loops forever ends in an error.
const FUEL: u64 = 20_000_000;

type Clock = Arc<dyn Fn() -> DateTime + Send + Sync>;

/// A chat template, ready to render.
#[derive(Clone)]
pub struct ChatTemplate {
    source: String,
    compiled: Result<Environment<'static>, String>,
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// What is wrong with the source, and in which line.
    pub fn parse(source: &str) -> Result<Self, Error> {
        let template = Self::deferred(source);
        match &template.compiled {
            Ok(_) => Ok(template),
            Err(message) => Err(Error::Template(message.clone())),
        }
    }

    /// Like [`parse`](Self::parse), but leaves the error to [`render`](Self::render): a model with a broken template
    /// is still good for plain text.
    pub(crate) fn deferred(source: &str) -> Self {
        let compiled = compile(source).map_err(|error| describe(&error));
        ChatTemplate { source: source.to_owned(), compiled }
    }

    /// The template's source, as the model carries it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Takes `clock` for what `strftime_now` tells; otherwise it is the local time.
    pub fn with_clock(mut self, clock: impl Fn() -> DateTime + Send + Sync + 'static) -> Self {
        if let Ok(environment) = &mut self.compiled {
            add_clock(environment, Arc::new(clock));
        }
        self
    }

    /// The prompt that the template makes of `variables`.
    ///
    /// # Errors
    /// [`Error::Raised`] with the template's own words where it refuses the conversation, [`Error::Template`] for
    /// anything else that goes wrong in it.
    pub fn render(&self, variables: &Map<String, serde_json::Value>) -> Result<String, Error> {
        self.render_as(NAME, variables)
    }

    /// Whether the template says by `{% generation %}` what the assistant says.
    pub fn marks_generation(&self) -> bool {
        self.compiled.as_ref().is_ok_and(|environment| environment.get_template(MARKED).is_ok())
    }

    /// As [`render`](Self::render), with [`OPEN`] and [`CLOSE`] around what the assistant says.
    pub(crate) fn render_marked(&self, variables: &Map<String, serde_json::Value>) -> Result<String, Error> {
        self.render_as(MARKED, variables)
    }

    fn render_as(&self, name: &str, variables: &Map<String, serde_json::Value>) -> Result<String, Error> {
        let environment = self.compiled.as_ref().map_err(|message| Error::Template(message.clone()))?;
        let rendered = environment.get_template(name).and_then(|template| template.render(Serde(variables)));
        rendered.map_err(|error| match find_raised(&error) {
            Some(Raised(message)) => Error::Raised(message.clone()),
            None => Error::Template(describe(&error)),
        })
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}

fn compile(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(call_method);
    environment.add_filter("tojson", tojson);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    add_clock(&mut environment, Arc::new(|| jiff::Zoned::now().datetime()));
    let plain = replace_generation_tags(source, "if true", "endif");
    if plain != source {
        environment.add_filter(MARK, |said: &str| format!("{OPEN}{said}{CLOSE}"));
        let marked = replace_generation_tags(source, &format!("filter {MARK}"), "endfilter");
        environment.add_template_owned(MARKED, marked)?;
    }
    environment.add_template_owned(NAME, plain)?;
    Ok(environment)
}

fn add_clock(environment: &mut Environment<'static>, clock: Clock) {
    environment.add_function("strftime_now", move |format: &str| {
        jiff::fmt::strtime::format(format, clock()).map_err(|error| {
            minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now(`{format}`): {error}"))
        })
    });
}

/// What a template said to `raise_exception`, carried through the engine's errors.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn sources(error: &minijinja::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |error| error.source())
}

fn find_raised(error: &minijinja::Error) -> Option<&Raised> {
    sources(error).find_map(|source| source.downcast_ref::<Raised>())
}

fn describe(error: &minijinja::Error) -> String {
    let mut message = match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("line {line}: {}: {detail}", error.kind()),
        (None, Some(line)) => format!("line {line}: {}", error.kind()),
        (Some(detail), None) => format!("{}: {detail}", error.kind()),
        (None, None) => error.kind().to_string(),
    };
    for source in sources(error) {
        message = format!("{message}: {source}");
    }
    message
}

/// `json.dumps` with transformers' defaults: characters as they are, no HTML escapes.
fn tojson(value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<String, minijinja::Error> {
    if value.is_undefined() {
        return Err(minijinja::Error::new(
            ErrorKind::UndefinedError,
            "an undefined value cannot be written as JSON",
        ));
    }
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let dumps = Dumps {
        indent: indent.map(|indent| indent.min(64)),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: ensure_ascii.or(options.get("ensure_ascii")?).unwrap_or(false),
        separators: separators
            .and_then(|pair| <[String; 2]>::try_from(pair).ok())
            .map(|[item, key]| (item, key)),
    };
    options.assert_all_used()?;
    let json = serde_json::to_value(value).map_err(|error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("cannot be written as JSON: {error}"))
    })?;
    Ok(dumps.write(&json))
}

/// Jinja2 calls everything a sequence that has a length and can be indexed: strings and dictionaries too.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
}

fn is_iterable(value: &Value) -> bool {
    value.kind() == ValueKind::String || value.try_iter().is_ok()
}

/// Python's methods of strings, lists and dictionaries.
fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, minijinja::Error> {
    if let (Some(text), [affix]) = (value.as_str(), args)
        && let Some(affix) = affix.as_str()
    {
        match method {
            "removeprefix" => return Ok(text.strip_prefix(affix).unwrap_or(text).into()),
            "removesuffix" => return Ok(text.strip_suffix(affix).unwrap_or(text).into()),
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Templates made for training mark what the assistant says with `{% generation %}`, which has no meaning for a
/// prompt. The marks are made into a block of another kind, so that white space is trimmed as it would be: one that
/// changes nothing, or one that shows where it begins and ends.
fn replace_generation_tags(source: &str, open: &str, close: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        plain.push_str(before);
        let bracket = match tag.as_bytes().get(1) {
            Some(b'%') => "%}",
            Some(b'{') => "}}",
            Some(b'#') => "#}",
            _ => {
                plain.push('{');
                rest = &tag[1..];
                continue;
            }
        };
        let end = tag[2..].find(bracket).map_or(tag.len(), |at| 2 + at + bracket.len());
        let (tag, after) = tag.split_at(end);
        let inside = tag.trim_matches(|c: char| c.is_whitespace() || "{%-+}".contains(c));
        match (bracket, inside) {
            ("%}", "generation") => plain.push_str(&tag.replace("generation", open)),
            ("%}", "endgeneration") => plain.push_str(&tag.replace("endgeneration", close)),
            _ => plain.push_str(tag),
        }
        rest = after;
    }
    plain.push_str(rest);
    plain
}
