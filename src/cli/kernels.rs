//! `nanomoe kernels`: what build.rs compiled.

use std::io::Write;

use nanomoe::kernels::budget::{Budget, budgets};
use nanomoe::kernels::compiled::{self, CompiledKernel, CompiledModule, Target};

use super::KernelsArgs;
use super::output::{Done, Failure, tell};

pub fn run(args: &KernelsArgs) -> Done {
    let modules = compiled::modules()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "compiled by nvcc {}", compiled::compiler_version()?)?;
    let width =
        modules.iter().flat_map(|module| module.kernels).map(|kernel| kernel.name.len()).max().unwrap_or(6);
    writeln!(out, "{:width$}  target   registers  shared  stack  spills", "kernel")?;
    let mut findings = Vec::new();
    let budgets = budgets();
    for module in modules {
        for kernel in module.kernels {
            let spills = kernel.spill_store_bytes + kernel.spill_load_bytes;
            writeln!(
                out,
                "{:width$}  {:7}  {:9}  {:6}  {:5}  {spills:6}",
                kernel.name,
                target_name(module, kernel.arch),
                kernel.registers,
                kernel.shared_bytes,
                kernel.stack_bytes,
            )?;
            if spills > 0 {
                findings.push(format!(
                    "{} ({}): spills {} bytes out and {} back",
                    kernel.name, kernel.arch, kernel.spill_store_bytes, kernel.spill_load_bytes
                ));
            }
            let budget = budgets.iter().find(|budget| budget.covers(kernel.name));
            findings.extend(budget_findings(kernel, budget));
            findings.extend(instruction_findings(module, kernel, budget));
        }
        findings.extend(module.warnings.iter().map(|warning| format!("{}.cu: {warning}", module.name)));
    }
    if args.budgets {
        write_budgets(&mut out, &budgets)?;
    }
    if !args.check {
        return Ok(());
    }
    for finding in &findings {
        tell(finding);
    }
    if findings.is_empty() {
        writeln!(
            out,
            "within budgets: no spills, no local memory, no C75xx warnings; wgmma and TMA in every Hopper product"
        )?;
        Ok(())
    } else {
        Err(Failure::Found)
    }
}

/// Where a kernel needs more than its budget, or has none.
fn budget_findings(kernel: &CompiledKernel, budget: Option<&Budget>) -> Vec<String> {
    let exceeded = match budget {
        Some(budget) => budget.exceeded_by(kernel.registers, kernel.shared_bytes),
        None => vec!["no budget is written for it".to_owned()],
    };
    exceeded.into_iter().map(|what| format!("{} ({}): {what}", kernel.name, kernel.arch)).collect()
}

fn write_budgets(out: &mut impl Write, budgets: &[Budget]) -> std::io::Result<()> {
    let width = budgets.iter().map(|budget| budget.kernel.len()).max().unwrap_or(6);
    writeln!(
        out,
        "\n{:width$}  registers  moved to  threads  stages  shared  an SM   waves  shape, bound, why",
        "budget of"
    )?;
    for budget in budgets {
        let moved =
            budget.moved_registers.map_or_else(|| "-".to_owned(), |(low, high)| format!("{low}, {high}"));
        writeln!(
            out,
            "{:width$}  {:9}  {moved:>8}  {:7}  {:6}  {:6}  {:5}  {:6.2}  {}: {:?}; {}",
            budget.kernel,
            budget.registers,
            budget.threads,
            budget.stages,
            budget.static_shared_bytes + budget.dynamic_shared_bytes,
            budget.blocks_per_sm,
            budget.waves(),
            budget.shape,
            budget.bound,
            budget.why
        )?;
    }
    Ok(())
}

/// What the machine code of a kernel has that it should not, or lacks. Every kernel for Hopper takes part in programmatic
/// dependent launch; those named wgmma are matrix products by the tensor cores and the copy engine. Split-K and the
/// vocabulary kernels leave sums and partial results, which threads store; the others store tiles by the copy engine.
fn instruction_findings(
    module: &CompiledModule,
    kernel: &CompiledKernel,
    budget: Option<&Budget>,
) -> Vec<String> {
    let name = format!("{} ({})", kernel.name, kernel.arch);
    let Some(opcodes) = kernel.opcodes else { return vec![format!("{name}: its machine code was not read")] };
    let mut findings = Vec::new();
    if opcodes.local > 0 {
        findings.push(format!("{name}: {} loads and stores of local memory", opcodes.local));
    }
    if module.target == Target::Sm90a {
        let is_product = kernel.name.starts_with("wgmma");
        let stores_tiles = is_product && !kernel.name.contains("split") && !kernel.name.contains("lm_head");
        let moves = budget.is_some_and(|budget| budget.moved_registers.is_some());
        let wanted = [
            ("HGMMA", opcodes.hgmma, is_product),
            ("UTMALDG", opcodes.utmaldg, is_product),
            ("UTMASTG", opcodes.utmastg, stores_tiles),
            ("USETMAXREG", opcodes.usetmaxreg, moves),
            ("ACQBULK", opcodes.acqbulk, true),
            ("PREEXIT", opcodes.preexit, true),
        ];
        let missing = wanted.into_iter().filter(|&(_, count, needed)| needed && count == 0);
        findings.extend(missing.map(|(instruction, ..)| format!("{name}: no {instruction}")));
    }
    findings
}

fn target_name(module: &CompiledModule, arch: &str) -> String {
    match module.target {
        Target::Portable => arch.to_owned(),
        Target::Sm90a => "sm_90a".to_owned(),
    }
}
