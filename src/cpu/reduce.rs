//! Reductions along an axis, which the result lacks.

use super::error::CpuError;
use super::step_run::{Output, StepRun};
use super::task_size::TASK;
use crate::numerics::float::rows;
use crate::numerics::{self, vectorized};
use crate::ops::{Max, Op, Sum};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::slices::{CHECKED, f32s, i32s, integers, tensor};
use crate::values::{RowMajor, Tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let x = run.x();
    Some(match run.step.op {
        StepOp::Op(Op::Sum(Sum { axis, checked })) if x.as_i32().is_some() => {
            sum_i32(x, axis, checked).map_err(|index| CpuError::NoInteger { step: run.name(), index })
        }
        StepOp::Op(Op::Sum(Sum { axis, .. })) => Ok(sum(x, axis)),
        StepOp::Op(Op::Max(Max { axis })) => Ok(max(x, axis)),
        _ => return None,
    })
}

/// Sums floats along an axis, which the result lacks (equation 11).
fn sum(x: &Tensor, axis: usize) -> Tensor {
    let shape = x.shape();
    let length = shape[axis];
    let inner: usize = shape[axis + 1..].iter().product();
    let mut y = vec![0f32; shape[..axis].iter().product::<usize>() * inner];
    if length > 0 && !y.is_empty() {
        let is_last = axis + 1 == shape.len();
        let blocks = y.par_chunks_exact_mut(inner).zip(f32s(x).par_chunks_exact(length * inner));
        blocks.with_min_len(TASK.div_ceil(length * inner)).for_each(|(y, x)| {
            vectorized(
                #[inline(always)]
                || if is_last { y[0] = rows::sum(x) } else { rows::sum_columns(x, y) },
            );
        });
    }
    let shape = shape[..axis].iter().chain(&shape[axis + 1..]).copied().collect();
    tensor(shape, y)
}

/// Sums integers along an axis, which the result lacks. A sum beyond `i32` is an error, its row-major index, if
/// `checked`, else it wraps around.
fn sum_i32(x: &Tensor, axis: usize, checked: bool) -> Result<Tensor, usize> {
    let shape = x.shape();
    let inner: usize = shape[axis + 1..].iter().product();
    let (outer, length) = (shape[..axis].iter().product::<usize>(), shape[axis]);
    let data = i32s(x);
    let sum = |at: usize| -> i64 {
        let first = at / inner * length * inner + at % inner;
        (0..length).map(|line| i64::from(data[first + line * inner])).sum()
    };
    let sums = (0..outer * inner).map(|at| match (sum(at), checked) {
        (sum, true) => i32::try_from(sum).map_err(|_| at),
        (sum, false) => Ok(sum as i32),
    });
    let sums = sums.collect::<Result<_, _>>()?;
    let shape: Vec<usize> = shape[..axis].iter().chain(&shape[axis + 1..]).copied().collect();
    Ok(integers(&shape, sums))
}

/// Takes the largest element along an axis, which the result lacks. It is NaN if an element is.
fn max(x: &Tensor, axis: usize) -> Tensor {
    match x {
        Tensor::I8(a) => Tensor::from(fold(a, axis, i8::MIN, Ord::max)),
        Tensor::F32(a) => Tensor::from(fold(a, axis, f32::NEG_INFINITY, numerics::maximum)),
        Tensor::I32(a) => Tensor::from(fold(a, axis, i32::MIN, Ord::max)),
        // Inference refuses i64.
        Tensor::I64(_) => x.clone(),
    }
}

/// Folds the elements along an axis, from the first to the last, beginning with `first`.
fn fold<T: Copy>(x: &RowMajor<T>, axis: usize, first: T, f: impl Fn(T, T) -> T) -> RowMajor<T> {
    let shape = x.shape();
    let (length, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let mut y = vec![first; shape[..axis].iter().product::<usize>() * inner];
    if length > 0 && inner > 0 {
        for (y, x) in y.chunks_exact_mut(inner).zip(x.elements().chunks_exact(length * inner)) {
            for line in x.chunks_exact(inner) {
                y.iter_mut().zip(line).for_each(|(y, &x)| *y = f(*y, x));
            }
        }
    }
    let shape: Vec<usize> = shape[..axis].iter().chain(&shape[axis + 1..]).copied().collect();
    RowMajor::new(&shape, y).expect(CHECKED)
}
