//! Configurations: the fields of the three families, and what is refused.

use libtest_mimic::{Failed, Trial};
use nanomoe::config::{Layout, MAX_SIZE, ModelConfig};
use nanomoe::operations::Activation;
use proptest::prelude::*;

use crate::common::{Draft, golden};

/// A small nanoMoE with one field replaced; `null` removes it.
fn nanomoe(field: &str, value: serde_json::Value) -> nanomoe::Result<ModelConfig> {
    let mut config = Draft::read(&golden("nanomoe-capacity")).config;
    config.insert(field.into(), value);
    ModelConfig::from_json(&serde_json::Value::Object(config).to_string(), None)
}

pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("config::families", families),
        Trial::test("config::refused", refused),
        Trial::test("config::capacity::table", capacity_table),
        Trial::test("config::capacity::properties", capacity_properties),
    ]
}

fn families() -> Result<(), Failed> {
    let read = |name| ModelConfig::load(&golden(name).join("config.json"), None);
    let moe = read("nanomoe-capacity")?;
    assert_eq!((moe.layout, moe.head_dim(), moe.intermediate_size), (Layout::NanoMoe, 16, 192));
    assert_eq!(moe.moe_layers().collect::<Vec<_>>(), [0, 2]);
    assert!(!moe.linear_bias && !moe.norm_bias && !moe.head_bias && moe.tied_head);
    assert!(read("nanomoe-dense")?.moe.is_none(), "n_exp = 1 is dense, whatever top_k says");

    let seed = read("seed-gpt-nobias")?;
    assert!(seed.norm_bias && !seed.linear_bias && !seed.head_bias && !seed.tied_head);
    assert!(read("seed-gpt")?.head_bias);
    assert_eq!(seed.activation, Activation::GeluErf);

    let gpt2 = read("gpt2")?;
    assert!(gpt2.linear_bias && gpt2.norm_bias && !gpt2.head_bias && gpt2.tied_head);
    assert_eq!((gpt2.activation, gpt2.end_of_text), (Activation::GeluTanh, None));
    let gelu = r#"{"model_type":"gpt2","n_embd":4,"n_head":2,"n_layer":1,"vocab_size":9,"n_ctx":3,"n_positions":8,
        "activation_function":"gelu","n_inner":6,"eos_token_id":8}"#;
    let gelu = ModelConfig::from_json(gelu, Some(Layout::HfGpt2))?;
    assert_eq!(
        (gelu.activation, gelu.intermediate_size, gelu.end_of_text),
        (Activation::GeluErf, 6, Some(8))
    );
    Ok(())
}

fn refused() -> Result<(), Failed> {
    use serde_json::json;
    let cases = [
        ("top_k", json!(9), "top_k is 9, but there are 8 experts"),
        ("top_k", json!(0), "top_k is 0, expected at least 1"),
        ("n_head", json!(5), "hidden size 48 is not a multiple of the 5 heads"),
        ("n_head", json!(0), "n_head is 0, expected at least 1"),
        ("n_layer", json!(0), "n_layer is 0"),
        ("stride", json!(0), "stride is 0"),
        ("vocab_size", json!(0), "vocab_size is 0"),
        ("vocab_size", json!(1u64 << 40), "expected at most 2147483647"),
        ("vocab_size", json!(null), "vocab_size or V is missing"),
        ("n_embd", json!(-48), "n_embd is -48, expected a whole number"),
        ("n_embd", json!(48.5), "n_embd is 48.5, expected a whole number"),
        ("n_embd", json!("48"), "n_embd is \"48\""),
        (
            "n_embd",
            json!(2147483646),
            "hidden size 2147483646 over 3 heads is 715827882 a head, expected at most 256",
        ),
        ("n_exp", json!(1025), "n_exp is 1025, expected at most 1024"),
        ("n_positions", json!(65), "block_size is 64, but n_positions is 65"),
        ("eval_capacity", json!(0), "eval_capacity is 0, expected a number above 0"),
        ("bias", json!(1), "bias is 1, expected true or false"),
        ("activation_function", json!("relu"), "activation_function \"relu\" is not supported"),
        ("model_type", json!("mixtral"), "model_type \"mixtral\" is not supported"),
        ("model_type", json!(null), "model_type is missing"),
        ("scale_attn_weights", json!(false), "scale_attn_weights = false is not supported"),
        ("tie_word_embeddings", json!(false), "this family's head is tied"),
    ];
    for (field, value, expected) in cases {
        let error =
            nanomoe(field, value.clone()).expect_err(&format!("{field} = {value} was taken")).to_string();
        assert!(error.contains(expected), "{field} = {value}: {error}, expected {expected}");
    }
    let wide = r#"{"model_type":"nanogpt","n_embd":2147483646,"n_head":1073741823,"n_layer":1,"vocab_size":9,
        "block_size":8}"#;
    let error = ModelConfig::from_json(wide, None).unwrap_err().to_string();
    assert!(error.contains("4 times the hidden size"), "{error}");
    for (text, expected) in [("", "not JSON"), ("[]", "expected a JSON object"), ("{\"d\":", "not JSON")] {
        let error = ModelConfig::from_json(text, None).expect_err(text).to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let text = serde_json::Value::Object(Draft::read(&golden("nanomoe-dense")).config).to_string();
    let error = ModelConfig::from_json(&text, Some(Layout::HfGpt2)).unwrap_err().to_string();
    assert!(
        error.contains("model_type says nanoGPT/nanoMoE, but the tensors are those of Hugging Face GPT-2"),
        "{error}"
    );
    Ok(())
}

/// Numbers worked out by hand from nanoMoE's formula, for 8 experts and top-2.
fn capacity_table() -> Result<(), Failed> {
    let table = [
        (2.0, &[(1, 4), (9, 4), (16, 8), (17, 8), (33, 16), (100, 50), (1024, 512), (12288, 6144)][..]),
        (1.25, &[(4, 4), (16, 6), (33, 10), (100, 32), (1024, 320), (12288, 3840)]),
    ];
    for (factor, rows) in table {
        let moe = nanomoe("eval_capacity", factor.into())?.moe.unwrap();
        for &(num_tokens, expected) in rows {
            assert_eq!(moe.capacity(num_tokens), expected, "f = {factor}, {num_tokens} tokens");
        }
    }
    // Slots are counted in 32 bits.
    assert_eq!(nanomoe("eval_capacity", 1e300.into())?.moe.unwrap().capacity(1 << 20), MAX_SIZE);
    assert!(nanomoe("eval_capacity", 4.0.into())?.moe.unwrap().never_drops());
    assert!(!nanomoe("eval_capacity", 3.99.into())?.moe.unwrap().never_drops());
    Ok(())
}

fn capacity_properties() -> Result<(), Failed> {
    let strategy = (1u64..2000, 0.01f64..10.0, 2u64..70, 0u64..9, 1u64..70);
    proptest!(|((num_tokens, factor, experts, least, k) in strategy)| {
        prop_assume!(k <= experts);
        let text = format!(
            r#"{{"model_type":"nanomoe","n_embd":4,"n_head":1,"n_layer":1,"vocab_size":9,"block_size":8,
            "n_exp":{experts},"top_k":{k},"eval_capacity":{factor},"min_capacity":{least}}}"#
        );
        let moe = ModelConfig::from_json(&text, None).unwrap().moe.unwrap();
        let slots = moe.capacity(num_tokens as usize) as f64;
        let share = k as f64 * factor * num_tokens as f64 / experts as f64;
        prop_assert!(slots >= (least as f64).max(1.0) && slots > share - 1.0);
        prop_assert!(slots <= (share + 1.0).max(least as f64).max(1.0));
        if moe.never_drops() {
            prop_assert!(slots >= num_tokens as f64, "an expert chosen by all tokens has room for them");
        }
    });
    Ok(())
}
