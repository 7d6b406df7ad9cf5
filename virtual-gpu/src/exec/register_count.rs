//! `setmaxnreg`: the registers of a CTA's warps, and what the rules say of changing them.

use super::warp::{Wait, Warp};
use super::{At, Context, Flow};
use crate::findings::{Kind, Party};

/// How the registers of a CTA are shared out.
#[derive(Default)]
pub struct RegisterCounts {
    /// Registers that no warp holds.
    pub free: i64,
    /// For each warpgroup the setmaxnreg that its warps execute, in the order of the first of them.
    executed: Vec<Vec<u32>>,
}

pub fn set(ctx: &mut Context<'_>, warp: &mut Warp, pc: u32, count: u32, increase: bool) -> Flow {
    let at = At { pc, warp: warp.index, lane: None, address: None };
    if !(24..=256).contains(&count) || !count.is_multiple_of(8) {
        let message = format!("{count} registers; 24 to 256 in steps of 8 are allowed");
        ctx.report(Kind::SetMaxReg, true, at, message, None);
        return Flow::Stop;
    }
    if ctx.program.max_registers.is_none() && ctx.program.max_threads.is_none() {
        let message =
            "setmaxnreg in a kernel without .maxnreg or .maxntid is ignored by the assembler".to_string();
        ctx.report(Kind::SetMaxReg, false, at, message, None);
        return Flow::Next;
    }
    // So few threads that the assembler may have given any number, if nobody told: the first change cannot be checked.
    let unknown =
        warp.max_registers >= 255 && warp.register_changes == 0 && ctx.grid.known_registers.is_none();
    // Warps have them in steps of 8.
    let now = warp.max_registers.next_multiple_of(8);
    let wrong = if increase { count < now && !unknown } else { count > now };
    if wrong {
        let what = if increase { "inc" } else { "dec" };
        let message = format!("setmaxnreg.{what} from {now} to {count} registers");
        ctx.report(Kind::SetMaxReg, true, at, message, None);
        return Flow::Stop;
    }
    let change = (i64::from(count) - i64::from(now)) * 32;
    let free = &mut ctx.own().hopper.registers.free;
    if change > *free {
        return Flow::Park { wait: Wait::Registers { count: change as u32 }, pass: false };
    }
    *free -= change;
    warp.max_registers = count;
    uniform(ctx, warp, at);
    warp.register_changes += 1;
    *ctx.progress += 1;
    Flow::Next
}

/// Compares a warp's setmaxnreg with the other warps' of its warpgroup: all must execute the same.
fn uniform(ctx: &mut Context<'_>, warp: &Warp, at: At) {
    let (group, number) = ((warp.index / 4) as usize, warp.register_changes as usize);
    let executed = &mut ctx.own().hopper.registers.executed;
    if executed.len() <= group {
        executed.resize_with(group + 1, Vec::new);
    }
    match executed[group].get(number).copied() {
        None => executed[group].push(at.pc),
        Some(pc) if pc != at.pc => {
            let message = "the warps of a warpgroup execute different setmaxnreg".to_string();
            let other = Party { what: "another warp of it".into(), place: Some(ctx.place(pc)) };
            ctx.report(Kind::SetMaxReg, false, at, message, Some(other));
        }
        Some(_) => {}
    }
}

/// At a CTA's end: warps that left out what others of their warpgroup executed.
pub fn check_at_exit(ctx: &mut Context<'_>, last: &Warp) {
    for group in 0..ctx.own().hopper.registers.executed.len() {
        let warps = ctx.own().warps.iter().enumerate().skip(4 * group).take(4);
        // The last warp is not in its place here.
        let counts = warps.map(|(index, warp)| {
            let warp = if index == last.index as usize { last } else { warp };
            (index as u32, warp.register_changes as usize)
        });
        let counts: Vec<_> = counts.collect();
        let executed = ctx.own().hopper.registers.executed[group].clone();
        if let Some(&(index, number)) = counts.iter().find(|(_, number)| *number < executed.len()) {
            let at = At { pc: executed[number], warp: index, lane: None, address: None };
            let message = format!("warp {index} does not execute setmaxnreg, others of its warpgroup do");
            ctx.report(Kind::SetMaxReg, false, at, message, None);
        }
    }
}
