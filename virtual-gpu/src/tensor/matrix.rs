//! `ldmatrix`, `stmatrix` (PTX ISA 9.7.14.5.15 and .16) with 8x8 matrices of b16, and `movmatrix` (.17).

use super::Lanes;

/// Where one 16-bit half of a lane's register stands in shared memory: in the 16-byte row whose address `lane`
/// supplies, `byte` bytes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The lane that supplies the row's address (0 to 31).
    pub lane: usize,
    /// Offset in the row, in bytes (even, 0 to 14).
    pub byte: usize,
}

/// The two halves (low, high) that `lane` receives from (or gives to) 8x8 matrix number `matrix` (0 to 3).
///
/// Matrix `i`'s row `r` stands at the address of lane `8 i + r`. Without `.trans` lane `t` holds row `t / 4`, columns
/// `2 (t mod 4)` and the next; with it, column `t / 4`, rows `2 (t mod 4)` and the next.
#[inline]
pub fn halves(matrix: usize, lane: usize, trans: bool) -> [Source; 2] {
    let (group, pair) = (lane / 4, 2 * (lane % 4));
    if trans {
        [0, 1].map(|h| Source { lane: 8 * matrix + pair + h, byte: 2 * group })
    } else {
        [0, 1].map(|h| Source { lane: 8 * matrix + group, byte: 2 * (pair + h) })
    }
}

/// Puts the rows of one 8x8 matrix (16 bytes each, in row order) into a warp register, as `ldmatrix` does.
#[inline]
pub fn load(rows: &[[u8; 16]; 8], trans: bool) -> Lanes {
    core::array::from_fn(|lane| {
        let [low, high] = halves(0, lane, trans)
            .map(|s| u16::from_le_bytes([rows[s.lane][s.byte], rows[s.lane][s.byte + 1]]));
        low as u32 | (high as u32) << 16
    })
}

/// The rows that `stmatrix` writes for one 8x8 matrix held in a warp register.
#[inline]
pub fn store(register: &Lanes, trans: bool) -> [[u8; 16]; 8] {
    let mut rows = [[0; 16]; 8];
    for (lane, value) in register.iter().enumerate() {
        for (half, s) in halves(0, lane, trans).into_iter().enumerate() {
            let bytes = ((value >> (16 * half)) as u16).to_le_bytes();
            rows[s.lane][s.byte..s.byte + 2].copy_from_slice(&bytes);
        }
    }
    rows
}

/// For a loaded register: the lanes that received at least one undefined byte; `undefined[r]` has a bit for every
/// undefined byte of row `r`.
#[inline]
pub fn load_poison(undefined: &[u16; 8], trans: bool) -> u32 {
    if undefined.iter().all(|&row| row == 0) {
        return 0;
    }
    (0..32).fold(0, |mask, lane| {
        let bad = halves(0, lane, trans).iter().any(|s| undefined[s.lane] >> s.byte & 3 != 0);
        mask | (bad as u32) << lane
    })
}

/// For a stored register with the lanes of `poison` undefined: a bit for every undefined byte of each row.
#[inline]
pub fn store_poison(poison: u32, trans: bool) -> [u16; 8] {
    let mut rows = [0; 8];
    for lane in (0..32).filter(|lane| poison >> lane & 1 != 0) {
        for s in halves(0, lane, trans) {
            rows[s.lane] |= 3 << s.byte;
        }
    }
    rows
}

/// `movmatrix.sync.aligned.m8n8.trans.b16`: the transpose of the 8x8 matrix in a warp register.
pub fn transpose(register: &Lanes) -> Lanes {
    // Lane 4 r + c holds row r, columns 2 c and 2 c + 1.
    let at = |row: usize, col: usize| register[4 * row + col / 2] >> (16 * (col % 2)) & 0xffff;
    core::array::from_fn(|lane| {
        let (row, pair) = (lane / 4, 2 * (lane % 4));
        at(pair, row) | at(pair + 1, row) << 16
    })
}

/// The lanes of a transposed register that hold an undefined half.
pub fn transpose_poison(poison: u32) -> u32 {
    load_poison(&store_poison(poison, false), true)
}
