//! `nanomoe generate`: text as it is made.

use std::io::Write;
use std::ops::ControlFlow;

use nanomoe::generate::{Event, GenerateOptions, Sampling, Stop, generate};
use nanomoe::model::MoeMode;
use nanomoe::tensor::DType;
use nanomoe::tokenizer::{Specials, Tokenizer};
use nanomoe::{Error, Result};

use super::GenerateArgs;
use super::output::{Done, Failure, tell};
use super::session::{Defaults, Source};

pub fn run(args: &GenerateArgs) -> Done {
    let sampling = sampling(args)?;
    let source = Source::open(&args.model)?;
    let tokenizer = source.tokenizer()?;
    let config = source.checkpoint.config();
    let end_of_text = config.end_of_text.or(tokenizer.end_of_text());
    let prompt = prompt_ids(args, &tokenizer, end_of_text)?;
    let defaults = Defaults { device_dtype: DType::BF16, moe: MoeMode::Dropless };
    let session = source.load(&args.model, defaults)?;

    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling,
        moe: session.moe,
        masked: tokenizer.undecodable(config.vocab_size),
        end_of_text,
        ..GenerateOptions::default()
    };

    let mut out = std::io::stdout().lock();
    write!(out, "{}", args.prompt.as_deref().unwrap_or_default())?;
    out.flush()?;
    let mut stream = tokenizer.stream(&prompt);
    let mut failure = None;
    let mut on_event = |event| {
        let told = match event {
            Event::Token(id) => stream.push(id).map_err(Failure::from).and_then(|text| {
                write!(out, "{text}")?;
                Ok(out.flush()?)
            }),
            Event::Cropped { block_size } => {
                tell(format_args!(
                    "\nfrom here on the model sees the last {block_size} tokens only, all computed anew at each step"
                ));
                Ok(())
            }
        };
        match told {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let generated = generate(&session.model, session.ops.as_ref(), &prompt, &options, &mut on_event);
    if let Some(failure) = failure {
        return Err(failure);
    }
    // The line ends whatever happened: what went wrong is said on one of its own.
    writeln!(out, "{}", stream.finish()?)?;
    out.flush()?;
    let generated = generated?;

    let count = generated.ids.len();
    let end = if generated.stop == Stop::EndOfText { ", then the end of the text" } else { "" };
    tell(format_args!(
        "{count} tokens{end}; {:.1} tokens/s after {:.0} ms for the prompt's {}",
        generated.tokens_per_second(),
        generated.prefill.as_secs_f64() * 1e3,
        prompt.len(),
    ));
    Ok(())
}

fn sampling(args: &GenerateArgs) -> Result<Sampling> {
    let refuse = |message: String| Err(Error::Usage(message));
    if !args.temperature.is_finite() || args.temperature < 0.0 {
        return refuse(format!("--temperature is {}, expected a number from 0 on", args.temperature));
    }
    // A NaN is in no range.
    if !(args.top_p > 0.0 && args.top_p <= 1.0) {
        return refuse(format!("--top-p is {}, expected a number above 0 and at most 1", args.top_p));
    }
    Ok(Sampling {
        temperature: args.temperature,
        top_k: (args.top_k > 0).then_some(args.top_k),
        top_p: (args.top_p < 1.0).then_some(args.top_p),
        seed: args.seed,
        ..Sampling::default()
    })
}

/// The prompt's ids; without a prompt, the token that ends the text before.
fn prompt_ids(args: &GenerateArgs, tokenizer: &Tokenizer, end_of_text: Option<u32>) -> Result<Vec<u32>> {
    match (&args.prompt, end_of_text) {
        (Some(prompt), _) => {
            let ids = tokenizer.encode(prompt, Specials::Parse)?;
            if ids.is_empty() {
                return Err(Error::Usage(format!(
                    "the prompt {prompt:?} has no tokens, expected at least one"
                )));
            }
            Ok(ids)
        }
        (None, Some(end_of_text)) => Ok(vec![end_of_text]),
        (None, None) => {
            Err(Error::Usage("this model has no end-of-text token to begin with: give a prompt".into()))
        }
    }
}
