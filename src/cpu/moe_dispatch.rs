use crate::error::Result;
use crate::operations::MoeDispatchParams;
use crate::tensor::{Place, Tensor, TensorMut};

/// A counting sort: count per expert, prefix sums, then place in choice-major order.
pub(super) fn moe_dispatch(p: MoeDispatchParams<Tensor<'_>, TensorMut<'_>>) -> Result<()> {
    const NAME: &str = "moe_dispatch";
    let (num_tokens, k) = p.check()?;
    p.raw(Place::Host)?;
    let ids = p.expert_ids.as_slice::<i32>(NAME)?;
    let offsets = p.expert_offsets.into_slice::<i32>(NAME)?;
    let row_tokens = p.row_tokens.into_slice::<i32>(NAME)?;
    let slots = p.slots.into_slice::<i32>(NAME)?;
    let capacity = p.capacity.map_or(i32::MAX, |capacity| i32::try_from(capacity).unwrap_or(i32::MAX));

    let known = |id: i32| usize::try_from(id).ok().filter(|&id| id < p.num_experts);
    let mut counts = vec![0i32; p.num_experts];
    ids.iter().filter_map(|&id| known(id)).for_each(|id| counts[id] += 1);
    offsets[0] = 0;
    for (expert, count) in counts.iter().enumerate() {
        offsets[expert + 1] = offsets[expert] + (*count).min(capacity);
    }
    row_tokens.fill(-1);
    slots.fill(-1);
    let mut ranks = vec![0i32; p.num_experts];
    for choice in 0..k {
        for token in 0..num_tokens {
            let Some(expert) = known(ids[token * k + choice]) else { continue };
            if ranks[expert] < capacity {
                let slot = offsets[expert] + ranks[expert];
                slots[token * k + choice] = slot;
                row_tokens[slot as usize] = token as i32;
            }
            ranks[expert] += 1;
        }
    }
    Ok(())
}
