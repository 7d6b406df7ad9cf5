//! From the syntax tree to a flat program: names become register numbers, labels become instruction numbers,
//! and everything unknown is an error with its line.

mod arith;
mod control;
mod convert;
mod float;
mod hopper;
mod memory;
mod places;
pub mod program;
mod tensor;

use crate::hash::{FastMap, FastSet};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_BASE};
use crate::ptx::ast::*;
use crate::ptx::{LoadError, Position};
use crate::registers::*;
use places::Chain;
use program::*;
use std::collections::HashMap;

/// Addresses of a module's variables in device memory.
pub type Symbols = HashMap<String, u64>;

/// Decodes one kernel of a module.
pub fn decode(module: &Module<'_>, entry: &Function<'_>, symbols: &Symbols) -> Result<Program> {
    let mut decoder = Decoder::new(module, symbols);
    decoder.kernel(entry)?;
    Ok(decoder.program)
}

type Result<T> = std::result::Result<T, LoadError>;

/// What a name means inside a function.
#[derive(Clone, Copy)]
enum Name {
    Register(Reg, Type),
    /// Variable in the frame: offset, space.
    Local(u32, u32),
    /// Parameter of the kernel: offset.
    Parameter(u32),
    /// Shared variable: offset.
    Shared(u32),
    Device(u64),
}

/// A label in a block of the function being decoded.
struct Fixup {
    at: usize,
    block: usize,
    label: String,
    position: Position,
}

pub(crate) struct Decoder<'m, 'a> {
    module: &'m Module<'a>,
    symbols: &'m Symbols,
    program: Program,
    /// Scopes of the current function, innermost last.
    scopes: Vec<FastMap<&'a str, Name>>,
    /// Registers declared with a count: prefix, type, count.
    ranges: Vec<Vec<(&'a str, Type, u32)>>,
    constants: FastMap<(u64, bool), Slot>,
    specials: FastMap<Special, Slot>,
    shared: FastMap<&'a str, u32>,
    /// Entry of each decoded or awaited function, and its layout.
    functions: FastMap<&'a str, Callee>,
    queue: Vec<&'a str>,
    /// Calls to finish: instruction, callee, place, caller.
    calls: Vec<(usize, &'a str, Position, &'a str)>,
    frame_bytes: u32,
    place: u32,
    frames: Chain,
    position: Position,
    guard: PredRead,
    in_entry: bool,
    current: &'a str,
}

#[derive(Clone, Default)]
struct Callee {
    start: u32,
    decoded: bool,
    parameters: Vec<(u32, u32)>,
    returns: Vec<(u32, u32)>,
    frame_bytes: u32,
    slots: std::ops::Range<Slot>,
    preds: std::ops::Range<u32>,
    calls: Vec<String>,
}

/// The modifiers of an opcode; each must be taken by somebody, or the opcode is unknown.
pub(crate) struct Modifiers<'a> {
    words: Vec<&'a str>,
    taken: u64,
}

impl<'a> Modifiers<'a> {
    fn new(opcode: &'a str) -> (&'a str, Self) {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        (name, Self { words: parts.take(63).collect(), taken: 0 })
    }

    /// Takes a modifier if it is there.
    pub fn take(&mut self, word: &str) -> bool {
        for (i, w) in self.words.iter().enumerate() {
            if *w == word && self.taken >> i & 1 == 0 {
                self.taken |= 1 << i;
                return true;
            }
        }
        false
    }

    pub fn has(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    /// Takes the first modifier that `f` knows.
    pub fn find<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        for (i, w) in self.words.iter().enumerate() {
            if self.taken >> i & 1 == 0
                && let Some(value) = f(w)
            {
                self.taken |= 1 << i;
                return Some(value);
            }
        }
        None
    }

    /// The next type modifier.
    pub fn ty(&mut self) -> Option<Type> {
        self.find(Type::parse)
    }

    fn left(&self) -> Option<&'a str> {
        self.words.iter().enumerate().find(|(i, _)| self.taken >> i & 1 == 0).map(|(_, w)| *w)
    }
}

impl<'m, 'a> Decoder<'m, 'a> {
    fn new(module: &'m Module<'a>, symbols: &'m Symbols) -> Self {
        Self {
            module,
            symbols,
            program: Program { slots: FIRST_SLOT, preds: FIRST_PRED, ..Program::default() },
            scopes: Vec::new(),
            ranges: Vec::new(),
            constants: FastMap::default(),
            specials: FastMap::default(),
            shared: FastMap::default(),
            functions: FastMap::default(),
            queue: Vec::new(),
            calls: Vec::new(),
            frame_bytes: 0,
            place: 0,
            frames: Chain::default(),
            position: Position::default(),
            guard: ALWAYS,
            in_entry: true,
            current: "",
        }
    }

    pub(crate) fn error<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(LoadError::new(self.position, message))
    }

    fn kernel(&mut self, entry: &Function<'a>) -> Result<()> {
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

    fn directives(&mut self, entry: &Function<'a>) -> Result<()> {
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
    fn layout_shared(&mut self, entry: &Function<'a>) -> Result<()> {
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
                        if i.opcode.starts_with("call") {
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

    fn function(&mut self, function: &Function<'a>) -> Result<()> {
        self.position = function.position;
        let entry = function.entry;
        self.current = function.name;
        self.scopes = vec![FastMap::default()];
        self.ranges = vec![Vec::new()];
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

    fn frame_variable(&mut self, v: &Variable<'a>) -> u32 {
        let at = self.frame_bytes.next_multiple_of(v.align.max(1));
        let bytes = v.bytes.unwrap_or(0) as u32;
        self.frame_bytes = at.saturating_add(bytes);
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(v.name, Name::Local(at, bytes));
        }
        at
    }

    fn body(&mut self, body: &[Statement<'a>]) -> Result<()> {
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

    fn source_frames(&mut self, location: &Location<'a>, chain: &FastMap<(u32, u32, u32), Chain>) -> Chain {
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

    fn new_register(&mut self, ty: Type) -> Reg {
        if ty == Type::Pred {
            self.program.preds += 1;
            return Reg { slot: self.program.preds - 1, width: Width::Pred };
        }
        let slot = self.program.slots;
        let (count, width) = match ty.bits() {
            128 => (4, Width::W64),
            64 => (2, Width::W64),
            _ => (1, Width::W32),
        };
        self.program.slots += count;
        Reg { slot, width }
    }

    /// Finds what a name means, creating a register of a declared range at its first use.
    fn lookup(&mut self, name: &'a str) -> Result<Name> {
        for level in (0..self.scopes.len()).rev() {
            if let Some(&found) = self.scopes[level].get(name) {
                return Ok(found);
            }
            for &(prefix, ty, count) in &self.ranges[level] {
                if let Some(digits) = name.strip_prefix(prefix)
                    && let Ok(number) = digits.parse::<u32>()
                    && number < count
                {
                    let reg = self.new_register(ty);
                    self.scopes[level].insert(name, Name::Register(reg, ty));
                    return Ok(Name::Register(reg, ty));
                }
            }
        }
        if let Some(&offset) = self.shared.get(name) {
            return Ok(Name::Shared(offset));
        }
        if let Some(&address) = self.symbols.get(name) {
            return Ok(Name::Device(address));
        }
        self.error(format!("unknown name `{name}`"))
    }

    fn push_place(&mut self, opcode: &str) {
        self.place = self.program.places.push(self.frames, self.position.line, opcode);
    }

    pub(crate) fn emit(&mut self, op: Op, class: Class) {
        self.program.code.push(Inst { op, guard: self.guard, place: self.place, class });
    }

    pub(crate) fn alu(&mut self, op: Alu, d: Slot, a: Slot, b: Slot, c: Slot, class: Class) {
        self.emit(Op::Alu { op, d, a, b, c, imm: 0 }, class);
    }

    pub(crate) fn lane(&mut self, apply: LaneFn, parameter: u32, d: Reg, s: [Reg; 3], class: Class) {
        let op = LaneOp { apply, parameter, d, a: s[0], b: s[1], c: s[2] };
        self.emit(Op::Lane(Box::new(op)), class);
    }

    pub(crate) fn constant(&mut self, value: u64, wide: bool) -> Slot {
        if value == 0 {
            return ZERO;
        }
        if let Some(&slot) = self.constants.get(&(value, wide)) {
            return slot;
        }
        let slot = self.program.slots;
        self.program.slots += 1 + u32::from(wide);
        self.constants.insert((value, wide), slot);
        self.program.constants.push((slot, value, wide));
        slot
    }

    fn special(&mut self, special: Special) -> Slot {
        if let Some(&slot) = self.specials.get(&special) {
            return slot;
        }
        let slot = self.program.slots;
        self.program.slots += 1;
        self.specials.insert(special, slot);
        self.program.specials.push((slot, special));
        slot
    }

    fn temporary(&mut self, wide: bool) -> Slot {
        let slot = self.program.slots;
        self.program.slots += 1 + u32::from(wide);
        slot
    }

    /// [`Self::lookup`] whose failure is not the instruction's.
    fn lookup_quiet(&mut self, name: &'a str) -> std::result::Result<Name, ()> {
        self.lookup(name).map_err(|_| ())
    }

    /// A special register as a 32-bit slot, if the name is one.
    fn special_by_name(&mut self, name: &str) -> Result<Option<Slot>> {
        let Some(rest) = name.strip_prefix('%') else {
            return Ok(if name == "WARP_SZ" { Some(self.constant(32, false)) } else { None });
        };
        let (base, axis) = match rest.split_once('.') {
            Some((base, "x")) => (base, 0u8),
            Some((base, "y")) => (base, 1),
            Some((base, "z")) => (base, 2),
            Some((base, "w")) => (base, 3),
            Some(_) => return Ok(None),
            None => (rest, 0),
        };
        use Special::*;
        let special = match base {
            "tid" => Tid(axis),
            "ntid" => Ntid(axis),
            "ctaid" => Ctaid(axis),
            "nctaid" => Nctaid(axis),
            "laneid" => LaneId,
            "warpid" => WarpId,
            "nwarpid" => NWarpId,
            "smid" => SmId,
            "nsmid" => NSmId,
            "gridid" => GridId,
            "clusterid" => ClusterId(axis),
            "nclusterid" => NClusterId(axis),
            "cluster_ctaid" => ClusterCtaId(axis),
            "cluster_nctaid" => ClusterNCtaId(axis),
            "cluster_ctarank" => ClusterCtaRank,
            "cluster_nctarank" => ClusterNCtaRank,
            "lanemask_eq" => LaneMaskEq,
            "lanemask_lt" => LaneMaskLt,
            "lanemask_le" => LaneMaskLe,
            "lanemask_gt" => LaneMaskGt,
            "lanemask_ge" => LaneMaskGe,
            "dynamic_smem_size" => DynamicShared,
            "total_smem_size" | "aggr_smem_size" => TotalShared,
            "current_graph_exec" | "reserved_smem_offset_begin" => Zero,
            "clock" | "clock64" | "clock_hi" | "globaltimer" | "globaltimer_lo" | "globaltimer_hi" => {
                let wide = matches!(base, "clock64" | "globaltimer");
                let slot = self.temporary(true);
                let nanoseconds = base.starts_with("globaltimer");
                self.emit(Op::Clock { d: slot, wide: true, nanoseconds }, Class::Move);
                if wide {
                    return Ok(Some(slot | WIDE_MARK));
                }
                let narrow = self.temporary(false);
                let half = if base.ends_with("_hi") { Alu::High64 } else { Alu::Low64 };
                self.alu(half, narrow, slot, ZERO, ZERO, Class::Move);
                return Ok(Some(narrow));
            }
            _ => return Ok(None),
        };
        if matches!(special, Tid(3) | Ntid(3) | Ctaid(3) | Nctaid(3)) {
            return Ok(Some(ZERO));
        }
        Ok(Some(self.special(special)))
    }

    /// A source operand as a register of `bits` width, converting width by truncation or zero-extension.
    pub(crate) fn source(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Slot> {
        let wide = bits == 64;
        let mask = if bits >= 64 { u64::MAX } else { (1u64 << bits) - 1 };
        match operand {
            Operand::Integer(value) => Ok(self.constant(value & mask, wide)),
            Operand::Float32(value) => Ok(self.constant(u64::from(*value), wide)),
            Operand::Float64(value) => {
                let bits64 = *value;
                let value = if wide { bits64 } else { u64::from((f64::from_bits(bits64) as f32).to_bits()) };
                Ok(self.constant(value, wide))
            }
            Operand::Name(name, offset) => {
                if *name == "_" {
                    return Ok(ZERO);
                }
                if let Some(slot) = self.special_by_name(name)? {
                    if slot & WIDE_MARK != 0 {
                        return self.resize(slot & !WIDE_MARK, 64, bits);
                    }
                    return self.resize(slot, 32, bits);
                }
                match self.lookup(name)? {
                    Name::Register(reg, ty) => {
                        if ty == Type::Pred {
                            return self.error(format!("predicate `{name}` where a value is expected"));
                        }
                        self.resize(reg.slot, ty.bits(), bits)
                    }
                    Name::Local(at, _) => {
                        let slot = self.temporary(true);
                        let at = (i64::from(at)).wrapping_add(*offset) as u32;
                        self.emit(Op::FrameAddress { d: slot, offset: at }, Class::Move);
                        self.resize(slot, 64, bits)
                    }
                    Name::Parameter(at) => {
                        let at = PARAM_WINDOW.wrapping_add(u64::from(at)).wrapping_add(*offset as u64);
                        Ok(self.constant(at & mask, wide))
                    }
                    Name::Shared(at) => {
                        Ok(self.constant(u64::from(at).wrapping_add(*offset as u64) & mask, wide))
                    }
                    Name::Device(address) => {
                        Ok(self.constant(address.wrapping_add(*offset as u64) & mask, wide))
                    }
                }
            }
            _ => self.error("expected a register or a constant"),
        }
    }

    fn resize(&mut self, slot: Slot, from: u32, to: u32) -> Result<Slot> {
        if slot == ZERO || from == to || (from <= 32 && to == 32) {
            return Ok(slot);
        }
        let d = self.temporary(to == 64);
        match (from, to) {
            (64, 32) => self.alu(Alu::Low64, d, slot, ZERO, ZERO, Class::Move),
            (64, _) => {
                let low = self.temporary(false);
                self.alu(Alu::Low64, low, slot, ZERO, ZERO, Class::Move);
                let mask = self.constant((1 << to) - 1, false);
                self.alu(Alu::And32, d, low, mask, ZERO, Class::Move);
            }
            (_, 64) => self.alu(Alu::U32To64, d, slot, ZERO, ZERO, Class::Move),
            _ if from > to => {
                let mask = self.constant((1 << to) - 1, false);
                self.alu(Alu::And32, d, slot, mask, ZERO, Class::Move);
            }
            _ => return Ok(slot),
        }
        Ok(d)
    }

    /// A source as a [`Reg`] for a lane operation.
    pub(crate) fn lane_source(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Reg> {
        if bits == 1 {
            let read = self.pred_source(operand)?;
            let slot = if read.negated { self.negated_pred(read)? } else { read.pred };
            return Ok(Reg { slot, width: Width::Pred });
        }
        let slot = self.source(operand, bits)?;
        Ok(Reg { slot, width: if bits == 64 { Width::W64 } else { Width::W32 } })
    }

    fn negated_pred(&mut self, read: PredRead) -> Result<u32> {
        let d = self.program.preds;
        self.program.preds += 1;
        self.emit(Op::PredLogic { op: Logic::Or, d, a: read, b: FALSE }, Class::Move);
        Ok(d)
    }

    /// A destination register of exactly the width class of `bits`; `_` is the sink.
    pub(crate) fn destination(&mut self, operand: &Operand<'a>, bits: u32) -> Result<Slot> {
        let Operand::Name(name, 0) = operand else { return self.error("expected a destination register") };
        if *name == "_" {
            return Ok(SINK);
        }
        match self.lookup(name)? {
            Name::Register(reg, ty) => {
                let same = (ty.bits() == 64) == (bits == 64) && ty != Type::Pred;
                if same {
                    Ok(reg.slot)
                } else {
                    self.error(format!("register `{name}` has {} bits, expected {bits}", ty.bits()))
                }
            }
            _ => self.error(format!("`{name}` is no register")),
        }
    }

    /// A destination that may be wider than the value (loads and conversions): its register and type.
    pub(crate) fn any_destination(&mut self, operand: &Operand<'a>) -> Result<(Reg, Type)> {
        let Operand::Name(name, 0) = operand else { return self.error("expected a destination register") };
        if *name == "_" {
            return Ok((Reg { slot: SINK, width: Width::W64 }, Type::B64));
        }
        match self.lookup(name)? {
            Name::Register(reg, ty) => Ok((reg, ty)),
            _ => self.error(format!("`{name}` is no register")),
        }
    }

    pub(crate) fn reg(slot: Slot, bits: u32) -> Reg {
        Reg { slot, width: if bits == 64 { Width::W64 } else { Width::W32 } }
    }

    pub(crate) fn pred_destination(&mut self, operand: &Operand<'a>) -> Result<u32> {
        let Operand::Name(name, 0) = operand else { return self.error("expected a predicate") };
        if *name == "_" {
            return Ok(PRED_SINK);
        }
        match self.lookup(name)? {
            Name::Register(reg, Type::Pred) => Ok(reg.slot),
            _ => self.error(format!("`{name}` is no predicate")),
        }
    }

    pub(crate) fn pred_source(&mut self, operand: &Operand<'a>) -> Result<PredRead> {
        match operand {
            Operand::Not(name) => {
                let read = self.pred_source(&Operand::Name(name, 0))?;
                Ok(PredRead { negated: !read.negated, ..read })
            }
            Operand::Integer(value) => {
                Ok(PredRead { pred: if *value == 0 { PRED_FALSE } else { PRED_TRUE }, negated: false })
            }
            Operand::Name(name, 0) => match self.lookup(name)? {
                Name::Register(reg, Type::Pred) => Ok(PredRead { pred: reg.slot, negated: false }),
                _ => self.error(format!("`{name}` is no predicate")),
            },
            _ => self.error("expected a predicate"),
        }
    }

    /// An address operand in a state space.
    pub(crate) fn address(&mut self, operand: &Operand<'a>, space: Space) -> Result<Address> {
        let Operand::Address { base, offset, coordinates } = operand else {
            return self.error("expected an address in brackets");
        };
        if !coordinates.is_empty() {
            return self.error("unexpected coordinates");
        }
        self.address_parts(*base, *offset, space)
    }

    pub(crate) fn address_parts(
        &mut self,
        base: Option<&'a str>,
        offset: i64,
        space: Space,
    ) -> Result<Address> {
        let plain = Address { space, base: ZERO, wide: true, frame: false, offset };
        let Some(name) = base else { return Ok(plain) };
        Ok(match self.lookup(name)? {
            Name::Register(reg, ty) if ty != Type::Pred => {
                Address { base: reg.slot, wide: ty.bits() == 64, ..plain }
            }
            Name::Register(..) => return self.error(format!("predicate `{name}` as an address")),
            Name::Local(at, _) => {
                let offset = LOCAL_WINDOW.wrapping_add(u64::from(at)) as i64;
                Address {
                    space: Space::Local,
                    frame: true,
                    offset: offset.wrapping_add(plain.offset),
                    ..plain
                }
            }
            Name::Parameter(at) => {
                let offset = PARAM_WINDOW.wrapping_add(u64::from(at)) as i64;
                Address { offset: offset.wrapping_add(plain.offset), ..plain }
            }
            Name::Shared(at) => Address { offset: plain.offset.wrapping_add(i64::from(at)), ..plain },
            Name::Device(address) => Address { offset: plain.offset.wrapping_add(address as i64), ..plain },
        })
    }

    /// Exactly `N` operands.
    pub(crate) fn operands<'o, const N: usize>(
        &self,
        instruction: &'o Instruction<'a>,
    ) -> Result<&'o [Operand<'a>; N]> {
        match instruction.operands.as_slice().try_into() {
            Ok(operands) => Ok(operands),
            Err(_) => self.error(format!(
                "`{}` has {} operands, expected {N}",
                instruction.opcode,
                instruction.operands.len()
            )),
        }
    }

    fn instruction(
        &mut self,
        instruction: &Instruction<'a>,
        block: usize,
        fixups: &mut Vec<Fixup>,
    ) -> Result<()> {
        self.position = instruction.position;
        self.push_place(instruction.opcode);
        self.guard = match instruction.guard {
            None => ALWAYS,
            Some((name, negated)) => {
                let read = self.pred_source(&Operand::Name(name, 0))?;
                PredRead { negated, ..read }
            }
        };
        let (name, mut modifiers) = Modifiers::new(instruction.opcode);
        let known = self.control(name, &mut modifiers, instruction, block, fixups)?
            || self.arithmetic(name, &mut modifiers, instruction)?
            || self.floating(name, &mut modifiers, instruction)?
            || self.conversion(name, &mut modifiers, instruction)?
            || self.memory(name, &mut modifiers, instruction)?
            || self.tensor(name, &mut modifiers, instruction)?
            || self.hopper(name, &mut modifiers, instruction)?;
        if !known {
            return self.error(format!("unknown instruction `{}`", instruction.opcode));
        }
        if let Some(left) = modifiers.left() {
            return self.error(format!("unknown modifier `.{left}` of `{}`", instruction.opcode));
        }
        self.guard = ALWAYS;
        Ok(())
    }

    fn finish_calls(&mut self) -> Result<()> {
        for (at, name, position, caller) in std::mem::take(&mut self.calls) {
            let Some(callee) = self.functions.get(name).cloned() else { continue };
            let frame_bytes = self.functions.get(caller).map_or(0, |f| f.frame_bytes);
            let recursive = self.calls_itself(name);
            let Op::Call(call) = &mut self.program.code[at].op else { continue };
            call.target = callee.start;
            call.frame_bytes = frame_bytes;
            call.callee_frame_bytes = callee.frame_bytes;
            if call.arguments.len() != callee.parameters.len() || call.results.len() != callee.returns.len() {
                return Err(LoadError::new(
                    position,
                    format!("call of `{name}` with other parameters than it has"),
                ));
            }
            for (copy, (at, bytes)) in call.arguments.iter_mut().zip(&callee.parameters) {
                copy.1 = *at;
                copy.2 = copy.2.min(*bytes);
            }
            for (copy, (at, bytes)) in call.results.iter_mut().zip(&callee.returns) {
                copy.1 = *at;
                copy.2 = copy.2.min(*bytes);
            }
            call.saved = recursive.then(|| (callee.slots.clone(), callee.preds.clone()));
        }
        Ok(())
    }

    /// Whether a call of this function can lead to another call of it.
    fn calls_itself(&self, name: &str) -> bool {
        let mut seen = FastSet::default();
        let mut pending = vec![name];
        while let Some(from) = pending.pop() {
            for next in self.functions.get(from).map_or(&[][..], |f| &f.calls) {
                if next == name {
                    return true;
                }
                if seen.insert(next.as_str()) {
                    pending.push(next);
                }
            }
        }
        false
    }
}

/// Marks a slot as 64 bits wide where a special register is looked up.
const WIDE_MARK: Slot = 1 << 31;
const FALSE: PredRead = PredRead { pred: PRED_FALSE, negated: false };

fn collect_names<'a>(operand: &Operand<'a>, names: &mut FastSet<&'a str>) {
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
