//! Comparison with what another program computed: a model's folder with a `golden.safetensors`.
//!
//! The file holds `input_ids` and outputs by the names of this program; what is there is compared tensor by tensor
//! with the bounds of the model's type, and what is not is listed.

mod golden;

use std::path::Path;

pub use golden::{Golden, GoldenTensor, Values};

use crate::config::{Layout, ModelConfig};
use crate::error::{Error, Result};
use crate::model::{Forward, ForwardOutput, HiddenStates, LayerRouting, LogitRows, Model, MoeMode, Targets};
use crate::operations::Operations;
use crate::tensor::DType;

/// The id that golden targets leave out.
const IGNORED: i32 = -1;

/// `|got - golden| <= absolute + relative · |golden|`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// In the tensor's units.
    pub absolute: f64,
    /// Times the golden value.
    pub relative: f64,
}

impl Bound {
    /// The bound of a model computing in `dtype`: 1e-4 in f32, 0.25 in bf16, 0.03 in f16.
    pub fn of(dtype: DType) -> Self {
        let bound = match dtype {
            DType::BF16 => 0.25,
            DType::F16 => 0.03,
            DType::F32 | DType::I32 => 1e-4,
        };
        Bound { absolute: bound, relative: bound }
    }

    fn holds(&self, got: f64, golden: f64) -> bool {
        // Equality first: infinities are equal to themselves only.
        got == golden || (got - golden).abs() <= self.absolute + self.relative * golden.abs()
    }
}

/// The comparison of one tensor.
#[derive(Clone, Debug)]
pub struct Check {
    /// The tensor's name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The largest distance from the golden value; infinite where one of the two is NaN.
    pub largest_error: f64,
    /// Where it is.
    pub at: Vec<usize>,
    /// What was computed there.
    pub got: f64,
    /// The golden value there.
    pub golden: f64,
    /// Elements beyond the bound; integers have to be equal.
    pub num_outside: usize,
    /// Expert ids that differ where the golden logits are too close to tell, which is no error.
    pub num_excused: usize,
}

impl Check {
    /// Whether every element is within its bound.
    pub fn passed(&self) -> bool {
        self.num_outside == 0
    }
}

/// The comparison of a folder.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each tensor that both sides have.
    pub checks: Vec<Check>,
    /// Names this program computes for the model and the folder does not have.
    pub missing: Vec<String>,
    /// Names the folder has and this program does not know.
    pub unknown: Vec<String>,
    /// The bound of everything that is not an integer.
    pub bound: Bound,
}

impl Report {
    /// Whether something was compared and everything was within its bound.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(Check::passed)
    }
}

/// A tensor this program computed, under its golden name.
#[derive(Clone, Debug, PartialEq)]
pub struct Computed {
    /// As in `golden.safetensors`.
    pub name: String,
    /// Its elements.
    pub values: Vec<f64>,
}

impl Computed {
    /// From any numbers that f64 holds.
    pub fn new<T: Into<f64>>(name: impl Into<String>, values: impl IntoIterator<Item = T>) -> Self {
        Computed { name: name.into(), values: values.into_iter().map(Into::into).collect() }
    }
}

/// Runs `model` on the folder's inputs and compares. In bf16 and f16 experts are forced to the golden ids, and an id
/// that the routers would have chosen otherwise is an error only if the golden logits of the experts in question are
/// further apart than the bound.
///
/// # Errors
/// [`Error::Io`] and [`Error::File`] for a golden file that is missing or broken, and what the forward pass refuses.
pub fn verify(dir: &Path, ops: &dyn Operations, model: &Model, mode: MoeMode) -> Result<Report> {
    let golden = Golden::open(&dir.join("golden.safetensors"))?;
    let (batch_size, ids) = golden.ids()?;
    let targets = golden.targets()?;
    let config = model.config();
    let forced = if model.dtype() == DType::F32 { None } else { golden.expert_ids(config)? };
    let request = Forward {
        moe: mode,
        logits: LogitRows::All,
        targets: targets.as_deref().map(|ids| Targets { ids, ignore_index: IGNORED }),
        hidden_states: HiddenStates::All,
        routing: true,
        route_override: forced.as_deref(),
        ..Forward::default()
    };
    let mut workspace = model.workspace(ops, ids.len())?;
    let output = model.forward(ops, &mut workspace, batch_size, &ids, &request)?;
    let computed = computed(config, batch_size, &output, forced.is_some());
    compare(&golden, config, &computed, Bound::of(model.dtype()))
}

/// What a forward pass computed, by golden names. With `own_choice` expert ids are those the router's logits say,
/// whatever ids were forced.
fn computed(
    config: &ModelConfig,
    batch_size: usize,
    output: &ForwardOutput,
    own_choice: bool,
) -> Vec<Computed> {
    let floats = |name: &str, values: &[f32]| Computed::new(name, values.iter().copied());
    let mut all = vec![floats("logits", &output.logits)];
    let per_sequence = output.logits.len() / batch_size;
    let last = output.logits.chunks_exact(per_sequence).flat_map(|l| &l[per_sequence - config.vocab_size..]);
    all.push(Computed::new("last_logits", last.copied()));
    all.extend(output.cross_entropy.map(|loss| Computed::new("cross_entropy", [loss])));
    all.extend(output.loss_with_auxiliary.map(|loss| Computed::new("loss_with_auxiliary", [loss])));
    all.push(Computed::new("hidden_states", output.hidden_states.iter().flatten().copied()));
    all.push(floats("final_norm", &output.final_norm));
    for routing in &output.routing {
        let name = |what: &str| format!("layers.{}.{what}", routing.layer);
        let ids = if own_choice { top_k(routing) } else { routing.expert_ids.clone() };
        all.push(floats(&name("router_logits"), &routing.router_logits));
        all.push(Computed::new(name("expert_ids"), ids));
        all.push(Computed::new(name("kept_per_expert"), routing.kept_per_expert()));
        all.push(floats(&name("combine_weights"), &routing.combine_weights()));
    }
    if !output.routing.is_empty() {
        all.push(Computed::new("aux_loss", output.routing.iter().map(|routing| routing.aux_loss)));
        all.push(Computed::new("router_z_loss", output.routing.iter().map(|routing| routing.z_loss)));
    }
    all
}

/// The k largest logits of every token, the lowest index first among equals.
fn top_k(routing: &LayerRouting) -> Vec<i32> {
    let of_token = |row: &[f32]| {
        let mut order: Vec<usize> = (0..row.len()).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        order.into_iter().take(routing.num_experts_per_token).map(|id| id as i32).collect::<Vec<_>>()
    };
    routing.router_logits.chunks_exact(routing.num_experts).flat_map(of_token).collect()
}

/// Compares `computed` with what the folder has.
///
/// # Errors
/// [`Error::File`] when a golden tensor has another number of elements.
pub fn compare(golden: &Golden, config: &ModelConfig, computed: &[Computed], bound: Bound) -> Result<Report> {
    let mut checks = Vec::new();
    let mut missing = Vec::new();
    let mut known = vec!["input_ids".to_string(), "targets".to_string()];
    for tensor in computed {
        // The article's loss has no auxiliary part; transformers keeps the final norm as its last hidden state.
        let name = match tensor.name.as_str() {
            "cross_entropy" if golden.get("cross_entropy").is_none() => "loss",
            name => name,
        };
        let Some(expected) = golden.get(name) else {
            missing.push(tensor.name.clone());
            continue;
        };
        known.push(name.to_string());
        let mut values = tensor.values.clone();
        let is_transformers = config.layout == Layout::HfGpt2;
        if name == "hidden_states" && is_transformers {
            let last = computed.iter().find(|tensor| tensor.name == "final_norm");
            let kept = values.len() - last.map_or(0, |last| last.values.len());
            values.truncate(kept);
            values.extend(last.iter().flat_map(|last| &last.values));
        }
        if values.len() != expected.values.len() {
            let (shape, len) = (&expected.shape, values.len());
            return Err(Error::file(
                golden.path(),
                format!("{name} has shape {shape:?}, expected {len} elements"),
            ));
        }
        let mut check = compare_values(tensor.name.clone(), &values, expected, bound);
        if name.ends_with("expert_ids") && bound != Bound::of(DType::F32) {
            excuse_close_calls(&mut check, golden, name, &values, expected, bound);
        }
        checks.push(check);
    }
    if config.layout == Layout::HfGpt2 {
        missing.retain(|name| name != "final_norm");
    }
    let unknown =
        golden.names().filter(|name| !known.iter().any(|known| known == name)).map(Into::into).collect();
    Ok(Report { checks, missing, unknown, bound })
}

fn compare_values(name: String, values: &[f64], expected: &GoldenTensor, bound: Bound) -> Check {
    let mut check = Check {
        name,
        shape: expected.shape.clone(),
        largest_error: 0.0,
        at: vec![0; expected.shape.len()],
        got: values.first().copied().unwrap_or(0.0),
        golden: if values.is_empty() { 0.0 } else { expected.values.get(0) },
        num_outside: 0,
        num_excused: 0,
    };
    for (index, &got) in values.iter().enumerate() {
        let golden = expected.values.get(index);
        let error = if got == golden { 0.0 } else { (got - golden).abs() };
        let error = if error.is_nan() { f64::INFINITY } else { error };
        if error > check.largest_error {
            (check.largest_error, check.got, check.golden) = (error, got, golden);
            check.at = unravel(index, &expected.shape);
        }
        let within = match expected.values {
            Values::Int(_) => got == golden,
            Values::Float(_) => bound.holds(got, golden),
        };
        check.num_outside += usize::from(!within);
    }
    check
}

/// Takes back what `check` counted where the golden router could hardly tell the two experts apart.
fn excuse_close_calls(
    check: &mut Check,
    golden: &Golden,
    name: &str,
    values: &[f64],
    expected: &GoldenTensor,
    bound: Bound,
) {
    let Some(logits) = golden.get(&name.replace("expert_ids", "router_logits")) else { return };
    let (Some(&num_experts), Some(&k)) = (logits.shape.last(), expected.shape.last()) else { return };
    let close = |index: usize, id: f64| {
        let logit = |id: f64| logits.values.get(index / k * num_experts + id as usize);
        (logit(id) - logit(expected.values.get(index))).abs() < bound.absolute
    };
    let differing = values.iter().enumerate().filter(|&(index, &id)| id != expected.values.get(index));
    check.num_excused = differing.filter(|&(index, &id)| close(index, id)).count();
    check.num_outside -= check.num_excused;
}

fn unravel(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for (at, &size) in at.iter_mut().zip(shape).rev() {
        *at = index % size;
        index /= size;
    }
    at
}
