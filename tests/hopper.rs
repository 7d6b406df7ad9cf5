//! What the virtual GPU alone can say of the Hopper kernels: right in every order of what nothing orders, no bank of
//! shared memory hit twice, no more bytes moved than their formula.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics, WgmmaTile};
use nanomoe::tensor::DType;
use virtual_gpu::{Description, Options, Order};

use crate::common::{executors, trial};
use crate::gemm::tile_name;
use crate::{gemm, lm_head, moe_gemm};

const ORDERS: [Order; 4] = [Order::Lazy, Order::Random(1), Order::Random(2), Order::Random(3)];

/// A virtual Hopper with this order, and operations on it.
fn open(order: Order) -> Result<(Arc<VirtualDevice>, DeviceOperations), Failed> {
    let device = Arc::new(VirtualDevice::with(Description::h200(), Options { order, ..Options::default() }));
    let ops = DeviceOperations::with_numerics(device.clone(), Numerics::Fast)?;
    Ok((device, ops))
}

/// Runs all of a tile's cases on `ops`.
type Sweep = fn(&DeviceOperations, WgmmaTile) -> Result<(), Failed>;

fn gemm_cases(ops: &DeviceOperations, tile: WgmmaTile) -> Result<(), Failed> {
    gemm::wgmma_cases(tile).into_iter().try_for_each(|case| gemm::run_wgmma_on(ops, DType::BF16, tile, case))
}

fn moe_cases(ops: &DeviceOperations, tile: WgmmaTile) -> Result<(), Failed> {
    moe_gemm::wgmma_cases()
        .into_iter()
        .try_for_each(|case| moe_gemm::run_wgmma_on(ops, DType::BF16, tile, case))
}

fn lm_head_cases(ops: &DeviceOperations, tile: WgmmaTile) -> Result<(), Failed> {
    let mut cases = lm_head::WGMMA_CASES.iter();
    cases.try_for_each(|(_, make)| lm_head::run_wgmma_on(ops, DType::BF16, tile, make(DType::BF16)))
}

fn run_orders(sweep: Sweep, tile: WgmmaTile) -> Result<(), Failed> {
    for order in ORDERS {
        let (_device, ops) = open(order)?;
        sweep(&ops, tile).map_err(|failed| format!("{order:?}: {}", failed.message().unwrap_or("failed")))?;
        nanomoe::operations::Operations::synchronize(&ops)?;
    }
    Ok(())
}

/// Shared memory's wavefronts are the fewest that these bytes need.
fn run_conflicts(sweep: Sweep, tile: WgmmaTile) -> Result<(), Failed> {
    let (device, ops) = open(Order::Eager)?;
    sweep(&ops, tile)?;
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
    let sweeps: [(&str, Sweep, &[WgmmaTile]); 3] = [
        ("gemm", gemm_cases, &WgmmaTile::GEMM),
        ("moe_gemm", moe_cases, &WgmmaTile::MOE),
        ("lm_head", lm_head_cases, &WgmmaTile::LM_HEAD),
    ];
    for &executor in executors().iter().filter(|executor| executor.name == "virtual") {
        for (operation, sweep, tiles) in sweeps {
            for &tile in tiles {
                let name = format!("{operation}_{}", tile_name(tile));
                let orders = format!("{name}_orders");
                trials.push(trial("hopper", DType::BF16, orders, executor, move |_| run_orders(sweep, tile)));
                // The split kernels pass their sums through rows of 72 floats once a tile, outside of the main loop: up
                // to a sixth more wavefronts than the bytes need.
                if !matches!(tile, WgmmaTile::Split(_)) {
                    let banks = format!("{name}_banks");
                    let run = move |_: &dyn nanomoe::operations::Operations| run_conflicts(sweep, tile);
                    trials.push(trial("hopper", DType::BF16, banks, executor, run));
                }
            }
        }
    }
    trials
}
