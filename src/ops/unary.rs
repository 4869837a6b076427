//! Functions of each element of one input.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType, expect_size, parameter};
use super::operator::{Aligned, Operator};
use crate::numerics::UnaryOp;
use crate::parallel::*;
use crate::values::slices::{codes, tensor};
use crate::values::{DType, Number, QParams, Tensor};

/// A function of each element. Input: floats of any shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unary {
    /// The function.
    pub op: UnaryOp,
}

impl Operator for Unary {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let mut y = inputs.f32s(0).to_vec();
        unary_in_place(self.op, &mut y);
        Ok(tensor(inputs.tensor(0).shape().to_vec(), y))
    }
}

/// Computes `x[i] = op(x[i])`.
pub(crate) fn unary_in_place(op: UnaryOp, x: &mut [f32]) {
    const TASK: usize = 1 << 14;
    x.par_chunks_mut(TASK).for_each(|x| op.apply(x));
}

/// Each element, limited to `min..=max`. NaN stays NaN. Input: floats of any shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Clamp {
    /// Smallest result, which may be −∞.
    #[serde(with = "float_text")]
    pub min: f32,
    /// Largest result, which may be ∞; not below `min`.
    #[serde(with = "float_text")]
    pub max: f32,
}

impl Operator for Clamp {
    fn name(&self) -> &'static str {
        "clamp"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        let Self { min, max } = *self;
        if min.is_nan() || max.is_nan() || min > max {
            return Err(parameter(
                "bounds",
                format!("{}..={}", Number(min), Number(max)),
                "must be numbers, the smaller one first",
            ));
        }
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let y = inputs.f32s(0).iter().map(|v| v.clamp(self.min, self.max)).collect();
        Ok(tensor(inputs.tensor(0).shape().to_vec(), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}..={}", self.min, self.max)
    }
}

/// Lookup table `int8 → int8`: entry `x + 128` (equation 12). Inputs: x, lookup table `[256]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lut {
    /// Scale and zero point of the result. Neither enters the arithmetic.
    pub qparams: QParams,
}

impl Operator for Lut {
    fn name(&self) -> &'static str {
        "lut"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8, DType::I8])?;
        inputs.expect_fixed_rank(1, "table", 1, "1")?;
        expect_size("length of the table", inputs.shape(1).fixed_dims()[0], 256)?;
        Ok(TensorType::new(DType::I8, inputs.shape(0).clone()))
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::First)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let table = inputs.i8s(1);
        let y = inputs.i8s(0).iter().map(|&x| table[(i32::from(x) + 128) as usize]).collect();
        Ok(codes(inputs.tensor(0).shape(), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " scale {:e} zero_point {}", self.qparams.scale(), self.qparams.zero_point())
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Serialization of floats as text, since JSON has no infinities.
mod float_text {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::values::{Quoted, decimal};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
    pub(super) fn serialize<S: Serializer>(value: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        decimal::parse_f32(&text).ok_or_else(|| de::Error::custom(format!("{} is not a float", Quoted(&text))))
    }
}
