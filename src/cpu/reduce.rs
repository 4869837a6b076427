//! Reductions along an axis, which the result lacks.

use ndarray::Axis;

use super::error::CpuError;
use super::step_run::{Output, StepRun};
use crate::numerics;
use crate::ops::{Max, Op, Sum};
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{f32s, i32s, integers, tensor};

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

/// Sums floats along an axis, which the result lacks, in `f64`, and rounds once.
fn sum(x: &Tensor, axis: usize) -> Tensor {
    let shape = x.shape();
    let (outer, length) = (shape[..axis].iter().product::<usize>(), shape[axis]);
    let inner: usize = shape[axis + 1..].iter().product();
    let data = f32s(x);
    let mut sums = vec![0f64; inner];
    let mut y = Vec::with_capacity(outer * inner);
    for block in 0..outer {
        sums.fill(0.0);
        for line in 0..length {
            let line = &data[(block * length + line) * inner..][..inner];
            sums.iter_mut().zip(line).for_each(|(sum, &v)| *sum += f64::from(v));
        }
        y.extend(sums.iter().map(|&sum| sum as f32));
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
        Tensor::I8(a) => Tensor::from(a.fold_axis(Axis(axis), i8::MIN, |&a, &b| a.max(b))),
        Tensor::F32(a) => Tensor::from(a.fold_axis(Axis(axis), f32::NEG_INFINITY, |&a, &b| numerics::maximum(a, b))),
        Tensor::I32(a) => Tensor::from(a.fold_axis(Axis(axis), i32::MIN, |&a, &b| a.max(b))),
        // Inference refuses i64.
        Tensor::I64(_) => x.clone(),
    }
}
