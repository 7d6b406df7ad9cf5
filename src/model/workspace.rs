//! All memory of a forward pass, allocated before the first.

use super::Draw;
use crate::buffer::{Buffer, zeroed};
use crate::config::ModelConfig;
use crate::error::Result;
use crate::operations::{
    AttentionDims, KvSplit, MoeDispatchParams, Operations, SamplingSettings, TopkGatingParams,
};
use crate::tensor::DType;

/// Activations for up to `max_tokens` tokens at a time. What the head gives grows to the largest request once.
#[derive(Debug)]
pub struct Workspace {
    pub(super) max_tokens: usize,
    pub(super) indices: Buffer, // i32 [4 · num_tokens]: the tokens' ids, and behind them what `Indices` packs
    pub(super) x: Buffer,       // [num_tokens, hidden_size]: the residual stream
    pub(super) normed: Buffer,  // [num_tokens, hidden_size]
    pub(super) qkv: Buffer, // [num_tokens, 3 · hidden_size]; with a cache only q, [num_tokens, hidden_size]
    pub(super) attended: Buffer, // [num_tokens, hidden_size]
    pub(super) hidden: Buffer, // [rows, intermediate_size]: rows are tokens, or assignments to experts
    pub(super) moe: Option<MoeWorkspace>,
    pub(super) heads: [HeadWorkspace; MAX_HEAD_PASSES],
    pub(super) draw: DrawWorkspace,
    pub(super) cached: Option<CachedWorkspace>, // in a session
    pub(super) embeddings: Buffer, // [num_tokens, hidden_size]: of tokens that come without ids; empty until asked
}

/// Calls of the head in a forward pass: for logits, for the best ids, for losses, and for what is drawn, each of rows of
/// their own.
pub(super) const MAX_HEAD_PASSES: usize = 4;

/// What drawing ids reads and writes, for each sequence; empty until asked. What is on the device already is not uploaded
/// again.
#[derive(Debug)]
pub(super) struct DrawWorkspace {
    pub settings: Buffer, // i32 [batch_size, SamplingSettings::WORDS]
    pub allowed: Buffer,  // i32 [vocab_size.div_ceil(32)]
    pub seen: Buffer,     // i32 [batch_size, vocab_size.div_ceil(32)]
    pub ids: Buffer,      // i32 [batch_size]
    pub logprobs: Buffer, // f32 [batch_size]
    settings_there: Vec<SamplingSettings>,
    allowed_there: Vec<i32>,
}

impl DrawWorkspace {
    fn empty(ops: &dyn Operations) -> Result<Self> {
        let none = |dtype| ops.allocate(dtype, 0);
        Ok(DrawWorkspace {
            settings: none(DType::I32)?,
            allowed: none(DType::I32)?,
            seen: none(DType::I32)?,
            ids: none(DType::I32)?,
            logprobs: none(DType::F32)?,
            settings_there: Vec::new(),
            allowed_there: Vec::new(),
        })
    }

    /// Makes room, and uploads what differs.
    pub fn upload(&mut self, ops: &dyn Operations, draw: &Draw<'_>) -> Result<()> {
        reserve(ops, &mut self.ids, draw.settings.len())?;
        if draw.logprobs {
            reserve(ops, &mut self.logprobs, draw.settings.len())?;
        }
        if self.settings_there != draw.settings {
            let words = bytemuck::cast_slice(draw.settings);
            reserve(ops, &mut self.settings, words.len())?;
            upload_i32(ops, &mut self.settings, words)?;
            self.settings_there = draw.settings.to_vec();
        }
        if let Some(allowed) = draw.allowed.filter(|allowed| self.allowed_there != *allowed) {
            reserve(ops, &mut self.allowed, allowed.len())?;
            upload_i32(ops, &mut self.allowed, allowed)?;
            self.allowed_there = allowed.to_vec();
        }
        if let Some(seen) = draw.seen {
            reserve(ops, &mut self.seen, seen.len())?;
            upload_i32(ops, &mut self.seen, seen)?;
        }
        Ok(())
    }
}

/// What attention over the cache of a session needs.
#[derive(Debug)]
pub(super) struct CachedWorkspace {
    pub max_blocks: usize,   // of a sequence
    pub block_table: Buffer, // i32 [max_sequences, max_blocks]
    pub partials: Buffer,    // f32: see `KvSplit`
    pub counters: Buffer,    // i32 [max_sequences · num_heads]
}

/// What routing needs.
#[derive(Debug)]
pub(super) struct MoeWorkspace {
    pub router_logits: Buffer,    // f32 [num_tokens, num_experts]
    pub expert_ids: Buffer,       // i32 [num_tokens, k]
    pub forced_ids: Buffer,       // i32 [num_moe_layers, num_tokens, k]; empty until asked
    pub expert_weights: Buffer,   // f32 [num_tokens, k]
    pub losses: Buffer,           // f32 [num_moe_layers, 2]: auxiliary, z
    pub gating_scratch: Buffer,   // f32
    pub expert_offsets: Buffer,   // i32 [num_experts + 1]
    pub row_tokens: Buffer,       // i32 [num_tokens · k]
    pub slots: Buffer,            // i32 [num_tokens, k]
    pub dispatch_scratch: Buffer, // i32
    pub expert_out: Buffer,       // [num_tokens · k, hidden_size]
}

/// What the head reads and writes for the rows asked for; empty until asked.
#[derive(Debug)]
pub(super) struct HeadWorkspace {
    pub rows: Buffer,    // i32 [num_rows]
    pub logits: Buffer,  // f32 [num_rows, vocab_size]
    pub argmax: Buffer,  // i32 [num_rows]
    pub targets: Buffer, // i32 [num_rows]
    pub losses: Buffer,  // f32 [num_rows]
    pub scratch: Buffer, // f32
}

impl Workspace {
    pub(super) fn new(
        ops: &dyn Operations,
        config: &ModelConfig,
        dtype: DType,
        max_tokens: usize,
    ) -> Result<Self> {
        let k = config.moe.as_ref().map_or(1, |moe| moe.num_experts_per_token);
        let wide = max_tokens * config.hidden_size;
        let moe = match &config.moe {
            None => None,
            Some(moe) => Some(MoeWorkspace {
                router_logits: ops.allocate(DType::F32, max_tokens * moe.num_experts)?,
                expert_ids: ops.allocate(DType::I32, max_tokens * k)?,
                forced_ids: ops.allocate(DType::I32, 0)?,
                expert_weights: ops.allocate(DType::F32, max_tokens * k)?,
                losses: ops.allocate(DType::F32, 2 * config.moe_layers().count())?,
                gating_scratch: ops.allocate(DType::F32, TopkGatingParams::scratch_len(moe.num_experts))?,
                expert_offsets: ops.allocate(DType::I32, moe.num_experts + 1)?,
                row_tokens: ops.allocate(DType::I32, max_tokens * k)?,
                slots: ops.allocate(DType::I32, max_tokens * k)?,
                dispatch_scratch: ops
                    .allocate(DType::I32, MoeDispatchParams::scratch_len(moe.num_experts))?,
                expert_out: ops.allocate(dtype, k * wide)?,
            }),
        };
        Ok(Workspace {
            max_tokens,
            indices: ops.allocate(DType::I32, 4 * max_tokens)?,
            x: ops.allocate(dtype, wide)?,
            normed: ops.allocate(dtype, wide)?,
            qkv: ops.allocate(dtype, 3 * wide)?,
            attended: ops.allocate(dtype, wide)?,
            hidden: ops.allocate(dtype, max_tokens * k * config.intermediate_size)?,
            moe,
            heads: [
                HeadWorkspace::empty(ops)?,
                HeadWorkspace::empty(ops)?,
                HeadWorkspace::empty(ops)?,
                HeadWorkspace::empty(ops)?,
            ],
            draw: DrawWorkspace::empty(ops)?,
            cached: None,
            embeddings: ops.allocate(dtype, 0)?,
        })
    }

    /// The same, and what a session of so many sequences of up to `max_len` tokens needs.
    pub(super) fn for_session(
        ops: &dyn Operations,
        config: &ModelConfig,
        dtype: DType,
        max_tokens: usize,
        max_sequences: usize,
        (max_blocks, max_len): (usize, usize),
    ) -> Result<Self> {
        let mut workspace = Workspace::new(ops, config, dtype, max_tokens)?;
        let dims = AttentionDims {
            batch_size: max_sequences,
            seq_len: 1,
            num_heads: config.num_heads,
            num_kv_heads: config.num_heads,
            head_dim: config.head_dim(),
            kv_capacity: max_len,
        };
        let counters = max_sequences * config.num_heads;
        let mut cached = CachedWorkspace {
            max_blocks,
            block_table: ops.allocate(DType::I32, max_sequences * max_blocks)?,
            partials: ops.allocate(DType::F32, KvSplit::partials_len(dims, max_len))?,
            counters: ops.allocate(DType::I32, counters)?,
        };
        upload_i32(ops, &mut cached.counters, &vec![0; counters])?;
        workspace.cached = Some(cached);
        Ok(workspace)
    }

    /// Sizes of what grows on request: another answer means other memory, so nothing recorded before fits.
    pub(super) fn grown(&self) -> Vec<usize> {
        let of_head = |head: &HeadWorkspace| {
            let buffers =
                [&head.rows, &head.logits, &head.argmax, &head.targets, &head.losses, &head.scratch];
            buffers.map(Buffer::len)
        };
        let draw = &self.draw;
        let drawing = [&draw.settings, &draw.allowed, &draw.seen, &draw.ids, &draw.logprobs];
        self.heads.iter().flat_map(of_head).chain(drawing.map(Buffer::len)).collect()
    }

    /// Tokens a forward pass may have.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }
}

impl HeadWorkspace {
    fn empty(ops: &dyn Operations) -> Result<Self> {
        let none = |dtype| ops.allocate(dtype, 0);
        Ok(HeadWorkspace {
            rows: none(DType::I32)?,
            logits: none(DType::F32)?,
            argmax: none(DType::I32)?,
            targets: none(DType::I32)?,
            losses: none(DType::F32)?,
            scratch: none(DType::F32)?,
        })
    }
}

/// Makes room for `len` elements; what was in the buffer is lost when it grows.
pub(super) fn reserve(ops: &dyn Operations, buffer: &mut Buffer, len: usize) -> Result<()> {
    if buffer.len() < len {
        *buffer = ops.allocate(buffer.dtype(), len)?;
    }
    Ok(())
}

/// Copies integers into the first elements of a buffer.
pub(super) fn upload_i32(ops: &dyn Operations, buffer: &mut Buffer, values: &[i32]) -> Result<()> {
    ops.upload(buffer.tensor_mut(&[values.len()]), bytemuck::cast_slice(values))
}

/// Copies numbers into the first elements of a buffer of any float type, rounded to it.
pub(super) fn upload_f32(ops: &dyn Operations, buffer: &mut Buffer, values: &[f32]) -> Result<()> {
    let dtype = buffer.dtype();
    let to = buffer.tensor_mut(&[values.len()]);
    if dtype == DType::F32 {
        return ops.upload(to, bytemuck::cast_slice(values));
    }
    let mut halves: Vec<u16> = zeroed(values.len())?;
    for (half, &value) in halves.iter_mut().zip(values) {
        *half = match dtype {
            DType::BF16 => half::bf16::from_f32(value).to_bits(),
            _ => half::f16::from_f32(value).to_bits(),
        };
    }
    ops.upload(to, bytemuck::cast_slice(&halves))
}

/// The first `len` integers of a buffer.
pub(super) fn download_i32(ops: &dyn Operations, buffer: &Buffer, len: usize) -> Result<Vec<i32>> {
    let mut values = zeroed(len)?;
    ops.download(buffer.tensor(&[len]), bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// The first `len` numbers of a buffer of any float type, as f32.
pub(super) fn download_f32(ops: &dyn Operations, buffer: &Buffer, len: usize) -> Result<Vec<f32>> {
    let mut values: Vec<f32> = zeroed(len)?;
    if buffer.dtype() == DType::F32 {
        ops.download(buffer.tensor(&[len]), bytemuck::cast_slice_mut(&mut values))?;
        return Ok(values);
    }
    let mut halves: Vec<u16> = zeroed(len)?;
    ops.download(buffer.tensor(&[len]), bytemuck::cast_slice_mut(&mut halves))?;
    for (value, bits) in values.iter_mut().zip(halves) {
        *value = match buffer.dtype() {
            DType::BF16 => half::bf16::from_bits(bits).to_f32(),
            _ => half::f16::from_bits(bits).to_f32(),
        };
    }
    Ok(values)
}
