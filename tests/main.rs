//! The whole suite: one program, a module an operation, each trial on every executor at hand.
//!
//! A trial is named `operation::dtype::shape::executor`. Trials of an executor that is not here are listed as ignored,
//! with the reason. `cargo test gemm` runs those whose name contains `gemm`.

mod cli;
mod common;
mod config;
mod gemm;
mod generate;
mod lm_head;
mod mlp;
mod model;
mod moe_gemm;
mod reference;
mod tokenizer;
mod weights;

fn main() -> std::process::ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let modules = [
        cli::trials(),
        config::trials(),
        gemm::trials(),
        generate::trials(),
        lm_head::trials(),
        mlp::trials(),
        model::trials(),
        moe_gemm::trials(),
        reference::trials(),
        tokenizer::trials(),
        weights::trials(),
    ];
    libtest_mimic::run(&arguments, modules.into_iter().flatten().collect()).exit_code()
}
