//! Token plus position embedding.

use libtest_mimic::{Failed, Trial};
use nanomoe::operations::{EmbeddingParams, Operations};
use nanomoe::reference;
use nanomoe::tensor::DType;

use crate::common::{Bound, Executor, Layout, Padded, check_close, f64s, random, rounded, trial, upload_i32};

const VOCAB_SIZE: usize = 11;
const NUM_POSITIONS: usize = 13;

#[derive(Clone, Copy, Debug)]
struct Case {
    batch_size: usize,
    seq_len: usize,
    hidden_size: usize,
    layout: Layout,
    first_position: usize,
    per_sequence: bool,
    unknown: bool,
}

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let base = Case {
        batch_size: 2,
        seq_len: 5,
        hidden_size: 64,
        layout: Layout::Dense,
        first_position: 0,
        per_sequence: false,
        unknown: false,
    };
    let mut cases = vec![
        Case { first_position: 3, ..base },
        Case { per_sequence: true, first_position: 1, ..base },
        Case { unknown: true, ..base },
        Case { layout: Layout::Strided, ..base },
        Case { layout: Layout::Unaligned, per_sequence: true, ..base },
        Case { batch_size: 0, ..base },
    ];
    // one element; below, at and above 16 bytes; below and above a block of 256 threads; a prime
    for hidden_size in [1, 3, 4, 7, 8, 9, 768, 1021, 2056] {
        cases.push(Case { hidden_size, ..base });
    }
    let mut trials = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for &case in &cases {
            let Case { batch_size, seq_len, hidden_size, layout, .. } = case;
            let kind = match (case.unknown, case.per_sequence, case.first_position) {
                (true, ..) => "-unknown",
                (_, true, _) => "-first-of-each",
                (_, _, 0) => "",
                _ => "-first",
            };
            let shape = format!("{batch_size}x{seq_len}x{hidden_size}-{layout:?}{kind}");
            for &executor in executors {
                trials.push(trial("embedding", dtype, &shape, executor, move |ops| run(ops, dtype, case)));
            }
        }
    }
    trials
}

fn run(ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    let Case { batch_size, seq_len, hidden_size, layout, .. } = case;
    let tokens = rounded(dtype, &random(1, VOCAB_SIZE * hidden_size));
    let positions = rounded(dtype, &random(2, NUM_POSITIONS * hidden_size));
    let mut ids: Vec<i32> = (0..batch_size * seq_len).map(|i| (i * 7 % VOCAB_SIZE) as i32).collect();
    let mut first: Vec<i32> = (0..batch_size).map(|b| 2 * b as i32).collect();
    if case.unknown {
        // the first id past the table, a negative one, and the extremes
        ids[..4].copy_from_slice(&[VOCAB_SIZE as i32, -1, i32::MAX, i32::MIN]);
        // the second sequence runs past the position table
        first[1] = NUM_POSITIONS as i32 - 2;
    }
    let use_first = case.per_sequence || case.unknown;

    let token_table = Padded::new(ops, dtype, &tokens, hidden_size, layout);
    let position_table = Padded::new(ops, dtype, &positions, hidden_size, layout);
    let id_buffer = upload_i32(ops, &ids);
    let first_buffer = upload_i32(ops, &first);
    let mut out = Padded::output(ops, dtype, batch_size * seq_len, hidden_size, layout);
    ops.embedding(EmbeddingParams {
        out: out.tensor_mut().split(0, seq_len),
        token_ids: id_buffer.tensor(&[batch_size, seq_len]),
        token_table: token_table.tensor(),
        position_table: position_table.tensor(),
        first_positions: use_first.then(|| first_buffer.tensor(&[batch_size])),
        first_position: case.first_position,
    })?;

    // Rows that do not exist are NaN; the reference is asked for row 0 in their place
    let mut known = vec![true; ids.len()];
    let mut reference_positions = vec![0; ids.len()];
    for (index, id) in ids.iter_mut().enumerate() {
        let start = if use_first { first[index / seq_len] as usize } else { 0 };
        let position = case.first_position + start + index % seq_len;
        known[index] = (0..VOCAB_SIZE as i32).contains(id) && position < NUM_POSITIONS;
        if known[index] {
            reference_positions[index] = position;
        } else {
            *id = 0;
        }
    }
    let mut expected =
        reference::embedding(&ids, &reference_positions, &f64s(&tokens), &f64s(&positions), hidden_size);
    for (row, known) in expected.chunks_mut(hidden_size).zip(known) {
        if !known {
            row.fill(f64::NAN);
        }
    }
    let shape = [batch_size * seq_len, hidden_size];
    check_close("out", &shape, &out.read(ops)?, &expected, Bound::sum(dtype, 2, 1.0))
}
