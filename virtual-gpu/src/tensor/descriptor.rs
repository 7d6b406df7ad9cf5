//! The shared-memory matrix descriptor of `wgmma` (PTX ISA 9.7.15.5.1) and the address of every element.
//!
//! Memory is seen in units of 16 bytes. With `S` the swizzle span in bytes, element (`row`, byte `b` of its K extent)
//! of a K-major operand stands at
//!
//! * no swizzle: `(row / 8) SBO + (row mod 8) 16 + (b / 16) LBO + b mod 16`;
//! * swizzled: `(row / 8) SBO + (row mod 8) S + b`.
//!
//! A MN-major operand (16-bit types only) has rows along the unit; row unit `u = row / 8`, index `k`:
//!
//! * no swizzle: `u SBO + (k / 8) LBO + (k mod 8) 16`;
//! * swizzled: `(u mod S/16) 16 + (u / (S/16)) LBO + (k / 8) SBO + (k mod 8) S`.
//!
//! The start address is added, and address bits 4 to 6 are exclusive-ored with bits 7 to 9 of the absolute address
//! (two bits with S = 64, one with S = 32), less the descriptor's base offset.

/// Which dimension of an operand is contiguous in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Major {
    /// K is contiguous (the default, `imm-trans` = 0).
    K,
    /// M of A, or N of B, is contiguous (`imm-trans` = 1).
    Mn,
}

/// A swizzle mode of `wgmma` and of tensor copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// None.
    None,
    /// Units of 16 bytes permuted within 32 bytes.
    B32,
    /// Within 64 bytes.
    B64,
    /// Within 128 bytes.
    B128,
}

impl Swizzle {
    /// The span in bytes; 16, one unit, without swizzle.
    pub fn span(self) -> u32 {
        match self {
            Swizzle::None => 16,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }
    /// Applies the swizzle to an absolute shared address.
    #[inline]
    pub fn apply(self, address: u32) -> u32 {
        self.apply_from(address, 0)
    }
    /// Applies it with the pattern starting `base_offset` rows of 128 bytes later.
    #[inline]
    fn apply_from(self, address: u32, base_offset: u32) -> u32 {
        let row = (address >> 7).wrapping_sub(base_offset);
        address ^ (row & (self.span() / 16 - 1)) << 4
    }
}

/// A decoded matrix descriptor. Addresses and offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Start address (18 bits, a multiple of 16).
    pub start: u32,
    /// Leading-dimension byte offset, LBO.
    pub leading: u32,
    /// Stride-dimension byte offset, SBO.
    pub stride: u32,
    /// Base offset, 0 to 7.
    pub base_offset: u32,
    /// Swizzle mode.
    pub swizzle: Swizzle,
}

/// 16 contiguous bytes of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Absolute shared address.
    pub address: u32,
    /// The row (of A, or column of B) of the first element.
    pub row: usize,
    /// The k of the first element. The following elements go along k (K-major) or along the rows (MN-major).
    pub k: usize,
}

impl Descriptor {
    /// Takes a 64-bit descriptor apart.
    pub fn decode(bits: u64) -> Descriptor {
        let field = |low: u32| ((bits >> low & 0x3fff) as u32) << 4;
        Descriptor {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle: match bits >> 62 {
                0 => Swizzle::None,
                1 => Swizzle::B128,
                2 => Swizzle::B64,
                _ => Swizzle::B32,
            },
        }
    }

    /// The 64-bit descriptor.
    pub fn encode(&self) -> u64 {
        let field = |value: u32, low: u32| (value as u64 >> 4 & 0x3fff) << low;
        let swizzle = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3u64,
        };
        field(self.start, 0)
            | field(self.leading, 16)
            | field(self.stride, 32)
            | (self.base_offset as u64 & 7) << 49
            | swizzle << 62
    }

    /// The absolute shared address of an element of `element_bytes` at (`row`, `k`).
    #[inline]
    pub fn address(&self, row: usize, k: usize, element_bytes: usize, major: Major) -> u32 {
        let (row, k, size) = (row as u32, k as u32, element_bytes as u32);
        let span = self.swizzle.span();
        let plain = match (major, self.swizzle) {
            (Major::K, Swizzle::None) => {
                let byte = k * size;
                row / 8 * self.stride + row % 8 * 16 + byte / 16 * self.leading + byte % 16
            }
            (Major::K, _) => row / 8 * self.stride + row % 8 * span + k * size,
            (Major::Mn, Swizzle::None) => {
                let byte = row * size;
                byte / 16 * self.stride + byte % 16 + k / 8 * self.leading + k % 8 * 16
            }
            (Major::Mn, _) => {
                let byte = row * size;
                byte / span * self.leading + byte % span + k / 8 * self.stride + k % 8 * span
            }
        };
        // Shared addresses have 18 bits in a descriptor's arithmetic.
        self.swizzle.apply_from((self.start + plain) & 0x3_ffff, self.base_offset)
    }

    /// The operand of `rows` by `k` elements as runs of 16 contiguous bytes.
    pub fn chunks(
        &self,
        rows: usize,
        k: usize,
        element_bytes: usize,
        major: Major,
    ) -> impl Iterator<Item = Chunk> + use<> {
        let this = *self;
        let per = 16 / element_bytes;
        let (outer, inner) = if major == Major::K { (rows, k) } else { (k, rows) };
        (0..outer).flat_map(move |o| {
            (0..inner).step_by(per).map(move |i| {
                let (row, k) = if major == Major::K { (o, i) } else { (i, o) };
                Chunk { address: this.address(row, k, element_bytes, major), row, k }
            })
        })
    }
}
