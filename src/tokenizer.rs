//! Text to token ids and back.
//!
//! kitoken does the work for every format: `tokenizer.json`, tiktoken rank files, SentencePiece models. Here is what
//! a language model needs around it: finding the file, GPT-2's ranks for models that bring no tokenizer, ids that the
//! model has and the tokenizer does not, and text that arrives token by token.

use std::io::Read;
use std::path::Path;

use kitoken::{Definition, Kitoken, Regex, SpecialToken, Split, SplitBehavior};

use crate::embedded;
use crate::error::{Error, Result};

/// GPT-2's merges by rank, as OpenAI published them for tiktoken under the name r50k_base.
const GPT2_RANKS: &[u8] = include_bytes!("tokenizer/gpt2.tiktoken.gz");

/// How GPT-2 cuts text before merging (Radford et al. 2019, the released encoder).
const GPT2_PATTERN: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Rank files with fewer ranks than this are GPT-2's or its close relatives.
const FIRST_CL100K_SIZE: usize = 100_000;

/// The names a tokenizer's file has in a model's folder, in the order they are looked for.
const FILE_NAMES: [&str; 4] = ["tokenizer.json", "tokenizer.model", "spiece.model", "tokenizer.tiktoken"];

/// What an end-of-text token is called in the vocabularies that do not mark it.
const END_OF_TEXT: [&str; 4] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>"];

/// Turns text into token ids and back.
pub struct Tokenizer {
    inner: Kitoken,
    name: String,
    largest_id: u32,
    end_of_text: Option<u32>,
}

/// What is done with text that spells a special token, such as `<|endoftext|>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// It becomes that token: for prompts.
    Parse,
    /// It is text like any other: for documents.
    Text,
}

impl Tokenizer {
    /// The tokenizer of the model in folder `dir`: the file there; where there is none, GPT-2's for a vocabulary of
    /// 50257 or 50304.
    ///
    /// # Errors
    /// [`Error::File`] when there is no file and the vocabulary is another, or as [`Tokenizer::from_file`].
    pub fn for_model(dir: &Path, vocab_size: usize) -> Result<Self> {
        for name in FILE_NAMES {
            let path = dir.join(name);
            if path.is_file() {
                let tokenizer = Self::from_file(&path)?;
                if tokenizer.largest_id as usize >= vocab_size {
                    let largest = tokenizer.largest_id;
                    let message =
                        format!("holds id {largest}, but the model's vocabulary ends at {}", vocab_size - 1);
                    return Err(Error::file(path, message));
                }
                return Ok(tokenizer);
            }
        }
        match vocab_size {
            50257 | 50304 => Self::gpt2(),
            _ => Err(Error::file(
                dir,
                format!(
                    "no {}, and a vocabulary of {vocab_size} is not GPT-2's (50257 or 50304)",
                    FILE_NAMES.join(", ")
                ),
            )),
        }
    }

    /// The tokenizer of the model that feature `embedded-model` put into the program.
    ///
    /// # Errors
    /// [`Error::NoEmbeddedModel`] where there is none.
    pub fn embedded() -> Result<Self> {
        let name = "tokenizer.json";
        Self::from_json(embedded::file(name)?, name).or_else(fail)
    }

    /// GPT-2's tokenizer: 50,257 ids, the last of them `<|endoftext|>`. Needs no file.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], if the ranks inside this program were damaged.
    pub fn gpt2() -> Result<Self> {
        let mut ranks = Vec::new();
        let unpacked = flate2::read::GzDecoder::new(GPT2_RANKS).read_to_end(&mut ranks);
        unpacked.or_else(|error| fail(format!("GPT-2's ranks: {error}")))?;
        Self::from_ranks(&ranks, "GPT-2").or_else(fail)
    }

    /// Reads a `tokenizer.json`, a tiktoken rank file or a SentencePiece model; its content decides which.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] with what is wrong in it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::io(path, source))?;
        let name = path.display().to_string();
        let read = match Format::of(&bytes) {
            Format::Json => Self::from_json(&bytes, &name),
            Format::Ranks => Self::from_ranks(&bytes, &name),
            Format::SentencePiece => Self::from_sentencepiece(&bytes, &name),
        };
        read.map_err(|message| Error::file(path, message))
    }

    fn from_json(bytes: &[u8], name: &str) -> std::result::Result<Self, String> {
        let definition = Definition::from_tokenizers_slice(bytes)
            .map_err(|error| format!("not a tokenizer.json that can be used: {error}"))?;
        Self::new(definition, name)
    }

    fn from_ranks(bytes: &[u8], name: &str) -> std::result::Result<Self, String> {
        let mut definition = Definition::from_tiktoken_slice(bytes)
            .map_err(|error| format!("not a tiktoken rank file that can be used: {error}"))?;
        if definition.model.vocab().len() < FIRST_CL100K_SIZE {
            // kitoken's own pattern for these lets any white space lead a word, where GPT-2 lets only the space.
            let pattern = Regex::new(GPT2_PATTERN).map_err(|error| error.to_string())?;
            definition.config.split =
                vec![Split::Pattern { pattern: pattern.into(), behavior: SplitBehavior::Isolate }];
            // It adds GPT-2's special whatever the ranks: it belongs behind the last of them, or in a gap.
            let last = definition.model.vocab().iter().map(|token| token.id).max().unwrap_or(0);
            let is_rank = |id| definition.model.vocab().iter().any(|token| token.id == id);
            let belongs = |special: &&SpecialToken| {
                special.bytes == b"<|endoftext|>" && special.id <= last + 1 && !is_rank(special.id)
            };
            definition.specials = definition.specials.iter().filter(belongs).cloned().collect();
        }
        Self::new(definition, name)
    }

    #[cfg(feature = "sentencepiece")]
    fn from_sentencepiece(bytes: &[u8], name: &str) -> std::result::Result<Self, String> {
        let definition = Definition::from_sentencepiece_slice(bytes)
            .map_err(|error| format!("not a tokenizer.json, rank file or SentencePiece model: {error}"))?;
        Self::new(definition, name)
    }

    #[cfg(not(feature = "sentencepiece"))]
    fn from_sentencepiece(_: &[u8], _: &str) -> std::result::Result<Self, String> {
        Err("neither a tokenizer.json nor a tiktoken rank file; for SentencePiece models, build with \
             --features sentencepiece"
            .into())
    }

    fn new(mut definition: Definition, name: &str) -> std::result::Result<Self, String> {
        // SentencePiece numbers a special token that a model does not have -1.
        definition.specials.retain(|special| special.id != u32::MAX);
        let vocab = definition.model.vocab();
        let ids =
            vocab.iter().map(|token| token.id).chain(definition.specials.iter().map(|special| special.id));
        let largest_id = ids.max().ok_or("the vocabulary is empty")?;
        let marked = definition.specials.iter().find(|special| special.ident.as_deref() == Some("eos"));
        let named = || {
            END_OF_TEXT.iter().find_map(|name| {
                definition
                    .specials
                    .iter()
                    .find(|special| special.bytes == name.as_bytes())
                    .map(|special| special.id)
            })
        };
        let end_of_text = marked.map(|special| special.id).or_else(named);
        let inner = Kitoken::from_definition(definition).map_err(|error| error.to_string())?;
        Ok(Tokenizer { inner, name: name.to_owned(), largest_id, end_of_text })
    }

    /// Where it comes from: a file, or `GPT-2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One more than the largest id it knows.
    pub fn num_ids(&self) -> usize {
        self.largest_id as usize + 1
    }

    /// The id that ends a text, where it has one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.end_of_text
    }

    /// The ids below `vocab_size` that it cannot decode: to be masked when sampling.
    pub fn undecodable(&self, vocab_size: usize) -> Vec<u32> {
        (0..vocab_size as u32).filter(|&id| self.inner.decode([id], true).is_err()).collect()
    }

    /// The ids of a text. Nothing is added before or after it.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for text that the vocabulary cannot express.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        let parse = specials == Specials::Parse;
        self.inner.encode(text, parse).or_else(|error| fail(format!("{}: {error}", self.name)))
    }

    /// The text of ids; special tokens are left out, and bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an id it does not know.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.decode_bytes(ids)?).into_owned())
    }

    /// The bytes of ids; special tokens are left out.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an id it does not know.
    pub fn decode_bytes(&self, ids: &[u32]) -> Result<Vec<u8>> {
        self.inner.decode(ids, false).or_else(|error| fail(format!("{}: {error}", self.name)))
    }

    /// One token as people may see it in a table: special tokens by name, bytes that are not UTF-8 as U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        match self.inner.decode([id], true) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => format!("<{id}>"),
        }
    }

    /// Decodes ids as they come, as the continuation of `prompt`.
    pub fn stream(&self, prompt: &[u32]) -> DecodeStream<'_> {
        // A few are enough to be behind something; special tokens among them have no text.
        let ids = prompt[prompt.len().saturating_sub(8)..].to_vec();
        DecodeStream { tokenizer: self, emitted: ids.len(), ids }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("name", &self.name)
            .field("num_ids", &self.num_ids())
            .finish_non_exhaustive()
    }
}

/// Text that arrives id by id: whole characters come out as soon as they are complete.
///
/// Some vocabularies change the first token of a text (they drop its leading space), so a token is decoded behind
/// those before it, and what they gave alone is cut off.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last ids whose text was given out, then those whose text was not.
    ids: Vec<u32>,
    /// How many of `ids` were given out.
    emitted: usize,
}

impl DecodeStream<'_> {
    /// Takes the next id; returns the text that is complete now, often one word, sometimes none.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for an id the tokenizer does not know.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let (text, complete) = self.pending()?;
        if !complete {
            return Ok(String::new());
        }
        self.ids.drain(..self.emitted);
        self.emitted = self.ids.len();
        Ok(text)
    }

    /// What is left at the end: an incomplete character becomes U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], never for ids that [`DecodeStream::push`] took.
    pub fn finish(self) -> Result<String> {
        Ok(self.pending()?.0)
    }

    /// The text not given out yet, and whether more bytes could not change it.
    fn pending(&self) -> Result<(String, bool)> {
        let before = self.tokenizer.decode_bytes(&self.ids[..self.emitted])?.len();
        let all = self.tokenizer.decode_bytes(&self.ids)?;
        let bytes = all.get(before..).unwrap_or_default();
        let incomplete = bytes.utf8_chunks().last().is_some_and(|chunk| {
            // Only a cut at the very end can still become a character.
            !chunk.invalid().is_empty() && is_cut_character(chunk.invalid())
        });
        Ok((String::from_utf8_lossy(bytes).into_owned(), !incomplete))
    }
}

/// Whether `bytes`, which are not UTF-8, are the beginning of a character.
fn is_cut_character(bytes: &[u8]) -> bool {
    matches!(std::str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}

/// What a tokenizer's file is.
enum Format {
    Json,
    Ranks,
    SentencePiece,
}

impl Format {
    fn of(bytes: &[u8]) -> Self {
        let first_line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let is_rank = |line: &[u8]| {
            let mut words = line.trim_ascii().split(|&byte| byte == b' ');
            let base64 = |word: &[u8]| {
                !word.is_empty()
                    && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
            };
            words.next().is_some_and(base64)
                && words.next().is_some_and(|rank| !rank.is_empty() && rank.iter().all(u8::is_ascii_digit))
                && words.next().is_none()
        };
        if bytes.trim_ascii_start().first() == Some(&b'{') {
            Format::Json
        } else if is_rank(first_line) {
            Format::Ranks
        } else {
            Format::SentencePiece
        }
    }
}

fn fail<T>(message: String) -> Result<T> {
    Err(Error::Tokenizer(message))
}
