//! Router logits, and the choice of experts from them.

use libtest_mimic::{Failed, Trial};
use nanomoe::kernels::Numerics;
use nanomoe::operations::{
    ExpertGroups, GatingSpec, GroupScore, Operations, RouterLogitsParams, RouterNoise, ScoreFunction,
    SoftmaxOrder, TopkGatingParams,
};
use nanomoe::reference;
use nanomoe::tensor::DType;
use proptest::prelude::*;

use crate::common::{
    Bound, Executor, Layout, Padded, Reach, check_close, check_equal, device_operations, download,
    download_i32, f64s, for_any, random, rounded, trial, upload, upload_i32,
};

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let mut trials = router_trials(executors);
    trials.extend(gating_trials(executors));
    trials
}

fn router_trials(executors: &[Executor]) -> Vec<Trial> {
    // tokens and experts around the 4 x 8 of a warp, the 32 x 16 of a block; hidden sizes around a lane's 4 elements and
    // a warp's 128, and above the 1,024 of eight warps
    let mut cases = vec![
        (5, 8, 384, Layout::Strided, true),
        (3, 9, 65, Layout::Unaligned, true),
        (0, 8, 64, Layout::Dense, false),
    ];
    for num_tokens in [1, 3, 4, 5, 31, 32, 33] {
        cases.push((num_tokens, 8, 64, Layout::Dense, false));
    }
    for num_experts in [1, 7, 9, 16, 17, 64] {
        cases.push((6, num_experts, 64, Layout::Dense, true));
    }
    for hidden_size in [1, 3, 4, 5, 127, 128, 132, 1021, 1100] {
        cases.push((6, 8, hidden_size, Layout::Dense, false));
    }
    // more tokens than the blocks take at once, and weights that do not fit shared memory
    cases.push((100, 1024, 8, Layout::Dense, false));
    cases.push((1100, 64, 8, Layout::Dense, true));
    cases.push((6, 8, 7304, Layout::Dense, false));
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for &(num_tokens, num_experts, hidden_size, layout, noisy) in &cases {
            let noise = if noisy { "-noise" } else { "" };
            let shape = format!("{num_tokens}x{hidden_size}-e{num_experts}-{layout:?}{noise}");
            for &executor in executors {
                trials.push(trial("router_logits", dtype, &shape, executor, move |ops| {
                    let sizes = [num_tokens, num_experts, hidden_size];
                    run_router(ops, dtype, sizes, layout, noisy)?;
                    if executor.name == "cpu" {
                        return Ok(());
                    }
                    // The warps of a block share hidden_size for so few tokens, but not here
                    let alone = device_operations(executor, Numerics::BatchInvariant)?;
                    run_router(&alone, dtype, sizes, layout, noisy)?;
                    Ok(alone.synchronize()?)
                }));
            }
        }
    }
    trials
}

fn run_router(
    ops: &dyn Operations,
    dtype: DType,
    [num_tokens, num_experts, hidden_size]: [usize; 3],
    layout: Layout,
    noisy: bool,
) -> Result<(), Failed> {
    const SEED: u64 = 0x1234_5678_9abc_def0;
    let x = rounded(dtype, &random(1, num_tokens * hidden_size));
    let weight = random(2, num_experts * hidden_size);
    let noise_weight = random(3, num_experts * hidden_size);
    let x_rows = Padded::new(ops, dtype, &x, hidden_size, layout);
    let weight_buffer = upload(ops, DType::F32, &weight);
    let noise_buffer = upload(ops, DType::F32, &noise_weight);
    let mut logits = ops.allocate(DType::F32, num_tokens * num_experts)?;
    let shape = [num_tokens, num_experts];
    ops.router_logits(RouterLogitsParams {
        logits: logits.tensor_mut(&shape),
        x: x_rows.tensor(),
        weight: weight_buffer.tensor(&[num_experts, hidden_size]),
        noise: noisy
            .then(|| RouterNoise { weight: noise_buffer.tensor(&[num_experts, hidden_size]), seed: SEED }),
    })?;
    let noise_weight = f64s(&noise_weight);
    let noise = noisy.then_some((noise_weight.as_slice(), SEED));
    let expected = reference::router_logits(&f64s(&x), &f64s(&weight), noise, hidden_size);
    // A normal deviate of up to 6 multiplies the rounding of the softplus, a sum of as many terms
    let scale = if noisy { 8.0 } else { 1.0 };
    check_close(
        "logits",
        &shape,
        &download(ops, &logits),
        &expected,
        Bound::sum(DType::F32, hidden_size, scale),
    )
}

/// Which logits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rows {
    Random,
    /// Eighths from -1 to 1, so that many are equal.
    Ties,
    /// All equal.
    Constant,
    /// A NaN in some rows, -inf in some places, a row of nothing but -inf.
    Special,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    num_tokens: usize,
    num_experts: usize,
    k: usize,
    rows: Rows,
    bias: bool,
    forced: bool,
    statistics: bool,
}

fn gating_trials(executors: &[Executor]) -> Vec<Trial> {
    let nano_moe = GatingSpec::NANO_MOE;
    let before = GatingSpec { softmax_order: SoftmaxOrder::BeforeTopK, ..nano_moe };
    let mixtral = GatingSpec { renormalize: true, ..before };
    let sigmoid = GatingSpec {
        score: ScoreFunction::Sigmoid,
        renormalize: true,
        epsilon: 1e-20,
        scale: 2.5,
        ..nano_moe
    };
    let groups = |num_groups, top_groups, score| Some(ExpertGroups { num_groups, top_groups, score });
    let specs = [
        ("after", nano_moe),
        ("before", before),
        ("renormalized", mixtral),
        ("epsilon", GatingSpec { epsilon: 0.5, scale: 0.5, ..mixtral }),
        ("sigmoid", sigmoid),
        ("group-max", GatingSpec { groups: groups(4, 2, GroupScore::Max), ..before }),
        ("group-sum", GatingSpec { groups: groups(2, 1, GroupScore::SumOfTop2), ..sigmoid }),
    ];
    let base = Case {
        num_tokens: 19, // more than the 16 of a warp
        num_experts: 8,
        k: 2,
        rows: Rows::Random,
        bias: false,
        forced: false,
        statistics: true,
    };
    let mut cases = Vec::new();
    for rows in [Rows::Random, Rows::Ties, Rows::Constant, Rows::Special] {
        cases.push(Case { rows, ..base });
        cases.push(Case { rows, num_experts: 64, k: 6, ..base });
    }
    cases.push(Case { bias: true, ..base });
    cases.push(Case { bias: true, num_experts: 256, k: 8, ..base });
    cases.push(Case { forced: true, ..base });
    cases.push(Case { forced: true, rows: Rows::Special, ..base });
    cases.push(Case { statistics: false, ..base });
    let mut all: Vec<(&str, GatingSpec, Case)> =
        specs.iter().flat_map(|&(name, spec)| cases.iter().map(move |&case| (name, spec, case))).collect();
    // each kernel's first and last number of experts, one expert, every expert chosen
    for (num_experts, k) in
        [(1, 1), (2, 2), (7, 3), (31, 31), (32, 2), (33, 4), (256, 8), (257, 8), (1024, 8)]
    {
        all.push(("after", nano_moe, Case { num_experts, k, ..base }));
        all.push(("renormalized", mixtral, Case { num_experts, k, rows: Rows::Ties, ..base }));
    }
    all.push(("before", before, Case { num_tokens: 3, num_experts: 1024, k: 1024, ..base }));
    for num_tokens in [0, 1, 16, 17, 2049] {
        all.push(("after", nano_moe, Case { num_tokens, ..base }));
    }
    // more tokens than the blocks that leave statistics take at once
    all.push(("after", nano_moe, Case { num_tokens: 2100, num_experts: 256, ..base }));
    let mut trials = Vec::new();
    for (name, spec, case) in all {
        let Case { num_tokens, num_experts, k, rows, .. } = case;
        let bias = if case.bias { "-bias" } else { "" };
        let forced = if case.forced { "-forced" } else { "" };
        let plain = if case.statistics { "" } else { "-no-statistics" };
        let shape = format!("{num_tokens}x{num_experts}-k{k}-{name}-{rows:?}{bias}{forced}{plain}");
        for &executor in executors {
            trials.push(trial("topk_gating", DType::F32, &shape, executor, move |ops| {
                run_gating(ops, &spec, case)
            }));
        }
    }
    trials
}

fn logits(case: Case) -> Vec<f32> {
    let mut logits: Vec<f32> =
        random(11, case.num_tokens * case.num_experts).iter().map(|x| 3.0 * x).collect();
    match case.rows {
        Rows::Random => {}
        Rows::Ties => logits.iter_mut().for_each(|x| *x = (*x / 3.0 * 8.0).round() / 8.0),
        Rows::Constant => logits.fill(-0.75),
        Rows::Special => {
            for (token, row) in logits.chunks_mut(case.num_experts).enumerate() {
                match token % 5 {
                    0 => row[token % case.num_experts] = f32::NAN,
                    1 => row.iter_mut().step_by(2).for_each(|x| *x = f32::NEG_INFINITY),
                    2 => row.fill(f32::NAN),
                    _ => {}
                }
            }
        }
    }
    logits
}

fn run_gating(ops: &dyn Operations, spec: &GatingSpec, case: Case) -> Result<(), Failed> {
    let Case { num_tokens, num_experts, k, .. } = case;
    let logits = logits(case);
    let bias = case.bias.then(|| random(12, num_experts));
    let forced: Option<Vec<i32>> = case
        .forced
        .then(|| (0..num_tokens * k).map(|i| ((i / k * 3 + i % k * 5) % num_experts) as i32).collect());

    let logits_buffer = upload(ops, DType::F32, &logits);
    let bias_buffer = bias.as_ref().map(|bias| upload(ops, DType::F32, bias));
    let forced_buffer = forced.as_ref().map(|forced| upload_i32(ops, forced));
    let mut ids = upload_i32(ops, &vec![-7; num_tokens * k]);
    let mut weights = ops.allocate(DType::F32, num_tokens * k)?;
    let mut counts = upload_i32(ops, &vec![-7; num_experts]);
    let mut losses = ops.allocate(DType::F32, 2)?;
    let scratch_len = TopkGatingParams::scratch_len(num_experts);
    let mut scratch = ops.allocate(DType::F32, scratch_len)?;
    let shape = [num_tokens, k];
    ops.topk_gating(TopkGatingParams {
        logits: logits_buffer.tensor(&[num_tokens, num_experts]),
        selection_bias: bias_buffer.as_ref().map(|buffer| buffer.tensor(&[num_experts])),
        forced_ids: forced_buffer.as_ref().map(|buffer| buffer.tensor(&shape)),
        spec: *spec,
        expert_ids: ids.tensor_mut(&shape),
        expert_weights: weights.tensor_mut(&shape),
        counts: case.statistics.then(|| counts.tensor_mut(&[num_experts])),
        losses: case.statistics.then(|| losses.tensor_mut(&[2])),
        scratch: scratch.tensor_mut(&[scratch_len]),
    })?;

    let bias = bias.map(|bias| f64s(&bias));
    let expected =
        reference::topk_gating(&f64s(&logits), num_experts, k, spec, bias.as_deref(), forced.as_deref());
    check_equal("expert_ids", &shape, &download_i32(ops, &ids), &expected.expert_ids)?;
    // exp of a difference of up to 6 that was rounded once, and a sum of all experts
    let bound = Bound::sum(DType::F32, num_experts, 1.0);
    let weights = download(ops, &weights);
    check_close("expert_weights", &shape, &weights, &expected.expert_weights, bound)?;
    if case.statistics {
        check_equal("counts", &[num_experts], &download_i32(ops, &counts), &expected.counts)?;
        let bound = Bound::sum(DType::F32, num_tokens.max(num_experts), 1.0);
        check_close("losses", &[2], &download(ops, &losses), &[expected.aux_loss, expected.z_loss], bound)?;
    }
    Ok(())
}

/// Any number of experts and choices.
pub fn property(ops: &dyn Operations, _: DType, reach: Reach) -> Result<(), Failed> {
    let rows = prop_oneof![Just(Rows::Random), Just(Rows::Ties), Just(Rows::Constant), Just(Rows::Special)];
    let few_or_many = prop_oneof![1..10usize, 1..4 * reach.most];
    let chosen = few_or_many.prop_flat_map(|num_experts| (Just(num_experts), 1..=num_experts));
    let any = (0..reach.most, chosen, rows, any::<bool>(), any::<bool>());
    let case = any.prop_map(|(num_tokens, (num_experts, k), rows, renormalize, statistics)| {
        let before =
            GatingSpec { softmax_order: SoftmaxOrder::BeforeTopK, renormalize, ..GatingSpec::NANO_MOE };
        let spec = if renormalize { before } else { GatingSpec::NANO_MOE };
        (spec, Case { num_tokens, num_experts, k, rows, bias: false, forced: false, statistics })
    });
    for_any(reach, case, |(spec, case)| run_gating(ops, &spec, case))
}
