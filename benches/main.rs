//! Kernel microbenchmarks: one program, a file an operation. `cargo bench layer_norm` runs one of them.
//!
//! Time is the GPU's own, between two events around a chunk of launches; inputs are random. Without a GPU it says so
//! and measures nothing: the virtual GPU has no notion of time.

mod attention;
mod common;
mod embedding;
mod forward;
mod gemm;
mod layer_norm;
mod lm_head;
mod mlp;
mod moe_combine;
mod moe_dispatch;
mod moe_gemm;
mod sampling;
mod topk_gating;

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
    for bench in [
        embedding::bench,
        layer_norm::bench,
        gemm::bench,
        mlp::bench,
        attention::bench,
        topk_gating::bench,
        moe_dispatch::bench,
        moe_gemm::bench,
        moe_combine::bench,
        lm_head::bench,
        sampling::bench,
        forward::bench,
    ] {
        bench(&mut criterion, &ops);
    }
    criterion.final_summary();
}
