//! What every module of the suite uses: executors, random data, comparison.

mod any;
mod checkpoint;
mod compare;
mod counting;
mod executors;
mod padded;

pub use any::{Reach, any_layout, for_any};
pub use checkpoint::{
    Draft, RawTensor, Scratch, default_model, golden, read_safetensors, safetensors_bytes, with_header,
};
pub use compare::{Bound, check_close, check_equal};
pub use counting::{Calls, CountingDevice};
pub use executors::{Executor, device_operations, executors, hopper_trial, trial};
pub use padded::{Layout, Padded, f64s};

use nanomoe::buffer::Buffer;
use nanomoe::operations::Operations;
use nanomoe::tensor::{DType, Element};
use rand::{Rng, SeedableRng};

/// Random numbers that are the same at every run: `len` values uniform in -1..1.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// What a value becomes when stored as `dtype`.
pub fn rounded(dtype: DType, values: &[f32]) -> Vec<f32> {
    match dtype {
        DType::BF16 => values.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
        DType::F16 => values.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect(),
        DType::F32 | DType::I32 => values.to_vec(),
    }
}

/// The bytes of `values` stored as `dtype` (rounded to nearest even).
pub fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::BF16 => values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::I32 => unreachable!("integers are uploaded with upload_i32"),
    }
}

/// The values in `bytes` stored as `dtype`.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    match dtype {
        DType::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        DType::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        DType::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        DType::I32 => unreachable!("integers are downloaded with download_i32"),
    }
}

/// A buffer on the executor holding `values` as `dtype`.
pub fn upload(ops: &dyn Operations, dtype: DType, values: &[f32]) -> Buffer {
    let mut buffer = ops.allocate(dtype, values.len()).expect("allocate");
    ops.upload(buffer.tensor_mut(&[values.len()]), &encode(dtype, values)).expect("upload");
    buffer
}

/// A buffer on the executor holding `values`.
pub fn upload_i32(ops: &dyn Operations, values: &[i32]) -> Buffer {
    let mut buffer = ops.allocate(DType::I32, values.len()).expect("allocate");
    ops.upload(buffer.tensor_mut(&[values.len()]), bytemuck::cast_slice(values)).expect("upload");
    buffer
}

/// The values in a buffer of floats.
pub fn download(ops: &dyn Operations, buffer: &Buffer) -> Vec<f32> {
    let mut bytes = vec![0; buffer.len() * buffer.dtype().size()];
    ops.download(buffer.tensor(&[buffer.len()]), &mut bytes).expect("download");
    decode(buffer.dtype(), &bytes)
}

/// The values in a buffer of integers.
pub fn download_i32(ops: &dyn Operations, buffer: &Buffer) -> Vec<i32> {
    assert_eq!(buffer.dtype(), i32::DTYPE);
    let mut values = vec![0i32; buffer.len()];
    ops.download(buffer.tensor(&[buffer.len()]), bytemuck::cast_slice_mut(&mut values)).expect("download");
    values
}

/// A file or folder of the repository: where cargo says it is when the tests run (tools/gpu-bundle moves them), else
/// where they were built.
pub fn repository(path: &str) -> std::path::PathBuf {
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    std::path::Path::new(&root).join(path)
}

/// A golden folder by its name.
pub fn golden_dir(name: &str) -> std::path::PathBuf {
    repository("tests/golden").join(name)
}

/// The golden folders of the repository, by name.
pub fn golden_dirs() -> Vec<(String, std::path::PathBuf)> {
    let root = repository("tests/golden");
    let entries = std::fs::read_dir(&root).expect("tests/golden is part of the repository");
    let mut dirs: Vec<_> = entries
        .map(|entry| entry.expect("a readable folder"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .collect();
    dirs.sort();
    assert!(!dirs.is_empty(), "tests/golden is empty");
    dirs
}

/// Fails with every tensor that is beyond its bound, and if nothing was compared or something is not known.
pub fn report(report: &nanomoe::verify::Report) -> Result<(), libtest_mimic::Failed> {
    let bad: Vec<String> = report
        .checks
        .iter()
        .filter(|check| !check.passed())
        .map(|check| {
            let size: usize = check.shape.iter().product();
            let (name, at, got, golden) = (&check.name, &check.at, check.got, check.golden);
            format!("{name}{at:?} is {got}, expected {golden} ({} of {size} off)", check.num_outside)
        })
        .collect();
    if !bad.is_empty() || !report.unknown.is_empty() || report.checks.is_empty() {
        return Err(format!("{}; not compared: {:?}", bad.join("; "), report.unknown).into());
    }
    Ok(())
}
