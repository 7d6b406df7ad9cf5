//! Compiles every kernel file into a fatbin and its PTX, and writes one table of them for `src/kernels/compiled.rs`.
//! Needs nvcc, never a GPU; without nvcc the crate builds all the same, with an empty table that says why.

#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/opcodes.rs"]
mod opcodes;

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nvcc::Nvcc;

/// One kernel file and how it is compiled.
struct Source {
    name: String,
    path: PathBuf,
    target: &'static Target,
}

/// A set of kernels: where its files are and what they are compiled for.
struct Target {
    name: &'static str,
    folder: &'static str,
    gencode: &'static str,
}

const TARGETS: [Target; 2] = [
    Target { name: "Portable", folder: "kernels", gencode: "arch=compute_80,code=[sm_80,compute_80]" },
    Target { name: "Sm90a", folder: "kernels/sm90a", gencode: "arch=compute_90a,code=[sm_90a,compute_90a]" },
];

/// What compiling one file left in its folder.
struct Compiled {
    folder: PathBuf,
    /// What ptxas said.
    log: String,
}

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            for line in message.lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let manifest = PathBuf::from(env("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env("OUT_DIR"));
    for path in ["build.rs", "build/nvcc.rs", "build/opcodes.rs", "build/cuda-toolchain.txt", "kernels"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    let found = if std::env::var_os("DOCS_RS").is_some() {
        Err("documentation build".to_owned())
    } else {
        nvcc::find(&manifest)?
    };
    let table = match found {
        Ok(nvcc) => {
            let sources = sources(&manifest)?;
            let compiled = compile_all(&nvcc, &manifest, &out, &sources)?;
            table(&nvcc, &sources, &compiled)
        }
        Err(reason) => {
            if std::env::var_os("CARGO_FEATURE_REQUIRE_CUDA").is_some() {
                return Err(format!("feature require-cuda: {reason}"));
            }
            println!("cargo::warning=built without GPU kernels: {reason}");
            format!(
                "static COMPILER: std::result::Result<&str, &str> = Err({reason:?});\nstatic MODULES: &[CompiledModule] = &[];\n"
            )
        }
    };
    write_if_changed(&out.join("compiled_kernels.rs"), table.as_bytes())?;
    write_if_changed(&out.join("embedded_model.rs"), embedded_model(&manifest).as_bytes())
}

/// The files of `model/` for `src/embedded.rs`, with feature `embedded-model` and where they are: a published package
/// is too small for them.
fn embedded_model(manifest: &Path) -> String {
    const NAMES: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];
    let folder = manifest.join("model");
    let mut files = String::new();
    let mut why_none = "feature embedded-model is off";
    if std::env::var_os("CARGO_FEATURE_EMBEDDED_MODEL").is_some() {
        println!("cargo::rerun-if-changed=model");
        why_none = "model/ was not there when it was built";
        if NAMES.iter().all(|name| folder.join(name).is_file()) {
            files =
                NAMES.map(|name| format!("({name:?}, include_bytes!({:?})), ", folder.join(name))).concat();
        }
    }
    format!("static FILES: &[(&str, &[u8])] = &[{files}];\nstatic WHY_NONE: &str = {why_none:?};\n")
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn sources(manifest: &Path) -> Result<Vec<Source>, String> {
    let mut sources = Vec::new();
    for target in &TARGETS {
        let folder = manifest.join(target.folder);
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "cu") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                let relative = Path::new(target.folder).join(entry.file_name());
                sources.push(Source { name, path: relative, target });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

/// Bytes of a file and of the headers it names that stand beside it or above: how long it takes to compile, about.
fn size_with_headers(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let headers = text.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let folder = path.parent().unwrap_or(path);
    let size = |header: &str| fs::metadata(folder.join(header)).map_or(0, |file| file.len());
    text.len() as u64 + headers.map(size).sum::<u64>()
}

/// Compiles what changed, as many files at once as cargo allows jobs; the largest files first.
fn compile_all(
    nvcc: &Nvcc,
    manifest: &Path,
    out: &Path,
    sources: &[Source],
) -> Result<Vec<Compiled>, String> {
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).clamp(1, 16);
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(size_with_headers(&manifest.join(&sources[index].path))));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<Compiled, String>>>> =
        Mutex::new((0..sources.len()).map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = compile(nvcc, manifest, out, &sources[index]);
                    results.lock().expect("no thread panics holding it")[index] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().expect("all threads have ended");
    let mut compiled = Vec::new();
    let mut errors = String::new();
    for result in results.into_iter().flatten() {
        match result {
            Ok(one) => compiled.push(one),
            Err(message) => errors += &message,
        }
    }
    if errors.is_empty() { Ok(compiled) } else { Err(errors) }
}

/// Compiles one file unless nothing it was made from has changed: itself, its headers, the flags, the compiler.
fn compile(nvcc: &Nvcc, manifest: &Path, out: &Path, source: &Source) -> Result<Compiled, String> {
    let folder = out.join(format!("{}-{}", source.target.name, source.name));
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (fatbin, depfile, stamp) =
        (folder.join("kernel.fatbin"), folder.join("kernel.d"), folder.join("stamp"));
    let mut command = Command::new(&nvcc.path);
    command
        .current_dir(manifest)
        .args([
            "-fatbin",
            "-std=c++17",
            "-O3",
            "-lineinfo",
            "-DNDEBUG",
            "--expt-relaxed-constexpr",
            "-Ikernels",
        ])
        .args(["-gencode", source.target.gencode, "-Xptxas", "-v", "-MD", "-MF"])
        .arg(&depfile)
        .args(["--keep", "--keep-dir"])
        .arg(&folder)
        .arg("-o")
        .arg(&fatbin)
        .arg(&source.path);
    let flags = format!("{} {command:?}", nvcc.version);
    let log_path = folder.join("log");
    if let Some(key) = key(&flags, manifest, &depfile)
        && fs::read_to_string(&stamp).is_ok_and(|old| old == key)
        && let Ok(log) = fs::read_to_string(&log_path)
    {
        return Ok(Compiled { folder, log });
    }
    let output = command.output().map_err(|error| format!("{}: {error}", nvcc.path.display()))?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let hint =
            if log.contains("host compiler") { " (a host compiler is needed: apt install g++)" } else { "" };
        let shown: Vec<&str> = log.lines().filter(|line| !line.starts_with("ptxas info")).collect();
        return Err(format!("{} does not compile{hint}:\n{}\n", source.path.display(), shown.join("\n")));
    }
    let ptx = folder.join(format!("{}.ptx", source.name));
    compress(&ptx, &folder.join("kernel.ptx.z"))?;
    compress(&fatbin, &folder.join("kernel.fatbin.z"))?;
    fs::write(&log_path, &log).map_err(|error| format!("{}: {error}", log_path.display()))?;
    if let Some(key) = key(&flags, manifest, &depfile) {
        fs::write(&stamp, key).map_err(|error| format!("{}: {error}", stamp.display()))?;
    }
    Ok(Compiled { folder, log })
}

/// A hash of the flags and of every file the last compile read; `None` before the first compile.
fn key(flags: &str, manifest: &Path, depfile: &Path) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    flags.hash(&mut hasher);
    let text = fs::read_to_string(depfile).ok()?;
    let (_, files) = text.split_once(':')?;
    for file in files.split_whitespace().filter(|word| *word != "\\") {
        let path = manifest.join(file);
        path.hash(&mut hasher);
        fs::read(&path).ok()?.hash(&mut hasher);
    }
    Some(format!("{:016x}", hasher.finish()))
}

fn compress(from: &Path, to: &Path) -> Result<(), String> {
    let bytes = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&bytes).and_then(|()| encoder.finish()).map_or_else(
        |error| Err(format!("{}: {error}", from.display())),
        |packed| fs::write(to, packed).map_err(|error| format!("{}: {error}", to.display())),
    )
}

/// The table as Rust source: types are in `src/kernels/compiled.rs`.
fn table(nvcc: &Nvcc, sources: &[Source], compiled: &[Compiled]) -> String {
    let mut text = format!("static COMPILER: std::result::Result<&str, &str> = Ok({:?});\n", nvcc.version);
    text += "static MODULES: &[CompiledModule] = &[\n";
    for (source, compiled) in sources.iter().zip(compiled) {
        let file = |name: &str| compiled.folder.join(name).display().to_string();
        let warnings: Vec<&str> = compiled.log.lines().filter(|line| line.contains("(C75")).collect();
        let _ = writeln!(
            text,
            "CompiledModule {{ name: {:?}, target: Target::{}, fatbin: include_bytes!({:?}), ptx: include_bytes!({:?}), \
             warnings: &{warnings:?}, kernels: &[",
            source.name,
            source.target.name,
            file("kernel.fatbin.z"),
            file("kernel.ptx.z"),
        );
        let opcodes = |kernel: &str, arch: &str| {
            let cubin = fs::read(compiled.folder.join(format!("{}.{arch}.cubin", source.name))).ok()?;
            opcodes::count(&cubin)?.into_iter().find(|(name, _)| name == kernel).map(|(_, opcodes)| opcodes)
        };
        for kernel in resources(&compiled.log, &opcodes) {
            let _ = writeln!(text, "{kernel},");
        }
        text += "] },\n";
    }
    text + "];\n"
}

/// Reads `ptxas -v`: an entry function and its target, then its stack and spills, then its registers and memory.
/// `opcodes` counts instructions by kernel and target.
fn resources(log: &str, opcodes: &dyn Fn(&str, &str) -> Option<opcodes::Opcodes>) -> Vec<String> {
    let mut kernels = Vec::new();
    let (mut entry, mut spills) = (None, (0, 0, 0));
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut words = rest.split('\'');
            entry = words.next().zip(words.nth(1));
        } else if line.contains("bytes stack frame") {
            let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
            if let [stack, stores, loads] = numbers[..] {
                spills = (stack, stores, loads);
            }
        } else if let (Some(rest), Some((name, target))) = (line.split("Used ").nth(1), entry) {
            let before = |unit: &str| {
                let words: Vec<&str> = rest.split([' ', ',']).filter(|word| !word.is_empty()).collect();
                let at = words
                    .windows(unit.split(' ').count())
                    .position(|window| window.join(" ").starts_with(unit));
                at.and_then(|at| words[..at].last().and_then(|word| word.parse::<u32>().ok())).unwrap_or(0)
            };
            kernels.push(format!(
                "CompiledKernel {{ name: {name:?}, arch: {target:?}, registers: {}, shared_bytes: {}, stack_bytes: {}, \
                 spill_store_bytes: {}, spill_load_bytes: {}, opcodes: {:?} }}",
                before("registers"),
                before("bytes smem"),
                spills.0,
                spills.1,
                spills.2,
                opcodes(name, target)
            ));
            entry = None;
        }
    }
    kernels
}
