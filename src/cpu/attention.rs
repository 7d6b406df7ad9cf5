//! Attention by blocks of queries: scores of a block by a matrix product, their softmax, times the values.

use std::ops::Range;

use rayon::prelude::*;

use super::gemm::strided_matmul;
use super::simd;
use crate::buffer::zeroed;
use crate::error::{Error, Result};
use crate::operations::{AttentionDims, AttentionParams, Numerics};
use crate::tensor::{AsView, Place, Tensor, TensorMut, TensorView};

const NAME: &str = "attention";

/// Queries that share a block of scores: keeps the scores of a head in cache.
const BLOCK: usize = 64;

/// Below this many queries a matrix product does not pay.
const FEW_QUERIES: usize = 4;

/// Multiplications that are worth handing to another core.
const TASK_WORK: usize = 1 << 15;

/// Keys or values, and where each of them stands.
struct Cache<'a> {
    values: &'a [f32],
    view: TensorView,
}

impl<'a> Cache<'a> {
    fn new(tensor: Tensor<'a>) -> Result<Self> {
        Ok(Cache { view: tensor.view(), values: tensor.as_slice::<f32>(NAME)? })
    }
}

struct Attention<'a> {
    dims: AttentionDims,
    q: Cache<'a>,
    k: Cache<'a>,
    v: Cache<'a>,
    lengths: Vec<usize>,
    /// Blocks of each sequence, `[batch_size, max_blocks]`.
    table: Option<(&'a [i32], usize)>,
    scale: f32,
    numerics: Numerics,
}

pub(super) fn attention(p: AttentionParams<Tensor<'_>, TensorMut<'_>>, numerics: Numerics) -> Result<()> {
    let dims = p.check()?;
    p.raw(Place::Host)?;
    let table = match p.block_table {
        Some(table) => Some((table.as_slice::<i32>(NAME)?, table.shape()[1])),
        None => None,
    };
    let lengths = match p.kv_lengths {
        None => vec![p.kv_len; dims.batch_size],
        Some(lengths) => {
            let lengths = lengths.as_slice::<i32>(NAME)?;
            lengths.iter().map(|&length| (length.max(0) as usize).min(p.kv_len)).collect()
        }
    };
    let (q, k, v) = (Cache::new(p.q)?, Cache::new(p.k)?, Cache::new(p.v)?);
    let attention = Attention { dims, q, k, v, lengths, table, scale: p.softmax_scale, numerics };
    attention.check_table()?;

    let out_view = p.out.view();
    let out = p.out.into_slice::<f32>(NAME)?;
    if dims.seq_len == 1 && out_view.is_dense() {
        attention.compute(out);
        return Ok(());
    }
    // Tasks fill [batch_size, num_heads, seq_len, head_dim]; out has heads innermost.
    let mut by_head = zeroed(dims.batch_size * dims.num_heads * dims.seq_len * dims.head_dim)?;
    attention.compute(&mut by_head);
    let strides = out_view.strides();
    for (row, values) in by_head.chunks_exact(dims.head_dim).enumerate() {
        let (sequence_head, t) = (row / dims.seq_len, row % dims.seq_len);
        let (batch, head) = (sequence_head / dims.num_heads, sequence_head % dims.num_heads);
        let offset = batch * strides[0] + t * strides[1] + head * strides[2];
        out[offset..][..dims.head_dim].copy_from_slice(values);
    }
    Ok(())
}

impl Attention<'_> {
    /// Blocks in use are blocks there are.
    fn check_table(&self) -> Result<()> {
        let Some((table, max_blocks)) = self.table else { return Ok(()) };
        let (num_blocks, block_size) = (self.k.view.shape()[0], self.k.view.shape()[1]);
        for (batch, length) in self.lengths.iter().enumerate() {
            for &block in &table[batch * max_blocks..][..length.div_ceil(block_size)] {
                if block < 0 || block as usize >= num_blocks {
                    let message = format!("block_table names block {block} of {num_blocks}");
                    return Err(Error::Tensor { operation: NAME, message });
                }
            }
        }
        Ok(())
    }

    /// Fills `out` `[batch_size, num_heads, seq_len, head_dim]`.
    fn compute(&self, out: &mut [f32]) {
        let d = &self.dims;
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let blocks = d.seq_len.div_ceil(BLOCK);
        let work = d.seq_len * longest * d.head_dim;
        let task = |(head, out): (usize, &mut [f32])| {
            out.chunks_mut(BLOCK * d.head_dim).enumerate().for_each(|(block, out)| {
                self.block(head / d.num_heads, head % d.num_heads, block * BLOCK, out);
            });
        };
        if d.seq_len == 0 {
            return;
        }
        let heads = out.par_chunks_mut(d.seq_len * d.head_dim).enumerate();
        if work * d.batch_size * d.num_heads < 2 * TASK_WORK {
            out.chunks_mut(d.seq_len * d.head_dim).enumerate().for_each(task);
        } else if blocks == 1 || d.batch_size * d.num_heads >= 4 * rayon::current_num_threads() {
            heads.with_min_len(TASK_WORK.div_ceil(work.max(1))).for_each(task);
        } else {
            heads.for_each(|(head, out)| {
                out.par_chunks_mut(BLOCK * d.head_dim).enumerate().for_each(|(block, out)| {
                    self.block(head / d.num_heads, head % d.num_heads, block * BLOCK, out);
                });
            });
        }
    }

    /// Queries `first..` of one head into `out` `[queries, head_dim]`.
    fn block(&self, batch: usize, head: usize, first: usize, out: &mut [f32]) {
        let queries = out.len() / self.dims.head_dim;
        // One past the last key that any query of the block sees; none may be seen at all.
        let keys = (self.lengths[batch] + first + queries).saturating_sub(self.dims.seq_len);
        if keys == 0 {
            out.fill(0.0);
            return;
        }
        let is_fast = self.numerics == Numerics::Fast;
        if queries < FEW_QUERIES || self.table.is_some() || !is_fast {
            for (query, out) in out.chunks_exact_mut(self.dims.head_dim).enumerate() {
                self.one_query(batch, head, first + query, out);
            }
            return;
        }
        let (head_dim, kv_head) = (self.dims.head_dim, self.kv_head(head));
        let (q, k, v) = (&self.q, &self.k, &self.v);
        let q_stride = q.view.strides()[1];
        let q_rows = &q.values[self.query(batch, first, head)..];
        let (k_stride, v_stride) = (k.view.strides()[1], v.view.strides()[1]);
        let k_rows = &k.values[self.key(k, batch, 0, kv_head)..];
        let v_rows = &v.values[self.key(v, batch, 0, kv_head)..];

        let mut scores = vec![0.0; queries * keys];
        let shape = (queries, keys, head_dim);
        strided_matmul(&mut scores, keys, (q_rows, q_stride), (k_rows, 1, k_stride), shape, false);
        for (query, scores) in scores.chunks_exact_mut(keys).enumerate() {
            let visible = self.visible(batch, first + query).end;
            scores[visible..].fill(0.0);
            scores[..visible].iter_mut().for_each(|score| *score *= self.scale);
            simd::softmax(&mut scores[..visible]);
        }
        let shape = (queries, head_dim, keys);
        strided_matmul(out, head_dim, (&scores, keys), (v_rows, v_stride, 1), shape, false);
    }

    fn one_query(&self, batch: usize, head: usize, query: usize, out: &mut [f32]) {
        let head_dim = self.dims.head_dim;
        let kv_head = self.kv_head(head);
        let q = &self.q.values[self.query(batch, query, head)..][..head_dim];
        let visible = self.visible(batch, query);
        let mut scores = vec![0.0; visible.len()];
        let (k_stride, v_stride) = (self.k.view.strides()[1], self.v.view.strides()[1]);
        for run in self.runs(&visible) {
            let keys = &self.k.values[self.key(&self.k, batch, run.start, kv_head)..];
            simd::dot_rows(&mut scores[run], &[q], keys, k_stride);
        }
        scores.iter_mut().for_each(|score| *score *= self.scale);
        simd::softmax(&mut scores);
        out.fill(0.0);
        for run in self.runs(&visible) {
            let values = &self.v.values[self.key(&self.v, batch, run.start, kv_head)..];
            simd::vectorized(
                #[inline(always)]
                || {
                    for (index, &weight) in scores[run].iter().enumerate() {
                        simd::add_scaled(out, weight, &values[index * v_stride..][..head_dim]);
                    }
                },
            );
        }
    }

    /// The keys of `visible` in runs that stand a stride apart: all of them, or those of a block each.
    fn runs(&self, visible: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let end = visible.end;
        let size = if self.table.is_some() { self.k.view.shape()[1] } else { end.max(1) };
        (0..end).step_by(size).map(move |first| first..(first + size).min(end))
    }

    /// The keys a query sees: the last query stands at the last key.
    fn visible(&self, batch: usize, query: usize) -> Range<usize> {
        0..(self.lengths[batch] + query + 1).saturating_sub(self.dims.seq_len)
    }

    fn kv_head(&self, head: usize) -> usize {
        head / (self.dims.num_heads / self.dims.num_kv_heads)
    }

    fn query(&self, batch: usize, query: usize, head: usize) -> usize {
        let strides = self.q.view.strides();
        batch * strides[0] + query * strides[1] + head * strides[2]
    }

    #[inline(always)]
    fn key(&self, cache: &Cache<'_>, batch: usize, key: usize, kv_head: usize) -> usize {
        let strides = cache.view.strides();
        let (outer, inner) = match self.table {
            None => (batch, key),
            Some((table, max_blocks)) => {
                let block_size = cache.view.shape()[1];
                (table[batch * max_blocks + key / block_size] as usize, key % block_size)
            }
        };
        outer * strides[0] + inner * strides[1] + kv_head * strides[2]
    }
}
