//! The host's side: memory, modules, launches.

mod error;
mod graphs;
mod launch;
mod module;
mod schedule;
mod state;
mod streams;
mod transfers;

pub use error::Error;
pub use launch::Launch;
pub use module::{Attributes, Function, Module};

use crate::counters::KernelCounters;
use crate::description::Description;
use crate::exec::Random;
use crate::findings::{Finding, Findings, Kind};
use crate::memory::{BadAddress, GlobalMemory};
use crate::options::Options;
use crate::races::GridClocks;
use crate::stream::{Queues, Stream};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use transfers::Range;

/// A virtual GPU. A cheap handle; clones share the device. Usable from several threads.
#[derive(Clone)]
pub struct Gpu {
    state: Arc<Mutex<State>>,
    description: Arc<Description>,
}

struct State {
    memory: GlobalMemory,
    findings: Findings,
    printed: Vec<u8>,
    options: Options,
    counters: HashMap<String, KernelCounters>,
    fault: Option<Error>,
    launches: u64,
    queues: Queues,
    /// Kernels that later ones may race with, and what their CTAs know of each other.
    past: Vec<schedule::Past>,
    /// Copies and memsets that later kernels may race with.
    transfers: Vec<transfers::Transfer>,
    clocks: GridClocks,
    /// Launches when the oldest of them was run.
    last_epoch: u64,
    random: Random,
    /// Virtual time in nanoseconds.
    time: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held leaves state that is still safe to read.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Gpu {
    /// A device with the default options.
    pub fn new(description: Description) -> Self {
        Self::with_options(description, Options::default())
    }

    /// A device with these options.
    pub fn with_options(description: Description, options: Options) -> Self {
        let state = State {
            memory: GlobalMemory::default(),
            findings: Findings::default(),
            printed: Vec::new(),
            options,
            counters: HashMap::new(),
            fault: None,
            launches: 0,
            queues: Queues::default(),
            past: Vec::new(),
            transfers: Vec::new(),
            clocks: GridClocks::default(),
            last_epoch: 0,
            random: Random(0x5eed),
            time: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), description: Arc::new(description) }
    }

    /// What device this is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Current options.
    pub fn options(&self) -> Options {
        lock(&self.state).options
    }

    /// Sets the options of later launches; those so far are done with theirs.
    pub fn set_options(&self, options: Options) {
        let mut state = lock(&self.state);
        // A kernel that fails fails the next call that may.
        let _ = state.work_off(&self.description, None);
        state.options = options;
    }

    /// Allocates `bytes` of undefined device memory.
    pub fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        let mut state = lock(&self.state);
        if bytes == 0 {
            return Err(Error::InvalidValue("allocation of 0 bytes".into()));
        }
        if state.memory.used().saturating_add(bytes) > self.description.memory_bytes {
            return Err(Error::OutOfMemory);
        }
        Ok(state.memory.alloc(bytes, None, false))
    }

    /// Frees an allocation by its address.
    pub fn free(&self, address: u64) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.flush(&self.description, None)?;
        if address == 0 || state.memory.free(address) {
            return Ok(());
        }
        Err(Error::InvalidValue(format!("{address:#x} is not the start of an allocation")))
    }

    /// Free and total bytes of device memory.
    pub fn mem_info(&self) -> (u64, u64) {
        let total = self.description.memory_bytes;
        (total - lock(&self.state).memory.used().min(total), total)
    }

    fn bad(state: &State, what: &str, address: u64, len: u64, bad: BadAddress) -> Error {
        let why = match bad {
            BadAddress::Nowhere => "no allocation is there".to_string(),
            BadAddress::Freed => "the allocation has been freed".to_string(),
            BadAddress::Outside(size) => format!("the allocation has {size} bytes"),
        };
        Error::InvalidValue(format!("{what} of {len} bytes at {}: {why}", state.memory.describe(address)))
    }

    /// Writes host bytes to device memory.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), Error> {
        self.settle("write")?;
        let mut state = lock(&self.state);
        state.check_fault()?;
        if data.is_empty() {
            return Ok(());
        }
        let bytes = data.len() as u64;
        match state.memory.range(address, bytes) {
            Ok((a, at)) => a.bytes.whole().write(at, data),
            Err(bad) => return Err(Self::bad(&state, "write", address, bytes, bad)),
        }
        let range = Range { address, bytes, write: true };
        state.host_transfer(0, format!("a copy of {bytes} bytes from the host"), range, None);
        Ok(())
    }

    /// Waits for stream 0 and the blocking streams, then reads device memory. Undefined bytes are a finding.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Error> {
        self.settle("read")?;
        self.read_now(address, data, Stream::default())
    }

    /// Waits for the streams that synchronous calls wait for.
    fn settle(&self, what: &str) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.capturing() {
            state.queues.invalidate(None);
            return Err(Error::CaptureUnsupported(what.into()));
        }
        let blocking: Vec<u64> = state
            .queues
            .streams
            .iter()
            .filter(|(id, q)| **id == 0 || q.blocking)
            .map(|(id, _)| *id)
            .collect();
        for stream in blocking {
            state.flush(&self.description, Some(stream))?;
        }
        Ok(())
    }

    /// Reads what is there after the work of a stream, which is done.
    fn read_now(&self, address: u64, data: &mut [u8], stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if data.is_empty() {
            return Ok(());
        }
        let len = data.len() as u64;
        let undefined = match state.memory.range(address, len) {
            Ok((a, at)) => {
                data.copy_from_slice(&a.bytes.whole().data[at..at + data.len()]);
                a.bytes.whole().first_undefined(at, data.len()).map(|byte| byte - at)
            }
            Err(bad) => return Err(Self::bad(&state, "read", address, len, bad)),
        };
        let range = Range { address, bytes: len, write: false };
        state.host_transfer(stream.0, format!("a copy of {len} bytes to the host"), range, None);
        if let Some(byte) = undefined
            && state.options.checks == crate::options::Checks::All
        {
            let place = state.memory.describe(address + byte as u64);
            state.host_finding(
                Kind::Undefined,
                format!("the host reads {len} bytes of which byte {byte} is undefined ({place})"),
            );
        }
        Ok(())
    }

    /// Sets `bytes` bytes to a value.
    pub fn memset(&self, address: u64, value: u8, bytes: u64) -> Result<(), Error> {
        self.settle("memset")?;
        let mut state = lock(&self.state);
        state.check_fault()?;
        if bytes == 0 {
            return Ok(());
        }
        match state.memory.range(address, bytes) {
            Ok((a, at)) => a.bytes.whole().fill(at, bytes as usize, value),
            Err(bad) => return Err(Self::bad(&state, "memset", address, bytes, bad)),
        }
        let range = Range { address, bytes, write: true };
        state.host_transfer(0, format!("a memset of {bytes} bytes"), range, None);
        Ok(())
    }

    /// Copies device memory to device memory, undefined bytes included. The ranges may overlap.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), Error> {
        self.settle("copy")?;
        let mut state = lock(&self.state);
        state.check_fault()?;
        if bytes == 0 {
            return Ok(());
        }
        let result = state.memory.copy(to, from, bytes);
        result.map_err(|bad| Self::bad(&state, "copy", to, bytes, bad))?;
        let [to, from] = [(to, true), (from, false)].map(|(address, write)| Range { address, bytes, write });
        state.host_transfer(0, format!("a copy of {bytes} bytes inside the device"), to, Some(from));
        Ok(())
    }

    /// Waits for all work. Returns the error of a kernel that failed, as often as it is asked.
    pub fn synchronize(&self) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.capturing() {
            state.queues.invalidate(None);
            return Err(Error::CaptureUnsupported("synchronize".into()));
        }
        state.flush(&self.description, None)
    }

    /// All findings so far; what is still queued has none yet.
    pub fn findings(&self) -> Vec<Finding> {
        lock(&self.state).findings.list.clone()
    }

    /// Takes all findings and clears the error of a failed kernel: the device can be used again.
    pub fn take_findings(&self) -> Vec<Finding> {
        let mut state = lock(&self.state);
        state.fault = None;
        std::mem::take(&mut state.findings.list)
    }

    /// Takes what kernels have written with `printf` since the last call, lane after lane in the order in which they
    /// came to it. What is queued has written nothing yet.
    pub fn take_printed(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.state).printed)
    }

    /// Counters of each kernel launched so far, by name. What is queued is done first.
    pub fn counters(&self) -> Vec<KernelCounters> {
        let mut state = lock(&self.state);
        // A kernel that fails fails the next call that may.
        let _ = state.work_off(&self.description, None);
        let mut all: Vec<KernelCounters> = state.counters.values().cloned().collect();
        all.sort_by(|a, b| a.kernel.cmp(&b.kernel));
        all
    }

    /// Forgets all counters, those of what is queued too, which is done first.
    pub fn reset_counters(&self) {
        let mut state = lock(&self.state);
        // As for the counters.
        let _ = state.work_off(&self.description, None);
        state.counters.clear();
    }
}
