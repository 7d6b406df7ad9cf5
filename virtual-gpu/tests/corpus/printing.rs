//! `printf` on the device.

use crate::support::{Case, Output, targets};
use std::collections::BTreeMap;

/// What was printed, by line: warps print in the order in which they run.
fn lines(out: &Output) -> BTreeMap<String, usize> {
    let text = String::from_utf8(out.printed.clone()).expect("text");
    let mut lines = BTreeMap::new();
    text.lines().for_each(|line| *lines.entry(line.to_string()).or_default() += 1);
    lines
}

#[test]
fn values_of_every_kind() {
    let x: Vec<f32> = (0..40).map(|i| i as f32 * 2.5 - 30.0).collect();
    let mut case = Case::new("printing", &targets::AMPERE, "greet").grid(1).block(40);
    let (a, o) = (case.input(&x), case.output::<i32>(80));
    case.buffers(&[a, o]);
    let mut want = BTreeMap::from([("100%".to_string(), 40)]);
    for i in 0..40i64 {
        let (number, letter) = (0x12_3456_789ai64 * i, char::from(b'a' + (i % 26) as u8));
        let large = if i == 0 {
            "0.000000e+00".to_string()
        } else {
            let (mut mantissa, mut exponent) = (1.5 * i as f64, 10);
            while mantissa >= 10.0 {
                (mantissa, exponent) = (mantissa / 10.0, exponent + 1);
            }
            format!("{mantissa:.6}e+{exponent}")
        };
        let line = format!(
            "thread {i} of block: {:6.2} {letter} {number:08x} {large}|{i:<5}|{:+} {}",
            x[i as usize],
            i - 1,
            (200 + i) as u8 as i8
        );
        want.insert(line, 1);
    }
    case.check(|out| {
        assert_eq!(lines(out), want);
        // The number of values, as CUDA's vprintf returns.
        assert_eq!(out.get::<i32>(o), [9, 0].repeat(40));
    });
}

#[test]
fn some_lanes() {
    let mut case = Case::new("printing", &targets::AMPERE, "some").grid(2).block(48);
    case.value(6i32);
    let want = [("five (nil)", 2), ("     0|0.33", 2), ("    16|0.33", 2), ("    32|0.33", 2)];
    let want: BTreeMap<String, usize> = want.map(|(line, count)| (line.to_string(), count)).into();
    case.check(|out| assert_eq!(lines(out), want));
}
