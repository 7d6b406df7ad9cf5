//! The whole forward pass, written once over [`Operations`]: the same lines run on a GPU, the virtual GPU and the CPU.

mod attention;
mod kv_cache;
mod leaks;
mod moe;
mod output;
mod parameters;
mod recorded;
mod request;
mod workspace;

pub use kv_cache::KvCache;
pub use leaks::{Leak, find_leaks};
pub use output::{ForwardOutput, LayerRouting};
pub use recorded::RecordedForward;
pub use request::{Forward, LogitRows, MoeMode, Targets};
pub use workspace::Workspace;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::operations::{
    CrossEntropy, EmbeddingParams, LayerNormParams, LmHeadParams, MlpParams, Operations, Residual,
};
use crate::tensor::DType;
use crate::weights::Checkpoint;
use output::Recorder;
use parameters::{Block, FeedForward, Norm, Parameters};
use request::Step;

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

    /// Memory for the keys and values of `batch_size` sequences of up to `max_len` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn kv_cache(&self, ops: &dyn Operations, batch_size: usize, max_len: usize) -> Result<KvCache> {
        KvCache::new(ops, &self.config, self.dtype, batch_size, max_len)
    }

    /// The forward pass over `ids` `[batch_size, seq_len]`: all of a sequence, or with a cache what follows what the
    /// cache holds. Gives what `request` asks for.
    ///
    /// # Errors
    /// [`Error::Input`] for ids outside the vocabulary, no ids, a sequence longer than the position table, targets of
    /// another number; [`Error::Usage`] for capacity mode with a cache; and what the operations refuse.
    pub fn forward(
        &self,
        ops: &dyn Operations,
        workspace: &mut Workspace,
        mut cache: Option<&mut KvCache>,
        batch_size: usize,
        ids: &[u32],
        request: &Forward<'_>,
    ) -> Result<ForwardOutput> {
        let step = Step::new(ops, self, workspace, cache.as_deref(), batch_size, ids, request)?;
        step.upload(workspace, ids)?;
        let mut record = Recorder::new(request, &self.config, step.num_tokens);
        self.launch(&step, workspace, cache.as_deref_mut(), &mut record)?;
        if let Some(cache) = cache {
            cache.advance(step.seq_len);
        }
        record.finish(&step, workspace)
    }

    /// Asks for all of the pass. Allocates nothing, and waits for nothing but what `record` hands out on the way.
    fn launch(
        &self,
        step: &Step<'_>,
        workspace: &mut Workspace,
        mut cache: Option<&mut KvCache>,
        record: &mut Recorder<'_>,
    ) -> Result<()> {
        let (ops, tokens, hidden_size) = (step.ops, step.num_tokens, self.config.hidden_size);
        ops.embedding(EmbeddingParams {
            out: workspace.x.tensor_mut(&[step.batch_size, step.seq_len, hidden_size]),
            token_ids: workspace.token_ids.tensor(&[step.batch_size, step.seq_len]),
            token_table: self.parameters.token_table.tensor(&[self.config.vocab_size, hidden_size]),
            position_table: self.parameters.position_table.tensor(&[self.config.block_size, hidden_size]),
            first_positions: None,
            first_position: step.first_position,
        })?;
        record.hidden_state(ops, workspace)?;

        for (layer, block) in self.parameters.blocks.iter().enumerate() {
            self.norm(ops, workspace, &block.norm1, tokens)?;
            self.attention(step, workspace, block, cache.as_deref_mut().map(|cache| cache.layer(layer)))?;
            self.norm(ops, workspace, &block.norm2, tokens)?;
            match &block.feed_forward {
                FeedForward::Dense { .. } => self.mlp(ops, workspace, block, tokens)?,
                FeedForward::Experts(experts) => self.moe(step, workspace, layer, experts, record)?,
            }
            record.hidden_state(ops, workspace)?;
        }

        self.norm(ops, workspace, &self.parameters.final_norm, tokens)?;
        record.final_norm(ops, workspace)?;
        self.head(step, workspace)
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
                logits: pass.logits.then(|| head.logits.tensor_mut(&[pass.num_rows, vocab_size])),
                argmax: pass.argmax.then(|| head.argmax.tensor_mut(&[pass.num_rows])),
                allowed_vocab: step.request.allowed_vocab.unwrap_or(vocab_size),
                cross_entropy: pass.targets.map(|targets| CrossEntropy {
                    targets: head.targets.tensor(&[pass.num_rows]),
                    ignore_index: targets.ignore_index,
                    losses: head.losses.tensor_mut(&[pass.num_rows]),
                }),
                scratch: head.scratch.tensor_mut(&[LmHeadParams::scratch_len(pass.num_rows, vocab_size)]),
            })?;
        }
        Ok(())
    }
}

/// A one-line refusal of what the caller asked.
fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Input(message))
}
