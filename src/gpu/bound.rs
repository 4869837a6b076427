//! What a model remembers of its runs.

use super::kernels::dispatch::PlannedDispatch;

/// What a run needs so that its model may get other weights.
#[derive(Debug)]
pub(super) struct Bound {
    /// The parameters of the dispatches, each at a multiple of the stride.
    pub(super) params: wgpu::Buffer,
    pub(super) params_stride: usize,
    /// The dispatches, without their parameters.
    pub(super) planned: Vec<PlannedDispatch>,
    pub(super) max_rows: usize,
    pub(super) copied: Vec<bool>,
}

/// The dispatches without their parameters.
pub(super) fn without_params(planned: &[PlannedDispatch]) -> Vec<PlannedDispatch> {
    planned.iter().map(|planned| PlannedDispatch { params: Vec::new(), ..planned.clone() }).collect()
}
