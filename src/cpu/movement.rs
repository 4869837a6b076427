//! Operators that move elements of any type.

use std::ops::Range;

use super::step_run::{Output, StepRun};
use super::task_size::task_len;
use crate::ops::{Concat, IndexSelect, Op, Pad, Slice, Transpose};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::slices::CHECKED;
use crate::values::{RowMajor, Tensor};

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
    for_each_type!(x, a => RowMajor::new(shape, a.into_vec()).expect(CHECKED))
}

/// Permutes axes: axis `i` of the result is axis `perm[i]` of `x`.
pub(super) fn transpose(x: &Tensor, perm: &[usize]) -> Tensor {
    for_each_type!(x, a => permuted(a, perm, vec![Default::default(); a.len()]))
}

/// Transposes like [`transpose`], but into a buffer of as many floats.
fn transpose_f32(x: &Tensor, perm: &[usize], y: Vec<f32>) -> Tensor {
    match x {
        Tensor::F32(a) => Tensor::from(permuted(a, perm, y)),
        _ => unreachable!("{CHECKED}"),
    }
}

/// The columns of rows that are written column by column.
const FEW_COLUMNS: usize = 8;

/// Permutes axes, the rows of the result along one axis at a time.
fn permuted<T: Copy + Send + Sync>(x: &RowMajor<T>, perm: &[usize], y: Vec<T>) -> RowMajor<T> {
    let shape: Vec<usize> = perm.iter().map(|&axis| x.shape()[axis]).collect();
    let mut y = RowMajor::new(&shape, y).expect(CHECKED);
    let strides: Vec<usize> = perm.iter().map(|&axis| x.shape()[axis + 1..].iter().product()).collect();
    let (Some((&cols, leading)), Some((&step, strides))) = (shape.split_last(), strides.split_last()) else {
        return x.clone();
    };
    let (from, to) = (x.elements(), y.elements_mut());
    if to.is_empty() {
        return y;
    }
    let rows = task_len(to.len(), cols) / cols;
    to.par_chunks_mut(rows * cols).enumerate().for_each(|(at, to)| {
        // The places along the leading axes, and where the row begins in `x`.
        let (mut places, mut rest, mut first) = (vec![0; leading.len()], at * rows, 0);
        for (place, (&length, stride)) in places.iter_mut().zip(leading.iter().zip(strides)).rev() {
            *place = rest % length;
            first += *place * stride;
            rest /= length;
        }
        let mut left = to;
        while !left.is_empty() {
            // The rows along the last of the leading axes.
            let (run, stride) = match (places.last(), leading.last(), strides.last()) {
                (Some(place), Some(length), Some(&stride)) => ((length - place).min(left.len() / cols), stride),
                _ => (1, 1),
            };
            let (to, rest) = left.split_at_mut(run * cols);
            left = rest;
            if cols < FEW_COLUMNS {
                // A loop over a short row takes longer to begin than to run.
                for col in 0..cols {
                    let column = from[first + col * step..].iter().step_by(stride);
                    to[col..].iter_mut().step_by(cols).zip(column).for_each(|(to, &from)| *to = from);
                }
            } else {
                for (row, to) in to.chunks_exact_mut(cols).enumerate() {
                    let from = &from[first + row * stride..];
                    match step {
                        1 => to.copy_from_slice(&from[..cols]),
                        _ => to.iter_mut().zip(from.iter().step_by(step)).for_each(|(to, &from)| *to = from),
                    }
                }
            }
            if let Some(place) = places.last_mut() {
                *place += run - 1;
                first += (run - 1) * stride;
            }
            for (place, (&length, stride)) in places.iter_mut().zip(leading.iter().zip(strides)).rev() {
                *place += 1;
                first += stride;
                if *place < length {
                    break;
                }
                first -= length * stride;
                *place = 0;
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
fn joined<T: Copy>(parts: &[(&[T], usize)], shape: &[usize]) -> RowMajor<T> {
    let length = parts.iter().map(|(_, length)| length).sum::<usize>().max(1);
    let total = shape.iter().product::<usize>();
    let mut y = Vec::with_capacity(total);
    for at in 0..total / length {
        for (part, length) in parts {
            y.extend_from_slice(&part[at * length..][..*length]);
        }
    }
    RowMajor::new(shape, y).expect(CHECKED)
}

/// Copies a range of elements along an axis.
fn slice(x: &Tensor, axis: usize, range: Range<usize>, shape: &[usize]) -> Tensor {
    let inner: usize = x.shape()[axis + 1..].iter().product();
    let (whole, kept) = (x.shape()[axis] * inner, range.start * inner..range.end * inner);
    for_each_type!(x, a => {
        let blocks = a.elements().chunks_exact(whole.max(1));
        let y = blocks.flat_map(|block| &block[kept.clone()]).copied().collect();
        RowMajor::new(shape, y).expect(CHECKED)
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
        RowMajor::new(&shape, y).expect(CHECKED)
    })
}

/// Copies a tensor into one of shape `shape` that is filled with a value. `before` are the elements before the first along each axis.
fn pad(x: &Tensor, value: &Tensor, before: &[usize], shape: &[usize]) -> Tensor {
    match (x, value) {
        (Tensor::F32(x), Tensor::F32(value)) => padded(x, value, before, shape).into(),
        (Tensor::I8(x), Tensor::I8(value)) => padded(x, value, before, shape).into(),
        (Tensor::I32(x), Tensor::I32(value)) => padded(x, value, before, shape).into(),
        (Tensor::I64(x), Tensor::I64(value)) => padded(x, value, before, shape).into(),
        _ => unreachable!("{CHECKED}"),
    }
}

/// Copies one row after the other into an array of the first element of `value`.
fn padded<T: Copy>(x: &RowMajor<T>, value: &RowMajor<T>, before: &[usize], shape: &[usize]) -> RowMajor<T> {
    let cols = x.shape().last().copied().unwrap_or(1);
    let leading = x.shape().len().saturating_sub(1);
    let mut y = vec![value.elements()[0]; shape.iter().product()];
    for (row, from) in x.elements().chunks_exact(cols.max(1)).enumerate() {
        // `at` is where this row begins in `y`.
        let (mut index, mut at) = (row, before.last().copied().unwrap_or(0));
        let mut stride = shape.last().copied().unwrap_or(1);
        for axis in (0..leading).rev() {
            at += (index % x.shape()[axis] + before[axis]) * stride;
            index /= x.shape()[axis];
            stride *= shape[axis];
        }
        y[at..][..cols].copy_from_slice(from);
    }
    RowMajor::new(shape, y).expect(CHECKED)
}
