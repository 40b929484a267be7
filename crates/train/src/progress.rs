//! How far training is: a bar where stderr is a terminal, plain lines where it is not.
//!
//! ```text
//! ████████████░░░░░░░░░░░░░░░░░░ 400/1000 · loss 2.3456 · 12,345 tok/s · 46.2 % of peak · 3m12s left
//! step 400/1000 · loss 2.3456 · 12,345 tok/s · 46.2 % of peak · 3m12s left
//! ```
//! What else is to be said meanwhile goes through [`Progress::note`] or [`Progress::warn`], or it would tear the bar.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How progress is shown, always on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A bar where stderr is a terminal, lines where it is not.
    Auto,
    /// Plain lines, for logs: the first step, then one after so many steps or so much time, and the last step.
    Lines(Every),
    /// Nothing but warnings.
    Quiet,
}

/// How often a line is printed: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every {
    /// After a step whose number is a multiple of this; 0 for never.
    pub steps: u64,
    /// After this much time without a line.
    pub time: Duration,
}

impl Default for Every {
    fn default() -> Every {
        Every { steps: 0, time: Duration::from_secs(10) }
    }
}

/// What is known after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Status<'a> {
    /// Updates done so far.
    pub step: u64,
    /// Loss of the step, in nats a token.
    pub loss: f64,
    /// Throughput.
    pub tokens_per_second: f64,
    /// Arithmetic done, as a fraction of what the machine can do at most; `None` where that is not known.
    pub share_of_peak: Option<f64>,
    /// What else is worth a few words, such as `reward 0.42`; empty for nothing.
    pub extra: &'a str,
}

/// Shows how far a run is.
pub struct Progress {
    total: u64,
    first: u64,
    begun: Instant,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { every: Every, last: Option<Instant>, out: Box<dyn Write + Send> },
    Quiet,
}

impl Progress {
    /// Progress of a run of `total` steps of which `done` are done already. The time that is left is reckoned from
    /// now on.
    pub fn new(total: u64, done: u64, style: Style) -> Progress {
        let display = match style {
            Style::Auto if io::stderr().is_terminal() => Display::Bar(bar(total, done)),
            Style::Auto => lines(Every::default(), Box::new(io::stderr())),
            Style::Lines(every) => lines(every, Box::new(io::stderr())),
            Style::Quiet => Display::Quiet,
        };
        Progress { total, first: done, begun: Instant::now(), display }
    }

    /// Shows a step that is done.
    pub fn update(&mut self, status: &Status<'_>) {
        self.update_at(status, Instant::now());
    }

    fn update_at(&mut self, status: &Status<'_>, now: Instant) {
        let left = self.time_left(status.step, now);
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_position(status.step);
                bar.set_message(describe(status, left));
            }
            Display::Lines { every, last, out } => {
                let is_due = match *last {
                    None => true,
                    Some(last) => {
                        let is_round = status.step.checked_rem(every.steps) == Some(0);
                        is_round || now.saturating_duration_since(last) >= every.time
                    }
                };
                if is_due || status.step == self.total {
                    *last = Some(now);
                    // Nobody can be told that stderr is closed.
                    let _ = writeln!(out, "step {}/{}{}", status.step, self.total, describe(status, left));
                }
            }
            Display::Quiet => {}
        }
    }

    /// How long the remaining steps take at the rate so far; `None` before there is one.
    fn time_left(&self, step: u64, now: Instant) -> Option<Duration> {
        let done = step.checked_sub(self.first).filter(|&done| done > 0)?;
        let seconds = now.saturating_duration_since(self.begun).as_secs_f64();
        let left = self.total.saturating_sub(step) as f64 * seconds / done as f64;
        Duration::try_from_secs_f64(left).ok()
    }

    /// Prints a line beside the progress: a checkpoint that was saved. Not in [`Style::Quiet`].
    pub fn note(&mut self, text: &str) {
        match &mut self.display {
            Display::Bar(bar) => bar.suspend(|| print(text)),
            Display::Lines { out, .. } => {
                let _ = writeln!(out, "{text}");
            }
            Display::Quiet => {}
        }
    }

    /// Prints a text to stdout, beside the progress.
    pub fn show(&mut self, text: &str) {
        match &mut self.display {
            Display::Bar(bar) => bar.suspend(|| show(text)),
            Display::Lines { .. } | Display::Quiet => show(text),
        }
    }

    /// Prints a line that matters in every style.
    pub fn warn(&mut self, text: &str) {
        match &self.display {
            Display::Bar(_) | Display::Lines { .. } => self.note(text),
            Display::Quiet => print(text),
        }
    }

    /// Ends the display; a bar stays as it is. Without this it is removed when this value goes.
    pub fn finish(&self) {
        match &self.display {
            Display::Bar(bar) => bar.abandon(),
            Display::Lines { .. } | Display::Quiet => {}
        }
    }
}

fn print(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn show(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

fn lines(every: Every, out: Box<dyn Write + Send>) -> Display {
    Display::Lines { every, last: None, out }
}

fn bar(total: u64, done: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    // A template of ours is known to be one; without it the bar has indicatif's own look.
    if let Ok(style) = ProgressStyle::with_template("{bar:30.cyan/dim} {pos}/{len}{msg}") {
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏░"));
    }
    bar.set_position(done);
    bar
}

/// Everything behind the step.
fn describe(status: &Status<'_>, left: Option<Duration>) -> String {
    let mut text = format!(" · loss {:.4} · {} tok/s", status.loss, grouped(status.tokens_per_second));
    // Writing to a string cannot fail.
    if let Some(share) = status.share_of_peak {
        let _ = write!(text, " · {:.1} % of peak", 100.0 * share);
    }
    if !status.extra.is_empty() {
        let _ = write!(text, " · {}", status.extra);
    }
    if let Some(left) = left {
        let _ = write!(text, " · {} left", short(left));
    }
    text
}

/// A number without decimals, in groups of three digits.
pub fn grouped(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let mut text = String::new();
    if x <= -0.5 {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in its two largest units: `45s`, `3m12s`, `2h05m`, `3d04h`.
pub fn short(time: Duration) -> String {
    let seconds = time.as_secs().saturating_add(u64::from(time.subsec_millis() >= 500));
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        (_, _, _) => format!("{days}d{:02}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn status(step: u64) -> Status<'static> {
        Status { step, loss: 2.5, tokens_per_second: 12345.4, share_of_peak: None, extra: "" }
    }

    /// The lines of a run of 10 steps of a second each, of which `done` were done before.
    fn printed(done: u64, every: Every) -> Vec<String> {
        let sink = Sink::default();
        let begun = Instant::now();
        let mut progress =
            Progress { total: 10, first: done, begun, display: lines(every, Box::new(sink.clone())) };
        for step in done + 1..=10 {
            progress.update_at(&status(step), begun + Duration::from_secs(step - done));
        }
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_is_printed_after_so_many_steps_or_so_much_time() {
        let steps = |every| -> Vec<u64> {
            let lines = printed(0, every);
            lines.iter().map(|line| line["step ".len()..line.find('/').unwrap()].parse().unwrap()).collect()
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(steps(Every { steps: 4, time: hour }), [1, 4, 8, 10]);
        assert_eq!(steps(Every { steps: 0, time: hour }), [1, 10]);
        assert_eq!(steps(Every { steps: 0, time: Duration::from_secs(3) }), [1, 4, 7, 10]);
        assert_eq!(steps(Every { steps: 5, time: Duration::from_secs(3) }), [1, 4, 5, 8, 10]);
    }

    #[test]
    fn the_time_left_counts_steps_of_this_process_alone() {
        let lines = printed(6, Every { steps: 1, time: Duration::MAX });
        assert_eq!(lines[0], "step 7/10 · loss 2.5000 · 12,345 tok/s · 3s left");
        assert_eq!(lines[3], "step 10/10 · loss 2.5000 · 12,345 tok/s · 0s left");
    }

    #[test]
    fn a_line_says_all_that_is_known() {
        let status =
            Status { share_of_peak: Some(0.4621), extra: "reward 0.42", loss: f64::NAN, ..status(1) };
        let text = describe(&status, Some(Duration::from_secs(192)));
        assert_eq!(text, " · loss NaN · 12,345 tok/s · 46.2 % of peak · reward 0.42 · 3m12s left");
    }

    #[test]
    fn notes_go_where_the_lines_go() {
        let sink = Sink::default();
        let display = lines(Every::default(), Box::new(sink.clone()));
        let mut progress = Progress { total: 0, first: 0, begun: Instant::now(), display };
        progress.note("saved");
        progress.warn("disk full");
        // A step that the run did not plan, and one before the first: no panic.
        progress.update(&status(0));
        progress.update(&status(7));
        progress.finish();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("saved\ndisk full\nstep 0/0 · loss"), "{text}");
    }

    #[test]
    fn a_bar_takes_what_comes() {
        let mut progress = Progress {
            total: 5,
            first: 0,
            begun: Instant::now(),
            display: Display::Bar(ProgressBar::hidden()),
        };
        progress.update(&status(9));
        progress.note("saved");
        match &progress.display {
            Display::Bar(bar) => assert!(bar.position() == 9 && bar.message().contains("loss 2.5")),
            Display::Lines { .. } | Display::Quiet => panic!("a bar was made"),
        }
        progress.finish();
        assert_eq!(bar(10, 4).position(), 4);
    }

    #[test]
    fn numbers_and_times_are_short() {
        let cases =
            [(0.4, "0"), (999.6, "1,000"), (1234567.0, "1,234,567"), (-1234.0, "-1,234"), (-0.2, "0")];
        cases.iter().for_each(|&(x, text)| assert_eq!(grouped(x), text));
        assert_eq!((grouped(f64::NAN), grouped(f64::INFINITY)), ("NaN".into(), "inf".into()));
        let cases =
            [(0, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (7500, "2h05m"), (273_600, "3d04h")];
        cases.iter().for_each(|&(seconds, text)| assert_eq!(short(Duration::from_secs(seconds)), text));
        assert_eq!(short(Duration::from_millis(59_600)), "1m00s");
        short(Duration::MAX);
    }
}
