//! Keys and values of the tokens seen so far.

use crate::buffer::Buffer;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::operations::Operations;
use crate::tensor::{DType, Tensor, TensorMut};

/// For each layer `[batch_size, max_len, 2 · hidden_size]`: a token's key beside its value, so that one matrix product
/// writes both where they stay.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Buffer>,
    batch_size: usize,
    max_len: usize,
    len: usize,
    hidden_size: usize,
    head_dim: usize,
}

impl KvCache {
    pub(super) fn new(
        ops: &dyn Operations,
        config: &ModelConfig,
        dtype: DType,
        batch_size: usize,
        max_len: usize,
    ) -> Result<Self> {
        let elements = batch_size * max_len * 2 * config.hidden_size;
        let layers = (0..config.num_layers).map(|_| ops.allocate(dtype, elements)).collect::<Result<_>>()?;
        let (hidden_size, head_dim) = (config.hidden_size, config.head_dim());
        Ok(KvCache { layers, batch_size, max_len, len: 0, hidden_size, head_dim })
    }

    /// Tokens of each sequence it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens of each sequence it has room for.
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Sequences.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Forgets all but the first `len` tokens of each sequence.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    pub(super) fn layer(&mut self, layer: usize) -> CacheLayer<'_> {
        CacheLayer {
            buffer: &mut self.layers[layer],
            shape: [self.batch_size, self.max_len, 2 * self.hidden_size],
            len: self.len,
            head_dim: self.head_dim,
        }
    }
}

/// The cache of one layer during a step.
pub(super) struct CacheLayer<'a> {
    buffer: &'a mut Buffer,
    shape: [usize; 3],
    len: usize,
    head_dim: usize,
}

impl CacheLayer<'_> {
    /// Where the keys and values of the next tokens go: `[batch_size, tokens, 2 · hidden_size]`.
    pub fn next(&mut self, tokens: usize) -> TensorMut<'_> {
        self.buffer.tensor_mut(&self.shape).narrow(1, self.len, tokens)
    }

    /// All keys and values, `[batch_size, max_len, num_heads, head_dim]` each.
    pub fn keys_and_values(&self) -> (Tensor<'_>, Tensor<'_>) {
        let hidden_size = self.shape[2] / 2;
        let half =
            |first| self.buffer.tensor(&self.shape).narrow(2, first, hidden_size).split(2, self.head_dim);
        (half(0), half(hidden_size))
    }
}
