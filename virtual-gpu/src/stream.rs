//! Streams, events and graphs: work is queued in streams and done when something waits for it (in eager order at once).
//!
//! Stream 0 is the legacy default stream: it waits for all blocking streams and they wait for it. In lazy and random
//! order streams overtake each other wherever no event and no wait orders them, so a missing one shows.

use crate::exec::Grid;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// A stream of work. Work in one stream is done in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Stream(pub u64);

/// A marker in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event(pub u64);

/// A captured sequence of work.
#[derive(Clone, Default)]
pub struct Graph {
    pub(crate) nodes: Vec<Work>,
}

impl Graph {
    /// Number of nodes (launches, copies, sets).
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was captured.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

/// One piece of queued work.
#[derive(Clone)]
pub(crate) enum Work {
    Launch { grid: Box<Grid>, dependent: bool },
    Set { address: u64, pattern: Vec<u8>, count: u64 },
    Copy { to: u64, from: u64, bytes: u64 },
    Write { to: u64, data: Vec<u8> },
    Record { event: u64, number: u64 },
    Wait { event: u64, number: u64 },
}

#[derive(Default)]
pub(crate) struct Queue {
    pub work: VecDeque<(u64, Work)>,
    pub blocking: bool,
    pub capture: Option<u64>,
}

#[derive(Default)]
pub(crate) struct EventState {
    /// Number of the last record, and of the last one that has been reached.
    pub recorded: u64,
    pub reached: u64,
    /// Virtual time in nanoseconds when it was reached.
    pub time: u64,
    /// Capture that recorded it last.
    pub capture: Option<u64>,
}

/// All queues of a device.
#[derive(Default)]
pub(crate) struct Queues {
    pub streams: BTreeMap<u64, Queue>,
    pub events: HashMap<u64, EventState>,
    pub captures: HashMap<u64, Graph>,
    /// Stream that began each capture.
    pub capture_origin: HashMap<u64, u64>,
    sequence: u64,
    handles: u64,
}

impl Queues {
    pub fn handle(&mut self) -> u64 {
        self.handles += 1;
        self.handles
    }

    /// Queues work; returns false if it was captured instead.
    pub fn push(&mut self, stream: u64, work: Work) -> bool {
        let queue =
            self.streams.entry(stream).or_insert_with(|| Queue { blocking: true, ..Queue::default() });
        if let Some(capture) = queue.capture {
            match work {
                Work::Record { event, .. } => {
                    self.events.entry(event).or_default().capture = Some(capture);
                }
                Work::Wait { .. } => {}
                work => self.captures.entry(capture).or_default().nodes.push(work),
            }
            return false;
        }
        self.sequence += 1;
        queue.work.push_back((self.sequence, work));
        true
    }

    /// Streams whose next work may be done now.
    pub fn runnable(&self, only: Option<&HashSet<u64>>) -> Vec<u64> {
        let first_default = self.streams.get(&0).and_then(|q| q.work.front()).map(|(s, _)| *s);
        let first_blocking = self
            .streams
            .iter()
            .filter(|(id, q)| **id != 0 && q.blocking)
            .filter_map(|(_, q)| q.work.front().map(|(s, _)| *s))
            .min();
        let mut all = Vec::new();
        for (&id, queue) in &self.streams {
            if only.is_some_and(|only| !only.contains(&id)) {
                continue;
            }
            let Some((sequence, work)) = queue.work.front() else { continue };
            let after = |other: Option<u64>| other.is_some_and(|o| o < *sequence);
            if id == 0 && after(first_blocking) || id != 0 && queue.blocking && after(first_default) {
                continue;
            }
            if let Work::Wait { event, number } = work
                && self.events.get(event).is_some_and(|e| e.reached < *number)
            {
                continue;
            }
            all.push(id);
        }
        all
    }

    pub fn pending(&self) -> usize {
        self.streams.values().map(|q| q.work.len()).sum()
    }

    pub fn capturing(&self) -> bool {
        !self.capture_origin.is_empty()
    }
}
