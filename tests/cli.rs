//! The program as people use it: its commands.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::common::{Draft, Scratch, default_model, golden, read_safetensors};

/// Folders with inputs and outputs of programs that are not ours.
const GOLDEN: [&str; 7] = [
    "seed-gpt",
    "seed-gpt-nobias",
    "nanomoe-capacity",
    "nanomoe-dropless",
    "nanomoe-bias-top1",
    "nanomoe-dense",
    "gpt2",
];

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("cli::generate", generate),
        Trial::test("cli::generate::cropped", generate_cropped),
        Trial::test("cli::generate::closed_pipe", closed_pipe),
        Trial::test("cli::logits", logits),
        Trial::test("cli::loss", loss),
        Trial::test("cli::routing", routing),
        Trial::test("cli::verify", verify),
        verify_virtual(),
        Trial::test("cli::info", info),
        profile(),
    ]
}

/// What a profile says of bytes: those moved beside the fewest and what the launch's tiles move.
fn profile() -> Trial {
    let run = || {
        let told = out(&run(&["profile", "gemm", "64x64x128:bias", "--lines"]));
        let number = |what: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(what)).unwrap_or_default();
            line.split_whitespace().next().and_then(|word| word.parse::<u64>().ok())
        };
        // a, b and out in bf16, bias in f32
        let fewest = 2 * (64 * 128 + 64 * 128 + 64 * 64) + 4 * 64;
        if number("the fewest it must move") != Some(fewest) {
            return Err(format!("expected {fewest} bytes as the fewest:\n{told}").into());
        }
        let (moved, of_tiles) = (number("bytes moved"), number("what the launch's tiles move"));
        if moved.is_none()
            || of_tiles.is_none()
            || !told.contains("products on tensor cores           524288")
        {
            return Err(format!("bytes or products are missing:\n{told}").into());
        }
        Ok(())
    };
    let trial = Trial::test("cli::profile", run);
    match nanomoe::kernels::compiled::modules() {
        Ok(_) => trial,
        Err(error) => trial.with_kind(error.to_string()).with_ignored_flag(true),
    }
}

/// Runs the program on the cpu.
pub fn nanomoe(args: &[&str]) -> Output {
    let needs_device = !matches!(args.first(), None | Some(&"kernels")) && !args.contains(&"--device");
    let device: &[&str] = if needs_device { &["--device", "cpu"] } else { &[] };
    run(&[args, device].concat())
}

pub fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

pub fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[track_caller]
pub fn succeeds(args: &[&str]) -> Output {
    let output = nanomoe(args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    output
}

/// The command ends with `code`, writes nothing to standard output, and says one line with `expected`.
#[track_caller]
pub fn fails(args: &[&str], code: i32, expected: &str) {
    let output = nanomoe(args);
    let error = err(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(
        error.contains(expected) && !error.contains("panicked"),
        "{args:?}: {error:?}, expected {expected:?}"
    );
    assert_eq!(out(&output), "", "{args:?}");
    assert_eq!(error.trim_end().lines().count(), 1, "{args:?}: {error}");
}

fn generate() -> Result<(), Failed> {
    let greedy: serde_json::Value =
        serde_json::from_slice(&std::fs::read(default_model().join("greedy.json"))?)?;
    let expected = ["prompt", "text"].map(|part| greedy[part].as_str().unwrap()).concat();
    let args = ["generate", "Once upon a time", "--temperature", "0", "--max-tokens", "64"];
    let output = succeeds(&args);
    assert!(out(&output).starts_with(&expected[..200]), "{}", out(&output));
    assert!(err(&output).contains("64 tokens; ") && err(&output).contains("tokens/s"), "{}", err(&output));

    let sampled =
        |seed: &str| out(&succeeds(&["generate", "The king", "--seed", seed, "--max-tokens", "20"]));
    assert_eq!(sampled("7"), sampled("7"));
    assert_ne!(sampled("7"), sampled("8"));
    assert!(sampled("7").starts_with("The king"));
    // Without a prompt it begins after an end of text; one token is as deterministic as many.
    assert!(!out(&succeeds(&["generate", "--max-tokens", "5"])).trim().is_empty());
    assert_eq!(out(&succeeds(&["generate", "Hi", "--max-tokens", "0"])), "Hi\n");
    Ok(())
}

fn generate_cropped() -> Result<(), Failed> {
    let prompt = "word ".repeat(300);
    let output = succeeds(&["generate", &prompt, "--max-tokens", "3"]);
    assert!(err(&output).contains("the model sees the last 256 tokens only"), "{}", err(&output));
    Ok(())
}

fn closed_pipe() -> Result<(), Failed> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .args(["generate", "Once", "--max-tokens", "2000", "--device", "cpu"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    assert_eq!((output.status.code(), err(&output)), (Some(0), String::new()));
    Ok(())
}

/// Names, shapes and values of the output file against the golden data.
fn logits() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let (dir, file) = (golden("nanomoe-capacity"), scratch.0.join("out.safetensors"));
    let input = dir.join("golden.safetensors");
    let base = ["logits", "--model", text(&dir), "--input", text(&input), "--output", text(&file)];
    succeeds(&[&base[..], &["--hidden-states", "--routing"]].concat());
    let written = read_safetensors(&file);
    let golden_tensors = read_safetensors(&input);
    let compared = written.iter().filter_map(|got| {
        let expected = golden_tensors.iter().find(|tensor| tensor.name == got.name)?;
        assert_eq!((&got.dtype, &got.shape), (&expected.dtype, &expected.shape), "{}", got.name);
        if got.dtype == "I32" {
            assert_eq!(got.bytes, expected.bytes, "{}", got.name);
        } else {
            for (got_value, value) in got.values().iter().zip(expected.values()) {
                assert!(
                    (got_value - value).abs() <= 1e-4 + 1e-4 * value.abs(),
                    "{}: {got_value} for {value}",
                    got.name
                );
            }
        }
        Some(got.name.clone())
    });
    assert_eq!(compared.count(), 14);
    assert!(written.iter().any(|tensor| tensor.name == "final_norm" && tensor.shape == [2, 40, 48]));

    succeeds(&[&base[..], &["--last"]].concat());
    let last = read_safetensors(&file);
    let all = written.iter().find(|tensor| tensor.name == "logits").unwrap().values();
    let last_logits = last.iter().find(|tensor| tensor.name == "last_logits").unwrap();
    assert_eq!(last_logits.shape, [2, 1, 199]);
    for (sequence, got) in last_logits.values().chunks(199).enumerate() {
        let row = (sequence * 40 + 39) * 199;
        let off = got.iter().zip(&all[row..row + 199]).any(|(a, b)| (a - b).abs() > 1e-5);
        assert!(!off, "the last row of sequence {sequence}");
    }
    assert!(last.iter().all(|tensor| tensor.name != "logits" && tensor.name != "hidden_states"));
    Ok(())
}

/// Every token but the first is scored once, whatever the windows: 1 + 256 + 5 tokens have 261 targets.
fn loss() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let file = scratch.0.join("text.txt");
    std::fs::write(&file, "the ".repeat(261) + "end")?;
    let output = out(&succeeds(&["loss", text(&file)]));
    assert!(output.contains("261 tokens, 1,047 bytes, in windows of 256"), "{output}");
    let value = |name: &str| -> f64 {
        let line =
            output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{output}"));
        line.trim().parse().unwrap()
    };
    let nats = value("nats per token");
    assert!((value("perplexity") / nats.exp() - 1.0).abs() < 1e-3, "{output}");
    assert!(
        (value("bits per byte") - nats * 261.0 / std::f64::consts::LN_2 / 1047.0).abs() < 1e-3,
        "{output}"
    );
    Ok(())
}

fn routing() -> Result<(), Failed> {
    let output = out(&succeeds(&["routing", "Once upon a time"]));
    assert!(
        output.starts_with("token") && output.contains("layer 0") && output.contains("layer 2"),
        "{output}"
    );
    assert!(output.contains("8 assignments, capacity 4 each, 0 dropped"), "{output}");
    assert!(!output.contains('\x1b'), "no colours in a pipe");
    let dropless = out(&succeeds(&["routing", "Once upon a time", "--moe", "dropless", "--leaks"]));
    assert!(dropless.contains("8 assignments, dropless") && dropless.contains("no leaks"), "{dropless}");

    // With room for one token in four, later tokens take slots from earlier ones.
    let mut draft = Draft::read(&default_model());
    draft.config.insert("eval_capacity".into(), json!(1.0));
    let tight = draft.write();
    std::fs::copy(default_model().join("tokenizer.json"), tight.0.join("tokenizer.json"))?;
    let leaky = out(&succeeds(&["routing", "--leaks", "--model", text(&tight.0)]));
    assert!(leaky.contains(" drop ") && leaky.contains(" dropped"), "{leaky}");
    assert!(leaky.contains("assignments depend on later tokens"), "{leaky}");
    Ok(())
}

/// The golden models through the compiled kernels.
fn verify_virtual() -> Trial {
    let name = "cli::verify::virtual";
    let executor = crate::common::executors().iter().find(|executor| executor.name == "virtual");
    if let Some(reason) = executor.and_then(|executor| executor.absent(nanomoe::tensor::DType::F32)) {
        return Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true);
    }
    Trial::test(name, || {
        for folder in GOLDEN {
            let output = out(&succeeds(&["verify", text(&golden(folder)), "--device", "virtual"]));
            assert!(output.contains("tensors are within the bound"), "{folder}: {output}");
            assert!(!output.contains("FAIL"), "{folder}: {output}");
        }
        Ok(())
    })
}

fn verify() -> Result<(), Failed> {
    for name in GOLDEN {
        let output = out(&succeeds(&["verify", text(&golden(name))]));
        assert!(
            output.contains("tensors are within the bound") && !output.contains("FAIL"),
            "{name}: {output}"
        );
    }
    // One weight changed by 1: the folder's outputs are no longer this model's.
    let dir = golden("nanomoe-dense");
    let mut draft = Draft::read(&dir);
    let bytes = &mut draft.tensor("transformer.ln_f.weight").bytes;
    let value = f32::from_le_bytes(bytes[8..12].try_into().unwrap()) + 1.0;
    bytes[8..12].copy_from_slice(&value.to_le_bytes());
    let changed = draft.write();
    std::fs::copy(dir.join("golden.safetensors"), changed.0.join("golden.safetensors"))?;
    let output = nanomoe(&["verify", text(&changed.0)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        out(&output).contains("FAIL logits") && out(&output).contains("out of bound"),
        "{}",
        out(&output)
    );
    Ok(())
}

fn info() -> Result<(), Failed> {
    let output = out(&succeeds(&["info"]));
    for expected in
        ["11,606,272", "5,314,816", "8, 2 a token", "0, 2", "46.4 MB as f32", "256 tokens", "tokenizer.json"]
    {
        assert!(output.contains(expected), "{expected}: {output}");
    }
    Ok(())
}
