//! The f64 reference against the golden folders.

use libtest_mimic::{Failed, Trial};
use nanomoe::reference;
use nanomoe::verify::{Bound, Computed, Golden, compare};
use nanomoe::weights::Checkpoint;

use crate::common::{golden_dirs, report};

pub fn trials() -> Vec<Trial> {
    golden_dirs()
        .into_iter()
        .map(|(name, dir)| Trial::test(format!("reference::f64::{name}::host"), move || agrees(&dir)))
        .collect()
}

fn agrees(dir: &std::path::Path) -> Result<(), Failed> {
    let checkpoint = Checkpoint::open(dir)?;
    let config = checkpoint.config();
    let golden = Golden::open(&dir.join("golden.safetensors"))?;
    let (batch_size, ids) = golden.ids()?;
    let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
    let targets = golden.targets()?;
    let targets: Option<Vec<i32>> = targets.map(|targets| targets.into_iter().map(|id| id as i32).collect());
    let routing = reference::Routing { capacity: true, ..reference::Routing::default() };
    let trace = reference::forward(&checkpoint, batch_size, &ids, targets.as_deref(), routing)?;

    let seq_len = ids.len() / batch_size;
    let last = trace.logits.chunks_exact(config.vocab_size).skip(seq_len - 1).step_by(seq_len).flatten();
    let mut computed = vec![
        Computed::new("last_logits", last.copied()),
        Computed::new("logits", trace.logits.iter().copied()),
        Computed::new("hidden_states", trace.hidden_states.iter().flatten().copied()),
        Computed::new("final_norm", trace.final_norm),
    ];
    computed.extend(trace.cross_entropy.map(|loss| Computed::new("cross_entropy", [loss])));
    computed.extend(trace.loss_with_auxiliary.map(|loss| Computed::new("loss_with_auxiliary", [loss])));
    for (layer, logits, gating, dispatch) in &trace.routing {
        let num_experts = gating.counts.len();
        let k = gating.expert_ids.len() * num_experts / logits.len();
        let mut weights = vec![0.0; logits.len()];
        for (index, &id) in
            gating.expert_ids.iter().enumerate().filter(|(index, _)| dispatch.slots[*index] >= 0)
        {
            weights[index / k * num_experts + id as usize] = gating.expert_weights[index];
        }
        let name = |what: &str| format!("layers.{layer}.{what}");
        computed.push(Computed::new(name("router_logits"), logits.iter().copied()));
        computed.push(Computed::new(name("expert_ids"), gating.expert_ids.iter().copied()));
        computed.push(Computed::new(name("kept_per_expert"), dispatch.kept.iter().copied()));
        computed.push(Computed::new(name("combine_weights"), weights));
    }
    if !trace.routing.is_empty() {
        let aux = trace.routing.iter().map(|(_, _, gating, _)| gating.aux_loss);
        let z = trace.routing.iter().map(|(_, _, gating, _)| gating.z_loss);
        computed.extend([Computed::new("aux_loss", aux), Computed::new("router_z_loss", z)]);
    }
    let bound = Bound::of(nanomoe::tensor::DType::F32);
    report(&compare(&golden, config, &computed, bound)?)
}
