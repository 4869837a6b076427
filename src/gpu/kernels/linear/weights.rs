//! Weights of int8 linear layers as they lie on the device.

use std::ops::Range;

use bytemuck::Zeroable;

use crate::gpu::device::shader::wgsl_struct;
use crate::gpu::kernels::layout::{VEC, k_vecs};
use crate::program::{QLinear, WeightGroups};

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

/// The bits of one value of a weight on the device, and whether its features are in groups with factors of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum WeightBits {
    Eight,
    Four,
    Two,
    EightGroups,
    FourGroups,
    TwoGroups,
    /// Eight bits in groups of any multiple of 4 features: a factor for each word of four values.
    EightWords,
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

    /// The smallest width that holds a weight and the zero points of its groups.
    pub(crate) fn of_groups(linear: &QLinear, groups: &WeightGroups, unpacked: bool) -> Self {
        if !groups.size.is_multiple_of(VEC) {
            return Self::EightWords;
        }
        let holds = |half: i8| groups.zero_points.iter().all(|z| (-half..half).contains(z));
        match Self::holding(linear.bits) {
            _ if unpacked => Self::EightGroups,
            Self::Two if holds(2) => Self::TwoGroups,
            Self::Two | Self::Four if holds(8) => Self::FourGroups,
            _ => Self::EightGroups,
        }
    }

    /// Whether features are in groups.
    pub(crate) fn has_groups(self) -> bool {
        !matches!(self, Self::Eight | Self::Four | Self::Two)
    }

    /// Bytes of 16 values.
    pub(crate) fn vec_bytes(self) -> usize {
        match self {
            Self::Eight | Self::EightGroups | Self::EightWords => 16,
            Self::Four | Self::FourGroups => 8,
            Self::Two | Self::TwoGroups => 4,
        }
    }

    /// Half of the values of the width.
    fn half(self) -> i32 {
        match self.vec_bytes() {
            16 => 128,
            8 => 8,
            _ => 2,
        }
    }

    /// Packs 16 values as `linear/weights_8.wgsl` and its siblings read them.
    fn pack(self, values: &[i8; VEC], packed: &mut [u8]) {
        match self {
            Self::Eight | Self::EightGroups | Self::EightWords => packed.copy_from_slice(bytemuck::cast_slice(values)),
            Self::Four | Self::FourGroups => {
                for (at, byte) in packed.iter_mut().enumerate() {
                    let first = at / 4 * 8 + at % 4;
                    *byte = (values[first] as u8 & 15) | (values[first + 4] as u8) << 4;
                }
            }
            Self::Two | Self::TwoGroups => {
                for (at, byte) in packed.iter_mut().enumerate() {
                    *byte = (0..4).map(|word| (values[word * 4 + at] as u8 & 3) << (2 * word)).sum();
                }
            }
        }
    }
}

/// Bytes of a block of 64 columns, with what belongs to its groups.
pub(crate) fn block_bytes(linear: &QLinear, bits: WeightBits) -> usize {
    let k_vecs = k_vecs(linear.k);
    let of_groups = match bits {
        WeightBits::Eight | WeightBits::Four | WeightBits::Two => 0,
        WeightBits::EightGroups => device_groups(linear).next_multiple_of(4) * QUADS * 4,
        WeightBits::FourGroups | WeightBits::TwoGroups => device_groups(linear) * QUADS * 8,
        WeightBits::EightWords => k_vecs * QUADS * 16,
    };
    k_vecs * BLOCK_COLS * bits.vec_bytes() + of_groups
}

/// Quads of columns of a block.
const QUADS: usize = BLOCK_COLS / 4;

/// On the device, a group has 16 features times 2 to this power: the largest that divides the groups of the layer.
pub(crate) fn group_shift(linear: &QLinear) -> u32 {
    linear.groups.as_ref().map_or(0, |groups| (groups.size / VEC).trailing_zeros().min(31))
}

/// Groups of a column on the device.
fn device_groups(linear: &QLinear) -> usize {
    ((k_vecs(linear.k).max(1) - 1) >> group_shift(linear)) + 1
}

/// Packs some columns of a weight.
pub(crate) fn pack_columns(linear: &QLinear, columns: Range<usize>, bits: WeightBits) -> Vec<u8> {
    let QLinear { weight, k, .. } = linear;
    match &linear.groups {
        Some(groups) => pack_groups(linear, groups, columns, bits),
        None => {
            pack_weight(&weight[columns.start * k..columns.end * k], columns.len(), *k, bits, block_bytes(linear, bits))
        }
    }
}

/// Packs the columns of a weight whose features are in groups: values as [`pack_weight`], higher by half of their width or minus their
/// zero points, and behind those of each block its integer scales and zero points, as the WGSL of the width says.
fn pack_groups(linear: &QLinear, groups: &WeightGroups, columns: Range<usize>, bits: WeightBits) -> Vec<u8> {
    let QLinear { k, .. } = *linear;
    let (n, of_row, half) = (columns.len(), k.div_ceil(groups.size), bits.half());
    let group_of = |column: usize, feature: usize| (columns.start + column) * of_row + feature.min(k - 1) / groups.size;
    let zero_point = |column: usize, feature: usize| i32::from(groups.zero_points[group_of(column, feature)]);
    // Whole vectors: beyond the last feature, a value stands for 0.
    let padded = k_vecs(k) * VEC;
    let mut values = vec![0i8; n * padded];
    for (column, values) in values.chunks_exact_mut(padded).enumerate() {
        let row = &linear.weight[(columns.start + column) * k..][..k];
        for (feature, value) in values.iter_mut().enumerate() {
            let z = zero_point(column, feature);
            let w = row.get(feature).map_or(z, |&w| i32::from(w));
            *value = (if half == 128 { w - z } else { w + half }) as i8;
        }
    }
    let block_bytes = block_bytes(linear, bits);
    let mut packed = pack_weight(&values, n, padded, bits, block_bytes);
    let first = k_vecs(k) * BLOCK_COLS * bits.vec_bytes();
    let shift = group_shift(linear);
    for (column, slot) in (0..n).map(|column| (column, column % BLOCK_COLS)) {
        let block = &mut packed[column / BLOCK_COLS * block_bytes..][first..block_bytes];
        let (quad, byte) = (slot / 4, slot % 4);
        if bits == WeightBits::EightWords {
            for word in 0..padded / 4 {
                block[(word / 4 * QUADS + quad) * 16 + word % 4 * 4 + byte] =
                    groups.multipliers[group_of(column, word * 4)];
            }
            continue;
        }
        for group in 0..device_groups(linear) {
            let feature = (group << shift) * VEC;
            let multiplier = groups.multipliers[group_of(column, feature)];
            let offset = 128 - (zero_point(column, feature) + half);
            let (scale_at, offset_at) = match bits {
                WeightBits::FourGroups => ((group * QUADS + quad) * 8, Some((group * QUADS + quad) * 8 + 4)),
                WeightBits::TwoGroups => ((group * 2 * QUADS + quad) * 4, Some(((group * 2 + 1) * QUADS + quad) * 4)),
                _ => ((group / 4 * QUADS + quad) * 16 + group % 4 * 4, None),
            };
            block[scale_at + byte] = multiplier;
            if let Some(at) = offset_at {
                block[at + byte] = offset as u8;
            }
        }
    }
    packed
}

/// Packs a weight `[n, k]` as `[n / 64][k_vecs][64]` vectors of 16 values, where slot `16 j + i` of a block holds column
/// `4 i + j`. Then the 16 threads along the columns read adjacent vectors, and each owns four adjacent columns, one word of
/// output.
fn pack_weight(values: &[i8], n: usize, k: usize, bits: WeightBits, block_bytes: usize) -> Vec<u8> {
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
        let k_vecs = 3;
        let packed = pack_weight(&values, n, k, WeightBits::Eight, k_vecs * 64 * 16);
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
