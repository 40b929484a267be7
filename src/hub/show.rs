//! How far a download is: a bar where stderr is a terminal, plain lines where it is not.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use wootz_hub::Reference;
use wootz_hub::pull::Watch;

use crate::commands::answer::note;

/// Time between lines.
const EVERY: Duration = Duration::from_secs(10);

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar or lines.
    Auto,
    /// Nothing.
    Quiet,
}

/// Shows a download, on stderr.
pub struct Show {
    name: String,
    style: Style,
    state: Mutex<Option<State>>,
}

/// A download that has begun.
struct State {
    bytes: u64,
    /// Bytes that were there when it began; the first that is told.
    there: Option<u64>,
    begun: Instant,
    shown: Instant,
    bar: Option<ProgressBar>,
}

impl Show {
    /// Of this model.
    pub fn new(reference: &Reference, style: Style) -> Show {
        Show { name: reference.to_string(), style, state: Mutex::new(None) }
    }
}

impl Watch for Show {
    fn begin(&self, files: usize, bytes: u64) {
        if self.style == Style::Quiet {
            return;
        }
        note(&format!("{}: {}, {}", self.name, count(files), size(bytes)));
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(bytes);
            let template =
                "{bar:30} {percent} % of {decimal_total_bytes} · {decimal_bytes_per_sec} · {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        let now = Instant::now();
        let state = State { bytes, there: None, begun: now, shown: now, bar };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    fn progress(&self, done: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = state.as_mut() else { return };
        let there = *state.there.get_or_insert(done);
        if let Some(bar) = &state.bar {
            if done == there {
                // What was there already says nothing of the speed.
                bar.reset_eta();
            }
            bar.set_position(done);
        } else if state.shown.elapsed() >= EVERY {
            state.shown = Instant::now();
            let share = 100.0 * done as f64 / state.bytes.max(1) as f64;
            let speed = done.saturating_sub(there) as f64 / state.begun.elapsed().as_secs_f64().max(1e-3);
            let left = match speed > 0.0 {
                true => format!(" · {:.0} s left", state.bytes.saturating_sub(done) as f64 / speed),
                false => String::new(),
            };
            note(&format!("{}: {share:.0} % · {:.1} MB/s{left}", self.name, speed / 1e6));
        }
    }

    fn note(&self, text: &str) {
        if self.style == Style::Quiet {
            return;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.as_ref().and_then(|state| state.bar.as_ref()) {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = state.as_ref().and_then(|state| state.bar.as_ref()) {
            bar.finish_and_clear();
        }
    }
}

/// A number of files.
pub fn count(files: usize) -> String {
    format!("{files} file{}", if files == 1 { "" } else { "s" })
}

/// Bytes as a person reads them.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
