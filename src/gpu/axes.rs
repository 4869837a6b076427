//! The axes of values on the device, and how the kernels that take any shapes walk through them.

use super::error::GpuError;
use super::layout::{MAX_AXES, OpParams, row_words};
use crate::program::{Value, ValueType};

/// One axis: its length, unknown for `rows`, and its stride in elements or, of int8, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) length: Option<usize>,
    pub(super) stride: usize,
}

/// The axes of a value as it lies on the device; there is always a last one, of static length.
pub(super) fn axes(value: &Value) -> Vec<Axis> {
    let batch = value.shape.is_batched().then_some(None);
    let mut lengths: Vec<Option<usize>> =
        batch.into_iter().chain(value.shape.fixed_dims().iter().map(|&length| Some(length))).collect();
    if value.shape.last().is_none() {
        lengths.push(Some(1));
    }
    let mut stride = 1;
    let mut axes: Vec<Axis> = Vec::with_capacity(lengths.len());
    for (at, &length) in lengths.iter().enumerate().rev() {
        axes.push(Axis { length, stride });
        stride *= length.unwrap_or(1);
        if at + 1 == lengths.len() && value.value_type == ValueType::I8 {
            stride = row_words(value.cols()) * 4;
        }
    }
    axes.reverse();
    axes
}

/// The stride of an operand along each axis of a result to which it is broadcast.
pub(super) fn broadcast(operand: &Value, result: &[Axis]) -> Vec<usize> {
    let own = axes(operand);
    let skip = result.len().saturating_sub(own.len());
    let stride = |(at, axis): (usize, &Axis)| match at.checked_sub(skip).map(|at| own[at]) {
        Some(own) if own.length == axis.length => own.stride,
        _ => 0,
    };
    result.iter().enumerate().map(stride).collect()
}

/// Fills in the axes before the last of `loops`, merging those that all operands walk through as one. The strides are those of
/// a, b and y.
pub(super) fn set_axes(
    name: &str,
    params: &mut OpParams,
    lengths: &[Option<usize>],
    strides: [&[usize]; 3],
) -> Result<(), GpuError> {
    let mut merged: Vec<(Option<usize>, [usize; 3])> = Vec::new();
    for (at, &length) in lengths.iter().enumerate() {
        let own = strides.map(|strides| strides[at]);
        match (merged.last_mut(), length) {
            (Some(_), Some(1)) => {}
            (Some((outer, outer_strides)), Some(length)) if (0..3).all(|i| outer_strides[i] == own[i] * length) => {
                *outer = outer.map(|outer| outer * length);
                *outer_strides = own;
            }
            _ => merged.push((length, own)),
        }
    }
    if merged.len() > MAX_AXES {
        let (what, actual, limit) = ("axes before the last", merged.len() as u64, MAX_AXES as u64);
        return Err(GpuError::Limit { name: name.to_owned(), what, actual, limit });
    }
    params.rank = merged.len() as u32;
    for (slot, (length, [a, b, y])) in params.axes.iter_mut().zip(merged) {
        *slot = [length.unwrap_or(0) as u32, a as u32, b as u32, y as u32];
    }
    Ok(())
}

/// The axes of a value in another order.
pub(super) fn transposed(value: &Value, perm: &[usize]) -> Vec<Axis> {
    let own = axes(value);
    perm.iter().map(|&axis| own[axis]).collect()
}
