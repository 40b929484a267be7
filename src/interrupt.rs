//! Ctrl-C: ends an answer, and the program only where nothing is being answered.

use std::fmt;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a program that Ctrl-C ended, as shells know it.
pub const EXIT_CODE: u8 = 130;

static LISTENING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// While this lives, Ctrl-C sets a flag; a second one ends the program.
pub struct Listener(());

impl Listener {
    /// From now on Ctrl-C is asked for by [`Listener::asked`].
    pub fn new() -> Listener {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // Without a handler Ctrl-C ends the program at once, which is no reason to refuse to start.
            let _ = ctrlc::set_handler(|| {
                if !LISTENING.load(Ordering::SeqCst) || ASKED.swap(true, Ordering::SeqCst) {
                    std::process::exit(EXIT_CODE.into());
                }
            });
        });
        ASKED.store(false, Ordering::SeqCst);
        LISTENING.store(true, Ordering::SeqCst);
        Listener(())
    }

    /// Whether Ctrl-C was pressed.
    pub fn asked(&self) -> bool {
        ASKED.load(Ordering::SeqCst)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::SeqCst);
    }
}

/// The error of a command that Ctrl-C ended: `main` prints nothing for it and exits with [`EXIT_CODE`].
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
