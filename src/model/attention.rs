//! `x += attention(normed)`: queries, keys and values, attention, output projection.

use super::kv_cache::CacheLayer;
use super::parameters::Block;
use super::request::Step;
use super::{Model, Workspace};
use crate::error::Result;
use crate::operations::{Activation, AttentionParams, GemmParams, Residual};
use crate::tensor::{Tensor, TensorMut};

impl Model {
    pub(super) fn attention(
        &self,
        step: &Step<'_>,
        workspace: &mut Workspace,
        block: &Block,
        cache: Option<CacheLayer<'_>>,
    ) -> Result<()> {
        let (batch_size, seq_len, tokens) = (step.batch_size, step.seq_len, step.num_tokens);
        let (hidden_size, head_dim) = (self.config.hidden_size, self.config.head_dim());
        let heads = [batch_size, seq_len, self.config.num_heads, head_dim];
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
        let attend = |q: Tensor<'_>, k: Tensor<'_>, v: Tensor<'_>, out: TensorMut<'_>| {
            step.ops.attention(AttentionParams {
                out,
                q,
                k,
                v,
                kv_len: step.first_position + seq_len,
                kv_lengths: None,
                block_table: None,
                softmax_scale: 1.0 / (head_dim as f32).sqrt(),
            })
        };
        let attended = workspace.attended.tensor_mut(&heads);
        match cache {
            None => {
                let shape = [batch_size, seq_len, 3 * hidden_size];
                project(workspace.qkv.tensor_mut(&[tokens, 3 * hidden_size]), 0, 3 * hidden_size)?;
                let qkv = workspace.qkv.tensor(&shape);
                let part = |index: usize| qkv.narrow(2, index * hidden_size, hidden_size).split(2, head_dim);
                attend(part(0), part(1), part(2), attended)?;
            }
            Some(mut cache) => {
                project(workspace.qkv.tensor_mut(&[tokens, hidden_size]), 0, hidden_size)?;
                project(cache.next(seq_len), hidden_size, 2 * hidden_size)?;
                let (k, v) = cache.keys_and_values();
                attend(workspace.qkv.tensor(&heads), k, v, attended)?;
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
