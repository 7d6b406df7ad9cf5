//! A forward pass recorded once and launched as a whole: a CUDA graph.

use super::indices::Indices;
use super::output::Recorder;
use super::request::Step;
use super::{Forward, ForwardOutput, HiddenStates, Input, Model, Targets, Workspace, refuse};
use crate::device::Graph;
use crate::error::Result;
use crate::operations::Operations;

/// A forward pass of one shape over one workspace. A run uploads the ids, launches one graph, and downloads what was
/// asked for; it allocates nothing.
#[derive(Debug)]
pub struct RecordedForward<'a> {
    model: &'a Model,
    ops: Ops<'a>,
    workspace: Workspace,
    batch_size: usize,
    seq_len: usize,
    request: Forward<'a>,
    graph: Graph,
}

pub(super) struct Ops<'a>(pub &'a dyn Operations);

impl std::fmt::Debug for Ops<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.name())
    }
}

impl Model {
    /// Records the forward pass over `[batch_size, seq_len]` ids. Runs it once before, over ids of 0, so that all code
    /// is loaded. Of `request.targets` only the number of ids and what is ignored matter here.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`crate::Error::Usage`] where nothing can be recorded (the CPU); [`crate::Error::Input`]
    /// for hidden states, routing or attention weights, which are handed out on the way.
    pub fn record<'a>(
        &'a self,
        ops: &'a dyn Operations,
        mut workspace: Workspace,
        batch_size: usize,
        seq_len: usize,
        request: Forward<'a>,
    ) -> Result<RecordedForward<'a>> {
        let on_the_way = request.routing || request.attention_weights.is_some();
        if request.hidden_states != HiddenStates::None || on_the_way {
            return refuse(
                "a recorded forward pass hands out neither hidden states, routing nor attention weights"
                    .into(),
            );
        }
        let ids = vec![0; batch_size * seq_len];
        self.forward(ops, &mut workspace, batch_size, &ids, &request)?;
        let step = Step::new(ops, self, &workspace, batch_size, Input::Ids(&ids), Some(0), &request)?;
        let mut record = Recorder::new(&request, &self.config, step.num_tokens);
        let graph = ops.record(&mut || self.launch(&step, &mut workspace, None, &mut record))?;
        Ok(RecordedForward { model: self, ops: Ops(ops), workspace, batch_size, seq_len, request, graph })
    }
}

impl RecordedForward<'_> {
    /// The pass over `ids` `[batch_size, seq_len]`, and over `targets` of the same shape where targets were recorded.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`crate::Error::Input`] for another number of ids than was recorded, and for targets
    /// where none were recorded or none where they were.
    pub fn run(&mut self, ids: &[u32], targets: Option<&[i64]>) -> Result<ForwardOutput> {
        let (batch_size, seq_len, ops) = (self.batch_size, self.seq_len, self.ops.0);
        if ids.len() != batch_size * seq_len {
            return refuse(format!("{} ids, {batch_size} sequences of {seq_len} were recorded", ids.len()));
        }
        let targets = match (self.request.targets, targets) {
            (None, None) => None,
            (Some(recorded), Some(ids)) => Some(Targets { ids, ..recorded }),
            (Some(_), None) => return refuse("no targets, but a loss was recorded".into()),
            (None, Some(_)) => return refuse("targets, but no loss was recorded".into()),
        };
        let request = Forward { targets, ..self.request };
        let step =
            Step::new(ops, self.model, &self.workspace, batch_size, Input::Ids(ids), Some(0), &request)?;
        step.upload(&mut self.workspace, &Indices::of(&step).behind_whole(&request))?;
        // SAFETY: the graph uses the model's parameters, which are borrowed, and the workspace, which is owned and of
        // which the pass before the recording made as large as this one needs: nothing was allocated anew since.
        unsafe { ops.replay(&self.graph)? };
        Recorder::new(&request, &self.model.config, step.num_tokens).finish(&step, &self.workspace)
    }

    /// The workspace, for passes that are not recorded.
    pub fn into_workspace(self) -> Workspace {
        self.workspace
    }
}
