//! Kernels on two tensors whose shapes broadcast.

use ndarray::{ArrayD, IxDyn, Zip};
use rayon::prelude::*;

use super::slices::{CHECKED, f32s, i8s, integers, tensor};
use crate::tensor::Tensor;

/// `f(a, b)` of each pair of floats, broadcast.
pub(crate) fn zip_f32(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Tensor {
    match (a, b) {
        (Tensor::F32(a), Tensor::F32(b)) => Tensor::F32(zip(a, b, f)),
        _ => unreachable!("{CHECKED}"),
    }
}

/// `f(a, b)` of each pair of codes, broadcast.
pub(crate) fn zip_i8(a: &Tensor, b: &Tensor, f: impl Fn(i8, i8) -> i8 + Sync + Send) -> Tensor {
    match (a, b) {
        (Tensor::I8(a), Tensor::I8(b)) => Tensor::I8(zip(a, b, f)),
        _ => unreachable!("{CHECKED}"),
    }
}

fn zip<T>(a: &ArrayD<T>, b: &ArrayD<T>, f: impl Fn(T, T) -> T + Sync + Send) -> ArrayD<T>
where
    T: Copy + Default + Send + Sync,
{
    let shape = broadcast_shape(a.shape(), b.shape());
    let mut y = ArrayD::from_elem(IxDyn(&shape), T::default());
    let (a, b) = (a.broadcast(IxDyn(&shape)).expect(CHECKED), b.broadcast(IxDyn(&shape)).expect(CHECKED));
    Zip::from(&mut y).and(&a).and(&b).par_for_each(|y, &a, &b| *y = f(a, b));
    y
}

/// `a[…, M, K] · b[…, K, N]` in float, leading axes broadcast.
pub(crate) fn matmul_f32(a: &Tensor, b: &Tensor) -> Tensor {
    let (a_stack, a_matrix) = a.shape().split_at(a.shape().len() - 2);
    let (b_stack, b_matrix) = b.shape().split_at(b.shape().len() - 2);
    let ([m, k], n) = ([a_matrix[0], a_matrix[1]], b_matrix[1]);
    let stack = broadcast_shape(a_stack, b_stack);
    let shape: Vec<usize> = stack.iter().copied().chain([m, n]).collect();
    let mut y = vec![0.0; shape.iter().product()];
    let (a, b) = (f32s(a), f32s(b));
    if b_stack.iter().product::<usize>() == 1 && a_stack.len() == stack.len() {
        // One matrix on the right: one product with all rows of the left.
        super::matmul(&mut y, a, b, [stack.iter().product::<usize>() * m, n, k]);
    } else if m * n > 0 {
        y.par_chunks_exact_mut(m * n).enumerate().for_each(|(at, y)| {
            let (i, j) = (position(at, &stack, a_stack), position(at, &stack, b_stack));
            super::matmul(y, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], [m, n, k]);
        });
    }
    tensor(shape, y)
}

/// `Σ (a − z_a) · (b − z_b)` of `a[…, M, K]` and `b[…, K, N]`, leading axes broadcast: equation 9.
pub(crate) fn matmul_i8(a: &Tensor, b: &Tensor, a_zero_point: i32, b_zero_point: i32) -> Tensor {
    let (a_stack, a_matrix) = a.shape().split_at(a.shape().len() - 2);
    let (b_stack, b_matrix) = b.shape().split_at(b.shape().len() - 2);
    let ([m, k], n) = ([a_matrix[0], a_matrix[1]], b_matrix[1]);
    let stack = broadcast_shape(a_stack, b_stack);
    let shape: Vec<usize> = stack.iter().copied().chain([m, n]).collect();
    let mut y = vec![0i32; shape.iter().product()];
    let (a, b) = (i8s(a), i8s(b));
    if m * n > 0 {
        y.par_chunks_exact_mut(n).enumerate().for_each(|(row, y)| {
            let (i, j) = (position(row / m, &stack, a_stack), position(row / m, &stack, b_stack));
            let a = &a[(i * m + row % m) * k..][..k];
            for (p, &a) in a.iter().enumerate() {
                let a = i32::from(a) - a_zero_point;
                let b = &b[(j * k + p) * n..][..n];
                y.iter_mut().zip(b).for_each(|(y, &b)| *y += a * (i32::from(b) - b_zero_point));
            }
        });
    }
    integers(&shape, y)
}

/// NumPy's rule, for shapes that were checked to broadcast.
fn broadcast_shape(a: &[usize], b: &[usize]) -> Vec<usize> {
    let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    let skip = long.len() - short.len();
    let pick = |(i, &l): (usize, &usize)| if i >= skip && l == 1 { short[i - skip] } else { l };
    long.iter().enumerate().map(pick).collect()
}

/// Where element `at` of a stack of shape `stack` lies in a stack of shape `own` that is broadcast to it.
fn position(mut at: usize, stack: &[usize], own: &[usize]) -> usize {
    let (mut position, mut stride) = (0, 1);
    for (axis, &len) in stack.iter().enumerate().rev() {
        let Some(own_axis) = (axis + own.len()).checked_sub(stack.len()) else { break };
        let index = at % len;
        at /= len;
        position += if own[own_axis] == 1 { 0 } else { index * stride };
        stride *= own[own_axis];
    }
    position
}
