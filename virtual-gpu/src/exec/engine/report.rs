//! Findings about launches that cannot end.

use super::Engine;
use crate::decode::program::Place;
use crate::exec::cta::Cta;
use crate::exec::warp::Wait;
use crate::findings::{Finding, Findings, Kind, Party};

/// Waiting warps that a report lists.
const LISTED: usize = 64;

impl Engine {
    pub(super) fn report_deadlock(&mut self, findings: &mut Findings) {
        let resident = self.ctas.iter().filter(|c| c.resident && !c.exited);
        let first = resident.flat_map(|cta| {
            cta.warps.iter().flat_map(move |warp| warp.splits.iter().map(move |s| (cta, warp.index, s)))
        });
        let Some((cta, warp, split)) = first.into_iter().next() else { return };
        let (pc, mask) = (split.pc, split.mask);
        let program = &self.grids[cta.grid].program;
        findings.add(Finding {
            kind: Kind::Deadlock,
            message: format!("nothing can run and nothing is in flight; waiting:{}", self.list_warps()),
            kernel: program.name.clone(),
            place: program.place(pc),
            cta: cta.id,
            warp: Some(warp),
            lane: Some(mask.trailing_zeros()),
            address: None,
            other: None,
            count: 1,
            fatal: true,
        });
    }

    /// A line for each group of lanes that has not exited, and how many more there are.
    fn list_warps(&self) -> String {
        let mut lines = String::new();
        let mut count = 0;
        for cta in self.ctas.iter().filter(|c| c.resident && !c.exited) {
            let program = &self.grids[cta.grid].program;
            for (warp, split) in cta.warps.iter().flat_map(|w| w.splits.iter().map(move |s| (w, s))) {
                count += 1;
                if count > LISTED {
                    continue;
                }
                let place = program.place(split.pc);
                let line = match place.frames.first() {
                    Some(f) => format!("{}:{}", f.file, f.line),
                    None => format!("PTX line {}", place.ptx_line),
                };
                let (id, index, mask, opcode) = (cta.id, warp.index, split.mask, place.opcode);
                let wait = describe_wait(cta, split.wait);
                lines +=
                    &format!("\n    CTA {id:?} warp {index} lanes {mask:#010x} {wait} at {opcode} ({line})");
            }
        }
        if count > LISTED {
            lines += &format!("\n    and {} more", count - LISTED);
        }
        lines
    }

    pub(super) fn report_livelock(&mut self, number: usize, findings: &mut Findings, message: String) {
        let cta = &self.ctas[number];
        let program = &self.grids[cta.grid].program;
        let split = cta.warps.iter().flat_map(|w| w.splits.iter().map(move |s| (w.index, s))).next();
        let (warp, place) = match split {
            Some((warp, s)) => (Some(warp), program.place(s.pc)),
            None => (None, Place::default()),
        };
        let others = format!("{} CTAs are resident", self.ctas.iter().filter(|c| c.resident).count());
        findings.add(Finding {
            kind: Kind::TimeLimit,
            message: format!("{message}; where all are:{}", self.list_warps()),
            kernel: program.name.clone(),
            place,
            cta: cta.id,
            warp,
            lane: None,
            address: None,
            other: Some(Party { what: others, place: None }),
            count: 1,
            fatal: true,
        });
    }
}

fn describe_wait(cta: &Cta, wait: Option<Wait>) -> String {
    match wait {
        None => "runs".into(),
        Some(Wait::Members { members }) => format!("waits for the lanes {members:#010x} of its warp"),
        Some(Wait::Barrier { id, .. }) => format!("waits at barrier {id}"),
        Some(Wait::Cluster { .. }) => "waits at the cluster barrier".into(),
        Some(Wait::Mbarrier { address, state, .. }) => {
            let about = crate::exec::mbarrier::describe(cta.hopper.mbarriers.get(&address));
            format!("waits for phase {state} of the mbarrier at {address:#x} ({about})")
        }
        Some(Wait::Warpgroup { .. }) => "waits for its warpgroup".into(),
        Some(Wait::GridDependency) => "waits for the grids before it".into(),
        Some(Wait::Registers { count }) => format!("waits for {count} registers"),
    }
}
