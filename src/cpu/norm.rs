//! Softmax and normalizations (equation 11), in vectors.

use super::movement::transpose;
use super::step_run::{Output, StepRun};
use super::task_size::task_len;
use crate::numerics::float::rows;
use crate::numerics::vectorized;
use crate::ops::{LayerNorm, Op, RmsNorm, Softmax};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{f32s, f32s_mut};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    let rest = run.rest;
    Some(Ok(match *op {
        Op::Softmax(Softmax { axis }) => along_axis(run.take_x(), axis, softmax),
        Op::LayerNorm(LayerNorm { eps }) => {
            let mut y = run.take_x();
            let (weight, bias) = (f32s(rest[0]), f32s(rest[1]));
            by_row(
                f32s_mut(&mut y),
                weight.len(),
                #[inline(always)]
                |row| rows::layer_norm(row, weight, bias, eps),
            );
            y
        }
        Op::RmsNorm(RmsNorm { eps }) => {
            let mut y = run.take_x();
            let weight = f32s(rest[0]);
            by_row(
                f32s_mut(&mut y),
                weight.len(),
                #[inline(always)]
                |row| rows::rms_norm(row, weight, eps),
            );
            y
        }
        _ => return None,
    }))
}

/// Applies `f` to the elements as rows along an axis, with the length of a row. It works in place if the axis is the last.
fn along_axis(x: Tensor, axis: usize, f: impl Fn(&mut [f32], usize)) -> Tensor {
    let last = x.shape().len() - 1;
    // Swapping two axes twice restores their order, so one permutation serves both ways.
    let mut perm: Vec<usize> = (0..=last).collect();
    perm.swap(axis, last);
    let mut y = if axis == last { x } else { transpose(&x, &perm) };
    let cols = y.shape()[last];
    f(f32s_mut(&mut y), cols);
    if axis == last { y } else { transpose(&y, &perm) }
}

/// Computes the softmax of each row of `cols` elements, in place.
#[expect(
    clippy::redundant_closure,
    reason = "a function that is passed by its name may not be inlined, and has no vectors then"
)]
fn softmax(x: &mut [f32], cols: usize) {
    by_row(
        x,
        cols,
        #[inline(always)]
        |row| rows::softmax(row),
    );
}

/// Calls `normalize` with each row of `n` elements.
fn by_row(x: &mut [f32], n: usize, normalize: impl Fn(&mut [f32]) + Sync) {
    if n == 0 {
        return;
    }
    let task = task_len(x.len(), n);
    x.par_chunks_mut(task).for_each(|x| {
        vectorized(
            #[inline(always)]
            || {
                for row in x.chunks_exact_mut(n) {
                    normalize(row);
                }
            },
        );
    });
}
