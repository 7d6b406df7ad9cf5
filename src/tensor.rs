//! What operations are given: pointers with a shape, strides and an element type.
//!
//! [`TensorView`] is a raw pointer and its description: what an engine of your own hands over. [`Tensor`] and
//! [`TensorMut`] borrow memory that is known to live and to be large enough, so operations on them are safe.

use std::marker::PhantomData;

use crate::error::{Error, Result};

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    BF16,
    /// IEEE binary16.
    F16,
    /// Signed 32-bit integer: ids, counts, offsets.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::BF16 | DType::F16 => 2,
        }
    }

    /// The name used in kernel names and on the command line: `f32`, `bf16`, `f16` or `i32`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::BF16 => "bf16",
            DType::F16 => "f16",
            DType::I32 => "i32",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that stands for a [`DType`].
pub trait Element: bytemuck::Pod {
    /// The matching element type.
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for half::bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

/// Where a tensor's memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// This process's memory.
    Host,
    /// The memory of the device with this identity ([`crate::device::Device::id`]).
    Device(u64),
    /// Not said: a raw view, for which the caller vouches.
    Unknown,
}

/// The most dimensions a tensor has.
pub const MAX_RANK: usize = 4;

/// A raw tensor: a pointer, an element type, a shape and strides. `Copy`, and carries no lifetime: whoever makes
/// one vouches for the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorView {
    /// Address of the first element: a device pointer, or a host pointer for the CPU operations.
    pub pointer: u64,
    /// Element type.
    pub dtype: DType,
    rank: u8,
    shape: [usize; MAX_RANK],
    strides: [usize; MAX_RANK],
}

impl TensorView {
    /// A dense row-major tensor of `shape` at `pointer`.
    ///
    /// # Panics
    /// If `shape` has more than [`MAX_RANK`] dimensions.
    pub fn dense(pointer: u64, dtype: DType, shape: &[usize]) -> Self {
        let mut strides = [1; MAX_RANK];
        for dim in (0..shape.len().saturating_sub(1)).rev() {
            strides[dim] = strides[dim + 1] * shape[dim + 1];
        }
        Self::strided(pointer, dtype, shape, &strides[..shape.len()])
    }

    /// A tensor whose element `[i, j, …]` stands at `pointer + (i·strides[0] + j·strides[1] + …)·size`.
    /// Strides are in elements.
    ///
    /// # Panics
    /// If `shape` and `strides` differ in length or have more than [`MAX_RANK`] dimensions.
    pub fn strided(pointer: u64, dtype: DType, shape: &[usize], strides: &[usize]) -> Self {
        assert!(
            shape.len() <= MAX_RANK && shape.len() == strides.len(),
            "shape {shape:?}, strides {strides:?}"
        );
        let mut view = TensorView {
            pointer,
            dtype,
            rank: shape.len() as u8,
            shape: [1; MAX_RANK],
            strides: [1; MAX_RANK],
        };
        view.shape[..shape.len()].copy_from_slice(shape);
        view.strides[..strides.len()].copy_from_slice(strides);
        view
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape[..self.rank as usize]
    }

    /// The strides in elements, outermost first.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.rank as usize]
    }

    /// Number of elements.
    pub fn num_elements(&self) -> usize {
        self.shape().iter().product()
    }

    /// Elements from the first to one past the last that can be reached: what a slice over it must span.
    pub fn span(&self) -> usize {
        if self.num_elements() == 0 {
            return 0;
        }
        1 + self.shape().iter().zip(self.strides()).map(|(n, s)| (n - 1) * s).sum::<usize>()
    }

    /// Whether elements stand row-major without gaps.
    pub fn is_dense(&self) -> bool {
        let mut expected = 1;
        for (&n, &stride) in self.shape().iter().zip(self.strides()).rev() {
            if n != 1 && stride != expected {
                return false;
            }
            expected *= n;
        }
        true
    }

    /// The part `start..start + len` of dimension `dim`.
    ///
    /// # Panics
    /// If the range is outside the dimension.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Self {
        assert!(
            start.checked_add(len).is_some_and(|end| end <= self.shape()[dim]),
            "narrow {start}+{len} of dimension {dim} in {:?}",
            self.shape()
        );
        let mut view = *self;
        view.pointer += (start * self.strides[dim] * self.dtype.size()) as u64;
        view.shape[dim] = len;
        view
    }

    /// The same elements in another shape.
    ///
    /// # Panics
    /// If the tensor is not dense or the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert!(self.is_dense(), "reshape of a strided tensor {:?} {:?}", self.shape(), self.strides());
        assert_eq!(
            self.num_elements(),
            shape.iter().product::<usize>(),
            "reshape {:?} -> {shape:?}",
            self.shape()
        );
        Self::dense(self.pointer, self.dtype, shape)
    }

    /// Dimension `dim` of size `outer · inner` as two: `[.., outer, inner, ..]`. Works on strided tensors.
    ///
    /// # Panics
    /// If `inner` does not divide the dimension, or the tensor has [`MAX_RANK`] dimensions already.
    pub fn split(&self, dim: usize, inner: usize) -> Self {
        let size = self.shape()[dim];
        assert!(inner > 0 && size.is_multiple_of(inner), "split {size} by {inner}");
        let mut shape = self.shape().to_vec();
        let mut strides = self.strides().to_vec();
        shape.splice(dim..=dim, [size / inner, inner]);
        strides.splice(dim..=dim, [strides[dim] * inner, strides[dim]]);
        Self::strided(self.pointer, self.dtype, &shape, &strides)
    }
}

/// Anything an operation can look at: it has a raw view and a place.
pub trait AsView {
    /// The raw description.
    fn view(&self) -> TensorView;
    /// Where the memory is.
    fn place(&self) -> Place;
}

impl AsView for TensorView {
    fn view(&self) -> TensorView {
        *self
    }
    fn place(&self) -> Place {
        Place::Unknown
    }
}

/// A tensor borrowed for reading.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    view: TensorView,
    place: Place,
    memory: PhantomData<&'a [u8]>,
}

/// A tensor borrowed for writing.
#[derive(Debug)]
pub struct TensorMut<'a> {
    view: TensorView,
    place: Place,
    memory: PhantomData<&'a mut [u8]>,
}

impl AsView for Tensor<'_> {
    fn view(&self) -> TensorView {
        self.view
    }
    fn place(&self) -> Place {
        self.place
    }
}

impl AsView for TensorMut<'_> {
    fn view(&self) -> TensorView {
        self.view
    }
    fn place(&self) -> Place {
        self.place
    }
}

impl<'a> Tensor<'a> {
    /// A dense tensor over a slice of this process's memory.
    ///
    /// # Panics
    /// If `shape` has another number of elements than `slice`.
    pub fn host<T: Element>(slice: &'a [T], shape: &[usize]) -> Self {
        assert_eq!(slice.len(), shape.iter().product::<usize>(), "shape {shape:?}");
        let view = TensorView::dense(slice.as_ptr() as u64, T::DTYPE, shape);
        Tensor { view, place: Place::Host, memory: PhantomData }
    }

    /// A tensor over memory the caller vouches for.
    ///
    /// # Safety
    /// Every element of `view` is readable memory at `place`, aligned to its type, and is not written during `'a`.
    pub unsafe fn from_raw(view: TensorView, place: Place) -> Self {
        Tensor { view, place, memory: PhantomData }
    }

    /// The part `start..start + len` of dimension `dim`; panics as [`TensorView::narrow`].
    pub fn narrow(self, dim: usize, start: usize, len: usize) -> Self {
        Tensor { view: self.view.narrow(dim, start, len), ..self }
    }

    /// The same elements in another shape; panics as [`TensorView::reshape`].
    pub fn reshape(self, shape: &[usize]) -> Self {
        Tensor { view: self.view.reshape(shape), ..self }
    }

    /// Dimension `dim` as two; panics as [`TensorView::split`].
    pub fn split(self, dim: usize, inner: usize) -> Self {
        Tensor { view: self.view.split(dim, inner), ..self }
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.view.shape()
    }

    /// The host memory from the first to the last reachable element (index it with the view's strides).
    ///
    /// # Errors
    /// [`Error::Tensor`] when the tensor is not in host memory or has another element type.
    pub fn as_slice<T: Element>(&self, operation: &'static str) -> Result<&'a [T]> {
        check_host::<T>(&self.view, self.place, operation)?;
        // SAFETY: check_host saw host memory of this type; whoever made the tensor vouched for its elements
        // during 'a (`host` from a slice, `from_raw` by contract), and an empty span is not read.
        Ok(unsafe { std::slice::from_raw_parts(dangling_if_empty(&self.view), self.view.span()) })
    }
}

impl<'a> TensorMut<'a> {
    /// A dense tensor over a slice of this process's memory.
    ///
    /// # Panics
    /// If `shape` has another number of elements than `slice`.
    pub fn host<T: Element>(slice: &'a mut [T], shape: &[usize]) -> Self {
        assert_eq!(slice.len(), shape.iter().product::<usize>(), "shape {shape:?}");
        let view = TensorView::dense(slice.as_mut_ptr() as u64, T::DTYPE, shape);
        TensorMut { view, place: Place::Host, memory: PhantomData }
    }

    /// A tensor over memory the caller vouches for.
    ///
    /// # Safety
    /// Every element of `view` is writable memory at `place`, aligned to its type, and is used by nobody else
    /// during `'a`.
    pub unsafe fn from_raw(view: TensorView, place: Place) -> Self {
        TensorMut { view, place, memory: PhantomData }
    }

    /// The part `start..start + len` of dimension `dim`; panics as [`TensorView::narrow`].
    pub fn narrow(self, dim: usize, start: usize, len: usize) -> Self {
        TensorMut { view: self.view.narrow(dim, start, len), ..self }
    }

    /// A dense tensor's first `rows` of its outermost dimension, and the others.
    ///
    /// # Panics
    /// If the tensor is not dense, and as [`TensorView::narrow`].
    pub fn split_rows(self, rows: usize) -> (Self, Self) {
        assert!(self.view.is_dense(), "parts of a tensor that is not dense may overlap in memory");
        let others = self.view.shape()[0] - rows;
        let part = |first, len| TensorMut { view: self.view.narrow(0, first, len), ..self };
        (part(0, rows), part(rows, others))
    }

    /// The same elements in another shape; panics as [`TensorView::reshape`].
    pub fn reshape(self, shape: &[usize]) -> Self {
        TensorMut { view: self.view.reshape(shape), ..self }
    }

    /// Dimension `dim` as two; panics as [`TensorView::split`].
    pub fn split(self, dim: usize, inner: usize) -> Self {
        TensorMut { view: self.view.split(dim, inner), ..self }
    }

    /// The sizes, outermost first.
    pub fn shape(&self) -> &[usize] {
        self.view.shape()
    }

    /// A shorter borrow of the same tensor.
    pub fn reborrow(&mut self) -> TensorMut<'_> {
        TensorMut { view: self.view, place: self.place, memory: PhantomData }
    }

    /// The same tensor for reading.
    pub fn as_ref(&self) -> Tensor<'_> {
        Tensor { view: self.view, place: self.place, memory: PhantomData }
    }

    /// The host memory from the first to the last reachable element (index it with the view's strides).
    ///
    /// # Errors
    /// [`Error::Tensor`] when the tensor is not in host memory or has another element type.
    pub fn into_slice<T: Element>(self, operation: &'static str) -> Result<&'a mut [T]> {
        check_host::<T>(&self.view, self.place, operation)?;
        // SAFETY: as in `Tensor::as_slice`; `self` is consumed, so the exclusive borrow is not doubled.
        Ok(unsafe { std::slice::from_raw_parts_mut(dangling_if_empty::<T>(&self.view), self.view.span()) })
    }
}

fn check_host<T: Element>(view: &TensorView, place: Place, operation: &'static str) -> Result<()> {
    if place != Place::Host || view.dtype != T::DTYPE {
        let message = format!("expected {} in host memory, got {} in {place:?}", T::DTYPE, view.dtype);
        return Err(Error::Tensor { operation, message });
    }
    Ok(())
}

fn dangling_if_empty<T>(view: &TensorView) -> *mut T {
    if view.span() == 0 { std::ptr::NonNull::dangling().as_ptr() } else { view.pointer as *mut T }
}
