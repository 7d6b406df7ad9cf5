//! Conversions against `rustc_apfloat`, 128-bit integers, and the `half` crate.

use crate::float::{BRAIN, DOUBLE, Flags, Format, HALF, ROUNDINGS, SINGLE};
use crate::harness::{Case, Kind, Kind::*, check, is_nan};
use rustc_apfloat::ieee::{BFloat, Double, Float8E4M3FN, Float8E5M2, Half, Quad, Single};
use rustc_apfloat::{Float, FloatConvert, Round};

/// Name, kind of register, bits, signedness.
const INTS: [(&str, Kind, u32, bool); 8] = [
    ("u8", I16, 8, false),
    ("s8", I16, 8, true),
    ("u16", I16, 16, false),
    ("s16", I16, 16, true),
    ("u32", I32, 32, false),
    ("s32", I32, 32, true),
    ("u64", I64, 64, false),
    ("s64", I64, 64, true),
];
const FLOATS: [Format; 4] = [HALF, BRAIN, SINGLE, DOUBLE];
const INTEGRAL: [(&str, Round); 4] = [
    ("rni", Round::NearestTiesToEven),
    ("rzi", Round::TowardZero),
    ("rmi", Round::TowardNegative),
    ("rpi", Round::TowardPositive),
];

fn value(x: u64, bits: u32, signed: bool) -> i128 {
    let x = x as i128 & ((1i128 << bits) - 1);
    if signed && x >> (bits - 1) != 0 { x - (1 << bits) } else { x }
}

fn range(bits: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// Every format fits a quad exactly.
fn widen(format: Format, x: u64) -> Quad {
    let mut lost = false;
    let x = u128::from(x);
    match format.name {
        "f16" => Half::from_bits(x).convert(&mut lost).value,
        "bf16" => BFloat::from_bits(x).convert(&mut lost).value,
        "f32" => Single::from_bits(x).convert(&mut lost).value,
        _ => Double::from_bits(x).convert(&mut lost).value,
    }
}

fn narrow(format: Format, x: Quad, round: Round) -> u64 {
    fn to<F: Float>(x: Quad, round: Round) -> u64
    where
        Quad: FloatConvert<F>,
    {
        let mut lost = false;
        let y: F = x.convert_r(round, &mut lost).value;
        y.to_bits() as u64
    }
    match format.name {
        "f16" => to::<Half>(x, round),
        "bf16" => to::<BFloat>(x, round),
        "f32" => to::<Single>(x, round),
        _ => to::<Double>(x, round),
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = between_integers();
    all.extend(to_floats());
    all.extend(to_integers());
    all.extend(between_floats());
    all.extend(to_integral());
    all.extend(packed());
    all.extend(eight_bits());
    all.extend(packs_of_integers());
    all
}

/// A register of this width holds a value extended by its type's sign.
fn register(bits: u32) -> Kind {
    match bits {
        8 | 16 => I16,
        32 => I32,
        _ => I64,
    }
}

fn between_integers() -> Vec<Case> {
    let mut all = Vec::new();
    for (from, from_kind, from_bits, from_signed) in INTS {
        for (to, _, to_bits, to_signed) in INTS {
            let ((least, most), (low, high)) = (range(from_bits, from_signed), range(to_bits, to_signed));
            for sat in [false, true] {
                // Only where something can be clamped.
                if sat && low <= least && most <= high {
                    continue;
                }
                // Into a register as wide as the type, and into a wider one.
                for wide in [to_bits, 2 * to_bits].into_iter().filter(|b| *b <= 64) {
                    let kind = register(wide);
                    let opcode = format!("cvt{}.{to}.{from}", if sat { ".sat" } else { "" });
                    let body = format!("{opcode} %d0, %a0;");
                    all.push(Case::with_body(&opcode, &body, &[from_kind], &[kind], move |a| {
                        let x = value(a[0], from_bits, from_signed);
                        let (low, high) = range(to_bits, to_signed);
                        let x = if sat { x.clamp(low, high) } else { x };
                        let x = value(x as u64, to_bits, to_signed);
                        vec![x as u64 & (u64::MAX >> (64 - kind.bits()))]
                    }));
                }
            }
        }
    }
    all
}

fn to_floats() -> Vec<Case> {
    let mut all = Vec::new();
    for (from, from_kind, bits, signed) in INTS {
        for format in FLOATS {
            for (mode, round) in ROUNDINGS {
                for sat in [false, true] {
                    if sat && format.name != "f32" || format.name == "bf16" && bits == 8 {
                        continue;
                    }
                    let opcode =
                        format!("cvt.{mode}{}.{}.{from}", if sat { ".sat" } else { "" }, format.name);
                    all.push(Case::new(&opcode, &[from_kind], format.kind, move |a| {
                        let exact = Quad::from_i128(value(a[0], bits, signed)).value;
                        let y = narrow(format, exact, round);
                        if sat { format.saturate(y) } else { y }
                    }));
                }
            }
        }
    }
    all
}

fn to_integers() -> Vec<Case> {
    let mut all = Vec::new();
    for format in FLOATS {
        for (to, to_kind, bits, signed) in INTS {
            if format.name == "bf16" && bits == 8 {
                continue;
            }
            for (mode, round) in INTEGRAL {
                for ftz in [false, true] {
                    if ftz && format.name != "f32" {
                        continue;
                    }
                    // Saturation changes nothing: it is what these conversions do.
                    for sat in ["", ".sat"].into_iter().take(if format.name == "bf16" { 1 } else { 2 }) {
                        let z = if ftz { ".ftz" } else { "" };
                        let opcode = format!("cvt.{mode}{z}{sat}.{to}.{}", format.name);
                        all.push(Case::new(&opcode, &[format.kind], to_kind, move |a| {
                            let x = if ftz { format.flush(a[0]) } else { a[0] };
                            let mask = u64::MAX >> (64 - to_kind.bits());
                            if is_nan(format.kind, x) {
                                // Zero, but the least number of the type where 64 bits take part.
                                let least = value(1 << (bits - 1), bits, signed) as u64;
                                return if format.bits == 64 || bits == 64 { least & mask } else { 0 };
                            }
                            let (low, high) = range(bits, signed);
                            let exact = widen(format, x).round_to_integral(round).value;
                            let mut whole = false;
                            let y = exact.to_i128_r(128, round, &mut whole).value;
                            (y.clamp(low, high) as u64) & mask
                        }));
                    }
                }
            }
        }
    }
    all
}

fn between_floats() -> Vec<Case> {
    let mut all = Vec::new();
    for from in FLOATS {
        for to in FLOATS {
            if from.name == to.name {
                continue;
            }
            // A wider format holds every value: no rounding is written.
            let exact = to.bits > from.bits;
            let modes: Vec<(String, Round)> = if exact {
                vec![(String::new(), Round::NearestTiesToEven)]
            } else {
                ROUNDINGS.iter().map(|(m, r)| (format!(".{m}"), *r)).collect()
            };
            for (mode, round) in modes {
                for (ftz, sat) in [(false, false), (true, false), (false, true), (true, true)] {
                    let flushes = from.name == "f32" || to.name == "f32";
                    if ftz && (!flushes || from.name == "bf16" || to.name == "bf16")
                        || sat && (to.name == "bf16" || from.name == "bf16")
                    {
                        continue;
                    }
                    let f = Flags { ftz, sat, relu: false };
                    let text = [if ftz { ".ftz" } else { "" }, if sat { ".sat" } else { "" }].concat();
                    let opcode = format!("cvt{mode}{text}.{}.{}", to.name, from.name);
                    all.push(Case::new(&opcode, &[from.kind], to.kind, move |a| {
                        // Only f32 has its subnormals flushed.
                        let x = if ftz && from.name == "f32" { from.flush(a[0]) } else { a[0] };
                        let y = narrow(to, widen(from, x), round);
                        to.output(Flags { ftz: f.ftz && to.name == "f32", ..f }, y)
                    }));
                }
                // What saturates to the largest finite number, and what clears negative numbers.
                if from.name == "f32" && !exact && (mode == ".rn" || mode == ".rz") {
                    for (relu, finite) in [(true, false), (false, true), (true, true)] {
                        let text = [if relu { ".relu" } else { "" }, if finite { ".satfinite" } else { "" }]
                            .concat();
                        let opcode = format!("cvt{mode}{text}.{}.f32", to.name);
                        all.push(Case::new(&opcode, &[F32], to.kind, move |a| {
                            narrow_to_16(to, a[0], round, relu, finite)
                        }));
                    }
                }
            }
        }
    }
    for (mode, nearest_away) in [("rna", true), ("rn", false), ("rz", false)] {
        for relu in ["", ".relu"] {
            if mode == "rna" && !relu.is_empty() {
                continue;
            }
            let opcode = format!("cvt.{mode}{relu}.tf32.f32");
            all.push(Case::judged(&opcode, &format!("{opcode} %d0, %a0;"), &[F32], &[I32], move |a, d| {
                let x = a[0];
                if is_nan(F32, x) {
                    return if is_nan(F32, d[0]) { Ok(()) } else { Err("expected a NaN".into()) };
                }
                let (kept, rest) = (x & !0x1fff, x & 0x1fff);
                let up = match mode {
                    "rz" => false,
                    _ if rest == 0x1000 => nearest_away || kept & 0x2000 != 0,
                    _ => rest > 0x1000,
                };
                let y = kept + if up { 0x2000 } else { 0 };
                let y = if !relu.is_empty() && y >> 31 != 0 { 0 } else { y };
                // Only the upper 19 bits count.
                if d[0] >> 13 == y >> 13 { Ok(()) } else { Err(format!("expected {y:x}")) }
            }));
        }
    }
    all
}

fn narrow_to_16(to: Format, x: u64, round: Round, relu: bool, finite: bool) -> u64 {
    let largest: u64 = if to.name == "f16" { 0x7bff } else { 0x7f7f };
    let mut y = narrow(to, widen(SINGLE, x), round);
    if finite && !is_nan(to.kind, y) && y & 0x7fff > largest {
        y = y & 0x8000 | largest;
    }
    to.output(Flags { relu, ..Flags::default() }, y)
}

/// To an integer in the same floating-point format.
fn to_integral() -> Vec<Case> {
    let mut all = Vec::new();
    for format in FLOATS {
        for (mode, round) in INTEGRAL {
            for (ftz, sat) in [(false, false), (true, false), (false, true), (true, true)] {
                if ftz && format.name != "f32" || sat && format.name == "bf16" {
                    continue;
                }
                let f = Flags { ftz, sat, relu: false };
                let text = [if ftz { ".ftz" } else { "" }, if sat { ".sat" } else { "" }].concat();
                let opcode = format!("cvt.{mode}{text}.{0}.{0}", format.name);
                all.push(Case::new(&opcode, &[format.kind], format.kind, move |a| {
                    let x = if ftz { format.flush(a[0]) } else { a[0] };
                    let y = widen(format, x).round_to_integral(round).value;
                    format.output(f, narrow(format, y, round))
                }));
            }
        }
    }
    all
}

/// Two at once; the first operand becomes the upper half.
fn packed() -> Vec<Case> {
    let mut all = Vec::new();
    for (to, kind) in [(HALF, F16x2), (BRAIN, Bf16x2)] {
        for (mode, round) in [("rn", Round::NearestTiesToEven), ("rz", Round::TowardZero)] {
            for (relu, finite) in [(false, false), (true, false), (false, true), (true, true)] {
                let text = [if relu { ".relu" } else { "" }, if finite { ".satfinite" } else { "" }].concat();
                let opcode = format!("cvt.{mode}{text}.{}x2.f32", to.name);
                all.push(Case::new(&opcode, &[F32; 2], kind, move |a| {
                    let [high, low] = [0, 1].map(|i| narrow_to_16(to, a[i], round, relu, finite));
                    low | high << 16
                }));
            }
        }
    }
    all
}

/// To one of the formats of 8 bits; beyond its range the largest number.
fn to_eight(e4m3: bool, x: Quad, relu: bool) -> u64 {
    let round = Round::NearestTiesToEven;
    let mut lost = false;
    if x.is_nan() {
        return 0x7f;
    }
    let (y, largest): (u64, u64) = if e4m3 {
        let y: Float8E4M3FN = x.convert_r(round, &mut lost).value;
        (y.to_bits() as u64, 0x7e)
    } else {
        let y: Float8E5M2 = x.convert_r(round, &mut lost).value;
        (y.to_bits() as u64, 0x7b)
    };
    let y = if y & 0x7f > largest { y & 0x80 | largest } else { y };
    if relu && y & 0x80 != 0 { 0 } else { y }
}

fn eight_bits() -> Vec<Case> {
    let mut all = Vec::new();
    for e4m3 in [true, false] {
        let name = if e4m3 { "e4m3x2" } else { "e5m2x2" };
        for relu in [false, true] {
            let r = if relu { ".relu" } else { "" };
            let opcode = format!("cvt.rn.satfinite{r}.{name}.f32");
            all.push(Case::new(&opcode, &[F32; 2], I16, move |a| {
                let [high, low] = [0, 1].map(|i| to_eight(e4m3, widen(SINGLE, a[i]), relu));
                low | high << 8
            }));
            let opcode = format!("cvt.rn.satfinite{r}.{name}.f16x2");
            all.push(Case::new(&opcode, &[F16x2], I16, move |a| {
                let [low, high] = [0, 16].map(|at| to_eight(e4m3, widen(HALF, a[0] >> at & 0xffff), relu));
                low | high << 8
            }));
            let opcode = format!("cvt.rn{r}.f16x2.{name}");
            all.push(Case::new(&opcode, &[I16], F16x2, move |a| {
                let half = |at: u32| {
                    let x = u128::from(a[0] >> at & 0xff);
                    let mut lost = false;
                    let y: Half = if e4m3 {
                        Float8E4M3FN::from_bits(x).convert(&mut lost).value
                    } else {
                        Float8E5M2::from_bits(x).convert(&mut lost).value
                    };
                    HALF.output(Flags { relu, ..Flags::default() }, y.to_bits() as u64)
                };
                half(0) | half(8) << 16
            }));
        }
    }
    all
}

/// `cvt.pack`: two integers clamped, the first above the second; with a third operand it moves up.
fn packs_of_integers() -> Vec<Case> {
    let mut all = Vec::new();
    for (to, bits, signed) in [("s16", 16u32, true), ("u16", 16, false)] {
        all.push(Case::new(&format!("cvt.pack.sat.{to}.s32"), &[I32; 2], I32, move |a| {
            let (low, high) = range(bits, signed);
            let one = |x: u64| value(x, 32, true).clamp(low, high) as u64 & 0xffff;
            one(a[1]) | one(a[0]) << 16
        }));
    }
    for (to, bits, signed) in [("s8", 8u32, true), ("u8", 8, false)] {
        all.push(Case::new(&format!("cvt.pack.sat.{to}.s32.b32"), &[I32; 3], I32, move |a| {
            let (low, high) = range(bits, signed);
            let one = |x: u64| value(x, 32, true).clamp(low, high) as u64 & 0xff;
            (a[2] << 16 | one(a[0]) << 8 | one(a[1])) & 0xffff_ffff
        }));
    }
    all
}

#[test]
fn conversions() {
    check(&cases());
}
