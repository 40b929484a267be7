//! `command`: what a program says. It reads a JSON object a line and writes one a line (`docs/rewards.md`); it is started
//! when it is first needed and kept running, as often as `processes` says. Where it hangs, ends, or writes anything else,
//! it is killed together with what it started, and started again for the next answer; the answers that it owed are asked
//! again, each alone, `retries` times. What then has no reward has a failure.
//!
//! Options: `command` (a line, or a list of words), `processes` (one a processor), `batch` (1: answers that a process
//! has at a time), `time_limit` (10 s: until the next of them), `start_limit` (60 s: until the first after a start),
//! `retries` (1), `folder` (where it runs), `parts`.

mod process;
mod words;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::protocol::{self, Question, Verdict};
use super::{Made, Seen, Together, Values};
use crate::answer::{Reason, head};
use crate::error::Result;
use crate::options::Options;
use crate::spec::Setup;
use process::{Event, Process};

/// After so many failures in a row the others are not tried: a program that is broken must not cost a time limit an answer.
const GIVE_UP: usize = 8;
/// How long programs have to end by themselves when nothing more will be asked.
const FAREWELL: Duration = Duration::from_secs(1);

/// A program, and how it is asked.
struct Command {
    program: Program,
    batch: usize,
    time_limit: Duration,
    start_limit: Duration,
    retries: u32,
    parts: Vec<String>,
    /// Never given twice, so that a late verdict is not taken for another's.
    next_id: AtomicU64,
    /// One place for each process. Who asks holds its lock.
    places: Vec<Mutex<Option<Process>>>,
}

/// What is started.
pub(super) struct Program {
    words: Vec<String>,
    folder: Option<PathBuf>,
}

pub(super) fn make(options: &mut Options, _: &Setup, _: bool) -> Result<Made> {
    let words = match options.take("command") {
        None => return Err(options.error("`command` is missing")),
        Some(toml::Value::String(line)) => {
            words::split(&line).map_err(|what| options.wrong("command", what, format_args!("`{line}`")))?
        }
        Some(toml::Value::Array(list)) => {
            let word = |value: &toml::Value| value.as_str().map(str::to_owned);
            let words: Option<Vec<_>> = list.iter().map(word).collect();
            words.ok_or_else(|| {
                options.wrong("command", "a line or a list of words", toml::Value::Array(list))
            })?
        }
        Some(other) => return Err(options.wrong("command", "a line or a list of words", other)),
    };
    if words.first().is_none_or(String::is_empty) {
        return Err(options.error("`command`: expected a program, found nothing"));
    }
    let folder = options.text("folder")?.map(|folder| options.path(&folder));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let processes = options.count("processes", 1)?.unwrap_or(threads);
    if processes > 1024 {
        return Err(options.wrong("processes", "at most 1024", processes));
    }
    let retries = options.count("retries", 0)?.unwrap_or(1);
    let parts = protocol::parts(options)?;
    let command = Command {
        program: Program { words, folder },
        batch: options.count("batch", 1)?.unwrap_or(1),
        time_limit: options.seconds("time_limit", 10.0)?,
        start_limit: options.seconds("start_limit", 60.0)?,
        retries: u32::try_from(retries).map_err(|_| options.wrong("retries", "few", retries))?,
        parts: parts.clone(),
        next_id: AtomicU64::new(0),
        places: (0..processes).map(|_| Mutex::default()).collect(),
    };
    Ok(Made::together(command, parts))
}

/// An answer that has no verdict yet.
#[derive(Clone, Copy)]
struct Job {
    place: usize,
    id: u64,
    tries: u32,
}

/// What all processes work on together.
struct Work<'a> {
    seen: &'a [Seen<'a>],
    jobs: Mutex<VecDeque<Job>>,
    results: Mutex<Vec<Option<Values>>>,
    /// Answers in a row that failed for good, and the last reason.
    failed: Mutex<(usize, String)>,
}

impl Together for Command {
    fn judge(&self, seen: &[Seen<'_>]) -> Vec<Values> {
        let job = |place| Job { place, id: self.next_id.fetch_add(1, Ordering::Relaxed), tries: 0 };
        let work = Work {
            seen,
            jobs: Mutex::new((0..seen.len()).map(job).collect()),
            results: Mutex::new(vec![None; seen.len()]),
            failed: Mutex::default(),
        };
        let workers = self.places.len().min(seen.len().div_ceil(self.batch));
        thread::scope(|scope| {
            let Some((first, others)) = self.places[..workers].split_first() else { return };
            for place in others {
                // Where there is no further thread, the others do the work.
                let _ = thread::Builder::new().spawn_scoped(scope, || self.work(place, &work));
            }
            self.work(first, &work);
        });
        let results = work.results.into_inner().unwrap_or_else(PoisonError::into_inner);
        let missing = || Err(Reason::from("it was not judged".to_owned()));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }
}

impl Command {
    /// Asks one process until no answers are left.
    fn work(&self, place: &Mutex<Option<Process>>, work: &Work<'_>) {
        let mut process = lock(place);
        // Answers that it has, and those that will be tried again, alone.
        let mut asked: Vec<Job> = Vec::new();
        let mut again: Vec<Job> = Vec::new();
        let mut deadline = Instant::now();
        let mut is_alone = false;
        loop {
            let mut new = Vec::new();
            if asked.is_empty() {
                is_alone = !again.is_empty();
                new.extend(again.pop());
            }
            while !is_alone && asked.len() + new.len() < self.batch {
                match work.next() {
                    Some(job) => new.push(job),
                    None => break,
                }
            }
            if asked.is_empty() && new.is_empty() {
                return;
            }
            if asked.is_empty() {
                deadline = Instant::now()
                    + if process.is_some() { self.time_limit } else { self.start_limit.max(self.time_limit) };
            }
            asked.extend(&new);
            let outcome = self.step(&mut process, &mut asked, &new, deadline, work);
            match outcome {
                Ok(()) => deadline = Instant::now() + self.time_limit,
                Err(fault) => {
                    let text = fault_text(fault, process.take());
                    for mut job in asked.drain(..) {
                        job.tries += 1;
                        if job.tries <= self.retries {
                            again.push(job);
                        } else {
                            work.fail(job, text.clone());
                        }
                    }
                }
            }
        }
    }

    /// Sends what is new, and waits for the next verdict.
    fn step(
        &self,
        process: &mut Option<Process>,
        asked: &mut Vec<Job>,
        new: &[Job],
        deadline: Instant,
        work: &Work<'_>,
    ) -> Result<(), Fault> {
        let process = match process {
            Some(process) => process,
            None => {
                let started = Process::start(&self.program);
                process.insert(
                    started.map_err(|error| Fault::Start(format!("`{}`: {error}", self.program.words[0])))?,
                )
            }
        };
        for job in new {
            let line = serde_json::to_string(&Question::new(job.id, &work.seen[job.place]));
            process.send(line.map_err(|error| Fault::Wrote(error.to_string()))?);
        }
        let text = match process.next(deadline) {
            Some(Event::Line(text)) => text,
            Some(Event::NotText) => return Err(Fault::Wrote("wrote what is not UTF-8".to_owned())),
            Some(Event::TooLong) => {
                return Err(Fault::Wrote(format!(
                    "wrote a line of more than {} bytes",
                    process::LONGEST_LINE
                )));
            }
            Some(Event::OutputClosed) => return Err(Fault::Ended("ended without a verdict")),
            Some(Event::InputClosed) => return Err(Fault::Ended("closed its input")),
            None => return Err(Fault::Silent),
        };
        let verdict = Verdict::json(&text).and_then(|value| Verdict::read(&value, &self.parts));
        let verdict = verdict
            .map_err(|what| Fault::Wrote(format!("{what}; what is not a verdict belongs to stderr")))?;
        let Some(i) = asked.iter().position(|job| job.id == verdict.id) else {
            let ids: Vec<_> = asked.iter().map(|job| job.id.to_string()).collect();
            let found = head(&text, 100);
            return Err(Fault::Wrote(format!(
                "expected a verdict with `id` {}, found `{found}`",
                ids.join(" or ")
            )));
        };
        let job = asked.swap_remove(i);
        work.done(job, verdict.values);
        Ok(())
    }
}

/// Why a process is given up.
enum Fault {
    Start(String),
    Wrote(String),
    Ended(&'static str),
    Silent,
}

/// What is said of a process that is given up, and is killed now.
fn fault_text(fault: Fault, process: Option<Process>) -> String {
    let (what, has_ended) = match fault {
        Fault::Start(error) => return format!("the program cannot be started: {error}"),
        Fault::Wrote(what) => (format!("the program: {what}"), false),
        Fault::Ended(what) => (format!("the program {what}"), true),
        Fault::Silent => (
            "the program wrote no verdict within the time limit; does it flush after each line?".to_owned(),
            false,
        ),
    };
    let Some(process) = process else { return what };
    let end = process.end(has_ended);
    let status = end.status.map(|status| format!(" ({status})")).unwrap_or_default();
    match end.errors.is_empty() {
        true => format!("{what}{status}"),
        false => format!("{what}{status}; its stderr ends: {}", end.errors),
    }
}

impl Work<'_> {
    fn next(&self) -> Option<Job> {
        let job = lock(&self.jobs).pop_front()?;
        let failed = lock(&self.failed);
        if failed.0 < GIVE_UP {
            return Some(job);
        }
        let text = format!("not tried, for {} answers in a row failed; the last: {}", failed.0, failed.1);
        let rest = std::iter::once(job).chain(lock(&self.jobs).drain(..)).collect::<Vec<_>>();
        let mut results = lock(&self.results);
        for job in rest {
            results[job.place] = Some(Err(Reason { text: text.clone(), tries: 0 }));
        }
        None
    }

    /// There is a verdict, if only that there is no reward: the program works.
    fn done(&self, job: Job, values: Result<Vec<f64>, String>) {
        lock(&self.failed).0 = 0;
        let result = values.map_err(|text| Reason { text, tries: job.tries + 1 });
        lock(&self.results)[job.place] = Some(result);
    }

    fn fail(&self, job: Job, text: String) {
        let mut failed = lock(&self.failed);
        *failed = (failed.0 + 1, text.clone());
        lock(&self.results)[job.place] = Some(Err(Reason { text, tries: job.tries }));
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // All are told first, so that they end side by side.
        let places =
            self.places.iter_mut().map(|place| place.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut processes: Vec<Process> = places.filter_map(Option::take).collect();
        processes.iter_mut().for_each(Process::close_input);
        let deadline = Instant::now() + FAREWELL;
        for process in &mut processes {
            process.close(deadline);
        }
    }
}

/// Nothing here is half done when a thread ends.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
