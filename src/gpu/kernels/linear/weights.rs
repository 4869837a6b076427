//! Weights of int8 linear layers as they lie on the device.

use bytemuck::Zeroable;

use crate::gpu::device::shader::wgsl_struct;
use crate::gpu::kernels::layout::{VEC, k_vecs};

/// Columns of a block of packed weights, and of most workgroups.
pub(crate) const BLOCK_COLS: usize = 64;

wgsl_struct! {
    /// `Channels` of `linear/epilogue.wgsl`.
    Channels { bias: [i32; 4], factor: [f32; 4], offset: [f32; 4] }
}

/// Some columns of a weight: as many as a binding of the device can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WeightPart {
    pub(crate) first_column: usize,
    pub(crate) columns: usize,
    pub(crate) bits: WeightBits,
    /// Vectors of 16 features whose products cooperative matrices sum exactly.
    pub(crate) chunk_vecs: u32,
}

/// The bits of one value of a weight on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WeightBits {
    Eight,
    Four,
    Two,
}

impl WeightBits {
    /// The smallest width that holds values of `bits` bits.
    pub(crate) fn holding(bits: u32) -> Self {
        match bits {
            ..=2 => Self::Two,
            3..=4 => Self::Four,
            _ => Self::Eight,
        }
    }

    /// Bytes of 16 values.
    pub(crate) fn vec_bytes(self) -> usize {
        match self {
            Self::Eight => 16,
            Self::Four => 8,
            Self::Two => 4,
        }
    }

    /// Packs 16 values as `linear/weights_8.wgsl` and its siblings read them.
    fn pack(self, values: &[i8; VEC], packed: &mut [u8]) {
        match self {
            Self::Eight => packed.copy_from_slice(bytemuck::cast_slice(values)),
            Self::Four => {
                for (at, byte) in packed.iter_mut().enumerate() {
                    let first = at / 4 * 8 + at % 4;
                    *byte = (values[first] as u8 & 15) | (values[first + 4] as u8) << 4;
                }
            }
            Self::Two => {
                for (at, byte) in packed.iter_mut().enumerate() {
                    *byte = (0..4).map(|word| (values[word * 4 + at] as u8 & 3) << (2 * word)).sum();
                }
            }
        }
    }
}

/// Bytes of a block of 64 columns.
pub(crate) fn block_bytes(k: usize, bits: WeightBits) -> usize {
    k_vecs(k) * BLOCK_COLS * bits.vec_bytes()
}

/// Packs a weight `[n, k]` as `[n / 64][k_vecs][64]` vectors of 16 values, where slot `16 j + i` of a block holds column
/// `4 i + j`. Then the 16 threads along the columns read adjacent vectors, and each owns four adjacent columns, one word of
/// output.
pub(crate) fn pack_weight(values: &[i8], n: usize, k: usize, bits: WeightBits) -> Vec<u8> {
    let block_bytes = block_bytes(k, bits);
    let mut packed = vec![0; n.div_ceil(BLOCK_COLS) * block_bytes];
    for (block, packed) in packed.chunks_exact_mut(block_bytes).enumerate() {
        for slot in 0..BLOCK_COLS {
            let column = block * BLOCK_COLS + slot % 16 * 4 + slot / 16;
            let Some(row) = values.get(column * k..(column + 1) * k).filter(|_| column < n) else { continue };
            for (vec, values) in row.chunks(VEC).enumerate() {
                let mut whole = [0; VEC];
                whole[..values.len()].copy_from_slice(values);
                bits.pack(&whole, &mut packed[(vec * BLOCK_COLS + slot) * bits.vec_bytes()..][..bits.vec_bytes()]);
            }
        }
    }
    packed
}

/// Packs biases, factors and offsets by quads, padded with zeros to whole blocks.
pub(crate) fn pack_channels(bias: &[i32], factors: &[f32], offsets: &[f32]) -> Vec<Channels> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_slot() {
        let (n, k) = (70, 37);
        let values: Vec<i8> = (0..n * k).map(|i| (i % 251) as u8 as i8).collect();
        let packed = pack_weight(&values, n, k, WeightBits::Eight);
        let k_vecs = 3;
        assert_eq!(packed.len(), 2 * k_vecs * 64 * 16);
        let mut found = 0;
        for column in 0..128 {
            for feature in 0..k_vecs * 16 {
                let slot = column % 4 * 16 + column % 64 / 4;
                let at = ((column / 64 * k_vecs + feature / 16) * 64 + slot) * 16 + feature % 16;
                let inside = column < n && feature < k;
                let value = packed[at] as i8;
                assert_eq!(value, if inside { values[column * k + feature] } else { 0 }, "{column} {feature}");
                found += usize::from(inside);
            }
        }
        assert_eq!(found, n * k);
    }

    #[test]
    fn the_smallest_width_holds_the_bits() {
        let widths = [2, 3, 4, 5, 8].map(WeightBits::holding);
        assert_eq!(widths, [WeightBits::Two, WeightBits::Four, WeightBits::Four, WeightBits::Eight, WeightBits::Eight]);
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
