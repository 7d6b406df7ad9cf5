//! What the virtual GPU found wrong.

pub use crate::decode::program::{Frame, Place};

/// Kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Access outside an allocation, shared, local or parameter memory.
    OutOfBounds,
    /// Address not a multiple of the access's size.
    Misaligned,
    /// Store to constant memory, access in the wrong state space, `ld.global.nc` of what the kernel writes.
    InvalidAccess,
    /// An undefined value decides a branch, an address, an operand of a barrier or what the host reads.
    Undefined,
    /// Two accesses to the same shared bytes that nothing orders, at least one a write.
    SharedRace,
    /// Two accesses to the same global bytes by different CTAs that nothing orders, at least one a write.
    GlobalRace,
    /// Shared memory reused while an asynchronous copy or wgmma still works on it, or read before it is done.
    AsyncHazard,
    /// A missing proxy fence between generic and asynchronous accesses.
    ProxyFence,
    /// Wrong use of a named barrier.
    Barrier,
    /// Wrong use of an mbarrier.
    Mbarrier,
    /// Wrong use of a cluster: access to a CTA that has exited, barrier misuse.
    Cluster,
    /// Wrong use of wgmma: missing fence, bad descriptor, registers touched while in flight.
    Wgmma,
    /// Lanes that take no part where they must, or exited lanes named in a member mask.
    WarpSync,
    /// Nothing can run and nothing is in flight.
    Deadlock,
    /// `trap` was executed.
    Trap,
    /// An `assert` in the kernel failed.
    Assert,
    /// The limit on instructions was reached.
    TimeLimit,
    /// setmaxnreg against its rules.
    SetMaxReg,
    /// Asynchronous work that nobody waited for when the CTA exited.
    Unfinished,
    /// Something the virtual GPU does not model, or a value PTX leaves undefined.
    Unsupported,
}

impl Kind {
    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::OutOfBounds => "out of bounds",
            Kind::Misaligned => "misaligned access",
            Kind::InvalidAccess => "invalid access",
            Kind::Undefined => "undefined value used",
            Kind::SharedRace => "race in shared memory",
            Kind::GlobalRace => "race in global memory",
            Kind::AsyncHazard => "asynchronous hazard",
            Kind::ProxyFence => "missing proxy fence",
            Kind::Barrier => "barrier misuse",
            Kind::Mbarrier => "mbarrier misuse",
            Kind::Cluster => "cluster misuse",
            Kind::Wgmma => "wgmma misuse",
            Kind::WarpSync => "warp synchronisation misuse",
            Kind::Deadlock => "deadlock",
            Kind::Trap => "trap",
            Kind::Assert => "assertion failed",
            Kind::TimeLimit => "instruction limit reached",
            Kind::SetMaxReg => "setmaxnreg misuse",
            Kind::Unfinished => "unfinished asynchronous work",
            Kind::Unsupported => "unsupported",
        }
    }
}

/// The other side of a race or hazard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// What it did: "write by warp 3 lane 5".
    pub what: String,
    /// Where; `None` where it is not known.
    pub place: Option<Place>,
}

/// One finding. Displays as a readable block.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is wrong.
    pub kind: Kind,
    /// Details, one sentence.
    pub message: String,
    /// Kernel; empty for a finding on the host's side.
    pub kernel: String,
    /// Instruction and its source lines.
    pub place: Place,
    /// CTA in the grid.
    pub cta: [u32; 3],
    /// Warp in the CTA.
    pub warp: Option<u32>,
    /// Lane in the warp.
    pub lane: Option<u32>,
    /// Address, in the numbering of its space.
    pub address: Option<u64>,
    /// The other party.
    pub other: Option<Party>,
    /// How often the same finding occurred at this instruction.
    pub count: u64,
    /// Whether it ended the launch.
    pub fatal: bool,
}

/// A function's name as its author wrote it, without its parameters; names that are not mangled stay as they are.
pub(crate) fn demangled(name: &str) -> String {
    let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
    let symbol = cpp_demangle::Symbol::new(name).ok();
    symbol.and_then(|symbol| symbol.demangle_with_options(&options).ok()).unwrap_or_else(|| name.to_string())
}

fn write_place(f: &mut std::fmt::Formatter<'_>, place: &Place, indent: &str) -> std::fmt::Result {
    write!(f, "{indent}at {}", place.opcode)?;
    match place.frames.first() {
        Some(frame) => write!(f, ", {}:{}", frame.file, frame.line)?,
        None => write!(f, ", PTX line {}", place.ptx_line)?,
    }
    for (i, frame) in place.frames.iter().enumerate() {
        if let Some(outer) = place.frames.get(i + 1) {
            write!(f, "\n{indent}   {} inlined at {}:{}", frame.function, outer.file, outer.line)?;
        }
    }
    writeln!(f)
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.kind.name(), self.message)?;
        if !self.kernel.is_empty() {
            let [x, y, z] = self.cta;
            write!(f, "  in {}, CTA ({x}, {y}, {z})", demangled(&self.kernel))?;
            if let Some(warp) = self.warp {
                write!(f, ", warp {warp}")?;
            }
            if let Some(lane) = self.lane {
                write!(f, ", lane {lane}")?;
            }
            writeln!(f)?;
            write_place(f, &self.place, "  ")?;
        }
        if let Some(other) = &self.other {
            writeln!(f, "  against {}", other.what)?;
            if let Some(place) = &other.place {
                write_place(f, place, "    ")?;
            }
        }
        if self.count > 1 {
            writeln!(f, "  seen {} times", self.count)?;
        }
        Ok(())
    }
}

/// All findings so far, one for each kind and instruction.
#[derive(Default)]
pub struct Findings {
    /// In the order in which they were found.
    pub list: Vec<Finding>,
}

impl Findings {
    /// Adds a finding, or counts it with the first of its kind at the same source line.
    pub fn add(&mut self, finding: Finding) {
        // Copies of an unrolled line are one place.
        let same_place = |a: &Place, b: &Place| {
            a.opcode == b.opcode
                && if a.frames.is_empty() { a.ptx_line == b.ptx_line } else { a.frames == b.frames }
        };
        let same = self.list.iter_mut().find(|f| {
            f.kind == finding.kind
                && f.kernel == finding.kernel
                && same_place(&f.place, &finding.place)
                && (!finding.kernel.is_empty() || f.message == finding.message)
        });
        match same {
            Some(f) => {
                f.count += 1;
                f.fatal |= finding.fatal;
            }
            None => self.list.push(finding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::demangled;

    #[test]
    fn names_are_shown_as_written() {
        for (mangled, shown) in [
            ("_Z8row_sumsILi1EEvPKfPfi", "row_sums<1>"),
            ("_ZN3ptx10bulk_storeEPvPKvj", "ptx::bulk_store"),
            ("plain_kernel", "plain_kernel"),
            ("_Znonsense", "_Znonsense"),
            ("", ""),
        ] {
            assert_eq!(demangled(mangled), shown);
        }
    }
}
