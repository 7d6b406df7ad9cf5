//! What each kernel moves, counted by the virtual GPU: no more bytes than 5 % over the fewest that the operation must move
//! (row-wise kernels, one-row products) or than the launch's own tiles move (tiled kernels, `nanomoe::kernels::traffic`);
//! no sector of 32 bytes that a better order of lanes would save, and no bank of shared memory hit twice. Devices have
//! four multiprocessors, so that persistent kernels come to their steady state on small shapes.

mod rows;
mod tiles;

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::buffer::Buffer;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics};
use nanomoe::tensor::DType;
use virtual_gpu::counters::{InstructionCounts, Traffic};
use virtual_gpu::findings::{Frame, Place};
use virtual_gpu::{Description, KernelCounters, Options};

use crate::common::{random, upload, upload_i32};

/// Bytes moved over what they are held against, at most.
const MOST: f64 = 1.05;

/// File and function where banks may be hit twice, none of them in a main loop, and why.
const EXCHANGES: [(&str, &str, &str); 4] = [
    ("layer_norm.cu", "stage", "gamma and beta on their way in, once a block of many rows"),
    ("sampling.cu", "radix_select", "the counters of digits, a few neighbours a thread, once a digit"),
    ("device_atomic_functions.hpp", "atomicAdd", "sampling.cu: digits that fall together; few are counted"),
    (
        "attention_decode.cuh",
        "attention_decode",
        "the sums of the groups of keys, once a row; the loop itself shares nothing",
    ),
];
/// File and function where lanes may touch more sectors than they need, and why.
const SCATTERED: [(&str, &str, &str); 6] = [
    ("moe_dispatch.cu", "place_row", "neighbours among the tokens go to their experts' rows"),
    ("moe_dispatch.cu", "read_id", "a block of several has one choice of its tokens: one id in k"),
    ("moe_dispatch.cu", "keep_piece", "the same"),
    ("moe_dispatch.cu", "write_slot", "the same"),
    (
        "lm_head.cu",
        "reduce_row",
        "a few results a row and tile, laid out for the merge, which reads them side by side",
    ),
    ("attention_decode.cuh", "load_lane", "rows of f32: a lane's 32 bytes in two loads, the second from L1"),
];

/// A virtual GPU, and operations on it.
pub struct Meter {
    device: Arc<VirtualDevice>,
    pub ops: DeviceOperations,
}

impl Meter {
    fn new(description: Description) -> Result<Self, Failed> {
        let description = Description { num_sms: 4, ..description };
        let device = Arc::new(VirtualDevice::with(description, Options::default()));
        let ops = DeviceOperations::with_numerics(device.clone(), Numerics::Fast)?;
        Ok(Meter { device, ops })
    }

    /// Random values as `dtype` stores them.
    pub fn random(&self, dtype: DType, len: usize) -> Buffer {
        upload(&self.ops, dtype, &random(len as u64, len))
    }

    pub fn integers(&self, values: impl IntoIterator<Item = usize>) -> Buffer {
        let values: Vec<i32> = values.into_iter().map(|value| value as i32).collect();
        upload_i32(&self.ops, &values)
    }

    /// Holds everything launched so far against `bytes`.
    fn check(&self, bytes: u64) -> Result<(), Failed> {
        nanomoe::operations::Operations::synchronize(&self.ops)?;
        let kernels = self.device.gpu().counters();
        let moved: u64 = kernels.iter().flat_map(|kernel| &kernel.lines).map(|(_, line)| moved(line)).sum();
        let mut wrong = Vec::new();
        if moved == 0 {
            wrong.push("nothing was moved".to_owned());
        }
        if moved as f64 > MOST * bytes as f64 {
            let over = moved as f64 / bytes as f64;
            wrong.push(format!("{moved} bytes moved, {over:.3} times the {bytes} allowed for"));
            wrong.extend(kernels.iter().flat_map(most_moved));
        }
        wrong.extend(kernels.iter().flat_map(wasted));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
    }
}

/// Bytes between the multiprocessor and L2: lanes that ask for the same bytes of a sector get them once.
fn moved(line: &InstructionCounts) -> u64 {
    let bytes = |traffic: &Traffic| traffic.bytes.min(32 * traffic.sectors);
    bytes(&line.global_loads) + bytes(&line.global_stores)
}

/// Where the most bytes were moved.
fn most_moved(kernel: &KernelCounters) -> Vec<String> {
    let mut lines: Vec<_> = kernel.lines.iter().filter(|(_, line)| moved(line) > 0).collect();
    lines.sort_by_key(|(_, line)| std::cmp::Reverse(moved(line)));
    lines
        .iter()
        .take(6)
        .map(|(place, line)| format!("  {}: {} bytes", at(kernel, place), moved(line)))
        .collect()
}

/// Sectors and passes over shared memory that need not be.
fn wasted(kernel: &KernelCounters) -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, line) in &kernel.lines {
        for (what, traffic) in [("loads", &line.global_loads), ("stores", &line.global_stores)] {
            if traffic.sectors > traffic.sectors_least && !is_in(place, &SCATTERED) {
                let (taken, least) = (traffic.sectors, traffic.sectors_least);
                wrong.push(format!("{}: {what} touch {taken} sectors, {least} would do", at(kernel, place)));
            }
        }
        let (taken, least) = (line.shared_wavefronts, line.shared_wavefronts_least);
        if taken > least && !is_in(place, &EXCHANGES) {
            wrong.push(format!("{}: {taken} passes over shared memory, {least} would do", at(kernel, place)));
        }
    }
    wrong
}

/// Whether a place is in one of these functions: the innermost that is more than a wrapper around an instruction.
fn is_in(place: &Place, functions: &[(&str, &str, &str)]) -> bool {
    let is_wrapper =
        |file: &str| file.contains("/ptx/") || file.ends_with("types.cuh") || file.ends_with("chunk.cuh");
    let own = place.frames.iter().find(|frame| !is_wrapper(&frame.file));
    own.is_some_and(|frame| {
        functions.iter().any(|(file, function, _)| {
            frame.file.rsplit('/').next() == Some(file) && frame.function.contains(function)
        })
    })
}

fn at(kernel: &KernelCounters, place: &Place) -> String {
    let line = |frame: &Frame| {
        let file = frame.file.rsplit('/').next().unwrap_or(&frame.file).to_owned();
        format!("{file}:{}", frame.line)
    };
    let places: Vec<String> = place.frames.iter().take(2).map(line).collect();
    format!("{} at {} ({})", kernel.kernel, places.join(" in "), place.opcode)
}

/// A kernel's pin: launches, and says what bytes it is to move.
type Pin = Box<dyn Fn(&Meter) -> Result<u64, Failed> + Send>;

fn pin(
    operation: &str,
    dtype: DType,
    shape: impl std::fmt::Display,
    gpu: fn() -> Description,
    launch: impl Fn(&Meter) -> Result<u64, Failed> + Send + 'static,
) -> Trial {
    let name = if gpu().compute_capability == (9, 0) { "virtual" } else { "ampere" };
    let (launch, shape): (Pin, String) = (Box::new(launch), shape.to_string());
    Trial::test(format!("traffic::{operation}::{dtype}::{shape}::{name}"), move || {
        let meter = Meter::new(gpu())?;
        let bytes = launch(&meter)?;
        meter.check(bytes)
    })
}

/// Every pin of traffic.
pub fn trials() -> Vec<Trial> {
    let mut trials = rows::trials();
    trials.extend(tiles::trials());
    match nanomoe::kernels::compiled::modules() {
        Ok(_) => trials,
        Err(error) => {
            let reason = error.to_string();
            let ignored = |trial: Trial| trial.with_kind(reason.clone()).with_ignored_flag(true);
            trials.into_iter().map(ignored).collect()
        }
    }
}
