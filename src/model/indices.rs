//! The integers that tell the kernels of a pass which tokens they have and where those stand.

use super::Forward;
use super::request::Step;
use crate::buffer::Buffer;
use crate::tensor::Tensor;

/// Uploaded at once: ids `[num_tokens]`, and where the pass needs them rows of the cache `[num_tokens]`, positions
/// `[batch_size]` of the first tokens, and lengths `[batch_size]` of the sequences, these tokens among them.
#[derive(Clone, Copy)]
pub(super) struct Indices {
    num_tokens: usize,
    batch_size: usize,
}

impl Indices {
    pub fn of(step: &Step<'_>) -> Self {
        Indices { num_tokens: step.num_tokens, batch_size: step.batch_size }
    }

    /// What stands behind the ids of whole sequences.
    pub fn behind_whole(self, request: &Forward<'_>) -> Vec<i32> {
        if request.draw.is_none() {
            return Vec::new();
        }
        let len = (self.num_tokens / self.batch_size) as i32;
        let mut behind = vec![0; self.num_tokens + self.batch_size];
        behind.resize(self.num_tokens + 2 * self.batch_size, len);
        behind
    }

    /// The row of the cache for each token.
    pub fn kv_rows(self, indices: &Buffer) -> Tensor<'_> {
        self.part(indices, self.num_tokens, self.num_tokens)
    }

    /// The position of each sequence's first token.
    pub fn positions(self, indices: &Buffer) -> Tensor<'_> {
        self.part(indices, 2 * self.num_tokens, self.batch_size)
    }

    /// Tokens of each sequence, the new ones among them.
    pub fn lengths(self, indices: &Buffer) -> Tensor<'_> {
        self.part(indices, 2 * self.num_tokens + self.batch_size, self.batch_size)
    }

    fn part(self, indices: &Buffer, start: usize, len: usize) -> Tensor<'_> {
        indices.tensor(&[indices.len()]).narrow(0, start, len)
    }
}
