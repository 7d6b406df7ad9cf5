use rayon::prelude::*;

use super::gemm::{Add, Epilogue, How, product};
use super::rows::{Rows, RowsMut};
use crate::error::{Error, Result};
use crate::operations::{MoeGemmParams, Numerics};
use crate::tensor::{AsView, Place, Tensor, TensorMut};

const NAME: &str = "moe_gemm";

/// One expert's product: its rows of the output, and which rows it reads.
struct Task<'a> {
    expert: usize,
    first: usize,
    rows: usize,
    out: &'a mut [f32],
}

/// Each expert's rows are gathered and multiplied by its weight. With many experts at work a core takes whole
/// experts, with few all cores share each of them.
pub(super) fn moe_gemm(p: MoeGemmParams<Tensor<'_>, TensorMut<'_>>, numerics: Numerics) -> Result<()> {
    let dims = p.check()?;
    p.raw(Place::Host)?;
    let a = Rows::new(p.a, NAME)?;
    let (weight_strides, weights) = (p.b.view(), p.b.as_slice::<f32>(NAME)?);
    let weight_strides = weight_strides.strides();
    let index = p.row_index.map(|index| index.as_slice::<i32>(NAME)).transpose()?;
    let bias = p.bias.map(|bias| bias.as_slice::<f32>(NAME)).transpose()?;
    let offsets = p.expert_offsets.as_slice::<i32>(NAME)?;
    let stride = p.out.view().strides()[0];
    let mut rest = p.out.into_slice::<f32>(NAME)?;

    check_rows(offsets, index, dims.max_rows, a.rows)?;
    let mut tasks = Vec::new();
    for (expert, range) in offsets.windows(2).enumerate() {
        let rows = (range[1] - range[0]) as usize;
        if rows > 0 {
            let (out, after) = rest.split_at_mut((rows * stride).min(rest.len()));
            rest = after;
            tasks.push(Task { expert, first: range[0] as usize, rows, out });
        }
    }
    let shared = tasks.len() < 2 * rayon::current_num_threads();
    let run = |task: Task<'_>| {
        let Task { expert, first, rows, out } = task;
        let b = Rows {
            values: &weights[expert * weight_strides[0]..],
            stride: weight_strides[1],
            rows: dims.n,
            columns: dims.k,
        };
        let epilogue = Epilogue {
            bias: bias.map(|bias| &bias[expert * dims.n..][..dims.n]),
            activation: p.activation,
            residual: Add::None,
        };
        let out = RowsMut::dense_groups(out, stride, rows, dims.n);
        match index {
            None => product(out, a.narrow(first, rows), b, epilogue, How { parallel: shared, numerics }),
            Some(index) => {
                let index = &index[first..first + rows];
                let gathered: Vec<f32> = index.iter().flat_map(|&row| a.row(row as usize)).copied().collect();
                let a = Rows { values: &gathered, stride: dims.k, rows, columns: dims.k };
                product(out, a, b, epilogue, How { parallel: shared, numerics });
            }
        }
    };
    if shared {
        tasks.into_iter().for_each(run);
    } else {
        tasks.into_par_iter().for_each(run);
    }
    Ok(())
}

/// Offsets rise from 0 and every row they reach reads a row of `a`.
fn check_rows(offsets: &[i32], index: Option<&[i32]>, max_rows: usize, a_rows: usize) -> Result<()> {
    let fail = |message: String| Err(Error::Tensor { operation: NAME, message });
    let last = offsets[offsets.len() - 1];
    if offsets[0] != 0 || offsets.windows(2).any(|pair| pair[0] > pair[1]) || last as usize > max_rows {
        return fail(format!(
            "expert_offsets {offsets:?}, expected them to rise from 0 to at most {max_rows}"
        ));
    }
    let bad =
        index.and_then(|index| index[..last as usize].iter().find(|&&row| row < 0 || row as usize >= a_rows));
    match bad {
        Some(row) => fail(format!("row_index names row {row} of {a_rows}")),
        None => Ok(()),
    }
}
