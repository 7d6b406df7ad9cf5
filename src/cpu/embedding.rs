use super::rows::Rows;
use super::simd;
use crate::error::Result;
use crate::operations::EmbeddingParams;
use crate::tensor::{AsView, Place, Tensor, TensorMut};

pub(super) fn embedding(p: EmbeddingParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
    let dims = p.check()?;
    p.raw(Place::Host)?;
    let ids = p.token_ids.as_slice::<i32>("embedding")?;
    let tokens = Rows::new(p.token_table, "embedding")?;
    let positions = Rows::new(p.position_table, "embedding")?;
    let firsts = p.first_positions.map(|first| first.as_slice::<i32>("embedding")).transpose()?;
    let out_view = p.out.view();
    let out = p.out.into_slice::<f32>("embedding")?;
    for batch in 0..dims.batch_size {
        let first = p.first_position as i64 + firsts.map_or(0, |firsts| i64::from(firsts[batch]));
        for t in 0..dims.seq_len {
            let offset = batch * out_view.strides()[0] + t * out_view.strides()[1];
            let row = &mut out[offset..][..dims.hidden_size];
            let id = usize::try_from(ids[batch * dims.seq_len + t]).ok().filter(|&id| id < dims.vocab_size);
            let position = usize::try_from(first + t as i64).ok().filter(|&at| at < dims.num_positions);
            match (id, position) {
                (Some(id), Some(position)) => {
                    row.copy_from_slice(tokens.row(id));
                    simd::add_scaled(row, 1.0, positions.row(position));
                }
                _ => row.fill(f32::NAN),
            }
        }
    }
    Ok(())
}
