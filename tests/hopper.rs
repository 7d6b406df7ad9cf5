//! No bank of shared memory is hit twice by a Hopper kernel, in any case of its sweep: every instruction takes as few
//! passes over the banks as its bytes need. That they compute the right thing is their operations' and orders.rs's.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics, WgmmaTile};
use nanomoe::tensor::DType;

use crate::common::{executors, trial};
use crate::gemm::tile_name;
use crate::{attention, gemm, lm_head, moe_gemm};

/// All cases of some Hopper kernels.
#[derive(Clone, Copy)]
enum Sweep {
    Gemm(WgmmaTile),
    Moe(WgmmaTile),
    LmHead(WgmmaTile),
    /// By head dimension.
    Attention(usize),
}

impl Sweep {
    fn name(self) -> String {
        match self {
            Sweep::Gemm(tile) => format!("gemm_{}", tile_name(tile)),
            Sweep::Moe(tile) => format!("moe_gemm_{}", tile_name(tile)),
            Sweep::LmHead(tile) => format!("lm_head_{}", tile_name(tile)),
            Sweep::Attention(head_dim) => format!("attention_{head_dim}"),
        }
    }

    fn run(self, ops: &DeviceOperations, dtype: DType) -> Result<(), Failed> {
        match self {
            Sweep::Gemm(tile) => gemm::wgmma_cases(tile)
                .into_iter()
                .try_for_each(|case| gemm::run_wgmma_on(ops, dtype, tile, case)),
            Sweep::Moe(tile) => moe_gemm::wgmma_cases(tile)
                .into_iter()
                .try_for_each(|case| moe_gemm::run_wgmma_on(ops, dtype, tile, case)),
            Sweep::LmHead(tile) => lm_head::WGMMA_CASES
                .iter()
                .try_for_each(|(_, make)| lm_head::run_wgmma_on(ops, dtype, tile, make(dtype))),
            Sweep::Attention(head_dim) => attention::wgmma_cases(head_dim)
                .into_iter()
                .try_for_each(|case| attention::run_wgmma_on(ops, dtype, case)),
        }
    }
}

/// Shared memory's wavefronts are the fewest that these bytes need.
fn run_conflicts(sweep: Sweep, dtype: DType) -> Result<(), Failed> {
    let device = Arc::new(VirtualDevice::new());
    let ops = DeviceOperations::with_numerics(device.clone(), Numerics::Fast)?;
    sweep.run(&ops, dtype)?;
    let counters = device.gpu().counters();
    let wgmma: Vec<_> = counters.iter().filter(|kernel| kernel.kernel.starts_with("wgmma")).collect();
    if wgmma.is_empty() {
        return Err("no Hopper kernel ran".into());
    }
    for kernel in wgmma {
        let total = &kernel.total;
        if total.shared_wavefronts > total.shared_wavefronts_least {
            let worst = kernel
                .lines
                .iter()
                .max_by_key(|(_, line)| line.shared_wavefronts.saturating_sub(line.shared_wavefronts_least));
            return Err(format!(
                "{}: {} wavefronts of shared memory, at least {}; most of the rest at {:?}",
                kernel.kernel,
                total.shared_wavefronts,
                total.shared_wavefronts_least,
                worst.map(|(place, _)| place)
            )
            .into());
        }
    }
    Ok(())
}

/// Every trial of the Hopper kernels as such.
pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    let tiles = WgmmaTile::GEMM.map(Sweep::Gemm).into_iter();
    let tiles = tiles.chain(WgmmaTile::MOE.map(Sweep::Moe)).chain(WgmmaTile::LM_HEAD.map(Sweep::LmHead));
    let sweeps: Vec<Sweep> = tiles.chain([64, 128].map(Sweep::Attention)).collect();
    for &executor in executors().iter().filter(|executor| executor.name == "virtual") {
        for dtype in [DType::BF16, DType::F16] {
            for &sweep in &sweeps {
                let banks = format!("{}_banks", sweep.name());
                trials.push(trial("hopper", dtype, banks, executor, move |_| run_conflicts(sweep, dtype)));
            }
        }
    }
    trials
}
