//! Operators that move elements of any type without changing them.

use std::fmt;

use ndarray::{ArrayD, Axis, Dimension as _, IxDyn};
use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType, batch, expect_size, inner_axis, parameter, with_axis};
use super::operator::{Aligned, Operator, moved};
use crate::values::slices::CHECKED;
use crate::values::{Shape, Tensor};

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

/// The same elements in the same order, in another shape: `[rows, dims…]`, or `[dims…]` if the input has no batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshape {
    /// Lengths of the axes of the result, without `rows`, which stays in front.
    pub dims: Vec<usize>,
}

impl Operator for Reshape {
    fn name(&self) -> &'static str {
        "reshape"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        let x = inputs.shape(0);
        expect_size("elements of the new shape", elements(&self.dims), elements(&x.fixed_dims()))?;
        Ok(TensorType::new(inputs.dtype(0), Shape::new(x.is_batched(), &self.dims)))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok(reshaped(inputs))
    }

    fn moves_values(&self) -> bool {
        true
    }
}

/// Merge of the axes from `start_axis` to the last into one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flatten {
    /// The first axis that is merged.
    pub start_axis: usize,
}

impl Operator for Flatten {
    fn name(&self) -> &'static str {
        "flatten"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        let x = inputs.shape(0);
        inner_axis(x, self.start_axis)?;
        let mut dims = x.fixed_dims();
        let merged = dims.split_off(self.start_axis - usize::from(x.is_batched()));
        dims.push(elements(&merged));
        Ok(TensorType::new(inputs.dtype(0), Shape::new(x.is_batched(), &dims)))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok(reshaped(inputs))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " start_axis {}", self.start_axis)
    }

    fn moves_values(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Permutation of axes: axis `i` of the result is axis `perm[i]` of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transpose {
    /// A permutation of all axes; `rows` stays in front.
    pub perm: Vec<usize>,
}

impl Operator for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        let x = inputs.shape(0);
        let mut sorted = self.perm.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..x.rank()) {
            let rule = "must be a permutation of all axes of the input";
            return Err(parameter("perm", format!("{:?}", self.perm), rule));
        }
        let dims = self.perm.iter().map(|&axis| x.dims()[axis]).collect();
        let moves = || batch("moves the batch");
        if x.is_batched() && self.perm[0] != 0 {
            return Err(moves());
        }
        Ok(TensorType::new(inputs.dtype(0), Shape::from_dims(dims).ok_or_else(moves)?))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok(transposed(inputs.tensor(0), &self.perm))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " perm {:?}", self.perm)
    }

    fn moves_values(&self) -> bool {
        true
    }
}

/// Concatenation of two or more tensors of one type along an axis. All other lengths are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis, which is not the batch.
    pub axis: usize,
}

impl Operator for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        if inputs.len() < 2 {
            return Err(OpError::Arity { actual: inputs.len(), expected: 2 });
        }
        let first = inputs.shape(0);
        let mut total = inner_axis(first, self.axis)?;
        for input in 1..inputs.len() {
            inputs.expect_dtype(input, inputs.dtype(0))?;
            let other = inputs.shape(input);
            if other.is_batched() != first.is_batched() || other.rank() != first.rank() {
                return Err(OpError::Broadcast { left: first.clone(), right: other.clone() });
            }
            for axis in (0..first.rank()).filter(|&axis| axis != self.axis) {
                if let (Some(actual), Some(expected)) = (other.axis(axis), first.axis(axis)) {
                    expect_size("length of an axis that is not joined", actual, expected)?;
                }
            }
            // If the sum saturates, the result has too many elements, which `Op::infer` refuses.
            total = total.saturating_add(inner_axis(other, self.axis)?);
        }
        Ok(TensorType::new(inputs.dtype(0), with_axis(first, self.axis, total)))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        self.axis = moved(perm, self.axis);
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        macro_rules! join {
            ($variant:ident) => {{
                let arrays = inputs.tensors.iter().map(|tensor| match tensor {
                    Tensor::$variant(array) => array.array(),
                    _ => unreachable!("{CHECKED}"),
                });
                ndarray::concatenate(Axis(self.axis), &arrays.collect::<Vec<_>>()).expect(CHECKED).into()
            }};
        }
        Ok(match inputs.tensor(0) {
            Tensor::F32(_) => join!(F32),
            Tensor::I8(_) => join!(I8),
            Tensor::I32(_) => join!(I32),
            Tensor::I64(_) => join!(I64),
        })
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " axis {}", self.axis)
    }

    fn moves_values(&self) -> bool {
        true
    }
}

/// The range `start..end` of elements along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// The axis, which is not the batch.
    pub axis: usize,
    /// Index of the first element.
    pub start: usize,
    /// Index after the last element.
    pub end: usize,
}

impl Operator for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        let Self { axis, start, end } = *self;
        let length = inner_axis(inputs.shape(0), axis)?;
        if start > end || end > length {
            return Err(parameter("range", format!("{start}..{end} of {length}"), "must lie within the axis"));
        }
        Ok(TensorType::new(inputs.dtype(0), with_axis(inputs.shape(0), axis, end - start)))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        self.axis = moved(perm, self.axis);
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let range = (self.start..self.end).into();
        Ok(for_each_type!(inputs.tensor(0), a => a.array().slice_axis(Axis(self.axis), range).to_owned()))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " axis {} {}..{}", self.axis, self.start, self.end)
    }

    fn moves_values(&self) -> bool {
        true
    }
}

/// The elements at known indices along an axis, in the order of the indices. Input: a tensor of any type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexSelect {
    /// The axis, which is not the batch.
    pub axis: usize,
    /// Indices of elements, each below the length of the axis. An index may occur several times.
    pub indices: Vec<u32>,
}

impl Operator for IndexSelect {
    fn name(&self) -> &'static str {
        "index_select"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        let length = inner_axis(inputs.shape(0), self.axis)?;
        if let Some(index) = self.indices.iter().find(|&&index| index as usize >= length) {
            return Err(parameter("index", format!("{index} of {length}"), "must lie within the axis"));
        }
        Ok(TensorType::new(inputs.dtype(0), with_axis(inputs.shape(0), self.axis, self.indices.len())))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        self.axis = moved(perm, self.axis);
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let indices: Vec<usize> = self.indices.iter().map(|&index| index as usize).collect();
        Ok(for_each_type!(inputs.tensor(0), a => a.array().select(Axis(self.axis), &indices)))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " axis {}", self.axis)?;
        match &self.indices[..] {
            [first, .., last] if self.indices.len() > 8 => {
                write!(f, " {} indices {first}, …, {last}", self.indices.len())
            }
            indices => write!(f, " {indices:?}"),
        }
    }

    fn moves_values(&self) -> bool {
        true
    }
}

/// A tensor with elements of one value added before and after it. Inputs: a tensor of any type, and the value, of shape `[]` and the
/// same type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pad {
    /// Number of elements before the first, for each axis of the input; 0 for the batch.
    pub before: Vec<usize>,
    /// Number of elements after the last, for each axis of the input; 0 for the batch.
    pub after: Vec<usize>,
}

impl Operator for Pad {
    fn name(&self) -> &'static str {
        "pad"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(2)?;
        inputs.expect_dtype(1, inputs.dtype(0))?;
        inputs.expect_fixed_rank(1, "padding value", 0, "0")?;
        let x = inputs.shape(0);
        expect_size("axes with padding before", self.before.len(), x.rank())?;
        expect_size("axes with padding after", self.after.len(), x.rank())?;
        let mut shape = x.clone();
        for (axis, (&before, &after)) in self.before.iter().zip(&self.after).enumerate() {
            if before != 0 || after != 0 {
                // If the sum saturates, the result has too many elements, which `Op::infer` refuses.
                let length = inner_axis(x, axis)?.saturating_add(before).saturating_add(after);
                shape = with_axis(&shape, axis, length);
            }
        }
        Ok(TensorType::new(inputs.dtype(0), shape))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        for padding in [&mut self.before, &mut self.after] {
            *padding = perm.iter().map(|&axis| padding[axis]).collect();
        }
        Some(Aligned::First)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let rows = inputs.tensor(0).shape().first().copied().unwrap_or(1);
        let shape = inputs.output.with_rows(rows);
        macro_rules! pad {
            ($variant:ident) => {{
                let (Tensor::$variant(x), Tensor::$variant(value)) = (inputs.tensor(0), inputs.tensor(1)) else {
                    unreachable!("{CHECKED}")
                };
                let value = value.elements()[0];
                let y = ArrayD::from_shape_fn(IxDyn(&shape), |index| {
                    let source = index.slice().iter().zip(&self.before).map(|(at, before)| at.checked_sub(*before));
                    let source: Option<Vec<usize>> = source.collect();
                    source.and_then(|source| x.array().get(IxDyn(&source)).copied()).unwrap_or(value)
                });
                y.into()
            }};
        }
        Ok(match inputs.tensor(0) {
            Tensor::F32(_) => pad!(F32),
            Tensor::I8(_) => pad!(I8),
            Tensor::I32(_) => pad!(I32),
            Tensor::I64(_) => pad!(I64),
        })
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " before {:?} after {:?}", self.before, self.after)
    }

    fn moves_values(&self) -> bool {
        true
    }
}

/// Computes a reshape to the shape of the result.
fn reshaped(inputs: &Arguments<'_>) -> Tensor {
    let x = inputs.tensor(0);
    let rows = x.shape().first().copied().unwrap_or(1);
    let shape = IxDyn(&inputs.output.with_rows(rows));
    for_each_type!(x, a => a.clone().into_array().into_shape_with_order(shape).expect(CHECKED))
}

/// Permutes axes: axis `i` of the result is axis `perm[i]` of `x`.
pub(crate) fn transposed(x: &Tensor, perm: &[usize]) -> Tensor {
    for_each_type!(x, a => a.array().permuted_axes(perm).to_owned())
}

/// Number of elements of a shape.
fn elements(dims: &[usize]) -> usize {
    dims.iter().fold(1, |n, &d| n.saturating_mul(d))
}
