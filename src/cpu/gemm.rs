//! Matrix products: dot products at memory bandwidth for few rows, the `gemm` crate for many.

use gemm::Parallelism;
use rayon::prelude::*;

use super::rows::{Rows, RowsMut};
use super::simd;
use crate::error::Result;
use crate::operations::{Activation, GemmParams, MlpParams, Numerics, Residual};
use crate::tensor::{Place, Tensor, TensorMut};

/// Up to this many rows, reading the weights takes longer than the arithmetic.
const FEW_ROWS: usize = 8;

/// Rows of a product that a residual is added to which are held at a time.
const ROWS_AT_ONCE: usize = 1024;

/// Weight bytes that are worth handing to another core.
const TASK_BYTES: usize = 192 << 10;

/// What happens to a product before it is stored.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
    pub residual: Add<'a>,
}

/// [`Residual`] over host memory.
#[derive(Clone, Copy)]
pub(super) enum Add<'a> {
    None,
    InPlace,
    From(Rows<'a>),
}

pub(super) fn gemm(p: GemmParams<Tensor<'_>, TensorMut<'_>>, numerics: Numerics) -> Result<()> {
    p.check()?;
    p.raw(Place::Host)?;
    let a = Rows::new(p.a, "gemm")?;
    let b = Rows::new(p.b, "gemm")?;
    let bias = p.bias.map(|bias| bias.as_slice::<f32>("gemm")).transpose()?;
    let out = RowsMut::new(p.out, "gemm")?;
    let gathered;
    let residual = match p.residual {
        Residual::None => Add::None,
        Residual::InPlace => Add::InPlace,
        Residual::From(tensor) => {
            gathered = super::dense_elements(tensor, "gemm")?;
            Add::From(Rows { values: &gathered, stride: b.rows, rows: a.rows, columns: b.rows })
        }
    };
    product(out, a, b, Epilogue { bias, activation: p.activation, residual }, How::parallel(numerics));
    Ok(())
}

pub(super) fn mlp(p: MlpParams<Tensor<'_>, TensorMut<'_>>, numerics: Numerics) -> Result<()> {
    p.check()?;
    p.raw(Place::Host)?;
    let mut hidden = p.hidden;
    gemm(
        GemmParams {
            out: hidden.reborrow(),
            a: p.x,
            b: p.fc,
            bias: p.fc_bias,
            activation: p.activation,
            residual: Residual::None,
        },
        numerics,
    )?;
    gemm(
        GemmParams {
            out: p.out,
            a: hidden.as_ref(),
            b: p.proj,
            bias: p.proj_bias,
            activation: Activation::Identity,
            residual: p.residual,
        },
        numerics,
    )
}

/// How a product is computed.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// On all cores.
    pub parallel: bool,
    pub numerics: Numerics,
}

impl How {
    pub fn parallel(numerics: Numerics) -> Self {
        How { parallel: true, numerics }
    }
}

/// `out = epilogue(a · bᵀ)`
pub(super) fn product(
    mut out: RowsMut<'_>,
    a: Rows<'_>,
    b: Rows<'_>,
    epilogue: Epilogue<'_>,
    How { parallel, numerics }: How,
) {
    if a.rows == 0 || b.rows == 0 {
        return;
    }
    if numerics == Numerics::BatchInvariant {
        // Dot products, each with sums of its own, however many rows there are
        for first in (0..a.rows).step_by(FEW_ROWS) {
            few_rows(&mut out, a.narrow(first, FEW_ROWS.min(a.rows - first)), first, b, epilogue, parallel);
        }
        return;
    }
    if a.rows == 1 {
        one_row(out.row_mut(0), a.row(0), b, epilogue, parallel);
    } else if a.rows <= FEW_ROWS {
        few_rows(&mut out, a, 0, b, epilogue, parallel);
    } else {
        for (first, out) in out.groups() {
            let residual = match epilogue.residual {
                Add::From(rows) => Add::From(rows.narrow(first, out.rows)),
                other => other,
            };
            many_rows(out, a, first, b, Epilogue { residual, ..epilogue }, parallel);
        }
    }
}

/// Output columns of one task: enough weights to be worth it, few enough that all cores have work.
fn columns_per_task(b: &Rows<'_>, parallel: bool) -> usize {
    if !parallel {
        return b.rows;
    }
    let worth = TASK_BYTES.div_ceil(4 * b.columns.max(1));
    // Two tasks a core: one that is held up does not hold up all.
    worth.max(b.rows.div_ceil(2 * rayon::current_num_threads()))
}

fn one_row(out: &mut [f32], a: &[f32], b: Rows<'_>, epilogue: Epilogue<'_>, parallel: bool) {
    let columns = columns_per_task(&b, parallel);
    let task = |task: usize, out: &mut [f32]| {
        let first = task * columns;
        let weights = &b.values[first * b.stride..];
        let bias = epilogue.bias.map(|bias| &bias[first..first + out.len()]);
        match epilogue.residual {
            Add::None => {
                simd::dot_rows(out, &[a], weights, b.stride);
                finish(out, bias, epilogue.activation);
            }
            residual => {
                let mut products = vec![0.0; out.len()];
                simd::dot_rows(&mut products, &[a], weights, b.stride);
                finish(&mut products, bias, epilogue.activation);
                if let Add::From(rows) = residual {
                    out.copy_from_slice(&rows.row(0)[first..first + out.len()]);
                }
                simd::add_scaled(out, 1.0, &products);
            }
        }
    };
    if columns >= out.len() {
        task(0, out);
    } else {
        out.par_chunks_mut(columns).enumerate().for_each(|(index, out)| task(index, out));
    }
}

/// Rows of `out` from `first` on.
fn few_rows(
    out: &mut RowsMut<'_>,
    a: Rows<'_>,
    first: usize,
    b: Rows<'_>,
    epilogue: Epilogue<'_>,
    parallel: bool,
) {
    let rows: Vec<&[f32]> = (0..a.rows).map(|row| a.row(row)).collect();
    let columns = columns_per_task(&b, parallel);
    // [N, M]: tasks take columns of the result, which are rows here.
    let mut products = vec![0.0; a.rows * b.rows];
    let task = |(index, products): (usize, &mut [f32])| {
        simd::dot_rows(products, &rows, &b.values[index * columns * b.stride..], b.stride);
    };
    if columns >= b.rows {
        task((0, &mut products));
    } else {
        products.par_chunks_mut(columns * a.rows).enumerate().for_each(task);
    }
    let mut line = vec![0.0; b.rows];
    for row in 0..a.rows {
        for (value, products) in line.iter_mut().zip(products.chunks_exact(a.rows)) {
            *value = products[row];
        }
        finish(&mut line, epilogue.bias, epilogue.activation);
        store(out.row_mut(first + row), &line, epilogue.residual, first + row);
    }
}

fn many_rows(
    mut out: RowsMut<'_>,
    a: Rows<'_>,
    first: usize,
    b: Rows<'_>,
    epilogue: Epilogue<'_>,
    parallel: bool,
) {
    let a = a.narrow(first, out.rows);
    if matches!(epilogue.residual, Add::None) {
        matmul(&mut out, a, b, parallel);
        each_row(&mut out, parallel, |_, row| finish(row, epilogue.bias, epilogue.activation));
    } else {
        let mut products = vec![0.0; a.rows.min(ROWS_AT_ONCE) * b.rows];
        for first in (0..a.rows).step_by(ROWS_AT_ONCE) {
            let a = a.narrow(first, ROWS_AT_ONCE.min(a.rows - first));
            let mut products = RowsMut::dense_groups(&mut products, b.rows, a.rows, b.rows);
            matmul(&mut products, a, b, parallel);
            each_row(&mut products, parallel, |_, row| finish(row, epilogue.bias, epilogue.activation));
            for row in 0..a.rows {
                let line = &products.values[row * b.rows..][..b.rows];
                store(out.row_mut(first + row), line, epilogue.residual, first + row);
            }
        }
    }
}

fn each_row(out: &mut RowsMut<'_>, parallel: bool, f: impl Fn(usize, &mut [f32]) + Sync) {
    let (columns, stride) = (out.columns, out.stride.max(1));
    if parallel && out.rows * columns > 1 << 16 {
        let rows = out.values.par_chunks_mut(stride).take(out.rows).enumerate();
        rows.with_min_len(16).for_each(|(index, row)| f(index, &mut row[..columns]));
    } else {
        (0..out.rows).for_each(|row| f(row, out.row_mut(row)));
    }
}

fn finish(values: &mut [f32], bias: Option<&[f32]>, activation: Activation) {
    if let Some(bias) = bias {
        simd::add_scaled(values, 1.0, bias);
    }
    simd::activate(values, activation);
}

fn store(out: &mut [f32], values: &[f32], residual: Add<'_>, row: usize) {
    match residual {
        Add::None => out.copy_from_slice(values),
        Add::InPlace => simd::add_scaled(out, 1.0, values),
        Add::From(rows) => {
            out.copy_from_slice(rows.row(row));
            simd::add_scaled(out, 1.0, values);
        }
    }
}

/// `out = a · bᵀ` by the `gemm` crate; `out` is one group.
fn matmul(out: &mut RowsMut<'_>, a: Rows<'_>, b: Rows<'_>, parallel: bool) {
    let (m, n, k) = (a.rows, b.rows, a.columns);
    let out_stride = out.stride;
    strided_matmul(
        out.values,
        out_stride,
        (a.values, a.stride),
        (b.values, 1, b.stride),
        (m, n, k),
        parallel,
    );
}

/// `out[i, j] = Σ a[i, l] · b[l, j]`: `out` and `a` have rows a stride apart, `b` has a row and a column stride.
pub(super) fn strided_matmul(
    out: &mut [f32],
    out_stride: usize,
    (a, a_stride): (&[f32], usize),
    (b, b_row_stride, b_column_stride): (&[f32], usize, usize),
    (m, n, k): (usize, usize, usize),
    parallel: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(out.len() >= (m - 1) * out_stride + n && out_stride >= n, "out is too small");
    assert!(k == 0 || a.len() >= (m - 1) * a_stride + k, "a is too small");
    assert!(k == 0 || b.len() > (k - 1) * b_row_stride + (n - 1) * b_column_stride, "b is too small");
    let parallelism = if parallel { Parallelism::Rayon(0) } else { Parallelism::None };
    // SAFETY: the asserts above: every element i, j, l below m, n, k is inside its slice, rows of `out` do not
    // overlap, and `out` is borrowed exclusively.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            false,
            a.as_ptr(),
            1,
            a_stride as isize,
            b.as_ptr(),
            b_column_stride as isize,
            b_row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}
