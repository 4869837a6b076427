//! Ops on two tensors whose shapes broadcast.

use ndarray::{ArrayD, IxDyn, Zip};
use rayon::prelude::*;

use super::slices::{f32s, tensor};
use crate::kernels;
use crate::tensor::Tensor;

/// `f(a, b)` of each pair, broadcast.
pub(super) fn zip(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Tensor {
    let shape = broadcast_shape(a.shape(), b.shape());
    let (Tensor::F32(a), Tensor::F32(b)) = (a, b) else { return tensor(shape, Vec::new()) };
    let (a, b) = (a.broadcast(IxDyn(&shape)), b.broadcast(IxDyn(&shape)));
    let mut y = ArrayD::zeros(IxDyn(&shape));
    if let (Some(a), Some(b)) = (a, b) {
        Zip::from(&mut y).and(&a).and(&b).par_for_each(|y, &a, &b| *y = f(a, b));
    }
    Tensor::F32(y)
}

/// `a[…, M, K] · b[…, K, N]`, leading axes broadcast.
pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Tensor {
    let (a_stack, a_matrix) = a.shape().split_at(a.shape().len() - 2);
    let (b_stack, b_matrix) = b.shape().split_at(b.shape().len() - 2);
    let ([m, k], n) = ([a_matrix[0], a_matrix[1]], b_matrix[1]);
    let stack = broadcast_shape(a_stack, b_stack);
    let shape: Vec<usize> = stack.iter().copied().chain([m, n]).collect();
    let mut y = vec![0.0; shape.iter().product()];
    let (a, b) = (f32s(a), f32s(b));
    if b_stack.iter().product::<usize>() == 1 && a_stack.len() == stack.len() {
        // One matrix on the right: one product with all rows of the left.
        kernels::matmul(&mut y, a, b, [stack.iter().product::<usize>() * m, n, k]);
    } else if m * n > 0 {
        y.par_chunks_exact_mut(m * n).enumerate().for_each(|(at, y)| {
            let (i, j) = (position(at, &stack, a_stack), position(at, &stack, b_stack));
            kernels::matmul(y, &a[i * m * k..][..m * k], &b[j * k * n..][..k * n], [m, n, k]);
        });
    }
    tensor(shape, y)
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
