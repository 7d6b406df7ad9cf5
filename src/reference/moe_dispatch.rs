//! Ranks and capacity by definition: an assignment's rank is the number of assignments ahead of it.

/// nanoMoE's capacity of an expert for a call of `num_tokens` tokens: `floor(k · factor · num_tokens / num_experts)`,
/// up to the next even number, at least `min_capacity`.
pub fn expert_capacity(
    num_tokens: usize,
    num_experts: usize,
    num_experts_per_token: usize,
    factor: f64,
    min_capacity: usize,
) -> usize {
    let capacity =
        (num_experts_per_token as f64 * factor * num_tokens as f64 / num_experts as f64).floor() as usize;
    (capacity + capacity % 2).max(min_capacity)
}

/// Where every assignment goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// `[num_tokens, k]`: how many assignments to the same expert stand ahead (dropped ones counted as well).
    pub ranks: Vec<i32>,
    /// `[num_tokens, k]`: the row in expert-major order, or -1 where dropped.
    pub slots: Vec<i32>,
    /// `[num_experts + 1]`: where each expert's rows begin, and the end.
    pub offsets: Vec<i32>,
    /// `[rows]`: the token of each row.
    pub tokens: Vec<i32>,
    /// `[num_experts]`: assignments before dropping.
    pub counts: Vec<i32>,
    /// `[num_experts]`: assignments kept.
    pub kept: Vec<i32>,
}

/// Ranks assignments `expert_ids` `[num_tokens, k]` choice by choice (all first choices in token order, then all second
/// choices, …) and keeps those of rank below `capacity`, or all where it is `None`.
pub fn moe_dispatch(expert_ids: &[i32], k: usize, num_experts: usize, capacity: Option<usize>) -> Dispatch {
    let num_tokens = expert_ids.len() / k;
    let assignments: Vec<(usize, usize)> =
        (0..k).flat_map(|choice| (0..num_tokens).map(move |token| (choice, token))).collect();
    let expert_of = |&(choice, token): &(usize, usize)| expert_ids[token * k + choice];
    let mut ranks = vec![0; expert_ids.len()];
    for (index, assignment) in assignments.iter().enumerate() {
        let ahead =
            assignments[..index].iter().filter(|other| expert_of(other) == expert_of(assignment)).count();
        ranks[assignment.1 * k + assignment.0] = ahead as i32;
    }
    let count = |expert: usize| expert_ids.iter().filter(|&&id| id == expert as i32).count();
    let counts: Vec<i32> = (0..num_experts).map(|expert| count(expert) as i32).collect();
    let kept: Vec<i32> = counts
        .iter()
        .map(|&count| count.min(capacity.map_or(i32::MAX, |capacity| capacity as i32)))
        .collect();
    let offsets: Vec<i32> = (0..=num_experts).map(|expert| kept[..expert].iter().sum()).collect();
    let mut slots = vec![-1; expert_ids.len()];
    let mut tokens = vec![-1; offsets[num_experts] as usize];
    for (index, &expert) in expert_ids.iter().enumerate() {
        if ranks[index] < kept[expert as usize] {
            slots[index] = offsets[expert as usize] + ranks[index];
            tokens[slots[index] as usize] = (index / k) as i32;
        }
    }
    Dispatch { ranks, slots, offsets, tokens, counts, kept }
}
