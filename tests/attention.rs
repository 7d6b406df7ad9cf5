//! Causal attention: prefill, decoding, chunks in between, grouped heads, block tables.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::buffer::Buffer;
use nanomoe::cpu::CpuOperations;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics, attention_with_wgmma};
use nanomoe::operations::{AttentionDims, AttentionParams, KvSplit, Operations};
use nanomoe::reference::{self, AttentionShape};
use nanomoe::tensor::{DType, Tensor, TensorMut};
use proptest::prelude::*;
use virtual_gpu::{Description, Options, Order};

use crate::common::{
    Bound, Executor, Layout, Padded, Reach, any_layout, check_close, device_operations, f64s, for_any,
    hopper_trial, random, rounded, trial, upload_i32,
};

/// How a case's attention is asked for.
type Attend<'a> = &'a dyn Fn(AttentionParams<Tensor<'_>, TensorMut<'_>>) -> nanomoe::Result<()>;

#[derive(Clone, Copy, Debug)]
pub struct Case {
    batch_size: usize,
    seq_len: usize,
    kv_len: usize,
    /// Room for keys behind the last; NaN stands in it.
    spare: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    layout: Layout,
    /// A length for each sequence: kv_len, one less than it, ... and 0 for the last.
    ragged: bool,
    /// Keys in blocks of this many, in shuffled order.
    block_size: Option<usize>,
    /// Factor on q: large scores leave one weight in a row.
    sharpness: f32,
    /// Whether few queries may share their keys out over blocks.
    split: bool,
}

const BASE: Case = Case {
    batch_size: 1,
    seq_len: 33,
    kv_len: 33,
    spare: 0,
    num_heads: 2,
    num_kv_heads: 2,
    head_dim: 64,
    layout: Layout::Dense,
    ragged: false,
    block_size: None,
    sharpness: 1.0,
    split: false,
};

/// What breaks the Hopper tiles: around the 64 rows of a consumer, its tile (192 or 128) and the blocks of 128 keys;
/// blocks that only some consumers see, heads that share keys, tails of a batch beside the next, more tiles than CTAs.
pub fn wgmma_cases(head_dim: usize) -> Vec<Case> {
    let base = Case { head_dim, ..BASE };
    let square = |seq_len: usize| Case { seq_len, kv_len: seq_len, ..base };
    let mut cases: Vec<Case> =
        [1, 63, 64, 65, 127, 128, 129, 191, 192, 193, 257, 520].into_iter().map(square).collect();
    cases.extend([
        Case { kv_len: 128, ..base },
        Case { kv_len: 129, spare: 40, ..base },
        Case { seq_len: 130, kv_len: 700, spare: 3, ..base },
        Case { batch_size: 3, spare: 7, ..square(70) },
        Case { num_heads: 6, num_kv_heads: 2, ..square(140) },
        Case { layout: Layout::Strided, batch_size: 2, ..square(200) },
        Case { sharpness: 300.0, ..square(150) },
        Case { batch_size: 5, num_heads: 28, num_kv_heads: 7, ..square(3) },
        Case { batch_size: 2, num_heads: 40, num_kv_heads: 40, ..square(193) },
    ]);
    cases
}

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let base = BASE;
    let decode = Case { seq_len: 1, kv_len: 100, ..base };
    let mut cases = vec![
        Case { batch_size: 3, ..base },
        Case { layout: Layout::Strided, ..base },
        Case { layout: Layout::Unaligned, ..base },
        Case { sharpness: 300.0, ..base },
        Case { num_heads: 6, num_kv_heads: 2, ..base },
        Case { num_heads: 8, num_kv_heads: 1, seq_len: 70, kv_len: 70, ..base },
        Case { spare: 40, batch_size: 2, ..base },
        Case { ragged: true, batch_size: 3, ..base },
        // a chunk of queries behind a cache, and queries before every key
        Case { seq_len: 5, kv_len: 131, ..base },
        Case { seq_len: 66, kv_len: 200, spare: 9, ..base },
        Case { seq_len: 9, kv_len: 4, ..base },
        Case { kv_len: 0, spare: 8, ..base },
        Case { block_size: Some(16), ..base },
        Case { block_size: Some(5), batch_size: 2, seq_len: 7, kv_len: 77, spare: 10, ..base },
        Case { block_size: Some(16), ragged: true, batch_size: 2, layout: Layout::Unaligned, ..base },
        Case { batch_size: 0, ..base },
        decode,
        Case { batch_size: 3, ragged: true, spare: 28, ..decode },
        Case { block_size: Some(16), batch_size: 2, ragged: true, ..decode },
        Case { layout: Layout::Unaligned, head_dim: 63, ..decode },
        Case { num_heads: 8, num_kv_heads: 1, ..decode }, // the most rows of the decode kernel
        Case { num_heads: 18, num_kv_heads: 2, ..decode }, // the fewest of the tiled ones
        Case { seq_len: 4, kv_len: 40, ..base },
        Case { kv_len: 0, spare: 8, ..decode },
        Case { sharpness: 300.0, ..decode },
    ];
    // keys split over blocks: around one and more splits, rows of all sizes, ends at once and in the last split
    let split = Case { split: true, ..decode };
    cases.extend([255, 256, 257, 511, 512, 513, 900].map(|kv_len| Case { kv_len, ..split }));
    cases.extend([
        Case { kv_len: 600, batch_size: 3, ragged: true, spare: 28, ..split },
        Case { kv_len: 600, block_size: Some(16), batch_size: 2, ragged: true, ..split },
        Case { kv_len: 600, block_size: Some(24), batch_size: 3, ragged: true, head_dim: 40, ..split },
        Case { kv_len: 700, num_heads: 6, num_kv_heads: 2, layout: Layout::Strided, ..split },
        Case { kv_len: 1100, num_heads: 8, num_kv_heads: 1, ..split },
        Case { kv_len: 530, num_heads: 16, num_kv_heads: 2, head_dim: 128, ..split },
        Case { kv_len: 530, num_heads: 4, num_kv_heads: 1, head_dim: 256, ..split },
        Case { kv_len: 600, seq_len: 3, ..split },
        Case { kv_len: 600, layout: Layout::Unaligned, head_dim: 63, ..split },
        Case { kv_len: 600, sharpness: 300.0, ..split },
    ]);
    // around the tiles of rows (32 and 64) and of keys (32 and 64), and a prime
    for seq_len in [1, 5, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 131] {
        cases.push(Case { seq_len, kv_len: seq_len, ..base });
    }
    for kv_len in [1, 2, 31, 127, 128, 129, 300] {
        cases.push(Case { kv_len, ..decode });
    }
    // around the sizes the kernels are compiled for, odd ones, and those in use
    for head_dim in [1, 7, 8, 40, 63, 65, 80, 96, 128, 129, 192, 255, 256] {
        cases.push(Case { head_dim, seq_len: 70, kv_len: 70, ..base });
        cases.push(Case { head_dim, kv_len: 67, ..decode });
    }
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for &case in &cases {
            let shape = name(case);
            for &executor in executors {
                trials.push(trial("attention", dtype, &shape, executor, move |ops| {
                    run_portable(executor, ops, dtype, case)
                }));
            }
        }
        for &executor in executors.iter().filter(|e| e.may_be_hopper() && dtype != DType::F32) {
            for case in [64, 128].into_iter().flat_map(wgmma_cases) {
                let run = move |ops: &DeviceOperations| run_wgmma_on(ops, dtype, case);
                trials.push(hopper_trial("attention_wgmma", dtype, name(case), executor, run));
            }
        }
        for &executor in executors.iter().filter(|executor| executor.name == "virtual") {
            trials.push(trial("attention", dtype, "split-merges-in-order", executor, move |_| {
                merges_in_order(dtype)
            }));
        }
        for &executor in executors {
            for head_dim in [64, 200] {
                let shape = format!("invariant-{head_dim}");
                trials.push(trial("attention", dtype, shape, executor, move |_| match executor.is_cpu() {
                    true => {
                        invariant(&CpuOperations::with_numerics(Numerics::BatchInvariant), dtype, head_dim)
                    }
                    false => {
                        invariant(&device_operations(executor, Numerics::BatchInvariant)?, dtype, head_dim)
                    }
                }));
            }
            trials.push(trial("attention", dtype, "2x37x3x4x32-packed-qkv", executor, move |ops| {
                packed(ops, dtype)
            }));
        }
    }
    trials
}

fn name(case: Case) -> String {
    let Case { batch_size, seq_len, kv_len, spare, num_heads, num_kv_heads, head_dim, layout, .. } = case;
    let ragged = if case.ragged { "-ragged" } else { "" };
    let blocks = case.block_size.map_or(String::new(), |size| format!("-blocks{size}"));
    let sharp = if case.sharpness > 1.0 { "-sharp" } else { "" };
    let split = if case.split { "-split" } else { "" };
    format!(
        "{batch_size}x{seq_len}x{num_heads}x{head_dim}-kv{kv_len}+{spare}x{num_kv_heads}-{layout:?}{ragged}{blocks}{sharp}{split}"
    )
}

/// Weights are rounded to the storage type before they meet v, whose values are below 1; scores carry the rounding of a
/// sum of head_dim products, which their exponential turns into a relative error.
fn bound(dtype: DType, head_dim: usize, sharpness: f32) -> Bound {
    let score = 4.0 * f64::from(f32::EPSILON) * f64::from(sharpness) * (head_dim as f64).sqrt();
    Bound { absolute: Bound::epsilon(dtype) / 2.0 + score, relative: Bound::epsilon(dtype) }
}

/// A case by the portable kernels, on Hopper too.
fn run_portable(executor: Executor, ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    if executor.is_cpu() {
        return run_by(ops, dtype, case, &|p| ops.attention(p));
    }
    // Decoding is the same kernel on Hopper
    if case.seq_len * case.num_heads / case.num_kv_heads <= 8 {
        run_by(ops, dtype, case, &|p| ops.attention(p))?;
    }
    let portable = device_operations(executor, Numerics::BatchInvariant)?;
    run_by(&portable, dtype, case, &|p| portable.attention(p))
}

/// A case by the Hopper kernels.
pub fn run_wgmma_on(ops: &DeviceOperations, dtype: DType, case: Case) -> Result<(), Failed> {
    let attend = |p: AttentionParams<Tensor<'_>, TensorMut<'_>>| {
        let raw = p.raw(ops.place())?;
        // SAFETY: as DeviceOperations: the tensors borrow their memory, and work is waited for before it is read.
        unsafe { attention_with_wgmma(ops.kernels(), &raw, ops.stream()) }
    };
    run_by(ops, dtype, case, &attend)
}

fn run_by(ops: &dyn Operations, dtype: DType, case: Case, attend: Attend<'_>) -> Result<(), Failed> {
    let Case { batch_size, seq_len, kv_len, num_heads, num_kv_heads, head_dim, layout, .. } = case;
    let capacity = kv_len + case.spare;
    let (q_rows, kv_rows) = (batch_size * seq_len * num_heads, batch_size * capacity * num_kv_heads);
    let scaled: Vec<f32> = random(1, q_rows * head_dim).iter().map(|x| x * case.sharpness).collect();
    let q = rounded(dtype, &scaled);
    let k = rounded(dtype, &random(2, kv_rows * head_dim));
    let v = rounded(dtype, &random(3, kv_rows * head_dim));
    let lengths: Vec<usize> = (0..batch_size)
        .map(|b| match () {
            () if !case.ragged => kv_len,
            () if b + 1 == batch_size => 0,
            () => kv_len - b,
        })
        .collect();

    // What lies behind a sequence's last key must not be used
    let key_len = num_kv_heads * head_dim;
    let with_garbage = |values: &[f32]| {
        let mut values = values.to_vec();
        for (key, row) in values.chunks_mut(key_len).enumerate() {
            if key % capacity >= lengths[key / capacity] {
                row.fill(f32::NAN);
            }
        }
        values
    };
    let (stored_k, stored_v) = (with_garbage(&k), with_garbage(&v));
    let q_tensor = Padded::new(ops, dtype, &q, head_dim, layout);
    let mut out = Padded::output(ops, dtype, q_rows, head_dim, layout);
    let length_buffer = upload_i32(ops, &lengths.iter().map(|&length| length as i32).collect::<Vec<_>>());
    let blocks = case.block_size.map(|size| Blocks::new(batch_size, capacity, size));
    let in_place = |values: &[f32]| {
        let values = match &blocks {
            Some(blocks) => blocks.scatter(values, key_len),
            None => values.to_vec(),
        };
        Padded::new(ops, dtype, &values, head_dim, layout)
    };
    let (k_tensor, v_tensor) = (in_place(&stored_k), in_place(&stored_v));
    let table_buffer = blocks.as_ref().map(|blocks| upload_i32(ops, &blocks.table));
    let inner = blocks.as_ref().map_or(capacity, |blocks| blocks.size);
    let softmax_scale = 1.0 / (head_dim as f32).sqrt();
    let mut split = case.split.then(|| Splits::new(ops, case));
    attend(AttentionParams {
        out: out.tensor_mut().split(0, num_heads).split(0, seq_len),
        q: q_tensor.tensor().split(0, num_heads).split(0, seq_len),
        k: k_tensor.tensor().split(0, num_kv_heads).split(0, inner),
        v: v_tensor.tensor().split(0, num_kv_heads).split(0, inner),
        kv_len,
        kv_lengths: case.ragged.then(|| length_buffer.tensor(&[batch_size])),
        block_table: match (&blocks, &table_buffer) {
            (Some(blocks), Some(buffer)) => Some(buffer.tensor(&[batch_size, blocks.per_sequence])),
            _ => None,
        },
        softmax_scale,
        split: split.as_mut().map(Splits::params),
    })?;
    if let Some(split) = &split {
        split.check_counters(ops)?;
    }

    let shape = AttentionShape {
        batch_size,
        query_len: seq_len,
        kv_len: capacity,
        num_heads,
        num_kv_heads,
        head_dim,
        scale: f64::from(softmax_scale),
        causal: true,
    };
    let expected = reference::attention(&f64s(&q), &f64s(&k), &f64s(&v), &shape, Some(&lengths));
    let dims = [batch_size, seq_len, num_heads, head_dim];
    check_close("out", &dims, &out.read(ops)?, &expected, bound(dtype, head_dim, case.sharpness))
}

/// Memory of split keys.
struct Splits {
    partials: Buffer,
    counters: Buffer,
}

impl Splits {
    fn new(ops: &dyn Operations, case: Case) -> Self {
        let Case { batch_size, seq_len, kv_len, num_heads, num_kv_heads, head_dim, .. } = case;
        let dims =
            AttentionDims { batch_size, seq_len, num_heads, num_kv_heads, head_dim, kv_capacity: kv_len };
        let len = KvSplit::partials_len(dims, kv_len);
        Splits {
            partials: ops.allocate(DType::F32, len).expect("memory"),
            counters: upload_i32(ops, &vec![0; batch_size * num_kv_heads]),
        }
    }

    fn params(&mut self) -> KvSplit<TensorMut<'_>> {
        let (partials, counters) = ([self.partials.len()], [self.counters.len()]);
        KvSplit {
            partials: self.partials.tensor_mut(&partials),
            counters: self.counters.tensor_mut(&counters),
        }
    }

    /// They are zero again.
    fn check_counters(&self, ops: &dyn Operations) -> Result<(), Failed> {
        let mut counters = vec![1i32; self.counters.len()];
        ops.download(self.counters.tensor(&[counters.len()]), bytemuck::cast_slice_mut(&mut counters))?;
        if counters.iter().any(|&count| count != 0) {
            return Err(format!("counters are left at {counters:?}").into());
        }
        Ok(())
    }
}

/// Keys in blocks that stand in another order, one block of the pool unused.
struct Blocks {
    size: usize,
    per_sequence: usize,
    capacity: usize,
    num_blocks: usize,
    /// `[batch_size, per_sequence]`
    table: Vec<i32>,
}

impl Blocks {
    fn new(batch_size: usize, capacity: usize, size: usize) -> Self {
        let per_sequence = capacity.div_ceil(size);
        let used = batch_size * per_sequence;
        let table = (0..used).map(|block| (used - block) as i32).collect();
        Blocks { size, per_sequence, capacity, num_blocks: used + 1, table }
    }

    /// `values` `[batch_size, capacity, key_len]` as `[num_blocks, size, key_len]`, NaN where no key stands.
    fn scatter(&self, values: &[f32], key_len: usize) -> Vec<f32> {
        let mut pool = vec![f32::NAN; self.num_blocks * self.size * key_len];
        for (index, row) in values.chunks(key_len).enumerate() {
            let (batch, key) = (index / self.capacity, index % self.capacity);
            let block = self.table[batch * self.per_sequence + key / self.size] as usize;
            pool[(block * self.size + key % self.size) * key_len..][..key_len].copy_from_slice(row);
        }
        pool
    }
}

/// q, k and v as a QKV projection leaves them: `[batch_size, seq_len, 3, num_heads, head_dim]`.
fn packed(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    let (batch_size, seq_len, num_heads, head_dim) = (2, 37, 3, 32);
    let width = num_heads * head_dim;
    let values = rounded(dtype, &random(4, batch_size * seq_len * 3 * width));
    let qkv = Padded::new(ops, dtype, &values, 3 * width, Layout::Dense);
    let mut out = Padded::output(ops, dtype, batch_size * seq_len, width, Layout::Dense);
    let part =
        |index: usize| qkv.tensor().narrow(1, index * width, width).split(1, head_dim).split(0, seq_len);
    let softmax_scale = 1.0 / (head_dim as f32).sqrt();
    ops.attention(AttentionParams {
        out: out.tensor_mut().split(1, head_dim).split(0, seq_len),
        q: part(0),
        k: part(1),
        v: part(2),
        kv_len: seq_len,
        kv_lengths: None,
        block_table: None,
        softmax_scale,
        split: None,
    })?;

    let column = |index: usize| -> Vec<f64> {
        values.chunks(3 * width).flat_map(|row| f64s(&row[index * width..][..width])).collect()
    };
    let shape = AttentionShape {
        batch_size,
        query_len: seq_len,
        kv_len: seq_len,
        num_heads,
        num_kv_heads: num_heads,
        head_dim,
        scale: f64::from(softmax_scale),
        causal: true,
    };
    let expected = reference::attention(&column(0), &column(1), &column(2), &shape, None);
    let dims = [batch_size, seq_len, num_heads, head_dim];
    check_close("out", &dims, &out.read(ops)?, &expected, bound(dtype, head_dim, 1.0))
}

/// Split keys are merged in one order, whichever block comes last.
fn merges_in_order(dtype: DType) -> Result<(), Failed> {
    let (num_heads, head_dim, kv_len) = (4, 64, 1500);
    let run = |order: Order| -> Result<Vec<u32>, Failed> {
        let options = Options { order, ..Options::default() };
        let ops = DeviceOperations::new(Arc::new(VirtualDevice::with(Description::h200(), options)))?;
        let tensor = |seed: u64, rows: usize| {
            let values = rounded(dtype, &random(seed, rows * num_heads * head_dim));
            Padded::new(&ops, dtype, &values, head_dim, Layout::Dense)
        };
        let (q, k, v) = (tensor(1, 1), tensor(2, kv_len), tensor(3, kv_len));
        let mut out = Padded::output(&ops, dtype, num_heads, head_dim, Layout::Dense);
        let case = Case { seq_len: 1, kv_len, num_heads, num_kv_heads: num_heads, head_dim, ..BASE };
        let mut split = Splits::new(&ops, case);
        for _ in 0..2 {
            ops.attention(AttentionParams {
                out: out.tensor_mut().split(0, num_heads).split(0, 1),
                q: q.tensor().split(0, num_heads).split(0, 1),
                k: k.tensor().split(0, num_heads).split(0, kv_len),
                v: v.tensor().split(0, num_heads).split(0, kv_len),
                kv_len,
                kv_lengths: None,
                block_table: None,
                softmax_scale: 1.0 / (head_dim as f32).sqrt(),
                split: Some(split.params()),
            })?;
        }
        Ok(out.read(&ops)?.iter().map(|value| value.to_bits()).collect())
    };
    let expected = run(Order::Eager)?;
    for order in [Order::Lazy, Order::Random(1), Order::Random(2), Order::Random(3)] {
        if run(order)? != expected {
            return Err(format!("{order:?}: other bits than in eager order").into());
        }
    }
    Ok(())
}

/// A row has the same bits in a pass over all queries, in a chunk that begins anywhere, and alone, under
/// `BatchInvariant`: the last key may lie in any tile, and any number of tiles behind it may be visited.
fn invariant(ops: &dyn Operations, dtype: DType, head_dim: usize) -> Result<(), Failed> {
    let (seq_len, num_heads, num_kv_heads) = (150, 2, 1);
    let (q_len, kv_len) = (num_heads * head_dim, num_kv_heads * head_dim);
    let sharp: Vec<f32> = random(5, seq_len * q_len).iter().map(|x| x * 8.0).collect();
    let q = Padded::new(ops, dtype, &rounded(dtype, &sharp), q_len, Layout::Dense);
    let k = Padded::new(ops, dtype, &rounded(dtype, &random(6, seq_len * kv_len)), kv_len, Layout::Dense);
    let v = Padded::new(ops, dtype, &rounded(dtype, &random(7, seq_len * kv_len)), kv_len, Layout::Dense);
    let attend = |first: usize, count: usize| -> Result<Vec<u32>, Failed> {
        let mut out = Padded::output(ops, dtype, count, q_len, Layout::Dense);
        let len = first + count;
        ops.attention(AttentionParams {
            out: out.tensor_mut().split(1, head_dim).split(0, count),
            q: q.tensor().narrow(0, first, count).split(1, head_dim).split(0, count),
            k: k.tensor().narrow(0, 0, len).split(1, head_dim).split(0, len),
            v: v.tensor().narrow(0, 0, len).split(1, head_dim).split(0, len),
            kv_len: len,
            kv_lengths: None,
            block_table: None,
            softmax_scale: 1.0 / (head_dim as f32).sqrt(),
            split: None,
        })?;
        Ok(out.read(ops)?.iter().map(|value| value.to_bits()).collect())
    };
    let whole = attend(0, seq_len)?;
    for (first, count) in [(0, 1), (17, 80), (40, 110), (63, 1), (64, 1), (100, 3), (131, 1), (149, 1)] {
        if attend(first, count)? != whole[first * q_len..(first + count) * q_len] {
            return Err(format!("queries {first}..{} have other bits alone", first + count).into());
        }
    }
    Ok(())
}

/// Any lengths, heads, strides and block tables.
pub fn property(ops: &dyn Operations, dtype: DType, reach: Reach) -> Result<(), Failed> {
    let Reach { most, .. } = reach;
    let lengths = (1..3usize, 1..most, 0..2 * most, 1..4usize);
    let heads = (1..3usize, 1..4usize, 1..(4 * most).min(257));
    let blocks = proptest::option::of(1..9usize);
    let any = (lengths, heads, any_layout(), any::<[bool; 2]>(), blocks);
    let case =
        any.prop_map(|(lengths, (num_kv_heads, group, head_dim), layout, [ragged, split], block_size)| {
            let (batch_size, seq_len, kv_len, spare) = lengths;
            let num_heads = num_kv_heads * group;
            // Each sequence but the last has one key less than the one before.
            let ragged = ragged && kv_len > batch_size;
            let sizes =
                Case { batch_size, seq_len, kv_len, spare, num_heads, num_kv_heads, head_dim, ..BASE };
            Case { layout, ragged, block_size, split, ..sizes }
        });
    for_any(reach, case, |case| run_by(ops, dtype, case, &|p| ops.attention(p)))
}
