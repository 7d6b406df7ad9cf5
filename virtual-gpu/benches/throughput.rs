//! How fast the virtual GPU is with every check on: thread instructions a second of kernels that work on rows and
//! multiply-accumulates a second of products on the tensor cores, on one core; then the former on all cores.

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
    let on_all_cores = cases::rows();
    on_all_cores.iter().for_each(|kernel| kernel.threads(0));
    measure(c, "thread instructions on all cores", on_all_cores, |k| k.work().threads);
}

criterion_group!(benches, throughput);
criterion_main!(benches);
