//! An engine's options, resolved for its device.

use super::kernel::KernelOptions;
#[cfg(test)]
use super::linear::choice::SplitK;
use super::linear::choice::{Candidate, Choice, lanes_of};
use super::linear::tile::{LinearKernel, TileShape};
use super::linear::tuning::{LayerShape, TuningTable};
use super::linear::weights::WeightBits;
use crate::gpu::device::wait::Poll;
use crate::program::QLinear;

/// The most features of a layer whose sums of products of any int8 values fit an `i32`.
const MAX_PACKED_FEATURES: usize = (i32::MAX / (128 * 128)) as usize;

/// An engine's options, resolved for its device.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) choice: Choice,
    /// Measurements of some layers, which take precedence over the choice.
    pub(crate) tuning: TuningTable,
    /// The fewest threads of a subgroup, if the device has subgroup operations and may use them.
    pub(crate) subgroup: Option<u32>,
    pub(crate) limits: wgpu::Limits,
    /// Whether long rows have 256 threads.
    pub(crate) wide_rows: bool,
    /// Whether lanes of a subgroup share the factors of float products.
    pub(crate) float_lanes: bool,
    pub(crate) checked: bool,
    pub(crate) unpacked_weights: bool,
    pub(crate) unfused: bool,
    pub(crate) debug_groups: bool,
    pub(crate) macs_per_dispatch: u64,
    pub(crate) max_partial_sums: u64,
    pub(crate) poll: Poll,
}

impl Config {
    /// The same with another choice, and without tuning.
    pub(crate) fn with_choice(&self, choice: Choice) -> Self {
        Self { choice, tuning: TuningTable::default(), ..self.clone() }
    }

    pub(crate) fn kernel_options(&self) -> KernelOptions {
        let (packed_dot, subgroups, checked) = (self.choice.packed_dot, self.subgroup.is_some(), self.checked);
        KernelOptions { packed_dot, subgroups, wide_rows: self.wide_rows, checked }
    }

    /// Lanes that can share what they load, for [`LinearKernel::Subgroup`].
    pub(crate) fn subgroup_lanes(&self) -> Option<u32> {
        self.subgroup.and_then(lanes_of)
    }

    /// Whether a shape that fits the device's limits may be used: a tuning table may come from a device that was made with other
    /// features, and may have been edited.
    pub(crate) fn allows(&self, tile: TileShape) -> bool {
        match tile.kernel() {
            LinearKernel::Subgroup => self.subgroup_lanes().is_some_and(|most| tile.k_step() <= most),
            LinearKernel::Coopmat | LinearKernel::CoopmatInt8 => {
                self.choice.coopmat.is_some_and(|coopmat| coopmat.fits(tile, &self.limits))
            }
            _ => true,
        }
    }

    /// The candidates for a linear layer.
    pub(crate) fn candidates(&self, layer: LayerShape) -> Vec<Candidate> {
        let mut candidates = self.tuning.candidates(layer, &self.limits, |tile| self.allows(tile));
        candidates.extend(&self.choice.candidates);
        if layer.bits.has_groups() {
            // Cooperative matrices have no factors within a sum.
            candidates.retain(|candidate| !candidate.tile.kernel().uses_coopmat());
            let is_main = |c: &Candidate| c.most_rows == u64::MAX && c.least_workgroups == 0;
            if !candidates.last().is_some_and(is_main) {
                candidates.extend(self.mains_of_groups());
            }
        }
        // Narrow tiles take more workgroups than a dimension of the grid may have for very many columns. The last one is as wide as any, unless the
        // user chose it: then `bind` names the limit.
        let limit = self.limits.max_compute_workgroups_per_dimension as usize;
        let last = candidates.len().saturating_sub(1);
        let mut at = 0..;
        candidates.retain(|c| at.next() == Some(last) || layer.n.div_ceil(c.tile.cols()) <= limit);
        candidates
    }

    /// Tile shapes for any number of rows of a layer with groups, where all of the choice's have cooperative matrices: as many as the device
    /// can hold.
    fn mains_of_groups(&self) -> impl Iterator<Item = Candidate> + '_ {
        let shapes =
            [(LinearKernel::Workgroup, 64, 4), (LinearKernel::Register, 32, 1), (LinearKernel::Register, 8, 1)];
        let shape = |(kernel, rows, k_step)| TileShape::new(kernel, rows, k_step, &self.limits).ok();
        shapes.into_iter().filter_map(shape).map(Candidate::always).take(1)
    }

    /// One tile shape for all layers, on a device with WebGPU's default limits.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let limits = wgpu::Limits::default();
        let tile = TileShape::new(LinearKernel::Register, 32, 1, &limits).expect("fits");
        Self {
            choice: Choice::only(tile, true, SplitK::Never, None),
            tuning: TuningTable::default(),
            subgroup: None,
            limits,
            wide_rows: true,
            float_lanes: false,
            checked: false,
            unpacked_weights: false,
            unfused: false,
            debug_groups: false,
            macs_per_dispatch: u64::MAX,
            max_partial_sums: 192 * 1024,
            poll: Poll::default(),
        }
    }

    /// Returns the bits that a value of a layer's weight takes on the device.
    pub(crate) fn weight_bits(&self, linear: &QLinear) -> WeightBits {
        // Kernels multiply int8 values with those of fewer bits in the high bits of a byte, so sums are as large as with 8 bits.
        if let Some(groups) = &linear.groups {
            return WeightBits::of_groups(linear, groups, self.unpacked_weights);
        }
        let sums_fit = linear.k <= MAX_PACKED_FEATURES;
        if self.unpacked_weights || !sums_fit { WeightBits::Eight } else { WeightBits::holding(linear.bits) }
    }
}
