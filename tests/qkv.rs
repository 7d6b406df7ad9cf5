//! Queries, keys and values with a cache: every tile edge, the seam between q and the cache, rows that go nowhere.

use libtest_mimic::{Failed, Trial};
use nanomoe::operations::{Operations, QkvParams};
use nanomoe::reference;
use nanomoe::tensor::DType;

use crate::common::{
    Bound, Executor, Layout, Padded, check_close, f64s, random, rounded, trial, upload, upload_i32,
};

#[derive(Clone, Copy, Debug)]
struct Case {
    num_tokens: usize,
    q_columns: usize,
    kv_columns: usize,
    k: usize,
    layout: Layout,
    bias: bool,
}

const BASE: Case =
    Case { num_tokens: 3, q_columns: 64, kv_columns: 128, k: 64, layout: Layout::Dense, bias: true };

/// Rows of the cache that no token goes to.
const SPARE_ROWS: usize = 5;

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let mut cases = vec![
        Case { bias: false, ..BASE },
        Case { layout: Layout::Strided, ..BASE },
        Case { layout: Layout::Unaligned, ..BASE },
        // the seam inside of a thread's four columns, and inside of a tile
        Case { q_columns: 66, kv_columns: 34, ..BASE },
        Case { q_columns: 7, kv_columns: 9, k: 13, ..BASE },
        Case { q_columns: 30, kv_columns: 131, layout: Layout::Unaligned, ..BASE },
        // grouped heads
        Case { q_columns: 96, kv_columns: 32, k: 96, ..BASE },
        Case { num_tokens: 0, ..BASE },
    ];
    // around the tiles of 16 and of 64 rows
    for num_tokens in [1, 2, 15, 16, 17, 33, 63, 64, 65, 130] {
        cases.push(Case { num_tokens, q_columns: 1024, kv_columns: 2048, k: 72, ..BASE });
        cases.push(Case { num_tokens, q_columns: 40, kv_columns: 80, k: 40, ..BASE });
    }
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for &case in &cases {
            let Case { num_tokens, q_columns, kv_columns, k, layout, bias } = case;
            let bias = if bias { "-bias" } else { "" };
            let shape = format!("{num_tokens}x{q_columns}+{kv_columns}x{k}-{layout:?}{bias}");
            for &executor in executors {
                trials.push(trial("qkv", dtype, &shape, executor, move |ops| run(ops, dtype, case)));
            }
        }
    }
    trials
}

fn run(ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    let Case { num_tokens, q_columns, kv_columns, k, layout, bias } = case;
    let columns = q_columns + kv_columns;
    let cache_rows = num_tokens + SPARE_ROWS;
    let a = rounded(dtype, &random(1, num_tokens * k));
    let weight = rounded(dtype, &random(2, columns * k));
    let biases = bias.then(|| random(3, columns));
    // Rows from the last to the first; of the first token and the last nothing is kept
    let mut kv_rows: Vec<i32> = (0..num_tokens).map(|token| (cache_rows - 1 - token) as i32).collect();
    if let [first, .., last] = &mut kv_rows[..] {
        (*first, *last) = (-1, cache_rows as i32);
    }

    let before = rounded(dtype, &random(4, cache_rows * kv_columns));
    let (a_tensor, weight_tensor) =
        (Padded::new(ops, dtype, &a, k, layout), Padded::new(ops, dtype, &weight, k, layout));
    let mut q = Padded::output(ops, dtype, num_tokens, q_columns, layout);
    let mut kv = Padded::new(ops, dtype, &before, kv_columns, layout);
    let (rows, bias_buffer) =
        (upload_i32(ops, &kv_rows), biases.as_ref().map(|b| upload(ops, DType::F32, b)));
    ops.qkv(QkvParams {
        q: q.tensor_mut(),
        kv: kv.tensor_mut(),
        kv_rows: rows.tensor(&[num_tokens]),
        a: a_tensor.tensor(),
        weight: weight_tensor.tensor(),
        bias: bias_buffer.as_ref().map(|buffer| buffer.tensor(&[columns])),
    })?;

    let mut sums = reference::gemm(&f64s(&a), &f64s(&weight), k);
    if let Some(bias) = &biases {
        reference::add_bias(&mut sums, &f64s(bias));
    }
    let mut expected_q = Vec::new();
    let mut expected_kv = f64s(&before);
    for (sums, &row) in sums.chunks(columns).zip(&kv_rows) {
        expected_q.extend_from_slice(&sums[..q_columns]);
        if (0..cache_rows as i32).contains(&row) {
            expected_kv[row as usize * kv_columns..][..kv_columns].copy_from_slice(&sums[q_columns..]);
        }
    }
    let bound = Bound::sum(dtype, k, 1.0);
    check_close("q", &[num_tokens, q_columns], &q.read(ops)?, &expected_q, bound)?;
    check_close("kv", &[cache_rows, kv_columns], &kv.read(ops)?, &expected_kv, bound)
}
