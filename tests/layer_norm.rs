//! Layer norm, alone and fused with the residual add.

use libtest_mimic::{Failed, Trial};
use nanomoe::operations::{FusedResidual, LayerNormParams, Operations};
use nanomoe::reference;
use nanomoe::tensor::DType;
use proptest::prelude::*;

use crate::common::{
    Bound, Executor, Layout, Padded, Reach, any_layout, check_close, f64s, for_any, random, rounded, trial,
    upload,
};

const EPS: f32 = 1e-5;

#[derive(Clone, Copy, Debug)]
struct Case {
    num_tokens: usize,
    hidden_size: usize,
    layout: Layout,
    residual: bool,
    beta: bool,
    /// Mean and half width of a row's values.
    mean: f32,
    width: f32,
}

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let base = Case {
        num_tokens: 5, // not a multiple of the four rows of a block
        hidden_size: 64,
        layout: Layout::Dense,
        residual: false,
        beta: true,
        mean: 0.0,
        width: 1.0,
    };
    let mut cases = vec![
        Case { beta: false, ..base },
        Case { residual: true, ..base },
        Case { residual: true, layout: Layout::Strided, ..base },
        Case { residual: true, layout: Layout::Unaligned, hidden_size: 67, ..base },
        Case { layout: Layout::Unaligned, ..base },
        Case { num_tokens: 0, ..base },
        // where E[x²] - E[x]² cancels
        Case { mean: 100.0, width: 0.01, hidden_size: 768, ..base },
        Case { mean: -3.0, width: 0.5, residual: true, hidden_size: 768, ..base },
        // constant rows: the variance is exactly 0
        Case { mean: 3.0, width: 0.0, ..base },
    ];
    // one element, around 16 bytes, a warp's row and the first block's, GPT-2's, primes, and more than a block keeps
    for hidden_size in [1, 2, 7, 8, 9, 31, 33, 127, 768, 1021, 1024, 1025, 1032, 4096, 16384, 16400, 17011] {
        let num_tokens = if hidden_size > 2000 { 2 } else { 5 };
        cases.push(Case { hidden_size, num_tokens, ..base });
    }
    cases.push(Case { hidden_size: 16416, num_tokens: 2, residual: true, ..base });
    // more rows than the blocks take at once: 16 of a warp each, and fewer of several
    cases.push(Case { hidden_size: 8, num_tokens: 4300, ..base });
    cases.push(Case { hidden_size: 1032, num_tokens: 1100, residual: true, ..base });
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for &case in &cases {
            let Case { num_tokens, hidden_size, layout, mean, .. } = case;
            let kind = if case.residual { "-residual" } else { "" };
            let no_beta = if case.beta { "" } else { "-no-beta" };
            let shape = format!("{num_tokens}x{hidden_size}-{layout:?}{kind}{no_beta}-mean{mean}");
            for &executor in executors {
                trials.push(trial("layer_norm", dtype, &shape, executor, move |ops| run(ops, dtype, case)));
            }
        }
    }
    trials
}

fn run(ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    let Case { num_tokens, hidden_size, layout, .. } = case;
    let len = num_tokens * hidden_size;
    let values: Vec<f32> = random(1, len).iter().map(|x| case.mean + case.width * x).collect();
    let x = rounded(dtype, &values);
    let delta = rounded(dtype, &random(2, len));
    let (gamma, beta) = (random(3, hidden_size), random(4, hidden_size));
    let sum = if case.residual {
        rounded(dtype, &x.iter().zip(&delta).map(|(a, b)| a + b).collect::<Vec<_>>())
    } else {
        x.clone()
    };

    let x_rows = Padded::new(ops, dtype, &x, hidden_size, layout);
    let delta_rows = Padded::new(ops, dtype, &delta, hidden_size, layout);
    let mut sum_rows = Padded::output(ops, dtype, num_tokens, hidden_size, layout);
    let mut out = Padded::output(ops, dtype, num_tokens, hidden_size, layout);
    let gamma_buffer = upload(ops, DType::F32, &gamma);
    let beta_buffer = upload(ops, DType::F32, &beta);
    ops.layer_norm(LayerNormParams {
        out: out.tensor_mut(),
        x: x_rows.tensor(),
        residual: case
            .residual
            .then(|| FusedResidual { delta: delta_rows.tensor(), sum: sum_rows.tensor_mut() }),
        gamma: gamma_buffer.tensor(&[hidden_size]),
        beta: case.beta.then(|| beta_buffer.tensor(&[hidden_size])),
        eps: EPS,
    })?;

    let shape = [num_tokens, hidden_size];
    if case.residual {
        check_close(
            "sum",
            &shape,
            &sum_rows.read(ops)?,
            &f64s(&sum),
            Bound { absolute: 0.0, relative: 0.0 },
        )?;
    }
    let expected = if num_tokens == 0 {
        Vec::new()
    } else {
        let beta = case.beta.then(|| f64s(&beta));
        reference::layer_norm(&f64s(&sum), &f64s(&gamma), beta.as_deref(), f64::from(EPS))
    };
    // A normalised value is at most √hidden_size; the mean and variance are sums of hidden_size terms, whose rounding
    // is relative to the deviations, not to the mean: the mean's own rounding is taken out by the second pass.
    check_close("out", &shape, &out.read(ops)?, &expected, Bound::sum(dtype, hidden_size, 1.0))
}

/// Any shape and layout.
pub fn property(ops: &dyn Operations, dtype: DType, reach: Reach) -> Result<(), Failed> {
    let rows = prop_oneof![Just((0.0f32, 1.0f32)), Just((5.0, 0.5)), Just((-2.0, 0.0))];
    let any = (0..reach.most, 1..6 * reach.most, any_layout(), any::<bool>(), any::<bool>(), rows);
    let case = any.prop_map(|(num_tokens, hidden_size, layout, residual, beta, (mean, width))| Case {
        num_tokens,
        hidden_size,
        layout,
        residual,
        beta,
        mean,
        width,
    });
    for_any(reach, case, |case| run(ops, dtype, case))
}
