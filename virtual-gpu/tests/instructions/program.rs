//! Kernels whose threads talk to each other: run in every order, with no finding, and compared as a whole.

use crate::harness::{HEAD, Random};
use virtual_gpu::tensor::tma::TensorMap;
use virtual_gpu::{Description, Gpu, Launch, Options, Order, Stream};

pub struct Program {
    pub name: String,
    /// What stands before the kernel.
    pub head: String,
    /// Between the parameters and the body.
    pub directives: String,
    /// PTX: operands `%a0`, … (32 bits each), results `%d0`, …; `%t` is the thread in the grid, `%l` in the CTA, `%in`
    /// and `%out` the buffers. Registers `%r0…99`, `%x0…49` (64 bits), `%h0…49` (16 bits), `%p0…9` are there to be used.
    pub body: String,
    pub grid: u32,
    pub block: u32,
    pub cluster: u32,
    /// Words a thread.
    pub inputs: usize,
    pub outputs: usize,
    /// The threads' operands, then anything else.
    pub data: Vec<u32>,
    /// Words that the output holds afterwards.
    pub expect: Vec<u32>,
    /// Maps over the input, as parameters `map0`, …
    pub maps: Vec<TensorMap>,
}

impl Program {
    /// Of random operands, or those that `operand` makes; `expect` sees all rows and gives all results.
    pub fn new(
        name: &str,
        [grid, block]: [u32; 2],
        [inputs, outputs]: [usize; 2],
        operand: impl Fn(&mut Random, usize, usize) -> u32,
        body: &str,
        expect: impl Fn(&[Vec<u32>]) -> Vec<Vec<u32>>,
    ) -> Program {
        let mut random = Random(name.len() as u64 * 77 + u64::from(block));
        let threads = (grid * block) as usize;
        let rows: Vec<Vec<u32>> =
            (0..threads).map(|t| (0..inputs).map(|i| operand(&mut random, t, i)).collect()).collect();
        let expect = expect(&rows);
        assert!(expect.len() == threads && expect.iter().all(|row| row.len() == outputs), "{name}");
        Program {
            name: name.into(),
            head: String::new(),
            directives: String::new(),
            body: body.into(),
            grid,
            block,
            cluster: 1,
            inputs,
            outputs,
            data: rows.concat(),
            expect: expect.concat(),
            maps: Vec::new(),
        }
    }

    pub fn text(&self) -> String {
        let Program { head, directives, body, .. } = self;
        let maps: String =
            (0..self.maps.len()).map(|i| format!(", .param .align 64 .b8 map{i}[128]")).collect();
        let operands: String = (0..self.inputs).map(|i| format!(".reg .b32 %a{i};\n")).collect();
        let results: String = (0..self.outputs).map(|i| format!(".reg .b32 %d{i};\n")).collect();
        let loads: String =
            (0..self.inputs).map(|i| format!("ld.global.nc.b32 %a{i}, [%i+{}];\n", 4 * i)).collect();
        let stores: String =
            (0..self.outputs).map(|i| format!("st.global.b32 [%o+{}], %d{i};\n", 4 * i)).collect();
        let (inputs, outputs) = (4 * self.inputs, 4 * self.outputs);
        format!(
            "{HEAD}{head}\n.visible .entry k(.param .u64 in, .param .u64 out{maps})\n{directives}\n{{\n.reg .b64 %in, \
             %out, %i, %o, %x<50>;\n.reg .b32 %t, %l, %r<100>;\n.reg .b16 %h<50>;\n.reg .pred %p<10>;\n\
             {operands}{results}ld.param::entry.u64 %in, [in];\nld.param.u64 %out, [out];\nmov.u32 %l, %tid.x;\n\
             mov.u32 %r0, %ctaid.x;\nmov.u32 %r1, %ntid.x;\nmad.lo.u32 %t, %r0, %r1, %l;\n\
             mul.wide.u32 %i, %t, {inputs};\nadd.u64 %i, %i, %in;\nmul.wide.u32 %o, %t, {outputs};\n\
             add.u64 %o, %o, %out;\n{loads}{body}\n{stores}ret;\n}}\n"
        )
    }

    fn run(&self, order: Order) -> Result<(), String> {
        let gpu = Gpu::with_options(Description::h200(), Options { order, ..Options::default() });
        let module = gpu.load_module(&self.text()).map_err(|e| e.to_string())?;
        let function = module.function("k").expect("a kernel");
        let data: Vec<u8> = self.data.iter().chain([&0]).flat_map(|v| v.to_le_bytes()).collect();
        let bytes = self.expect.len() * 4;
        let (input, output) = (gpu.alloc(data.len() as u64), gpu.alloc(bytes.max(4) as u64));
        let (input, output) = (input.expect("memory"), output.expect("memory"));
        gpu.write(input, &data).expect("in bounds");
        let mut arguments = vec![input.to_le_bytes().to_vec(), output.to_le_bytes().to_vec()];
        for map in &self.maps {
            let map = TensorMap { address: input, ..map.clone() };
            arguments.push(map.encode().expect("a legal map").to_vec());
        }
        let slices: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let launch = Launch {
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            cluster: (self.cluster > 1).then_some([self.cluster, 1, 1]),
            args: &slices,
            ..Launch::default()
        };
        let ended = gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize());
        let mut result = vec![0; bytes];
        if ended.is_ok() {
            gpu.read(output, &mut result).expect("in bounds");
        }
        if let Some(finding) = gpu.take_findings().first() {
            return Err(finding.to_string());
        }
        ended.map_err(|e| e.to_string())?;
        let got: Vec<u32> =
            result.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect();
        match got.iter().zip(&self.expect).position(|(g, e)| g != e) {
            None => Ok(()),
            Some(i) => {
                let (thread, word) = (i / self.outputs.max(1), i % self.outputs.max(1));
                let bad = got.iter().zip(&self.expect).filter(|(g, e)| g != e).count();
                let row = self.data.chunks_exact(self.inputs.max(1)).nth(thread).unwrap_or_default();
                Err(format!(
                    "thread {thread}, result {word}: {:#x}, expected {:#x} of {row:x?} ({bad} wrong)",
                    got[i], self.expect[i]
                ))
            }
        }
    }
}

/// Runs all of them and reports every wrong one.
pub fn check(programs: &[Program]) {
    let mut bad = Vec::new();
    for program in programs {
        for order in [Order::Eager, Order::Lazy, Order::Random(1), Order::Random(2)] {
            if let Err(message) = program.run(order) {
                bad.push(format!("{}, {order:?}: {message}", program.name));
                break;
            }
        }
    }
    assert!(bad.is_empty(), "{} of {} are wrong:\n{}", bad.len(), programs.len(), bad.join("\n"));
}
