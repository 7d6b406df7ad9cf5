//! Kernels and functions: directives, variables, blocks, labels, calls.

use super::call;
use super::places::Chain;
use super::program::*;
use super::{CallSite, Decoder, Name, Result};
use crate::hash::{FastMap, FastSet};
use crate::memory::SHARED_BASE;
use crate::ptx::ast::*;
use crate::ptx::{LoadError, Position};

/// A label in a block of the function being decoded.
pub(super) struct Fixup {
    pub(super) at: usize,
    pub(super) block: usize,
    pub(super) label: String,
    pub(super) position: Position,
}

impl<'a> Decoder<'_, 'a> {
    pub(super) fn kernel(&mut self, entry: &Function<'a>) -> Result<()> {
        self.program.name = entry.name.to_string();
        let digits: String = self.module.target.chars().filter(char::is_ascii_digit).collect();
        self.program.architecture = digits.parse().unwrap_or(0);
        self.directives(entry)?;
        self.layout_shared(entry)?;
        self.function(entry)?;
        let entry_frame = self.frame_bytes;
        while let Some(name) = self.queue.pop() {
            let Some(function) = self.module.functions.iter().find(|f| f.name == name && f.body.is_some())
            else {
                return self.error(format!("call of `{name}`, which has no body in this module"));
            };
            self.in_entry = false;
            self.function(function)?;
        }
        self.program.frame_bytes = entry_frame;
        self.finish_calls()
    }

    pub(super) fn directives(&mut self, entry: &Function<'a>) -> Result<()> {
        self.position = entry.position;
        let triple = |v: &[u32]| [0, 1, 2].map(|i| v.get(i).copied().unwrap_or(1).max(1));
        for (directive, values) in &entry.directives {
            let first = values.first().copied();
            match *directive {
                "maxntid" => self.program.max_threads = Some(triple(values)),
                "reqntid" => {
                    self.program.required_threads = Some(triple(values));
                    self.program.max_threads = Some(triple(values));
                }
                "minnctapersm" => self.program.min_ctas = first.unwrap_or(0),
                "maxnreg" => self.program.max_registers = first,
                "reqnctapercluster" => self.program.required_cluster = Some(triple(values)),
                "explicitcluster" => self.program.explicit_cluster = true,
                "maxclusterrank" => self.program.max_cluster_rank = first,
                "maxnctapersm" | "noreturn" | "abi_preserve" | "abi_preserve_control" => {}
                other => return self.error(format!("unknown directive `.{other}`")),
            }
        }
        Ok(())
    }

    /// Lays out the shared variables that the kernel or the functions it calls name, static ones first.
    pub(super) fn layout_shared(&mut self, entry: &Function<'a>) -> Result<()> {
        let module = self.module;
        let find = |name: &str| module.functions.iter().find(|f| f.name == name && f.body.is_some());
        let mut seen = FastSet::default();
        let mut names = FastSet::default();
        let mut own: Vec<&Variable<'a>> = Vec::new();
        let mut pending = vec![entry.name];
        while let Some(name) = pending.pop() {
            if !seen.insert(name) {
                continue;
            }
            for statement in find(name).and_then(|f| f.body.as_ref()).into_iter().flatten() {
                match statement {
                    Statement::Variable(v) if v.space == Space::Shared => own.push(v),
                    Statement::Instruction(i) => {
                        i.operands.iter().for_each(|operand| collect_names(operand, &mut names));
                        if call::is_indirect(i) {
                            pending.extend(self.address_taken());
                        } else if call::is_call(i) {
                            pending.extend(i.operands.iter().filter_map(|operand| match operand {
                                Operand::Name(name, _) => Some(*name),
                                _ => None,
                            }));
                        }
                    }
                    _ => {}
                }
            }
        }
        let of_module =
            module.variables.iter().filter(|v| v.space == Space::Shared && names.contains(v.name));
        let all: Vec<&Variable<'a>> = of_module.chain(own).collect();
        let mut at: u64 = 0;
        for v in all.iter().filter(|v| v.bytes.is_some()) {
            at = at.next_multiple_of(u64::from(v.align));
            self.shared.insert(v.name, SHARED_BASE + at as u32);
            at += v.bytes.unwrap_or(0);
            if at > 1 << 24 {
                return self.error(format!("shared variable `{}` does not fit shared memory", v.name));
            }
        }
        self.program.static_shared = at as u32;
        let dynamic: Vec<_> = all.iter().filter(|v| v.bytes.is_none()).collect();
        let align = dynamic.iter().map(|v| v.align).max().unwrap_or(16).max(16);
        let at = (SHARED_BASE + at as u32).next_multiple_of(align);
        self.program.dynamic_shared_at = at - SHARED_BASE;
        for v in dynamic {
            self.shared.insert(v.name, at);
        }
        Ok(())
    }

    pub(super) fn function(&mut self, function: &Function<'a>) -> Result<()> {
        self.position = function.position;
        let entry = function.entry;
        self.current = function.name;
        self.scopes = vec![FastMap::default()];
        self.ranges = vec![Vec::new()];
        self.call_sites.clear();
        self.frame_bytes = 0;
        self.frames = Chain::default();
        let (first_slot, first_pred) = (self.program.slots, self.program.preds);
        let start = self.program.code.len() as u32;
        let mut callee = self.functions.get(function.name).cloned().unwrap_or_default();
        callee.start = start;
        callee.decoded = true;
        for v in &function.parameters {
            let bytes = v.bytes.unwrap_or(0) as u32;
            if entry {
                let at = self.program.parameter_bytes.next_multiple_of(v.align);
                self.program.parameters.push(Parameter { offset: at, bytes });
                self.program.parameter_bytes = at + bytes;
                self.scopes[0].insert(v.name, Name::Parameter(at));
            } else {
                let at = self.frame_variable(v);
                callee.parameters.push((at, bytes));
            }
        }
        for v in &function.returns {
            let at = self.frame_variable(v);
            callee.returns.push((at, v.bytes.unwrap_or(0) as u32));
        }
        let Some(body) = &function.body else { return Ok(()) };
        self.functions.insert(function.name, callee);
        self.body(body)?;
        // Falling off the end returns; an empty body has no instruction whose place that could have.
        if self.program.places.is_empty() {
            self.push_place("ret");
        }
        self.emit(Op::Return, Class::Control);
        let frame_bytes = self.frame_bytes.next_multiple_of(16);
        self.frame_bytes = frame_bytes;
        let (slots, preds) = (first_slot..self.program.slots, first_pred..self.program.preds);
        if let Some(callee) = self.functions.get_mut(function.name) {
            callee.frame_bytes = frame_bytes;
            callee.slots = slots;
            callee.preds = preds;
        }
        Ok(())
    }

    pub(super) fn frame_variable(&mut self, v: &Variable<'a>) -> u32 {
        let at = self.frame_bytes.next_multiple_of(v.align.max(1));
        let bytes = v.bytes.unwrap_or(0) as u32;
        self.frame_bytes = at.saturating_add(bytes);
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(v.name, Name::Local(at, bytes));
        }
        at
    }

    pub(super) fn body(&mut self, body: &[Statement<'a>]) -> Result<()> {
        // First pass: blocks, their parents, the labels each block defines.
        let mut parents = vec![0usize];
        let mut labels: FastMap<(usize, &str), usize> = FastMap::default();
        let mut tables: FastMap<(usize, &str), &Vec<&str>> = FastMap::default();
        let mut stack = vec![0usize];
        for (index, statement) in body.iter().enumerate() {
            let block = *stack.last().unwrap_or(&0);
            match statement {
                Statement::Open => {
                    parents.push(block);
                    stack.push(parents.len() - 1);
                }
                Statement::Close => {
                    stack.pop();
                }
                Statement::Label(name) => {
                    labels.insert((block, name), index);
                }
                Statement::BranchTargets(name, targets) => {
                    tables.insert((block, name), targets);
                }
                _ => {}
            }
        }
        // Second pass: emit, remember where each statement begins, then resolve labels.
        let mut starts = Vec::with_capacity(body.len() + 1);
        let mut fixups: Vec<Fixup> = Vec::new();
        let (mut block, mut next_block) = (0usize, 1usize);
        let mut chain: FastMap<(u32, u32, u32), Chain> = FastMap::default();
        for statement in body {
            starts.push(self.program.code.len() as u32);
            match statement {
                Statement::Open => {
                    block = next_block;
                    next_block += 1;
                    self.scopes.push(FastMap::default());
                    self.ranges.push(Vec::new());
                }
                Statement::Close => {
                    block = parents[block];
                    self.scopes.pop();
                    self.ranges.pop();
                }
                Statement::Registers { ty, names } => {
                    for (name, count) in names {
                        match count {
                            Some(count) => self.ranges.last_mut().expect("a scope").push((name, *ty, *count)),
                            None => {
                                let reg = self.new_register(*ty);
                                let scope = self.scopes.last_mut().expect("a scope");
                                scope.insert(name, Name::Register(reg, *ty));
                            }
                        }
                    }
                }
                Statement::Variable(v) => {
                    self.position = v.position;
                    if matches!(v.space, Space::Local | Space::Param) {
                        self.frame_variable(v);
                        if self.frame_bytes > 1 << 20 {
                            return self.error(format!("local variable `{}` is too large", v.name));
                        }
                    } else if v.space != Space::Shared {
                        return self.error(format!("variable `{}` of this space inside a function", v.name));
                    }
                }
                Statement::Location(location) => {
                    self.frames = self.source_frames(location, &chain);
                    chain.insert((location.file, location.line, location.column), self.frames);
                }
                Statement::Instruction(instruction) => {
                    self.instruction(instruction, block, &mut fixups)?;
                }
                Statement::CallPrototype(label, returns, parameters) => {
                    let sizes =
                        |vars: &[Variable<'_>]| vars.iter().map(|v| v.bytes.unwrap_or(0) as u32).collect();
                    let site = CallSite::Prototype { returns: sizes(returns), parameters: sizes(parameters) };
                    self.call_sites.insert(label, site);
                }
                Statement::CallTargets(label, targets) => {
                    self.call_sites.insert(label, CallSite::Targets(targets.clone()));
                }
                Statement::Label(_) | Statement::BranchTargets(..) => {}
            }
        }
        starts.push(self.program.code.len() as u32);
        // Tables first: a brx.idx names one, and its entries are labels.
        let lookup = |mut block: usize, label: &str| loop {
            if let Some(&index) = labels.get(&(block, label)) {
                return Some(starts[index]);
            }
            if block == 0 {
                return None;
            }
            block = parents[block];
        };
        for fixup in fixups {
            let unknown = || LoadError::new(fixup.position, format!("unknown label `{}`", fixup.label));
            match &mut self.program.code[fixup.at].op {
                Op::Branch { target } => *target = lookup(fixup.block, &fixup.label).ok_or_else(unknown)?,
                Op::BranchIndexed { targets, .. } => {
                    let mut block = fixup.block;
                    let table = loop {
                        if let Some(table) = tables.get(&(block, fixup.label.as_str())) {
                            break *table;
                        }
                        if block == 0 {
                            return Err(unknown());
                        }
                        block = parents[block];
                    };
                    let found: Option<Vec<u32>> = table.iter().map(|l| lookup(block, l)).collect();
                    *targets = found.ok_or_else(unknown)?.into();
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn source_frames(
        &mut self,
        location: &Location<'a>,
        chain: &FastMap<(u32, u32, u32), Chain>,
    ) -> Chain {
        let module = self.module;
        let file = |index: u32| module.files.get(&index).copied().unwrap_or("?");
        let (mut function, mut outer) = ("", Chain::default());
        let places = &mut self.program.places;
        if let Some((label, at_file, line, column)) = location.inlined {
            function = module.strings.get(label).map_or(label, String::as_str);
            outer = match chain.get(&(at_file, line, column)) {
                Some(outer) => *outer,
                None => places.link(file(at_file), (line, column), "", Chain::default()),
            };
        }
        places.link(file(location.file), (location.line, location.column), function, outer)
    }
}

pub(super) fn collect_names<'a>(operand: &Operand<'a>, names: &mut FastSet<&'a str>) {
    match operand {
        Operand::Name(name, _) => {
            names.insert(name);
        }
        Operand::Address { base, coordinates, .. } => {
            names.extend(*base);
            coordinates.iter().for_each(|c| collect_names(c, names));
        }
        Operand::Vector(items) | Operand::List(items) => items.iter().for_each(|i| collect_names(i, names)),
        _ => {}
    }
}
