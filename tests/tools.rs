//! The Python programs in `tools/`, as people use them. The trial of training is ignored, saying so, without PyTorch;
//! checkpoints to convert are made by PyTorch where it is, else by a stand-in that writes the same file.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use libtest_mimic::{Failed, Trial};
use nanomoe::cpu::CpuOperations;
use nanomoe::model::{Forward, Model, MoeMode, Targets};
use nanomoe::tensor::DType;
use nanomoe::tokenizer::{Specials, Tokenizer};
use nanomoe::weights::{Checkpoint, Weight};
use serde_json::json;

use crate::common::{Scratch, golden, report, repository, rounded};

/// Makes a ckpt.pt as nanoMoE's training saves it, of a golden folder's weights, and converts it, once for each
/// case: loading PyTorch takes seconds. Arguments: the converter, the folder, a folder to write to, and the cases as
/// JSON, each Python that may change `checkpoint`, Python run once it is saved, and options of the converter. Case N
/// is converted from N.pt to N; printed are the exit code and the standard error of each.
const CONVERT_ALL: &str = r#"
import contextlib, io, json, runpy, sys
sys.path.insert(0, "tests/common")
try:
    import torch
except ImportError:
    import torchlike as torch
converter, folder, out, cases = sys.argv[1:]
outcomes = []
def load_file(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    places = {name: info["data_offsets"] for name, info in header.items()}
    return {name: torch.frombuffer(bytearray(data[slice(*places[name])]), dtype=torch.float32).reshape(info["shape"])
            for name, info in header.items()}
for number, (before, after, options) in enumerate(json.loads(cases)):
    config = json.load(open(f"{folder}/config.json"))
    tensors = load_file(f"{folder}/model.safetensors")
    model = {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}
    model["_orig_mod.lm_head.weight"] = model["_orig_mod.transformer.wte.weight"]
    model["_orig_mod.transformer.h.0.attn.bias"] = torch.zeros(1, 1, 64, 64)
    del config["model_type"]
    checkpoint = {"model": model, "model_args": config, "iter_num": 7, "best_val_loss": torch.zeros(1),
                  "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "config": {"out_dir": "out"}}
    exec(before)
    path = f"{out}/{number}.pt"
    torch.save(checkpoint, path)
    exec(after)
    sys.argv = [converter, path, f"{out}/{number}", *options]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(converter, run_name="__main__")
        except SystemExit as end:
            outcomes.append((end.code, errors.getvalue()))
print(json.dumps(outcomes))
"#;

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("tools::convert::reproduces_pytorch", reproduces_pytorch),
        Trial::test("tools::convert::dtypes", dtypes),
        Trial::test("tools::convert::bad_checkpoints", bad_checkpoints),
        Trial::test("tools::convert::bad_arguments", bad_arguments),
        with_torch("tools::train::two_steps", train),
    ]
}

/// A trial that is ignored where Python has no PyTorch.
fn with_torch(name: &str, run: fn() -> Result<(), Failed>) -> Trial {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // Looking for a package is a hundred times faster than loading it.
    const LOOK: &str = "import importlib.util as util, sys; \
         sys.exit(not all(util.find_spec(name) for name in ('torch', 'safetensors', 'tokenizers')))";
    let found = *FOUND.get_or_init(|| python(&["-c", LOOK]).is_ok_and(|output| output.status.success()));
    if found {
        Trial::test(name, run)
    } else {
        let reason = "python3 has no torch, safetensors and tokenizers";
        Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true)
    }
}

fn python(args: &[&str]) -> std::io::Result<Output> {
    Command::new("python3").args(args).current_dir(repository(".")).stdin(Stdio::null()).output()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Runs a program that must succeed, and gives what it printed.
#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let output = python(args).expect("python3 starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The program ended with exit code 1 and one line with `expected`, and left nothing in `out`.
#[track_caller]
fn check_failed(code: Option<i32>, error: &str, out: &Path, expected: &str) {
    assert_eq!(code, Some(1), "{expected}: {error}");
    assert!(error.starts_with("error: ") && error.contains(expected), "{error:?}, expected {expected:?}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    let left = std::fs::read_dir(out).map_or(0, |entries| entries.count());
    assert_eq!(left, 0, "{expected}: files were left in {}", out.display());
}

/// Runs a program that must be refused.
#[track_caller]
fn fails(args: &[&str], out: &Path, expected: &str) {
    let output = python(args).expect("python3 starts");
    check_failed(output.status.code(), &String::from_utf8_lossy(&output.stderr), out, expected);
}

/// A checkpoint to convert.
struct Case<'a> {
    /// Python that changes it before it is saved.
    before: &'a str,
    /// Python that changes the file at `path`.
    after: &'a str,
    /// Options of the converter.
    options: &'a [&'a str],
}

/// A checkpoint as it should be.
const GOOD: Case<'static> = Case { before: "", after: "", options: &[] };

/// Converts a checkpoint of `folder` in each case: gives the folder that holds the results, as 0, 1, .., and exit
/// codes and what was said on standard error.
fn convert(folder: &str, cases: &[Case<'_>]) -> (Scratch, Vec<(i32, String)>) {
    let scratch = Scratch::new();
    let cases: Vec<_> = cases.iter().map(|case| json!([case.before, case.after, case.options])).collect();
    let converter = repository("tools/convert.py");
    let cases = serde_json::Value::from(cases).to_string();
    let arguments = [text(&converter), text(&golden(folder)), text(&scratch.0), &cases].map(str::to_owned);
    let arguments = ["-c", CONVERT_ALL].into_iter().chain(arguments.iter().map(String::as_str));
    let printed = succeeds(&arguments.collect::<Vec<_>>());
    (scratch, serde_json::from_str(&printed).expect("JSON"))
}

/// The logits, losses and routing of the converted checkpoint are those PyTorch computed before it was made.
fn reproduces_pytorch() -> Result<(), Failed> {
    let ops = CpuOperations::new();
    // A nanoGPT checkpoint from before there was a choice does not say whether it has biases.
    let old = "del config['bias'], config['n_exp']";
    for (name, before) in [("nanomoe-capacity", ""), ("nanomoe-bias-top1", ""), ("nanomoe-dense", old)] {
        let (converted, outcomes) = convert(name, &[Case { before, ..GOOD }]);
        assert_eq!(outcomes, [(0, String::new())], "{name}");
        let checkpoint = Checkpoint::open(&converted.0.join("0"))?;
        assert_eq!(checkpoint.config(), Checkpoint::open(&golden(name))?.config(), "{name}");
        let model = Model::load(&ops, &checkpoint, DType::F32)?;
        report(&nanomoe::verify::verify(&golden(name), &ops, &model, MoeMode::Capacity)?)?;
    }
    Ok(())
}

fn dtypes() -> Result<(), Failed> {
    let original = Checkpoint::open(&golden("nanomoe-dense"))?.read_f32(Weight::TokenEmbedding)?;
    let tokenizer = repository("model/tokenizer.json");
    let halve = "for name in model: model[name] = model[name].half()";
    let (converted, outcomes) = convert(
        "nanomoe-dense",
        &[
            Case { options: &["--dtype", "bf16", "--tokenizer", text(&tokenizer)], ..GOOD },
            Case { options: &["--dtype", "f16", "--tokenizer", text(&tokenizer)], ..GOOD },
            Case { before: halve, options: &["--dtype", "f32", "--tokenizer", text(&tokenizer)], ..GOOD },
            Case { before: halve, ..GOOD },
        ],
    );
    assert!(outcomes.iter().all(|outcome| *outcome == (0, String::new())), "{outcomes:?}");
    let stored = [
        (DType::BF16, DType::BF16, 3),
        (DType::F16, DType::F16, 3),
        (DType::F32, DType::F16, 3),
        (DType::F16, DType::F16, 2),
    ];
    for (number, (dtype, precision, files)) in stored.into_iter().enumerate() {
        let out = converted.0.join(number.to_string());
        let checkpoint = Checkpoint::open(&out)?;
        assert_eq!(checkpoint.stored_dtype(Weight::TokenEmbedding), Some(dtype), "{number}");
        let values = checkpoint.read_f32(Weight::TokenEmbedding)?;
        assert_eq!(values, rounded(precision, &original), "{number}");
        assert_eq!(std::fs::read_dir(&out)?.count(), files, "nothing else is left there");
    }
    assert_eq!(std::fs::read(converted.0.join("0/tokenizer.json"))?, std::fs::read(&tokenizer)?);
    Ok(())
}

fn bad_checkpoints() -> Result<(), Failed> {
    let changed = |before| Case { before, ..GOOD };
    let cases = [
        (
            changed("del checkpoint['model_args']"),
            "has no dictionary 'model_args', as nanoGPT and nanoMoE save it",
        ),
        (changed("del config['n_head']"), "model_args has no n_head"),
        (changed("config['n_layer'] = 'four'"), "n_layer is 'four', expected a whole number of at least 1"),
        (
            changed("del model['_orig_mod.transformer.ln_f.weight']"),
            "ln_f.weight is missing, expected it with shape [48]",
        ),
        (changed("config['stride'] = 1"), "transformer.h.1.mlp.router.w_g.weight is missing"),
        (changed("config['n_embd'] = 24"), "transformer.wte.weight has shape [199, 48], expected [199, 24]"),
        (changed("model['extra'] = torch.zeros(2)"), "extra is not part of a model of this configuration"),
        (changed("model['transformer.ln_f.weight'] = torch.zeros(48)"), "are the same parameter"),
        (
            changed("model['_orig_mod.lm_head.weight'] = torch.zeros(199, 48)"),
            "lm_head.weight differs from transformer.wte.weight, but the head is tied to it",
        ),
        (
            changed("model['_orig_mod.transformer.wpe.weight'] = {}"),
            "wpe.weight is a dict, expected a tensor",
        ),
        (
            changed("for name in model: model[name] = model[name].double()"),
            "has dtype Double, which nanomoe does not read",
        ),
        (changed("checkpoint = [1, 2]"), "holds a list, expected a dictionary"),
        (changed("checkpoint['config'] = __import__('pathlib').PurePosixPath('out')"), "holds pathlib"),
        (
            changed(
                "import os; run = (os.mkdir, (out + '/run',)); \
                 checkpoint['config'] = type('Run', (), {'__reduce__': lambda _: run})()",
            ),
            "holds posix.mkdir, which is not a tensor or a plain value and is not loaded",
        ),
        (
            Case {
                before: "model['_orig_mod.transformer.wpe.weight'][3, 5] = 70000",
                options: &["--dtype", "f16"],
                ..GOOD
            },
            "transformer.wpe.weight holds 70000, which f16 cannot hold",
        ),
        (Case { after: "open(path, 'w').close()", ..GOOD }, "not a PyTorch checkpoint"),
        (Case { after: "open(path, 'w').write('Once upon a time')", ..GOOD }, "not a PyTorch checkpoint"),
        (
            Case { after: "import os; os.truncate(path, os.path.getsize(path) // 2)", ..GOOD },
            "not a PyTorch checkpoint, or a truncated one",
        ),
    ];
    let (cases, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let (converted, outcomes) = convert("nanomoe-capacity", &cases);
    assert_eq!(outcomes.len(), expected.len());
    for (number, ((code, error), expected)) in outcomes.iter().zip(expected).enumerate() {
        check_failed(Some(*code), error, &converted.0.join(number.to_string()), expected);
        assert!(error.contains(&format!("{number}.pt: ")), "{error} names the file");
    }
    assert!(!converted.0.join("run").exists(), "code in the checkpoint was run");
    Ok(())
}

/// Two steps of a tiny model: what is written is a model of this crate, and scores as the training said.
fn train() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let (texts, out) = (scratch.0.join("texts"), scratch.0.join("out"));
    std::fs::create_dir(&texts)?;
    let story = |king: &str| format!("Once upon a time there was {king}, who had a daughter. ").repeat(40);
    for (name, king) in [("a.txt", "a king"), ("b.txt", "a queen"), ("c.txt", "a miller")] {
        std::fs::write(texts.join(name), story(king))?;
    }
    let program = repository("tools/train.py");
    let sizes = "--steps 2 --batch 2 --context 16 --vocab 300 --layers 2 --heads 2 --width 16 --experts 4 --device cpu";
    let arguments = [text(&program), text(&texts), text(&out), "--held-out", "b.txt"];
    succeeds(&arguments.into_iter().chain(sizes.split(' ')).collect::<Vec<_>>());

    let checkpoint = Checkpoint::open(&out)?;
    assert_eq!(checkpoint.stored_dtype(Weight::TokenEmbedding), Some(DType::BF16));
    let tokenizer = Tokenizer::for_model(&out, checkpoint.config().vocab_size)?;
    assert_eq!(tokenizer.end_of_text(), Some(0));
    let training: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("training.json"))?)?;
    let known: serde_json::Value =
        serde_json::from_slice(&std::fs::read(repository("model/training.json"))?)?;
    let fields = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&training), fields(&known));
    assert_eq!((&training["held_out"], &training["steps"]), (&json!("b"), &json!(2)));

    let (ops, ids) = (CpuOperations::new(), tokenizer.encode(&story("a queen"), Specials::Text)?);
    let model = Model::load(&ops, &checkpoint, DType::F32)?;
    let mut workspace = model.workspace(&ops, 16)?;
    let mut nats = 0.0;
    for begin in (0..ids.len() - 1).step_by(16) {
        let end = (begin + 16).min(ids.len() - 1);
        let targets: Vec<i64> = ids[begin + 1..=end].iter().map(|&id| i64::from(id)).collect();
        let targets = Some(Targets { ids: &targets, ignore_index: -1 });
        let request = Forward { targets, ..Forward::default() };
        let output = model.forward(&ops, &mut workspace, 1, &ids[begin..end], &request)?;
        nats += output.token_losses.iter().map(|&loss| f64::from(loss)).sum::<f64>();
    }
    let (mean, said) = (nats / (ids.len() - 1) as f64, training["loss_nats_per_token_bf16_weights"].as_f64());
    assert!(said.is_some_and(|said| (said - mean).abs() < 1e-4), "{mean}, training.json says {said:?}");
    Ok(())
}

/// What is refused before PyTorch is asked for.
fn bad_arguments() -> Result<(), Failed> {
    let convert = text(&repository("tools/convert.py")).to_owned();
    let scratch = Scratch::new();
    let (missing, out) = (scratch.0.join("ckpt.pt"), scratch.0.join("out"));
    fails(&[&convert, text(&missing), text(&out)], &out, "ckpt.pt: no such file");
    fails(&[&convert, text(&scratch.0), text(&out)], &out, "a folder, expected a file");
    std::fs::write(&missing, "something")?;
    fails(
        &[&convert, text(&missing), text(&out), "--tokenizer", text(&scratch.0.join("words.json"))],
        &out,
        "words.json: no such file",
    );
    let output = python(&[&convert, "--dtype", "int8"])?;
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}
