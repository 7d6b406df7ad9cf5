//! What row-wise launchers share: alignment of rows, and how many threads share one.

use crate::device::LaunchConfig;
use crate::error::{Error, Result};
use crate::tensor::TensorView;

/// Threads of a block of row-wise kernels.
const BLOCK_THREADS: usize = 256;

/// Whether every row (innermost dimension) of `view` starts at a multiple of 16 bytes and is made of whole chunks of
/// 16 bytes.
pub(super) fn whole_chunks(view: &TensorView) -> bool {
    let size = view.dtype.size();
    let (&len, outer) = view.shape().split_last().expect("a tensor with rows");
    let strides = &view.strides()[..outer.len()];
    view.pointer.is_multiple_of(16)
        && (len * size).is_multiple_of(16)
        && outer.iter().zip(strides).all(|(&n, &stride)| n <= 1 || (stride * size).is_multiple_of(16))
}

/// Threads that share a row of `row_bytes`, 16 bytes each at a time, as evenly as a block can: all of them busy in
/// every round but the last, and a few short of it there.
pub(super) fn row_threads(row_bytes: usize) -> usize {
    let chunks = row_bytes.div_ceil(16).max(1);
    chunks.div_ceil(chunks.div_ceil(BLOCK_THREADS))
}

/// Blocks of x threads that share a row of `row_bytes` and up to `max_rows` rows; one-dimensional grid.
pub(super) fn rows_config(
    operation: &'static str,
    num_rows: usize,
    row_bytes: usize,
    max_rows: usize,
) -> Result<LaunchConfig> {
    let x = row_threads(row_bytes);
    let y = (BLOCK_THREADS / x).min(max_rows);
    let mut config = LaunchConfig::linear(narrow(operation, "blocks", num_rows.div_ceil(y))?, x as u32);
    config.block[1] = y as u32;
    Ok(config)
}

/// `value` as the 32-bit integer a kernel takes.
pub(super) fn narrow<T: TryFrom<usize>>(operation: &'static str, what: &str, value: usize) -> Result<T> {
    T::try_from(value).map_err(|_| Error::Tensor {
        operation,
        message: format!("{what} is {value}, more than the kernel can count"),
    })
}
