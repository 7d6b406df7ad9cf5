//! Runs compiled CUDA kernels (PTX) on the CPU and says what is wrong with them: a sanitizer that needs no GPU.
//!
//! A [`Gpu`] has memory, modules and streams like a device. [`Gpu::load_module`] takes the PTX that nvcc emits,
//! [`Gpu::launch`] runs a kernel and checks every access; what is wrong is in [`Gpu::findings`].

// An access has a place, a lane, a size and a kind, and the hot paths pass them apart, in registers.
#![allow(clippy::too_many_arguments)]

pub mod cli;
pub mod counters;
mod decode;
mod description;
mod exec;
pub mod findings;
mod global_races;
mod gpu;
mod hash;
mod memory;
pub mod numeric;
mod options;
pub mod ptx;
mod races;
mod registers;
mod stream;
pub mod tensor;

pub use counters::KernelCounters;
pub use decode::program::Parameter;
pub use description::Description;
pub use findings::{Finding, Kind};
pub use gpu::{Attributes, Error, Function, Gpu, Launch, Module};
pub use options::{Checks, Options, Order};
pub use ptx::LoadError;
pub use stream::{Event, Graph, Stream};
