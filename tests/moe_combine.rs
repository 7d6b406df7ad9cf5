//! Weighted sum of each token's expert outputs.

use libtest_mimic::{Failed, Trial};
use nanomoe::operations::{MoeCombineParams, Operations, Residual};
use nanomoe::reference;
use nanomoe::tensor::DType;
use proptest::prelude::*;

use crate::common::{
    Bound, Executor, Layout, Padded, Reach, any_layout, check_close, f64s, for_any, random, rounded, trial,
    upload, upload_i32,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    InPlace,
    From,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    num_tokens: usize,
    hidden_size: usize,
    k: usize,
    layout: Layout,
    kind: Kind,
    /// One assignment of this many is dropped; 0 for none, 1 for all.
    dropped: usize,
}

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let base =
        Case { num_tokens: 6, hidden_size: 64, k: 2, layout: Layout::Dense, kind: Kind::InPlace, dropped: 0 };
    let mut cases = vec![
        Case { kind: Kind::Plain, ..base },
        Case { kind: Kind::From, ..base },
        Case { dropped: 3, ..base },
        Case { dropped: 1, ..base },
        Case { dropped: 1, kind: Kind::Plain, ..base },
        Case { k: 1, ..base },
        Case { k: 8, dropped: 5, ..base },
        Case { layout: Layout::Strided, kind: Kind::From, ..base },
        Case { layout: Layout::Unaligned, ..base },
        Case { num_tokens: 0, ..base },
    ];
    // one element, around 16 bytes, nanoMoE's and a prime, more than a block of 256 threads at once
    for hidden_size in [1, 3, 7, 8, 9, 384, 1021, 2056] {
        cases.push(Case { hidden_size, ..base });
    }
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for &case in &cases {
            let Case { num_tokens, hidden_size, k, layout, kind, dropped } = case;
            let shape = format!("{num_tokens}x{hidden_size}-k{k}-{layout:?}-{kind:?}-dropped{dropped}");
            for &executor in executors {
                trials.push(trial("moe_combine", dtype, &shape, executor, move |ops| run(ops, dtype, case)));
            }
        }
    }
    trials
}

fn run(ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    let Case { num_tokens, hidden_size, k, layout, kind, dropped } = case;
    let num_rows = num_tokens * k;
    let expert_out = rounded(dtype, &random(1, num_rows * hidden_size));
    let residual = rounded(dtype, &random(2, num_tokens * hidden_size));
    let weights = random(3, num_rows);
    // Any order of the rows; 5 shares no factor with the sizes used
    let slots: Vec<i32> = (0..num_rows)
        .map(|i| if dropped != 0 && i % dropped == 0 { -1 } else { (i * 5 % num_rows) as i32 })
        .collect();

    let expert_rows = Padded::new(ops, dtype, &expert_out, hidden_size, layout);
    let residual_rows = Padded::new(ops, dtype, &residual, hidden_size, layout);
    let mut out = match kind {
        Kind::InPlace => Padded::new(ops, dtype, &residual, hidden_size, layout),
        _ => Padded::output(ops, dtype, num_tokens, hidden_size, layout),
    };
    let slot_buffer = upload_i32(ops, &slots);
    let weight_buffer = upload(ops, DType::F32, &weights);
    ops.moe_combine(MoeCombineParams {
        out: out.tensor_mut(),
        expert_out: expert_rows.tensor(),
        slots: slot_buffer.tensor(&[num_tokens, k]),
        weights: weight_buffer.tensor(&[num_tokens, k]),
        residual: match kind {
            Kind::Plain => Residual::None,
            Kind::InPlace => Residual::InPlace,
            Kind::From => Residual::From(residual_rows.tensor()),
        },
    })?;

    let residual = (kind != Kind::Plain).then(|| f64s(&residual));
    let expected = reference::moe_combine(
        &f64s(&expert_out),
        &slots,
        &f64s(&weights),
        k,
        hidden_size,
        residual.as_deref(),
    );
    let shape = [num_tokens, hidden_size];
    check_close("out", &shape, &out.read(ops)?, &expected, Bound::sum(dtype, k + 1, 1.0))
}

/// Any shape, layout and drops.
pub fn property(ops: &dyn Operations, dtype: DType, reach: Reach) -> Result<(), Failed> {
    let kind = prop_oneof![Just(Kind::Plain), Just(Kind::InPlace), Just(Kind::From)];
    let any = (0..reach.most, 1..6 * reach.most, 1..9usize, any_layout(), kind, 0..5usize);
    let case = any.prop_map(|(num_tokens, hidden_size, k, layout, kind, dropped)| Case {
        num_tokens,
        hidden_size,
        k,
        layout,
        kind,
        dropped,
    });
    for_any(reach, case, |case| run(ops, dtype, case))
}
