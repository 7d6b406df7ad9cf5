//! Launchers of the Hopper set, `kernels/sm90a/`: what they share, tiles and tensor maps.
//! What each may use, and why: budget.rs.

pub(super) mod attention;
pub(super) mod gemm;
pub(super) mod lm_head;
pub(super) mod moe_gemm;
mod pick;

use super::Kernels;
use super::rows::narrow;
use crate::device::{LaunchConfig, TensorMap, TensorMapSpec};
use crate::error::Result;
use crate::tensor::TensorView;

/// Elements of K in a stage, and columns of a panel on the way out: 128 bytes.
const BLOCK_K: usize = 64;
/// Bytes of a 128-byte row of a swizzled tile.
const ROW_BYTES: u32 = 128;

/// How a Hopper matrix product is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WgmmaTile {
    /// 256x256 outputs for a cluster of two CTAs that share columns: for large K.
    T256x256,
    /// 128x128, two in turn on a CTA: for small K.
    T128x128,
    /// 128x128 on each of two CTAs that share columns.
    T256x128,
    /// 128x192: for outputs of about as many tiles as there are SMs.
    T128x192,
    /// 64x128: experts with few rows, or a vocabulary. `gemm` is not compiled for it.
    T64x128,
    /// 64x64, K in as many parts (1, 2, 4 or 8), a CTA of a cluster each.
    Split(u32),
    /// 128x128 in 2 or 4 parts: more rows, but too few tiles for all SMs. `gemm` only, as the next.
    Split128x128(u32),
    /// 128x192 in 4 parts.
    Split128x192(u32),
}

impl WgmmaTile {
    /// The tiles that `gemm` and `mlp` are compiled for.
    pub const GEMM: [WgmmaTile; 11] = [
        WgmmaTile::T256x256,
        WgmmaTile::T128x192,
        WgmmaTile::T256x128,
        WgmmaTile::T128x128,
        WgmmaTile::Split(1),
        WgmmaTile::Split(2),
        WgmmaTile::Split(4),
        WgmmaTile::Split(8),
        WgmmaTile::Split128x128(2),
        WgmmaTile::Split128x128(4),
        WgmmaTile::Split128x192(4),
    ];
    /// The tiles that `moe_gemm` is compiled for.
    pub const MOE: [WgmmaTile; 8] = [
        WgmmaTile::T256x256,
        WgmmaTile::T256x128,
        WgmmaTile::T128x128,
        WgmmaTile::T64x128,
        WgmmaTile::Split(1),
        WgmmaTile::Split(2),
        WgmmaTile::Split(4),
        WgmmaTile::Split(8),
    ];
    /// The tiles that `lm_head` is compiled for. The first takes all rows of x; the others may gather.
    pub const LM_HEAD: [WgmmaTile; 3] = [WgmmaTile::T256x128, WgmmaTile::T128x128, WgmmaTile::T64x128];

    /// Rows and columns of the output that a CTA, or a cluster of two, takes at a time.
    pub const fn shape(self) -> (usize, usize) {
        match self {
            WgmmaTile::T256x256 => (256, 256),
            WgmmaTile::T256x128 => (256, 128),
            WgmmaTile::T128x128 | WgmmaTile::Split128x128(_) => (128, 128),
            WgmmaTile::T128x192 | WgmmaTile::Split128x192(_) => (128, 192),
            WgmmaTile::T64x128 => (64, 128),
            WgmmaTile::Split(_) => (64, 64),
        }
    }

    /// Parts of K, a CTA of a cluster each.
    pub const fn parts(self) -> usize {
        match self {
            WgmmaTile::Split(parts) | WgmmaTile::Split128x128(parts) | WgmmaTile::Split128x192(parts) => {
                parts as usize
            }
            _ => 1,
        }
    }

    /// Whether its sums leave through the split epilogue, which needs no panels, one part or more.
    pub(super) const fn is_split(self) -> bool {
        self.parts() > 1 || matches!(self, WgmmaTile::Split(_))
    }

    /// Rows of a and rows of b of one load, and rows of one store: the boxes of the tensor maps.
    const fn boxes(self) -> (u32, u32, u32) {
        match self {
            // A CTA loads its own 128 rows of a, and half of b for both; a consumer stores 64 rows.
            WgmmaTile::T256x256 => (128, 128, 64),
            WgmmaTile::T256x128 => (128, 64, 128),
            WgmmaTile::T128x128 | WgmmaTile::Split128x128(_) => (128, 128, 128),
            WgmmaTile::T128x192 | WgmmaTile::Split128x192(_) => (128, 192, 64),
            WgmmaTile::T64x128 => (64, 128, 64),
            WgmmaTile::Split(_) => (64, 64, 64),
        }
    }

    pub(super) const fn cluster(self) -> u32 {
        match self {
            WgmmaTile::T256x256 | WgmmaTile::T256x128 => 2,
            _ => self.parts() as u32,
        }
    }

    pub(super) const fn num_threads(self) -> u32 {
        match self {
            WgmmaTile::T64x128 | WgmmaTile::Split(_) => 256,
            _ => 384,
        }
    }

    /// CTAs that an SM holds.
    pub(super) const fn blocks_per_sm(self) -> usize {
        match self {
            WgmmaTile::T64x128 | WgmmaTile::Split(_) => 2,
            _ => 1,
        }
    }

    /// Stages of the pipeline.
    pub(super) const fn num_stages(self) -> u32 {
        match self {
            WgmmaTile::Split128x128(_) => 6,
            WgmmaTile::T256x128 | WgmmaTile::T128x128 | WgmmaTile::Split(_) | WgmmaTile::Split128x192(_) => 5,
            _ => 4,
        }
    }

    /// `sizeof(WgmmaShared)` or `sizeof(SplitKShared)`: stages, staging for the way out, barriers.
    pub(super) const fn shared_bytes(self) -> u32 {
        if self.is_split() {
            // The sums take the place of the stages, which are more.
            let ((block_m, block_n), stages) = (self.shape(), self.num_stages());
            let bytes = stages * (block_m + block_n) as u32 * ROW_BYTES + (2 * stages + 2) * 8;
            return bytes.next_multiple_of(1024);
        }
        let (rows, panels, panel_rows) = match self {
            WgmmaTile::T256x256 => (128 + 256, 4, 64),
            WgmmaTile::T128x192 => (128 + 192, 6, 64),
            WgmmaTile::T64x128 => (64 + 128, 2, 64),
            _ => (128 + 128, 4, 128),
        };
        let stages = self.num_stages();
        let staging = panels * (panel_rows * ROW_BYTES + 8);
        let barriers = (2 * stages + 2) * 8;
        stages * rows * ROW_BYTES + (staging + barriers).next_multiple_of(1024)
    }

    /// What the kernel's name ends in before the type.
    pub(super) fn suffix(self) -> String {
        match self {
            WgmmaTile::Split(parts) => format!("split{parts}"),
            WgmmaTile::Split128x128(parts) => format!("128x128_split{parts}"),
            WgmmaTile::Split128x192(parts) => format!("128x192_split{parts}"),
            _ => {
                let (block_m, block_n) = self.shape();
                format!("{block_m}x{block_n}")
            }
        }
    }

    fn config(self, clusters: usize) -> Result<LaunchConfig> {
        self.config_with(clusters, self.shared_bytes())
    }

    fn config_with(self, clusters: usize, shared_bytes: u32) -> Result<LaunchConfig> {
        let blocks: i32 = narrow("gemm", "the number of blocks", clusters * self.cluster() as usize)?;
        Ok(LaunchConfig {
            cluster: [self.cluster(), 1, 1],
            programmatic_dependent: true,
            ..LaunchConfig::linear(blocks as u32, self.num_threads()).with_shared(shared_bytes)
        })
    }
}

/// Whether the copy engine can move rows of this tensor: 16-bit elements, 16-byte aligned rows (and batches).
fn is_tensor(view: &TensorView) -> bool {
    let (_, outer) = view.strides().split_last().expect("a matrix has two dimensions");
    view.dtype.size() == 2
        && view.pointer.is_multiple_of(16)
        && outer.iter().all(|stride| stride.is_multiple_of(8) && stride * 2 < 1 << 40)
}

/// Bias is read in pairs.
fn is_paired(bias: Option<TensorView>) -> bool {
    bias.is_none_or(|view| view.pointer.is_multiple_of(8))
}

/// A map over `[rows, columns]` of boxes of `box_rows` by 128 bytes, swizzled.
fn map_2d(
    kernels: &Kernels,
    view: &TensorView,
    [rows, columns]: [usize; 2],
    row_stride: usize,
    box_rows: u32,
) -> Result<TensorMap> {
    kernels.device().encode_tensor_map(&TensorMapSpec {
        dtype: view.dtype,
        pointer: view.pointer,
        dims: vec![columns as u64, rows as u64],
        // With one row its stride is nobody's business, but the encoder checks it.
        strides: vec![if rows == 1 { columns.next_multiple_of(8) } else { row_stride } as u64 * 2],
        tile: vec![BLOCK_K as u32, box_rows],
        swizzle_bytes: ROW_BYTES,
    })
}

/// A map over b, `[groups, N, K]`.
fn map_b(kernels: &Kernels, view: &TensorView, [n, k]: [usize; 2], box_rows: u32) -> Result<TensorMap> {
    let strides = view.strides();
    let (groups, group_stride, row_stride) = match *view.shape() {
        [groups, _, _] => (groups, strides[0], strides[1]),
        _ => (1, 0, strides[0]),
    };
    // Strides that nothing is read by are made such as the encoder takes.
    let row_stride = if n == 1 { k.next_multiple_of(8) } else { row_stride };
    let group_stride = if groups == 1 { n * row_stride } else { group_stride };
    kernels.device().encode_tensor_map(&TensorMapSpec {
        dtype: view.dtype,
        pointer: view.pointer,
        dims: vec![k as u64, n as u64, groups as u64],
        strides: vec![row_stride as u64 * 2, group_stride as u64 * 2],
        tile: vec![BLOCK_K as u32, box_rows, 1],
        swizzle_bytes: ROW_BYTES,
    })
}
