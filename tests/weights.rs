//! Checkpoints: what is read, in which orientation and type, and every way a file can be bad.

use libtest_mimic::{Failed, Trial};
use nanomoe::config::Layout;
use nanomoe::tensor::DType;
use nanomoe::weights::{Checkpoint, LayerWeight, Weight};

use crate::common::{Draft, RawTensor, Scratch, decode, default_model, golden, rounded, with_header};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("weights::families", families),
        Trial::test("weights::prefixes", prefixes),
        Trial::test("weights::extras", extras),
        Trial::test("weights::bad_tensors", bad_tensors),
        Trial::test("weights::bad_files", bad_files),
        Trial::test("weights::not_finite", not_finite),
        Trial::test("weights::read_refuses", read_refuses),
    ];
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        trials.push(Trial::test(format!("weights::{dtype}::orientation"), move || orientation(dtype)));
    }
    trials
}

fn families() -> Result<(), Failed> {
    let families = [
        ("seed-gpt", Layout::SeedGpt, 107_299),
        ("seed-gpt-nobias", Layout::SeedGpt, 105_792),
        ("nanomoe-capacity", Layout::NanoMoe, 382_464),
        ("nanomoe-bias-top1", Layout::NanoMoe, 219_120),
        ("nanomoe-dense", Layout::NanoMoe, 69_264),
        ("gpt2", Layout::HfGpt2, 170_624),
    ];
    for (name, layout, num_parameters) in families {
        let checkpoint = Checkpoint::open(&golden(name))?;
        assert_eq!(
            (checkpoint.config().layout, checkpoint.num_parameters()),
            (layout, num_parameters),
            "{name}"
        );
        checkpoint.check_finite(DType::F16)?;
    }
    let model = Checkpoint::open(&default_model())?;
    assert_eq!(model.num_parameters(), 11_606_272);
    assert_eq!(model.stored_dtype(Weight::TokenEmbedding), Some(DType::BF16));
    Ok(())
}

/// The file's `[.., in, out]` matrices against plain loops over the raw file. 65 and 130 cross the 64-wide tiles.
fn orientation(dtype: DType) -> Result<(), Failed> {
    let read = |checkpoint: &Checkpoint, weight| {
        let mut bytes = vec![0; dtype.size() * checkpoint.shape(weight).iter().product::<usize>()];
        checkpoint.read(weight, dtype, &mut bytes).unwrap();
        decode(dtype, &bytes)
    };
    let compare =
        |what: &str, got: &[f32], raw: &RawTensor, batch: usize, transposed: Option<(usize, usize)>| {
            let raw = rounded(dtype, &raw.values());
            assert_eq!(got.len(), raw.len(), "{what}");
            let Some((inputs, outputs)) = transposed else {
                assert_eq!(got, raw, "{what}");
                return;
            };
            for matrix in 0..batch {
                for output in 0..outputs {
                    for input in 0..inputs {
                        let expected = raw[(matrix * inputs + input) * outputs + output];
                        let found = got[(matrix * outputs + output) * inputs + input];
                        assert_eq!(found, expected, "{what}[{matrix}, {output}, {input}]");
                    }
                }
            }
        };

    let mut draft = Draft::read(&golden("gpt2"));
    let gpt2 = Checkpoint::open(&golden("gpt2"))?;
    for (weight, name, sizes) in [
        (LayerWeight::Qkv, "attn.c_attn.weight", Some((64, 192))),
        (LayerWeight::Out, "attn.c_proj.weight", Some((64, 64))),
        (LayerWeight::Up, "mlp.c_fc.weight", Some((64, 256))),
        (LayerWeight::Down, "mlp.c_proj.weight", Some((256, 64))),
        (LayerWeight::QkvBias, "attn.c_attn.bias", None),
    ] {
        let raw = draft.tensor(&format!("transformer.h.2.{name}")).clone();
        compare(name, &read(&gpt2, Weight::Layer(2, weight)), &raw, 1, sizes);
    }
    let mut draft = Draft::read(&golden("nanomoe-bias-top1"));
    let moe = Checkpoint::open(&golden("nanomoe-bias-top1"))?;
    for (weight, name, sizes) in [
        (LayerWeight::ExpertsUp, "mlp.experts.c_fc", Some((48, 192))),
        (LayerWeight::ExpertsDown, "mlp.experts.c_proj", Some((192, 48))),
        (LayerWeight::ExpertsUpBias, "mlp.experts.fc_bias", None),
        (LayerWeight::Out, "attn.c_proj.weight", None),
        (LayerWeight::Router, "mlp.router.w_g.weight", None),
    ] {
        let raw = draft.tensor(&format!("transformer.h.1.{name}")).clone();
        compare(name, &read(&moe, Weight::Layer(1, weight)), &raw, 5, sizes);
    }
    let mut draft = odd_gpt2(65, 130);
    let odd = draft.write();
    let odd = Checkpoint::open(&odd.0)?;
    let raw = draft.tensor("h.0.mlp.c_fc.weight").clone();
    compare("65 x 130", &read(&odd, Weight::Layer(0, LayerWeight::Up)), &raw, 1, Some((65, 130)));
    Ok(())
}

/// A GPT-2 of one layer with these widths, and numbers that are all different.
fn odd_gpt2(hidden: usize, inner: usize) -> Draft {
    let config = serde_json::json!({ "model_type": "gpt2", "n_embd": hidden, "n_inner": inner, "n_head": 1, "n_layer": 1,
        "vocab_size": 3, "n_positions": 2 });
    let mut draft = Draft { config: config.as_object().unwrap().clone(), tensors: Vec::new() };
    let shapes: [(&str, &[usize]); 16] = [
        ("wte.weight", &[3, hidden]),
        ("wpe.weight", &[2, hidden]),
        ("ln_f.weight", &[hidden]),
        ("ln_f.bias", &[hidden]),
        ("h.0.ln_1.weight", &[hidden]),
        ("h.0.ln_1.bias", &[hidden]),
        ("h.0.ln_2.weight", &[hidden]),
        ("h.0.ln_2.bias", &[hidden]),
        ("h.0.attn.c_attn.weight", &[hidden, 3 * hidden]),
        ("h.0.attn.c_attn.bias", &[3 * hidden]),
        ("h.0.attn.c_proj.weight", &[hidden, hidden]),
        ("h.0.attn.c_proj.bias", &[hidden]),
        ("h.0.mlp.c_fc.weight", &[hidden, inner]),
        ("h.0.mlp.c_fc.bias", &[inner]),
        ("h.0.mlp.c_proj.weight", &[inner, hidden]),
        ("h.0.mlp.c_proj.bias", &[hidden]),
    ];
    for (name, shape) in shapes {
        let size = shape.iter().product::<usize>();
        let bytes = (0..size).flat_map(|at| (at as f32).to_le_bytes()).collect();
        draft.tensors.push(RawTensor {
            name: name.into(),
            dtype: "F32".into(),
            shape: shape.to_vec(),
            bytes,
        });
    }
    draft
}

fn prefixes() -> Result<(), Failed> {
    let mut draft = Draft::read(&golden("nanomoe-capacity"));
    let plain = Checkpoint::open(&golden("nanomoe-capacity"))?.read_f32(Weight::TokenEmbedding)?;
    for tensor in &mut draft.tensors {
        tensor.name = format!("_orig_mod.{}", tensor.name);
    }
    assert_eq!(Checkpoint::open(&draft.write().0)?.read_f32(Weight::TokenEmbedding)?, plain);

    let mut draft = Draft::read(&golden("gpt2"));
    for tensor in &mut draft.tensors {
        tensor.name = tensor.name.trim_start_matches("transformer.").into();
    }
    Checkpoint::open(&draft.write().0)?;

    draft.add_zeros("transformer.wte.weight", &[257, 64]);
    assert_error(&draft, "are the same parameter");
    Ok(())
}

fn extras() -> Result<(), Failed> {
    let dense = Draft::read(&golden("nanomoe-dense"));
    let mut masked = dense.clone();
    masked.add_zeros("transformer.h.1.attn.bias", &[1, 1, 64, 64]);
    let mut copy = masked.tensor("transformer.wte.weight").clone();
    copy.name = "lm_head.weight".into();
    masked.tensors.push(copy);
    Checkpoint::open(&masked.write().0)?;

    masked.tensor("lm_head.weight").bytes[7] ^= 1;
    assert_error(&masked, "lm_head.weight differs from transformer.wte.weight, but the head is tied");
    for name in ["transformer.h.2.attn.bias", "transformer.h.0.mlp.experts.c_fc", "extra", "lm_head.bias"] {
        let mut draft = dense.clone();
        draft.add_zeros(name, &[2, 3]);
        assert_error(&draft, &format!("{name} [2, 3] is not part of a model of this configuration"));
    }
    Ok(())
}

fn bad_tensors() -> Result<(), Failed> {
    let good = Draft::read(&golden("nanomoe-capacity"));
    let spoilt = |spoil: &dyn Fn(&mut Draft), expected: &str| {
        let mut draft = good.clone();
        spoil(&mut draft);
        assert_error(&draft, expected);
    };
    spoilt(
        &|draft| draft.remove("transformer.ln_f.weight"),
        "transformer.ln_f.weight is missing, expected it with shape [48]",
    );
    // A name that is missing is called as the file would have it.
    let mut compiled = good.clone();
    compiled.tensors.iter_mut().for_each(|tensor| tensor.name = format!("_orig_mod.{}", tensor.name));
    compiled.remove("_orig_mod.transformer.h.1.ln_1.weight");
    assert_error(&compiled, "safetensors: _orig_mod.transformer.h.1.ln_1.weight is missing");
    let mut bare = Draft::read(&golden("gpt2"));
    for tensor in &mut bare.tensors {
        tensor.name = tensor.name.trim_start_matches("transformer.").into();
    }
    bare.remove("h.0.ln_1.bias");
    assert_error(&bare, "safetensors: h.0.ln_1.bias is missing");
    let mut untied = Draft::read(&golden("gpt2"));
    untied.config.insert("tie_word_embeddings".into(), false.into());
    assert_error(&untied, "safetensors: lm_head.weight is missing");
    let mut seed = Draft::read(&golden("seed-gpt"));
    seed.remove("transformer.head.bias");
    assert_error(&seed, "safetensors: transformer.head.bias is missing");
    spoilt(
        &|draft| draft.tensor("transformer.h.0.mlp.router.w_g.weight").shape = vec![48, 8],
        "transformer.h.0.mlp.router.w_g.weight has shape [48, 8], expected [8, 48]",
    );
    spoilt(
        &|draft| draft.tensor("transformer.wpe.weight").dtype = "I32".into(),
        "transformer.wpe.weight has dtype I32, expected F32, BF16 or F16",
    );
    spoilt(&|draft| draft.config["n_embd"] = 24.into(), "has shape [199, 48], expected [199, 24]");
    spoilt(&|draft| draft.config["stride"] = 1.into(), "h.1.mlp.router.w_g.weight is missing");
    spoilt(&|draft| draft.config["n_layer"] = 3.into(), "is not part of a model of this configuration");
    spoilt(&|draft| draft.config["n_layer"] = 2147483647.into(), "h.4.ln_1.weight is missing");
    spoilt(
        &|draft| draft.config["model_type"] = "gpt2".into(),
        "but the tensors are those of nanoGPT/nanoMoE",
    );
    spoilt(&|draft| draft.tensors.clear(), "found no tensor at all");
    spoilt(
        &|draft| draft.tensor("transformer.h.0.attn.c_attn.weight").shape = vec![96, 72],
        "has shape [96, 72], expected [3d, d] or [d, 3d]",
    );

    let mut mixtral = good.clone();
    mixtral.config["model_type"] = "mixtral".into();
    mixtral.tensors.retain(|tensor| !tensor.name.contains("c_attn"));
    assert_error(&mixtral, "model_type \"mixtral\" is not supported");
    let missing = Scratch::new();
    let error = Checkpoint::open(&missing.0.join("nowhere")).unwrap_err().to_string();
    assert!(error.ends_with("nowhere: No such file or directory (os error 2)"), "{error}");
    let error = Checkpoint::open(&missing.0).unwrap_err().to_string();
    assert!(error.contains("model.safetensors: No such file"), "{error}");
    Ok(())
}

/// Files whose header lies.
fn bad_files() -> Result<(), Failed> {
    let good = std::fs::read(golden("nanomoe-dense").join("model.safetensors"))?;
    let tensor = |shape: &str, begin: u64, end: u64| {
        format!(r#"{{"wte.weight":{{"dtype":"F32","shape":{shape},"data_offsets":[{begin},{end}]}}}}"#)
    };
    let overlapping = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let mut overlong = good.clone();
    overlong.extend_from_slice(b"more");
    let mut terabytes = good.clone();
    terabytes[..8].copy_from_slice(&(3u64 << 40).to_le_bytes());
    let cases: [(&str, Vec<u8>, &str); 14] = [
        ("empty", Vec::new(), "0 bytes, expected at least 8"),
        ("five bytes", good[..5].to_vec(), "5 bytes, expected at least 8"),
        ("header cut", good[..100].to_vec(), "bytes, but only 92 follow"),
        ("data cut", good[..good.len() - 1].to_vec(), "the tensors do not end where the file ends"),
        ("data too long", overlong, "the tensors do not end where the file ends"),
        ("terabytes of header", terabytes, "the header claims 3298534883328 bytes"),
        ("all ones", vec![0xff; 64], "the header claims 18446744073709551615 bytes"),
        ("not JSON", with_header("{]", &[]), "not a sound safetensors header"),
        ("not UTF-8", with_header("{\"\u{0}\": 1}", &[]), "not a sound safetensors header"),
        (
            "terabytes of data",
            with_header(&tensor("[1099511627776]", 0, 1 << 42), &[0; 16]),
            "do not end where",
        ),
        (
            "shape overflows",
            with_header(&tensor("[4294967296,4294967296,4294967296]", 0, 16), &[0; 16]),
            "sound",
        ),
        ("backwards", with_header(&tensor("[4]", 16, 0), &[0; 16]), "not a sound safetensors header"),
        ("shape too small", with_header(&tensor("[3]", 0, 16), &[0; 16]), "not a sound safetensors header"),
        ("overlapping", with_header(overlapping, &[0; 12]), "not a sound safetensors header"),
    ];
    for (what, bytes, expected) in cases {
        let scratch = Draft::read(&golden("nanomoe-dense")).write();
        std::fs::write(scratch.0.join("model.safetensors"), bytes)?;
        let error = Checkpoint::open(&scratch.0).expect_err(what).to_string();
        assert!(error.contains(expected) && error.contains("model.safetensors"), "{what}: {error}");
        assert!(!error.contains('\n'), "{what}: {error:?} is one line");
    }
    Ok(())
}

fn not_finite() -> Result<(), Failed> {
    let good = Draft::read(&golden("nanomoe-capacity"));
    let set = |value: f32| {
        let mut draft = good.clone();
        // Expert 3, row 5, column 7 of [8, 48, 192].
        let at = 4 * ((3 * 48 + 5) * 192 + 7);
        draft.tensor("transformer.h.2.mlp.experts.c_fc").bytes[at..at + 4]
            .copy_from_slice(&value.to_le_bytes());
        let scratch = draft.write();
        let checkpoint = Checkpoint::open(&scratch.0).unwrap();
        [DType::F32, DType::BF16, DType::F16]
            .map(|dtype| checkpoint.check_finite(dtype).err().map(|e| e.to_string()))
    };
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        for error in set(value) {
            let expected = format!("transformer.h.2.mlp.experts.c_fc holds {name} at [3, 5, 7]");
            assert!(error.as_ref().is_some_and(|error| error.contains(&expected)), "{error:?}");
        }
    }
    // 65519 rounds to the largest f16, 65520 to infinity; 3.4e38 is too large for bf16 alone.
    assert_eq!(set(65519.0), [None, None, None]);
    let [f32_error, bf16_error, f16_error] = set(-65520.0);
    assert_eq!((f32_error, bf16_error), (None, None));
    assert!(f16_error.unwrap().contains("holds -65520 at [3, 5, 7], which f16 cannot hold"));
    let [f32_error, bf16_error, _] = set(3.4e38);
    assert!(f32_error.is_none() && bf16_error.is_some());
    Ok(())
}

fn read_refuses() -> Result<(), Failed> {
    let checkpoint = Checkpoint::open(&golden("nanomoe-dense"))?;
    let short = checkpoint.read(Weight::FinalNormGamma, DType::F32, &mut [0; 12]).unwrap_err().to_string();
    assert!(
        short.contains("transformer.ln_f.weight in f32: out has 12 bytes, expected 192 for [48]"),
        "{short}"
    );
    let absent = checkpoint.read_f32(Weight::Layer(0, LayerWeight::Router));
    assert!(absent.is_err() || absent.is_ok_and(|values| values.is_empty()));
    Ok(())
}

/// Opening `draft` fails with `expected` in one line.
fn assert_error(draft: &Draft, expected: &str) {
    let scratch = draft.write();
    let error = Checkpoint::open(&scratch.0).expect_err(expected).to_string();
    assert!(error.contains(expected) && !error.contains('\n'), "{error:?}, expected {expected:?}");
}
