//! `wootz generate [MODEL] -p TEXT`: continues texts.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use wootz_formats::tokens::Tokens;
use wootz_model::generate::{Engine, EngineOptions, Event, Finish, FinishReason, Request, SamplerOptions};
use wootz_model::load;
use wootz_text::{Special, Tokenizer};

use super::answer::{Answer, note, rate, show};
use super::device::report_fallbacks;
use super::flags::{Count, RunningArgs, SamplingArgs, count_or_all};
use crate::interrupt::{Interrupted, Listener};
use crate::model_arg;

/// Arguments of `wootz generate`.
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// A model: a folder, a .gguf, a .bin, or an id of the hub [default: the built-in `story`]
    model: Option<String>,
    /// The text to continue; `-` reads it from stdin, as does no prompt at all when stdin is no terminal
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with_all = ["tokens", "batch_file"])]
    prompt: Option<String>,
    /// A file of token ids to continue (32-bit numbers), instead of a text
    #[arg(long, value_name = "FILE", conflicts_with = "batch_file")]
    tokens: Option<PathBuf>,
    /// A file of prompts, one a line, or one {"prompt": "..."} a line
    #[arg(long, value_name = "FILE")]
    batch_file: Option<PathBuf>,
    /// Prompts of the batch file that run at once
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Tokens to add; -1: until the model ends the text or the context is full
    #[arg(short = 'n', long, value_name = "N", default_value = "128", value_parser = count_or_all, allow_hyphen_values = true)]
    max_tokens: Count,
    /// End the text before this string. May be given several times
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Go on when the model ends the text
    #[arg(long)]
    ignore_eos: bool,
    /// Give the log-probability of each token, and of the N most likely ones in its place
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    logprobs: Option<usize>,
    /// Leave out the tokens that the model expects around a text (BOS)
    #[arg(long)]
    no_special: bool,
    /// Take special tokens that are written in the prompt (`<|im_end|>`) for what they name
    #[arg(long)]
    parse_special: bool,
    /// Print the prompt too
    #[arg(long)]
    echo: bool,
    /// Print one JSON object (with --batch-file: an array of them) when all is done
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    running: RunningArgs,
}

/// A prompt and what comes of it.
struct Row {
    prompt: String,
    prompt_ids: Vec<u32>,
    answer: Answer,
    finish: Option<Finish>,
    /// Why it ended, as results name it.
    reason: &'static str,
    first_token_seconds: Option<f64>,
}

/// Prints the continuation of one prompt as it comes, or of many when they are complete.
///
/// # Errors
/// Whatever keeps a prompt from being continued; [`Interrupted`] after Ctrl-C.
pub fn run(mut args: GenerateArgs) -> Result<()> {
    let start = Instant::now();
    let path = model_arg::resolve(args.model.as_deref())?;
    let tokenizer = match load::tokenizer(&path) {
        Ok(tokenizer) => Some(tokenizer),
        Err(error) if args.tokens.is_some() && path.exists() => {
            note(&format!("no text, token ids only: {error:#}"));
            None
        }
        Err(error) => return Err(error.into()),
    };
    let prompts = prompts(&mut args, tokenizer.as_ref())?;
    let sampler = args.sampling.options();
    let model = args.running.load(&path)?;
    let load_seconds = start.elapsed().as_secs_f64();

    let longest = prompts.iter().map(|(_, ids)| ids.len()).max().unwrap_or_default();
    let needed =
        if args.max_tokens.0 == usize::MAX { longest + 1 } else { longest.saturating_add(args.max_tokens.0) };
    let options = EngineOptions {
        max_batch: args.batch as usize,
        chunk: 512,
        context: args.running.context(&model, needed),
        cache: args.running.cache(),
    };
    let mut engine = Engine::new(model, options);
    let end_tokens = match &tokenizer {
        Some(tokenizer) if !args.ignore_eos => tokenizer.end_tokens().to_vec(),
        _ => Vec::new(),
    };
    let is_batch = args.batch_file.is_some();
    let mut rows = Vec::with_capacity(prompts.len());
    for (index, (prompt, prompt_ids)) in prompts.into_iter().enumerate() {
        let answer = Answer::new(tokenizer.as_ref(), &prompt_ids, end_tokens.clone(), &args.stop);
        let request = Request {
            prompt: prompt_ids.clone(),
            max_tokens: args.max_tokens.0,
            end_tokens: end_tokens.clone(),
            sampler: sampler.clone(),
            stream: index as u64,
            logprobs: args.logprobs,
            drawn: false,
            lookup: args.running.lookup(),
            session: None,
            prefix: None,
            keep: false,
        };
        let added = engine.add(request);
        if is_batch {
            added.with_context(|| format!("prompt {}", index + 1))?
        } else {
            added?
        };
        rows.push(Row {
            prompt,
            prompt_ids,
            answer,
            finish: None,
            reason: "interrupted",
            first_token_seconds: None,
        });
    }
    if sampler.temperature > 0.0 && args.sampling.seed.is_none() {
        note(&format!("seed {}", sampler.seed));
    }

    let streams = !args.json && !is_batch;
    let listener = Listener::new();
    let heard = generate(&mut engine, &mut rows, &args, streams, start, &listener)?;
    let interrupted = listener.asked();
    drop(listener);
    if heard && args.json {
        let mut objects = rows.iter().map(|row| row.json(&args, &sampler, load_seconds));
        let result = if is_batch { objects.collect() } else { objects.next().unwrap_or_default() };
        show(&format!("{result}\n"))?;
    }
    report(&rows, &engine, load_seconds, start);
    report_fallbacks(engine.model());
    if interrupted {
        return Err(Interrupted.into());
    }
    failures(rows, is_batch)
}

/// Runs the engine until all is done, Ctrl-C is pressed, or nobody reads stdout any more (which gives false).
fn generate(
    engine: &mut Engine,
    rows: &mut [Row],
    args: &GenerateArgs,
    streams: bool,
    start: Instant,
    listener: &Listener,
) -> Result<bool> {
    if streams && args.echo && !show(&rows[0].prompt)? {
        return Ok(false);
    }
    let mut printed = 0;
    while !engine.is_idle() && !listener.asked() {
        for event in engine.step()? {
            // The engine counts sequences from 0 as they are added.
            let shown = match event {
                Event::Token { sequence, token } => {
                    let row = &mut rows[sequence as usize];
                    if row.finish.is_some() {
                        continue; // of a guess that reached beyond the stop string
                    }
                    row.first_token_seconds.get_or_insert(start.elapsed().as_secs_f64());
                    let mut shown = row.answer.push(token);
                    if row.answer.stopped()
                        && let Some(finish) = engine.stop(sequence)
                    {
                        shown.push_str(&row.end(finish));
                    }
                    shown
                }
                Event::Finished { sequence, finish } => rows[sequence as usize].end(finish),
            };
            if streams && !show(&shown)? {
                return Ok(false);
            }
        }
        // Texts of a batch come in the order of the prompts, each when it and all before it are complete.
        while !args.json && !streams && rows.get(printed).is_some_and(|row| row.finish.is_some()) {
            if !show(&rows[printed].block(printed, args))? {
                return Ok(false);
            }
            printed += 1;
        }
    }
    if streams {
        let table = rows[0].table();
        return show(&if args.logprobs.is_some() { format!("\n{table}") } else { "\n".to_owned() });
    }
    Ok(true)
}

impl Row {
    fn end(&mut self, finish: Finish) -> String {
        // A stop string in the last token's text: it is that which ended the text.
        self.reason = if self.answer.stopped() { "stop" } else { finish.reason.name() };
        self.finish = Some(finish);
        self.answer.finish()
    }

    /// A text of a batch, under a line that tells which.
    fn block(&self, index: usize, args: &GenerateArgs) -> String {
        let prompt = if args.echo { &self.prompt } else { "" };
        let table = if args.logprobs.is_some() { self.table() } else { String::new() };
        format!("==> {} <==\n{prompt}{}\n{table}", index + 1, self.answer.text)
    }

    /// Log-probabilities for reading: a line a token.
    fn table(&self) -> String {
        let line = |token: &wootz_model::generate::Token| {
            let top = token.top.iter().map(|(id, logprob)| format!("  {id}:{logprob:.4}"));
            let logprob = token.logprob.unwrap_or(f32::NAN);
            format!("{:>8} {logprob:>9.4} {}\n", token.id, top.collect::<String>())
        };
        self.answer.tokens.iter().map(line).collect()
    }

    fn json(&self, args: &GenerateArgs, sampler: &SamplerOptions, load_seconds: f64) -> Value {
        let tokens = &self.answer.tokens;
        let prompt = if args.echo { &self.prompt } else { "" };
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("text", format!("{prompt}{}", self.answer.text).into());
        put("ids", tokens.iter().map(|token| token.id).collect());
        put("prompt_ids", self.prompt_ids.clone().into());
        if let Some(n) = args.logprobs {
            put("logprobs", tokens.iter().map(|token| json!(token.logprob)).collect());
            if n > 0 {
                let pair = |&(id, logprob): &(u32, f32)| json!({ "id": id, "logprob": logprob });
                let top = tokens.iter().map(|token| token.top.iter().map(pair).collect::<Value>());
                put("top_logprobs", top.collect());
            }
        }
        put("finish_reason", self.reason.into());
        if let Some(FinishReason::Failed(error)) = self.finish.as_ref().map(|finish| &finish.reason) {
            put("error", format!("{error:#}").into());
        }
        put("seed", sampler.seed.into());
        put("load_seconds", load_seconds.into());
        put("first_token_seconds", self.first_token_seconds.into());
        let (prefill, decode) =
            self.finish.as_ref().map_or((0.0, 0.0), |f| (f.prefill_seconds, f.decode_seconds));
        put("prefill_seconds", prefill.into());
        put("decode_seconds", decode.into());
        put("prefill_tokens_per_second", rate(self.prompt_ids.len(), prefill).into());
        // The first token comes out of the prefill.
        put("decode_tokens_per_second", rate(tokens.len().saturating_sub(1), decode).into());
        if let Some(finish) = self.finish.as_ref().filter(|finish| finish.proposed > 0) {
            put("lookup", json!({ "proposed": finish.proposed, "accepted": finish.accepted }));
        }
        Value::Object(object)
    }
}

/// Speeds, to stderr.
fn report(rows: &[Row], engine: &Engine, load_seconds: f64, start: Instant) {
    let stats = engine.stats();
    let answers: usize = rows.iter().map(|row| row.answer.tokens.len()).sum();
    match rows {
        [row] if row.finish.is_some() => {
            let (prefill, decode) =
                row.finish.as_ref().map_or((0.0, 0.0), |f| (f.prefill_seconds, f.decode_seconds));
            note(&format!(
                "load {load_seconds:.2} s | prompt {} tokens, {prefill:.3} s, {:.1} tok/s | answer {answers} tokens, \
                 {decode:.3} s, {:.1} tok/s | {}",
                row.prompt_ids.len(),
                rate(row.prompt_ids.len(), prefill),
                rate(answers.saturating_sub(1), decode),
                row.reason
            ));
        }
        _ => {
            let seconds = start.elapsed().as_secs_f64() - load_seconds;
            note(&format!(
                "load {load_seconds:.2} s | {} prompts, {} tokens | answers {answers} tokens | {seconds:.3} s, {:.1} \
                 tok/s of answers",
                rows.len(),
                stats.prompt_tokens,
                rate(answers, seconds)
            ));
        }
    }
    if stats.proposed > 0 {
        note(&format!(
            "lookup: {} of {} guessed tokens were right ({:.0} %), {:.2} tokens a step",
            stats.accepted,
            stats.proposed,
            100.0 * stats.accepted as f64 / stats.proposed as f64,
            stats.answer_tokens as f64 / stats.steps.max(1) as f64
        ));
    }
}

/// The error of the prompts that could not be continued.
fn failures(rows: Vec<Row>, is_batch: bool) -> Result<()> {
    let count = rows.len();
    let failed = rows.into_iter().enumerate().filter_map(|(index, row)| match row.finish?.reason {
        FinishReason::Failed(error) => Some((index, error)),
        _ => None,
    });
    let mut failed = failed.collect::<Vec<_>>().into_iter();
    let Some((index, error)) = failed.next() else { return Ok(()) };
    if !is_batch {
        return Err(error.into());
    }
    let message =
        format!("{} of {count} prompts failed; the first is prompt {}", failed.len() + 1, index + 1);
    Err(anyhow::Error::from(error).context(message))
}

/// The prompts as texts and ids.
fn prompts(args: &mut GenerateArgs, tokenizer: Option<&Tokenizer>) -> Result<Vec<(String, Vec<u32>)>> {
    if let Some(path) = &args.tokens {
        let ids = Tokens::open(path)?.to_vec();
        if ids.is_empty() {
            bail!("{}: the file holds no tokens", path.display());
        }
        let text = tokenizer.map(|tokenizer| tokenizer.decode(&ids, true)).unwrap_or_default();
        return Ok(vec![(text, ids)]);
    }
    let Some(tokenizer) = tokenizer else {
        bail!("the model has no tokenizer; give token ids with --tokens")
    };
    let texts = match &args.batch_file {
        Some(path) => batch(path)?,
        None => vec![single(args)?],
    };
    let special = Special { add: !args.no_special, parse: args.parse_special };
    let encode = |(index, text): (usize, String)| {
        let mut ids = tokenizer.encode(&text, special)?;
        if ids.is_empty() {
            // There must be something to continue.
            ids.extend(tokenizer.bos());
        }
        if ids.is_empty() {
            bail!(
                "the prompt{} is empty, and the model has no BOS token to start from; give a text with -p",
                if args.batch_file.is_some() { format!(" {}", index + 1) } else { String::new() }
            );
        }
        Ok((text, ids))
    };
    texts.into_iter().enumerate().map(encode).collect()
}

fn single(args: &mut GenerateArgs) -> Result<String> {
    let text = match args.prompt.as_deref() {
        Some("-") => stdin()?,
        Some(text) => return Ok(text.to_owned()),
        None if io::stdin().is_terminal() => String::new(),
        None => stdin()?,
    };
    if text.is_empty() && args.prompt.is_none() && model_arg::is_story(args.model.as_deref()) {
        // A story that nobody began is shown from its beginning.
        args.echo |= !args.json;
        return Ok("Once upon a time".to_owned());
    }
    Ok(text)
}

fn stdin() -> Result<String> {
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes).context("cannot read the prompt from stdin")?;
    utf8(bytes).context("the prompt from stdin is no text")
}

fn utf8(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("expected UTF-8, found something else at byte {at}")
    })
}

/// The prompts of a file: lines that are not empty. If the first is a JSON object with a `prompt`, all must be.
fn batch(path: &Path) -> Result<Vec<String>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot read the prompts", path.display()))?;
    let text = utf8(bytes).with_context(|| format!("{}: is no text", path.display()))?;
    let lines: Vec<(usize, &str)> =
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    let prompt = |line: &str| match serde_json::from_str::<Value>(line).ok()?.get("prompt")? {
        Value::String(prompt) => Some(prompt.clone()),
        _ => None,
    };
    let Some((_, first)) = lines.first() else { bail!("{}: the file holds no prompts", path.display()) };
    if prompt(first).is_none() {
        return Ok(lines.into_iter().map(|(_, line)| line.to_owned()).collect());
    }
    let numbered = lines.into_iter().map(|(number, line)| {
        prompt(line).with_context(|| {
            format!(
                "{}, line {}: expected an object with a \"prompt\", as in the first line",
                path.display(),
                number + 1
            )
        })
    });
    numbered.collect()
}
