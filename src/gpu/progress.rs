//! The progress of loading a program.

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

/// Reports progress to a caller, if one asked for it.
pub(super) struct Progress<'f> {
    report: Option<&'f mut dyn FnMut(LoadProgress)>,
    now: LoadProgress,
}

impl fmt::Debug for Progress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("now", &self.now).finish_non_exhaustive()
    }
}

impl<'f> Progress<'f> {
    pub(super) fn new(report: &'f mut dyn FnMut(LoadProgress)) -> Self {
        Self { report: Some(report), now: LoadProgress::default() }
    }

    /// Progress that nobody sees.
    pub(super) fn silent() -> Self {
        Self { report: None, now: LoadProgress::default() }
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
        if let Some(report) = &mut self.report {
            report(self.now);
        }
    }
}
