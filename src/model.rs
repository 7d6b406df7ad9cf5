//! The whole forward pass, written once over [`Operations`]: the same lines run on a GPU, the virtual GPU and the CPU.

mod attention;
mod indices;
mod kv_cache;
mod leaks;
mod moe;
mod output;
mod parameters;
mod recorded;
mod request;
mod session;
mod workspace;

pub use leaks::{Leak, find_leaks};
pub use output::{ForwardOutput, LayerRouting};
pub use recorded::RecordedForward;
pub use request::{Draw, Forward, HiddenStates, Input, LogitRows, MoeMode, Targets};
pub use session::{SequenceId, Session, SessionOptions};
pub use workspace::Workspace;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::operations::{
    CrossEntropy, EmbeddingParams, LayerNormParams, LmHeadParams, MlpParams, Operations, Residual,
    SamplingParams, SamplingSettings,
};
use crate::tensor::DType;
use crate::weights::Checkpoint;
use indices::Indices;
use output::Recorder;
use parameters::{Block, FeedForward, Norm, Parameters};
use request::Step;
use session::CachedStep;

/// A model whose parameters were uploaded to one provider of operations; pass that provider to every call.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    dtype: DType,
    parameters: Parameters,
}

impl Model {
    /// Uploads every parameter of `checkpoint`: matrices as `dtype`, norms, biases and routers as f32.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when it does not fit, [`Error::File`] for a router that is not finite, and what reading
    /// or uploading refuses.
    pub fn load(ops: &dyn Operations, checkpoint: &Checkpoint, dtype: DType) -> Result<Self> {
        checkpoint.check_routers()?;
        let parameters = Parameters::upload(ops, checkpoint, dtype)?;
        Ok(Model { config: checkpoint.config().clone(), dtype, parameters })
    }

    /// Its shape and options.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The type of matrices, activations and the KV cache.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Memory for forward passes of up to `max_tokens` tokens (batch times sequence).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn workspace(&self, ops: &dyn Operations, max_tokens: usize) -> Result<Workspace> {
        Workspace::new(ops, &self.config, self.dtype, max_tokens)
    }

    /// Runs sequences that grow, with their keys and values cached.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn session<'a>(&'a self, ops: &'a dyn Operations, options: SessionOptions) -> Result<Session<'a>> {
        Session::new(self, ops, options)
    }

    /// The forward pass over `ids` `[batch_size, seq_len]`, whole sequences. Gives what `request` asks for.
    ///
    /// # Errors
    /// [`Error::Input`] for ids outside the vocabulary, no ids, a sequence longer than the position table, targets of
    /// another number; and what the operations refuse.
    pub fn forward(
        &self,
        ops: &dyn Operations,
        workspace: &mut Workspace,
        batch_size: usize,
        ids: &[u32],
        request: &Forward<'_>,
    ) -> Result<ForwardOutput> {
        let step = Step::new(ops, self, workspace, batch_size, Input::Ids(ids), Some(0), request)?;
        step.upload(workspace, &Indices::of(&step).behind_whole(request))?;
        let mut record = Recorder::new(request, &self.config, step.num_tokens);
        self.launch(&step, workspace, None, &mut record)?;
        record.finish(&step, workspace)
    }

    /// Asks for all of the pass. Allocates nothing, and waits for nothing but what `record` hands out on the way.
    fn launch(
        &self,
        step: &Step<'_>,
        workspace: &mut Workspace,
        mut cached: Option<CachedStep<'_>>,
        record: &mut Recorder<'_>,
    ) -> Result<()> {
        let (ops, tokens) = (step.ops, step.num_tokens);
        if cached.is_some() && step.request.attention_weights.is_some() {
            return refuse("attention weights are not handed out for a sequence in a cache".into());
        }
        if step.first_layer() == 0 {
            self.embedding(step, workspace)?;
            record.hidden_state(ops, workspace, 0)?;
        }
        for (layer, block) in self.parameters.blocks.iter().enumerate().skip(step.first_layer()) {
            self.norm(ops, workspace, &block.norm1, tokens)?;
            self.attention(step, workspace, layer, cached.as_mut())?;
            record.attention_weights(step, workspace, layer)?;
            self.norm(ops, workspace, &block.norm2, tokens)?;
            match &block.feed_forward {
                FeedForward::Dense { .. } => self.mlp(ops, workspace, block, tokens)?,
                FeedForward::Experts(experts) => self.moe(step, workspace, layer, experts, record)?,
            }
            record.hidden_state(ops, workspace, layer + 1)?;
        }

        self.norm(ops, workspace, &self.parameters.final_norm, tokens)?;
        record.final_norm(ops, workspace)?;
        self.head(step, workspace)
    }

    /// `x = token embedding + position embedding`; nothing where the residual stream itself was put in.
    fn embedding(&self, step: &Step<'_>, workspace: &mut Workspace) -> Result<()> {
        let (batch_size, seq_len, hidden_size) = (step.batch_size, step.seq_len, self.config.hidden_size);
        let token_table = match step.input {
            Input::Ids(_) => self.parameters.token_table.tensor(&[self.config.vocab_size, hidden_size]),
            Input::Embeddings(_) => workspace.embeddings.tensor(&[step.num_tokens, hidden_size]),
            Input::HiddenStates { .. } => return Ok(()),
        };
        step.ops.embedding(EmbeddingParams {
            out: workspace.x.tensor_mut(&[batch_size, seq_len, hidden_size]),
            token_ids: workspace.indices.tensor(&[batch_size, seq_len]),
            token_table,
            position_table: self.parameters.position_table.tensor(&[self.config.block_size, hidden_size]),
            first_positions: match step.first_position {
                Some(_) => None,
                None => Some(Indices::of(step).positions(&workspace.indices)),
            },
            first_position: step.first_position.unwrap_or(0),
        })
    }

    /// `normed = layer_norm(x)`
    fn norm(
        &self,
        ops: &dyn Operations,
        workspace: &mut Workspace,
        norm: &Norm,
        num_tokens: usize,
    ) -> Result<()> {
        let hidden_size = self.config.hidden_size;
        ops.layer_norm(LayerNormParams {
            out: workspace.normed.tensor_mut(&[num_tokens, hidden_size]),
            x: workspace.x.tensor(&[num_tokens, hidden_size]),
            residual: None,
            gamma: norm.gamma.tensor(&[hidden_size]),
            beta: norm.beta.as_ref().map(|beta| beta.tensor(&[hidden_size])),
            eps: self.config.norm_eps,
        })
    }

    /// `x += mlp(normed)`
    fn mlp(
        &self,
        ops: &dyn Operations,
        workspace: &mut Workspace,
        block: &Block,
        num_tokens: usize,
    ) -> Result<()> {
        let FeedForward::Dense { up, down } = &block.feed_forward else { return Ok(()) };
        let (hidden_size, inner) = (self.config.hidden_size, self.config.intermediate_size);
        ops.mlp(MlpParams {
            out: workspace.x.tensor_mut(&[num_tokens, hidden_size]),
            x: workspace.normed.tensor(&[num_tokens, hidden_size]),
            hidden: workspace.hidden.tensor_mut(&[num_tokens, inner]),
            fc: up.weight.tensor(&[inner, hidden_size]),
            fc_bias: up.bias(inner),
            proj: down.weight.tensor(&[hidden_size, inner]),
            proj_bias: down.bias(hidden_size),
            activation: self.config.activation,
            residual: Residual::InPlace,
        })
    }

    /// Logits, argmax and losses of the rows asked for, from `normed`.
    fn head(&self, step: &Step<'_>, workspace: &mut Workspace) -> Result<()> {
        let (hidden_size, vocab_size) = (self.config.hidden_size, self.config.vocab_size);
        for (pass, head) in step.head_passes.iter().zip(&mut workspace.heads) {
            step.ops.lm_head(LmHeadParams {
                x: workspace.normed.tensor(&[step.num_tokens, hidden_size]),
                rows: pass.gathers().then(|| head.rows.tensor(&[pass.num_rows])),
                weight: self.parameters.head().tensor(&[vocab_size, hidden_size]),
                bias: self.parameters.head_bias.as_ref().map(|bias| bias.tensor(&[vocab_size])),
                logits: pass.writes_logits().then(|| head.logits.tensor_mut(&[pass.num_rows, vocab_size])),
                argmax: pass.argmax.then(|| head.argmax.tensor_mut(&[pass.num_rows])),
                allowed_vocab: step.request.allowed_vocab.unwrap_or(vocab_size),
                cross_entropy: pass.targets.map(|targets| CrossEntropy {
                    targets: head.targets.tensor(&[pass.num_rows]),
                    ignore_index: targets.ignore_index,
                    losses: head.losses.tensor_mut(&[pass.num_rows]),
                }),
                scratch: head.scratch.tensor_mut(&[LmHeadParams::scratch_len(pass.num_rows, vocab_size)]),
            })?;
            if let Some(request) = step.request.draw.filter(|_| pass.draws) {
                let (batch_size, words) = (step.batch_size, vocab_size.div_ceil(32));
                let draw = &mut workspace.draw;
                step.ops.sampling(SamplingParams {
                    logits: head.logits.tensor(&[batch_size, vocab_size]),
                    allowed: request.allowed.map(|_| draw.allowed.tensor(&[words])),
                    seen: request.seen.map(|_| draw.seen.tensor_mut(&[batch_size, words])),
                    settings: draw.settings.tensor(&[batch_size, SamplingSettings::WORDS]),
                    // An id stands behind all that its sequence has
                    positions: Indices::of(step).lengths(&workspace.indices),
                    ids: draw.ids.tensor_mut(&[batch_size]),
                    logprobs: request.logprobs.then(|| draw.logprobs.tensor_mut(&[batch_size])),
                })?;
            }
        }
        Ok(())
    }
}

/// A one-line refusal of what the caller asked.
fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Input(message))
}
