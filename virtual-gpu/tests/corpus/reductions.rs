//! Sums, scans and searches.

use crate::support::{Case, assert_close, random_f32, random_u64, targets};

const BOTH: [&str; 2] = targets::BOTH;

fn small(seed: u64, n: usize) -> Vec<i32> {
    random_u64(seed, n).into_iter().map(|v| (v % 201) as i32 - 100).collect()
}

#[test]
fn row_sums() {
    for (rows, n, block) in [(5, 1000, 256), (3, 33, 64), (1, 1, 32)] {
        let x = random_f32(31, rows * n);
        let mut case = Case::new("reductions", &BOTH, "row_sums").grid(rows as u32).block(block);
        let (a, o) = (case.input(&x), case.output::<f32>(rows));
        case.buffers(&[a, o]).value(n as i32);
        let want: Vec<f64> = x.chunks(n).map(|row| row.iter().map(|v| *v as f64).sum()).collect();
        case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-6 * n as f64, 1e-6));
    }
}

#[test]
fn softmax() {
    let (rows, n) = (7, 100);
    let x: Vec<f32> = random_f32(32, rows * n).into_iter().map(|v| v * 5.0).collect();
    let mut case = Case::new("reductions", &BOTH, "softmax").grid(2).block(128);
    let (a, o) = (case.input(&x), case.output::<f32>(rows * n));
    case.buffers(&[a, o]).value(rows as i32).value(n as i32);
    let want: Vec<f64> = x
        .chunks(n)
        .flat_map(|row| {
            let sum: f64 = row.iter().map(|v| (*v as f64).exp()).sum();
            row.iter().map(move |v| (*v as f64).exp() / sum).collect::<Vec<_>>()
        })
        .collect();
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-7, 1e-5));
}

#[test]
fn groups() {
    let x = small(33, 256);
    let mut case = Case::new("reductions", &BOTH, "groups").grid(2).block(128);
    let (a, s, c, m) =
        (case.input(&x), case.output::<i32>(32), case.output::<i32>(256), case.output::<i32>(2));
    case.buffers(&[a, s, c, m]);
    case.check(|out| {
        assert_eq!(out.get::<i32>(s), x.chunks(8).map(|c| c.iter().sum()).collect::<Vec<i32>>());
        let scans: Vec<i32> = x
            .chunks(8)
            .flat_map(|c| {
                c.iter().scan(0, |sum, v| {
                    *sum += v;
                    Some(*sum)
                })
            })
            .collect();
        assert_eq!(out.get::<i32>(c), scans);
        assert_eq!(out.get::<i32>(m), x.chunks(128).map(|c| *c.iter().max().unwrap()).collect::<Vec<i32>>());
    });
}

#[test]
fn votes() {
    let x: Vec<u32> = random_u64(34, 64).into_iter().map(|v| (v % 100) as u32).collect();
    let mut case = Case::new("reductions", &BOTH, "votes").grid(1).block(64);
    let (a, o) = (case.input(&x), case.output::<u32>(8 * 64));
    case.buffers(&[a, o]);
    case.check(|out| {
        let got = out.get::<u32>(o);
        for i in 0..64 {
            let warp = &x[i / 32 * 32..][..32];
            let mask = |f: &dyn Fn(u32) -> bool| {
                warp.iter().enumerate().fold(0u32, |m, (lane, v)| m | (f(*v) as u32) << lane)
            };
            let all = mask(&|v| v < 99) == u32::MAX;
            let lane = i % 32;
            let shuffled =
                warp[lane / 8 * 8 + (x[i] & 7) as usize] + warp[if lane < 3 { lane } else { lane - 3 }];
            let sum = warp.iter().sum::<u32>() + warp.iter().fold(0, |a, b| a ^ b);
            let odd = (0..32).filter(|l| l % 2 == 1).map(|l| warp[l]).min().unwrap();
            let got = &got[8 * i..8 * i + 8];
            assert_eq!(got[0], mask(&|v| v % 2 == 1));
            assert_eq!(got[1], (mask(&|v| v > 90) != 0) as u32 | (all as u32) << 1);
            assert_eq!(got[2], mask(&|v| v % 5 == x[i] % 5));
            assert_eq!(got[3..5], [u32::MAX, 1]);
            assert_eq!(got[5..7], [sum, shuffled]);
            // Which lanes are active beside the odd ones is up to the hardware.
            assert!(if i % 2 == 1 { got[7] == odd } else { got[7] >> lane & 1 == 1 });
        }
    });
}

#[test]
fn compact() {
    let n = 500;
    let x = small(35, n);
    let mut case = Case::new("reductions", &BOTH, "compact").grid(4).block(128);
    let positive = x.iter().filter(|v| **v > 0).count();
    let (a, o, c) = (case.input(&x), case.output::<i32>(positive), case.input(&[0i32]));
    case.buffers(&[a, o, c]).value(n as i32);
    let mut want: Vec<i32> = x.iter().copied().filter(|v| *v > 0).collect();
    want.sort();
    case.check(|out| {
        assert_eq!(out.get::<i32>(c), [positive as i32]);
        let mut got = out.get::<i32>(o);
        got.sort();
        assert_eq!(got, want);
    });
}

fn scanned(x: &[i32]) -> Vec<i32> {
    x.iter()
        .scan(0, |sum, v| {
            *sum += v;
            Some(*sum)
        })
        .collect()
}

#[test]
fn block_scan() {
    let x = small(36, 3 * 96);
    let mut case = Case::new("reductions", &BOTH, "block_scan").grid(3).block(96).shared(4 * 96);
    let (a, o) = (case.input(&x), case.output::<i32>(3 * 96));
    case.buffers(&[a, o]);
    let want: Vec<i32> = x.chunks(96).flat_map(scanned).collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}

#[test]
fn look_back_scan() {
    let n = 128 * 6 - 5;
    let x = small(37, n);
    let mut case = Case::new("reductions", &BOTH, "look_back_scan").grid(6).block(128);
    let (a, o) = (case.input(&x), case.output::<i32>(n));
    let (s, t) = (case.input(&[0u64; 6]), case.input(&[0i32]));
    case.buffers(&[a, o, s, t]).value(n as i32);
    let want = scanned(&x);
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}

#[test]
fn histogram() {
    let n = 3000;
    let x: Vec<u8> = random_u64(38, n).into_iter().map(|v| v as u8).collect();
    let mut case = Case::new("reductions", &BOTH, "histogram").grid(3).block(128);
    let (a, b) = (case.input(&x), case.input(&[0u32; 64]));
    case.buffers(&[a, b]).value(n as i32);
    let mut want = vec![0u32; 64];
    x.iter().for_each(|v| want[(v & 63) as usize] += 1);
    case.check(|out| assert_eq!(out.get::<u32>(b), want));
}

#[test]
fn atomics() {
    let x = small(39, 256);
    let ints = [0, 1000, -1000, -1, 0, 0, 0, 0, 3, 0, 0, 0, 0];
    let mut case = Case::new("reductions", &BOTH, "atomics").grid(2).block(128);
    let a = case.input(&x);
    let (i, f, d, l) = (case.input(&ints), case.input(&[0f32]), case.input(&[0f64; 2]), case.input(&[0u64]));
    case.buffers(&[a, i, f, d, l]);
    let sum: i32 = x.iter().sum();
    let mut down = 0u32;
    (0..256).for_each(|_| down = if down == 0 || down > 50 { 50 } else { down - 1 });
    let want = [
        sum,
        *x.iter().min().unwrap(),
        *x.iter().max().unwrap(),
        x.iter().fold(-1, |m, v| m & (v | 0xf0)),
        x.iter().fold(0, |m, v| m | v),
        x.iter().fold(0, |m, v| m ^ v),
        256 % 100,
        down as i32,
        7,
        -sum,
        128,
        512,
        128,
    ];
    case.check(|out| {
        assert_eq!(out.get::<i32>(i), want);
        assert_eq!(out.get::<f32>(f), [sum as f32]);
        assert_eq!(out.get::<f64>(d), [sum as f64, *x.iter().max().unwrap() as f64]);
        assert_eq!(out.get::<u64>(l), [256 << 33]);
    });
}
