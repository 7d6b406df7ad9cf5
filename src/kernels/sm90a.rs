//! Launchers of the Hopper matrix products, `kernels/sm90a/`: which of them runs, and its tensor maps.
//!
//! Budgets on 132 SMs of 228 KB of shared memory, 65,536 registers, 4,096 bf16 FLOP a clock:
//!
//! | tile | threads, registers | stages, shared memory | clocks a step of 64 in K | why |
//! |---|---|---|---|---|
//! | 256x256 (2 CTAs) | 384: 40 produce, 232 consume | 4 of 48 KB, 226 KB | 1024, smem 640 | reads L2 least: bound by the tensor cores from K = 2048 |
//! | 128x128 ping-pong | 384: 40, 232 | 5 of 32 KB, 226 KB | 512, smem 384 | an epilogue (about 2,000 clocks, GELU 4,000) hides under K >= 512 |
//! | 256x128 (2 CTAs) ping-pong | the same | the same | 512 | and reads b once for two CTAs: 9.3 TB/s of L2 at 790 TFLOP/s, not 12.3 |
//! | 64x64 split in K | 256: 60 | 5 of 16 KB, 2 CTAs an SM | 128, smem 128 | 160 KB of operands under way an SM: bound by HBM |
//! | 128x128 gathered | 384: 56, 224 | 5 of 32 KB | 512 | 8 cp.async a producer thread a step |
//! | 256x128, 128x128, 64x128 of lm_head | 384 or 256 | 6 of 32 KB or 8 of 24 KB, 193 KB | 512 or 256 | no staging: logits are reduced in registers |
//! | 64x128 of experts | 256: 128 | 4 of 24 KB, 2 an SM | 256 | bound by the weights' bytes below 64 rows an expert |

use super::Kernels;
use super::gemm::Output;
use super::lm_head::Reduction;
use super::rows::narrow;
use crate::device::{LaunchConfig, RawStream, TensorMap, TensorMapSpec};
use crate::error::{Error, Result};
use crate::operations::{
    Activation, GemmDims, GemmParams, LmHeadDims, LmHeadParams, MoeGemmDims, MoeGemmParams, Residual,
};
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
    /// 64x128: experts with few rows, or a vocabulary. `gemm` is not compiled for it.
    T64x128,
    /// 64x64, K in as many parts (1, 2, 4 or 8), a CTA of a cluster each.
    Split(u32),
}

impl WgmmaTile {
    /// The tiles that `gemm` and `mlp` are compiled for.
    pub const GEMM: [WgmmaTile; 7] = [
        WgmmaTile::T256x256,
        WgmmaTile::T256x128,
        WgmmaTile::T128x128,
        WgmmaTile::Split(1),
        WgmmaTile::Split(2),
        WgmmaTile::Split(4),
        WgmmaTile::Split(8),
    ];
    /// The tiles that `moe_gemm` is compiled for.
    pub const MOE: [WgmmaTile; 2] = [WgmmaTile::T128x128, WgmmaTile::T64x128];
    /// The tiles that `lm_head` is compiled for. The first takes all rows of x; the others may gather.
    pub const LM_HEAD: [WgmmaTile; 3] = [WgmmaTile::T256x128, WgmmaTile::T128x128, WgmmaTile::T64x128];

    /// Rows and columns of the output that a CTA, or a cluster of two, takes at a time.
    pub const fn shape(self) -> (usize, usize) {
        match self {
            WgmmaTile::T256x256 => (256, 256),
            WgmmaTile::T256x128 => (256, 128),
            WgmmaTile::T128x128 => (128, 128),
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
            WgmmaTile::T256x256 | WgmmaTile::T256x128 | WgmmaTile::T128x128 => 384,
            WgmmaTile::T64x128 | WgmmaTile::Split(_) => 256,
        }
    }

    /// CTAs that an SM holds.
    const fn blocks_per_sm(self) -> usize {
        match self {
            WgmmaTile::T256x256 | WgmmaTile::T256x128 | WgmmaTile::T128x128 => 1,
            WgmmaTile::T64x128 | WgmmaTile::Split(_) => 2,
        }
    }

    /// `sizeof(WgmmaShared)` or `sizeof(SplitKShared)`: stages, staging for the way out, barriers.
    const fn shared_bytes(self) -> u32 {
        let (stages, rows, panels, panel_rows) = match self {
            WgmmaTile::T256x256 => (4, 128 + 256, 4, 64),
            WgmmaTile::T256x128 | WgmmaTile::T128x128 => (5, 128 + 128, 4, 128),
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

/// `WgmmaGemmParams` of kernels/sm90a/gemm.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct KernelParams {
    output: Output,
    m: i32,
    n: i32,
    k: i32,
    stores_tensors: i32,
}

/// `WgmmaMoeGemmParams` of kernels/sm90a/moe_gemm.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct MoeKernelParams {
    output: Output,
    expert_offsets: u64,
    a: u64,
    row_index: u64,
    a_row_chunks: u32,
    num_a_rows: i32,
    num_experts: i32,
    max_rows: i32,
    n: i32,
    k: i32,
    stores_tensors: i32,
    padding: i32,
}

/// Whether the copy engine can move rows of this tensor: 16-bit elements, 16-byte aligned rows (and batches).
fn is_tensor(view: &TensorView) -> bool {
    let (_, outer) = view.strides().split_last().expect("a matrix has two dimensions");
    view.dtype.size() == 2
        && view.pointer.is_multiple_of(16)
        && outer.iter().all(|stride| stride.is_multiple_of(8) && stride * 2 < 1 << 40)
}

/// Row stride of `[rows, columns]`, or of `[batch, rows, columns]` whose rows are all equally far apart.
fn uniform_row_stride(view: &TensorView) -> Option<usize> {
    let strides = view.strides();
    match *view.shape() {
        [_, _] => Some(strides[0]),
        [batches, rows, _] if batches == 1 || strides[0] == rows * strides[1] => Some(strides[1]),
        _ => None,
    }
}

/// Bias is read in pairs.
fn is_paired(bias: Option<TensorView>) -> bool {
    bias.is_none_or(|view| view.pointer.is_multiple_of(8))
}

/// Whether the operands are the copy engine's.
fn loads_tensors(p: &GemmParams, dims: GemmDims) -> bool {
    dims.m > 0 && dims.n > 0 && dims.k > 0 && is_tensor(&p.a) && is_tensor(&p.b)
}

/// Whether tiles that leave through panels of 16-bit elements can serve this output.
fn stores_panels(p: &GemmParams, dims: GemmDims) -> bool {
    let residual_is_tensor = match p.residual {
        Residual::None => true,
        Residual::InPlace => uniform_row_stride(&p.out).is_some(),
        Residual::From(view) => {
            is_tensor(&view) && uniform_row_stride(&view).is_some() && uniform_row_stride(&p.out).is_some()
        }
    };
    dims.n.is_multiple_of(8) && is_tensor(&p.out) && is_paired(p.bias) && residual_is_tensor
}

/// The tile for these operands on the kernels' device; `None` where the portable kernels must or had better serve.
pub(super) fn pick(kernels: &Kernels, p: &GemmParams, dims: GemmDims) -> Option<WgmmaTile> {
    if !kernels.uses_sm90a() || !loads_tensors(p, dims) {
        return None;
    }
    let num_sms = kernels.device().properties().num_sms as usize;
    let tiles = |tile: WgmmaTile| {
        let (block_m, block_n) = tile.shape();
        dims.m.div_ceil(block_m) * dims.n.div_ceil(block_n)
    };
    if dims.m > 64 && stores_panels(p, dims) {
        // A pair of SMs a tile: with fewer tiles than pairs the smaller tile spreads wider. Below K = 2048 the wide
        // tile's epilogue, which hides under nothing, is over a tenth of its time.
        if dims.k >= 2048 && tiles(WgmmaTile::T256x256) >= num_sms / 2 {
            return Some(WgmmaTile::T256x256);
        }
        if tiles(WgmmaTile::T256x128) >= num_sms / 2 {
            return Some(WgmmaTile::T256x128);
        }
        // Half the SMs with 128x128 read as fast as all of them with 64x64, which read L2 twice as often.
        if tiles(WgmmaTile::T128x128) >= num_sms / 2 {
            return Some(WgmmaTile::T128x128);
        }
    }
    // As many parts of K as fill two CTAs an SM, each of two steps at least: a part costs a pass through shared memory.
    let num_k_tiles = dims.k.div_ceil(BLOCK_K);
    let wanted = (2 * num_sms / tiles(WgmmaTile::Split(1)).max(1)).min(num_k_tiles / 2).clamp(1, 8);
    Some(WgmmaTile::Split(1 << wanted.ilog2()))
}

/// The tile for a grouped product; `None` where the portable kernels must serve.
pub(super) fn pick_moe(kernels: &Kernels, p: &MoeGemmParams, dims: MoeGemmDims) -> Option<WgmmaTile> {
    if !kernels.uses_sm90a() || !moe_fits(p, dims) {
        return None;
    }
    // The host knows the rows of all experts together. Half full tiles of 128 rows still read weights less often.
    let rows_an_expert = dims.max_rows.div_ceil(dims.num_experts);
    Some(if rows_an_expert > 64 { WgmmaTile::T128x128 } else { WgmmaTile::T64x128 })
}

/// Whether the Hopper kernels can serve this product.
fn moe_fits(p: &MoeGemmParams, dims: MoeGemmDims) -> bool {
    let rows_fit = p.row_index.is_none() || p.a.shape()[0] * p.a.strides()[0] / 8 < u32::MAX as usize;
    dims.max_rows > 0
        && dims.n > 0
        && dims.k > 0
        && dims.num_experts > 0
        && dims.n.is_multiple_of(8)
        && is_tensor(&p.a)
        && is_tensor(&p.b)
        && is_tensor(&p.out)
        && is_paired(p.bias)
        && rows_fit
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

/// [`super::gemm()`] by the Hopper kernels, with a tile of the caller's choice out of [`WgmmaTile::GEMM`].
///
/// # Errors
/// As [`super::gemm()`]; [`Error::Tensor`] for tensors that the copy engine cannot reach or a tile of another operation;
/// [`Error::NoCodeForDevice`] from the device where it is no Hopper.
///
/// # Safety
/// As [`super::gemm()`].
pub unsafe fn gemm_with_wgmma(
    kernels: &Kernels,
    p: &GemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    let dims = p.check()?;
    let has_parts = |splits: u32| dims.k.div_ceil(BLOCK_K) >= splits as usize;
    let fits = loads_tensors(p, dims)
        && match tile {
            WgmmaTile::Split(splits) => WgmmaTile::GEMM.contains(&tile) && has_parts(splits),
            _ => WgmmaTile::GEMM.contains(&tile) && stores_panels(p, dims),
        };
    if !fits {
        let message = format!("{tile:?} cannot serve {dims:?} with these types and alignments");
        return Err(Error::Tensor { operation: "gemm", message });
    }
    // SAFETY: as of this function.
    unsafe { gemm(kernels, "gemm", p, tile, stream) }
}

/// Launches the tile's kernel on operands that it can serve.
///
/// # Safety
/// As [`super::gemm()`].
pub(super) unsafe fn gemm(
    kernels: &Kernels,
    operation: &'static str,
    p: &GemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    let GemmDims { m, n, k } = p.check()?;
    let uniform = uniform_row_stride(&p.out);
    let params = KernelParams {
        output: Output::new(operation, &p.out, p.bias, p.activation, p.residual)?,
        m: narrow(operation, "M", m)?,
        n: narrow(operation, "N", n)?,
        k: narrow(operation, "K", k)?,
        stores_tensors: uniform.is_some().into(),
    };
    let (box_a, box_b, box_out) = tile.boxes();
    let map_a = map_2d(kernels, &p.a, [m, k], p.a.strides()[0], box_a)?;
    let map_b = map_b(kernels, &p.b, [n, k], box_b)?;
    let (block_m, block_n) = tile.shape();
    let num_tiles = m.div_ceil(block_m) * n.div_ceil(block_n);
    let dtype = p.a.dtype;
    if let WgmmaTile::Split(_) = tile {
        let config = tile.config(num_tiles)?;
        let args: [&[u8]; 3] = [&map_a.0, &map_b.0, bytemuck::bytes_of(&params)];
        let kernel = format!("wgmma_gemm_{}_{dtype}", tile.suffix());
        // SAFETY: these are the kernel's parameters; shapes and types were checked, the caller vouches for the memory.
        return unsafe { kernels.launch_args(&kernel, &config, &args, stream) };
    }

    // Without maps of their own the kernel does not look at these two.
    let map_out = match uniform {
        Some(row_stride) => map_2d(kernels, &p.out, [m, n], row_stride, box_out)?,
        None => map_a,
    };
    let map_residual = match p.residual {
        Residual::From(view) => {
            map_2d(kernels, &view, [m, n], uniform_row_stride(&view).unwrap_or(n), box_out)?
        }
        _ => map_out,
    };
    let num_sms = kernels.device().properties().num_sms as usize;
    let config = tile.config(num_tiles.min(num_sms / tile.cluster() as usize))?;
    let gelu = if p.activation == Activation::Identity { "" } else { "gelu_" };
    let kernel = format!("wgmma_gemm_{gelu}{}_{dtype}", tile.suffix());
    let args: [&[u8]; 5] = [&map_a.0, &map_b.0, &map_out.0, &map_residual.0, bytemuck::bytes_of(&params)];
    // SAFETY: as above.
    unsafe { kernels.launch_args(&kernel, &config, &args, stream) }
}

/// [`super::moe_gemm()`] by the Hopper kernels, with a tile of the caller's choice out of [`WgmmaTile::MOE`].
///
/// # Errors
/// As [`super::moe_gemm()`], and as [`gemm_with_wgmma`].
///
/// # Safety
/// As [`super::moe_gemm()`].
pub unsafe fn moe_gemm_with_wgmma(
    kernels: &Kernels,
    p: &MoeGemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    let dims = p.check()?;
    if !moe_fits(p, dims) || !WgmmaTile::MOE.contains(&tile) {
        let message = format!("{tile:?} cannot serve {dims:?} with these types and alignments");
        return Err(Error::Tensor { operation: "moe_gemm", message });
    }
    // SAFETY: as of this function.
    unsafe { moe_gemm(kernels, p, tile, stream) }
}

/// Launches the tile's kernel on operands that it can serve.
///
/// # Safety
/// As [`super::moe_gemm()`].
pub(super) unsafe fn moe_gemm(
    kernels: &Kernels,
    p: &MoeGemmParams,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    const OPERATION: &str = "moe_gemm";
    let dims = p.check()?;
    let num_a_rows = p.a.shape()[0];
    let a_row_stride = p.a.strides()[0];
    let params = MoeKernelParams {
        output: Output::new(OPERATION, &p.out, p.bias, p.activation, Residual::None)?,
        expert_offsets: p.expert_offsets.pointer,
        a: p.a.pointer,
        row_index: p.row_index.map_or(0, |view| view.pointer),
        a_row_chunks: narrow(OPERATION, "the row stride of a", a_row_stride / 8)?,
        num_a_rows: narrow(OPERATION, "the number of rows of a", num_a_rows)?,
        num_experts: narrow(OPERATION, "the number of experts", dims.num_experts)?,
        max_rows: narrow(OPERATION, "max_rows", dims.max_rows)?,
        n: narrow(OPERATION, "N", dims.n)?,
        k: narrow(OPERATION, "K", dims.k)?,
        stores_tensors: 1,
        padding: 0,
    };
    let (box_a, box_b, box_out) = tile.boxes();
    let map_b = map_b(kernels, &p.b, [dims.n, dims.k], box_b)?;
    let map_out = map_2d(kernels, &p.out, [dims.max_rows, dims.n], p.out.strides()[0], box_out)?;
    let map_a = match p.row_index {
        None => map_2d(kernels, &p.a, [num_a_rows, dims.k], a_row_stride, box_a)?,
        Some(_) => map_out, // not looked at
    };
    // Only the device knows how the rows are spread: at most this many tiles, and as many CTAs as run at once.
    let (block_m, block_n) = tile.shape();
    let row_tiles = dims.max_rows / block_m + dims.num_experts.min(dims.max_rows);
    let most = kernels.device().properties().num_sms as usize * tile.blocks_per_sm();
    let config = tile.config(row_tiles.saturating_mul(dims.n.div_ceil(block_n)).min(most))?;
    let gather = if p.row_index.is_some() { "gather_" } else { "" };
    let gelu = if p.activation == Activation::Identity { "" } else { "gelu_" };
    let kernel = format!("wgmma_moe_gemm_{gather}{gelu}{}_{}", tile.suffix(), p.a.dtype);
    let args: [&[u8]; 4] = [&map_a.0, &map_b.0, &map_out.0, bytemuck::bytes_of(&params)];
    // SAFETY: these are the kernel's parameters; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch_args(&kernel, &config, &args, stream) }
}

/// `WgmmaLmHeadParams` of kernels/sm90a/lm_head.cu.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct LmHeadKernelParams {
    reduction: Reduction,
    bias: u64,
    logits: u64,
    x: u64,
    rows: u64,
    x_row_chunks: u32,
    num_x_rows: i32,
    k: i32,
    padding: i32,
}

/// The tile for a product over the vocabulary; `None` where the portable kernels must serve.
pub(super) fn pick_lm_head(kernels: &Kernels, p: &LmHeadParams, dims: LmHeadDims) -> Option<WgmmaTile> {
    if !kernels.uses_sm90a() || !lm_head_fits(p, dims) {
        return None;
    }
    Some(match (dims.num_rows, p.rows) {
        (..=64, _) => WgmmaTile::T64x128,
        (_, None) => WgmmaTile::T256x128,
        (_, Some(_)) => WgmmaTile::T128x128,
    })
}

/// Whether the Hopper kernels can serve this product.
pub(super) fn lm_head_fits(p: &LmHeadParams, dims: LmHeadDims) -> bool {
    let rows_fit = p.x.shape()[0] * p.x.strides()[0] / 8 < u32::MAX as usize;
    dims.hidden_size > 0 && is_tensor(&p.x) && is_tensor(&p.weight) && rows_fit
}

/// Launches the tile's kernel on operands that it can serve; the partial results are left to `lm_head_reduce`.
///
/// # Safety
/// As [`super::lm_head()`].
pub(super) unsafe fn lm_head(
    kernels: &Kernels,
    p: &LmHeadParams,
    reduction: Reduction,
    tile: WgmmaTile,
    stream: RawStream,
) -> Result<()> {
    const OPERATION: &str = "lm_head";
    let dims = p.check()?;
    let (num_x_rows, x_row_stride) = (p.x.shape()[0], p.x.strides()[0]);
    let params = LmHeadKernelParams {
        reduction,
        bias: p.bias.map_or(0, |view| view.pointer),
        logits: p.logits.map_or(0, |view| view.pointer),
        x: p.x.pointer,
        rows: p.rows.map_or(0, |view| view.pointer),
        x_row_chunks: narrow(OPERATION, "the row stride of x", x_row_stride / 8)?,
        num_x_rows: narrow(OPERATION, "the number of rows of x", num_x_rows)?,
        k: narrow(OPERATION, "hidden_size", dims.hidden_size)?,
        padding: 0,
    };
    let (box_x, box_weight, _) = tile.boxes();
    let map_weight = map_b(kernels, &p.weight, [dims.vocab_size, dims.hidden_size], box_weight)?;
    let (map_x, gather) = match tile {
        WgmmaTile::T256x128 => {
            (map_2d(kernels, &p.x, [num_x_rows, dims.hidden_size], x_row_stride, box_x)?, "")
        }
        _ => (map_weight, "gather_"), // the map is not looked at
    };
    let (block_m, block_n) = tile.shape();
    let num_tiles = dims.num_rows.div_ceil(block_m) * dims.vocab_size.div_ceil(block_n);
    let num_sms = kernels.device().properties().num_sms as usize;
    // Six or eight stages of 192 KB in all, barriers, no staging; one CTA an SM.
    let config = tile.config_with(num_tiles.min(num_sms / tile.cluster() as usize), 193 * 1024)?;
    let kernel = format!("wgmma_lm_head_{gather}{}_{}", tile.suffix(), p.x.dtype);
    let args: [&[u8]; 3] = [&map_x.0, &map_weight.0, bytemuck::bytes_of(&params)];
    // SAFETY: these are the kernel's parameters; shapes and types were checked, the caller vouches for the memory.
    unsafe { kernels.launch_args(&kernel, &config, &args, stream) }
}
