//! Scaled-dot-product attention with the whole row of scores written out.

/// Sizes of an attention call; tensors are dense `[batch_size, length, heads, head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Sequences.
    pub batch_size: usize,
    /// Query positions of each sequence.
    pub query_len: usize,
    /// Key and value positions stored for each sequence.
    pub kv_len: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`. Query head `h` reads key head `h / (num_heads / num_kv_heads)`.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the scores, 1/sqrt(head_dim) as a rule.
    pub scale: f64,
    /// Query `i` sees keys `0..=i + length - query_len`; otherwise all.
    pub causal: bool,
}

impl AttentionShape {
    /// The scores of one query of one head: `None` where it must not look.
    fn scores(
        &self,
        q: &[f64],
        k: &[f64],
        length: usize,
        (batch, query, head): (usize, usize, usize),
    ) -> Vec<f64> {
        let group = self.num_heads / self.num_kv_heads;
        let mut scores = vec![f64::NEG_INFINITY; length];
        for (key, score) in scores.iter_mut().enumerate() {
            // The last query stands at the last key.
            if self.causal && key + self.query_len > query + length {
                continue;
            }
            let q_row = ((batch * self.query_len + query) * self.num_heads + head) * self.head_dim;
            let k_row = ((batch * self.kv_len + key) * self.num_kv_heads + head / group) * self.head_dim;
            let dot: f64 = (0..self.head_dim).map(|dim| q[q_row + dim] * k[k_row + dim]).sum();
            *score = dot * self.scale;
        }
        scores
    }

    fn rows(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let (batches, queries, heads) = (self.batch_size, self.query_len, self.num_heads);
        (0..batches).flat_map(move |b| (0..queries).flat_map(move |q| (0..heads).map(move |h| (b, q, h))))
    }
}

/// `out = softmax(q · kᵀ * scale) · v`, causal if asked. `lengths` `[batch_size]` says how many keys of each sequence
/// count (all `kv_len` where `None`). A query that sees no key gives 0. The result has the shape of `q`.
pub fn attention(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    shape: &AttentionShape,
    lengths: Option<&[usize]>,
) -> Vec<f64> {
    let s = shape;
    assert_eq!(q.len(), s.batch_size * s.query_len * s.num_heads * s.head_dim);
    assert_eq!(k.len(), s.batch_size * s.kv_len * s.num_kv_heads * s.head_dim);
    assert_eq!(k.len(), v.len());
    let group = s.num_heads / s.num_kv_heads;
    let mut out = vec![0.0; q.len()];
    for (batch, query, head) in s.rows() {
        let length = lengths.map_or(s.kv_len, |lengths| lengths[batch]);
        let scores = s.scores(q, k, length, (batch, query, head));
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY && !scores.iter().any(|score| score.is_nan()) {
            continue;
        }
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for dim in 0..s.head_dim {
            let weighted: f64 = (0..length)
                .filter(|&key| weights[key] != 0.0)
                .map(|key| {
                    let v_row = ((batch * s.kv_len + key) * s.num_kv_heads + head / group) * s.head_dim;
                    weights[key] / sum * v[v_row + dim]
                })
                .sum();
            out[((batch * s.query_len + query) * s.num_heads + head) * s.head_dim + dim] = weighted;
        }
    }
    out
}

/// `ln(sum of exp(scores))` of every query and head, `[batch_size, query_len, num_heads]`; -inf where it sees nothing.
pub fn attention_log_sum_exp(
    q: &[f64],
    k: &[f64],
    shape: &AttentionShape,
    lengths: Option<&[usize]>,
) -> Vec<f64> {
    let row = |(batch, query, head)| {
        let length = lengths.map_or(shape.kv_len, |lengths| lengths[batch]);
        super::log_sum_exp(&shape.scores(q, k, length, (batch, query, head)))
    };
    shape.rows().map(row).collect()
}
