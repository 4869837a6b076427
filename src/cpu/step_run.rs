//! A step that runs.

use std::borrow::Cow;

use super::buffer_pool::BufferPool;
use super::error::CpuError;
use super::fusion::{Before, Fused};
use super::int8_layer::Weight;
use crate::program::Step;
use crate::values::Tensor;
use crate::values::slices::CHECKED;

/// The result of a step.
pub(super) type Output = Result<Tensor, CpuError>;

/// One step of a run, with everything it needs.
pub(super) struct StepRun<'r> {
    pub(super) step: &'r Step,
    /// The first input; `None` once it is taken.
    pub(super) first: Option<Cow<'r, Tensor>>,
    /// The other inputs.
    pub(super) rest: &'r [&'r Tensor],
    /// For the first two inputs: the axes in the order in which the step reads them, if not their own. Only products read such views.
    pub(super) views: [Option<&'r [usize]>; 2],
    /// What computes rows of this step's product from the first input.
    pub(super) before: Option<Before<'r>>,
    /// What runs on the result before it leaves the cache.
    pub(super) fused: &'r [Fused<'r>],
    /// The packed weight, if the step has one.
    pub(super) weight: Option<&'r Weight>,
    /// The shape of the output.
    pub(super) shape: &'r [usize],
    pub(super) pool: &'r mut BufferPool,
}

impl StepRun<'_> {
    /// Returns the first input.
    pub(super) fn x(&self) -> &Tensor {
        self.first.as_deref().expect(CHECKED)
    }

    /// Takes the first input, to work in its buffer. It is a copy if another step or the caller still reads it.
    pub(super) fn take_x(&mut self) -> Tensor {
        self.first.take().expect(CHECKED).into_owned()
    }

    /// The name of the step, for errors.
    pub(super) fn name(&self) -> String {
        self.step.name.clone()
    }
}
