//! The model on every executor against the golden folders, and against itself by other ways.

use libtest_mimic::{Failed, Trial};
use nanomoe::model::{Forward, ForwardOutput, LogitRows, Model, MoeMode, Targets, find_leaks};
use nanomoe::operations::Operations;
use nanomoe::reference;
use nanomoe::tensor::DType;
use nanomoe::verify::verify;
use nanomoe::weights::{Checkpoint, LayerWeight, Weight};

use crate::common::{
    Bound, Draft, check_close, encode, executors, f64s, golden, golden_dirs, random, report, trial,
};

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for &executor in executors() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for (name, dir) in golden_dirs() {
                let run = move |ops: &dyn Operations| agrees_with_golden(ops, &dir, dtype);
                trials.push(trial("model", dtype, format!("golden_{name}"), executor, run));
            }
        }
        let mut add = |name: &str, run: fn(&dyn Operations) -> Result<(), Failed>| {
            trials.push(trial("model", DType::F32, name, executor, run));
        };
        add("chosen_rows", chosen_rows);
        add("ignored_targets", ignored_targets);
        add("noisy", noisy);
        add("leaks", leaks);
        add("attention_weights", attention_weights);
    }
    trials
}

fn agrees_with_golden(ops: &dyn Operations, dir: &std::path::Path, dtype: DType) -> Result<(), Failed> {
    let model = Model::load(ops, &Checkpoint::open(dir)?, dtype)?;
    report(&verify(dir, ops, &model, MoeMode::Capacity)?)
}

fn load(ops: &dyn Operations, name: &str) -> Result<Model, Failed> {
    Ok(Model::load(ops, &Checkpoint::open(&golden(name))?, DType::F32)?)
}

/// Two sequences of nine ids.
fn ids(vocab_size: usize) -> Vec<u32> {
    (0..18).map(|i| (i * 37 % vocab_size) as u32).collect()
}

fn forward(ops: &dyn Operations, model: &Model, request: &Forward<'_>) -> Result<ForwardOutput, Failed> {
    let ids = ids(model.config().vocab_size);
    let mut workspace = model.workspace(ops, ids.len())?;
    Ok(model.forward(ops, &mut workspace, 2, &ids, request)?)
}

/// The weights of a head are what the reference's attention gives of values that are the unit vectors.
fn attention_weights(ops: &dyn Operations) -> Result<(), Failed> {
    let name = "nanomoe-dense";
    let model = load(ops, name)?;
    let config = model.config();
    let (layer, head, head_dim, hidden_size) = (1, 2, config.head_dim(), config.hidden_size);
    let request = Forward { attention_weights: Some((layer, head)), ..Forward::default() };
    let got = forward(ops, &model, &request)?.attention_weights;

    let checkpoint = Checkpoint::open(&golden(name))?;
    let ids: Vec<i32> = ids(config.vocab_size).iter().map(|&id| id as i32).collect();
    let trace = reference::forward(&checkpoint, 2, &ids, None, reference::Routing::default())?;
    let read = |weight| -> Result<Option<Vec<f64>>, Failed> {
        let weight = Weight::Layer(layer, weight);
        let there = weight.is_in(config).then(|| checkpoint.read_f32(weight)).transpose()?;
        Ok(there.map(|values| f64s(&values)))
    };
    let some = |weight| read(weight)?.ok_or_else(|| Failed::from("a weight that every block has"));
    let gamma = some(LayerWeight::Norm1Gamma)?;
    let beta = read(LayerWeight::Norm1Beta)?;
    let eps = f64::from(config.norm_eps);
    let normed = reference::layer_norm(&trace.hidden_states[layer], &gamma, beta.as_deref(), eps);
    let mut qkv = reference::gemm(&normed, &some(LayerWeight::Qkv)?, hidden_size);
    if let Some(bias) = read(LayerWeight::QkvBias)? {
        reference::add_bias(&mut qkv, &bias);
    }
    let part = |index: usize| -> Vec<f64> {
        let rows = qkv.chunks_exact(3 * hidden_size);
        rows.flat_map(|row| &row[index * hidden_size + head * head_dim..][..head_dim]).copied().collect()
    };
    let units = (0..18).flat_map(|token| (0..head_dim).map(move |dim| f64::from(dim == token % 9)));
    let shape = reference::AttentionShape {
        batch_size: 2,
        query_len: 9,
        kv_len: 9,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim,
        scale: 1.0 / (head_dim as f64).sqrt(),
        causal: true,
    };
    let attended = reference::attention(&part(0), &part(1), &units.collect::<Vec<_>>(), &shape, None);
    let expected: Vec<f64> = attended.chunks_exact(head_dim).flat_map(|row| &row[..9]).copied().collect();
    check_close("attention_weights", &[2, 9, 9], &got, &expected, Bound { absolute: 1e-5, relative: 1e-4 })?;

    for wrong in [(config.num_layers, 0), (0, config.num_heads)] {
        let refused = forward(ops, &model, &Forward { attention_weights: Some(wrong), ..request });
        if !refused.is_err_and(|error| error.message().is_some_and(|m| m.contains("attention weights"))) {
            return Err(format!("{wrong:?} was not refused").into());
        }
    }
    Ok(())
}

/// Rows in any order, repeated, are the rows of all logits; a row that is not there is refused.
fn chosen_rows(ops: &dyn Operations) -> Result<(), Failed> {
    let model = load(ops, "nanomoe-dense")?;
    let vocab_size = model.config().vocab_size;
    let all = forward(ops, &model, &Forward { logits: LogitRows::All, ..Forward::default() })?.logits;
    let rows = [17, 0, 5, 5, 9];
    let chosen = LogitRows::Chosen(&rows);
    let got = forward(ops, &model, &Forward { logits: chosen, argmax: chosen, ..Forward::default() })?;
    let expected: Vec<f64> =
        rows.iter().flat_map(|row| &all[row * vocab_size..][..vocab_size]).map(|&x| f64::from(x)).collect();
    let bound = Bound::sum(DType::F32, model.config().hidden_size, 1.0);
    check_close("logits", &[rows.len(), vocab_size], &got.logits, &expected, bound)?;
    assert_eq!(got.argmax, reference::argmax(&expected, vocab_size));
    let refused = forward(ops, &model, &Forward { logits: LogitRows::Chosen(&[18]), ..Forward::default() });
    assert!(
        refused.is_err_and(|error| error.message().is_some_and(|text| text.contains("logits of row 18")))
    );
    Ok(())
}

/// transformers' -100 leaves a position out of the mean as nanoGPT's -1 does; the other one's is no id.
fn ignored_targets(ops: &dyn Operations) -> Result<(), Failed> {
    let model = load(ops, "nanomoe-dense")?;
    let score = |targets: &[i64], ignore_index: i32| {
        let targets = Some(Targets { ids: targets, ignore_index });
        forward(ops, &model, &Forward { targets, ..Forward::default() })
    };
    let all: Vec<i64> = (0..18).map(|i| i * 5).collect();
    let losses = score(&all, -100)?.token_losses;
    let kept = |index: usize| index % 4 != 1;
    let mean = (0..18).filter(|&index| kept(index)).map(|index| f64::from(losses[index])).sum::<f64>()
        / (0..18).filter(|&index| kept(index)).count() as f64;
    for ignore_index in [-100, -1] {
        let targets: Vec<i64> =
            (0..18).map(|index| if kept(index) { all[index] } else { i64::from(ignore_index) }).collect();
        let got = score(&targets, ignore_index)?;
        let off = (got.cross_entropy.expect("targets were given") - mean).abs();
        assert!(off < 1e-6, "{ignore_index}: off by {off}");
        assert!((0..18).all(|index| kept(index) || got.token_losses[index] == 0.0));
        assert!(score(&targets, if ignore_index == -1 { -100 } else { -1 }).is_err());
    }
    Ok(())
}

/// A whole model with noisy routers against the reference, which draws the same noise; another seed routes otherwise.
fn noisy(ops: &dyn Operations) -> Result<(), Failed> {
    let mut draft = Draft::read(&golden("nanomoe-capacity"));
    draft.config.insert("use_noisy_top_k".into(), true.into());
    for layer in [0, 2] {
        let name = format!("transformer.h.{layer}.mlp.router.w_noise.weight");
        draft.add_zeros(&name, &[8, 48]);
        draft.tensor(&name).bytes = encode(DType::F32, &random(layer, 8 * 48));
    }
    let folder = draft.write();
    let checkpoint = Checkpoint::open(&folder.0)?;
    let model = Model::load(ops, &checkpoint, DType::F32)?;
    let vocab_size = model.config().vocab_size;
    let run = |noise_seed: u64| {
        let moe = MoeMode::Capacity;
        forward(
            ops,
            &model,
            &Forward { moe, logits: LogitRows::All, routing: true, noise_seed, ..Forward::default() },
        )
    };
    let got = run(7)?;
    let ids: Vec<i32> = ids(vocab_size).into_iter().map(|id| id as i32).collect();
    let routing = reference::Routing { capacity: true, noise_seed: 7, ..reference::Routing::default() };
    let expected = reference::forward(&checkpoint, 2, &ids, None, routing)?;
    for (got, (layer, _, gating, dispatch)) in got.routing.iter().zip(&expected.routing) {
        assert_eq!(got.layer, *layer);
        assert_eq!((&got.expert_ids, &got.slots), (&gating.expert_ids, &dispatch.slots), "layer {layer}");
    }
    // The contract's bound of f32.
    let bound = Bound { absolute: 1e-4, relative: 1e-4 };
    check_close("logits", &[18, vocab_size], &got.logits, &expected.logits, bound)?;
    assert_eq!(run(7)?.logits, got.logits);
    assert_ne!(run(8)?.routing[0].expert_ids, got.routing[0].expert_ids);
    Ok(())
}

/// Capacity mode leaks, dropless mode does not; a prefix is one to all tokens.
fn leaks(ops: &dyn Operations) -> Result<(), Failed> {
    let model = load(ops, "nanomoe-capacity")?;
    let ids: Vec<u32> = (0..40).map(|i| i * 37 % 199).collect();
    let mut workspace = model.workspace(ops, ids.len())?;
    let mut find = |lens: &[usize], mode| find_leaks(&model, ops, &mut workspace, &ids, lens, mode);
    let leaks = find(&[5, 20, 40], MoeMode::Capacity)?;
    assert!(!leaks.is_empty(), "40 tokens on 8 experts of 10 slots");
    for leak in &leaks {
        assert!(leak.position < leak.prefix_len && leak.prefix_len < 40, "{leak:?}");
        assert!((leak.weight == 0.0) != (leak.weight_in_prefix == 0.0), "{leak:?}");
    }
    assert_eq!(find(&[5, 20, 40], MoeMode::Dropless)?, []);
    for len in [0, 41] {
        let error = find(&[20, len], MoeMode::Capacity).expect_err("no such prefix").to_string();
        assert!(error.contains(&format!("a prefix of {len} tokens of a sequence of 40")), "{error}");
    }
    Ok(())
}
