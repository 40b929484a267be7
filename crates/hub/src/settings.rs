//! Where the hub and its cache are, and who asks: the environment, as `huggingface_hub` reads it.

use std::fmt;
use std::path::PathBuf;

use crate::cache::Cache;
use crate::error::{Context, Result, fail};

/// The hub, where `HF_ENDPOINT` names no other.
const ENDPOINT: &str = "https://huggingface.co";

/// What the environment says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the hub, without a slash at its end.
    pub endpoint: String,
    /// The cache.
    pub cache: Cache,
    /// Who asks.
    pub token: Option<Token>,
    /// Nothing is asked of the network.
    pub offline: bool,
}

/// A secret that the hub knows an account by. It is not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Reads a token that was found at `place`. It may stand in a header only as plain characters; what it is is not repeated.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str, place: &str) -> Result<Option<Token>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            fail!("{place}: expected a token of plain characters in one line, found something else");
        }
        Ok(Some(Token(text.to_owned())))
    }

    /// The secret itself, for the one header that holds it.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Settings {
    /// Reads the environment of the process.
    ///
    /// # Errors
    /// There is no place for a cache; the endpoint is no address; the token is none.
    pub fn from_environment() -> Result<Settings> {
        let home = std::env::home_dir();
        Settings::read(&|name| std::env::var_os(name).and_then(|value| value.into_string().ok()), home)
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Settings> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| variable(name).map(|text| expanded(&text, home.as_ref()));
        let hf_home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| home.as_ref().map(|home| home.join(".cache").join("huggingface")));
        let hub = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let Some(hub) = hub else {
            fail!("no place for the hub's cache: neither HF_HOME nor HOME is set");
        };
        let token_file = path("HF_TOKEN_PATH").or_else(|| hf_home.map(|home| home.join("token")));
        let token = match variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")) {
            Some(text) => Token::parse(&text, "HF_TOKEN")?,
            None if is_on(variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")) => None,
            None => match token_file {
                Some(file) => match std::fs::read_to_string(&file) {
                    Ok(text) => Token::parse(&text, &file.display().to_string())?,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                    Err(error) => {
                        return Err(error).context(|| format!("{}: cannot read the token", file.display()));
                    }
                },
                None => None,
            },
        };
        Ok(Settings {
            endpoint: endpoint(variable("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT))?,
            cache: Cache::new(hub, !is_on(variable("HF_HUB_DISABLE_SYMLINKS"))),
            token,
            offline: is_on(variable("HF_HUB_OFFLINE")) || is_on(variable("TRANSFORMERS_OFFLINE")),
        })
    }
}

fn is_on(value: Option<String>) -> bool {
    value.is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()))
}

/// `~/x` below the home folder.
fn expanded(text: &str, home: Option<&PathBuf>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

fn endpoint(text: &str) -> Result<String> {
    let address = text.trim_end_matches('/');
    let rest = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://"));
    let is_plain = |c: char| c.is_ascii_graphic() && !"?#\\\"<>@".contains(c);
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(is_plain) => {
            Ok(address.to_owned())
        }
        // It may hold a password.
        Some(_) | None => fail!("HF_ENDPOINT: expected an address such as {ENDPOINT}, found something else"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::read(&find, Some(PathBuf::from("/no-such-home")))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let folder = |variables: &[(&str, &str)]| read(variables).unwrap().cache.folder().to_owned();
        assert_eq!(folder(&[]), Path::new("/no-such-home/.cache/huggingface/hub"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")]), Path::new("/h/hub"));
        assert_eq!(folder(&[("HF_HUB_CACHE", "~/c"), ("HF_HOME", "/h")]), Path::new("/no-such-home/c"));
        assert_eq!(folder(&[("HF_HUB_CACHE", ""), ("HF_HOME", "/h")]), Path::new("/h/hub"));
    }

    #[test]
    fn a_token_comes_from_the_environment_or_a_file_and_is_not_shown() {
        let folder = std::env::temp_dir().join(format!("wootz-hub-token-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let home = folder.to_str().unwrap();
        std::fs::write(folder.join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.join("other"), "hf_other").unwrap();
        std::fs::write(folder.join("bad"), "hf_secret\nX-Evil: 1").unwrap();
        let other = folder.join("other");
        let bad = folder.join("bad");
        let token =
            |variables: &[(&str, &str)]| read(variables).unwrap().token.map(|t| t.secret().to_owned());
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " hf_env ")]).as_deref(), Some("hf_env"));
        assert_eq!(token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(), Some("hf_other"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[]), None);
        let error = read(&[("HF_TOKEN_PATH", bad.to_str().unwrap())]).unwrap_err().to_string();
        assert!(error.contains("bad") && !error.contains("secret"), "{error}");
        let shown = format!("{:?}", read(&[("HF_HOME", home)]).unwrap());
        assert!(!shown.contains("hf_file"), "{shown}");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_endpoint_is_an_address() {
        let endpoint = |text: &str| read(&[("HF_ENDPOINT", text)]).map(|s| s.endpoint);
        assert_eq!(endpoint("http://127.0.0.1:80/hf/").unwrap(), "http://127.0.0.1:80/hf");
        for bad in ["huggingface.co", "ftp://x", "https://", "https:///x", "https://a b", "https://u:p@x"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        assert_eq!(read(&[]).unwrap().endpoint, ENDPOINT);
    }

    #[test]
    fn offline_is_a_word_for_yes() {
        for (value, expected) in [("1", true), ("TRUE", true), ("0", false), ("", false), ("no", false)] {
            assert_eq!(read(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, expected, "{value}");
        }
    }
}
