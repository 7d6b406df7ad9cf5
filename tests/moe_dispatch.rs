//! Rows of assignments in expert-major order.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::{GatingSpec, MoeDispatchParams, Operations, RouteParams, TopkGatingParams};
use nanomoe::reference;
use nanomoe::tensor::DType;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

use crate::common::{
    Bound, Executor, Reach, check_close, check_equal, download, download_i32, f64s, for_any, random, trial,
    upload, upload_i32,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Load {
    /// Every expert as likely as any.
    Even,
    /// All first choices on one expert.
    OneExpert,
    /// The even experts get nothing.
    OddOnly,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    num_tokens: usize,
    k: usize,
    num_experts: usize,
    capacity: Option<usize>,
    load: Load,
}

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let base = Case { num_tokens: 33, k: 2, num_experts: 8, capacity: None, load: Load::Even };
    let mut cases = vec![
        base,
        Case { capacity: Some(10), ..base },
        Case { capacity: Some(0), ..base },
        Case { load: Load::OneExpert, ..base },
        Case { load: Load::OneExpert, capacity: Some(16), ..base },
        Case { load: Load::OddOnly, ..base },
        Case { num_experts: 1, k: 1, ..base },
        Case { num_experts: 8, k: 8, ..base },
        // a lone block whose choices are more than banks of shared memory
        Case { num_tokens: 5, num_experts: 64, k: 40, ..base },
        Case { num_experts: 1024, k: 3, ..base },
        Case { num_tokens: 0, ..base },
        // the last assignment of one block, then one more: a second block and a launch that counts first
        Case { num_tokens: 1024, ..base },
        Case { num_tokens: 1025, ..base },
        Case { num_tokens: 1025, capacity: Some(150), ..base },
        Case { num_tokens: 1500, num_experts: 65, capacity: Some(40), ..base },
        Case { num_tokens: 1031, k: 4, num_experts: 1024, ..base },
        Case { num_tokens: 2053, load: Load::OneExpert, capacity: Some(1500), ..base },
    ];
    for num_tokens in [1, 2, 31, 32, 255, 257] {
        cases.push(Case { num_tokens, ..base });
    }
    let mut trials = Vec::new();
    for case in cases {
        let Case { num_tokens, k, num_experts, capacity, load } = case;
        let capacity = capacity.map_or(String::new(), |capacity| format!("-capacity{capacity}"));
        let shape = format!("{num_tokens}x{k}-e{num_experts}{capacity}-{load:?}");
        for &executor in executors {
            trials.push(trial("moe_dispatch", DType::I32, &shape, executor, move |ops| run(ops, case)));
        }
    }
    // one round of placing blocks, and a launch that counts first
    for num_tokens in [19, 1025] {
        for &executor in executors {
            let shape = format!("{num_tokens}x2-e8");
            trials.push(trial("route", DType::F32, &shape, executor, move |ops| run_route(ops, num_tokens)));
            if executor.name == "virtual" {
                let shape = format!("{num_tokens}x2-e8-launches");
                trials.push(trial("route", DType::F32, &shape, executor, move |_| run_launches(num_tokens)));
            }
        }
    }
    trials
}

/// Gating and dispatch in one, with everything that can be asked for, against the reference of each.
fn run_route(ops: &dyn Operations, num_tokens: usize) -> Result<(), Failed> {
    let (num_experts, k, capacity) = (8, 2, Some(150));
    let logits = random(31, num_tokens * num_experts);
    let logits_buffer = upload(ops, DType::F32, &logits);
    let filled = |len: usize| upload_i32(ops, &vec![-7; len]);
    let (mut ids, mut counts) = (filled(num_tokens * k), filled(num_experts));
    let mut weights = ops.allocate(DType::F32, num_tokens * k)?;
    let mut losses = ops.allocate(DType::F32, 2)?;
    let (mut offsets, mut row_tokens) = (filled(num_experts + 1), filled(num_tokens * k));
    let mut slots = filled(num_tokens * k);
    let gating_len = TopkGatingParams::scratch_len(num_experts);
    let dispatch_len = MoeDispatchParams::scratch_len(num_experts);
    let mut gating_scratch = ops.allocate(DType::F32, gating_len)?;
    let mut scratch = ops.allocate(DType::I32, dispatch_len)?;
    let shape = [num_tokens, k];
    ops.route(RouteParams {
        gating: TopkGatingParams {
            logits: logits_buffer.tensor(&[num_tokens, num_experts]),
            selection_bias: None,
            forced_ids: None,
            spec: GatingSpec::NANO_MOE,
            expert_ids: ids.tensor_mut(&shape),
            expert_weights: weights.tensor_mut(&shape),
            counts: Some(counts.tensor_mut(&[num_experts])),
            losses: Some(losses.tensor_mut(&[2])),
            scratch: gating_scratch.tensor_mut(&[gating_len]),
        },
        capacity,
        expert_offsets: offsets.tensor_mut(&[num_experts + 1]),
        row_tokens: row_tokens.tensor_mut(&[num_tokens * k]),
        slots: slots.tensor_mut(&shape),
        scratch: scratch.tensor_mut(&[dispatch_len]),
    })?;

    let spec = GatingSpec::NANO_MOE;
    let gated = reference::topk_gating(&f64s(&logits), num_experts, k, &spec, None, None);
    check_equal("expert_ids", &shape, &download_i32(ops, &ids), &gated.expert_ids)?;
    check_equal("counts", &[num_experts], &download_i32(ops, &counts), &gated.counts)?;
    let bound = Bound::sum(DType::F32, num_tokens.max(num_experts), 1.0);
    check_close("losses", &[2], &download(ops, &losses), &[gated.aux_loss, gated.z_loss], bound)?;
    let mut placed = reference::moe_dispatch(&gated.expert_ids, k, num_experts, capacity);
    placed.tokens.resize(num_tokens * k, -1);
    check_equal("expert_offsets", &[num_experts + 1], &download_i32(ops, &offsets), &placed.offsets)?;
    check_equal("slots", &shape, &download_i32(ops, &slots), &placed.slots)?;
    check_equal("row_tokens", &[num_tokens * k], &download_i32(ops, &row_tokens), &placed.tokens)
}

/// Two launches where one block places all assignments, else three.
fn run_launches(num_tokens: usize) -> Result<(), Failed> {
    let device = Arc::new(VirtualDevice::new());
    let ops = DeviceOperations::new(device.clone())?;
    run_route(&ops, num_tokens)?;
    let launches: u64 = device.gpu().counters().iter().map(|kernel| kernel.launches).sum();
    let expected = if num_tokens * 2 <= 2048 { 2 } else { 3 };
    if launches != expected {
        return Err(format!("{launches} launches, expected {expected}").into());
    }
    Ok(())
}

/// k different experts for each token.
fn expert_ids(case: Case) -> Vec<i32> {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(7);
    let mut ids = Vec::new();
    for _ in 0..case.num_tokens {
        let mut chosen: Vec<i32> = Vec::new();
        while chosen.len() < case.k {
            let mut expert = rng.random_range(0..case.num_experts) as i32;
            match case.load {
                Load::OneExpert if chosen.is_empty() => expert = 5,
                Load::OddOnly => expert |= 1,
                _ => {}
            }
            if !chosen.contains(&expert) {
                chosen.push(expert);
            }
        }
        ids.extend(chosen);
    }
    ids
}

fn run(ops: &dyn Operations, case: Case) -> Result<(), Failed> {
    let Case { num_tokens, k, num_experts, capacity, .. } = case;
    let ids = expert_ids(case);
    let id_buffer = upload_i32(ops, &ids);
    let filled = |len: usize| upload_i32(ops, &vec![-7; len]);
    let mut offsets = filled(num_experts + 1);
    let mut row_tokens = filled(num_tokens * k);
    let mut slots = filled(num_tokens * k);
    let scratch_len = MoeDispatchParams::scratch_len(num_experts);
    let mut scratch = ops.allocate(DType::I32, scratch_len)?;
    ops.moe_dispatch(MoeDispatchParams {
        expert_ids: id_buffer.tensor(&[num_tokens, k]),
        num_experts,
        capacity,
        expert_offsets: offsets.tensor_mut(&[num_experts + 1]),
        row_tokens: row_tokens.tensor_mut(&[num_tokens * k]),
        slots: slots.tensor_mut(&[num_tokens, k]),
        scratch: scratch.tensor_mut(&[scratch_len]),
    })?;

    let mut expected = reference::moe_dispatch(&ids, k, num_experts, capacity);
    expected.tokens.resize(num_tokens * k, -1);
    check_equal("expert_offsets", &[num_experts + 1], &download_i32(ops, &offsets), &expected.offsets)?;
    check_equal("slots", &[num_tokens, k], &download_i32(ops, &slots), &expected.slots)?;
    check_equal("row_tokens", &[num_tokens * k], &download_i32(ops, &row_tokens), &expected.tokens)
}

/// Any number of experts, choices and slots.
pub fn property(ops: &dyn Operations, _: DType, reach: Reach) -> Result<(), Failed> {
    let Reach { most, .. } = reach;
    let chosen = (1..2 * most).prop_flat_map(|num_experts| (Just(num_experts), 1..=num_experts.min(8)));
    let any = (0..2 * most, chosen, proptest::option::of(0..most), any::<bool>());
    let case = any.prop_map(|(num_tokens, (num_experts, k), capacity, one)| {
        let load = if one && num_experts > 5 { Load::OneExpert } else { Load::Even };
        Case { num_tokens, k, num_experts, capacity, load }
    });
    for_any(reach, case, |case| run(ops, case))
}
