//! Queries, keys and values: one product, its columns spread over q and the cache.

use super::gemm::{Add, Epilogue, How, product};
use super::rows::{Rows, RowsMut};
use crate::buffer::zeroed;
use crate::error::Result;
use crate::operations::{Activation, Numerics, QkvParams};
use crate::tensor::{Place, Tensor, TensorMut};

const NAME: &str = "qkv";

pub(super) fn qkv(p: QkvParams<Tensor<'_>, TensorMut<'_>>, numerics: Numerics) -> Result<()> {
    let dims = p.check()?;
    p.raw(Place::Host)?;
    let (a, weight) = (Rows::new(p.a, NAME)?, Rows::new(p.weight, NAME)?);
    let bias = p.bias.map(|bias| bias.as_slice::<f32>(NAME)).transpose()?;
    let kv_rows = p.kv_rows.as_slice::<i32>(NAME)?;
    let (mut q, mut kv) = (RowsMut::new(p.q, NAME)?, RowsMut::new(p.kv, NAME)?);

    let columns = dims.q_columns + dims.kv_columns;
    let mut sums: Vec<f32> = zeroed(dims.num_tokens * columns)?;
    let epilogue = Epilogue { bias, activation: Activation::Identity, residual: Add::None };
    let out = RowsMut::dense_groups(&mut sums, columns, dims.num_tokens, columns);
    product(out, a, weight, epilogue, How::parallel(numerics));
    for (token, &kv_row) in kv_rows.iter().enumerate() {
        let (q_part, kv_part) = sums[token * columns..][..columns].split_at(dims.q_columns);
        q.row_mut(token).copy_from_slice(q_part);
        if let Some(row) = usize::try_from(kv_row).ok().filter(|&row| row < dims.num_cache_rows) {
            kv.row_mut(row).copy_from_slice(kv_part);
        }
    }
    Ok(())
}
