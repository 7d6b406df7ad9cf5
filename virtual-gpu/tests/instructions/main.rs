//! Every instruction against values computed another way. Each module has tables of small kernels; `coverage` checks
//! that no word the decoder knows is without a test.

mod asynchronous;
mod compare;
mod control;
mod convert;
mod coverage;
mod float;
mod harness;
mod integer;
mod memory;
mod program;
mod special;
mod warp;
