//! The device around the kernels: what is refused when a module is loaded or a kernel launched, streams, events, graphs,
//! and how launches that cannot end are reported.

mod counters;
mod launches;
mod refused;
mod schedules;
mod streams;

use virtual_gpu::{Description, Function, Gpu, Options};

const HEAD: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

/// A device with one kernel, `k(.param .u64 out)`.
fn kernel(directives: &str, body: &str, options: Options) -> (Gpu, Function) {
    let gpu = Gpu::with_options(Description::h200(), options);
    let text = format!(
        "{HEAD}.visible .entry k(.param .u64 out)\n{directives}\n{{\n.reg .b64 %out, %x<9>;\n.reg .b32 %r<19>;\n.reg .pred \
         %p<9>;\nld.param.u64 %out, [out];\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    );
    let module = gpu.load_module(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let function = module.function("k").expect("the kernel");
    (gpu, function)
}
