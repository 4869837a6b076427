//! Exact int8 products on cooperative matrices, of floats or of integers.
//!
//! An int8 value is exact in f16, a product of two in f32, and so are sums of products up to 2^24, in any order. So K is summed in
//! chunks that cannot exceed that, and the chunks in `i32`. Vulkan promises little of the rounding of cooperative matrices; the
//! known-answer test examines it on each device. Matrices of int8 values have sums in `i32`, which are exact as they are.

use super::tile::{LinearKernel, TileShape};
#[cfg(feature = "coopmat-spirv")]
use crate::gpu::device::spirv;
use crate::gpu::kernels::layout::k_vecs;

/// The size of a device's cooperative matrices, and what their elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fragment {
    /// 16 × 16, of factors in f16 and sums in f32: NVIDIA's, and AMD's since RDNA 3.
    Sixteen,
    /// 8 × 8, of factors in f16 and sums in f32: Apple's.
    Eight,
    /// 16 × 16 × 32, of int8 factors and sums in i32: NVIDIA's. Needs [`Fragment::INT8_FEATURES`] and the crate's feature
    /// `coopmat-spirv`.
    Int8K32,
    /// 16 × 16 × 16, of int8 factors and sums in i32: AMD's since RDNA 3. Needs the same.
    Int8K16,
    /// No cooperative matrices, but loops over floats: to test everything but the matrices themselves. Slow.
    Emulated,
}

impl Fragment {
    /// The features that a device needs for matrices of floats, besides the token of `wgpu::ExperimentalFeatures::enabled()`, which is the
    /// application's to make.
    pub const FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::SHADER_F16)
        .union(wgpu::Features::SUBGROUP);

    /// The features that a device needs for matrices of int8 values, besides the same token. wgpu and naga 30 know no such matrices, so the
    /// engine translates its shader to SPIR-V itself, and wgpu passes it on to Vulkan unread.
    pub const INT8_FEATURES: wgpu::Features = wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
        .union(wgpu::Features::PASSTHROUGH_SHADERS)
        .union(wgpu::Features::SUBGROUP);

    /// Returns the size for an adapter, if it has usable cooperative matrices of floats, for `Options::fragment`. A device cannot be asked.
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

    /// Returns the size for an adapter, if it has usable cooperative matrices of int8 values, for `Options::fragment`. Only Vulkan has
    /// them. Sums are i32 as they are, and a product takes half of the memory and of the time of one in f16.
    #[cfg(feature = "coopmat-spirv")]
    #[must_use]
    pub fn int8_of(adapter: &wgpu::Adapter) -> Option<Self> {
        let sizes = adapter.features().contains(Self::INT8_FEATURES).then(|| spirv::int8_sizes(adapter))?;
        [(32, Self::Int8K32), (16, Self::Int8K16)]
            .into_iter()
            .find_map(|(k, it)| sizes.contains(&[16, 16, k]).then_some(it))
    }

    /// The features that a device needs for this size.
    pub(crate) fn features(self) -> wgpu::Features {
        match self {
            Self::Emulated => wgpu::Features::SUBGROUP,
            Self::Sixteen | Self::Eight => Self::FEATURES,
            Self::Int8K32 | Self::Int8K16 => Self::INT8_FEATURES,
        }
    }

    /// The kernel of layers.
    pub(crate) fn kernel(self) -> LinearKernel {
        match self {
            Self::Emulated | Self::Sixteen | Self::Eight => LinearKernel::Coopmat,
            Self::Int8K32 | Self::Int8K16 => LinearKernel::CoopmatInt8,
        }
    }

    /// Features along K of a factor.
    pub(crate) fn k(self) -> u32 {
        match self {
            Self::Emulated | Self::Sixteen | Self::Int8K16 => 16,
            Self::Eight => 8,
            Self::Int8K32 => 32,
        }
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
    /// Without the feature `coopmat`, there is no such value: the compiler then leaves out what would use one, shaders included.
    #[cfg(not(any(feature = "coopmat", test)))]
    never: std::convert::Infallible,
}

/// Vectors of 16 features of any int8 values that a sum of 24 bits holds, and of 23 to 21 bits. With fewer bits other kernels win.
pub(crate) const CHUNKS: [u32; 4] = [64, 32, 16, 8];

impl Coopmat {
    /// `None` without the feature `coopmat`.
    #[cfg(any(feature = "coopmat", test))]
    pub(crate) fn new(fragment: Fragment, lanes: u32, chunk_vecs: u32) -> Option<Self> {
        Some(Self { fragment, lanes, chunk_vecs })
    }

    #[cfg(not(any(feature = "coopmat", test)))]
    pub(crate) fn new(_fragment: Fragment, _lanes: u32, _chunk_vecs: u32) -> Option<Self> {
        None
    }

    /// The same with other chunks.
    pub(crate) fn with_chunks(self, chunk_vecs: u32) -> Self {
        Self { chunk_vecs, ..self }
    }

    /// The threads of a workgroup: one subgroup for each patch of 32 × 32 outputs, or of 32 × 64 with int8 factors, where a workgroup has
    /// twice as many columns.
    pub(crate) fn threads(self, rows: u32) -> u32 {
        rows / 16 * self.lanes
    }

    /// Bytes of workgroup memory: both factors, and one piece of each patch.
    pub(crate) fn workgroup_bytes(self, rows: u32, k_step: u32) -> u64 {
        let (rows, k) = (u64::from(rows), u64::from(k_step) * 16);
        let factors = match self.fragment {
            Fragment::Emulated => (rows + 64) * (k + 8) * 4,
            Fragment::Sixteen | Fragment::Eight => (rows + 64) * (k + 8) * 2,
            // Two stages, of 128 columns each.
            Fragment::Int8K32 | Fragment::Int8K16 => 2 * (rows + 128) * (k + 16),
        };
        factors + rows * 64
    }

    /// Whether a device with `limits` can hold a shape. [`TileShape::new`] does not know.
    pub(crate) fn fits(self, tile: TileShape, limits: &wgpu::Limits) -> bool {
        let most = limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x);
        let bytes = self.workgroup_bytes(tile.rows(), tile.k_step());
        // Pieces are stored for 32 or 64 lanes.
        let lanes_fit = tile.kernel() == LinearKernel::Coopmat || matches!(self.lanes, 32 | 64);
        tile.kernel() == self.fragment.kernel()
            && lanes_fit
            && self.threads(tile.rows()) <= most
            && bytes <= u64::from(limits.max_compute_workgroup_storage_size)
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
        let int8 = Coopmat { fragment: Fragment::Int8K32, ..coopmat };
        assert_eq!(
            [(64, 2), (128, 2), (128, 4)].map(|(rows, k)| int8.workgroup_bytes(rows, k)),
            [22_528, 32_768, 49_152]
        );
    }
}
