//! What a forward pass is asked for, and the checks before it.

use super::workspace::{HeadWorkspace, reserve, upload_f32, upload_i32};
use super::{Model, Workspace, refuse};
use crate::error::Result;
use crate::operations::{LmHeadParams, Operations, SamplingSettings};

/// What happens when more tokens choose an expert than it has slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MoeMode {
    /// As nanoMoE: an expert has a capacity, what exceeds it is dropped, and all tokens of the call compete.
    Capacity,
    /// Nothing is dropped, so a token's result does not depend on others.
    #[default]
    Dropless,
}

/// Rows of the batch, counted over `[batch_size, seq_len]`, whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogitRows<'a> {
    /// None.
    #[default]
    None,
    /// The last position of every sequence.
    Last,
    /// Every position.
    All,
    /// These, in this order.
    Chosen(&'a [usize]),
}

/// Which states of the residual stream are wanted: state 0 comes out of the embedding, state `i + 1` out of block `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HiddenStates<'a> {
    /// None.
    #[default]
    None,
    /// All of them, and the final norm.
    All,
    /// These, in ascending order.
    Chosen(&'a [usize]),
}

impl HiddenStates<'_> {
    /// Whether state `index` is wanted.
    pub(super) fn wants(self, index: usize) -> bool {
        match self {
            HiddenStates::None => false,
            HiddenStates::All => true,
            HiddenStates::Chosen(states) => states.contains(&index),
        }
    }
}

/// What goes into a pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input<'a> {
    /// `[num_tokens]`
    Ids(&'a [u32]),
    /// `[num_tokens, hidden_size]`: embeddings of the tokens; those of their positions are added.
    Embeddings(&'a [f32]),
    /// `[num_tokens, hidden_size]`: the residual stream, as it enters block `first_layer`.
    HiddenStates {
        /// The first block that runs.
        first_layer: usize,
        /// The values.
        values: &'a [f32],
    },
}

impl Input<'_> {
    /// How many tokens it is.
    fn num_tokens(&self, hidden_size: usize) -> Result<usize> {
        match *self {
            Input::Ids(ids) => Ok(ids.len()),
            Input::Embeddings(values) | Input::HiddenStates { values, .. } => {
                if !values.len().is_multiple_of(hidden_size) {
                    let len = values.len();
                    return refuse(format!("{len} numbers for tokens, expected rows of {hidden_size}"));
                }
                Ok(values.len() / hidden_size)
            }
        }
    }
}

/// What every position should have predicted.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// `[batch_size, seq_len]`, already shifted.
    pub ids: &'a [i64],
    /// The id that is not scored: -1 in nanoGPT, -100 in transformers.
    pub ignore_index: i32,
}

/// How the ids that follow are drawn, on the device: see [`crate::operations::SamplingParams`].
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// `[batch_size]`; [`crate::generate::Sampling::settings`] makes them.
    pub settings: &'a [SamplingSettings],
    /// `[vocab_size.div_ceil(32)]`: bit `id % 32` of word `id / 32` is set where the id may be drawn; all where `None`.
    pub allowed: Option<&'a [i32]>,
    /// `[batch_size, vocab_size.div_ceil(32)]`: bits of the ids that the repetition penalty applies to; none where
    /// `None`.
    pub seen: Option<&'a [i32]>,
    /// Hands out the logarithm of each drawn id's probability too.
    pub logprobs: bool,
}

/// What a forward pass is asked for. The default asks for nothing; what is not asked for is not computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forward<'a> {
    /// Capacity or dropless routing.
    pub moe: MoeMode,
    /// Whose logits to hand out.
    pub logits: LogitRows<'a>,
    /// Whose best id to hand out: the largest logit, the lowest id on ties, -1 with a NaN.
    pub argmax: LogitRows<'a>,
    /// Ids from here on are never the best; all are allowed where `None`.
    pub allowed_vocab: Option<usize>,
    /// Draws an id that follows the last position of every sequence.
    pub draw: Option<Draw<'a>>,
    /// Computes the cross-entropy of every position, and its mean.
    pub targets: Option<Targets<'a>>,
    /// Which hidden states to hand out.
    pub hidden_states: HiddenStates<'a>,
    /// Hands out everything the routers decided.
    pub routing: bool,
    /// Hands out the attention weights of one (layer, head). Not for sequences in a cache.
    pub attention_weights: Option<(usize, usize)>,
    /// Expert ids `[num_tokens, k]` for each MoE layer, instead of the routers' choices; weights follow from the logits.
    pub route_override: Option<&'a [Vec<i32>]>,
    /// Key of the router noise, in a model that has it. Every layer draws its own.
    pub noise_seed: u64,
}

/// A forward pass that passed its checks.
pub(super) struct Step<'a> {
    pub ops: &'a dyn Operations,
    pub request: &'a Forward<'a>,
    pub input: Input<'a>,
    pub batch_size: usize,
    pub seq_len: usize,
    pub num_tokens: usize,
    /// Position of each sequence's first token; `None` where the device has a position for each.
    pub first_position: Option<usize>,
    pub head_passes: Vec<HeadPass<'a>>,
    vocab_size: usize,
}

/// One call of the head; its memory is the workspace's of the same index.
pub(super) struct HeadPass<'a> {
    rows: LogitRows<'a>,
    pub num_rows: usize,
    /// Whether logits are handed out.
    pub logits: bool,
    pub argmax: bool,
    /// Whether ids are drawn from the logits.
    pub draws: bool,
    pub targets: Option<Targets<'a>>,
}

impl HeadPass<'_> {
    /// Whether logits are written at all.
    pub fn writes_logits(&self) -> bool {
        self.logits || self.draws
    }

    /// Whether it reads the rows named in the workspace; otherwise all.
    pub fn gathers(&self) -> bool {
        self.rows != LogitRows::All
    }
}

impl<'a> Step<'a> {
    /// A pass over `input`, `batch_size` sequences of equal length from `first_position` on.
    pub fn new(
        ops: &'a dyn Operations,
        model: &Model,
        workspace: &Workspace,
        batch_size: usize,
        input: Input<'a>,
        first_position: Option<usize>,
        request: &'a Forward<'a>,
    ) -> Result<Self> {
        let config = model.config();
        let num_tokens = input.num_tokens(config.hidden_size)?;
        if batch_size == 0 || num_tokens == 0 || !num_tokens.is_multiple_of(batch_size) {
            let tokens = if matches!(input, Input::Ids(_)) { "ids" } else { "tokens" };
            return refuse(format!(
                "{num_tokens} {tokens} for a batch of {batch_size}, expected some of each sequence"
            ));
        }
        let seq_len = num_tokens / batch_size;
        if num_tokens > workspace.max_tokens {
            return refuse(format!("{num_tokens} tokens, the workspace holds {}", workspace.max_tokens));
        }
        if let Input::Ids(ids) = input
            && let Some(index) = ids.iter().position(|&id| id as usize >= config.vocab_size)
        {
            let (id, at) = (ids[index], index % seq_len);
            return refuse(format!(
                "id {id} at position {at} is outside the vocabulary of {}",
                config.vocab_size
            ));
        }
        if let Input::HiddenStates { first_layer, .. } = input
            && first_layer > config.num_layers
        {
            let layers = config.num_layers;
            return refuse(format!("hidden states for block {first_layer}, but there are {layers} blocks"));
        }
        let len = first_position.unwrap_or(0) + seq_len;
        if len > config.block_size {
            let most = config.block_size;
            return refuse(format!("a sequence of {len} tokens, but at most {most} fit the position table"));
        }
        let step = Step {
            ops,
            request,
            input,
            batch_size,
            seq_len,
            num_tokens,
            first_position,
            head_passes: head_passes(request, batch_size, num_tokens),
            vocab_size: config.vocab_size,
        };
        if let Some((layer, head)) = request.attention_weights
            && (layer >= config.num_layers || head >= config.num_heads || layer < step.first_layer())
        {
            return refuse(format!(
                "attention weights of layer {layer}, head {head}; expected a layer from {} to {} and a head below {}",
                step.first_layer(),
                config.num_layers - 1,
                config.num_heads
            ));
        }
        step.check_override(model)?;
        step.check_head()?;
        step.check_draw()?;
        Ok(step)
    }

    /// Makes room for what was asked, and uploads the input and what else the kernels read; behind the ids, one for
    /// each token, goes `behind`.
    pub fn upload(&self, workspace: &mut Workspace, behind: &[i32]) -> Result<()> {
        let mut indices: Vec<i32> = match self.input {
            Input::Ids(ids) => ids.iter().map(|&id| id as i32).collect(),
            // Rows of the embeddings that came instead of the table.
            _ => (0..self.num_tokens as i32).collect(),
        };
        indices.extend_from_slice(behind);
        upload_i32(self.ops, &mut workspace.indices, &indices)?;
        match self.input {
            Input::Ids(_) => {}
            Input::Embeddings(values) => {
                reserve(self.ops, &mut workspace.embeddings, values.len())?;
                upload_f32(self.ops, &mut workspace.embeddings, values)?;
            }
            Input::HiddenStates { values, .. } => upload_f32(self.ops, &mut workspace.x, values)?,
        }
        if let (Some(forced), Some(moe)) = (self.request.route_override, &mut workspace.moe) {
            let forced = forced.concat();
            reserve(self.ops, &mut moe.forced_ids, forced.len())?;
            upload_i32(self.ops, &mut moe.forced_ids, &forced)?;
        }
        for (pass, head) in self.head_passes.iter().zip(&mut workspace.heads) {
            self.upload_head(head, pass)?;
        }
        match self.request.draw {
            Some(draw) => workspace.draw.upload(self.ops, &draw),
            None => Ok(()),
        }
    }

    /// The first block that runs.
    pub fn first_layer(&self) -> usize {
        match self.input {
            Input::HiddenStates { first_layer, .. } => first_layer,
            _ => 0,
        }
    }

    fn check_override(&self, model: &Model) -> Result<()> {
        let Some(forced) = self.request.route_override else { return Ok(()) };
        let Some(moe) = &model.config().moe else {
            return refuse("expert ids were given for a model without experts".into());
        };
        let (layers, assignments) =
            (model.config().moe_layers().count(), self.num_tokens * moe.num_experts_per_token);
        if forced.len() != layers || forced.iter().any(|ids| ids.len() != assignments) {
            let got: Vec<usize> = forced.iter().map(Vec::len).collect();
            return refuse(format!("expert ids of {got:?}, expected {layers} layers of {assignments}"));
        }
        match forced.iter().flatten().find(|&&id| id < 0 || id as usize >= moe.num_experts) {
            Some(id) => refuse(format!("expert id {id}, but there are {} experts", moe.num_experts)),
            None => Ok(()),
        }
    }

    /// The key of a layer's router noise: seeds of neighbours differ in all bits that matter to Philox.
    pub fn noise_seed(&self, moe_index: usize) -> u64 {
        let layer = (moe_index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.request.noise_seed.wrapping_add(layer)
    }

    /// Makes room for a call of the head, and uploads its rows and targets.
    fn upload_head(&self, head: &mut HeadWorkspace, pass: &HeadPass<'_>) -> Result<()> {
        let (ops, rows) = (self.ops, pass.num_rows);
        reserve(ops, &mut head.scratch, LmHeadParams::scratch_len(rows, self.vocab_size))?;
        if pass.writes_logits() {
            reserve(ops, &mut head.logits, rows * self.vocab_size)?;
        }
        if pass.argmax {
            reserve(ops, &mut head.argmax, rows)?;
        }
        if pass.gathers() {
            let named: Vec<i32> = match pass.rows {
                LogitRows::Chosen(rows) => rows.iter().map(|&row| row as i32).collect(),
                _ => (1..=self.batch_size).map(|sequence| (sequence * self.seq_len - 1) as i32).collect(),
            };
            reserve(ops, &mut head.rows, rows)?;
            upload_i32(ops, &mut head.rows, &named)?;
        }
        if let Some(targets) = pass.targets {
            let ids: Vec<i32> = targets.ids.iter().map(|&id| id as i32).collect();
            reserve(ops, &mut head.targets, rows)?;
            reserve(ops, &mut head.losses, rows)?;
            upload_i32(ops, &mut head.targets, &ids)?;
        }
        Ok(())
    }

    /// Settings for each sequence, and as many bits as there are ids.
    fn check_draw(&self) -> Result<()> {
        let Some(draw) = self.request.draw else { return Ok(()) };
        let (batch_size, words) = (self.batch_size, self.vocab_size.div_ceil(32));
        let settings = draw.settings.len();
        if settings != batch_size {
            return refuse(format!("{settings} settings of sampling for {batch_size} sequences"));
        }
        for (what, bits, wanted) in
            [("allowed", draw.allowed, words), ("seen", draw.seen, batch_size * words)]
        {
            if let Some(bits) = bits.filter(|bits| bits.len() != wanted) {
                return refuse(format!("{} words of bits of {what} ids, expected {wanted}", bits.len()));
            }
        }
        Ok(())
    }

    /// Rows are rows of the batch, targets are ids or ignored.
    fn check_head(&self) -> Result<()> {
        for rows in [self.request.logits, self.request.argmax] {
            if let LogitRows::Chosen(rows) = rows
                && let Some(row) = rows.iter().find(|&&row| row >= self.num_tokens)
            {
                return refuse(format!(
                    "logits of row {row} were asked for, but there are {} tokens",
                    self.num_tokens
                ));
            }
        }
        let Some(targets) = self.request.targets else { return Ok(()) };
        if targets.ids.len() != self.num_tokens {
            return refuse(format!("{} targets for {} tokens", targets.ids.len(), self.num_tokens));
        }
        let bad =
            |&id: &i64| id != i64::from(targets.ignore_index) && !(0..self.vocab_size as i64).contains(&id);
        match targets.ids.iter().position(bad) {
            Some(index) => refuse(format!(
                "target {} at position {} is neither in the vocabulary of {} nor the ignored {}",
                targets.ids[index],
                index % self.seq_len,
                self.vocab_size,
                targets.ignore_index
            )),
            None => Ok(()),
        }
    }
}

/// The calls of the head that give what was asked: what is wanted of the same rows shares a call.
fn head_passes<'a>(request: &Forward<'a>, batch_size: usize, num_tokens: usize) -> Vec<HeadPass<'a>> {
    let scored = if request.targets.is_some() { LogitRows::All } else { LogitRows::None };
    let mut passes: Vec<HeadPass<'a>> = Vec::new();
    let mut pass_over = |rows: LogitRows<'a>| {
        // The last position is every position of a sequence of one.
        let rows = if num_tokens == batch_size && rows == LogitRows::Last { LogitRows::All } else { rows };
        let num_rows = match rows {
            LogitRows::None => return None,
            LogitRows::Last => batch_size,
            LogitRows::All => num_tokens,
            LogitRows::Chosen(rows) => rows.len(),
        };
        let index = passes.iter().position(|pass| pass.rows == rows).unwrap_or_else(|| {
            passes.push(HeadPass {
                rows,
                num_rows,
                logits: false,
                argmax: false,
                draws: false,
                targets: None,
            });
            passes.len() - 1
        });
        Some(index)
    };
    let drawn = if request.draw.is_some() { LogitRows::Last } else { LogitRows::None };
    let (logits, argmax, scored) = (pass_over(request.logits), pass_over(request.argmax), pass_over(scored));
    let drawn = pass_over(drawn);
    for (index, pass) in passes.iter_mut().enumerate() {
        pass.logits = logits == Some(index);
        pass.argmax = argmax == Some(index);
        pass.draws = drawn == Some(index);
        pass.targets = request.targets.filter(|_| scored == Some(index));
    }
    passes
}
