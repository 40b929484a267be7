//! Rewards from services: those that behave, and those that do not.
#![cfg(feature = "http")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use wootz_rewards::{Agent, Answer, Failure, Fields, Rewards, Score, Setup};

/// What a service does with a request.
enum Reply {
    /// A status and a body.
    Status(u16, String),
    /// Nothing, until the client has gone.
    Silence,
    /// A closed connection.
    Gone,
    /// A body that does not end before the client has gone.
    Endless,
}

/// A request that came: its head and its body.
#[derive(Clone)]
struct Request {
    head: String,
    questions: Vec<Value>,
}

struct Service {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Service {
    /// A service that replies to its n-th request.
    fn new(reply: impl Fn(usize, &[Value]) -> Reply + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/score", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (reply, seen) = (Arc::new(reply), requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (reply, seen) = (reply.clone(), seen.clone());
                thread::spawn(move || serve(stream.unwrap(), &*reply, &seen));
            }
        });
        Service { url, requests }
    }

    fn rewards(&self, options: &str) -> Rewards {
        let text = format!("[[reward]]\nkind = 'http'\nurl = '{}'\nwait = 0.001\n{options}", self.url);
        Rewards::from_toml(&text, Path::new("f.toml")).unwrap()
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn serve(mut stream: TcpStream, reply: &dyn Fn(usize, &[Value]) -> Reply, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).unwrap_or(0) > 2 {
        head.push_str(&line);
        line.clear();
    }
    let length =
        head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let questions: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
    let n = {
        let mut seen = seen.lock().unwrap();
        seen.push(Request { head, questions: questions.clone() });
        seen.len() - 1
    };
    // A client that has gone is no trouble of the service's.
    match reply(n, &questions) {
        Reply::Status(status, body) => {
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
        Reply::Silence => {
            let _ = reader.read(&mut [0]);
        }
        Reply::Gone => {}
        Reply::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[");
            while stream.write_all(&[b' '; 4096]).is_ok() {}
        }
    }
}

/// The length of each text, the last one first.
fn lengths(questions: &[Value]) -> Reply {
    let verdict = |question: &Value| json!({ "id": question["id"], "reward": question["completion"].as_str().unwrap().len() });
    Reply::Status(200, Value::from_iter(questions.iter().rev().map(verdict)).to_string())
}

fn score(rewards: &Rewards, texts: &[&str]) -> Vec<Result<Score, Failure>> {
    let fields: Fields = [("answer".to_owned(), json!("4"))].into_iter().collect();
    let answer = |text| Answer { prompt: "p", text, tokens: 3, truncated: false, fields: &fields };
    let answers: Vec<_> = texts.iter().map(|text| answer(*text)).collect();
    let scores = rewards.score(&answers);
    assert_eq!(scores.len(), texts.len());
    scores
}

fn totals(rewards: &Rewards, texts: &[&str]) -> Vec<f64> {
    score(rewards, texts).into_iter().map(|score| score.unwrap().total).collect()
}

fn failure(rewards: &Rewards) -> Failure {
    score(rewards, &["x"]).remove(0).unwrap_err()
}

#[test]
fn answers_are_sent_in_batches_and_come_back_in_order() {
    let service = Service::new(|_, questions| lengths(questions));
    let texts = ["", "a", "aa", "aaa", "aaaa", "aaaaa", "aaaaaa"];
    let expected = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    assert_eq!(totals(&service.rewards("batch = 3\nparallel = 2"), &texts), expected);
    assert_eq!(service.count(), 3);
    assert_eq!(totals(&service.rewards(""), &texts), expected);
    assert_eq!(service.count(), 4);
    assert_eq!(totals(&Rewards::parse(&service.url).unwrap(), &texts), expected);
    let last = service.requests.lock().unwrap().last().unwrap().clone();
    assert!(last.head.starts_with("POST /score HTTP/1.1\r\n"), "{}", last.head);
    assert!(last.head.to_lowercase().contains("content-type: application/json\r\n"), "{}", last.head);
    let expected = json!({
        "id": 1, "prompt": "p", "completion": "a", "tokens": 3, "truncated": false, "fields": { "answer": "4" },
    });
    assert_eq!(last.questions[1], expected);
    assert_eq!(totals(&service.rewards(""), &[]), [0.0; 0]);
}

#[test]
fn passing_trouble_is_tried_again() {
    for status in [500, 503, 429, 408] {
        let service = Service::new(move |n, questions| match n {
            0 => Reply::Status(status, "later".to_owned()),
            1 => Reply::Gone,
            _ => lengths(questions),
        });
        assert_eq!(totals(&service.rewards(""), &["abc"]), [3.0]);
        assert_eq!(service.count(), 3, "{status}");
    }
}

#[test]
fn lasting_trouble_is_a_failure() {
    let service = Service::new(|_, _| Reply::Status(500, "out of\nmemory".to_owned()));
    let found = failure(&service.rewards("name = 'judge'"));
    assert_eq!(
        found.to_string(),
        format!("reward `judge`: {}: status 500: out ofmemory; tried 3 times", service.url)
    );
    let service = Service::new(|_, _| Reply::Status(404, "no such model".to_owned()));
    let found = failure(&service.rewards(""));
    assert!(found.reason.ends_with("status 404: no such model") && found.tries == 1, "{found}");
    let service = Service::new(|_, _| Reply::Status(302, String::new()));
    assert!(failure(&service.rewards("")).reason.contains("status 302"));
    let service = Service::new(|_, _| Reply::Gone);
    assert_eq!(failure(&service.rewards("retries = 1")).tries, 2);
    // Nobody listens there: the port was given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!("[[reward]]\nkind = 'http'\nurl = 'http://127.0.0.1:{port}/'\nwait = 0.001");
    let found = failure(&Rewards::from_toml(&text, Path::new("f.toml")).unwrap());
    assert_eq!(found.tries, 3, "{found}");
}

#[test]
fn a_service_that_is_silent_or_does_not_end_is_left() {
    let service = Service::new(|_, _| Reply::Silence);
    let found = failure(&service.rewards("time_limit = 0.3\nretries = 1"));
    assert!(found.reason.contains("timeout") && found.tries == 2, "{found}");
    let service = Service::new(|_, _| Reply::Endless);
    let found = failure(&service.rewards("retries = 0"));
    assert!(found.reason.contains("answers 1 questions with more than 69632 bytes"), "{found}");
    // Nor one that would be good, if it were shorter.
    let long =
        |_: usize, _: &[Value]| Reply::Status(200, " ".repeat(70_000) + "[{\"id\": 0, \"reward\": 1}]");
    assert!(failure(&Service::new(long).rewards("")).reason.contains("more than 69632 bytes"));
}

#[test]
fn garbage_is_a_failure() {
    let cases = [
        ("<html>", "expected JSON, found `<html>`"),
        ("{}", "expected an array of verdicts, found {}"),
        ("[3]", "the `id` it was asked with, found 3"),
        ("[{\"id\": 0, \"reward\": NaN}]", "JSON has no NaN"),
        ("[{\"id\": 0, \"reward\": null}]", "`reward` to be a finite number, found null"),
        ("[{\"id\": 1, \"reward\": 1}]", "a verdict with `id` 1, which nobody asked"),
        ("[{\"id\": 0, \"reward\": 1}, {\"id\": 0, \"reward\": 1}]", "two verdicts with `id` 0"),
        ("[]", "no verdict on this answer"),
        ("[{\"id\": 0, \"error\": \"too long\"}]", "too long"),
    ];
    for (body, expected) in cases {
        let service = Service::new(move |_, _| Reply::Status(200, body.to_owned()));
        let found = failure(&service.rewards(""));
        assert!(found.reason.ends_with(expected) || found.reason.contains(expected), "{body}: {found}");
        assert_eq!((found.tries, service.count()), (1, 1), "{body}: {found}");
    }
}

#[test]
fn an_answer_without_verdict_fails_alone() {
    let service = Service::new(|_, _| {
        Reply::Status(
            200,
            json!([{ "id": 2, "reward": 2 }, { "id": 0, "reward": 0.5, "parts": { "a": 1 } }]).to_string(),
        )
    });
    let scores = score(&service.rewards(""), &["x", "y", "z"]);
    assert_eq!(scores[0].as_ref().unwrap().total, 0.5);
    assert!(scores[1].as_ref().unwrap_err().reason.contains("no verdict on this answer"));
    assert_eq!(scores[2].as_ref().unwrap().total, 2.0);
}

#[test]
fn after_a_failure_the_rest_is_not_sent() {
    let service = Service::new(|_, _| Reply::Status(400, "no".to_owned()));
    let scores = score(&service.rewards("batch = 1\nparallel = 1"), &["x"; 20]);
    assert_eq!(service.count(), 1);
    assert_eq!(scores[0].as_ref().unwrap_err().tries, 1);
    let last = scores[19].as_ref().unwrap_err();
    assert_eq!(last.tries, 0);
    assert!(
        last.reason.contains("not sent, for another request failed")
            && last.reason.ends_with("status 400: no")
    );
}

#[test]
fn agents_and_tokens_are_the_programs() {
    let service = Service::new(|_, questions| lengths(questions));
    let agent = Agent::new_with_defaults();
    let text = format!("[[reward]]\nkind = 'http'\nurl = '{}'\ntoken_env = 'PATH'", service.url);
    let setup = Setup::default().with_agent(agent);
    let rewards = setup.from_toml(&text, Path::new("f.toml")).unwrap();
    assert_eq!(totals(&rewards, &["abc"]), [3.0]);
    let head = service.requests.lock().unwrap()[0].head.clone();
    assert!(head.to_lowercase().contains("authorization: bearer "), "{head}");
    // With an agent, encryption is its affair.
    setup.parse("https://localhost/score").unwrap();
}

#[test]
fn odd_addresses_are_refused() {
    let error = |spec: &str| Rewards::parse(spec).unwrap_err().to_string();
    assert!(
        error("https://localhost/score").contains("`url`: expected http://, for there is no encryption here")
    );
    assert!(error("http://").contains("expected an address such as"), "{}", error("http://"));
    assert!(error("http:ftp://x/").contains("expected an address such as"));
    assert!(error("http:x").contains("expected an address such as"));
    let with_password = "[[reward]]\nkind = 'http'\nurl = 'http://me:secret@localhost/'";
    let found = Rewards::from_toml(with_password, Path::new("f.toml")).unwrap_err().to_string();
    assert!(found.contains("without a password") && !found.contains("secret"), "{found}");
    let found = error("http://me:secret@localhost/");
    assert!(found.contains("without a password") && !found.contains("secret"), "{found}");
    let text = "[[reward]]\nkind = 'http'\nurl = 'http://localhost/'\ntoken_env = 'WOOTZ_TEST_NO_SUCH_TOKEN'";
    let found = Rewards::from_toml(text, Path::new("f.toml")).unwrap_err().to_string();
    assert!(
        found.contains("expected a token in the variable WOOTZ_TEST_NO_SUCH_TOKEN, found none"),
        "{found}"
    );
}
