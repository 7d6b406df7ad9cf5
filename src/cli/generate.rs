//! `nanomoe generate`: text as it is made, or many texts as lines of JSON.

mod prompts;
mod texts;

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nanomoe::generate::{Event, GenerateOptions, Generated, Sampling, generate_many};
use nanomoe::model::MoeMode;
use nanomoe::tensor::DType;
use nanomoe::{Error, Result};

use super::GenerateArgs;
use super::output::{Done, Failure, tell};
use super::session::{Defaults, Source};
use prompts::Prompt;
use texts::{Form, Texts};

pub fn run(args: &GenerateArgs) -> Done {
    let sampling = sampling(args)?;
    check(args)?;
    let source = Source::open(&args.model)?;
    let tokenizer = source.tokenizer()?;
    let config = source.checkpoint.config();
    let end_of_text = config.end_of_text.or(tokenizer.end_of_text());
    let prompts = match &args.prompts {
        Some(path) => prompts::read(path, &tokenizer)?,
        None => vec![prompts::single(args.prompt.as_deref(), &tokenizer, end_of_text)?],
    };
    let defaults = Defaults { device_dtype: DType::BF16, moe: MoeMode::Dropless };
    let session = source.load(&args.model, defaults)?;
    let options = GenerateOptions {
        max_tokens: args.max_tokens,
        sampling,
        moe: session.moe,
        masked: tokenizer.undecodable(config.vocab_size),
        end_of_text,
        max_batch: args.max_batch,
        logprobs: args.logprobs,
    };

    // Every prompt as often as asked for, its samples one after the other
    let all: Vec<&Prompt> = prompts.iter().flat_map(|prompt| vec![prompt; args.num_samples]).collect();
    let ids: Vec<&[u32]> = all.iter().map(|prompt| &prompt.ids[..]).collect();
    let form = match (args.prompts.is_some(), args.logprobs, args.num_samples) {
        (true, ..) => Form::Json,
        (_, true, _) => Form::Tokens,
        (_, _, 1) => Form::Stream,
        _ => Form::Whole,
    };
    let interrupted = on_interrupt()?;
    let mut texts = Texts::new(form, &tokenizer, &all, args.num_samples, &args.stop);
    let mut out = std::io::stdout().lock();
    texts.begin(&mut out)?;
    let mut failure = None;
    let mut on_event = |number: usize, event: Event| {
        if failure.is_some() {
            // Nobody reads, or nothing can be written: no more of any text
            return ControlFlow::Break(());
        }
        match texts.take(&mut out, number, event) {
            Ok(ControlFlow::Continue(())) if interrupted.load(Ordering::Relaxed) => {
                texts.interrupt(number);
                ControlFlow::Break(())
            }
            Ok(flow) => flow,
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    };
    let generated = generate_many(&session.model, session.ops.as_ref(), &ids, &options, &mut on_event);
    if let Some(failure) = failure {
        return Err(failure);
    }
    // The line ends whatever happened: what went wrong is said on one of its own.
    texts.finish(&mut out)?;
    out.flush()?;
    summarise(&generated?, &all, &texts);
    if interrupted.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
}

/// How much was made and how fast.
fn summarise(generated: &[Generated], prompts: &[&Prompt], texts: &Texts<'_>) {
    if let ([one], [prompt]) = (generated, prompts) {
        tell(format_args!(
            "{} tokens{}; {:.1} tokens/s after {:.0} ms for the prompt's {}",
            one.ids.len(),
            texts.ending(0),
            one.tokens_per_second(),
            one.prefill.as_secs_f64() * 1e3,
            prompt.ids.len(),
        ));
        return;
    }
    let tokens: usize = generated.iter().map(|one| one.ids.len()).sum();
    let longest = generated.iter().map(|one| one.prefill + one.decode).max().unwrap_or_default();
    tell(format_args!(
        "{} texts of {tokens} tokens in all; the longest took {:.1} s",
        generated.len(),
        longest.as_secs_f64()
    ));
}

/// Set by Ctrl-C, which asks for the end; a second one ends the program at once.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let signal = signal_hook::consts::SIGINT;
    signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone())
        .and_then(|_| signal_hook::flag::register(signal, flag.clone()))
        .map_err(|error| Error::Device { call: "sigaction".to_owned(), message: error.to_string() })?;
    Ok(flag)
}

fn check(args: &GenerateArgs) -> Result<()> {
    let refuse = |message: &str| Err(Error::Usage(message.to_owned()));
    if args.num_samples == 0 {
        return refuse("--num-samples is 0, expected at least 1");
    }
    if args.max_batch == 0 {
        return refuse("--max-batch is 0, expected at least 1");
    }
    if args.stop.iter().any(String::is_empty) {
        return refuse("--stop is an empty string, which stands everywhere");
    }
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
    if !(0.0..=1.0).contains(&args.min_p) {
        return refuse(format!("--min-p is {}, expected a number from 0 to 1", args.min_p));
    }
    if !args.repetition_penalty.is_finite() || args.repetition_penalty <= 0.0 {
        let got = args.repetition_penalty;
        return refuse(format!("--repetition-penalty is {got}, expected a number above 0 (1 for none)"));
    }
    Ok(Sampling {
        temperature: args.temperature,
        top_k: (args.top_k > 0).then_some(args.top_k),
        top_p: (args.top_p < 1.0).then_some(args.top_p),
        min_p: (args.min_p > 0.0).then_some(args.min_p),
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    })
}
