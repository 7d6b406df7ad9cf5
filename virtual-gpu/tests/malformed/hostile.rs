//! Loads a text that may be anything and runs what loads, with small limits. Used by the test here and by fuzz/.

use virtual_gpu::tensor::tma::{DataType, TensorMap};
use virtual_gpu::{Description, Gpu, Launch, Options, Order, Stream};

const BUFFER_BYTES: u64 = 4096;

/// What became of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Refused when it was loaded.
    Refused,
    /// Loaded; holds how many of its kernels ran to their end.
    Loaded(usize),
}

/// Loads a text and launches each of its kernels in an order that `seed` chooses. Returns unless the crate panics.
pub fn load_and_run(text: &str, seed: u64) -> Fate {
    let order = [Order::Eager, Order::Lazy, Order::Random(seed)][(seed % 3) as usize];
    let options = Options { order, patience: 40_000, limit: 20_000, ..Options::default() };
    let gpu = Gpu::with_options(Description::h200(), options);
    let Ok(module) = gpu.load_module(text) else { return Fate::Refused };
    let names: Vec<String> = module.functions().into_iter().map(String::from).collect();
    let mut complete = 0;
    for name in names {
        let Some(function) = module.function(&name) else { continue };
        function.set_max_dynamic_shared(64 << 10);
        let mut arguments = Vec::new();
        for parameter in function.parameters() {
            let Ok(address) = gpu.alloc(BUFFER_BYTES) else { return Fate::Loaded(complete) };
            gpu.memset(address, 1, BUFFER_BYTES / 2).expect("in bounds");
            let map = TensorMap::dense(DataType::F32, address, &[32, 16], &[32, 16]);
            arguments.push(match parameter.bytes {
                8 => address.to_le_bytes().to_vec(),
                4 => 3u32.to_le_bytes().to_vec(),
                128 => map.encode().expect("a legal map").to_vec(),
                bytes => vec![1; bytes as usize],
            });
        }
        let slices: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        for block in [128, 32] {
            let launch = Launch {
                grid: [2, 1, 1],
                block: [block, 1, 1],
                dynamic_shared_bytes: 32 << 10,
                args: &slices,
                ..Launch::default()
            };
            // Both may fail: that is what they are for.
            let ended = gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize());
            for finding in gpu.take_findings() {
                assert!(!finding.to_string().is_empty());
            }
            complete += usize::from(ended.is_ok() && block == 32);
        }
    }
    Fate::Loaded(complete)
}
