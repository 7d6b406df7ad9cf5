//! What is measured: a module, its buffers and a launch that can be repeated.

use std::path::Path;
use virtual_gpu::counters::InstructionCounts;
use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::{DataType, TensorMap};
use virtual_gpu::{Description, Function, Gpu, Launch, Options, Stream};

/// A kernel ready to be launched again and again.
pub struct Kernel {
    /// Name in reports.
    pub name: String,
    gpu: Gpu,
    function: Function,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    args: Vec<Vec<u8>>,
}

/// Uniform in -1..1, the same every time.
fn random(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn narrow(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
}

fn wide(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Kernel {
    /// A kernel of a PTX file of this crate.
    fn new(file: &str, kernel: &str, grid: [u32; 3], block: [u32; 3]) -> Kernel {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let gpu = Gpu::new(Description::h200());
        let module = gpu.load_module(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
        let function = module.function(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        Kernel { name: kernel.into(), gpu, function, grid, block, shared: 0, args: Vec::new() }
    }

    fn shared(mut self, bytes: u32) -> Kernel {
        self.shared = bytes;
        self.function.set_max_dynamic_shared(bytes);
        self
    }

    fn buffer(&self, data: &[u8]) -> u64 {
        let address = self.gpu.alloc(data.len() as u64).expect("memory");
        self.gpu.write(address, data).expect("in bounds");
        address
    }

    fn input(mut self, data: &[u8]) -> Kernel {
        self.args.push(self.buffer(data).to_le_bytes().to_vec());
        self
    }

    /// Undefined memory.
    fn output(mut self, bytes: usize) -> Kernel {
        let address = self.gpu.alloc(bytes as u64).expect("memory");
        self.args.push(address.to_le_bytes().to_vec());
        self
    }

    fn value(mut self, value: i32) -> Kernel {
        self.args.push(value.to_le_bytes().to_vec());
        self
    }

    /// A tensor map of bf16 `[rows, k]` with boxes of 64 elements by `taken` rows.
    fn map(mut self, values: &[f32], k: u64, rows: u64, taken: u32) -> Kernel {
        let address = self.buffer(&narrow(values));
        let mut map = TensorMap::dense(DataType::Bf16, address, &[k, rows], &[64, taken]);
        map.swizzle = Swizzle::B128;
        self.args.push(map.encode().expect("a legal map").to_vec());
        self
    }

    /// Launches on this many threads of the CPU.
    pub fn threads(&self, threads: usize) {
        self.gpu.set_options(Options { threads, ..self.gpu.options() });
    }

    /// One launch.
    pub fn run(&self) {
        let args: Vec<&[u8]> = self.args.iter().map(Vec::as_slice).collect();
        let launch = Launch {
            grid: self.grid,
            block: self.block,
            dynamic_shared_bytes: self.shared,
            args: &args,
            ..Launch::default()
        };
        self.gpu.launch(&self.function, &launch, Stream::default()).expect("it launches");
        self.gpu.synchronize().expect("it runs");
    }

    /// What one launch does; there must be no finding.
    pub fn work(&self) -> InstructionCounts {
        self.gpu.reset_counters();
        self.run();
        let findings = self.gpu.findings();
        assert!(findings.is_empty(), "{}: {}", self.name, findings[0]);
        self.gpu.counters()[0].total
    }
}

/// Layer norm and gating: judged by thread instructions.
pub fn rows() -> Vec<Kernel> {
    let (tokens, hidden, experts, k) = (64, 768, 64, 8);
    let x = random(tokens * hidden);
    let vector = random(hidden);
    let file = "benches/rows.ptx";
    let (t, h, e) = (tokens as u32, hidden as i32, experts as i32);
    vec![
        Kernel::new(file, "layer_norm", [t, 1, 1], [128, 1, 1])
            .input(&wide(&x))
            .input(&wide(&vector))
            .input(&wide(&vector))
            .output(4 * x.len())
            .value(h),
        Kernel::new(file, "layer_norm_bf16", [t / 4, 1, 1], [128, 1, 1])
            .input(&narrow(&x))
            .input(&wide(&vector))
            .input(&wide(&vector))
            .output(2 * x.len())
            .value(tokens as i32)
            .value(h),
        Kernel::new(file, "router_logits", [t, experts as u32 / 32, 1], [32, 4, 1])
            .input(&wide(&x))
            .input(&wide(&random(experts * hidden)))
            .output(4 * tokens * experts)
            .value(e)
            .value(h),
        Kernel::new(file, "topk_gating", [t, 1, 1], [128, 1, 1])
            .input(&wide(&random(4 * tokens * experts)))
            .output(16 * tokens * k)
            .output(16 * tokens * k)
            .value(4 * tokens as i32)
            .value(e)
            .value(k as i32),
        Kernel::new("tests/ptx/reductions.sm_80.ptx", "softmax", [t / 4, 1, 1], [128, 1, 1])
            .input(&wide(&x))
            .output(4 * x.len())
            .value(tokens as i32)
            .value(h),
    ]
}

/// Products on the tensor cores: judged by multiply-accumulates.
pub fn products() -> Vec<Kernel> {
    let (m, n, k) = (256usize, 128, 512);
    let (a, b) = (random(m * k), random(n * k));
    let (m32, n32) = (m as u32, n as u32);
    vec![
        Kernel::new("tests/ptx/ampere.sm_80.ptx", "mma_gemm_bf16", [n32 / 64, m32 / 64, 1], [128, 1, 1])
            .input(&narrow(&a))
            .input(&narrow(&b))
            .output(4 * m * n)
            .value(m as i32)
            .value(n as i32)
            .value(k as i32),
        Kernel::new(
            "tests/ptx/hopper_wgmma.sm_90a.ptx",
            "warp_specialised",
            [n32 / 32, m32 / 128, 1],
            [384, 1, 1],
        )
        .shared(4 * (128 * 64 + 32 * 64) * 2 + 64)
        .map(&a, k as u64, m as u64, 128)
        .map(&b, k as u64, n as u64, 32)
        .output(4 * m * n)
        .value(n as i32)
        .value(k as i32),
    ]
}
