//! How data lies on the device: what the shaders read, written by the host.

use bytemuck::{Pod, Zeroable};

/// Columns of a block of packed weights, and of a workgroup.
pub(super) const BLOCK_COLS: usize = 64;
/// Codes of a `vec4<u32>`.
const VEC: usize = 16;

/// `LinearParams` of `requantize.wgsl`, which documents the fields.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(super) struct LinearParams {
    pub(super) k_vecs: u32,
    pub(super) n: u32,
    pub(super) row_words: u32,
    pub(super) rows_factor: u32,
    pub(super) first_row: u32,
    pub(super) end_row: u32,
    pub(super) first_quad: u32,
    pub(super) quads: u32,
    pub(super) part_vecs: u32,
    pub(super) fraction_bits: u32,
    pub(super) zero_point: i32,
    pub(super) lo: f32,
    pub(super) hi: f32,
    pub(super) relu: u32,
    pub(super) pair_stride: u32,
    pub(super) unary: u32,
    pub(super) own_zero_point: i32,
    pub(super) other_zero_point: i32,
    pub(super) own_multiplier: i32,
    pub(super) other_multiplier: i32,
    pub(super) shift: u32,
    pub(super) sum_zero_point: i32,
    pub(super) sum_lo: i32,
    pub(super) sum_hi: i32,
}

/// `OpParams` of `general.wgsl`, which documents the fields.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
pub(super) struct OpParams {
    pub(super) axes: [[u32; 4]; MAX_AXES],
    pub(super) rank: u32,
    pub(super) rows_factor: u32,
    pub(super) cols: u32,
    pub(super) a_col: u32,
    pub(super) b_col: u32,
    pub(super) y_offset: u32,
    pub(super) row_words: u32,
    pub(super) a_words: u32,
    pub(super) a_cols: u32,
    pub(super) kind: u32,
    pub(super) a_zero_point: i32,
    pub(super) b_zero_point: i32,
    pub(super) a_multiplier: i32,
    pub(super) b_multiplier: i32,
    pub(super) shift: u32,
    pub(super) zero_point: i32,
    pub(super) lo: i32,
    pub(super) hi: i32,
    pub(super) factor: f32,
    pub(super) k: u32,
    pub(super) m: u32,
    pub(super) b_k: u32,
    pub(super) b_n: u32,
    pub(super) a_row: u32,
    pub(super) relu: u32,
    pub(super) b_vecs: u32,
    pub(super) first_group: u32,
    pub(super) inv_scale: f32,
    pub(super) a_offset: u32,
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) unused: u32,
}

/// Axes before the last that the general kernels decode, once those that can be are merged.
pub(super) const MAX_AXES: usize = 5;

/// `Channels` of `requantize.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(super) struct Channels {
    pub(super) bias: [i32; 4],
    pub(super) factor: [f32; 4],
    pub(super) offset: [f32; 4],
}

/// `TensorParams` of `tensor.wgsl`, which documents the fields.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(super) struct TensorParams {
    pub(super) cols: u32,
    pub(super) row_words: u32,
    pub(super) rows_factor: u32,
    pub(super) zero_point: i32,
    pub(super) factor: f32,
    pub(super) lo: f32,
    pub(super) hi: f32,
}

/// `Digit` of `rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(super) struct Digit {
    pub(super) value: u32,
}

/// Words of 16 codes that hold `cols` codes.
pub(super) fn k_vecs(cols: usize) -> usize {
    cols.div_ceil(VEC)
}

/// Words of 4 codes of a padded row.
pub(super) fn row_words(cols: usize) -> usize {
    k_vecs(cols) * 4
}

/// How many bits of the device's memory a weight takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum WeightBits {
    Eight,
    Four,
    Two,
}

impl WeightBits {
    /// The fewest that hold all codes.
    pub(super) fn of(codes: &[i8]) -> Self {
        let within = |lo: i8, hi: i8| codes.iter().all(|code| (lo..=hi).contains(code));
        if within(-2, 1) {
            Self::Two
        } else if within(-8, 7) {
            Self::Four
        } else {
            Self::Eight
        }
    }

    /// Bytes that 16 codes take.
    pub(super) fn vec_bytes(self) -> usize {
        match self {
            Self::Eight => 16,
            Self::Four => 8,
            Self::Two => 4,
        }
    }

    /// Of 16 codes, as `weights_8.wgsl` and its siblings read them.
    fn pack(self, codes: &[i8; VEC], packed: &mut [u8]) {
        match self {
            Self::Eight => packed.copy_from_slice(bytemuck::cast_slice(codes)),
            Self::Four => {
                for (at, byte) in packed.iter_mut().enumerate() {
                    let first = at / 4 * 8 + at % 4;
                    *byte = (codes[first] as u8 & 15) | (codes[first + 4] as u8) << 4;
                }
            }
            Self::Two => {
                for (at, byte) in packed.iter_mut().enumerate() {
                    *byte = (0..4).map(|word| (codes[word * 4 + at] as u8 & 3) << (2 * word)).sum();
                }
            }
        }
    }
}

/// Bytes of a block of 64 columns.
pub(super) fn block_bytes(k: usize, bits: WeightBits) -> usize {
    k_vecs(k) * BLOCK_COLS * bits.vec_bytes()
}

/// Packs a weight `[n, k]` as `[n / 64][k_vecs][64]` words of 16 codes, where slot `16 j + i` of a block holds column
/// `4 i + j`. Then the 16 threads along the columns read adjacent words, and each owns four adjacent columns, one word of
/// output.
pub(super) fn pack_weight(codes: &[i8], n: usize, k: usize, bits: WeightBits) -> Vec<u8> {
    let block_bytes = block_bytes(k, bits);
    let mut packed = vec![0; n.div_ceil(BLOCK_COLS) * block_bytes];
    for (block, packed) in packed.chunks_exact_mut(block_bytes).enumerate() {
        for slot in 0..BLOCK_COLS {
            let column = block * BLOCK_COLS + slot % 16 * 4 + slot / 16;
            let Some(row) = codes.get(column * k..(column + 1) * k).filter(|_| column < n) else { continue };
            for (vec, codes) in row.chunks(VEC).enumerate() {
                let mut whole = [0; VEC];
                whole[..codes.len()].copy_from_slice(codes);
                bits.pack(&whole, &mut packed[(vec * BLOCK_COLS + slot) * bits.vec_bytes()..][..bits.vec_bytes()]);
            }
        }
    }
    packed
}

/// Biases, factors and offsets by quads, padded with zeros to whole blocks.
pub(super) fn pack_channels(bias: &[i32], factors: &[f32], offsets: &[f32]) -> Vec<Channels> {
    let mut quads = vec![Channels::zeroed(); bias.len().div_ceil(BLOCK_COLS) * BLOCK_COLS / 4];
    for (column, (&bias, &factor)) in bias.iter().zip(factors).enumerate() {
        quads[column / 4].bias[column % 4] = bias;
        quads[column / 4].factor[column % 4] = factor;
    }
    for (column, &offset) in offsets.iter().enumerate() {
        quads[column / 4].offset[column % 4] = offset;
    }
    quads
}

/// Codes in rows of `cols`, each row padded to 16 bytes.
pub(super) fn pad_rows(codes: &[i8], cols: usize) -> Vec<i8> {
    let mut padded = vec![0; codes.len() / cols.max(1) * row_words(cols) * 4];
    for (padded, row) in padded.chunks_exact_mut(row_words(cols) * 4).zip(codes.chunks_exact(cols.max(1))) {
        padded[..row.len()].copy_from_slice(row);
    }
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_slot() {
        let (n, k) = (70, 37);
        let codes: Vec<i8> = (0..n * k).map(|i| (i % 251) as u8 as i8).collect();
        let packed = pack_weight(&codes, n, k, WeightBits::Eight);
        let k_vecs = 3;
        assert_eq!(packed.len(), 2 * k_vecs * 64 * 16);
        let mut found = 0;
        for column in 0..128 {
            for feature in 0..k_vecs * 16 {
                let slot = column % 4 * 16 + column % 64 / 4;
                let at = ((column / 64 * k_vecs + feature / 16) * 64 + slot) * 16 + feature % 16;
                let inside = column < n && feature < k;
                let code = packed[at] as i8;
                assert_eq!(code, if inside { codes[column * k + feature] } else { 0 }, "{column} {feature}");
                found += usize::from(inside);
            }
        }
        assert_eq!(found, n * k);
    }

    #[test]
    fn few_bits_are_chosen_by_the_codes() {
        for (codes, bits) in [
            (&[-2, 1][..], WeightBits::Two),
            (&[-2, 2], WeightBits::Four),
            (&[-3], WeightBits::Four),
            (&[-8, 7], WeightBits::Four),
            (&[-9], WeightBits::Eight),
            (&[8], WeightBits::Eight),
        ] {
            assert_eq!(WeightBits::of(codes), bits, "{codes:?}");
        }
    }

    #[test]
    fn channels_are_padded() {
        let quads = pack_channels(&[1, 2, 3, 4, 5], &[0.1, 0.2, 0.3, 0.4, 0.5], &[0.0, 0.0, 0.0, 0.0, 9.0]);
        assert_eq!(quads.len(), 16);
        assert_eq!(
            quads[1],
            Channels { bias: [5, 0, 0, 0], factor: [0.5, 0.0, 0.0, 0.0], offset: [9.0, 0.0, 0.0, 0.0] }
        );
        assert_eq!(quads[15], Channels::zeroed());
    }
}
