//! Atomics of 128 bits.

use crate::support::{Case, random_u64, targets};

#[test]
fn compare_and_swap() {
    let n = 150;
    let x: Vec<u64> = random_u64(91, n).into_iter().map(|v| v >> 8).collect();
    let mut case = Case::new("wide_atomics", &targets::HOPPER, "sum_and_count").grid(3).block(64);
    let (a, total) = (case.input(&x), case.input(&[0u64; 2]));
    case.buffers(&[a, total]).value(n as i32);
    case.check(|out| {
        assert_eq!(out.get::<u64>(total), [n as u64, x.iter().fold(0, |sum, v| sum.wrapping_add(*v))]);
    });
}

#[test]
fn exchange() {
    let n = 128;
    let x = random_u64(92, n);
    let mut case = Case::new("wide_atomics", &targets::HOPPER, "pass_around").grid(2).block(64);
    let (a, slot) = (case.input(&x), case.input(&[u64::MAX, 7]));
    let (low, high) = (case.output::<u64>(n), case.output::<u64>(n));
    case.buffers(&[a, slot, low, high]);
    case.check(|out| {
        let taken = out.get::<u64>(low).into_iter().zip(out.get::<u64>(high));
        let left = out.get::<u64>(slot);
        let mut all: Vec<(u64, u64)> = taken.chain([(left[0], left[1])]).collect();
        all.sort_unstable();
        let mut want: Vec<(u64, u64)> = (0..).zip(x.iter().copied()).chain([(u64::MAX, 7)]).collect();
        want.sort_unstable();
        assert_eq!(all, want);
    });
}

#[test]
fn in_shared_memory() {
    let mut case = Case::new("wide_atomics", &targets::HOPPER, "in_shared").grid(1).block(96);
    let o = case.output::<u64>(2);
    case.buffers(&[o]);
    case.check(|out| assert_eq!(out.get::<u64>(o), [95 * 96 / 2, 1 << 36]));
}
