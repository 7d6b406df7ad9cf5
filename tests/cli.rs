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
        Trial::test("cli::generate::many", generate_many),
        Trial::test("cli::generate::stop", generate_stop),
        Trial::test("cli::generate::logprobs", generate_logprobs),
        Trial::test("cli::generate::refusals", generate_refusals),
        Trial::test("cli::generate::cut_off", generate_cut_off),
        interrupted(),
        Trial::test("cli::bench_generate", bench_generate),
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

/// Lines of JSON in and out: every prompt as often as asked for, each text what its prompt alone gives.
fn generate_many() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let file = scratch.0.join("prompts.jsonl");
    std::fs::write(&file, "\"Once upon a time\"\n\n{\"prompt\": \"The king\", \"id\": 7}\n")?;
    let base = ["generate", "--prompts", text(&file), "--max-tokens", "12"];
    let lines = |more: &[&str]| -> Vec<serde_json::Value> {
        let output = out(&succeeds(&[&base[..], more].concat()));
        let mut lines: Vec<serde_json::Value> =
            output.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        lines.sort_by_key(|line| (line["prompt_index"].as_u64(), line["sample"].as_u64()));
        lines
    };
    let greedy = lines(&["--temperature", "0"]);
    assert_eq!(greedy.len(), 2);
    for (line, prompt) in greedy.iter().zip(["Once upon a time", "The king"]) {
        let alone = ["generate", prompt, "--max-tokens", "12", "--temperature", "0"];
        let made = [prompt, line["text"].as_str().unwrap(), "\n"].concat();
        assert_eq!(out(&succeeds(&alone)), made);
        assert_eq!(
            (&line["prompt"], &line["num_tokens"], &line["stop"]),
            (&json!(prompt), &json!(12), &json!("max_tokens"))
        );
    }
    let sampled = lines(&["--num-samples", "3"]);
    assert_eq!(sampled.len(), 6);
    assert_ne!(sampled[0]["text"], sampled[1]["text"]);
    assert_eq!(sampled, lines(&["--num-samples", "3", "--max-batch", "1"]), "the batch changes nothing");
    let whole = out(&succeeds(&["generate", "The king", "--num-samples", "2", "--max-tokens", "3"]));
    assert!(whole.contains("--- 1 of 2\nThe king") && whole.contains("--- 2 of 2\nThe king"), "{whole}");
    Ok(())
}

fn generate_stop() -> Result<(), Failed> {
    let base = ["generate", "Once upon a time", "--temperature", "0", "--max-tokens", "30"];
    let whole = out(&succeeds(&base));
    let at = whole.find(" daughter").expect("the story has a daughter");
    let cut = succeeds(&[&base[..], &["--stop", "never met", "--stop", " daughter"]].concat());
    assert_eq!(out(&cut), whole[..at].to_owned() + "\n");
    assert!(err(&cut).contains("the stop string \" daughter\""), "{}", err(&cut));
    assert_eq!(out(&succeeds(&[&base[..], &["--stop", "never met"]].concat())), whole);
    Ok(())
}

/// The probability of each token is that of the model's logits for it.
fn generate_logprobs() -> Result<(), Failed> {
    let output = out(&succeeds(&["generate", "Once upon", "--max-tokens", "4", "--logprobs"]));
    let lines: Vec<Vec<&str>> = output.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 4, "{output}");
    let checkpoint = nanomoe::weights::Checkpoint::open(&default_model())?;
    let ops = nanomoe::cpu::CpuOperations::new();
    let model = nanomoe::model::Model::load(&ops, &checkpoint, nanomoe::tensor::DType::F32)?;
    let tokenizer = nanomoe::tokenizer::Tokenizer::for_model(&default_model(), 4096)?;
    let mut ids = tokenizer.encode("Once upon", nanomoe::tokenizer::Specials::Text)?;
    let mut workspace = model.workspace(&ops, 16)?;
    let request = nanomoe::model::Forward {
        logits: nanomoe::model::LogitRows::Last,
        ..nanomoe::model::Forward::default()
    };
    for line in lines {
        let logits = model.forward(&ops, &mut workspace, 1, &ids, &request)?.logits;
        let (logprob, id): (f64, u32) = (line[0].parse()?, line[1].parse()?);
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        let expected = f64::from(logits[id as usize] - largest) - sum.ln();
        assert!((logprob - expected).abs() < 1e-3, "{line:?}: {expected}");
        ids.push(id);
    }
    Ok(())
}

fn generate_refusals() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let file = |name: &str, content: &str| {
        let path = scratch.0.join(name);
        std::fs::write(&path, content).expect("a folder for temporary files");
        path
    };
    let prompts = |path: &Path, expected: &str| fails(&["generate", "--prompts", text(path)], 1, expected);
    prompts(&file("not", "Once\n"), "line 1: expected value");
    prompts(&file("list", "\"a\"\n[1]\n"), "line 2: expected a string, or an object with a string `prompt`");
    prompts(&file("empty", "\"a\"\n\"\"\n"), "line 2: the prompt has no tokens");
    prompts(&file("none", "\n \n"), "no prompts in it");
    prompts(&scratch.0.join("absent"), "absent");
    let usage = |args: &[&str], expected: &str| fails(&[&["generate", "a"], args].concat(), 2, expected);
    usage(&["--num-samples", "0"], "--num-samples is 0");
    usage(&["--max-batch", "0"], "--max-batch is 0");
    usage(&["--stop", ""], "--stop is an empty string");
    usage(&["--min-p", "1.5"], "--min-p is 1.5");
    usage(&["--repetition-penalty", "0"], "--repetition-penalty is 0");
    usage(&["--prompts", "x"], "cannot be used with");
    Ok(())
}

/// What was made before an error is shown, then the error.
fn generate_cut_off() -> Result<(), Failed> {
    let mut draft = Draft::read(&default_model());
    let positions = draft.tensor("transformer.wpe.weight");
    let row = 2 * positions.shape[1];
    positions.bytes[10 * row..][..2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    let spoilt = draft.write();
    std::fs::copy(default_model().join("tokenizer.json"), spoilt.0.join("tokenizer.json"))?;
    let file = spoilt.0.join("prompts.jsonl");
    std::fs::write(&file, "\"The king\"\n\"Once upon a time there was\"\n")?;
    let args = ["generate", "--prompts", text(&file), "--max-tokens", "20", "--model", text(&spoilt.0)];
    let output = nanomoe(&args);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("comes out of the embedding"), "{}", err(&output));
    let lines: Vec<serde_json::Value> =
        out(&output).lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["stop"] == "error" && line["num_tokens"] == 5), "{lines:?}");
    Ok(())
}

/// Ctrl-C ends a text with what was made.
fn interrupted() -> Trial {
    let run = || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nanomoe"))
            .args(["generate", "Once upon a time", "--max-tokens", "1000000", "--device", "cpu"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // The prompt is there once the program listens
        let mut first = [0; 20];
        std::io::Read::read_exact(child.stdout.as_mut().expect("it is piped"), &mut first)?;
        Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
        let output = child.wait_with_output()?;
        let told = err(&output);
        assert_eq!(output.status.code(), Some(130), "{told}");
        assert!(told.contains("then interrupted; "), "{told}");
        assert!(output.stdout.ends_with(b"\n"));
        Ok(())
    };
    let trial = Trial::test("cli::generate::interrupted", run);
    if cfg!(unix) { trial } else { trial.with_kind("no signals here").with_ignored_flag(true) }
}

fn bench_generate() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let file = scratch.0.join("generate.json");
    let dir = golden("gpt2");
    let base = ["bench", "generate", "--model", text(&dir), "--shape", "1", "--shape", "3"];
    let output = out(&succeeds(&[&base[..], &["--json", text(&file)]].concat()));
    assert!(output.contains("decode tokens/s") && output.lines().count() == 4, "{output}");
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    for (line, batch_size) in written["lines"].as_array().unwrap().iter().zip([1, 3]) {
        assert_eq!(line["batch_size"], batch_size);
        for key in ["first_token_ms", "prefill_tokens_per_s", "decode_tokens_per_s", "percent_of_floor"] {
            assert!(line[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {line}");
        }
    }
    fails(&["bench", "generate", "--shape", "0"], 2, "expected a number of sequences");
    fails(&["bench", "generate", "--device", "virtual"], 2, "no notion");
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
