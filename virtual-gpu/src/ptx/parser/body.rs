//! Bodies of functions: declarations, labels, instructions and their operands.

use super::Parser;
use crate::ptx::LoadError;
use crate::ptx::ast::*;
use crate::ptx::lexer::Token;

impl<'a> Parser<'a> {
    pub(super) fn body(&mut self) -> Result<Vec<Statement<'a>>, LoadError> {
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

    pub(super) fn after_label(&mut self, label: &'a str) -> Result<Statement<'a>, LoadError> {
        if self.accept_word(".branchtargets") {
            return Ok(Statement::BranchTargets(label, self.names()?));
        }
        if self.accept_word(".calltargets") {
            return Ok(Statement::CallTargets(label, self.names()?));
        }
        if self.accept_word(".callprototype") {
            let returns = if self.peek() == Token::Symbol(b'(') { self.parameters()? } else { Vec::new() };
            self.word()?;
            let parameters = if self.peek() == Token::Symbol(b'(') { self.parameters()? } else { Vec::new() };
            while matches!(self.peek(), Token::Word(word) if word.starts_with('.')) {
                self.at += 1;
            }
            self.expect(b';')?;
            return Ok(Statement::CallPrototype(label, returns, parameters));
        }
        Ok(Statement::Label(label))
    }

    /// `a, b;`
    fn names(&mut self) -> Result<Vec<&'a str>, LoadError> {
        let mut names = vec![self.word()?];
        while self.accept(b',') {
            names.push(self.word()?);
        }
        self.expect(b';')?;
        Ok(names)
    }

    pub(super) fn registers(&mut self) -> Result<Statement<'a>, LoadError> {
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

    pub(super) fn location(&mut self) -> Result<Statement<'a>, LoadError> {
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

    pub(super) fn instruction(&mut self) -> Result<Instruction<'a>, LoadError> {
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

    pub(super) fn operand(&mut self) -> Result<Operand<'a>, LoadError> {
        let first = self.simple_operand()?;
        if self.accept(b'|') {
            let second = self.simple_operand()?;
            return Ok(Operand::Pair(Box::new(first), Box::new(second)));
        }
        Ok(first)
    }

    pub(super) fn simple_operand(&mut self) -> Result<Operand<'a>, LoadError> {
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

    pub(super) fn simple_list(&mut self, close: u8) -> Result<Vec<Operand<'a>>, LoadError> {
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

    pub(super) fn address(&mut self) -> Result<Operand<'a>, LoadError> {
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
