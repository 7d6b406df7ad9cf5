//! Sequences that grow: prompts, then a token at a time, many sequences together, their keys and values cached.

use std::collections::{HashMap, HashSet};

use super::kv_cache::{CachedSequence, KvCache};
use super::output::Recorder;
use super::recorded::Ops;
use super::request::Step;
use super::workspace::{Workspace, upload_i32};
use super::{Forward, ForwardOutput, HiddenStates, Input, LogitRows, Model, MoeMode, refuse};
use crate::device::Graph;
use crate::error::{Error, Result};
use crate::operations::{KvSplit, Operations};

/// How much a [`Session`] has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Sequences at a time.
    pub max_sequences: usize,
    /// Tokens of a sequence, at most the positions the model has.
    pub max_len: usize,
    /// Tokens of all sequences together that the cache holds; as many as all may have where `None`.
    pub max_cached: Option<usize>,
    /// Tokens of one prefill; a longer prompt goes in piece by piece. `max_len` where `None`.
    pub max_prefill: Option<usize>,
    /// Tokens of a block of the cache.
    pub kv_block_size: usize,
}

impl SessionOptions {
    /// Room for so many sequences of up to `max_len` tokens, in blocks of 64.
    pub fn new(max_sequences: usize, max_len: usize) -> Self {
        SessionOptions { max_sequences, max_len, max_cached: None, max_prefill: None, kv_block_size: 64 }
    }
}

/// A sequence of one session. Its number is not given to another one when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

/// Sequences whose keys and values are cached.
///
/// [`Session::prefill`] takes the tokens of one sequence, [`Session::decode`] one more token of each of many; both run
/// what [`Model::forward`] runs, in dropless mode, and hand out what a [`Forward`] asks for. A step of decoding is
/// recorded as one graph for each number of sequences and doubled length, where the device can; it brings the tokens up
/// in one copy, launches once, allocates nothing, and waits only for what it hands out.
#[derive(Debug)]
pub struct Session<'a> {
    model: &'a Model,
    ops: Ops<'a>,
    options: SessionOptions,
    workspace: Workspace,
    cache: KvCache,
    sequences: HashMap<SequenceId, CachedSequence>,
    next_id: u64,
    /// Rows of the block table on the device.
    table: Vec<Vec<u32>>,
    graphs: HashMap<StepShape, Option<Graph>>,
    /// Sizes of the workspace that the graphs were recorded over.
    recorded_over: Vec<usize>,
}

/// What a recorded step depends on; `None` in the map: it ran once, so all it needs is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct StepShape {
    batch_size: usize,
    kv_len: usize,
    logits: bool,
    argmax: bool,
    allowed_vocab: Option<usize>,
    /// Whether ids are drawn: among allowed ones, with a penalty on those seen, with probabilities.
    draw: Option<[bool; 3]>,
}

/// A pass over the cache.
pub(super) struct CachedStep<'a> {
    pub cache: &'a mut KvCache,
    pub access: KvAccess,
}

/// Where the keys and values are.
#[derive(Clone, Copy)]
pub(super) enum KvAccess {
    /// One sequence that stands in one piece: its first row of the cache, and the position of the first new token.
    Run { first_row: usize, first_position: usize },
    /// Where the tables on the device say; no sequence has more than `kv_len` keys.
    Tables { kv_len: usize },
}

impl<'a> Session<'a> {
    /// Takes all memory it will need.
    ///
    /// # Errors
    /// [`Error::Input`] for room for nothing, or for more tokens than the model has positions; [`Error::OutOfMemory`].
    pub fn new(model: &'a Model, ops: &'a dyn Operations, options: SessionOptions) -> Result<Self> {
        let SessionOptions { max_sequences, max_len, max_cached, max_prefill, kv_block_size } = options;
        let positions = model.config().block_size;
        if max_sequences == 0 || max_len == 0 || kv_block_size == 0 || max_prefill == Some(0) {
            return refuse(format!("a session with no room: {options:?}"));
        }
        if max_len > positions {
            return refuse(format!(
                "sequences of {max_len} tokens, but at most {positions} fit the position table"
            ));
        }
        let blocks_each = max_len.div_ceil(kv_block_size);
        let num_blocks = match max_cached {
            Some(tokens) => tokens.div_ceil(kv_block_size),
            None => max_sequences.saturating_mul(blocks_each),
        };
        let max_tokens = max_prefill.unwrap_or(max_len).max(max_sequences);
        let cache = KvCache::new(ops, model.config(), model.dtype(), num_blocks, kv_block_size)?;
        let workspace = Workspace::for_session(
            ops,
            model.config(),
            model.dtype(),
            max_tokens,
            max_sequences,
            (blocks_each, max_len),
        )?;
        Ok(Session {
            model,
            ops: Ops(ops),
            options,
            workspace,
            cache,
            sequences: HashMap::new(),
            next_id: 0,
            table: Vec::new(),
            graphs: HashMap::new(),
            recorded_over: Vec::new(),
        })
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// What it has room for.
    pub fn options(&self) -> &SessionOptions {
        &self.options
    }

    /// Sequences it holds.
    pub fn num_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Blocks of the cache that no sequence holds, and all of them.
    pub fn blocks(&self) -> (usize, usize) {
        (self.cache.num_free_blocks(), self.cache.num_blocks())
    }

    /// A new sequence without tokens.
    ///
    /// # Errors
    /// [`Error::Input`] where there are `max_sequences` already.
    pub fn start(&mut self) -> Result<SequenceId> {
        self.insert(CachedSequence::default())
    }

    /// Tokens of a sequence so far.
    ///
    /// # Errors
    /// [`Error::Input`] for a sequence that is not here.
    pub fn len(&self, sequence: SequenceId) -> Result<usize> {
        self.find(sequence).map(|sequence| sequence.len)
    }

    /// Whether it holds no sequences.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// A new sequence that begins with all of `parent`'s tokens; nothing is computed, and what both have in whole
    /// blocks stands in the cache once.
    ///
    /// # Errors
    /// [`Error::Input`] for a sequence that is not here, one too many, or no room in the cache.
    pub fn fork(&mut self, parent: SequenceId) -> Result<SequenceId> {
        self.check_room()?;
        let Some(parent) = self.sequences.get(&parent) else { return refuse(unknown(parent)) };
        let child = self.cache.fork(self.ops.0, parent)?;
        self.insert(child)
    }

    /// Forgets all but the first `len` tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::Input`] for a sequence that is not here, and where a block that another sequence has too must be copied
    /// and there is no room for it.
    pub fn truncate(&mut self, sequence: SequenceId, len: usize) -> Result<()> {
        let Some(cached) = self.sequences.get_mut(&sequence) else { return refuse(unknown(sequence)) };
        self.cache.truncate(self.ops.0, cached, len)
    }

    /// Forgets a sequence and gives its room back.
    ///
    /// # Errors
    /// [`Error::Input`] for a sequence that is not here.
    pub fn drop_sequence(&mut self, sequence: SequenceId) -> Result<()> {
        match self.sequences.remove(&sequence) {
            Some(cached) => {
                self.cache.release(cached);
                Ok(())
            }
            None => refuse(unknown(sequence)),
        }
    }

    /// Appends tokens to one sequence: rows of `request` are counted from the first of them. Where it fails the
    /// sequence is as before.
    ///
    /// # Errors
    /// [`Error::Input`] for no tokens, ids outside the vocabulary, more than the session has room for, a sequence that
    /// is not here; [`Error::Usage`] for capacity mode, which needs whole sequences; and what the operations refuse.
    pub fn prefill(
        &mut self,
        sequence: SequenceId,
        input: Input<'_>,
        request: &Forward<'_>,
    ) -> Result<ForwardOutput> {
        self.check_mode(request)?;
        let position = self.find(sequence)?.len;
        let step = Step::new(self.ops.0, self.model, &self.workspace, 1, input, Some(position), request)?;
        self.check_len(position, step.num_tokens)?;
        let Some(cached) = self.sequences.get_mut(&sequence) else { return refuse(unknown(sequence)) };
        self.cache.grow(cached, step.num_tokens)?;
        let len = position + step.num_tokens;
        let mut behind: Vec<i32> = self.cache.rows(cached, position..len).collect();
        behind.extend([position as i32, len as i32]);
        let access = match self.cache.first_row_of_run(cached) {
            Some(first_row) => KvAccess::Run { first_row, first_position: position },
            None => KvAccess::Tables { kv_len: len },
        };
        if let KvAccess::Tables { .. } = access {
            let row = cached.blocks.clone();
            self.upload_table(vec![row])?;
        }
        step.upload(&mut self.workspace, &behind)?;
        let mut record = Recorder::new(request, &self.model.config, step.num_tokens);
        let pass = CachedStep { cache: &mut self.cache, access };
        self.model.launch(&step, &mut self.workspace, Some(pass), &mut record)?;
        let output = record.finish(&step, &self.workspace)?;
        if let Some(cached) = self.sequences.get_mut(&sequence) {
            cached.len = len;
        }
        Ok(output)
    }

    /// Appends one token to each of these sequences; row `i` of `request` is the `i`th of them. Where it fails the
    /// sequences are as before.
    ///
    /// # Errors
    /// As [`Session::prefill`], and [`Error::Input`] for a sequence named twice.
    pub fn decode(&mut self, tokens: &[(SequenceId, u32)], request: &Forward<'_>) -> Result<ForwardOutput> {
        self.check_mode(request)?;
        let ids: Vec<u32> = tokens.iter().map(|&(_, id)| id).collect();
        let batch_size = tokens.len();
        let step =
            Step::new(self.ops.0, self.model, &self.workspace, batch_size, Input::Ids(&ids), None, request)?;
        let mut named = HashSet::new();
        for &(sequence, _) in tokens {
            self.check_len(self.find(sequence)?.len, 1)?;
            if !named.insert(sequence) {
                return refuse(format!("{sequence:?} is named twice in one step"));
            }
        }
        let lacking = self.cache.blocks_lacking(named.iter().map(|sequence| &self.sequences[sequence]), 1);
        if lacking > self.cache.num_free_blocks() {
            return refuse(format!(
                "{lacking} more blocks of the KV cache are needed, {} of {} are free: drop a sequence",
                self.cache.num_free_blocks(),
                self.cache.num_blocks()
            ));
        }

        let (mut rows, mut positions, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut table = Vec::with_capacity(batch_size);
        for (sequence, _) in tokens {
            let Some(cached) = self.sequences.get_mut(sequence) else { continue };
            self.cache.grow(cached, 1)?;
            rows.extend(self.cache.rows(cached, cached.len..cached.len + 1));
            positions.push(cached.len as i32);
            lengths.push(cached.len as i32 + 1);
            table.push(cached.blocks.clone());
        }
        let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
        // A recorded step serves all lengths up to the next power of two
        let kv_len = longest.max(KvSplit::MIN_KEYS).next_power_of_two().min(self.options.max_len);
        self.upload_table(table)?;
        step.upload(&mut self.workspace, &[rows, positions, lengths].concat())?;
        let mut record = Recorder::new(request, &self.model.config, step.num_tokens);
        self.launch(&step, kv_len, &mut record)?;
        let output = record.finish(&step, &self.workspace)?;
        for (sequence, _) in tokens {
            if let Some(cached) = self.sequences.get_mut(sequence) {
                cached.len += 1;
            }
        }
        Ok(output)
    }

    /// The step as a graph: run once without, then recorded, then replayed; or always without, where something is handed
    /// out on the way or differs from step to step.
    fn launch(&mut self, step: &Step<'_>, kv_len: usize, record: &mut Recorder<'_>) -> Result<()> {
        let (ops, request) = (self.ops.0, step.request);
        let grown = self.workspace.grown();
        if grown != self.recorded_over {
            self.graphs.clear();
            self.recorded_over = grown;
        }
        let records = ops.can_record()
            && request.hidden_states == HiddenStates::None
            && !request.routing
            && request.targets.is_none()
            && request.route_override.is_none()
            && [request.logits, request.argmax].iter().all(|rows| !matches!(rows, LogitRows::Chosen(_)))
            && !self.model.config.moe.as_ref().is_some_and(|moe| moe.noisy);
        let shape = StepShape {
            batch_size: step.batch_size,
            kv_len,
            logits: request.logits != LogitRows::None,
            argmax: request.argmax != LogitRows::None,
            allowed_vocab: request.allowed_vocab,
            draw: request.draw.map(|draw| [draw.allowed.is_some(), draw.seen.is_some(), draw.logprobs]),
        };
        if records && let Some(Some(graph)) = self.graphs.get(&shape) {
            // SAFETY: the graph uses the model's parameters, which are borrowed, the cache, which never moves, and the
            // workspace, whose memory is that of the recording: its sizes are the same.
            return unsafe { ops.replay(graph) };
        }
        let (model, workspace, cache) = (self.model, &mut self.workspace, &mut self.cache);
        let access = KvAccess::Tables { kv_len };
        let mut launch = || model.launch(step, workspace, Some(CachedStep { cache, access }), record);
        if !records {
            return launch();
        }
        let graph = match self.graphs.get(&shape) {
            Some(_) => {
                let graph = ops.record(&mut launch)?;
                // SAFETY: as above.
                unsafe { ops.replay(&graph)? };
                Some(graph)
            }
            None => {
                launch()?;
                None
            }
        };
        self.graphs.insert(shape, graph);
        Ok(())
    }

    /// Brings the block table up where it is another than the device's.
    fn upload_table(&mut self, table: Vec<Vec<u32>>) -> Result<()> {
        if self.table == table {
            return Ok(());
        }
        let Some(cached) = &mut self.workspace.cached else { return Ok(()) };
        let mut rows = Vec::with_capacity(table.len() * cached.max_blocks);
        for blocks in &table {
            let end = rows.len() + cached.max_blocks;
            rows.extend(blocks.iter().map(|&block| block as i32));
            rows.resize(end, -1);
        }
        upload_i32(self.ops.0, &mut cached.block_table, &rows)?;
        self.table = table;
        Ok(())
    }

    fn insert(&mut self, sequence: CachedSequence) -> Result<SequenceId> {
        self.check_room()?;
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, sequence);
        Ok(id)
    }

    fn check_room(&self) -> Result<()> {
        let most = self.options.max_sequences;
        if self.sequences.len() >= most {
            return refuse(format!("the session has room for {most} sequences, and holds as many: drop one"));
        }
        Ok(())
    }

    /// Capacity counts all tokens of a sequence together; with a cache only new ones are there.
    fn check_mode(&self, request: &Forward<'_>) -> Result<()> {
        let drops = self.model.config.moe.as_ref().is_some_and(|moe| !moe.never_drops());
        if drops && request.moe == MoeMode::Capacity {
            let message = "capacity mode needs the whole sequence and cannot use a KV cache, since an expert's slots \
                           are shared by all its tokens; use dropless mode";
            return Err(Error::Usage(message.into()));
        }
        Ok(())
    }

    fn check_len(&self, len: usize, more: usize) -> Result<()> {
        let most = self.options.max_len;
        if len + more > most {
            return refuse(format!(
                "a sequence of {} tokens, but at most {most} fit the KV cache",
                len + more
            ));
        }
        Ok(())
    }

    fn find(&self, sequence: SequenceId) -> Result<&CachedSequence> {
        match self.sequences.get(&sequence) {
            Some(cached) => Ok(cached),
            None => refuse(unknown(sequence)),
        }
    }
}

fn unknown(sequence: SequenceId) -> String {
    format!("{sequence:?} is not a sequence of this session, or was dropped")
}
