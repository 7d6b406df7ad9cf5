//! Runs a case on a virtual GPU.

use super::{Argument, Buffer, Case, HostStep, Output};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;
use virtual_gpu::counters::InstructionCounts;
use virtual_gpu::{Description, Error, Gpu, Launch, Module, Options, Stream};

/// Streams that a case may name.
const STREAMS: usize = 2;

thread_local! {
    /// A device with a loaded module for each PTX file, since loading a large one takes longer than a launch.
    static LOADED: RefCell<HashMap<String, (Gpu, Module)>> = RefCell::default();
}

fn load(file: &str) -> (Gpu, Module) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let gpu = Gpu::new(Description::h200());
    let module = gpu.load_module(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    (gpu, module)
}

impl Case {
    /// Runs in the first target.
    pub fn run_first(&self, options: Options) -> Output {
        self.run(&self.targets[0], options)
    }

    fn len(&self, buffer: Buffer) -> u64 {
        self.buffers[buffer].as_ref().map_or_else(|len| *len, Vec::len) as u64
    }

    fn host_step(
        &self,
        gpu: &Gpu,
        step: &HostStep,
        addresses: &[u64],
        streams: &[Stream],
    ) -> Result<(), Error> {
        match step {
            HostStep::Memset(b, stream) => gpu.set_async(addresses[*b], &[0], self.len(*b), streams[*stream]),
            HostStep::Copy(to, from, stream) => {
                gpu.copy_async(addresses[*to], addresses[*from], self.len(*to), streams[*stream])
            }
            HostStep::Write(b, data, stream) => gpu.write_async(addresses[*b], data, streams[*stream]),
            HostStep::Order(from, to) => {
                let event = gpu.create_event();
                gpu.record_event(event, streams[*from])?;
                gpu.wait_event(streams[*to], event)
            }
            HostStep::MemsetNow(b) => gpu.memset(addresses[*b], 0, self.len(*b)),
            HostStep::ReadNow(b) => gpu.read(addresses[*b], &mut vec![0; self.len(*b) as usize]),
            HostStep::Wait(stream) => gpu.stream_synchronize(streams[*stream]),
        }
    }

    /// Runs the launches once and reads every buffer back; a launch that fails ends them.
    pub fn run(&self, target: &str, options: Options) -> Output {
        let file = format!("{}.{target}.ptx", self.program);
        let (gpu, module) = LOADED
            .with(|loaded| loaded.borrow_mut().entry(file.clone()).or_insert_with(|| load(&file)).clone());
        gpu.set_options(options);
        gpu.reset_counters();
        for (name, data) in &self.symbols {
            let (address, bytes) = module.global(name).expect("a device variable");
            assert_eq!(bytes, data.len() as u64, "{name}");
            gpu.write(address, data).expect("room");
        }
        let addresses: Vec<u64> = self
            .buffers
            .iter()
            .map(|buffer| {
                let len = buffer.as_ref().map_or_else(|len| *len, Vec::len);
                let address = gpu.alloc(len as u64).expect("memory");
                if let Ok(data) = buffer {
                    gpu.write(address, data).expect("in bounds");
                }
                address
            })
            .collect();
        let mut result = Ok(());
        let streams: Vec<Stream> = (0..STREAMS).map(|_| gpu.create_stream(false)).collect();
        let host = |number: usize| -> Result<(), Error> {
            let mut steps = self.steps.iter().filter(|(at, _)| *at == number);
            steps.try_for_each(|(_, step)| self.host_step(&gpu, step, &addresses, &streams))
        };
        for (number, launch) in self.launches.iter().enumerate() {
            result = host(number);
            if result.is_err() {
                break;
            }
            let stream = launch.stream.map_or(Stream::default(), |stream| streams[stream]);
            let function =
                module.function(&launch.kernel).unwrap_or_else(|| panic!("no kernel {}", launch.kernel));
            function.set_max_dynamic_shared(launch.shared);
            let arguments: Vec<Vec<u8>> = launch
                .arguments
                .iter()
                .map(|argument| match argument {
                    Argument::Buffer(b) => addresses[*b].to_le_bytes().to_vec(),
                    Argument::Bytes(bytes) => bytes.clone(),
                    Argument::Map(map) => {
                        let mut tensor = map.map.clone();
                        tensor.address = addresses[map.buffer];
                        tensor.encode().expect("a legal map").to_vec()
                    }
                })
                .collect();
            let slices: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            let launch = Launch {
                grid: launch.grid,
                block: launch.block,
                cluster: (launch.cluster != [1; 3]).then_some(launch.cluster),
                dynamic_shared_bytes: launch.shared,
                programmatic_dependent: launch.dependent,
                args: &slices,
                ..Launch::default()
            };
            result = gpu.launch(&function, &launch, stream);
            if result.is_err() {
                break;
            }
        }
        result = result.and_then(|()| host(self.launches.len()));
        // Kernels that fail are judged by their findings; what they left is not read.
        let ended = result.and_then(|()| gpu.synchronize());
        let mut buffers = Vec::new();
        for (address, buffer) in addresses.iter().zip(&self.buffers) {
            let mut data = vec![0; buffer.as_ref().map_or_else(|len| *len, Vec::len)];
            if ended.is_ok() {
                gpu.read(*address, &mut data).expect("in bounds");
            }
            buffers.push(data);
        }
        streams.into_iter().for_each(|stream| drop(gpu.destroy_stream(stream)));
        let findings = gpu.take_findings();
        if let Err(error) = ended {
            assert!(!findings.is_empty(), "the launch failed without a finding: {error}");
        }
        addresses.into_iter().for_each(|address| gpu.free(address).expect("allocated"));
        let mut counts = InstructionCounts::default();
        gpu.counters().iter().for_each(|kernel| counts.add(&kernel.total));
        Output { findings, counts, printed: gpu.take_printed(), buffers }
    }
}
