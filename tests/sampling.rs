//! Drawing ids: the same id as the reference's on every executor, exactly.

use libtest_mimic::{Failed, Trial};
use nanomoe::generate::Sampling;
use nanomoe::operations::{Operations, SamplingParams, SamplingSettings};
use nanomoe::reference::{self, SamplingRule};
use nanomoe::tensor::DType;
use proptest::prelude::*;

use crate::common::{
    Bound, Executor, Reach, check_close, check_equal, download, download_i32, for_any, random, trial, upload,
    upload_i32,
};

/// Which logits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rows {
    /// Uniform in -8..8.
    Random,
    /// Whole numbers from -2 to 2, so that most are equal.
    Ties,
    /// All equal.
    Constant,
    /// NaN, among the allowed or not, and infinities of both signs, in some places or all.
    Special,
    /// Largest first, so that few threads hold what stays.
    Falling,
}

const PLAIN: Sampling = Sampling {
    temperature: 1.0,
    top_k: None,
    top_p: None,
    min_p: None,
    repetition_penalty: 1.0,
    seed: 0x1234_5678_9abc_def0,
};
const GREEDY: Sampling = Sampling { temperature: 0.0, ..PLAIN };

#[derive(Clone, Debug)]
struct Case {
    vocab_size: usize,
    rows: Rows,
    /// A row each.
    rules: Vec<Sampling>,
    masked: bool,
    /// Whether ids are marked as seen.
    seen: bool,
    logprobs: bool,
    salt: u64,
}

/// Every limit by itself, at its ends, and all of them together.
fn rules(vocab_size: usize) -> Vec<Sampling> {
    let mut rules = vec![
        GREEDY,
        PLAIN,
        Sampling { temperature: 0.3, ..PLAIN },
        Sampling { temperature: 1e-40, ..PLAIN },
        Sampling { temperature: 1e30, ..PLAIN },
        Sampling { repetition_penalty: 1.3, ..GREEDY },
        Sampling { repetition_penalty: 0.5, ..PLAIN },
        Sampling { top_k: Some(20), top_p: Some(0.9), ..PLAIN },
        Sampling { top_k: Some(40), top_p: Some(0.7), min_p: Some(0.1), repetition_penalty: 1.2, ..PLAIN },
        Sampling { top_p: Some(0.5), min_p: Some(0.3), temperature: 2.0, ..PLAIN },
    ];
    // around the threads of a block, of which each knows its largest key
    for k in [1, 2, 255, 256, 257, 1023, 1025, vocab_size.saturating_sub(1), vocab_size, vocab_size + 9] {
        rules.push(Sampling { top_k: Some(k), temperature: 3.0, ..PLAIN });
    }
    for part in [0.0, 1e-12, 0.6, 0.999_999_94, 1.0] {
        rules.push(Sampling { top_p: Some(part), ..PLAIN });
        rules.push(Sampling { min_p: Some(part), temperature: 2.0, ..PLAIN });
    }
    rules
}

pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let mut cases = Vec::new();
    let all_kinds = [Rows::Random, Rows::Ties, Rows::Constant, Rows::Special, Rows::Falling];
    // one id, the words of bits, one thread's four ids and its fifth
    for vocab_size in [1, 2, 31, 32, 33, 1000, 1025] {
        for rows in all_kinds {
            for (masked, seen) in [(false, false), (true, true)] {
                let logprobs = rows != Rows::Constant;
                cases.push(Case {
                    vocab_size,
                    rows,
                    rules: rules(vocab_size),
                    masked,
                    seen,
                    logprobs,
                    salt: 0,
                });
            }
        }
    }
    // the last vocabulary of the small block and the first of the large one; GPT-2's; the first whose keys do not fit
    // Hopper's shared memory; large ones
    for vocab_size in [8192, 8193, 50257, 53_949, 100_003] {
        let kinds =
            if vocab_size < 10_000 { &all_kinds[..] } else { &[Rows::Random, Rows::Ties, Rows::Special] };
        for &rows in kinds {
            let all = rules(vocab_size);
            let rules = match vocab_size {
                ..10_000 => all,
                _ => vec![
                    all[1],
                    all[7],
                    all[8],
                    all[9],
                    all[12],
                    Sampling { top_p: Some(0.6), ..PLAIN },
                    GREEDY,
                ],
            };
            cases.push(Case { vocab_size, rows, rules, masked: true, seen: true, logprobs: true, salt: 0 });
        }
    }
    for vocab_size in [131_072, 1 << 20] {
        let rules = vec![Sampling { top_k: Some(50), top_p: Some(0.9), ..PLAIN }];
        let base = Case {
            vocab_size,
            rows: Rows::Random,
            rules,
            masked: false,
            seen: false,
            logprobs: true,
            salt: 0,
        };
        cases.push(Case { rows: Rows::Constant, rules: vec![PLAIN], ..base.clone() });
        cases.push(base);
    }
    let mut trials = Vec::new();
    for case in cases {
        let Case { vocab_size, rows, masked, ref rules, .. } = case;
        let masked = if masked { "-masked-seen" } else { "" };
        let shape = format!("{}x{vocab_size}-{rows:?}{masked}", rules.len());
        for &executor in executors {
            let case = case.clone();
            trials.push(trial("sampling", DType::F32, &shape, executor, move |ops| run(ops, &case)));
        }
    }
    for &executor in executors {
        trials.push(trial("sampling", DType::F32, "many_seeds", executor, many_seeds));
        trials.push(trial("sampling", DType::F32, "none_allowed", executor, none_allowed));
        trials.push(trial("sampling", DType::F32, "no_rows", executor, no_rows));
        trials.push(trial("sampling", DType::F32, "refusals", executor, refusals));
        if executor.is_cpu() {
            trials.push(trial("sampling", DType::F32, "frequencies", executor, frequencies));
        }
    }
    trials
}

fn logits(case: &Case) -> Vec<f32> {
    let vocab_size = case.vocab_size;
    let mut logits: Vec<f32> =
        random(7 + case.salt, case.rules.len() * vocab_size).iter().map(|x| 8.0 * x).collect();
    for (row, logits) in logits.chunks_mut(vocab_size).enumerate() {
        match case.rows {
            Rows::Random => {}
            Rows::Ties => logits.iter_mut().for_each(|x| *x = (*x / 4.0).round()),
            Rows::Constant => logits.fill(-0.75),
            Rows::Falling => logits.sort_by(|a, b| b.total_cmp(a)),
            Rows::Special => match row % 7 {
                0 => logits[row % vocab_size] = f32::NAN,
                1 => logits.iter_mut().step_by(2).for_each(|x| *x = f32::NEG_INFINITY),
                2 => logits.iter_mut().skip(vocab_size / 3).step_by(5).for_each(|x| *x = f32::INFINITY),
                3 => logits.fill(f32::NEG_INFINITY),
                4 => logits[vocab_size - 1] = -f32::NAN,
                5 => logits.iter_mut().step_by(3).for_each(|x| *x = -0.0),
                _ => logits.iter_mut().for_each(|x| *x *= f32::MAX / 8.0),
            },
        }
    }
    logits
}

/// Bits of which about two thirds, or one third, are set; the last word is full beyond the vocabulary.
fn bits(seed: u64, num_words: usize, most: bool) -> Vec<i32> {
    let words = random(seed, 2 * num_words);
    let word = |x: f32| (x * 2_147_483_648.0) as i32 ^ (x * 1e9 * 7919.0) as i32;
    words.chunks(2).map(|w| if most { word(w[0]) | word(w[1]) } else { word(w[0]) & word(w[1]) }).collect()
}

fn is_set(bits: &[i32], id: usize) -> bool {
    bits[id / 32] >> (id % 32) & 1 == 1
}

fn rule(settings: &SamplingSettings) -> SamplingRule {
    SamplingRule {
        inverse_temperature: settings.inverse_temperature,
        top_k: settings.top_k as usize,
        top_p: settings.top_p.into(),
        min_p: settings.min_p.into(),
        repetition_penalty: settings.repetition_penalty,
        seed: u64::from(settings.seed_high) << 32 | u64::from(settings.seed_low),
        sequence: settings.sequence,
    }
}

fn run(ops: &dyn Operations, case: &Case) -> Result<(), Failed> {
    let Case { vocab_size, .. } = *case;
    let num_rows = case.rules.len();
    let num_words = vocab_size.div_ceil(32);
    let logits = logits(case);
    let mut allowed = bits(5 + case.salt, num_words, true);
    // There is always one, in any vocabulary.
    allowed[0] |= 1;
    let seen = bits(6 + case.salt, num_rows * num_words, false);
    let settings: Vec<SamplingSettings> =
        case.rules.iter().enumerate().map(|(row, rule)| rule.settings(3 * row as u32 + 1)).collect();
    let positions: Vec<i32> = (0..num_rows).map(|row| (row * 31 + case.salt as usize) as i32).collect();

    let logits_buffer = upload(ops, DType::F32, &logits);
    let allowed_buffer = upload_i32(ops, &allowed);
    let mut seen_buffer = upload_i32(ops, &seen);
    let settings_buffer = upload_i32(ops, bytemuck::cast_slice(&settings));
    let positions_buffer = upload_i32(ops, &positions);
    let mut ids = upload_i32(ops, &vec![-7; num_rows]);
    let mut logprobs = ops.allocate(DType::F32, num_rows)?;
    ops.sampling(SamplingParams {
        logits: logits_buffer.tensor(&[num_rows, vocab_size]),
        allowed: case.masked.then(|| allowed_buffer.tensor(&[num_words])),
        seen: case.seen.then(|| seen_buffer.tensor_mut(&[num_rows, num_words])),
        settings: settings_buffer.tensor(&[num_rows, SamplingSettings::WORDS]),
        positions: positions_buffer.tensor(&[num_rows]),
        ids: ids.tensor_mut(&[num_rows]),
        logprobs: case.logprobs.then(|| logprobs.tensor_mut(&[num_rows])),
    })?;

    let is_allowed: Vec<bool> = (0..vocab_size).map(|id| !case.masked || is_set(&allowed, id)).collect();
    let mut expected_seen = seen.clone();
    let (mut expected_ids, mut expected_logprobs) = (Vec::new(), Vec::new());
    for (row, settings) in settings.iter().enumerate() {
        let bits = &mut expected_seen[row * num_words..][..num_words];
        let is_seen: Vec<bool> = (0..vocab_size).map(|id| case.seen && is_set(bits, id)).collect();
        let values = &logits[row * vocab_size..][..vocab_size];
        let drawn =
            reference::sampling(values, &is_allowed, &is_seen, &rule(settings), positions[row] as u32);
        if case.seen && drawn.id >= 0 {
            bits[drawn.id as usize / 32] |= 1 << (drawn.id % 32);
        }
        expected_ids.push(drawn.id);
        expected_logprobs.push(drawn.logprob);
    }
    check_equal("ids", &[num_rows], &download_i32(ops, &ids), &expected_ids)?;
    let seen = download_i32(ops, &seen_buffer);
    check_equal("seen", &[num_rows, num_words], &seen, &expected_seen)?;
    if case.logprobs {
        // weights of 2 ulp, which all may be off to one side, and a difference and a logarithm of up to 20
        let bound =
            Bound { absolute: 8.0 * f64::from(f32::EPSILON), relative: 2.0 * f64::from(f32::EPSILON) };
        let got = download(ops, &logprobs);
        check_close("logprobs", &[num_rows], &got, &expected_logprobs, bound)?;
    }
    Ok(())
}

/// Other logits, masks, limits and random numbers for each row.
fn many_seeds(ops: &dyn Operations) -> Result<(), Failed> {
    let num_rows = if ops.name().contains("irtual") { 300 } else { 20_000 };
    let values = random(1, num_rows * 6);
    let rules = values.chunks(6).map(|v| Sampling {
        temperature: 1.0 + v[0],
        top_k: (v[1] > 0.0).then_some((v[1] * 300.0) as usize),
        top_p: (v[2] > 0.0).then_some(v[2]),
        min_p: (v[3] > 0.5).then_some(v[3] - 0.5),
        repetition_penalty: 1.25 + v[4],
        seed: u64::from(v[5].to_bits()) << 17,
    });
    let rules = rules.collect();
    let base = Case {
        vocab_size: 257,
        rows: Rows::Random,
        rules,
        masked: true,
        seen: true,
        logprobs: true,
        salt: 3,
    };
    run(ops, &base)?;
    run(ops, &Case { rows: Rows::Ties, ..base })
}

/// Nothing to draw from.
fn none_allowed(ops: &dyn Operations) -> Result<(), Failed> {
    let logits = upload(ops, DType::F32, &random(1, 40));
    // Beyond the vocabulary bits mean nothing.
    let allowed = upload_i32(ops, &[0, !0xff]);
    let settings = upload_i32(ops, bytemuck::cast_slice(&[PLAIN.settings(0)]));
    let positions = upload_i32(ops, &[5]);
    let mut seen = upload_i32(ops, &[0, 0]);
    let mut ids = upload_i32(ops, &[-7]);
    let mut logprobs = ops.allocate(DType::F32, 1)?;
    ops.sampling(SamplingParams {
        logits: logits.tensor(&[1, 40]),
        allowed: Some(allowed.tensor(&[2])),
        seen: Some(seen.tensor_mut(&[1, 2])),
        settings: settings.tensor(&[1, SamplingSettings::WORDS]),
        positions: positions.tensor(&[1]),
        ids: ids.tensor_mut(&[1]),
        logprobs: Some(logprobs.tensor_mut(&[1])),
    })?;
    check_equal("ids", &[1], &download_i32(ops, &ids), &[-1])?;
    check_equal("seen", &[2], &download_i32(ops, &seen), &[0, 0])?;
    let logprob = download(ops, &logprobs)[0];
    if logprob.is_nan() { Ok(()) } else { Err(format!("logprob {logprob}, expected NaN").into()) }
}

fn no_rows(ops: &dyn Operations) -> Result<(), Failed> {
    let (floats, mut ids) = (ops.allocate(DType::F32, 0)?, ops.allocate(DType::I32, 0)?);
    let integers = ops.allocate(DType::I32, 0)?;
    Ok(ops.sampling(SamplingParams {
        logits: floats.tensor(&[0, 50]),
        allowed: None,
        seen: None,
        settings: integers.tensor(&[0, SamplingSettings::WORDS]),
        positions: integers.tensor(&[0]),
        ids: ids.tensor_mut(&[0]),
        logprobs: None,
    })?)
}

/// What does not fit is named.
fn refusals(ops: &dyn Operations) -> Result<(), Failed> {
    let floats = ops.allocate(DType::F32, (1 << 20) + 1)?;
    let integers = ops.allocate(DType::I32, 1 << 16)?;
    let words = SamplingSettings::WORDS;
    // The vocabulary, words of `allowed` and `seen`, words of settings, and what is wrong
    for (vocab_size, num_words, num_settings, wrong) in [
        (0, 0, words, "vocab_size is 0, expected 1 to 1048576"),
        ((1 << 20) + 1, (1 << 15) + 1, words, "vocab_size is 1048577, expected 1 to 1048576"),
        (33, 1, words, "allowed has shape [1], expected [2] [ceil(vocab_size / 32)]"),
        (33, 2, words - 1, "settings has shape [1, 7], expected [1, 8] [num_rows, words]"),
    ] {
        let (mut ids, mut seen) = (ops.allocate(DType::I32, 1)?, ops.allocate(DType::I32, num_words)?);
        let refused = ops.sampling(SamplingParams {
            logits: floats.tensor(&[floats.len()]).narrow(0, 0, vocab_size).reshape(&[1, vocab_size]),
            allowed: Some(integers.tensor(&[integers.len()]).narrow(0, 0, num_words)),
            seen: Some(seen.tensor_mut(&[1, num_words])),
            settings: integers
                .tensor(&[integers.len()])
                .narrow(0, 0, num_settings)
                .reshape(&[1, num_settings]),
            positions: integers.tensor(&[integers.len()]).narrow(0, 0, 1),
            ids: ids.tensor_mut(&[1]),
            logprobs: None,
        });
        let told = refused.err().map(|error| error.to_string()).unwrap_or_default();
        if !told.contains(wrong) {
            return Err(format!("{told:?}, expected {wrong:?}").into());
        }
    }
    Ok(())
}

/// How often each id comes, against its probability in f64: five standard deviations at most.
fn frequencies(ops: &dyn Operations) -> Result<(), Failed> {
    const DRAWS: usize = 20_000;
    const VOCAB_SIZE: usize = 12;
    let logits: Vec<f32> = random(4, VOCAB_SIZE).iter().map(|x| 2.0 * x).collect();
    let seen_ids = [2, 3, 7];
    let rules = [
        PLAIN,
        Sampling { temperature: 0.6, seed: 1, ..PLAIN },
        Sampling { top_k: Some(5), seed: 2, ..PLAIN },
        Sampling { top_p: Some(0.75), seed: 3, ..PLAIN },
        Sampling { min_p: Some(0.4), seed: 4, ..PLAIN },
        Sampling {
            repetition_penalty: 1.8,
            temperature: 0.9,
            top_k: Some(9),
            top_p: Some(0.9),
            seed: 5,
            ..PLAIN
        },
    ];
    let word = seen_ids.iter().fold(0, |word, id| word | 1 << id);
    for rule in rules {
        let logits_buffer = upload(ops, DType::F32, &logits.repeat(DRAWS));
        let settings = upload_i32(ops, bytemuck::cast_slice(&vec![rule.settings(9); DRAWS]));
        let positions = upload_i32(ops, &(0..DRAWS as i32).collect::<Vec<_>>());
        let mut seen = upload_i32(ops, &vec![word; DRAWS]);
        let mut ids = ops.allocate(DType::I32, DRAWS)?;
        ops.sampling(SamplingParams {
            logits: logits_buffer.tensor(&[DRAWS, VOCAB_SIZE]),
            allowed: None,
            seen: Some(seen.tensor_mut(&[DRAWS, 1])),
            settings: settings.tensor(&[DRAWS, SamplingSettings::WORDS]),
            positions: positions.tensor(&[DRAWS]),
            ids: ids.tensor_mut(&[DRAWS]),
            logprobs: None,
        })?;
        let mut counts = [0usize; VOCAB_SIZE];
        download_i32(ops, &ids).iter().for_each(|&id| counts[id as usize] += 1);
        let probabilities = probabilities(&logits, &seen_ids, &rule);
        for (id, (&count, p)) in counts.iter().zip(probabilities).enumerate() {
            let deviation = (DRAWS as f64 * p * (1.0 - p)).sqrt();
            if (count as f64 - DRAWS as f64 * p).abs() > 5.0 * deviation {
                return Err(format!("{rule:?}: id {id} {count} times of {DRAWS}, probability {p}").into());
            }
        }
    }
    Ok(())
}

/// Of each id, in f64.
fn probabilities(logits: &[f32], seen: &[usize], rule: &Sampling) -> Vec<f64> {
    let penalty = f64::from(rule.repetition_penalty);
    let penalised = |id: usize| match f64::from(logits[id]) {
        logit if !seen.contains(&id) => logit,
        logit if logit > 0.0 => logit / penalty,
        logit => logit * penalty,
    };
    let weight = |id: usize| (penalised(id) / f64::from(rule.temperature)).exp();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| weight(b).total_cmp(&weight(a)));
    order.truncate(rule.top_k.unwrap_or(logits.len()));
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let (top_p, mut sum) = (rule.top_p.map_or(1.0, f64::from), 0.0);
    order.retain(|&id| {
        let before = sum;
        sum += weight(id) / total;
        before < top_p
    });
    let least = rule.min_p.map_or(0.0, f64::from) * weight(order[0]);
    order.retain(|&id| weight(id) >= least);
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    (0..logits.len()).map(|id| if order.contains(&id) { weight(id) / total } else { 0.0 }).collect()
}

/// Any vocabulary, limits, masks.
pub fn property(ops: &dyn Operations, _: DType, reach: Reach) -> Result<(), Failed> {
    let part = || prop::option::of(0.0..=1.0f32);
    let limits = (prop::option::of(0..2 * reach.most), part(), part(), 0.5..2.0f32);
    let temperature = prop_oneof![Just(0.0f32), 0.05..3.0f32];
    let rule = (temperature, limits, any::<u64>()).prop_map(|(temperature, limits, seed)| {
        let (top_k, top_p, min_p, repetition_penalty) = limits;
        Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed }
    });
    let rows = prop_oneof![
        Just(Rows::Random),
        Just(Rows::Ties),
        Just(Rows::Constant),
        Just(Rows::Special),
        Just(Rows::Falling)
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let sizes = prop_oneof![1..2 * reach.most, 1..40 * reach.most];
    let any = (sizes, rows, prop::collection::vec(rule, 1..4), flags, 0..1000u64);
    let case = any.prop_map(|(vocab_size, rows, rules, (masked, seen, logprobs), salt)| Case {
        vocab_size,
        rows,
        rules,
        masked,
        seen,
        logprobs,
        salt,
    });
    for_any(reach, case, |case| run(ops, &case))
}
