//! The whole suite: one program, a module an operation, each trial on every executor at hand.
//!
//! A trial is named `operation::dtype::shape::executor`. Trials of an executor that is not here are listed as ignored,
//! with the reason. `cargo test gemm` runs those whose name contains `gemm`.

mod attention;
mod bench;
mod cli;
mod common;
mod config;
mod embedding;
mod gemm;
mod generate;
mod hopper;
mod layer_norm;
mod lm_head;
mod mlp;
mod model;
mod moe_combine;
mod moe_dispatch;
mod moe_gemm;
mod readme;
mod recorded;
mod reference;
mod tokenizer;
mod tools;
mod topk_gating;
mod weights;

fn main() -> std::process::ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let modules = [
        attention::trials(common::executors()),
        bench::trials(),
        cli::trials(),
        config::trials(),
        embedding::trials(common::executors()),
        gemm::trials(),
        hopper::trials(),
        generate::trials(),
        layer_norm::trials(common::executors()),
        lm_head::trials(),
        mlp::trials(),
        model::trials(),
        moe_combine::trials(common::executors()),
        moe_dispatch::trials(common::executors()),
        moe_gemm::trials(),
        readme::trials(),
        recorded::trials(),
        reference::trials(),
        tokenizer::trials(),
        tools::trials(),
        topk_gating::trials(common::executors()),
        weights::trials(),
    ];
    libtest_mimic::run(&arguments, modules.into_iter().flatten().collect()).exit_code()
}
