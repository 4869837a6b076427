//! The inputs of an operator: shapes and types for inference, tensors for evaluation.

use super::error::OpError;
use crate::numerics::gemm::PackedWeight;
use crate::values::slices::{f32s, i8s, i32s};
use crate::values::{DType, Dim, Number, QuantRange, Shape, Tensor, TensorQParams};

/// The shape and element type of one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub shape: Shape,
}

impl TensorType {
    pub(super) fn new(dtype: DType, shape: Shape) -> Self {
        Self { dtype, shape }
    }
}

/// A borrowed [`TensorType`], that of one input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a Shape,
}

/// Shapes and types of all inputs, with the checks of inference.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operands<'a>(pub(crate) &'a [Operand<'a>]);

impl<'a> Operands<'a> {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn shape(&self, input: usize) -> &'a Shape {
        self.0[input].shape
    }

    pub(super) fn dtype(&self, input: usize) -> DType {
        self.0[input].dtype
    }

    pub(super) fn expect_arity(&self, expected: usize) -> Result<(), OpError> {
        let actual = self.len();
        if actual == expected { Ok(()) } else { Err(OpError::Arity { actual, expected }) }
    }

    pub(super) fn expect_dtype(&self, input: usize, expected: DType) -> Result<(), OpError> {
        self.expect_one_of(input, &[expected])
    }

    /// Checks that an input has one of several types. The error names the first.
    pub(super) fn expect_one_of(&self, input: usize, expected: &[DType]) -> Result<(), OpError> {
        let actual = self.dtype(input);
        if expected.contains(&actual) {
            return Ok(());
        }
        Err(OpError::DType { input, actual, expected: expected[0] })
    }

    /// Checks that there is one input of each type, in this order.
    pub(super) fn expect_dtypes(&self, expected: &[DType]) -> Result<(), OpError> {
        self.expect_arity(expected.len())?;
        expected.iter().enumerate().try_for_each(|(input, &dtype)| self.expect_dtype(input, dtype))
    }

    /// Checks that there are `arity` inputs, all of them floats.
    pub(super) fn expect_floats(&self, arity: usize) -> Result<(), OpError> {
        self.expect_arity(arity)?;
        (0..arity).try_for_each(|input| self.expect_dtype(input, DType::F32))
    }

    /// Checks that an input is not batched and has `rank` axes.
    pub(super) fn expect_fixed_rank(
        &self,
        input: usize,
        what: &'static str,
        rank: usize,
        expected: &'static str,
    ) -> Result<(), OpError> {
        let shape = self.shape(input);
        if shape.is_batched() {
            return Err(batch("takes a parameter that varies with the batch"));
        }
        if shape.rank() == rank { Ok(()) } else { Err(rank_error(what, shape, expected)) }
    }

    /// Checks that an input is a vector of `length` elements, one for each channel.
    pub(super) fn expect_vector(&self, input: usize, what: &'static str, length: usize) -> Result<(), OpError> {
        self.expect_fixed_rank(input, what, 1, "1")?;
        let actual = self.shape(input).axis(0);
        expect_size(what, actual.expect("an axis of fixed length"), length)
    }

    /// Returns the length of the last axis of the first input.
    pub(super) fn features(&self) -> Result<usize, OpError> {
        let x = self.shape(0);
        x.last().ok_or_else(|| rank_error("input", x, "a last axis of static length"))
    }

    /// Checks that there is one scale for each index of the channel axis, or for each group of a tensor of known size.
    pub(super) fn expect_channels(&self, qparams: &TensorQParams) -> Result<(), OpError> {
        match qparams {
            TensorQParams::PerTensor(_) => Ok(()),
            TensorQParams::PerChannel { channels, ch_axis } => {
                let expected = inner_axis(self.shape(0), *ch_axis)?;
                expect_size("number of channel scales", channels.len(), expected)
            }
            TensorQParams::PerGroup(groups) => {
                if self.shape(0).is_batched() {
                    return Err(batch("has a scale for each group of a value that varies with the batch"));
                }
                groups.check_shape(&self.shape(0).fixed_dims()).or_else(|expected| {
                    expect_size("number of group scales", groups.groups().len(), expected)?;
                    expect_size("groups of a row", groups.groups_per_row(), expected / groups.rows())
                })
            }
        }
    }
}

/// The values of all inputs. Their shapes and types fit the operator, since inference has checked them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arguments<'a> {
    pub(crate) tensors: &'a [&'a Tensor],
    /// The shape of the result.
    pub(crate) output: &'a Shape,
    /// The packed second input, if that is a constant weight and the caller has packed it.
    pub(crate) packed: Option<&'a PackedWeight>,
}

impl<'a> Arguments<'a> {
    pub(super) fn tensor(&self, input: usize) -> &'a Tensor {
        self.tensors[input]
    }

    pub(super) fn f32s(&self, input: usize) -> &'a [f32] {
        f32s(self.tensors[input])
    }

    pub(super) fn i8s(&self, input: usize) -> &'a [i8] {
        i8s(self.tensors[input])
    }

    pub(super) fn i32s(&self, input: usize) -> &'a [i32] {
        i32s(self.tensors[input])
    }
}

pub(super) fn expect_size(what: &'static str, actual: usize, expected: usize) -> Result<(), OpError> {
    if actual == expected { Ok(()) } else { Err(OpError::Size { what, actual, expected }) }
}

pub(super) fn expect_int8_range(lo: i32, hi: i32) -> Result<(), OpError> {
    let inside = |value: i32| i8::try_from(value).is_ok();
    if inside(lo) && inside(hi) && lo <= hi {
        return Ok(());
    }
    Err(parameter("quantized range", format!("{lo}..={hi}"), "must be a range of int8"))
}

pub(super) fn expect_zero_points(zero_points: &[i32]) -> Result<(), OpError> {
    zero_points.iter().try_for_each(|&zero_point| Ok(QuantRange::INT8.check_zero_point(zero_point)?))
}

pub(super) fn expect_multiplier(multiplier: f32) -> Result<(), OpError> {
    if multiplier.is_normal() && multiplier > 0.0 {
        return Ok(());
    }
    Err(parameter("multiplier", Number(multiplier), "must be a positive normal f32"))
}

pub(super) fn expect_eps(eps: f32) -> Result<(), OpError> {
    if eps.is_finite() && eps >= 0.0 {
        return Ok(());
    }
    Err(parameter("eps", Number(eps), "must be finite and not negative"))
}

/// Returns the length of an axis, and checks that it exists and is not the batch.
pub(super) fn inner_axis(shape: &Shape, axis: usize) -> Result<usize, OpError> {
    match shape.dims().get(axis) {
        Some(Dim::Fixed(length)) => Ok(*length),
        Some(Dim::Rows) => Err(batch("works along the batch")),
        None => Err(parameter("axis", axis, "must be one of the input's axes")),
    }
}

/// Removes an axis, which is not the batch, from a shape.
pub(super) fn without_axis(shape: &Shape, axis: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    dims.remove(axis);
    Shape::from_dims(dims).expect("the batch stays in front")
}

/// Replaces the length of an axis, which is not the batch.
pub(super) fn with_axis(shape: &Shape, axis: usize, length: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    dims[axis] = Dim::Fixed(length);
    Shape::from_dims(dims).expect("the batch stays in front")
}

/// Returns the broadcast shape of two operands by NumPy's rule: the last axes are aligned, and lengths are equal or 1.
pub(super) fn broadcast(a: &Shape, b: &Shape) -> Result<Shape, OpError> {
    let refuse = || OpError::Broadcast { left: a.clone(), right: b.clone() };
    let (long, short) = if a.rank() >= b.rank() { (a, b) } else { (b, a) };
    if short.is_batched() && short.rank() < long.rank() {
        return Err(batch("aligns the batch with another axis"));
    }
    let skip = long.rank() - short.rank();
    let pair = |(axis, &dim): (usize, &Dim)| match axis.checked_sub(skip).map(|axis| short.dims()[axis]) {
        None => Ok(dim),
        Some(other) if other == dim || other == Dim::Fixed(1) => Ok(dim),
        Some(other) if dim == Dim::Fixed(1) => Ok(other),
        Some(_) => Err(refuse()),
    };
    let dims = long.dims().iter().enumerate().map(pair).collect::<Result<_, _>>()?;
    Shape::from_dims(dims).ok_or_else(refuse)
}

pub(super) fn rank_error(what: &'static str, shape: &Shape, expected: &'static str) -> OpError {
    OpError::Rank { what, actual: shape.rank(), expected }
}

pub(super) fn batch(problem: &'static str) -> OpError {
    OpError::Batch { problem }
}

pub(super) fn parameter(what: &'static str, value: impl ToString, rule: &'static str) -> OpError {
    OpError::Parameter { what, value: value.to_string(), rule }
}
