//! `wootz tokenizer encode|decode MODEL`: what a model's tokenizer makes of a text, and of token ids.

use std::io::{self, Read as _, Write as _};

use anyhow::{Context, Result, bail};
use serde_json::json;
use wootz_text::Special;

/// Arguments of `wootz tokenizer`.
#[derive(Debug, clap::Args)]
pub struct TokenizerArgs {
    #[command(subcommand)]
    action: Action,
}

/// What to do with the tokenizer.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the token ids of a text
    Encode(EncodeArgs),
    /// Print the text of token ids
    Decode(DecodeArgs),
}

#[derive(Debug, clap::Args)]
struct EncodeArgs {
    /// A model: folder, .gguf, .bin with a tokenizer.bin beside it, hub id, or `story`
    model: String,
    /// The text; `-` or none reads it from stdin, byte for byte
    text: Option<String>,
    /// Leave out the tokens that the model expects around a text (BOS, EOS)
    #[arg(long)]
    no_special: bool,
    /// Take special tokens that are written in the text (`<|im_end|>`) for what they name
    #[arg(long)]
    parse_special: bool,
    /// Print `{"ids": [...]}`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DecodeArgs {
    /// A model: folder, .gguf, .bin with a tokenizer.bin beside it, hub id, or `story`
    model: String,
    /// Token ids; `-` or none reads them from stdin, with white space or commas between
    ids: Vec<String>,
    /// Leave out special tokens
    #[arg(long)]
    no_special: bool,
    /// Print `{"text": "..."}`
    #[arg(long)]
    json: bool,
}

/// Prints ids, or text, to stdout.
pub fn run(args: TokenizerArgs) -> Result<()> {
    let output = match args.action {
        Action::Encode(args) => encode(args)?,
        Action::Decode(args) => decode(args)?,
    };
    match io::stdout().lock().write_all(output.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()), // `| head` has seen enough
        other => other.context("cannot write to stdout"),
    }
}

fn encode(args: EncodeArgs) -> Result<String> {
    let tokenizer = wootz_model::load::tokenizer(&crate::model_arg::resolve(Some(&args.model))?)?;
    let text = match args.text {
        Some(text) if text != "-" => text,
        _ => text_of(read_stdin()?)?,
    };
    let special = Special { add: !args.no_special, parse: args.parse_special };
    let ids = tokenizer.encode(&text, special)?;
    Ok(if args.json {
        format!("{}\n", json!({ "ids": ids }))
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        format!("{}\n", ids.join(" "))
    })
}

fn decode(args: DecodeArgs) -> Result<String> {
    let tokenizer = wootz_model::load::tokenizer(&crate::model_arg::resolve(Some(&args.model))?)?;
    let ids = match args.ids.as_slice() {
        [] => ids_of(&text_of(read_stdin()?)?)?,
        [dash] if dash == "-" => ids_of(&text_of(read_stdin()?)?)?,
        words => ids_of(&words.join(" "))?,
    };
    if let Some(id) = ids.iter().find(|&&id| id as usize >= tokenizer.vocab_size()) {
        bail!("token id {id} is out of range: the vocabulary has {} tokens", tokenizer.vocab_size());
    }
    let text = tokenizer.decode(&ids, args.no_special);
    Ok(if args.json { format!("{}\n", json!({ "text": text })) } else { format!("{text}\n") })
}

fn read_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("cannot read stdin")?;
    Ok(bytes)
}

fn text_of(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(at).copied().unwrap_or_default();
        anyhow::anyhow!("stdin is not UTF-8: byte 0x{byte:02X} at offset {at} begins no character")
    })
}

/// Ids with white space or commas between them, in brackets or not.
fn ids_of(text: &str) -> Result<Vec<u32>> {
    text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']'))
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().with_context(|| format!("`{word}` is no token id, expected a number")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_in_the_usual_forms() {
        assert_eq!(ids_of("1 2\n3").unwrap(), [1, 2, 3]);
        assert_eq!(ids_of("[1, 2,3]").unwrap(), [1, 2, 3]);
        assert_eq!(ids_of("").unwrap(), [0u32; 0]);
        for wrong in ["x", "-1", "4294967296", "1.5"] {
            assert!(ids_of(wrong).unwrap_err().to_string().contains(wrong));
        }
    }

    #[test]
    fn text_is_taken_byte_for_byte() {
        assert_eq!(text_of(b"a\r\n\0 ".to_vec()).unwrap(), "a\r\n\0 ");
        let error = text_of(b"ab\xFFc".to_vec()).unwrap_err().to_string();
        assert!(error.contains("0xFF at offset 2"), "{error}");
    }
}
