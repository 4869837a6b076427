//! Exact int8 products on cooperative matrices of floats.
//!
//! An int8 value is exact in f16, a product of two in f32, and so are sums of products up to 2^24, in any order. So K is summed in
//! chunks that cannot exceed that, and the chunks in `i32`. Vulkan promises little of the rounding of cooperative matrices; the
//! known-answer test examines it on each device.

use super::tile::TileShape;
use crate::gpu::kernels::layout::k_vecs;

/// The size of a device's cooperative matrices, of factors in f16 and sums in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fragment {
    /// 16 × 16: NVIDIA's, and AMD's since RDNA 3.
    Sixteen,
    /// 8 × 8: Apple's.
    Eight,
    /// No cooperative matrices, but loops over floats: to test everything but the matrices themselves. Slow.
    Emulated,
}

impl Fragment {
    /// The features that a device needs, besides the token of `wgpu::ExperimentalFeatures::enabled()`, which is the application's
    /// to make.
    pub const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// Returns the size for an adapter, if it has usable cooperative matrices, for `Options::fragment`. A device cannot be asked.
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

    /// The features that a device needs for this size.
    pub(crate) fn features(self) -> wgpu::Features {
        if self == Self::Emulated { wgpu::Features::SUBGROUP } else { Self::FEATURES }
    }
}

/// The use of a device's cooperative matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Coopmat {
    pub(crate) fragment: Fragment,
    /// The threads of the largest subgroup.
    pub(crate) lanes: u32,
    /// Vectors of 16 features whose products may be summed in f32.
    pub(crate) chunk_vecs: u32,
}

/// Vectors of 16 features of any int8 values that a sum of 24 bits holds, and of 23 to 21 bits. With fewer bits other kernels win.
pub(crate) const CHUNKS: [u32; 4] = [64, 32, 16, 8];

impl Coopmat {
    /// The threads of a workgroup: one subgroup for each patch of 32 × 32 outputs.
    pub(crate) fn threads(self, rows: u32) -> u32 {
        rows / 16 * self.lanes
    }

    /// Bytes of workgroup memory: both factors as f16, and one piece of each patch.
    pub(crate) fn workgroup_bytes(self, rows: u32, k_step: u32) -> u64 {
        let (rows, k) = (u64::from(rows), u64::from(k_step) * 16);
        let factor_bytes = if self.fragment == Fragment::Emulated { 4 } else { 2 };
        (rows + 64) * (k + 8) * factor_bytes + rows * 64
    }

    /// Whether a device with `limits` can hold a shape. [`TileShape::new`] does not know.
    pub(crate) fn fits(self, tile: TileShape, limits: &wgpu::Limits) -> bool {
        let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
        let bytes = self.workgroup_bytes(tile.rows(), tile.k_step());
        self.threads(tile.rows()) <= most && bytes <= u64::from(limits.max_compute_workgroup_storage_size)
    }

    /// The same for a layer whose weights allow chunks of `chunk_vecs`. [`Coopmat::exact_chunk_vecs`] proved it for chunks that begin
    /// at multiples of their length. A layer whose K is divided in parts of `part_vecs` may use others: then the chunks stay short.
    pub(crate) fn for_layer(self, chunk_vecs: u32, part_vecs: Option<u32>) -> Self {
        let anywhere = |part: u32| !part.is_multiple_of(chunk_vecs) && !chunk_vecs.is_multiple_of(part);
        match part_vecs {
            Some(part) if anywhere(part) => self,
            _ => Self { chunk_vecs, ..self },
        }
    }

    /// The longest chunk, in vectors of 16 features, whose products with any `x` this device sums exactly, in every channel of
    /// `[n, k]` weights, if chunks begin at multiples of their length: at least as long as for any weights, and all of K if possible.
    pub(crate) fn exact_chunk_vecs(self, weight: &[i8], n: usize, k: usize) -> u32 {
        // 2^24, less the bits that the device's sums lack.
        let most = u64::from(self.chunk_vecs) * 16 * 128 * 128;
        let least = self.chunk_vecs as usize;
        let magnitude = |values: &[i8]| values.iter().map(|value| u64::from(value.unsigned_abs())).sum::<u64>();
        let fits = |chunk: usize| {
            weight
                .chunks_exact(k)
                .take(n)
                .all(|row| row.chunks(chunk * 16).all(|values| magnitude(values) * 128 <= most))
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
        let whole = Coopmat { fragment: Fragment::Sixteen, lanes: 32, chunk_vecs: 64 };
        let of = |weight: i8| whole.exact_chunk_vecs(&vec![weight; 2 * 16_384], 2, 16_384);
        assert_eq!([of(-128), of(127), of(64), of(63), of(8), of(7), of(1)], [64, 64, 128, 128, 1024, 1024, 1024]);
        // One channel decides.
        let mut weights = vec![1; 2 * 16_384];
        weights[16_384..].fill(-128);
        assert_eq!(whole.exact_chunk_vecs(&weights, 2, 16_384), 64);
        assert_eq!(whole.exact_chunk_vecs(&[-128; 3], 1, 3), 64);
        // Half of two chunks is as much as both, which a device whose sums lack a bit does not hold.
        let mut weights = vec![0; 2048];
        weights[..1024].fill(-128);
        assert_eq!(whole.exact_chunk_vecs(&weights, 1, 2048), 128);
        let coopmat = Coopmat { chunk_vecs: 32, ..whole };
        assert_eq!(coopmat.exact_chunk_vecs(&weights, 1, 2048), 32);
        assert_eq!(coopmat.exact_chunk_vecs(&[1; 2048], 1, 2048), 128);
        // Parts of K that straddle chunks.
        let chunk = |part| coopmat.for_layer(128, part).chunk_vecs;
        assert_eq!([None, Some(64), Some(256), Some(88)].map(chunk), [128, 128, 128, 32]);
        assert_eq!((coopmat.threads(64), coopmat.threads(128)), (128, 256));
        assert_eq!((coopmat.workgroup_bytes(64, 2), coopmat.workgroup_bytes(128, 2)), (14_336, 23_552));
    }
}
