//! What some of the kernels must compute, by the tables of the PTX ISA and plain loops.

use crate::kernels::{Input, Map, Vector};

/// The words of the output, where there is a reference for the kernel.
pub fn expected(v: &Vector) -> Option<Vec<u32>> {
    match v.family {
        "ldmatrix" | "movmatrix" => Some(matrix_load(v)),
        "stmatrix" => Some(matrix_store(v)),
        "mma" if !v.name.contains("f64") => Some(warp_product(v)),
        "wgmma" if !v.name.starts_with("layout") => Some(warpgroup_product(v)),
        "tma_load" | "tma_store" if v.map.as_ref().is_some_and(|m| m.swizzle == 0) => tensor_copy(v),
        _ => None,
    }
}

fn words(data: &[u8]) -> Vec<u32> {
    data.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect()
}

fn half_at(data: &[u8], at: usize) -> u32 {
    u16::from_le_bytes([data[at], data[at + 1]]).into()
}

/// Where lane `l`'s row of eight b16 begins.
fn row_at(lane: usize) -> usize {
    48 * ((5 * lane + 3) % 32)
}

/// Lane `l` holds of each matrix elements (row l/4, columns 2(l mod 4) and one on), or those of the transposed one.
fn matrix_load(v: &Vector) -> Vec<u32> {
    let data = v.input.data();
    let trans = v.name.contains(".trans");
    if v.name.starts_with("movmatrix") {
        let w = words(&data);
        let element = |row: usize, col: usize| w[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff;
        return (0..32)
            .map(|l| element(2 * (l % 4), l / 4) | element(2 * (l % 4) + 1, l / 4) << 16)
            .collect();
    }
    (0..v.out_words)
        .map(|i| {
            let (matrix, lane) = (i / 32, i % 32);
            let element = |row: usize, col: usize| {
                let (row, col) = if trans { (col, row) } else { (row, col) };
                half_at(&data, row_at(8 * matrix + row) + 2 * col)
            };
            element(lane / 4, 2 * (lane % 4)) | element(lane / 4, 2 * (lane % 4) + 1) << 16
        })
        .collect()
}

fn matrix_store(v: &Vector) -> Vec<u32> {
    let registers = words(&v.input.data());
    let count: usize = v.name.split(".x").nth(1).and_then(|r| r[..1].parse().ok()).expect("a count");
    let mut memory = vec![0xa5u8; 2048];
    for (i, value) in registers[..32 * count].iter().enumerate() {
        let (matrix, lane) = (i / 32, i % 32);
        for part in 0..2 {
            let (row, col) = (lane / 4, 2 * (lane % 4) + part);
            let (row, col) = if v.name.contains(".trans") { (col, row) } else { (row, col) };
            let at = row_at(8 * matrix + row) + 2 * col;
            memory[at..at + 2].copy_from_slice(&((value >> (16 * part)) as u16).to_le_bytes());
        }
    }
    words(&memory)
}

/// An element of a type, at a bit of a register.
fn element(ty: &str, register: u32, index: usize) -> f64 {
    let eight = |bits: u32, exponent_bits: u32, mantissa_bits: u32| -> f64 {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let (e, m) = (bits >> mantissa_bits & ((1 << exponent_bits) - 1), bits & ((1 << mantissa_bits) - 1));
        let fraction = f64::from(m) / f64::from(1 << mantissa_bits);
        let magnitude = if e == 0 {
            fraction * 2f64.powi(1 - bias)
        } else {
            (1.0 + fraction) * 2f64.powi(e as i32 - bias)
        };
        if bits & 0x80 != 0 { -magnitude } else { magnitude }
    };
    let byte = register >> (8 * (index % 4)) & 0xff;
    let half = (register >> (16 * (index % 2))) as u16;
    match ty {
        "f16" => half::f16::from_bits(half).to_f64(),
        "bf16" => half::bf16::from_bits(half).to_f64(),
        "tf32" => f32::from_bits(register & !0x1fff).into(),
        "e4m3" => eight(byte, 4, 3),
        "e5m2" => eight(byte, 5, 2),
        "s8" => f64::from(byte as u8 as i8),
        _ => byte.into(),
    }
}

fn per_register(ty: &str) -> usize {
    match ty {
        "f16" | "bf16" => 2,
        "tf32" => 1,
        _ => 4,
    }
}

/// A sum in the accumulator's type.
fn pack(sum: &str, values: &[f64]) -> u32 {
    match sum {
        "f16" => values.iter().rev().fold(0, |r, v| r << 16 | u32::from(half::f16::from_f64(*v).to_bits())),
        "s32" => values[0] as i64 as i32 as u32,
        _ => (values[0] as f32).to_bits(),
    }
}

/// mma.m16n8k: fragments as section 9.7.14.5 draws them, `g` = lane / 4 and `t` = lane mod 4.
fn warp_product(v: &Vector) -> Vec<u32> {
    let parts: Vec<&str> = v.name.split('.').collect();
    let k: usize = parts[3].split_once('k').and_then(|(_, k)| k.parse().ok()).expect("a depth");
    let &[sum, a, b, _] = &parts[parts.len() - 4..] else { panic!("four types") };
    let e = per_register(a);
    let (na, nb, nc) = (k * 16 / 32 / e, k * 8 / 32 / e, if sum == "f16" { 2 } else { 4 });
    let w = words(&v.input.data());
    let (mut x, mut y) = (vec![0.0; 16 * k], vec![0.0; 8 * k]);
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for r in 0..na {
            for i in 0..e {
                x[(g + 8 * (r % 2)) * k + e * t + 4 * e * (r / 2) + i] = element(a, w[32 * r + lane], i);
            }
        }
        for r in 0..nb {
            for i in 0..e {
                y[g * k + e * t + 4 * e * r + i] = element(b, w[32 * (na + r) + lane], i);
            }
        }
    }
    let mut out = vec![0; 32 * nc];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        let dot = |row: usize, col: usize| -> f64 { (0..k).map(|j| x[row * k + j] * y[col * k + j]).sum() };
        // What the kernel puts into C.
        let start = |r: usize| (lane % 8) as f64 + r as f64 - 3.0;
        for r in 0..nc {
            out[32 * r + lane] = if sum == "f16" {
                let row = g + 8 * r;
                pack(sum, &[dot(row, 2 * t) - start(r), dot(row, 2 * t + 1) + start(r)])
            } else {
                let scale = if sum == "s32" { 100_000.0 } else { 1.0 };
                pack(sum, &[dot(g + 8 * (r / 2), 2 * t + r % 2) + scale * start(r)])
            };
        }
    }
    out
}

/// wgmma without swizzle: core matrices of 8 rows and 16 bytes, two in K, one after the other.
fn warpgroup_product(v: &Vector) -> Vec<u32> {
    let opcode = v.name.split(' ').next().expect("an opcode");
    let parts: Vec<&str> = opcode.split('.').collect();
    let (n, k) = parts[4].strip_prefix("m64n").and_then(|r| r.split_once('k')).expect("a shape");
    let (n, k): (usize, usize) = (n.parse().expect("N"), k.parse().expect("K"));
    let (sum, a, b) = (parts[5], parts[6], parts[7]);
    let w = words(&v.input.data());
    let at = |ty: &str, start: usize, row: usize, j: usize| -> f64 {
        let byte = j * 32 / k;
        let address = start + row / 8 * 256 + byte / 16 * 128 + row % 8 * 16 + byte % 16;
        element(ty, w[address / 4], j % per_register(ty))
    };
    let scales: Vec<f64> = match v.name.split_once("scales ") {
        Some((_, s)) => s.split(' ').map(|x| x.parse().expect("a scale")).collect(),
        None => vec![1.0, 1.0],
    };
    let in_registers = v.name.contains("in registers");
    let of_a = |row: usize, j: usize| -> f64 {
        if !in_registers {
            return at(a, 0, row, j);
        }
        // As the A of an mma: four registers a thread.
        let e = per_register(a);
        let (unit, inside) = (j / (4 * e), j % (4 * e));
        let (register, lane) = (row / 8 % 2 + 2 * unit, row % 8 * 4 + inside / e);
        element(a, w[128 * register + 32 * (row / 16) + lane], inside % e)
    };
    let half = sum == "f16";
    let count = if half { n / 4 } else { n / 2 };
    let mut out = vec![0; 128 * count];
    for thread in 0..128 {
        let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
        let value = |i: usize| -> f64 {
            let (row, col) = (16 * warp + g + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * t + i % 2);
            let product: f64 = (0..k).map(|j| of_a(row, j) * at(b, 4096, col, j)).sum();
            let start = match sum {
                _ if v.name.contains("scale-d 0") => 0.0,
                "s32" => 1000.0,
                "f16" => [2.0, 1.0][i % 2],
                _ => 2.0,
            };
            scales[0] * scales[1] * product + start
        };
        for r in 0..count {
            out[128 * r + thread] =
                if half { pack(sum, &[value(2 * r), value(2 * r + 1)]) } else { pack(sum, &[value(r)]) };
        }
    }
    out
}

/// A box without swizzle: element by element, those outside left out or filled.
fn tensor_copy(v: &Vector) -> Option<Vec<u32>> {
    let map: &Map = v.map.as_ref()?;
    assert_eq!(v.input, Input::Bytes);
    let bytes = [1, 2, 4, 4, 8, 8, 2, 4, 8, 2][map.data_type as usize];
    let braces = v.body.split("[%x1, {").nth(1)?.split('}').next()?;
    let start: Vec<i64> = braces.split(", ").map(|c| c.parse().expect("a coordinate")).collect();
    let load = v.family == "tma_load";
    let input = v.input.data();
    let mut out = vec![if load { 0xa5u8 } else { 0x5a }; 4 * v.out_words];
    // NaN of the type.
    let nan: &[u8] = match bytes {
        2 => &[0xff, 0x7f],
        4 => &[0xff, 0xff, 0xff, 0x7f],
        _ => &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    };
    let counts: Vec<usize> = map
        .box_dims
        .iter()
        .zip(&map.steps)
        .enumerate()
        .map(|(i, (b, s))| (if i == 0 { *b } else { b.div_ceil(*s) }) as usize)
        .collect();
    for number in 0..counts.iter().product::<usize>() {
        let (mut rest, mut at, mut inside) = (number, 0u64, true);
        for (d, count) in counts.iter().enumerate() {
            let index = start[d] + (rest % count) as i64 * if d == 0 { 1 } else { i64::from(map.steps[d]) };
            rest /= count;
            inside &= index >= 0 && index < map.dims[d] as i64;
            let stride = if d == 0 { bytes as u64 } else { map.strides[d - 1] };
            at = at.wrapping_add((index as u64).wrapping_mul(stride));
        }
        let here = number * bytes..number * bytes + bytes;
        if load {
            let fill = if map.nan_fill { nan.to_vec() } else { vec![0; bytes] };
            let from = if inside { input[at as usize..at as usize + bytes].to_vec() } else { fill };
            out[here].copy_from_slice(&from);
        } else if inside {
            let target = &mut out[at as usize..at as usize + bytes];
            let old = u32::from_le_bytes([0x5a; 4]);
            let new = || u32::from_le_bytes(input[here.clone()].try_into().expect("4 bytes"));
            match v.name.strip_prefix("reduce ").map(|r| &r[..3]) {
                Some("add") => target.copy_from_slice(&old.wrapping_add(new()).to_le_bytes()),
                Some("xor") => target.copy_from_slice(&(old ^ new()).to_le_bytes()),
                Some(_) => target.copy_from_slice(&old.min(new()).to_le_bytes()),
                None => target.copy_from_slice(&input[here]),
            }
        }
    }
    Some(words(&out))
}
