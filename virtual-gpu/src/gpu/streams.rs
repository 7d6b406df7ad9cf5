//! Streams, events, capture, and copies in stream order.

use super::{Error, Gpu, State, lock};
use crate::options::Order;
use crate::stream::{Event, EventState, Graph, Queue, Stream, Work};

/// Queued work beyond this is done at once.
const MAX_PENDING: usize = 4096;

impl Gpu {
    /// Queues work, and in eager order does it at once.
    pub(super) fn enqueue(&self, state: &mut State, stream: Stream, work: Work) -> Result<(), Error> {
        let queued = state.queues.push(stream.0, work);
        if queued && (state.options.order == Order::Eager || state.queues.pending() > MAX_PENDING) {
            return state.flush(&self.description, None);
        }
        Ok(())
    }

    /// A new stream. A blocking one synchronises with stream 0, a non-blocking one does not.
    pub fn create_stream(&self, blocking: bool) -> Stream {
        let mut state = lock(&self.state);
        let id = state.queues.handle();
        state.queues.streams.insert(id, Queue { blocking, ..Queue::default() });
        Stream(id)
    }

    /// Does a stream's work and forgets it.
    pub fn destroy_stream(&self, stream: Stream) -> Result<(), Error> {
        let result = self.stream_synchronize(stream);
        lock(&self.state).queues.streams.remove(&stream.0);
        result
    }

    /// Waits for a stream's work.
    pub fn stream_synchronize(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.streams.get(&stream.0).is_some_and(|q| q.capture.is_some()) {
            return Err(Error::CaptureUnsupported("synchronize".into()));
        }
        state.flush(&self.description, Some(stream.0))
    }

    /// Whether a stream's work is done; a question makes one piece of work be done.
    pub fn stream_query(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if state.queues.streams.get(&stream.0).is_none_or(|q| q.work.is_empty()) {
            return Ok(());
        }
        state.step(&self.description, None)?;
        Err(Error::NotReady)
    }

    /// A new event, as if recorded before all work.
    pub fn create_event(&self) -> Event {
        let mut state = lock(&self.state);
        let id = state.queues.handle();
        state.queues.events.insert(id, EventState::default());
        Event(id)
    }

    /// Forgets an event.
    pub fn destroy_event(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.flush(&self.description, None)?;
        state.queues.events.remove(&event.0);
        Ok(())
    }

    /// Records an event after the work so far in a stream.
    pub fn record_event(&self, event: Event, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let capturing = state.queues.streams.get(&stream.0).is_some_and(|q| q.capture.is_some());
        let Some(e) = state.queues.events.get_mut(&event.0) else {
            return Err(Error::InvalidValue(format!("event {} does not exist", event.0)));
        };
        if !capturing {
            e.recorded += 1;
            e.capture = None;
        }
        let number = e.recorded;
        self.enqueue(&mut state, stream, Work::Record { event: event.0, number })
    }

    /// Makes later work of a stream wait for an event.
    pub fn wait_event(&self, stream: Stream, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let Some(e) = state.queues.events.get(&event.0) else {
            return Err(Error::InvalidValue(format!("event {} does not exist", event.0)));
        };
        let (number, capture) = (e.recorded, e.capture);
        if let Some(capture) = capture {
            // A stream that waits for an event of a capture joins it.
            let queue = state.queues.streams.entry(stream.0).or_default();
            queue.capture = Some(capture);
            return Ok(());
        }
        self.enqueue(&mut state, stream, Work::Wait { event: event.0, number })
    }

    /// Whether an event has been reached; a question makes one piece of work be done.
    pub fn event_query(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        match state.queues.events.get(&event.0) {
            None => Err(Error::InvalidValue(format!("event {} does not exist", event.0))),
            Some(e) if e.reached >= e.recorded => Ok(()),
            Some(_) => {
                state.step(&self.description, None)?;
                Err(Error::NotReady)
            }
        }
    }

    /// Waits for an event.
    pub fn event_synchronize(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        while state.queues.events.get(&event.0).is_some_and(|e| e.reached < e.recorded) {
            if !state.step(&self.description, None)? {
                break;
            }
        }
        Ok(())
    }

    /// Virtual milliseconds between two reached events: a nanosecond for each warp instruction and each KiB copied.
    pub fn event_elapsed(&self, start: Event, end: Event) -> Result<f32, Error> {
        let state = lock(&self.state);
        let time = |event: Event| match state.queues.events.get(&event.0) {
            Some(e) if e.reached >= e.recorded => Ok(e.time),
            Some(_) => Err(Error::NotReady),
            None => Err(Error::InvalidValue(format!("event {} does not exist", event.0))),
        };
        Ok((time(end)? as f64 - time(start)? as f64) as f32 / 1e6)
    }

    /// Begins to capture a stream's work (and that of streams that wait for its events) instead of doing it.
    pub fn begin_capture(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if stream.0 == 0 {
            return Err(Error::CaptureUnsupported("the default stream cannot be captured".into()));
        }
        state.flush(&self.description, Some(stream.0))?;
        let id = state.queues.handle();
        let queue = state.queues.streams.entry(stream.0).or_default();
        if queue.capture.is_some() {
            return Err(Error::CaptureUnsupported("the stream is being captured already".into()));
        }
        queue.capture = Some(id);
        state.queues.captures.insert(id, Graph::default());
        state.queues.capture_origin.insert(id, stream.0);
        Ok(())
    }

    /// Whether a stream is being captured.
    pub fn is_capturing(&self, stream: Stream) -> bool {
        lock(&self.state).queues.streams.get(&stream.0).is_some_and(|q| q.capture.is_some())
    }

    /// Ends the capture that began in this stream.
    pub fn end_capture(&self, stream: Stream) -> Result<Graph, Error> {
        let mut state = lock(&self.state);
        let capture = state.queues.streams.get(&stream.0).and_then(|q| q.capture);
        let Some(capture) = capture.filter(|c| state.queues.capture_origin.get(c) == Some(&stream.0)) else {
            return Err(Error::CaptureUnsupported("no capture began in this stream".into()));
        };
        for queue in state.queues.streams.values_mut().filter(|q| q.capture == Some(capture)) {
            queue.capture = None;
        }
        for event in state.queues.events.values_mut().filter(|e| e.capture == Some(capture)) {
            event.capture = None;
        }
        state.queues.capture_origin.remove(&capture);
        Ok(state.queues.captures.remove(&capture).unwrap_or_default())
    }

    /// Queues all work of a graph.
    pub fn launch_graph(&self, graph: &Graph, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        for node in &graph.nodes {
            let mut work = node.clone();
            if let Work::Launch { grid, .. } = &mut work {
                state.launches += 1;
                grid.id = state.launches;
            }
            self.enqueue(&mut state, stream, work)?;
        }
        Ok(())
    }

    /// Queues a host-to-device copy; the bytes are taken at once.
    pub fn write_async(&self, address: u64, data: &[u8], stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if data.is_empty() {
            return Ok(());
        }
        state.check_range("write", address, data.len() as u64)?;
        self.enqueue(&mut state, stream, Work::Write { to: address, data: data.to_vec() })
    }

    /// Queues a copy inside the device.
    pub fn copy_async(&self, to: u64, from: u64, bytes: u64, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if bytes == 0 {
            return Ok(());
        }
        state.check_range("copy", to, bytes)?;
        state.check_range("copy", from, bytes)?;
        self.enqueue(&mut state, stream, Work::Copy { to, from, bytes })
    }

    /// Queues setting `count` elements to a pattern of 1, 2 or 4 bytes.
    pub fn set_async(&self, address: u64, pattern: &[u8], count: u64, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if count == 0 {
            return Ok(());
        }
        if !matches!(pattern.len(), 1 | 2 | 4) || !address.is_multiple_of(pattern.len() as u64) {
            return Err(Error::InvalidValue(format!("a pattern of {} bytes at {address:#x}", pattern.len())));
        }
        state.check_range("memset", address, count.saturating_mul(pattern.len() as u64))?;
        self.enqueue(&mut state, stream, Work::Set { address, pattern: pattern.to_vec(), count })
    }

    /// Waits for a stream's work, then reads device memory; see [`Gpu::read`].
    pub fn read_async(&self, address: u64, data: &mut [u8], stream: Stream) -> Result<(), Error> {
        self.stream_synchronize(stream)?;
        self.read_now(address, data)
    }
}
