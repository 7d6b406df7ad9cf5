//! The grouped matrix product against the f64 reference: every way in which rows can be spread over experts.

use libtest_mimic::{Failed, Trial};
use nanomoe::kernels::{DeviceOperations, WgmmaTile, moe_gemm_with_wgmma};
use nanomoe::operations::{Activation, MoeGemmParams, Operations};
use nanomoe::reference;
use nanomoe::tensor::{DType, Tensor, TensorMut};
use proptest::prelude::*;

use crate::common::{
    Bound, Executor, Reach, check_close, download, for_any, hopper_trial, random, rounded, trial, upload,
    upload_i32,
};
use crate::gemm::{DTYPES, activate, tile_name, wide};

const UNTOUCHED: f32 = 12345.0;

#[derive(Clone, Debug)]
pub struct Case {
    name: &'static str,
    /// Rows of each expert.
    loads: Vec<usize>,
    /// Rows of out that no expert has.
    spare: usize,
    n: usize,
    k: usize,
    /// Rows of a, from which each row of out takes any; without, out's row r takes row r.
    gathered_from: Option<usize>,
    has_bias: bool,
    activation: Activation,
}

/// How a case's product is asked for.
type Product<'a> = &'a dyn Fn(MoeGemmParams<Tensor<'_>, TensorMut<'_>>) -> nanomoe::Result<()>;

fn run(ops: &dyn Operations, dtype: DType, case: Case) -> Result<(), Failed> {
    run_by(ops, dtype, case, &|p| ops.moe_gemm(p))
}

/// A case by the Hopper kernel of this tile.
pub fn run_wgmma_on(ops: &DeviceOperations, dtype: DType, tile: WgmmaTile, case: Case) -> Result<(), Failed> {
    let product = |p: MoeGemmParams<Tensor<'_>, TensorMut<'_>>| {
        let raw = p.raw(ops.place())?;
        // SAFETY: as DeviceOperations: the tensors borrow their memory, and work is waited for before it is read.
        unsafe { moe_gemm_with_wgmma(ops.kernels(), &raw, tile, ops.stream()) }
    };
    run_by(ops, dtype, case, &product)
}

fn run_by(ops: &dyn Operations, dtype: DType, case: Case, product: Product<'_>) -> Result<(), Failed> {
    let Case { n, k, .. } = case;
    let num_experts = case.loads.len();
    let mut offsets = vec![0i32];
    for &load in &case.loads {
        offsets.push(offsets[offsets.len() - 1] + load as i32);
    }
    let num_rows = *offsets.last().expect("one offset at least") as usize;
    let max_rows = num_rows + case.spare;
    let num_a_rows = case.gathered_from.unwrap_or(max_rows);
    let a = rounded(dtype, &random(1, num_a_rows * k));
    let b = rounded(dtype, &random(2, num_experts * n * k));
    let bias = random(3, num_experts * n);
    // Far apart and repeated, as tokens with several experts are; -1 beyond the last row, as dispatch leaves it.
    let row_index: Vec<i32> =
        (0..max_rows).map(|row| if row < num_rows { (row * 7919 % num_a_rows) as i32 } else { -1 }).collect();

    let a_buffer = upload(ops, dtype, &a);
    let b_buffer = upload(ops, dtype, &b);
    let bias_buffer = upload(ops, DType::F32, &bias);
    let offsets_buffer = upload_i32(ops, &offsets);
    let index_buffer = upload_i32(ops, &row_index);
    let mut out_buffer = upload(ops, dtype, &vec![UNTOUCHED; max_rows * n]);
    product(MoeGemmParams {
        out: out_buffer.tensor_mut(&[max_rows, n]),
        a: a_buffer.tensor(&[num_a_rows, k]),
        row_index: case.gathered_from.map(|_| index_buffer.tensor(&[max_rows])),
        b: b_buffer.tensor(&[num_experts, n, k]),
        bias: case.has_bias.then(|| bias_buffer.tensor(&[num_experts, n])),
        expert_offsets: offsets_buffer.tensor(&[num_experts + 1]),
        activation: case.activation,
    })?;

    let expected = reference::moe_gemm(
        &wide(&a),
        case.gathered_from.map(|_| &row_index[..]),
        &offsets,
        &wide(&b),
        case.has_bias.then_some(wide(&bias)).as_deref(),
        (n, k),
        activate(case.activation),
    );
    let got = download(ops, &out_buffer);
    check_close("out", &[num_rows, n], &got[..num_rows * n], &expected, Bound::sum(dtype, k, 1.0))?;
    let untouched = rounded(dtype, &[UNTOUCHED])[0];
    match got[num_rows * n..].iter().position(|&value| value != untouched) {
        None => Ok(()),
        Some(index) => Err(format!("row {} is no expert's, but was written", num_rows + index / n).into()),
    }
}

fn cases() -> Vec<Case> {
    let case = |name, loads: &[usize]| Case {
        name,
        loads: loads.to_vec(),
        spare: 0,
        n: 40,
        k: 72,
        gathered_from: Some(23),
        has_bias: true,
        activation: Activation::GeluErf,
    };
    let mut many = vec![0; 70];
    many[3] = 2; // in the first 32 experts that a warp scans
    many[33] = 17;
    many[69] = 5; // in the third
    vec![
        case("one_row", &[1]),
        case("even", &[8, 8, 8, 8]),
        case("tile_edges", &[15, 16, 17, 1]),
        case("empty_experts", &[0, 5, 0, 0, 19, 0]),
        case("all_on_one", &[0, 0, 61, 0]),
        case("all_on_the_last", &[0, 0, 0, 37]),
        case("no_rows", &[0, 0, 0]),
        case("more_experts_than_lanes", &many),
        case("wide_tiles", &[64, 129, 0, 70]),
        Case { spare: 9, ..case("spare_rows", &[4, 0, 9]) },
        Case { gathered_from: None, spare: 5, ..case("not_gathered", &[4, 20, 9]) },
        Case { has_bias: false, activation: Activation::Identity, ..case("plain", &[3, 30]) },
        Case { activation: Activation::GeluTanh, n: 33, k: 67, ..case("primes_gelu_tanh", &[11, 31]) },
        Case { n: 130, k: 450, ..case("long_sums", &[3, 18]) },
    ]
}

/// What breaks the Hopper tiles.
pub fn wgmma_cases(tile: WgmmaTile) -> Vec<Case> {
    let (_, block_n) = tile.shape();
    let parts = tile.parts();
    let case = |name, loads: &[usize]| Case {
        name,
        loads: loads.to_vec(),
        spare: 0,
        n: block_n + 8,
        k: 64 * parts + 72, // a step for each part, one and 8
        gathered_from: Some(23),
        has_bias: true,
        activation: Activation::GeluErf,
    };
    let mut many = vec![0; 70];
    many[3] = 2;
    many[33] = 130;
    many[69] = 5;
    let not_gathered = |case| Case { gathered_from: None, ..case };
    let plain = |case| Case { activation: Activation::Identity, has_bias: false, ..case };
    vec![
        case("one_row", &[1]),
        case("tile_edges", &[63, 64, 65, 127, 128, 129]),
        not_gathered(case("tile_edges_in_place", &[63, 64, 65, 127, 128, 129])),
        case("skew", &[0, 0, 300, 0, 1]),
        plain(case("many_experts", &many)),
        not_gathered(plain(case("many_experts_in_place", &many))),
        Case { spare: 3, ..case("no_rows", &[0, 0]) },
        Case { spare: 9, activation: Activation::GeluTanh, ..case("spare_rows", &[4, 0, 9]) },
        Case { k: 520 * parts, n: 8, ..case("long_sums", &[70, 3]) }, // more stages than the ring has
        not_gathered(Case { k: 520 * parts, n: 8, ..case("long_sums_in_place", &[70, 3]) }),
        case("cluster_edges", &[255, 256, 257]),
        not_gathered(case("cluster_edges_in_place", &[255, 256, 257])),
    ]
}

/// The Hopper tile of layers that matter, on 132 SMs: rows, experts, N, K.
fn run_picks() -> Result<(), Failed> {
    use WgmmaTile::{Split, T64x128, T128x128, T256x128, T256x256};
    let picks = [
        // nanoMoE, up and down, at 12,288 tokens, 1,024, 128 and 1
        (24576, 8, 1536, 384, T256x128),
        (24576, 8, 384, 1536, T256x128),
        (2048, 8, 1536, 384, T256x256),
        (256, 8, 1536, 384, T64x128),
        (2, 8, 1536, 384, Split(2)),
        (2, 8, 384, 1536, Split(8)),
        // Mixtral at 4,096 tokens, 128 and 1
        (8192, 8, 14336, 4096, T256x256),
        (256, 8, 14336, 4096, T64x128),
        (2, 8, 14336, 4096, T64x128),
        (2, 8, 4096, 14336, T64x128),
        // DeepSeek-V3 at 4,096 tokens: 128 rows an expert
        (32768, 256, 4096, 7168, T128x128),
    ];
    let mut wrong = String::new();
    for (rows, experts, n, k, expected) in picks {
        let picked = WgmmaTile::pick_grouped(rows, experts, n, k, 132);
        if picked != expected {
            wrong += &format!("{rows} rows, {experts} x {n}x{k}: {picked:?}, expected {expected:?}\n");
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.into()) }
}

/// Every trial of `moe_gemm`.
pub fn trials(executors: &[Executor]) -> Vec<Trial> {
    let mut trials = vec![Trial::test("moe_gemm::picks", run_picks)];
    for &executor in executors {
        for dtype in [DType::BF16, DType::F16] {
            for tile in WgmmaTile::MOE {
                for case in wgmma_cases(tile).into_iter().filter(|_| executor.may_be_hopper()) {
                    let name = format!("{}_{}", tile_name(tile), case.name);
                    let run = move |ops: &DeviceOperations| run_wgmma_on(ops, dtype, tile, case);
                    trials.push(hopper_trial("moe_gemm_wgmma", dtype, name, executor, run));
                }
            }
        }
        for dtype in DTYPES {
            for case in cases() {
                trials.push(trial("moe_gemm", dtype, case.name, executor, move |ops| run(ops, dtype, case)));
            }
        }
    }
    trials
}

/// Any rows of any experts.
pub fn property(ops: &dyn Operations, dtype: DType, reach: Reach) -> Result<(), Failed> {
    let Reach { most, .. } = reach;
    let activation =
        prop_oneof![Just(Activation::Identity), Just(Activation::GeluErf), Just(Activation::GeluTanh)];
    let loads = proptest::collection::vec(prop_oneof![Just(0), 0..most], 1..9);
    let gathered = proptest::option::of(1..2 * most);
    let any = (loads, 0..5usize, 1..2 * most, 1..2 * most, gathered, any::<bool>(), activation);
    let case = any.prop_map(|(loads, spare, n, k, gathered_from, has_bias, activation)| Case {
        name: "any",
        loads,
        spare,
        n,
        k,
        gathered_from,
        has_bias,
        activation,
    });
    for_any(reach, case, |case| run(ops, dtype, case))
}
