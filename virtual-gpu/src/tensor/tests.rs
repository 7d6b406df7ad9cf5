//! Layouts against the tables of the PTX ISA written out, and products against plain loops in f64.

use super::descriptor::{Descriptor, Major, Swizzle};
use super::element::{Accumulator, Element};
use super::mma::{Mma, MmaF64};
use super::tma::{DataType, Fill, Segment, TensorMap};
use super::wgmma::{M, Operand, Tile, Wgmma};
use super::{Lanes, matrix};
use crate::numeric::tests::Random;

/// A value of `element` near 1 and its bits, right-aligned.
fn value(random: &mut Random, element: Element) -> (f64, u32) {
    let r = random.next();
    let x = (r % 2001) as f32 / 1000.0 - 1.0;
    match element {
        Element::F16 => (half::f16::from_f32(x).to_f64(), half::f16::from_f32(x).to_bits().into()),
        Element::Bf16 => (half::bf16::from_f32(x).to_f64(), half::bf16::from_f32(x).to_bits().into()),
        // The low bits must be ignored.
        Element::Tf32 => (f32::from_bits(x.to_bits() & !0x1fff).into(), x.to_bits()),
        Element::S8 => ((r as i8).into(), (r as u8).into()),
        Element::U8 => ((r as u8).into(), (r as u8).into()),
        Element::E4m3 | Element::E5m2 => {
            // Exponents near the bias, so that sums of products stay exact enough to compare.
            let bits = (r as u8) & 0x8f | 0x30;
            (element.to_f32(bits.into(), 0).into(), bits.into())
        }
    }
}

/// Row and column of A element `i` (counted over all registers) as the tables of 9.7.14.5 give them.
fn table_a(element: Element, k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, tid) = (lane >> 2, lane % 4);
    match (element.bytes(), k) {
        (2, 8) => (if i < 2 { group } else { group + 8 }, tid * 2 + (i & 1)),
        (2, 16) => {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            (row, tid * 2 + (i & 1) + if i >= 4 { 8 } else { 0 })
        }
        (4, 4) => (if i == 0 { group } else { group + 8 }, tid),
        (4, _) => (if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { tid } else { tid + 4 }),
        (_, 16) => (if i < 4 { group } else { group + 8 }, tid * 4 + (i & 3)),
        _ => {
            let row = if i < 4 || (8..12).contains(&i) { group } else { group + 8 };
            (row, tid * 4 + (i & 3) + if i >= 8 { 16 } else { 0 })
        }
    }
}

/// Row and column of B element `i`, likewise.
fn table_b(element: Element, lane: usize, i: usize) -> (usize, usize) {
    let (group, tid) = (lane >> 2, lane % 4);
    let row = match element.bytes() {
        2 => tid * 2 + (i & 1) + if i >= 2 { 8 } else { 0 },
        4 => tid + 4 * i,
        _ => tid * 4 + (i & 3) + if i >= 4 { 16 } else { 0 },
    };
    (row, group)
}

fn all_mma() -> Vec<(Mma, usize, [Element; 2], [Accumulator; 2])> {
    use Element::*;
    let mut found = Vec::new();
    for a in [F16, Bf16, Tf32, E4m3, E5m2, S8, U8] {
        for b in [F16, Bf16, Tf32, E4m3, E5m2, S8, U8] {
            for k in [4, 8, 16, 32] {
                for c in [Accumulator::F32, Accumulator::F16, Accumulator::S32] {
                    for d in [Accumulator::F32, Accumulator::F16, Accumulator::S32] {
                        if let Some(mma) = Mma::new((16, 8, k), (a, b), (c, d), false) {
                            found.push((mma, k, [a, b], [c, d]));
                        }
                    }
                }
            }
        }
    }
    found
}

#[test]
fn mma_agrees_with_the_tables_and_plain_loops() {
    let mut random = Random(21);
    let all = all_mma();
    assert_eq!(all.len(), 4 * 2 + 2 + 2 + 4 * 2 * 4 + 4 * 2, "every shape and type");
    for (mma, k, [ta, tb], [tc, td]) in all {
        let counts = mma.registers();
        let (mut a, mut b) = (vec![[0; 32]; counts.a], vec![[0; 32]; counts.b]);
        let (mut c, mut d) = (vec![[0; 32]; counts.c], vec![[0; 32]; counts.d]);
        let (mut am, mut bm, mut cm) = (vec![f64::NAN; 16 * k], vec![f64::NAN; 8 * k], [0f64; 128]);
        for lane in 0..32 {
            for i in 0..counts.a * ta.per_register() {
                let (x, bits) = value(&mut random, ta);
                let (row, col) = table_a(ta, k, lane, i);
                am[row * k + col] = x;
                let bits = bits << (8 * ta.bytes() * (i % ta.per_register()) % 32);
                a[i / ta.per_register()][lane] |= bits;
            }
            for i in 0..counts.b * tb.per_register() {
                let (x, bits) = value(&mut random, tb);
                let (row, col) = table_b(tb, lane, i);
                bm[row * 8 + col] = x;
                b[i / tb.per_register()][lane] |= bits << (8 * tb.bytes() * (i % tb.per_register()) % 32);
            }
            for i in 0..4 {
                let at = (if i < 2 { lane >> 2 } else { (lane >> 2) + 8 }) * 8 + lane % 4 * 2 + (i & 1);
                let x = (random.next() % 17) as i32 - 8;
                cm[at] = x.into();
                match tc {
                    Accumulator::F32 => c[i][lane] = (x as f32).to_bits(),
                    Accumulator::S32 => c[i][lane] = x as u32,
                    Accumulator::F16 => {
                        c[i / 2][lane] |= (half::f16::from_f32(x as f32).to_bits() as u32) << (16 * (i % 2))
                    }
                }
            }
        }
        assert!(am.iter().chain(&bm).all(|x| !x.is_nan()), "the tables cover A and B");
        mma.run(&a, &b, &c, &mut d);
        for lane in 0..32 {
            for i in 0..4 {
                let row = if i < 2 { lane >> 2 } else { (lane >> 2) + 8 };
                let col = lane % 4 * 2 + (i & 1);
                let products = (0..k).map(|j| am[row * k + j] * bm[j * 8 + col]);
                let size: f64 = products.clone().map(f64::abs).sum::<f64>() + cm[row * 8 + col].abs();
                let want = products.sum::<f64>() + cm[row * 8 + col];
                let (got, bound) = match td {
                    Accumulator::F32 => {
                        (f32::from_bits(d[i][lane]) as f64, size * (k + 1) as f64 * 2f64.powi(-24))
                    }
                    Accumulator::S32 => (d[i][lane] as i32 as f64, 0.0),
                    Accumulator::F16 => {
                        let half = half::f16::from_bits((d[i / 2][lane] >> (16 * (i % 2))) as u16).to_f64();
                        (half, want.abs() * 2f64.powi(-11) + size * 2f64.powi(-19) + 1e-7)
                    }
                };
                assert!((got - want).abs() <= bound, "{mma:?} [{row}, {col}] {got} expected {want}");
            }
        }
    }
    let saturating =
        Mma::new((16, 8, 16), (Element::U8, Element::S8), (Accumulator::S32, Accumulator::S32), true);
    let mut d = [[0; 32]; 4];
    let full = [[u32::MAX; 32]; 2];
    saturating.unwrap().run(&full, &full[..1], &[[0x8000_0001; 32]; 4], &mut d);
    assert_eq!(d[0][0], i32::MIN as u32);
}

/// An undefined element must show exactly where a NaN in its place shows.
#[test]
fn mma_poison_spreads_as_nan_does() {
    let mut random = Random(22);
    for (mma, _, [ta, tb], [tc, td]) in all_mma() {
        if ta.is_integer() {
            continue;
        }
        let nan = |element: Element| if element.bytes() == 1 { 0x7f7f_7f7f } else { 0x7fff_7fff };
        let counts = mma.registers();
        for _ in 0..20 {
            let (mut a, mut b, mut c) =
                (vec![[0u32; 32]; counts.a], vec![[0u32; 32]; counts.b], vec![[0u32; 32]; counts.c]);
            let (mut pa, mut pb, mut pc) = (vec![0u32; counts.a], vec![0u32; counts.b], vec![0u32; counts.c]);
            for _ in 0..random.next() % 3 {
                let (r, lane) = (random.next() as usize, random.next() as usize % 32);
                match random.next() % 3 {
                    0 => (a[r % counts.a][lane], pa[r % counts.a]) = (nan(ta), pa[r % counts.a] | 1 << lane),
                    1 => (b[r % counts.b][lane], pb[r % counts.b]) = (nan(tb), pb[r % counts.b] | 1 << lane),
                    _ => {
                        (c[r % counts.c][lane], pc[r % counts.c]) =
                            (0x7fff_7fff, pc[r % counts.c] | 1 << lane)
                    }
                }
            }
            let (mut d, mut pd) = (vec![[0; 32]; counts.d], vec![0; counts.d]);
            mma.run(&a, &b, &c, &mut d);
            mma.poison(&pa, &pb, &pc, &mut pd);
            let is_nan = |bits: u32| match td {
                Accumulator::F16 => bits & 0x7fff > 0x7c00 || bits >> 16 & 0x7fff > 0x7c00,
                _ => f32::from_bits(bits).is_nan(),
            };
            for (register, poison) in d.iter().zip(pd) {
                for lane in 0..32 {
                    assert_eq!(is_nan(register[lane]), poison >> lane & 1 != 0, "{mma:?} {tc:?} lane {lane}");
                }
            }
        }
    }
}

#[test]
fn f64_mma_agrees_with_plain_loops() {
    let mut random = Random(23);
    for (m, k) in [(8, 4), (16, 4), (16, 8), (16, 16)] {
        let mma = MmaF64::new((m, 8, k)).unwrap();
        let counts = mma.registers();
        let mut fill = |count: usize| -> Vec<[u64; 32]> {
            (0..count)
                .map(|_| std::array::from_fn(|_| ((random.next() % 9) as f64 - 4.0).to_bits()))
                .collect()
        };
        let (a, b, c) = (fill(counts.a), fill(counts.b), fill(counts.c));
        let mut d = vec![[0; 32]; counts.d];
        mma.run(&a, &b, &c, &mut d);
        let (mut am, mut bm) = (vec![0.0; m * k], vec![0.0; 8 * k]);
        for lane in 0..32 {
            for r in 0..counts.a {
                let row = lane / 4 + if m == 16 && r % 2 == 1 { 8 } else { 0 };
                let col = lane % 4 + if m == 16 { 4 * (r / 2) } else { 0 };
                am[row * k + col] = f64::from_bits(a[r][lane]);
            }
            (0..counts.b).for_each(|r| bm[(lane % 4 + 4 * r) * 8 + lane / 4] = f64::from_bits(b[r][lane]));
        }
        for lane in 0..32 {
            for i in 0..counts.d {
                let (row, col) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
                let want = (0..k).map(|j| am[row * k + j] * bm[j * 8 + col]).sum::<f64>()
                    + f64::from_bits(c[i][lane]);
                assert_eq!(f64::from_bits(d[i][lane]), want);
            }
        }
        let mut pa = vec![0; counts.a];
        let mut pd = vec![0; counts.d];
        pa[0] = 1 << 5;
        mma.poison(&pa, &vec![0; counts.b], &vec![0; counts.c], &mut pd);
        assert_eq!(pd[..2], [0xf0, 0xf0], "row 1 alone");
        assert!(pd[2..].iter().all(|&mask| mask == 0));
    }
}

#[test]
fn ldmatrix_gives_each_lane_its_two_elements() {
    // Element (row, col) holds 100 row + col.
    let rows: [[u8; 16]; 8] =
        std::array::from_fn(|r| std::array::from_fn(|b| ((100 * r + b / 2) as u16).to_le_bytes()[b % 2]));
    let (plain, turned) = (matrix::load(&rows, false), matrix::load(&rows, true));
    for lane in 0..32u32 {
        let (row, col) = (lane / 4, lane % 4 * 2);
        assert_eq!(plain[lane as usize], (100 * row + col) | (100 * row + col + 1) << 16);
        assert_eq!(turned[lane as usize], (100 * col + row) | (100 * (col + 1) + row) << 16);
    }
    for trans in [false, true] {
        assert_eq!(matrix::store(&matrix::load(&rows, trans), trans), rows);
    }
    assert_eq!(matrix::transpose(&plain), turned);
    assert_eq!(matrix::halves(2, 5, false)[0], matrix::Source { lane: 17, byte: 4 });
    // Row 3's byte 5 is the high byte of its column 2: lanes 13 (plain), and 9 (column 2, rows 2 and 3).
    let mut undefined = [0; 8];
    undefined[3] = 1 << 5;
    assert_eq!(matrix::load_poison(&undefined, false), 1 << 13);
    assert_eq!(matrix::load_poison(&undefined, true), 1 << 9);
    assert_eq!(matrix::store_poison(1 << 13, false), [0, 0, 0, 0xf0, 0, 0, 0, 0]);
    assert_eq!(matrix::transpose_poison(1 << 13), 1 << 9 | 1 << 13);
}

#[test]
fn swizzled_k_major_operands_are_where_a_tensor_copy_puts_them() {
    for (swizzle, span) in [(Swizzle::B32, 32u32), (Swizzle::B64, 64), (Swizzle::B128, 128)] {
        for size in [1usize, 2, 4] {
            let rows = 64;
            let types = [DataType::U8, DataType::Bf16, DataType::U8, DataType::F32];
            let inner = span / size as u32;
            let map = TensorMap {
                swizzle,
                ..TensorMap::dense(types[size - 1], 0, &[inner.into(), rows], &[inner, rows as u32])
            };
            let shared = 4096;
            let mut at = vec![0; (span as u64 * rows) as usize];
            map.segments(&[0, 0], shared, |s| {
                (0..s.length as u64).for_each(|i| at[(s.global.unwrap() + i) as usize] = s.shared + i as u32);
            });
            // Steps of 32 bytes along k move the start address inside the swizzled row.
            for step in 0..span / 32 {
                let descriptor = Descriptor {
                    start: shared + 32 * step,
                    leading: 16,
                    stride: 8 * span,
                    base_offset: 0,
                    swizzle,
                };
                let descriptor = Descriptor::decode(descriptor.encode());
                for row in 0..rows as usize {
                    for k in 0..32 / size {
                        let byte = row * span as usize + 32 * step as usize + k * size;
                        assert_eq!(
                            descriptor.address(row, k, size, Major::K),
                            at[byte],
                            "{swizzle:?} {row} {k}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn mn_major_operands_are_where_a_tensor_copy_puts_them() {
    // A tensor [k][mn] copied with the box [16][64 * n] in blocks of 64 (128 bytes) of mn.
    let (swizzle, k, blocks) = (Swizzle::B128, 16, 2usize);
    let map = TensorMap { swizzle, ..TensorMap::dense(DataType::Bf16, 0, &[128, 16], &[64, 16]) };
    let mut at = vec![0; 128 * 16 * 2];
    for block in 0..blocks {
        map.segments(&[64 * block as i32, 0], 1024 + 2048 * block as u32, |s| {
            (0..s.length as u64).for_each(|i| at[(s.global.unwrap() + i) as usize] = s.shared + i as u32);
        });
    }
    let descriptor = Descriptor { start: 1024, leading: 2048, stride: 1024, base_offset: 0, swizzle };
    for row in 0..128 {
        for k in 0..k {
            assert_eq!(descriptor.address(row, k, 2, Major::Mn), at[(k * 128 + row) * 2]);
        }
    }
    // Without swizzle: core matrices of 8 x 16 bytes, each contiguous.
    let plain = Descriptor { start: 0, leading: 128, stride: 256, base_offset: 0, swizzle: Swizzle::None };
    assert_eq!(plain.address(9, 10, 2, Major::K), 256 + 16 + 128 + 4);
    assert_eq!(plain.address(9, 10, 2, Major::Mn), 256 + 2 + 128 + 32);
    for major in [Major::K, Major::Mn] {
        let mut seen: Vec<_> = plain.chunks(64, 16, 2, major).map(|c| c.address).collect();
        seen.sort();
        assert_eq!(seen, (0..128).map(|i| 16 * i).collect::<Vec<_>>(), "a permutation of 2 KiB");
    }
}

#[test]
fn wgmma_agrees_with_plain_loops() {
    use Element::*;
    let mut random = Random(24);
    let f = [Accumulator::F32, Accumulator::F16];
    let cases: [(Element, Element, &[Accumulator]); 8] = [
        (F16, F16, &f),
        (Bf16, Bf16, &f[..1]),
        (Tf32, Tf32, &f[..1]),
        (E4m3, E5m2, &f),
        (E5m2, E4m3, &f),
        (S8, U8, &[Accumulator::S32]),
        (U8, S8, &[Accumulator::S32]),
        (S8, S8, &[Accumulator::S32]),
    ];
    for (ta, tb, sums) in cases {
        for n in [8, 24, 64, 176, 256] {
            for &td in sums {
                for from_registers in [false, true] {
                    check_wgmma(&mut random, Wgmma::new(n, ta, tb, td).unwrap(), from_registers);
                }
            }
        }
    }
    assert!(Wgmma::new(12, F16, F16, Accumulator::F32).is_none());
    assert!(Wgmma::new(40, S8, S8, Accumulator::S32).is_none());
    assert!(Wgmma::new(264, F16, F16, Accumulator::F32).is_none());
    assert!(Wgmma::new(64, Bf16, Bf16, Accumulator::F16).is_none());
}

fn check_wgmma(random: &mut Random, shape: Wgmma, from_registers: bool) {
    let (n, k, size) = (shape.n(), shape.k(), shape.a().bytes());
    let mut memory = vec![0u8; 64 * 1024];
    let mut matrix = |element: Element, rows: usize| -> (Vec<f64>, Vec<u32>) {
        (0..rows * k).map(|_| value(random, element)).unzip()
    };
    let ((am, a_bits), (bm, b_bits)) = (matrix(shape.a(), M), matrix(shape.b(), n));
    let place =
        |start| Descriptor { start, leading: 0, stride: 1024, base_offset: 0, swizzle: Swizzle::B128 };
    let mut put = |d: &Descriptor, rows: usize, bits: &[u32]| {
        for row in 0..rows {
            for i in 0..k {
                let at = d.address(row, i, size, Major::K) as usize;
                memory[at..at + size].copy_from_slice(&bits[row * k + i].to_le_bytes()[..size]);
            }
        }
    };
    let (da, db) = (place(32 * 1024 + 32), place(0));
    put(&db, n, &b_bits);
    put(&da, M, &a_bits);
    let (mut a, mut b) = (Operand::a(&shape), Operand::b(&shape));
    for chunk in db.chunks(n, k, size, Major::K) {
        let bytes = memory[chunk.address as usize..][..16].try_into().unwrap();
        b.load_chunk(chunk, Major::K, bytes, if chunk.row == 5 { 1 } else { 0 });
    }
    if from_registers {
        for warp in 0..4 {
            for r in 0..4 {
                let register: Lanes = std::array::from_fn(|lane| {
                    let (row, col) =
                        (16 * warp + lane / 4 + 8 * (r & 1), (lane % 4 + 4 * (r / 2)) * 4 / size);
                    (0..4 / size).fold(0, |v, i| v | a_bits[row * k + col + i] << (8 * size * i % 32))
                });
                a.load_register(warp, r, &register, if (warp, r) == (2, 1) { 1 << 6 } else { 0 });
            }
        }
    } else {
        for chunk in da.chunks(M, k, size, Major::K) {
            let bytes = memory[chunk.address as usize..][..16].try_into().unwrap();
            a.load_chunk(chunk, Major::K, bytes, if chunk.row == 41 { 0x8000 } else { 0 });
        }
    }
    a.negate();
    let mut tile = Tile::zeros(&shape);
    let start: Vec<Lanes> = (0..4 * shape.accumulator_registers())
        .map(|j| {
            std::array::from_fn(|lane| {
                let x = (j * 7 + lane) as i32 % 11 - 5;
                match shape.d() {
                    Accumulator::F32 => (x as f32).to_bits(),
                    Accumulator::S32 => x as u32,
                    Accumulator::F16 => half::f16::from_f32(x as f32).to_bits() as u32 * 0x1_0001,
                }
            })
        })
        .collect();
    for (j, register) in start.iter().enumerate() {
        let (warp, j) = (j / shape.accumulator_registers(), j % shape.accumulator_registers());
        tile.load_register(warp, j, register, if (warp, j) == (0, 0) { 1 } else { 0 });
    }
    tile.multiply(&a, &b, false);
    let per = shape.d().per_register();
    for (j, register) in start.iter().enumerate() {
        let (warp, j) = (j / shape.accumulator_registers(), j % shape.accumulator_registers());
        let (got, poison) = tile.store_register(warp, j);
        for lane in 0..32 {
            let mut bad = (warp, j, lane) == (0, 0, 0);
            for i in j * per..(j + 1) * per {
                let (row, col) =
                    (16 * warp + lane / 4 + 8 * (i / 2 % 2), 8 * (i / 4) + 2 * (lane % 4) + i % 2);
                bad |= row == 41 || col == 5;
                let products = (0..k).map(|j| -am[row * k + j] * bm[col * k + j]);
                let size: f64 = products.clone().map(f64::abs).sum::<f64>() + 5.0;
                let element = |register: &Lanes| match shape.d() {
                    Accumulator::F32 => f32::from_bits(register[lane]) as f64,
                    Accumulator::S32 => register[lane] as i32 as f64,
                    Accumulator::F16 => {
                        half::f16::from_bits((register[lane] >> (16 * (i % 2))) as u16).to_f64()
                    }
                };
                let want = element(register) + products.sum::<f64>();
                let bound = match shape.d() {
                    Accumulator::F32 => size * (k + 1) as f64 * 2f64.powi(-24),
                    Accumulator::S32 => 0.0,
                    Accumulator::F16 => want.abs() * 2f64.powi(-11) + size * 2f64.powi(-19) + 1e-7,
                };
                assert!(
                    (element(&got) - want).abs() <= bound,
                    "{shape:?} [{row}, {col}] {} {want}",
                    element(&got)
                );
            }
            assert_eq!(poison >> lane & 1 != 0, bad, "{shape:?} warp {warp} register {j} lane {lane}");
        }
    }
}

#[test]
fn tensor_copies_move_what_plain_loops_move() {
    let mut random = Random(25);
    let types = [DataType::U8, DataType::Bf16, DataType::F32, DataType::F64];
    for case in 0..400 {
        let rank = 1 + case % 5;
        let data_type = types[random.next() as usize % 4];
        let size = data_type.bytes();
        let dims: Vec<u64> =
            (0..rank).map(|i| (1 + random.next() % 9) * if i == 0 { 16 } else { 1 }).collect();
        let mut box_dims: Vec<u32> = (0..rank).map(|_| 1 + random.next() as u32 % 5).collect();
        let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][random.next() as usize % 4];
        let inner =
            if swizzle == Swizzle::None { 16 * (1 + random.next() as u32 % 8) } else { swizzle.span() };
        box_dims[0] = inner / size as u32;
        let mut map = TensorMap { swizzle, ..TensorMap::dense(data_type, 1 << 20, &dims, &box_dims) };
        (1..rank).for_each(|i| map.element_strides[i] = 1 + random.next() as u32 % 2);
        let map = TensorMap::decode(&map.encode().unwrap()).expect("what was encoded");
        let coordinates: Vec<i32> =
            (0..rank).map(|i| (random.next() % (dims[i] + 6)) as i32 - if i == 0 { 8 } else { 3 }).collect();
        // Where each shared byte comes from, element by element.
        let total = map.box_bytes();
        let mut want = vec![None; total];
        for element in 0..total / size {
            let mut rest = element as u64;
            let mut address = Some(1u64 << 20);
            for i in 0..rank {
                let taken = map.box_dims[i].div_ceil(if i == 0 { 1 } else { map.element_strides[i] }) as u64;
                let step = if i == 0 { 1 } else { map.element_strides[i] as i64 };
                let at = coordinates[i] as i64 + (rest % taken) as i64 * step;
                rest /= taken;
                let stride = if i == 0 { size as u64 } else { map.strides[i - 1] };
                let inside = at >= 0 && at < dims[i] as i64;
                address =
                    address.filter(|_| inside).map(|a| a.wrapping_add((at as u64).wrapping_mul(stride)));
            }
            for byte in 0..size {
                want[element * size + byte] = address.map(|a| a + byte as u64);
            }
        }
        let mut got = vec![Some(u64::MAX); total];
        map.segments(&coordinates, 8192, |Segment { global, shared, length }| {
            for i in 0..length {
                // Undo the swizzle: it is its own inverse.
                let plain = swizzle.apply(shared + i) - 8192;
                assert_eq!(got[plain as usize], Some(u64::MAX), "written once");
                got[plain as usize] = global.map(|a| a + i as u64);
            }
        });
        assert_eq!(got, want, "{map:?} at {coordinates:?}");
    }
}

#[test]
fn tensor_maps_refuse_what_the_driver_refuses() {
    let good = || TensorMap::dense(DataType::Bf16, 4096, &[64, 200], &[64, 64]);
    assert_eq!(TensorMap { swizzle: Swizzle::B128, ..good() }.check(), Ok(()));
    let change = |f: &dyn Fn(&mut TensorMap)| {
        let mut map = good();
        f(&mut map);
        map.encode().expect_err("refused").to_string()
    };
    assert!(change(&|m| m.address = 4104).contains("0x1008 is not a multiple of 16"));
    assert!(change(&|m| m.strides[0] = 136).contains("stride 136"));
    assert!(change(&|m| m.box_dims[1] = 257).contains("box dimension 1 is 257"));
    assert!(change(&|m| m.box_dims[0] = 0).contains("box dimension 0"));
    assert!(change(&|m| m.box_dims[0] = 4).contains("8 bytes"));
    assert!(change(&|m| m.swizzle = Swizzle::B64).contains("swizzle span 64"));
    assert!(change(&|m| m.dims[1] = 0).contains("dimension 1 is 0"));
    assert!(change(&|m| m.element_strides[1] = 9).contains("element stride 1"));
    assert!(change(&|m| m.dims.push(2)).contains("rank 3"));
    assert!(change(&|m| (m.data_type, m.fill) = (DataType::U16, Fill::Nan)).contains("NaN"));
    assert!(TensorMap::decode(&[0; 128]).is_none());
    let nan = TensorMap { fill: Fill::Nan, ..good() };
    assert_eq!(nan.fill_bytes()[..2], [0xff, 0x7f]);
}

/// Not a bound on any machine, but a guard against losing the vector code: issue 3 asks for 1e9 a second.
#[test]
fn products_are_not_slow() {
    let shape = Wgmma::new(256, Element::Bf16, Element::Bf16, Accumulator::F32).unwrap();
    let (a, b) = (Operand::a(&shape), Operand::b(&shape));
    let mut tile = Tile::zeros(&shape);
    let start = std::time::Instant::now();
    let mut rounds = 0;
    while start.elapsed().as_millis() < 50 {
        tile.multiply(&a, &b, false);
        rounds += 1;
    }
    let rate = (rounds * shape.macs()) as f64 / start.elapsed().as_secs_f64();
    println!("{:.1} GMAC/s", rate / 1e9);
    assert!(rate > 1e8, "{rate:e} multiply-accumulates a second");
}
