//! Requests: redirects, who gets the token, and what is worth another try.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::http::HeaderMap;
use ureq::{Agent, Body};

use crate::error::{Error, Result};
use crate::settings::{Settings, Token};
use crate::tls;
use crate::url::{Origin, join, shown};

/// Redirects that are followed, one after the other.
const REDIRECTS: usize = 10;
/// Bytes of what a server says of an error, at the most.
const ERROR_BYTES: u64 = 16 * 1024;
/// The longest wait that a server may ask for. The hub counts requests in windows of five minutes.
const LONGEST_ASKED: Duration = Duration::from_secs(330);

/// How often something is tried, and how long the waits between are.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Tries in a row without any progress, at the most.
    pub tries: u32,
    /// The first wait; each is twice the one before.
    pub first_wait: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { tries: 6, first_wait: Duration::from_millis(500) }
    }
}

impl Retry {
    /// The wait after so many tries, the first being 1, unless the server asked for one.
    fn wait(&self, tries: u32, asked: Option<Duration>) -> Duration {
        asked.unwrap_or_else(|| self.first_wait.saturating_mul(1 << tries.saturating_sub(1).min(6)))
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// What the hub says of a file. Where it sends us elsewhere for the bytes, nobody is asked.
    Head,
    /// Everything.
    Whole,
    /// The bytes from the first on, up to but without the second.
    Range(u64, u64),
}

/// An answer.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers of each answer on the way that came from the hub, the last one first.
    pub hub: Vec<HeaderMap>,
    /// The headers of the last one.
    pub headers: HeaderMap,
    /// Where it came from.
    pub url: String,
    /// Its body.
    pub body: Body,
}

impl Answer {
    /// A header that the endpoint sent, on whatever station of the way.
    pub fn hub_header(&self, name: &str) -> Option<&str> {
        self.hub.iter().find_map(|headers| text(headers, name))
    }
}

/// Whether an answer says of which commit a file is, as only a hub does.
fn speaks_for_hub(headers: &HeaderMap) -> bool {
    headers.contains_key("x-repo-commit")
}

/// A header, if it is text.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// It may go better later; perhaps the server says when.
    Passing(Error, Option<Duration>),
    /// It will not.
    Lasting(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Lasting(error)
    }
}

/// Sends requests.
pub struct Http {
    agent: Agent,
    has_https: bool,
    origin: Option<Origin>,
    token: Option<Token>,
    retry: Retry,
    /// Whether the network has ever answered. Before it has, waiting for a name to resolve is of no use.
    has_answered: AtomicBool,
}

impl Http {
    /// A client of this endpoint. Proxies come from the environment.
    pub fn new(settings: &Settings, retry: Retry, silence: Duration) -> Http {
        let mut config = Agent::config_builder()
            .user_agent(concat!("wootz/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(64 * 1024)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence));
        let origin = Origin::of(&settings.endpoint);
        if origin.as_ref().is_some_and(Origin::is_this_machine) {
            // A proxy's own machine would be another one.
            config = config.proxy(None);
        }
        let tls = tls::config();
        let has_https = tls.is_some();
        if let Some(tls) = tls {
            config = config.tls_config(tls);
        }
        Http {
            agent: config.build().new_agent(),
            has_https,
            origin,
            token: settings.token.clone(),
            retry,
            has_answered: AtomicBool::new(false),
        }
    }

    /// Whether requests name an account.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Does it until it succeeds, fails for good, or has failed too often without [`Tries::progressed`].
    pub fn tries(&self) -> Tries {
        Tries { retry: self.retry, failed: 0 }
    }

    /// Sends a request, and follows redirects. What servers answer with an error is an answer, unless it is worth another
    /// try.
    pub fn ask(&self, url: &str, ask: Ask) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        let mut hub = Vec::new();
        for _ in 0..=REDIRECTS {
            let origin = Origin::of(&url)
                .ok_or_else(|| Error::new(format!("{}: expected an http address", shown(&url))))?;
            if origin.is_https() && !self.has_https {
                return Err(Error::new(tls::MISSING).into());
            }
            let is_hub = Some(&origin) == self.origin.as_ref();
            let response = self.send(&url, ask, is_hub).map_err(|error| self.failure(&url, error))?;
            self.has_answered.store(true, Ordering::Relaxed);
            let status = response.status().as_u16();
            let (parts, body) = response.into_parts();
            // A mirror may send us to the hub itself. Once somebody has spoken for the hub, nobody elsewhere does.
            if is_hub || speaks_for_hub(&parts.headers) && !hub.iter().any(speaks_for_hub) {
                hub.insert(0, parts.headers.clone());
            }
            let to = match status {
                301 | 302 | 303 | 307 | 308 => text(&parts.headers, "location"),
                _ => None,
            };
            let Some(to) = to else {
                let answer = Answer { status, hub, headers: parts.headers, url, body };
                return passing(answer);
            };
            let next = join(&url, to).ok_or_else(|| {
                Error::new(format!("{}: redirects to {}, which is no http address", shown(&url), shown(to)))
            })?;
            let target = Origin::of(&next);
            if origin.is_https() && !target.as_ref().is_some_and(Origin::is_https) {
                return Err(Error::new(format!(
                    "{}: redirects to {}, which is not encrypted; it is not followed",
                    shown(&url),
                    shown(&next)
                ))
                .into());
            }
            if ask == Ask::Head && target.as_ref() != self.origin.as_ref() && hub.iter().any(speaks_for_hub) {
                return Ok(Answer { status: 200, hub, headers: parts.headers, url, body });
            }
            url = next;
        }
        Err(Error::new(format!("{}: more than {REDIRECTS} redirects", shown(&url))).into())
    }

    /// One request. The token goes to the endpoint and nowhere else.
    fn send(&self, url: &str, ask: Ask, is_hub: bool) -> Result<ureq::http::Response<Body>, ureq::Error> {
        let mut request = match ask {
            Ask::Head => self.agent.head(url),
            Ask::Whole | Ask::Range(..) => self.agent.get(url),
        };
        if let Ask::Range(from, to) = ask {
            request = request.header("Range", format!("bytes={from}-{}", to.saturating_sub(1)));
        }
        match &self.token {
            Some(token) if is_hub => {
                request = request.header("Authorization", format!("Bearer {}", token.secret()))
            }
            _ => {}
        }
        request.call()
    }

    /// What a failed connection means.
    fn failure(&self, url: &str, error: ureq::Error) -> Failure {
        use io::ErrorKind as Kind;
        let has_answered = self.has_answered.load(Ordering::Relaxed);
        // What rustls has to say of certificates comes as invalid data.
        let is_certificate = matches!(&error, ureq::Error::Rustls(_) | ureq::Error::Tls(_))
            || matches!(&error, ureq::Error::Io(error) if error.kind() == Kind::InvalidData);
        let may_pass = match &error {
            _ if is_certificate => false,
            // Before anything has answered, no network, no such host and a closed port are no passing trouble.
            ureq::Error::Io(error) => {
                let is_broken = matches!(
                    error.kind(),
                    Kind::ConnectionReset
                        | Kind::ConnectionAborted
                        | Kind::BrokenPipe
                        | Kind::UnexpectedEof
                        | Kind::TimedOut
                        | Kind::WouldBlock
                        | Kind::Interrupted
                );
                is_broken || has_answered
            }
            ureq::Error::HostNotFound => has_answered,
            ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => true,
            _ => false,
        };
        let hint = match may_pass {
            _ if is_certificate => {
                "; if its certificate is to be trusted, name its issuer's with SSL_CERT_FILE"
            }
            false if !has_answered => "; is there a network, or does it need a proxy (HTTPS_PROXY)?",
            _ => "",
        };
        let error = match error {
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        let error = Error::new(format!("{}: {error}{hint}", shown(url)));
        if may_pass { Failure::Passing(error, None) } else { Failure::Lasting(error) }
    }
}

/// Answers that ask for patience are failures that pass.
fn passing(answer: Answer) -> Result<Answer, Failure> {
    let what = match answer.status {
        408 | 500 | 502 | 503 | 504 => "the server is in trouble",
        429 => "the server wants fewer requests",
        _ => return Ok(answer),
    };
    let asked = text(&answer.headers, "retry-after")
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let error = Error::new(format!("{}: {what} (status {})", shown(&answer.url), answer.status));
    Err(match asked {
        Some(asked) if asked > LONGEST_ASKED => {
            Failure::Lasting(Error::new(format!("{error}; it asks to come back in {} s", asked.as_secs())))
        }
        asked => Failure::Passing(error, asked),
    })
}

/// What is said of a wait before it begins: an error, and the time.
pub type Waiting<'a> = dyn Fn(&Error, Duration) + Sync + 'a;

/// Counts tries.
pub struct Tries {
    retry: Retry,
    failed: u32,
}

impl Tries {
    /// It went forward: the next failure is the first one again.
    pub fn progressed(&mut self) {
        self.failed = 0;
    }

    /// After a failure: waits before the next try.
    ///
    /// # Errors
    /// The failure, if it lasts, or if there were too many.
    pub fn failed(&mut self, failure: Failure, waiting: &Waiting<'_>) -> Result<()> {
        let (error, asked) = match failure {
            Failure::Lasting(error) => return Err(error),
            Failure::Passing(error, asked) => (error, asked),
        };
        self.failed += 1;
        if self.failed >= self.retry.tries {
            return Err(Error::new(format!("{error}; tried {} times", self.failed)));
        }
        let wait = self.retry.wait(self.failed, asked);
        waiting(&error, wait);
        std::thread::sleep(wait);
        Ok(())
    }

    /// Does it until it succeeds.
    ///
    /// # Errors
    /// As [`Tries::failed`].
    pub fn run<T>(
        mut self,
        waiting: &Waiting<'_>,
        mut work: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T> {
        loop {
            match work() {
                Ok(done) => return Ok(done),
                Err(failure) => self.failed(failure, waiting)?,
            }
        }
    }
}

/// What a server says of an error, if it is short text.
pub fn error_text(answer: Answer) -> String {
    let bytes = answer.body.into_with_config().limit(ERROR_BYTES).read_to_vec().unwrap_or_default();
    match serde_json::from_slice::<serde_json::Value>(&bytes) {
        Ok(json) => {
            json.get("error").and_then(|e| e.as_str()).map(crate::name::printable).unwrap_or_default()
        }
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_end() {
        let retry = Retry { tries: 4, first_wait: Duration::from_millis(1) };
        let waits = std::sync::Mutex::new(Vec::new());
        let mut tries = Tries { retry, failed: 0 };
        let fail = |tries: &mut Tries| {
            let failure = Failure::Passing(Error::new("x"), None);
            tries.failed(failure, &|_, wait| waits.lock().unwrap().push(wait.as_millis()))
        };
        for _ in 0..3 {
            fail(&mut tries).unwrap();
        }
        assert!(fail(&mut tries).unwrap_err().to_string().contains("tried 4 times"));
        tries.progressed();
        fail(&mut tries).unwrap();
        assert_eq!(*waits.lock().unwrap(), [1, 2, 4, 1]);
        let lasting = Failure::Lasting(Error::new("gone"));
        assert_eq!(tries.failed(lasting, &|_, _| ()).unwrap_err().to_string(), "gone");
    }
}
