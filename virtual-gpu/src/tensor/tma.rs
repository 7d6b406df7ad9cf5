//! Tensor maps, and what a tensor copy in tiled mode moves (PTX ISA 5.5 and 9.7.9.27; driver API,
//! `cuTensorMapEncodeTiled`).
//!
//! The 128 bytes of a tensor map are opaque: NVIDIA's are not documented and these are our own, marked as such.
//! Interleaved layouts and the im2col modes are left out.

use super::descriptor::Swizzle;
use core::fmt;

/// Element type of a tensor map, with the driver's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataType {
    /// 8-bit unsigned.
    U8 = 0,
    /// 16-bit unsigned.
    U16 = 1,
    /// 32-bit unsigned.
    U32 = 2,
    /// 32-bit signed.
    I32 = 3,
    /// 64-bit unsigned.
    U64 = 4,
    /// 64-bit signed.
    I64 = 5,
    /// IEEE binary16.
    F16 = 6,
    /// IEEE binary32.
    F32 = 7,
    /// IEEE binary64.
    F64 = 8,
    /// bfloat16.
    Bf16 = 9,
    /// f32 whose subnormals are flushed on the way.
    F32Ftz = 10,
    /// tf32: f32 rounded on the way.
    Tf32 = 11,
    /// tf32 with subnormals flushed.
    Tf32Ftz = 12,
}

impl DataType {
    const ALL: [DataType; 13] = {
        use DataType::*;
        [U8, U16, U32, I32, U64, I64, F16, F32, F64, Bf16, F32Ftz, Tf32, Tf32Ftz]
    };
    /// The type with the driver's number.
    pub fn from_number(number: u32) -> Option<DataType> {
        DataType::ALL.get(number as usize).copied()
    }
    /// Size in bytes.
    pub fn bytes(self) -> usize {
        use DataType::*;
        match self {
            U8 => 1,
            U16 | F16 | Bf16 => 2,
            U64 | I64 | F64 => 8,
            _ => 4,
        }
    }
    /// Whether a NaN fill is allowed.
    pub fn is_float(self) -> bool {
        use DataType::*;
        matches!(self, F16 | F32 | F64 | Bf16 | F32Ftz | Tf32 | Tf32Ftz)
    }
}

/// What elements out of bounds read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Zero.
    Zero,
    /// The NaN of the type (`CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA`).
    Nan,
}

/// A tensor in global memory and the box that one copy moves. Dimension 0 is the innermost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element type.
    pub data_type: DataType,
    /// Global address of the first element.
    pub address: u64,
    /// Elements in each of 1 to 5 dimensions.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next in dimensions 1 and up (one fewer than `dims`).
    pub strides: Vec<u64>,
    /// Elements the box spans in each dimension.
    pub box_dims: Vec<u32>,
    /// Every how many-th element is taken in each dimension (that of dimension 0 is ignored).
    pub element_strides: Vec<u32>,
    /// Swizzle of the box in shared memory.
    pub swizzle: Swizzle,
    /// Fill of elements out of bounds.
    pub fill: Fill,
}

/// Why `cuTensorMapEncodeTiled` would refuse (`CUDA_ERROR_INVALID_VALUE`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapError(String);

impl fmt::Display for TensorMapError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "tensor map: {}", self.0)
    }
}

impl std::error::Error for TensorMapError {}

/// Begins our tensor maps, so that other bytes are not taken for one.
const MAGIC: [u8; 4] = *b"vTMA";

impl TensorMap {
    /// A dense map of `dims` and `box_dims` (innermost first) without swizzle.
    pub fn dense(data_type: DataType, address: u64, dims: &[u64], box_dims: &[u32]) -> TensorMap {
        let mut strides = Vec::new();
        let mut bytes = data_type.bytes() as u64;
        for dim in &dims[..dims.len().max(1) - 1] {
            bytes = bytes.saturating_mul(*dim);
            strides.push(bytes);
        }
        TensorMap {
            data_type,
            address,
            dims: dims.to_vec(),
            strides,
            box_dims: box_dims.to_vec(),
            element_strides: vec![1; dims.len()],
            swizzle: Swizzle::None,
            fill: Fill::Zero,
        }
    }

    /// The checks of `cuTensorMapEncodeTiled`.
    pub fn check(&self) -> Result<(), TensorMapError> {
        let refuse = |why: String| Err(TensorMapError(why));
        let rank = self.dims.len();
        if !(1..=5).contains(&rank) {
            return refuse(format!("rank {rank}, expected 1 to 5"));
        }
        for (name, len, expected) in [
            ("strides", self.strides.len(), rank - 1),
            ("box dimensions", self.box_dims.len(), rank),
            ("element strides", self.element_strides.len(), rank),
        ] {
            if len != expected {
                return refuse(format!("{len} {name}, expected {expected} for rank {rank}"));
            }
        }
        if !self.address.is_multiple_of(16) {
            return refuse(format!("address {:#x} is not a multiple of 16", self.address));
        }
        for (i, &dim) in self.dims.iter().enumerate() {
            if dim == 0 || dim > 1 << 32 {
                return refuse(format!("dimension {i} is {dim}, expected 1 to 2^32"));
            }
        }
        for (i, &stride) in self.strides.iter().enumerate() {
            if stride % 16 != 0 || stride >= 1 << 40 {
                return refuse(format!(
                    "stride {stride} of dimension {} is not a multiple of 16 below 2^40",
                    i + 1
                ));
            }
        }
        for (i, &size) in self.box_dims.iter().enumerate() {
            if size == 0 || size > 256 {
                return refuse(format!("box dimension {i} is {size}, expected 1 to 256"));
            }
        }
        for (i, &step) in self.element_strides.iter().enumerate() {
            if step == 0 || step > 8 {
                return refuse(format!("element stride {i} is {step}, expected 1 to 8"));
            }
        }
        let inner = self.inner_bytes();
        if !inner.is_multiple_of(16) {
            return refuse(format!("inner box of {inner} bytes is not a multiple of 16"));
        }
        if self.swizzle != Swizzle::None && inner > self.swizzle.span() as usize {
            return refuse(format!(
                "inner box of {inner} bytes exceeds the swizzle span {}",
                self.swizzle.span()
            ));
        }
        if self.fill == Fill::Nan && !self.data_type.is_float() {
            return refuse("a NaN fill needs a floating-point type".into());
        }
        Ok(())
    }

    /// The opaque 128 bytes, after [`TensorMap::check`].
    pub fn encode(&self) -> Result<[u8; 128], TensorMapError> {
        self.check()?;
        let mut out = [0; 128];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.data_type as u8;
        out[5] = self.dims.len() as u8;
        out[6] = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        out[7] = (self.fill == Fill::Nan) as u8;
        out[8..16].copy_from_slice(&self.address.to_le_bytes());
        for (i, &dim) in self.dims.iter().enumerate() {
            out[16 + 8 * i..][..8].copy_from_slice(&dim.to_le_bytes());
        }
        for (i, &stride) in self.strides.iter().enumerate() {
            out[56 + 8 * i..][..8].copy_from_slice(&stride.to_le_bytes());
        }
        for (i, &size) in self.box_dims.iter().enumerate() {
            out[88 + 2 * i..][..2].copy_from_slice(&(size as u16).to_le_bytes());
            out[98 + i] = self.element_strides[i] as u8;
        }
        Ok(out)
    }

    /// The map that 128 bytes encode, or `None` where they are none of ours.
    pub fn decode(bytes: &[u8; 128]) -> Option<TensorMap> {
        let rank = bytes[5] as usize;
        if bytes[..4] != MAGIC || !(1..=5).contains(&rank) {
            return None;
        }
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let map = TensorMap {
            data_type: DataType::from_number(bytes[4].into())?,
            address: long(8),
            dims: (0..rank).map(|i| long(16 + 8 * i)).collect(),
            strides: (0..rank - 1).map(|i| long(56 + 8 * i)).collect(),
            box_dims: (0..rank)
                .map(|i| u16::from_le_bytes([bytes[88 + 2 * i], bytes[89 + 2 * i]]).into())
                .collect(),
            element_strides: (0..rank).map(|i| bytes[98 + i].into()).collect(),
            swizzle: match bytes[6] {
                0 => Swizzle::None,
                1 => Swizzle::B32,
                2 => Swizzle::B64,
                3 => Swizzle::B128,
                _ => return None,
            },
            fill: if bytes[7] == 1 { Fill::Nan } else { Fill::Zero },
        };
        map.check().is_ok().then_some(map)
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// Elements that one copy takes in dimension `i`.
    pub fn taken(&self, i: usize) -> u32 {
        if i == 0 { self.box_dims[0] } else { self.box_dims[i].div_ceil(self.element_strides[i]) }
    }

    /// Bytes of one row of the box.
    pub fn inner_bytes(&self) -> usize {
        self.box_dims.first().map_or(0, |&size| size as usize * self.data_type.bytes())
    }

    /// Bytes of the whole box: what a copy adds to `complete_tx`, whether in bounds or not.
    pub fn box_bytes(&self) -> usize {
        (0..self.rank()).map(|i| self.taken(i) as usize).product::<usize>() * self.data_type.bytes()
    }

    /// The bytes that fill one element out of bounds (the first [`DataType::bytes`] of the 8).
    pub fn fill_bytes(&self) -> [u8; 8] {
        let bits: u64 = match (self.fill, self.data_type) {
            (Fill::Zero, _) => 0,
            (_, DataType::F16 | DataType::Bf16) => 0x7fff,
            (_, DataType::F64) => 0x7fff_ffff_ffff_ffff,
            _ => 0x7fff_ffff,
        };
        bits.to_le_bytes()
    }

    /// Calls `each` for every run of bytes of the box at `coordinates` (innermost first), in the order of shared
    /// memory. `shared` is the absolute shared address of the box; the runs are cut so that each is contiguous on both
    /// sides and wholly in or out of bounds.
    ///
    /// # Panics
    /// If there are fewer coordinates than dimensions.
    pub fn segments(&self, coordinates: &[i32], shared: u32, mut each: impl FnMut(Segment)) {
        let (rank, size) = (self.rank(), self.data_type.bytes());
        let row_bytes = self.inner_bytes();
        let rows: usize = (1..rank).map(|i| self.taken(i) as usize).product();
        // In bounds along dimension 0, in bytes of the row.
        let first = coordinates[0] as i64;
        let clip = |element: i64| element.clamp(0, self.box_dims[0] as i64) as usize * size;
        let (low, high) = (clip(-first), clip(self.dims[0] as i64 - first));
        let mut index = [0u32; 5];
        for row in 0..rows {
            let mut inside = low < high;
            let mut address = self.address as i64 + first * size as i64;
            for i in 1..rank {
                let at = coordinates[i] as i64 + (index[i] * self.element_strides[i]) as i64;
                inside &= at >= 0 && (at as u64) < self.dims[i];
                address = address.wrapping_add(at.wrapping_mul(self.strides[i - 1] as i64));
            }
            let cuts = if inside { [0, low, high, row_bytes] } else { [0, 0, 0, row_bytes] };
            for part in 0..3 {
                let (mut from, to) = (cuts[part], cuts[part + 1]);
                while from < to {
                    let plain = shared + (row * row_bytes + from) as u32;
                    // A swizzle keeps 16 bytes together.
                    let unit = if self.swizzle == Swizzle::None { to } else { from / 16 * 16 + 16 };
                    let length = unit.min(to) - from;
                    each(Segment {
                        global: (part == 1 && inside).then(|| address as u64 + from as u64),
                        shared: self.swizzle.apply(plain),
                        length: length as u32,
                    });
                    from += length;
                }
            }
            for i in 1..rank {
                index[i] += 1;
                if index[i] < self.taken(i) {
                    break;
                }
                index[i] = 0;
            }
        }
    }
}

/// A run of bytes of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Global address, or `None` out of bounds: a load fills it, a store skips it.
    pub global: Option<u64>,
    /// Absolute shared address, after the swizzle.
    pub shared: u32,
    /// Length in bytes.
    pub length: u32,
}
