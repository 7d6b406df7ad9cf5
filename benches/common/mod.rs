//! What every benchmark uses: random inputs on the device, and the GPU's own clock.

pub mod routing;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};
use nanomoe::buffer::Buffer;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::Operations;
use nanomoe::tensor::DType;
use rand::{Rng, SeedableRng};

/// Launches between two events: enough that a launch's cost to the host does not show.
const CHUNK: u64 = 64;

/// Says what is measured on.
pub fn report_device(ops: &DeviceOperations) {
    let properties = ops.kernels().device().properties();
    let (major, minor) = properties.compute_capability;
    eprintln!("{}, compute capability {major}.{minor}, {} SMs", properties.name, properties.num_sms);
}

/// A buffer of `len` values uniform in -1..1, stored as `dtype`.
pub fn random(ops: &DeviceOperations, dtype: DType, len: usize, seed: u64) -> Buffer {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let bytes: Vec<u8> = match dtype {
        DType::F32 => (0..len).flat_map(|_| rng.random_range(-1f32..1.0).to_le_bytes()).collect(),
        DType::BF16 => {
            (0..len).flat_map(|_| half::bf16::from_f32(rng.random_range(-1f32..1.0)).to_le_bytes()).collect()
        }
        DType::F16 => {
            (0..len).flat_map(|_| half::f16::from_f32(rng.random_range(-1f32..1.0)).to_le_bytes()).collect()
        }
        DType::I32 => unreachable!("integers have a bound: `integers`"),
    };
    let mut buffer = ops.allocate(dtype, len).expect("device memory");
    ops.upload(buffer.tensor_mut(&[len]), &bytes).expect("upload");
    buffer
}

/// A buffer of `len` integers in 0..bound.
pub fn integers(ops: &DeviceOperations, len: usize, bound: usize, seed: u64) -> Buffer {
    let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
    let values: Vec<i32> = (0..len).map(|_| rng.random_range(0..bound as i32)).collect();
    let mut buffer = ops.allocate(DType::I32, len).expect("device memory");
    ops.upload(buffer.tensor_mut(&[len]), bytemuck::cast_slice(&values)).expect("upload");
    buffer
}

/// Benchmarks `launch` by the GPU's clock. `bytes` are the fewest the operation must move.
pub fn bench(
    group: &mut BenchmarkGroup<'_, WallTime>,
    ops: &DeviceOperations,
    shape: impl std::fmt::Display,
    bytes: u64,
    mut launch: impl FnMut(&DeviceOperations) -> nanomoe::Result<()>,
) {
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function(BenchmarkId::from_parameter(shape), |bencher| {
        bencher.iter_custom(|iterations| {
            let device = ops.kernels().device();
            let (start, end) = (device.create_event().expect("event"), device.create_event().expect("event"));
            let mut microseconds = 0.0;
            let mut left = iterations;
            while left > 0 {
                let chunk = left.min(CHUNK);
                device.record_event(start, ops.stream()).expect("record");
                for _ in 0..chunk {
                    launch(ops).expect("launch");
                }
                device.record_event(end, ops.stream()).expect("record");
                microseconds += device.elapsed_us(start, end).expect("elapsed");
                left -= chunk;
            }
            device.destroy_event(start);
            device.destroy_event(end);
            Duration::from_secs_f64(microseconds * 1e-6)
        });
    });
}
