//! Comparison with the f64 reference: element by element, with a bound that is written as a formula.

use libtest_mimic::Failed;
use nanomoe::tensor::DType;

/// `|got - expected| <= absolute + relative · |expected|`.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    pub absolute: f64,
    pub relative: f64,
}

impl Bound {
    /// For a result stored as `dtype` after a sum of `terms` products of size `scale` accumulated in f32: half a unit
    /// in the last place of the store (taken whole), and `√terms` roundings of the running sum, times four.
    pub fn sum(dtype: DType, terms: usize, scale: f64) -> Self {
        let accumulate = 4.0 * f32::EPSILON as f64 * (terms.max(1) as f64).sqrt() * scale;
        Bound {
            absolute: accumulate + Self::epsilon(dtype) * 1e-3,
            relative: Self::epsilon(dtype) + accumulate,
        }
    }

    /// The distance from 1 to the next number of a type.
    pub fn epsilon(dtype: DType) -> f64 {
        match dtype {
            DType::F32 => f32::EPSILON as f64,
            DType::BF16 => 2f64.powi(-7),
            DType::F16 => 2f64.powi(-10),
            DType::I32 => 0.0,
        }
    }
}

/// Compares element by element; NaN equals NaN. Names the first element that is off, its coordinate in `shape`, and how
/// many are.
pub fn check_close(
    name: &str,
    shape: &[usize],
    got: &[f32],
    expected: &[f64],
    bound: Bound,
) -> Result<(), Failed> {
    let size: usize = shape.iter().product();
    if got.len() != size || expected.len() != size {
        return Err(
            format!("{name}: {} elements, {} expected, shape {shape:?}", got.len(), expected.len()).into()
        );
    }
    let off = |index: &usize| {
        let (g, e) = (got[*index] as f64, expected[*index]);
        let same = g == e || (g.is_nan() && e.is_nan());
        let within = (g - e).abs() <= bound.absolute + bound.relative * e.abs();
        !same && !within
    };
    let bad: Vec<usize> = (0..size).filter(off).collect();
    match bad.first() {
        None => Ok(()),
        Some(&first) => Err(format!(
            "{name}{:?} is {}, expected {} ({} of {size} elements off, {bound:?})",
            coordinate(first, shape),
            got[first],
            expected[first],
            bad.len()
        )
        .into()),
    }
}

/// Compares integers exactly.
pub fn check_equal(name: &str, shape: &[usize], got: &[i32], expected: &[i32]) -> Result<(), Failed> {
    let size: usize = shape.iter().product();
    if got.len() != size || expected.len() != size {
        return Err(
            format!("{name}: {} elements, {} expected, shape {shape:?}", got.len(), expected.len()).into()
        );
    }
    let bad: Vec<usize> = (0..size).filter(|&index| got[index] != expected[index]).collect();
    match bad.first() {
        None => Ok(()),
        Some(&first) => Err(format!(
            "{name}{:?} is {}, expected {} ({} of {size} differ)",
            coordinate(first, shape),
            got[first],
            expected[first],
            bad.len()
        )
        .into()),
    }
}

fn coordinate(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut coordinate = vec![0; shape.len()];
    for dim in (0..shape.len()).rev() {
        coordinate[dim] = index % shape[dim];
        index /= shape[dim];
    }
    coordinate
}
