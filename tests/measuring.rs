//! benches/peers.py, tools/gpu-bundle and tools/run-on-gpu, with stand-ins for what only a machine with a GPU has. Times
//! are made up.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::bench::{OPS, bench, err, out, text};
use crate::common::{Scratch, repository};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("measuring::peers", peers),
        Trial::test("measuring::peers_in_turn", peers_in_turn),
        Trial::test("measuring::run_on_gpu", run_on_gpu),
        Trial::test("measuring::gpu_bundle", gpu_bundle),
    ]
}

/// Peers are named for every operation, and every gate has the peer that it is about.
fn peers() -> Result<(), Failed> {
    let program = repository("benches/peers.py");
    let listed = Command::new("python3").arg(&program).arg("--list").output()?;
    assert!(listed.status.success(), "{}", err(&listed));
    let listed = out(&listed);
    let cases = out(&bench(&["--list"]));
    let mut ops = BTreeSet::new();
    for case in cases.lines() {
        ops.insert(serde_json::from_str::<Value>(case)?["op"].as_str().expect("a name").to_owned());
    }
    assert_eq!(ops.len(), OPS.len(), "{ops:?}");
    for op in ops {
        assert!(
            listed.lines().any(|line| line.starts_with(&format!("{op} "))),
            "no peer of {op} in {listed}"
        );
    }
    Ok(())
}

/// Enough of PyTorch for benches/peers.py to run: every call gives the same thing, and takes five microseconds.
const FAKE_TORCH: &str = r#"
import sys
from unittest.mock import MagicMock
torch = MagicMock(name="torch")
torch.__version__, torch.version.cuda = "0.0", "0.0"
torch.cuda.is_available.return_value = True
torch.cuda.get_device_name.return_value = "made up"
torch.cuda.mem_get_info.return_value = (0, 0)
torch.backends.cudnn.version.return_value = 0
torch.is_tensor.return_value = False
torch.cuda.Event.return_value.elapsed_time.return_value = 0.005
torch._grouped_mm.side_effect = RuntimeError("not here")
for name in ("torch", "torch.nn", "torch.nn.attention", "torch.nn.functional"):
    sys.modules[name] = torch
"#;

/// As `nanomoe bench` answers, with made-up times, and one death.
const FAKE_NANOMOE: &str = r#"
import json, sys
if "--list" in sys.argv:
    cases = [["gemm", "8x8x8", "bias", "a row"], ["moe_gemm", "4x8x8x2x1", "", "a row"], ["gemm", "4x4x4", "", None]]
    for op, shape, variant, row in cases[:1 if "--quick" in sys.argv else 3]:
        dims = [int(size) for size in shape.split("x")]
        print(json.dumps({"op": op, "shape": shape, "variant": variant, "row": row, "dims": dims}))
    sys.exit()
print(json.dumps({"schema": "nanomoe-bench-1", "machine": {"device": "made up"}, "ceilings": {"tflops": 1, "gb_per_s": 2}}), flush=True)
log = open(sys.argv[0] + ".log", "a")
count = 0
for line in sys.stdin:
    print(line.strip() or "free", file=log, flush=True)
    if line.startswith("moe_gemm"):
        sys.exit(7)
    count += 1
    op, _, shape = line.strip().partition(" ")
    print(json.dumps({"op": op, "shape": shape.split(":")[0], "variant": "bias", "call": "nanomoe", "us": count, "us_low": count - 0.5,
                      "us_high": count + 0.5, "samples": 3, "bytes": 64, "warm_us": 1.0} if op else {}), flush=True)
"#;

/// Ours and the peers take turns, three rounds of each shape; what one of them cannot do does not stop the others.
fn peers_in_turn() -> Result<(), Failed> {
    let scratch = Scratch::new();
    std::fs::write(scratch.0.join("torch.py"), FAKE_TORCH)?;
    let program = scratch.0.join("nanomoe");
    let python = out(&Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output()?);
    executable(&program, &format!("#!{}\n{FAKE_NANOMOE}", python.trim()))?;
    let (ours, theirs) = (scratch.0.join("ours.json"), scratch.0.join("theirs.json"));
    let run = |args: &[&str]| {
        Command::new("python3")
            .arg(repository("benches/peers.py"))
            .args(["--nanomoe", text(&program), "--json", text(&theirs), "--ours", text(&ours)])
            .args(args)
            .env("PYTHONPATH", &scratch.0)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
    };
    let read = |path: &Path| -> Result<Value, Failed> { Ok(serde_json::from_slice(&std::fs::read(path)?)?) };
    let output = run(&["--time-limit", "0"])?;
    assert_eq!(output.status.code(), Some(3), "{}{}", out(&output), err(&output));
    let output = run(&[])?;
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    let (our_file, their_file) = (read(&ours)?, read(&theirs)?);
    assert_eq!(our_file["ceilings"]["gb_per_s"], 2);
    assert_eq!(their_file["ceilings"]["tflops"].as_f64().map(f64::round), Some(219_902.0));
    let our_lines = our_file["lines"].as_array().expect("lines");
    assert_eq!(our_lines.len(), 2, "shapes of which nothing is wanted are left out: {our_lines:?}");
    assert_eq!(
        (&our_lines[0]["us"], &our_lines[0]["rounds"], &our_lines[0]["us_high"]),
        (&2.into(), &3.into(), &3.5.into())
    );
    assert_eq!(our_lines[1]["reason"], "nanomoe bench --serve ended with exit code 7");
    let of = |call: &str| {
        let lines = their_file["lines"].as_array().expect("lines").iter();
        lines.filter(|line| line["call"] == call).cloned().collect::<Vec<_>>()
    };
    assert_eq!((&of("cublas")[0]["us"], &of("cublas")[0]["samples"]), (&5.0.into(), &90.into()));
    assert_eq!(of("cublas")[0]["warm_us"], 0.25, "a twentieth of a graph of twenty");
    assert_eq!(of("grouped_mm")[0]["reason"], "RuntimeError: not here");
    assert_eq!(of("mm")[0]["us"], 5.0);
    // One process for all rounds, which gives its memory back; a new one after it died.
    let asked = std::fs::read_to_string(scratch.0.join("nanomoe.log"))?;
    let asked: Vec<&str> = asked.lines().collect();
    assert_eq!(
        asked[..5],
        ["gemm 8x8x8:bias", "gemm 8x8x8:bias", "gemm 8x8x8:bias", "free", "moe_gemm 4x8x8x2x1"]
    );
    // Nothing is left to do.
    let output = run(&["--resume"])?;
    assert_eq!((output.status.code(), out(&output)), (Some(0), String::new()));
    Ok(())
}

fn executable(path: &Path, script: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, script)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// As the test program is called: lists, or runs the trials named in a file. One of them ends only the second time.
const FAKE_TESTS: &str = r#"
names="gemm::bf16::2x3x4::cuda moe_gemm::bf16::2x3x4::cuda gemm::f32::0x3x4::cuda gemm::f32::9x9x9::cuda"
if [ $1 = --list ]; then for name in $names gemm::f32::1x1x1::cpu; do echo "$name: test"; done; exit; fi
echo "$@"
count=0
while read -r name; do
    if [ $name = gemm::f32::9x9x9::cuda ] && [ ! -e "$0.seen" ]; then : > "$0.seen"; kill -9 $$; fi
    echo "test $name ... ok"; count=$((count + 1))
done < "$NANOMOE_TRIALS"
echo "test result: ok. $count passed; 0 failed; 0 ignored"
"#;

/// What each stage says and keeps where there is no GPU, where a tool refuses the machine, and where one is stopped.
fn run_on_gpu() -> Result<(), Failed> {
    let (scratch, tools) = (Scratch::new(), Scratch::new());
    let program =
        |name: &str, script: &str| executable(&scratch.0.join(name), &format!("#!/bin/sh\n{script}\n"));
    program("nanomoe-tests", FAKE_TESTS)?;
    program(
        "nanomoe",
        "echo \"$@\" >&2; case \"$*\" in *--quick*) exit 0;; *--compare*) echo table;; *) exit 3;; esac",
    )?;
    std::fs::write(scratch.0.join("peers.py"), "import sys\nprint(sys.argv[1:])\n")?;
    std::fs::create_dir(scratch.0.join("hardware"))?;
    std::fs::copy(repository("tools/run-on-gpu"), scratch.0.join("run-on-gpu"))?;
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output()?;
    let python = out(&python).trim().to_owned();
    let run = |stage: &str, args: &[&str]| -> std::io::Result<(Option<i32>, String, Value)> {
        let output = Command::new(&python)
            .arg(scratch.0.join("run-on-gpu"))
            .arg(stage)
            .args(args)
            .args(["--out", text(&scratch.0.join("out"))])
            .env("PATH", format!("{}:/bin", text(&tools.0)))
            .output()?;
        let record = std::fs::read(scratch.0.join("out/record.json")).unwrap_or_default();
        let record = serde_json::from_slice(&record).unwrap_or(Value::Null);
        Ok((output.status.code(), out(&output) + &err(&output), record))
    };
    let log = |stage: &str| std::fs::read_to_string(scratch.0.join(format!("out/{stage}.log")));

    if !Path::new("/bin/nvidia-smi").exists() {
        for stage in ["correctness", "sanitizer", "vectors", "bench", "peers"] {
            let (code, said, record) = run(stage, &[])?;
            assert_eq!(code, Some(3), "{stage}: {said}");
            let steps = record["stages"][stage].as_object().expect("a record of the stage");
            assert!(!steps.is_empty() && said.contains("no GPU: nvidia-smi is not on the PATH"), "{said}");
            assert!(steps.values().all(|step| step["state"] == "not run"), "{record}");
        }
    }

    // A GPU that answers, and a sanitizer that refuses it.
    let tool = |name: &str, script: &str| executable(&tools.0.join(name), &format!("#!/bin/sh\n{script}\n"));
    tool("nvidia-smi", "echo 'GPU 0: made up'")?;
    tool("compute-sanitizer", "echo 'Error: Device not supported'; exit 1")?;
    let (code, said, record) = run("sanitizer", &[])?;
    assert_eq!(code, Some(3), "{said}");
    let refused = &record["stages"]["sanitizer"]["memcheck gemm"];
    assert_eq!(refused["reason"], "the tool refuses this machine: Device not supported");
    let (_, said, _) = run("sanitizer", &["--dry-run"])?;
    assert!(said.contains("--tool racecheck --error-exitcode 9") && said.contains("# 3 tests"), "{said}");

    // One trial ends the program: the others are not lost, and are not run again.
    let (code, said, record) = run("correctness", &[])?;
    assert_eq!(code, Some(1), "{said}");
    let steps = &record["stages"]["correctness"];
    assert_eq!(steps["moe_gemm"]["state"], "passed");
    assert_eq!(steps["gemm"]["state"], "failed", "{record}");
    let states = &steps["gemm"]["trials"];
    assert_eq!(
        (&states["gemm::f32::0x3x4::cuda"], &states["gemm::f32::9x9x9::cuda"]),
        (&"passed".into(), &"crashed".into())
    );
    let (code, said, record) = run("correctness", &[])?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(record["stages"]["correctness"]["gemm"]["state"], "passed");
    let (_, said, _) = run("correctness", &[])?;
    assert!(!said.contains("passed  "), "what passed is not run again: {said}");

    // A sanitizer that finds something, and one that is fine.
    tool(
        "compute-sanitizer",
        "while [ \"${1#/}\" = \"$1\" ]; do [ $2 = racecheck ] && race=1; shift; done; \"$@\"; \
         [ -z \"$race\" ] || { echo '========= Error: Race reported between two'; exit 9; }",
    )?;
    let (code, said, record) = run("sanitizer", &[])?;
    assert_eq!(code, Some(1), "{said}");
    let steps = &record["stages"]["sanitizer"];
    assert_eq!(steps["memcheck gemm"]["state"], "passed", "{said}");
    assert_eq!(steps["racecheck gemm"]["reason"], "exit code 9: Error: Race reported between two");

    // What a stage saved before its time was over counts as such; a recorder that writes nothing fails.
    let (code, said, record) = run("bench", &[])?;
    assert_eq!(code, Some(3), "{said}");
    assert_eq!(record["stages"]["bench"]["bench quick"]["state"], "passed");
    assert_eq!(record["stages"]["bench"]["bench all"]["state"], "out of time");
    assert!(log("bench")?.contains("--resume --time-limit 204 --quick"), "{}", log("bench")?);
    let (code, said, _) = run("peers", &[])?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(std::fs::read_to_string(scratch.0.join("out/compare.txt"))?, "table\n");
    tool("nvcc", "echo '#!/bin/sh' > recorder; chmod +x recorder")?;
    let (code, said, _) = run("vectors", &[])?;
    assert!(code == Some(1) && said.contains("has no manifest.json: nothing was recorded"), "{said}");
    let script = "'#!/bin/sh\\nmkdir -p vectors; echo {} > vectors/manifest.json\\n'";
    tool("nvcc", &format!("printf {script} > recorder; chmod +x recorder"))?;
    let (code, said, _) = run("vectors", &[])?;
    assert_eq!(code, Some(0), "{said}");
    assert!(scratch.0.join("out/vectors.tar.gz").is_file());
    Ok(())
}

/// What is packed, of two small programs: all that the stages need, no folder of this machine, and it starts elsewhere.
fn gpu_bundle() -> Result<(), Failed> {
    let (scratch, elsewhere) = (Scratch::new(), Scratch::new());
    let folder = scratch.0.join("bundle");
    // A program that names the repository, as debug information and panics do.
    let source = scratch.0.join("main.c");
    let here = repository("src");
    std::fs::write(
        &source,
        format!("#include <stdio.h>\nint main() {{ puts(\"{}/lib.rs\"); }}\n", text(&here)),
    )?;
    let built = scratch.0.join("main");
    let compiled = Command::new("g++").args(["-x", "c", text(&source), "-o", text(&built)]).output()?;
    assert!(compiled.status.success(), "{}", err(&compiled));
    let output = Command::new("python3")
        .arg(repository("tools/gpu-bundle"))
        .args(["--without-data", "--out", text(&folder), "--programs", text(&built), text(&built)])
        .output()?;
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    let archive = scratch.0.join("bundle.tar.xz");
    let unpacked = Command::new("python3")
        .args(["-c", "import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter='data')"])
        .args([text(&archive), text(&elsewhere.0)])
        .output()?;
    assert!(unpacked.status.success(), "{}", err(&unpacked));
    std::fs::remove_dir_all(&folder)?;
    let there = elsewhere.0.join("bundle");
    let mut names: Vec<_> = std::fs::read_dir(&there)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    names.sort();
    assert_eq!(
        names,
        ["commit", "hardware", "nanomoe", "nanomoe-tests", "peer_calls.py", "peers.py", "run-on-gpu"]
    );
    let said = out(&Command::new(there.join("nanomoe")).output()?);
    assert!(said.starts_with("/...") && said.ends_with("/src/lib.rs\n"), "{said}");
    let listed = Command::new("python3").arg(there.join("peers.py")).arg("--list").output()?;
    assert!(listed.status.success() && out(&listed).contains("grouped_mm"), "{}", err(&listed));
    let dry = Command::new(there.join("run-on-gpu")).args(["bench", "--dry-run"]).output()?;
    assert!(dry.status.success() && out(&dry).contains("--time-limit LEFT --quick"), "{}", err(&dry));
    Ok(())
}
