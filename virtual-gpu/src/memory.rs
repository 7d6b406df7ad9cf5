//! Device memory. The number of an allocation stands in the high bits of its addresses, so that bounds are known to
//! the byte and no overflow of one buffer reaches another. Windows of the same numbering hold the other spaces.

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
/// Where a CTA's own shared memory begins: the first KiB belongs to the system, as on a chip.
pub const SHARED_BASE: u32 = 1024;
/// Bits of a shared address below the rank of another CTA in the cluster, plus one.
pub const RANK_SHIFT: u32 = 24;

/// Bytes with one bit each that says whether the byte has been written.
#[derive(Default)]
pub struct Bytes {
    pub data: Vec<u8>,
    defined: Vec<u8>,
}

impl Bytes {
    /// `len` undefined bytes; pages are not touched until used.
    pub fn new(len: usize) -> Self {
        // 16 bytes more, so that a mask of 128 bits can be read at every byte.
        Self { data: vec![0; len], defined: vec![0; len / 8 + 17] }
    }

    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// An element of 1, 2, 4 or 8 bytes.
    #[inline(always)]
    pub fn get(&self, at: usize, bytes: u32) -> u64 {
        let data = &self.data[at..];
        match bytes {
            1 => u64::from(data[0]),
            2 => u64::from(u16::from_le_bytes(*data.first_chunk().expect("in bounds"))),
            4 => u64::from(u32::from_le_bytes(*data.first_chunk().expect("in bounds"))),
            _ => u64::from_le_bytes(*data.first_chunk().expect("in bounds")),
        }
    }

    #[inline(always)]
    pub fn put(&mut self, at: usize, bytes: u32, value: u64) {
        let data = &mut self.data[at..];
        match bytes {
            1 => data[0] = value as u8,
            2 => data[..2].copy_from_slice(&(value as u16).to_le_bytes()),
            4 => data[..4].copy_from_slice(&(value as u32).to_le_bytes()),
            _ => data[..8].copy_from_slice(&value.to_le_bytes()),
        }
    }

    /// Whether all of `size` bytes (at most 32) at `at` are defined.
    #[inline(always)]
    pub fn is_defined(&self, at: usize, size: u32) -> bool {
        let bits = u64::from_le_bytes(*self.defined[at / 8..].first_chunk().expect("slack at the end"));
        let mask = ((1u64 << size) - 1) << (at % 8);
        bits & mask == mask
    }

    #[inline(always)]
    pub fn set_defined(&mut self, at: usize, size: u32, defined: bool) {
        let place: &mut [u8; 8] = self.defined[at / 8..].first_chunk_mut().expect("slack at the end");
        let mask = ((1u64 << size) - 1) << (at % 8);
        let bits = u64::from_le_bytes(*place);
        let bits = if defined { bits | mask } else { bits & !mask };
        *place = bits.to_le_bytes();
    }

    /// A bit for each of the `size` bytes (at most 32): set where undefined.
    pub fn undefined_bits(&self, at: usize, size: u32) -> u32 {
        let bits = u64::from_le_bytes(*self.defined[at / 8..].first_chunk().expect("slack at the end"));
        (!(bits >> (at % 8)) & ((1u64 << size) - 1)) as u32
    }

    /// Whether every byte of a range of at least one is defined.
    #[inline(always)]
    pub fn all_defined(&self, at: usize, len: usize) -> bool {
        let end = at + len - 1;
        let (head, tail) = (0xff << (at % 8) as u32, 0xffu8 >> (7 - end % 8));
        let bits = &self.defined[at / 8..=end / 8];
        match bits {
            [one] => !one & head & tail == 0,
            [first, middle @ .., last] => {
                (!first & head) | (!last & tail) | middle.iter().fold(0, |m, b| m | !b) == 0
            }
            [] => true,
        }
    }

    /// First undefined byte of a range.
    pub fn first_undefined(&self, at: usize, len: usize) -> Option<usize> {
        let mut i = at;
        while i < at + len {
            if i.is_multiple_of(8) && at + len - i >= 8 {
                if self.defined[i / 8] != 0xff {
                    return (i..i + 8).find(|&j| self.defined[j / 8] >> (j % 8) & 1 == 0);
                }
                i += 8;
            } else {
                if self.defined[i / 8] >> (i % 8) & 1 == 0 {
                    return Some(i);
                }
                i += 1;
            }
        }
        None
    }

    pub fn define_range(&mut self, at: usize, len: usize, defined: bool) {
        let mut i = at;
        while i < at + len {
            if i.is_multiple_of(8) && at + len - i >= 8 {
                let whole = (at + len - i) / 8;
                self.defined[i / 8..i / 8 + whole].fill(if defined { 0xff } else { 0 });
                i += 8 * whole;
            } else {
                let bit = 1 << (i % 8);
                let byte = &mut self.defined[i / 8];
                *byte = if defined { *byte | bit } else { *byte & !bit };
                i += 1;
            }
        }
    }

    pub fn fill(&mut self, at: usize, len: usize, value: u8) {
        self.data[at..at + len].fill(value);
        self.define_range(at, len, true);
    }

    pub fn write(&mut self, at: usize, data: &[u8]) {
        self.data[at..at + data.len()].copy_from_slice(data);
        self.define_range(at, data.len(), true);
    }

    /// Copies bytes with their definedness.
    pub fn copy_from(&mut self, at: usize, from: &Bytes, from_at: usize, len: usize) {
        self.data[at..at + len].copy_from_slice(&from.data[from_at..from_at + len]);
        if len > 0 && from.all_defined(from_at, len) {
            return self.define_range(at, len, true);
        }
        self.copy_defined(at, |i| from.defined[(from_at + i) / 8] >> ((from_at + i) % 8) & 1 != 0, len);
    }

    fn copy_defined(&mut self, at: usize, defined: impl Fn(usize) -> bool, len: usize) {
        for i in 0..len {
            let (byte, bit) = ((at + i) / 8, 1 << ((at + i) % 8));
            if defined(i) {
                self.defined[byte] |= bit;
            } else {
                self.defined[byte] &= !bit;
            }
        }
    }

    /// Copies inside the same bytes; the ranges may overlap.
    pub fn copy_within(&mut self, from: usize, to: usize, len: usize) {
        let flags: Vec<bool> =
            (0..len).map(|i| self.defined[(from + i) / 8] >> ((from + i) % 8) & 1 != 0).collect();
        self.data.copy_within(from..from + len, to);
        self.copy_defined(to, |i| flags[i], len);
    }
}

/// One allocation of device memory.
pub struct Allocation {
    pub bytes: Bytes,
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
            bytes: Bytes::new(len as usize),
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
                a.bytes = Bytes::default();
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
            Ok([to, from]) => to.bytes.copy_from(to_at, &from.bytes, from_at, len as usize),
            Err(_) => self.allocations[t].bytes.copy_within(from_at, to_at, len as usize),
        }
        Ok(())
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
            None => format!("{address:#x} (no allocation)"),
        }
    }
}
