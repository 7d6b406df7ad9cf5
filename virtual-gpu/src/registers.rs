//! The register file of one warp: 32 lanes a register, with one undefined-value bit a lane.

/// Number of a 32-bit register; a 64-bit register takes two neighbours.
pub type Slot = u32;

/// Written by destinations that nobody reads (`_`), wide enough for 128 bits.
pub const SINK: Slot = 0;
/// Always zero (64 bits wide).
pub const ZERO: Slot = 4;
/// First slot the decoder hands out.
pub const FIRST_SLOT: Slot = 6;

/// Predicates: written and never read, carry flag, false, true.
pub const PRED_SINK: u32 = 0;
pub const PRED_CARRY: u32 = 1;
pub const PRED_FALSE: u32 = 2;
pub const PRED_TRUE: u32 = 3;
pub const FIRST_PRED: u32 = 4;

/// One 32-bit value a lane.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Lanes(pub [u32; 32]);

/// Registers of one warp.
#[derive(Clone, Default)]
pub struct Registers {
    lanes: Vec<Lanes>,
    /// Bit a lane: the value is undefined. A 64-bit register uses the bit of its first slot.
    poison: Vec<u32>,
    preds: Vec<u32>,
    pred_poison: Vec<u32>,
}

impl Registers {
    /// All registers undefined and zero, the constants set.
    pub fn new(slots: u32, preds: u32) -> Self {
        let mut registers = Self {
            lanes: vec![Lanes([0; 32]); slots.max(FIRST_SLOT) as usize],
            poison: vec![u32::MAX; slots.max(FIRST_SLOT) as usize],
            preds: vec![0; preds.max(FIRST_PRED) as usize],
            pred_poison: vec![u32::MAX; preds.max(FIRST_PRED) as usize],
        };
        registers.poison[ZERO as usize] = 0;
        registers.pred_poison[..FIRST_PRED as usize].fill(0);
        registers.preds[PRED_TRUE as usize] = u32::MAX;
        registers
    }

    #[inline(always)]
    pub fn r32(&self, slot: Slot) -> &[u32; 32] {
        &self.lanes[slot as usize].0
    }

    #[inline(always)]
    pub fn r64(&self, slot: Slot) -> &[u64; 32] {
        let pair: &[Lanes] = &self.lanes[slot as usize..slot as usize + 2];
        // SAFETY: the slice above is checked to hold two `Lanes`, 256 contiguous bytes aligned to 64; any bits are a u64.
        unsafe { &*pair.as_ptr().cast::<[u64; 32]>() }
    }

    #[inline(always)]
    pub fn m32(&mut self, slot: Slot) -> &mut [u32; 32] {
        &mut self.lanes[slot as usize].0
    }

    #[inline(always)]
    pub fn m64(&mut self, slot: Slot) -> &mut [u64; 32] {
        let pair: &mut [Lanes] = &mut self.lanes[slot as usize..slot as usize + 2];
        // SAFETY: the slice above is checked to hold two `Lanes`, 256 contiguous bytes aligned to 64; any bits are a u64.
        unsafe { &mut *pair.as_mut_ptr().cast::<[u64; 32]>() }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub fn write32(&mut self, slot: Slot, values: &[u32; 32], mask: u32) {
        let to = self.m32(slot);
        if mask == u32::MAX {
            *to = *values;
        } else {
            for lane in 0..32 {
                to[lane] = if mask >> lane & 1 != 0 { values[lane] } else { to[lane] };
            }
        }
    }

    #[inline(always)]
    pub fn write64(&mut self, slot: Slot, values: &[u64; 32], mask: u32) {
        let to = self.m64(slot);
        if mask == u32::MAX {
            *to = *values;
        } else {
            for lane in 0..32 {
                to[lane] = if mask >> lane & 1 != 0 { values[lane] } else { to[lane] };
            }
        }
    }

    #[inline(always)]
    pub fn poison(&self, slot: Slot) -> u32 {
        self.poison[slot as usize]
    }

    #[inline(always)]
    pub fn set_poison(&mut self, slot: Slot, bits: u32, mask: u32) {
        let to = &mut self.poison[slot as usize];
        *to = *to & !mask | bits & mask;
    }

    #[inline(always)]
    pub fn pred(&self, pred: u32) -> u32 {
        self.preds[pred as usize]
    }

    #[inline(always)]
    pub fn pred_poison(&self, pred: u32) -> u32 {
        self.pred_poison[pred as usize]
    }

    #[inline(always)]
    pub fn set_pred(&mut self, pred: u32, bits: u32, poison: u32, mask: u32) {
        let to = &mut self.preds[pred as usize];
        *to = *to & !mask | bits & mask;
        let to = &mut self.pred_poison[pred as usize];
        *to = *to & !mask | poison & mask;
    }

    /// Sets a register to one value in all lanes, defined.
    pub fn fill(&mut self, slot: Slot, value: u64, wide: bool) {
        if wide {
            self.m64(slot).fill(value);
        } else {
            self.m32(slot).fill(value as u32);
        }
        self.poison[slot as usize] = 0;
    }
}
