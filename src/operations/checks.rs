//! Shape, type and layout checks that name the tensor, what was wanted and what was got.

use crate::error::{Error, Result};
use crate::tensor::{AsView, DType, Place, TensorView};

/// Collects what an operation asks of its tensors; stops at the first that does not hold.
#[derive(Clone, Copy)]
pub(super) struct Checker {
    pub operation: &'static str,
}

impl Checker {
    pub fn fail<T>(&self, message: String) -> Result<T> {
        Err(Error::Tensor { operation: self.operation, message })
    }

    pub fn that(&self, holds: bool, message: impl FnOnce() -> String) -> Result<()> {
        if holds { Ok(()) } else { self.fail(message()) }
    }

    /// `tensor` has this many dimensions and its innermost one is contiguous.
    pub fn rank(&self, name: &str, tensor: &impl AsView, rank: usize) -> Result<TensorView> {
        let view = tensor.view();
        self.that(view.shape().len() == rank, || {
            format!("{name} has shape {:?}, expected {rank} dimensions", view.shape())
        })?;
        let last = rank - 1;
        self.that(view.shape()[last] <= 1 || view.strides()[last] == 1, || {
            format!("{name} has stride {} in its last dimension, expected 1", view.strides()[last])
        })?;
        Ok(view)
    }

    /// `tensor` has this shape (`what` names the dimensions), contiguous in its innermost one.
    pub fn shape(&self, name: &str, tensor: &impl AsView, shape: &[usize], what: &str) -> Result<TensorView> {
        let view = self.rank(name, tensor, shape.len())?;
        self.that(view.shape() == shape, || {
            format!("{name} has shape {:?}, expected {shape:?} {what}", view.shape())
        })?;
        Ok(view)
    }

    /// As `shape`, and dense and of this type.
    pub fn dense(
        &self,
        name: &str,
        tensor: &impl AsView,
        dtype: DType,
        shape: &[usize],
        what: &str,
    ) -> Result<()> {
        let view = self.shape(name, tensor, shape, what)?;
        self.dtype(name, &view, dtype)?;
        self.that(view.is_dense(), || format!("{name} has strides {:?}, expected it dense", view.strides()))
    }

    /// `tensor` is dense, of this type, and has at least `needed` elements.
    pub fn scratch(&self, name: &str, tensor: &impl AsView, dtype: DType, needed: usize) -> Result<()> {
        let view = tensor.view();
        self.dtype(name, &view, dtype)?;
        self.that(view.is_dense() && view.num_elements() >= needed, || {
            format!("{name} has {} elements, expected {needed}", view.num_elements())
        })
    }

    pub fn dtype(&self, name: &str, view: &TensorView, dtype: DType) -> Result<()> {
        self.that(view.dtype == dtype, || format!("{name} is {}, expected {dtype}", view.dtype))
    }

    /// `view` is f32, bf16 or f16.
    pub fn float(&self, name: &str, view: &TensorView) -> Result<()> {
        self.that(view.dtype != DType::I32, || format!("{name} is i32, expected f32, bf16 or f16"))
    }

    /// Every tensor is where the provider works, or its place is unknown.
    pub fn place(&self, place: Place, tensors: &[(&str, Place)]) -> Result<()> {
        for &(name, found) in tensors {
            self.that(found == place || found == Place::Unknown || place == Place::Unknown, || {
                format!("{name} is in {found:?}, expected {place:?}")
            })?;
        }
        Ok(())
    }
}
