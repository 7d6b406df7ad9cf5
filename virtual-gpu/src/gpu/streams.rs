//! Streams, events, and copies in stream order.

use super::{Error, Gpu, State, lock};
use crate::options::Order;
use crate::stream::{Event, EventState, Queue, Stream, Work};

/// Queued work beyond this is done at once.
const MAX_PENDING: usize = 4096;

impl Gpu {
    /// Queues work. In eager order what has nothing to wait for and runs no kernel is done at once.
    pub(super) fn enqueue(&self, state: &mut State, stream: Stream, work: Work) -> Result<(), Error> {
        if stream.0 == 0 && state.queues.capturing() {
            let blocking: Vec<u64> =
                state.queues.streams.values().filter(|q| q.blocking).filter_map(|q| q.capture).collect();
            if !blocking.is_empty() {
                blocking.iter().for_each(|&capture| state.queues.invalidate(Some(capture)));
                return Err(Error::CaptureImplicit("work in the default stream".into()));
            }
        }
        let at_once = state.options.order == Order::Eager
            && state.queues.pending() == 0
            && !matches!(work, Work::Launch { .. });
        let queued = state.queues.push(stream.0, work);
        if queued && (at_once || state.queues.pending() > MAX_PENDING) {
            return state.work_off(&self.description, None);
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

    /// Does a stream's work and forgets it. Other work is not ordered by that.
    pub fn destroy_stream(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if let Some(capture) = state.queues.capture_of(stream.0) {
            state.queues.invalidate(Some(capture));
            return Err(Error::CaptureUnsupported("destroy a stream".into()));
        }
        let result = state.work_off(&self.description, Some(stream.0));
        if let Some(queue) = state.queues.streams.get_mut(&stream.0) {
            queue.temporary = true;
        }
        state.prune();
        result
    }

    /// Waits for a stream's work.
    pub fn stream_synchronize(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        state.refuse_capturing(stream, "synchronize")?;
        state.flush(&self.description, Some(stream.0))
    }

    /// Whether a stream's work is done; a question makes one piece of work be done.
    pub fn stream_query(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        state.refuse_capturing(stream, "query")?;
        if !state.queues.is_done(Some(stream.0)) {
            state.step(&self.description, &Default::default())?;
            return Err(Error::NotReady);
        }
        let clock = state.queues.clock(Some(stream.0));
        state.host_waited(&clock);
        Ok(())
    }

    /// A new event, as if recorded before all work.
    pub fn create_event(&self) -> Event {
        let mut state = lock(&self.state);
        let id = state.queues.handle();
        state.queues.events.insert(id, EventState::default());
        Event(id)
    }

    /// Forgets an event once it is reached.
    pub fn destroy_event(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        if let Some(e) = state.queues.events.get_mut(&event.0) {
            e.destroyed = true;
        }
        state.prune();
        Ok(())
    }

    /// Records an event after the work so far in a stream.
    pub fn record_event(&self, event: Event, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let capturing = state.queues.capture_of(stream.0).is_some();
        let e = state.event_mut(event)?;
        if !capturing {
            e.recorded += 1;
            e.capture = None;
        }
        let number = e.recorded;
        self.enqueue(&mut state, stream, Work::Record { event: event.0, number })
    }

    /// Makes later work of a stream wait for an event. A stream that waits for an event of a capture joins
    /// it.
    pub fn wait_event(&self, stream: Stream, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let e = state.event_mut(event)?;
        let (number, theirs) = (e.recorded, e.capture);
        match (state.queues.capture_of(stream.0), theirs) {
            (None, Some(capture)) => {
                if stream.0 == 0 {
                    state.queues.invalidate(Some(capture));
                    return Err(Error::CaptureImplicit("the default stream cannot join a capture".into()));
                }
                state.queues.stream(stream.0).capture = Some(capture);
            }
            (Some(own), None) => {
                state.queues.invalidate(Some(own));
                let why = "a captured stream waits for an event from outside of the capture";
                return Err(Error::CaptureIsolation(why.into()));
            }
            (Some(own), Some(capture)) if own != capture => {
                state.queues.invalidate(Some(own));
                state.queues.invalidate(Some(capture));
                return Err(Error::CaptureMerge("a wait for an event of another capture".into()));
            }
            _ => {}
        }
        self.enqueue(&mut state, stream, Work::Wait { event: event.0, number })
    }

    /// Whether an event has been reached; a question makes one piece of work be done.
    pub fn event_query(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if !state.uncaptured_event(event)?.is_reached() {
            state.step(&self.description, &Default::default())?;
            return Err(Error::NotReady);
        }
        let clock = state.event_mut(event)?.clock.clone();
        state.host_waited(&clock);
        Ok(())
    }

    /// Waits for an event.
    pub fn event_synchronize(&self, event: Event) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        let clock = state.uncaptured_event(event)?.clock.clone();
        while !state.event_mut(event)?.is_reached() && state.step(&self.description, &clock)? {}
        state.host_waited(&clock);
        Ok(())
    }

    /// Virtual milliseconds between two reached events: a nanosecond for each warp instruction and each KiB
    /// copied. A count of work, not a measure of time.
    pub fn event_elapsed(&self, start: Event, end: Event) -> Result<f32, Error> {
        let mut state = lock(&self.state);
        let mut time = |event: Event| match state.uncaptured_event(event)? {
            e if e.is_reached() => Ok(e.time),
            _ => Err(Error::NotReady),
        };
        Ok((time(end)? as f64 - time(start)? as f64) as f32 / 1e6)
    }

    /// Queues a host-to-device copy; the bytes are taken at once.
    pub fn write_async(&self, address: u64, data: &[u8], stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if data.is_empty() {
            return Ok(());
        }
        state.check_range("write", address, data.len() as u64)?;
        self.enqueue(
            &mut state,
            stream,
            Work::Write { to: address, data: data.to_vec(), position: Default::default() },
        )
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
        self.enqueue(&mut state, stream, Work::Copy { to, from, bytes, position: Default::default() })
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
        self.enqueue(
            &mut state,
            stream,
            Work::Set { address, pattern: pattern.to_vec(), count, position: Default::default() },
        )
    }

    /// Waits for a stream's work, then reads device memory; see [`Gpu::read`].
    pub fn read_async(&self, address: u64, data: &mut [u8], stream: Stream) -> Result<(), Error> {
        self.stream_synchronize(stream)?;
        self.read_now(address, data, stream)
    }
}

impl State {
    /// An event that exists.
    fn event_mut(&mut self, event: Event) -> Result<&mut EventState, Error> {
        match self.queues.events.get_mut(&event.0) {
            Some(e) if !e.destroyed => Ok(e),
            _ => Err(Error::InvalidValue(format!("event {} does not exist", event.0))),
        }
    }

    /// An event that the host may ask or wait for.
    fn uncaptured_event(&mut self, event: Event) -> Result<&mut EventState, Error> {
        if let Some(capture) = self.event_mut(event)?.capture {
            self.queues.invalidate(Some(capture));
            return Err(Error::CapturedEvent(format!("event {} was recorded in a capture", event.0)));
        }
        self.event_mut(event)
    }

    /// Waiting for a stream that is being captured is refused and spoils the capture.
    fn refuse_capturing(&mut self, stream: Stream, what: &str) -> Result<(), Error> {
        let Some(capture) = self.queues.capture_of(stream.0) else { return Ok(()) };
        self.queues.invalidate(Some(capture));
        Err(Error::CaptureUnsupported(what.into()))
    }
}
