//! Softmax and normalizations (equation 11), in vectors.

use super::fusion::{Fused, apply_to_all};
use super::movement::transpose;
use super::step_run::{Output, StepRun};
use crate::ops::{Op, Softmax};
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::f32s_mut;

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    Some(Ok(match *op {
        Op::Softmax(Softmax { axis }) => softmax(run.take_x(), axis),
        Op::LayerNorm(_) | Op::RmsNorm(_) => {
            let norm = [Fused::new(run.step, run.shape, run.rest)];
            let mut y = run.take_x();
            // A norm over several axes has a weight of as many.
            apply_to_all(&norm, f32s_mut(&mut y), run.rest[0].len());
            y
        }
        _ => return None,
    }))
}

/// Computes the softmax along an axis, in place if it is the last.
fn softmax(x: Tensor, axis: usize) -> Tensor {
    let last = x.shape().len() - 1;
    // Swapping two axes twice restores their order, so one permutation serves both ways.
    let mut perm: Vec<usize> = (0..=last).collect();
    perm.swap(axis, last);
    let mut y = if axis == last { x } else { transpose(&x, &perm) };
    let n = y.shape()[last];
    apply_to_all(&[Fused::Softmax], f32s_mut(&mut y), n);
    if axis == last { y } else { transpose(&y, &perm) }
}
