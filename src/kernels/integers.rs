//! Arithmetic, casts and sums of `i32` tensors. A result that does not fit `i32` is an error.

use ndarray::IxDyn;

use super::broadcast::broadcast_shape;
use crate::numerics::{Int32Op, IntegerType, truncate};
use crate::values::Tensor;
use crate::values::slices::{CHECKED, f32s, i32s, integers};

/// Row-major index of the first result that does not fit `i32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoInteger(pub(crate) usize);

/// Computes `op(a, b)` of each pair of integers, broadcast.
pub(crate) fn int32(op: Int32Op, checked: bool, a: &Tensor, b: &Tensor) -> Result<Tensor, NoInteger> {
    let (Tensor::I32(a), Tensor::I32(b)) = (a, b) else { unreachable!("{CHECKED}") };
    let shape = broadcast_shape(a.shape(), b.shape());
    let (a, b) = (a.broadcast(IxDyn(&shape)).expect(CHECKED), b.broadcast(IxDyn(&shape)).expect(CHECKED));
    let pairs = a.iter().zip(b.iter()).enumerate();
    let data = pairs.map(|(at, (&a, &b))| op.eval(a, b, checked).ok_or(NoInteger(at)));
    Ok(integers(&shape, data.collect::<Result<_, _>>()?))
}

/// Casts floats or integers to an integer type.
pub(crate) fn to_integer(x: &Tensor, to: IntegerType) -> Result<Tensor, NoInteger> {
    let data = match x {
        Tensor::I32(_) => i32s(x).iter().map(|&v| to.wrap(v)).collect(),
        _ => {
            let whole = f32s(x).iter().enumerate().map(|(at, &v)| truncate(v).ok_or(NoInteger(at)));
            whole.map(|v| v.map(|v| to.wrap(v))).collect::<Result<_, _>>()?
        }
    };
    Ok(integers(x.shape(), data))
}

/// Sums integers along an axis, which the result lacks. A sum beyond `i32` is an error if `checked`, else it wraps around.
pub(crate) fn sum_i32(x: &Tensor, axis: usize, checked: bool) -> Result<Tensor, NoInteger> {
    let shape = x.shape();
    let inner: usize = shape[axis + 1..].iter().product();
    let (outer, length) = (shape[..axis].iter().product::<usize>(), shape[axis]);
    let data = i32s(x);
    let sum = |at: usize| -> i64 {
        let first = at / inner * length * inner + at % inner;
        (0..length).map(|line| i64::from(data[first + line * inner])).sum()
    };
    let sums = (0..outer * inner).map(|at| match (sum(at), checked) {
        (sum, true) => i32::try_from(sum).map_err(|_| NoInteger(at)),
        (sum, false) => Ok(sum as i32),
    });
    let sums = sums.collect::<Result<_, _>>()?;
    let shape: Vec<usize> = shape[..axis].iter().chain(&shape[axis + 1..]).copied().collect();
    Ok(integers(&shape, sums))
}
