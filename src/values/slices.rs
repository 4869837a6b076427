//! Converts tensors to the slices that kernels work on, and back.

use crate::values::Tensor;

/// The number of rows of the last axis.
pub(crate) fn rows_before_last(shape: &[usize]) -> usize {
    shape[..shape.len().saturating_sub(1)].iter().product()
}

pub(crate) fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    shape[..shape.len().saturating_sub(1)].iter().copied().chain([last]).collect()
}

/// Floats in the shape of `x`.
pub(crate) fn like(x: &Tensor, data: Vec<f32>) -> Tensor {
    tensor(x.shape().to_vec(), data)
}

pub(crate) const CHECKED: &str = "types and shapes were checked when the graph or program was made";

pub(crate) fn tensor(shape: Vec<usize>, data: Vec<f32>) -> Tensor {
    Tensor::from_f32(&shape, data).expect(CHECKED)
}

pub(crate) fn codes(shape: &[usize], data: Vec<i8>) -> Tensor {
    Tensor::from_i8(shape, data).expect(CHECKED)
}

pub(crate) fn integers(shape: &[usize], data: Vec<i32>) -> Tensor {
    Tensor::from_i32(shape, data).expect(CHECKED)
}

pub(crate) fn f32s(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect(CHECKED)
}

pub(crate) fn f32s_mut(tensor: &mut Tensor) -> &mut [f32] {
    match tensor {
        Tensor::F32(a) => a.elements_mut(),
        _ => unreachable!("{CHECKED}"),
    }
}

pub(crate) fn i8s(tensor: &Tensor) -> &[i8] {
    tensor.as_i8().expect(CHECKED)
}

pub(crate) fn i32s(tensor: &Tensor) -> &[i32] {
    tensor.as_i32().expect(CHECKED)
}
