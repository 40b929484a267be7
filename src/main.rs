//! `wootz`: parses the command line, runs the command, prints what went wrong.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod hub;
mod interrupt;
mod model_arg;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match args::Args::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => ExitCode::from(interrupt::EXIT_CODE),
        Err(error) => {
            commands::answer::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
