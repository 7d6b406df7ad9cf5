//! The number of threads changes nothing.

use crate::{Description, Gpu, Launch, Options, Order, Stream};

/// What a launch of `kernel(x, out, n)` over `rows` blocks leaves: the output, the findings, the counters.
fn outcome(kernel: &str, rows: u32, order: Order, threads: usize) -> (Vec<u8>, String, String) {
    let gpu = Gpu::with_options(Description::h200(), Options { order, threads, ..Options::default() });
    let text = include_str!("../../../tests/ptx/planted_simple.sm_80.ptx");
    let function = gpu.load_module(text).expect("it loads").function(kernel).expect("it is there");
    let n = 300u32;
    let x: Vec<u8> = (0..rows * n).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let input = gpu.alloc(x.len() as u64).expect("memory");
    gpu.write(input, &x).expect("in bounds");
    // Not a multiple of a page, and the pieces meet inside of pages.
    let out = gpu.alloc(u64::from(4 * rows)).expect("memory");
    gpu.memset(out, 0, u64::from(4 * rows)).expect("in bounds");
    let (input, output, n) = (input.to_le_bytes(), out.to_le_bytes(), n.to_le_bytes());
    let args: [&[u8]; 3] = [&input, &output, &n];
    let launch = Launch { grid: [rows, 1, 1], block: [128, 1, 1], args: &args, ..Launch::default() };
    let result = gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize());
    let findings = format!("{result:?} {:?}", gpu.take_findings());
    let mut data = vec![0; 4 * rows as usize];
    gpu.read(out, &mut data).expect("in bounds");
    (data, findings, format!("{:?}", gpu.counters()[0].total))
}

const ORDERS: [Order; 4] = [Order::Eager, Order::Lazy, Order::Random(1), Order::Random(0xfeed)];

#[test]
fn a_correct_kernel() {
    for order in ORDERS {
        let one = outcome("row_sums_0", 1500, order, 1);
        assert!(one.1.ends_with("[]"), "{}", one.1);
        for threads in [0, 2, 3, 7] {
            assert_eq!(outcome("row_sums_0", 1500, order, threads), one, "{threads} threads, {order:?}");
        }
    }
}

/// Blocks that write to one word, that read beyond the end, whose warps race: found and reported as by one thread.
#[test]
fn wrong_kernels() {
    for (kernel, kind) in
        [("row_sums_8", "GlobalRace"), ("row_sums_2", "OutOfBounds"), ("row_sums_1", "SharedRace")]
    {
        for order in ORDERS {
            let one = outcome(kernel, 400, order, 1);
            assert!(one.1.contains(kind), "{kernel}: {}", one.1);
            assert_eq!(outcome(kernel, 400, order, 3), one, "{kernel}, {order:?}");
        }
    }
}
