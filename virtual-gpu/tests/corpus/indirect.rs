//! Calls through addresses.

use crate::support::{Case, random_f32, targets};

const BOTH: [&str; 2] = targets::BOTH;

#[test]
fn tables_of_functions() {
    let x = random_f32(81, 128);
    let which: Vec<i32> = (0..128).map(|i| i * i / 3 % 2).collect();
    let mut case = Case::new("indirect", &BOTH, "tables").grid(2).block(64);
    let (a, b, o) = (case.input(&x), case.input(&which), case.output::<f32>(128));
    case.buffers(&[a, b, o]);
    let (increment, twice) = (|x: f32| x + 1.0, |x: f32| 2.0 * x);
    let want: Vec<f32> = x
        .iter()
        .zip(&which)
        .map(|(&x, w)| if *w == 0 { increment(x) - twice(3.0 * x) } else { twice(x) - increment(3.0 * x) })
        .collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));
}

#[test]
fn a_function_of_the_whole_block() {
    let x = random_f32(82, 128);
    for n in [1, 2] {
        let mut case = Case::new("indirect", &BOTH, "whole_block").grid(2).block(64);
        let (a, o) = (case.input(&x), case.output::<f32>(128));
        case.buffers(&[a, o]).value(n);
        let want: Vec<f32> = (0..128).map(|i| if n > 1 { x[i ^ 1] } else { 2.0 * x[i] }).collect();
        case.check(|out| assert_eq!(out.get::<f32>(o), want));
    }
}

#[test]
fn virtual_functions_of_objects_in_memory() {
    let n = 100;
    let x = random_f32(83, n);
    let mut case = Case::new("indirect", &BOTH, "make_shapes").grid(2).block(64);
    let (a, shapes, o) = (case.input(&x), case.input(&vec![0u64; 2 * n]), case.output::<f32>(n));
    case.buffers(&[a, shapes]).value(n as i32);
    case.then("use_shapes", 2, 64).buffers(&[shapes, o]).value(n as i32);
    let circle = |r: f32| 3.0 * (r + 2.0) * (r + 2.0);
    let square = |s: f32| (2.0 * s) * (2.0 * s);
    let want: Vec<f32> =
        x.iter().enumerate().map(|(i, &x)| if i % 3 == 0 { circle(x) } else { square(x) }).collect();
    case.check(|out| assert_eq!(out.get::<f32>(o), want));
}

#[test]
fn structures_in_and_out() {
    let values: Vec<u32> = (0..64 * 6).map(|i| if i % 6 == 5 { i } else { (i as f32).to_bits() }).collect();
    let mut case = Case::new("indirect", &BOTH, "structures").grid(1).block(64);
    let o = case.input(&values);
    case.buffers(&[o]).value(5i32);
    let mut want = values;
    for (i, wide) in want.chunks_mut(6).enumerate() {
        let mut change = |k: usize, f: &dyn Fn(f32) -> f32| wide[k] = f(f32::from_bits(wide[k])).to_bits();
        if i & 5 != 0 {
            change(0, &|v| v + i as f32);
            change(4, &|v| v + 2.0);
            wide[5] += 7;
        } else {
            change(1, &|v| v - i as f32);
            change(3, &|v| v * 2.0);
            wide[5] -= i as u32;
        }
    }
    case.check(|out| assert_eq!(out.get::<u32>(o), want));
}

#[test]
fn recursion_through_pointers() {
    fn leaf(n: i32) -> i32 {
        n + 5
    }
    fn down(n: i32) -> i32 {
        if n <= 0 { 1 } else { apply(if n % 3 != 0 { down } else { leaf }, n - 1) + n }
    }
    fn apply(function: fn(i32) -> i32, n: i32) -> i32 {
        2 * function(n) + n
    }
    let mut case = Case::new("indirect", &BOTH, "recursive").grid(1).block(96);
    let o = case.output::<i32>(96);
    case.buffers(&[o]);
    let want: Vec<i32> = (0..96).map(|i| apply(down, i % 11)).collect();
    case.check(|out| assert_eq!(out.get::<i32>(o), want));
}
