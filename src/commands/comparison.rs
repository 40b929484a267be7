//! What two models are compared by, and how the result is printed.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::Path;
use wootz_model::compare::Comparison;
use wootz_text::{Special, Tokenizer};

/// Texts of several kinds, where none is given.
const PROMPTS: [&str; 4] = [
    "Once upon a time there was a little girl who lived with her grandmother at the edge of a great forest. One day",
    "The boiling point of water falls with the pressure of the air, which is why an egg takes longer to cook on a mountain.",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n\nprint(fibonacci(10))\n",
    "Question: A train leaves at nine and arrives at a quarter past eleven. How long does it travel?\nAnswer: It travels for",
];
/// Tokens that are compared, at the most: their logits wait in memory.
const MOST: usize = 512;

/// The tokens: of the beginning of a text file, of the built-in texts, or, where a model has no tokenizer, any.
///
/// # Errors
/// The file cannot be read, holds no text, or there is no tokenizer to read it with.
pub fn tokens(file: Option<&Path>, tokenizer: Option<&Tokenizer>, vocab: usize) -> Result<Vec<Vec<u32>>> {
    /// Bytes of a file that are read: no tokenizer makes fewer than `MOST` tokens of them.
    const BYTES: u64 = 1 << 16;
    match (file, tokenizer) {
        (Some(file), None) => bail!("--text {}: the model has no tokenizer to read it with", file.display()),
        (Some(file), Some(tokenizer)) => {
            let whose = || format!("--text {}", file.display());
            let mut bytes = Vec::new();
            std::fs::File::open(file)
                .and_then(|file| file.take(BYTES).read_to_end(&mut bytes))
                .with_context(whose)?;
            let mut ids =
                tokenizer.encode(&String::from_utf8_lossy(&bytes), Special::default()).with_context(whose)?;
            ids.truncate(MOST);
            if ids.is_empty() {
                bail!("--text {}: expected text, found none", file.display());
            }
            Ok(vec![ids])
        }
        (None, Some(tokenizer)) => {
            let ids = PROMPTS.iter().map(|text| tokenizer.encode(text, Special::default()));
            Ok(ids.collect::<Result<_, _>>()?)
        }
        // Ids without a meaning say something all the same.
        (None, None) => {
            let vocab = u32::try_from(vocab).unwrap_or(u32::MAX).max(1);
            Ok(vec![(0..MOST as u32 / 4).map(|i| i.wrapping_mul(2_654_435_761) % vocab).collect()])
        }
    }
}

/// Adds the numbers to what `--json` prints.
pub fn add(found: &Comparison, result: &mut Value) {
    result["compared_positions"] = json!(found.positions);
    result["kl_mean"] = json!(found.mean);
    result["kl_largest"] = json!(found.largest);
    result["same_top"] = json!(found.same_top);
    result["logits_largest_difference"] = json!(found.difference);
}
