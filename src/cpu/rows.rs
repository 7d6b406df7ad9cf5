//! Matrices in host memory: rows with a stride, elements of a row contiguous.

use crate::error::Result;
use crate::tensor::{AsView, Tensor, TensorMut};

/// A matrix to read.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
}

impl<'a> Rows<'a> {
    /// The rows of an f32 `[.., rows, columns]` tensor of two dimensions.
    pub fn new(tensor: Tensor<'a>, operation: &'static str) -> Result<Self> {
        let view = tensor.view();
        let values = tensor.as_slice::<f32>(operation)?;
        Ok(Rows { values, stride: view.strides()[0], rows: view.shape()[0], columns: view.shape()[1] })
    }

    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..self.columns]
    }

    /// `count` rows from `first` on.
    pub fn narrow(&self, first: usize, count: usize) -> Self {
        assert!(first + count <= self.rows);
        let start = (first * self.stride).min(self.values.len());
        Rows { values: &self.values[start..], rows: count, ..*self }
    }
}

/// A matrix to write: `groups` of rows, so that `[batch, rows, columns]` with any strides is one too.
pub(super) struct RowsMut<'a> {
    pub values: &'a mut [f32],
    pub group_stride: usize,
    pub group_rows: usize,
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
}

impl<'a> RowsMut<'a> {
    /// The rows of an f32 tensor of two or three dimensions.
    pub fn new(tensor: TensorMut<'a>, operation: &'static str) -> Result<Self> {
        let view = tensor.view();
        let values = tensor.into_slice::<f32>(operation)?;
        let (shape, strides) = (view.shape(), view.strides());
        Ok(match *shape {
            [rows, columns] => RowsMut::dense_groups(values, strides[0], rows, columns),
            [groups, rows, columns] => {
                let (group_stride, stride) = (strides[0], strides[1]);
                if rows == 1 {
                    RowsMut::dense_groups(values, group_stride, groups, columns)
                } else if group_stride == rows * stride || groups == 1 {
                    RowsMut::dense_groups(values, stride, groups * rows, columns)
                } else {
                    RowsMut { values, group_stride, group_rows: rows, stride, rows: groups * rows, columns }
                }
            }
            _ => unreachable!("a checked output has two or three dimensions"),
        })
    }

    /// One group.
    pub fn dense_groups(values: &'a mut [f32], stride: usize, rows: usize, columns: usize) -> Self {
        RowsMut { values, group_stride: 0, group_rows: rows.max(1), stride, rows, columns }
    }

    fn offset(&self, row: usize) -> usize {
        row / self.group_rows * self.group_stride + row % self.group_rows * self.stride
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let offset = self.offset(row);
        &mut self.values[offset..][..self.columns]
    }

    /// The groups, each with the number of its first row.
    pub fn groups(&mut self) -> impl Iterator<Item = (usize, RowsMut<'_>)> {
        let (group_rows, stride, columns, rows) = (self.group_rows, self.stride, self.columns, self.rows);
        let step = if self.group_stride == 0 { self.values.len().max(1) } else { self.group_stride };
        self.values.chunks_mut(step).enumerate().map(move |(group, values)| {
            let first = group * group_rows;
            (first, RowsMut::dense_groups(values, stride, group_rows.min(rows - first), columns))
        })
    }
}
