//! The GELU MLP against the f64 reference.

use libtest_mimic::{Failed, Trial};
use nanomoe::operations::{Activation, MlpParams, Operations, Residual};
use nanomoe::reference;
use nanomoe::tensor::DType;

use crate::common::{Bound, Executor, check_close, download, random, rounded, trial, upload};
use crate::gemm::{DTYPES, activate, wide};

#[derive(Clone, Copy)]
struct Case {
    num_tokens: usize,
    hidden_size: usize,
    intermediate_size: usize,
    has_bias: bool,
    activation: Activation,
    adds_residual: bool,
}

fn run(ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    let Case { num_tokens, hidden_size, intermediate_size, .. } = case;
    let x = rounded(dtype, &random(1, num_tokens * hidden_size));
    // Scaled as an initialisation would, so that GELU sees both its bends and its straight ends.
    let scaled = |seed, len, inputs: usize| -> Vec<f32> {
        let scale = 3.0 / (inputs as f32).sqrt();
        rounded(dtype, &random(seed, len).iter().map(|value| value * scale).collect::<Vec<f32>>())
    };
    let fc = scaled(2, intermediate_size * hidden_size, hidden_size);
    let proj = scaled(3, hidden_size * intermediate_size, intermediate_size);
    let fc_bias = random(4, intermediate_size);
    let proj_bias = random(5, hidden_size);
    let residual = rounded(dtype, &random(6, num_tokens * hidden_size));

    let x_buffer = upload(ops, dtype, &x);
    let fc_buffer = upload(ops, dtype, &fc);
    let proj_buffer = upload(ops, dtype, &proj);
    let fc_bias_buffer = upload(ops, DType::F32, &fc_bias);
    let proj_bias_buffer = upload(ops, DType::F32, &proj_bias);
    let mut hidden_buffer = ops.allocate(dtype, num_tokens * intermediate_size)?;
    let mut out_buffer = upload(ops, dtype, &residual);
    ops.mlp(MlpParams {
        out: out_buffer.tensor_mut(&[num_tokens, hidden_size]),
        x: x_buffer.tensor(&[num_tokens, hidden_size]),
        hidden: hidden_buffer.tensor_mut(&[num_tokens, intermediate_size]),
        fc: fc_buffer.tensor(&[intermediate_size, hidden_size]),
        fc_bias: case.has_bias.then(|| fc_bias_buffer.tensor(&[intermediate_size])),
        proj: proj_buffer.tensor(&[hidden_size, intermediate_size]),
        proj_bias: case.has_bias.then(|| proj_bias_buffer.tensor(&[hidden_size])),
        activation: case.activation,
        residual: if case.adds_residual { Residual::InPlace } else { Residual::None },
    })?;

    // The first product, as it was left in `hidden`.
    let mut hidden = reference::gemm(&wide(&x), &wide(&fc), hidden_size);
    if case.has_bias {
        reference::add_bias(&mut hidden, &wide(&fc_bias));
    }
    let hidden: Vec<f64> = hidden.into_iter().map(activate(case.activation)).collect();
    let got_hidden = download(ops, &hidden_buffer);
    let bound = Bound::sum(dtype, hidden_size, 3.0 / (hidden_size as f64).sqrt());
    check_close("hidden", &[num_tokens, intermediate_size], &got_hidden, &hidden, bound)?;

    // The second, from the exact `hidden`: its rounding to `dtype` spreads over a sum.
    let mut expected = reference::mlp(
        &wide(&x),
        &wide(&fc),
        case.has_bias.then_some(wide(&fc_bias)).as_deref(),
        &wide(&proj),
        case.has_bias.then_some(wide(&proj_bias)).as_deref(),
        hidden_size,
        activate(case.activation),
    );
    if case.adds_residual {
        reference::add_residual(&mut expected, &wide(&residual));
    }
    // |proj| <= 3 / sqrt(I) and hidden's rounding errors are independent: their sum is about 3 · epsilon · |hidden|.
    let mut bound = Bound::sum(dtype, intermediate_size, 3.0 / (intermediate_size as f64).sqrt());
    let largest = hidden.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
    bound.absolute += 3.0 * Bound::epsilon(dtype) * largest;
    let got = download(ops, &out_buffer);
    check_close("out", &[num_tokens, hidden_size], &got, &expected, bound)
}

/// Every trial of `mlp`.
pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let case = |num_tokens, hidden_size, intermediate_size| Case {
        num_tokens,
        hidden_size,
        intermediate_size,
        has_bias: true,
        activation: Activation::GeluErf,
        adds_residual: true,
    };
    let cases = [
        case(1, 1, 1),
        case(1, 24, 96),   // one token: the narrow tile
        case(67, 40, 160), // more than a tile of 64
        case(129, 33, 77), // nothing is a multiple of anything
        Case { has_bias: false, ..case(5, 32, 128) },
        Case { adds_residual: false, ..case(5, 32, 128) },
        Case { activation: Activation::GeluTanh, ..case(5, 32, 128) },
        Case { activation: Activation::GeluTanh, has_bias: false, adds_residual: false, ..case(70, 64, 70) },
    ];
    let mut trials = Vec::new();
    for &executor in executors {
        for dtype in DTYPES {
            for case in cases {
                let mut shape =
                    format!("{}x{}x{}", case.num_tokens, case.hidden_size, case.intermediate_size);
                shape += if case.activation == Activation::GeluTanh { "_gelu_tanh" } else { "_gelu_erf" };
                shape += if case.has_bias { "_bias" } else { "" };
                shape += if case.adds_residual { "_residual" } else { "" };
                trials.push(trial("mlp", dtype, shape, executor, move |ops| run(ops, dtype, case)));
            }
        }
    }
    trials
}
