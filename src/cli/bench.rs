//! `nanomoe bench`: how long the kernels take, beside the ceilings of the same run and the portable kernels; and how fast
//! a model generates.

mod attention;
pub(super) mod cases;
mod compare;
mod data;
mod experts;
mod forward;
mod generate;
mod lm_head;
mod measure;
mod norms;
mod products;
mod routing;
mod rows;
mod sampling;
mod serve;
mod shapes;
mod svg;
mod table;
pub(super) mod work;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nanomoe::device::Device;
use nanomoe::device::cuda::CudaDevice;
use nanomoe::device::virtual_gpu::VirtualDevice;
use nanomoe::kernels::{DeviceOperations, Numerics, compiled};
use nanomoe::operations::Operations;
use nanomoe::{Error, Result};
use serde_json::{Value, json};

use super::output::{Done, Failure, tell, write_whole};
use super::{BenchArgs, DeviceName};
use cases::{Case, OPS};
use measure::{Clock, L2_RESIDENT_BYTES};
use work::Work;

/// What files of measurements call their format.
const SCHEMA: &str = "nanomoe-bench-1";
/// A check's error is a part of what is allowed.
const ALLOWED: f64 = 1.0;

pub fn run(args: &BenchArgs) -> Done {
    if !args.compare.is_empty() {
        return compare(args);
    }
    if args.op.as_deref() == Some("generate") {
        return generate::run(args);
    }
    if args.model.is_some() {
        return Err(Error::Usage("--model is for nanomoe bench generate".to_owned()).into());
    }
    let cases = chosen(args)?;
    if args.list {
        return list(&cases);
    }
    match args.device.unwrap_or(DeviceName::Cuda) {
        DeviceName::Cuda if args.serve => serve::measured(&open()?),
        DeviceName::Cuda => measure(args, &cases),
        DeviceName::Virtual if args.serve => serve::checked(),
        DeviceName::Virtual => check_only(&cases),
        DeviceName::Cpu => {
            Err(Error::Usage("nanomoe bench measures kernels: --device cuda or virtual".to_owned()).into())
        }
    }
}

/// Cases as JSON, one a line: what benches/peers.py measures the peers on.
fn list(cases: &[Case]) -> Done {
    let mut out = std::io::stdout().lock();
    for case in cases {
        let line = json!({
            "op": case.op, "shape": case.shape(), "variant": case.variant, "dims": case.dims,
            "row": case.row.map(|row| row.what),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn compare(args: &BenchArgs) -> Done {
    let comparison = compare::Comparison::read(&args.compare)?;
    if let Some(dir) = &args.svg {
        write_drawing(dir, "bars.svg", &svg::bars(&comparison.ratios))?;
        for path in &args.compare {
            let file = compare::read(path)?;
            if let Some(drawing) = svg::roofline(&file).filter(|_| file["source"] == "nanomoe") {
                write_drawing(dir, "roofline.svg", &drawing)?;
            }
        }
    }
    let (text, missed) = table::of(&comparison)?;
    write!(std::io::stdout().lock(), "{text}")?;
    if missed { Err(Failure::Found) } else { Ok(()) }
}

fn write_drawing(dir: &Path, name: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, error))?;
    write_whole(&dir.join(name), text.as_bytes())
}

/// The cases that the command line names; on the virtual GPU the small ones unless shapes are named.
fn chosen(args: &BenchArgs) -> Result<Vec<Case>> {
    let named = args.op.as_deref().unwrap_or("all");
    let ops: Vec<&cases::Op> = OPS.iter().filter(|op| named == "all" || op.name == named).collect();
    let [op, ..] = ops[..] else {
        let known: Vec<&str> = OPS.iter().map(|op| op.name).collect();
        return Err(Error::Usage(format!(
            "there is no benchmark of `{named}`: all, {}, generate",
            known.join(", ")
        )));
    };
    if !args.shape.is_empty() {
        if ops.len() > 1 {
            return Err(Error::Usage("--shape needs an operation: nanomoe bench OP --shape …".to_owned()));
        }
        return args.shape.iter().map(|shape| Case::parse(op, shape)).collect();
    }
    if args.device == Some(DeviceName::Virtual) {
        return Ok(ops.into_iter().flat_map(cases::small).collect());
    }
    let cases = if args.quick { shapes::quick() } else { shapes::all() };
    Ok(cases.into_iter().filter(|case| ops.iter().any(|op| op.name == case.op)).collect())
}

/// The answers alone: the virtual GPU has no notion of time.
fn check_only(cases: &[Case]) -> Done {
    let ops = DeviceOperations::new(Arc::new(VirtualDevice::new()))?;
    let mut out = std::io::stdout().lock();
    let mut wrong = false;
    for case in cases {
        let mut work = work::prepare(&ops, case)?;
        work.launch(&ops)?;
        ops.synchronize()?;
        let error = work.check(&ops)?;
        let right = error <= ALLOWED;
        wrong |= !right;
        let verdict = if right { "right" } else { "WRONG" };
        writeln!(
            out,
            "{}: {verdict}, error {error:.3} of what is allowed; not timed on the virtual GPU",
            case.name()
        )?;
    }
    if wrong { Err(Failure::Found) } else { Ok(()) }
}

/// Two sets of kernels on one GPU: the fastest for each shape, and the portable ones as the baseline.
struct Bench {
    ops: DeviceOperations,
    portable: DeviceOperations,
    clock: Clock,
    tflops: f64,
    gb_per_s: f64,
}

/// The GPU with all kernels loaded and the ceilings measured.
fn open() -> Result<Bench> {
    let device: Arc<dyn Device> = Arc::new(CudaDevice::new(0)?);
    if device.properties().name.starts_with("Virtual") {
        let reason = "it is the virtual GPU's, which has no notion of time; --device virtual checks answers";
        return Err(Error::NoDevice(reason.to_owned()));
    }
    let ops = DeviceOperations::new(device.clone())?;
    let portable = DeviceOperations::with_numerics(device, Numerics::BatchInvariant)?;
    ops.kernels().load_all()?;
    portable.kernels().load_all()?;
    let clock = Clock::new(&ops)?;
    let (tflops, gb_per_s) = (clock.gemm_ceiling(&ops)?, clock.copy_ceiling(&ops)?);
    Ok(Bench { ops, portable, clock, tflops, gb_per_s })
}

fn measure(args: &BenchArgs, cases: &[Case]) -> Done {
    let started = Instant::now();
    let bench = open()?;
    let (tflops, gb_per_s) = (bench.tflops, bench.gb_per_s);
    let mut file = match &args.json {
        Some(path) if args.resume && path.is_file() => compare::read(path)?,
        _ => json!({ "schema": SCHEMA, "source": "nanomoe", "lines": [] }),
    };
    file["machine"] = machine(&bench.ops)?;
    file["ceilings"] = bench.ceilings();
    let mut out = std::io::stdout().lock();
    for (name, value) in file["machine"].as_object().into_iter().flatten() {
        writeln!(out, "{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned))?;
    }
    writeln!(out, "ceilings: {tflops:.1} TFLOP/s (8192x8192x8192), {gb_per_s:.0} GB/s (copy of 2 GiB)")?;
    let width = cases.iter().map(|case| case.name().len()).max().unwrap_or(4);
    writeln!(
        out,
        "{:width$}  {:>10}  {:>19}  {:>9}  {:>8}  {:>8}  {:>5}  {:>8}",
        "case", "us", "spread", "warm us", "TFLOP/s", "GB/s", "%", "baseline"
    )?;
    let (mut wrong, mut is_out_of_time) = (false, false);
    for case in cases {
        let is_case = |line: &Value| {
            line["op"] == case.op && line["shape"] == case.shape().as_str() && line["variant"] == case.variant
        };
        let known = |file: &Value| file["lines"].as_array().is_some_and(|lines| lines.iter().any(is_case));
        if args.resume && known(&file) {
            continue;
        }
        if args.time_limit.is_some_and(|limit| started.elapsed() >= Duration::from_secs(limit)) {
            is_out_of_time = true;
            break;
        }
        // One bad case does not take the others with it.
        let line = bench.line(case).unwrap_or_else(|error| not_measured(case, &error.to_string()));
        wrong |= line["us"].is_null();
        writeln!(out, "{}", row(case, &line, width))?;
        if let Some(lines) = file["lines"].as_array_mut() {
            lines.push(line);
        }
        if let Some(path) = &args.json {
            write_whole(path, format!("{file:#}\n").as_bytes())?;
        }
    }
    if let (Some(dir), Some(drawing)) = (&args.svg, svg::roofline(&file)) {
        write_drawing(dir, "roofline.svg", &drawing)?;
    }
    if is_out_of_time {
        tell(format_args!("stopped after {} s: run it again with --resume", started.elapsed().as_secs()));
        return Err(Failure::OutOfTime);
    }
    if wrong { Err(Failure::Found) } else { Ok(()) }
}

fn not_measured(case: &Case, reason: &str) -> Value {
    json!({
        "op": case.op, "shape": case.shape(), "variant": case.variant, "row": case.row.map(|row| row.what),
        "call": "nanomoe", "us": null, "reason": reason,
    })
}

/// A line of the printed table.
fn row(case: &Case, line: &Value, width: usize) -> String {
    let number = |key: &str| line[key].as_f64();
    let Some(us) = number("us") else {
        return format!("{:width$}  not measured: {}", case.name(), line["reason"].as_str().unwrap_or(""));
    };
    let shown = |key: &str, decimals: usize| {
        number(key).map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
    };
    let spread = format!("{}..{}", shown("us_low", 2), shown("us_high", 2));
    format!(
        "{:width$}  {us:10.2}  {spread:>19}  {:>9}  {:>8}  {:>8}  {:>5}  {:>7}x",
        case.name(),
        shown("warm_us", 2),
        shown("tflops", 1),
        shown("gb_per_s", 0),
        shown("percent_of_ceiling", 1),
        shown("times_baseline", 2),
    )
}

impl Bench {
    fn ceilings(&self) -> Value {
        json!({ "tflops": self.tflops, "gb_per_s": self.gb_per_s })
    }

    /// Checks and times one case, and the portable kernels on it. A wrong answer has no time.
    fn line(&self, case: &Case) -> Result<Value> {
        self.check_memory(case)?;
        let mut work = work::prepare(&self.ops, case)?;
        work.launch(&self.portable)?;
        self.portable.synchronize()?;
        let baseline = (work.check(&self.portable)? <= ALLOWED)
            .then(|| self.clock.cold(&self.portable, work.as_mut()))
            .transpose()?
            .map(|times| times.median());
        self.portable.synchronize()?;
        // Fresh results, so that what the baseline wrote cannot pass for ours.
        drop(work);
        let (mut work, error) = self.prepare(case)?;
        let mut line = self.time(case, work.as_mut())?;
        line["error"] = error.into();
        line["baseline_us"] = baseline.into();
        line["times_baseline"] = baseline.zip(line["us"].as_f64()).map(|(baseline, us)| baseline / us).into();
        Ok(line)
    }

    fn check_memory(&self, case: &Case) -> Result<()> {
        let ((free, _), needed) = (self.ops.memory()?, work::memory(case));
        if needed > free {
            let message = format!("needs {needed} bytes of device memory, {free} are free");
            return Err(Error::Input(message));
        }
        Ok(())
    }

    /// The inputs of a case, and the error of its answer as a part of what is allowed; a wrong answer is an error.
    fn prepare(&self, case: &Case) -> Result<(Box<dyn Work>, f64)> {
        self.check_memory(case)?;
        let mut work = work::prepare(&self.ops, case)?;
        work.launch(&self.ops)?;
        self.ops.synchronize()?;
        let error = work.check(&self.ops)?;
        if error.is_nan() || error > ALLOWED {
            return Err(Error::Input(format!("the answer is wrong: error {error:.3} of what is allowed")));
        }
        Ok((work, error))
    }

    /// The times of a case whose answer is right.
    fn time(&self, case: &Case, work: &mut dyn Work) -> Result<Value> {
        let times = self.clock.cold(&self.ops, work)?;
        let (us, flops, bytes) = (times.median(), work.flops(), work.bytes());
        let warm = (bytes < L2_RESIDENT_BYTES && work.can_be_captured())
            .then(|| self.clock.warm(&self.ops, work))
            .transpose()?;
        let floor = floor_us(flops, bytes, self.tflops, self.gb_per_s);
        Ok(json!({
            "op": case.op, "shape": case.shape(), "variant": case.variant, "row": case.row.map(|row| row.what),
            "call": "nanomoe", "dtype": work::DTYPE.name(), "us": us, "us_low": times.quantile(0.1),
            "us_high": times.quantile(0.9), "samples": times.count(), "warm_us": warm.map(|times| times.median()),
            "flops": flops, "bytes": bytes, "tflops": flops / us * 1e-6, "gb_per_s": bytes / us * 1e-3,
            "percent_of_ceiling": 100.0 * floor / us,
        }))
    }
}

/// The least time in microseconds that the ceilings allow for so many operations and bytes.
fn floor_us(flops: f64, bytes: f64, tflops: f64, gb_per_s: f64) -> f64 {
    (flops / tflops * 1e-6).max(bytes / gb_per_s * 1e-3)
}

/// What is measured on, and what is measured.
fn machine(ops: &DeviceOperations) -> Result<Value> {
    let properties = ops.kernels().device().properties();
    let (major, minor) = properties.compute_capability;
    let ask = |query: &str| {
        let output = Command::new("nvidia-smi")
            .args(["--id=0", &format!("--query-gpu={query}"), "--format=csv,noheader"])
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Ok(json!({
        "device": properties.name, "compute_capability": format!("{major}.{minor}"), "sms": properties.num_sms,
        "driver": ask("driver_version").unwrap_or_else(unknown),
        "clocks": ask("clocks.sm,clocks.max.sm,clocks.mem").unwrap_or_else(unknown),
        "nvcc": compiled::compiler_version()?, "commit": commit().unwrap_or_else(unknown), "unix_time": seconds,
    }))
}

/// The commit in the file beside the program (tools/gpu-bundle), else of the folder it is run in.
fn commit() -> Option<String> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| std::fs::read_to_string(exe.with_file_name("commit")).ok());
    let asked = || {
        let output = Command::new("git").args(["rev-parse", "HEAD"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    beside.or_else(asked).map(|text| text.trim().to_owned())
}
