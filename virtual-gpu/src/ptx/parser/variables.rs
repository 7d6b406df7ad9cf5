//! Declarations of variables and their initial values.

use super::Parser;
use crate::ptx::LoadError;
use crate::ptx::ast::*;
use crate::ptx::lexer::Token;

/// Larger variables are refused, so that hostile text cannot exhaust memory.
const MAX_VARIABLE_BYTES: u64 = 1 << 30;

impl<'a> Parser<'a> {
    pub(super) fn parameters(&mut self) -> Result<Vec<Variable<'a>>, LoadError> {
        self.expect(b'(')?;
        let mut all = Vec::new();
        if self.accept(b')') {
            return Ok(all);
        }
        loop {
            all.push(self.variable()?);
            if self.accept(b')') {
                return Ok(all);
            }
            self.expect(b',')?;
        }
    }

    pub(super) fn variables(&mut self) -> Result<Vec<Variable<'a>>, LoadError> {
        let first = self.variable()?;
        let mut all = vec![first];
        while self.accept(b',') {
            let position = self.position();
            let name = self.word()?;
            let mut another = all[0].clone();
            (another.name, another.position) = (name, position);
            another.bytes = Some(u64::from(another.ty.bytes()));
            another.initial.clear();
            self.variable_rest(&mut another)?;
            all.push(another);
        }
        Ok(all)
    }

    /// `.space .align N .type name[dims] = initial`, also with `.ptr .space .align N` of parameters.
    pub(super) fn variable(&mut self) -> Result<Variable<'a>, LoadError> {
        let position = self.position();
        let mut variable = Variable {
            space: Space::Param,
            name: "",
            ty: Type::B8,
            align: 0,
            bytes: None,
            initial: Vec::new(),
            position,
        };
        let (mut vector, mut typed, mut pointer) = (1, false, false);
        while let Token::Word(word) = self.peek() {
            let Some(modifier) = word.strip_prefix('.') else { break };
            self.at += 1;
            match modifier {
                "global" if !pointer => variable.space = Space::Global,
                "const" if !pointer => variable.space = Space::Const,
                "shared" if !pointer => variable.space = Space::Shared,
                "local" if !pointer => variable.space = Space::Local,
                "param" | "reg" => variable.space = Space::Param,
                "align" => {
                    let align = self.integer()?;
                    if !align.is_power_of_two() || align > 65536 {
                        return self.error(format!("alignment {align} is no power of two"));
                    }
                    if !pointer {
                        variable.align = align as u32;
                    }
                }
                "ptr" => pointer = true,
                "global" | "const" | "shared" | "local" | "managed" | "attribute" | "unified" => {
                    if modifier == "attribute" {
                        while !self.accept(b')') {
                            if self.next() == Token::End {
                                return self.error("expected `)`");
                            }
                        }
                    }
                }
                "v2" => vector = 2,
                "v4" => vector = 4,
                _ => {
                    let Some(ty) = Type::parse(modifier) else {
                        self.at -= 1;
                        return self.error(format!("unknown type or modifier `{word}`"));
                    };
                    variable.ty = ty;
                    typed = true;
                }
            }
        }
        if !typed {
            return self.error("expected a type");
        }
        variable.name = self.word()?;
        variable.bytes = Some(u64::from(variable.ty.bytes()) * vector);
        if variable.align == 0 {
            variable.align = variable.ty.bytes() * vector as u32;
        }
        self.variable_rest(&mut variable)?;
        Ok(variable)
    }

    pub(super) fn variable_rest(&mut self, variable: &mut Variable<'a>) -> Result<(), LoadError> {
        while self.accept(b'[') {
            if self.accept(b']') {
                variable.bytes = None;
                continue;
            }
            let count = self.integer()?;
            variable.bytes = match variable.bytes.and_then(|bytes| bytes.checked_mul(count)) {
                Some(bytes) if bytes <= MAX_VARIABLE_BYTES => Some(bytes),
                Some(_) => return self.error("variable is too large"),
                None => None,
            };
            self.expect(b']')?;
        }
        if self.accept(b'=') {
            self.initial(variable, 0)?;
            if variable.bytes.is_none() {
                variable.bytes = Some(variable.initial.len() as u64 * u64::from(variable.ty.bytes()));
            }
        }
        Ok(())
    }

    pub(super) fn initial(&mut self, variable: &mut Variable<'a>, depth: u32) -> Result<(), LoadError> {
        if self.accept(b'{') {
            if depth > 8 {
                return self.error("initialiser nested too deeply");
            }
            while !self.accept(b'}') {
                self.initial(variable, depth + 1)?;
                if !self.accept(b',') {
                    self.expect(b'}')?;
                    break;
                }
            }
            return Ok(());
        }
        let value = match self.peek() {
            Token::Word("generic") => {
                self.at += 1;
                self.expect(b'(')?;
                let name = self.word()?;
                self.expect(b')')?;
                Initial::AddressOf(name, self.added_constant()?)
            }
            Token::Word(name) => {
                self.at += 1;
                // `0xFF(name)` masks of function addresses are not part of what nvcc emits by default.
                Initial::AddressOf(name, self.added_constant()?)
            }
            Token::Float32(bits) => {
                self.at += 1;
                Initial::Value(u64::from(bits))
            }
            Token::Float64(bits) => {
                self.at += 1;
                let narrow = variable.ty == Type::F32;
                Initial::Value(if narrow { u64::from((f64::from_bits(bits) as f32).to_bits()) } else { bits })
            }
            _ => Initial::Value(self.signed_integer()? as u64),
        };
        variable.initial.push(value);
        Ok(())
    }
}
