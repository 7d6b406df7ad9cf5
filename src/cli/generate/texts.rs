//! Texts that are being made, and how they are shown.

use std::io::Write;
use std::ops::ControlFlow;

use nanomoe::generate::{Event, Stop};
use nanomoe::tokenizer::{DecodeStream, Tokenizer};
use serde_json::{Map, Value, json};

use super::super::output::{Failure, tell};
use super::prompts::Prompt;

/// How texts are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One, as it is made.
    Stream,
    /// One token a line, behind the logarithm of its probability, as it is made.
    Tokens,
    /// Several, each when it ends.
    Whole,
    /// A line of JSON each, when it ends.
    Json,
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ending {
    Model(Stop),
    StopString(String),
    Interrupted,
    /// Something went wrong, which is told when all that was made has been shown.
    Error,
}

/// One text.
struct Text<'a> {
    prompt: &'a Prompt,
    stream: Option<DecodeStream<'a>>,
    /// What was made and shown, or may be.
    shown: String,
    /// What was made and may still turn out to be the beginning of a stop string.
    held: String,
    tokens: Vec<(u32, Option<f32>)>,
    ending: Option<Ending>,
    is_over: bool,
}

/// All texts, by number.
pub struct Texts<'a> {
    form: Form,
    tokenizer: &'a Tokenizer,
    num_samples: usize,
    stops: &'a [String],
    texts: Vec<Text<'a>>,
}

impl<'a> Texts<'a> {
    pub fn new(
        form: Form,
        tokenizer: &'a Tokenizer,
        prompts: &[&'a Prompt],
        num_samples: usize,
        stops: &'a [String],
    ) -> Self {
        let text = |prompt: &&'a Prompt| Text {
            prompt,
            stream: Some(tokenizer.stream(&prompt.ids)),
            shown: String::new(),
            held: String::new(),
            tokens: Vec::new(),
            ending: None,
            is_over: false,
        };
        Texts { form, tokenizer, num_samples, stops, texts: prompts.iter().map(text).collect() }
    }

    /// What stands before the first token.
    pub fn begin(&self, out: &mut impl Write) -> Result<(), Failure> {
        if let (Form::Stream, [text]) = (self.form, &self.texts[..]) {
            write!(out, "{}", text.prompt.text)?;
            out.flush()?;
        }
        Ok(())
    }

    /// Takes what has happened to a text, and shows what there is to show.
    pub fn take(
        &mut self,
        out: &mut impl Write,
        number: usize,
        event: Event,
    ) -> Result<ControlFlow<()>, Failure> {
        let text = &mut self.texts[number];
        match event {
            Event::Token { id, logprob } => {
                text.tokens.push((id, logprob));
                let Some(stream) = &mut text.stream else { return Ok(ControlFlow::Break(())) };
                let piece = stream.push(id)?;
                let new = text.add(&piece, self.stops);
                match self.form {
                    Form::Stream => {
                        write!(out, "{new}")?;
                        out.flush()?;
                    }
                    Form::Tokens => self.line(out, id, logprob)?,
                    Form::Whole | Form::Json => {}
                }
                Ok(if self.texts[number].ending.is_some() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            }
            Event::Begins => Ok(ControlFlow::Continue(())),
            Event::Cropped { block_size } => {
                tell(format_args!(
                    "\nfrom here on the model sees the last {block_size} tokens only, all computed anew at each step"
                ));
                Ok(ControlFlow::Continue(()))
            }
            Event::Ended(stop) => {
                text.ending.get_or_insert(Ending::Model(stop));
                self.end(out, number)?;
                Ok(ControlFlow::Continue(()))
            }
        }
    }

    /// Nobody wants more of this text.
    pub fn interrupt(&mut self, number: usize) {
        self.texts[number].ending.get_or_insert(Ending::Interrupted);
    }

    /// A text is all there is of it: what is still held belongs to it, unless a stop string was found.
    fn end(&mut self, out: &mut impl Write, number: usize) -> Result<(), Failure> {
        let (form, num_samples, stops) = (self.form, self.num_samples, self.stops);
        let text = &mut self.texts[number];
        text.is_over = true;
        let mut rest = String::new();
        if !matches!(text.ending, Some(Ending::StopString(_))) {
            let last = text.stream.take().map(DecodeStream::finish).transpose()?.unwrap_or_default();
            rest = text.add(&last, stops);
            if !matches!(text.ending, Some(Ending::StopString(_))) {
                let held = std::mem::take(&mut text.held);
                text.shown += &held;
                rest += &held;
            }
        }
        let text = &self.texts[number];
        match form {
            Form::Stream => write!(out, "{rest}")?,
            Form::Tokens => {}
            Form::Whole => {
                let (sample, prompt) = (number % num_samples + 1, &text.prompt.text);
                writeln!(
                    out,
                    "--- {sample} of {num_samples}{}\n{prompt}{}",
                    self.ending(number),
                    text.shown
                )?;
            }
            Form::Json => writeln!(out, "{}", self.json(number)?)?,
        }
        out.flush()?;
        Ok(())
    }

    /// What was made of texts that an error cut off, and what stands behind the last token.
    pub fn finish(&mut self, out: &mut impl Write) -> Result<(), Failure> {
        for number in 0..self.texts.len() {
            let text = &mut self.texts[number];
            if !text.is_over && !text.tokens.is_empty() {
                text.ending.get_or_insert(Ending::Error);
                self.end(out, number)?;
            }
        }
        if self.form == Form::Stream {
            writeln!(out)?;
        }
        Ok(())
    }

    /// Why a text ended, for people; nothing where it has as many tokens as asked for.
    pub fn ending(&self, number: usize) -> String {
        match &self.texts[number].ending {
            Some(Ending::Model(Stop::EndOfText)) => ", then the end of the text".to_owned(),
            Some(Ending::StopString(stop)) => format!(", then the stop string {stop:?}"),
            Some(Ending::Interrupted) => ", then interrupted".to_owned(),
            Some(Ending::Error) => ", then an error".to_owned(),
            _ => String::new(),
        }
    }

    fn line(&self, out: &mut impl Write, id: u32, logprob: Option<f32>) -> Result<(), Failure> {
        let token = Value::String(self.token(id)?);
        writeln!(out, "{:.4}\t{id}\t{token}", logprob.unwrap_or(f32::NAN))?;
        Ok(out.flush()?)
    }

    fn token(&self, id: u32) -> nanomoe::Result<String> {
        Ok(String::from_utf8_lossy(&self.tokenizer.decode_bytes(&[id])?).into_owned())
    }

    /// A finished text as one line.
    fn json(&self, number: usize) -> nanomoe::Result<Value> {
        let text = &self.texts[number];
        let stop = match &text.ending {
            Some(Ending::Model(Stop::EndOfText)) => "end_of_text",
            Some(Ending::StopString(_)) => "stop_string",
            Some(Ending::Interrupted) => "interrupted",
            Some(Ending::Error) => "error",
            _ => "max_tokens",
        };
        let mut line = Map::new();
        line.insert("prompt_index".into(), (number / self.num_samples).into());
        line.insert("sample".into(), (number % self.num_samples).into());
        line.insert("prompt".into(), text.prompt.text.clone().into());
        line.insert("text".into(), text.shown.clone().into());
        line.insert("num_tokens".into(), text.tokens.len().into());
        line.insert("stop".into(), stop.into());
        if text.tokens.iter().any(|(_, logprob)| logprob.is_some()) {
            let one = |&(id, logprob): &(u32, Option<f32>)| -> nanomoe::Result<Value> {
                Ok(json!({ "id": id, "token": self.token(id)?, "logprob": logprob }))
            };
            let tokens = text.tokens.iter().map(one).collect::<nanomoe::Result<Vec<Value>>>()?;
            line.insert("tokens".into(), Value::Array(tokens));
        }
        Ok(Value::Object(line))
    }
}

impl Text<'_> {
    /// Takes a piece of text and gives what can be shown: all that cannot be part of a stop string any more. Where a
    /// stop string is complete the text ends before it.
    fn add(&mut self, piece: &str, stops: &[String]) -> String {
        self.held += piece;
        let found = stops.iter().filter_map(|stop| self.held.find(stop).map(|at| (at, stop))).min();
        let ready = match found {
            Some((at, stop)) => {
                self.ending.get_or_insert(Ending::StopString(stop.clone()));
                let ready = self.held[..at].to_owned();
                self.held.clear();
                ready
            }
            None => {
                let begins = |at: usize| stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
                let cut = self.held.char_indices().map(|(at, _)| at).find(|&at| begins(at));
                let rest = self.held.split_off(cut.unwrap_or(self.held.len()));
                std::mem::replace(&mut self.held, rest)
            }
        };
        self.shown += &ready;
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces in, shown text and stop string out.
    fn run(pieces: &[&str], stops: &[&str]) -> (String, bool) {
        let prompt = Prompt { text: String::new(), ids: vec![0] };
        let stops: Vec<String> = stops.iter().map(|stop| stop.to_string()).collect();
        let mut text = Text {
            prompt: &prompt,
            stream: None,
            shown: String::new(),
            held: String::new(),
            tokens: Vec::new(),
            ending: None,
            is_over: false,
        };
        let mut given = String::new();
        for piece in pieces {
            given += &text.add(piece, &stops);
            if text.ending.is_some() {
                break;
            }
        }
        assert_eq!(given, text.shown);
        (given, text.ending.is_some())
    }

    #[test]
    fn stop_strings() {
        assert_eq!(run(&["one ", "two"], &[]), ("one two".into(), false));
        assert_eq!(run(&["one t", "wo three"], &["two"]), ("one ".into(), true));
        assert_eq!(run(&["one t", "ea"], &["two"]), ("one tea".into(), false));
        // the end of the text may be the beginning of one
        assert_eq!(run(&["one tw"], &["two"]), ("one ".into(), false));
        assert_eq!(run(&["aab", "aac"], &["aac"]), ("aab".into(), true));
        assert_eq!(run(&["x.\n\ny"], &["\n\n", "."]), ("x".into(), true));
        assert_eq!(run(&["é", "é!"], &["é!"]), ("é".into(), true));
    }
}
