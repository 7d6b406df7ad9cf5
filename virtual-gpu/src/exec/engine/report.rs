//! Findings about launches that cannot end.

use super::Engine;
use crate::decode::program::Place;
use crate::exec::cta::Cta;
use crate::exec::warp::Wait;
use crate::findings::{Finding, Findings, Kind, Party};

impl Engine {
    pub(super) fn report_deadlock(&mut self, findings: &mut Findings) {
        let mut waiting: Vec<String> = Vec::new();
        let mut first: Option<(usize, u32, u32, u32)> = None;
        for (n, cta) in self.ctas.iter().enumerate().filter(|(_, c)| c.resident && !c.exited) {
            let program = &self.grids[cta.grid].program;
            for warp in &cta.warps {
                for split in &warp.splits {
                    let place = program.place(split.pc);
                    first.get_or_insert((n, warp.index, split.pc, split.mask));
                    if waiting.len() < 40 {
                        let line = match place.frames.first() {
                            Some(f) => format!("{}:{}", f.file, f.line),
                            None => format!("PTX line {}", place.ptx_line),
                        };
                        waiting.push(format!(
                            "\n    CTA {:?} warp {} lanes {:#010x} {} at {} ({line})",
                            cta.id,
                            warp.index,
                            split.mask,
                            describe_wait(cta, split.wait),
                            place.opcode
                        ));
                    }
                }
            }
        }
        let Some((n, warp, pc, mask)) = first else { return };
        let cta = &self.ctas[n];
        let program = &self.grids[cta.grid].program;
        findings.add(Finding {
            kind: Kind::Deadlock,
            message: format!("nothing can run and nothing is in flight; waiting:{}", waiting.concat()),
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
            message,
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
