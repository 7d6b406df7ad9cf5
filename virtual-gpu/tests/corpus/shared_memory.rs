//! Tiles in shared memory, and blocks that meet.

use crate::support::{Case, assert_close, random_f32, random_u64, targets};

const BOTH: [&str; 2] = targets::BOTH;

#[test]
fn transpose() {
    for (m, n) in [(32, 32), (50, 67), (1, 100)] {
        let x = random_f32(41, m * n);
        let grid = [n.div_ceil(32) as u32, m.div_ceil(32) as u32, 1];
        let mut case = Case::new("shared_memory", &BOTH, "transpose").grid3(grid).block3([32, 8, 1]);
        let (a, o) = (case.input(&x), case.output::<f32>(m * n));
        case.buffers(&[a, o]).value(m as i32).value(n as i32);
        let want: Vec<f32> = (0..m * n).map(|i| x[i % m * n + i / m]).collect();
        case.check(|out| assert_eq!(out.get::<f32>(o), want));
    }
}

#[test]
fn tiled_gemm() {
    for (m, n, k) in [(16, 16, 16), (33, 20, 50), (1, 17, 1)] {
        let (a, b) = (random_f32(42, m * k), random_f32(43, k * n));
        let grid = [n.div_ceil(16) as u32, m.div_ceil(16) as u32, 1];
        let mut case = Case::new("shared_memory", &BOTH, "tiled_gemm").grid3(grid).block3([16, 16, 1]);
        let (x, y, o) = (case.input(&a), case.input(&b), case.output::<f32>(m * n));
        case.buffers(&[x, y, o]).value(m as i32).value(n as i32).value(k as i32);
        let want: Vec<f64> = (0..m * n)
            .map(|i| (0..k).map(|j| a[i / n * k + j] as f64 * b[j * n + i % n] as f64).sum())
            .collect();
        case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-6 * k as f64, 1e-6));
    }
}

#[test]
fn stencil() {
    let (width, height) = (37, 21);
    let x = random_f32(44, width * height);
    let mut case = Case::new("shared_memory", &BOTH, "stencil").grid3([3, 2, 1]).block3([16, 16, 1]);
    let (a, o) = (case.input(&x), case.output::<f32>(width * height));
    case.buffers(&[a, o]).value(width as i32).value(height as i32);
    let at = |i: isize, j: isize| {
        let inside = (0..width as isize).contains(&i) && (0..height as isize).contains(&j);
        if inside { x[j as usize * width + i as usize] as f64 } else { 0.0 }
    };
    let want: Vec<f64> = (0..width * height)
        .map(|c| {
            let (i, j) = ((c % width) as isize, (c / width) as isize);
            0.5 * at(i, j) + 0.125 * (at(i - 1, j) + at(i + 1, j) + at(i, j - 1) + at(i, j + 1))
        })
        .collect();
    case.check(|out| assert_close(&out.get::<f32>(o), &want, 1e-6, 1e-6));
}

#[test]
fn bitonic_sort() {
    let keys: Vec<u32> = random_u64(45, 512).into_iter().map(|v| v as u32).collect();
    let mut case = Case::new("shared_memory", &BOTH, "bitonic_sort").grid(2).block(128);
    let a = case.input(&keys);
    case.buffers(&[a]);
    let mut want = keys.clone();
    want.chunks_mut(256).for_each(|c| c.sort());
    case.check(|out| assert_eq!(out.get::<u32>(a), want));
}

#[test]
fn merge() {
    let sorted = |seed, n| {
        let mut v: Vec<i32> = random_u64(seed, n).into_iter().map(|v| (v % 500) as i32).collect();
        v.sort();
        v
    };
    let (a, b) = (sorted(46, 150), sorted(47, 203));
    let mut case = Case::new("shared_memory", &BOTH, "merge").grid(3).block(128);
    let (x, y, o) = (case.input(&a), case.input(&b), case.output::<i32>(353));
    case.buffers(&[x]).value(150i32).buffers(&[y]).value(203i32).buffers(&[o]);
    let mut want = [a, b].concat();
    want.sort();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}

#[test]
fn grid_rounds() {
    let n = 250;
    let start: Vec<i32> = (0..n as i32).map(|i| i % 7).collect();
    let mut case = Case::new("shared_memory", &BOTH, "grid_rounds").grid(4).block(64);
    let (x, y, c) = (case.input(&start), case.output::<i32>(n), case.input(&[0u32]));
    case.buffers(&[x, y, c]).value(n as i32).value(3i32);
    let want =
        (0..3).fold(start.clone(), |x, _| (0..n).map(|i| x[(i + n - 1) % n] + x[(i + 1) % n]).collect());
    case.check(|out| assert_eq!(out.get::<i32>(x), want));
}

#[test]
fn work_queue() {
    let tasks: Vec<i32> = (0..20).map(|i| i * 13 % 90).collect();
    let mut case = Case::new("shared_memory", &BOTH, "work_queue").grid(3).block(64);
    let (a, o, c) = (case.input(&tasks), case.input(&[0i32; 20]), case.input(&[0i32]));
    case.buffers(&[a, o, c]).value(20i32);
    let want: Vec<i32> = tasks.iter().map(|n| (0..*n).sum()).collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}

#[test]
fn barriers() {
    let n = 7;
    let x: Vec<i32> = (0..32 * n as i32).collect();
    let mut case = Case::new("shared_memory", &BOTH, "named_barriers").grid(1).block(64);
    let (a, o) = (case.input(&x), case.output::<i32>(32 * n));
    case.buffers(&[a, o]).value(n as i32);
    let want: Vec<i32> = (0..32 * n).map(|i| 2 * x[i / 32 * 32 + 31 - i % 32]).collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));

    let x: Vec<i32> = (0..200).map(|i| i - 60).collect();
    let mut case = Case::new("shared_memory", &BOTH, "barrier_reductions").grid(2).block(100);
    let (a, o) = (case.input(&x), case.output::<i32>(2));
    case.buffers(&[a, o]);
    let want: Vec<i32> = x
        .chunks(100)
        .map(|c| c.iter().filter(|v| **v > 0).count() as i32 | 1 << 16 | (c.contains(&5) as i32) << 17)
        .collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}
