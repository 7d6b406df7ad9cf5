//! Logits, argmax and cross-entropy against the f64 reference.

use libtest_mimic::{Failed, Trial};
use nanomoe::kernels::{DeviceOperations, WgmmaTile, lm_head_with_wgmma};
use nanomoe::operations::{CrossEntropy, LmHeadParams, Operations};
use nanomoe::reference;
use nanomoe::tensor::{DType, Tensor, TensorMut};
use proptest::prelude::*;

use crate::common::{
    Bound, Executor, Reach, check_close, check_equal, download, download_i32, for_any, hopper_trial, random,
    rounded, trial, upload, upload_i32,
};
use crate::gemm::{DTYPES, tile_name, wide};

const IGNORE_INDEX: i32 = -1;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    logits: bool,
    argmax: bool,
    loss: bool,
}

const ALL: Wanted = Wanted { logits: true, argmax: true, loss: true };

/// A product and its inputs.
pub struct Case {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    rows: Option<Vec<i32>>,
    targets: Vec<i32>,
    allowed_vocab: usize,
    vocab_size: usize,
    hidden_size: usize,
    wanted: Wanted,
}

/// How a case's product is asked for.
type Product<'a> = &'a dyn Fn(LmHeadParams<Tensor<'_>, TensorMut<'_>>) -> nanomoe::Result<()>;

/// What came back.
struct Answer {
    logits: Vec<f32>,
    argmax: Vec<i32>,
    losses: Vec<f32>,
}

impl Case {
    /// Random values as `dtype` stores them.
    fn random(dtype: DType, num_tokens: usize, vocab_size: usize, hidden_size: usize) -> Self {
        let target = |row: usize| if row % 5 == 3 { IGNORE_INDEX } else { (row * 7919 % vocab_size) as i32 };
        Case {
            x: rounded(dtype, &random(1, num_tokens * hidden_size)),
            weight: rounded(dtype, &random(2, vocab_size * hidden_size)),
            bias: None,
            rows: None,
            targets: (0..num_tokens).map(target).collect(),
            allowed_vocab: vocab_size,
            vocab_size,
            hidden_size,
            wanted: ALL,
        }
    }

    fn num_rows(&self) -> usize {
        self.rows.as_ref().map_or(self.x.len() / self.hidden_size, Vec::len)
    }

    fn run(&self, ops: &dyn Operations, dtype: DType) -> Result<Answer, Failed> {
        self.run_by(ops, dtype, &|p| ops.lm_head(p))
    }

    fn run_by(&self, ops: &dyn Operations, dtype: DType, product: Product<'_>) -> Result<Answer, Failed> {
        let num_tokens = self.x.len() / self.hidden_size;
        let (num_rows, vocab_size, hidden_size) = (self.num_rows(), self.vocab_size, self.hidden_size);
        let x = upload(ops, dtype, &self.x);
        let weight = upload(ops, dtype, &self.weight);
        let bias = self.bias.as_ref().map(|bias| upload(ops, DType::F32, bias));
        let rows = self.rows.as_ref().map(|rows| upload_i32(ops, rows));
        let targets = upload_i32(ops, &self.targets);
        let scratch_len = LmHeadParams::scratch_len(num_rows, vocab_size);
        let mut scratch = ops.allocate(DType::F32, scratch_len)?;
        let mut logits = ops.allocate(DType::F32, num_rows * vocab_size)?;
        let mut argmax = ops.allocate(DType::I32, num_rows)?;
        let mut losses = ops.allocate(DType::F32, num_rows)?;
        product(LmHeadParams {
            x: x.tensor(&[num_tokens, hidden_size]),
            rows: rows.as_ref().map(|rows| rows.tensor(&[num_rows])),
            weight: weight.tensor(&[vocab_size, hidden_size]),
            bias: bias.as_ref().map(|bias| bias.tensor(&[vocab_size])),
            logits: self.wanted.logits.then(|| logits.tensor_mut(&[num_rows, vocab_size])),
            argmax: self.wanted.argmax.then(|| argmax.tensor_mut(&[num_rows])),
            allowed_vocab: self.allowed_vocab,
            cross_entropy: self.wanted.loss.then(|| CrossEntropy {
                targets: targets.tensor(&[num_rows]),
                ignore_index: IGNORE_INDEX,
                losses: losses.tensor_mut(&[num_rows]),
            }),
            scratch: scratch.tensor_mut(&[scratch_len]),
        })?;
        let Wanted { logits: wants_logits, argmax: wants_argmax, loss: wants_loss } = self.wanted;
        Ok(Answer {
            logits: if wants_logits { download(ops, &logits) } else { Vec::new() },
            argmax: if wants_argmax { download_i32(ops, &argmax) } else { Vec::new() },
            losses: if wants_loss { download(ops, &losses) } else { Vec::new() },
        })
    }

    /// The reference's logits `[num_rows, vocab_size]`.
    fn expected_logits(&self) -> Vec<f64> {
        let x = wide(&self.x);
        let row = |row: usize| &x[row * self.hidden_size..][..self.hidden_size];
        let chosen: Vec<f64> = match &self.rows {
            Some(rows) => rows.iter().flat_map(|&index| row(index as usize).to_vec()).collect(),
            None => x.clone(),
        };
        let bias = self.bias.as_ref().map(|bias| wide(bias));
        reference::lm_head(&chosen, &wide(&self.weight), bias.as_deref(), self.hidden_size)
    }

    /// Runs and compares everything that is asked for. Logits are random reals, so the argmax has no near ties that
    /// rounding could turn: exact sums in f64 and in f32 order them alike, which is asserted first.
    fn check(&self, ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
        self.check_by(ops, dtype, &|p| ops.lm_head(p))
    }

    fn check_by(&self, ops: &dyn Operations, dtype: DType, product: Product<'_>) -> Result<(), Failed> {
        let answer = self.run_by(ops, dtype, product)?;
        let (num_rows, vocab_size) = (self.num_rows(), self.vocab_size);
        let logits = self.expected_logits();
        // Logits and losses are f32 whatever the storage type; only the sums round.
        let bound = Bound::sum(DType::F32, self.hidden_size, 1.0);
        if self.wanted.logits {
            check_close("logits", &[num_rows, vocab_size], &answer.logits, &logits, bound)?;
        }
        if self.wanted.argmax {
            let allowed: Vec<f64> =
                logits.chunks_exact(vocab_size).flat_map(|row| row[..self.allowed_vocab].to_vec()).collect();
            for row in allowed.chunks_exact(self.allowed_vocab) {
                let mut sorted = row.to_vec();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let gap = sorted.get(1).map_or(f64::INFINITY, |second| sorted[0] - second);
                assert!(gap > 2.0 * bound.absolute, "the data has a near tie: {gap}");
            }
            let expected = reference::argmax(&allowed, self.allowed_vocab);
            check_equal("argmax", &[num_rows], &answer.argmax, &expected)?;
        }
        if self.wanted.loss {
            let expected = reference::cross_entropy(&logits, &self.targets, vocab_size, IGNORE_INDEX);
            // The error of the largest logits and of the target's, and of a sum over the vocabulary.
            let sum = Bound::sum(DType::F32, vocab_size, 1.0);
            let bound = Bound { absolute: 2.0 * bound.absolute + sum.absolute, ..sum };
            check_close("losses", &[num_rows], &answer.losses, &expected, bound)?;
        }
        Ok(())
    }
}

/// A named case and how to make it.
pub type Making = (&'static str, fn(DType) -> Case);

const CASES: &[Making] = &[
    ("1x1x1", |dtype| Case::random(dtype, 1, 1, 1)),
    ("1x65x16", |dtype| Case::random(dtype, 1, 65, 16)), // a character vocabulary, one row
    ("15x127x24", |dtype| Case::random(dtype, 15, 127, 24)), // one less than the tile
    ("16x128x64", |dtype| Case::random(dtype, 16, 128, 64)),
    ("17x129x65", |dtype| Case::random(dtype, 17, 129, 65)), // one more, unaligned rows
    ("130x300x40", |dtype| Case::random(dtype, 130, 300, 40)), // the tall tile, twice
    ("2x5003x32", |dtype| Case::random(dtype, 2, 5003, 32)), // more tiles than lanes merge in one step
    ("bias", |dtype| Case { bias: Some(random(3, 200)), ..Case::random(dtype, 5, 200, 32) }),
    ("chosen_rows", |dtype| Case {
        rows: Some(vec![8, 0, 3, 3]),
        targets: vec![1, 199, IGNORE_INDEX, 128],
        ..Case::random(dtype, 9, 200, 32)
    }),
    ("allowed_in_a_tile", |dtype| Case { allowed_vocab: 150, ..Case::random(dtype, 9, 300, 32) }),
    ("allowed_one", |dtype| Case { allowed_vocab: 1, ..Case::random(dtype, 9, 300, 32) }),
    ("only_logits", |dtype| Case {
        wanted: Wanted { argmax: false, loss: false, ..ALL },
        ..Case::random(dtype, 5, 200, 32)
    }),
    ("only_argmax", |dtype| Case {
        wanted: Wanted { logits: false, loss: false, ..ALL },
        ..Case::random(dtype, 5, 200, 32)
    }),
    ("only_loss", |dtype| Case {
        wanted: Wanted { logits: false, argmax: false, ..ALL },
        ..Case::random(dtype, 50, 200, 32)
    }),
];

/// What breaks the Hopper tiles.
pub const WGMMA_CASES: &[Making] = &[
    ("1x1x8", |dtype| Case::random(dtype, 1, 1, 8)),
    ("64x128x64", |dtype| Case::random(dtype, 64, 128, 64)),
    ("65x255x72", |dtype| Case::random(dtype, 65, 255, 72)), // tails of everything, pairs of logits unaligned
    ("129x300x136", |dtype| Case::random(dtype, 129, 300, 136)),
    ("257x130x24", |dtype| Case { bias: Some(random(3, 130)), ..Case::random(dtype, 257, 130, 24) }),
    ("3x1000x1048", |dtype| Case::random(dtype, 3, 1000, 1048)), // more stages than the ring has
    ("allowed", |dtype| Case { allowed_vocab: 150, ..Case::random(dtype, 70, 300, 40) }),
    ("only_loss", |dtype| Case {
        wanted: Wanted { logits: false, argmax: false, ..ALL },
        ..Case::random(dtype, 70, 300, 40)
    }),
    ("only_argmax", |dtype| Case {
        wanted: Wanted { logits: false, loss: false, ..ALL },
        ..Case::random(dtype, 70, 300, 40)
    }),
];

/// A case by the Hopper kernel of this tile.
pub fn run_wgmma_on(ops: &DeviceOperations, dtype: DType, tile: WgmmaTile, case: Case) -> Result<(), Failed> {
    let product = |p: LmHeadParams<Tensor<'_>, TensorMut<'_>>| {
        let raw = p.raw(ops.place())?;
        // SAFETY: as DeviceOperations: the tensors borrow their memory, and work is waited for before it is read.
        unsafe { lm_head_with_wgmma(ops.kernels(), &raw, tile, ops.stream()) }
    };
    case.check_by(ops, dtype, &product)
}

/// Logits that a table gives: x is a unit vector, so that row r of weight is logit r to the last bit.
fn given(vocab_size: usize, logit: impl Fn(usize) -> f32) -> Case {
    // Rows of 16 bytes in 16-bit types, which the Hopper kernels take.
    let weight = (0..vocab_size).flat_map(|id| std::iter::once(logit(id)).chain([0.0; 7])).collect();
    let x = std::iter::once(1.0).chain([0.0; 7]).collect();
    Case { x, weight, targets: vec![0], ..Case::random(DType::F32, 1, vocab_size, 8) }
}

/// Ties go to the lowest id, in a tile and across tiles.
fn run_ties(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    for best in [vec![5, 6], vec![5, 37], vec![40, 69], vec![127, 128], vec![128, 140, 299], vec![0, 299]] {
        let case = given(300, |id| if best.contains(&id) { 2.0 } else { -1.0 });
        check_equal("argmax", &[1], &case.run(ops, dtype)?.argmax, &[best[0] as i32])?;
    }
    let equal = given(300, |_| -0.5);
    check_equal("argmax", &[1], &equal.run(ops, dtype)?.argmax, &[0])
}

/// A NaN among the allowed ids gives -1 and a NaN loss; one beyond them spoils the loss alone.
fn run_nan(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    for (nan, allowed_vocab, argmax) in [(7, 300, -1), (299, 300, -1), (299, 250, 3), (200, 150, 3)] {
        let case = given(300, |id| if id == nan { f32::NAN } else { -((id as f32 - 3.0).abs()) });
        let answer = Case { allowed_vocab, ..case }.run(ops, dtype)?;
        check_equal("argmax", &[1], &answer.argmax, &[argmax])?;
        if !answer.losses[0].is_nan() {
            return Err(format!("the loss is {} with a NaN logit", answer.losses[0]).into());
        }
    }
    Ok(())
}

/// Infinite logits, and a target outside of the vocabulary.
fn run_extremes(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    // Far apart: the exponentials of all but one vanish, none overflows.
    let far = given(300, |id| if id == 200 { 30000.0 } else { -30000.0 });
    let far = Case { targets: vec![200], ..far }.run(ops, dtype)?;
    check_equal("argmax", &[1], &far.argmax, &[200])?;
    check_close("losses", &[1], &far.losses, &[0.0], Bound { absolute: 0.0, relative: 0.0 })?;
    for outside in [300, -7, i32::MAX, i32::MIN] {
        let answer = Case { targets: vec![outside], ..given(300, |_| 0.5) }.run(ops, dtype)?;
        if !answer.losses[0].is_nan() {
            return Err(format!("target {outside} has the loss {}", answer.losses[0]).into());
        }
    }
    Ok(())
}

/// The Hopper tile of numbers of rows that matter, of GPT-2's vocabulary on 132 SMs.
fn run_picks() -> Result<(), Failed> {
    use WgmmaTile::{T64x128, T128x128, T256x128};
    let picks = [
        (1, false, T64x128),
        (64, false, T64x128),
        (65, false, T128x128),
        (128, true, T128x128),
        (256, false, T256x128),
        (256, true, T128x128),
        (16384, false, T256x128),
    ];
    let mut wrong = String::new();
    for (num_rows, gathers, expected) in picks {
        let picked = WgmmaTile::pick_vocab(num_rows, 50304, 768, 132, gathers);
        if picked != expected {
            wrong += &format!("{num_rows} rows, gathered {gathers}: {picked:?}, expected {expected:?}\n");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

/// Every trial of `lm_head`.
pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let mut trials = vec![Trial::test("lm_head::picks", run_picks)];
    for &executor in executors {
        for dtype in [DType::BF16, DType::F16] {
            for tile in WgmmaTile::LM_HEAD {
                let gathers = tile != WgmmaTile::T256x128;
                let chosen = |&&(name, _): &&Making| gathers && name == "chosen_rows";
                for &(name, make) in WGMMA_CASES.iter().chain(CASES.iter().filter(chosen)) {
                    if !executor.may_be_hopper() {
                        continue;
                    }
                    let run = move |ops: &DeviceOperations| run_wgmma_on(ops, dtype, tile, make(dtype));
                    let name = format!("{}_{name}", tile_name(tile));
                    trials.push(hopper_trial("lm_head_wgmma", dtype, name, executor, run));
                }
            }
        }
        for dtype in DTYPES {
            for &(name, make) in CASES {
                let run = move |ops: &dyn Operations| make(dtype).check(ops, dtype);
                trials.push(trial("lm_head", dtype, name, executor, run));
            }
            trials.push(trial("lm_head", dtype, "ties", executor, move |ops| run_ties(ops, dtype)));
            trials.push(trial("lm_head", dtype, "nan", executor, move |ops| run_nan(ops, dtype)));
            trials.push(trial("lm_head", dtype, "extremes", executor, move |ops| run_extremes(ops, dtype)));
        }
    }
    trials
}

/// Any shape, rows, vocabulary and wishes.
pub fn property(ops: &dyn Operations, dtype: DType, reach: Reach) -> Result<(), Failed> {
    let Reach { most, .. } = reach;
    let vocab = (1..4 * most).prop_flat_map(|vocab_size| (Just(vocab_size), 1..=vocab_size));
    let tokens = (1..most).prop_flat_map(|num_tokens| {
        let rows = proptest::collection::vec(0..num_tokens as i32, 1..most);
        (Just(num_tokens), proptest::option::of(rows))
    });
    let wanted = (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(logits, argmax, loss)| Wanted {
        logits,
        argmax,
        loss: loss || !(logits || argmax),
    });
    let any = (tokens, vocab, 1..2 * most, any::<bool>(), wanted);
    for_any(reach, any, |((num_tokens, rows), (vocab_size, allowed_vocab), hidden_size, bias, wanted)| {
        let case = Case::random(dtype, num_tokens, vocab_size, hidden_size);
        let num_rows = rows.as_ref().map_or(num_tokens, Vec::len);
        let targets = Case::random(dtype, num_rows, vocab_size, 1).targets;
        let bias = bias.then(|| random(3, vocab_size));
        Case { rows, targets, bias, allowed_vocab, wanted, ..case }.check(ops, dtype)
    })
}
