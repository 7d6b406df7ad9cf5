//! Every operation's own sweep in other orders of what nothing orders: asynchronous work at the last legal moment, and
//! three random orders, whose seed stands in the trial's name and gives the same run again. The Hopper kernels on the
//! virtual Hopper GPU, the portable ones on the virtual Ampere GPU, whose launchers have no others.

use libtest_mimic::Trial;
use virtual_gpu::Order;

use crate::common::Executor;
use crate::{
    attention, embedding, gemm, layer_norm, lm_head, mlp, moe_combine, moe_dispatch, moe_gemm, qkv, sampling,
    topk_gating,
};

const HOPPER: [Executor; 4] = [
    Executor::hopper("virtual-lazy", Order::Lazy),
    Executor::hopper("virtual-random1", Order::Random(1)),
    Executor::hopper("virtual-random2", Order::Random(2)),
    Executor::hopper("virtual-random3", Order::Random(3)),
];
const AMPERE: [Executor; 4] = [
    Executor::ampere("ampere-lazy", Order::Lazy),
    Executor::ampere("ampere-random1", Order::Random(1)),
    Executor::ampere("ampere-random2", Order::Random(2)),
    Executor::ampere("ampere-random3", Order::Random(3)),
];

pub fn trials() -> Vec<Trial> {
    let sweeps = |executors: &[Executor]| {
        [
            attention::trials(executors),
            embedding::trials(executors),
            gemm::trials(executors),
            layer_norm::trials(executors),
            lm_head::trials(executors),
            mlp::trials(executors),
            moe_combine::trials(executors),
            moe_dispatch::trials(executors),
            moe_gemm::trials(executors),
            qkv::trials(executors),
            sampling::trials(executors),
            topk_gating::trials(executors),
        ]
        .into_iter()
        .flatten()
    };
    let hopper = sweeps(&HOPPER).filter(|trial| trial.name().contains("_wgmma::"));
    hopper.chain(sweeps(&AMPERE).filter(|trial| trial.name().contains("::ampere-"))).collect()
}
