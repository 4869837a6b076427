//! Exact int8 products on matrix units for floats.
//!
//! A code is exact in f16, a product of two in f32, and so are sums of products up to 2^24, in any order: so K is summed in chunks
//! that cannot pass that, and the chunks in `i32`. What Vulkan does not promise of such units, the known-answer test asks of each
//! device.

use super::layout::k_vecs;
use super::tile::TileShape;

/// Fragments of a device's matrix units, of factors in f16 and sums in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fragment {
    /// 16 × 16: NVIDIA's, and AMD's since RDNA 3.
    Sixteen,
    /// 8 × 8: Apple's.
    Eight,
    /// None, but loops over floats: to test all but the units themselves. Slow.
    Emulated,
}

impl Fragment {
    /// The features that a device needs, beside the token of `wgpu::ExperimentalFeatures::enabled()`, which is the application's
    /// to make.
    pub const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// The fragments of an adapter, if it has any that are of use: for `Options::fragment`. A
    /// device cannot be asked.
    #[must_use]
    pub fn of(adapter: &wgpu::Adapter) -> Option<Self> {
        if !adapter.features().contains(Self::FEATURES) {
            return None;
        }
        let properties = adapter.cooperative_matrix_properties();
        let has = |size: u32| {
            properties.iter().any(|p| {
                (p.m_size, p.n_size, p.k_size) == (size, size, size)
                    && (p.ab_type, p.cr_type) == (wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32)
            })
        };
        [(16, Self::Sixteen), (8, Self::Eight)].into_iter().find_map(|(size, it)| has(size).then_some(it))
    }

    /// What a device must have for these fragments.
    pub(super) fn features(self) -> wgpu::Features {
        if self == Self::Emulated { wgpu::Features::SUBGROUP } else { Self::FEATURES }
    }
}

/// How a device's matrix units are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Coop {
    pub(super) fragment: Fragment,
    /// Threads of the largest subgroup.
    pub(super) lanes: u32,
    /// Words of 16 codes whose products may be summed in f32.
    pub(super) chunk_vecs: u32,
}

/// Words of 16 codes of any values that a sum of 24 bits holds, and of 23 to 21 bits. With fewer the kernel has lost to others.
pub(super) const CHUNKS: [u32; 4] = [64, 32, 16, 8];

impl Coop {
    /// Threads of a workgroup: one subgroup for each patch of 32 × 32 outputs.
    pub(super) fn threads(self, rows: u32) -> u32 {
        rows / 16 * self.lanes
    }

    /// Bytes of workgroup memory: codes of both factors as halves, and one piece of each patch.
    pub(super) fn workgroup_bytes(self, rows: u32, k_step: u32) -> u64 {
        let (rows, k) = (u64::from(rows), u64::from(k_step) * 16);
        let factor_bytes = if self.fragment == Fragment::Emulated { 4 } else { 2 };
        (rows + 64) * (k + 8) * factor_bytes + rows * 64
    }

    /// Whether a device with `limits` can hold a shape, which [`TileShape::new`] does not know.
    pub(super) fn fits(self, tile: TileShape, limits: &wgpu::Limits) -> bool {
        let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
        let bytes = self.workgroup_bytes(tile.rows(), tile.k_step());
        self.threads(tile.rows()) <= most && bytes <= u64::from(limits.max_compute_workgroup_storage_size)
    }

    /// The same device on a layer whose weights are smaller than the largest: the chunk may be longer. It was proved for chunks that
    /// begin at its multiples, so that a layer that is divided, in parts of `part_vecs`, keeps to them or to what fits anywhere.
    pub(super) fn of_layer(self, chunk_vecs: u32, part_vecs: Option<u32>) -> Self {
        let anywhere = |part: u32| !part.is_multiple_of(chunk_vecs) && !chunk_vecs.is_multiple_of(part);
        match part_vecs {
            Some(part) if anywhere(part) => self,
            _ => Self { chunk_vecs, ..self },
        }
    }

    /// Words of 16 codes whose products with any codes of `x` this device sums exactly, in every channel of `[n, k]` weights and
    /// wherever they begin at a multiple of their number: at least as many as of any weights, and all of K where possible.
    pub(super) fn exact_chunk_vecs(self, weight: &[i8], n: usize, k: usize) -> u32 {
        // 2^24, or as many bits less as the device's sums lack.
        let most = u64::from(self.chunk_vecs) * 16 * 128 * 128;
        let least = self.chunk_vecs as usize;
        let magnitude = |codes: &[i8]| codes.iter().map(|code| u64::from(code.unsigned_abs())).sum::<u64>();
        let fits = |chunk: usize| {
            weight.chunks_exact(k).take(n).all(|row| row.chunks(chunk * 16).all(|codes| magnitude(codes) * 128 <= most))
        };
        let mut chunk = k_vecs(k).next_power_of_two().max(least);
        while chunk > least && !fits(chunk) {
            chunk /= 2;
        }
        u32::try_from(chunk).unwrap_or(self.chunk_vecs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_from_the_weights() {
        // 16,384 features: 1,024 words.
        let whole = Coop { fragment: Fragment::Sixteen, lanes: 32, chunk_vecs: 64 };
        let of = |code: i8| whole.exact_chunk_vecs(&vec![code; 2 * 16_384], 2, 16_384);
        assert_eq!([of(-128), of(127), of(64), of(63), of(8), of(7), of(1)], [64, 64, 128, 128, 1024, 1024, 1024]);
        // One channel decides.
        let mut codes = vec![1; 2 * 16_384];
        codes[16_384..].fill(-128);
        assert_eq!(whole.exact_chunk_vecs(&codes, 2, 16_384), 64);
        assert_eq!(whole.exact_chunk_vecs(&[-128; 3], 1, 3), 64);
        // Half of two chunks is as much as both, which a device whose sums lack a bit does not hold.
        let mut codes = vec![0; 2048];
        codes[..1024].fill(-128);
        assert_eq!(whole.exact_chunk_vecs(&codes, 1, 2048), 128);
        let coop = Coop { chunk_vecs: 32, ..whole };
        assert_eq!(coop.exact_chunk_vecs(&codes, 1, 2048), 32);
        assert_eq!(coop.exact_chunk_vecs(&[1; 2048], 1, 2048), 128);
        // Parts of K that straddle chunks.
        let chunk = |part| coop.of_layer(128, part).chunk_vecs;
        assert_eq!([None, Some(64), Some(256), Some(88)].map(chunk), [128, 128, 128, 32]);
        assert_eq!((coop.threads(64), coop.threads(128)), (128, 256));
        assert_eq!((coop.workgroup_bytes(64, 2), coop.workgroup_bytes(128, 2)), (14_336, 23_552));
    }
}
