//! `x += attention(normed)`: queries, keys and values, attention, output projection.

use super::indices::Indices;
use super::request::Step;
use super::session::{CachedStep, KvAccess};
use super::{Model, Workspace};
use crate::error::Result;
use crate::operations::{Activation, AttentionParams, GemmParams, KvSplit, QkvParams, Residual};
use crate::tensor::TensorMut;

impl Model {
    pub(super) fn attention(
        &self,
        step: &Step<'_>,
        workspace: &mut Workspace,
        layer: usize,
        cached: Option<&mut CachedStep<'_>>,
    ) -> Result<()> {
        let block = &self.parameters.blocks[layer];
        let (batch_size, seq_len, tokens) = (step.batch_size, step.seq_len, step.num_tokens);
        let (hidden_size, head_dim) = (self.config.hidden_size, self.config.head_dim());
        let heads = [batch_size, seq_len, self.config.num_heads, head_dim];
        let softmax_scale = 1.0 / (head_dim as f32).sqrt();
        let weight = block.qkv.weight.tensor(&[3 * hidden_size, hidden_size]);
        let bias = block.qkv.bias(3 * hidden_size);
        let normed = workspace.normed.tensor(&[tokens, hidden_size]);

        // Rows first..first + len of the QKV matrix.
        let project = |out: TensorMut<'_>, first: usize, len: usize| {
            step.ops.gemm(GemmParams {
                out,
                a: normed,
                b: weight.narrow(0, first, len),
                bias: bias.map(|bias| bias.narrow(0, first, len)),
                activation: Activation::Identity,
                residual: Residual::None,
            })
        };
        let out = workspace.attended.tensor_mut(&heads);
        match cached {
            None => {
                let shape = [batch_size, seq_len, 3 * hidden_size];
                project(workspace.qkv.tensor_mut(&[tokens, 3 * hidden_size]), 0, 3 * hidden_size)?;
                let qkv = workspace.qkv.tensor(&shape);
                let part = |index: usize| qkv.narrow(2, index * hidden_size, hidden_size).split(2, head_dim);
                step.ops.attention(AttentionParams {
                    out,
                    q: part(0),
                    k: part(1),
                    v: part(2),
                    kv_len: seq_len,
                    kv_lengths: None,
                    block_table: None,
                    softmax_scale,
                    split: None,
                })?;
            }
            Some(CachedStep { cache, access: KvAccess::Run { first_row, first_position } }) => {
                let kv_len = *first_position + seq_len;
                project(workspace.qkv.tensor_mut(&[tokens, hidden_size]), 0, hidden_size)?;
                let new_rows = cache.rows_mut(layer).narrow(0, *first_row + *first_position, seq_len);
                project(new_rows, hidden_size, 2 * hidden_size)?;
                let (k, v) = cache.run(layer, *first_row, kv_len);
                step.ops.attention(AttentionParams {
                    out,
                    q: workspace.qkv.tensor(&heads),
                    k,
                    v,
                    kv_len,
                    kv_lengths: None,
                    block_table: None,
                    softmax_scale,
                    split: None,
                })?;
            }
            Some(CachedStep { cache, access: KvAccess::Tables { kv_len } }) => {
                let Some(tables) = &mut workspace.cached else { return Ok(()) };
                let indices = Indices::of(step);
                step.ops.qkv(QkvParams {
                    q: workspace.qkv.tensor_mut(&[tokens, hidden_size]),
                    kv: cache.rows_mut(layer),
                    kv_rows: indices.kv_rows(&workspace.indices),
                    a: normed,
                    weight,
                    bias,
                })?;
                let (k, v) = cache.blocks(layer);
                let (partials, counters) = ([tables.partials.len()], [tables.counters.len()]);
                step.ops.attention(AttentionParams {
                    out,
                    q: workspace.qkv.tensor(&heads),
                    k,
                    v,
                    kv_len: *kv_len,
                    kv_lengths: Some(indices.lengths(&workspace.indices)),
                    block_table: Some(tables.block_table.tensor(&[batch_size, tables.max_blocks])),
                    softmax_scale,
                    // The memory is that of one query a sequence
                    split: (seq_len == 1).then(|| KvSplit {
                        partials: tables.partials.tensor_mut(&partials),
                        counters: tables.counters.tensor_mut(&counters),
                    }),
                })?;
            }
        }
        step.ops.gemm(GemmParams {
            out: workspace.x.tensor_mut(&[tokens, hidden_size]),
            a: workspace.attended.tensor(&[tokens, hidden_size]),
            b: block.out.weight.tensor(&[hidden_size, hidden_size]),
            bias: block.out.bias(hidden_size),
            activation: Activation::Identity,
            residual: Residual::InPlace,
        })
    }
}
