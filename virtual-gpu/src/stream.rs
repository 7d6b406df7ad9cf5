//! Streams, events and graphs: work is queued in streams and done when the host waits for something.
//!
//! Stream 0 is the legacy default stream: it waits for all blocking streams and they wait for it. Kernels of
//! different streams that no event and no wait orders run together. Which of several things that may be done
//! is done first is up to the order, so that a missing event shows in the results; two kernels that touch the
//! same bytes without one are a finding in every order, whether they overlapped or not.

use crate::exec::Grid;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// A stream of work. Work in one stream is done in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Stream(pub u64);

/// A marker in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Event(pub u64);

/// Captured work: that of the stream where the capture began and of the streams that joined it, with the
/// events between them.
#[derive(Clone, Default)]
pub struct Graph {
    /// Each piece with the stream that it was captured from, in the order of capture.
    pub(crate) nodes: Vec<(u64, Work)>,
    /// Stream where the capture began.
    pub(crate) origin: u64,
}

impl Graph {
    /// Number of nodes (launches, copies, sets).
    pub fn len(&self) -> usize {
        let is_edge = |work: &Work| matches!(work, Work::Record { .. } | Work::Wait { .. });
        self.nodes.iter().filter(|(_, work)| !is_edge(work)).count()
    }

    /// Whether nothing was captured.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One piece of queued work.
#[derive(Clone)]
pub(crate) enum Work {
    Launch { grid: Box<Grid>, dependent: bool },
    Set { address: u64, pattern: Vec<u8>, count: u64, position: Position },
    Copy { to: u64, from: u64, bytes: u64, position: Position },
    Write { to: u64, data: Vec<u8>, position: Position },
    Record { event: u64, number: u64 },
    Wait { event: u64, number: u64 },
}

/// How far into each stream the work goes that something comes after.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock(BTreeMap<u64, u64>);

impl Clock {
    pub fn join(&mut self, other: &Clock) {
        for (&stream, &sequence) in &other.0 {
            self.advance(stream, sequence);
        }
    }

    fn advance(&mut self, stream: u64, sequence: u64) {
        let to = self.0.entry(stream).or_default();
        *to = (*to).max(sequence);
    }

    /// Whether a piece of a stream's work comes before.
    pub fn covers(&self, stream: u64, sequence: u64) -> bool {
        self.0.get(&stream).is_some_and(|&s| s >= sequence)
    }
}

/// Where a launch, a copy or a memset stands among the other work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    pub stream: u64,
    pub sequence: u64,
    /// What it comes after, itself included.
    pub after: Clock,
}

#[derive(Default)]
pub(crate) struct Queue {
    pub work: VecDeque<(u64, Work)>,
    pub blocking: bool,
    pub capture: Option<u64>,
    /// The work queued so far and what that comes after.
    pub clock: Clock,
    /// Launches (sequence) that run.
    pub running: Vec<u64>,
    /// Forgotten once its work is done: a destroyed stream, or a branch of a graph.
    pub temporary: bool,
}

impl Queue {
    fn is_done(&self) -> bool {
        self.work.is_empty() && self.running.is_empty()
    }

    /// The oldest piece that is not done.
    fn first(&self) -> Option<u64> {
        self.running.iter().copied().chain(self.work.front().map(|(s, _)| *s)).min()
    }
}

#[derive(Default)]
pub(crate) struct EventState {
    /// Number of the last record, and of the last one that has been reached.
    pub recorded: u64,
    pub reached: u64,
    /// Virtual time in nanoseconds when it was reached.
    pub time: u64,
    /// What came before the last record.
    pub clock: Clock,
    /// Capture that recorded it last.
    pub capture: Option<u64>,
    /// Forgotten once it is reached.
    pub destroyed: bool,
}

impl EventState {
    pub fn is_reached(&self) -> bool {
        self.reached >= self.recorded
    }
}

/// A capture that has begun.
#[derive(Default)]
pub(crate) struct Capture {
    pub graph: Graph,
    /// Something that a capture does not allow was asked for.
    pub invalid: bool,
    /// What the work so far of each stream in it comes after, in nodes of the graph.
    pub clocks: HashMap<u64, Clock>,
    /// The same of each event recorded in it.
    pub events: HashMap<u64, Clock>,
}

impl Capture {
    /// Adds a piece of a stream's work.
    fn push(&mut self, stream: u64, work: Work) {
        let clock = self.clocks.entry(stream).or_default();
        match &work {
            Work::Wait { event, .. } => {
                if let Some(other) = self.events.get(event) {
                    clock.join(other);
                }
            }
            _ => clock.advance(stream, self.graph.nodes.len() as u64 + 1),
        }
        if let Work::Record { event, .. } = &work {
            self.events.insert(*event, clock.clone());
        }
        self.graph.nodes.push((stream, work));
    }

    /// Whether the work of all streams comes before the end of the first.
    pub fn is_joined(&self) -> bool {
        let end = self.clocks.get(&self.graph.origin).cloned().unwrap_or_default();
        let mut last = HashMap::new();
        for ((stream, work), number) in self.graph.nodes.iter().zip(1..) {
            if !matches!(work, Work::Wait { .. } | Work::Record { .. }) {
                last.insert(*stream, number);
            }
        }
        last.iter().all(|(&stream, &number)| stream == self.graph.origin || end.covers(stream, number))
    }
}

/// All queues of a device.
#[derive(Default)]
pub(crate) struct Queues {
    pub streams: BTreeMap<u64, Queue>,
    pub events: HashMap<u64, EventState>,
    pub captures: HashMap<u64, Capture>,
    /// What the host has waited for.
    host: Clock,
    sequence: u64,
    handles: u64,
}

impl Queues {
    pub fn handle(&mut self) -> u64 {
        self.handles += 1;
        self.handles
    }

    pub fn stream(&mut self, id: u64) -> &mut Queue {
        self.streams.entry(id).or_insert_with(|| Queue { blocking: true, ..Queue::default() })
    }

    /// Queues work; returns false if it was captured instead.
    pub fn push(&mut self, stream: u64, mut work: Work) -> bool {
        if let Some(capture) = self.stream(stream).capture {
            if let Work::Record { event, .. } = &work {
                self.events.entry(*event).or_default().capture = Some(capture);
            }
            self.captures.entry(capture).or_default().push(stream, work);
            return false;
        }
        let mut position = self.stamp(stream);
        if let Work::Wait { event, .. } = &work
            && let Some(event) = self.events.get(event)
        {
            position.after.join(&event.clock);
        }
        self.stream(stream).clock = position.after.clone();
        let sequence = position.sequence;
        match &mut work {
            Work::Launch { grid, .. } => grid.position = position,
            Work::Set { position: p, .. }
            | Work::Copy { position: p, .. }
            | Work::Write { position: p, .. } => *p = position,
            Work::Record { event, .. } => {
                self.events.entry(*event).or_default().clock = position.after;
            }
            Work::Wait { .. } => {}
        }
        self.stream(stream).work.push_back((sequence, work));
        true
    }

    /// The position of new work in a stream.
    pub fn stamp(&mut self, stream: u64) -> Position {
        self.sequence += 1;
        let sequence = self.sequence;
        let blocking = self.stream(stream).blocking;
        let mut clock = self.host.clone();
        for (&id, queue) in &self.streams {
            if id == stream || blocking && (stream == 0 && queue.blocking || id == 0) {
                clock.join(&queue.clock);
            }
        }
        clock.advance(stream, sequence);
        self.stream(stream).clock = clock.clone();
        Position { stream, sequence, after: clock }
    }

    /// Streams whose next work may be done now.
    pub fn runnable(&self) -> Vec<u64> {
        let first_default = self.streams.get(&0).and_then(Queue::first);
        let blocking = self.streams.iter().filter(|(id, q)| **id != 0 && q.blocking);
        let first_blocking = blocking.filter_map(|(_, q)| q.first()).min();
        let mut all = Vec::new();
        for (&id, queue) in &self.streams {
            let Some((sequence, work)) = queue.work.front() else { continue };
            let dependent = matches!(work, Work::Launch { dependent: true, .. });
            if !queue.running.is_empty() && !dependent {
                continue;
            }
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

    /// Next work of a stream.
    pub fn front(&self, stream: u64) -> Option<&(u64, Work)> {
        self.streams.get(&stream).and_then(|q| q.work.front())
    }

    /// Whether a stream's work, or all work, is done.
    pub fn is_done(&self, stream: Option<u64>) -> bool {
        match stream {
            Some(id) => self.streams.get(&id).is_none_or(Queue::is_done),
            None => self.streams.values().all(Queue::is_done),
        }
    }

    /// What comes before the end of a stream, or of all.
    pub fn clock(&self, stream: Option<u64>) -> Clock {
        let mut clock = self.host.clone();
        for (_, queue) in self.streams.iter().filter(|(id, _)| stream.is_none_or(|s| s == **id)) {
            clock.join(&queue.clock);
        }
        clock
    }

    /// The host has waited for this.
    pub fn host_waited(&mut self, clock: &Clock) {
        self.host.join(clock);
    }

    /// Whether the host has waited for a piece of a stream's work.
    pub fn host_knows(&self, stream: u64, sequence: u64) -> bool {
        self.host.covers(stream, sequence)
    }

    /// Whether copies or memsets are queued that nothing orders with a launch.
    pub fn rival_transfers(&self, launch: &Position) -> bool {
        self.streams.values().flat_map(|q| &q.work).any(|(_, work)| match work {
            Work::Set { position, .. } | Work::Copy { position, .. } | Work::Write { position, .. } => {
                !launch.after.covers(position.stream, position.sequence)
                    && !position.after.covers(launch.stream, launch.sequence)
            }
            _ => false,
        })
    }

    /// Launches that are queued.
    pub fn launches(&self) -> impl Iterator<Item = &Grid> {
        self.streams.values().flat_map(|q| &q.work).filter_map(|(_, work)| match work {
            Work::Launch { grid, .. } => Some(&**grid),
            _ => None,
        })
    }

    /// Forgets streams and events that are no longer needed; `named` are streams that clocks still speak of.
    pub fn prune(&mut self, named: impl Iterator<Item = u64>) {
        self.streams.retain(|_, q| !(q.temporary && q.is_done()));
        self.events.retain(|_, e| !(e.destroyed && e.is_reached()));
        let alive: HashSet<u64> = self.streams.keys().copied().chain(named).collect();
        self.host.0.retain(|stream, _| alive.contains(stream));
        for queue in self.streams.values_mut() {
            queue.clock.0.retain(|stream, _| alive.contains(stream));
        }
    }

    /// Drops all work, as a device does after a fault.
    pub fn abandon(&mut self) {
        for queue in self.streams.values_mut() {
            queue.work.clear();
            queue.running.clear();
        }
        self.events.values_mut().for_each(|e| e.reached = e.recorded);
    }

    pub fn pending(&self) -> usize {
        self.streams.values().map(|q| q.work.len()).sum()
    }

    pub fn capturing(&self) -> bool {
        !self.captures.is_empty()
    }

    /// The capture that a stream takes part in.
    pub fn capture_of(&self, stream: u64) -> Option<u64> {
        self.streams.get(&stream).and_then(|q| q.capture)
    }

    /// Marks captures (all without a number) that something asked for what they do not allow.
    pub fn invalidate(&mut self, capture: Option<u64>) {
        for (_, c) in self.captures.iter_mut().filter(|(id, _)| capture.is_none_or(|n| n == **id)) {
            c.invalid = true;
        }
    }
}
