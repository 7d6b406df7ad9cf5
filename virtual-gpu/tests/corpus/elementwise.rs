//! Arithmetic of every kind.

use crate::support::{Case, random_f32, random_u64, targets};
use half::{bf16, f16};
use virtual_gpu::Options;

const BOTH: [&str; 2] = targets::BOTH;

#[test]
fn vector_add() {
    for n in [1, 127, 1000, 4099] {
        let (a, b) = (random_f32(1, n), random_f32(2, n));
        let mut case = Case::new("elementwise", &BOTH, "vector_add").grid(3).block(128);
        let (x, y, z) = (case.input(&a), case.input(&b), case.output::<f32>(n));
        case.buffers(&[x, y, z]).value(n as i32);
        let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
        case.check(|out| assert_eq!(out.get::<f32>(z), want));
    }
}

#[test]
fn saxpy_half2() {
    let n = 8 * 300;
    let halves = |seed| -> Vec<f16> { random_f32(seed, n).into_iter().map(f16::from_f32).collect() };
    let (x, y, alpha) = (halves(3), halves(4), f16::from_f32(1.375));
    let mut case = Case::new("elementwise", &BOTH, "saxpy_half2").grid(3).block(128);
    let (a, b) = (case.input(&x), case.input(&y));
    case.value(alpha).buffers(&[a, b]).value(n as i32 / 8);
    // One rounding: the exact sum fits f64.
    let want: Vec<f16> =
        x.iter().zip(&y).map(|(x, y)| round_to_f16(alpha.to_f64() * x.to_f64() + y.to_f64())).collect();
    case.check(|out| assert_eq!(out.get::<f16>(b), want));
}

/// The nearest f16 of an exact value, ties to even.
fn round_to_f16(value: f64) -> f16 {
    let guess = f16::from_f32(value as f32).to_bits();
    [guess.wrapping_sub(1), guess, guess + 1]
        .map(f16::from_bits)
        .into_iter()
        .filter(|v| !v.is_nan())
        .min_by(|a, b| {
            let distance = |v: &f16| (v.to_f64() - value).abs();
            distance(a).total_cmp(&distance(b)).then((a.to_bits() & 1).cmp(&(b.to_bits() & 1)))
        })
        .unwrap()
}

#[test]
fn templates() {
    let n = 300;
    let doubles: Vec<f64> = random_f32(5, n).into_iter().map(|v| v as f64 * 1.1).collect();
    let longs: Vec<i64> = random_u64(6, n).into_iter().map(|v| v as i64 >> 33).collect();
    let bytes: Vec<i8> = random_u64(7, n).into_iter().map(|v| v as i8).collect();
    let shorts: Vec<u16> = random_u64(8, n).into_iter().map(|v| v as u16).collect();
    macro_rules! check {
        ($kernel:expr, $data:expr, $type:ty, $f:expr) => {
            let mut case = Case::new("elementwise", &BOTH, $kernel).grid(3).block(128);
            let b = case.input(&$data);
            case.buffers(&[b]).value(n as i32);
            let want: Vec<$type> = $data.iter().map($f).collect();
            case.check(|out| assert_eq!(out.get::<$type>(b), want));
        };
    }
    check!("square_f64", doubles, f64, |v| v * v);
    check!("square_i64", longs, i64, |v| v * v);
    check!("clamp_i8", bytes, i8, |v| (*v).clamp(-50, 50));
    check!("clamp_u16", shorts, u16, |v| (*v).clamp(100, 60000));
}

#[test]
fn divide() {
    let n = 256;
    let a: Vec<i64> = random_u64(9, n).into_iter().enumerate().map(|(i, v)| v as i64 >> (i % 63)).collect();
    let b: Vec<i64> =
        random_u64(10, n).into_iter().enumerate().map(|(i, v)| (v as i64 >> (i * 7 % 63)) | 1).collect();
    let mut case = Case::new("elementwise", &BOTH, "divide").grid(4).block(64);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<i64>(6 * n));
    case.buffers(&[x, y, o]).value(n as i32);
    let want: Vec<i64> = a
        .iter()
        .zip(&b)
        .flat_map(|(&x, &y)| {
            [
                x.wrapping_div(y),
                x.wrapping_rem(y),
                (x as u64 / y as u64) as i64,
                ((x >> 32) as i32).wrapping_div(y as i32 | 1) as i64,
                (x as u32 % (y as u32 | 1)) as i64,
                ((x as i128 * y as i128) >> 64) as i64,
            ]
        })
        .collect();
    case.check(|out| assert_eq!(out.get::<i64>(o), want));
}

#[test]
fn bits() {
    let n = 200;
    let words =
        |seed| -> Vec<u32> { random_u64(seed, n).into_iter().map(|v| v as u32 >> (v >> 60)).collect() };
    let (a, b) = (words(11), words(12));
    let mut case = Case::new("elementwise", &BOTH, "bits").grid(4).block(64);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<u32>(16 * n));
    case.buffers(&[x, y, o]).value(n as i32);
    let want: Vec<u32> = a
        .iter()
        .zip(&b)
        .flat_map(|(&x, &y)| {
            let pool = [x.to_le_bytes(), y.to_le_bytes()].concat();
            let permuted = u32::from_le_bytes([pool[3], pool[6], pool[1], pool[5]]);
            let dot: i32 = (0..4).map(|i| (x >> (8 * i)) as i8 as i32 * (y >> (8 * i)) as i8 as i32).sum();
            let signed24 = |v: u32| (v << 8) as i32 >> 8;
            let bytes: Vec<u8> =
                (0..4).map(|i| ((x >> (8 * i)) as u8).wrapping_add((y >> (8 * i)) as u8)).collect();
            [
                x.count_ones(),
                x.leading_zeros(),
                x.reverse_bits(),
                if x == 0 { 0 } else { x.trailing_zeros() + 1 },
                (((y as u64) << 32 | x as u64) << (y & 31) >> 32) as u32,
                permuted,
                (x & y) ^ (!x | (y >> 3)),
                dot.wrapping_add(7) as u32,
                ((x as u64 * y as u64) >> 32) as u32,
                (x as i32).abs_diff(y as i32).wrapping_add(3),
                x.count_ones() + y.count_ones(),
                (x as u64).wrapping_mul(y as u64).leading_zeros(),
                ((x as i32).min(y as i32) as u32).wrapping_add(x.max(y)),
                u32::from_le_bytes(bytes.try_into().unwrap()),
                signed24(x).wrapping_mul(signed24(y)) as u32,
                ((x as u64 + y as u64) >> 1) as u32,
            ]
        })
        .collect();
    case.check(|out| assert_eq!(out.get::<u32>(o), want));
}

#[test]
fn mathematics() {
    let n = 300;
    let x: Vec<f64> = random_f32(13, n).into_iter().map(|v| v as f64 * 8.0).collect();
    let mut case = Case::new("elementwise", &BOTH, "mathematics").grid(3).block(128);
    let (i, o) = (case.input(&x), case.output::<f64>(8 * n));
    case.buffers(&[i, o]).value(n as i32);
    case.check(|out| {
        let got = out.get::<f64>(o);
        for (v, got) in x.iter().zip(got.chunks(8)) {
            let want = [
                v.exp(),
                (v.abs() + 1e-3).ln(),
                v.sin(),
                v.abs().sqrt(),
                1.0 / (v * v + 1.0),
                (v.abs() + 0.5).powf(1.7),
                v.tanh(),
                v.mul_add(*v, v.floor()) + erf(*v),
            ];
            // The library promises 2 ulp; erf here is the looser side.
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let bound = if i == 7 { 1e-12 } else { 4.0 * f64::EPSILON };
                assert!((got - want).abs() <= bound * want.abs().max(1e-3), "[{i}] of {v}: {got:e} {want:e}");
            }
        }
    });
}

/// The error function by its Maclaurin series (|x| < 3) or 1 less the continued fraction of erfc.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut sum, mut term) = (x, x);
        for n in 1..80 {
            term *= -x * x / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let a = x.abs();
    let fraction = (1..100).rev().fold(a, |f, n| a + n as f64 / 2.0 / f);
    (1.0 - (-a * a).exp() / fraction / std::f64::consts::PI.sqrt()).copysign(x)
}

#[test]
fn mathematics_f32() {
    let n = 300;
    let x: Vec<f32> = random_f32(14, n).into_iter().map(|v| v * 4.0).collect();
    let mut case = Case::new("elementwise", &BOTH, "mathematics_f32").grid(3).block(128);
    let (i, o) = (case.input(&x), case.output::<f32>(12 * n));
    case.buffers(&[i, o]).value(n as i32);
    case.check(|out| {
        let got = out.get::<f32>(o);
        for (&x, got) in x.iter().zip(got.chunks(12)) {
            let v = x as f64;
            let round = |f: fn(f64) -> f64| f((x * 10.0) as f64);
            let want = [
                v.exp(),
                (v.abs() + 1e-3).ln(),
                v.sin(),
                v.exp(),
                1.0 / (v.abs() + 1.0).sqrt(),
                v / (v.abs() + 2.0),
                v.tanh(),
                v / 3.0,
                erf(v),
                v.abs().sqrt() + round(f64::round_ties_even) + round(f64::trunc) + round(f64::ceil),
                v.max(0.25) + v.min(-0.25) + 1f64.copysign(v),
                v.cos() + v.exp2() + (v.abs() + 1.0).log2(),
            ];
            for (i, (got, want)) in got.iter().zip(want).enumerate() {
                let bound = 4e-6 * want.abs().max(1.0);
                assert!((*got as f64 - want).abs() <= bound, "[{i}] of {v}: {got:e} {want:e}");
            }
        }
    });
}

#[test]
fn conversions() {
    let n = 500;
    let x: Vec<f32> = random_f32(15, n).into_iter().map(|v| v * 3.0).collect();
    let mut case = Case::new("elementwise", &BOTH, "conversions").grid(4).block(128);
    let (i, o) = (case.input(&x), case.output::<u32>(16 * n));
    case.buffers(&[i, o]).value(n as i32);
    case.check(|out| {
        let got = out.get::<u32>(o);
        for (&v, got) in x.iter().zip(got.chunks(16)) {
            let h = |bits: u32| f16::from_bits(bits as u16).to_f32();
            assert_eq!(got[0] as u16, f16::from_f32(v).to_bits(), "{v}");
            assert!(h(got[1]).abs() <= v.abs() && h(got[2]) >= v && h(got[3]) <= v, "{v}");
            assert!(got[1..4].iter().all(|&bits| (h(bits) - v).abs() <= v.abs() / 1024.0));
            assert_eq!(got[4] as u16, bf16::from_f32(v).to_bits());
            assert_eq!(got[5], v.to_bits() >> 16);
            let hundred = (v * 100.0) as f64;
            let integers =
                [hundred.round_ties_even(), hundred.trunc(), hundred.ceil().max(0.0), hundred.floor()];
            assert_eq!(got[6..10], integers.map(|w| w as i64 as u32), "{v}");
            let pair = f16::from_f32(v).to_bits() as u32 | (f16::from_f32(-v).to_bits() as u32) << 16;
            assert_eq!(got[10], pair);
            let exact = v as f64 * 1.1;
            let down = f32::from_bits(got[11]);
            assert!(down as f64 <= exact && down.next_up() as f64 > exact);
            let integer = v.to_bits() as i32;
            let cut = f32::from_bits(got[12]) as f64;
            assert!(cut.abs() <= (integer as f64).abs() && (cut - integer as f64).abs() < 256.0);
            assert_eq!(got[13], (((v * 1e12) as f64).round_ties_even() as i64 >> 16) as u32);
            let fp8 = got[14] as u8;
            let magnitude = match (fp8 >> 3 & 15, fp8 & 7) {
                (0, m) => m as f32 / 512.0,
                (e, m) => (1.0 + m as f32 / 8.0) * 2f32.powi(e as i32 - 7),
            };
            assert!((magnitude - v.abs()).abs() <= v.abs() / 16.0 + 1.0 / 1024.0, "{v} {fp8:x}");
        }
    });
}

#[test]
fn packed() {
    let n = 200;
    let halves = |seed| -> Vec<f16> { random_f32(seed, 2 * n).into_iter().map(f16::from_f32).collect() };
    let (a, b) = (halves(16), halves(17));
    let c: Vec<bf16> = random_f32(18, 2 * n).into_iter().map(bf16::from_f32).collect();
    let mut case = Case::new("elementwise", &BOTH, "packed").grid(2).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f16>(12 * n));
    let (z, p) = (case.input(&c), case.output::<bf16>(6 * n));
    case.buffers(&[x, y, o, z, p]).value(n as i32);
    case.check(|out| {
        let (got, got_bf16) = (out.get::<f16>(o), out.get::<bf16>(p));
        for i in 0..2 * n {
            let (x, y, z) = (a[i].to_f64(), b[i].to_f64(), c[i].to_f64());
            let got = |j: usize| got[12 * (i / 2) + 2 * j + i % 2];
            let sub = round_to_f16(x - y).to_f64();
            let want = [x + y, x * y, x * y + sub, x.max(-y), x.min(y.abs())];
            for (j, want) in want.into_iter().enumerate() {
                assert_eq!(got(j).to_f64(), round_to_f16(want).to_f64(), "[{j}] of {x} {y}");
            }
            let wide = |v: f64| bf16::from_f64(v).to_f64();
            let got = |j: usize| got_bf16[6 * (i / 2) + 2 * j + i % 2].to_f64();
            assert_eq!([got(0), got(1)], [wide(z * z + z), wide(z + 1.0)]);
            assert_eq!(got(2), z.max(wide(z * z)));
        }
    });
}

#[test]
fn tables() {
    let n = 128;
    let index: Vec<i32> = random_u64(19, n).into_iter().map(|v| v as i32).collect();
    let filled = [5i32, -3, 2, 7, 1, 0, 4, 9];
    let mut case = Case::new("elementwise", &BOTH, "tables").grid(2).block(64).symbol("kFilled", &filled);
    let (i, o) = (case.input(&index), case.output::<f32>(n));
    case.buffers(&[i, o]).value(n as i32);
    let want: Vec<f32> = (0..n)
        .map(|i| {
            let table = (index[i] & 15) + 1;
            let table = if table % 2 == 0 { -table } else { table };
            (table * filled[i % 8]) as f32 + b"nano"[i % 4] as f32
        })
        .collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));
}

#[test]
fn dispatch() {
    let n = 320;
    let op: Vec<i32> = (0..n as i32).map(|i| i * 7 % 12).collect();
    let x: Vec<i32> = random_u64(20, n).into_iter().map(|v| v as i32 >> 8).collect();
    let mut case = Case::new("elementwise", &BOTH, "dispatch").grid(5).block(64);
    let (a, b, o) = (case.input(&op), case.input(&x), case.output::<i32>(n));
    case.buffers(&[a, b, o]).value(n as i32);
    let want: Vec<i32> = op
        .iter()
        .zip(&x)
        .map(|(op, &v)| match op {
            0 => v.wrapping_add(3),
            1 => v.wrapping_mul(v),
            2 => !v,
            3 => v << 2,
            4 => v / 7,
            5 => v % 5,
            6 => v ^ 0x55,
            7 => (0..v & 15).fold(0i32, |r, j| r.wrapping_add(j.wrapping_mul(v))),
            8 => -v,
            9 => v.count_ones() as i32,
            _ => -1,
        })
        .collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}

#[test]
fn collatz() {
    let n = 200;
    let start: Vec<u32> = (1..=n as u32).map(|i| i * 37).collect();
    let mut case = Case::new("elementwise", &BOTH, "collatz").grid(2).block(128);
    let (a, o) = (case.input(&start), case.output::<u32>(n));
    case.buffers(&[a, o]).value(n as i32);
    let steps = |v: &u32| {
        let (mut v, mut count) = (*v as u64, 0u32);
        while v != 1 {
            v = if v % 2 == 1 { 3 * v + 1 } else { v / 2 };
            count += 1;
        }
        count
    };
    let want: Vec<u32> = start.iter().map(steps).collect();
    case.check(|out| assert_eq!(out.get::<u32>(o), want));
}

#[test]
fn arrays_on_the_stack() {
    let n = 9i32;
    let mut case = Case::new("calls", &["sm_80"], "stack_array").grid(1).block(64);
    let o = case.output::<i32>(64);
    case.buffers(&[o]).value(n);
    let sum = |t: i32, round: i32| -> i32 {
        let count = n + t % 3;
        (0..count).map(|i| (t + i * round) * (1 + (i + count) % 4)).sum()
    };
    let want: Vec<i32> = (0..64).map(|t| sum(t, 0) + sum(t, 1)).collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}

#[test]
fn calls() {
    let sm80 = ["sm_80"];
    let n: Vec<i32> = (0..40).map(|i| i % 11).collect();
    let mut case = Case::new("calls", &sm80, "recursive").grid(1).block(64);
    let (a, o) = (case.input(&n), case.output::<i32>(40));
    case.buffers(&[a, o]).value(40i32);
    let fibonacci = |n: &i32| (0..*n).fold((0, 1), |(a, b), _| (b, a + b)).0;
    let want: Vec<i32> = n.iter().map(fibonacci).collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));

    let x = random_f32(21, 100);
    let mut case = Case::new("calls", &sm80, "structures").grid(2).block(64);
    let (a, o) = (case.input(&x), case.output::<u8>(16 * 100));
    case.buffers(&[a, o]).value(100i32);
    case.check(|out| {
        for (i, pair) in out.get::<u8>(o).chunks(16).enumerate() {
            let sum = x[i] + x[(i + 1) % 100] + x[(i + 2) % 100] + x[(i + 3) % 100];
            assert_eq!(f32::from_le_bytes(pair[..4].try_into().unwrap()), sum);
            assert_eq!(f32::from_le_bytes(pair[4..8].try_into().unwrap()), 8.0 * x[i]);
            assert_eq!(i64::from_le_bytes(pair[8..].try_into().unwrap()), 7);
        }
    });

    let values: Vec<i32> = random_u64(22, 16 * 70).into_iter().map(|v| v as i32 >> 20).collect();
    for (n, holds) in [(64, true), (40, false)] {
        let mut case = Case::new("calls", &sm80, "asserting").grid(2).block(32);
        let o = case.output::<i32>(64);
        case.buffers(&[o]).value(n);
        if holds {
            case.check(|out| assert_eq!(out.get::<i32>(o), (0..64).map(|i| n - i).collect::<Vec<_>>()));
            continue;
        }
        let findings = case.run_first(Options::default()).findings;
        let [finding] = &findings[..] else { panic!("{findings:?}") };
        let text = finding.to_string();
        for part in [
            "assertion failed: assertion `i < n` failed at tests/cuda/calls.cu:62 in void asserting(int *, int) in 24 lanes",
            "CTA (1, 0, 0), warp 0, lane 8",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    let mut case = Case::new("calls", &sm80, "local_sort").grid(2).block(64);
    let (a, o) = (case.input(&values), case.output::<i32>(16 * 70));
    case.buffers(&[a, o]).value(70i32);
    let mut want = values.clone();
    want.chunks_mut(16).for_each(|c| c.sort());
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}
