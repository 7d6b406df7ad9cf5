//! `nanomoe profile`: what an operation's kernels do and move, counted exactly on the virtual GPU.

use std::io::Write;
use std::sync::Arc;

use nanomoe::Error;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics};
use nanomoe::operations::Operations;
use virtual_gpu::KernelCounters;
use virtual_gpu::counters::{InstructionCounts, Traffic};

use super::ProfileArgs;
use super::bench::cases::{Case, OPS};
use super::bench::work;
use super::output::Done;

pub fn run(args: &ProfileArgs) -> Done {
    let known = || OPS.iter().map(|op| op.name).collect::<Vec<_>>().join(", ");
    let op = OPS
        .iter()
        .find(|op| op.name == args.op)
        .ok_or_else(|| Error::Usage(format!("there is no operation `{}`: {}", args.op, known())))?;
    let case = Case::parse(op, &args.shape)?;
    let device = Arc::new(VirtualDevice::new());
    let numerics = if args.portable { Numerics::BatchInvariant } else { Numerics::Fast };
    let ops = DeviceOperations::with_numerics(device.clone(), numerics)?;
    let dtype = args.dtype.map_or(work::DTYPE, Into::into);
    let mut work = work::prepare_in(dtype, &ops, &case)?;
    // Preparing may have launched kernels of its own.
    device.gpu().reset_counters();
    work.launch(&ops)?;
    ops.synchronize()?;
    let kernels = device.gpu().counters();

    let mut out = std::io::stdout().lock();
    writeln!(out, "{} in {} on {}", case.name(), dtype, ops.name())?;
    for kernel in &kernels {
        write_kernel(&mut out, kernel)?;
        if args.lines {
            write_lines(&mut out, kernel)?;
        }
    }
    let moved: u64 = kernels.iter().map(|kernel| bytes(&kernel.total)).sum();
    let fewest = work.bytes();
    writeln!(out, "bytes moved                  {moved:>14}")?;
    write_beside(&mut out, "the fewest it must move", fewest, moved)?;
    if let Some(of_tiles) = work.launch_bytes(&ops)? {
        write_beside(&mut out, "what the launch's tiles move", of_tiles as f64, moved)?;
    }
    Ok(())
}

fn write_beside(out: &mut impl Write, what: &str, bytes: f64, moved: u64) -> std::io::Result<()> {
    writeln!(out, "{what:28} {bytes:>14.0}  moved {:.3} times as much", moved as f64 / bytes)
}

fn bytes(counts: &InstructionCounts) -> u64 {
    counts.global_loads.bytes + counts.global_stores.bytes
}

fn write_kernel(out: &mut impl Write, kernel: &KernelCounters) -> std::io::Result<()> {
    let total = &kernel.total;
    writeln!(out, "\n{}, launched {}", kernel.kernel, times(kernel.launches))?;
    writeln!(out, "  instructions of threads    {:>14}  of warps {}", total.threads, total.warps)?;
    let classes = KernelCounters::class_names().into_iter().zip(kernel.by_class);
    for (class, count) in classes.filter(|(_, count)| *count > 0) {
        writeln!(out, "    {class:<24} {count:>14}")?;
    }
    writeln!(out, "  products on tensor cores   {:>14}", total.tensor_macs)?;
    write_traffic(out, "loads", &total.global_loads)?;
    write_traffic(out, "stores", &total.global_stores)?;
    let (taken, least) = (total.shared_wavefronts, total.shared_wavefronts_least);
    writeln!(out, "  passes over shared memory  {taken:>14}  {} of them bank conflicts", taken - least)
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn write_traffic(out: &mut impl Write, what: &str, traffic: &Traffic) -> std::io::Result<()> {
    let Traffic { requests, bytes, sectors, sectors_least } = traffic;
    let a_request = *sectors as f64 / (*requests).max(1) as f64;
    writeln!(
        out,
        "  global {what:<19} {bytes:>14} bytes in {requests} requests of {a_request:.1} sectors of 32 bytes, {} too many",
        sectors - sectors_least
    )
}

/// What each source line did, those that moved most first.
fn write_lines(out: &mut impl Write, kernel: &KernelCounters) -> std::io::Result<()> {
    let mut lines: Vec<(String, InstructionCounts)> = Vec::new();
    for (place, counts) in kernel.lines.iter().filter(|(_, counts)| counts.warps > 0) {
        let name = match place.frames.first() {
            Some(frame) => format!("{}:{}", frame.file.rsplit('/').next().unwrap_or(""), frame.line),
            None => format!("PTX line {}", place.ptx_line),
        };
        match lines.iter_mut().find(|(line, _)| *line == name) {
            Some((_, sum)) => sum.add(counts),
            None => lines.push((name, *counts)),
        }
    }
    lines.sort_by_key(|(_, counts)| std::cmp::Reverse((bytes(counts), counts.threads)));
    writeln!(
        out,
        "  {:>14} {:>14} {:>12} {:>12} {:>9} {:>9} {:>9}  line",
        "threads", "products", "load bytes", "store bytes", "sectors", "passes", "conflicts"
    )?;
    for (line, c) in lines {
        writeln!(
            out,
            "  {:>14} {:>14} {:>12} {:>12} {:>9} {:>9} {:>9}  {line}",
            c.threads,
            c.tensor_macs,
            c.global_loads.bytes,
            c.global_stores.bytes,
            c.global().sectors,
            c.shared_wavefronts,
            c.shared_wavefronts - c.shared_wavefronts_least
        )?;
    }
    Ok(())
}
