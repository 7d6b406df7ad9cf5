//! The program as people use it: its commands, and a clear line with the right exit code for everything that is wrong.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::common::{
    Draft, RawTensor, Scratch, default_model, golden, read_safetensors, safetensors_bytes, with_header,
};

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
        Trial::test("cli::bad_arguments", bad_arguments),
        Trial::test("cli::bad_models", bad_models),
        Trial::test("cli::bad_inputs", bad_inputs),
        Trial::test("cli::no_partial_output", no_partial_output),
        no_driver(),
    ]
}

/// Runs the program on the cpu.
fn nanomoe(args: &[&str]) -> Output {
    let needs_device = !matches!(args.first(), None | Some(&"kernels")) && !args.contains(&"--device");
    let device: &[&str] = if needs_device { &["--device", "cpu"] } else { &[] };
    run(&[args, device].concat())
}

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nanomoe"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

#[track_caller]
fn succeeds(args: &[&str]) -> Output {
    let output = nanomoe(args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    output
}

/// The command ends with `code`, writes nothing to standard output, and says one line with `expected`.
#[track_caller]
fn fails(args: &[&str], code: i32, expected: &str) {
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

fn bad_arguments() -> Result<(), Failed> {
    for (args, expected) in [
        (&["generate", "x", "--temperature", "-1"][..], "--temperature is -1, expected a number from 0 on"),
        (&["generate", "x", "--temperature", "NaN"], "--temperature is NaN"),
        (&["generate", "x", "--top-p", "0"], "--top-p is 0, expected a number above 0 and at most 1"),
        (&["generate", ""], "the prompt \"\" has no tokens"),
        (&["routing", ""], "the text has no tokens"),
        (&["generate", "x", "--dtype", "bf16"], "--device cpu computes in f32, not in bf16"),
    ] {
        // A value that begins with a minus sign has to be joined to its option.
        let joined: Vec<String> = if args.contains(&"-1") {
            vec!["generate".into(), "x".into(), "--temperature=-1".into()]
        } else {
            args.iter().map(|&arg| arg.to_owned()).collect()
        };
        fails(&joined.iter().map(String::as_str).collect::<Vec<_>>(), 2, expected);
    }
    for args in
        [&["generate", "--max-tokens", "many"][..], &["sing"], &[], &["verify"], &["info", "--device", "tpu"]]
    {
        let output = nanomoe(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
    }
    Ok(())
}

fn bad_models() -> Result<(), Failed> {
    fails(&["info", "--model", "/no/such/folder"], 1, "error: /no/such/folder: No such file or directory");
    let good = Draft::read(&golden("nanomoe-capacity"));
    let spoilt = |spoil: &dyn Fn(&mut Draft), expected: &str| {
        let mut draft = good.clone();
        spoil(&mut draft);
        fails(&["info", "--model", text(&draft.write().0)], 1, expected);
    };
    spoilt(
        &|draft| drop(draft.config.insert("top_k".into(), json!(9))),
        "top_k is 9, but there are 8 experts",
    );
    spoilt(&|draft| drop(draft.config.insert("n_head".into(), json!(5))), "is not a multiple of the 5 heads");
    spoilt(&|draft| draft.remove("transformer.wpe.weight"), "wpe.weight is missing");
    spoilt(&|draft| draft.add_zeros("other", &[1]), "other [1] is not part of a model");
    spoilt(
        &|draft| draft.tensor("transformer.wpe.weight").dtype = "U32".into(),
        "has dtype U32, expected F32",
    );
    spoilt(
        &|draft| draft.tensor("transformer.wpe.weight").shape = vec![48, 64],
        "has shape [48, 64], expected [64, 48]",
    );

    let file = good.write();
    let path = file.0.join("model.safetensors");
    let whole = std::fs::read(&path)?;
    for (bytes, expected) in [
        (whole[..whole.len() / 2].to_vec(), "truncated or overlong"),
        ([&whole[..], b"x"].concat(), "truncated or overlong"),
        ([&(5u64 << 40).to_le_bytes()[..], &whole[8..]].concat(), "the header claims 5497558138880 bytes"),
        (with_header("{", &[]), "not a sound safetensors header"),
    ] {
        std::fs::write(&path, bytes)?;
        fails(&["info", "--model", text(&file.0)], 1, expected);
    }

    let mut nan = good.clone();
    nan.tensor("transformer.h.1.mlp.c_fc.weight").bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let nan = nan.write();
    let dir = golden("nanomoe-capacity");
    let scratch = Scratch::new();
    let target = scratch.0.join("out.safetensors");
    let input = dir.join("golden.safetensors");
    let args = ["logits", "--input", text(&input), "--output", text(&target), "--model", text(&nan.0)];
    fails(
        &[&args[..], &["--check-weights"]].concat(),
        1,
        "transformer.h.1.mlp.c_fc.weight holds NaN at [0, 0]",
    );

    fails(&["generate", "x", "--model", text(&dir)], 1, "a vocabulary of 199 is not GPT-2's");
    let foreign = good.write();
    std::fs::copy(default_model().join("tokenizer.json"), foreign.0.join("tokenizer.json"))?;
    let expected = "tokenizer.json: holds id 4095, but the model's vocabulary ends at 198";
    fails(&["generate", "x", "--model", text(&foreign.0)], 1, expected);
    Ok(())
}

fn bad_inputs() -> Result<(), Failed> {
    let dir = golden("nanomoe-capacity");
    let scratch = Scratch::new();
    let (input, target) = (scratch.0.join("in.safetensors"), scratch.0.join("out.safetensors"));
    let ids = |name: &str, shape: &[usize], ids: &[i64]| RawTensor {
        name: name.into(),
        dtype: "I64".into(),
        shape: shape.to_vec(),
        bytes: ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    };
    let floats =
        RawTensor { name: "input_ids".into(), dtype: "F32".into(), shape: vec![1, 2], bytes: vec![0; 8] };
    let doubles = RawTensor { dtype: "F64".into(), bytes: vec![0; 16], ..floats.clone() };
    let good = ids("input_ids", &[1, 2], &[3, 4]);
    for (tensors, expected) in [
        (vec![], "input_ids is missing"),
        (vec![ids("input_ids", &[1, 2], &[3, 199])], "id 199"),
        (vec![ids("input_ids", &[1, 2], &[3, -1])], "input_ids holds -1"),
        (vec![ids("input_ids", &[1, 2], &[3, 1 << 40])], "input_ids holds 1099511627776"),
        (vec![ids("input_ids", &[1, 65], &[0; 65])], "a sequence of 65 tokens, but at most 64 fit"),
        (vec![ids("input_ids", &[2, 0], &[])], "input_ids is empty"),
        (vec![ids("input_ids", &[0, 2], &[])], "input_ids is empty"),
        (vec![ids("input_ids", &[2], &[3, 4])], "input_ids has shape [2], expected integers [batch, seq]"),
        (vec![floats], "expected integers [batch, seq]"),
        (vec![doubles], "input_ids has dtype F64"),
        (vec![good.clone(), ids("targets", &[1, 1], &[3])], "targets has shape [1, 1]"),
        (vec![good.clone(), ids("targets", &[1, 2], &[3, 199])], "target 199 at position 1 is neither"),
        (vec![good.clone(), ids("targets", &[1, 2], &[3, -2])], "target -2 at position 1 is neither"),
    ] {
        std::fs::write(&input, safetensors_bytes(&tensors))?;
        let args = ["logits", "--model", text(&dir), "--input", text(&input), "--output", text(&target)];
        fails(&args, 1, expected);
        fails(&args, 1, "in.safetensors");
        assert!(!target.exists(), "{expected}");
    }
    let args = ["logits", "--model", text(&dir), "--output", text(&target), "--input"];
    fails(&[&args[..], &["/no/such/file"]].concat(), 1, "/no/such/file: No such file or directory");

    let file = scratch.0.join("text.txt");
    for (bytes, expected) in
        [(&b""[..], "0 tokens, expected at least 2"), (b"ab\xff", "text.txt: not UTF-8 at byte 2")]
    {
        std::fs::write(&file, bytes)?;
        fails(&["loss", text(&file)], 1, expected);
    }
    fails(&["loss", "/no/such/text"], 1, "/no/such/text: No such file or directory");
    fails(&["verify", text(&default_model())], 1, "golden.safetensors: No such file or directory");
    Ok(())
}

/// The output's folder cannot be written, or the output is a folder: nothing is left behind.
fn no_partial_output() -> Result<(), Failed> {
    let dir = golden("nanomoe-dense");
    let input = dir.join("golden.safetensors");
    let scratch = Scratch::new();
    let taken = scratch.0.join("taken");
    std::fs::create_dir(&taken)?;
    let args = ["logits", "--model", text(&dir), "--input", text(&input), "--output"];
    let missing = scratch.0.join("missing/out.safetensors");
    fails(&[&args[..], &[text(&missing)]].concat(), 1, "missing/out.safetensors: No such file or directory");
    let output = nanomoe(&[&args[..], &[text(&taken)]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let left: Vec<_> = std::fs::read_dir(&scratch.0)?.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["taken"]);
    Ok(())
}

/// `--device cuda` where there is no driver.
fn no_driver() -> Trial {
    let name = "cli::no_driver";
    if nanomoe::device::cuda::probe().is_ok() {
        return Trial::test(name, || Ok(())).with_kind("this machine has a driver").with_ignored_flag(true);
    }
    Trial::test(name, || {
        let output = run(&["generate", "x", "--device", "cuda"]);
        let error = err(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.starts_with("error: ") && error.trim_end().lines().count() == 1, "{error}");
        assert!(error.contains("NVIDIA driver") || error.contains("no GPU kernels"), "{error}");
        Ok(())
    })
}
