//! Tiled kernels: held against what their launches' own tiles move; products of one row against the fewest bytes.

use libtest_mimic::{Failed, Trial};
use nanomoe::kernels::{self, GemmTile, WgmmaTile, traffic};
use nanomoe::operations::*;
use nanomoe::tensor::{DType, Tensor, TensorMut};
use virtual_gpu::Description;

use super::{Meter, pin};
use crate::gemm::{DTYPES, tile_name};

const HALVES: [DType; 2] = [DType::BF16, DType::F16];
/// Rows of each expert: whole tiles, none, and tiles that are not full.
const LOADS: [usize; 4] = [128, 0, 200, 72];

/// A tile of either set.
#[derive(Clone, Copy)]
enum AnyTile {
    Portable(GemmTile),
    Wgmma(WgmmaTile),
}

impl AnyTile {
    fn shape(self) -> (usize, usize) {
        match self {
            AnyTile::Portable(tile) => tile.shape(),
            AnyTile::Wgmma(tile) => tile.shape(),
        }
    }

    fn name(self) -> String {
        match self {
            AnyTile::Portable(tile) => format!("{}x{}", tile.shape().0, tile.shape().1),
            AnyTile::Wgmma(tile) => format!("wgmma_{}", tile_name(tile)),
        }
    }
}

pub fn trials() -> Vec<Trial> {
    let (h200, a100) = (Description::h200 as fn() -> Description, Description::a100 as fn() -> Description);
    let mut trials = Vec::new();
    for dtype in DTYPES {
        for tile in GemmTile::ALL.map(AnyTile::Portable) {
            trials.push(pin("gemm", dtype, tile.name(), a100, move |m| gemm(m, dtype, tile)));
            trials.push(pin("moe_gemm", dtype, tile.name(), a100, move |m| moe_gemm(m, dtype, tile, true)));
            let in_place = format!("{}-in_place", tile.name());
            trials.push(pin("moe_gemm", dtype, in_place, a100, move |m| moe_gemm(m, dtype, tile, false)));
        }
        for head_dim in [64, 128, 256] {
            let square = [1, 200, 200, 4, 2, head_dim];
            let shape = format!("200x{head_dim}");
            trials.push(pin("attention", dtype, shape, a100, move |m| attention(m, dtype, square, false)));
            let decode = [2, 1, 600, 4, 4, head_dim];
            let shape = format!("1x600x{head_dim}");
            trials.push(pin("attention", dtype, shape, a100, move |m| attention(m, dtype, decode, false)));
        }
    }
    for dtype in HALVES {
        for tile in WgmmaTile::GEMM.map(AnyTile::Wgmma) {
            trials.push(pin("gemm", dtype, tile.name(), h200, move |m| gemm(m, dtype, tile)));
        }
        for tile in WgmmaTile::MOE.map(AnyTile::Wgmma) {
            trials.push(pin("moe_gemm", dtype, tile.name(), h200, move |m| moe_gemm(m, dtype, tile, true)));
            let in_place = format!("{}-in_place", tile.name());
            trials.push(pin("moe_gemm", dtype, in_place, h200, move |m| moe_gemm(m, dtype, tile, false)));
        }
        for tile in WgmmaTile::LM_HEAD {
            let name = AnyTile::Wgmma(tile).name();
            trials.push(pin("lm_head", dtype, name, h200, move |m| lm_head(m, dtype, 300, Some(tile))));
        }
        for head_dim in [64, 128] {
            let square = [1, 520, 520, 4, 2, head_dim];
            let shape = format!("wgmma_520x{head_dim}");
            trials.push(pin("attention", dtype, shape, h200, move |m| attention(m, dtype, square, true)));
        }
    }
    for gpu in [h200, a100] {
        for dtype in DTYPES {
            for (n, k) in [(2304, 768), (768, 3072)] {
                let shape = format!("1x{n}x{k}");
                trials.push(pin("gemm", dtype, shape, gpu, move |m| one_row(m, dtype, n, k)));
            }
            trials.push(pin("mlp", dtype, "130x256x512", gpu, move |m| mlp(m, dtype)));
            // the tiles that the launcher picks for a few rows and for many
            for num_rows in [4, 130] {
                let shape = format!("{num_rows}x1000x512");
                trials.push(pin("lm_head", dtype, shape, gpu, move |m| lm_head(m, dtype, num_rows, None)));
            }
        }
    }
    trials
}

fn gemm(m: &Meter, dtype: DType, tile: AnyTile) -> Result<u64, Failed> {
    // Not whole tiles, but rows of whole sectors.
    let (rows, n, k) = match tile.shape() {
        (16, _) => (24, 208, 2048),
        (64, _) => (200, 208, 2048),
        _ => (520, 400, 512),
    };
    let (a, b) = (m.random(dtype, rows * k), m.random(dtype, n * k));
    let (bias, residual) = (m.random(DType::F32, n), m.random(dtype, rows * n));
    let mut out = m.ops.allocate(dtype, rows * n)?;
    let p = GemmParams {
        out: out.tensor_mut(&[rows, n]),
        a: a.tensor(&[rows, k]),
        b: b.tensor(&[n, k]),
        bias: Some(bias.tensor(&[n])),
        // Portable erf branches by value: a warp in two parts would store in two requests.
        activation: Activation::GeluTanh,
        residual: Residual::From(residual.tensor(&[rows, n])),
    };
    let raw = p.raw(m.ops.place())?;
    // SAFETY: the tensors borrow their memory, and the meter waits for the work before they are dropped.
    unsafe {
        match tile {
            AnyTile::Portable(tile) => kernels::gemm_with_tile(m.ops.kernels(), &raw, tile, m.ops.stream())?,
            AnyTile::Wgmma(tile) => kernels::gemm_with_wgmma(m.ops.kernels(), &raw, tile, m.ops.stream())?,
        }
    }
    m.ops.synchronize()?;
    Ok(traffic::gemm_bytes_with(tile.shape(), &raw)?)
}

fn one_row(m: &Meter, dtype: DType, n: usize, k: usize) -> Result<u64, Failed> {
    let (a, b, bias) = (m.random(dtype, k), m.random(dtype, n * k), m.random(DType::F32, n));
    let mut out = m.ops.allocate(dtype, n)?;
    let p = GemmParams {
        out: out.tensor_mut(&[1, n]),
        a: a.tensor(&[1, k]),
        b: b.tensor(&[n, k]),
        bias: Some(bias.tensor(&[n])),
        activation: Activation::Identity,
        residual: Residual::None,
    };
    let bytes = p.fewest_bytes();
    m.ops.gemm(p)?;
    Ok(bytes)
}

fn mlp(m: &Meter, dtype: DType) -> Result<u64, Failed> {
    let (num_tokens, hidden_size, intermediate_size) = (130, 256, 512);
    let x = m.random(dtype, num_tokens * hidden_size);
    let (fc, proj) =
        (m.random(dtype, intermediate_size * hidden_size), m.random(dtype, hidden_size * intermediate_size));
    let mut hidden = m.ops.allocate(dtype, num_tokens * intermediate_size)?;
    let mut out = m.random(dtype, num_tokens * hidden_size);
    let p = MlpParams {
        out: out.tensor_mut(&[num_tokens, hidden_size]),
        x: x.tensor(&[num_tokens, hidden_size]),
        hidden: hidden.tensor_mut(&[num_tokens, intermediate_size]),
        fc: fc.tensor(&[intermediate_size, hidden_size]),
        fc_bias: None,
        proj: proj.tensor(&[hidden_size, intermediate_size]),
        proj_bias: None,
        activation: Activation::GeluTanh,
        residual: Residual::InPlace,
    };
    let (up, down) = p.gemms();
    m.ops.mlp(p)?;
    Ok(traffic::gemm_bytes(m.ops.kernels(), &up)? + traffic::gemm_bytes(m.ops.kernels(), &down)?)
}

fn moe_gemm(m: &Meter, dtype: DType, tile: AnyTile, gathers: bool) -> Result<u64, Failed> {
    // A split tile is for long sums: of short ones the bias and the offsets are a tenth.
    let k = if matches!(tile, AnyTile::Wgmma(WgmmaTile::Split(_))) { 2048 } else { 512 };
    let (n, num_rows) = (272, LOADS.iter().sum::<usize>());
    let num_tokens = if gathers { 100 } else { num_rows };
    let (a, b) = (m.random(dtype, num_tokens * k), m.random(dtype, LOADS.len() * n * k));
    let bias = m.random(DType::F32, LOADS.len() * n);
    let index = m.integers((0..num_rows).map(|row| row * 7 % num_tokens));
    let offsets = m.integers((0..=LOADS.len()).map(|expert| LOADS[..expert].iter().sum()));
    let mut out = m.ops.allocate(dtype, num_rows * n)?;
    let p: MoeGemmParams<Tensor<'_>, TensorMut<'_>> = MoeGemmParams {
        out: out.tensor_mut(&[num_rows, n]),
        a: a.tensor(&[num_tokens, k]),
        row_index: gathers.then(|| index.tensor(&[num_rows])),
        b: b.tensor(&[LOADS.len(), n, k]),
        bias: Some(bias.tensor(&[LOADS.len(), n])),
        expert_offsets: offsets.tensor(&[LOADS.len() + 1]),
        activation: Activation::GeluTanh,
    };
    let raw = p.raw(m.ops.place())?;
    // SAFETY: as in gemm.
    unsafe {
        match tile {
            AnyTile::Portable(tile) => {
                kernels::moe_gemm_with_tile(m.ops.kernels(), &raw, tile, m.ops.stream())?
            }
            AnyTile::Wgmma(tile) => {
                kernels::moe_gemm_with_wgmma(m.ops.kernels(), &raw, tile, m.ops.stream())?
            }
        }
    }
    m.ops.synchronize()?;
    Ok(traffic::moe_gemm_bytes_with(tile.shape(), matches!(tile, AnyTile::Wgmma(_)), &raw, &LOADS)?)
}

fn lm_head(m: &Meter, dtype: DType, num_rows: usize, tile: Option<WgmmaTile>) -> Result<u64, Failed> {
    let (vocab_size, hidden_size) = (1000, 512);
    let (x, weight) = (m.random(dtype, num_rows * hidden_size), m.random(dtype, vocab_size * hidden_size));
    let targets = m.integers((0..num_rows).map(|row| row * 7919 % vocab_size));
    let scratch_len = LmHeadParams::scratch_len(num_rows, vocab_size);
    let mut scratch = m.ops.allocate(DType::F32, scratch_len)?;
    let mut argmax = m.ops.allocate(DType::I32, num_rows)?;
    let mut losses = m.ops.allocate(DType::F32, num_rows)?;
    let p = LmHeadParams {
        x: x.tensor(&[num_rows, hidden_size]),
        rows: None,
        weight: weight.tensor(&[vocab_size, hidden_size]),
        bias: None,
        logits: None,
        argmax: Some(argmax.tensor_mut(&[num_rows])),
        allowed_vocab: vocab_size,
        cross_entropy: Some(CrossEntropy {
            targets: targets.tensor(&[num_rows]),
            ignore_index: -1,
            losses: losses.tensor_mut(&[num_rows]),
        }),
        scratch: scratch.tensor_mut(&[scratch_len]),
    };
    let raw = p.raw(m.ops.place())?;
    match tile {
        // SAFETY: as in gemm.
        Some(tile) => unsafe { kernels::lm_head_with_wgmma(m.ops.kernels(), &raw, tile, m.ops.stream())? },
        None => m.ops.lm_head(p)?,
    }
    m.ops.synchronize()?;
    Ok(match tile {
        Some(tile) => traffic::lm_head_bytes_with(tile.shape(), &raw)?,
        None => traffic::lm_head_bytes(m.ops.kernels(), &raw)?,
    })
}

fn attention(m: &Meter, dtype: DType, dims: [usize; 6], is_wgmma: bool) -> Result<u64, Failed> {
    let [batch_size, seq_len, kv_len, num_heads, num_kv_heads, head_dim] = dims;
    let (queries, keys) =
        ([batch_size, seq_len, num_heads, head_dim], [batch_size, kv_len, num_kv_heads, head_dim]);
    let q = m.random(dtype, queries.iter().product());
    let (k, v) = (m.random(dtype, keys.iter().product()), m.random(dtype, keys.iter().product()));
    let mut out = m.ops.allocate(dtype, queries.iter().product())?;
    let p = AttentionParams {
        out: out.tensor_mut(&queries),
        q: q.tensor(&queries),
        k: k.tensor(&keys),
        v: v.tensor(&keys),
        kv_len,
        kv_lengths: None,
        block_table: None,
        softmax_scale: 1.0 / (head_dim as f32).sqrt(),
        split: None,
    };
    let raw = p.raw(m.ops.place())?;
    if is_wgmma {
        // SAFETY: as in gemm.
        unsafe { kernels::attention_with_wgmma(m.ops.kernels(), &raw, m.ops.stream())? };
        m.ops.synchronize()?;
        return Ok(traffic::wgmma_attention_bytes(&raw)?);
    }
    let bytes = traffic::attention_bytes(m.ops.kernels(), &raw)?;
    m.ops.attention(p)?;
    Ok(bytes)
}
