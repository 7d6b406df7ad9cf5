//! Every instruction against values computed another way. Each module has tables of small kernels; `coverage` checks
//! that no word the decoder knows is without a test.

mod compare;
mod convert;
mod float;
mod harness;
mod integer;
mod special;
