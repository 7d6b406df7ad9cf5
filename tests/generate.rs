//! Generation: against PyTorch's greedy continuation, against recomputation, and the distribution of samples.

use std::ops::ControlFlow;

use libtest_mimic::{Failed, Trial};
use nanomoe::generate::{Event, GenerateOptions, NAN, Sampling, Stop, generate, sample};
use nanomoe::model::{Forward, LogitRows, Model, MoeMode};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use nanomoe::tokenizer::{Specials, Tokenizer};
use nanomoe::weights::Checkpoint;

use crate::common::{executors, golden_dir, random, repository, trial};
use crate::tokenizer::with_feature;

const GREEDY: Sampling =
    Sampling { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: 0 };

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("generate::sample::greedy", sample_greedy),
        Trial::test("generate::sample::limits", sample_limits),
        Trial::test("generate::sample::distribution", sample_distribution),
    ];
    trials.push(with_feature(cfg!(feature = "embedded-model"), "features::embedded_model", embedded_model));
    trials.push(with_feature(
        !cfg!(feature = "embedded-model"),
        "generate::no_embedded_model",
        no_embedded_model,
    ));
    for &executor in executors() {
        let mut add = |shape: &str, run: fn(&dyn Operations) -> Result<(), Failed>| {
            trials.push(trial("generate", DType::F32, shape, executor, run));
        };
        add("cached_is_recomputed", cached_is_recomputed);
        add("crops_once", crops_once);
        add("names_the_layer_of_a_nan", names_the_layer_of_a_nan);
        add("stops", stops);
        match executor.name {
            // 11.6 million parameters: two steps in bf16, and not of the same kernels twice, are enough patience with
            // an interpreter.
            "ampere" => {}
            "virtual" => {
                let run = |ops: &dyn Operations| default_model_greedy(ops, DType::BF16);
                trials.push(trial("generate", DType::BF16, "default_model_greedy", executor, run));
            }
            _ => {
                let run = |ops: &dyn Operations| default_model_greedy(ops, DType::F32);
                trials.push(trial("generate", DType::F32, "default_model_greedy", executor, run));
            }
        }
    }
    trials
}

fn open(ops: &dyn Operations, name: &str) -> Result<Model, Failed> {
    Ok(Model::load(ops, &Checkpoint::open(&golden_dir(name))?, DType::F32)?)
}

fn run(
    ops: &dyn Operations,
    model: &Model,
    prompt: &[u32],
    max_tokens: usize,
    moe: MoeMode,
) -> Result<(Vec<u32>, usize), Failed> {
    let options = GenerateOptions { max_tokens, sampling: GREEDY, moe, ..GenerateOptions::default() };
    let mut said = 0;
    let generated = generate(model, ops, prompt, &options, &mut |event| {
        said += usize::from(matches!(event, Event::Cropped { .. }));
        ControlFlow::Continue(())
    })?;
    Ok((generated.ids, said))
}

/// What nanoGPT does: everything again at each step, of at most the last `block_size` ids.
fn recompute(
    ops: &dyn Operations,
    model: &Model,
    prompt: &[u32],
    max_tokens: usize,
    moe: MoeMode,
) -> Result<Vec<u32>, Failed> {
    let mut ids = prompt.to_vec();
    let mut workspace = model.workspace(ops, model.config().block_size)?;
    let vocab_size = model.config().vocab_size;
    for _ in 0..max_tokens {
        let window = &ids[ids.len().saturating_sub(model.config().block_size)..];
        let request = Forward { moe, logits: LogitRows::All, ..Forward::default() };
        let output = model.forward(ops, &mut workspace, 1, window, &request)?;
        let last = &output.logits[output.logits.len() - vocab_size..];
        let best = (0..vocab_size).reduce(|a, b| if last[b] > last[a] { b } else { a });
        ids.push(best.expect("a vocabulary") as u32);
    }
    Ok(ids.split_off(prompt.len()))
}

/// Whether every instruction is interpreted, so that less must do.
fn is_interpreted(ops: &dyn Operations) -> bool {
    ops.name().contains("irtual")
}

fn cached_is_recomputed(ops: &dyn Operations) -> Result<(), Failed> {
    let steps = if is_interpreted(ops) { 3 } else { 8 };
    for name in ["nanomoe-capacity", "nanomoe-bias-top1", "seed-gpt", "gpt2"] {
        let model = open(ops, name)?;
        for moe in [MoeMode::Dropless, MoeMode::Capacity] {
            let expected = recompute(ops, &model, &[5, 17, 3], steps, moe)?;
            let (got, said) = run(ops, &model, &[5, 17, 3], steps, moe)?;
            if got != expected || said != 0 {
                return Err(format!("{name} {moe:?}: {got:?}, expected {expected:?}").into());
            }
        }
    }
    Ok(())
}

fn crops_once(ops: &dyn Operations) -> Result<(), Failed> {
    let model = open(ops, "seed-gpt")?;
    let (prompts, steps): (&[u32], usize) = if is_interpreted(ops) { (&[39], 3) } else { (&[37, 40, 45], 6) };
    for &prompt_len in prompts {
        let prompt: Vec<u32> = (0..prompt_len).map(|i| i * 7 % 211).collect();
        let expected = recompute(ops, &model, &prompt, steps, MoeMode::Dropless)?;
        let (got, said) = run(ops, &model, &prompt, steps, MoeMode::Dropless)?;
        if got != expected || said != 1 {
            return Err(
                format!("{prompt_len}: {got:?}, expected {expected:?}; cropping said {said} times").into()
            );
        }
    }
    Ok(())
}

fn stops(ops: &dyn Operations) -> Result<(), Failed> {
    let model = open(ops, "nanomoe-dense")?;
    let (ids, _) = run(ops, &model, &[1], 6, MoeMode::Dropless)?;
    let end = ids[3];
    let until = ids.iter().position(|&id| id == end).expect("it is there");
    let mut options = GenerateOptions {
        max_tokens: 6,
        sampling: GREEDY,
        end_of_text: Some(end),
        ..GenerateOptions::default()
    };
    let generated = generate(&model, ops, &[1], &options, &mut |_| ControlFlow::Continue(()))?;
    assert_eq!((generated.stop, &generated.ids[..]), (Stop::EndOfText, &ids[..until]));

    let generated = generate(&model, ops, &[1], &options, &mut |event| match event {
        Event::Token { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })?;
    assert_eq!((generated.stop, generated.ids.len()), (Stop::Callback, 1));
    let generated = generate(&model, ops, &[1], &options, &mut |_| ControlFlow::Break(()))?;
    assert_eq!((generated.stop, generated.ids.len()), (Stop::Callback, 0));

    // Masking an id that would come makes another come, whether the rest is a prefix or not.
    options.end_of_text = None;
    for masked in [vec![ids[0]], (ids[0]..199).collect()] {
        options.masked = masked;
        let generated = generate(&model, ops, &[1], &options, &mut |_| ControlFlow::Continue(()))?;
        assert!(generated.ids.iter().all(|id| !options.masked.contains(id)));
    }
    options.masked = (0..199).collect();
    let error = generate(&model, ops, &[1], &options, &mut |_| ControlFlow::Continue(()));
    assert!(error.is_err_and(|error| error.to_string().contains("masked")));
    let error = generate(&model, ops, &[], &GenerateOptions::default(), &mut |_| ControlFlow::Continue(()));
    assert!(error.is_err_and(|error| error.to_string().contains("empty")));
    Ok(())
}

/// A NaN in a weight of block 1 makes logits NaN; greedy or not, generation ends with an error that says where.
fn names_the_layer_of_a_nan(ops: &dyn Operations) -> Result<(), Failed> {
    let from = golden_dir("nanomoe-dense");
    let to = std::env::temp_dir().join(format!(
        "nanomoe-nan-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::create_dir_all(&to)?;
    std::fs::copy(from.join("config.json"), to.join("config.json"))?;
    let mut bytes = std::fs::read(from.join("model.safetensors"))?;
    let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
    let weight = tensors.tensor("transformer.h.1.mlp.c_proj.weight")?;
    let offset = weight.data().as_ptr() as usize - bytes.as_ptr() as usize;
    bytes[offset..offset + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(to.join("model.safetensors"), &bytes)?;
    let model = Model::load(ops, &Checkpoint::open(&to)?, DType::F32);
    std::fs::remove_dir_all(&to)?;
    let model = model?;
    for sampling in [GREEDY, Sampling::default()] {
        let options = GenerateOptions { max_tokens: 5, sampling, ..GenerateOptions::default() };
        let error = generate(&model, ops, &[1, 2], &options, &mut |_| ControlFlow::Continue(()));
        let message = error.err().map(|error| error.to_string()).unwrap_or_default();
        if !message.contains("NaN") || !message.contains("block 1") {
            return Err(format!("got {message:?}").into());
        }
    }
    Ok(())
}

fn default_model_greedy(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    let dir = repository("model");
    let greedy: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("greedy.json"))?)?;
    let ids = greedy["ids"].as_array().expect("a list of ids");
    let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().expect("an id") as u32).collect();
    // "Once upon a time" is four ids; the rest is what PyTorch continued with.
    let (prompt, expected) = ids.split_at(4);
    // An interpreter of every instruction takes a second for a few of them.
    let count = if is_interpreted(ops) { 2 } else { expected.len() };
    let expected = &expected[..count];
    let model = Model::load(ops, &Checkpoint::open(&dir)?, dtype)?;
    let (got, _) = run(ops, &model, prompt, expected.len(), MoeMode::Dropless)?;
    if got != expected {
        return Err(format!("{got:?}, expected {expected:?}").into());
    }
    Ok(())
}

/// The model inside the program is the one in the repository.
fn embedded_model() -> Result<(), Failed> {
    let dir = repository("model");
    let (inside, outside) = (Checkpoint::embedded()?, Checkpoint::open(&dir)?);
    assert_eq!(inside.config(), outside.config());
    for weight in inside.weights() {
        assert_eq!(inside.read_f32(weight)?, outside.read_f32(weight)?, "{weight:?}");
    }
    let text = "Once upon a time";
    let ids = Tokenizer::embedded()?.encode(text, Specials::Text)?;
    assert_eq!(ids, Tokenizer::for_model(&dir, 4096)?.encode(text, Specials::Text)?);
    // Nowhere near a folder of models.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .args(["info", "--device", "cpu"])
        .output()?;
    assert!(String::from_utf8(output.stdout)?.starts_with("model                inside this program"));
    Ok(())
}

fn no_embedded_model() -> Result<(), Failed> {
    for error in [Checkpoint::embedded().err(), Tokenizer::embedded().err()] {
        assert!(
            matches!(&error, Some(nanomoe::Error::NoEmbeddedModel(why)) if why.contains("is off")),
            "{error:?}"
        );
    }
    Ok(())
}

fn sample_greedy() -> Result<(), Failed> {
    let all = [true; 4];
    assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], &GREEDY, &all, 0, 0), 1);
    assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], &GREEDY, &[true, false, false, true], 0, 0), 3);
    assert_eq!(sample(&[1.0, f32::NAN, 3.0, 2.0], &GREEDY, &all, 0, 0), NAN);
    assert_eq!(sample(&[1.0, f32::NAN, 3.0, 2.0], &GREEDY, &[true, false, true, true], 0, 0), 2);
    assert_eq!(sample(&[f32::NEG_INFINITY; 4], &GREEDY, &all, 0, 0), 0);
    Ok(())
}

fn sample_limits() -> Result<(), Failed> {
    let logits = random(3, 1000);
    let all = vec![true; 1000];
    let best = sample(&logits, &GREEDY, &all, 0, 0);
    let hot = Sampling { temperature: 5.0, ..GREEDY };
    for position in 0..200 {
        let draw = |sampling: Sampling| sample(&logits, &sampling, &all, 0, position);
        assert_eq!(draw(Sampling { top_k: Some(1), ..hot }), best);
        assert_eq!(draw(Sampling { top_p: Some(0.0), ..hot }), best);
        assert_eq!(draw(Sampling { top_k: Some(5000), ..hot }), draw(Sampling { top_k: Some(1000), ..hot }));
        let among = draw(Sampling { top_k: Some(7), ..hot });
        let ahead = logits.iter().filter(|&&logit| logit > logits[among as usize]).count();
        assert!(ahead < 7, "{ahead} ids are more probable");
        assert!((0..1000).contains(&draw(hot)));
        for extreme in [f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = logits.clone();
            logits[9] = extreme;
            let id = sample(&logits, &hot, &all, 0, position);
            assert_eq!(id == 9, extreme > 0.0);
        }
    }
    Ok(())
}

/// The share of each id over many positions, against its probability: five standard deviations at most.
fn sample_distribution() -> Result<(), Failed> {
    const DRAWS: usize = 40_000;
    let logits = [0.3f32, -1.2, 2.0, 0.9, -0.5, 1.4];
    let mut seen = Vec::new();
    for sampling in [
        Sampling { temperature: 0.7, seed: 11, ..GREEDY },
        Sampling { temperature: 1.5, top_k: Some(4), seed: 12, ..GREEDY },
        Sampling { temperature: 1.0, top_p: Some(0.8), seed: 13, ..GREEDY },
    ] {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        order.truncate(sampling.top_k.unwrap_or(logits.len()));
        let weight = |id: usize| (f64::from(logits[id]) / f64::from(sampling.temperature)).exp();
        let total: f64 = order.iter().map(|&id| weight(id)).sum();
        let top_p = sampling.top_p.map_or(1.0, f64::from);
        let mut sum = 0.0;
        order.retain(|&id| {
            let before = sum;
            sum += weight(id) / total;
            before < top_p
        });
        let total: f64 = order.iter().map(|&id| weight(id)).sum();

        let mut counts = [0usize; 6];
        for position in 0..DRAWS {
            let id = sample(&logits, &sampling, &[true; 6], 0, position as u64);
            counts[id as usize] += 1;
            seen.push(id);
        }
        for (id, &count) in counts.iter().enumerate() {
            let p = if order.contains(&id) { weight(id) / total } else { 0.0 };
            let deviation = (DRAWS as f64 * p * (1.0 - p)).sqrt();
            let off = (count as f64 - DRAWS as f64 * p).abs();
            assert!(off <= 5.0 * deviation, "{sampling:?}: id {id} {count} times, probability {p}");
        }
    }
    // Another sequence draws other numbers.
    let sampling = Sampling { temperature: 0.7, seed: 11, ..GREEDY };
    let other: Vec<i32> =
        (0..DRAWS).map(|position| sample(&logits, &sampling, &[true; 6], 1, position as u64)).collect();
    assert_ne!(other, seen[..DRAWS]);
    Ok(())
}
