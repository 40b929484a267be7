//! The hub's programming interface, as far as downloading needs it: what is in a repository, and what a file is called.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;

use crate::checksum;
use crate::error::{Context, Error, Result, fail};
use crate::http::{Answer, Ask, Failure, Http, Retry, Waiting, error_text};
use crate::name::{Repo, check_file, is_commit, printable};
use crate::selection::Entry;
use crate::settings::Settings;
use crate::url::{quoted, shown};

/// Bytes of a list of files, at the most.
const LIST_BYTES: u64 = 64 << 20;

/// Asks the hub.
pub struct Client {
    http: Http,
    endpoint: String,
}

/// What a repository holds at a commit.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The commit that the revision is at.
    pub commit: String,
    /// Its files. Their names come from the server and are not checked yet.
    pub files: Vec<Entry>,
}

/// What the hub says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What its bytes are called: mostly their checksum.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
}

/// The part of an answer that is read.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

impl Client {
    /// A client of the settings' endpoint; `silence` is how long a server may say nothing.
    pub fn new(settings: &Settings, retry: Retry, silence: Duration) -> Client {
        Client { http: Http::new(settings, retry, silence), endpoint: settings.endpoint.clone() }
    }

    /// The sender of requests.
    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    /// What the repository holds at the revision.
    ///
    /// # Errors
    /// There is no such repository or revision, or it is not open to this account; the network.
    pub fn list(&self, repo: &Repo, revision: &str, waiting: &Waiting<'_>) -> Result<Listing> {
        let plural = repo.kind.plural();
        let revision_quoted = quoted(revision, false);
        let url = format!("{}/api/{plural}/{repo}/revision/{revision_quoted}?blobs=true", self.endpoint);
        self.http.tries().run(waiting, || {
            let answer = self.http.ask(&url, Ask::Whole)?;
            if answer.status != 200 {
                return Err(self.refusal(answer, repo, revision, None).into());
            }
            let from = shown(&answer.url);
            // A connection that ends in the middle is worth another try; an answer that is too long is not.
            let bytes = answer.body.into_with_config().limit(LIST_BYTES).read_to_vec().map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(_) => Failure::Lasting(Error::new(format!(
                    "{from}: the list of files is longer than {LIST_BYTES} bytes, which are the most that is read"
                ))),
                error => Failure::Passing(Error::new(format!("{from}: {error}")), None),
            })?;
            Ok(Self::parse(&bytes).context(|| format!("{from}: expected a list of files; is this a hub?"))?)
        })
    }

    fn parse(bytes: &[u8]) -> Result<Listing> {
        let info: Info = serde_json::from_slice(bytes).context(|| "the answer")?;
        if !is_commit(&info.sha) {
            fail!("expected a commit of 40 hexadecimal digits, found {:?}", printable(&info.sha));
        }
        let mut seen = HashSet::new();
        let mut files = Vec::with_capacity(info.siblings.len());
        for file in info.siblings {
            if seen.insert(file.rfilename.clone()) {
                files.push(Entry { name: file.rfilename, size: file.size });
            }
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// The address of a file.
    pub(crate) fn address(&self, repo: &Repo, commit: &str, file: &str) -> String {
        let kind = match repo.kind {
            crate::Kind::Model => "",
            crate::Kind::Dataset => "datasets/",
        };
        format!("{}/{kind}{repo}/resolve/{}/{}", self.endpoint, quoted(commit, false), quoted(file, true))
    }

    /// What the hub says of a file.
    ///
    /// # Errors
    /// There is none, or it is not open to this account; the hub does not say what is needed; the network.
    pub fn metadata(
        &self,
        repo: &Repo,
        commit: &str,
        file: &Entry,
        waiting: &Waiting<'_>,
    ) -> Result<Metadata> {
        check_file(&file.name)?;
        let url = self.address(repo, commit, &file.name);
        self.http.tries().run(waiting, || {
            let answer = self.http.ask(&url, Ask::Head)?;
            if answer.status != 200 {
                return Err(self.refusal(answer, repo, commit, Some(&file.name)).into());
            }
            if answer.hub_header("x-repo-commit").is_none_or(|found| found != commit) {
                return Err(Error::new(format!(
                    "{}: expected the header X-Repo-Commit with {commit}, found {:?}; is this a hub, or a proxy's page?",
                    shown(&url),
                    printable(answer.hub_header("x-repo-commit").unwrap_or("none"))
                ))
                .into());
            }
            Ok(described(&answer, file.size).context(|| shown(&url))?)
        })
    }

    /// Why the hub refuses.
    pub(crate) fn refusal(&self, answer: Answer, repo: &Repo, revision: &str, file: Option<&str>) -> Error {
        let kind = repo.kind.name();
        let (status, from) = (answer.status, shown(&answer.url));
        let code = answer.hub_header("x-error-code").unwrap_or_default().to_owned();
        let has_token = self.http.has_token();
        let message = match answer.hub_header("x-error-message") {
            Some(text) => printable(text),
            None => error_text(answer),
        };
        let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
        let page = format!("{}/{}{repo}", self.endpoint, if kind == "model" { "" } else { "datasets/" });
        let token = "a token (HF_TOKEN, or `hf auth login`)";
        Error::new(match (status, code.as_str()) {
            (_, "GatedRepo") if has_token => {
                format!(
                    "{repo}: the {kind} is gated, and the token's account has no access to it; ask for it at {page}{said}"
                )
            }
            (_, "GatedRepo") => {
                format!(
                    "{repo}: the {kind} is gated; ask for access at {page}, and give {token} of that account{said}"
                )
            }
            (404, "RevisionNotFound") => {
                format!(
                    "{repo}: the {kind} has no revision {:?}; {page}/tree/main lists what there is",
                    printable(revision)
                )
            }
            (404, "EntryNotFound") => {
                format!(
                    "{repo}: no file {:?} at revision {}",
                    printable(file.unwrap_or_default()),
                    printable(revision)
                )
            }
            (401, "") if has_token => {
                format!("{repo}: {from} does not know the token{said}; is it still valid?")
            }
            (401 | 403 | 404, "RepoNotFound" | "") if has_token => {
                format!(
                    "{repo}: there is no such {kind} at {}, or the token's account may not see it{said}",
                    self.endpoint
                )
            }
            (401 | 403 | 404, "RepoNotFound" | "") => {
                format!(
                    "{repo}: there is no such {kind} at {}, or it is private and needs {token}{said}",
                    self.endpoint
                )
            }
            _ => {
                let code = if code.is_empty() { String::new() } else { format!(", {}", printable(&code)) };
                format!("{from}: refused with status {status}{code}{said}")
            }
        })
    }
}

/// What the hub calls a file. Of a large one it says where it is, and what it is in headers of its own.
pub(crate) fn etag_of(answer: &Answer) -> Option<&str> {
    answer.hub_header("x-linked-etag").or_else(|| answer.hub_header("etag"))
}

/// Reads the headers of a file.
fn described(answer: &Answer, listed: Option<u64>) -> Result<Metadata> {
    let Some(etag) = etag_of(answer) else { fail!("expected the header ETag, found none") };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let linked = answer.hub_header("x-linked-size").and_then(number);
    // The length of an answer that redirects is its own.
    let is_redirect = crate::http::text(&answer.headers, "location").is_some();
    let length =
        crate::http::text(&answer.headers, "content-length").and_then(number).filter(|_| !is_redirect);
    let Some(size) = linked.or(listed).or(length) else {
        fail!("expected the file's size, found neither X-Linked-Size nor Content-Length");
    };
    Ok(Metadata { etag: checksum::etag(etag)?, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_a_commit_and_files() {
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let parse = |text: &str| Client::parse(text.as_bytes());
        let text = format!(
            r#"{{"sha": "{sha}", "siblings": [{{"rfilename": "a", "size": 3, "x": 1}}, {{"rfilename": "b"}}, {{"rfilename": "a"}}]}}"#
        );
        let listing = parse(&text).unwrap();
        assert_eq!(listing.commit, sha);
        let names: Vec<_> = listing.files.iter().map(|f| (f.name.as_str(), f.size)).collect();
        assert_eq!(names, [("a", Some(3)), ("b", None)]);
        assert_eq!(parse(&format!(r#"{{"sha": "{sha}"}}"#)).unwrap().files.len(), 0);
        for bad in ["", "{}", "[]", r#"{"sha": "../../x"}"#, r#"{"sha": "abc"}"#, "<html>"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
