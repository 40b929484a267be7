//! Prints stories: `cargo run -p wootz-train --example stories -- --seed 1 --count 10`.
//!
//! `--separator TEXT` replaces the line that stands between two stories.

use std::io::{BufWriter, Write, stdout};
use std::process::ExitCode;

const USAGE: &str = "usage: stories [--seed N] [--count N] [--separator TEXT]";

/// The seed, the number of stories, and what stands between two of them.
fn parse(mut args: impl Iterator<Item = String>) -> Result<(u64, u64, String), String> {
    let (mut seed, mut count, mut separator) = (1, 10, "\n---\n".to_owned());
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value; {USAGE}"))?;
        let number =
            || value.parse::<u64>().map_err(|_| format!("{flag}: expected a number, found {value:?}"));
        match flag.as_str() {
            "--seed" => seed = number()?,
            "--count" => count = number()?,
            "--separator" => separator = value,
            _ => return Err(format!("unknown flag {flag}; {USAGE}")),
        }
    }
    Ok((seed, count, separator))
}

fn main() -> ExitCode {
    let (seed, count, separator) = match parse(std::env::args().skip(1)) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(2);
        }
    };
    let mut out = BufWriter::new(stdout().lock());
    for (index, story) in wootz_train::stories::corpus(seed, count).enumerate() {
        let between = if index == 0 { "" } else { &separator };
        if writeln!(out, "{between}{story}").is_err() {
            // The reader has gone, as with `| head`: nothing is left to do.
            return ExitCode::SUCCESS;
        }
    }
    if out.flush().is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
