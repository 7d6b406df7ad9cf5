//! The whole forward pass of a model with random weights: a prefill that gives every position's best id, or one token
//! more for each sequence in a cache.

use std::io::Write;
use std::path::{Path, PathBuf};

use nanomoe::config::ModelConfig;
use nanomoe::cpu::CpuOperations;
use nanomoe::kernels::DeviceOperations;
use nanomoe::model::{
    Forward, ForwardOutput, Input, LogitRows, Model, RecordedForward, SequenceId, Session, SessionOptions,
    Workspace,
};
use nanomoe::tensor::DType;
use nanomoe::weights::{Checkpoint, LayerWeight, Weight};
use nanomoe::{Error, Result};
use serde_json::{Map, Value, json};

use super::data::{self, normals};
use super::measure::Times;
use super::work::{DTYPE, Measure, ROUNDING, Work, sizes, worse};

/// nanoMoE's experts, in every second block.
const NUM_EXPERTS: usize = 8;
const EXPERTS_PER_TOKEN: usize = 2;
/// Positions of a prefill that are computed again on the CPU.
const CHECKED: usize = 16;

pub struct ForwardPass {
    batch_size: usize,
    seq_len: usize,
    kv_len: usize,
    checkpoint: Checkpoint,
    model: Model,
    workspace: Workspace,
    ids: Vec<u32>, // [batch_size, kv_len]
    new: Vec<u32>, // [batch_size, seq_len], the last of them
    output: ForwardOutput,
}

impl ForwardPass {
    pub fn new(ops: &DeviceOperations, dtype: DType, dims: &[usize], variant: &str) -> Result<Self> {
        let [batch_size, seq_len, kv_len, num_layers, hidden_size, num_heads, vocab_size] = sizes(dims)?;
        if variant == "mixtral" {
            let message =
                "no kernels for Mixtral's whole forward pass: RMS norm, rotary positions, gated experts";
            return Err(Error::Input(message.to_owned()));
        }
        if seq_len != kv_len && seq_len != 1 {
            return Err(Error::Usage("forward: seq_len is kv_len (prefill) or 1 (decode)".to_owned()));
        }
        let mut config = json!({
            "block_size": kv_len, "vocab_size": vocab_size, "n_layer": num_layers, "n_head": num_heads,
            "n_embd": hidden_size, "bias": true, "model_type": "gpt2",
        });
        if variant == "moe" {
            config["bias"] = false.into();
            config["model_type"] = "nanomoe".into();
            config["n_exp"] = NUM_EXPERTS.into();
            config["top_k"] = EXPERTS_PER_TOKEN.into();
            config["stride"] = 2.into();
        }
        let checkpoint = random_checkpoint(&config)?;
        let model = Model::load(ops, &checkpoint, dtype)?;
        let ids: Vec<u32> =
            data::ids(batch_size * kv_len, vocab_size).into_iter().map(|id| id as u32).collect();
        let of_each = |from: usize, to: usize| -> Vec<u32> {
            ids.chunks_exact(kv_len).flat_map(|sequence| &sequence[from..to]).copied().collect()
        };
        let known = kv_len - seq_len;
        Ok(ForwardPass {
            batch_size,
            seq_len,
            kv_len,
            workspace: model.workspace(ops, batch_size * seq_len)?,
            new: of_each(known, kv_len),
            checkpoint,
            model,
            ids,
            output: ForwardOutput::default(),
        })
    }

    /// A prefill as one graph.
    fn recorded<'a>(&'a self, ops: &'a DeviceOperations) -> Result<RecordedForward<'a>> {
        let workspace = self.model.workspace(ops, self.new.len())?;
        let request = Forward { argmax: LogitRows::All, ..Forward::default() };
        self.model.record(ops, workspace, self.batch_size, self.seq_len, request)
    }

    /// Whether it is a step of decoding.
    fn decodes(&self) -> bool {
        self.kv_len > self.seq_len
    }

    /// All sequences but for their last token in a cache, that token of each, and what the routers chose for the first
    /// sequence, for each MoE layer.
    fn decoding<'a>(&'a self, ops: &'a DeviceOperations) -> Result<Decoding<'a>> {
        let known = self.kv_len - self.seq_len;
        let mut session = self.model.session(ops, SessionOptions::new(self.batch_size, self.kv_len))?;
        let (mut tokens, mut cached_routes) = (Vec::new(), Vec::new());
        for (number, sequence_ids) in self.ids.chunks_exact(self.kv_len).enumerate() {
            let sequence = session.start()?;
            let request = Forward { routing: number == 0, ..Forward::default() };
            let output = session.prefill(sequence, Input::Ids(&sequence_ids[..known]), &request)?;
            if number == 0 {
                cached_routes = routes(&output, known);
            }
            tokens.push((sequence, sequence_ids[known]));
        }
        Ok(Decoding { session, tokens, cached_routes })
    }

    fn forward(&mut self, ops: &DeviceOperations, request: &Forward<'_>) -> Result<ForwardOutput> {
        if self.decodes() {
            return self.decoding(ops)?.step(request);
        }
        self.model.forward(ops, &mut self.workspace, self.batch_size, &self.new, request)
    }
}

/// Sequences that are to grow by one token.
struct Decoding<'a> {
    session: Session<'a>,
    tokens: Vec<(SequenceId, u32)>,
    cached_routes: Vec<Vec<i32>>,
}

impl Decoding<'_> {
    /// The token more of each, which is forgotten again.
    fn step(&mut self, request: &Forward<'_>) -> Result<ForwardOutput> {
        let output = self.session.decode(&self.tokens, request)?;
        for &(sequence, _) in &self.tokens {
            let len = self.session.len(sequence)?;
            self.session.truncate(sequence, len - 1)?;
        }
        Ok(output)
    }
}

impl Work for ForwardPass {
    fn launch(&mut self, ops: &DeviceOperations) -> Result<()> {
        self.output = self.forward(ops, &Forward { argmax: LogitRows::All, ..Forward::default() })?;
        Ok(())
    }

    /// Positions of the first sequence against the same computed in f32 on the CPU: each within `nanomoe verify`'s
    /// bound, and all together.
    fn check(&mut self, ops: &DeviceOperations) -> Result<f64> {
        let best = std::mem::take(&mut self.output).argmax;
        if best.len() != self.new.len() {
            return Ok(f64::INFINITY);
        }
        if !self.decodes() {
            // What is timed is the recorded pass, which must give the same ids.
            if self.recorded(ops)?.run(&self.new, None)?.argmax != best {
                return Ok(f64::INFINITY);
            }
        }
        let vocab_size = self.model.config().vocab_size;
        let rows: Vec<usize> = (0..self.seq_len.min(CHECKED)).collect();
        let chosen = LogitRows::Chosen(&rows);
        let request = Forward { logits: chosen, routing: true, ..Forward::default() };
        let (got, cached_routes) = if self.decodes() {
            let mut decoding = self.decoding(ops)?;
            (decoding.step(&request)?, decoding.cached_routes)
        } else {
            (self.forward(ops, &request)?, Vec::new())
        };
        // Causal: what follows the last of them changes nothing.
        let len = self.kv_len - self.seq_len + rows.len();
        let mut chosen_routes = routes(&got, rows.len());
        for (chosen, cached) in chosen_routes.iter_mut().zip(&cached_routes) {
            chosen.splice(0..0, cached.iter().copied());
        }
        let cpu = CpuOperations::new();
        let model = Model::load(&cpu, &self.checkpoint, DType::F32)?;
        let rows_of_prefix: Vec<usize> = (len - rows.len()..len).collect();
        let request = Forward {
            logits: LogitRows::Chosen(&rows_of_prefix),
            route_override: (!chosen_routes.is_empty()).then_some(chosen_routes.as_slice()),
            ..Forward::default()
        };
        let mut workspace = model.workspace(&cpu, len)?;
        let wanted = model.forward(&cpu, &mut workspace, 1, &self.ids[..len], &request)?;
        let allowed = |wanted: f64| 0.25 + 0.25 * wanted.abs();
        let mut worst = 0.0;
        let (mut off, mut size) = (0.0, 0.0);
        for (&got, &wanted) in got.logits.iter().zip(&wanted.logits) {
            let (got, wanted) = (f64::from(got), f64::from(wanted));
            worst = worse(worst, got, wanted, allowed(wanted));
            off += (got - wanted).powi(2);
            size += wanted * wanted;
        }
        // Together they are far closer: independent roundings, six in a block, add up as a walk does.
        let roundings = (6 * self.model.config().num_layers + 2) as f64;
        worst = worse(worst, (off / size).sqrt(), 0.0, ROUNDING * roundings.sqrt());
        for (row, wanted) in wanted.logits.chunks_exact(vocab_size).enumerate() {
            let largest = f64::from(wanted.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let best = usize::try_from(best[row]).ok().and_then(|id| wanted.get(id));
            worst = worse(worst, best.map_or(f64::NAN, |&logit| logit.into()), largest, allowed(largest));
        }
        Ok(worst)
    }

    /// Products of the blocks, attention over the keys that are seen, and the head.
    fn flops(&self) -> f64 {
        let config = self.model.config();
        let (tokens, c) = (self.new.len() as f64, config.hidden_size as f64);
        let mut of_token = 2.0 * c * config.vocab_size as f64;
        for layer in 0..config.num_layers {
            let mlps = config.moe_layer(layer).map_or(1.0, |moe| moe.num_experts_per_token as f64);
            of_token += 8.0 * c * c + mlps * 4.0 * c * config.intermediate_size as f64;
        }
        let (s, kv) = (self.seq_len as f64, self.kv_len as f64);
        let seen = s * (kv - s) + s * (s + 1.0) / 2.0;
        tokens * of_token + (config.num_layers * self.batch_size) as f64 * 4.0 * c * seen
    }

    /// Weights, of the experts those that are hit when all are as likely; and keys and values in the cache.
    fn bytes(&mut self) -> f64 {
        let config = self.model.config();
        let cached =
            self.batch_size * (self.kv_len - self.seq_len) * 2 * config.hidden_size * config.num_layers;
        2.0 * (weight_elements(config, self.new.len()) + cached as f64)
    }

    /// It uploads ids and reads its results.
    fn can_be_captured(&self) -> bool {
        false
    }

    /// As a graph.
    fn measured(&mut self, ops: &DeviceOperations, clock: &mut Measure<'_>) -> Result<Times> {
        if self.decodes() {
            let mut decoding = self.decoding(ops)?;
            let request = Forward { argmax: LogitRows::Last, ..Forward::default() };
            return clock(&mut || decoding.step(&request).map(drop));
        }
        let mut recorded = self.recorded(ops)?;
        clock(&mut || recorded.run(&self.new, None).map(drop))
    }
}

/// Elements of the matrices that a pass over so many tokens reads: of the experts those that are hit when all are as
/// likely.
pub(super) fn weight_elements(config: &ModelConfig, tokens: usize) -> f64 {
    let c = config.hidden_size;
    let mut elements = (c * config.vocab_size) as f64;
    for layer in 0..config.num_layers {
        let mlps = config.moe_layer(layer).map_or(1.0, |moe| {
            let (e, k) = (moe.num_experts as f64, moe.num_experts_per_token as f64);
            e * (1.0 - (1.0 - k / e).powi(tokens as i32))
        });
        elements += (4 * c * c) as f64 + mlps * (2 * c * config.intermediate_size) as f64;
    }
    elements
}

/// Elements of weights, activations and cache, about.
pub fn elements(dims: &[u64], variant: &str) -> u64 {
    let &[batch, seq, kv, layers, c, _, vocab] = dims else { return 0 };
    let mlps = if variant == "moe" { (NUM_EXPERTS + 1) as u64 / 2 } else { 1 };
    let weights = layers * (4 + 8 * mlps) * c * c + vocab * c;
    weights + batch * kv.max(seq) * 16 * c + 2 * layers * batch * kv * c
}

/// The experts chosen for the first `len` tokens, for each MoE layer.
fn routes(output: &ForwardOutput, len: usize) -> Vec<Vec<i32>> {
    let of_layer =
        |layer: &nanomoe::model::LayerRouting| layer.expert_ids[..len * layer.num_experts_per_token].to_vec();
    output.routing.iter().map(of_layer).collect()
}

/// A folder that is removed when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A checkpoint of random weights, written to a folder for temporary files, mapped, and removed.
fn random_checkpoint(config: &Value) -> Result<Checkpoint> {
    let folder = Folder(std::env::temp_dir().join(format!("nanomoe-bench-{}", std::process::id())));
    let fail = |error| Error::io(&folder.0, error);
    std::fs::create_dir_all(&folder.0).map_err(fail)?;
    std::fs::write(folder.0.join("config.json"), config.to_string()).map_err(fail)?;
    write_weights(&folder.0.join("model.safetensors"), &ModelConfig::from_json(&config.to_string(), None)?)
        .map_err(fail)?;
    Checkpoint::open(&folder.0)
}

/// Every parameter: matrices small as GPT-2 begins, routers so that logits differ by about one, gains of one.
fn write_weights(path: &Path, config: &ModelConfig) -> std::io::Result<()> {
    let (mut header, mut end) = (Map::new(), 0);
    for weight in Weight::all(config) {
        let (shape, size) = (weight.stored_shape(config), if weight.is_matrix() { 2 } else { 4 });
        let begin = end;
        end += size * shape.iter().product::<usize>();
        let dtype = if weight.is_matrix() { "BF16" } else { "F32" };
        let info = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
        header.insert(weight.stored_name(config.layout), info);
    }
    let header = Value::Object(header).to_string();
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    // One block over and over, of a length that makes no two rows alike.
    let block = normals(DTYPE, (1 << 22) + 4_099, 11, 0.02);
    let mut numbers = block.iter().copied().cycle();
    for weight in Weight::all(config) {
        let len: usize = weight.shape(config).iter().product();
        if weight.is_matrix() {
            let bytes: Vec<u8> = numbers.by_ref().take(2 * len).collect();
            file.write_all(&bytes)?;
            continue;
        }
        let values = match weight {
            Weight::FinalNormGamma | Weight::Layer(_, LayerWeight::Norm1Gamma | LayerWeight::Norm2Gamma) => {
                vec![1f32; len].iter().flat_map(|one| one.to_le_bytes()).collect()
            }
            Weight::Layer(_, LayerWeight::Router) => {
                normals(DType::F32, len, 12, 1.0 / (config.hidden_size as f32).sqrt())
            }
            _ => normals(DType::F32, len, 13, 0.02),
        };
        file.write_all(&values)?;
    }
    file.flush()
}
