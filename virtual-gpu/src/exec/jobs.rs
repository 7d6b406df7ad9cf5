//! Bulk copies in flight: begun now or later, as the order says.

use super::Context;
use super::atomics::apply;
use super::bulk::Reduction;
use super::cta::Cta;
use super::warp::Warp;
use crate::memory::GlobalMemory;
use crate::options::Order;
use crate::races;

/// A run of bytes: global address (none: out of a tensor's bounds), shared offset, length.
pub type Run = (Option<u64>, u32, u32);

/// A copy in flight.
pub struct Job {
    pub id: u64,
    pub cta: usize,
    pub warp: u32,
    pub lane: u32,
    pub kind: JobKind,
    /// Stores: the source's bytes, once read. Whether they are defined was read with them: the CTA may end before they
    /// are written.
    pub data: Option<crate::memory::Bytes>,
    pub clock: races::JobClock,
}

pub enum JobKind {
    /// Global to the shared memory of some CTAs, at the same offset in each, each with its mbarrier.
    Load { runs: Vec<Run>, fill: [u8; 8], element: u32, targets: Vec<usize>, barrier: u32, bytes: u32 },
    /// Shared memory of the issuing CTA to global memory.
    Store { runs: Vec<Run>, reduction: Option<Reduction> },
    /// Shared memory of the issuing CTA to another's.
    Remote { from: u32, to: (usize, u32), bytes: u32, barrier: (usize, u32), reduction: Option<Reduction> },
    /// `st.async` and `red.async`.
    Values {
        to: (usize, u32),
        values: Vec<u64>,
        element: u32,
        barrier: (usize, u32),
        reduction: Option<Reduction>,
    },
}

/// Puts a copy in flight, or does it.
pub(super) fn start(
    ctx: &mut Context<'_>,
    warp: &mut Warp,
    pc: u32,
    lane: usize,
    kind: JobKind,
    store: bool,
) -> u64 {
    *ctx.next_job += 1;
    let id = *ctx.next_job;
    let clock = races::job_issued(ctx, warp, pc, &kind);
    let mut job = Job { id, cta: ctx.cta, warp: warp.index, lane: lane as u32, kind, data: None, clock };
    let now = match ctx.order {
        Order::Eager => true,
        Order::Lazy => false,
        Order::Random(_) => ctx.random.below(4) == 0,
    };
    if now {
        perform(ctx.memory, ctx.ctas, &mut job);
        *ctx.progress += 1;
    } else {
        let _ = store;
        ctx.jobs.push(job);
    }
    id
}

/// Reads a store's source.
pub(super) fn read_source(ctas: &[Cta], job: &mut Job) {
    if let JobKind::Store { runs, .. } = &job.kind
        && job.data.is_none()
    {
        let shared = &ctas[job.cta].shared;
        let total = runs.iter().map(|r| r.2 as usize).sum();
        let mut data = crate::memory::Bytes::new(total);
        let mut at = 0;
        for &(_, offset, length) in runs {
            data.copy_from(at, shared, offset as usize, length as usize);
            at += length as usize;
        }
        job.data = Some(data);
    }
}

pub(super) fn reduce(bytes: &mut crate::memory::Bytes, at: usize, data: &[u8], reduction: Reduction) {
    let step = reduction.bytes as usize;
    for (i, part) in data.chunks_exact(step).enumerate() {
        let mut value = [0u8; 8];
        value[..step].copy_from_slice(part);
        let at = at + i * step;
        let old = bytes.get(at, reduction.bytes);
        bytes.put(
            at,
            reduction.bytes,
            apply(reduction.op, old, u64::from_le_bytes(value), 0, reduction.bytes),
        );
    }
}

/// Moves a copy's bytes and signals its end.
pub fn perform(memory: &mut GlobalMemory, ctas: &mut [Cta], job: &mut Job) {
    match &job.kind {
        JobKind::Load { runs, fill, element, targets, barrier, bytes } => {
            for &target in targets {
                let shared = &mut ctas[target].shared;
                for &(global, offset, length) in runs {
                    let (at, length) = (offset as usize, length as usize);
                    match global.map(|g| memory.range(g, length as u64)) {
                        Some(Ok((a, from))) => a.bytes.copy_to(from, length, shared, at),
                        _ => {
                            for i in 0..length {
                                shared.data[at + i] = fill[i % *element as usize];
                            }
                            shared.define_range(at, length, true);
                        }
                    }
                }
                signal(ctas, (target, *barrier), *bytes, &job.clock);
            }
        }
        JobKind::Store { .. } => {
            read_source(ctas, job);
            let (JobKind::Store { runs, reduction }, Some(data)) = (&job.kind, &job.data) else { return };
            let mut from = 0usize;
            for &(global, _, length) in runs {
                let begin = from;
                from += length as usize;
                let part = &data.data[begin..from];
                let Some(Ok((a, at))) = global.map(|g| memory.range(g, u64::from(length))) else { continue };
                match reduction {
                    Some(reduction) if a.bytes.is_view() => {
                        // Reads and writes: what another worker does here, too, is noticed at the end.
                        let mut copy = crate::memory::Bytes::new(part.len());
                        a.bytes.copy_to(at, part.len(), &mut copy, 0);
                        reduce(&mut copy, 0, part, *reduction);
                        a.bytes.copy_from(at, &copy, 0, part.len());
                    }
                    Some(reduction) => reduce(a.bytes.whole(), at, part, *reduction),
                    None => {
                        if data.first_undefined(begin, part.len()).is_some() {
                            a.bytes.copy_from(at, data, begin, part.len());
                        } else {
                            a.bytes.write(at, part);
                        }
                    }
                }
            }
        }
        JobKind::Remote { from, to, bytes, barrier, reduction } => {
            let (from, length) = (*from as usize, *bytes as usize);
            let data = ctas[job.cta].shared.data[from..from + length].to_vec();
            let undefined = ctas[job.cta].shared.first_undefined(from, length);
            let target = &mut ctas[to.0].shared;
            match reduction {
                Some(reduction) => reduce(target, to.1 as usize, &data, *reduction),
                None => {
                    target.write(to.1 as usize, &data);
                    if let Some(first) = undefined {
                        // From the first undefined byte on; which of the rest are defined is not kept.
                        target.define_range(to.1 as usize + first - from, length - (first - from), false);
                    }
                }
            }
            signal(ctas, *barrier, *bytes, &job.clock);
        }
        JobKind::Values { to, values, element, barrier, reduction } => {
            let target = &mut ctas[to.0].shared;
            for (i, &value) in values.iter().enumerate() {
                let at = to.1 as usize + i * *element as usize;
                let value = match reduction {
                    Some(r) => apply(r.op, target.get(at, *element), value, 0, *element),
                    None => value,
                };
                target.put(at, *element, value);
                target.set_defined(at, *element, true);
            }
            signal(ctas, *barrier, values.len() as u32 * element, &job.clock);
        }
    }
}

/// `complete_tx`.
pub(super) fn signal(ctas: &mut [Cta], (cta, offset): (usize, u32), bytes: u32, clock: &races::JobClock) {
    if let Some(barrier) = ctas[cta].hopper.mbarriers.get_mut(&offset) {
        barrier.tx -= i64::from(bytes);
        barrier.clock.join_job(clock);
        barrier.settle();
    }
}
