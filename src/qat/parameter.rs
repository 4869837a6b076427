//! Parameters: the values that training changes.

use crate::values::Tensor;

/// A float constant of the graph that training changes.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) value: Tensor,
    /// Whether gradients change it. Running statistics change without gradients.
    pub(super) trained: bool,
    /// Whether it is a running statistic of a batch norm.
    pub(super) buffer: bool,
}

impl Parameter {
    pub(super) fn floats(&self) -> &[f32] {
        self.value.as_f32().expect("parameters are floats")
    }

    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        match &mut self.value {
            Tensor::F32(a) => a.elements_mut(),
            _ => unreachable!("parameters are floats"),
        }
    }
}
