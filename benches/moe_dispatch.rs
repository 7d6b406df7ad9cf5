//! Where each assignment of a token to an expert goes.

use criterion::Criterion;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::Operations;

use crate::common;
use crate::common::routing::Routing;

pub fn bench(criterion: &mut Criterion, ops: &DeviceOperations) {
    let mut group = criterion.benchmark_group("moe_dispatch/i32");
    for (tokens, experts, k) in [(1024, 8, 2), (12288, 8, 2), (16384, 256, 8)] {
        let mut routing = Routing::new(ops, tokens, experts, k);
        let bytes = (12 * tokens * k + 4 * (experts + 1)) as u64;
        common::bench(&mut group, ops, format!("{tokens}x{experts}x{k}"), bytes, |ops| {
            ops.moe_dispatch(routing.params())
        });
    }
    group.finish();
}
