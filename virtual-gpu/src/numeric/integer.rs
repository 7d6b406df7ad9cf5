//! Integer instructions that Rust has no operator for (PTX ISA 9.7.1, 9.7.2, 9.7.8).

/// `bfe.u32/s32/u64/s64`: the field of `length` bits at `position`. `bits` is the type's width. A field that sticks out
/// is filled with zeros, or for a signed type with the sign, which is the field's top bit or the value's.
pub fn bfe(value: u64, position: u32, length: u32, bits: u32, signed: bool) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let mask = u64::MAX >> (64 - bits);
    let value = value & mask;
    let field = if position >= 64 { 0 } else { value >> position };
    let kept = if length >= 64 { field } else { field & ((1 << length) - 1) };
    if !signed || length == 0 {
        return kept;
    }
    let top = (position + length - 1).min(bits - 1);
    if value >> top & 1 == 0 {
        return kept;
    }
    // Fill with ones from the field's top bit on, or from where the value ended.
    let width = length.min(bits.saturating_sub(position));
    let ones = if width >= 64 { 0 } else { u64::MAX << width };
    (kept | ones) & mask
}

/// `bfi.b32/b64`: `insert`'s low `length` bits put into `base` at `position`.
pub fn bfi(insert: u64, base: u64, position: u32, length: u32, bits: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    if position >= bits || length == 0 {
        return base;
    }
    let field = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let field = field << position & (u64::MAX >> (64 - bits));
    base & !field | insert << position & field
}

/// The modes of `prmt.b32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permute {
    /// The default: four selectors of four bits, whose top bit asks for the replicated sign.
    Default,
    /// `.f4e`: four bytes forward from the selected one.
    Forward4,
    /// `.b4e`: four bytes backward.
    Backward4,
    /// `.rc8`: one byte four times.
    Replicate8,
    /// `.ecl`: edge clamp left.
    EdgeLeft,
    /// `.ecr`: edge clamp right.
    EdgeRight,
    /// `.rc16`: one half twice.
    Replicate16,
}

/// `prmt.b32`: picks four of the eight bytes of `{b, a}`.
#[inline]
pub fn prmt(a: u32, b: u32, selector: u32, mode: Permute) -> u32 {
    let pool = a as u64 | (b as u64) << 32;
    let byte = |i: u32| (pool >> (8 * (i & 7)) & 0xff) as u32;
    if mode == Permute::Default {
        let mut out = 0;
        for i in 0..4 {
            let s = selector >> (4 * i);
            let value = byte(s);
            let value = if s & 8 == 0 { value } else { 0xff * (value >> 7) };
            out |= value << (8 * i);
        }
        return out;
    }
    let s = selector & 3;
    let pick: [u32; 4] = match mode {
        Permute::Forward4 => [s, s + 1, s + 2, s + 3],
        Permute::Backward4 => [s, s.wrapping_sub(1), s.wrapping_sub(2), s.wrapping_sub(3)],
        Permute::Replicate8 => [s; 4],
        Permute::EdgeLeft => core::array::from_fn(|i| s.max(i as u32)),
        Permute::EdgeRight => core::array::from_fn(|i| s.min(i as u32)),
        _ => {
            let low = 2 * (s & 1);
            [low, low + 1, low, low + 1]
        }
    };
    byte(pick[0]) | byte(pick[1]) << 8 | byte(pick[2]) << 16 | byte(pick[3]) << 24
}

/// `lop3.b32`: the three-input logical operation whose truth table is `table`.
#[inline]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut out = 0;
    for row in 0..8 {
        if table >> row & 1 != 0 {
            let pick = |v: u32, bit: u32| if bit != 0 { v } else { !v };
            out |= pick(a, row & 4) & pick(b, row & 2) & pick(c, row & 1);
        }
    }
    out
}

/// `shf.l` or `shf.r` with `.clamp` or `.wrap`: a funnel shift of `{high, low}`.
#[inline]
pub fn funnel_shift(low: u32, high: u32, shift: u32, left: bool, wrap: bool) -> u32 {
    let n = if wrap { shift & 31 } else { shift.min(32) };
    let pair = low as u64 | (high as u64) << 32;
    if left { (pair << n >> 32) as u32 } else { (pair >> n) as u32 }
}

/// `shl`: shifts of the width or more give 0.
#[inline]
pub fn shl(value: u64, shift: u32, bits: u32) -> u64 {
    if shift >= bits { 0 } else { value << shift & (u64::MAX >> (64 - bits)) }
}

/// `shr` of a sign- or zero-extended value: shifts of the width or more give 0 or the sign.
#[inline]
pub fn shr(value: u64, shift: u32, signed: bool) -> u64 {
    if signed {
        (value as i64 >> shift.min(63)) as u64
    } else if shift >= 64 {
        0
    } else {
        value >> shift
    }
}

/// `bfind`: the position of the most significant bit that is not a sign bit (or, with `shift_amount`, how far it is
/// from the top); all ones where there is none. `value` is extended from `bits` by its sign rule.
pub fn bfind(value: u64, bits: u32, signed: bool, shift_amount: bool) -> u32 {
    let mut v = value;
    if signed && (v as i64) < 0 {
        v = !v;
    }
    v &= u64::MAX >> (64 - bits);
    if v == 0 {
        return u32::MAX;
    }
    let position = 63 - v.leading_zeros();
    if shift_amount { bits - 1 - position } else { position }
}

/// `dp4a`: four byte products added to `c`.
#[inline]
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let byte = |v: u32, i: u32, signed: bool| {
        let v = (v >> (8 * i)) as u8;
        if signed { v as i8 as i32 } else { v as i32 }
    };
    (0..4).fold(c, |sum, i| sum.wrapping_add((byte(a, i, a_signed) * byte(b, i, b_signed)) as u32))
}

/// `dp2a.lo` or `.hi`: two 16-bit by 8-bit products added to `c`.
#[inline]
pub fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool, high: bool) -> u32 {
    (0..2).fold(c, |sum, i| {
        let half = (a >> (16 * i)) as u16;
        let x = if a_signed { half as i16 as i32 } else { half as i32 };
        let byte = (b >> (8 * (i + 2 * high as u32))) as u8;
        let y = if b_signed { byte as i8 as i32 } else { byte as i32 };
        sum.wrapping_add(x.wrapping_mul(y) as u32)
    })
}

/// `mul24.lo/.hi` operands: the low 24 bits, extended.
#[inline]
pub fn low24(value: u32, signed: bool) -> i64 {
    if signed { ((value << 8) as i32 >> 8) as i64 } else { (value & 0xff_ffff) as i64 }
}

/// `fns.b32`: the position of the `offset`-th set bit of `mask` from `base`, or all ones (PTX ISA 9.7.1, fns).
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    let base = base & 31;
    if offset == 0 {
        return if mask >> base & 1 != 0 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    let mut at = base as i32;
    while (0..32).contains(&at) {
        if mask >> at & 1 != 0 {
            left -= 1;
            if left == 0 {
                return at as u32;
            }
        }
        at += offset.signum();
    }
    u32::MAX
}
