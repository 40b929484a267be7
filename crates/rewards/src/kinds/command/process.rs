//! A running program: lines in, lines out, each with a limit.
//!
//! Three threads stand between it and us, one for each pipe, so that a program that does not read, does not write or
//! writes without end holds up nobody. They end when the pipes do; nobody waits for them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Program;
use crate::answer::tail;

/// Bytes of a line that a program writes, at the most.
pub(super) const LONGEST_LINE: usize = 1 << 20;
/// Bytes of stderr that are kept: the last ones.
const ERROR_BYTES: usize = 4096;
/// Characters of it in a message.
const ERROR_CHARS: usize = 400;
/// Lines that wait to be read, at the most. Then the program waits.
const WAITING: usize = 16;
/// How long a program that closed a pipe has until it is ended by force, and its stderr to be read.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Process {
    child: Child,
    /// `None` once nothing more will be asked.
    input: Option<Sender<String>>,
    events: Receiver<Event>,
    errors: Arc<Mutex<Vec<u8>>>,
    /// Is closed when stderr is.
    errors_end: Receiver<()>,
    status: Option<ExitStatus>,
}

/// What a program does.
pub(super) enum Event {
    /// It wrote a line.
    Line(String),
    /// It wrote a line that is not UTF-8.
    NotText,
    /// It wrote more than a line may have.
    TooLong,
    /// It will write nothing more.
    OutputClosed,
    /// It reads nothing more.
    InputClosed,
}

/// How a program ended.
pub(super) struct End {
    /// `None` if it was killed by us.
    pub status: Option<ExitStatus>,
    /// The end of what it wrote to stderr, on one line.
    pub errors: String,
}

impl Process {
    pub fn start(program: &Program) -> io::Result<Process> {
        let Some((name, arguments)) = program.words.split_first() else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        let mut command = std::process::Command::new(name);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Python holds back what it writes to a pipe, and everybody forgets that once.
        command.env("PYTHONUNBUFFERED", "1");
        if let Some(folder) = &program.folder {
            command.current_dir(folder);
        }
        family::found(&mut command);
        let mut child = command.spawn()?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (input, lines) = mpsc::channel();
        let (event, events) = mpsc::sync_channel(WAITING);
        let (errors_open, errors_end) = mpsc::channel();
        let errors = Arc::new(Mutex::new(Vec::new()));
        // From here on the child is killed whatever happens.
        let process =
            Process { child, input: Some(input), events, errors: errors.clone(), errors_end, status: None };
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("it has no pipes"));
        };
        let output_event = event.clone();
        spawn("reward-out", move || read_lines(stdout, &output_event))?;
        spawn("reward-in", move || write_lines(stdin, &lines, &event))?;
        spawn("reward-err", move || keep_tail(stderr, &errors, errors_open))?;
        Ok(process)
    }

    /// Sends a line, without waiting for anybody to read it.
    pub fn send(&self, mut line: String) {
        line.push('\n');
        if let Some(input) = &self.input {
            // Where the thread has ended, it has said so.
            let _ = input.send(line);
        }
    }

    /// The next thing it does, unless that takes too long.
    pub fn next(&self, deadline: Instant) -> Option<Event> {
        match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(event) => Some(event),
            Err(mpsc::RecvTimeoutError::Timeout) => None,
            Err(mpsc::RecvTimeoutError::Disconnected) => Some(Event::OutputClosed),
        }
    }

    /// Ends it. If it is ending by itself, it has some time for that, so that its status can be told.
    pub fn end(mut self, is_ending: bool) -> End {
        let status = self.close(Instant::now() + if is_ending { PATIENCE } else { Duration::ZERO });
        // All who could write to it are gone, so this takes no time.
        let _ = self.errors_end.recv_timeout(PATIENCE);
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        End { status, errors: tail(&String::from_utf8_lossy(&errors), ERROR_CHARS) }
    }

    /// Says that nothing more will be asked. A well-behaved program ends.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for it to end until the deadline, and kills it then. Its status, if it ended by itself.
    pub fn close(&mut self, deadline: Instant) -> Option<ExitStatus> {
        self.close_input();
        if self.status.is_some() {
            return self.status;
        }
        let mut pause = Duration::from_millis(1);
        let mut by_itself = family::has_ended(&mut self.child);
        while !by_itself && Instant::now() < deadline {
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
            by_itself = family::has_ended(&mut self.child);
        }
        // Also if it has ended: what it started may not have.
        family::kill(&mut self.child);
        self.status = self.child.wait().ok();
        self.status.filter(|_| by_itself)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.close(Instant::now());
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(|_| ())
}

/// Passes lines on until there are no more, one is too long, or nobody listens.
fn read_lines(stdout: ChildStdout, event: &SyncSender<Event>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let next = match reader.by_ref().take(LONGEST_LINE as u64 + 1).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => Event::OutputClosed,
            Ok(bytes) if bytes > LONGEST_LINE => Event::TooLong,
            Ok(_) => match String::from_utf8(line) {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => Event::Line(line),
                Err(_) => Event::NotText,
            },
        };
        let is_last = match next {
            Event::OutputClosed | Event::TooLong => true,
            Event::Line(_) | Event::NotText | Event::InputClosed => false,
        };
        if event.send(next).is_err() || is_last {
            return;
        }
    }
}

/// Writes lines until there are no more, or nobody reads them. Then the pipe is closed.
fn write_lines(mut stdin: ChildStdin, lines: &Receiver<String>, event: &SyncSender<Event>) {
    for line in lines {
        if stdin.write_all(line.as_bytes()).is_err() {
            let _ = event.send(Event::InputClosed);
            return;
        }
    }
}

/// Keeps the last bytes. `_open` is dropped with the end of the pipe.
fn keep_tail(mut stderr: ChildStderr, kept: &Mutex<Vec<u8>>, _open: Sender<()>) {
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut bytes) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&bytes[..count]);
        let surplus = kept.len().saturating_sub(ERROR_BYTES);
        kept.drain(..surplus);
    }
}

/// A program and all that it starts: a group of processes, which is killed as one.
#[cfg(unix)]
mod family {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

    pub fn found(command: &mut Command) {
        command.process_group(0);
    }

    /// Whether it has ended. It is left to be waited for: until then, no other group can have its number.
    pub fn has_ended(child: &mut Child) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(child)), options).is_ok_and(|status| status.is_some())
    }

    pub fn kill(child: &mut Child) {
        // Where there is nobody left, there is nothing to do.
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
        let _ = child.kill();
    }
}

#[cfg(not(unix))]
mod family {
    use std::process::{Child, Command};

    pub fn found(_: &mut Command) {}

    pub fn has_ended(child: &mut Child) -> bool {
        child.try_wait().is_ok_and(|status| status.is_some())
    }

    pub fn kill(child: &mut Child) {
        let _ = child.kill();
    }
}
