//! What is to be continued: one text, or a file of them.

use std::io::Read;
use std::path::Path;

use nanomoe::tokenizer::{Specials, Tokenizer};
use nanomoe::{Error, Result};
use serde_json::Value;

/// A text and its ids.
pub struct Prompt {
    /// As it was given; empty where there was none.
    pub text: String,
    /// At least one.
    pub ids: Vec<u32>,
}

/// The prompt on the command line; without one, the token that ends the text before.
pub fn single(text: Option<&str>, tokenizer: &Tokenizer, end_of_text: Option<u32>) -> Result<Prompt> {
    match (text, end_of_text) {
        (Some(text), _) => {
            let ids = tokenizer.encode(text, Specials::Parse)?;
            if ids.is_empty() {
                let message = format!("the prompt {text:?} has no tokens, expected at least one");
                return Err(Error::Usage(message));
            }
            Ok(Prompt { text: text.to_owned(), ids })
        }
        (None, Some(end_of_text)) => Ok(Prompt { text: String::new(), ids: vec![end_of_text] }),
        (None, None) => {
            Err(Error::Usage("this model has no end-of-text token to begin with: give a prompt".into()))
        }
    }
}

/// The prompts of a file, `-` for standard input: a JSON value a line, a string or an object with a string `prompt`.
/// Lines of nothing but blanks are passed over.
pub fn read(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Prompt>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(|error| Error::io(path, error))?;
    } else {
        text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    }
    let mut prompts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |message: &str| Error::file(path, format!("line {}: {message}", number + 1));
        let value: Value = serde_json::from_str(line).map_err(|error| fail(&error.to_string()))?;
        let prompt = match &value {
            Value::String(prompt) => prompt,
            _ => match value.get("prompt") {
                Some(Value::String(prompt)) => prompt,
                _ => return Err(fail("expected a string, or an object with a string `prompt`")),
            },
        };
        let ids = tokenizer.encode(prompt, Specials::Parse)?;
        if ids.is_empty() {
            return Err(fail("the prompt has no tokens, expected at least one"));
        }
        prompts.push(Prompt { text: prompt.clone(), ids });
    }
    if prompts.is_empty() {
        return Err(Error::file(path, "no prompts in it, expected a line of JSON for each"));
    }
    Ok(prompts)
}
