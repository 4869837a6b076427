//! Kernels: entry points of shaders with values of their override constants.

use std::fmt::Debug;

use crate::gpu::device::pipeline::PipelineKey;
use crate::gpu::device::shader::{Chosen, Piece, Shader};

/// The options that select the pipelines of all kernels of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelOptions {
    /// Whether products of int8 values use WGSL's packed dot product.
    pub(crate) packed_dot: bool,
    /// Whether reductions use subgroup operations.
    pub(crate) subgroups: bool,
    /// Whether long rows have 256 threads instead of 64: a CPU has no use for more.
    pub(crate) wide_rows: bool,
    /// Whether shaders are compiled with wgpu's run-time checks.
    pub(crate) checked: bool,
}

/// A kernel of some family.
pub(crate) trait Kernel: Copy + Debug {
    /// The shader module.
    fn shader(self, options: KernelOptions) -> &'static Shader;

    /// The entry point.
    fn entry(self) -> &'static str;

    /// The functions that its shader leaves to be chosen.
    fn chosen(self, _options: KernelOptions) -> Chosen {
        Piece::NONE.alone()
    }

    /// The override constants that differ from their defaults.
    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        Vec::new()
    }

    /// Whether its results have the same bits as the interpreter's; other results agree within tolerances.
    fn promises_bits(self) -> bool;

    /// Whether it adds, multiplies or divides floats, so that a device whose compiler breaks the rules of equation 11 may still be used: its
    /// known answers may be near instead of right.
    fn may_be_near(self) -> bool {
        false
    }

    /// The pipeline.
    fn pipeline(self, options: KernelOptions) -> PipelineKey {
        let shader = Shader { chosen: self.chosen(options), ..*self.shader(options) };
        PipelineKey { shader, entry: self.entry(), overrides: self.overrides(options), checked: options.checked }
    }
}

/// Declares the kernels of a family, each with its entry point.
macro_rules! kernels {
    ($name:ident { $($(#[$doc:meta])* $variant:ident = $entry:literal,)* }) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter, strum::IntoStaticStr)]
        pub(crate) enum $name {
            $($(#[$doc])* #[strum(serialize = $entry)] $variant),*
        }
    };
}

pub(crate) use kernels;

/// The override constants that are true, of these.
pub(crate) fn flags(all: &[(&'static str, bool)]) -> Vec<(&'static str, u32)> {
    all.iter().filter(|(_, value)| *value).map(|(name, _)| (*name, 1)).collect()
}
