//! What streams tokens once: layer norms and the embedding.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{EmbeddingParams, FusedResidual, LayerNormParams, Operations};
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::data::{self, poisoned, random, sample};
use super::work::{ROUNDING, Work, stored, worse};

pub struct LayerNorm {
    num_tokens: usize,
    hidden_size: usize,
    fused: bool,
    x: Buffer,     // [num_tokens, hidden_size]
    delta: Buffer, // [num_tokens, hidden_size], or one element
    sum: Buffer,   // as delta
    gamma: Buffer, // f32 [hidden_size]
    beta: Buffer,  // f32 [hidden_size]
    out: Buffer,   // [num_tokens, hidden_size]
}

impl LayerNorm {
    const EPS: f32 = 1e-5;

    pub fn new(
        ops: &DeviceOperations,
        dtype: DType,
        num_tokens: usize,
        hidden_size: usize,
        fused: bool,
    ) -> Result<Self> {
        let len = num_tokens * hidden_size;
        let second = if fused { len } else { 1 };
        Ok(LayerNorm {
            num_tokens,
            hidden_size,
            fused,
            x: random(ops, dtype, len, 1, 1.0)?,
            delta: random(ops, dtype, second, 2, 1.0)?,
            sum: poisoned(ops, dtype, second)?,
            gamma: random(ops, DType::F32, hidden_size, 3, 1.0)?,
            beta: random(ops, DType::F32, hidden_size, 4, 1.0)?,
            out: poisoned(ops, dtype, len)?,
        })
    }
}

impl LayerNorm {
    fn params(&mut self) -> LayerNormParams<Tensor<'_>, TensorMut<'_>> {
        let shape = [self.num_tokens, self.hidden_size];
        let residual = self
            .fused
            .then(|| FusedResidual { delta: self.delta.tensor(&shape), sum: self.sum.tensor_mut(&shape) });
        LayerNormParams {
            out: self.out.tensor_mut(&shape),
            x: self.x.tensor(&shape),
            residual,
            gamma: self.gamma.tensor(&shape[1..]),
            beta: Some(self.beta.tensor(&shape[1..])),
            eps: Self::EPS,
        }
    }
}

impl Work for LayerNorm {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.layer_norm(self.params())
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let c = self.hidden_size;
        let (gamma, beta) = (data::part(ops, &self.gamma, 0, c)?, data::part(ops, &self.beta, 0, c)?);
        let mut worst = 0.0;
        for row in sample(self.num_tokens, 64) {
            let mut x = data::row(ops, &self.x, row, c)?;
            if self.fused {
                let (delta, sum) = (data::row(ops, &self.delta, row, c)?, data::row(ops, &self.sum, row, c)?);
                for ((x, delta), sum) in x.iter_mut().zip(delta).zip(sum) {
                    *x = stored(*x + delta);
                    worst = worse(worst, sum, *x, 1e-30);
                }
            }
            let wanted = nanomoe::reference::layer_norm(&x, &gamma, Some(&beta), Self::EPS.into());
            for (got, wanted) in data::row(ops, &self.out, row, c)?.into_iter().zip(wanted) {
                worst = worse(worst, got, wanted, ROUNDING * wanted.abs() + 1e-5);
            }
        }
        Ok(worst)
    }

    fn flops(&self) -> f64 {
        8.0 * (self.num_tokens * self.hidden_size) as f64
    }

    fn bytes(&mut self) -> f64 {
        self.params().fewest_bytes() as f64
    }
}

/// Rows of two tables, added.
pub struct Embedding {
    dims: [usize; 4],
    host_ids: Vec<i32>,
    ids: Buffer,       // i32 [batch_size, seq_len]
    tokens: Buffer,    // [vocab_size, hidden_size]
    positions: Buffer, // [seq_len, hidden_size]
    out: Buffer,       // [batch_size, seq_len, hidden_size]
}

impl Embedding {
    pub fn new(ops: &DeviceOperations, dtype: DType, dims: [usize; 4]) -> Result<Self> {
        let [batch_size, seq_len, hidden_size, vocab_size] = dims;
        let host_ids = data::ids(batch_size * seq_len, vocab_size);
        Ok(Embedding {
            dims,
            ids: data::integers(ops, &host_ids)?,
            host_ids,
            tokens: random(ops, dtype, vocab_size * hidden_size, 1, 1.0)?,
            positions: random(ops, dtype, seq_len * hidden_size, 2, 1.0)?,
            out: poisoned(ops, dtype, batch_size * seq_len * hidden_size)?,
        })
    }
}

impl Embedding {
    fn params(&mut self) -> EmbeddingParams<Tensor<'_>, TensorMut<'_>> {
        let [batch_size, seq_len, hidden_size, vocab_size] = self.dims;
        EmbeddingParams {
            out: self.out.tensor_mut(&[batch_size, seq_len, hidden_size]),
            token_ids: self.ids.tensor(&[batch_size, seq_len]),
            token_table: self.tokens.tensor(&[vocab_size, hidden_size]),
            position_table: self.positions.tensor(&[seq_len, hidden_size]),
            first_positions: None,
            first_position: 0,
        }
    }
}

impl Work for Embedding {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.embedding(self.params())
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let [_, seq_len, hidden_size, _] = self.dims;
        let mut worst = 0.0;
        for row in sample(self.host_ids.len(), 64) {
            let token = data::row(ops, &self.tokens, self.host_ids[row] as usize, hidden_size)?;
            let position = data::row(ops, &self.positions, row % seq_len, hidden_size)?;
            let got = data::row(ops, &self.out, row, hidden_size)?;
            for (got, wanted) in got.into_iter().zip(token.iter().zip(position).map(|(a, b)| a + b)) {
                worst = worse(worst, got, wanted, ROUNDING * wanted.abs() + 1e-30);
            }
        }
        Ok(worst)
    }

    fn flops(&self) -> f64 {
        let [batch_size, seq_len, hidden_size, _] = self.dims;
        (batch_size * seq_len * hidden_size) as f64
    }

    /// What it writes, and each row of the tables that it reads once.
    fn bytes(&mut self) -> f64 {
        let num_distinct = data::distinct(&self.host_ids);
        self.params().fewest_bytes(num_distinct) as f64
    }
}
