//! Between tensors and the slices that kernels work on.

use crate::tensor::Tensor;

/// The number of rows of the last axis.
pub(super) fn rows_before_last(shape: &[usize]) -> usize {
    shape[..shape.len().saturating_sub(1)].iter().product()
}

pub(super) fn with_last(shape: &[usize], last: usize) -> Vec<usize> {
    shape[..shape.len().saturating_sub(1)].iter().copied().chain([last]).collect()
}

/// Floats in the shape of `x`.
pub(super) fn like(x: &Tensor, data: Vec<f32>) -> Tensor {
    tensor(x.shape().to_vec(), data)
}

const CHECKED: &str = "the graph's types and shapes were checked when it was built";

pub(super) fn tensor(shape: Vec<usize>, data: Vec<f32>) -> Tensor {
    Tensor::from_f32(&shape, data).expect(CHECKED)
}

pub(super) fn codes(shape: &[usize], data: Vec<i8>) -> Tensor {
    Tensor::from_i8(shape, data).expect(CHECKED)
}

pub(super) fn integers(shape: &[usize], data: Vec<i32>) -> Tensor {
    Tensor::from_i32(shape, data).expect(CHECKED)
}

pub(super) fn f32s(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect(CHECKED)
}

pub(super) fn i8s(tensor: &Tensor) -> &[i8] {
    tensor.as_i8().expect(CHECKED)
}

pub(super) fn i32s(tensor: &Tensor) -> &[i32] {
    tensor.as_i32().expect(CHECKED)
}
