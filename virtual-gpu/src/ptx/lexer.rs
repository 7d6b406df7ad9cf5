//! Splits PTX text into tokens. Opcodes with their modifiers (`ld.global.v4.f32`,
//! `cp.async.bulk.shared::cluster`) and dotted registers (`%tid.x`) are one word each.

use super::{LoadError, Position};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Token<'a> {
    Word(&'a str),
    Integer(u64),
    Float32(u32),
    Float64(u64),
    Text(&'a str),
    Symbol(u8),
    End,
}

pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    line_start: usize,
}

fn word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

fn word_rest(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%' | b'.')
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { text, at: 0, line: 1, line_start: 0 }
    }

    pub fn tokens(mut self) -> Result<Vec<(Token<'a>, Position)>, LoadError> {
        // Compiled text has a token in about four bytes.
        let mut tokens = Vec::with_capacity(self.text.len() / 4 + 1);
        loop {
            self.skip_blank()?;
            let position = self.position();
            let token = self.next(position)?;
            tokens.push((token, position));
            if token == Token::End {
                return Ok(tokens);
            }
        }
    }

    fn position(&self) -> Position {
        Position { line: self.line, column: (self.at - self.line_start + 1) as u32 }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blank(&mut self) -> Result<(), LoadError> {
        let bytes = self.text.as_bytes();
        while let Some(&c) = bytes.get(self.at) {
            match c {
                b'\n' => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                }
                // A NUL ends a C string handed over with its terminator.
                b' ' | b'\t' | b'\r' | 0 => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    while self.at < bytes.len() && bytes[self.at] != b'\n' {
                        self.at += 1;
                    }
                }
                b'/' if self.peek(1) == b'*' => {
                    let start = self.position();
                    self.at += 2;
                    while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
                        if self.at >= bytes.len() {
                            return Err(LoadError::new(start, "comment without end"));
                        }
                        if bytes[self.at] == b'\n' {
                            self.line += 1;
                            self.line_start = self.at + 1;
                        }
                        self.at += 1;
                    }
                    self.at += 2;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn next(&mut self, position: Position) -> Result<Token<'a>, LoadError> {
        let start = self.at;
        let c = self.peek(0);
        if start >= self.text.len() {
            return Ok(Token::End);
        }
        if word_start(c) {
            loop {
                // `.reg.b16` is two directives.
                if c == b'.' && self.peek(0) == b'.' && self.at > start {
                    break;
                }
                if word_rest(self.peek(0)) {
                    self.at += 1;
                } else if self.peek(0) == b':' && self.peek(1) == b':' && word_rest(self.peek(2)) {
                    self.at += 2;
                } else {
                    break;
                }
            }
            return Ok(Token::Word(&self.text[start..self.at]));
        }
        if c.is_ascii_digit() {
            return self.number(position);
        }
        if c == b'"' {
            let Some(length) = self.text[start + 1..].find('"') else {
                return Err(LoadError::new(position, "string without end"));
            };
            self.at += length + 2;
            return Ok(Token::Text(&self.text[start + 1..start + 1 + length]));
        }
        if b"{}()[]<>,;:=+-!|@~*&^?/".contains(&c) {
            self.at += 1;
            return Ok(Token::Symbol(c));
        }
        let shown = self.text[start..].chars().next().unwrap_or(' ');
        Err(LoadError::new(position, format!("unexpected character `{}`", shown.escape_default())))
    }

    fn number(&mut self, position: Position) -> Result<Token<'a>, LoadError> {
        let start = self.at;
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == b'.' {
            let exponent = matches!(self.peek(0), b'e' | b'E') && matches!(self.peek(1), b'+' | b'-');
            self.at += if exponent && !self.text[start..self.at].starts_with("0x") { 2 } else { 1 };
        }
        let word = &self.text[start..self.at];
        let bad = || LoadError::new(position, format!("bad number `{word}`"));
        let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| bad());
        let digits = word.trim_end_matches('U');
        if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            return Ok(Token::Integer(hexadecimal(hex)?));
        }
        if let Some(hex) = word.strip_prefix("0f").or_else(|| word.strip_prefix("0F")) {
            let bits = hexadecimal(hex)?;
            return if hex.len() == 8 { Ok(Token::Float32(bits as u32)) } else { Err(bad()) };
        }
        if let Some(hex) = word.strip_prefix("0d").or_else(|| word.strip_prefix("0D")) {
            let bits = hexadecimal(hex)?;
            return if hex.len() == 16 { Ok(Token::Float64(bits)) } else { Err(bad()) };
        }
        if let Some(binary) = digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")) {
            return u64::from_str_radix(binary, 2).map(Token::Integer).map_err(|_| bad());
        }
        if word.contains(['.', 'e', 'E']) {
            return word.parse::<f64>().map(|x| Token::Float64(x.to_bits())).map_err(|_| bad());
        }
        if digits.len() > 1 && digits.starts_with('0') {
            return u64::from_str_radix(digits, 8).map(Token::Integer).map_err(|_| bad());
        }
        digits.parse::<u64>().map(Token::Integer).map_err(|_| bad())
    }
}
