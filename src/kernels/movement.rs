//! Kernels that move elements of tensors of any type, and reductions along an axis.

use ndarray::{ArrayD, Axis, IxDyn};
use rayon::prelude::*;

use super::TASK;
use crate::numerics;
use crate::values::Tensor;
use crate::values::slices::{CHECKED, f32s, f32s_mut, i32s, tensor};

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

/// Gives `x` another shape of as many elements, without copying.
pub(crate) fn reshape_onto(x: Tensor, shape: &[usize]) -> Tensor {
    let shape = IxDyn(shape);
    for_each_type!(x, a => a.into_inner().into_shape_with_order(shape).expect(CHECKED))
}

/// Permutes axes: axis `i` of the result is axis `perm[i]` of `x`.
pub(crate) fn transpose(x: &Tensor, perm: &[usize]) -> Tensor {
    for_each_type!(x, a => permuted(a, perm, vec![Default::default(); a.len()]))
}

/// Like [`transpose`], but writes into a buffer of as many floats.
pub(crate) fn transpose_f32(x: &Tensor, perm: &[usize], y: Vec<f32>) -> Tensor {
    match x {
        Tensor::F32(a) => Tensor::from(permuted(a, perm, y)),
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
    let rows = TASK.div_ceil(cols);
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

/// Joins tensors of one type along an axis.
pub(crate) fn concat(inputs: &[&Tensor], axis: usize) -> Tensor {
    macro_rules! join {
        ($variant:ident) => {{
            let arrays: Vec<_> = inputs
                .iter()
                .filter_map(|t| match t {
                    Tensor::$variant(a) => Some(a.view()),
                    _ => None,
                })
                .collect();
            match ndarray::concatenate(Axis(axis), &arrays) {
                Ok(joined) => Tensor::from(joined),
                Err(_) => inputs[0].clone(),
            }
        }};
    }
    match inputs[0] {
        Tensor::F32(_) => join!(F32),
        Tensor::I8(_) => join!(I8),
        Tensor::I32(_) => join!(I32),
        Tensor::I64(_) => join!(I64),
    }
}

/// Copies a range of elements along an axis.
pub(crate) fn slice(x: &Tensor, axis: usize, range: std::ops::Range<usize>) -> Tensor {
    for_each_type!(x, a => a.slice_axis(Axis(axis), range.into()).as_standard_layout().into_owned())
}

/// Sums floats along an axis, which the result lacks, in `f64`, and rounds once.
pub(crate) fn sum(x: &Tensor, axis: usize) -> Tensor {
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

/// Takes the largest element along an axis, which the result lacks. It is NaN if an element is.
pub(crate) fn max(x: &Tensor, axis: usize) -> Tensor {
    match x {
        Tensor::I8(a) => Tensor::from(a.fold_axis(Axis(axis), i8::MIN, |&a, &b| a.max(b))),
        Tensor::F32(a) => Tensor::from(a.fold_axis(Axis(axis), f32::NEG_INFINITY, |&a, &b| numerics::maximum(a, b))),
        Tensor::I32(a) => Tensor::from(a.fold_axis(Axis(axis), i32::MIN, |&a, &b| a.max(b))),
        // Inference refuses i64.
        Tensor::I64(_) => x.clone(),
    }
}

/// Applies `f` to the elements as rows along an axis, with the length of a row. It works in place if the axis is the last.
pub(crate) fn along_axis_onto(x: Tensor, axis: usize, f: impl Fn(&mut [f32], usize)) -> Tensor {
    let last = x.shape().len() - 1;
    // Swapping two axes twice restores their order, so one permutation serves both ways.
    let mut perm: Vec<usize> = (0..=last).collect();
    perm.swap(axis, last);
    let mut y = if axis == last { x } else { transpose(&x, &perm) };
    let cols = y.shape()[last];
    f(f32s_mut(&mut y), cols);
    if axis == last { y } else { transpose(&y, &perm) }
}

/// An id outside the embedding table: its row-major index, and the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoSuchRow(pub(crate) usize, pub(crate) i32);

/// Copies rows `ids` of `table[V, D]`.
pub(crate) fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor, NoSuchRow> {
    let (rows, cols) = (table.shape()[0], table.shape()[1]);
    let data = f32s(table);
    let mut y = Vec::with_capacity(ids.len() * cols);
    for (index, &id) in i32s(ids).iter().enumerate() {
        match usize::try_from(id) {
            Ok(row) if row < rows => y.extend_from_slice(&data[row * cols..][..cols]),
            _ => return Err(NoSuchRow(index, id)),
        }
    }
    let shape = ids.shape().iter().copied().chain([cols]).collect();
    Ok(tensor(shape, y))
}
