//! Against the C library's `snprintf`.

use super::{Piece, Value, Wanted, pieces};
use std::ffi::{CString, c_char, c_int};

unsafe extern "C" {
    fn snprintf(buffer: *mut c_char, len: usize, format: *const c_char, ...) -> c_int;
}

/// What is written of a format with one value.
fn ours(format: &str, value: u64, text: &str) -> String {
    let mut out = Vec::new();
    for piece in pieces(format.as_bytes()) {
        match piece {
            Piece::Text(text) => out.extend(text),
            Piece::Conversion(conversion) => {
                let values: Vec<Value> = conversion
                    .wanted()
                    .map(|wanted| match wanted {
                        Wanted::Text => Value::Text(text.into()),
                        _ => Value::Bits(value),
                    })
                    .collect();
                out.extend(conversion.write(&values));
            }
        }
    }
    String::from_utf8(out).expect("ASCII")
}

/// What the C library writes.
macro_rules! theirs {
    ($format:expr, $value:expr) => {{
        let format = CString::new($format).expect("no zero in it");
        let mut buffer = vec![0u8; 8192];
        let (to, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the format takes this one value, and no more is written than the buffer's length.
        let len = unsafe { snprintf(to, size, format.as_ptr(), $value) } as usize;
        String::from_utf8(buffer[..len].to_vec()).expect("ASCII")
    }};
}

const FLAGS: [&str; 10] = ["", "-", "+", " ", "#", "0", "+0", "-#", "#0", " 0"];
const WIDTHS: [&str; 3] = ["", "3", "14"];
const PRECISIONS: [&str; 6] = ["", ".", ".1", ".3", ".12", ".17"];

fn formats(kinds: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for flags in FLAGS {
        for width in WIDTHS {
            for precision in PRECISIONS {
                all.extend(kinds.iter().map(|kind| format!("<%{flags}{width}{precision}{kind}>")));
            }
        }
    }
    all
}

#[test]
fn integers() {
    let values =
        [0, 1, 7, 8, 42, 255, 0x7f, 0x80, 0x8000, 0x7fff_ffff, 0x8000_0000, u64::MAX, 1 << 40, 1 << 63];
    for format in formats(&["d", "i", "u", "o", "x", "X", "hd", "hhd", "hhu", "hx"]) {
        for value in values {
            assert_eq!(
                ours(&format, value & 0xffff_ffff, ""),
                theirs!(format.as_str(), value as u32),
                "{format}"
            );
        }
    }
    for format in formats(&["ld", "lld", "lu", "llx", "zu", "lo"]) {
        for value in values {
            assert_eq!(ours(&format, value, ""), theirs!(format.as_str(), value), "{format}");
        }
    }
}

#[test]
fn floats() {
    let values = [
        0.0,
        1.0,
        0.5,
        1.5,
        2.5,
        9.5,
        9.995,
        99.95,
        0.1,
        1e-4,
        9.9999e-5,
        1e-5,
        123456.0,
        999999.5,
        1e6,
        1e15,
        1e16,
        1e17,
        6.02214076e23,
        1e100,
        1e-300,
        5e-324,
        f64::MAX,
        f64::MIN_POSITIVE,
        3.999999999,
        0.1f32 as f64,
        f64::INFINITY,
        f64::NAN,
    ];
    for format in formats(&["f", "F", "e", "E", "g", "G", "a", "A"]) {
        for value in values.iter().flat_map(|v| [*v, -*v]) {
            // The GNU library loses the zeros where rounding carries into the exponent.
            if value.abs() == 999999.5 && format.contains('#') {
                continue;
            }
            assert_eq!(ours(&format, value.to_bits(), ""), theirs!(format.as_str(), value), "{format}");
        }
    }
}

#[test]
fn texts_characters_and_addresses() {
    for text in ["", "a", "some words"] {
        let c = CString::new(text).expect("no zero in it");
        for flags in ["", "-"] {
            for size in ["", "3", "14", ".0", ".3", "14.4", ".20"] {
                let format = format!("<%{flags}{size}s>");
                assert_eq!(ours(&format, 0, text), theirs!(format.as_str(), c.as_ptr()), "{format}");
            }
        }
    }
    for format in ["%c", "%4c|", "%-4c|"] {
        assert_eq!(ours(format, 65, ""), theirs!(format, 65));
    }
    for format in ["%p", "%20p|", "%-20p|"] {
        for address in [0u64, 1, 0x1234_5678_9abc] {
            assert_eq!(ours(format, address, ""), theirs!(format, address), "{format}");
        }
    }
}

#[test]
fn pieces_of_a_format() {
    assert_eq!(ours("100%% of %d%%\n", 7, ""), "100% of 7%\n");
    assert_eq!(ours("%", 0, ""), "%");
    assert_eq!(ours("50%", 0, ""), "50%");
    assert_eq!(ours("%y %d", 3, ""), "%y 3");
    assert_eq!(ours("", 0, ""), "");
    // A width and a precision that are values, too; here all are the same.
    assert_eq!(ours("<%*d>", 5, ""), theirs!("<%5d>", 5));
    assert_eq!(ours("<%.*d>", 5, ""), theirs!("<%.5d>", 5));
    assert_eq!(ours("<%*.*d>", 5, ""), theirs!("<%5.5d>", 5));
    assert_eq!(ours("<%*d>", -5i32 as u32 as u64, ""), theirs!("<%-5d>", -5));
}
