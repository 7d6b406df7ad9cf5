//! Floating-point arithmetic against `rustc_apfloat`, an implementation of its own of IEEE arithmetic in every rounding;
//! square roots against integer square roots.

use crate::harness::{Case, Kind, Kind::*, check, is_nan};
use rustc_apfloat::ieee::{BFloat, Double, Half, Single};
use rustc_apfloat::{Float, Round};

pub const ROUNDINGS: [(&str, Round); 4] = [
    ("rn", Round::NearestTiesToEven),
    ("rz", Round::TowardZero),
    ("rm", Round::TowardNegative),
    ("rp", Round::TowardPositive),
];

#[derive(Clone, Copy, Default)]
pub struct Flags {
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

impl Flags {
    fn text(self) -> String {
        [(self.ftz, ".ftz"), (self.sat, ".sat"), (self.relu, ".relu")]
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, t)| *t)
            .collect()
    }
}

/// Name, bits, and bits of the exponent of a format.
#[derive(Clone, Copy)]
pub struct Format {
    pub name: &'static str,
    pub kind: Kind,
    pub bits: u32,
    pub exponent: u32,
}

pub const HALF: Format = Format { name: "f16", kind: F16, bits: 16, exponent: 5 };
pub const BRAIN: Format = Format { name: "bf16", kind: Bf16, bits: 16, exponent: 8 };
pub const SINGLE: Format = Format { name: "f32", kind: F32, bits: 32, exponent: 8 };
pub const DOUBLE: Format = Format { name: "f64", kind: F64, bits: 64, exponent: 11 };

impl Format {
    fn sign(self) -> u64 {
        1 << (self.bits - 1)
    }
    fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << (self.bits - 1 - self.exponent)
    }
    fn one(self) -> u64 {
        ((1 << (self.exponent - 1)) - 1) << (self.bits - 1 - self.exponent)
    }
    /// Subnormals become zeros of their sign.
    pub fn flush(self, x: u64) -> u64 {
        if x & self.infinity() == 0 { x & self.sign() } else { x }
    }
    /// Into 0..=1, NaN to 0.
    pub fn saturate(self, x: u64) -> u64 {
        if is_nan(self.kind, x) || x & self.sign() != 0 { 0 } else { x.min(self.one()) }
    }
    fn input(self, flags: Flags, x: u64) -> u64 {
        if flags.ftz { self.flush(x) } else { x }
    }
    pub fn output(self, flags: Flags, x: u64) -> u64 {
        let x = self.input(flags, x);
        let x = if flags.sat { self.saturate(x) } else { x };
        if flags.relu && !is_nan(self.kind, x) && x & self.sign() != 0 { 0 } else { x }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Op {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Rcp,
    Sqrt,
}

fn compute<F: Float>(op: Op, round: Round, a: &[u64], one: u64) -> u64 {
    let x: Vec<F> = a.iter().chain([&one]).map(|v| F::from_bits((*v).into())).collect();
    let result = match op {
        Op::Add => x[0].add_r(x[1], round),
        Op::Sub => x[0].sub_r(x[1], round),
        Op::Mul => x[0].mul_r(x[1], round),
        Op::Fma => x[0].mul_add_r(x[1], x[2], round),
        Op::Div => x[0].div_r(x[1], round),
        Op::Rcp => x[1].div_r(x[0], round),
        Op::Sqrt => unreachable!("integer square roots"),
    };
    result.value.to_bits() as u64
}

/// The square root of an f32 or f64 by the integer square root of its significand.
fn square_root(format: Format, round: Round, x: u64) -> u64 {
    let fraction_bits = format.bits - 1 - format.exponent;
    if is_nan(format.kind, x) || x & !format.sign() == 0 || x == format.infinity() {
        return x;
    }
    if x & format.sign() != 0 {
        return format.infinity() | 1;
    }
    let bias = (1i64 << (format.exponent - 1)) - 1;
    let (field, fraction) = ((x >> fraction_bits) as i64, u128::from(x & ((1 << fraction_bits) - 1)));
    let (mut significand, mut exponent) = if field == 0 {
        (fraction, 1 - bias - i64::from(fraction_bits))
    } else {
        (fraction | 1 << fraction_bits, field - bias - i64::from(fraction_bits))
    };
    // An even exponent, and enough bits that the root has one more than the format.
    while significand.ilog2() < 2 * fraction_bits + 3 || exponent % 2 != 0 {
        significand <<= 1;
        exponent -= 1;
    }
    let root = significand.isqrt();
    let exact = root * root == significand;
    let extra = root.ilog2() - fraction_bits;
    let (kept, rest) = (root >> extra, root & ((1 << extra) - 1));
    let half = 1u128 << (extra - 1);
    let up = match round {
        Round::TowardPositive => rest != 0 || !exact,
        Round::NearestTiesToEven => rest > half || rest == half && (!exact || kept & 1 == 1),
        _ => false,
    };
    // The root of a number of this format is always normal.
    let power = exponent / 2 + i64::from(extra) + i64::from(fraction_bits);
    let bits = ((power + bias) as u64) << fraction_bits | (kept as u64 & ((1 << fraction_bits) - 1));
    bits + u64::from(up)
}

fn evaluate(format: Format, op: Op, round: Round, flags: Flags, a: &[u64]) -> u64 {
    let a: Vec<u64> = a.iter().map(|x| format.input(flags, *x)).collect();
    let result = match format.name {
        _ if op == Op::Sqrt => square_root(format, round, a[0]),
        "f16" => compute::<Half>(op, round, &a, format.one()),
        "bf16" => compute::<BFloat>(op, round, &a, format.one()),
        "f32" => compute::<Single>(op, round, &a, format.one()),
        _ => compute::<Double>(op, round, &a, format.one()),
    };
    format.output(flags, result)
}

fn arity(op: Op) -> usize {
    match op {
        Op::Fma => 3,
        Op::Rcp | Op::Sqrt => 1,
        _ => 2,
    }
}

fn case(name: &str, format: Format, op: Op, round: Round, flags: Flags) -> Case {
    let opcode = format!("{name}{}.{}", flags.text(), format.name);
    Case::new(&opcode, &vec![format.kind; arity(op)], format.kind, move |a| {
        evaluate(format, op, round, flags, a)
    })
}

/// The same in both halves of a register.
fn packed(name: &str, format: Format, op: Op, flags: Flags) -> Case {
    let kind = if format.kind == F16 { F16x2 } else { Bf16x2 };
    let opcode = format!("{name}{}.{}x2", flags.text(), format.name);
    Case::new(&opcode, &vec![kind; arity(op)], kind, move |a| {
        let half = |at: u32| {
            let parts: Vec<u64> = a.iter().map(|x| x >> at & 0xffff).collect();
            evaluate(format, op, Round::NearestTiesToEven, flags, &parts) << at
        };
        half(0) | half(16)
    })
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let flags = |ftz, sat| Flags { ftz, sat, relu: false };
    let nearest = Round::NearestTiesToEven;
    for (mode, round) in ROUNDINGS {
        for ftz in [false, true] {
            for sat in [false, true] {
                for (name, op) in [("add", Op::Add), ("sub", Op::Sub), ("mul", Op::Mul), ("fma", Op::Fma)] {
                    all.push(case(&format!("{name}.{mode}"), SINGLE, op, round, flags(ftz, sat)));
                }
                all.push(case(&format!("mad.{mode}"), SINGLE, Op::Fma, round, flags(ftz, sat)));
            }
            for (name, op) in [("div", Op::Div), ("rcp", Op::Rcp), ("sqrt", Op::Sqrt)] {
                all.push(case(&format!("{name}.{mode}"), SINGLE, op, round, flags(ftz, false)));
            }
        }
        let all_double = [
            ("add", Op::Add),
            ("sub", Op::Sub),
            ("mul", Op::Mul),
            ("fma", Op::Fma),
            ("mad", Op::Fma),
            ("div", Op::Div),
            ("rcp", Op::Rcp),
            ("sqrt", Op::Sqrt),
        ];
        for (name, op) in all_double {
            all.push(case(&format!("{name}.{mode}"), DOUBLE, op, round, Flags::default()));
        }
    }
    // Without a rounding it is to nearest.
    for (name, op) in [("add", Op::Add), ("sub", Op::Sub), ("mul", Op::Mul)] {
        all.push(case(name, DOUBLE, op, nearest, Flags::default()));
        for (ftz, sat) in [(false, false), (false, true), (true, false), (true, true)] {
            all.push(case(name, SINGLE, op, nearest, flags(ftz, sat)));
            for name in [name.to_string(), format!("{name}.rn")] {
                all.push(case(&name, HALF, op, nearest, flags(ftz, sat)));
                all.push(packed(&name, HALF, op, flags(ftz, sat)));
            }
        }
        for name in [name.to_string(), format!("{name}.rn")] {
            all.push(case(&name, BRAIN, op, nearest, Flags::default()));
            all.push(packed(&name, BRAIN, op, Flags::default()));
        }
    }
    let relu = |ftz| Flags { ftz, sat: false, relu: true };
    for f in [
        flags(false, false),
        flags(true, false),
        flags(false, true),
        flags(true, true),
        relu(false),
        relu(true),
    ] {
        all.push(case("fma.rn", HALF, Op::Fma, nearest, f));
        all.push(packed("fma.rn", HALF, Op::Fma, f));
    }
    for f in [Flags::default(), relu(false)] {
        all.push(case("fma.rn", BRAIN, Op::Fma, nearest, f));
        all.push(packed("fma.rn", BRAIN, Op::Fma, f));
    }
    all.extend(signs());
    all.extend(extremes());
    all
}

fn signs() -> Vec<Case> {
    let mut all = Vec::new();
    for format in [HALF, BRAIN, SINGLE, DOUBLE] {
        for ftz in [false, true] {
            if ftz && matches!(format.name, "bf16" | "f64") {
                continue;
            }
            let z = if ftz { ".ftz" } else { "" };
            let flush = move |x| if ftz { format.flush(x) } else { x };
            let (kind, name) = (format.kind, format.name);
            all.push(Case::new(&format!("neg{z}.{name}"), &[kind], kind, move |a| {
                flush(a[0]) ^ format.sign()
            }));
            all.push(Case::new(&format!("abs{z}.{name}"), &[kind], kind, move |a| {
                flush(a[0]) & !format.sign()
            }));
            if format.bits == 16 {
                let kind = if kind == F16 { F16x2 } else { Bf16x2 };
                let both = move |x: u64| flush(x & 0xffff) | flush(x >> 16) << 16;
                all.push(Case::new(&format!("neg{z}.{name}x2"), &[kind], kind, move |a| {
                    both(a[0]) ^ 0x8000_8000
                }));
                all.push(Case::new(&format!("abs{z}.{name}x2"), &[kind], kind, move |a| {
                    both(a[0]) & 0x7fff_7fff
                }));
            }
        }
    }
    all
}

/// Minimum and maximum: of a NaN and a number the number, unless `.NaN`; -0 is less than +0.
fn extremes() -> Vec<Case> {
    let mut all = Vec::new();
    for format in [HALF, BRAIN, SINGLE, DOUBLE] {
        for max in [false, true] {
            for (ftz, nan, xorsign) in [0, 1, 2, 3, 4, 5, 6, 7].map(|i| (i & 1 != 0, i & 2 != 0, i & 4 != 0))
            {
                if format.name == "f64" && (ftz || nan || xorsign) || format.name == "bf16" && ftz {
                    continue;
                }
                let one = move |a: u64, b: u64| -> u64 {
                    let flags = Flags { ftz, ..Flags::default() };
                    let (a, b) = (format.input(flags, a), format.input(flags, b));
                    let sign = (a ^ b) & format.sign();
                    let (x, y) = if xorsign { (a & !format.sign(), b & !format.sign()) } else { (a, b) };
                    let quiet = format.infinity() | 1;
                    let chosen = match (is_nan(format.kind, x), is_nan(format.kind, y)) {
                        (true, true) => return quiet,
                        (true, false) | (false, true) if nan => return quiet,
                        (true, false) => y,
                        (false, true) => x,
                        _ => {
                            // Sign and magnitude as one integer: -0 comes below +0.
                            let key = |v: u64| {
                                let magnitude = (v & !format.sign()) as i128;
                                if v & format.sign() != 0 { -magnitude - 1 } else { magnitude }
                            };
                            if (key(x) > key(y)) == max { x } else { y }
                        }
                    };
                    if xorsign { chosen & !format.sign() | sign } else { chosen }
                };
                let name = if max { "max" } else { "min" };
                let z = if ftz { ".ftz" } else { "" };
                let n = if nan { ".NaN" } else { "" };
                let s = if xorsign { ".xorsign.abs" } else { "" };
                let opcode = format!("{name}{z}{n}{s}.{}", format.name);
                all.push(Case::new(&opcode, &[format.kind; 2], format.kind, move |a| one(a[0], a[1])));
                if format.bits == 16 {
                    let kind = if format.kind == F16 { F16x2 } else { Bf16x2 };
                    all.push(Case::new(&format!("{opcode}x2"), &[kind; 2], kind, move |a| {
                        let half = |at: u32| one(a[0] >> at & 0xffff, a[1] >> at & 0xffff) << at;
                        half(0) | half(16)
                    }));
                }
                if format.name == "f32" {
                    // Of three; the destination may be one of them.
                    let body = format!("mov.b32 %d0, %a2;\n{opcode} %d0, %a0, %a1, %d0;");
                    all.push(Case::with_body(
                        &format!("{opcode} of three"),
                        &body,
                        &[F32; 3],
                        &[F32],
                        move |a| vec![one(one(a[0], a[1]), a[2])],
                    ));
                }
            }
        }
    }
    all
}

#[test]
fn arithmetic_of_floats() {
    check(&cases());
}
