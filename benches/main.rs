//! Kernel microbenchmarks: one program, a file an operation. `cargo bench layer_norm` runs one of them.
//!
//! Time is the GPU's own, between two events around a chunk of launches; inputs are random. Without a GPU it says so
//! and measures nothing: the virtual GPU has no notion of time.

mod attention;
mod common;
mod gemm;
mod layer_norm;

use nanomoe::kernels::DeviceOperations;

fn main() {
    let ops = match DeviceOperations::open_cuda(0) {
        Ok(ops) => ops,
        Err(reason) => {
            eprintln!("nothing measured: {reason}");
            return;
        }
    };
    let mut criterion = criterion::Criterion::default().configure_from_args();
    common::report_device(&ops);
    attention::bench(&mut criterion, &ops);
    gemm::bench(&mut criterion, &ops);
    layer_norm::bench(&mut criterion, &ops);
    criterion.final_summary();
}
