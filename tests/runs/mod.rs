//! What a run leaves behind.

use serde_json::Value;
use std::path::Path;

/// The numbers of metrics.jsonl that do not depend on the clock.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let line = |line: &str| -> Value {
        let mut row: Value = serde_json::from_str(line).expect("JSON");
        row.as_object_mut().expect("an object").remove("tokens_per_second");
        row
    };
    text.lines().map(line).collect()
}
