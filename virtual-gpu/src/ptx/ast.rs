//! The syntax tree. Names and opcodes borrow from the text.

use super::Position;
use std::collections::HashMap;

/// State space of a variable or an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    Generic,
    Global,
    Const,
    Shared,
    SharedCluster,
    Local,
    Param,
}

/// Scalar type as written in PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    Pred,
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    F32x2,
    U16x2,
    S16x2,
    E4m3x2,
    E5m2x2,
}

impl Type {
    /// The type of a modifier such as `u32`.
    pub fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "pred" => Type::Pred,
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "f32x2" => Type::F32x2,
            "u16x2" => Type::U16x2,
            "s16x2" => Type::S16x2,
            "e4m3x2" => Type::E4m3x2,
            "e5m2x2" => Type::E5m2x2,
            _ => return None,
        })
    }

    /// Width in bits; 1 for a predicate.
    pub fn bits(self) -> u32 {
        use Type::*;
        match self {
            Pred => 1,
            B8 | U8 | S8 => 8,
            B16 | U16 | S16 | F16 | Bf16 | E4m3x2 | E5m2x2 => 16,
            B32 | U32 | S32 | F16x2 | Bf16x2 | Tf32 | F32 | U16x2 | S16x2 => 32,
            B64 | U64 | S64 | F64 | F32x2 => 64,
            B128 => 128,
        }
    }

    /// Width in bytes.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub fn signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64 | Type::S16x2)
    }
}

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A register, special register, variable, label or function, with a constant added to it.
    Name(&'a str, i64),
    Integer(u64),
    Float32(u32),
    Float64(u64),
    /// `[base + offset]`, or a tensor map with its coordinates `[map, {c0, c1}]`.
    Address {
        base: Option<&'a str>,
        offset: i64,
        coordinates: Vec<Operand<'a>>,
    },
    Vector(Vec<Operand<'a>>),
    /// `!p`
    Not(&'a str),
    /// `p|q`
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `(a, b)` of a call.
    List(Vec<Operand<'a>>),
}

#[derive(Clone, Debug)]
pub struct Instruction<'a> {
    /// Predicate register and whether it is negated.
    pub guard: Option<(&'a str, bool)>,
    pub opcode: &'a str,
    pub operands: Vec<Operand<'a>>,
    pub position: Position,
}

/// One piece of a variable's initialiser.
#[derive(Clone, Debug)]
pub enum Initial<'a> {
    Value(u64),
    /// Address of another variable, generic if so marked, plus a constant.
    AddressOf(&'a str, i64),
}

#[derive(Clone, Debug)]
pub struct Variable<'a> {
    pub space: Space,
    pub name: &'a str,
    pub ty: Type,
    pub align: u32,
    /// Size in bytes; `None` for an `[]` of unknown length.
    pub bytes: Option<u64>,
    pub initial: Vec<Initial<'a>>,
    pub position: Position,
}

/// A `.loc` line.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    pub file: u32,
    pub line: u32,
    pub column: u32,
    /// Label of the inlined function's name in `.debug_str`, and the place that it was inlined at.
    pub inlined: Option<(&'a str, u32, u32, u32)>,
}

#[derive(Clone, Debug)]
pub enum Statement<'a> {
    Label(&'a str),
    Registers {
        ty: Type,
        names: Vec<(&'a str, Option<u32>)>,
    },
    Variable(Variable<'a>),
    Location(Location<'a>),
    Instruction(Instruction<'a>),
    Open,
    Close,
    /// `label: .branchtargets a, b;`
    BranchTargets(&'a str, Vec<&'a str>),
    /// `label: .callprototype (returns) _ (parameters);`
    CallPrototype(&'a str, Vec<Variable<'a>>, Vec<Variable<'a>>),
    /// `label: .calltargets f, g;`
    CallTargets(&'a str, Vec<&'a str>),
}

#[derive(Clone, Debug)]
pub struct Function<'a> {
    pub name: &'a str,
    pub entry: bool,
    pub returns: Vec<Variable<'a>>,
    pub parameters: Vec<Variable<'a>>,
    /// `None` for a declaration.
    pub body: Option<Vec<Statement<'a>>>,
    /// Performance directives: `maxntid`, `reqntid`, `minnctapersm`, `maxnreg`, `reqnctapercluster`, …
    pub directives: Vec<(&'a str, Vec<u32>)>,
    pub position: Position,
}

#[derive(Debug, Default)]
pub struct Module<'a> {
    pub version: (u32, u32),
    pub target: &'a str,
    pub files: HashMap<u32, &'a str>,
    /// Names of inlined functions by their label in `.debug_str`.
    pub strings: HashMap<&'a str, String>,
    pub variables: Vec<Variable<'a>>,
    pub functions: Vec<Function<'a>>,
}
