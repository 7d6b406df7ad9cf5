//! What a real GPU computed, against the virtual one. `recorder.cpp` runs the kernels of `vectors.ptx` on a GPU and
//! leaves their results in `vectors/`; here the same kernels run on the virtual GPU. A vector that no GPU has recorded
//! yet is listed as ignored; the kernel still runs, and must run clean.
//!
//! `UPDATE=1 cargo test --test hardware` writes `vectors.ptx`, `plan.txt` and the list in the README anew.

mod kernels;
mod plan;
mod reference;

use kernels::{Map, Vector};
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use virtual_gpu::tensor::descriptor::Swizzle;
use virtual_gpu::tensor::tma::{DataType, Fill, TensorMap};
use virtual_gpu::{Description, Gpu, Launch, Order, Stream};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hardware")
}

/// The results that were recorded, by the hash of their kernel and input.
fn recorded() -> HashMap<u64, Vec<u32>> {
    let mut all = HashMap::new();
    // Others than the committed ones, to try the recorder.
    let tried = std::env::var_os("VECTORS").map(PathBuf::from);
    let vectors = tried.clone().unwrap_or_else(|| folder().join("vectors"));
    let Ok(files) = std::fs::read_dir(&vectors) else { return all };
    let manifest = std::fs::read_to_string(vectors.join("manifest.json")).expect("a manifest");
    assert!(tried.is_some() || !manifest.contains("Virtual"), "vectors of a virtual GPU confirm nothing");
    for file in files.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "bin")) {
        let data = std::fs::read(file.path()).expect("a readable file");
        assert_eq!(&data[..4], b"VGPU", "{}", file.path().display());
        let mut rest = &data[4..];
        while !rest.is_empty() {
            let hash = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes"));
            let words = u32::from_le_bytes(rest[8..12].try_into().expect("4 bytes")) as usize;
            let (values, after) = rest[12..].split_at(4 * words);
            let values = values.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes")));
            all.insert(hash, values.collect());
            rest = after;
        }
    }
    all
}

fn tensor_map(map: &Map, address: u64) -> TensorMap {
    TensorMap {
        data_type: DataType::from_number(map.data_type).expect("a type"),
        address,
        dims: map.dims.clone(),
        strides: map.strides.clone(),
        box_dims: map.box_dims.clone(),
        element_strides: map.steps.clone(),
        swizzle: [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128][map.swizzle as usize],
        fill: if map.nan_fill { Fill::Nan } else { Fill::Zero },
    }
}

/// Each 32 words as one number, as the recorder does it.
fn digest(words: &[u32]) -> Vec<u32> {
    words
        .chunks(32)
        .map(|c| c.iter().fold(0x811c_9dc5, |h: u32, w| (h ^ w).wrapping_mul(0x0100_0193)))
        .collect()
}

/// Runs one kernel in every order; the results must not depend on it.
fn run(vector: &Vector) -> Result<Vec<u32>, String> {
    let gpu = Gpu::new(Description::h200());
    let text = format!(".version 8.0\n.target sm_90a\n.address_size 64\n{}", vector.kernel(0));
    let module = gpu.load_module(&text).map_err(|e| e.to_string())?;
    let function = module.function("v0").expect("the kernel");
    let data = vector.input.data();
    let bytes = 4 * vector.out_words as u64;
    let (input, output) = (gpu.alloc(data.len() as u64), gpu.alloc(bytes));
    let (input, output) = (input.expect("memory"), output.expect("memory"));
    gpu.write(input, &data).expect("in bounds");
    let mut arguments = vec![input.to_le_bytes().to_vec(), output.to_le_bytes().to_vec()];
    if let Some(map) = &vector.map {
        let over = if map.over_output { output } else { input };
        arguments.push(tensor_map(map, over).encode().map_err(|e| e.to_string())?.to_vec());
    }
    let slices: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
    let launch = Launch { block: [vector.block, 1, 1], args: &slices, ..Launch::default() };
    let mut results: Vec<Vec<u32>> = Vec::new();
    for order in [Order::Eager, Order::Random(1)] {
        gpu.set_options(virtual_gpu::Options { order, ..Default::default() });
        gpu.memset(output, 0x5a, bytes).expect("in bounds");
        gpu.launch(&function, &launch, Stream::default()).and_then(|()| gpu.synchronize()).ok();
        let findings: String = gpu.findings().iter().map(ToString::to_string).collect();
        if !findings.is_empty() {
            return Err(findings);
        }
        let mut result = vec![0; bytes as usize];
        gpu.read(output, &mut result).map_err(|e| e.to_string())?;
        results.push(
            result.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().expect("4 bytes"))).collect(),
        );
    }
    if results[0] != results[1] {
        return Err("the results depend on the order".into());
    }
    Ok(if vector.digest { digest(&results[0]) } else { results.swap_remove(0) })
}

fn compare(vector: &Vector, got: &[u32], want: &[u32]) -> Result<(), String> {
    if got.len() != want.len() {
        return Err(format!("{} words, the GPU wrote {}", got.len(), want.len()));
    }
    let same = |(g, w): (&u32, &u32)| match vector.bound {
        None => g == w,
        Some((absolute, relative)) => {
            let (x, y) = (f64::from(f32::from_bits(*g)), f64::from(f32::from_bits(*w)));
            x == y || x.is_nan() && y.is_nan() || (x - y).abs() <= absolute.max(relative * y.abs())
        }
    };
    let bad: Vec<usize> = (0..got.len()).filter(|&i| !same((&got[i], &want[i]))).collect();
    match bad.first() {
        None => Ok(()),
        Some(&i) => {
            let what = if vector.digest { "digest" } else { "word" };
            let (g, w, n) = (got[i], want[i], bad.len());
            Err(format!("{what} {i}: {g:#x}, the GPU has {w:#x} ({n} of {} differ)", got.len()))
        }
    }
}

/// The instruction a vector belongs to in the README's list, and what of it.
fn group(vector: &Vector) -> String {
    match vector.family {
        "wgmma" => match vector.name.strip_prefix("layout: ") {
            Some(layout) => format!("`wgmma` layouts, {}", layout.split(',').next().unwrap_or_default()),
            None => {
                let types = vector.name.split('.').skip(5).collect::<Vec<_>>().join(".");
                format!("`wgmma` {}", types.split([' ', '.']).take(3).collect::<Vec<_>>().join("."))
            }
        },
        "mma" => format!("`mma.sync` {}", vector.name.split('.').rev().nth(2).unwrap_or_default()),
        "tma_load" => "tensor loads".into(),
        "tma_store" => "tensor stores and reductions".into(),
        "approximate" => format!("`{}`", vector.name),
        family => format!("`{family}`"),
    }
}

/// The list for the README.
fn list(vectors: &[Vector], recorded: &HashMap<u64, Vec<u32>>) -> String {
    let mut groups: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for v in vectors {
        let entry = groups.entry(group(v)).or_default();
        entry.0 += usize::from(recorded.contains_key(&v.hash()));
        entry.1 += 1;
    }
    let line = |(name, (have, all)): (&String, &(usize, usize))| format!("- {name}: {have} of {all}\n");
    let (confirmed, open): (Vec<_>, Vec<_>) = groups.iter().partition(|(_, (have, all))| have == all);
    let section = |title: &str, list: Vec<(&String, &(usize, usize))>| {
        let lines: String = list.into_iter().map(line).collect();
        format!("{title}\n\n{}", if lines.is_empty() { "- none\n".into() } else { lines })
    };
    section("Confirmed on hardware:", confirmed) + "\n" + &section("Not yet confirmed on hardware:", open)
}

const MARKS: [&str; 2] = ["<!-- vectors -->\n", "<!-- end of vectors -->\n"];

/// Compares a committed file with what it should be, or writes it.
fn is_current(path: &Path, wanted: &str) -> Result<(), Failed> {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, wanted)?;
    }
    if std::fs::read_to_string(path).unwrap_or_default() == wanted {
        return Ok(());
    }
    Err(format!("{} is stale: run `UPDATE=1 cargo test --test hardware`", path.display()).into())
}

fn main() {
    let mut arguments = Arguments::from_args();
    // One thread each is what the machine has anyway; the trials are short.
    arguments.test_threads.get_or_insert(2);
    let vectors: Arc<Vec<Vector>> = Arc::new(kernels::all());
    let recorded = Arc::new(recorded());
    let mut trials = Vec::new();
    let (all, have) = (vectors.clone(), recorded.clone());
    trials.push(Trial::test("the committed kernels and plan are current", move || {
        is_current(&folder().join("vectors.ptx"), &plan::module(&all))?;
        is_current(&folder().join("plan.txt"), &plan::plan(&all))?;
        let path = folder().join("../../README.md");
        let readme = std::fs::read_to_string(&path)?;
        let (before, rest) = readme.split_once(MARKS[0]).ok_or("no list in the README")?;
        let (_, after) = rest.split_once(MARKS[1]).ok_or("no end of the list in the README")?;
        is_current(&path, &format!("{before}{}{}{}{after}", MARKS[0], list(&all, &have), MARKS[1]))
    }));
    for number in 0..vectors.len() {
        // The virtual GPU's results are needed by two trials.
        let result: Arc<OnceLock<Result<Vec<u32>, String>>> = Arc::default();
        let (all, cell) = (vectors.clone(), result.clone());
        let name = format!("{}::{}", vectors[number].family, vectors[number].name);
        trials.push(Trial::test(format!("{name} runs clean"), move || {
            let got = cell.get_or_init(|| run(&all[number])).clone()?;
            let Some(want) = reference::expected(&all[number]) else { return Ok(()) };
            let want = if all[number].digest { digest(&want) } else { want };
            compare(&all[number], &got, &want).map_err(|e| e.replace("the GPU", "the reference").into())
        }));
        let (all, have) = (vectors.clone(), recorded.clone());
        let known = recorded.contains_key(&vectors[number].hash());
        let trial = Trial::test(name, move || {
            let want = have.get(&all[number].hash()).ok_or("no vector")?;
            let got = result.get_or_init(|| run(&all[number])).clone()?;
            compare(&all[number], &got, want).map_err(Failed::from)
        });
        trials.push(if known {
            trial
        } else {
            trial.with_kind("not yet confirmed on hardware").with_ignored_flag(true)
        });
    }
    libtest_mimic::run(&arguments, trials).exit();
}
