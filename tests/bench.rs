//! `nanomoe bench` as far as it goes without a GPU. The times in the fixtures are made up.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};
use nanomoe::kernels::compiled;
use serde_json::{Value, json};

use crate::common::Scratch;

/// Every operation that is measured.
pub const OPS: [&str; 14] = [
    "gemm",
    "mlp",
    "attention",
    "layer_norm",
    "embedding",
    "router_logits",
    "topk_gating",
    "moe_dispatch",
    "moe_gemm",
    "moe_combine",
    "moe_layer",
    "lm_head",
    "sampling",
    "forward",
];

pub fn trials() -> Vec<Trial> {
    let with_kernels = |name: &str, run: fn() -> Result<(), Failed>| match compiled::modules() {
        Ok(_) => Trial::test(name, run),
        Err(_) => Trial::test(name, run).with_kind("this build has no GPU kernels").with_ignored_flag(true),
    };
    vec![
        with_kernels("bench::answers", answers),
        with_kernels("bench::serve", serve),
        without_gpu(),
        Trial::test("bench::shapes", shapes),
        Trial::test("bench::bad_arguments", bad_arguments),
        Trial::test("bench::compare", compare),
    ]
}

pub fn bench(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .arg("bench")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// The inputs, launches and checks that a measurement rests on, on the virtual GPU.
fn answers() -> Result<(), Failed> {
    let output = bench(&["--device", "virtual"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), err(&output));
    let lines = out(&output);
    for op in OPS {
        assert!(lines.lines().any(|line| line.starts_with(&format!("{op} "))), "no line of {op} in {lines}");
    }
    assert!(lines.lines().all(|line| line.contains(": right, error ")), "{lines}");
    let one = bench(&["gemm", "--shape", "3x16x64:residual", "--device", "virtual"]);
    assert!(out(&one).starts_with("gemm 3x16x64 residual: right"), "{}{}", out(&one), err(&one));
    Ok(())
}

/// A line of JSON for each request, whatever it is; nothing is timed without a GPU.
fn serve() -> Result<(), Failed> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .args(["bench", "--serve", "--device", "virtual"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let requests = "gemm 3x16x64:bias\n\nforward 1x1x4x1x64x2x97:mixtral\nconv 3x3\ngemm 0x1x1\n";
    child.stdin.take().expect("a pipe").write_all(requests.as_bytes())?;
    let output = child.wait_with_output()?;
    assert_eq!(output.status.code(), Some(0));
    let answers: Vec<Value> = out(&output).lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let [first, gemm, freed, mixtral, conv, empty] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((&first["schema"], &first["source"]), (&json!("nanomoe-bench-1"), &json!("nanomoe")));
    assert!(gemm["us"].is_null() && gemm["reason"].as_str().is_some_and(|r| r.starts_with("right, error ")));
    assert_eq!(freed, &json!({}));
    for (answer, reason) in [
        (mixtral, "no kernels for Mixtral's whole forward pass: RMS norm, rotary positions, gated experts"),
        (conv, "there is no benchmark of `conv`"),
        (empty, "--shape 0x1x1: gemm takes MxNxK"),
    ] {
        assert!(answer["us"].is_null());
        assert_eq!(answer["reason"], reason);
    }
    Ok(())
}

/// No shape twice, every gate has one, and the quick ones are some of all.
fn shapes() -> Result<(), Failed> {
    let all = out(&bench(&["--list"]));
    let quick = out(&bench(&["--list", "--quick"]));
    let distinct: BTreeSet<&str> = all.lines().collect();
    assert_eq!(distinct.len(), all.lines().count());
    assert!(quick.lines().all(|line| distinct.contains(line)));
    let rows = |text: &str| -> Result<BTreeSet<String>, Failed> {
        let mut rows = BTreeSet::new();
        for line in text.lines() {
            rows.extend(serde_json::from_str::<Value>(line)?["row"].as_str().map(str::to_owned));
        }
        Ok(rows)
    };
    assert_eq!(rows(&all)?, rows(&quick)?);
    assert_eq!(rows(&all)?.len(), 26, "{:?}", rows(&all)?);
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

fn write(path: &Path, source: &str, ceilings: (f64, f64), lines: &[Value]) {
    let (tflops, gb_per_s) = ceilings;
    let ceilings = json!({ "tflops": tflops, "gb_per_s": gb_per_s });
    let file = json!({
        "schema": "nanomoe-bench-1", "source": source, "machine": { "device": "A & B <c>" }, "ceilings": ceilings,
        "lines": lines,
    });
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
    // 8 GB in 2000 us are 4000 GB/s.
    let decode = with(line("attention", "16x1x8192x32x8x128", "", "nanomoe", 2000.0), "flops", 1e9);
    let gating = line("topk_gating", "1024x8x2", "", "nanomoe", 7.0);
    let forward = line("forward", "16x1024x1024x12x768x12x50257", "", "nanomoe", 8700.0);
    let our_lines = [
        line("gemm", "4096x4096x4096", "", "nanomoe", 200.0),
        // In L2, replays of a graph are compared: here 4 against 5, though cold launches say otherwise.
        with(line("layer_norm", "1024x768", "", "nanomoe", 9.0), "warm_us", 4.0),
        with(with(decode, "bytes", 8e9), "tflops", 0.5),
        with(with(with(with(gating, "warm_us", 2.5), "tflops", 0.01), "flops", 7e4), "bytes", 4e4),
        forward,
        line("gemm", "5x6x7", "", "nanomoe", 10.0),
        json!({ "op": "gemm", "shape": "8192x8192x8192", "variant": "", "call": "nanomoe", "us": null, "reason": "x" }),
    ];
    let failed = json!({
        "op": "gemm", "shape": "4096x4096x4096", "variant": "", "call": "max-autotune", "us": null, "reason": "why",
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
    write(&ours, "nanomoe", (700.0, 4000.0), &our_lines);
    write(&theirs, "torch", (800.0, 5000.0), &their_lines(190.0));
    let output = bench(&["--compare", text(&ours), text(&theirs), "--svg", text(&scratch.0)]);
    let table = out(&output);
    assert_eq!(output.status.code(), Some(0), "{table}{}", err(&output));
    let square = found(&table, "gemm 4096x4096x4096", " cublas ");
    assert_eq!(square[2..], ["200.00", "cublas", "190.00", "0.95", "0.92", "1.00", "gate", "met"]);
    let norm = found(&table, "layer_norm 1024x768", "compile");
    assert_eq!(norm[2..], ["4.00", "compile", "(warm)", "5.00", "1.25", "1.00", "1.20", "goal", "met"]);
    assert_eq!(found(&table, "gemm 5x6x7", "cublas")[5..], ["2.00", "-", "-"]);
    // Percent of both ceilings; the higher one judges: 80 % is between the gate and the goal.
    let decode = found(&table, "attention 16x1x8192x32x8x128", "100.0");
    assert_eq!(decode[5..], ["4000", "100.0", "80.0", "70.00", "85.00", "-", "gate", "met"]);
    // Absolute goals, the small one in a graph.
    assert_eq!(found(&table, "topk_gating 1024x8x2", "2.50")[9..], ["-", "3.00", "goal", "met"][..]);
    assert!(table.contains("torch: 800.0 TFLOP/s (8192x8192x8192), 5000 GB/s (copy)"), "{table}");
    assert!(table.contains("not measured: gemm 4096x4096x4096, max-autotune: why"), "{table}");
    assert_eq!(found(&table, "GPT-2 124M forward, 16 x 1024", "1 of 1")[6..], ["-", "1", "of", "1"]);
    assert_eq!(found(&table, "Mixtral decode, B = 1", "not measured").len(), 9);
    assert!(table.contains("3 gates, 0 missed"), "{table}");
    let bars = std::fs::read_to_string(scratch.0.join("bars.svg"))?;
    assert_eq!(well_formed(&bars)?.iter().filter(|tag| *tag == "rect").count(), 1 + 3, "{bars}");
    assert!(bars.contains("0.95 gate met") && !bars.contains("url(#missed)"), "{bars}");

    // A mark a line and one in the legend, of another outline for each operation.
    let roofline = std::fs::read_to_string(scratch.0.join("roofline.svg"))?;
    well_formed(&roofline)?;
    let marks: Vec<&str> = roofline.lines().filter(|line| line.contains("<title>")).collect();
    assert_eq!(marks.len(), 2 + 2, "{roofline}");
    let outlines: BTreeSet<&str> = marks.iter().filter_map(|mark| mark.split('"').nth(1)).collect();
    assert_eq!(outlines.len(), 2, "{roofline}");

    // A gate that is missed is the exit code; times that overlap are marked.
    write(&theirs, "torch", (800.0, 5000.0), &their_lines(180.0));
    let output = bench(&["--compare", text(&ours), text(&theirs), "--svg", text(&scratch.0)]);
    assert_eq!(output.status.code(), Some(1), "{}", out(&output));
    let square = found(&out(&output), "gemm 4096x4096x4096", " cublas ").join(" ");
    assert!(square.ends_with("0.90 0.92 1.00 gate missed"), "{square}");
    // Told without colour: by words and by hatching.
    let bars = std::fs::read_to_string(scratch.0.join("bars.svg"))?;
    assert!(bars.contains("0.90 gate missed") && bars.matches("url(#missed)").count() == 1, "{bars}");
    write(&theirs, "torch", (800.0, 5000.0), &their_lines(201.0));
    let output = bench(&["--compare", text(&ours), text(&theirs)]);
    assert_eq!(found(&out(&output), "gemm 4096x4096x4096", " cublas ")[5], "1.00~");

    std::fs::write(&theirs, "{\"schema\": \"other\", \"lines\": []}")?;
    let output = bench(&["--compare", text(&ours), text(&theirs)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("theirs.json: no file of measurements"), "{}", err(&output));
    Ok(())
}

/// The elements of an XML document, in order; fails where one is not closed or text holds what must be escaped.
fn well_formed(xml: &str) -> Result<Vec<String>, Failed> {
    let (mut open, mut all): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = xml;
    while let Some(start) = rest.find('<') {
        let (between, tag) = rest.split_at(start);
        let entities = ["&amp;", "&lt;", "&gt;"].iter().map(|e| between.matches(e).count()).sum::<usize>();
        if between.matches('&').count() != entities || between.contains('>') {
            return Err(format!("{between:?} is not escaped").into());
        }
        let end = tag.find('>').ok_or("a tag has no end")?;
        let inside = &tag[1..end];
        if inside.matches('"').count() % 2 != 0 || inside.contains('<') {
            return Err(format!("<{inside}> has a quote too few").into());
        }
        match inside.strip_prefix('/') {
            Some(name) if open.pop().as_deref() == Some(name) => {}
            Some(name) => return Err(format!("</{name}> closes nothing").into()),
            None => {
                let name = inside.trim_end_matches('/').split_whitespace().next().unwrap_or("").to_owned();
                all.push(name.clone());
                if !inside.ends_with('/') {
                    open.push(name);
                }
            }
        }
        rest = &tag[end + 1..];
    }
    if open.is_empty() { Ok(all) } else { Err(format!("{open:?} are not closed").into()) }
}
