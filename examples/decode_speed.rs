//! How fast the CPU decodes, beside how fast it reads memory: a step of a large model reads every weight once, so it can
//! be no faster than that. `cargo run --release --example decode_speed`; needs 1 GB of disk and 2 GB of memory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use nanomoe::cpu::CpuOperations;
use nanomoe::generate::{GenerateOptions, Sampling, generate};
use nanomoe::model::Model;
use nanomoe::tensor::DType;
use nanomoe::weights::{Checkpoint, Weight};
use nanomoe::{Error, Result};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

/// Each measurement is repeated, and the fastest counts: what else the machine does only makes it slower.
const REPEATS: usize = 5;

fn main() -> Result<()> {
    let bandwidth = read_bandwidth();
    println!("memory read on {} threads: {:.1} GB/s", rayon::current_num_threads(), bandwidth / 1e9);

    let folder = std::env::temp_dir().join(format!("nanomoe-decode-speed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
    let written = write_gpt2(&folder).map_err(|error| Error::io(&folder, error));
    let measured = written.and_then(|()| decode(&folder, 32));
    std::fs::remove_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
    let (tokens, bytes) = measured?;
    println!(
        "GPT-2 124M's shape in f32: {tokens:.1} tokens/s, {:.1} GB/s of weights, {:.0}% of memory's",
        tokens * bytes / 1e9,
        100.0 * tokens * bytes / bandwidth
    );

    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("model");
    println!("the default model: {:.0} tokens/s", decode(&default, 128)?.0);
    Ok(())
}

/// Bytes a second at which all threads together read memory that is in no cache.
fn read_bandwidth() -> f64 {
    const CHUNK: usize = 1 << 20;
    let memory = vec![1u64; 1 << 27];
    let read = || {
        let start = Instant::now();
        let sums = memory
            .par_chunks(CHUNK)
            .map(|chunk| chunk.iter().fold(0u64, |sum, &word| sum.wrapping_add(word)));
        let sum = sums.reduce(|| 0, u64::wrapping_add);
        assert_eq!(std::hint::black_box(sum), memory.len() as u64);
        (memory.len() * 8) as f64 / start.elapsed().as_secs_f64()
    };
    (0..REPEATS).map(|_| read()).fold(0.0, f64::max)
}

/// Tokens a second after a prompt of four, and the bytes of weights a step reads: all but the positions.
fn decode(folder: &Path, max_tokens: usize) -> Result<(f64, f64)> {
    let checkpoint = Checkpoint::open(folder)?;
    let ops = CpuOperations::new();
    let model = Model::load(&ops, &checkpoint, DType::F32)?;
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let options = GenerateOptions { max_tokens, sampling: greedy, ..GenerateOptions::default() };
    let mut fastest: f64 = 0.0;
    for _ in 0..REPEATS {
        let generated =
            generate(&model, &ops, &[7, 11, 13, 17], &options, &mut |_| ControlFlow::Continue(()))?;
        fastest = fastest.max(generated.tokens_per_second());
    }
    let positions = checkpoint.shape(Weight::PositionEmbedding).iter().product::<usize>() as u64;
    Ok((fastest, 4.0 * (checkpoint.num_parameters() - positions) as f64))
}

/// A checkpoint of GPT-2's smallest shape with small numbers that follow no pattern.
fn write_gpt2(folder: &Path) -> std::io::Result<()> {
    let (vocab, context, layers, width) = (50257, 1024, 12, 768);
    let config = json!({ "model_type": "gpt2", "vocab_size": vocab, "n_positions": context, "n_layer": layers,
        "n_head": 12, "n_embd": width });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let mut shapes =
        vec![("wte.weight".to_owned(), vec![vocab, width]), ("wpe.weight".to_owned(), vec![context, width])];
    let mut norm = |name: String| {
        shapes.extend(["weight", "bias"].map(|part| (format!("{name}.{part}"), vec![width])));
    };
    norm("ln_f".to_owned());
    (0..layers)
        .for_each(|layer| ["ln_1", "ln_2"].into_iter().for_each(|name| norm(format!("h.{layer}.{name}"))));
    let linear = [
        ("attn.c_attn", width, 3 * width),
        ("attn.c_proj", width, width),
        ("mlp.c_fc", width, 4 * width),
        ("mlp.c_proj", 4 * width, width),
    ];
    for (layer, (name, inputs, outputs)) in (0..layers).flat_map(|layer| linear.map(|linear| (layer, linear)))
    {
        shapes.push((format!("h.{layer}.{name}.weight"), vec![inputs, outputs]));
        shapes.push((format!("h.{layer}.{name}.bias"), vec![outputs]));
    }

    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in shapes {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        let tensor = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, end] });
        header.insert(name, tensor);
    }
    let header = Value::Object(header).to_string();
    let mut file = BufWriter::new(File::create(folder.join("model.safetensors"))?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut state = 1u32;
    for _ in 0..end / 4 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        file.write_all(&((state >> 8) as f32 / (1 << 24) as f32 * 0.08 - 0.04).to_le_bytes())?;
    }
    file.flush()
}
