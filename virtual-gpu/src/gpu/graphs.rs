//! Capture of streams into graphs, and their replay.

use super::{Error, Gpu, lock};
use crate::stream::{Capture, EventState, Graph, Queue, Stream, Work};
use std::collections::HashMap;

impl Gpu {
    /// Begins to capture a stream's work (and that of streams that wait for its events) instead of doing it.
    pub fn begin_capture(&self, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        if stream.0 == 0 {
            return Err(Error::CaptureUnsupported("the default stream cannot be captured".into()));
        }
        if state.queues.capture_of(stream.0).is_some() {
            return Err(Error::IllegalState("the stream is being captured already".into()));
        }
        let id = state.queues.handle();
        state.queues.stream(stream.0).capture = Some(id);
        let graph = Graph { nodes: Vec::new(), origin: stream.0 };
        state.queues.captures.insert(id, Capture { graph, ..Capture::default() });
        Ok(())
    }

    /// Whether a stream is being captured.
    pub fn is_capturing(&self, stream: Stream) -> bool {
        lock(&self.state).queues.capture_of(stream.0).is_some()
    }

    /// Ends the capture that began in this stream. Work of the other streams in it must come before this stream's end:
    /// it waits for events that they recorded behind their work.
    pub fn end_capture(&self, stream: Stream) -> Result<Graph, Error> {
        let mut state = lock(&self.state);
        let queues = &mut state.queues;
        let Some(id) = queues.capture_of(stream.0) else {
            return Err(Error::IllegalState("the stream is not being captured".into()));
        };
        if queues.captures.get(&id).is_some_and(|c| c.graph.origin != stream.0) {
            queues.invalidate(Some(id));
            return Err(Error::CaptureUnmatched("the capture began in another stream".into()));
        }
        queues.streams.values_mut().filter(|q| q.capture == Some(id)).for_each(|q| q.capture = None);
        queues.events.values_mut().filter(|e| e.capture == Some(id)).for_each(|e| e.capture = None);
        let capture = queues.captures.remove(&id).unwrap_or_default();
        if capture.invalid {
            return Err(Error::CaptureInvalidated("an earlier call was not permitted".into()));
        }
        if !capture.is_joined() {
            let why = "work of another stream of the capture was not joined to the first";
            return Err(Error::CaptureUnjoined(why.into()));
        }
        Ok(capture.graph)
    }

    /// Queues all work of a graph: after the stream's work so far, its branches at the same time.
    pub fn launch_graph(&self, graph: &Graph, stream: Stream) -> Result<(), Error> {
        let mut state = lock(&self.state);
        state.check_fault()?;
        // Each branch becomes a stream of its own, each event of the capture a new one.
        let mut branches = HashMap::from([(graph.origin, stream.0)]);
        let mut events: HashMap<u64, u64> = HashMap::new();
        for (from, work) in &graph.nodes {
            let branch = *branches.entry(*from).or_insert_with(|| {
                let id = state.queues.handle();
                state.queues.streams.insert(id, Queue { temporary: true, ..Queue::default() });
                id
            });
            let mut work = work.clone();
            match &mut work {
                Work::Launch { grid, .. } => {
                    state.launches += 1;
                    grid.id = state.launches;
                }
                Work::Record { event, number } => {
                    let id = state.queues.handle();
                    events.insert(*event, id);
                    let new = EventState { recorded: 1, destroyed: true, ..EventState::default() };
                    state.queues.events.insert(id, new);
                    (*event, *number) = (id, 1);
                }
                Work::Wait { event, number } => match events.get(event) {
                    Some(&id) => (*event, *number) = (id, 1),
                    None => continue,
                },
                _ => {}
            }
            self.enqueue(&mut state, Stream(branch), work)?;
        }
        Ok(())
    }
}
