//! Asynchronous copies and tensor cores of the Ampere generation.

use crate::support::{Case, assert_close, product, random_f32, random_u64, targets};
use half::{bf16, f16};

const BOTH: [&str; 2] = targets::BOTH;

#[test]
fn async_copies() {
    for tiles in [1usize, 3, 6] {
        let x = random_f32(51, 2 * tiles * 512);
        let mut case = Case::new("ampere", &BOTH, "async_pipeline").grid(2).block(128);
        let (a, o) = (case.input(&x), case.output::<f32>(x.len()));
        case.buffers(&[a, o]).value(tiles as i32);
        let want: Vec<f32> = (0..x.len()).map(|i| 2.0 * x[i / 512 * 512 + 511 - i % 512]).collect();
        case.check(|out| assert_eq!(out.get::<f32>(o), want));
    }
    let n = 100;
    let x: Vec<i32> = (1..=n).collect();
    let mut case = Case::new("ampere", &BOTH, "async_tail").grid(2).block(64);
    let (a, o) = (case.input(&x), case.output::<i32>(128));
    case.buffers(&[a, o]).value(n);
    let want: Vec<i32> = (0..128).map(|i| x.get(i / 64 * 64 + 63 - i % 64).copied().unwrap_or(0)).collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}

#[test]
fn products_of_16_bit_types() {
    let (m, n, k) = (64, 128, 96);
    let (a, b) = (random_f32(52, m * k), random_f32(53, n * k));
    macro_rules! check {
        ($kernel:expr, $type:ty) => {
            let narrow = |v: &[f32]| -> Vec<$type> { v.iter().map(|v| <$type>::from_f32(*v)).collect() };
            let (a, b) = (narrow(&a), narrow(&b));
            let mut case = Case::new("ampere", &BOTH, $kernel).grid3([2, 1, 1]).block(128);
            let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(m * n));
            case.buffers(&[x, y, o]).value(m as i32).value(n as i32).value(k as i32);
            let wide = |v: &[$type]| -> Vec<f64> { v.iter().map(|v| v.to_f64()).collect() };
            let want = product(&wide(&a), &wide(&b), m, n, k);
            case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-5, 1e-5));
        };
    }
    check!("mma_gemm_bf16", bf16);
    check!("mma_gemm_f16", f16);
}

#[test]
fn products_of_one_warp() {
    let k = 48;
    let narrow = |seed, n| -> Vec<f16> { random_f32(seed, n).into_iter().map(f16::from_f32).collect() };
    let (a, b) = (narrow(54, 16 * k), narrow(55, k * 8));
    let mut case = Case::new("ampere", &BOTH, "mma_trans").grid(1).block(32);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(128));
    case.buffers(&[x, y, o]).value(k as i32);
    let wide: Vec<f64> = a.iter().map(|v| v.to_f64()).collect();
    let turned: Vec<f64> = (0..8 * k).map(|i| b[i % k * 8 + i / k].to_f64()).collect();
    let want = product(&wide, &turned, 16, 8, k);
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-5, 1e-5));

    let (a, b) = (random_f32(56, 16 * 8), random_f32(57, 8 * 8));
    let mut case = Case::new("ampere", &BOTH, "mma_tf32").grid(1).block(32);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(128));
    case.buffers(&[x, y, o]);
    let tf32 = |v: &[f32]| -> Vec<f64> {
        v.iter().map(|v| f32::from_bits((v.to_bits() + 0x1000) & !0x1fff) as f64).collect()
    };
    let want = product(&tf32(&a), &tf32(&b), 16, 8, 8);
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-6, 1e-6));

    let bytes = |seed, n| -> Vec<i8> { random_u64(seed, n).into_iter().map(|v| v as i8).collect() };
    let (a, b) = (bytes(58, 16 * 32), bytes(59, 8 * 32));
    let mut case = Case::new("ampere", &BOTH, "mma_s8").grid(1).block(32);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<i32>(128));
    case.buffers(&[x, y, o]);
    let want: Vec<i32> = (0..128)
        .map(|i| (0..32).map(|j| a[i / 8 * 32 + j] as i32 * b[i % 8 * 32 + j] as i32).sum())
        .collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}
