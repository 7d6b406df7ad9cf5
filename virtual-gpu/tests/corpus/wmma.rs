//! `nvcuda::wmma`: every shape and type that nvcc compiles, in every layout.

use crate::support::{Case, Output, Value, assert_close, product, random_f32, random_u64, targets};
use half::{bf16, f16};

/// A matrix of `rows` x `columns` as a kernel reads it, and its values.
struct Matrix<T> {
    data: Vec<T>,
    stride: usize,
    values: Vec<f64>,
}

/// Lays values out by rows or columns, with `pad` elements of `filler` between them.
fn lay_out<T: Copy>(
    values: &[f64],
    [rows, columns]: [usize; 2],
    row_major: bool,
    pad: usize,
    filler: T,
    from: impl Fn(f64) -> T,
) -> Matrix<T> {
    let (lines, length) = if row_major { (rows, columns) } else { (columns, rows) };
    let stride = length + pad;
    let mut data = vec![filler; lines * stride];
    for (at, value) in values.iter().enumerate() {
        let (row, column) = (at / columns, at % columns);
        data[if row_major { row * stride + column } else { column * stride + row }] = from(*value);
    }
    Matrix { data, stride, values: values.to_vec() }
}

/// What is in a matrix of that layout.
fn read_back(data: &[f64], [rows, columns]: [usize; 2], row_major: bool, stride: usize) -> Vec<f64> {
    let at =
        |row: usize, column: usize| if row_major { row * stride + column } else { column * stride + row };
    (0..rows * columns).map(|i| data[at(i / columns, i % columns)]).collect()
}

/// A type of elements: how a number becomes one, and which numbers are tried.
struct Kind<T> {
    values: fn(u64, usize) -> Vec<f64>,
    from: fn(f64) -> T,
    /// Elements in 16 bytes: strides are multiples.
    step: usize,
}

const F16: Kind<f16> = Kind {
    values: |s, n| wide(&random_f32(s, n), |v| f16::from_f32(v).to_f64()),
    from: f16::from_f64,
    step: 8,
};
const BF16: Kind<bf16> = Kind {
    values: |s, n| wide(&random_f32(s, n), |v| bf16::from_f32(v).to_f64()),
    from: bf16::from_f64,
    step: 8,
};
// The low bits that tf32 does not have are passed over.
const TF32: Kind<f32> = Kind {
    values: |s, n| wide(&random_f32(s, n), |v| f64::from(f32::from_bits(v.to_bits() & !0x1fff))),
    from: |v| f32::from_bits((v as f32).to_bits() | 0x0123),
    step: 4,
};
const F32: Kind<f32> =
    Kind { values: |s, n| wide(&random_f32(s, n), f64::from), from: |v| v as f32, step: 4 };
const F64: Kind<f64> = Kind { values: |s, n| wide(&random_f32(s, n), f64::from), from: |v| v, step: 2 };
const S8: Kind<i8> = Kind { values: |s, n| integers(s, n, -128, 256), from: |v| v as i8, step: 16 };
const U8: Kind<u8> = Kind { values: |s, n| integers(s, n, 0, 256), from: |v| v as u8, step: 16 };
const S32: Kind<i32> = Kind { values: |s, n| integers(s, n, -1000, 2000), from: |v| v as i32, step: 4 };

fn wide(values: &[f32], f: impl Fn(f32) -> f64) -> Vec<f64> {
    values.iter().map(|v| f(*v)).collect()
}

fn integers(seed: u64, n: usize, lowest: i64, range: u64) -> Vec<f64> {
    random_u64(seed, n).into_iter().map(|v| (lowest + (v % range) as i64) as f64).collect()
}

/// Runs `d = a b + c` of one tile and hands the values wanted and got to `judge`.
fn check<T: Value, C: Value, D: Value>(
    (name, layouts): (&str, &str),
    [m, n, k]: [usize; 3],
    operands: &Kind<T>,
    sums: &Kind<C>,
    results: &Kind<D>,
    to_f64: impl Fn(D) -> f64,
    judge: impl Fn(&[f64], &[f64]),
) {
    let [a_rows, b_rows] = [0, 1].map(|i| &layouts[i..=i] == "r");
    let kernel = format!("{name}_m{m}n{n}k{k}_{layouts}");
    for pad in [0, 1] {
        let (a, b, c) = ((operands.values)(1, m * k), (operands.values)(2, k * n), (sums.values)(3, m * n));
        let large = (operands.from)(77.0);
        let a = lay_out(&a, [m, k], a_rows, pad * operands.step, large, operands.from);
        let b = lay_out(&b, [k, n], b_rows, pad * operands.step, large, operands.from);
        let c = lay_out(&c, [m, n], !a_rows, pad * sums.step, (sums.from)(55.0), sums.from);
        let stride = if a_rows { n } else { m } + pad * results.step;
        let untouched = vec![(results.from)(99.0); if a_rows { m } else { n } * stride];
        let mut case = Case::new("wmma", &targets::AMPERE, &kernel).grid(1).block(32);
        let (x, y, z, o) =
            (case.input(&a.data), case.input(&b.data), case.input(&c.data), case.input(&untouched));
        case.buffers(&[x, y, z, o]);
        [a.stride, b.stride, c.stride, stride].into_iter().for_each(|s| {
            case.value(s as i32);
        });
        let turned: Vec<f64> = (0..n * k).map(|i| b.values[i % k * n + i / k]).collect();
        let products = product(&a.values, &turned, m, n, k);
        let want: Vec<f64> = products.iter().zip(&c.values).map(|(p, c)| p + c).collect();
        case.check(|out: &Output| {
            let all: Vec<f64> = out.get::<D>(o).into_iter().map(&to_f64).collect();
            judge(&read_back(&all, [m, n], a_rows, stride), &want);
            let touched = all.iter().filter(|v| **v != 99.0).count();
            assert!(touched <= m * n, "{kernel} writes between the rows");
        });
    }
}

fn exact(got: &[f64], want: &[f64]) {
    assert_eq!(got, want);
}

/// Of f32 sums of 16 products below 1.
fn close(got: &[f64], want: &[f64]) {
    let got: Vec<f32> = got.iter().map(|v| *v as f32).collect();
    assert_close(&got, want, 16.0 * f64::from(f32::EPSILON), f64::from(f32::EPSILON));
}

/// Rounded to f16 at the end, and the sum before it.
fn close_f16(got: &[f64], want: &[f64]) {
    let got: Vec<f32> = got.iter().map(|v| *v as f32).collect();
    assert_close(&got, want, 1e-5, 2f64.powi(-11));
}

const LAYOUTS: [&str; 4] = ["rr", "rc", "cr", "cc"];
const SHAPES: [[usize; 3]; 3] = [[16, 16, 16], [32, 8, 16], [8, 32, 16]];

#[test]
fn sixteen_bit_operands() {
    for layouts in LAYOUTS {
        for shape in SHAPES {
            check(("f16", layouts), shape, &F16, &F32, &F32, f64::from, close);
            check(("bf16", layouts), shape, &BF16, &F32, &F32, f64::from, close);
        }
    }
}

#[test]
fn sums_in_f16() {
    let f16_to_f64 = |v: f16| v.to_f64();
    for (shape, layouts) in SHAPES.into_iter().zip(["rc", "cr", "rc"]) {
        check(("f16_narrow", layouts), shape, &F16, &F16, &F16, f16_to_f64, close_f16);
    }
    check(("f16_narrowing", "rc"), SHAPES[0], &F16, &F32, &F16, f16_to_f64, close_f16);
    check(("f16_widening", "cr"), SHAPES[0], &F16, &F16, &F32, f64::from, close);
}

#[test]
fn bytes() {
    for layouts in LAYOUTS {
        for shape in SHAPES {
            check(("s8", layouts), shape, &S8, &S32, &S32, f64::from, exact);
            check(("u8", layouts), shape, &U8, &S32, &S32, f64::from, exact);
        }
    }
}

#[test]
fn wide_operands() {
    for layouts in LAYOUTS {
        check(
            ("f64", layouts),
            [8, 8, 4],
            &F64,
            &F64,
            &F64,
            |v| v,
            |got, want| {
                got.iter()
                    .zip(want)
                    .for_each(|(g, w)| assert!((g - w).abs() <= 4.0 * f64::EPSILON, "{g} {w}"));
            },
        );
        check(("tf32", layouts), [16, 16, 8], &TF32, &F32, &F32, f64::from, close);
    }
}

/// Packs elements of `bits` bits, lowest first.
fn packed(values: &[i64], bits: usize) -> Vec<u32> {
    let pack = |chunk: &[i64]| {
        let mask = u64::MAX >> (64 - bits);
        chunk.iter().enumerate().fold(0, |word, (i, v)| word | ((*v as u64 & mask) << (bits * i)) as u32)
    };
    values.chunks(32 / bits).map(pack).collect()
}

#[test]
fn half_bytes() {
    for (name, lowest) in [("s4", -8), ("u4", 0)] {
        let values = |seed| -> Vec<i64> {
            random_u64(seed, 8 * 32).into_iter().map(|v| lowest + (v % 16) as i64).collect()
        };
        // B by columns: column after column.
        let (a, b) = (values(4), values(5));
        let c: Vec<i32> = (0..64).map(|i| 10 * i - 300).collect();
        let mut case = Case::new("wmma", &targets::AMPERE, &format!("{name}_m8n8k32_rc")).grid(1).block(32);
        let (x, y, z, o) =
            (case.input(&packed(&a, 4)), case.input(&packed(&b, 4)), case.input(&c), case.output::<i32>(64));
        case.buffers(&[x, y, z, o]).value(32i32).value(32i32).value(8i32).value(8i32);
        // C lies by columns.
        let want: Vec<i32> = (0..64)
            .map(|at| {
                let (row, column) = (at / 8, at % 8);
                let sum: i64 = (0..32).map(|k| a[32 * row + k] * b[32 * column + k]).sum();
                sum as i32 + c[8 * column + row]
            })
            .collect();
        case.check(|out| assert_eq!(out.get::<i32>(o), want));
    }
}

#[test]
fn single_bits() {
    let words = |seed| -> Vec<u32> { random_u64(seed, 32).into_iter().map(|v| v as u32).collect() };
    let (a, b) = (words(6), words(7));
    let mut case = Case::new("wmma", &targets::AMPERE, "bits").grid(1).block(32);
    let (x, y) = (case.input(&a), case.input(&b));
    let (differ, both) = (case.output::<i32>(64), case.output::<i32>(64));
    case.buffers(&[x, y, differ, both]);
    let count = |f: fn(u32, u32) -> u32, start: u32| -> Vec<i32> {
        let bits =
            |at: usize| (0..4).map(|w| f(a[at / 8 * 4 + w], b[at % 8 * 4 + w]).count_ones()).sum::<u32>();
        (0..64).map(|at| (bits(at) + start) as i32).collect()
    };
    case.check(|out| {
        assert_eq!(out.get::<i32>(differ), count(|x, y| x ^ y, 0));
        assert_eq!(out.get::<i32>(both), count(|x, y| x & y, 1));
    });
}

#[test]
fn saturation() {
    let a = vec![127i8; 256];
    let b: Vec<i8> = (0..256).map(|i| if i / 16 % 2 == 0 { 127 } else { -128 }).collect();
    let c: Vec<i32> = (0..256).map(|i| if i % 2 == 0 { i32::MAX - i } else { i32::MIN + i }).collect();
    let mut case = Case::new("wmma", &targets::AMPERE, "saturating").grid(1).block(32);
    let (x, y, z) = (case.input(&a), case.input(&b), case.input(&c));
    let (stops, wraps) = (case.output::<i32>(256), case.output::<i32>(256));
    case.buffers(&[x, y, z, stops, wraps]);
    let sum = |at: usize| i64::from(c[at]) + 16 * 127 * i64::from(b[at % 16 * 16]);
    case.check(|out| {
        let clamped: Vec<i32> =
            (0..256).map(|at| sum(at).clamp(i32::MIN.into(), i32::MAX.into()) as i32).collect();
        assert_eq!(out.get::<i32>(stops), clamped);
        assert_eq!(out.get::<i32>(wraps), (0..256).map(|at| sum(at) as i32).collect::<Vec<_>>());
    });
}

#[test]
fn a_product_of_tiles() {
    for k in [32, 96] {
        let (a, b) = ((F16.values)(8, 64 * k), (F16.values)(9, 64 * k));
        let c = random_f32(10, 64 * 64);
        let narrow = |v: &[f64]| -> Vec<f16> { v.iter().map(|v| f16::from_f64(*v)).collect() };
        let mut case = Case::new("wmma", &targets::AMPERE, "gemm").grid(1).block(128);
        let (x, y, o) = (case.input(&narrow(&a)), case.input(&narrow(&b)), case.input(&c));
        case.buffers(&[x, y, o]).value(k as i32).value(0.5f32).value(-2.0f32);
        let products = product(&a, &b, 64, 64, k);
        let want: Vec<f64> = products.iter().zip(&c).map(|(p, c)| 0.5 * p - 2.0 * f64::from(*c)).collect();
        case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-5, 1e-6));
    }
}
