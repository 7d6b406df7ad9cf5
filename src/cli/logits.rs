//! `nanomoe logits`: ids from a file, everything that was asked for into another.

use std::borrow::Cow;

use nanomoe::model::{Forward, ForwardOutput, HiddenStates, LayerRouting, LogitRows, MoeMode, Targets};
use nanomoe::tensor::DType;
use nanomoe::verify::Golden;
use nanomoe::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::LogitsArgs;
use super::output::{Done, tell, write_whole};
use super::session::{Defaults, Session, Source};

pub fn run(args: &LogitsArgs) -> Done {
    let input = Golden::open_inputs(&args.input)?;
    let (batch_size, ids) = input.ids()?;
    if ids.is_empty() {
        return Err(Error::file(&args.input, "input_ids is empty, expected at least one token").into());
    }
    let targets = input.targets()?;
    let defaults = Defaults { device_dtype: DType::F32, moe: MoeMode::Capacity };
    let session = Source::open(&args.model)?.load(&args.model, defaults)?;
    let request = Forward {
        moe: session.moe,
        logits: if args.last { LogitRows::Last } else { LogitRows::All },
        targets: targets.as_deref().map(|ids| Targets { ids, ignore_index: -1 }),
        hidden_states: if args.hidden_states { HiddenStates::All } else { HiddenStates::None },
        routing: args.routing,
        ..Forward::default()
    };
    let ops = session.ops.as_ref();
    let mut workspace = session.model.workspace(ops, ids.len())?;
    let output = session
        .model
        .forward(ops, &mut workspace, batch_size, &ids, &request)
        .map_err(|error| in_file(args, error))?;
    let tensors = tensors(args, &session, batch_size, ids.len() / batch_size, &output);
    let views = tensors.iter().map(|tensor| Ok((tensor.name.as_str(), tensor.view()?)));
    let views = views.collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, None).map_err(unwritable)?;
    write_whole(&args.output, &file)?;
    for tensor in &tensors {
        tell(format_args!("{} {:?}", tensor.name, tensor.shape));
    }
    Ok(())
}

/// Input the model cannot take is the file's fault.
fn in_file(args: &LogitsArgs, error: Error) -> Error {
    match error {
        Error::Input(message) => Error::file(&args.input, message),
        other => other,
    }
}

/// What goes into the file, by the names the golden data use.
fn tensors<'a>(
    args: &LogitsArgs,
    session: &Session,
    batch: usize,
    seq: usize,
    output: &'a ForwardOutput,
) -> Vec<Named<'a>> {
    let config = session.model.config();
    let (hidden, tokens) = (config.hidden_size, batch * seq);
    let mut all = Vec::new();
    if args.last {
        all.push(Named::floats("last_logits", &[batch, 1, config.vocab_size], &output.logits));
    } else {
        all.push(Named::floats("logits", &[batch, seq, config.vocab_size], &output.logits));
    }
    let losses =
        [("cross_entropy", output.cross_entropy), ("loss_with_auxiliary", output.loss_with_auxiliary)];
    for (name, loss) in losses {
        all.extend(loss.map(|loss| Named::floats(name, &[1], vec![loss as f32])));
    }
    if args.hidden_states {
        let states = output.hidden_states.concat();
        all.push(Named::floats("hidden_states", &[config.num_layers + 1, batch, seq, hidden], states));
        all.push(Named::floats("final_norm", &[batch, seq, hidden], &output.final_norm));
    }
    if !args.routing {
        return all;
    }
    for routing in &output.routing {
        let name = |what: &str| format!("layers.{}.{what}", routing.layer);
        let (experts, k) = (routing.num_experts, routing.num_experts_per_token);
        all.push(Named::floats(&name("router_logits"), &[tokens, experts], &routing.router_logits));
        all.push(Named::integers(&name("expert_ids"), &[tokens, k], &routing.expert_ids));
        all.push(Named::integers(&name("kept_per_expert"), &[experts], routing.kept_per_expert()));
        all.push(Named::floats(&name("combine_weights"), &[tokens, experts], routing.combine_weights()));
    }
    if !output.routing.is_empty() {
        let layers = [output.routing.len()];
        let losses = |of: fn(&LayerRouting) -> f32| output.routing.iter().map(of).collect::<Vec<f32>>();
        all.push(Named::floats("aux_loss", &layers, losses(|routing| routing.aux_loss)));
        all.push(Named::floats("router_z_loss", &layers, losses(|routing| routing.z_loss)));
    }
    all
}

/// A tensor to be written, its elements in this machine's order of bytes, which is the file's: little-endian.
struct Named<'a> {
    name: String,
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    Floats(Cow<'a, [f32]>),
    Integers(Cow<'a, [i32]>),
}

impl<'a> Named<'a> {
    fn floats(name: &str, shape: &[usize], values: impl Into<Cow<'a, [f32]>>) -> Self {
        Named { name: name.into(), shape: shape.to_vec(), values: Values::Floats(values.into()) }
    }

    fn integers(name: &str, shape: &[usize], values: impl Into<Cow<'a, [i32]>>) -> Self {
        Named { name: name.into(), shape: shape.to_vec(), values: Values::Integers(values.into()) }
    }

    fn view(&self) -> Result<TensorView<'_>> {
        let (dtype, bytes) = match &self.values {
            Values::Floats(values) => (Dtype::F32, bytemuck::cast_slice(values)),
            Values::Integers(values) => (Dtype::I32, bytemuck::cast_slice(values)),
        };
        TensorView::new(dtype, self.shape.clone(), bytes).map_err(unwritable)
    }
}

fn unwritable(error: safetensors::SafeTensorError) -> Error {
    Error::Tensor { operation: "logits", message: error.to_string() }
}
