//! Operators that move elements of any type.

use std::ops::Range;

use ndarray::{ArrayD, Axis, IxDyn};

use super::step_run::{Output, StepRun};
use super::task_size::task_len;
use crate::ops::{Concat, IndexSelect, Op, Pad, Slice, Transpose};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::CHECKED;

/// Evaluates the same expression for an array of any element type.
macro_rules! for_each_type {
    ($tensor:expr, $a:ident => $result:expr) => {
        match $tensor {
            Tensor::F32($a) => Tensor::from($result),
            Tensor::I8($a) => Tensor::from($result),
            Tensor::I32($a) => Tensor::from($result),
            Tensor::I64($a) => Tensor::from($result),
        }
    };
}

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    Some(Ok(match op {
        Op::Concat(Concat { axis }) => concat(&[&[run.x()], run.rest].concat(), *axis, run.shape),
        Op::Reshape(_) => reshape(run.take_x(), run.shape),
        Op::Transpose(Transpose { perm }) if run.x().as_f32().is_some() => {
            let y = run.pool.take(run.x().len());
            transpose_f32(run.x(), perm, y)
        }
        Op::Transpose(Transpose { perm }) => transpose(run.x(), perm),
        &Op::Slice(Slice { axis, start, end }) => slice(run.x(), axis, start..end, run.shape),
        Op::IndexSelect(IndexSelect { axis, indices }) => index_select(run.x(), *axis, indices),
        Op::Pad(Pad { before, .. }) => pad(run.x(), run.rest[0], before, run.shape),
        _ => return None,
    }))
}

/// Gives `x` another shape of as many elements, without copying.
fn reshape(x: Tensor, shape: &[usize]) -> Tensor {
    let shape = IxDyn(shape);
    for_each_type!(x, a => a.into_array().into_shape_with_order(shape).expect(CHECKED))
}

/// Permutes axes: axis `i` of the result is axis `perm[i]` of `x`.
pub(super) fn transpose(x: &Tensor, perm: &[usize]) -> Tensor {
    for_each_type!(x, a => permuted(a.array(), perm, vec![Default::default(); a.len()]))
}

/// Transposes like [`transpose`], but into a buffer of as many floats.
fn transpose_f32(x: &Tensor, perm: &[usize], y: Vec<f32>) -> Tensor {
    match x {
        Tensor::F32(a) => Tensor::from(permuted(a.array(), perm, y)),
        _ => unreachable!("{CHECKED}"),
    }
}

/// Permutes axes, one row of the result at a time.
fn permuted<T: Copy + Send + Sync>(x: &ArrayD<T>, perm: &[usize], y: Vec<T>) -> ArrayD<T> {
    let shape: Vec<usize> = perm.iter().map(|&axis| x.shape()[axis]).collect();
    let mut y = ArrayD::from_shape_vec(IxDyn(&shape), y).expect(CHECKED);
    let strides: Vec<usize> = perm.iter().map(|&axis| x.shape()[axis + 1..].iter().product()).collect();
    let (Some((&cols, leading)), Some((&step, strides))) = (shape.split_last(), strides.split_last()) else {
        return x.clone();
    };
    let (Some(from), Some(to)) = (x.as_slice(), y.as_slice_mut()) else { unreachable!("{CHECKED}") };
    if to.is_empty() {
        return y;
    }
    let rows = task_len(to.len(), cols) / cols;
    to.par_chunks_mut(rows * cols).enumerate().for_each(|(at, to)| {
        for (row, to) in to.chunks_exact_mut(cols).enumerate() {
            // `first` is where this row begins in `x`.
            let (mut index, mut first) = (at * rows + row, 0);
            for (&length, stride) in leading.iter().zip(strides).rev() {
                first += index % length * stride;
                index /= length;
            }
            match step {
                1 => to.copy_from_slice(&from[first..][..cols]),
                _ => to.iter_mut().zip(from[first..].iter().step_by(step)).for_each(|(to, &from)| *to = from),
            }
        }
    });
    y
}

/// Concatenates tensors of one type along an axis.
fn concat(inputs: &[&Tensor], axis: usize, shape: &[usize]) -> Tensor {
    macro_rules! join {
        ($variant:ident) => {{
            let parts = inputs.iter().map(|x| match x {
                Tensor::$variant(a) => (a.elements(), x.shape()[axis..].iter().product()),
                _ => unreachable!("{CHECKED}"),
            });
            Tensor::from(joined(&parts.collect::<Vec<_>>(), shape))
        }};
    }
    match inputs[0] {
        Tensor::F32(_) => join!(F32),
        Tensor::I8(_) => join!(I8),
        Tensor::I32(_) => join!(I32),
        Tensor::I64(_) => join!(I64),
    }
}

/// Joins parts, each of which has as many elements for each place of the axes before the joined one as is said with it.
fn joined<T: Copy>(parts: &[(&[T], usize)], shape: &[usize]) -> ArrayD<T> {
    let length = parts.iter().map(|(_, length)| length).sum::<usize>().max(1);
    let total = shape.iter().product::<usize>();
    let mut y = Vec::with_capacity(total);
    for at in 0..total / length {
        for (part, length) in parts {
            y.extend_from_slice(&part[at * length..][..*length]);
        }
    }
    ArrayD::from_shape_vec(IxDyn(shape), y).expect(CHECKED)
}

/// Copies a range of elements along an axis.
fn slice(x: &Tensor, axis: usize, range: Range<usize>, shape: &[usize]) -> Tensor {
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let (whole, kept) = (x.shape()[axis] * inner, range.start * inner..range.end * inner);
    for_each_type!(x, a => {
        let blocks = a.elements().chunks_exact(whole.max(1));
        let y = blocks.flat_map(|block| &block[kept.clone()]).copied().collect();
        ArrayD::from_shape_vec(IxDyn(shape), y).expect(CHECKED)
    })
}

/// Copies the elements at known indices along an axis.
fn index_select(x: &Tensor, axis: usize, indices: &[u32]) -> Tensor {
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let length = x.shape()[axis];
    let shape: Vec<usize> =
        x.shape().iter().enumerate().map(|(at, &d)| if at == axis { indices.len() } else { d }).collect();
    for_each_type!(x, a => {
        let mut y = Vec::with_capacity(shape.iter().product());
        for block in a.elements().chunks_exact((length * inner).max(1)) {
            indices.iter().for_each(|&index| y.extend_from_slice(&block[index as usize * inner..][..inner]));
        }
        ArrayD::from_shape_vec(IxDyn(&shape), y).expect(CHECKED)
    })
}

/// Copies a tensor into one of shape `shape` that is filled with a value. `before` are the elements before the first along each axis.
fn pad(x: &Tensor, value: &Tensor, before: &[usize], shape: &[usize]) -> Tensor {
    macro_rules! pad {
        ($x:expr, $value:expr) => {{
            let mut y = ArrayD::from_elem(IxDyn(shape), $value.elements()[0]);
            let mut inner = y.view_mut();
            for (axis, (&before, &length)) in before.iter().zip(x.shape()).enumerate() {
                inner.slice_axis_inplace(Axis(axis), (before..before + length).into());
            }
            inner.assign($x.array());
            y.into()
        }};
    }
    match (x, value) {
        (Tensor::F32(x), Tensor::F32(value)) => pad!(x, value),
        (Tensor::I8(x), Tensor::I8(value)) => pad!(x, value),
        (Tensor::I32(x), Tensor::I32(value)) => pad!(x, value),
        (Tensor::I64(x), Tensor::I64(value)) => pad!(x, value),
        _ => unreachable!("{CHECKED}"),
    }
}
