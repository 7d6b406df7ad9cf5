//! The whole suite: one program, a module an operation, each trial on every executor at hand.
//!
//! A trial is named `operation::dtype::shape::executor`. Trials of an executor that is not here are listed as ignored,
//! with the reason. `cargo test gemm` runs those whose name contains `gemm`.

mod attention;
mod bad_input;
mod bench;
mod cli;
mod common;
mod config;
mod dependent;
mod driver;
mod embedding;
mod gemm;
mod generate;
mod hopper;
mod layer_norm;
mod lm_head;
mod measuring;
mod mlp;
mod model;
mod moe_combine;
mod moe_dispatch;
mod moe_gemm;
mod orders;
mod properties;
mod qkv;
mod readme;
mod recorded;
mod reference;
mod routing_html;
mod sampling;
mod session;
mod tokenizer;
mod tools;
mod topk_gating;
mod traffic;
mod weights;

fn main() -> std::process::ExitCode {
    let arguments = libtest_mimic::Arguments::from_args();
    let executors = common::executors();
    let modules = [
        attention::trials(executors),
        bad_input::trials(),
        bench::trials(),
        cli::trials(),
        config::trials(),
        dependent::trials(),
        driver::trials(),
        embedding::trials(executors),
        gemm::trials(executors),
        hopper::trials(),
        generate::trials(),
        layer_norm::trials(executors),
        lm_head::trials(executors),
        measuring::trials(),
        mlp::trials(executors),
        model::trials(),
        moe_combine::trials(executors),
        moe_dispatch::trials(executors),
        moe_gemm::trials(executors),
        orders::trials(),
        properties::trials(),
        qkv::trials(executors),
        readme::trials(),
        recorded::trials(),
        reference::trials(),
        routing_html::trials(),
        session::trials(),
        sampling::trials(executors),
        tokenizer::trials(),
        tools::trials(),
        topk_gating::trials(executors),
        traffic::trials(),
        weights::trials(),
    ];
    // tools/run-on-gpu names the trials to run in a file, a line each: a filter is only one.
    let chosen = std::env::var_os("NANOMOE_TRIALS").map(|path| {
        let names = std::fs::read_to_string(&path).expect("NANOMOE_TRIALS names a file of trials");
        names.lines().map(str::to_owned).collect::<std::collections::HashSet<_>>()
    });
    let is_chosen =
        |trial: &libtest_mimic::Trial| chosen.as_ref().is_none_or(|names| names.contains(trial.name()));
    let trials = modules.into_iter().flatten().filter(is_chosen).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
