//! Any text is refused or runs, and nothing panics.
//!
//! `cargo +nightly fuzz run ptx fuzz/corpus/ptx tests/ptx` looks for more, with libFuzzer. Without it this is a plain
//! program: it runs the files that it is given, such as what libFuzzer found, or else a fixed set of changed kernels.
//! `cargo test` does the latter.

#![cfg_attr(fuzzing, no_main)]
#![allow(unexpected_cfgs, reason = "cargo-fuzz sets `fuzzing`")]

#[path = "../../tests/malformed/hostile.rs"]
mod hostile;

fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        hostile::load_and_run(text, data.len() as u64);
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));

#[cfg(not(fuzzing))]
#[path = "../../tests/malformed/mutate.rs"]
#[allow(dead_code, reason = "only the kernels to begin with are taken")]
mod mutate;

#[cfg(not(fuzzing))]
fn main() {
    const INPUTS: usize = 3000;
    let files: Vec<String> = std::env::args().skip(1).filter(|a| std::path::Path::new(a).is_file()).collect();
    for file in &files {
        println!("{file}");
        run(&std::fs::read(file).expect("a readable file"));
    }
    if !files.is_empty() {
        return;
    }
    let seeds = mutate::seeds();
    let mut state = 1u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % n.max(1)
    };
    for number in 0..INPUTS {
        // Bytes are changed, removed, repeated and taken from elsewhere, as libFuzzer does.
        let mut data = seeds[below(seeds.len())].clone().into_bytes();
        for _ in 0..=below(3) {
            let (at, length) = (below(data.len()), 1 + below(12));
            let end = (at + length).min(data.len());
            match below(4) {
                0 => data[at] = below(256) as u8,
                1 => drop(data.drain(at..end)),
                2 => data.splice(at..at, data[at..end].to_vec()).for_each(drop),
                _ => {
                    let other = seeds[below(seeds.len())].as_bytes();
                    let from = below(other.len());
                    let piece = other[from..(from + length).min(other.len())].to_vec();
                    data.splice(at..end, piece).for_each(drop);
                }
            }
        }
        let ended = std::panic::catch_unwind(|| run(&data));
        if ended.is_err() {
            let path = std::env::temp_dir().join(format!("fuzz-{number}.ptx"));
            std::fs::write(&path, &data).expect("a writable temporary directory");
            panic!("input {number} panics; it is in {}", path.display());
        }
    }
    println!("{INPUTS} inputs, no panic");
}
