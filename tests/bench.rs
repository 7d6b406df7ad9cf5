//! `nanomoe bench`, benches/peers.py and tools/run-on-gpu as far as they go without a GPU. The times in the fixtures are
//! made up.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};
use nanomoe::kernels::compiled;
use serde_json::{Value, json};

use crate::common::{Scratch, repository};

pub fn trials() -> Vec<Trial> {
    let answers = Trial::test("bench::answers", answers);
    vec![
        match compiled::modules() {
            Ok(_) => answers,
            Err(_) => answers.with_kind("this build has no GPU kernels").with_ignored_flag(true),
        },
        without_gpu(),
        Trial::test("bench::bad_arguments", bad_arguments),
        Trial::test("bench::compare", compare),
        Trial::test("bench::peers", peers),
        Trial::test("bench::run_on_gpu", run_on_gpu),
    ]
}

fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .arg("bench")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// The inputs, launches and checks that a measurement rests on, on the virtual GPU.
fn answers() -> Result<(), Failed> {
    let output = bench(&["--device", "virtual"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    let lines = out(&output);
    for op in
        ["gemm", "attention", "layer_norm", "topk_gating", "moe_dispatch", "moe_gemm", "moe_layer", "lm_head"]
    {
        assert!(lines.lines().any(|line| line.starts_with(&format!("{op} "))), "no line of {op} in {lines}");
    }
    assert!(lines.lines().all(|line| line.contains(": right, error ")), "{lines}");
    let one = bench(&["gemm", "--shape", "3x16x64:residual", "--device", "virtual"]);
    assert!(out(&one).starts_with("gemm 3x16x64 residual: right"), "{}{}", out(&one), err(&one));
    Ok(())
}

fn without_gpu() -> Trial {
    let run = || {
        let output = bench(&["layer_norm"]);
        assert_eq!((output.status.code(), out(&output)), (Some(1), String::new()));
        assert!(err(&output).starts_with("error: "), "{}", err(&output));
        Ok(())
    };
    let trial = Trial::test("bench::without_gpu", run);
    match nanomoe::device::cuda::probe() {
        Err(_) => trial,
        Ok(()) => trial.with_kind("this machine has a GPU").with_ignored_flag(true),
    }
}

fn bad_arguments() -> Result<(), Failed> {
    for (args, expected) in [
        (&["gem"][..], "there is no benchmark of `gem`"),
        (&["gemm", "--shape", "8x8"], "gemm takes MxNxK"),
        (&["gemm", "--shape", "8x0x8"], "gemm takes MxNxK"),
        (&["gemm", "--shape", "8x8x8:zipf"], "gemm has no `zipf`"),
        (&["--shape", "8x8x8"], "--shape needs an operation"),
        (&["gemm", "--device", "cpu"], "--device cuda or virtual"),
        (&["--resume"], "--json"),
    ] {
        let output = bench(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(expected), "{args:?}: {}, expected {expected}", err(&output));
    }
    Ok(())
}

/// A line of a file of measurements; times in microseconds.
fn line(op: &str, shape: &str, variant: &str, call: &str, us: f64) -> Value {
    json!({ "op": op, "shape": shape, "variant": variant, "call": call, "us": us, "us_low": us * 0.99, "us_high": us * 1.01 })
}

fn with(mut line: Value, key: &str, value: f64) -> Value {
    line[key] = value.into();
    line
}

fn write(path: &Path, lines: &[Value]) {
    let file = json!({ "schema": "nanomoe-bench-1", "source": "made up", "lines": lines });
    std::fs::write(path, file.to_string()).expect("a file in a scratch folder");
}

/// The words of the one line of `table` that has both.
#[track_caller]
fn found<'a>(table: &'a str, case: &str, peer: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = table.lines().filter(|line| line.contains(case) && line.contains(peer)).collect();
    assert_eq!(lines.len(), 1, "{case} and {peer} in {table}");
    lines[0].split_whitespace().collect()
}

fn compare() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let (ours, theirs) = (scratch.0.join("ours.json"), scratch.0.join("theirs.json"));
    let our_lines = [
        line("gemm", "4096x4096x4096", "", "nanomoe", 200.0),
        // In L2, replays of a graph are compared: here 4 against 5, though cold launches say otherwise.
        with(line("layer_norm", "1024x768", "", "nanomoe", 9.0), "warm_us", 4.0),
        with(line("attention", "16x1x8192x32x8x128", "", "nanomoe", 200.0), "percent_of_ceiling", 75.0),
        line("gemm", "5x6x7", "", "nanomoe", 10.0),
        json!({ "op": "gemm", "shape": "8192x8192x8192", "variant": "", "call": "nanomoe", "us": null, "reason": "x" }),
    ];
    let failed = json!({
        "op": "gemm", "shape": "4096x4096x4096", "variant": "", "call": "max-autotune", "us": null, "reason": "x",
    });
    let their_lines = |cublas: f64| {
        vec![
            line("gemm", "4096x4096x4096", "", "cublas", cublas),
            failed.clone(),
            with(line("layer_norm", "1024x768", "", "compile", 8.0), "warm_us", 5.0),
            line("gemm", "5x6x7", "", "cublas", 20.0),
            line("gemm", "8192x8192x8192", "", "cublas", 1400.0),
        ]
    };
    write(&ours, &our_lines);
    write(&theirs, &their_lines(190.0));
    let output = bench(&["--compare", text(&ours), text(&theirs), "--svg", text(&scratch.0)]);
    let table = out(&output);
    assert_eq!(output.status.code(), Some(0), "{table}{}", err(&output));
    let square = found(&table, "gemm 4096x4096x4096", "cublas");
    assert_eq!(square[2..], ["200.00", "cublas", "190.00", "0.95", "0.92", "1.00", "gate"]);
    let norm = found(&table, "layer_norm 1024x768", "compile");
    assert_eq!(norm[2..], ["4.00", "compile", "(warm)", "5.00", "1.25", "1.00", "1.20", "goal"]);
    assert_eq!(found(&table, "gemm 5x6x7", "cublas")[5..], ["2.00", "-", "-"]);
    assert_eq!(found(&table, "attention 16x1x8192x32x8x128", "75.0")[2..], ["75.0", "70", "85", "gate"]);
    assert!(table.contains("3 gates, 0 missed"), "{table}");
    assert!(!table.contains("8192x8192x8192"), "what was not measured has no ratio: {table}");
    let bars = std::fs::read_to_string(scratch.0.join("bars.svg"))?;
    assert_eq!(bars.matches("<rect").count(), 1 + 3, "the background and a bar a ratio: {bars}");

    // A gate that is missed is the exit code; times that overlap are marked.
    write(&theirs, &their_lines(180.0));
    let output = bench(&["--compare", text(&ours), text(&theirs)]);
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));
    assert_eq!(
        found(&out(&output), "gemm 4096x4096x4096", "cublas")[5..],
        ["0.90", "0.92", "1.00", "missed"]
    );
    write(&theirs, &their_lines(201.0));
    let output = bench(&["--compare", text(&ours), text(&theirs)]);
    assert_eq!(found(&out(&output), "gemm 4096x4096x4096", "cublas")[5], "1.00~");

    std::fs::write(&theirs, "{\"schema\": \"other\", \"lines\": []}")?;
    let output = bench(&["--compare", text(&ours), text(&theirs)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("theirs.json: no file of measurements"), "{}", err(&output));
    Ok(())
}

/// Peers are named for every operation, and every gate has the peer that it is about.
fn peers() -> Result<(), Failed> {
    let program = repository("benches/peers.py");
    let listed = Command::new("python3").arg(&program).arg("--list").output()?;
    assert!(listed.status.success(), "{}", err(&listed));
    let listed = out(&listed);
    let cases = out(&bench(&["--list"]));
    let mut ops = std::collections::BTreeSet::new();
    for case in cases.lines() {
        ops.insert(serde_json::from_str::<Value>(case)?["op"].as_str().expect("a name").to_owned());
    }
    assert_eq!(ops.len(), 8, "{ops:?}");
    for op in ops {
        assert!(
            listed.lines().any(|line| line.starts_with(&format!("{op} "))),
            "no peer of {op} in {listed}"
        );
    }
    Ok(())
}

/// What each stage says and keeps where there is no GPU, and where a tool refuses the machine.
fn run_on_gpu() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let program = |name: &str, script: &str| -> std::io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = scratch.0.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
    };
    let listed =
        "gemm::bf16::2x3x4::cuda moe_gemm::bf16::2x3x4::cuda gemm::f32::0x3x4::cuda gemm::f32::9x9x9::cuda";
    program(
        "nanomoe-tests",
        &format!(
            "if [ $1 = --list ]; then for name in {listed} gemm::f32::1x1x1::cpu; do echo \"$name: test\"; done\n\
             else echo \"$@\"; echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; fi"
        ),
    )?;
    std::fs::copy(repository("tools/run-on-gpu"), scratch.0.join("run-on-gpu"))?;
    let tools = Scratch::new();
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
    let from_tools = |name: &str, script: &str| -> std::io::Result<()> {
        program(name, script)?;
        std::fs::rename(scratch.0.join(name), tools.0.join(name))
    };
    from_tools("nvidia-smi", "echo 'GPU 0: made up'")?;
    from_tools("compute-sanitizer", "echo 'Error: Device not supported'; exit 1")?;
    let (code, said, record) = run("correctness", &[])?;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(record["stages"]["correctness"]["gemm"]["state"], "passed");
    let log = std::fs::read_to_string(scratch.0.join("out/correctness.log"))?;
    assert!(log.contains("\ngemm:: --skip ::cpu --skip ::virtual --skip moe_gemm:: "), "{log}");
    let (code, said, record) = run("sanitizer", &[])?;
    assert_eq!(code, Some(3), "{said}");
    let refused = &record["stages"]["sanitizer"]["memcheck gemm"];
    assert_eq!(refused["reason"], "the tool refuses this machine: Device not supported");
    let (_, said, _) = run("sanitizer", &["--dry-run"])?;
    assert!(said.contains("--tool racecheck --error-exitcode 9"), "{said}");
    assert!(!said.contains("--exact gemm::f32::0x3x4"), "an empty shape launches nothing: {said}");
    // What passed is not run again.
    let (_, said, _) = run("correctness", &[])?;
    assert!(!said.contains("passed  "), "{said}");
    Ok(())
}
