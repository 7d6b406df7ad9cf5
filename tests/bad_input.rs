//! What is wrong with a command line, a model or an input is said in one clear line, with the right exit code.

use std::path::Path;
use std::process::{Command, Stdio};

use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::cli::{err, fails, nanomoe, out, text};
use crate::common::{Draft, RawTensor, Scratch, default_model, golden, safetensors_bytes, with_header};

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("bad_input::arguments", arguments),
        Trial::test("bad_input::models", models),
        Trial::test("bad_input::inputs", inputs),
        Trial::test("bad_input::not_finite", not_finite),
        Trial::test("bad_input::control_characters", control_characters),
        Trial::test("bad_input::no_memory", no_memory),
        Trial::test("bad_input::closed_standard_error", closed_standard_error),
        Trial::test("bad_input::no_partial_output", no_partial_output),
        Trial::test("bad_input::special_outputs", special_outputs),
    ]
}

fn arguments() -> Result<(), Failed> {
    for (args, expected) in [
        (&["generate", "x", "--temperature", "-1"][..], "--temperature is -1, expected a number from 0 on"),
        (&["generate", "x", "--temperature=-1"], "--temperature is -1, expected a number from 0 on"),
        (&["generate", "x", "--temperature", "NaN"], "--temperature is NaN"),
        (&["generate", "x", "--top-p", "0"], "--top-p is 0, expected a number above 0 and at most 1"),
        (&["generate", "x", "--top-p", "-0.5"], "--top-p is -0.5, expected"),
        (&["generate", "x", "--top-k", "-3"], "invalid value '-3' for '--top-k <N>'"),
        (&["generate", "x", "--max-tokens", "-1"], "invalid value '-1' for '--max-tokens <N>'"),
        (
            &["generate", "x", "--max-tokens", "many"],
            "invalid value 'many' for '--max-tokens <N>': invalid digit",
        ),
        (
            &["generate", "x", "--sed", "3"],
            "unexpected argument '--sed' found; tip: a similar argument exists: '--seed'",
        ),
        (&["generate", ""], "the prompt \"\" has no tokens"),
        (&["routing", ""], "the text has no tokens"),
        (&["generate", "x", "--dtype", "bf16"], "--device cpu computes in f32, not in bf16"),
        (&["sing"], "unrecognized subcommand 'sing'"),
        (&["verify"], "required arguments were not provided: <DIR>"),
        (
            &["info", "--device", "tpu"],
            "invalid value 'tpu' for '--device <DEVICE>' [possible values: cuda, virtual, cpu]",
        ),
    ] {
        fails(args, 2, expected);
    }
    // Without a command it tells what there is.
    let output = nanomoe(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("Usage: nanomoe <COMMAND>"), "{}", err(&output));
    // What is wrong with the prompt is said before the model is loaded.
    let model = Draft::read(&default_model());
    let mut model = Draft { tensors: model.tensors, config: model.config };
    model.tensor("transformer.wte.weight").bytes[..2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    let model = model.write();
    std::fs::copy(default_model().join("tokenizer.json"), model.0.join("tokenizer.json"))?;
    fails(
        &["generate", "", "--check-weights", "--model", text(&model.0)],
        2,
        "the prompt \"\" has no tokens",
    );
    Ok(())
}

fn models() -> Result<(), Failed> {
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
    spoilt(
        &|draft| drop(draft.config.insert("n_exp".into(), json!(1025))),
        "config.json: n_exp is 1025, expected at most 1024",
    );
    spoilt(&|draft| draft.remove("transformer.wpe.weight"), "transformer.wpe.weight is missing");
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

fn inputs() -> Result<(), Failed> {
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
        (
            vec![ids("input_ids", &[1, 65], &[0; 65])],
            "a sequence of 65 tokens, but at most 64 fit the position table",
        ),
        (vec![ids("input_ids", &[2, 0], &[])], "input_ids is empty"),
        (vec![ids("input_ids", &[0, 2], &[])], "input_ids is empty"),
        (vec![ids("input_ids", &[2], &[3, 4])], "input_ids has shape [2], expected integers [batch, seq]"),
        (vec![floats], "expected integers [batch, seq]"),
        (vec![doubles.clone()], "input_ids has dtype F64"),
        (
            vec![good.clone(), ids("targets", &[1, 1], &[3])],
            "targets has shape [1, 1], expected integers [1, 2] as input_ids",
        ),
        (
            vec![good.clone(), ids("targets", &[2, 1], &[3, 4])],
            "targets has shape [2, 1], expected integers [1, 2]",
        ),
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

    // Files whose header lies are refused as those of weights are; tensors nobody asked for are not looked at.
    let args = ["logits", "--model", text(&dir), "--input", text(&input), "--output", text(&target)];
    let whole = safetensors_bytes(std::slice::from_ref(&good));
    for (bytes, expected) in [
        (whole[..whole.len() - 1].to_vec(), "truncated or overlong"),
        ([&whole[..], b"x"].concat(), "truncated or overlong"),
        ([&(5u64 << 40).to_le_bytes()[..], &whole[8..]].concat(), "the header claims 5497558138880 bytes"),
        (Vec::new(), "not safetensors: 0 bytes, expected at least 8"),
        (with_header("[]", &[]), "not a sound safetensors header"),
    ] {
        std::fs::write(&input, bytes)?;
        fails(&args, 1, expected);
    }
    fails(
        &["logits", "--input", text(&dir), "--output", text(&target)],
        1,
        "not a regular file, expected safetensors",
    );
    let other = RawTensor { name: "other".into(), ..doubles };
    std::fs::write(&input, safetensors_bytes(&[other, good.clone()]))?;
    assert!(nanomoe(&args).status.success());

    // A folder whose golden data share no name with a model's outputs.
    std::fs::write(scratch.0.join("golden.safetensors"), safetensors_bytes(&[good]))?;
    let output = nanomoe(&["verify", text(&scratch.0), "--model", text(&dir)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("nothing was compared") && !out(&output).contains("of 0"),
        "{}",
        err(&output)
    );
    Ok(())
}

/// A NaN in a weight is an error that names where it comes from, whatever was asked.
fn not_finite() -> Result<(), Failed> {
    let spoilt = |tensor: &str| -> Result<Scratch, Failed> {
        let mut draft = Draft::read(&default_model());
        draft.tensor(tensor).bytes[..2].copy_from_slice(&half::bf16::NAN.to_le_bytes());
        let folder = draft.write();
        std::fs::copy(default_model().join("tokenizer.json"), folder.0.join("tokenizer.json"))?;
        Ok(folder)
    };
    let folder = spoilt("transformer.h.1.mlp.c_fc.weight")?;
    let file = folder.0.join("text.txt");
    std::fs::write(&file, "Once upon a time there was a king.")?;
    fails(&["loss", text(&file), "--model", text(&folder.0)], 1, "the loss of token 1 is not finite");
    fails(&["loss", text(&file), "--model", text(&folder.0)], 1, "comes out of block 1");
    // The text that stands there when it goes wrong ends its line before the error begins one.
    let output = nanomoe(&["generate", "Once", "--model", text(&folder.0)]);
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(1), "Once\n"));
    assert!(err(&output).starts_with("error: the logits for position 1 are NaN"), "{}", err(&output));

    // In a router it would only send tokens elsewhere.
    let folder = spoilt("transformer.h.2.mlp.router.w_g.weight")?;
    let expected = "transformer.h.2.mlp.router.w_g.weight holds NaN at [0, 0], expected finite numbers only";
    fails(&["generate", "Once", "--model", text(&folder.0)], 1, expected);
    fails(&["loss", text(&file), "--model", text(&folder.0)], 1, expected);
    Ok(())
}

/// A name with a line's end and a terminal's command in it is written out.
fn control_characters() -> Result<(), Failed> {
    let mut draft = Draft::read(&golden("nanomoe-dense"));
    draft.add_zeros("first\nsecond\u{1b}[2J", &[1]);
    fails(
        &["info", "--model", text(&draft.write().0)],
        1,
        "first\\nsecond\\u{1b}[2J [1] is not part of a model",
    );
    fails(&["info", "--model", "no\nsuch\u{7}folder"], 1, "error: no\\nsuch\\u{7}folder: No such file");
    Ok(())
}

/// A process that may have little memory says how much it wanted.
fn no_memory() -> Result<(), Failed> {
    let scratch = Scratch::new();
    let (input, target) = (scratch.0.join("in.safetensors"), scratch.0.join("out.safetensors"));
    let (batch, seq) = (4000usize, 64usize);
    let ids = RawTensor {
        name: "input_ids".into(),
        dtype: "I32".into(),
        shape: vec![batch, seq],
        bytes: vec![0; 4 * batch * seq],
    };
    std::fs::write(&input, safetensors_bytes(&[ids]))?;
    let program = env!("CARGO_BIN_EXE_nanomoe");
    let (model, input, target) = (golden("nanomoe-dense"), text(&input), text(&target));
    let limited = format!(
        "ulimit -v 300000; exec {program} logits --device cpu --model {} --input {input} --output {target}",
        text(&model)
    );
    let output = Command::new("sh").args(["-c", &limited]).output()?;
    let error = err(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.starts_with("error: out of device memory: ") && error.contains(" free"), "{error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    assert!(!Path::new(target).exists());
    Ok(())
}

/// Nobody reads what is said there, or it cannot be written: no reason to fail otherwise than the command does.
fn closed_standard_error() -> Result<(), Failed> {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full");
    for (args, code) in [
        (&["generate", "Once", "--max-tokens", "2", "--device", "cpu"][..], 0),
        (&["generate", "Once", "--max-tokens", "2"], 0),
        (&["info", "--model", "/no/such/folder"], 1),
        (&["sing"], 2),
        (&[], 2),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nanomoe"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped());
        let output = command.stderr(full()?).output()?;
        assert_eq!(output.status.code(), Some(code), "{args:?} with a full device as standard error");
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        drop(child.stderr.take());
        let output = child.wait_with_output()?;
        assert_eq!(output.status.code(), Some(code), "{args:?} with standard error closed");
    }
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

/// What the output names is written to, not replaced: a link is followed, a pipe and a device stay what they are.
fn special_outputs() -> Result<(), Failed> {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let dir = golden("nanomoe-dense");
    let input = dir.join("golden.safetensors");
    let scratch = Scratch::new();
    let place = |name: &str| scratch.0.join(name);
    let args = ["logits", "--last", "--model", text(&dir), "--input", text(&input), "--output"];
    let write = |path: &Path| {
        let output = nanomoe(&[&args[..], &[text(path)]].concat());
        assert!(output.status.success(), "{}: {}", path.display(), err(&output));
    };
    write(&place("plain"));
    let expected = std::fs::read(place("plain"))?;

    std::fs::write(place("old"), "what was there")?;
    symlink("old", place("link"))?;
    symlink("new", place("dangling"))?;
    for (link, target) in [("link", "old"), ("dangling", "new")] {
        write(&place(link));
        assert!(place(link).symlink_metadata()?.is_symlink(), "{link} was replaced");
        assert_eq!(std::fs::read(place(target))?, expected, "{target}");
    }
    symlink("circle", place("circle"))?;
    fails(&[&args[..], &[text(&place("circle"))]].concat(), 1, "circle: too many links");

    let made = Command::new("mkfifo").arg(place("pipe")).status()?;
    assert!(made.success());
    let pipe = place("pipe");
    let reader = std::thread::spawn(move || std::fs::read(pipe));
    write(&place("pipe"));
    assert_eq!(reader.join().expect("the reader ends")?, expected);
    assert!(place("pipe").symlink_metadata()?.file_type().is_fifo(), "the pipe was replaced");

    // A link to the device: were it replaced, it would be the link.
    symlink("/dev/null", place("null"))?;
    write(&place("null"));
    assert_eq!(std::fs::read_link(place("null"))?, Path::new("/dev/null"));
    assert!(std::fs::metadata("/dev/null")?.file_type().is_char_device());
    let left = std::fs::read_dir(&scratch.0)?.filter(|entry| {
        entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().ends_with(".partial"))
    });
    assert_eq!(left.count(), 0);
    Ok(())
}
