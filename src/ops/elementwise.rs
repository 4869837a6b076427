//! Elementwise operators of several inputs, broadcast.

use std::fmt;

use ndarray::{IxDyn, Zip};
use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::linear::write_range;
use super::operands::{
    Arguments, Operands, TensorType, broadcast, expect_int8_range, expect_multiplier, expect_zero_points, parameter,
};
use super::operator::{Aligned, Operator};
use crate::numerics::float;
use crate::numerics::{self, AddMultipliers, BinaryOp};
use crate::values::slices::{CHECKED, tensor};
use crate::values::{DType, Number, QParams, RowMajor, Shape, Tensor};

macro_rules! float_arithmetic {
    ($($(#[$doc:meta])* $operator:ident $name:literal $function:expr),*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $operator;

        impl Operator for $operator {
            fn name(&self) -> &'static str {
                $name
            }

            fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
                float_pairs(inputs)
            }

            fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
                Some(Aligned::All)
            }

            fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
                Ok(zip_f32(inputs.tensor(0), inputs.tensor(1), $function))
            }
        }
    )*};
}

float_arithmetic! {
    /// Elementwise sum of floats, `a + b`. Inputs: a and b, broadcast.
    Add "add" float::add,
    /// Elementwise product of floats, `a · b`. Inputs: a and b, broadcast.
    Mul "mul" float::mul,
    /// Elementwise quotient of floats, `a / b`. Inputs: a and b, broadcast.
    Div "div" float::div
}

macro_rules! scalar_arithmetic {
    ($($(#[$doc:meta])* $operator:ident $name:literal $function:expr),*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        pub struct $operator {
            /// The number, which is finite.
            pub value: f32,
        }

        impl Operator for $operator {
            fn name(&self) -> &'static str {
                $name
            }

            fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
                inputs.expect_floats(1)?;
                if !self.value.is_finite() {
                    return Err(parameter("scalar", Number(self.value), "must be finite"));
                }
                Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
            }

            fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
                Some(Aligned::All)
            }

            fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
                let y = inputs.f32s(0).iter().map(|&v| $function(v, self.value)).collect();
                Ok(tensor(inputs.tensor(0).shape().to_vec(), y))
            }

            fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, " {}", self.value)
            }

            fn is_step(&self) -> bool {
                false
            }
        }
    )*};
}

scalar_arithmetic! {
    /// The sum of each element and one number. Input: floats of any shape. Prepare turns the number into a constant.
    AddScalar "add_scalar" float::add,
    /// The product of each element and one number. Input: floats of any shape. Prepare turns the number into a constant.
    MulScalar "mul_scalar" float::mul
}

/// Selection of `a` where the condition is not 0 (NaN is not 0), else of `b`. Inputs: condition, `a` and `b`, broadcast, all
/// floats. The element is selected, so NaN and infinities of the other one have no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Where;

impl Operator for Where {
    fn name(&self) -> &'static str {
        "where"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(3)?;
        // Each value is broadcast with the condition first, as in the masks that this operator decomposes into.
        let a = broadcast(inputs.shape(1), inputs.shape(0))?;
        let b = broadcast(inputs.shape(2), inputs.shape(0))?;
        Ok(TensorType::new(DType::F32, broadcast(&a, &b)?))
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let tensors = [0, 1, 2].map(|input| inputs.tensor(input));
        let shape = broadcast_shapes(tensors.map(Tensor::shape));
        let arrays = tensors.map(|tensor| match tensor {
            Tensor::F32(array) => array.array(),
            _ => unreachable!("{CHECKED}"),
        });
        let [condition, a, b] = arrays.each_ref().map(|array| array.broadcast(shape.clone()).expect(CHECKED));
        let select = |&condition: &f32, &a: &f32, &b: &f32| if condition != 0.0 { a } else { b };
        Ok(Zip::from(&condition).and(&a).and(&b).map_collect(select).into())
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// A mask: `x` where the mask is not 0 (NaN is not 0), and −0 elsewhere. Adding −0 changes no number, so the sum of two of these
/// selects between two values ([`Where`]). Inputs: x and mask, broadcast, both floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mask {
    /// Whether to take `x` where the mask is 0 instead.
    pub inverted: bool,
}

impl Operator for Mask {
    fn name(&self) -> &'static str {
        "mask"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        float_pairs(inputs)
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let select = |x, mask| if (mask != 0.0) != self.inverted { x } else { -0.0 };
        Ok(zip_f32(inputs.tensor(0), inputs.tensor(1), select))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.inverted { " inverted" } else { "" })
    }
}

/// Elementwise comparison of floats, or their maximum or minimum. Inputs: a and b, broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binary {
    /// The function.
    pub op: BinaryOp,
}

impl Operator for Binary {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        float_pairs(inputs)
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok(zip_f32(inputs.tensor(0), inputs.tensor(1), |a, b| self.op.eval(a, b)))
    }
}

/// Elementwise sum of quantized values, `int8 + int8 → int8` (equation 8). Inputs: a and b, broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IntegerAdd {
    /// Zero point of the first input.
    pub a_zero_point: i32,
    /// Zero point of the second input.
    pub b_zero_point: i32,
    /// The ratios of the input scales to the output scale.
    pub multipliers: AddMultipliers,
    /// Scale and zero point of the result. Only the zero point enters the arithmetic.
    pub qparams: QParams,
    /// Smallest quantized value.
    pub lo: i32,
    /// Largest quantized value.
    pub hi: i32,
}

impl Operator for IntegerAdd {
    fn name(&self) -> &'static str {
        "integer_add"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        if !self.multipliers.are_usable() {
            return Err(parameter("multipliers", format!("{:?}", self.multipliers), "must be those of equation 8"));
        }
        int8_pairs(inputs, [self.a_zero_point, self.b_zero_point], self.lo, self.hi)
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let Self { a_zero_point, b_zero_point, multipliers, qparams, lo, hi } = *self;
        Ok(zip_i8(inputs, |a, b| {
            numerics::add(a - a_zero_point, b - b_zero_point, multipliers, qparams.zero_point(), lo, hi)
        }))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_range(f, self.qparams, self.lo, self.hi)
    }

    fn is_integer(&self) -> bool {
        true
    }
}

/// Elementwise product of quantized values, `int8 · int8 → int8` (equations 9 and 5). Inputs: a and b, broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IntegerMul {
    /// Zero point of the first input.
    pub a_zero_point: i32,
    /// Zero point of the second input.
    pub b_zero_point: i32,
    /// The product of the input scales over the output scale: a positive normal `f32`.
    pub multiplier: f32,
    /// Scale and zero point of the result. Only the zero point enters the arithmetic.
    pub qparams: QParams,
    /// Smallest quantized value.
    pub lo: i32,
    /// Largest quantized value.
    pub hi: i32,
}

impl Operator for IntegerMul {
    fn name(&self) -> &'static str {
        "integer_mul"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        expect_multiplier(self.multiplier)?;
        int8_pairs(inputs, [self.a_zero_point, self.b_zero_point], self.lo, self.hi)
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let Self { a_zero_point, b_zero_point, multiplier, qparams, lo, hi } = *self;
        Ok(zip_i8(inputs, |a, b| {
            numerics::requantize((a - a_zero_point) * (b - b_zero_point), multiplier, qparams.zero_point(), lo, hi)
        }))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_range(f, self.qparams, self.lo, self.hi)
    }

    fn is_integer(&self) -> bool {
        true
    }
}

fn float_pairs(inputs: &Operands<'_>) -> Result<TensorType, OpError> {
    inputs.expect_floats(2)?;
    Ok(TensorType::new(DType::F32, broadcast(inputs.shape(0), inputs.shape(1))?))
}

fn int8_pairs(inputs: &Operands<'_>, zero_points: [i32; 2], lo: i32, hi: i32) -> Result<TensorType, OpError> {
    inputs.expect_dtypes(&[DType::I8, DType::I8])?;
    expect_zero_points(&zero_points)?;
    expect_int8_range(lo, hi)?;
    Ok(TensorType::new(DType::I8, broadcast(inputs.shape(0), inputs.shape(1))?))
}

/// Returns the broadcast shape of tensors, whose shapes inference has checked.
fn broadcast_shapes<'t>(shapes: impl IntoIterator<Item = &'t [usize]>) -> IxDyn {
    let all = shapes.into_iter().map(Shape::fixed).reduce(|a, b| broadcast(&a, &b).expect(CHECKED));
    IxDyn(&all.expect(CHECKED).fixed_dims())
}

/// Computes `f(a, b)` of each pair of elements, broadcast.
pub(super) fn zip<T, R>(a: &RowMajor<T>, b: &RowMajor<T>, f: impl Fn(T, T) -> R + Sync + Send) -> RowMajor<R>
where
    T: Copy + Send + Sync,
    R: Clone + Copy + Send + Sync,
{
    let shape = broadcast_shapes([a.shape(), b.shape()]);
    let arrays = [a.array(), b.array()];
    let [a, b] = arrays.each_ref().map(|array| array.broadcast(shape.clone()).expect(CHECKED));
    let pairs = Zip::from(&a).and(&b);
    #[cfg(feature = "threads")]
    if a.len() >= 1 << 15 {
        return RowMajor::from(pairs.par_map_collect(|&a, &b| f(a, b)));
    }
    RowMajor::from(pairs.map_collect(|&a, &b| f(a, b)))
}

/// Computes `f(a, b)` of each pair of floats, broadcast.
pub(crate) fn zip_f32(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Tensor {
    match (a, b) {
        (Tensor::F32(a), Tensor::F32(b)) => Tensor::F32(zip(a, b, f)),
        _ => unreachable!("{CHECKED}"),
    }
}

/// Computes `f(a, b)` of each pair of quantized values, broadcast.
fn zip_i8(inputs: &Arguments<'_>, f: impl Fn(i32, i32) -> i32 + Sync + Send) -> Tensor {
    match (inputs.tensor(0), inputs.tensor(1)) {
        (Tensor::I8(a), Tensor::I8(b)) => Tensor::I8(zip(a, b, |a, b| f(a.into(), b.into()) as i8)),
        _ => unreachable!("{CHECKED}"),
    }
}
