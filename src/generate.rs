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
use crate::model::{Forward, ForwardOutput, KvCache, LogitRows, Model, MoeMode, Workspace};
use crate::operations::Operations;

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
}

impl Default for GenerateOptions {
    fn default() -> Self {
        GenerateOptions {
            max_tokens: 256,
            sampling: Sampling::default(),
            moe: MoeMode::Dropless,
            masked: Vec::new(),
            end_of_text: None,
        }
    }
}

/// What happens while generating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An id was generated.
    Token(u32),
    /// The sequence has outgrown the position table: from now on only the last `block_size` ids are seen, and every
    /// step computes all of them. Said once.
    Cropped {
        /// The longest sequence.
        block_size: usize,
    },
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
/// [`Error::Input`] for an empty prompt, ids outside the vocabulary, all ids masked, and logits that are NaN (naming
/// where they come from); what [`Model::forward`] refuses.
pub fn generate(
    model: &Model,
    ops: &dyn Operations,
    prompt: &[u32],
    options: &GenerateOptions,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Generated> {
    let start = Instant::now();
    let mut first = None;
    let mut generated = Vec::new();
    let mut stop = Stop::MaxTokens;
    if options.max_tokens > 0 {
        let mut session = Session::new(model, ops, prompt, options)?;
        while generated.len() < options.max_tokens {
            if session.crops_now() && on_event(Event::Cropped { block_size: session.block_size }).is_break() {
                stop = Stop::Callback;
                break;
            }
            let id = session.next()?;
            first.get_or_insert_with(|| start.elapsed());
            if Some(id) == options.end_of_text {
                stop = Stop::EndOfText;
                break;
            }
            generated.push(id);
            if on_event(Event::Token(id)).is_break() {
                stop = Stop::Callback;
                break;
            }
        }
    }
    let prefill = first.unwrap_or_default();
    Ok(Generated { ids: generated, stop, prefill, decode: start.elapsed().saturating_sub(prefill) })
}

/// A sequence that grows.
struct Session<'a> {
    model: &'a Model,
    ops: &'a dyn Operations,
    options: &'a GenerateOptions,
    block_size: usize,
    /// Whether each id may be generated, `[vocab_size]`.
    allowed: Vec<bool>,
    /// Ids that may be generated are exactly those below, where that says it all: the head itself can choose then.
    allowed_vocab: Option<usize>,
    workspace: Workspace,
    cache: Option<KvCache>,
    ids: Vec<u32>,
    crop_was_said: bool,
}

impl<'a> Session<'a> {
    fn new(
        model: &'a Model,
        ops: &'a dyn Operations,
        prompt: &[u32],
        options: &'a GenerateOptions,
    ) -> Result<Self> {
        let config = model.config();
        if prompt.is_empty() {
            return Err(Error::Input("the prompt is empty; expected at least one id".into()));
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
            let vocab_size = config.vocab_size;
            return Err(Error::Input(format!("prompt id {id} is outside the vocabulary of {vocab_size}")));
        }
        let block_size = config.block_size;
        let longest = prompt.len().saturating_add(options.max_tokens - 1).min(block_size);
        let drops = config.moe.as_ref().is_some_and(|moe| !moe.never_drops());
        let caches = !(drops && options.moe == MoeMode::Capacity) && prompt.len() < block_size;
        // A step has one token with a cache, all of them without and when cropped.
        let crops = prompt.len().saturating_add(options.max_tokens - 1) > block_size;
        let tokens = if caches && !crops { prompt.len() } else { longest };
        let mut allowed = vec![true; config.vocab_size];
        for &id in &options.masked {
            allowed.get_mut(id as usize).into_iter().for_each(|allowed| *allowed = false);
        }
        let count = allowed.iter().filter(|&&allowed| allowed).count();
        if count == 0 {
            return Err(Error::Input(format!("all {} ids are masked", config.vocab_size)));
        }
        Ok(Session {
            model,
            ops,
            options,
            block_size,
            allowed_vocab: allowed[..count].iter().all(|&allowed| allowed).then_some(count),
            allowed,
            workspace: model.workspace(ops, tokens)?,
            cache: if caches { Some(model.kv_cache(ops, 1, longest)?) } else { None },
            ids: prompt.to_vec(),
            crop_was_said: false,
        })
    }

    /// Whether the coming step is the first that does not see the whole sequence.
    fn crops_now(&mut self) -> bool {
        let crops = self.ids.len() > self.block_size && !self.crop_was_said;
        self.crop_was_said |= crops;
        crops
    }

    /// Computes the next id and appends it.
    fn next(&mut self) -> Result<u32> {
        if self.ids.len() > self.block_size {
            // Positions shift at every step, so nothing computed before can be used again.
            self.cache = None;
        }
        let greedy = self.options.sampling.temperature == 0.0 && self.allowed_vocab.is_some();
        let mut request = Forward {
            moe: self.options.moe,
            allowed_vocab: self.allowed_vocab,
            noise_seed: self.options.sampling.seed.wrapping_add((self.ids.len() as u64) << 32),
            ..Forward::default()
        };
        if greedy {
            request.argmax = LogitRows::Last;
        } else {
            request.logits = LogitRows::Last;
        }
        let output = self.forward(&request)?;
        let id = if greedy {
            output.argmax[0]
        } else {
            sample(&output.logits, &self.options.sampling, &self.allowed, 0, self.ids.len() as u64)
        };
        let Ok(id) = u32::try_from(id) else { return Err(self.explain_nan(&request)) };
        self.ids.push(id);
        Ok(id)
    }

    /// A forward pass over what is new; the cache, where there is one, ends before the last id.
    fn forward(&mut self, request: &Forward<'_>) -> Result<ForwardOutput> {
        let seen = self.ids.len().saturating_sub(self.block_size);
        let known = self.cache.as_ref().map_or(seen, KvCache::len);
        let new = &self.ids[known..];
        self.model.forward(self.ops, &mut self.workspace, self.cache.as_mut(), 1, new, request)
    }

    /// Repeats the step with hidden states to name where a NaN comes from.
    fn explain_nan(&mut self, request: &Forward<'_>) -> Error {
        // From the start, without the keys and values that may hold it already.
        if let Some(cache) = &mut self.cache {
            cache.truncate(0);
        }
        let needed = self.ids.len().min(self.block_size);
        if self.workspace.max_tokens() < needed {
            match self.model.workspace(self.ops, needed) {
                Ok(workspace) => self.workspace = workspace,
                Err(error) => return error,
            }
        }
        let output = match self.forward(&Forward { hidden_states: true, ..*request }) {
            Ok(output) => output,
            Err(error) => return error,
        };
        let place = output.origin_of_not_finite();
        let position = self.ids.len();
        let dtype = self.model.dtype();
        Error::Input(format!(
            "the logits for position {position} are NaN: the first number in {dtype} that is not finite comes out of {place}"
        ))
    }
}
