//! `wootz chat [MODEL]`: a conversation in the terminal.
//!
//! The conversation is a list of messages; before each answer the model's template makes the whole prompt of it anew.
//! The cache of the last answer is kept, and only what differs from it is read: that a template may rewrite its
//! history (leave out old reasoning, say) therefore costs time and is never wrong.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Map, Value, json};
use wootz_model::Model;
use wootz_model::adapter::Base;
use wootz_model::generate::{
    Engine, EngineOptions, Event, Finish, FinishReason, Request, SamplerOptions, SequenceId, Session,
};
use wootz_model::load;
use wootz_text::{Special, Tokenizer};

use super::answer::{Answer, note, rate, show};
use super::device::report_fallbacks;
use super::flags::{Count, RunningArgs, SamplingArgs, count_or_all, read_adapter, with_strength};
use crate::interrupt::Listener;
use crate::model_arg;

/// Arguments of `wootz chat`.
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// A model: a folder, a .gguf, a .bin, or an id of the hub [default: the built-in `story`]
    model: Option<String>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// A chat template (Jinja) to take instead of the model's own
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Print the prompt that the template makes of a JSON object (`messages`, `tools`, `add_generation_prompt`, ...;
    /// every key becomes a variable of the template), and nothing else
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    render: Option<PathBuf>,
    /// Use no template: the model continues the text of the conversation
    #[arg(long, conflicts_with_all = ["template", "system"])]
    plain: bool,
    /// Tokens of an answer, at the most; -1: no limit but the context [default: -1, with --plain 128]
    #[arg(short = 'n', long, value_name = "N", value_parser = count_or_all, allow_hyphen_values = true)]
    max_tokens: Option<Count>,
    /// End an answer before this string. May be given several times
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Show the speed of each answer
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    running: RunningArgs,
}

const HELP: &str = "\
/help          this
/clear         forget the conversation (the system prompt stays)
/system TEXT   tell the model something before the conversation; without TEXT: nothing more
/retry         answer the last message again
/adapter       which adapters the model has on
/adapter A[:S] put an adapter on, or give one another strength; the model stays loaded
/adapter off   take all adapters off
/save FILE     write the conversation as JSON
/load FILE     go on with a saved one
/quit          leave, as does Ctrl-D
Ctrl-C stops an answer. A line that ends with \\ goes on in the next.";

/// Talks until the user leaves; with `--render` only prints a prompt.
///
/// # Errors
/// No model, no template, a file that cannot be read. What goes wrong in a single answer is shown, and the conversation
/// goes on.
pub fn run(args: ChatArgs) -> Result<()> {
    if let Some(input) = &args.render {
        let prompt = render(&args, input)?;
        return show(&prompt).map(|_| ());
    }
    let path = model_arg::resolve(args.model.as_deref())?;
    let mut tokenizer = load::tokenizer(&path)?;
    if let Some(file) = &args.template {
        tokenizer.set_chat_template(load::chat_template(file)?);
    }
    if !args.plain && tokenizer.chat_template().is_none() {
        bail!(
            "{}: the model has no chat template; give one with --template FILE.jinja, or let it continue plain text \
             with --plain",
            path.display()
        );
    }
    Chat::new(args, &path, tokenizer)?.converse()
}

/// The prompt of `--render`. Neither the model's weights nor, with `--template` alone, a model are needed.
fn render(args: &ChatArgs, input: &Path) -> Result<String> {
    let text =
        fs::read_to_string(input).with_context(|| format!("{}: cannot read the input", input.display()))?;
    let variables: Value =
        serde_json::from_str(&text).with_context(|| format!("{}: is no JSON", input.display()))?;
    let Value::Object(variables) = variables else {
        bail!("{}: expected an object with `messages` and other variables of the template", input.display());
    };
    let template = args.template.as_deref().map(load::chat_template).transpose()?;
    match (template, &args.model) {
        (Some(template), None) => Ok(template.render(&variables)?),
        (template, model) => {
            let path = model_arg::resolve(model.as_deref())?;
            let mut tokenizer = load::tokenizer(&path)?;
            if let Some(template) = template {
                tokenizer.set_chat_template(template);
            }
            Ok(tokenizer.render_chat(&variables)?)
        }
    }
}

struct Chat {
    args: ChatArgs,
    tokenizer: Tokenizer,
    engine: Engine<Box<Model>>,
    /// The model's adapters.
    adapters: Vec<PutOn>,
    /// Whether one that was on has replaced parameters, which stay replaced.
    replaced: bool,
    sampler: SamplerOptions,
    /// `{"role": ..., "content": ...}`, as templates take them.
    messages: Vec<Value>,
    /// With `--plain`: the tokens of the conversation.
    text: Vec<u32>,
    /// The last answer's sequence and cache.
    session: Option<Session>,
    /// Answers so far: each draws from a random stream of its own, so that a second try differs.
    answers: u64,
}

/// An adapter that is on.
struct PutOn {
    /// What it was called: `A` or `A:S`.
    name: String,
    /// It has taken the place of parameters, and has no strength.
    replaces: bool,
}

/// What to do after a command.
enum Next {
    Read,
    Answer,
    Quit,
}

impl Chat {
    fn new(args: ChatArgs, path: &Path, tokenizer: Tokenizer) -> Result<Chat> {
        let model = Box::new(args.running.load_base(path)?);
        let options = EngineOptions {
            max_batch: 1,
            chunk: 512,
            context: args.running.context(&model, 0),
            cache: args.running.cache(),
        };
        let sampler = args.sampling.options();
        sampler.check(model.config().vocab_size)?;
        let mut chat = Chat {
            tokenizer,
            engine: Engine::new(model, options),
            adapters: Vec::new(),
            replaced: false,
            sampler,
            messages: args.system.iter().map(|text| message("system", text)).collect(),
            text: Vec::new(),
            session: None,
            answers: 0,
            args,
        };
        for name in chat.args.running.adapters.names().to_vec() {
            chat.put_on(&name).with_context(|| format!("--adapter {name}"))?;
        }
        Ok(chat)
    }

    fn converse(&mut self) -> Result<()> {
        let mut lines = Lines::open()?;
        if lines.is_terminal() {
            if self.sampler.temperature > 0.0 && self.args.sampling.seed.is_none() {
                note(&format!("seed {}", self.sampler.seed));
            }
            note("/help lists the commands, /quit or Ctrl-D leaves");
        }
        while let Some(line) = lines.read()? {
            let next = match line.strip_prefix('/').filter(|_| !line.starts_with("//")) {
                Some(command) => self.command(command),
                None if line.trim().is_empty() => Ok(Next::Read),
                None => self.say(line.strip_prefix('/').unwrap_or(&line)).map(|()| Next::Answer),
            };
            match next {
                Ok(Next::Read) => {}
                Ok(Next::Quit) => break,
                Ok(Next::Answer) => match self.answer() {
                    Ok(true) => {}
                    Ok(false) => break, // nobody reads stdout any more
                    Err(error) => {
                        self.take_back();
                        note(&format!("error: {error:#}"));
                    }
                },
                Err(error) => note(&format!("error: {error:#}")),
            }
        }
        report_fallbacks(self.engine.model());
        Ok(())
    }

    fn command(&mut self, command: &str) -> Result<Next> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "help" => note(HELP),
            "clear" => {
                self.messages.retain(|message| message["role"] == "system");
                self.text.clear();
                note("the conversation is forgotten");
            }
            "quit" | "exit" => return Ok(Next::Quit),
            "system" if self.args.plain => bail!("there is no system prompt with --plain"),
            "system" => {
                self.messages.retain(|message| message["role"] != "system");
                if !rest.is_empty() {
                    self.messages.insert(0, message("system", rest));
                }
                note(if rest.is_empty() { "no system prompt" } else { "the system prompt is set" });
            }
            "retry" if self.args.plain => bail!("/retry needs a conversation of messages, not --plain"),
            "retry" => {
                while self.messages.last().is_some_and(|message| message["role"] == "assistant") {
                    self.messages.pop();
                }
                if self.messages.last().is_none_or(|message| message["role"] == "system") {
                    bail!("there is nothing to answer yet");
                }
                return Ok(Next::Answer);
            }
            "adapter" => {
                match rest {
                    "" => {}
                    "off" => self.take_off(),
                    name => self.put_on_or_change(name)?,
                }
                note(&match self.adapters.as_slice() {
                    [] => "no adapter is on".to_owned(),
                    all => {
                        let names: Vec<&str> = all.iter().map(|adapter| adapter.name.as_str()).collect();
                        format!("on: {}", names.join(", "))
                    }
                });
            }
            "save" | "load" if self.args.plain => {
                bail!("/{name} needs a conversation of messages, not --plain")
            }
            "save" | "load" if rest.is_empty() => bail!("/{name} FILE: the name of the file is missing"),
            "save" => {
                let text = format!("{:#}\n", json!({ "messages": self.messages }));
                wootz_formats::write_atomically(Path::new(rest), |file| {
                    io::Write::write_all(file, text.as_bytes())
                })?;
                note(&format!("{} messages written to {rest}", self.messages.len()));
            }
            "load" => {
                self.messages = saved_messages(Path::new(rest))?;
                note(&format!("{} messages read from {rest}", self.messages.len()));
            }
            _ => bail!(
                "/{name} is no command; /help lists them (a message that begins with / is written with //)"
            ),
        }
        Ok(Next::Read)
    }

    /// Puts an adapter on.
    fn put_on(&mut self, name: &str) -> Result<()> {
        let model = self.engine.model_mut();
        let base = Base { architecture: model.architecture(), config: model.config() };
        let adapter = read_adapter(name, &base, model.pool())?;
        let replaces = !adapter.saved.is_empty();
        model.put_on(adapter)?;
        self.replaced |= replaces;
        self.adapters.push(PutOn { name: name.to_owned(), replaces });
        self.session = None; // its cache is the old model's
        Ok(())
    }

    /// Puts an adapter on, or changes the strength of one that is on.
    fn put_on_or_change(&mut self, name: &str) -> Result<()> {
        let (path, strength) = with_strength(name);
        let known = |known: &PutOn| with_strength(&known.name).0 == path;
        let Some(known) = self.adapters.iter().position(known) else {
            return self.put_on(name);
        };
        if self.adapters[known].replaces && strength != 1.0 {
            bail!("{path} replaces parameters (modules_to_save), and has no strength but 1");
        }
        let model = self.engine.model_mut();
        model.adapters_mut()[known].strength = strength;
        model.measure_adapters()?;
        name.clone_into(&mut self.adapters[known].name);
        self.session = None;
        Ok(())
    }

    fn take_off(&mut self) {
        self.engine.model_mut().adapters_mut().clear();
        self.adapters.clear();
        self.session = None;
        if self.replaced {
            note(
                "parameters that an adapter had replaced (modules_to_save) stay as they are; start anew without it",
            );
        }
    }

    /// Adds what the user said.
    fn say(&mut self, line: &str) -> Result<()> {
        if !self.args.plain {
            self.messages.push(message("user", line));
            return Ok(());
        }
        // The first text begins as texts begin; later ones go on where the answer ended.
        let special = Special { add: self.text.is_empty(), parse: false };
        let ids = self.tokenizer.encode(line, special)?;
        self.text.extend(ids);
        Ok(())
    }

    /// Forgets a message to which there is no answer.
    fn take_back(&mut self) {
        if self.messages.last().is_some_and(|message| message["role"] == "user") {
            self.messages.pop();
        }
        if let (true, Some(session)) = (self.args.plain, &self.session) {
            self.text = session.tokens().to_vec();
        } else {
            self.text.clear();
        }
    }

    fn prompt(&self) -> Result<Vec<u32>> {
        if self.args.plain {
            return Ok(self.text.clone());
        }
        let mut variables = Map::new();
        variables.insert("messages".to_owned(), self.messages.clone().into());
        variables.insert("add_generation_prompt".to_owned(), true.into());
        Ok(self.tokenizer.encode_chat(&variables)?)
    }

    /// Answers, to stdout, until the answer ends or Ctrl-C is pressed. False when nobody reads stdout any more.
    fn answer(&mut self) -> Result<bool> {
        let prompt = self.prompt()?;
        let context = self.engine.options().context;
        if prompt.len() >= context {
            bail!(
                "the conversation has {} tokens, which leaves no room for an answer in the context of {context}; /clear \
                 it, or start with a larger --ctx",
                prompt.len()
            );
        }
        let end_tokens = self.tokenizer.end_tokens().to_vec();
        let length = if self.args.plain { 128 } else { usize::MAX };
        // An answer is a text of its own: no space before its first word is a part of it. A plain one goes on.
        let before: &[u32] = if self.args.plain { &prompt } else { &[] };
        let mut answer = Answer::new(Some(&self.tokenizer), before, end_tokens.clone(), &self.args.stop);
        let prompt_tokens = prompt.len();
        let id = self.engine.add(Request {
            prompt,
            max_tokens: self.args.max_tokens.map_or(length, |count| count.0),
            end_tokens,
            sampler: self.sampler.clone(),
            stream: self.answers,
            logprobs: None,
            drawn: false,
            lookup: self.args.running.lookup(),
            session: self.session.take(),
            prefix: None,
            keep: true,
        })?;
        self.answers += 1;

        let listener = Listener::new();
        let streamed = self.stream(id, &mut answer, &listener);
        let interrupted = listener.asked();
        drop(listener);
        // Where the sequence has not ended by itself: a stop string, Ctrl-C, an error, nobody listening.
        let stopped = self.engine.stop(id);
        let (mut heard, finish) = streamed?;
        heard &= show(&answer.finish())? && show("\n")?;
        let Some(finish) = finish.or(stopped) else { bail!("the answer has no end") };
        self.session = finish.session;
        if let FinishReason::Failed(error) = finish.reason {
            return Err(anyhow!(error));
        }
        if interrupted {
            note("[stopped]");
        } else if matches!(finish.reason, FinishReason::ContextFull) {
            note("[the context is full: /clear, or start with a larger --ctx]");
        }
        if self.args.stats {
            note(&format!(
                "[prompt {prompt_tokens} tokens, {} of them known, {:.3} s | answer {} tokens, {:.1} tok/s]",
                finish.cached_tokens,
                finish.prefill_seconds,
                finish.answer_tokens,
                rate(finish.answer_tokens.saturating_sub(1), finish.decode_seconds)
            ));
        }
        if self.args.plain {
            self.text = self.session.as_ref().map(|session| session.tokens().to_vec()).unwrap_or_default();
        } else {
            self.messages.push(message("assistant", &answer.text));
        }
        Ok(heard)
    }
}

impl Chat {
    /// Shows tokens as they come. Returns whether somebody reads them, and how the sequence ended, if it did.
    fn stream(
        &mut self,
        id: SequenceId,
        answer: &mut Answer,
        listener: &Listener,
    ) -> Result<(bool, Option<Finish>)> {
        while !listener.asked() && !answer.stopped() {
            for event in self.engine.step()? {
                match event {
                    Event::Token { sequence, token } if sequence == id && !answer.stopped() => {
                        if !show(&answer.push(token))? {
                            return Ok((false, None));
                        }
                    }
                    Event::Finished { sequence, finish } if sequence == id => {
                        return Ok((true, Some(finish)));
                    }
                    Event::Token { .. } | Event::Finished { .. } => {}
                }
            }
        }
        Ok((true, None))
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// The messages of a saved conversation, or of an input of `--render`.
fn saved_messages(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read it", path.display()))?;
    let mut saved: Value =
        serde_json::from_str(&text).with_context(|| format!("{}: is no JSON", path.display()))?;
    let expected = || {
        format!("{}: expected {{\"messages\": [{{\"role\": ..., \"content\": ...}}, ...]}}", path.display())
    };
    let Some(Value::Array(messages)) = saved.get_mut("messages").map(Value::take) else { bail!(expected()) };
    if !messages.iter().all(|message| message["role"].is_string()) {
        bail!(expected());
    }
    Ok(messages)
}

/// Lines that the user types, edited where there is a terminal.
enum Lines {
    Editor(Box<DefaultEditor>),
    Plain(io::Lines<io::StdinLock<'static>>),
}

impl Lines {
    fn open() -> Result<Lines> {
        if io::stdin().is_terminal() && io::stdout().is_terminal() {
            let editor = DefaultEditor::new().context("cannot set up the terminal")?;
            return Ok(Lines::Editor(Box::new(editor)));
        }
        Ok(Lines::Plain(io::stdin().lock().lines()))
    }

    fn is_terminal(&self) -> bool {
        matches!(self, Lines::Editor(_))
    }

    /// The next message; `None` when there are no more. A line that ends with `\` goes on in the next.
    fn read(&mut self) -> Result<Option<String>> {
        let mut message = String::new();
        loop {
            let line = match self {
                Lines::Plain(lines) => lines.next().transpose().context("cannot read from stdin")?,
                Lines::Editor(editor) => {
                    match editor.readline(if message.is_empty() { "> " } else { ". " }) {
                        Ok(line) => Some(line),
                        Err(ReadlineError::Eof) => None,
                        // Ctrl-C drops the line.
                        Err(ReadlineError::Interrupted) => {
                            message.clear();
                            continue;
                        }
                        Err(error) => return Err(error).context("cannot read from the terminal"),
                    }
                }
            };
            let Some(line) = line else { return Ok((!message.is_empty()).then_some(message)) };
            if let Some(begun) = line.strip_suffix('\\') {
                message.push_str(begun);
                message.push('\n');
                continue;
            }
            message.push_str(&line);
            if let Lines::Editor(editor) = self {
                let _ = editor.add_history_entry(&message); // only a convenience
            }
            return Ok(Some(message));
        }
    }
}
