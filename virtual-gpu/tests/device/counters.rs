//! What single accesses count.

use crate::{HEAD, kernel};
use virtual_gpu::counters::{InstructionCounts, Traffic};
use virtual_gpu::{Description, Gpu, Launch, Options, Stream};

/// The totals of a kernel run by one warp on 4096 bytes.
fn counts(body: &str) -> InstructionCounts {
    let (gpu, function) =
        kernel("", &format!(".shared .align 16 .b8 buffer[512];\n{body}"), Options::default());
    let out = gpu.alloc(4096).expect("memory");
    gpu.memset(out, 0, 4096).expect("in bounds");
    let launch = Launch { args: &[&out.to_le_bytes()], ..Launch::default() };
    gpu.launch(&function, &launch, Stream::default()).expect("a launch");
    gpu.synchronize().expect("no error");
    let findings = gpu.take_findings();
    assert!(findings.is_empty(), "{}", findings[0]);
    gpu.counters()[0].total
}

#[test]
fn strides_and_broadcasts() {
    let at = |stride: u32| format!("mul.wide.u32 %x1, %r0, {stride};\nadd.s64 %x2, %out, %x1;\n");
    for (stride, sectors, least) in [(0, 1, 1), (4, 4, 4), (8, 8, 4), (64, 32, 4)] {
        let traffic = Traffic { requests: 1, bytes: 128, sectors, sectors_least: least };
        let total = counts(&format!("{}ld.global.u32 %r1, [%x2];\n", at(stride)));
        assert_eq!((total.global_loads, total.global_stores), (traffic, Traffic::default()), "{stride}");
        let total = counts(&format!("{}red.global.add.u32 [%x2], 1;\n", at(stride)));
        assert_eq!((total.global_loads, total.global_stores), (Traffic::default(), traffic), "{stride}");
        assert_eq!(total.global(), traffic);
        assert_eq!((total.async_loads, total.async_stores), Default::default());
    }
}

#[test]
fn constants_are_not_global_memory() {
    let gpu = Gpu::new(Description::h200());
    let text = format!(
        "{HEAD}.const .align 4 .u32 table[1] = {{7}};\n.visible .entry k()\n{{\n.reg .b32 %r<2>;\n\
         ld.const.u32 %r1, [table];\nret;\n}}\n"
    );
    let function = gpu.load_module(&text).expect("PTX").function("k").expect("the kernel");
    gpu.launch(&function, &Launch::default(), Stream::default()).expect("a launch");
    gpu.synchronize().expect("no error");
    let total = gpu.counters()[0].total;
    assert_eq!((total.threads, total.global_loads), (64, Traffic::default()));
}

#[test]
fn cp_async_reads_its_source_size() {
    let body = |size: &str| {
        format!(
            "mul.wide.u32 %x1, %r0, 16;\nadd.s64 %x2, %out, %x1;\nmov.u32 %r1, buffer;\nmad.lo.u32 %r2, %r0, 16, \
             %r1;\nmov.u32 %r3, 12;\nsetp.lt.u32 %p1, %r0, 8;\nselp.u32 %r4, 16, 0, %p1;\n\
             cp.async.cg.shared.global [%r2], [%x2], 16{size};\ncp.async.wait_all;\n"
        )
    };
    for (size, bytes, sectors, least) in [("", 512, 16, 16), (", %r3", 384, 16, 12), (", %r4", 128, 4, 4)] {
        let total = counts(&body(size));
        let traffic = Traffic { requests: 1, bytes, sectors, sectors_least: least };
        assert_eq!((total.global_loads, total.async_loads), (traffic, traffic), "{size}");
        // All 16 bytes of every lane are written, zeros among them.
        assert_eq!((total.shared_bytes, total.shared_wavefronts), (512, 4), "{size}");
    }
}
