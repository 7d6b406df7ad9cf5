//! Row-wise kernels: held against the fewest bytes of their operations, or of launches that must move more.

use libtest_mimic::{Failed, Trial};
use nanomoe::generate::Sampling;
use nanomoe::kernels::traffic;
use nanomoe::operations::*;
use nanomoe::tensor::DType;
use virtual_gpu::Description;

use super::{Meter, pin};
use crate::common::upload_i32;

const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for gpu in [Description::h200, Description::a100] {
        for dtype in DTYPES {
            // GPT-2's and nanoMoE's rows, and one of many threads
            for (num_tokens, hidden_size) in [(2048, 768), (2048, 384), (1024, 4096)] {
                let shape = format!("{num_tokens}x{hidden_size}");
                let dims = [num_tokens, hidden_size];
                trials
                    .push(pin("layer_norm", dtype, &shape, gpu, move |m| layer_norm(m, dtype, dims, false)));
                let fused = format!("{shape}-residual");
                trials.push(pin("layer_norm", dtype, fused, gpu, move |m| layer_norm(m, dtype, dims, true)));
            }
            trials.push(pin("embedding", dtype, "512x768", gpu, move |m| embedding(m, dtype)));
            trials.push(pin("moe_combine", dtype, "512x384-k2", gpu, move |m| combine(m, dtype)));
            // 8 experts by the fewest bytes, 24 by the launch's own blocks, of 16 and 8
            for num_experts in [8, 24] {
                let shape = format!("2048x384-e{num_experts}");
                trials.push(pin("router_logits", dtype, shape, gpu, move |m| router(m, dtype, num_experts)));
            }
        }
        for num_experts in [8, 64, 128] {
            for counted in [false, true] {
                let statistics = if counted { "-statistics" } else { "" };
                let shape = format!("4096x{num_experts}-k2{statistics}");
                trials.push(pin("topk_gating", DType::F32, shape, gpu, move |m| {
                    gating(m, num_experts, counted)
                }));
            }
        }
        for limits in ["argmax", "all", "top_k"] {
            // GPT-2's ids, padded so that every row is aligned, stay in Hopper's shared memory, not in Ampere's
            let vocab_size = if gpu().compute_capability == (9, 0) { 50304 } else { 32000 };
            let shape = format!("4x{vocab_size}-{limits}");
            trials.push(pin("sampling", DType::F32, shape, gpu, move |m| sampling(m, vocab_size, limits)));
        }
        // one block by the fewest bytes, several by what their two launches move
        for num_tokens in [1024, 5000] {
            let shape = format!("{num_tokens}x2-e8");
            trials.push(pin("moe_dispatch", DType::I32, shape, gpu, move |m| dispatch(m, num_tokens)));
        }
    }
    trials
}

fn layer_norm(m: &Meter, dtype: DType, shape: [usize; 2], fused: bool) -> Result<u64, Failed> {
    let len = shape[0] * shape[1];
    let (x, delta, gamma) = (m.random(dtype, len), m.random(dtype, len), m.random(DType::F32, shape[1]));
    let (mut out, mut sum) = (m.ops.allocate(dtype, len)?, m.ops.allocate(dtype, len)?);
    let p = LayerNormParams {
        out: out.tensor_mut(&shape),
        x: x.tensor(&shape),
        residual: fused.then(|| FusedResidual { delta: delta.tensor(&shape), sum: sum.tensor_mut(&shape) }),
        gamma: gamma.tensor(&shape[1..]),
        beta: Some(gamma.tensor(&shape[1..])),
        eps: 1e-5,
    };
    let bytes = p.fewest_bytes();
    m.ops.layer_norm(p)?;
    Ok(bytes)
}

fn embedding(m: &Meter, dtype: DType) -> Result<u64, Failed> {
    let (vocab_size, seq_len, hidden_size) = (1000, 512, 768);
    let tokens = m.random(dtype, vocab_size * hidden_size);
    let positions = m.random(dtype, seq_len * hidden_size);
    let ids = m.integers((0..seq_len).map(|i| i * 7 % vocab_size));
    let mut out = m.ops.allocate(dtype, seq_len * hidden_size)?;
    let p = EmbeddingParams {
        out: out.tensor_mut(&[1, seq_len, hidden_size]),
        token_ids: ids.tensor(&[1, seq_len]),
        token_table: tokens.tensor(&[vocab_size, hidden_size]),
        position_table: positions.tensor(&[seq_len, hidden_size]),
        first_positions: None,
        first_position: 0,
    };
    let bytes = p.fewest_bytes(seq_len);
    m.ops.embedding(p)?;
    Ok(bytes)
}

fn combine(m: &Meter, dtype: DType) -> Result<u64, Failed> {
    let (num_tokens, hidden_size, k) = (512, 384, 2);
    let num_rows = num_tokens * k;
    let expert_out = m.random(dtype, num_rows * hidden_size);
    let slots = m.integers((0..num_rows).map(|i| i * 5 % num_rows));
    let weights = m.random(DType::F32, num_rows);
    let mut out = m.random(dtype, num_tokens * hidden_size);
    let p = MoeCombineParams {
        out: out.tensor_mut(&[num_tokens, hidden_size]),
        expert_out: expert_out.tensor(&[num_rows, hidden_size]),
        slots: slots.tensor(&[num_tokens, k]),
        weights: weights.tensor(&[num_tokens, k]),
        residual: Residual::InPlace,
    };
    let bytes = p.fewest_bytes();
    m.ops.moe_combine(p)?;
    Ok(bytes)
}

fn router(m: &Meter, dtype: DType, num_experts: usize) -> Result<u64, Failed> {
    let (num_tokens, hidden_size) = (2048, 384);
    let x = m.random(dtype, num_tokens * hidden_size);
    let weight = m.random(DType::F32, num_experts * hidden_size);
    let mut logits = m.ops.allocate(DType::F32, num_tokens * num_experts)?;
    let p = RouterLogitsParams {
        logits: logits.tensor_mut(&[num_tokens, num_experts]),
        x: x.tensor(&[num_tokens, hidden_size]),
        weight: weight.tensor(&[num_experts, hidden_size]),
        noise: None,
    };
    let bytes = match num_experts {
        8 => p.fewest_bytes(),
        _ => traffic::router_logits_bytes(m.ops.kernels(), &p.raw(m.ops.place())?)?,
    };
    m.ops.router_logits(p)?;
    Ok(bytes)
}

fn gating(m: &Meter, num_experts: usize, counted: bool) -> Result<u64, Failed> {
    let (num_tokens, k) = (4096, 2);
    let logits = m.random(DType::F32, num_tokens * num_experts);
    let mut ids = m.ops.allocate(DType::I32, num_tokens * k)?;
    let mut weights = m.ops.allocate(DType::F32, num_tokens * k)?;
    let mut counts = m.ops.allocate(DType::I32, num_experts)?;
    let mut losses = m.ops.allocate(DType::F32, 2)?;
    let scratch_len = TopkGatingParams::scratch_len(num_experts);
    let mut scratch = m.ops.allocate(DType::F32, scratch_len)?;
    let p = TopkGatingParams {
        logits: logits.tensor(&[num_tokens, num_experts]),
        selection_bias: None,
        forced_ids: None,
        spec: GatingSpec::NANO_MOE,
        expert_ids: ids.tensor_mut(&[num_tokens, k]),
        expert_weights: weights.tensor_mut(&[num_tokens, k]),
        counts: counted.then(|| counts.tensor_mut(&[num_experts])),
        losses: counted.then(|| losses.tensor_mut(&[2])),
        scratch: scratch.tensor_mut(&[scratch_len]),
    };
    let bytes = p.fewest_bytes();
    m.ops.topk_gating(p)?;
    Ok(bytes)
}

fn sampling(m: &Meter, vocab_size: usize, limits: &str) -> Result<u64, Failed> {
    let num_rows = 4;
    let rule = match limits {
        "argmax" => Sampling { temperature: 0.0, ..Sampling::default() },
        "top_k" => Sampling::default(),
        _ => Sampling { top_k: None, ..Sampling::default() },
    };
    let logits = m.random(DType::F32, num_rows * vocab_size);
    let settings: Vec<SamplingSettings> = (0..num_rows as u32).map(|row| rule.settings(row)).collect();
    let settings = upload_i32(&m.ops, bytemuck::cast_slice(&settings));
    let positions = m.integers(0..num_rows);
    let mut ids = m.ops.allocate(DType::I32, num_rows)?;
    let p = SamplingParams {
        logits: logits.tensor(&[num_rows, vocab_size]),
        allowed: None,
        seen: None,
        settings: settings.tensor(&[num_rows, SamplingSettings::WORDS]),
        positions: positions.tensor(&[num_rows]),
        ids: ids.tensor_mut(&[num_rows]),
        logprobs: None,
    };
    let bytes = p.fewest_bytes();
    m.ops.sampling(p)?;
    Ok(bytes)
}

fn dispatch(m: &Meter, num_tokens: usize) -> Result<u64, Failed> {
    let (num_experts, k) = (8, 2);
    let ids = m.integers((0..num_tokens * k).map(|i| (i / k * 3 + i % k) % num_experts));
    let mut offsets = m.ops.allocate(DType::I32, num_experts + 1)?;
    let mut row_tokens = m.ops.allocate(DType::I32, num_tokens * k)?;
    let mut slots = m.ops.allocate(DType::I32, num_tokens * k)?;
    let scratch_len = MoeDispatchParams::scratch_len(num_experts);
    let mut scratch = m.ops.allocate(DType::I32, scratch_len)?;
    let p = MoeDispatchParams {
        expert_ids: ids.tensor(&[num_tokens, k]),
        num_experts,
        capacity: None,
        expert_offsets: offsets.tensor_mut(&[num_experts + 1]),
        row_tokens: row_tokens.tensor_mut(&[num_tokens * k]),
        slots: slots.tensor_mut(&[num_tokens, k]),
        scratch: scratch.tensor_mut(&[scratch_len]),
    };
    let bytes = match num_tokens {
        1024 => p.fewest_bytes(),
        _ => traffic::moe_dispatch_bytes(&p.raw(m.ops.place())?)?,
    };
    m.ops.moe_dispatch(p)?;
    Ok(bytes)
}
