//! Causal attention, and attention of single queries over long caches.

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::kernels::{DeviceOperations, traffic};
use nanomoe::operations::{AttentionDims, AttentionParams, KvSplit, Operations};
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::data::{self, poisoned, random, sample};
use super::work::{Work, dot, sizes, sum_error, worse};

pub struct Attention {
    batch_size: usize,
    seq_len: usize,
    kv_len: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    q: Buffer,   // [batch_size, seq_len, num_heads, head_dim]
    k: Buffer,   // [batch_size, kv_len, num_kv_heads, head_dim]
    v: Buffer,   // as k
    out: Buffer, // as q
    /// Where queries are few: what splits leave, and their counters.
    split: Option<(Buffer, Buffer)>,
}

impl Attention {
    pub fn new(ops: &DeviceOperations, dtype: DType, dims: &[usize]) -> Result<Self> {
        let [batch_size, seq_len, kv_len, num_heads, num_kv_heads, head_dim] = sizes(dims)?;
        let queries = batch_size * seq_len * num_heads * head_dim;
        let keys = batch_size * kv_len * num_kv_heads * head_dim;
        let all =
            AttentionDims { batch_size, seq_len, num_heads, num_kv_heads, head_dim, kv_capacity: kv_len };
        let split = match seq_len {
            1 => {
                let partials = ops.allocate(DType::F32, KvSplit::partials_len(all, kv_len))?;
                let zeros = vec![0i32; batch_size * num_kv_heads];
                let mut counters = ops.allocate(DType::I32, zeros.len())?;
                ops.upload(counters.tensor_mut(&[zeros.len()]), bytemuck::cast_slice(&zeros))?;
                Some((partials, counters))
            }
            _ => None,
        };
        Ok(Attention {
            batch_size,
            seq_len,
            kv_len,
            num_heads,
            num_kv_heads,
            head_dim,
            q: random(ops, dtype, queries, 1, 1.0)?,
            k: random(ops, dtype, keys, 2, 1.0)?,
            v: random(ops, dtype, keys, 3, 1.0)?,
            out: poisoned(ops, dtype, queries)?,
            split,
        })
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

impl Attention {
    fn params(&mut self) -> AttentionParams<Tensor<'_>, TensorMut<'_>> {
        let queries = [self.batch_size, self.seq_len, self.num_heads, self.head_dim];
        let keys = [self.batch_size, self.kv_len, self.num_kv_heads, self.head_dim];
        let softmax_scale = self.scale();
        AttentionParams {
            out: self.out.tensor_mut(&queries),
            q: self.q.tensor(&queries),
            k: self.k.tensor(&keys),
            v: self.v.tensor(&keys),
            kv_len: self.kv_len,
            kv_lengths: None,
            block_table: None,
            softmax_scale,
            split: self.split.as_mut().map(|(partials, counters)| {
                let (partials_len, counters_len) = ([partials.len()], [counters.len()]);
                KvSplit {
                    partials: partials.tensor_mut(&partials_len),
                    counters: counters.tensor_mut(&counters_len),
                }
            }),
        }
    }
}

impl Work for Attention {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        ops.attention(self.params())
    }

    fn launch_bytes(&mut self, ops: &DeviceOperations) -> Result<Option<u64>> {
        let raw = self.params().raw(ops.place())?;
        Ok(Some(traffic::attention_bytes(ops.kernels(), &raw)?))
    }

    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let (d, group) = (self.head_dim, self.num_heads / self.num_kv_heads);
        let mut worst = 0.0;
        for row in sample(self.batch_size * self.seq_len * self.num_heads, 24) {
            let (head, query, batch) = (
                row % self.num_heads,
                row / self.num_heads % self.seq_len,
                row / self.num_heads / self.seq_len,
            );
            let visible = query + 1 + self.kv_len - self.seq_len;
            let width = self.num_kv_heads * d;
            let of_head = |buffer: &Buffer| -> Result<Vec<Vec<f64>>> {
                let all = data::part(ops, buffer, batch * self.kv_len * width, visible * width)?;
                let head = head / group * d;
                Ok(all.chunks_exact(width).map(|key| key[head..head + d].to_vec()).collect())
            };
            let (q, k, v) = (data::row(ops, &self.q, row, d)?, of_head(&self.k)?, of_head(&self.v)?);
            let scores: Vec<(f64, f64)> = k.iter().map(|key| dot(&q, key)).collect();
            let scale = f64::from(self.scale());
            let largest = scores.iter().map(|(score, _)| *score).fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> =
                scores.iter().map(|(score, _)| ((score - largest) * scale).exp()).collect();
            let total: f64 = weights.iter().sum();
            let score_size = scores.iter().map(|(_, size)| *size).fold(0.0, f64::max);
            // A weight is stored in bf16, and is as wrong as its score, relatively.
            let weight_error = 1.0 / 256.0 + 2.0 * scale * sum_error(d, score_size) + 1e-5;
            for (dim, got) in data::row(ops, &self.out, row, d)?.into_iter().enumerate() {
                let terms = || weights.iter().zip(&v).map(|(weight, value)| weight * value[dim] / total);
                let (wanted, size) = terms().fold((0.0, 0.0), |(sum, size), t| (sum + t, size + f64::abs(t)));
                let allowed = wanted.abs() / 256.0 + weight_error * size + sum_error(visible, size);
                worst = worse(worst, got, wanted, allowed);
            }
        }
        Ok(worst)
    }

    /// Products with the keys that are seen; half of all for a long causal one.
    fn flops(&self) -> f64 {
        let (s, kv) = (self.seq_len as f64, self.kv_len as f64);
        let seen = s * (kv - s) + s * (s + 1.0) / 2.0;
        4.0 * (self.batch_size * self.num_heads * self.head_dim) as f64 * seen
    }

    fn bytes(&mut self) -> f64 {
        self.params().fewest_bytes() as f64
    }
}
