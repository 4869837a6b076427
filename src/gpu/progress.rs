//! The progress of loading a program and of tuning.

use std::fmt;

/// How far the loading of a program is; see [`Engine::load_with_progress`](super::Engine::load_with_progress).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Kernels that are compiled and tested, of those that no engine of the device had tested before. A driver takes most of the time for
    /// them.
    pub kernels: usize,
    /// All kernels to compile and test.
    pub all_kernels: usize,
    /// Bytes of weights and constants that are on the device, as the program holds them: the device may pack them or need padding.
    pub bytes: u64,
    /// All bytes of weights and constants.
    pub all_bytes: u64,
}

/// How far tuning is; see [`Engine::tune_with_progress`](super::Engine::tune_with_progress).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TuneProgress {
    /// Layers of different shapes that are measured, or that the budget had no time for.
    pub layers: usize,
    /// All layers of different shapes.
    pub all_layers: usize,
    /// Tile shapes of the present layer that are compiled and tested.
    pub shapes: usize,
    /// All tile shapes of the present layer.
    pub all_shapes: usize,
}

/// Reports progress to a caller, if one asked for it. It may go to another thread if the caller's function may.
pub(super) struct Progress<R> {
    report: R,
    now: LoadProgress,
}

impl<R> fmt::Debug for Progress<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("now", &self.now).finish_non_exhaustive()
    }
}

impl Progress<fn(LoadProgress)> {
    /// Progress that nobody sees.
    pub(super) fn silent() -> Self {
        Self::new(|_| {})
    }
}

impl<R: FnMut(LoadProgress)> Progress<R> {
    pub(super) fn new(report: R) -> Self {
        Self { report, now: LoadProgress::default() }
    }

    /// Adds work that is still to do.
    pub(super) fn expect(&mut self, kernels: usize, bytes: u64) {
        self.now.all_kernels += kernels;
        self.now.all_bytes += bytes;
    }

    /// Adds work that is done, and reports it.
    pub(super) fn add(&mut self, kernels: usize, bytes: u64) {
        self.now.kernels += kernels;
        self.now.bytes += bytes;
        (self.report)(self.now);
    }

    /// Reports the kernels as done that were not tested: those that are part of others' tests, and those after a failure.
    pub(super) fn catch_up(&mut self) {
        let left = self.now.all_kernels - self.now.kernels;
        if left > 0 {
            self.add(left, 0);
        }
    }
}
