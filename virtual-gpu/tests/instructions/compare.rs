//! Comparisons, selections and tests of floats.

use crate::harness::{Case, Kind, Kind::*, check};
use std::cmp::Ordering;

const TYPES: [(&str, Kind); 14] = [
    ("b16", I16),
    ("u16", I16),
    ("s16", I16),
    ("b32", I32),
    ("u32", I32),
    ("s32", I32),
    ("b64", I64),
    ("u64", I64),
    ("s64", I64),
    ("f16", F16),
    ("bf16", Bf16),
    ("f32", F32),
    ("f64", F64),
    ("f16x2", F16x2),
];

/// The order of two values of a scalar type; `None` with a NaN.
fn order(ty: &str, ftz: bool, a: u64, b: u64) -> Option<Ordering> {
    let signed = |x: u64, bits: u32| (x << (64 - bits)) as i64 >> (64 - bits);
    match ty {
        "s16" => Some(signed(a, 16).cmp(&signed(b, 16))),
        "s32" => Some(signed(a, 32).cmp(&signed(b, 32))),
        "s64" => Some((a as i64).cmp(&(b as i64))),
        "f16" => {
            let flush =
                |x: u64| half::f16::from_bits(if ftz && x & 0x7c00 == 0 { 0 } else { x as u16 }).to_f64();
            flush(a).partial_cmp(&flush(b))
        }
        "bf16" => {
            half::bf16::from_bits(a as u16).to_f64().partial_cmp(&half::bf16::from_bits(b as u16).to_f64())
        }
        "f32" => {
            let flush = |x: u64| if ftz && x & 0x7f80_0000 == 0 { 0.0 } else { f32::from_bits(x as u32) };
            flush(a).partial_cmp(&flush(b))
        }
        "f64" => f64::from_bits(a).partial_cmp(&f64::from_bits(b)),
        _ => Some(a.cmp(&b)),
    }
}

fn holds(op: &str, order: Option<Ordering>) -> bool {
    use Ordering::*;
    match (op, order) {
        ("num", o) => o.is_some(),
        ("nan", o) => o.is_none(),
        ("equ" | "neu" | "ltu" | "leu" | "gtu" | "geu", None) | ("ne", None) if op != "ne" => true,
        // Ordered: false on NaN.
        (_, None) => false,
        ("eq" | "equ", Some(o)) => o == Equal,
        ("ne" | "neu", Some(o)) => o != Equal,
        ("lt" | "ltu" | "lo", Some(o)) => o == Less,
        ("le" | "leu" | "ls", Some(o)) => o != Greater,
        ("gt" | "gtu" | "hi", Some(o)) => o == Greater,
        (_, Some(o)) => o != Less,
    }
}

fn operators(ty: &str) -> &'static [&'static str] {
    match ty {
        "b16" | "b32" | "b64" => &["eq", "ne"],
        "u16" | "u32" | "u64" => &["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"],
        "s16" | "s32" | "s64" => &["eq", "ne", "lt", "le", "gt", "ge"],
        _ => &["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"],
    }
}

fn combined(logic: &str, x: bool, y: bool) -> bool {
    match logic {
        "and" => x && y,
        "or" => x || y,
        "xor" => x != y,
        _ => x,
    }
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, kind) in TYPES {
        let flushes = matches!(ty, "f16" | "f32" | "f16x2");
        for &op in operators(ty) {
            for ftz in [false, true] {
                if ftz && !flushes {
                    continue;
                }
                let z = if ftz { ".ftz" } else { "" };
                if kind != F16x2 {
                    for logic in ["", "and", "or", "xor"] {
                        comparisons(&mut all, ty, kind, op, ftz, logic);
                    }
                    continue;
                }
                // Both halves at once; p is the low half's.
                let opcode = format!("setp.{op}{z}.{ty}");
                let body = format!("{opcode} %d0|%d1, %a0, %a1;");
                all.push(Case::with_body(&opcode, &body, &[kind; 2], &[Pred; 2], move |a| {
                    let one =
                        |at: u32| holds(op, order("f16", ftz, a[0] >> at & 0xffff, a[1] >> at & 0xffff));
                    vec![one(0).into(), one(16).into()]
                }));
                let opcode = format!("set.{op}{z}.f16x2.{ty}");
                all.push(Case::new(&opcode, &[kind; 2], I32, move |a| {
                    let one =
                        |at: u32| holds(op, order("f16", ftz, a[0] >> at & 0xffff, a[1] >> at & 0xffff));
                    0x3c00 * (u64::from(one(0)) | u64::from(one(16)) << 16)
                }));
            }
        }
    }
    // Packed bf16 compares as its halves do.
    for op in operators("bf16") {
        let opcode = format!("setp.{op}.bf16x2");
        let body = format!("{opcode} %d0|%d1, %a0, %a1;");
        all.push(Case::with_body(&opcode, &body, &[Bf16x2; 2], &[Pred; 2], move |a| {
            let one = |at: u32| holds(op, order("bf16", false, a[0] >> at & 0xffff, a[1] >> at & 0xffff));
            vec![one(0).into(), one(16).into()]
        }));
        let opcode = format!("set.{op}.bf16x2.bf16x2");
        all.push(Case::new(&opcode, &[Bf16x2; 2], I32, move |a| {
            let one = |at: u32| holds(op, order("bf16", false, a[0] >> at & 0xffff, a[1] >> at & 0xffff));
            0x3f80 * (u64::from(one(0)) | u64::from(one(16)) << 16)
        }));
    }
    all.extend(selections());
    all.extend(float_tests());
    all
}

fn comparisons(
    all: &mut Vec<Case>,
    ty: &'static str,
    kind: Kind,
    op: &'static str,
    ftz: bool,
    logic: &'static str,
) {
    let z = if ftz { ".ftz" } else { "" };
    let with = if logic.is_empty() { String::new() } else { format!(".{logic}") };
    let (inputs, third) =
        if logic.is_empty() { (vec![kind; 2], "") } else { (vec![kind, kind, Pred], ", %a2") };
    let truth = move |a: &[u64], negated: bool| {
        let x = holds(op, order(ty, ftz, a[0], a[1])) != negated;
        combined(logic, x, a.get(2) == Some(&1))
    };
    let opcode = format!("setp.{op}{with}{z}.{ty}");
    if matches!(ty, "f16" | "bf16") {
        let body = format!("{opcode} %d0, %a0, %a1{third};");
        all.push(Case::with_body(&opcode, &body, &inputs, &[Pred], move |a| vec![truth(a, false).into()]));
    } else {
        // The second result is of the negated comparison.
        let body = format!("{opcode} %d0|%d1, %a0, %a1{third};");
        all.push(Case::with_body(&opcode, &body, &inputs, &[Pred; 2], move |a| {
            vec![truth(a, false).into(), truth(a, true).into()]
        }));
    }
    for (out, bits, one) in
        [("u32", I32, 0xffff_ffffu64), ("f32", I32, 0x3f80_0000), ("s32", I32, 0xffff_ffff)]
    {
        if out == "f32" && matches!(ty, "f16" | "bf16") {
            continue;
        }
        let opcode = format!("set.{op}{with}{z}.{out}.{ty}");
        let body = format!("{opcode} %d0, %a0, %a1{third};");
        all.push(Case::with_body(&opcode, &body, &inputs, &[bits], move |a| {
            vec![if truth(a, false) { one } else { 0 }]
        }));
    }
    if matches!(ty, "f16" | "bf16") {
        let one = if ty == "f16" { 0x3c00 } else { 0x3f80 };
        let opcode = format!("set.{op}{with}{z}.{ty}.{ty}");
        let body = format!("{opcode} %d0, %a0, %a1{third};");
        all.push(Case::with_body(&opcode, &body, &inputs, &[I16], move |a| {
            vec![if truth(a, false) { one } else { 0 }]
        }));
    }
}

fn selections() -> Vec<Case> {
    let mut all = Vec::new();
    for (ty, kind) in TYPES.into_iter().filter(|t| !matches!(t.0, "f16" | "bf16" | "f16x2")) {
        all.push(Case::new(&format!("selp.{ty}"), &[kind, kind, Pred], kind, |a| {
            if a[2] == 1 { a[0] } else { a[1] }
        }));
        all.push(Case::new(&format!("slct.{ty}.s32"), &[kind, kind, I32], kind, |a| {
            if (a[2] as i32) >= 0 { a[0] } else { a[1] }
        }));
        for ftz in ["", ".ftz"] {
            // -0 counts as 0, NaN as negative; a subnormal is flushed to a zero of its sign.
            all.push(Case::new(&format!("slct{ftz}.{ty}.f32"), &[kind, kind, F32], kind, move |a| {
                let c = f32::from_bits(a[2] as u32);
                if c >= 0.0 || !ftz.is_empty() && c.is_subnormal() { a[0] } else { a[1] }
            }));
        }
    }
    all
}

fn float_tests() -> Vec<Case> {
    let mut all = Vec::new();
    for (name, is) in [
        ("finite", [1, 1, 1, 0, 0]),
        ("infinite", [0, 0, 0, 1, 0]),
        ("number", [1, 1, 1, 1, 0]),
        ("notanumber", [0, 0, 0, 0, 1]),
        // Zero is normal to testp.
        ("normal", [1, 1, 0, 0, 0]),
        ("subnormal", [0, 0, 1, 0, 0]),
    ] {
        use std::num::FpCategory::*;
        let class = move |c: std::num::FpCategory| {
            is[match c {
                Zero => 0,
                Normal => 1,
                Subnormal => 2,
                Infinite => 3,
                Nan => 4,
            }]
        };
        all.push(Case::new(&format!("testp.{name}.f32"), &[F32], Pred, move |a| {
            class(f32::from_bits(a[0] as u32).classify())
        }));
        all.push(Case::new(&format!("testp.{name}.f64"), &[F64], Pred, move |a| {
            class(f64::from_bits(a[0]).classify())
        }));
    }
    // The sign of the first, the magnitude of the second; bits, even of a NaN.
    let bits32 = |a: &[u64]| a[1] & 0x7fff_ffff | a[0] & 0x8000_0000;
    all.push(Case::new("copysign.f32", &[F32; 2], I32, bits32));
    all.push(Case::new("copysign.f64", &[F64; 2], I64, |a| a[1] & (u64::MAX >> 1) | a[0] & 1 << 63));
    all
}

#[test]
fn comparisons_and_selections() {
    check(&cases());
}
