use std::sync::Arc;

use super::{Device, RawGraph, RawStream};
use crate::error::Result;

/// A recorded graph that is owned: destroyed when dropped.
#[derive(Debug)]
pub struct Graph {
    device: Arc<dyn Device>,
    raw: RawGraph,
}

impl Graph {
    /// Records what `work` puts into `stream` (not the default stream) instead of running it.
    ///
    /// # Errors
    /// What `work` says, and what the device says: it refuses to load code, allocate or wait meanwhile.
    pub fn record(
        device: &Arc<dyn Device>,
        stream: RawStream,
        work: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        device.begin_capture(stream)?;
        let worked = work();
        // The stream must leave the recording whatever happened.
        let graph = device.end_capture(stream).map(|raw| Graph { device: device.clone(), raw });
        worked.and(graph)
    }

    /// Puts the recorded work into `stream`.
    ///
    /// # Errors
    /// What the device says.
    ///
    /// # Safety
    /// All memory that the recorded work uses still lives, and is not otherwise used until `stream` has done it.
    pub unsafe fn launch(&self, stream: RawStream) -> Result<()> {
        // SAFETY: as of this function.
        unsafe { self.device.launch_graph(self.raw, stream) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.destroy_graph(self.raw);
    }
}
