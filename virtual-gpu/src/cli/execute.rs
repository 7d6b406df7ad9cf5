//! Carries a `run` command out.

use super::arguments::{Argument, Arguments, BufferSpec, Initial, NumberType};
use super::json::Json;
use crate::counters::{InstructionCounts, KernelCounters};
use crate::decode::program::{Class, Place};
use crate::numeric::convert::{f32_to_bf16_rn, f32_to_f16_rn};
use crate::tensor::tma::TensorMap;
use crate::{Description, Finding, Gpu, Launch, Options, Order, Stream};
use std::io::Write;

/// Runs the kernel and reports to `out`. Whether there were findings; the error is for exit status 2.
pub fn execute(arguments: &Arguments, out: &mut dyn Write) -> Result<bool, String> {
    let file = arguments.file.display();
    let text = std::fs::read_to_string(&arguments.file).map_err(|e| format!("{file}: {e}"))?;
    let options = Options {
        order: arguments.order,
        checks: arguments.checks,
        threads: arguments.threads,
        ..Options::default()
    };
    let gpu = Gpu::with_options(Description::h200(), options);
    let module = gpu.load_module(&text).map_err(|e| format!("{file}: {e}"))?;
    let function = module.function(&arguments.kernel).ok_or_else(|| {
        format!("{file}: no kernel {:?}; it has {}", arguments.kernel, module.functions().join(", "))
    })?;
    function.set_max_dynamic_shared(arguments.shared);
    function.allow_nonportable_cluster(true);
    arguments.registers.into_iter().for_each(|count| function.set_registers(count));

    let addresses =
        arguments.buffers.iter().map(|b| allocate(&gpu, b)).collect::<Result<Vec<u64>, String>>()?;
    let values = arguments
        .arguments
        .iter()
        .map(|argument| value(argument, arguments, &addresses))
        .collect::<Result<Vec<_>, String>>()?;
    let sizes = gpu.attributes(&function).parameters;
    if sizes.len() != values.len() {
        return Err(format!("{} takes {} arguments, got {}", arguments.kernel, sizes.len(), values.len()));
    }
    for (i, (size, value)) in sizes.iter().zip(&values).enumerate() {
        if *size as usize != value.len() {
            return Err(format!("argument {i} has {} bytes, expected {size}", value.len()));
        }
    }
    let slices: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let launch = Launch {
        grid: arguments.grid,
        block: arguments.block,
        cluster: arguments.cluster,
        dynamic_shared_bytes: arguments.shared,
        args: &slices,
        ..Launch::default()
    };
    let ended = gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize());
    if ended.is_ok() {
        for (buffer, path) in &arguments.saves {
            let mut data = vec![0; bytes(&arguments.buffers[*buffer])];
            gpu.read(addresses[*buffer], &mut data).map_err(|e| e.to_string())?;
            std::fs::write(path, data).map_err(|e| format!("{}: {e}", path.display()))?;
        }
    }
    let counters = if arguments.counters { gpu.counters() } else { Vec::new() };
    let findings = gpu.take_findings();
    // A launch beyond a limit of the device fails without a finding of its own.
    let failed = ended.err().filter(|_| findings.is_empty()).map(|e| e.to_string());
    let printed = gpu.take_printed();
    let written = if arguments.json {
        writeln!(out, "{}", json(arguments, &printed, &findings, failed.as_deref(), &counters).render())
    } else {
        out.write_all(&printed).and_then(|()| report(arguments, &findings, failed.as_deref(), &counters, out))
    };
    written.map_err(|e| format!("output: {e}"))?;
    Ok(!findings.is_empty() || failed.is_some())
}

fn bytes(spec: &BufferSpec) -> usize {
    spec.len * spec.number.bytes()
}

fn allocate(gpu: &Gpu, spec: &BufferSpec) -> Result<u64, String> {
    let name = &spec.name;
    let data = match &spec.initial {
        Initial::Undefined => None,
        Initial::Zeros => Some(vec![0; bytes(spec)]),
        Initial::Random(seed) => Some(random(spec, *seed)),
        Initial::File(path) => {
            let data =
                std::fs::read(path).map_err(|e| format!("--buffer {name}: {}: {e}", path.display()))?;
            if data.len() != bytes(spec) {
                let (got, expected) = (data.len(), bytes(spec));
                return Err(format!(
                    "--buffer {name}: {} has {got} bytes, expected {expected}",
                    path.display()
                ));
            }
            Some(data)
        }
    };
    let address = gpu.alloc(bytes(spec) as u64).map_err(|e| format!("--buffer {name}: {e}"))?;
    if let Some(data) = data {
        gpu.write(address, &data).map_err(|e| format!("--buffer {name}: {e}"))?;
    }
    Ok(address)
}

/// Uniform in -1..1; integers from -8 to 8, unsigned ones from 0 to 16.
fn random(spec: &BufferSpec, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    };
    let mut data = Vec::with_capacity(bytes(spec));
    for _ in 0..spec.len {
        let r = next();
        let unit = (r >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        let (signed, unsigned) = ((r % 17) as i64 - 8, r % 17);
        use NumberType::*;
        match spec.number {
            F64 => data.extend(unit.to_le_bytes()),
            F32 => data.extend((unit as f32).to_le_bytes()),
            F16 => data.extend(f32_to_f16_rn((unit as f32).to_bits()).to_le_bytes()),
            Bf16 => data.extend(f32_to_bf16_rn((unit as f32).to_bits()).to_le_bytes()),
            I64 | I32 | I16 | I8 => data.extend(&signed.to_le_bytes()[..spec.number.bytes()]),
            U64 | U32 | U16 | U8 => data.extend(&unsigned.to_le_bytes()[..spec.number.bytes()]),
        }
    }
    data
}

fn value(argument: &Argument, arguments: &Arguments, addresses: &[u64]) -> Result<Vec<u8>, String> {
    Ok(match argument {
        Argument::Pointer(buffer) => addresses[*buffer].to_le_bytes().to_vec(),
        Argument::Number(bytes) => bytes.clone(),
        Argument::Map { buffer, dims, box_dims, strides, swizzle } => {
            let spec = &arguments.buffers[*buffer];
            let dense = TensorMap::dense(spec.number.tensor(), addresses[*buffer], dims, box_dims);
            let strides = strides.clone().unwrap_or(dense.strides.clone());
            let map = TensorMap { strides, swizzle: *swizzle, ..dense };
            map.encode().map_err(|e| format!("--arg map:{}: {e}", spec.name))?.to_vec()
        }
    })
}

fn report(
    arguments: &Arguments,
    findings: &[Finding],
    failed: Option<&str>,
    counters: &[KernelCounters],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    if let Some(why) = failed {
        writeln!(out, "launch failed: {why}\n")?;
    }
    for kernel in counters {
        write_counters(kernel, out)?;
    }
    let order = match arguments.order {
        Order::Eager => "eager order".to_string(),
        Order::Lazy => "lazy order".to_string(),
        Order::Random(seed) => format!("random order, seed {seed}"),
    };
    let count = findings.len() + usize::from(failed.is_some());
    let count = match count {
        0 => "no findings".to_string(),
        1 => "1 finding".to_string(),
        n => format!("{n} findings"),
    };
    writeln!(out, "{}: {count} ({order})", arguments.kernel)
}

/// The counts of an instruction, with their names.
fn named(c: &InstructionCounts) -> [(&'static str, u64); 19] {
    let global = c.global();
    [
        ("warp_instructions", c.warps),
        ("thread_instructions", c.threads),
        ("tensor_macs", c.tensor_macs),
        ("global_requests", global.requests),
        ("global_bytes", global.bytes),
        ("global_sectors", global.sectors),
        ("global_sectors_least", global.sectors_least),
        ("global_load_bytes", c.global_loads.bytes),
        ("global_load_sectors", c.global_loads.sectors),
        ("global_store_bytes", c.global_stores.bytes),
        ("global_store_sectors", c.global_stores.sectors),
        ("async_load_bytes", c.async_loads.bytes),
        ("async_load_sectors", c.async_loads.sectors),
        ("async_store_bytes", c.async_stores.bytes),
        ("async_store_sectors", c.async_stores.sectors),
        ("shared_requests", c.shared_requests),
        ("shared_bytes", c.shared_bytes),
        ("shared_wavefronts", c.shared_wavefronts),
        ("shared_wavefronts_least", c.shared_wavefronts_least),
    ]
}

/// Counts by source line, in the order in which the lines first come in the program.
fn by_line(kernel: &KernelCounters) -> Vec<(String, InstructionCounts)> {
    let mut lines: Vec<(String, InstructionCounts)> = Vec::new();
    for (place, counts) in kernel.lines.iter().filter(|(_, counts)| counts.warps > 0) {
        let name = line_name(place);
        match lines.iter_mut().find(|(n, _)| *n == name) {
            Some((_, sum)) => sum.add(counts),
            None => lines.push((name, *counts)),
        }
    }
    lines
}

fn line_name(place: &Place) -> String {
    match place.frames.first() {
        Some(frame) => format!("{}:{}", frame.file, frame.line),
        None => format!("PTX line {}", place.ptx_line),
    }
}

fn write_counters(kernel: &KernelCounters, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "counters of {}", kernel.kernel)?;
    for (name, count) in named(&kernel.total) {
        writeln!(out, "  {name:<24} {count:>14}")?;
    }
    for (class, count) in Class::NAMES.iter().zip(kernel.by_class).filter(|(_, count)| *count > 0) {
        writeln!(out, "  threads: {class:<15} {count:>14}")?;
    }
    let header =
        ["threads", "MACs", "load bytes", "store bytes", "async", "sectors", "least", "wavefronts", "least"];
    writeln!(out, "{}  line", columns(header))?;
    for (line, c) in by_line(kernel) {
        let global = c.global();
        let counts = [
            c.threads,
            c.tensor_macs,
            c.global_loads.bytes,
            c.global_stores.bytes,
            c.async_loads.bytes + c.async_stores.bytes,
            global.sectors,
            global.sectors_least,
            c.shared_wavefronts,
            c.shared_wavefronts_least,
        ];
        writeln!(out, "{}  {line}", columns(counts))?;
    }
    writeln!(out)
}

/// A row of the table of lines: instructions, products and bytes are longer numbers than the rest.
fn columns<T: std::fmt::Display>(row: [T; 9]) -> String {
    let widths = [14, 14, 12, 12, 12, 10, 10, 10, 10];
    row.iter().zip(widths).map(|(value, width)| format!(" {value:>width$}")).collect()
}

fn json(
    arguments: &Arguments,
    printed: &[u8],
    findings: &[Finding],
    failed: Option<&str>,
    counters: &[KernelCounters],
) -> Json {
    let (order, seed) = match arguments.order {
        Order::Eager => ("eager", Json::Null),
        Order::Lazy => ("lazy", Json::Null),
        Order::Random(seed) => ("random", Json::Number(seed)),
    };
    let mut fields = vec![
        ("kernel", arguments.kernel.as_str().into()),
        ("order", order.into()),
        ("seed", seed),
        ("error", failed.map_or(Json::Null, Json::from)),
        ("findings", Json::List(findings.iter().map(finding).collect())),
    ];
    if !printed.is_empty() {
        fields.push(("printed", String::from_utf8_lossy(printed).as_ref().into()));
    }
    if arguments.counters {
        fields.push(("counters", Json::List(counters.iter().map(kernel_counters).collect())));
    }
    Json::Object(fields)
}

fn place(place: &Place) -> Vec<(&'static str, Json)> {
    let frame = place.frames.first();
    let inlined = place.frames.windows(2).map(|pair| {
        Json::Object(vec![
            ("function", pair[0].function.as_str().into()),
            ("file", pair[1].file.as_str().into()),
            ("line", Json::Number(pair[1].line.into())),
        ])
    });
    vec![
        ("file", frame.map_or(Json::Null, |f| f.file.as_str().into())),
        ("line", frame.map(|f| f.line).into()),
        ("inlined", Json::List(inlined.collect())),
        ("ptx_line", Json::Number(place.ptx_line.into())),
        ("opcode", place.opcode.as_str().into()),
    ]
}

fn finding(f: &Finding) -> Json {
    let mut fields = vec![
        ("kind", f.kind.name().into()),
        ("message", f.message.as_str().into()),
        ("kernel", f.kernel.as_str().into()),
    ];
    fields.extend(place(&f.place));
    fields.extend([
        ("cta", Json::List(f.cta.iter().map(|&i| Json::Number(i.into())).collect())),
        ("warp", f.warp.into()),
        ("lane", f.lane.into()),
        ("address", f.address.into()),
        (
            "other",
            f.other.as_ref().map_or(Json::Null, |other| {
                let mut fields = vec![("what", other.what.as_str().into())];
                fields.extend(other.place.iter().flat_map(place));
                Json::Object(fields)
            }),
        ),
        ("count", Json::Number(f.count)),
        ("fatal", Json::Bool(f.fatal)),
    ]);
    Json::Object(fields)
}

fn kernel_counters(kernel: &KernelCounters) -> Json {
    let totals = |counts: &InstructionCounts| -> Vec<(&'static str, Json)> {
        named(counts).into_iter().map(|(name, count)| (name, Json::Number(count))).collect()
    };
    let classes = Class::NAMES.iter().zip(kernel.by_class).map(|(name, count)| (*name, Json::Number(count)));
    let lines = by_line(kernel).into_iter().map(|(line, counts)| {
        let mut fields = vec![("line", Json::Text(line))];
        fields.extend(totals(&counts));
        Json::Object(fields)
    });
    let mut fields = vec![("kernel", kernel.kernel.as_str().into())];
    fields.extend(totals(&kernel.total));
    fields.push(("threads_by_class", Json::Object(classes.collect())));
    fields.push(("lines", Json::List(lines.collect())));
    Json::Object(fields)
}
