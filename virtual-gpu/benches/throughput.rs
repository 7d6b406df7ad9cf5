//! How fast the virtual GPU is, on one core with every check on: thread instructions a second of kernels that work on
//! rows, multiply-accumulates a second of products on the tensor cores.

mod cases;

use cases::Kernel;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn measure(c: &mut Criterion, group: &str, kernels: Vec<Kernel>, work: impl Fn(&Kernel) -> u64) {
    let mut group = c.benchmark_group(group);
    for kernel in kernels {
        group.throughput(Throughput::Elements(work(&kernel)));
        group.bench_function(&kernel.name, |b| b.iter(|| kernel.run()));
    }
    group.finish();
}

fn throughput(c: &mut Criterion) {
    measure(c, "thread instructions", cases::rows(), |k| k.work().threads);
    measure(c, "multiply-accumulates", cases::products(), |k| k.work().tensor_macs);
}

criterion_group!(benches, throughput);
criterion_main!(benches);
