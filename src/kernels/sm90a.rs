//! Launchers of the Hopper set, `kernels/sm90a/`: what they share, tiles and tensor maps.
//!
//! Budgets on 132 SMs of 228 KB of shared memory, 65,536 registers, 4,096 bf16 FLOP a clock:
//!
//! | tile | threads, registers | stages, shared memory | clocks a step of 64 in K | why |
//! |---|---|---|---|---|
//! | 256x256 (2 CTAs) | 384: 40 produce, 232 consume | 4 of 48 KB, 226 KB | 1024, smem 640 | reads L2 least: bound by the tensor cores from K = 2048 |
//! | 128x128 ping-pong | 384: 40, 232 | 5 of 32 KB, 226 KB | 512, smem 384 | an epilogue (about 2,000 clocks, GELU 4,000) hides under K >= 512 |
//! | 256x128 (2 CTAs) ping-pong | the same | the same | 512 | and reads b once for two CTAs: 9.3 TB/s of L2 at 790 TFLOP/s, not 12.3 |
//! | 128x192 | 384: 40, 232 | 4 of 40 KB, 209 KB | 768, smem 448 | 1,024 tokens of GPT-2: 96 or 128 tiles, one wave |
//! | 64x64 split in K | 256: 60 | 5 of 16 KB, 2 CTAs an SM | 128, smem 128 | 160 KB of operands under way an SM: bound by HBM |
//! | 128x128 gathered | 384: 56, 224 | 5 of 32 KB | 512 | 8 cp.async a producer thread a step |
//! | 256x128, 128x128, 64x128 of lm_head | 384 or 256 | 6 of 32 KB or 8 of 24 KB, 193 KB | 512 or 256 | no staging: logits are reduced in registers |
//! | 64x128 of experts | 256: 128 | 4 of 24 KB, 2 an SM | 256 | bound by the weights' bytes below 64 rows an expert |

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
}

impl WgmmaTile {
    /// The tiles that `gemm` and `mlp` are compiled for.
    pub const GEMM: [WgmmaTile; 8] = [
        WgmmaTile::T256x256,
        WgmmaTile::T128x192,
        WgmmaTile::T256x128,
        WgmmaTile::T128x128,
        WgmmaTile::Split(1),
        WgmmaTile::Split(2),
        WgmmaTile::Split(4),
        WgmmaTile::Split(8),
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
            WgmmaTile::T128x128 => (128, 128),
            WgmmaTile::T128x192 => (128, 192),
            WgmmaTile::T64x128 => (64, 128),
            WgmmaTile::Split(_) => (64, 64),
        }
    }

    /// Rows of a and rows of b of one load, and rows of one store: the boxes of the tensor maps.
    const fn boxes(self) -> (u32, u32, u32) {
        match self {
            // A CTA loads its own 128 rows of a, and half of b for both; a consumer stores 64 rows.
            WgmmaTile::T256x256 => (128, 128, 64),
            WgmmaTile::T256x128 => (128, 64, 128),
            WgmmaTile::T128x128 => (128, 128, 128),
            WgmmaTile::T128x192 => (128, 192, 64),
            WgmmaTile::T64x128 => (64, 128, 64),
            WgmmaTile::Split(_) => (64, 64, 64),
        }
    }

    const fn cluster(self) -> u32 {
        match self {
            WgmmaTile::T256x256 | WgmmaTile::T256x128 => 2,
            WgmmaTile::Split(splits) => splits,
            _ => 1,
        }
    }

    const fn num_threads(self) -> u32 {
        match self {
            WgmmaTile::T64x128 | WgmmaTile::Split(_) => 256,
            _ => 384,
        }
    }

    /// CTAs that an SM holds.
    const fn blocks_per_sm(self) -> usize {
        match self {
            WgmmaTile::T64x128 | WgmmaTile::Split(_) => 2,
            _ => 1,
        }
    }

    /// `sizeof(WgmmaShared)` or `sizeof(SplitKShared)`: stages, staging for the way out, barriers.
    const fn shared_bytes(self) -> u32 {
        let (stages, rows, panels, panel_rows) = match self {
            WgmmaTile::T256x256 => (4, 128 + 256, 4, 64),
            WgmmaTile::T256x128 | WgmmaTile::T128x128 => (5, 128 + 128, 4, 128),
            WgmmaTile::T128x192 => (4, 128 + 192, 6, 64),
            WgmmaTile::T64x128 => (4, 64 + 128, 2, 64),
            WgmmaTile::Split(splits) => {
                // The partial sums, and this CTA's rows of them added up; rows are 64 + 8 floats.
                let partial = if splits > 1 { 64 * 72 * 4 } else { 16 };
                let bytes = 5 * (64 + 64) * ROW_BYTES + partial + 64 / splits * 72 * 4 + (2 * 5 + 2) * 8;
                return bytes.next_multiple_of(1024);
            }
        };
        let staging = panels * (panel_rows * ROW_BYTES + 8);
        let barriers = (2 * stages + 2) * 8;
        stages * rows * ROW_BYTES + staging.next_multiple_of(1024) + barriers.next_multiple_of(1024)
    }

    /// What the kernel's name ends in before the type.
    fn suffix(self) -> String {
        match self {
            WgmmaTile::Split(splits) => format!("split{splits}"),
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
