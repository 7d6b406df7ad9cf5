//! The matrix product against the f64 reference: every tile edge, alignment, epilogue and layout.

use libtest_mimic::{Failed, Trial};
use nanomoe::kernels::{DeviceOperations, Numerics, WgmmaTile, gemm_with_wgmma};
use nanomoe::operations::{Activation, GemmParams, Operations, Residual};
use nanomoe::reference;
use nanomoe::tensor::{DType, Tensor, TensorMut};
use proptest::prelude::*;

use crate::common::{
    Bound, Executor, Reach, check_close, decode, device_operations, encode, for_any, hopper_trial, random,
    rounded, trial, upload,
};

/// The three storage types.
pub const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// What a sum is not: written around the output, and found again if nothing but the output was written.
const UNTOUCHED: f32 = 12345.0;

/// One product and how its tensors lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    m: usize,
    n: usize,
    k: usize,
    /// Elements in front of each row of a and b; with `gap` it makes rows unaligned.
    lead: usize,
    /// Elements behind each row of a and b.
    gap: usize,
    /// Elements in front of each row of out.
    out_lead: usize,
    /// Elements behind each row of out.
    out_gap: usize,
    bias: bool,
    activation: Activation,
    residual: Kind,
    out_is_f32: bool,
    /// Rows of a batch of a three-dimensional output that has room for two more in each batch.
    batch_rows: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    None,
    InPlace,
    From,
}

impl Case {
    fn plain(m: usize, n: usize, k: usize) -> Self {
        Case {
            m,
            n,
            k,
            lead: 0,
            gap: 0,
            out_lead: 0,
            out_gap: 0,
            bias: false,
            activation: Activation::Identity,
            residual: Kind::None,
            out_is_f32: false,
            batch_rows: None,
        }
    }

    fn name(&self) -> String {
        let mut name = format!("{}x{}x{}", self.m, self.n, self.k);
        if self.lead + self.gap > 0 {
            name += &format!("_lead{}_gap{}", self.lead, self.gap);
        }
        if self.out_lead + self.out_gap > 0 {
            name += &format!("_out_lead{}_gap{}", self.out_lead, self.out_gap);
        }
        if self.bias {
            name += "_bias";
        }
        match self.activation {
            Activation::Identity => {}
            Activation::GeluErf => name += "_gelu_erf",
            Activation::GeluTanh => name += "_gelu_tanh",
        }
        match self.residual {
            Kind::None => {}
            Kind::InPlace => name += "_inplace",
            Kind::From => name += "_residual",
        }
        if self.out_is_f32 {
            name += "_to_f32";
        }
        if let Some(rows) = self.batch_rows {
            name += &format!("_batches_of_{rows}");
        }
        name
    }
}

/// The sizes that break things.
fn cases() -> Vec<Case> {
    let shapes = [
        (1, 1, 1),       // one of everything
        (1, 33, 8),      // a row: the narrow tile, one 16-byte chunk of K
        (15, 31, 63),    // one less than the narrow tile and than a stage
        (16, 32, 64),    // exactly the narrow tile and a stage of bf16
        (17, 33, 65),    // one more
        (3, 97, 450),    // more stages than the ring has, in every type
        (48, 63, 127),   // between the narrow and the middle tile
        (64, 64, 128),   // the middle tile
        (65, 65, 31),    // one more; less than a stage of f32
        (127, 127, 96),  // one less than the wide tile
        (129, 257, 32),  // one more; exactly a stage of f32
        (131, 139, 101), // primes
    ];
    let mut cases: Vec<Case> = shapes.iter().map(|&(m, n, k)| Case::plain(m, n, k)).collect();

    let layouts = [
        (8, 8, 8, 8), // strided and 16-byte aligned in every type
        (4, 0, 4, 0), // 16-byte aligned in f32 only
        (1, 2, 1, 2), // never aligned
        (0, 1, 0, 3), // the first row aligned, the others not
    ];
    for (lead, gap, out_lead, out_gap) in layouts {
        cases.push(Case { lead, gap, out_lead, out_gap, ..Case::plain(20, 40, 72) });
        cases.push(Case { lead, gap, out_lead, out_gap, residual: Kind::From, ..Case::plain(70, 66, 41) });
    }

    for activation in [Activation::Identity, Activation::GeluErf, Activation::GeluTanh] {
        for residual in [Kind::None, Kind::InPlace, Kind::From] {
            let fused = Case { bias: true, activation, residual, ..Case::plain(19, 37, 40) };
            cases.push(fused);
            cases.push(Case { out_is_f32: true, bias: false, ..fused });
        }
    }
    for residual in [Kind::None, Kind::InPlace, Kind::From] {
        // As K and V go into a cache: batches apart, rows in a wider row.
        let batched = Case { batch_rows: Some(7), bias: true, residual, ..Case::plain(21, 40, 24) };
        cases.push(batched);
        cases.push(Case { out_lead: 40, out_gap: 40, ..batched });
    }
    cases
}

/// For the names of trials.
pub fn tile_name(tile: WgmmaTile) -> String {
    match tile {
        WgmmaTile::Split(parts) => format!("split{parts}"),
        WgmmaTile::Split128x128(parts) => format!("128x128_split{parts}"),
        WgmmaTile::Split128x192(parts) => format!("128x192_split{parts}"),
        _ => format!("tile{}x{}", tile.shape().0, tile.shape().1),
    }
}

/// The activation in f64.
pub fn activate(activation: Activation) -> fn(f64) -> f64 {
    match activation {
        Activation::Identity => |x| x,
        Activation::GeluErf => reference::gelu_erf,
        Activation::GeluTanh => reference::gelu_tanh,
    }
}

/// The same numbers in f64.
pub fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| value as f64).collect()
}

/// `rows` rows of `columns` values, with NaN around them as far as `lead` and `gap` say.
fn spaced(values: &[f32], columns: usize, lead: usize, gap: usize) -> Vec<f32> {
    let around = |count| std::iter::repeat_n(f32::NAN, count);
    let row = |row: &[f32]| around(lead).chain(row.iter().copied()).chain(around(gap)).collect::<Vec<f32>>();
    values.chunks_exact(columns).flat_map(row).collect()
}

/// How a case's product is asked for.
type Product<'a> = &'a dyn Fn(GemmParams<Tensor<'_>, TensorMut<'_>>) -> nanomoe::Result<()>;

fn run(ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    run_by(ops, dtype, case, &|p| ops.gemm(p))
}

fn run_by(ops: &dyn Operations, dtype: DType, case: Case, product: Product<'_>) -> Result<(), Failed> {
    let Case { m, n, k, lead, gap, out_lead, out_gap, .. } = case;
    let out_dtype = if case.out_is_f32 { DType::F32 } else { dtype };
    let a = rounded(dtype, &random(1, m * k));
    let b = rounded(dtype, &random(2, n * k));
    let bias = random(3, n);
    let residual = rounded(out_dtype, &random(4, m * n));

    let row_len = lead + k + gap;
    let a_buffer = upload(ops, dtype, &spaced(&a, k, lead, gap));
    let b_buffer = upload(ops, dtype, &spaced(&b, k, lead, gap));
    let bias_buffer = upload(ops, DType::F32, &bias);

    // Out stands in a larger buffer, whose rest must stay as it is.
    let out_row = out_lead + n + out_gap;
    let batch_rows = case.batch_rows.unwrap_or(m);
    let room = if case.batch_rows.is_some() { batch_rows + 2 } else { batch_rows };
    let batches = m / batch_rows;
    let place = |row: usize| ((row / batch_rows) * room + row % batch_rows) * out_row + out_lead;
    let placed = |values: &[f32]| {
        let mut all = vec![UNTOUCHED; batches * room * out_row];
        for (row, values) in values.chunks_exact(n).enumerate() {
            all[place(row)..][..n].copy_from_slice(values);
        }
        all
    };
    let inplace = matches!(case.residual, Kind::InPlace);
    let before = placed(if inplace { &residual } else { &[] });
    let mut out_buffer = upload(ops, out_dtype, &before);
    let residual_buffer = upload(ops, out_dtype, &placed(&residual));

    {
        let a = a_buffer.tensor(&[m, row_len]).narrow(1, lead, k);
        let b = b_buffer.tensor(&[n, row_len]).narrow(1, lead, k);
        let mut out = out_buffer.tensor_mut(&[batches, room, out_row]).narrow(2, out_lead, n);
        out = out.narrow(1, 0, batch_rows);
        let from = residual_buffer.tensor(&[batches, room, out_row]).narrow(2, out_lead, n);
        let from = from.narrow(1, 0, batch_rows);
        let (out, from) = if case.batch_rows.is_some() {
            (out, from)
        } else {
            // Two dimensions, as most callers have it.
            let out = out_buffer.tensor_mut(&[m, out_row]).narrow(1, out_lead, n);
            (out, residual_buffer.tensor(&[m, out_row]).narrow(1, out_lead, n))
        };
        product(GemmParams {
            out,
            a,
            b,
            bias: case.bias.then(|| bias_buffer.tensor(&[n])),
            activation: case.activation,
            residual: match case.residual {
                Kind::None => Residual::None,
                Kind::InPlace => Residual::InPlace,
                Kind::From => Residual::From(from),
            },
        })?;
    }

    let mut expected = reference::gemm(&wide(&a), &wide(&b), k);
    if case.bias {
        reference::add_bias(&mut expected, &wide(&bias));
    }
    expected = expected.into_iter().map(activate(case.activation)).collect();
    if !matches!(case.residual, Kind::None) {
        reference::add_residual(&mut expected, &wide(&residual));
    }

    let mut bytes = vec![0; out_buffer.len() * out_dtype.size()];
    ops.download(out_buffer.tensor(&[out_buffer.len()]), &mut bytes)?;
    let mut all = decode(out_dtype, &bytes);
    let mut got = Vec::with_capacity(m * n);
    for row in 0..m {
        got.extend_from_slice(&all[place(row)..][..n]);
        all[place(row)..][..n].fill(rounded(out_dtype, &[UNTOUCHED])[0]);
    }
    let untouched = encode(out_dtype, &vec![UNTOUCHED; all.len()]);
    if encode(out_dtype, &all) != untouched {
        return Err("gemm wrote beside its output".into());
    }
    check_close("out", &[m, n], &got, &expected, Bound::sum(out_dtype, k, 1.0))?;
    check_overall("out", out_dtype, &got, &expected, k)
}

/// The error of the whole, root mean square, is at most twice that of rounding the exact values to `dtype`, plus what
/// `terms` f32 additions leave: a tile that is slightly off everywhere passes no bound on single elements unseen.
pub fn check_overall(
    name: &str,
    dtype: DType,
    got: &[f32],
    expected: &[f64],
    terms: usize,
) -> Result<(), Failed> {
    let exact: Vec<f32> = expected.iter().map(|&value| value as f32).collect();
    let rms = |values: &[f32]| {
        let square = |(&value, &expected): (&f32, &f64)| (value as f64 - expected).powi(2);
        (values.iter().zip(expected).map(square).sum::<f64>() / values.len().max(1) as f64).sqrt()
    };
    let size =
        (expected.iter().map(|value| value * value).sum::<f64>() / expected.len().max(1) as f64).sqrt();
    let accumulate = f32::EPSILON as f64 * (terms.max(1) as f64).sqrt() * size.max(1.0);
    let allowed = 2.0 * rms(&rounded(dtype, &exact)) + accumulate;
    let found = rms(got);
    // Not `found > allowed`: a NaN is off too.
    if found <= allowed {
        return Ok(());
    }
    Err(format!("{name}: root mean square error {found:e}, at most {allowed:e} expected").into())
}

/// A row's bits do not depend on the rows around it, nor on the tile that their number asks for.
fn run_alone_and_together(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    let (m, n, k) = (261, 300, 200);
    let a = upload(ops, dtype, &random(1, m * k));
    let b = upload(ops, dtype, &random(2, n * k));
    let bias = upload(ops, DType::F32, &random(3, n));
    let product = |first: usize, rows: usize| -> Result<Vec<u8>, Failed> {
        let mut out = ops.allocate(dtype, rows * n)?;
        ops.gemm(GemmParams {
            out: out.tensor_mut(&[rows, n]),
            a: a.tensor(&[m, k]).narrow(0, first, rows),
            b: b.tensor(&[n, k]),
            bias: Some(bias.tensor(&[n])),
            activation: Activation::GeluErf,
            residual: Residual::None,
        })?;
        let mut bytes = vec![0; rows * n * dtype.size()];
        ops.download(out.tensor(&[rows, n]), &mut bytes)?;
        Ok(bytes)
    };
    let together = product(0, m)?;
    let row_bytes = n * dtype.size();
    for (first, rows) in [(0, 1), (77, 1), (260, 1), (100, 64), (3, 129)] {
        if product(first, rows)? != together[first * row_bytes..][..rows * row_bytes] {
            return Err(format!("rows {first}..{} differ when computed alone", first + rows).into());
        }
    }
    if product(0, m)? != together {
        return Err("the same call gave other bits".into());
    }
    Ok(())
}

/// Sizes of zero: nothing is launched, nothing is written; a sum of no terms is the bias.
fn run_empty(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    let some = upload(ops, dtype, &random(1, 64));
    let bias_values = rounded(dtype, &random(2, 8));
    let bias = upload(ops, DType::F32, &bias_values);
    for (m, n, k) in [(0, 8, 8), (8, 0, 8), (8, 8, 0)] {
        let mut out = upload(ops, dtype, &vec![UNTOUCHED; 64]);
        ops.gemm(GemmParams {
            out: out.tensor_mut(&[m, n]),
            a: some.tensor(&[m, k]),
            b: some.tensor(&[n, k]),
            bias: (n > 0).then(|| bias.tensor(&[n])),
            activation: Activation::Identity,
            residual: Residual::None,
        })?;
        let mut bytes = vec![0; 64 * dtype.size()];
        ops.download(out.tensor(&[64]), &mut bytes)?;
        let expected = if k == 0 { bias_values.repeat(8) } else { vec![UNTOUCHED; 64] };
        if bytes != encode(dtype, &expected) {
            return Err(format!("{m}x{n}x{k}: {:?}", decode(dtype, &bytes)).into());
        }
    }
    Ok(())
}

/// The same call gives the same bits, however K is split.
fn run_repeated(ops: &dyn Operations, dtype: DType) -> Result<(), Failed> {
    let (m, n, k) = (9, 72, 1032);
    let a = upload(ops, dtype, &random(1, m * k));
    let b = upload(ops, dtype, &random(2, n * k));
    let mut first = Vec::new();
    for _ in 0..3 {
        let mut out = ops.allocate(dtype, m * n)?;
        ops.gemm(GemmParams {
            out: out.tensor_mut(&[m, n]),
            a: a.tensor(&[m, k]),
            b: b.tensor(&[n, k]),
            bias: None,
            activation: Activation::Identity,
            residual: Residual::None,
        })?;
        let mut bytes = vec![0; m * n * dtype.size()];
        ops.download(out.tensor(&[m, n]), &mut bytes)?;
        if first.is_empty() {
            first = bytes;
        } else if bytes != first {
            return Err("the same call gave other bits".into());
        }
    }
    Ok(())
}

/// What breaks the Hopper tiles: tails of M, N and K of each, more tiles than CTAs take at once, every epilogue.
pub fn wgmma_cases(tile: WgmmaTile) -> Vec<Case> {
    let (block_m, block_n) = tile.shape();
    let parts = tile.parts();
    let shapes = [
        (1, 8, 64 * parts),
        (block_m, block_n, 64 * parts),
        (block_m - 1, block_n - 8, 64 * parts + 8),
        (block_m + 1, block_n + 8, 64 * parts + 72),
        (2 * block_m + 3, block_n / 2 + 16, 64 * parts * 6 + 16), // more stages than the ring has
    ];
    let mut cases: Vec<Case> = shapes.iter().map(|&(m, n, k)| Case::plain(m, n, k)).collect();
    let (m, n, k) = (block_m + 9, block_n + 24, 64 * parts + 40);
    let fused = Case { bias: true, ..Case::plain(m, n, k) };
    for activation in [Activation::GeluErf, Activation::GeluTanh] {
        cases.push(Case { activation, ..fused });
        cases.push(Case { activation, residual: Kind::From, ..fused });
    }
    for residual in [Kind::InPlace, Kind::From] {
        cases.push(Case { residual, lead: 8, gap: 8, out_lead: 8, out_gap: 16, ..fused });
    }
    // Batches apart: stored by threads.
    cases.push(Case { batch_rows: Some(m / 3), ..Case::plain(m / 3 * 3, n, k) });
    if parts > 1 {
        cases.push(Case { out_is_f32: true, residual: Kind::InPlace, ..Case::plain(7, 33, k) });
        cases.push(Case { lead: 8, ..Case::plain(64, 61, 64 * parts * 12) });
    }
    cases
}

/// A case by the Hopper kernel of this tile.
pub fn run_wgmma_on(ops: &DeviceOperations, dtype: DType, tile: WgmmaTile, case: Case) -> Result<(), Failed> {
    let product = |p: GemmParams<Tensor<'_>, TensorMut<'_>>| {
        let raw = p.raw(ops.place())?;
        // SAFETY: as DeviceOperations: the tensors borrow their memory, and work is waited for before it is read.
        unsafe { gemm_with_wgmma(ops.kernels(), &raw, tile, ops.stream()) }
    };
    run_by(ops, dtype, case, &product)
}

/// The Hopper tile of shapes that matter, on 132 SMs: as benches/NOTES.md predicts times with.
fn run_picks() -> Result<(), Failed> {
    use WgmmaTile::{Split, Split128x128, Split128x192, T128x192, T256x128, T256x256};
    let picks = [
        (4096, 4096, 4096, T256x256),
        (8192, 8192, 8192, T256x256),
        (16384, 2304, 768, T256x128),
        (16384, 768, 768, T256x256),
        (16384, 3072, 768, T256x128),
        (16384, 768, 3072, T256x256),
        (1024, 2304, 768, T128x192),
        (1024, 3072, 768, T128x192),
        (1024, 768, 768, Split128x128(2)),
        (1024, 768, 3072, Split128x192(4)),
        (512, 768, 3072, Split128x128(4)),
        (256, 768, 3072, Split(4)),
        (12288, 1152, 384, T256x128),
        (1, 2304, 768, Split(4)),
        (16, 768, 3072, Split(8)),
        (64, 3072, 768, Split(4)),
    ];
    let mut wrong = String::new();
    for (m, n, k, expected) in picks {
        let picked = WgmmaTile::pick(m, n, k, 132, true);
        if picked != expected {
            wrong += &format!("{m}x{n}x{k}: {picked:?}, expected {expected:?}\n");
        }
        let without = WgmmaTile::pick(m, n, k, 132, false);
        if !matches!(without, Split(_) | Split128x128(_) | Split128x192(_)) {
            wrong += &format!("{m}x{n}x{k}: a tile of panels for an output that has none\n");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

/// Every trial of `gemm`.
pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let mut trials = vec![Trial::test("gemm::picks", run_picks)];
    for &executor in executors.iter().filter(|executor| executor.may_be_hopper()) {
        for dtype in [DType::BF16, DType::F16] {
            for tile in WgmmaTile::GEMM {
                for case in wgmma_cases(tile) {
                    let run = move |ops: &DeviceOperations| run_wgmma_on(ops, dtype, tile, case);
                    let name = format!("{}_{}", tile_name(tile), case.name());
                    trials.push(hopper_trial("gemm_wgmma", dtype, name, executor, run));
                }
            }
        }
    }
    for &executor in executors {
        for dtype in DTYPES {
            for case in cases() {
                trials.push(trial("gemm", dtype, case.name(), executor, move |ops| run(ops, dtype, case)));
            }
            trials.push(trial("gemm", dtype, "empty", executor, move |ops| run_empty(ops, dtype)));
            if !executor.is_cpu() {
                let run = move |_: &dyn Operations| {
                    run_alone_and_together(&device_operations(executor, Numerics::BatchInvariant)?, dtype)
                };
                trials.push(trial("gemm", dtype, "alone_and_together", executor, run));
                let run = move |ops: &dyn Operations| run_repeated(ops, dtype);
                trials.push(trial("gemm", dtype, "repeated", executor, run));
            }
        }
    }
    trials
}

/// Any shape, strides and epilogue.
pub fn property(ops: &dyn Operations, dtype: DType, reach: Reach) -> Result<(), Failed> {
    let kind = prop_oneof![Just(Kind::None), Just(Kind::InPlace), Just(Kind::From)];
    let activation =
        prop_oneof![Just(Activation::Identity), Just(Activation::GeluErf), Just(Activation::GeluTanh)];
    let sizes = (1..reach.most, 1..2 * reach.most, 1..2 * reach.most);
    let around = (0..5usize, 0..5usize, 0..5usize, 0..5usize);
    let any =
        (sizes, around, any::<bool>(), activation, kind, any::<bool>(), proptest::option::of(1..4usize));
    let case = any.prop_map(|((m, n, k), around, bias, activation, residual, out_is_f32, batches)| {
        let (lead, gap, out_lead, out_gap) = around;
        let batch_rows = batches.map(|_| m);
        let m = m * batches.unwrap_or(1);
        Case { m, n, k, lead, gap, out_lead, out_gap, bias, activation, residual, out_is_f32, batch_rows }
    });
    for_any(reach, case, |case| run(ops, dtype, case))
}
