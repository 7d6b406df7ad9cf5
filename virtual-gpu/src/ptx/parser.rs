//! Recursive-descent parser from tokens to the syntax tree.

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

/// Larger variables are refused, so that hostile text cannot exhaust memory.
const MAX_VARIABLE_BYTES: u64 = 1 << 30;

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
                self.module.strings.insert(label, String::from_utf8_lossy(text).into_owned());
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

    fn parameters(&mut self) -> Result<Vec<Variable<'a>>, LoadError> {
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

    fn variables(&mut self) -> Result<Vec<Variable<'a>>, LoadError> {
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
    fn variable(&mut self) -> Result<Variable<'a>, LoadError> {
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

    fn variable_rest(&mut self, variable: &mut Variable<'a>) -> Result<(), LoadError> {
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

    fn initial(&mut self, variable: &mut Variable<'a>, depth: u32) -> Result<(), LoadError> {
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

    fn added_constant(&mut self) -> Result<i64, LoadError> {
        if self.accept(b'+') {
            return self.signed_integer();
        }
        if self.accept(b'-') {
            return Ok((self.integer()? as i64).wrapping_neg());
        }
        Ok(0)
    }

    fn body(&mut self) -> Result<Vec<Statement<'a>>, LoadError> {
        self.expect(b'{')?;
        let mut statements = Vec::new();
        let mut depth = 0;
        loop {
            match self.peek() {
                Token::Symbol(b'{') => {
                    self.at += 1;
                    depth += 1;
                    statements.push(Statement::Open);
                }
                Token::Symbol(b'}') => {
                    self.at += 1;
                    if depth == 0 {
                        return Ok(statements);
                    }
                    depth -= 1;
                    statements.push(Statement::Close);
                }
                Token::Symbol(b';') => self.at += 1,
                Token::Word(".reg") => statements.push(self.registers()?),
                Token::Word(".loc") => statements.push(self.location()?),
                Token::Word(".pragma") => self.pragma()?,
                Token::Word(".local" | ".shared" | ".param" | ".global" | ".const") => {
                    let variables = self.variables()?;
                    self.expect(b';')?;
                    statements.extend(variables.into_iter().map(Statement::Variable));
                }
                Token::Word(word) if self.peek_at(1) == Token::Symbol(b':') => {
                    self.at += 2;
                    statements.push(self.after_label(word)?);
                }
                Token::Word(_) | Token::Symbol(b'@') => {
                    let instruction = self.instruction()?;
                    statements.push(Statement::Instruction(instruction));
                }
                other => {
                    return self.error(format!("expected an instruction, got {}", Self::describe(other)));
                }
            }
        }
    }

    fn after_label(&mut self, label: &'a str) -> Result<Statement<'a>, LoadError> {
        if self.accept_word(".branchtargets") {
            let mut targets = vec![self.word()?];
            while self.accept(b',') {
                targets.push(self.word()?);
            }
            self.expect(b';')?;
            return Ok(Statement::BranchTargets(label, targets));
        }
        if matches!(self.peek(), Token::Word(".callprototype" | ".calltargets")) {
            return self.error("indirect calls are not supported");
        }
        Ok(Statement::Label(label))
    }

    fn registers(&mut self) -> Result<Statement<'a>, LoadError> {
        self.at += 1;
        let word = self.word()?;
        let Some(ty) = word.strip_prefix('.').and_then(Type::parse) else {
            return self.error(format!("unknown register type `{word}`"));
        };
        let mut names = Vec::new();
        loop {
            let name = self.word()?;
            let mut count = None;
            if self.accept(b'<') {
                count = Some(self.integer()?.min(1 << 24) as u32);
                self.expect(b'>')?;
            }
            names.push((name, count));
            if !self.accept(b',') {
                break;
            }
        }
        self.expect(b';')?;
        Ok(Statement::Registers { ty, names })
    }

    fn location(&mut self) -> Result<Statement<'a>, LoadError> {
        self.at += 1;
        let (file, line, column) = (self.integer()? as u32, self.integer()? as u32, self.integer()? as u32);
        let mut inlined = None;
        if self.accept(b',') {
            if !self.accept_word("function_name") {
                return self.error("expected function_name");
            }
            let name = self.word()?;
            self.added_constant()?;
            self.expect(b',')?;
            if !self.accept_word("inlined_at") {
                return self.error("expected inlined_at");
            }
            inlined = Some((name, self.integer()? as u32, self.integer()? as u32, self.integer()? as u32));
        }
        Ok(Statement::Location(Location { file, line, column, inlined }))
    }

    fn instruction(&mut self) -> Result<Instruction<'a>, LoadError> {
        let mut guard = None;
        if self.accept(b'@') {
            let negated = self.accept(b'!');
            guard = Some((self.word()?, negated));
        }
        let position = self.position();
        let opcode = self.word()?;
        let mut operands = Vec::new();
        if !self.accept(b';') {
            loop {
                operands.push(self.operand()?);
                if self.accept(b';') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        Ok(Instruction { guard, opcode, operands, position })
    }

    fn operand(&mut self) -> Result<Operand<'a>, LoadError> {
        let first = self.simple_operand()?;
        if self.accept(b'|') {
            let second = self.simple_operand()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    fn simple_operand(&mut self) -> Result<Operand<'a>, LoadError> {
        match self.next() {
            Token::Word(name) => Ok(Operand::Name(name, self.added_constant()?)),
            Token::Integer(value) => Ok(Operand::Integer(value)),
            Token::Float32(bits) => Ok(Operand::Float32(bits)),
            Token::Float64(bits) => Ok(Operand::Float64(bits)),
            Token::Symbol(b'-') => match self.next() {
                Token::Integer(value) => Ok(Operand::Integer(value.wrapping_neg())),
                Token::Float32(bits) => Ok(Operand::Float32(bits ^ 1 << 31)),
                Token::Float64(bits) => Ok(Operand::Float64(bits ^ 1 << 63)),
                other => self.error(format!("expected a number, got {}", Self::describe(other))),
            },
            Token::Symbol(b'!') => Ok(Operand::Not(self.word()?)),
            Token::Symbol(b'{') => Ok(Operand::Vector(self.simple_list(b'}')?)),
            Token::Symbol(b'(') => Ok(Operand::List(self.simple_list(b')')?)),
            Token::Symbol(b'[') => self.address(),
            other => {
                self.at -= 1;
                self.error(format!("expected an operand, got {}", Self::describe(other)))
            }
        }
    }

    fn simple_list(&mut self, close: u8) -> Result<Vec<Operand<'a>>, LoadError> {
        let mut all = Vec::new();
        while !self.accept(close) {
            let item = match self.next() {
                Token::Word(name) => Operand::Name(name, self.added_constant()?),
                Token::Integer(value) => Operand::Integer(value),
                Token::Float32(bits) => Operand::Float32(bits),
                Token::Float64(bits) => Operand::Float64(bits),
                Token::Symbol(b'-') => Operand::Integer(self.integer()?.wrapping_neg()),
                other => {
                    self.at -= 1;
                    return self.error(format!("expected an operand, got {}", Self::describe(other)));
                }
            };
            all.push(item);
            if !self.accept(b',') {
                self.expect(close)?;
                break;
            }
        }
        Ok(all)
    }

    fn address(&mut self) -> Result<Operand<'a>, LoadError> {
        let mut base = None;
        let mut offset = 0;
        match self.peek() {
            Token::Word(name) => {
                self.at += 1;
                base = Some(name);
                // `name+8+-4`: nvcc writes a negative offset as `+-4`.
                while matches!(self.peek(), Token::Symbol(b'+' | b'-')) {
                    offset = i64::wrapping_add(offset, self.added_constant()?);
                }
            }
            _ => offset = self.signed_integer()?,
        }
        let mut coordinates = Vec::new();
        if self.accept(b',') {
            self.expect(b'{')?;
            coordinates = self.simple_list(b'}')?;
        }
        self.expect(b']')?;
        Ok(Operand::Address { base, offset, coordinates })
    }
}
