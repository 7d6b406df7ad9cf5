//! From the syntax tree to a flat program: names become register numbers, labels become instruction numbers,
//! and everything unknown is an error with its line.

mod arith;
mod call;
mod control;
mod convert;
mod float;
mod function;
mod hopper;
mod memory;
mod modifiers;
mod operands;
mod places;
pub mod program;
mod tensor;
pub mod watched;
mod wmma;

use crate::hash::FastMap;
use crate::ptx::ast::*;
use crate::ptx::{LoadError, Position};
use crate::registers::*;
use function::Fixup;
pub(crate) use modifiers::Modifiers;
use places::Chain;
use program::*;
use std::collections::HashMap;

/// Addresses of a module's variables in device memory.
pub type Symbols = HashMap<String, u64>;

/// Decodes one kernel of a module.
pub fn decode(module: &Module<'_>, entry: &Function<'_>, symbols: &Symbols) -> Result<Program> {
    let mut decoder = Decoder::new(module, symbols);
    decoder.kernel(entry)?;
    watched::mark(&mut decoder.program);
    Ok(decoder.program)
}

type Result<T> = std::result::Result<T, LoadError>;

const FALSE: PredRead = PredRead { pred: PRED_FALSE, negated: false };

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
    functions: FastMap<&'a str, FunctionLayout>,
    queue: Vec<&'a str>,
    /// Calls to finish: instruction, callee, place, caller.
    calls: Vec<(usize, &'a str, Position, &'a str)>,
    /// Calls through an address to finish.
    indirect_calls: Vec<Indirect<'a>>,
    /// What `.callprototype` and `.calltargets` of the current function say, by label.
    call_sites: FastMap<&'a str, CallSite<'a>>,
    /// Functions whose address the module takes, once somebody asked.
    address_taken: Option<Vec<&'a str>>,
    frame_bytes: u32,
    place: u32,
    frames: Chain,
    position: Position,
    guard: PredRead,
    in_entry: bool,
    current: &'a str,
}

/// What is known of the functions that a call through an address may find.
#[derive(Clone)]
enum CallSite<'a> {
    /// Sizes in bytes of what they return and take.
    Prototype {
        returns: Vec<u32>,
        parameters: Vec<u32>,
    },
    Targets(Vec<&'a str>),
}

/// A call through an address whose callees are not laid out yet.
struct Indirect<'a> {
    at: usize,
    caller: &'a str,
    callees: Vec<&'a str>,
    site: CallSite<'a>,
    arguments: Vec<FrameCopy>,
    results: Vec<FrameCopy>,
}

#[derive(Clone, Default)]
struct FunctionLayout {
    start: u32,
    decoded: bool,
    parameters: Vec<(u32, u32)>,
    returns: Vec<(u32, u32)>,
    frame_bytes: u32,
    slots: std::ops::Range<Slot>,
    preds: std::ops::Range<u32>,
    calls: Vec<String>,
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
            indirect_calls: Vec::new(),
            call_sites: FastMap::default(),
            address_taken: None,
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
        self.program.code.push(Inst { op, guard: self.guard, place: self.place, class, watched: false });
    }

    pub(crate) fn alu(&mut self, op: Alu, d: Slot, a: Slot, b: Slot, c: Slot, class: Class) {
        self.emit(Op::Alu { op, d, a, b, c, imm: 0 }, class);
    }

    pub(crate) fn lane(&mut self, apply: LaneFn, parameter: u32, d: Reg, s: [Reg; 3], class: Class) {
        let op = LaneOp { apply, parameter, d, a: s[0], b: s[1], c: s[2] };
        self.emit(Op::Lane(Box::new(op)), class);
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
}
