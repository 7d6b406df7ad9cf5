//! Time, by the GPU's own clock.

use std::sync::Arc;

use nanomoe::Result;
use nanomoe::buffer::Buffer;
use nanomoe::device::{Device, RawEvent};
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::Operations;
use nanomoe::tensor::{AsView, DType};

use super::cases::Case;
use super::work::Work;

/// Timed launches, where they are short.
const SAMPLES: usize = 60;
/// Samples end here where launches are long, in microseconds.
const ENOUGH_US: f64 = 1.5e6;
const FEWEST_SAMPLES: usize = 7;
/// Launches of one graph, for the time with everything in L2.
const GRAPH_LAUNCHES: u32 = 20;
/// Bytes overwritten between cold launches: several times any L2 there is.
const FLUSH_BYTES: u64 = 256 << 20;
/// Work on fewer bytes is also timed with its inputs in L2.
pub const L2_RESIDENT_BYTES: f64 = 60e6;

/// Sorted times in microseconds.
#[derive(Clone, Debug)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Times(times)
    }

    /// The time that this part of the samples does not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * part).round() as usize]
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Two events, and memory to sweep the L2 cache with.
pub struct Clock {
    device: Arc<dyn Device>,
    start: RawEvent,
    end: RawEvent,
    flush: Buffer,
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.device.destroy_event(self.start);
        self.device.destroy_event(self.end);
    }
}

impl Clock {
    pub fn new(ops: &DeviceOperations) -> Result<Self> {
        let device = ops.kernels().device().clone();
        let flush = Buffer::device(&device, DType::F32, (FLUSH_BYTES / 4) as usize)?;
        Ok(Clock { start: device.create_event()?, end: device.create_event()?, device, flush })
    }

    /// Microseconds of what `work` puts into the stream.
    fn time(&self, ops: &DeviceOperations, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.device.record_event(self.start, ops.stream())?;
        work()?;
        self.device.record_event(self.end, ops.stream())?;
        self.device.elapsed_us(self.start, self.end)
    }

    fn samples(&self, mut one: impl FnMut() -> Result<f64>) -> Result<Times> {
        for _ in 0..3 {
            one()?;
        }
        let (mut times, mut total) = (Vec::new(), 0.0);
        while times.len() < SAMPLES && (total < ENOUGH_US || times.len() < FEWEST_SAMPLES) {
            let time = one()?;
            total += time;
            times.push(time);
        }
        Ok(Times::new(times))
    }

    /// Launches one at a time, nothing of them in L2 before.
    pub fn cold(&self, ops: &DeviceOperations, work: &mut dyn Work) -> Result<Times> {
        work.measured(ops, &mut |launch| self.flushed(ops, launch))
    }

    fn flushed(&self, ops: &DeviceOperations, launch: &mut dyn FnMut() -> Result<()>) -> Result<Times> {
        let pointer = self.flush.tensor(&[self.flush.len()]).view().pointer;
        let mut value = 0u8;
        self.samples(|| {
            value = value.wrapping_add(1);
            // SAFETY: the range is the flush buffer, which lives as long as self; the stream is waited for before.
            unsafe { self.device.set(pointer, value, FLUSH_BYTES, ops.stream())? };
            self.time(ops, &mut *launch)
        })
    }

    /// A launch inside a CUDA graph of many, its inputs in L2 as far as they fit.
    pub fn warm(&self, ops: &DeviceOperations, work: &mut dyn Work) -> Result<Times> {
        self.device.begin_capture(ops.stream())?;
        let launched = (0..GRAPH_LAUNCHES).try_for_each(|_| work.launch(ops));
        let graph = self.device.end_capture(ops.stream())?;
        let times = launched.and_then(|()| {
            self.samples(|| {
                // SAFETY: what the launches use belongs to `work`, which outlives the graph.
                let replayed = self.time(ops, || unsafe { self.device.launch_graph(graph, ops.stream()) });
                Ok(replayed? / f64::from(GRAPH_LAUNCHES))
            })
        });
        self.device.destroy_graph(graph);
        times
    }

    /// GB/s of a large copy, read plus write.
    pub fn copy_ceiling(&self, ops: &DeviceOperations) -> Result<f64> {
        let bytes = 2u64 << 30;
        let allocate = || Buffer::device(&self.device, DType::F32, (bytes / 4) as usize);
        let (from, to) = (allocate()?, allocate()?);
        let pointer = |buffer: &Buffer| buffer.tensor(&[buffer.len()]).view().pointer;
        // SAFETY: each range is the buffer; both live until the stream has been waited for.
        let copy =
            || unsafe { self.device.copy_on_device(pointer(&to), pointer(&from), bytes, ops.stream()) };
        let times = self.samples(|| self.time(ops, copy))?;
        ops.synchronize()?;
        Ok(2.0 * bytes as f64 / times.median() * 1e-3)
    }

    /// TFLOP/s of a large matrix product.
    pub fn gemm_ceiling(&self, ops: &DeviceOperations) -> Result<f64> {
        let case = Case { op: "gemm", dims: vec![8192; 3], variant: "", row: None };
        let mut work = super::work::prepare(ops, &case)?;
        Ok(work.flops() / self.cold(ops, work.as_mut())?.median() * 1e-6)
    }
}
