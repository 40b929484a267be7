//! Many sequences over one model, a step at a time.
//!
//! A step is one forward pass. Every sequence that is answering takes one token (or several, if it has a guess to
//! verify), and what room is left goes to prompts that are still being read, in the order in which they came. A
//! sequence that ends makes room for the next in the queue, so short and long ones mix without waiting.
//!
//! None of this can be seen in a result: rows of a forward pass do not influence each other's bits, and a sequence's
//! random numbers depend on its place in itself alone. A guess ([`super::lookup`]) is kept as far as it is what the
//! sampler chooses from the verified logits, with the random number of that place: exactly the tokens of plain
//! decoding, at any temperature.

use super::drawn::Drawn;
use super::lookup;
use super::sampler::{Sampler, SamplerOptions, log_probabilities};
use crate::config::Positions;
use crate::decoder::{Chunk, Model, Picked, Rows, Scratch};
use crate::error::{Error, Result, fail};
use crate::kv_cache::{KvCache, MAX_CHUNK};
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use wootz_kernels::device::launch::sampling::Likeliest;
use wootz_kernels::ops::attention::CacheType;

/// How an engine shares its model out.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Sequences that run at once; more wait in a queue.
    pub max_batch: usize,
    /// Tokens of a step, prompts' and answers' together. Answers are never kept waiting for it.
    pub chunk: usize,
    /// Tokens of a sequence, prompt and answer together, at the most.
    pub context: usize,
    /// The type of cached keys and values.
    pub cache: CacheType,
}

/// A prompt to be continued.
pub struct Request {
    /// The token ids to continue; at least one.
    pub prompt: Vec<u32>,
    /// Tokens to answer with, at the most. With 0 the prompt is only read.
    pub max_tokens: usize,
    /// Tokens that end the answer. The one that does is reported as its last token.
    pub end_tokens: Vec<u32>,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Which stream of the seed's random numbers to draw from: sequences with equal numbers draw equally.
    pub stream: u64,
    /// Report log-probabilities: of each token, and of so many of the most likely ones in its place.
    pub logprobs: Option<usize>,
    /// Report what each token was drawn from; the sampler must have a temperature, and no biases or penalties.
    pub drawn: bool,
    /// Tokens to guess ahead by [`lookup`], at the most; 0 guesses none.
    pub lookup: usize,
    /// An earlier sequence whose cache to go on from, as far as it begins as the prompt does.
    pub session: Option<Session>,
    /// The same, of a sequence that other requests begin with as well: its cache is copied when this one's turn comes.
    pub prefix: Option<Arc<Session>>,
    /// Return the sequence as a [`Session`] when it ends.
    pub keep: bool,
}

impl Request {
    /// A prompt with up to `max_tokens` of the most likely tokens to follow, and no further wishes.
    pub fn greedy(prompt: Vec<u32>, max_tokens: usize) -> Request {
        Request {
            prompt,
            max_tokens,
            end_tokens: Vec::new(),
            sampler: SamplerOptions::greedy(),
            stream: 0,
            logprobs: None,
            drawn: false,
            lookup: 0,
            session: None,
            prefix: None,
            keep: false,
        }
    }
}

/// Names a sequence of an engine; they count from 0.
pub type SequenceId = u64;

/// What happened in a step.
#[derive(Debug)]
pub enum Event {
    /// A sequence has another token.
    Token {
        /// Whose.
        sequence: SequenceId,
        /// Which.
        token: Token,
    },
    /// A sequence has ended; nothing more comes of it.
    Finished {
        /// Which one.
        sequence: SequenceId,
        /// How.
        finish: Finish,
    },
}

/// A token that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its log-probability under the model's own distribution, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens of its place, with their log-probabilities, descending; as many as asked for.
    pub top: Vec<(u32, f32)>,
    /// What it was drawn from, if asked for.
    pub drawn: Option<Drawn>,
}

/// How a sequence ended.
#[derive(Debug)]
pub struct Finish {
    /// Why.
    pub reason: FinishReason,
    /// Tokens of the prompt that a session's cache already held.
    pub cached_tokens: usize,
    /// Tokens of the answer.
    pub answer_tokens: usize,
    /// From the first forward pass to the first token.
    pub prefill_seconds: f64,
    /// From the first token to the last.
    pub decode_seconds: f64,
    /// Tokens that were guessed ahead.
    pub proposed: usize,
    /// Those that were right.
    pub accepted: usize,
    /// The sequence and its cache, if the request wanted it kept.
    pub session: Option<Session>,
}

/// Why a sequence ended.
#[derive(Debug)]
pub enum FinishReason {
    /// The model said so, with an end token.
    End,
    /// The answer has as many tokens as it may.
    Length,
    /// Prompt and answer fill the context.
    ContextFull,
    /// The caller stopped it ([`Engine::stop`]): a stop string, a lost listener.
    Stop,
    /// There is no next token; the error says why.
    Failed(Error),
}

impl FinishReason {
    /// The reason's name in machine-readable results.
    pub fn name(&self) -> &'static str {
        match self {
            FinishReason::End => "end",
            FinishReason::Length => "length",
            FinishReason::ContextFull => "context_full",
            FinishReason::Stop => "stop",
            FinishReason::Failed(_) => "failed",
        }
    }
}

/// A sequence that has ended, with its cache, to go on from.
pub struct Session {
    tokens: Vec<u32>,
    cache: KvCache,
}

impl Session {
    /// The sequence: prompt and answer. The cache holds all of it but, maybe, the last few.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions of the cache that are as `prompt` wants them. At least its last token is left to run, for its logits.
    fn common(&self, prompt: &[u32]) -> usize {
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        common.min(prompt.len() - 1).min(self.cache.len())
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session({} tokens, {} cached)", self.tokens.len(), self.cache.len())
    }
}

/// What an engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Forward passes.
    pub steps: usize,
    /// Tokens of prompts that went through the model.
    pub prompt_tokens: usize,
    /// Tokens of answers.
    pub answer_tokens: usize,
    /// Tokens that were guessed ahead.
    pub proposed: usize,
    /// Those that were right.
    pub accepted: usize,
}

/// Runs sequences over a model, which it shares with others or borrows.
pub struct Engine<M = Arc<Model>> {
    model: M,
    options: EngineOptions,
    scratch: Scratch,
    queue: VecDeque<(SequenceId, Request)>,
    active: Vec<Sequence>,
    /// Caches of sequences that have ended, to be used again.
    free: Vec<KvCache>,
    next: SequenceId,
    stats: Stats,
}

/// A sequence that is running.
struct Sequence {
    id: SequenceId,
    /// Prompt and answer; while a step runs, the guess too.
    tokens: Vec<u32>,
    prompt: usize,
    /// `tokens` never grows beyond this.
    limit: usize,
    /// Why it ends there.
    context_limits: bool,
    /// Holds all of `tokens` but the last one, or but the rest of the prompt.
    cache: KvCache,
    sampler: Sampler,
    end_tokens: Vec<u32>,
    logprobs: Option<usize>,
    drawn: bool,
    lookup: usize,
    keep: bool,
    cached_tokens: usize,
    started: Instant,
    first_token: Option<Instant>,
    last_token: Instant,
    proposed: usize,
    accepted: usize,
    /// Tokens at the end of `tokens` that are a guess.
    guessed: usize,
    /// Tokens that this step runs.
    planned: usize,
    /// Rows of logits that this step gives.
    wanted: usize,
}

/// A sequence's part of what a step gives.
enum Wanted<'a> {
    /// The likeliest tokens of its rows.
    Likeliest(&'a [Likeliest]),
    /// The logits of its rows.
    Logits(&'a mut [f32]),
}

/// A row of that.
enum Row<'a> {
    Likeliest(&'a Likeliest),
    Logits(&'a [f32]),
}

/// What came of a step for one sequence.
#[derive(Default)]
struct Turn {
    /// Rows of logits that it had, and what they were multiplied with.
    rows: usize,
    scale: f32,
    prompt_tokens: usize,
    tokens: Vec<Token>,
    proposed: usize,
    accepted: usize,
    ended: Option<FinishReason>,
}

impl<M: Deref<Target = Model>> Engine<M> {
    /// An engine over `model`. A context that the model's position table does not reach is cut to it; `chunk` and
    /// `max_batch` are at least 1.
    pub fn new(model: M, options: EngineOptions) -> Engine<M> {
        let learned = model.config().positions == Positions::Learned;
        let reach = if learned { model.config().max_seq } else { usize::MAX };
        let options = EngineOptions {
            max_batch: options.max_batch.max(1),
            chunk: options.chunk.max(1),
            context: options.context.clamp(1, reach.max(1)),
            cache: options.cache,
        };
        Engine {
            model,
            options,
            scratch: Scratch::default(),
            queue: VecDeque::new(),
            active: Vec::new(),
            free: Vec::new(),
            next: 0,
            stats: Stats::default(),
        }
    }

    /// The options, as the model allows them.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The model, to be changed. What a cache holds is the old one's: sequences that are running would mix the two, and so
    /// would sessions that are given again.
    pub fn model_mut(&mut self) -> &mut M {
        &mut self.model
    }

    /// What has been done so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether no sequence runs or waits.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.active.is_empty()
    }

    /// Sequences that run, and that wait.
    pub fn load(&self) -> (usize, usize) {
        (self.active.len(), self.queue.len())
    }

    /// Puts a sequence into the queue. It may be called at any time between steps.
    ///
    /// # Errors
    /// An empty prompt, one that leaves no room for an answer, tokens outside the vocabulary, sampler options out of
    /// range.
    pub fn add(&mut self, request: Request) -> Result<SequenceId> {
        let (tokens, context) = (request.prompt.len(), self.options.context);
        let vocab_size = self.model.config().vocab_size;
        if tokens == 0 {
            fail!("the prompt is empty: there is nothing to continue");
        }
        if tokens > context {
            fail!("the prompt has {tokens} tokens, more than the context of {context}");
        }
        if tokens == context && request.max_tokens > 0 {
            fail!(
                "the prompt has {tokens} tokens, which leaves no room for an answer in the context of {context}"
            );
        }
        if let Some(id) = request.prompt.iter().find(|&&id| id as usize >= vocab_size) {
            fail!("token {id} of the prompt does not exist, the model's vocabulary has {vocab_size}");
        }
        request.sampler.check(vocab_size)?;
        if request.drawn && !request.sampler.draws_plainly() {
            fail!(
                "what tokens are drawn from is known for a temperature above 0, without biases and penalties"
            );
        }
        let id = self.next;
        self.next += 1;
        self.queue.push_back((id, request));
        Ok(id)
    }

    /// Ends a sequence. `None` if there is none of this name, or it has ended.
    pub fn stop(&mut self, sequence: SequenceId) -> Option<Finish> {
        if let Some(at) = self.active.iter().position(|s| s.id == sequence) {
            return Some(self.release(at, FinishReason::Stop));
        }
        let at = self.queue.iter().position(|(id, _)| *id == sequence)?;
        let (_, request) = self.queue.remove(at)?;
        Some(Finish {
            reason: FinishReason::Stop,
            cached_tokens: 0,
            answer_tokens: 0,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
            proposed: 0,
            accepted: 0,
            session: request.session.filter(|_| request.keep),
        })
    }

    /// One forward pass over what there is to do, and what came of it, in the order of the sequences' arrival.
    /// Nothing happens when the engine is idle.
    ///
    /// # Errors
    /// What the forward pass refuses; what one sequence's sampler refuses ends that sequence alone
    /// ([`FinishReason::Failed`]).
    pub fn step(&mut self) -> Result<Vec<Event>> {
        self.admit()?;
        self.plan();
        let Engine { model, scratch, active, .. } = self;
        let mut chunks: Vec<Chunk> = active.iter_mut().filter_map(Sequence::chunk).collect();
        if chunks.is_empty() {
            return Ok(Vec::new());
        }
        model.compute(scratch, &mut chunks)?;
        drop(chunks);
        // Where a few of the likeliest tokens are enough for each row, a GPU finds them.
        let vocab_size = model.config().vocab_size;
        let wanting = active.iter().filter(|sequence| sequence.wanted > 0);
        let enough =
            wanting.map(|sequence| sequence.enough(vocab_size)).try_fold(0, |most, k| Some(k?.max(most)));
        let likeliest = match enough {
            Some(k) => model.likeliest(scratch, k)?,
            None => None,
        };
        let mut likeliest = likeliest.as_deref();
        let mut logits = match likeliest {
            Some(_) => &mut [],
            None => scratch.logits()?,
        };

        // Choosing from a large vocabulary takes long enough to be shared out among the threads.
        let turns = active.iter_mut().map(|sequence| {
            let own = match &mut likeliest {
                Some(rows) => Wanted::Likeliest(rows.split_off(..sequence.wanted).unwrap_or_default()),
                None => {
                    Wanted::Logits(logits.split_off_mut(..sequence.wanted * vocab_size).unwrap_or_default())
                }
            };
            Mutex::new((sequence, own, Turn::default()))
        });
        let turns: Vec<_> = turns.collect();
        model.pool().run(turns.len(), |at| {
            let mut turn = turns[at].lock().unwrap_or_else(PoisonError::into_inner);
            let (sequence, wanted, turn) = &mut *turn;
            *turn = match wanted {
                Wanted::Likeliest(rows) => sequence.take(rows.iter().map(Row::Likeliest)),
                Wanted::Logits(logits) => sequence.take(logits.chunks_exact(vocab_size).map(Row::Logits)),
            };
        });
        let mut turns: Vec<(SequenceId, Turn)> = turns
            .into_iter()
            .map(|turn| turn.into_inner().unwrap_or_else(PoisonError::into_inner))
            .map(|(sequence, _, turn)| (sequence.id, turn))
            .collect();
        as_training_has_them(model, scratch, &mut turns)?;

        self.stats.steps += 1;
        let mut events = Vec::new();
        for (sequence, turn) in turns {
            self.stats.prompt_tokens += turn.prompt_tokens;
            self.stats.answer_tokens += turn.tokens.len();
            self.stats.proposed += turn.proposed;
            self.stats.accepted += turn.accepted;
            events.extend(turn.tokens.into_iter().map(|token| Event::Token { sequence, token }));
            let ended = turn.ended.zip(self.active.iter().position(|s| s.id == sequence));
            if let Some((reason, at)) = ended {
                events.push(Event::Finished { sequence, finish: self.release(at, reason) });
            }
        }
        Ok(events)
    }

    /// Moves sequences from the queue to where there is room.
    fn admit(&mut self) -> Result<()> {
        while self.active.len() < self.options.max_batch {
            let Some((id, request)) = self.queue.pop_front() else { break };
            let prompt = request.prompt.len();
            let wanted = prompt.saturating_add(request.max_tokens);
            let limit = wanted.min(self.options.context);
            let positions = if request.keep { self.options.context } else { limit };
            let session = request.session.and_then(|session| reuse(session, &request.prompt, positions));
            let cache = match session {
                Some(cache) => cache,
                None => {
                    let mut cache = self.cache(positions)?;
                    if let Some(prefix) = request.prefix {
                        cache.copy(&prefix.cache, prefix.common(&request.prompt))?;
                    }
                    cache
                }
            };
            let now = Instant::now();
            self.active.push(Sequence {
                id,
                tokens: request.prompt,
                prompt,
                limit,
                context_limits: limit < wanted,
                cached_tokens: cache.len(),
                cache,
                sampler: Sampler::new(request.sampler, request.stream),
                end_tokens: request.end_tokens,
                logprobs: request.logprobs,
                drawn: request.drawn,
                lookup: request.lookup.min(MAX_CHUNK - 1),
                keep: request.keep,
                started: now,
                first_token: None,
                last_token: now,
                proposed: 0,
                accepted: 0,
                guessed: 0,
                planned: 0,
                wanted: 0,
            });
        }
        Ok(())
    }

    /// An empty cache with room for `positions`: the smallest of the old ones that will do, or a new one.
    fn cache(&mut self, positions: usize) -> Result<KvCache> {
        let fits = self.free.iter().enumerate().filter(|(_, cache)| cache.capacity() >= positions);
        if let Some(at) = fits.min_by_key(|(_, cache)| cache.capacity()).map(|(at, _)| at) {
            return Ok(self.free.swap_remove(at));
        }
        if self.model.gpu().is_none() {
            return self.model.new_cache(positions, self.options.cache);
        }
        // On a GPU, those of sequences that will run side by side lie together. What is not written takes no memory there,
        // so each may become as long as any.
        let waiting = self.queue.len() + 1;
        let count = waiting.min(self.options.max_batch);
        let context = positions.max(self.options.context);
        self.free.extend(self.model.new_caches(count, context, self.options.cache)?);
        match self.free.pop() {
            Some(cache) => Ok(cache),
            None => self.model.new_cache(positions, self.options.cache),
        }
    }

    /// How many tokens each sequence runs in this step, guesses included.
    fn plan(&mut self) {
        let mut room = self.options.chunk;
        for sequence in self.active.iter_mut().filter(|s| !s.reads_prompt()) {
            sequence.guess();
            sequence.planned = 1 + sequence.guessed;
            room = room.saturating_sub(sequence.planned);
        }
        // However many answer, prompts move on.
        room = room.max(1);
        for sequence in self.active.iter_mut().filter(|s| s.reads_prompt()) {
            sequence.planned = sequence.pending().min(room).min(MAX_CHUNK);
            room -= sequence.planned;
        }
    }

    fn release(&mut self, at: usize, reason: FinishReason) -> Finish {
        let sequence = self.active.remove(at);
        let first = sequence.first_token.unwrap_or(sequence.last_token);
        let mut finish = Finish {
            reason,
            cached_tokens: sequence.cached_tokens,
            answer_tokens: sequence.answered(),
            prefill_seconds: (first - sequence.started).as_secs_f64(),
            decode_seconds: (sequence.last_token - first).as_secs_f64(),
            proposed: sequence.proposed,
            accepted: sequence.accepted,
            session: None,
        };
        if sequence.keep {
            finish.session = Some(Session { tokens: sequence.tokens, cache: sequence.cache });
        } else if self.free.len() < 2 * self.options.max_batch {
            let mut cache = sequence.cache;
            cache.clear();
            self.free.push(cache);
        }
        finish
    }
}

/// Gives tokens the log-probabilities that training will give them, where a GPU has made the logits.
fn as_training_has_them(
    model: &Model,
    scratch: &mut Scratch,
    turns: &mut [(SequenceId, Turn)],
) -> Result<()> {
    let mut picked = Vec::new();
    let mut first = 0;
    for (_, turn) in turns.iter() {
        for (i, token) in turn.tokens.iter().enumerate() {
            if let Some(Drawn { kept, .. }) = &token.drawn {
                let (token, scale, kept) = (token.id, turn.scale, kept.as_ref());
                picked.push(Picked { row: first + i, token, scale, kept });
            }
        }
        first += turn.rows;
    }
    if picked.is_empty() {
        return Ok(());
    }
    let Some(found) = model.log_probabilities(scratch, &picked)? else { return Ok(()) };
    let tokens = turns.iter_mut().flat_map(|(_, turn)| &mut turn.tokens);
    let drawn = tokens.filter_map(|token| token.drawn.as_mut());
    drawn.zip(found).for_each(|(drawn, logprob)| drawn.logprob = logprob);
    Ok(())
}

/// The cache of a session, cut back to what the session and `prompt` have in common. `None` if the cache is too small.
/// It is empty where it could not be cut back so far.
fn reuse(session: Session, prompt: &[u32], positions: usize) -> Option<KvCache> {
    let common = session.common(prompt);
    let mut cache = session.cache;
    if cache.capacity() < positions {
        return None;
    }
    if !cache.truncate(common) {
        cache.clear();
    }
    Some(cache)
}

impl Sequence {
    /// Tokens that are not in the cache yet.
    fn pending(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }

    fn answered(&self) -> usize {
        self.tokens.len() - self.guessed - self.prompt
    }

    fn reads_prompt(&self) -> bool {
        self.tokens.len() == self.prompt
    }

    /// Appends a guess to the tokens. One token is certain to follow it, so it ends one before the limit.
    fn guess(&mut self) {
        let room = self.limit.saturating_sub(self.tokens.len() + 1);
        let guess = lookup::propose(&self.tokens, self.lookup.min(room));
        self.guessed = guess.len();
        self.tokens.extend(guess);
    }

    /// Logits that this step gives.
    fn rows(&self) -> Rows {
        match () {
            () if self.planned < self.pending() => Rows::None,
            () if self.limit == self.prompt => Rows::None,
            () if self.guessed > 0 => Rows::All,
            () => Rows::Last,
        }
    }

    fn chunk(&mut self) -> Option<Chunk<'_>> {
        let (start, logits) = (self.cache.len(), self.rows());
        self.wanted = match logits {
            _ if self.planned == 0 => 0,
            Rows::None => 0,
            Rows::Last => 1,
            Rows::All => self.planned,
        };
        let tokens = &self.tokens[start..start + self.planned];
        (!tokens.is_empty()).then_some(Chunk { tokens, cache: &mut self.cache, logits })
    }

    /// How many of the likeliest tokens tell all that is asked of its rows; `None` where no number of them does.
    fn enough(&self, vocab: usize) -> Option<usize> {
        let asks_more = self.logprobs.is_some() || self.drawn;
        self.sampler.options().enough(vocab).filter(|_| !asks_more)
    }

    /// Takes this sequence's rows of what a step gives.
    fn take<'a>(&mut self, rows: impl Iterator<Item = Row<'a>>) -> Turn {
        let scale = self.sampler.options().scale();
        let mut turn = Turn { rows: self.wanted, scale, ..Turn::default() };
        let planned = std::mem::take(&mut self.planned);
        if self.reads_prompt() {
            turn.prompt_tokens = planned;
            self.last_token = Instant::now();
            if self.pending() > 0 || planned == 0 {
                return turn;
            }
            if self.limit == self.prompt {
                turn.ended = Some(FinishReason::Length);
                return turn;
            }
        }
        let guess = self.tokens.split_off(self.tokens.len() - self.guessed);
        self.guessed = 0;
        turn.proposed = guess.len();
        for (at, row) in rows.enumerate() {
            let index = self.answered() as u64;
            let (id, logits) = match row {
                Row::Likeliest(row) => (Ok(self.sampler.sample_from(&row.tokens, index)), &[][..]),
                Row::Logits(logits) => (self.sampler.sample(logits, &self.tokens, index), logits),
            };
            let id = match id {
                Ok(id) => id,
                Err(error) => {
                    turn.ended = Some(FinishReason::Failed(error));
                    break;
                }
            };
            turn.tokens.push(self.push(id, logits));
            let right = guess.get(at) == Some(&id);
            turn.accepted += usize::from(right);
            turn.ended = self.end_at(id);
            // The rows after a wrong guess follow a token that was never said.
            if turn.ended.is_some() || !right {
                break;
            }
        }
        self.proposed += turn.proposed;
        self.accepted += turn.accepted;
        // What follows the last token that holds is forgotten; that token itself runs in the next step. So few
        // positions can always be taken back.
        self.cache.truncate(self.tokens.len() - 1);
        turn
    }

    fn push(&mut self, id: u32, logits: &[f32]) -> Token {
        let (logprob, top) = match self.logprobs {
            Some(n) => {
                let (logprob, top) = log_probabilities(logits, id, n);
                (Some(logprob), top)
            }
            None => (None, Vec::new()),
        };
        let drawn = self.drawn.then(|| self.sampler.drawn(logits, id));
        self.tokens.push(id);
        self.last_token = Instant::now();
        self.first_token.get_or_insert(self.last_token);
        Token { id, logprob, top, drawn }
    }

    fn end_at(&self, id: u32) -> Option<FinishReason> {
        if self.end_tokens.contains(&id) {
            Some(FinishReason::End)
        } else if self.tokens.len() < self.limit {
            None
        } else if self.context_limits {
            Some(FinishReason::ContextFull)
        } else {
            Some(FinishReason::Length)
        }
    }
}
