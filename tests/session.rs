//! Sequences in a cache: each token gives what a pass over the whole sequence gives, whoever its neighbours are.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::config::ModelConfig;
use nanomoe::cpu::CpuOperations;
use nanomoe::device::Device;
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics};
use nanomoe::model::{
    Forward, ForwardOutput, HiddenStates, Input, LogitRows, Model, MoeMode, SequenceId, Session,
    SessionOptions,
};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use nanomoe::weights::{Checkpoint, Weight};
use nanomoe::{Error, Result};
use serde_json::json;
use virtual_gpu::{Description, Options};

use crate::common::{
    Calls, CountingDevice, Draft, Executor, RawTensor, Scratch, device_operations, executors, golden, random,
    trial,
};

const LAST: Forward<'static> = Forward {
    moe: MoeMode::Dropless,
    logits: LogitRows::Last,
    argmax: LogitRows::None,
    allowed_vocab: None,
    draw: None,
    targets: None,
    hidden_states: HiddenStates::None,
    routing: false,
    attention_weights: None,
    route_override: None,
    noise_seed: 0,
};

fn open(executor: Executor, numerics: Numerics) -> Result<Box<dyn Operations>> {
    Ok(match executor.is_cpu() {
        true => Box::new(CpuOperations::with_numerics(numerics)),
        false => Box::new(device_operations(executor, numerics)?),
    })
}

fn load(ops: &dyn Operations, name: &str, dtype: DType) -> Result<Model> {
    Model::load(ops, &Checkpoint::open(&golden(name))?, dtype)
}

/// Ids of sequence `number`; every sequence has another length.
fn sequence(model: &Model, number: usize) -> Vec<u32> {
    let len = 3 + number * 3 % 5;
    (0..len).map(|t| ((t * 31 + number * 17 + 3) % model.config().vocab_size) as u32).collect()
}

/// The same bits under `BatchInvariant`, else as close as the type.
fn check_row(
    what: &str,
    numerics: Numerics,
    dtype: DType,
    got: &[f32],
    expected: &[f32],
) -> std::result::Result<(), Failed> {
    let (absolute, relative) = match (numerics, dtype) {
        (Numerics::BatchInvariant, _) => (0.0, 0.0),
        (_, DType::F32) => (1e-4, 1e-4),
        (_, DType::F16) => (0.03, 0.03),
        _ => (0.25, 0.25),
    };
    if got.len() != expected.len() {
        return Err(format!("{what}: {} numbers, expected {}", got.len(), expected.len()).into());
    }
    for (index, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let near = (got - expected).abs() <= absolute + relative * expected.abs();
        if got.to_bits() != expected.to_bits() && !(near && numerics == Numerics::Fast) {
            return Err(format!("{what}: element {index} is {got}, expected {expected}").into());
        }
    }
    Ok(())
}

/// Sequences that begin with prompts of several lengths and grow token by token, `batch_size` at a time: when one ends
/// another begins.
fn run_growth(
    executor: Executor,
    numerics: Numerics,
    dtype: DType,
    name: &str,
    batch_size: usize,
) -> std::result::Result<(), Failed> {
    let ops = open(executor, numerics)?;
    let ops = ops.as_ref();
    let model = load(ops, name, dtype)?;
    let vocab_size = model.config().vocab_size;
    let mut workspace = model.workspace(ops, 8)?;
    let request = Forward { logits: LogitRows::All, routing: model.config().moe.is_some(), ..LAST };
    let mut session =
        model.session(ops, SessionOptions { kv_block_size: 4, ..SessionOptions::new(batch_size, 8) })?;

    struct Growing {
        number: usize,
        ids: Vec<u32>,
        expected: ForwardOutput,
        sequence: SequenceId,
    }
    let mut waiting = 0..batch_size + batch_size.min(2);
    let mut live: Vec<Growing> = Vec::new();
    loop {
        while live.len() < batch_size
            && let Some(number) = waiting.next()
        {
            let ids = sequence(&model, number);
            let expected = model.forward(ops, &mut workspace, 1, &ids, &request)?;
            let sequence = session.start()?;
            let prompt = &ids[..1 + number % 3];
            let output = prefill_as(&mut session, sequence, prompt, &expected)?;
            let row = &expected.logits[(prompt.len() - 1) * vocab_size..][..vocab_size];
            check_row(&format!("prompt of {number}"), numerics, dtype, &output.logits, row)?;
            live.push(Growing { number, ids, expected, sequence });
        }
        let mut index = 0;
        while index < live.len() {
            if session.len(live[index].sequence)? == live[index].ids.len() {
                session.drop_sequence(live.remove(index).sequence)?;
            } else {
                index += 1;
            }
        }
        if live.is_empty() {
            if waiting.is_empty() { break } else { continue }
        }
        let mut tokens = Vec::new();
        for growing in &live {
            tokens.push((growing.sequence, growing.ids[session.len(growing.sequence)?]));
        }
        // A choice of experts may turn at a tie of 16-bit numbers: both ways take the same, and only values differ
        let routes = match (numerics, live[0].expected.routing.len()) {
            (Numerics::Fast, layers @ 1..) => {
                let mut routes = vec![Vec::new(); layers];
                for growing in &live {
                    let position = session.len(growing.sequence)?;
                    for (route, layer) in routes.iter_mut().zip(&growing.expected.routing) {
                        let k = layer.num_experts_per_token;
                        route.extend_from_slice(&layer.expert_ids[position * k..][..k]);
                    }
                }
                Some(routes)
            }
            _ => None,
        };
        let output = session.decode(&tokens, &Forward { route_override: routes.as_deref(), ..LAST })?;
        for (growing, logits) in live.iter().zip(output.logits.chunks_exact(vocab_size)) {
            let position = session.len(growing.sequence)? - 1;
            let row = &growing.expected.logits[position * vocab_size..][..vocab_size];
            let what = format!("sequence {} at position {position}", growing.number);
            check_row(&what, numerics, dtype, logits, row)?;
        }
    }
    let (free, all) = session.blocks();
    if free != all || !session.is_empty() {
        return Err(format!("{free} of {all} blocks are free in the end").into());
    }
    Ok(ops.synchronize()?)
}

fn prefill_as(
    session: &mut Session<'_>,
    sequence: SequenceId,
    prompt: &[u32],
    expected: &ForwardOutput,
) -> Result<ForwardOutput> {
    let route = |layer: &nanomoe::model::LayerRouting| {
        layer.expert_ids[..prompt.len() * layer.num_experts_per_token].to_vec()
    };
    let routes: Vec<Vec<i32>> = expected.routing.iter().map(route).collect();
    let route_override = (!routes.is_empty()).then_some(&routes[..]);
    session.prefill(sequence, Input::Ids(prompt), &Forward { route_override, ..LAST })
}

/// Forks and truncations give the bits of sequences that were never anything else.
fn run_forks(executor: Executor, dtype: DType) -> std::result::Result<(), Failed> {
    let ops = open(executor, Numerics::BatchInvariant)?;
    let ops = ops.as_ref();
    let model = load(ops, "nanomoe-dropless", dtype)?;
    let mut workspace = model.workspace(ops, 16)?;
    let mut session =
        model.session(ops, SessionOptions { kv_block_size: 4, ..SessionOptions::new(4, 14) })?;
    let mut expect = |session: &mut Session<'_>, sequence: SequenceId, ids: &[u32]| {
        let (last, before) = ids.split_last().ok_or("no ids")?;
        let expected = model.forward(ops, &mut workspace, 1, ids, &LAST)?;
        if session.len(sequence)? != before.len() {
            return Err(Failed::from(format!(
                "{} tokens, expected {}",
                session.len(sequence)?,
                before.len()
            )));
        }
        let output = session.decode(&[(sequence, *last)], &LAST)?;
        check_row(&format!("{ids:?}"), Numerics::BatchInvariant, dtype, &output.logits, &expected.logits)
    };
    let parent = session.start()?;
    session.prefill(parent, Input::Ids(&[1, 2, 3, 4, 5, 6]), &Forward::default())?;
    let (free, _) = session.blocks();
    let child = session.fork(parent)?;
    let (left, _) = session.blocks();
    // One whole block is shared, the other is copied.
    if free - left != 1 {
        return Err(format!("a fork took {} blocks, expected 1", free - left).into());
    }
    expect(&mut session, child, &[1, 2, 3, 4, 5, 6, 70])?;
    expect(&mut session, parent, &[1, 2, 3, 4, 5, 6, 7])?;
    expect(&mut session, child, &[1, 2, 3, 4, 5, 6, 70, 80])?;
    let grandchild = session.fork(child)?;
    // Into what three have: the parent must keep its own.
    session.truncate(grandchild, 2)?;
    expect(&mut session, grandchild, &[1, 2, 33])?;
    session.truncate(child, 4)?;
    expect(&mut session, child, &[1, 2, 3, 4, 9])?;
    expect(&mut session, parent, &[1, 2, 3, 4, 5, 6, 7, 8])?;
    session.drop_sequence(parent)?;
    expect(&mut session, child, &[1, 2, 3, 4, 9, 10])?;
    expect(&mut session, grandchild, &[1, 2, 33, 34])?;
    session.truncate(child, 0)?;
    session.prefill(child, Input::Ids(&[5, 6]), &Forward::default())?;
    expect(&mut session, child, &[5, 6, 7])?;
    session.drop_sequence(child)?;
    session.drop_sequence(grandchild)?;
    let (free, all) = session.blocks();
    if free == all { Ok(ops.synchronize()?) } else { Err(format!("{free} of {all} blocks are free").into()) }
}

/// A cache in pieces: prompts that do not stand in one run of blocks, and prompts that come in parts.
fn run_fragments(executor: Executor, dtype: DType) -> std::result::Result<(), Failed> {
    let ops = open(executor, Numerics::BatchInvariant)?;
    let ops = ops.as_ref();
    let model = load(ops, "gpt2", dtype)?;
    let mut workspace = model.workspace(ops, 16)?;
    let options = SessionOptions { kv_block_size: 2, max_cached: Some(16), ..SessionOptions::new(8, 16) };
    let mut session = model.session(ops, options)?;
    let short: Vec<SequenceId> = (0..8).map(|_| session.start()).collect::<Result<_>>()?;
    for &sequence in &short {
        session.prefill(sequence, Input::Ids(&[1, 2]), &Forward::default())?;
    }
    for &sequence in short.iter().step_by(2) {
        session.drop_sequence(sequence)?;
    }
    let sequence = session.start()?;
    let ids = [9, 8, 7, 6, 5, 4, 3, 2];
    let expected = model.forward(ops, &mut workspace, 1, &ids, &LAST)?;
    session.prefill(sequence, Input::Ids(&ids[..5]), &Forward::default())?;
    session.prefill(sequence, Input::Ids(&ids[5..7]), &Forward::default())?;
    let output = session.prefill(sequence, Input::Ids(&ids[7..]), &LAST)?;
    check_row("in pieces", Numerics::BatchInvariant, dtype, &output.logits, &expected.logits)?;
    // The cache is full: a refusal leaves everything as it was.
    match session.decode(&[(sequence, 1)], &LAST) {
        Err(Error::Input(message)) if message.contains("KV cache") => {}
        other => return Err(format!("expected a refusal, got {other:?}").into()),
    }
    session.drop_sequence(short[1])?;
    let ids = [9, 8, 7, 6, 5, 4, 3, 2, 1];
    let expected = model.forward(ops, &mut workspace, 1, &ids, &LAST)?;
    let output = session.decode(&[(sequence, 1)], &LAST)?;
    check_row("after", Numerics::BatchInvariant, dtype, &output.logits, &expected.logits)?;
    Ok(ops.synchronize()?)
}

/// Embeddings and hidden states in place of ids, and states out after any block.
fn run_inputs(ops: &dyn Operations) -> std::result::Result<(), Failed> {
    let checkpoint = Checkpoint::open(&golden("nanomoe-dropless"))?;
    let model = Model::load(ops, &checkpoint, DType::F32)?;
    let (layers, width) = (model.config().num_layers, model.config().hidden_size);
    let ids = [3u32, 1, 4, 1, 5];
    let table = checkpoint.read_f32(nanomoe::weights::Weight::TokenEmbedding)?;
    let embeddings: Vec<f32> =
        ids.iter().flat_map(|&id| &table[id as usize * width..][..width]).copied().collect();
    let mut session = model.session(ops, SessionOptions::new(2, 8))?;
    let all = Forward { hidden_states: HiddenStates::All, ..LAST };
    let mut run = |input: Input<'_>, request: &Forward<'_>| -> Result<ForwardOutput> {
        let sequence = session.start()?;
        let output = session.prefill(sequence, input, request);
        session.drop_sequence(sequence)?;
        output
    };
    let expected = run(Input::Ids(&ids), &all)?;
    assert_eq!(expected.hidden_states.len(), layers + 1);
    let got = run(Input::Embeddings(&embeddings), &all)?;
    assert_eq!((&got.logits, &got.hidden_states), (&expected.logits, &expected.hidden_states));
    for state in 0..=layers {
        let values = &expected.hidden_states[state];
        let got = run(Input::HiddenStates { first_layer: state, values }, &LAST)?;
        assert_eq!(got.logits, expected.logits, "from block {state}");
        let got = run(Input::Ids(&ids), &Forward { hidden_states: HiddenStates::Chosen(&[state]), ..LAST })?;
        assert_eq!(got.hidden_states, std::slice::from_ref(values), "state {state}");
        assert!(got.final_norm.is_empty());
    }
    for (input, wanted) in [
        (Input::Embeddings(&embeddings[1..]), "rows of"),
        (Input::HiddenStates { first_layer: layers + 1, values: &embeddings }, "blocks"),
        (Input::Embeddings(&[]), "0 tokens"),
    ] {
        match run(input, &LAST) {
            Err(Error::Input(message)) if message.contains(wanted) => {}
            other => return Err(format!("expected {wanted:?}, got {other:?}").into()),
        }
    }
    Ok(())
}

fn run_refusals(ops: &dyn Operations) -> std::result::Result<(), Failed> {
    let model = load(ops, "nanomoe-capacity", DType::F32)?;
    let refused = |result: Result<()>, wanted: &str| match result {
        Err(Error::Input(message) | Error::Usage(message)) if message.contains(wanted) => Ok(()),
        other => Err(Failed::from(format!("expected {wanted:?}, got {other:?}"))),
    };
    let block_size = model.config().block_size;
    let vocab_size = model.config().vocab_size as u32;
    refused(model.session(ops, SessionOptions::new(0, 4)).map(drop), "no room")?;
    refused(model.session(ops, SessionOptions::new(1, block_size + 1)).map(drop), "position table")?;
    let mut session =
        model.session(ops, SessionOptions { max_prefill: Some(6), ..SessionOptions::new(2, 8) })?;
    let (a, b) = (session.start()?, session.start()?);
    refused(session.start().map(drop), "room for 2 sequences")?;
    refused(session.fork(a).map(drop), "room for 2 sequences")?;
    let ids = |ids: &'static [u32]| Input::Ids(ids);
    refused(session.prefill(a, ids(&[]), &LAST).map(drop), "0 ids")?;
    refused(session.prefill(a, ids(&[1; 7]), &LAST).map(drop), "workspace holds 6")?;
    refused(session.prefill(a, Input::Ids(&[0, vocab_size]), &LAST).map(drop), "outside the vocabulary")?;
    let capacity = Forward { moe: MoeMode::Capacity, ..LAST };
    refused(session.prefill(a, ids(&[1]), &capacity).map(drop), "capacity mode")?;
    session.prefill(a, ids(&[1; 6]), &LAST)?;
    refused(session.prefill(a, ids(&[1; 3]), &LAST).map(drop), "fit the KV cache")?;
    session.prefill(b, ids(&[2]), &LAST)?;
    refused(session.decode(&[], &LAST).map(drop), "0 ids")?;
    refused(session.decode(&[(a, 1), (a, 2)], &LAST).map(drop), "named twice")?;
    refused(session.decode(&[(a, 1), (b, vocab_size)], &LAST).map(drop), "outside the vocabulary")?;
    refused(session.decode(&[(a, 1), (b, 1)], &capacity).map(drop), "capacity mode")?;
    session.decode(&[(a, 1), (b, 1)], &LAST)?;
    session.decode(&[(b, 1), (a, 1)], &LAST)?;
    refused(session.decode(&[(b, 1), (a, 1)], &LAST).map(drop), "fit the KV cache")?;
    assert_eq!((session.len(a)?, session.len(b)?), (8, 3));
    session.drop_sequence(a)?;
    refused(session.drop_sequence(a), "not a sequence")?;
    refused(session.prefill(a, ids(&[1]), &LAST).map(drop), "not a sequence")?;
    refused(session.decode(&[(a, 1)], &LAST).map(drop), "not a sequence")?;
    refused(session.truncate(a, 0), "not a sequence")?;
    Ok(())
}

/// What a step of decoding asks the device for, once it is recorded: one copy in, one graph, one copy out.
fn run_calls(executor: Executor) -> std::result::Result<(), Failed> {
    let inner: Arc<dyn Device> = match executor.name {
        "virtual" => Arc::new(VirtualDevice::new()),
        "ampere" => Arc::new(VirtualDevice::with(Description::a100(), Options::default())),
        _ => Arc::new(CudaDevice::new(0)?),
    };
    let device = Arc::new(CountingDevice::new(inner));
    let ops = DeviceOperations::new(device.clone())?;
    for name in ["gpt2", "nanomoe-dropless"] {
        let model = Model::load(&ops, &Checkpoint::open(&golden(name))?, DType::BF16)?;
        // The embedding; of each block two norms, QKV, attention, its projection, and two products or router, gating,
        // dispatch, two grouped products and their sum; the last norm, the head and its merge.
        let expert_layers = model.config().moe_layers().count();
        let launches = 4 + 7 * (model.config().num_layers - expert_layers) + 11 * expert_layers;
        let mut session = model.session(&ops, SessionOptions::new(3, 12))?;
        let request = Forward { argmax: LogitRows::Last, ..Forward::default() };
        let mut sequences = Vec::new();
        for number in 0..3 {
            let sequence = session.start()?;
            session.prefill(sequence, Input::Ids(&[1, 2, number + 3]), &request)?;
            sequences.push(sequence);
        }
        let mut calls = Vec::new();
        for step in 0..4 {
            let tokens: Vec<(SequenceId, u32)> = sequences.iter().map(|&sequence| (sequence, step)).collect();
            device.take();
            session.decode(&tokens, &request)?;
            calls.push(device.take());
        }
        let (first, last) = (calls[0], calls[3]);
        if first.launches != launches {
            return Err(format!("{name}: {} launches a step, expected {launches}", first.launches).into());
        }
        let expected = Calls { uploads: 1, downloads: 1, graph_launches: 1, ..Calls::default() };
        if last != expected {
            return Err(format!("{name}: a recorded step is {last:?}, expected {expected:?}").into());
        }
    }
    Ok(())
}

/// What a decoded token reads: the weights that are active for it, once, and little else.
fn run_bytes(gpu: fn() -> Description) -> std::result::Result<(), Failed> {
    let config = json!({
        "model_type": "nanomoe", "block_size": 32, "vocab_size": 1024, "n_layer": 2, "n_head": 4, "n_embd": 256,
        "bias": false, "n_exp": 8, "top_k": 2, "stride": 2,
    });
    let folder = random_checkpoint(&config)?;
    let checkpoint = Checkpoint::open(&folder.0)?;
    let device = Arc::new(VirtualDevice::with(gpu(), Options::default()));
    let ops = DeviceOperations::new(device.clone())?;
    let model = Model::load(&ops, &checkpoint, DType::BF16)?;
    let mut session = model.session(&ops, SessionOptions::new(1, 8))?;
    let request = Forward { argmax: LogitRows::Last, ..Forward::default() };
    let sequence = session.start()?;
    session.prefill(sequence, Input::Ids(&[1, 2, 3]), &request)?;
    let read = || -> u64 {
        let kernels = device.gpu().counters();
        let lines = kernels.iter().flat_map(|kernel| &kernel.lines);
        lines.map(|(_, line)| line.global_loads.bytes.min(32 * line.global_loads.sectors)).sum()
    };
    ops.synchronize()?;
    let before = read();
    session.decode(&[(sequence, 4)], &request)?;
    ops.synchronize()?;
    let read = (read() - before) as f64;
    // One layer of two experts of eight, one of one, the head; routers are f32
    let (c, inner) = (256.0, 1024.0);
    let active = 2.0 * (2.0 * 4.0 * c * c + 3.0 * 2.0 * c * inner + 1024.0 * c) + 4.0 * 8.0 * c;
    let times = read / active;
    if (1.0..=1.05).contains(&times) {
        return Ok(());
    }
    Err(format!("a token reads {read} bytes, {times:.3} times the {active} of its active weights").into())
}

/// A checkpoint of small random weights.
fn random_checkpoint(config: &serde_json::Value) -> Result<Scratch> {
    let shape = ModelConfig::from_json(&config.to_string(), None)?;
    let tensor = |(number, weight): (usize, Weight)| {
        let dims = weight.stored_shape(&shape);
        let values = random(number as u64, dims.iter().product());
        let bytes = values.iter().flat_map(|value| (value * 0.1).to_le_bytes()).collect();
        RawTensor { name: weight.stored_name(shape.layout), dtype: "F32".into(), shape: dims, bytes }
    };
    let tensors = Weight::all(&shape).enumerate().map(tensor).collect();
    let config = config.as_object().cloned().unwrap_or_default();
    Ok(Draft { config, tensors }.write())
}

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for &executor in executors() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            // 19 sequences are a long way for an interpreter, and what is invariant is the same kernels on Ampere
            let batches: &[usize] = match (executor.name, dtype) {
                ("cpu", _) | ("virtual" | "cuda", DType::BF16) => &[1, 3, 17],
                ("ampere", DType::F16) => &[],
                _ => &[3],
            };
            for numerics in [Numerics::Fast, Numerics::BatchInvariant] {
                for &batch_size in batches {
                    for name in ["gpt2", "nanomoe-dropless"] {
                        let shape = format!("growth-{name}-{numerics:?}-{batch_size}");
                        trials.push(trial("session", dtype, shape, executor, move |_| {
                            run_growth(executor, numerics, dtype, name, batch_size)
                        }));
                    }
                }
            }
            trials.push(trial("session", dtype, "forks", executor, move |_| run_forks(executor, dtype)));
            trials.push(trial("session", dtype, "fragments", executor, move |_| {
                run_fragments(executor, dtype)
            }));
        }
        trials.push(trial("session", DType::F32, "inputs", executor, run_inputs));
        trials.push(trial("session", DType::F32, "refusals", executor, run_refusals));
        for (name, gpu) in
            [("virtual", Description::h200 as fn() -> Description), ("ampere", Description::a100)]
        {
            if executor.name == name {
                trials.push(trial("session", DType::BF16, "bytes", executor, move |_| run_bytes(gpu)));
            }
        }
        if !executor.is_cpu() {
            trials.push(trial("session", DType::BF16, "calls", executor, move |_| run_calls(executor)));
        }
    }
    trials
}
