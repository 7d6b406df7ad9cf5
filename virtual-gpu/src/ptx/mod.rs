//! The text of PTX: tokens, syntax tree, parser.

pub(crate) mod ast;
mod lexer;
mod parser;

pub(crate) use parser::parse;

/// A place in the PTX text, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Line of the PTX text.
    pub line: u32,
    /// Column, in bytes.
    pub column: u32,
}

/// What is wrong with a PTX text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// Where in the PTX text; line 0 where it is the module as a whole.
    pub position: Position,
    /// What is wrong, with the offending word.
    pub message: String,
}

impl LoadError {
    pub(crate) fn new(position: Position, message: impl Into<String>) -> Self {
        Self { position, message: message.into() }
    }
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.position.line == 0 {
            // The module as a whole.
            return write!(f, "{}", self.message);
        }
        write!(f, "PTX line {}, column {}: {}", self.position.line, self.position.column, self.message)
    }
}

impl std::error::Error for LoadError {}
