//! What the program says.

use crate::common::{Folder, command};
use serde_json::Value;
use std::process::Output;

pub fn output(folder: &Folder, args: &[&str]) -> Output {
    command(folder, args).output().expect("the program starts")
}

/// The JSON that a command prints; it must succeed.
pub fn done(folder: &Folder, args: &[&str]) -> Value {
    let output = output(folder, &[args, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"))
}

/// What a command that must fail says.
pub fn error(folder: &Folder, args: &[&str]) -> String {
    let output = output(folder, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
    let (_, message) = stderr.split_once("error: ").unwrap_or_else(|| panic!("{args:?}: {stderr}"));
    message.to_owned()
}
