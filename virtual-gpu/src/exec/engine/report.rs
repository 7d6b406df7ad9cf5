//! Findings about launches that cannot end.

use super::Engine;
use crate::decode::program::Place;
use crate::exec::cta::Cta;
use crate::exec::warp::Wait;
use crate::findings::{Finding, Findings, Kind, Party};
use std::collections::HashMap;

/// The warps of a CTA that stand at one place.
struct Standing {
    /// Of the resident CTA.
    number: usize,
    id: [u32; 3],
    linear: u64,
    /// Warps, and their lanes where these are not all.
    warps: Vec<(u32, Option<u32>)>,
}

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

    /// A line for each place that lanes wait at or stand at, with all of them.
    fn list_warps(&self) -> String {
        let mut places: Vec<(String, Vec<Standing>)> = Vec::new();
        let mut found: HashMap<String, usize> = HashMap::new();
        for (number, cta) in self.ctas.iter().enumerate().filter(|(_, c)| c.resident && !c.exited) {
            let grid = &self.grids[cta.grid];
            for (warp, split) in cta.warps.iter().flat_map(|w| w.splits.iter().map(move |s| (w, s))) {
                let place = grid.program.place(split.pc);
                let line = match place.frames.first() {
                    Some(f) => format!("{}:{}", f.file, f.line),
                    None => format!("PTX line {}", place.ptx_line),
                };
                let wait = describe_wait(cta, split.wait);
                let kernel = match self.grids.len() {
                    1 => String::new(),
                    _ => format!(" in {}", crate::findings::demangled(&grid.program.name)),
                };
                let what = format!("{wait} at {} ({line}){kernel}", place.opcode);
                let at = *found.entry(what).or_insert_with_key(|what| {
                    places.push((what.clone(), Vec::new()));
                    places.len() - 1
                });
                let all = &mut places[at].1;
                if all.last().is_none_or(|s| s.number != number) {
                    all.push(Standing { number, id: cta.id, linear: cta.linear, warps: Vec::new() });
                }
                let partial = (split.mask != warp.existing).then_some(split.mask);
                if let Some(standing) = all.last_mut() {
                    standing.warps.push((warp.index, partial));
                }
            }
        }
        places.iter().map(|(what, all)| format!("\n    {what}: {}", standings(all))).collect()
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

/// All of them: neighbouring CTAs whose same warps stand there as ranges.
fn standings(all: &[Standing]) -> String {
    let mut sorted: Vec<&Standing> = all.iter().collect();
    sorted.sort_by_key(|s| s.linear);
    let mut parts: Vec<String> = Vec::new();
    let mut rest = sorted.as_slice();
    while let [first, ..] = rest {
        let follows =
            |pair: &[&Standing]| pair[1].linear == pair[0].linear + 1 && pair[1].warps == first.warps;
        let count = 1 + rest.windows(2).take_while(|pair| follows(pair)).count();
        let ([x, y, z], [x_last, y_last, z_last]) = (first.id, rest[count - 1].id);
        let ctas = match count {
            1 => format!("CTA ({x}, {y}, {z})"),
            _ => format!("{count} CTAs, ({x}, {y}, {z}) to ({x_last}, {y_last}, {z_last})"),
        };
        parts.push(format!("{ctas}: {}", warps(&first.warps)));
        rest = &rest[count..];
    }
    parts.join("; ")
}

/// `warps 0-3, 5, 6 lanes 0x0000ffff`
fn warps(all: &[(u32, Option<u32>)]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = all;
    while let [(first, lanes), ..] = rest {
        let follows = |(i, warp): &(usize, &(u32, Option<u32>))| **warp == (first + *i as u32, None);
        let count = match lanes {
            Some(_) => 1,
            None => rest.iter().enumerate().take_while(follows).count(),
        };
        parts.push(match (lanes, count) {
            (Some(lanes), _) => format!("{first} lanes {lanes:#010x}"),
            (None, 1) => first.to_string(),
            (None, _) => format!("{first}-{}", first + count as u32 - 1),
        });
        rest = &rest[count..];
    }
    format!("{} {}", if all.len() == 1 { "warp" } else { "warps" }, parts.join(", "))
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
