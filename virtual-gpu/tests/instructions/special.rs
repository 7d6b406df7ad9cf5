//! The approximate functions, against the machine's f64 and the bounds of the PTX ISA.

use crate::harness::{Case, Kind, Kind::*, check};

type F64Function = fn(f64) -> f64;

fn to_f64(kind: Kind, bits: u64) -> f64 {
    match kind {
        F16 => half::f16::from_bits(bits as u16).to_f64(),
        Bf16 => half::bf16::from_bits(bits as u16).to_f64(),
        F64 => f64::from_bits(bits),
        _ => f32::from_bits(bits as u32).into(),
    }
}

/// Within an absolute or a relative error; infinities, zeros and NaN as the true function has them. A true result below
/// the normal numbers of the format may be flushed to zero or not.
fn is_near(kind: Kind, got: u64, want: f64, absolute: f64, relative: f64) -> Result<(), String> {
    let got = to_f64(kind, got);
    let (largest, least) = match kind {
        F16 => (65504.0, 6.104e-5),
        Bf16 => (3.3895e38, 1.1755e-38),
        F64 => (f64::MAX, f64::MIN_POSITIVE),
        _ => (f32::MAX.into(), f32::MIN_POSITIVE.into()),
    };
    let bound = absolute.max(relative * want.abs());
    let fits = want.is_nan() && got.is_nan()
        || want == got
        || (got - want).abs() <= bound
        || want.abs() < 1.001 * least && got.abs() < 1.001 * least
        || want.abs() > 0.999 * largest && got.abs() > 0.999 * largest && got.signum() == want.signum();
    if fits { Ok(()) } else { Err(format!("{got:e}, expected {want:e}")) }
}

fn unary(opcode: &str, kind: Kind, f: F64Function, absolute: f64, relative: f64) -> Case {
    let flushes = opcode.contains("ftz");
    Case::judged(opcode, &format!("{opcode} %d0, %a0;"), &[kind], &[kind], move |a, d| {
        let x = to_f64(kind, a[0]);
        let least = if kind == F16 { 6.103515625e-5 } else { f64::from(f32::MIN_POSITIVE) };
        let x = if flushes && x.abs() < least { 0f64.copysign(x) } else { x };
        is_near(kind, d[0], f(x), absolute, relative)
    })
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let power = |e: i32| 2f64.powi(e);
    for z in ["", ".ftz"] {
        all.push(unary(&format!("ex2.approx{z}.f32"), F32, f64::exp2, 0.0, power(-22)));
        all.push(unary(&format!("lg2.approx{z}.f32"), F32, f64::log2, power(-22), power(-22)));
        all.push(unary(&format!("rcp.approx{z}.f32"), F32, |x| 1.0 / x, 0.0, power(-23)));
        all.push(unary(&format!("rsqrt.approx{z}.f32"), F32, |x| x.sqrt().recip(), 0.0, power(-22)));
        all.push(unary(&format!("sqrt.approx{z}.f32"), F32, f64::sqrt, 0.0, power(-22)));
        for (name, f) in [("sin", f64::sin as F64Function), ("cos", f64::cos)] {
            let opcode = format!("{name}.approx{z}.f32");
            let body = format!("{opcode} %d0, %a0;");
            all.push(Case::judged(&opcode, &body, &[F32], &[F32], move |a, d| {
                let x = to_f64(F32, a[0]);
                // The bound holds within one turn; beyond it only -1..=1 does.
                if x.abs() <= std::f64::consts::TAU || !x.is_finite() {
                    return is_near(F32, d[0], f(x), power(-20), 0.0);
                }
                let y = to_f64(F32, d[0]);
                if y.abs() <= 1.0 { Ok(()) } else { Err(format!("{y} is no {name}")) }
            }));
        }
        for (kind, name) in [("approx", 2.0), ("full", 2.0)] {
            let opcode = format!("div.{kind}{z}.f32");
            let body = format!("{opcode} %d0, %a0, %a1;");
            all.push(Case::judged(&opcode, &body, &[F32; 2], &[F32], move |a, d| {
                let flush = |x: f64| {
                    if !z.is_empty() && x.abs() < f32::MIN_POSITIVE.into() { 0f64.copysign(x) } else { x }
                };
                let (x, y) = (flush(to_f64(F32, a[0])), flush(to_f64(F32, a[1])));
                // The bound holds for divisors between 2^-126 and 2^126.
                let covered = y == 0.0 || !y.is_finite() || y.abs() >= power(-126) && y.abs() <= power(126);
                if covered { is_near(F32, d[0], x / y, 0.0, name * power(-23)) } else { Ok(()) }
            }));
        }
    }
    all.push(unary("tanh.approx.f32", F32, f64::tanh, 0.0, power(-10)));
    // The upper half of an f64 counts, and 20 bits of the result.
    for (name, f) in [("rcp", (|x| 1.0 / x) as F64Function), ("rsqrt", |x: f64| x.sqrt().recip())] {
        let opcode = format!("{name}.approx.ftz.f64");
        let body = format!("{opcode} %d0, %a0;");
        all.push(Case::judged(&opcode, &body, &[F64], &[F64], move |a, d| {
            let x = f64::from_bits(a[0]);
            let x = if x.is_subnormal() { 0f64.copysign(x) } else { x };
            is_near(F64, d[0], f(x), 0.0, power(-19))
        }));
    }
    let plain = [
        ("ex2.approx.f16", F16, f64::exp2 as F64Function, power(-9)),
        ("ex2.approx.ftz.bf16", Bf16, f64::exp2, power(-7)),
        ("tanh.approx.f16", F16, f64::tanh, power(-9)),
        ("tanh.approx.bf16", Bf16, f64::tanh, power(-7)),
    ];
    for (opcode, kind, f, relative) in plain {
        // Subnormal results of f16 are as coarse as the least of them.
        let absolute = if kind == F16 { power(-24) } else { 0.0 };
        all.push(unary(opcode, kind, f, absolute, relative));
        let both = if kind == F16 { F16x2 } else { Bf16x2 };
        let opcode = format!("{opcode}x2");
        let least = if kind == F16 { 6.103515625e-5 } else { f64::from(f32::MIN_POSITIVE) };
        let flushes = opcode.contains("ftz");
        all.push(Case::judged(&opcode, &format!("{opcode} %d0, %a0;"), &[both], &[both], move |a, d| {
            [0, 16].into_iter().try_for_each(|at| {
                let x = to_f64(kind, a[0] >> at & 0xffff);
                let x = if flushes && x.abs() < least { 0f64.copysign(x) } else { x };
                is_near(kind, d[0] >> at & 0xffff, f(x), absolute, relative)
            })
        }));
    }
    all
}

#[test]
fn approximate_functions() {
    check(&cases());
}
