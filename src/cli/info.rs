//! `nanomoe info`: a model's shape, parameters and memory.

use std::io::Write;

use nanomoe::tensor::DType;
use nanomoe::weights::{Checkpoint, LayerWeight, Weight};

use super::ModelArgs;
use super::output::{Done, bytes_text, count_text};
use super::session::{self, Source};

pub fn run(args: &ModelArgs) -> Done {
    let source = Source::open(args)?;
    let checkpoint = &source.checkpoint;
    let (device, ops) = session::open_device(args.device)?;
    let dtype = session::dtype(args, device, DType::BF16)?;
    if args.check_weights {
        checkpoint.check_finite(dtype)?;
    }
    let config = checkpoint.config();
    let mut out = std::io::stdout().lock();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<20} {value}");

    line("model", source.place())?;
    line("family", config.layout.name().to_owned())?;
    line("layers", config.num_layers.to_string())?;
    line("hidden size", format!("{}, {} inside the MLP", config.hidden_size, config.intermediate_size))?;
    line("heads", format!("{} of {}", config.num_heads, config.head_dim()))?;
    line("vocabulary", config.vocab_size.to_string())?;
    line("context", format!("{} tokens", config.block_size))?;
    line("head", if config.tied_head { "tied to the token embedding" } else { "its own" }.to_owned())?;
    if let Some(moe) = &config.moe {
        let layers: Vec<String> = config.moe_layers().map(|layer| layer.to_string()).collect();
        line("experts", format!("{}, {} a token", moe.num_experts, moe.num_experts_per_token))?;
        line("layers with experts", layers.join(", "))?;
        let drops = if moe.never_drops() { "never drops" } else { "may drop" };
        line("capacity factor", format!("{} ({drops})", moe.eval_capacity))?;
    }
    line("parameters", count_text(checkpoint.num_parameters()))?;
    line("active for a token", count_text(active_parameters(checkpoint)))?;
    let weights = checkpoint.weights().map(|weight| bytes_of(checkpoint, weight, dtype)).sum();
    line("memory of weights", format!("{} as {dtype}", bytes_text(weights)))?;
    let token = 2 * (config.num_layers * config.hidden_size * dtype.size()) as u64;
    let full = token * config.block_size as u64;
    line("memory of KV cache", format!("{} a token, {} when full", bytes_text(token), bytes_text(full)))?;
    line("device", ops.name())?;
    if let Ok((free, total)) = ops.memory() {
        line("memory of device", format!("{} free of {}", bytes_text(free), bytes_text(total)))?;
    }
    match source.tokenizer() {
        Ok(tokenizer) => line("tokenizer", format!("{} ({} ids)", tokenizer.name(), tokenizer.num_ids()))?,
        Err(error) => line("tokenizer", format!("none: {error}"))?,
    }
    Ok(())
}

fn num_elements(checkpoint: &Checkpoint, weight: Weight) -> u64 {
    checkpoint.shape(weight).iter().product::<usize>() as u64
}

fn bytes_of(checkpoint: &Checkpoint, weight: Weight, dtype: DType) -> u64 {
    let dtype = if weight.is_matrix() { dtype } else { DType::F32 };
    num_elements(checkpoint, weight) * dtype.size() as u64
}

/// Parameters that take part in computing one token: k of the E experts, and everything else.
fn active_parameters(checkpoint: &Checkpoint) -> u64 {
    use LayerWeight::{ExpertsDown, ExpertsDownBias, ExpertsUp, ExpertsUpBias};
    let active = checkpoint.weights().map(|weight| {
        let all = num_elements(checkpoint, weight);
        match (weight, &checkpoint.config().moe) {
            (Weight::Layer(_, ExpertsUp | ExpertsUpBias | ExpertsDown | ExpertsDownBias), Some(moe)) => {
                all / moe.num_experts as u64 * moe.num_experts_per_token as u64
            }
            _ => all,
        }
    });
    active.sum()
}
