//! The program `virtual-gpu`: runs one kernel of a PTX file over buffers named on the command line.

mod arguments;
mod execute;
mod json;

pub use arguments::{Argument, Arguments, BufferSpec, Initial, NumberType, USAGE};

use std::io::Write;

/// Runs the program with these arguments (without its own name). Returns its exit code: 0 without findings, 1 with
/// findings, 2 where the command or its files cannot be used.
pub fn main(arguments: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if arguments.is_empty() || arguments.iter().any(|a| a == "--help" || a == "-h") {
        let asked = !arguments.is_empty();
        let _ = if asked { write!(out, "{USAGE}") } else { write!(err, "{USAGE}") };
        return if asked { 0 } else { 2 };
    }
    if arguments == ["--version"] {
        let _ = writeln!(out, "virtual-gpu {}", env!("CARGO_PKG_VERSION"));
        return 0;
    }
    let result = Arguments::parse(arguments).and_then(|arguments| execute::execute(&arguments, out));
    match result {
        Ok(false) => 0,
        Ok(true) => 1,
        Err(why) => {
            let _ = writeln!(err, "virtual-gpu: {why}");
            2
        }
    }
}
