//! Recursive-descent parser from tokens to the syntax tree.

mod body;
mod variables;

use super::ast::*;
use super::lexer::{Lexer, Token};
use super::{LoadError, Position};
use std::collections::HashMap;

/// Parses one PTX module. Never panics; the first mistake is returned with its line and column.
pub fn parse(text: &str) -> Result<Module<'_>, LoadError> {
    let tokens = Lexer::new(text).tokens()?;
    let mut parser = Parser { tokens, at: 0, module: Module::default() };
    parser.module()?;
    Ok(parser.module)
}

struct Parser<'a> {
    tokens: Vec<(Token<'a>, Position)>,
    at: usize,
    module: Module<'a>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn peek_at(&self, ahead: usize) -> Token<'a> {
        self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].0
    }

    fn position(&self) -> Position {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, LoadError> {
        Err(LoadError::new(self.position(), message))
    }

    fn describe(token: Token<'_>) -> String {
        match token {
            Token::Word(word) => format!("`{word}`"),
            Token::Integer(value) => format!("`{value}`"),
            Token::Float32(_) | Token::Float64(_) => "a floating-point number".into(),
            Token::Text(text) => format!("\"{text}\""),
            Token::Symbol(symbol) => format!("`{}`", symbol as char),
            Token::End => "the end of the text".into(),
        }
    }

    fn accept(&mut self, symbol: u8) -> bool {
        let found = self.peek() == Token::Symbol(symbol);
        self.at += usize::from(found);
        found
    }

    fn accept_word(&mut self, word: &str) -> bool {
        let found = self.peek() == Token::Word(word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: u8) -> Result<(), LoadError> {
        if self.accept(symbol) {
            return Ok(());
        }
        self.error(format!("expected `{}`, got {}", symbol as char, Self::describe(self.peek())))
    }

    fn word(&mut self) -> Result<&'a str, LoadError> {
        match self.peek() {
            Token::Word(word) => {
                self.at += 1;
                Ok(word)
            }
            other => self.error(format!("expected a name, got {}", Self::describe(other))),
        }
    }

    fn integer(&mut self) -> Result<u64, LoadError> {
        match self.peek() {
            Token::Integer(value) => {
                self.at += 1;
                Ok(value)
            }
            other => self.error(format!("expected an integer, got {}", Self::describe(other))),
        }
    }

    fn signed_integer(&mut self) -> Result<i64, LoadError> {
        let negative = self.accept(b'-');
        let value = self.integer()? as i64;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn module(&mut self) -> Result<(), LoadError> {
        loop {
            match self.peek() {
                Token::End => return Ok(()),
                Token::Word(".version") => {
                    self.at += 1;
                    self.module.version = match self.next() {
                        Token::Float64(bits) => {
                            let tenths = (f64::from_bits(bits) * 10.0).round() as u32;
                            (tenths / 10, tenths % 10)
                        }
                        Token::Integer(major) => (major as u32, 0),
                        _ => return self.error("expected a version number"),
                    };
                }
                Token::Word(".target") => {
                    self.at += 1;
                    self.module.target = self.word()?;
                    while self.accept(b',') {
                        self.word()?;
                    }
                }
                Token::Word(".address_size") => {
                    self.at += 1;
                    if self.integer()? != 64 {
                        return self.error("only .address_size 64 is supported");
                    }
                }
                Token::Word(".file") => {
                    self.at += 1;
                    let index = self.integer()? as u32;
                    let Token::Text(name) = self.next() else {
                        return self.error("expected a file name");
                    };
                    while self.accept(b',') {
                        self.integer()?;
                    }
                    self.module.files.insert(index, name);
                }
                Token::Word(".section") => self.section()?,
                Token::Word(".alias") => {
                    while !self.accept(b';') {
                        if self.next() == Token::End {
                            return self.error("expected `;`");
                        }
                    }
                }
                Token::Word(".pragma") => self.pragma()?,
                Token::Symbol(b';') => self.at += 1,
                Token::Word(word) if word.starts_with('.') => self.declaration()?,
                other => return self.error(format!("expected a directive, got {}", Self::describe(other))),
            }
        }
    }

    fn pragma(&mut self) -> Result<(), LoadError> {
        self.at += 1;
        loop {
            match self.next() {
                Token::Text(_) | Token::Symbol(b',') => {}
                Token::Symbol(b';') => return Ok(()),
                _ => return self.error("expected a string after .pragma"),
            }
        }
    }

    /// `.section .debug_str { label: .b8 …}`: gathers the strings; other sections are skipped.
    fn section(&mut self) -> Result<(), LoadError> {
        self.at += 1;
        let strings = self.word()? == ".debug_str";
        self.expect(b'{')?;
        let mut label = "";
        let mut bytes: Vec<u8> = Vec::new();
        let mut found = HashMap::new();
        loop {
            match self.next() {
                Token::Symbol(b'}') => break,
                Token::End => return self.error("section without end"),
                Token::Word(word) if self.peek() == Token::Symbol(b':') => {
                    if !label.is_empty() {
                        found.insert(label, std::mem::take(&mut bytes));
                    }
                    label = word;
                }
                Token::Integer(value) if strings => bytes.push(value as u8),
                _ => {}
            }
        }
        if strings {
            found.insert(label, bytes);
            for (label, bytes) in found {
                let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
                let name = String::from_utf8_lossy(text);
                self.module.strings.insert(label, crate::findings::demangled(&name));
            }
        }
        Ok(())
    }

    /// A variable or function at module level.
    fn declaration(&mut self) -> Result<(), LoadError> {
        loop {
            match self.peek() {
                Token::Word(".visible" | ".weak" | ".common" | ".extern") => self.at += 1,
                Token::Word(".entry") => {
                    self.at += 1;
                    return self.function(true);
                }
                Token::Word(".func") => {
                    self.at += 1;
                    return self.function(false);
                }
                Token::Word(".global" | ".const" | ".shared") => {
                    let mut variables = self.variables()?;
                    self.module.variables.append(&mut variables);
                    return self.expect(b';');
                }
                other => return self.error(format!("unknown directive {}", Self::describe(other))),
            }
        }
    }

    fn function(&mut self, entry: bool) -> Result<(), LoadError> {
        let returns = if self.peek() == Token::Symbol(b'(') { self.parameters()? } else { Vec::new() };
        let position = self.position();
        let name = self.word()?;
        let parameters = if self.peek() == Token::Symbol(b'(') { self.parameters()? } else { Vec::new() };
        let mut directives = Vec::new();
        while let Token::Word(word) = self.peek() {
            let Some(directive) = word.strip_prefix('.') else { break };
            self.at += 1;
            if directive == "pragma" {
                self.at -= 1;
                self.pragma()?;
                continue;
            }
            let mut values = Vec::new();
            while let Token::Integer(value) = self.peek() {
                self.at += 1;
                values.push(value as u32);
                if !self.accept(b',') {
                    break;
                }
            }
            directives.push((directive, values));
        }
        let body = if self.accept(b';') { None } else { Some(self.body()?) };
        self.module.functions.push(Function { name, entry, returns, parameters, body, directives, position });
        Ok(())
    }

    fn added_constant(&mut self) -> Result<i64, LoadError> {
        if self.accept(b'+') {
            return self.signed_integer();
        }
        if self.accept(b'-') {
            return Ok((self.integer()? as i64).wrapping_neg());
        }
        Ok(0)
    }
}
