//! `cargo +nightly fuzz run ptx`: any text is refused or runs, and nothing panics. The corpus in tests/ptx is a good
//! beginning: `cargo +nightly fuzz run ptx fuzz/corpus/ptx tests/ptx`.

#![no_main]

#[path = "../../tests/malformed/hostile.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        hostile::load_and_run(text, data.len() as u64);
    }
});
