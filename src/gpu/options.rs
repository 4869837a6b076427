//! The options of an engine, and of tuning.

use std::time::Duration;

use super::device::wait::Poll;
use super::kernels::linear::choice::{PackedDot, SplitK, Wanted};
use super::kernels::linear::coopmat::Fragment;
use super::kernels::linear::tile::TileShape;
use super::kernels::linear::tuning::TuningTable;

/// The options of an engine. They do not change the bits that the [module](super) promises.
///
/// ```
/// use enfold::gpu::{Options, Poll};
///
/// let options = Options { debug_groups: true, poll: Poll::Application, ..Options::default() };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// One tile shape for all linear layers and rows, instead of the engine's choice for the device.
    pub tile: Option<TileShape>,
    /// The instruction that sums products of int8 values.
    pub packed_dot: PackedDot,
    /// Whether K is divided among workgroups.
    pub split_k: SplitK,
    /// Whether shaders have wgpu's run-time checks. By default they have none, because the host validates what they would check.
    pub checked: bool,
    /// Whether weights of 2 to 4 bits are stored unpacked, one byte a value.
    pub unpacked_weights: bool,
    /// Whether each step has a dispatch of its own, instead of fused steps.
    pub unfused: bool,
    /// Whether shaders use no subgroup operations, even if the device has them.
    pub without_subgroups: bool,
    /// Whether a debug group with the node's name is recorded around each step, for tools that capture frames.
    pub debug_groups: bool,
    /// The size of the adapter's cooperative matrices, from [`Fragment::of`], for int8 products, or with the feature `coopmat-spirv` from
    /// `Fragment::int8_of`. The engine uses them if the device was made with [`Fragment::FEATURES`], or [`Fragment::INT8_FEATURES`], and
    /// they pass their known-answer test; otherwise it silently does not. Those of int8 values need workgroups with 22,528 bytes of memory,
    /// and are fastest with 49,152: `Engine::wanted_limits` asks for as much as an adapter has. They have no run-time checks, so
    /// `checked` engines do not use them.
    #[cfg(feature = "coopmat")]
    pub fragment: Option<Fragment>,
    /// The most multiplications and additions in one dispatch, instead of the engine's choice for the device. Larger steps are divided
    /// by rows, so that no dispatch is too long for a driver's watchdog.
    pub macs_per_dispatch: Option<u64>,
    /// Measurements of [`Engine::tune`](super::Engine::tune), for layers of the shapes that it measured.
    pub tuning: Option<TuningTable>,
    /// Data of [`Engine::pipeline_cache_data`](super::Engine::pipeline_cache_data), so that the driver need not compile again.
    /// Only the first engine of a device uses it: the others share its pipelines.
    pub pipeline_cache: Option<Vec<u8>>,
    /// Who polls the device while a future waits for it.
    pub poll: Poll,
}

/// The options of [`Engine::tune`](super::Engine::tune).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TuneOptions {
    /// The time after which no measurement begins: 5 seconds. [`Duration::MAX`] is no limit.
    pub budget: Duration,
}

impl Default for TuneOptions {
    fn default() -> Self {
        Self { budget: Duration::from_secs(5) }
    }
}

impl Options {
    #[cfg(feature = "coopmat")]
    pub(super) fn wanted_fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    #[cfg(not(feature = "coopmat"))]
    pub(super) fn wanted_fragment(&self) -> Option<Fragment> {
        None
    }

    /// The options that concern the kernels of linear layers.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted { tile: self.tile, packed_dot: self.packed_dot, split_k: self.split_k }
    }
}
