//! `wootz tokenizer encode|decode MODEL`: what a model's tokenizer makes of a text, and of token ids. `wootz tokenizer
//! train INPUT...`: a new vocabulary.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use wootz_text::{Special, Tokenizer, train};
use wootz_train::data::documents::Documents;
use wootz_train::data::inputs;

use super::answer::note;
use super::data::ReadingArgs;

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
    /// Learn a byte-level vocabulary from texts
    Train(TrainArgs),
}

#[derive(Debug, clap::Args)]
struct EncodeArgs {
    /// A model (folder, .gguf, .bin with a tokenizer.bin beside it, hub id, or `story`), a tokenizer.json, `gpt2`, or
    /// `bytes`
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
    /// A model (folder, .gguf, .bin with a tokenizer.bin beside it, hub id, or `story`), a tokenizer.json, `gpt2`, or
    /// `bytes`
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

#[derive(Debug, clap::Args)]
struct TrainArgs {
    /// Text, .jsonl and .parquet files, folders of them, patterns, or `stories` (`stories:N`), the built-in ones
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// Tokens of the vocabulary: the special ones, 256 bytes, and merges
    #[arg(long, value_name = "N", default_value = "8192")]
    vocab_size: usize,
    /// The tokenizer.json to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// A further special token, besides `<|endoftext|>`. May be given several times
    #[arg(long, value_name = "TOKEN")]
    special: Vec<String>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reading: ReadingArgs,
}

/// A tokenizer by its name.
pub struct Named {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Its tokenizer.json, where it has one.
    pub json: Option<String>,
}

/// The tokenizer that a user calls `name`: `gpt2`, `bytes` (files of these names are `./gpt2` and `./bytes`), a
/// tokenizer.json, or that of a model.
///
/// # Errors
/// There is none.
pub fn named(name: &str) -> Result<Named> {
    let path = Path::new(name);
    let read =
        |path: &Path| fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()));
    match name {
        "gpt2" => Ok(Named { tokenizer: Tokenizer::gpt2()?, json: None }),
        "bytes" => {
            let train::Trained { tokenizer, json, .. } = train::bytes()?;
            Ok(Named { tokenizer, json: Some(json) })
        }
        _ if path.is_file() && path.extension().is_some_and(|extension| extension == "json") => {
            let json = read(path)?;
            let folder = path.parent().filter(|folder| folder.join("tokenizer_config.json").is_file());
            let tokenizer = match folder.filter(|_| path.file_name().is_some_and(|f| f == "tokenizer.json")) {
                Some(folder) => Tokenizer::from_folder(folder)?,
                None => Tokenizer::from_json(name, &json)?,
            };
            Ok(Named { tokenizer, json: Some(json) })
        }
        _ => {
            let path = crate::model_arg::resolve_tokenizer(name)
                .with_context(|| format!("no tokenizer {name} (gpt2 and bytes are built in)"))?;
            let tokenizer = wootz_model::load::tokenizer(&path)?;
            let beside = path.join("tokenizer.json");
            let json = if beside.is_file() { Some(read(&beside)?) } else { None };
            Ok(Named { tokenizer, json })
        }
    }
}

/// Prints ids, or text, to stdout.
pub fn run(args: TokenizerArgs) -> Result<()> {
    let output = match args.action {
        Action::Encode(args) => encode(args)?,
        Action::Decode(args) => decode(args)?,
        Action::Train(args) => learn(args)?,
    };
    match io::stdout().lock().write_all(output.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()), // `| head` has seen enough
        other => other.context("cannot write to stdout"),
    }
}

fn encode(args: EncodeArgs) -> Result<String> {
    let tokenizer = named(&args.model)?.tokenizer;
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
    let tokenizer = named(&args.model)?.tokenizer;
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

fn learn(args: TrainArgs) -> Result<String> {
    let begun = Instant::now();
    let special: Vec<&str> =
        [train::END_OF_TEXT].into_iter().chain(args.special.iter().map(String::as_str)).collect();

    let mut documents = Documents::new(inputs::find(&args.inputs)?, args.reading.reading());
    let (mut bytes, mut failed) = (0, None);
    let texts = documents.by_ref().map_while(|piece| match piece {
        Ok(piece) => Some(piece.text),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let texts = texts.inspect(|text| bytes += text.len());
    let trained = train::byte_level_bpe(texts, args.vocab_size, &special)?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if bytes == 0 {
        bail!("there is no text in {}", args.inputs.join(", "));
    }
    if trained.cut {
        note(&format!("only the first {} MB were learnt from", train::MOST_TEXT / 1_000_000));
    }
    if let Some(folder) = args.out.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("{}: cannot create the folder", folder.display()))?;
    }
    wootz_formats::write_atomically(&args.out, |file| file.write_all(trained.json.as_bytes()))?;
    let size = trained.tokenizer.vocab_size();
    if size < args.vocab_size {
        note(&format!(
            "the text has only {size} different tokens, fewer than --vocab-size {}",
            args.vocab_size
        ));
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(if args.json {
        let result = json!({
            "file": args.out.to_string_lossy(),
            "vocab_size": size,
            "text_bytes": bytes,
            "skipped": documents.bad(),
            "train_seconds": seconds,
        });
        format!("{result}\n")
    } else {
        let megabytes = bytes as f64 / 1e6;
        format!("{}: {size} tokens, learnt from {megabytes:.1} MB in {seconds:.1} s\n", args.out.display())
    })
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
