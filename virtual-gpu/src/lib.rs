//! Runs compiled CUDA kernels (PTX) on the CPU and says what is wrong with them.
pub mod numeric;
pub mod tensor;
