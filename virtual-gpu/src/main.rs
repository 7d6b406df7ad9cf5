//! The program `virtual-gpu`; see [`virtual_gpu::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    ExitCode::from(virtual_gpu::cli::main(&arguments, &mut std::io::stdout(), &mut std::io::stderr()))
}
