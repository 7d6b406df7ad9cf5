//! `nanomoe loss`: how well a model predicts a text.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};
use nanomoe::model::{Forward, HiddenStates, MoeMode, Targets};
use nanomoe::tensor::DType;
use nanomoe::tokenizer::Specials;
use nanomoe::{Error, Result};

use super::LossArgs;
use super::output::{Done, count_text};
use super::session::{Defaults, Source};

pub fn run(args: &LossArgs) -> Done {
    let text = read_text(args)?;
    let source = Source::open(&args.model)?;
    let ids = source.tokenizer()?.encode(&text, Specials::Text)?;
    if ids.len() < 2 {
        let message = format!("{} tokens, expected at least 2: one to predict and one before it", ids.len());
        return Err(Error::file(&args.file, message).into());
    }

    let defaults = Defaults { device_dtype: DType::BF16, moe: MoeMode::Capacity };
    let session = source.load(&args.model, defaults)?;
    let block_size = session.model.config().block_size;
    let ops = session.ops.as_ref();
    let mut workspace = session.model.workspace(ops, block_size.min(ids.len() - 1))?;
    let bar = ProgressBar::new(ids.len() as u64 - 1).with_style(
        ProgressStyle::with_template("{wide_bar} {pos}/{len} tokens, {per_sec}, {eta} left")
            .expect("the template is checked by a test"),
    );
    let mut nats = 0.0;
    for begin in (0..ids.len() - 1).step_by(block_size) {
        // The last token of a window is the first of the next, so each is a target once.
        let end = (begin + block_size).min(ids.len() - 1);
        let targets: Vec<i64> = ids[begin + 1..=end].iter().map(|&id| i64::from(id)).collect();
        let request = Forward {
            moe: session.moe,
            targets: Some(Targets { ids: &targets, ignore_index: -1 }),
            ..Forward::default()
        };
        let output = session.model.forward(ops, &mut workspace, 1, &ids[begin..end], &request)?;
        let sum = output.token_losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
        if !sum.is_finite() {
            bar.finish_and_clear();
            let at = begin + output.token_losses.iter().position(|loss| !loss.is_finite()).unwrap_or(0) + 1;
            let request = Forward { hidden_states: HiddenStates::All, ..request };
            let output = session.model.forward(ops, &mut workspace, 1, &ids[begin..end], &request)?;
            let message = format!(
                "the loss of token {at} is not finite: the first number in {} that is not comes out of {}",
                session.model.dtype(),
                output.origin_of_not_finite()
            );
            return Err(Error::Input(message).into());
        }
        nats += sum;
        bar.inc(targets.len() as u64);
    }
    bar.finish_and_clear();

    let num_targets = ids.len() as u64 - 1;
    let mean = nats / num_targets as f64;
    let mut out = std::io::stdout().lock();
    writeln!(out, "nats per token  {mean:.4}")?;
    writeln!(out, "bits per byte   {:.4}", nats / std::f64::consts::LN_2 / text.len() as f64)?;
    writeln!(out, "perplexity      {:.3}", mean.exp())?;
    let (tokens, bytes) = (count_text(num_targets), count_text(text.len() as u64));
    writeln!(out, "scored          {tokens} tokens, {bytes} bytes, in windows of {block_size}")?;
    Ok(())
}

fn read_text(args: &LossArgs) -> Result<String> {
    let bytes = std::fs::read(&args.file).map_err(|error| Error::io(&args.file, error))?;
    String::from_utf8(bytes).map_err(|error| {
        Error::file(&args.file, format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })
}
