//! `nanomoe kernels`: what build.rs compiled.

use std::io::Write;

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
            findings.extend(instruction_findings(module, kernel));
        }
        findings.extend(module.warnings.iter().map(|warning| format!("{}.cu: {warning}", module.name)));
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
            "no spills, no local memory, no C75xx warnings; wgmma and TMA in every Hopper product"
        )?;
        Ok(())
    } else {
        Err(Failure::Found)
    }
}

/// What the machine code of a kernel has that it should not, or lacks. Every kernel for Hopper takes part in programmatic
/// dependent launch; those named wgmma are matrix products by the tensor cores and the copy engine. Split-K and the
/// vocabulary kernels leave sums and partial results, which threads store; the others store tiles by the copy engine.
fn instruction_findings(module: &CompiledModule, kernel: &CompiledKernel) -> Vec<String> {
    let name = format!("{} ({})", kernel.name, kernel.arch);
    let Some(opcodes) = kernel.opcodes else { return vec![format!("{name}: its machine code was not read")] };
    let mut findings = Vec::new();
    if opcodes.local > 0 {
        findings.push(format!("{name}: {} loads and stores of local memory", opcodes.local));
    }
    if module.target == Target::Sm90a {
        let is_product = kernel.name.starts_with("wgmma");
        let stores_tiles = is_product && !kernel.name.contains("split") && !kernel.name.contains("lm_head");
        let wanted = [
            ("HGMMA", opcodes.hgmma, is_product),
            ("UTMALDG", opcodes.utmaldg, is_product),
            ("UTMASTG", opcodes.utmastg, stores_tiles),
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
