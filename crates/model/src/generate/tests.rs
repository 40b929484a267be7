//! The engine over every fixture model: what a sequence gets must not depend on its company.

use super::*;
use crate::decoder::Model;
use crate::load::LoadOptions;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wootz_kernels::Precision;
use wootz_kernels::ops::attention::CacheType;

fn fixtures() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
    std::env::var_os("WOOTZ_FIXTURES").map_or(own.into(), PathBuf::from)
}

/// Folders of the fixtures that hold a model.
fn folders() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.join("config.json").exists()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no model in {}", fixtures().display());
    folders
}

fn load(path: &Path, threads: usize) -> Arc<Model> {
    Arc::new(Model::load(path, &LoadOptions { precision: Precision::F32, threads }).unwrap())
}

fn fixture(name: &str) -> Arc<Model> {
    load(&fixtures().join(name), 1)
}

const ENGINE: EngineOptions = EngineOptions { max_batch: 8, chunk: 512, context: 256, cache: CacheType::F16 };

/// All that a sequence gave, for comparisons by bits.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answer {
    ids: Vec<u32>,
    logprobs: Vec<u32>,
    top: Vec<Vec<(u32, u32)>>,
    reason: &'static str,
}

/// Adds all requests, steps until the engine is idle, and collects what each gave.
fn run(engine: &mut Engine, requests: Vec<Request>) -> Vec<Answer> {
    let ids: Vec<SequenceId> = requests.into_iter().map(|r| engine.add(r).unwrap()).collect();
    let mut answers: BTreeMap<SequenceId, Answer> = BTreeMap::new();
    while !engine.is_idle() {
        collect(engine.step().unwrap(), &mut answers);
    }
    ids.iter().map(|id| answers.remove(id).unwrap()).collect()
}

fn collect(events: Vec<Event>, answers: &mut BTreeMap<SequenceId, Answer>) {
    for event in events {
        match event {
            Event::Token { sequence, token } => {
                let answer = answers.entry(sequence).or_default();
                assert_eq!(answer.reason, "", "a token after the end");
                answer.ids.push(token.id);
                answer.logprobs.extend(token.logprob.map(f32::to_bits));
                answer.top.push(token.top.iter().map(|(id, l)| (*id, l.to_bits())).collect());
            }
            Event::Finished { sequence, finish } => {
                let answer = answers.entry(sequence).or_default();
                assert_eq!(finish.answer_tokens, answer.ids.len());
                answer.reason = finish.reason.name();
            }
        }
    }
}

fn alone(model: &Arc<Model>, options: EngineOptions, request: Request) -> Answer {
    run(&mut Engine::new(model.clone(), options), vec![request]).remove(0)
}

/// A prompt of `length` tokens that has no pattern.
fn prompt(model: &Model, length: usize, salt: u64) -> Vec<u32> {
    let rng = wootz_kernels::rng::Rng::new(salt, 99);
    (0..length as u64).map(|i| (rng.at(i) % model.config().vocab_size as u64) as u32).collect()
}

/// Requests of mixed lengths, prompts and ways to choose.
fn mixed(model: &Model) -> Vec<Request> {
    let lengths = [1, 70, 3, 130, 17, 64, 2, 33];
    let requests = lengths.iter().enumerate().map(|(i, &length)| {
        let length = length.min(model.config().max_seq - 30);
        let mut request = Request::greedy(prompt(model, length, i as u64), 5 + 7 * (i % 4));
        request.logprobs = Some(i % 3);
        request.stream = i as u64;
        if i % 2 == 1 {
            request.sampler =
                SamplerOptions { top_p: 0.9, repeat_penalty: 1.1, seed: 5, ..SamplerOptions::default() };
        }
        request
    });
    requests.collect()
}

#[test]
fn parity_greedy_continues_as_the_reference() {
    for folder in folders() {
        let golden = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
        let ids = |key: &str| -> Vec<u32> {
            golden["greedy"][key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let (prompt, whole) = (ids("prompt_ids"), ids("ids"));
        let count = whole.len() - prompt.len();
        let options = EngineOptions { cache: CacheType::F32, ..ENGINE };
        let answer = alone(&load(&folder, 2), options, Request::greedy(prompt.clone(), count));
        assert_eq!([prompt, answer.ids].concat(), whole, "{}", folder.display());
    }
}

#[test]
fn company_chunks_and_threads_leave_no_trace() {
    for folder in folders() {
        let model = load(&folder, 1);
        let single: Vec<Answer> =
            mixed(&model).into_iter().map(|request| alone(&model, ENGINE, request)).collect();
        assert!(single.iter().all(|answer| answer.reason == "length" && !answer.logprobs.is_empty()));
        for (max_batch, chunk, threads) in [(8, 512, 1), (8, 1, 1), (3, 7, 2), (2, 64, 1), (1, 64, 2)] {
            let model = if threads == 1 { model.clone() } else { load(&folder, threads) };
            let mut engine = Engine::new(model.clone(), EngineOptions { max_batch, chunk, ..ENGINE });
            let together = run(&mut engine, mixed(&model));
            assert_eq!(single, together, "{}: batch {max_batch}, chunk {chunk}", folder.display());
        }
    }
}

#[test]
fn lookup_changes_nothing_but_the_number_of_steps() {
    let (mut accepted, mut rejected) = (0, 0);
    for folder in folders() {
        let model = load(&folder, 1);
        // Something to find: the same tokens twice, some of which the model said itself.
        let mut start = prompt(&model, 8, 1);
        start.extend(alone(&model, ENGINE, Request::greedy(start.clone(), 10)).ids);
        let start = start.repeat(2);
        let room = model.config().max_seq - start.len();
        let samplers = [
            SamplerOptions::greedy(),
            SamplerOptions { temperature: 0.7, seed: 11, ..SamplerOptions::default() },
            SamplerOptions {
                temperature: 0.3,
                top_k: 5,
                frequency_penalty: 0.2,
                ..SamplerOptions::default()
            },
        ];
        for sampler in samplers {
            let request = |lookup, max_tokens| Request {
                sampler: sampler.clone(),
                logprobs: Some(2),
                lookup,
                ..Request::greedy(start.clone(), max_tokens)
            };
            for count in [1, 2, room.min(60)] {
                let plain = alone(&model, ENGINE, request(0, count));
                for lookup in [1, 4, 9] {
                    let mut engine = Engine::new(model.clone(), ENGINE);
                    let guessed = run(&mut engine, vec![request(lookup, count)]);
                    assert_eq!(guessed, std::slice::from_ref(&plain), "{} {lookup}", folder.display());
                    let stats = engine.stats();
                    assert_eq!(stats.answer_tokens, count);
                    accepted += stats.accepted;
                    rejected += stats.proposed - stats.accepted;
                }
            }
            // Speculation in company.
            let mut engine = Engine::new(model.clone(), EngineOptions { chunk: 16, ..ENGINE });
            let both = run(&mut engine, vec![request(5, 25), request(0, 25), request(3, 25)]);
            assert!(both[0] == both[1] && both[1] == both[2], "{}", folder.display());
        }
    }
    assert!(accepted > 100 && rejected > 100, "{accepted} {rejected}");
}

/// Runs a request that keeps its session.
fn kept(engine: &mut Engine, request: Request) -> (Vec<u32>, Finish) {
    engine.add(Request { keep: true, ..request }).unwrap();
    let mut ids = Vec::new();
    loop {
        for event in engine.step().unwrap() {
            match event {
                Event::Token { token, .. } => ids.push(token.id),
                Event::Finished { finish, .. } => return (ids, finish),
            }
        }
    }
}

#[test]
fn a_session_goes_on_as_if_it_were_read_anew() {
    for folder in folders() {
        let model = load(&folder, 1);
        let mut engine = Engine::new(model.clone(), ENGINE);
        let first = prompt(&model, 40, 3);
        let (answer, finish) = kept(&mut engine, Request::greedy(first.clone(), 10));
        let session = finish.session.unwrap();
        let history = [first, answer].concat();
        assert_eq!(session.tokens(), history);

        // The second turn: all but the last token is in the cache.
        let second = [&history[..], &prompt(&model, 9, 4)].concat();
        let request = || Request { logprobs: Some(0), ..Request::greedy(second.clone(), 8) };
        let (answer, finish) = kept(&mut engine, Request { session: Some(session), ..request() });
        assert_eq!(finish.cached_tokens, history.len() - 1);
        assert_eq!(answer, alone(&model, ENGINE, request()).ids, "{}", folder.display());

        // Another one that differs early, and the same prompt once more.
        let other = [&second[..20], &prompt(&model, 5, 5)].concat();
        let mut session = finish.session;
        for (cached, ids) in [(20, &other), (24, &other), (20, &second)] {
            let (answer, finish) = kept(&mut engine, Request { session, ..Request::greedy(ids.clone(), 8) });
            assert_eq!(finish.cached_tokens, cached);
            assert_eq!(answer, alone(&model, ENGINE, Request::greedy(ids.clone(), 8)).ids);
            session = finish.session;
        }
    }
}

#[test]
fn a_session_beyond_a_sliding_window_is_cut_or_read_anew() {
    let options = EngineOptions { context: 2000, ..ENGINE };
    for name in ["gemma3-micro", "mistral-micro"] {
        let model = fixture(name);
        let long = prompt(&model, 1500, 6);
        for common in [1490, 1200, 300] {
            let mut engine = Engine::new(model.clone(), options);
            let (_, finish) = kept(&mut engine, Request::greedy(long.clone(), 4));
            let next = [&long[..common], &prompt(&model, 6, 7)].concat();
            let request = Request { session: finish.session, ..Request::greedy(next.clone(), 6) };
            let (answer, finish) = kept(&mut engine, request);
            assert!(finish.cached_tokens == common || finish.cached_tokens == 0 && common == 300, "{common}");
            let expected = alone(&model, options, Request::greedy(next.clone(), 6)).ids;
            assert_eq!(answer, expected, "{name} {common}");

            let (_, finish) = kept(&mut engine, Request::greedy(long.clone(), 4));
            let prefix = finish.session.map(Arc::new);
            let (answer, finish) = kept(&mut engine, Request { prefix, ..Request::greedy(next, 6) });
            assert!(finish.cached_tokens == common || finish.cached_tokens == 0 && common == 300, "{common}");
            assert_eq!(answer, expected, "{name} {common}, copied");
        }
    }
}

#[test]
fn a_shared_prefix_is_as_good_as_reading_it() {
    for folder in folders() {
        let model = load(&folder, 2);
        let reach = model.config().max_seq.min(ENGINE.context) - 30;
        for length in [1, 31, 32, 33, 100].map(|length: usize| length.min(reach)) {
            let start = prompt(&model, length, 4);
            let mut engine = Engine::new(model.clone(), ENGINE);
            let (_, finish) = kept(&mut engine, Request::greedy(start.clone(), 0));
            let prefix = Arc::new(finish.session.unwrap());
            // The same prompt, one that goes on from it, one that leaves it early, and one that has nothing of it.
            let longer = [&start[..], &prompt(&model, 20, 5)].concat();
            let other = [&start[..length / 2], &prompt(&model, 9, 6)].concat();
            for start in [start.clone(), longer, other, prompt(&model, 40, 7)] {
                let with = || Request { prefix: Some(prefix.clone()), ..Request::greedy(start.clone(), 9) };
                let expected = alone(&model, ENGINE, Request::greedy(start.clone(), 9));
                for answer in run(&mut engine, vec![with(), with(), with()]) {
                    assert_eq!(answer, expected, "{} {length}", folder.display());
                }
            }
        }
    }
}

#[test]
fn a_finished_sequence_makes_room() {
    let model = fixture("llama-micro");
    let mut engine = Engine::new(model.clone(), EngineOptions { max_batch: 2, ..ENGINE });
    let request = |salt, count| Request::greedy(prompt(&model, 5, salt), count);
    let mut answers = BTreeMap::new();
    for (salt, count) in [(0, 3), (1, 10), (2, 4)] {
        engine.add(request(salt, count)).unwrap();
    }
    assert_eq!(engine.load(), (0, 3));
    collect(engine.step().unwrap(), &mut answers);
    assert_eq!(engine.load(), (2, 1));
    for _ in 0..2 {
        collect(engine.step().unwrap(), &mut answers);
    }
    assert_eq!((engine.load(), answers[&0].reason), ((1, 1), "length"));
    // One that comes late.
    let late = engine.add(request(3, 2)).unwrap();
    while !engine.is_idle() {
        collect(engine.step().unwrap(), &mut answers);
        assert!(engine.load().0 <= 2);
    }
    assert_eq!(late, 3);
    // 3 of the first, then 4 of the third and 2 of the late one beside the second's 10.
    assert_eq!(engine.stats().steps, 10);
    for (salt, count) in [(0, 3), (1, 10), (2, 4), (3, 2)] {
        assert_eq!(answers[&salt].ids, alone(&model, ENGINE, request(salt, count)).ids);
    }
}

#[test]
fn every_way_to_end() {
    let model = fixture("qwen3-micro");
    let vocab_size = model.config().vocab_size as u32;
    let start = prompt(&model, 20, 8);
    let plain = alone(&model, ENGINE, Request::greedy(start.clone(), 30));
    assert_eq!((plain.reason, plain.ids.len()), ("length", 30));

    // At the first occurrence of the token, which is reported.
    let end = plain.ids[7];
    let at = plain.ids.iter().position(|&id| id == end).unwrap();
    for lookup in [0, 6] {
        let request = Request { end_tokens: vec![end], lookup, ..Request::greedy(start.clone(), 30) };
        let answer = alone(&model, ENGINE, request);
        assert_eq!((answer.reason, &answer.ids[..]), ("end", &plain.ids[..=at]));
        let full = EngineOptions { context: 25, ..ENGINE };
        let answer = alone(&model, full, Request { lookup, ..Request::greedy(start.clone(), 30) });
        assert_eq!((answer.reason, &answer.ids[..]), ("context_full", &plain.ids[..5]));
    }
    let answer = alone(&model, ENGINE, Request::greedy(start.clone(), 0));
    assert_eq!((answer.reason, answer.ids.len()), ("length", 0));

    // One that fails does not take the other with it.
    let mut engine = Engine::new(model.clone(), ENGINE);
    let mut bad = Request::greedy(start.clone(), 5);
    bad.sampler.logit_bias = (0..vocab_size).map(|id| (id, f32::NEG_INFINITY)).collect();
    let answers = run(&mut engine, vec![bad, Request::greedy(start.clone(), 5)]);
    assert_eq!((answers[0].reason, answers[1].reason), ("failed", "length"));
    assert_eq!(answers[1].ids, plain.ids[..5]);

    // Stopped from outside, running or waiting.
    let mut engine = Engine::new(model.clone(), EngineOptions { max_batch: 1, ..ENGINE });
    let (a, b) = (
        engine.add(Request::greedy(start.clone(), 30)).unwrap(),
        engine.add(Request::greedy(start.clone(), 30)).unwrap(),
    );
    engine.step().unwrap();
    for id in [a, b] {
        assert!(matches!(engine.stop(id).unwrap().reason, FinishReason::Stop));
        assert!(engine.stop(id).is_none());
    }
    assert!(engine.is_idle() && engine.step().unwrap().is_empty());
}

#[test]
fn requests_that_cannot_be_met_are_refused() {
    let model = fixture("gpt2-micro");
    let reach = model.config().max_seq;
    // Learned positions end where the table ends, whatever is asked for.
    let mut engine = Engine::new(model.clone(), EngineOptions { context: 1 << 20, ..ENGINE });
    assert_eq!(engine.options().context, reach);
    let mut message = |request| engine.add(request).unwrap_err().to_string();
    assert!(message(Request::greedy(vec![], 1)).contains("empty"));
    let long = message(Request::greedy(vec![1; reach + 1], 1));
    assert!(
        long.contains(&format!("{} tokens", reach + 1)) && long.contains(&format!("context of {reach}")),
        "{long}"
    );
    assert!(message(Request::greedy(vec![1; reach], 1)).contains("no room"));
    assert!(message(Request::greedy(vec![1, 1 << 20], 1)).contains("token 1048576"));
    let mut bad = Request::greedy(vec![1], 1);
    bad.sampler.temperature = f32::NAN;
    assert!(message(bad).contains("temperature"));
}
