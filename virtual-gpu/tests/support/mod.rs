//! A kernel launch described once and run under every schedule.

#![allow(dead_code)]

mod device;

use virtual_gpu::counters::InstructionCounts;
use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::{DataType, TensorMap};
use virtual_gpu::{Finding, Options, Order};

/// Targets of the committed PTX.
pub mod targets {
    pub const BOTH: [&str; 2] = ["sm_80", "sm_90a"];
    pub const AMPERE: [&str; 1] = ["sm_80"];
    pub const HOPPER: [&str; 1] = ["sm_90a"];
}

/// A number that lies in memory as its little-endian bytes.
pub trait Value: Copy {
    const BYTES: usize;
    fn to_bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! values {
    ($($type:ty),*) => {$(
        impl Value for $type {
            const BYTES: usize = size_of::<$type>();
            fn to_bytes(self) -> Vec<u8> {
                self.to_le_bytes().to_vec()
            }
            fn from_bytes(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("its size"))
            }
        }
    )*};
}
values!(f64, f32, half::f16, half::bf16, i64, i32, i8, u64, u32, u16, u8);

/// Number of a buffer of a case.
pub type Buffer = usize;

/// A tensor map over a buffer.
#[derive(Clone)]
pub struct Map {
    buffer: Buffer,
    map: TensorMap,
}

impl Map {
    pub fn new(buffer: Buffer, data_type: DataType, dims: &[u64], box_dims: &[u32]) -> Map {
        Map { buffer, map: TensorMap::dense(data_type, 0, dims, box_dims) }
    }
    pub fn swizzle(mut self, swizzle: Swizzle) -> Map {
        self.map.swizzle = swizzle;
        self
    }
}

#[derive(Clone)]
enum Argument {
    Buffer(Buffer),
    Bytes(Vec<u8>),
    Map(Map),
}

#[derive(Clone)]
struct Launch {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    cluster: [u32; 3],
    shared: u32,
    arguments: Vec<Argument>,
    dependent: bool,
    stream: Option<usize>,
}

/// Something that the host does between launches. Streams are numbered as they come and do not wait for stream 0.
#[derive(Clone)]
pub enum HostStep {
    Memset(Buffer, usize),
    /// To, from.
    Copy(Buffer, Buffer, usize),
    Write(Buffer, Vec<u8>, usize),
    /// What comes in the second stream comes after what was queued in the first.
    Order(usize, usize),
    /// Calls that wait, but for no other stream.
    MemsetNow(Buffer),
    ReadNow(Buffer),
    /// Waits for a stream.
    Wait(usize),
}

/// A module, its buffers, and the launches on them.
#[derive(Clone)]
pub struct Case {
    program: String,
    targets: Vec<String>,
    symbols: Vec<(String, Vec<u8>)>,
    /// Contents, or the length of one that begins undefined.
    buffers: Vec<Result<Vec<u8>, usize>>,
    launches: Vec<Launch>,
    /// Each before the launch of this number.
    steps: Vec<(usize, HostStep)>,
}

impl Case {
    /// Launches `kernel` of tests/ptx/`program`, in every target.
    pub fn new(program: &str, targets: &[&str], kernel: &str) -> Case {
        Case {
            program: program.into(),
            targets: targets.iter().map(|t| t.to_string()).collect(),
            symbols: Vec::new(),
            buffers: Vec::new(),
            launches: vec![Launch {
                kernel: kernel.into(),
                grid: [1; 3],
                block: [1; 3],
                cluster: [1; 3],
                shared: 0,
                arguments: Vec::new(),
                dependent: false,
                stream: None,
            }],
            steps: Vec::new(),
        }
    }
    fn last(&mut self) -> &mut Launch {
        self.launches.last_mut().expect("a launch")
    }
    pub fn grid(self, x: u32) -> Case {
        self.grid3([x, 1, 1])
    }
    pub fn grid3(mut self, grid: [u32; 3]) -> Case {
        self.last().grid = grid;
        self
    }
    pub fn block(self, x: u32) -> Case {
        self.block3([x, 1, 1])
    }
    pub fn block3(mut self, block: [u32; 3]) -> Case {
        self.last().block = block;
        self
    }
    pub fn cluster(mut self, x: u32) -> Case {
        self.last().cluster = [x, 1, 1];
        self
    }
    pub fn shared(mut self, bytes: u32) -> Case {
        self.last().shared = bytes;
        self
    }
    /// Writes a device variable before the launch.
    pub fn symbol<T: Value>(mut self, name: &str, data: &[T]) -> Case {
        self.symbols.push((name.into(), bytes(data)));
        self
    }
    /// A buffer with contents.
    pub fn input<T: Value>(&mut self, data: &[T]) -> Buffer {
        self.buffers.push(Ok(bytes(data)));
        self.buffers.len() - 1
    }
    /// A buffer that begins undefined.
    pub fn output<T: Value>(&mut self, len: usize) -> Buffer {
        self.buffers.push(Err(len * T::BYTES));
        self.buffers.len() - 1
    }
    pub fn buffers(&mut self, buffers: &[Buffer]) -> &mut Case {
        let arguments = buffers.iter().map(|b| Argument::Buffer(*b));
        self.last().arguments.extend(arguments);
        self
    }
    pub fn value<T: Value>(&mut self, value: T) -> &mut Case {
        self.last().arguments.push(Argument::Bytes(value.to_bytes()));
        self
    }
    pub fn map(&mut self, map: Map) -> &mut Case {
        self.last().arguments.push(Argument::Map(map));
        self
    }
    /// Adds a launch that may overlap with the one before (programmatic dependent launch).
    pub fn then_dependent(&mut self, kernel: &str, grid: u32, block: u32) -> &mut Case {
        self.then(kernel, grid, block).last().dependent = true;
        self
    }
    /// Adds a launch.
    pub fn then(&mut self, kernel: &str, grid: u32, block: u32) -> &mut Case {
        self.launches.push(Launch {
            kernel: kernel.into(),
            grid: [grid, 1, 1],
            block: [block, 1, 1],
            cluster: [1; 3],
            shared: 0,
            arguments: Vec::new(),
            dependent: false,
            stream: None,
        });
        self
    }

    /// Puts the last launch into a stream of this number.
    pub fn stream(&mut self, stream: usize) -> &mut Case {
        self.last().stream = Some(stream);
        self
    }
    /// The host does this before the first launch.
    pub fn first(&mut self, step: HostStep) -> &mut Case {
        self.steps.push((0, step));
        self
    }
    /// The host does this after the launches so far.
    pub fn host(&mut self, step: HostStep) -> &mut Case {
        self.steps.push((self.launches.len(), step));
        self
    }

    /// Runs under every schedule and in every target; there must be no finding, and `judge` must accept the buffers.
    #[track_caller]
    pub fn check(&self, judge: impl Fn(&Output)) {
        for target in &self.targets {
            for order in [Order::Eager, Order::Lazy, Order::Random(1), Order::Random(2)] {
                let out = self.run(target, Options { order, ..Options::default() });
                let text: String = out.findings.iter().map(|f| f.to_string()).collect();
                let kernel = &self.launches[0].kernel;
                assert!(out.findings.is_empty(), "{kernel}, {target}, {order:?}:\n{text}");
                judge(&out);
            }
        }
    }
}

/// What a case left behind.
pub struct Output {
    pub findings: Vec<Finding>,
    /// Totals of all launches.
    pub counts: InstructionCounts,
    /// By `printf` on the device.
    pub printed: Vec<u8>,
    buffers: Vec<Vec<u8>>,
}

impl Output {
    /// The contents of a buffer.
    pub fn get<T: Value>(&self, buffer: Buffer) -> Vec<T> {
        self.buffers[buffer].chunks_exact(T::BYTES).map(T::from_bytes).collect()
    }
}

fn bytes<T: Value>(data: &[T]) -> Vec<u8> {
    data.iter().flat_map(|v| v.to_bytes()).collect()
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// Uniform 64-bit numbers that depend on the seed alone.
pub fn random_u64(seed: u64, n: usize) -> Vec<u64> {
    let mut state = seed;
    (0..n).map(|_| splitmix(&mut state)).collect()
}

/// Uniform in -1..1.
pub fn random_f32(seed: u64, n: usize) -> Vec<f32> {
    random_u64(seed, n).into_iter().map(|v| (v >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// `a[m, k] b[n, k]^T` in f64.
pub fn product(a: &[f64], b: &[f64], m: usize, n: usize, k: usize) -> Vec<f64> {
    assert_eq!((a.len(), b.len()), (m * k, n * k));
    (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] * b[i % n * k + j]).sum()).collect()
}

/// Whether each element is within `absolute + relative |want|`.
pub fn is_close(got: &[f32], want: &[f64], absolute: f64, relative: f64) -> bool {
    got.len() == want.len()
        && got.iter().zip(want).all(|(g, w)| (*g as f64 - w).abs() <= absolute + relative * w.abs())
}

/// Asserts [`is_close`], naming the first bad element.
#[track_caller]
pub fn assert_close(got: &[f32], want: &[f64], absolute: f64, relative: f64) {
    assert_eq!(got.len(), want.len(), "length");
    // NaN is bad, too.
    let bad = |(g, w): (&f32, &f64)| !is_close(&[*g], &[*w], absolute, relative);
    let count = got.iter().zip(want).filter(|(g, w)| bad((g, w))).count();
    if let Some(i) = got.iter().zip(want).position(bad) {
        panic!("[{i}]: {} expected {} ({count} of {} bad)", got[i], want[i], got.len());
    }
}
