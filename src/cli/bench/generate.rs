//! `nanomoe bench generate`: how fast a model continues prompts, many at a time, on any device that has a clock.

use std::io::Write;
use std::time::Instant;

use nanomoe::config::ModelConfig;
use nanomoe::generate::Sampling;
use nanomoe::model::{Draw, Forward, Input, Model, SequenceId, SessionOptions};
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use nanomoe::{Error, Result};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::super::output::{Done, tell, write_whole};
use super::super::session::{Source, dtype, open_device};
use super::super::{BenchArgs, DeviceName, ModelArgs};
use super::forward::weight_elements;
use super::measure::Clock;

/// Sequences at a time where no `--shape` says others.
const BATCHES: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
/// Most tokens of a prompt, and most that are added.
const PROMPT: usize = 128;
const STEPS: usize = 64;
/// Steps before the clock runs: code is loaded, and the step is recorded.
const WARM_UP: usize = 3;

pub fn run(args: &BenchArgs) -> Done {
    let batches: Vec<usize> = match &args.shape[..] {
        [] => BATCHES.to_vec(),
        shapes => shapes.iter().map(|shape| batch(shape)).collect::<Result<_>>()?,
    };
    let model_args = ModelArgs { model: args.model.clone(), device: args.device, ..ModelArgs::default() };
    if args.device == Some(DeviceName::Virtual) {
        let message =
            "bench generate measures time, of which the virtual GPU has no notion: --device cuda or cpu";
        return Err(Error::Usage(message.to_owned()).into());
    }
    let source = Source::open(&model_args)?;
    let (device, ops) = open_device(args.device)?;
    let dtype = dtype(&model_args, device, DType::BF16)?;
    let model = Model::load(ops.as_ref(), &source.checkpoint, dtype)?;
    let bandwidth = match device {
        DeviceName::Cpu => read_bandwidth(),
        _ => copy_bandwidth()?,
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}, {} in {dtype}, memory at {:.0} GB/s", ops.name(), source.place(), bandwidth / 1e9)?;
    writeln!(
        out,
        "{:>5}  {:>6}  {:>17}  {:>13}  {:>16}  {:>14}",
        "batch", "prompt", "prefill tokens/s", "first token", "decode tokens/s", "% of the floor"
    )?;
    let mut lines = Vec::new();
    for batch in batches {
        let line = measure(&model, ops.as_ref(), batch, bandwidth)?;
        let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        writeln!(
            out,
            "{batch:>5}  {:>6}  {:>17.0}  {:>10.2} ms  {:>16.0}  {:>14.1}",
            line["prompt_len"],
            number("prefill_tokens_per_s"),
            number("first_token_ms"),
            number("decode_tokens_per_s"),
            number("percent_of_floor"),
        )?;
        lines.push(line);
    }
    if let Some(path) = &args.json {
        let file = json!({
            "schema": "nanomoe-generate-1", "device": ops.name(), "model": source.place(), "dtype": dtype.name(),
            "memory_gb_per_s": bandwidth / 1e9, "lines": lines,
        });
        write_whole(path, format!("{file:#}\n").as_bytes())?;
        tell(format_args!("written to {}", path.display()));
    }
    Ok(())
}

fn batch(shape: &str) -> Result<usize> {
    match shape.parse() {
        Ok(batch @ 1..) => Ok(batch),
        _ => Err(Error::Usage(format!("--shape {shape}: expected a number of sequences, 1 or more"))),
    }
}

/// Prompts of one length for all sequences, then tokens one by one for all together, drawn on the device.
fn measure(model: &Model, ops: &dyn Operations, batch: usize, bandwidth: f64) -> Result<Value> {
    let config = model.config();
    let prompt_len = (config.block_size / 2).clamp(1, PROMPT);
    let steps = STEPS.min((config.block_size - prompt_len).saturating_sub(WARM_UP));
    if steps == 0 {
        return Err(Error::Input(format!(
            "a model of {} positions is too short to measure",
            config.block_size
        )));
    }
    let mut session = model.session(ops, SessionOptions::new(batch, prompt_len + WARM_UP + steps))?;
    let settings: Vec<_> = (0..batch as u32).map(|number| Sampling::default().settings(number)).collect();
    let draw = |settings| Forward {
        draw: Some(Draw { settings, allowed: None, seen: None, logprobs: false }),
        ..Forward::default()
    };
    let prompt = |number: usize| -> Vec<u32> {
        (0..prompt_len).map(|t| ((t * 7919 + number * 104_729) % config.vocab_size) as u32).collect()
    };
    // Once before the clock runs
    let warm = session.start()?;
    session.prefill(warm, Input::Ids(&prompt(0)), &draw(&settings[..1]))?;
    session.drop_sequence(warm)?;

    let start = Instant::now();
    let mut first_token = None;
    let mut tokens: Vec<(SequenceId, u32)> = Vec::new();
    for number in 0..batch {
        let sequence = session.start()?;
        let request = draw(&settings[number..number + 1]);
        let output = session.prefill(sequence, Input::Ids(&prompt(number)), &request)?;
        first_token.get_or_insert_with(|| start.elapsed());
        tokens.push((sequence, id(&output.drawn, 0)?));
    }
    let prefill = start.elapsed();
    let mut times = Vec::new();
    for step in 0..WARM_UP + steps {
        let start = Instant::now();
        let output = session.decode(&tokens, &draw(&settings))?;
        if step >= WARM_UP {
            times.push(start.elapsed().as_secs_f64());
        }
        for (row, token) in tokens.iter_mut().enumerate() {
            token.1 = id(&output.drawn, row)?;
        }
    }
    times.sort_by(f64::total_cmp);
    let seconds = times[times.len() / 2];
    let floor = floor_seconds(config, model.dtype(), batch, prompt_len + WARM_UP + steps / 2, bandwidth);
    Ok(json!({
        "batch_size": batch, "prompt_len": prompt_len, "steps": steps,
        "first_token_ms": first_token.unwrap_or_default().as_secs_f64() * 1e3,
        "prefill_tokens_per_s": (batch * prompt_len) as f64 / prefill.as_secs_f64(),
        "step_us": seconds * 1e6, "decode_tokens_per_s": batch as f64 / seconds,
        "floor_us": floor * 1e6, "percent_of_floor": 100.0 * floor / seconds,
    }))
}

fn id(drawn: &[i32], row: usize) -> Result<u32> {
    let id = drawn.get(row).and_then(|&id| u32::try_from(id).ok());
    id.ok_or_else(|| Error::Input("the logits are NaN".to_owned()))
}

/// The least time of a step: every weight that is hit once, and the keys and values of all sequences.
fn floor_seconds(config: &ModelConfig, dtype: DType, batch: usize, len: usize, bandwidth: f64) -> f64 {
    let cached = (batch * len * 2 * config.hidden_size * config.num_layers) as f64;
    (weight_elements(config, batch) + cached) * dtype.size() as f64 / bandwidth
}

/// Bytes a second of a large copy on the GPU, read and written.
fn copy_bandwidth() -> Result<f64> {
    let ops = nanomoe::kernels::DeviceOperations::open_cuda(0)?;
    Ok(Clock::new(&ops)?.copy_ceiling(&ops)? * 1e9)
}

/// Bytes a second at which all threads together read memory that is in no cache: the fastest of five.
fn read_bandwidth() -> f64 {
    let memory = vec![1u64; 1 << 27];
    let read = |_| {
        let start = Instant::now();
        let sums = memory
            .par_chunks(1 << 20)
            .map(|chunk| chunk.iter().fold(0u64, |sum, &word| sum.wrapping_add(word)));
        std::hint::black_box(sums.reduce(|| 0, u64::wrapping_add));
        (memory.len() * 8) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(read).fold(0.0, f64::max)
}
