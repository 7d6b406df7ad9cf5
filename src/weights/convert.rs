//! From a file's bytes to the program's: another float type, and matrices turned from `[in, out]` to `[out, in]`.
//!
//! Everything goes through byte slices, so neither side has to be aligned: a file's tensors need not be.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::tensor::DType;

/// A float type as its little-endian bytes.
trait Scalar: Copy + Send + Sync {
    const SIZE: usize;
    fn read(bytes: &[u8]) -> Self;
    fn write(self, bytes: &mut [u8]);
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
}

macro_rules! scalar {
    ($type:ty, $to:expr, $from:expr) => {
        impl Scalar for $type {
            const SIZE: usize = size_of::<$type>();
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<$type>()];
                own.copy_from_slice(bytes);
                <$type>::from_le_bytes(own)
            }
            #[inline]
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn to_f32(self) -> f32 {
                $to(self)
            }
            #[inline]
            fn from_f32(value: f32) -> Self {
                $from(value)
            }
        }
    };
}
scalar!(f32, |value: f32| value, |value: f32| value);
scalar!(bf16, bf16::to_f32, bf16::from_f32);
scalar!(f16, f16::to_f32, f16::from_f32);

/// How a file's tensor lies: as the program's, or with its last two dimensions swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Same,
    /// `[batch, inputs, outputs]` in the file, `[batch, outputs, inputs]` in the program.
    Transposed {
        inputs: usize,
        outputs: usize,
    },
}

/// Elements converted by one task when nothing is transposed.
const RUN: usize = 1 << 16;
/// Side of the square that is transposed at a time: two of them in f32 fit half of a 32 kB cache.
const TILE: usize = 64;

/// Converts a float tensor of `from` bytes into `to` bytes of another float type. Both hold the same number of
/// elements; a value outside the range of the new type becomes infinite.
pub(super) fn convert(from: &[u8], from_dtype: DType, order: Order, to: &mut [u8], to_dtype: DType) {
    assert_eq!(from.len() / from_dtype.size(), to.len() / to_dtype.size());
    if from_dtype == to_dtype && order == Order::Same {
        return to.copy_from_slice(from);
    }
    match from_dtype {
        DType::F32 => convert_from::<f32>(from, order, to, to_dtype),
        DType::BF16 => convert_from::<bf16>(from, order, to, to_dtype),
        DType::F16 => convert_from::<f16>(from, order, to, to_dtype),
        DType::I32 => unreachable!("open() admits only float tensors"),
    }
}

fn convert_from<S: Scalar>(from: &[u8], order: Order, to: &mut [u8], to_dtype: DType) {
    match to_dtype {
        DType::F32 => convert_between::<S, f32>(from, order, to),
        DType::BF16 => convert_between::<S, bf16>(from, order, to),
        DType::F16 => convert_between::<S, f16>(from, order, to),
        DType::I32 => unreachable!("read() admits only float types"),
    }
}

fn convert_between<S: Scalar, D: Scalar>(from: &[u8], order: Order, to: &mut [u8]) {
    match order {
        Order::Same => {
            let runs = from.par_chunks(RUN * S::SIZE).zip(to.par_chunks_mut(RUN * D::SIZE));
            runs.for_each(|(from, to)| {
                for (from, to) in from.chunks_exact(S::SIZE).zip(to.chunks_exact_mut(D::SIZE)) {
                    D::from_f32(S::read(from).to_f32()).write(to);
                }
            });
        }
        Order::Transposed { inputs, outputs } => {
            let matrices = from.chunks_exact(inputs * outputs * S::SIZE);
            for (from, to) in matrices.zip(to.chunks_exact_mut(inputs * outputs * D::SIZE)) {
                let strips = to.par_chunks_mut(TILE * inputs * D::SIZE).enumerate();
                strips
                    .for_each(|(strip, to)| transpose_strip::<S, D>(from, inputs, outputs, strip * TILE, to));
            }
        }
    }
}

/// Writes the program's rows `first..` of one matrix, as many as `to` holds.
fn transpose_strip<S: Scalar, D: Scalar>(
    from: &[u8],
    inputs: usize,
    outputs: usize,
    first: usize,
    to: &mut [u8],
) {
    for tile in (0..inputs).step_by(TILE) {
        let columns = TILE.min(inputs - tile);
        for (row, to) in to.chunks_exact_mut(inputs * D::SIZE).enumerate() {
            let to = &mut to[tile * D::SIZE..(tile + columns) * D::SIZE];
            for (column, to) in to.chunks_exact_mut(D::SIZE).enumerate() {
                let at = ((tile + column) * outputs + first + row) * S::SIZE;
                D::from_f32(S::read(&from[at..at + S::SIZE]).to_f32()).write(to);
            }
        }
    }
}

/// The first element that is NaN, infinite, or infinite once converted to `to_dtype`, and its value in the file.
pub(super) fn first_not_finite(from: &[u8], from_dtype: DType, to_dtype: DType) -> Option<(usize, f32)> {
    fn search<S: Scalar>(from: &[u8], limit: f32) -> Option<(usize, f32)> {
        from.par_chunks(RUN * S::SIZE).enumerate().find_map_first(|(run, bytes)| {
            let values = bytes.chunks_exact(S::SIZE).map(|bytes| S::read(bytes).to_f32());
            // A NaN compares as neither, so it is found too.
            let bad = values
                .enumerate()
                .find(|(_, value)| !matches!(value.abs().partial_cmp(&limit), Some(order) if order.is_lt()));
            bad.map(|(at, value)| (run * RUN + at, value))
        })
    }
    // From here on, rounding to nearest gives infinity.
    let limit = match to_dtype {
        DType::F32 | DType::I32 => f32::INFINITY,
        DType::BF16 => f32::from_bits(0x7f7f_8000),
        DType::F16 => 65520.0,
    };
    match from_dtype {
        DType::F32 => search::<f32>(from, limit),
        DType::BF16 => search::<bf16>(from, limit),
        DType::F16 => search::<f16>(from, limit),
        DType::I32 => None,
    }
}
