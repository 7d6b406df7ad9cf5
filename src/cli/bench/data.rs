//! Random inputs on the device, and reading parts of results back.

use nanomoe::buffer::Buffer;
use nanomoe::kernels::DeviceOperations;
use nanomoe::operations::Operations;
use nanomoe::tensor::{AsView, DType};
use nanomoe::{Error, Result};

/// Elements made on the host; the rest of a larger tensor repeats them. Odd, so that no rows are alike.
const BLOCK: usize = (1 << 22) + 4_099;

/// Random numbers that are the same at every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in 0..1, never 0.
    pub fn uniform(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// The sum of three uniform numbers of variance 1/3: close to normal, and quick to make.
    fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let part = |shift: u32| ((bits >> shift) & 0x1f_ffff) as f32 / 1_048_576.0 - 1.0;
        part(0) + part(21) + part(42)
    }
}

/// The bytes of `values` stored as `dtype`.
fn encode(dtype: DType, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match dtype {
        DType::BF16 => values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
        DType::F32 | DType::I32 => values.flat_map(f32::to_le_bytes).collect(),
    }
}

/// The bytes of `len` values of variance `scale²`.
pub fn normals(dtype: DType, len: usize, seed: u64, scale: f32) -> Vec<u8> {
    let mut random = Random(seed);
    encode(dtype, (0..len).map(|_| random.normal() * scale))
}

/// `len` values of variance `scale²` on the device.
pub fn random(ops: &DeviceOperations, dtype: DType, len: usize, seed: u64, scale: f32) -> Result<Buffer> {
    let block = len.min(BLOCK);
    let bytes = normals(dtype, block, seed, scale);
    let mut buffer = ops.allocate(dtype, len)?;
    ops.upload(buffer.tensor_mut(&[block]), &bytes)?;
    let (pointer, size) = (buffer.tensor(&[len]).view().pointer, dtype.size());
    let mut filled = block;
    while filled < len {
        let part = filled.min(len - filled);
        let to = pointer + (filled * size) as u64;
        // SAFETY: 0..part and filled..filled + part are inside the buffer and, since part <= filled, apart; the buffer
        // outlives the work: it is waited for below.
        unsafe { ops.kernels().device().copy_on_device(to, pointer, (part * size) as u64, ops.stream())? };
        filled += part;
    }
    ops.synchronize()?;
    Ok(buffer)
}

/// Memory for a result, every byte 0xff: NaN, and -1.
pub fn poisoned(ops: &DeviceOperations, dtype: DType, len: usize) -> Result<Buffer> {
    let buffer = ops.allocate(dtype, len)?;
    let pointer = buffer.tensor(&[len]).view().pointer;
    // SAFETY: the range is the buffer, which outlives the work: it is waited for below.
    unsafe { ops.kernels().device().set(pointer, 0xff, (len * dtype.size()) as u64, ops.stream())? };
    ops.synchronize()?;
    Ok(buffer)
}

/// A buffer with these integers.
pub fn integers(ops: &DeviceOperations, values: &[i32]) -> Result<Buffer> {
    let mut buffer = ops.allocate(DType::I32, values.len())?;
    ops.upload(buffer.tensor_mut(&[values.len()]), bytemuck::cast_slice(values))?;
    Ok(buffer)
}

/// A buffer with these f32.
pub fn floats(ops: &DeviceOperations, values: &[f32]) -> Result<Buffer> {
    let mut buffer = ops.allocate(DType::F32, values.len())?;
    ops.upload(buffer.tensor_mut(&[values.len()]), bytemuck::cast_slice(values))?;
    Ok(buffer)
}

/// Elements `start..start + len` of a buffer of floats.
pub fn part(ops: &DeviceOperations, buffer: &Buffer, start: usize, len: usize) -> Result<Vec<f64>> {
    let dtype = buffer.dtype();
    let mut bytes = vec![0; len * dtype.size()];
    ops.download(buffer.tensor(&[buffer.len()]).narrow(0, start, len), &mut bytes)?;
    let pairs = || bytes.chunks_exact(2).map(|b| [b[0], b[1]]);
    Ok(match dtype {
        DType::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f64()).collect(),
        DType::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f64()).collect(),
        DType::F32 => {
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect()
        }
        DType::I32 => return Err(Error::Usage("integers are not floats".to_owned())),
    })
}

/// Row `row` of a buffer whose rows have `width` elements.
pub fn row(ops: &DeviceOperations, buffer: &Buffer, row: usize, width: usize) -> Result<Vec<f64>> {
    part(ops, buffer, row * width, width)
}

/// All of a buffer of integers.
pub fn read_integers(ops: &DeviceOperations, buffer: &Buffer) -> Result<Vec<i32>> {
    let mut values = vec![0i32; buffer.len()];
    ops.download(buffer.tensor(&[buffer.len()]), bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// `count` indices below `n`: the first, the last, and some between.
pub fn sample(n: usize, count: usize) -> Vec<usize> {
    let mut random = Random(n as u64);
    let mut chosen = vec![0, n - 1];
    chosen.extend((2..count).map(|_| (random.bits() % n as u64) as usize));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Token ids, some of them more than once.
pub fn ids(len: usize, vocab_size: usize) -> Vec<i32> {
    let mut random = Random(41);
    (0..len).map(|_| (random.bits() % vocab_size as u64) as i32).collect()
}

/// How many different values there are.
pub fn distinct(values: &[i32]) -> usize {
    values.iter().collect::<std::collections::HashSet<_>>().len()
}

/// Router logits `[num_tokens, num_experts]`: the largest k are a draw without replacement by each expert's weight,
/// which is the same for all; Zipf's 1/rank (also where what exceeds the capacity is dropped); almost everything for
/// expert 0; or nothing for the second half.
pub fn router_logits(num_tokens: usize, num_experts: usize, routing: &str) -> Vec<f32> {
    let mut random = Random(77);
    let weight = |expert: usize| match routing {
        "zipf" | "drop1.25" | "drop2" => -((expert + 1) as f64).ln(),
        "one" if expert == 0 => 100.0,
        "empty" if expert >= num_experts / 2 => -100.0,
        _ => 0.0,
    };
    let gumbel = |random: &mut Random| -(-random.uniform().ln()).ln();
    let each = (0..num_tokens).flat_map(|_| 0..num_experts);
    each.map(|expert| (weight(expert) + gumbel(&mut random)) as f32).collect()
}

/// The largest k of each row, as the router chooses them.
pub fn top_k(logits: &[f32], num_experts: usize, k: usize) -> Vec<i32> {
    let choose = |row: &[f32]| {
        let mut order: Vec<usize> = (0..num_experts).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        order.into_iter().take(k).map(|expert| expert as i32).collect::<Vec<_>>()
    };
    logits.chunks_exact(num_experts).flat_map(choose).collect()
}

/// Assignments an expert takes under nanoMoE's rule; `None` where nothing is dropped.
pub fn capacity(routing: &str, num_tokens: usize, num_experts: usize, k: usize) -> Option<usize> {
    let factor = match routing {
        "drop1.25" => 1.25,
        "drop2" => 2.0,
        _ => return None,
    };
    Some(nanomoe::reference::expert_capacity(num_tokens, num_experts, k, factor, 4))
}

/// Where assignments go, counted in the order that the operation promises: all first choices, then all second ones,
/// and no more than `capacity` to an expert. (expert_offsets, row_tokens, slots)
pub fn dispatch(
    ids: &[i32],
    num_experts: usize,
    k: usize,
    capacity: Option<usize>,
) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let capacity = capacity.map_or(i32::MAX, |capacity| capacity as i32);
    let mut offsets = vec![0; num_experts + 1];
    for &id in ids {
        offsets[id as usize + 1] += 1;
    }
    for expert in 0..num_experts {
        offsets[expert + 1] = offsets[expert] + offsets[expert + 1].min(capacity);
    }
    let (mut next, mut slots, mut tokens) = (offsets.clone(), vec![-1; ids.len()], vec![-1; ids.len()]);
    for choice in 0..k {
        for token in 0..ids.len() / k {
            let expert = ids[token * k + choice] as usize;
            if next[expert] < offsets[expert + 1] {
                slots[token * k + choice] = next[expert];
                tokens[next[expert] as usize] = token as i32;
                next[expert] += 1;
            }
        }
    }
    (offsets, tokens, slots)
}
