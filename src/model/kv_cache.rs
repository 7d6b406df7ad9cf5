//! Keys and values of the tokens seen so far, in blocks that sequences take and give back.

use std::collections::BTreeSet;

use super::refuse;
use crate::buffer::Buffer;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::operations::Operations;
use crate::tensor::{DType, Tensor, TensorMut};

/// A pool of blocks for each layer, `[num_blocks, block_size, 2 · hidden_size]`: a token's key beside its value. A
/// sequence names its blocks in order, so sequences come, grow and go without copying.
#[derive(Debug)]
pub(super) struct KvCache {
    layers: Vec<Buffer>,
    block_size: usize,
    hidden_size: usize,
    head_dim: usize,
    free: BTreeSet<u32>,
    /// Sequences that hold each block: more than one after a fork.
    holders: Vec<u32>,
}

/// The blocks of one sequence and how many tokens stand in them.
#[derive(Debug, Default)]
pub(super) struct CachedSequence {
    pub blocks: Vec<u32>,
    pub len: usize,
}

impl KvCache {
    pub fn new(
        ops: &dyn Operations,
        config: &ModelConfig,
        dtype: DType,
        num_blocks: usize,
        block_size: usize,
    ) -> Result<Self> {
        let elements = num_blocks.saturating_mul(block_size).saturating_mul(2 * config.hidden_size);
        let layers = (0..config.num_layers).map(|_| ops.allocate(dtype, elements)).collect::<Result<_>>()?;
        Ok(KvCache {
            layers,
            block_size,
            hidden_size: config.hidden_size,
            head_dim: config.head_dim(),
            free: (0..num_blocks as u32).collect(),
            holders: vec![0; num_blocks],
        })
    }

    pub fn num_blocks(&self) -> usize {
        self.holders.len()
    }

    pub fn num_free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Blocks that these sequences lack for `tokens` more tokens each.
    pub fn blocks_lacking<'a>(
        &self,
        sequences: impl Iterator<Item = &'a CachedSequence>,
        tokens: usize,
    ) -> usize {
        let lacking = |sequence: &CachedSequence| {
            (sequence.len + tokens).div_ceil(self.block_size).saturating_sub(sequence.blocks.len())
        };
        sequences.map(lacking).sum()
    }

    /// Takes blocks for `tokens` more tokens: the one behind the last where it is free, so that most sequences stand in
    /// one piece.
    ///
    /// # Errors
    /// [`crate::Error::Input`] where there are too few; none is taken then.
    pub fn grow(&mut self, sequence: &mut CachedSequence, tokens: usize) -> Result<()> {
        let lacking = self.blocks_lacking(std::iter::once(&*sequence), tokens);
        if lacking > self.free.len() {
            return refuse(format!(
                "{lacking} more blocks of {} tokens are needed, the KV cache has {} of {} free",
                self.block_size,
                self.free.len(),
                self.num_blocks()
            ));
        }
        for _ in 0..lacking {
            let behind = sequence.blocks.last().map(|last| last + 1);
            let block = behind
                .filter(|block| self.free.contains(block))
                .or_else(|| self.start_of_a_run(lacking))
                .or_else(|| self.free.first().copied());
            let Some(block) = block else { break };
            self.free.remove(&block);
            self.holders[block as usize] = 1;
            sequence.blocks.push(block);
        }
        Ok(())
    }

    /// The first of so many free blocks in a row.
    fn start_of_a_run(&self, count: usize) -> Option<u32> {
        let (mut first, mut len) = (0, 0);
        for &block in &self.free {
            if len == 0 || block != first + len {
                (first, len) = (block, 0);
            }
            len += 1;
            if len as usize >= count {
                return Some(first);
            }
        }
        None
    }

    /// Gives a sequence's blocks back.
    pub fn release(&mut self, sequence: CachedSequence) {
        for block in sequence.blocks {
            self.holders[block as usize] -= 1;
            if self.holders[block as usize] == 0 {
                self.free.insert(block);
            }
        }
    }

    /// A sequence with the same tokens. Full blocks are shared, since nobody writes to them again; one that is partly
    /// filled is copied.
    ///
    /// # Errors
    /// [`crate::Error::Input`] where no block is left for the copy, and what the copy says.
    pub fn fork(&mut self, ops: &dyn Operations, parent: &CachedSequence) -> Result<CachedSequence> {
        let full = parent.len / self.block_size;
        let mut child =
            CachedSequence { blocks: parent.blocks[..full].to_vec(), len: full * self.block_size };
        let rest = parent.len - child.len;
        if rest > 0 {
            // Taking the block first: nothing is to be undone where there is none.
            self.grow(&mut child, rest)?;
            let (from, to) = (parent.blocks[full] as usize, child.blocks[full] as usize);
            for layer in 0..self.layers.len() {
                if let Err(error) = self.copy_rows(ops, layer, from, to, rest) {
                    self.holders[to] = 0;
                    self.free.insert(to as u32);
                    return Err(error);
                }
            }
        }
        child.len = parent.len;
        for &block in &child.blocks[..full] {
            self.holders[block as usize] += 1;
        }
        Ok(child)
    }

    /// Forgets all but the first `len` tokens.
    ///
    /// # Errors
    /// As [`KvCache::fork`]: the block that is cut is copied where another sequence has it too.
    pub fn truncate(
        &mut self,
        ops: &dyn Operations,
        sequence: &mut CachedSequence,
        len: usize,
    ) -> Result<()> {
        if len >= sequence.len {
            return Ok(());
        }
        let kept = len.div_ceil(self.block_size);
        let is_cut = !len.is_multiple_of(self.block_size);
        let shares_cut = is_cut && self.holders[sequence.blocks[kept - 1] as usize] > 1;
        let own = match shares_cut {
            true => Some(self.fork(ops, &CachedSequence { blocks: sequence.blocks[..kept].to_vec(), len })?),
            false => None,
        };
        let (blocks, own) = match own {
            Some(own) => (std::mem::take(&mut sequence.blocks), Some(own)),
            None => (sequence.blocks.split_off(kept), None),
        };
        self.release(CachedSequence { blocks, len: 0 });
        sequence.blocks.extend(own.into_iter().flat_map(|own| own.blocks));
        sequence.len = len;
        Ok(())
    }

    /// Copies the first `count` tokens of a block of a layer into another block.
    fn copy_rows(
        &mut self,
        ops: &dyn Operations,
        layer: usize,
        from: usize,
        to: usize,
        count: usize,
    ) -> Result<()> {
        let size = self.block_size;
        let (front, back) = self.rows_mut(layer).split_rows(from.max(to) * size);
        let front = front.narrow(0, from.min(to) * size, count);
        let back = back.narrow(0, 0, count);
        if from < to { ops.copy(back, front.as_ref()) } else { ops.copy(front, back.as_ref()) }
    }

    /// The row of the pool that each of these positions of a sequence stands in.
    pub fn rows(
        &self,
        sequence: &CachedSequence,
        positions: std::ops::Range<usize>,
    ) -> impl Iterator<Item = i32> {
        let (blocks, size) = (&sequence.blocks, self.block_size);
        positions.map(move |position| (blocks[position / size] as usize * size + position % size) as i32)
    }

    /// The row of the first token, where a sequence's tokens stand one after the other.
    pub fn first_row_of_run(&self, sequence: &CachedSequence) -> Option<usize> {
        let in_a_run = sequence.blocks.windows(2).all(|pair| pair[1] == pair[0] + 1);
        sequence.blocks.first().filter(|_| in_a_run).map(|&block| block as usize * self.block_size)
    }

    /// All rows of a layer, `[num_blocks * block_size, 2 * hidden_size]`.
    pub fn rows_mut(&mut self, layer: usize) -> TensorMut<'_> {
        let rows = self.num_blocks() * self.block_size;
        self.layers[layer].tensor_mut(&[rows, 2 * self.hidden_size])
    }

    /// Keys and values of a layer in blocks, `[num_blocks, block_size, num_heads, head_dim]` each.
    pub fn blocks(&self, layer: usize) -> (Tensor<'_>, Tensor<'_>) {
        self.keys_and_values(layer, &[self.num_blocks(), self.block_size, 2 * self.hidden_size], 0, None)
    }

    /// Keys and values of `len` rows from `first` on, `[1, len, num_heads, head_dim]` each.
    pub fn run(&self, layer: usize, first: usize, len: usize) -> (Tensor<'_>, Tensor<'_>) {
        let rows = self.num_blocks() * self.block_size;
        self.keys_and_values(layer, &[1, rows, 2 * self.hidden_size], first, Some(len))
    }

    fn keys_and_values(
        &self,
        layer: usize,
        shape: &[usize; 3],
        first: usize,
        len: Option<usize>,
    ) -> (Tensor<'_>, Tensor<'_>) {
        let all = self.layers[layer].tensor(shape);
        let all = len.map_or(all, |len| all.narrow(1, first, len));
        let half = |start| all.narrow(2, start, self.hidden_size).split(2, self.head_dim);
        (half(0), half(self.hidden_size))
    }
}
