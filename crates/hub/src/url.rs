//! Addresses: putting them together, and telling whose they are.

use std::fmt::Write as _;

/// Scheme, host and port of an address, which together decide who gets a token.
#[derive(Debug, PartialEq, Eq)]
pub struct Origin {
    is_https: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// Of an absolute http address; `None` for anything else.
    pub fn of(url: &str) -> Option<Origin> {
        let uri: ureq::http::Uri = url.parse().ok()?;
        let is_https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        // `user:password@host` names a host as well, but nobody sends that for a good reason.
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        (!host.is_empty()).then_some(Origin { is_https, host, port })
    }

    /// Whether this machine means itself by it.
    pub fn is_this_machine(&self) -> bool {
        let address = self.host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Whether what goes there is encrypted.
    pub fn is_https(&self) -> bool {
        self.is_https
    }
}

/// Where `location`, a header of the answer from `base`, leads to; `None` if it is no http address.
pub fn join(base: &str, location: &str) -> Option<String> {
    let scheme = base.split_once("://")?.0;
    let after = scheme.len() + "://".len();
    let root = base[after..].find('/').map_or(base.len(), |at| after + at);
    let has_scheme = location
        .split_once("://")
        .is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()));
    let joined = if has_scheme {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{}{location}", &base[..root])
    } else {
        let path = base.split(['?', '#']).next().unwrap_or(base);
        let folder = path[root..].rfind('/').map_or(root, |at| root + at);
        format!("{}/{location}", &base[..folder])
    };
    Origin::of(&joined)?;
    Some(joined)
}

/// Text as part of a path: everything but letters, digits and `-_.~` (and `/`, where it separates folders) in per cent.
pub fn quoted(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b'/' if keep_slashes => out.push('/'),
            // Writing to a string cannot fail.
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}

/// An address fit for a message: without the part that may sign it, and short.
pub fn shown(url: &str) -> String {
    crate::name::printable(url.split(['?', '#']).next().unwrap_or(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_scheme_host_and_port() {
        let same = |a: &str, b: &str| Origin::of(a) == Origin::of(b);
        assert!(same("https://HF.co/x", "https://hf.co:443/y?z"));
        assert!(!same("https://hf.co/x", "http://hf.co/x"));
        assert!(!same("http://127.0.0.1:1/x", "http://127.0.0.1:2/x"));
        assert!(!same("https://hf.co/x", "https://cdn.hf.co/x"));
        assert!(!same("https://hf.co/x", "https://hf.co.evil.org/x"));
        for odd in ["ftp://x/y", "/x", "https://hf.co@evil.org/", "javascript:x", ""] {
            assert_eq!(Origin::of(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_loopback_address_is_this_machine() {
        let is_own = |url: &str| Origin::of(url).unwrap().is_this_machine();
        assert!(["http://localhost:1/x", "http://127.0.0.2", "http://[::1]:8/"].into_iter().all(is_own));
        assert!(!["https://hf.co", "http://10.0.0.1", "http://127.0.0.1.evil.org"].into_iter().any(is_own));
    }

    #[test]
    fn a_location_may_be_relative() {
        let base = "http://h:1/a/b?c=/d";
        assert_eq!(join(base, "https://x/y").as_deref(), Some("https://x/y"));
        assert_eq!(join(base, "/y/z").as_deref(), Some("http://h:1/y/z"));
        assert_eq!(join(base, "//x/y").as_deref(), Some("http://x/y"));
        assert_eq!(join(base, "y").as_deref(), Some("http://h:1/a/y"));
        assert_eq!(join("http://h", "y").as_deref(), Some("http://h/y"));
        assert_eq!(join(base, "/y?u=http://z").as_deref(), Some("http://h:1/y?u=http://z"));
        assert_eq!(join(base, "//a@b/c"), None);
        assert_eq!(join(base, "ftp://a/c"), None);
    }

    #[test]
    fn text_in_a_path_keeps_no_meaning() {
        assert_eq!(quoted("refs/pr 1?#%é", false), "refs%2Fpr%201%3F%23%25%C3%A9");
        assert_eq!(quoted("a/b c", true), "a/b%20c");
        assert_eq!(shown("https://x/y?Signature=s"), "https://x/y");
    }
}
