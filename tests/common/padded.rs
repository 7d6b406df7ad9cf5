//! Matrices whose rows are not dense: between their rows stands a value that nobody may change.

use libtest_mimic::Failed;
use nanomoe::buffer::Buffer;
use nanomoe::operations::Operations;
use nanomoe::tensor::{DType, Tensor, TensorMut};

use super::{download, upload};

/// What stands outside the rows: exact in every type.
const SENTINEL: f32 = 12.5;

/// How rows lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One after the other.
    Dense,
    /// With 16 bytes between them, each aligned to 16 bytes if its length is.
    Strided,
    /// Starting one element into the buffer, 3 elements apart: nothing is aligned.
    Unaligned,
}

/// A matrix of rows in a layout.
pub struct Padded {
    buffer: Buffer,
    rows: usize,
    len: usize,
    pitch: usize,
    offset: usize,
}

impl Padded {
    /// `values` `[rows, len]` stored as `dtype`.
    pub fn new(ops: &dyn Operations, dtype: DType, values: &[f32], len: usize, layout: Layout) -> Self {
        let rows = values.len().checked_div(len).unwrap_or(0);
        let (pitch, offset) = match layout {
            Layout::Dense => (len, 0),
            Layout::Strided => (len + 16 / dtype.size(), 0),
            Layout::Unaligned => (len + 3, 1),
        };
        let mut memory = vec![SENTINEL; rows * pitch];
        for (row, values) in values.chunks(len.max(1)).enumerate() {
            memory[row * pitch + offset..][..len].copy_from_slice(values);
        }
        Padded { buffer: upload(ops, dtype, &memory), rows, len, pitch, offset }
    }

    /// Space for `rows` rows, filled with the sentinel.
    pub fn output(ops: &dyn Operations, dtype: DType, rows: usize, len: usize, layout: Layout) -> Self {
        Self::new(ops, dtype, &vec![SENTINEL; rows * len], len, layout)
    }

    /// `[rows, len]`
    pub fn tensor(&self) -> Tensor<'_> {
        self.buffer.tensor(&[self.rows, self.pitch]).narrow(1, self.offset, self.len)
    }

    /// `[rows, len]`
    pub fn tensor_mut(&mut self) -> TensorMut<'_> {
        self.buffer.tensor_mut(&[self.rows, self.pitch]).narrow(1, self.offset, self.len)
    }

    /// The rows, after checking that nothing between them was written.
    pub fn read(&self, ops: &dyn Operations) -> Result<Vec<f32>, Failed> {
        let memory = download(ops, &self.buffer);
        let mut values = Vec::with_capacity(self.rows * self.len);
        for (index, &value) in memory.iter().enumerate() {
            if (self.offset..self.offset + self.len).contains(&(index % self.pitch)) {
                values.push(value);
            } else if value != SENTINEL {
                return Err(format!("{value} was written outside the rows, at element {index}").into());
            }
        }
        Ok(values)
    }
}

/// `values` in f64, as the reference takes them.
pub fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
