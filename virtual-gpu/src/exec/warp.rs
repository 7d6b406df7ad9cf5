//! A warp: registers, and its divergence as a list of splits.

use super::asynchronous::CopyGroups;
use crate::memory::Bytes;
use crate::registers::Registers;

/// What a parked split waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For other lanes of the warp to come to the same instruction.
    Members { members: u32 },
    /// For a named barrier's current phase to end.
    Barrier { id: u32, phase: u64 },
    /// For the cluster barrier's phase.
    Cluster { phase: u64 },
    /// For an mbarrier in the CTA's shared memory: number of the phase that must be over.
    Mbarrier { cta: usize, address: u32, parity: bool, state: u64 },
    /// For the whole warpgroup to come to the same instruction.
    Warpgroup { pc: u32 },
    /// For the grids before this one.
    GridDependency,
    /// For registers freed by another warpgroup.
    Registers { count: u32 },
}

/// A function call's return information.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub return_pc: u32,
    /// Instruction of the call.
    pub call: u32,
    /// Which of the functions that an indirect call may find.
    pub callee: usize,
    /// The caller's frame base.
    pub base: u32,
    /// Saved registers of a recursive callee.
    pub saved: Option<Box<Saved>>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct Saved {
    pub lanes: Vec<[u32; 32]>,
    pub poison: Vec<u32>,
    pub preds: Vec<(u32, u32)>,
}

/// Lanes at the same instruction.
#[derive(Clone, Debug)]
pub struct Split {
    pub pc: u32,
    pub mask: u32,
    pub wait: Option<Wait>,
    /// Whether the instruction at `pc` is executed for the second time, after its wait.
    pub resumed: bool,
    /// Frame base of local memory.
    pub base: u32,
    /// End of the current function's frame.
    pub top: u32,
    pub frames: Vec<Frame>,
}

/// Per-thread local memory of a warp, thread after thread.
#[derive(Default)]
pub struct Local {
    pub bytes: Bytes,
    /// Bytes a thread.
    pub stride: usize,
}

impl Local {
    /// Makes room for `stride` bytes a thread.
    pub fn grow(&mut self, stride: usize) {
        if stride <= self.stride {
            return;
        }
        let stride = stride.next_multiple_of(16).max(self.stride * 2);
        let mut bytes = Bytes::new(stride * 32);
        for lane in 0..32 {
            bytes.copy_from(lane * stride, &self.bytes, lane * self.stride, self.stride);
        }
        *self = Self { bytes, stride };
    }
}

/// A warp of a CTA.
#[derive(Default)]
pub struct Warp {
    pub index: u32,
    pub registers: Registers,
    pub splits: Vec<Split>,
    /// Lanes that exist and have not exited.
    pub live: u32,
    /// Lanes that exist.
    pub existing: u32,
    pub local: Local,
    pub copies: CopyGroups,
    pub bulk: super::bulk_groups::BulkGroups,
    pub wgmma: super::wgmma_registers::WgmmaState,
    /// What the last fence of cluster scope or wider covers.
    pub fenced: crate::races::Sync,
    /// Phase of the cluster barrier that the warp arrived in last.
    pub cluster_phase: Option<u64>,
    /// The last instruction, for reports at the end.
    pub last_pc: u32,
    /// Which split ran last, for rotation.
    pub last: usize,
    /// Round number of warp-level synchronisation, for races between lanes.
    pub sync_round: u32,
    pub max_registers: u32,
    /// setmaxnreg executed so far.
    pub register_changes: u32,
}

impl Warp {
    pub fn finished(&self) -> bool {
        self.splits.is_empty()
    }

    /// Merges splits that stand at the same instruction of the same calls, and wakes those whose members are together.
    pub fn merge(&mut self) {
        let mut i = 0;
        while i < self.splits.len() {
            let mut j = i + 1;
            while j < self.splits.len() {
                let (a, b) = (&self.splits[i], &self.splits[j]);
                let mergeable = |s: &Split| matches!(s.wait, None | Some(Wait::Members { .. })) && !s.resumed;
                if a.pc == b.pc && mergeable(a) && mergeable(b) && a.base == b.base && a.frames == b.frames {
                    let other = self.splits.swap_remove(j);
                    let to = &mut self.splits[i];
                    to.mask |= other.mask;
                    to.top = to.top.max(other.top);
                    to.wait = None;
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }
}
