//! Text generation: one id after the other, streamed to the caller.
//!
//! In dropless mode keys and values are cached and a step computes one token. In capacity mode all tokens compete for
//! the experts' slots, so every step computes the whole sequence, as nanoMoE does. A sequence longer than the position
//! table is cropped to its last ids, as nanoGPT does: positions start at 0 again, so from there on every step computes
//! the whole window.

mod sampling;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub use sampling::{NAN, Sampling, sample};

use crate::error::{Error, Result};
use crate::model::{
    Draw, Forward, ForwardOutput, HiddenStates, Input, LogitRows, Model, MoeMode, SequenceId, Session,
    SessionOptions, Workspace,
};
use crate::operations::{Operations, SamplingSettings};

/// How to go on from a prompt.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most ids to generate.
    pub max_tokens: usize,
    /// How an id is drawn.
    pub sampling: Sampling,
    /// Dropless as a rule; capacity recomputes everything at each step.
    pub moe: MoeMode,
    /// Ids that are never generated, such as those the tokenizer cannot decode.
    pub masked: Vec<u32>,
    /// The id that ends the text; it is not handed out.
    pub end_of_text: Option<u32>,
    /// Prompts that are continued at a time.
    pub max_batch: usize,
    /// Gives the logarithm of each id's probability.
    pub logprobs: bool,
}

/// Tokens of a prompt that are computed at a time.
const MAX_PREFILL: usize = 2048;

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: 256,
            sampling: Sampling::default(),
            moe: MoeMode::Dropless,
            masked: Vec::new(),
            end_of_text: None,
            max_batch: 32,
            logprobs: false,
        }
    }
}

/// What happens while generating.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// It is this prompt's turn. Breaking off here costs nothing.
    Begins,
    /// An id was generated.
    Token {
        /// The id.
        id: u32,
        /// The logarithm of its probability before temperature and limits, with [`GenerateOptions::logprobs`].
        logprob: Option<f32>,
    },
    /// The sequence has outgrown the position table: from now on only the last `block_size` ids are seen, and every
    /// step computes all of them. Said once.
    Cropped {
        /// The longest sequence.
        block_size: usize,
    },
    /// It is over. What the callback says then does not matter.
    Ended(Stop),
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended the text.
    EndOfText,
    /// As many ids as asked for.
    MaxTokens,
    /// The callback said so.
    Callback,
}

/// What was generated.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The new ids.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop: Stop,
    /// Time from the start to the first id.
    pub prefill: Duration,
    /// Time for the others.
    pub decode: Duration,
}

impl Generated {
    /// Ids a second after the first one; 0 where there was no second.
    pub fn tokens_per_second(&self) -> f64 {
        let others = self.ids.len().saturating_sub(1) as f64;
        if others == 0.0 { 0.0 } else { others / self.decode.as_secs_f64() }
    }
}

/// Continues `prompt`, telling `on_event` of each id as it is made; it may break off.
///
/// # Errors
/// As [`generate_many`].
pub fn generate(
    model: &Model,
    ops: &dyn Operations,
    prompt: &[u32],
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Generated> {
    let mut all = generate_many(model, ops, &[prompt], options, &mut |_, event| on_event(event))?;
    Ok(all.remove(0))
}

/// Continues every prompt, up to [`GenerateOptions::max_batch`] of them at a time: when one ends the next begins.
/// `on_event` is told the prompt's number with each event, and may break that one off. The same seed gives every number
/// random numbers of its own, so a prompt given twice goes on in two ways.
///
/// # Errors
/// [`Error::Input`] for an empty prompt, ids outside the vocabulary, all ids masked, and logits that are NaN (naming
/// where they come from); what [`Model::forward`] and [`Session::new`] refuse.
pub fn generate_many(
    model: &Model,
    ops: &dyn Operations,
    prompts: &[&[u32]],
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
) -> Result<Vec<Generated>> {
    for (number, prompt) in prompts.iter().enumerate() {
        check_prompt(model, prompt).map_err(|message| {
            let which = if prompts.len() > 1 { format!("prompt {number}: ") } else { String::new() };
            Error::Input(which + &message)
        })?;
    }
    let mut generator = Generator::new(model, ops, prompts, options)?;
    let mut done: Vec<Option<Generated>> = prompts.iter().map(|_| None).collect();
    let mut waiting = prompts.iter().enumerate();
    loop {
        while generator.live.len() < options.max_batch.max(1)
            && let Some((number, prompt)) = waiting.next()
        {
            let text = Text::new(number, prompt);
            let stop = match on_event(number, Event::Begins) {
                ControlFlow::Break(()) => Stop::Callback,
                ControlFlow::Continue(()) if options.max_tokens == 0 => Stop::MaxTokens,
                ControlFlow::Continue(()) => {
                    generator.live.push(text);
                    continue;
                }
            };
            let _ = on_event(number, Event::Ended(stop));
            done[number] = Some(text.end(stop));
        }
        if generator.live.is_empty() {
            break;
        }
        for (number, generated) in generator.step(on_event)? {
            done[number] = Some(generated);
        }
    }
    Ok(done.into_iter().flatten().collect())
}

fn check_prompt(model: &Model, prompt: &[u32]) -> std::result::Result<(), String> {
    let vocab_size = model.config().vocab_size;
    if prompt.is_empty() {
        return Err("the prompt is empty; expected at least one id".into());
    }
    match prompt.iter().find(|&&id| id as usize >= vocab_size) {
        Some(id) => Err(format!("prompt id {id} is outside the vocabulary of {vocab_size}")),
        None => Ok(()),
    }
}

/// A prompt and what it has become.
struct Text {
    number: usize,
    ids: Vec<u32>,
    prompt_len: usize,
    /// Its sequence in the session, while it has one.
    sequence: Option<SequenceId>,
    crop_was_said: bool,
    start: Instant,
    first: Option<Duration>,
}

impl Text {
    fn new(number: usize, prompt: &[u32]) -> Self {
        Text {
            number,
            ids: prompt.to_vec(),
            prompt_len: prompt.len(),
            sequence: None,
            crop_was_said: false,
            start: Instant::now(),
            first: None,
        }
    }

    /// What the model sees: the last `block_size` ids.
    fn window(&self, model: &Model) -> &[u32] {
        &self.ids[self.ids.len().saturating_sub(model.config().block_size)..]
    }

    fn end(mut self, stop: Stop) -> Generated {
        let prefill = self.first.unwrap_or_default();
        let decode = self.start.elapsed().saturating_sub(prefill);
        Generated { ids: self.ids.split_off(self.prompt_len), stop, prefill, decode }
    }
}

/// An id, and the logarithm of its probability where that was asked for.
type Chosen = (u32, Option<f32>);

/// How the next ids of some texts are drawn.
struct Drawing {
    settings: Vec<SamplingSettings>,
    /// Bits of the ids in each text; empty without a penalty on them.
    seen: Vec<i32>,
}

/// Bit `id % 32` of word `id / 32`.
fn bits_of(ids: impl Iterator<Item = u32>, vocab_size: usize) -> Vec<i32> {
    let mut words = vec![0; vocab_size.div_ceil(32)];
    ids.for_each(|id| words[id as usize / 32] |= 1 << (id % 32));
    words
}

/// By what rule ids are chosen.
struct Choice<'a> {
    options: &'a GenerateOptions,
    vocab_size: usize,
    /// Bits of the ids that may be generated, `[vocab_size.div_ceil(32)]`.
    allowed: Vec<i32>,
    /// Ids that may be generated are exactly those below, where that says it all: the head itself can choose then.
    allowed_vocab: Option<usize>,
}

impl<'a> Choice<'a> {
    fn new(vocab_size: usize, options: &'a GenerateOptions) -> Result<Self> {
        let mut allowed = vec![true; vocab_size];
        for &id in &options.masked {
            allowed.get_mut(id as usize).into_iter().for_each(|allowed| *allowed = false);
        }
        let count = allowed.iter().filter(|&&allowed| allowed).count();
        if count == 0 {
            return Err(Error::Input(format!("all {vocab_size} ids are masked")));
        }
        let ids = (0..).zip(&allowed).filter(|(_, allowed)| **allowed).map(|(id, _)| id);
        Ok(Choice {
            options,
            vocab_size,
            allowed: bits_of(ids, vocab_size),
            allowed_vocab: allowed[..count].iter().all(|&allowed| allowed).then_some(count),
        })
    }

    /// What the head is asked for in a step of which this text is the first.
    fn request<'r>(&'r self, drawing: &'r Option<Drawing>, text: &Text) -> Forward<'r> {
        let sampling = &self.options.sampling;
        let len = text.ids.len() as u64;
        Forward {
            moe: self.options.moe,
            allowed_vocab: self.allowed_vocab,
            noise_seed: sampling.seed.wrapping_add(len << 32),
            argmax: if drawing.is_none() { LogitRows::Last } else { LogitRows::None },
            draw: drawing.as_ref().map(|drawing| Draw {
                settings: &drawing.settings,
                allowed: self.allowed_vocab.is_none_or(|n| n < self.vocab_size).then_some(&self.allowed),
                seen: (!drawing.seen.is_empty()).then_some(&drawing.seen),
                logprobs: self.options.logprobs,
            }),
            ..Forward::default()
        }
    }

    /// What differs from text to text in how an id is drawn; nothing where the head itself takes the best.
    fn drawing(&self, texts: &[&Text]) -> Option<Drawing> {
        let sampling = &self.options.sampling;
        let penalises = sampling.repetition_penalty != 1.0;
        let is_argmax = sampling.temperature == 0.0 && !penalises && !self.options.logprobs;
        if is_argmax && self.allowed_vocab.is_some() {
            return None;
        }
        let texts = || texts.iter().copied();
        let seen = |text: &Text| bits_of(text.ids.iter().copied(), self.vocab_size);
        Some(Drawing {
            settings: texts().map(|text| sampling.settings(text.number as u32)).collect(),
            seen: if penalises { texts().flat_map(seen).collect() } else { Vec::new() },
        })
    }
}

/// What computes the next id of each text.
struct Generator<'a> {
    model: &'a Model,
    ops: &'a dyn Operations,
    choice: Choice<'a>,
    /// The cache, for texts that can use one.
    session: Option<Session<'a>>,
    /// For texts computed whole at each step; none until there is one.
    workspace: Option<Workspace>,
    live: Vec<Text>,
}

impl<'a> Generator<'a> {
    fn new(
        model: &'a Model,
        ops: &'a dyn Operations,
        prompts: &[&[u32]],
        options: &'a GenerateOptions,
    ) -> Result<Self> {
        let config = model.config();
        let choice = Choice::new(config.vocab_size, options)?;
        let drops = config.moe.as_ref().is_some_and(|moe| !moe.never_drops());
        let caches = !(drops && options.moe == MoeMode::Capacity);
        let cached = || prompts.iter().map(|prompt| prompt.len()).filter(|&len| len < config.block_size);
        let session = match cached().max() {
            Some(longest) if caches && options.max_tokens > 0 => {
                let max_len = longest.saturating_add(options.max_tokens - 1).min(config.block_size);
                let sequences = cached().count().min(options.max_batch.max(1));
                let mut room = SessionOptions::new(sequences, max_len);
                room.max_prefill = Some(longest.min(MAX_PREFILL));
                Some(model.session(ops, room)?)
            }
            _ => None,
        };
        Ok(Generator { model, ops, choice, session, workspace: None, live: Vec::new() })
    }

    /// One more id for every text; gives those that have ended.
    fn step(
        &mut self,
        on_event: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
    ) -> Result<Vec<(usize, Generated)>> {
        let block_size = self.model.config().block_size;
        let mut ended = Vec::new();
        for text in &mut self.live {
            if text.ids.len() > block_size && !text.crop_was_said {
                text.crop_was_said = true;
                if on_event(text.number, Event::Cropped { block_size }).is_break() {
                    ended.push((text.number, Stop::Callback));
                }
            }
        }
        let mut results = self.end(&mut ended, on_event)?;
        let ids = self.next_ids()?;
        for (text, (id, logprob)) in self.live.iter_mut().zip(ids) {
            text.first.get_or_insert_with(|| text.start.elapsed());
            if Some(id) == self.choice.options.end_of_text {
                ended.push((text.number, Stop::EndOfText));
                continue;
            }
            text.ids.push(id);
            if on_event(text.number, Event::Token { id, logprob }).is_break() {
                ended.push((text.number, Stop::Callback));
            } else if text.ids.len() - text.prompt_len >= self.choice.options.max_tokens {
                ended.push((text.number, Stop::MaxTokens));
            }
        }
        results.extend(self.end(&mut ended, on_event)?);
        Ok(results)
    }

    /// Takes these texts out.
    fn end(
        &mut self,
        ended: &mut Vec<(usize, Stop)>,
        on_event: &mut dyn FnMut(usize, Event) -> ControlFlow<()>,
    ) -> Result<Vec<(usize, Generated)>> {
        let mut results = Vec::new();
        for (number, stop) in ended.drain(..) {
            let Some(index) = self.live.iter().position(|text| text.number == number) else { continue };
            let mut text = self.live.remove(index);
            if let (Some(session), Some(sequence)) = (&mut self.session, text.sequence.take()) {
                session.drop_sequence(sequence)?;
            }
            let _ = on_event(number, Event::Ended(stop));
            results.push((number, text.end(stop)));
        }
        Ok(results)
    }

    /// The next id of every live text: new ones by a prefill each, those in the cache by one step together, the others
    /// by a pass over the whole of each.
    fn next_ids(&mut self) -> Result<Vec<Chosen>> {
        let block_size = self.model.config().block_size;
        let mut ids = vec![(0, None); self.live.len()];
        let mut growing = Vec::new();
        for (index, chosen) in ids.iter_mut().enumerate() {
            let len = self.live[index].ids.len();
            if len > block_size
                && let (Some(session), Some(sequence)) = (&mut self.session, self.live[index].sequence.take())
            {
                // Positions shift at every step from here on, so nothing computed before can be used again.
                session.drop_sequence(sequence)?;
            }
            if self.live[index].sequence.is_some() {
                growing.push(index);
            } else if self.session.is_some() && self.live[index].prompt_len == len && len < block_size {
                *chosen = self.prefill(index)?;
            } else {
                *chosen = self.recompute(index)?;
            }
        }
        if growing.is_empty() {
            return Ok(ids);
        }
        let last = |&index: &usize| {
            let text = &self.live[index];
            text.sequence.zip(text.ids.last().copied())
        };
        let tokens: Vec<(SequenceId, u32)> = growing.iter().filter_map(last).collect();
        let texts: Vec<&Text> = growing.iter().map(|&index| &self.live[index]).collect();
        let drawing = self.choice.drawing(&texts);
        let request = self.choice.request(&drawing, texts[0]);
        let Some(session) = &mut self.session else { return Ok(ids) };
        let output = session.decode(&tokens, &request)?;
        for (row, &index) in growing.iter().enumerate() {
            ids[index] = self.chosen(&output, row, index)?;
        }
        Ok(ids)
    }

    fn prefill(&mut self, index: usize) -> Result<Chosen> {
        let Some(session) = &mut self.session else { return self.recompute(index) };
        let text = &mut self.live[index];
        let drawing = self.choice.drawing(&[text]);
        let request = self.choice.request(&drawing, text);
        let sequence = session.start()?;
        text.sequence = Some(sequence);
        let mut pieces = text.ids.chunks(MAX_PREFILL).peekable();
        let mut output = ForwardOutput::default();
        while let Some(piece) = pieces.next() {
            let silent = Forward { argmax: LogitRows::None, draw: None, ..request };
            let request = if pieces.peek().is_some() { silent } else { request };
            output = session.prefill(sequence, Input::Ids(piece), &request)?;
        }
        self.chosen(&output, 0, index)
    }

    /// A pass over the last `block_size` ids.
    fn recompute(&mut self, index: usize) -> Result<Chosen> {
        self.make_room(index)?;
        let text = &self.live[index];
        let drawing = self.choice.drawing(&[text]);
        let request = self.choice.request(&drawing, text);
        let Some(workspace) = &mut self.workspace else { return Ok((0, None)) };
        let output = self.model.forward(self.ops, workspace, 1, text.window(self.model), &request)?;
        self.chosen(&output, 0, index)
    }

    /// A workspace for what a text may become.
    fn make_room(&mut self, index: usize) -> Result<()> {
        let text = &self.live[index];
        let needed = text.window(self.model).len();
        if self.workspace.as_ref().is_none_or(|workspace| workspace.max_tokens() < needed) {
            let most = text.ids.len().saturating_add(self.choice.options.max_tokens);
            self.workspace = None;
            self.workspace = Some(self.model.workspace(self.ops, most.min(self.model.config().block_size))?);
        }
        Ok(())
    }

    /// The id chosen in a row of a pass.
    fn chosen(&mut self, output: &ForwardOutput, row: usize, index: usize) -> Result<Chosen> {
        let id = output.drawn.get(row).or(output.argmax.get(row)).copied().unwrap_or(NAN);
        match u32::try_from(id) {
            Ok(id) => Ok((id, output.logprobs.get(row).copied())),
            Err(_) => Err(self.explain_nan(index)),
        }
    }

    /// Repeats the step, over all of the text, with hidden states to name where a NaN comes from.
    fn explain_nan(&mut self, index: usize) -> Error {
        let position = self.live[index].ids.len();
        let request =
            Forward { moe: self.choice.options.moe, hidden_states: HiddenStates::All, ..Forward::default() };
        let output = self.make_room(index).and_then(|()| match &mut self.workspace {
            Some(workspace) => {
                self.model.forward(self.ops, workspace, 1, self.live[index].window(self.model), &request)
            }
            None => Ok(ForwardOutput::default()),
        });
        let output = match output {
            Ok(output) => output,
            Err(error) => return error,
        };
        let place = output.origin_of_not_finite();
        let dtype = self.model.dtype();
        Error::Input(format!(
            "the logits for position {position} are NaN: the first number in {dtype} that is not finite comes out of {place}"
        ))
    }
}
