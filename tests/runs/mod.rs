//! What a run leaves behind.

use serde_json::Value;
use std::path::Path;

/// The numbers of metrics.jsonl that do not depend on the clock.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("metrics");
    let line = |line: &str| -> Value {
        let mut row: Value = serde_json::from_str(line).expect("JSON");
        let object = row.as_object_mut().expect("an object");
        for name in ["tokens_per_second", "rollout_seconds", "rollout_tokens_per_second"] {
            object.remove(name);
        }
        row
    };
    text.lines().map(line).collect()
}
