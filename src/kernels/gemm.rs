//! Launcher of `kernels/gemm.cu` (on Hopper sm90a.rs takes over where it can), and what every launcher of the GEMM main loop shares: operands, output, tiles.

use super::Kernels;
use super::rows::narrow;
use super::sm90a;
use crate::device::{LaunchConfig, RawStream};
use crate::error::Result;
use crate::operations::{Activation, GemmDims, GemmParams, Residual};
use crate::tensor::{DType, TensorView};

/// `GemmOperands` of kernels/gemm_mainloop.cuh.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Operands {
    pub a: u64,
    pub b: u64,
    pub row_index: u64,
    pub a_row_stride: i64,
    pub b_row_stride: i64,
    pub b_group_stride: i64,
    pub num_a_rows: i32,
    pub m: i32,
    pub n: i32,
    pub k: i32,
}

/// `BatchedRows` of kernels/epilogue.cuh.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BatchedRows {
    pointer: u64,
    row_stride: i64,
    batch_stride: i64,
}

/// `OutputParams` of kernels/epilogue.cuh.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Output {
    out: BatchedRows,
    residual: BatchedRows,
    bias: u64,
    rows_per_batch: i32,
    num_columns: i32,
    out_is_f32: i32,
    activation: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    operands: Operands,
    output: Output,
}

/// Rows and columns of the output that a block computes at a time. A row's bits are the same with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GemmTile {
    /// Where the output has enough of them to fill the GPU: reads least.
    T128x128,
    /// In between.
    T64x64,
    /// For a few rows.
    T16x32,
    /// For a few rows over a vocabulary; only `lm_head` is compiled for it.
    T16x128,
}

impl GemmTile {
    /// The tiles that `gemm`, `mlp` and `moe_gemm` are compiled for, largest first.
    pub const ALL: [GemmTile; 3] = [GemmTile::T128x128, GemmTile::T64x64, GemmTile::T16x32];

    /// The largest tile that still gives enough blocks for `num_sms`, for `m` rows in `groups` parts.
    fn pick(m: usize, n: usize, groups: usize, num_sms: usize) -> GemmTile {
        let tiles = |tile: GemmTile| {
            let (block_m, block_n) = tile.shape();
            groups * m.div_ceil(groups.max(1)).div_ceil(block_m) * n.div_ceil(block_n)
        };
        let rows_a_group = m.div_ceil(groups.max(1));
        // A block of 128x128 keeps half an SM busy, but one alone hides its latencies; 64x64 needs fewer of them,
        // because going down to 16x32 would read the operands three times as often.
        if rows_a_group > 64 && tiles(GemmTile::T128x128) >= num_sms {
            GemmTile::T128x128
        } else if rows_a_group > 32 && tiles(GemmTile::T64x64) >= num_sms.div_ceil(2) {
            GemmTile::T64x64
        } else {
            GemmTile::T16x32
        }
    }

    /// Rows and columns.
    pub const fn shape(self) -> (usize, usize) {
        match self {
            GemmTile::T128x128 => (128, 128),
            GemmTile::T64x64 => (64, 64),
            GemmTile::T16x32 => (16, 32),
            GemmTile::T16x128 => (16, 128),
        }
    }

    /// Threads of a block, as kernels/gemm_configs.cuh has it.
    pub(super) const fn num_threads(self, dtype: DType) -> u32 {
        match (self, dtype) {
            (GemmTile::T128x128 | GemmTile::T64x64, DType::F32) => 256,
            _ => 128,
        }
    }

    /// Stages of the pipeline, as kernels/gemm_configs.cuh has it.
    pub(super) const fn num_stages(self) -> u32 {
        match self {
            GemmTile::T128x128 => 3,
            GemmTile::T64x64 | GemmTile::T16x128 => 4,
            GemmTile::T16x32 => 6,
        }
    }

    /// `sizeof(GemmSharedStorage)`: stages of 128 bytes of K, or the sums, and an offset for each row.
    pub(super) const fn shared_bytes(self) -> u32 {
        let (block_m, block_n) = self.shape();
        let operands = self.num_stages() * (block_m + block_n) as u32 * 128;
        let sums = (block_m * (block_n + 8) * 4) as u32;
        let largest = if operands > sums { operands } else { sums };
        (largest + block_m as u32 * 8).next_multiple_of(128)
    }

    /// A launch of `num_tiles` blocks.
    pub(super) fn config(
        self,
        operation: &'static str,
        dtype: DType,
        num_tiles: usize,
    ) -> Result<LaunchConfig> {
        // The kernels count tiles in i32.
        let blocks: i32 = narrow(operation, "the number of tiles", num_tiles)?;
        Ok(LaunchConfig::linear(blocks as u32, self.num_threads(dtype)).with_shared(self.shared_bytes()))
    }

    /// `stem_dtype_tile`.
    pub(super) fn kernel(self, stem: &str, dtype: DType) -> String {
        let (block_m, block_n) = self.shape();
        format!("{stem}_{dtype}_{block_m}x{block_n}")
    }

    /// Tiles of an `[m, n]` output.
    pub(super) fn count(self, m: usize, n: usize) -> usize {
        let (block_m, block_n) = self.shape();
        m.div_ceil(block_m).saturating_mul(n.div_ceil(block_n))
    }
}

/// The tile for `m` rows in `groups` equal parts and `n` columns on the kernels' device.
pub(super) fn pick_tile(kernels: &Kernels, m: usize, n: usize, groups: usize) -> GemmTile {
    GemmTile::pick(m, n, groups, kernels.device().properties().num_sms as usize)
}

impl Operands {
    /// Operands of a dense product.
    pub fn dense(operation: &'static str, a: &TensorView, b: &TensorView, dims: GemmDims) -> Result<Self> {
        Ok(Operands {
            a: a.pointer,
            b: b.pointer,
            row_index: 0,
            a_row_stride: a.strides()[0] as i64,
            b_row_stride: b.strides()[b.strides().len() - 2] as i64,
            b_group_stride: 0,
            num_a_rows: narrow(operation, "the number of rows of a", a.shape()[0])?,
            m: narrow(operation, "M", dims.m)?,
            n: narrow(operation, "N", dims.n)?,
            k: narrow(operation, "K", dims.k)?,
        })
    }
}

impl BatchedRows {
    /// `[rows, columns]` or `[batch, rows, columns]`.
    fn of(view: &TensorView) -> Self {
        let rank = view.shape().len();
        BatchedRows {
            pointer: view.pointer,
            row_stride: view.strides()[rank - 2] as i64,
            batch_stride: if rank == 3 { view.strides()[0] as i64 } else { 0 },
        }
    }
}

impl Output {
    /// What the epilogue does with the sums; shapes have been checked.
    pub fn new(
        operation: &'static str,
        out: &TensorView,
        bias: Option<TensorView>,
        activation: Activation,
        residual: Residual,
    ) -> Result<Self> {
        let rank = out.shape().len();
        let residual = match residual {
            Residual::None => BatchedRows { pointer: 0, row_stride: 0, batch_stride: 0 },
            Residual::InPlace => BatchedRows::of(out),
            Residual::From(view) => BatchedRows::of(&view),
        };
        Ok(Output {
            out: BatchedRows::of(out),
            residual,
            bias: bias.map_or(0, |view| view.pointer),
            rows_per_batch: narrow(operation, "rows of a batch", out.shape()[rank - 2])?,
            num_columns: narrow(operation, "N", out.shape()[rank - 1])?,
            out_is_f32: (out.dtype == DType::F32).into(),
            activation: match activation {
                Activation::Identity => 0,
                Activation::GeluErf => 1,
                Activation::GeluTanh => 2,
            },
        })
    }
}

/// Matrix product with a fused epilogue: see [`GemmParams`].
///
/// # Errors
/// A shape or type that does not fit, and whatever the launch says.
///
/// # Safety
/// Every tensor is memory of the kernels' device that lives, and is not otherwise written, until `stream` has done it.
pub unsafe fn gemm(kernels: &Kernels, p: &GemmParams, stream: RawStream) -> Result<()> {
    let dims = p.check()?;
    if let Some(tile) = sm90a::gemm::pick(kernels, p, dims) {
        // SAFETY: as of this function.
        return unsafe { sm90a::gemm::gemm(kernels, "gemm", p, tile, stream) };
    }
    let tile = pick_tile(kernels, dims.m, dims.n, 1);
    // SAFETY: as of this function.
    unsafe { gemm_with_tile(kernels, p, tile, stream) }
}

/// [`gemm()`] with a tile of the caller's choice out of [`GemmTile::ALL`].
///
/// # Errors
/// As [`gemm()`]; [`crate::Error::KernelsNotBuilt`] for a tile that gemm is not compiled for.
///
/// # Safety
/// As [`gemm()`].
pub unsafe fn gemm_with_tile(
    kernels: &Kernels,
    p: &GemmParams,
    tile: GemmTile,
    stream: RawStream,
) -> Result<()> {
    // SAFETY: as of this function.
    unsafe { launch(kernels, "gemm", "gemm", p, tile, stream) }
}

/// Launches `stem`, a kernel with gemm's parameters.
///
/// # Safety
/// As [`gemm`].
pub(super) unsafe fn launch(
    kernels: &Kernels,
    operation: &'static str,
    stem: &str,
    p: &GemmParams,
    tile: GemmTile,
    stream: RawStream,
) -> Result<()> {
    let dims = p.check()?;
    if dims.m == 0 || dims.n == 0 {
        return Ok(());
    }
    let params = KernelParams {
        operands: Operands::dense(operation, &p.a, &p.b, dims)?,
        output: Output::new(operation, &p.out, p.bias, p.activation, p.residual)?,
    };
    let config = tile.config(operation, p.a.dtype, tile.count(dims.m, dims.n))?;
    // SAFETY: the struct is the kernel's; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch(&tile.kernel(stem, p.a.dtype), &config, &params, stream) }
}
