//! `http`: what a service says. It is sent a JSON array of the objects that a program would read, and answers with an array
//! of those that a program would write, in any order (`docs/rewards.md`).
//!
//! A connection that fails, a time limit and the statuses 408, 429 and 5xx are tried again, with waits that double. Any
//! other answer is final. Once a request has failed for good, the rest is not sent.
//!
//! Options: `url`, `batch` (64 answers a request), `parallel` (4 requests at a time), `time_limit` (60 s a request),
//! `retries` (2), `wait` (0.5 s before the first retry), `token_env` (the variable of the environment with a bearer token),
//! `parts`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::Uri;

use super::protocol::{self, Question, Verdict};
use super::{Made, Seen, Together, Values};
use crate::answer::{Reason, head};
use crate::error::Result;
use crate::options::Options;
use crate::spec::Setup;

/// Bytes of an answer, at the most: these, and as many again for each verdict in it.
const BYTES: u64 = 64 * 1024;
const VERDICT_BYTES: u64 = 4 * 1024;
/// The longest wait between tries.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

struct Service {
    agent: Agent,
    url: String,
    is_this_machine: bool,
    token: Option<String>,
    batch: usize,
    parallel: usize,
    time_limit: Duration,
    retries: u32,
    wait: Duration,
    parts: Vec<String>,
}

pub(super) fn make(options: &mut Options, setup: &Setup, _: bool) -> Result<Made> {
    let url = options.required("url")?;
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    if uri.as_ref().and_then(Uri::authority).is_some_and(|authority| authority.as_str().contains('@')) {
        // Addresses stand in messages.
        let message =
            "`url`: expected an address without a password; `token_env` names a variable with a token";
        return Err(options.error(message));
    }
    let scheme = uri.as_ref().and_then(Uri::scheme_str);
    let agent = match (scheme, &setup.agent) {
        (Some("http" | "https"), Some(agent)) => agent.clone(),
        (Some("http"), None) => Agent::new_with_config(Agent::config_builder().build()),
        (Some("https"), None) => {
            return Err(options.wrong("url", "http://, for there is no encryption here", &url));
        }
        _ => {
            return Err(options.wrong(
                "url",
                "an address such as http://localhost:8000/score",
                format_args!("`{url}`"),
            ));
        }
    };
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let token = match options.text("token_env")? {
        None => None,
        Some(name) => Some(std::env::var(&name).ok().filter(|token| !token.is_empty()).ok_or_else(|| {
            options.error(format_args!("`token_env`: expected a token in the variable {name}, found none"))
        })?),
    };
    let parts = protocol::parts(options)?;
    let retries = options.count("retries", 0)?.unwrap_or(2);
    let service = Service {
        agent,
        is_this_machine: host == "localhost" || host.starts_with("127.") || host == "[::1]",
        url,
        token,
        batch: options.count("batch", 1)?.unwrap_or(64),
        parallel: options.count("parallel", 1)?.unwrap_or(4).min(256),
        time_limit: options.seconds("time_limit", 60.0)?,
        retries: u32::try_from(retries).map_err(|_| options.wrong("retries", "few", retries))?,
        wait: options.seconds("wait", 0.5)?,
        parts: parts.clone(),
    };
    Ok(Made::together(service, parts))
}

impl Together for Service {
    fn judge(&self, seen: &[Seen<'_>]) -> Vec<Values> {
        let batches: Vec<_> = seen.chunks(self.batch).collect();
        let results: Mutex<Vec<Option<Vec<Values>>>> = Mutex::new(vec![None; batches.len()]);
        let next = AtomicUsize::new(0);
        // Why the rest is not sent.
        let failed: Mutex<Option<String>> = Mutex::default();
        let work = || {
            while let Some((i, batch)) = take(&next, &batches) {
                let known = failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let result = match known {
                    Some(text) => Err(Reason {
                        text: format!("not sent, for another request failed: {text}"),
                        tries: 0,
                    }),
                    None => self.ask(batch),
                };
                if let Err(reason) = &result {
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason.text.clone());
                }
                let result = result.unwrap_or_else(|reason| vec![Err(reason); batch.len()]);
                results.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(result);
            }
        };
        thread::scope(|scope| {
            for _ in 1..self.parallel.min(batches.len()) {
                // Where there is no further thread, the others do the work.
                let _ = thread::Builder::new().spawn_scoped(scope, work);
            }
            work();
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let missing = || Err(Reason::from("it was not judged".to_owned()));
        let all = results.into_iter().zip(&batches);
        all.flat_map(|(result, batch)| result.unwrap_or_else(|| vec![missing(); batch.len()])).collect()
    }
}

/// The next batch, and its number.
fn take<'a, T>(next: &AtomicUsize, batches: &[&'a [T]]) -> Option<(usize, &'a [T])> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    batches.get(i).map(|batch| (i, *batch))
}

/// Why a request has no answer.
enum Trouble {
    /// It may go better later.
    Passing(String),
    /// It will not.
    Lasting(String),
}

impl Service {
    /// Asks for a batch, as often as may be.
    fn ask(&self, batch: &[Seen<'_>]) -> Result<Vec<Values>, Reason> {
        let questions: Vec<_> = (0..).zip(batch).map(|(id, seen)| Question::new(id, seen)).collect();
        let body = serde_json::to_vec(&questions).map_err(|error| Reason::from(error.to_string()))?;
        let mut wait = self.wait;
        let mut tries = 0;
        loop {
            tries += 1;
            match self.send(&body, batch.len()) {
                Ok(value) => {
                    return self.read(&value, batch.len(), tries).map_err(|text| Reason { text, tries });
                }
                Err(Trouble::Passing(_)) if tries <= self.retries => {
                    thread::sleep(wait.min(LONGEST_WAIT));
                    wait = wait.saturating_mul(2);
                }
                Err(Trouble::Passing(text) | Trouble::Lasting(text)) => return Err(Reason { text, tries }),
            }
        }
    }

    /// One request.
    fn send(&self, body: &[u8], answers: usize) -> Result<Value, Trouble> {
        let mut request = self
            .agent
            .post(&self.url)
            .config()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(self.time_limit));
        if self.is_this_machine {
            // A proxy's own machine would be another one.
            request = request.proxy(None);
        }
        let mut request = request.build().content_type("application/json");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let trouble = |error: ureq::Error| match error {
            error @ (ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::Protocol(_)) => Trouble::Passing(format!("{}: {error}", self.url)),
            error => Trouble::Lasting(format!("{}: {error}", self.url)),
        };
        let response = request.send(body).map_err(trouble)?;
        let status = response.status();
        let limit = BYTES + VERDICT_BYTES * answers as u64;
        let bytes =
            response.into_body().into_with_config().limit(limit).read_to_vec().map_err(
                |error| match error {
                    ureq::Error::BodyExceedsLimit(_) => Trouble::Lasting(format!(
                        "{}: answers {answers} questions with more than {limit} bytes",
                        self.url
                    )),
                    error => trouble(error),
                },
            )?;
        let text = String::from_utf8_lossy(&bytes);
        let status_text = || format!("{}: status {}: {}", self.url, status.as_u16(), head(text.trim(), 200));
        match status.as_u16() {
            200..=299 => {
                Verdict::json(&text).map_err(|what| Trouble::Lasting(format!("{}: {what}", self.url)))
            }
            408 | 429 | 500..=599 => Err(Trouble::Passing(status_text())),
            _ => Err(Trouble::Lasting(status_text())),
        }
    }

    /// The verdicts, by their questions.
    fn read(&self, value: &Value, answers: usize, tries: u32) -> Result<Vec<Values>, String> {
        let Value::Array(verdicts) = value else {
            let found = head(&value.to_string(), 100);
            return Err(format!("{}: expected an array of verdicts, found {found}", self.url));
        };
        let mut results: Vec<Option<Values>> = vec![None; answers];
        for verdict in verdicts {
            let verdict =
                Verdict::read(verdict, &self.parts).map_err(|what| format!("{}: {what}", self.url))?;
            let place = usize::try_from(verdict.id).ok().and_then(|id| results.get_mut(id));
            let Some(place) = place else {
                return Err(format!("{}: a verdict with `id` {}, which nobody asked", self.url, verdict.id));
            };
            if place.is_some() {
                return Err(format!("{}: two verdicts with `id` {}", self.url, verdict.id));
            }
            *place = Some(verdict.values.map_err(|text| Reason { text, tries }));
        }
        let missing = || Err(Reason { text: format!("{}: no verdict on this answer", self.url), tries });
        Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
    }
}
