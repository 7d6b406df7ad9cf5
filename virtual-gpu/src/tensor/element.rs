//! Operand types of the matrix instructions.

use crate::numeric::convert::{bf16_to_f32, e4m3_to_f32, e5m2_to_f32, f16_to_f32, tf32_to_f32};

/// The type of an element of A or B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 19-bit float in 32 bits; the low 13 bits are ignored.
    Tf32,
    /// 8-bit float, 4 exponent bits.
    E4m3,
    /// 8-bit float, 5 exponent bits.
    E5m2,
    /// Signed 8-bit integer.
    S8,
    /// Unsigned 8-bit integer.
    U8,
}

impl Element {
    /// Size of an element in bytes.
    pub fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::Tf32 => 4,
            _ => 1,
        }
    }
    /// How many elements one 32-bit register holds.
    pub fn per_register(self) -> usize {
        4 / self.bytes()
    }
    /// Whether the products are summed as integers.
    pub fn is_integer(self) -> bool {
        matches!(self, Element::S8 | Element::U8)
    }
    /// The `index`-th element of a register as f32, which holds every value of every type here exactly.
    #[inline(always)]
    pub fn to_f32(self, register: u32, index: usize) -> f32 {
        let half = (register >> (16 * (index & 1))) as u16;
        let byte = (register >> (8 * (index & 3))) as u8;
        match self {
            Element::F16 => f16_to_f32(half),
            Element::Bf16 => bf16_to_f32(half),
            Element::Tf32 => tf32_to_f32(register),
            Element::E4m3 => e4m3_to_f32(byte),
            Element::E5m2 => e5m2_to_f32(byte),
            Element::S8 => byte as i8 as f32,
            Element::U8 => byte as f32,
        }
    }
}

/// The type of an element of C or D.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulator {
    /// f32, one a register.
    F32,
    /// f16, two a register.
    F16,
    /// s32, one a register.
    S32,
}

impl Accumulator {
    /// How many elements one 32-bit register holds.
    pub fn per_register(self) -> usize {
        if self == Accumulator::F16 { 2 } else { 1 }
    }
}
