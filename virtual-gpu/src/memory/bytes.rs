//! Bytes of which each is defined or not.

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
        if at.is_multiple_of(8) && from_at.is_multiple_of(8) {
            let whole = len / 8;
            self.defined[at / 8..][..whole].copy_from_slice(&from.defined[from_at / 8..][..whole]);
            let (at, from_at) = (at + 8 * whole, from_at + 8 * whole);
            return self.copy_defined(at, |i| from.is_defined(from_at + i, 1), len % 8);
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

    /// Takes from `from` the bytes (data and definedness) whose bits in `mask` are set: 64 of them at `from_at`, which go
    /// to `at`; both are multiples of 8.
    pub fn take_masked(&mut self, at: usize, from: &Bytes, from_at: usize, mask: u64) {
        for (byte, bits) in mask.to_le_bytes().into_iter().enumerate().filter(|(_, bits)| *bits != 0) {
            let (to, from_at) = (at + 8 * byte, from_at + 8 * byte);
            if bits == 0xff {
                self.data[to..to + 8].copy_from_slice(&from.data[from_at..from_at + 8]);
            } else {
                for i in (0..8).filter(|i| bits >> i & 1 != 0) {
                    self.data[to + i] = from.data[from_at + i];
                }
            }
            let defined = &mut self.defined[to / 8];
            *defined = *defined & !bits | from.defined[from_at / 8] & bits;
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
