use super::checks::Checker;
use super::view_of;
use crate::error::Result;
use crate::tensor::{AsView, DType, Place, Tensor, TensorMut, TensorView};

const CHECK: Checker = Checker { operation: "attention" };

/// Largest head dimension the kernels take.
pub(crate) const MAX_HEAD_DIM: usize = 256;

/// Causal scaled-dot-product attention (Vaswani et al. 2017, arXiv:1706.03762), fused with an online softmax
/// (Dao et al. 2022, arXiv:2205.14135): `out = softmax(q · kᵀ · softmax_scale + causal mask) · v`, per head.
///
/// The last query stands at the last key: query `t` of `seq_len` sees keys `0 ..= kv_len - seq_len + t`. Queries
/// before every key (a kv length below seq_len) see none and give zero rows. Query head `h` reads key-value head
/// `h / (num_heads / num_kv_heads)`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionParams<I = TensorView, O = TensorView> {
    /// `[batch_size, seq_len, num_heads, head_dim]`, any strides but the last.
    pub out: O,
    /// `[batch_size, seq_len, num_heads, head_dim]`, any strides but the last.
    pub q: I,
    /// `[batch_size, kv_capacity, num_kv_heads, head_dim]`, or with a block table
    /// `[num_blocks, block_size, num_kv_heads, head_dim]`; any strides but the last.
    pub k: I,
    /// As k.
    pub v: I,
    /// Keys of every sequence; with `kv_lengths` the most that any has.
    pub kv_len: usize,
    /// i32 `[batch_size]`: keys of each sequence, limited to 0 and `kv_len`.
    pub kv_lengths: Option<I>,
    /// i32 `[batch_size, max_blocks]`: key `s` of sequence `b` stands in block `block_table[b, s / block_size]`.
    pub block_table: Option<I>,
    /// Usually `1/√head_dim`.
    pub softmax_scale: f32,
    /// Memory by which a few queries share their keys out over the whole device; without, a block takes all keys of
    /// a head.
    pub split: Option<KvSplit<O>>,
}

/// Memory of attention whose keys are split: see [`AttentionParams::split`].
#[derive(Clone, Copy, Debug)]
pub struct KvSplit<O = TensorView> {
    /// f32, at least [`KvSplit::partials_len`] elements: what each split leaves.
    pub partials: O,
    /// i32, at least `batch_size * num_kv_heads` elements: all zero before the first call, and again after each.
    pub counters: O,
}

impl KvSplit {
    /// Fewest keys of a split; a fixed number, so that a row's bits do not depend on what else is computed.
    pub const MIN_KEYS: usize = 256;

    /// Elements of `partials` for sequences of up to `kv_len` keys.
    pub fn partials_len(dims: AttentionDims, kv_len: usize) -> usize {
        let rows = dims.batch_size * dims.seq_len * dims.num_heads;
        rows * kv_len.div_ceil(Self::MIN_KEYS) * (dims.head_dim + 2)
    }
}

/// Sizes of a checked [`AttentionParams`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct AttentionDims {
    pub batch_size: usize,
    pub seq_len: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Most keys a sequence can have in k and v.
    pub kv_capacity: usize,
}

impl<I: AsView, O: AsView> AttentionParams<I, O> {
    /// Checks shapes and types.
    pub fn check(&self) -> Result<AttentionDims> {
        let q = CHECK.rank("q", &self.q, 4)?;
        CHECK.float("q", &q)?;
        let &[batch_size, seq_len, num_heads, head_dim] = q.shape() else { unreachable!("rank was checked") };
        let what = "[batch_size, seq_len, num_heads, head_dim]";
        let out = CHECK.shape("out", &self.out, q.shape(), what)?;
        CHECK.dtype("out", &out, q.dtype)?;
        let k = CHECK.rank("k", &self.k, 4)?;
        let v = CHECK.shape("v", &self.v, k.shape(), "(k's shape)")?;
        CHECK.dtype("k", &k, q.dtype)?;
        CHECK.dtype("v", &v, q.dtype)?;
        let &[outer, inner, num_kv_heads, kv_head_dim] = k.shape() else { unreachable!("rank was checked") };
        CHECK.that((1..=MAX_HEAD_DIM).contains(&head_dim) && kv_head_dim == head_dim, || {
            format!(
                "head_dim is {head_dim} in q and {kv_head_dim} in k, expected both equal, 1 to {MAX_HEAD_DIM}"
            )
        })?;
        CHECK.that(num_kv_heads > 0 && num_heads % num_kv_heads == 0, || {
            format!("{num_heads} query heads over {num_kv_heads} key-value heads, expected a multiple")
        })?;
        let kv_capacity = match &self.block_table {
            None => {
                CHECK.that(outer == batch_size, || {
                    format!("k has a batch of {outer}, expected {batch_size} (batch_size)")
                })?;
                inner
            }
            Some(table) => {
                let table = CHECK.rank("block_table", table, 2)?;
                CHECK.dtype("block_table", &table, DType::I32)?;
                CHECK.that(table.shape()[0] == batch_size && table.is_dense(), || {
                    format!("block_table has shape {:?}, expected {batch_size} dense rows", table.shape())
                })?;
                table.shape()[1] * inner
            }
        };
        if let Some(lengths) = &self.kv_lengths {
            CHECK.dense("kv_lengths", lengths, DType::I32, &[batch_size], "[batch_size]")?;
        }
        CHECK.that(self.kv_len <= kv_capacity, || {
            format!("kv_len is {}, k and v hold {kv_capacity} keys", self.kv_len)
        })?;
        CHECK.that(self.softmax_scale.is_finite(), || format!("softmax_scale is {}", self.softmax_scale))?;
        let dims = AttentionDims { batch_size, seq_len, num_heads, num_kv_heads, head_dim, kv_capacity };
        if let Some(split) = &self.split {
            CHECK.scratch(
                "split.partials",
                &split.partials,
                DType::F32,
                KvSplit::partials_len(dims, self.kv_len),
            )?;
            CHECK.scratch("split.counters", &split.counters, DType::I32, batch_size * num_kv_heads)?;
        }
        Ok(dims)
    }
}

impl AttentionParams<Tensor<'_>, TensorMut<'_>> {
    /// The raw views, after checking that every tensor is at `place`.
    pub fn raw(&self, place: Place) -> Result<AttentionParams> {
        CHECK.place(
            place,
            &[
                ("out", self.out.place()),
                ("q", self.q.place()),
                ("k", self.k.place()),
                ("v", self.v.place()),
                ("kv_lengths", self.kv_lengths.map_or(Place::Unknown, |t| t.place())),
                ("block_table", self.block_table.map_or(Place::Unknown, |t| t.place())),
                ("split.partials", self.split.as_ref().map_or(Place::Unknown, |s| s.partials.place())),
                ("split.counters", self.split.as_ref().map_or(Place::Unknown, |s| s.counters.place())),
            ],
        )?;
        Ok(AttentionParams {
            out: self.out.view(),
            q: self.q.view(),
            k: self.k.view(),
            v: self.v.view(),
            kv_len: self.kv_len,
            kv_lengths: view_of(&self.kv_lengths),
            block_table: view_of(&self.block_table),
            softmax_scale: self.softmax_scale,
            split: self
                .split
                .as_ref()
                .map(|s| KvSplit { partials: s.partials.view(), counters: s.counters.view() }),
        })
    }
}
