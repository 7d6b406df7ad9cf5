//! Ordinary CUDA programs (tests/cuda), compiled by nvcc (tests/compile.py), against values computed here: under every
//! schedule, with every check on, and no finding.

#[path = "../support/mod.rs"]
mod support;

mod ampere;
mod counters;
mod elementwise;
mod hopper;
mod indirect;
mod printing;
mod reductions;
mod shared_memory;
mod stale;
mod wide_atomics;
mod wmma;
