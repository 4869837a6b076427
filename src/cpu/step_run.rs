//! A step that runs.

use std::borrow::Cow;

use super::buffer_pool::BufferPool;
use super::error::CpuError;
use super::fusion::Fused;
use super::int8_layer::Weight;
use crate::program::Step;
use crate::values::Tensor;
use crate::values::slices::CHECKED;

/// Smallest number of elements that is worth a parallel task.
pub(super) const TASK: usize = 1 << 14;

/// The length of the parts of `len` elements that parallel tasks work on, in whole rows of `row` elements. All have about the same length,
/// of [`TASK`] or more: to wake a thread for what is left behind some tasks would take longer than to do it.
pub(super) fn task_len(len: usize, row: usize) -> usize {
    let (row, tasks) = (row.max(1), (len / TASK).max(1));
    len.div_ceil(row).div_ceil(tasks).max(1) * row
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_large_and_whole_rows() {
        for len in [0, 1, 65, TASK - 1, TASK, TASK + 1, 2 * TASK - 1, 2 * TASK, 5 * TASK + 77] {
            for row in [0, 1, 64, 65, TASK + 1] {
                let (length, whole) = (task_len(len, row), row.max(1));
                assert!(length > 0 && length.is_multiple_of(whole), "{length} of {len} in rows of {row}");
                let tasks = len.div_ceil(length);
                assert!(tasks <= (len / TASK).max(1), "{tasks} tasks of {len} in rows of {row}");
                assert!(
                    length < len.max(1).div_ceil((len / TASK).max(1)) + whole,
                    "{length} of {len} in rows of {row}"
                );
            }
        }
    }
}
