//! Device memory. The number of an allocation stands in the high bits of its addresses, so that bounds are known to
//! the byte and no overflow of one buffer reaches another. Windows of the same numbering hold the other spaces.

mod bytes;
mod store;

pub use bytes::Bytes;
pub use store::Store;

/// Bits of an address below the allocation's number.
pub const OFFSET_BITS: u32 = 40;
pub const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
const FIRST_WINDOW: u64 = 0x7f_0000;
/// Generic address of the CTA's shared memory window.
pub const SHARED_WINDOW: u64 = FIRST_WINDOW << OFFSET_BITS;
/// Address of a thread's local memory.
pub const LOCAL_WINDOW: u64 = (FIRST_WINDOW + 1) << OFFSET_BITS;
/// Address of the kernel's parameters.
pub const PARAM_WINDOW: u64 = (FIRST_WINDOW + 2) << OFFSET_BITS;
/// Addresses of functions, which are no memory.
pub const FUNCTION_WINDOW: u64 = (FIRST_WINDOW + 3) << OFFSET_BITS;
/// Where a CTA's own shared memory begins: the first KiB belongs to the system, as on a chip.
pub const SHARED_BASE: u32 = 1024;
/// Bits of a shared address below the rank of another CTA in the cluster, plus one.
pub const RANK_SHIFT: u32 = 24;

/// One allocation of device memory.
pub struct Allocation {
    pub bytes: Store,
    pub address: u64,
    /// `.const` variables.
    pub read_only: bool,
    /// Variable's name, for reports.
    pub name: Option<String>,
    pub freed: bool,
    pub shadow: crate::races::GlobalShadow,
}

/// All device memory.
#[derive(Default)]
pub struct GlobalMemory {
    allocations: Vec<Allocation>,
    used: u64,
}

/// Why an address is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadAddress {
    /// No allocation has this number.
    Nowhere,
    Freed,
    /// Outside the allocation with this length.
    Outside(u64),
}

impl GlobalMemory {
    /// Allocates; the address is a multiple of 2^40, so every alignment holds.
    pub fn alloc(&mut self, len: u64, name: Option<String>, read_only: bool) -> u64 {
        let address = (self.allocations.len() as u64 + 1) << OFFSET_BITS;
        self.used += len;
        self.allocations.push(Allocation {
            bytes: Store::new(len as usize),
            address,
            read_only,
            name,
            freed: false,
            shadow: Default::default(),
        });
        address
    }

    pub fn used(&self) -> u64 {
        self.used
    }

    /// Frees the allocation that begins at `address`; false if there is none.
    pub fn free(&mut self, address: u64) -> bool {
        let index = (address >> OFFSET_BITS).wrapping_sub(1) as usize;
        match self.allocations.get_mut(index) {
            Some(a) if !a.freed && a.address == address => {
                a.freed = true;
                self.used -= a.bytes.len() as u64;
                a.bytes = Store::default();
                a.shadow = Default::default();
                true
            }
            _ => false,
        }
    }

    /// Forgets who read and wrote what, for the detector of races.
    pub fn forget_accesses(&mut self) {
        self.allocations.iter_mut().for_each(|a| a.shadow.clear());
    }

    #[inline(always)]
    pub fn allocation(&mut self, address: u64) -> Result<&mut Allocation, BadAddress> {
        let index = (address >> OFFSET_BITS).wrapping_sub(1) as usize;
        match self.allocations.get_mut(index) {
            Some(a) if !a.freed => Ok(a),
            Some(_) => Err(BadAddress::Freed),
            None => Err(BadAddress::Nowhere),
        }
    }

    /// Allocation and offset of a range, checked.
    pub fn range(&mut self, address: u64, len: u64) -> Result<(&mut Allocation, usize), BadAddress> {
        let offset = address & OFFSET_MASK;
        let a = self.allocation(address)?;
        let size = a.bytes.len() as u64;
        if offset > size || len > size - offset {
            return Err(BadAddress::Outside(size));
        }
        Ok((a, offset as usize))
    }

    /// Copies between or inside allocations, with definedness.
    pub fn copy(&mut self, to: u64, from: u64, len: u64) -> Result<(), BadAddress> {
        let (_, to_at) = self.range(to, len)?;
        let (_, from_at) = self.range(from, len)?;
        let (t, f) = (((to >> OFFSET_BITS) - 1) as usize, ((from >> OFFSET_BITS) - 1) as usize);
        match self.allocations.get_disjoint_mut([t, f]) {
            Ok([to, from]) => to.bytes.whole().copy_from(to_at, from.bytes.whole(), from_at, len as usize),
            Err(_) => self.allocations[t].bytes.whole().copy_within(from_at, to_at, len as usize),
        }
        Ok(())
    }

    /// Views of all memory for `count` workers, who see what is here now and their own writes; until
    /// [`GlobalMemory::join`] nothing else can be done with it.
    pub fn share(&mut self, count: usize) -> Vec<GlobalMemory> {
        let mut workers: Vec<GlobalMemory> = (0..count).map(|_| GlobalMemory::default()).collect();
        for a in &mut self.allocations {
            let views = a.bytes.share(count);
            for (worker, bytes) in workers.iter_mut().zip(views) {
                worker.allocations.push(Allocation {
                    bytes,
                    address: a.address,
                    read_only: a.read_only,
                    name: None,
                    freed: a.freed,
                    shadow: Default::default(),
                });
            }
        }
        workers
    }

    /// Ends the sharing. If no worker touched what another wrote, all that they wrote is here, and the answer is true;
    /// else nothing has changed.
    pub fn join(&mut self, workers: Vec<GlobalMemory>, wanted: bool) -> bool {
        let mut of: Vec<Vec<store::Touched>> = self.allocations.iter().map(|_| Vec::new()).collect();
        for worker in workers {
            for (a, touched) in worker.allocations.into_iter().zip(&mut of) {
                touched.push(a.bytes.end_view());
            }
        }
        let apart = wanted && of.iter().all(|touched| store::apart(touched));
        for (a, touched) in self.allocations.iter_mut().zip(of) {
            a.bytes.unshare();
            if apart {
                touched.iter().for_each(|t| t.write_to(a.bytes.whole()));
            }
        }
        apart
    }

    /// Description of an address for reports.
    pub fn describe(&self, address: u64) -> String {
        let offset = address & OFFSET_MASK;
        match self.allocations.get((address >> OFFSET_BITS).wrapping_sub(1) as usize) {
            _ if address >> OFFSET_BITS == 0 => format!("{address:#x} (near null)"),
            Some(a) => {
                let name = a.name.as_ref().map(|n| format!(" `{n}`")).unwrap_or_default();
                let freed = if a.freed { "freed " } else { "" };
                let number = address >> OFFSET_BITS;
                format!(
                    "{address:#x}: byte {offset} of {freed}allocation {number}{name} of {} bytes",
                    a.bytes.len()
                )
            }
            None if address & !OFFSET_MASK == FUNCTION_WINDOW => format!("{address:#x} (code)"),
            None => format!("{address:#x} (no allocation)"),
        }
    }
}
