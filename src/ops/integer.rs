//! Operators on plain integers, which have no scale: ids, lengths, masks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType, broadcast};
use super::operator::{Aligned, Operator};
use crate::numerics::{Int32Op, IntegerType, truncate};
use crate::values::slices::{CHECKED, integers, tensor};
use crate::values::{DType, Tensor};

/// Conversion `i32 → f32`, to nearest, ties to even. Input: `i32` of any shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToFloat;

impl Operator for ToFloat {
    fn name(&self) -> &'static str {
        "to_float"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I32])?;
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok(tensor(inputs.tensor(0).shape().to_vec(), inputs.i32s(0).iter().map(|&v| v as f32).collect()))
    }
}

/// Cast of floats or `i32` to an integer type, whose values the result holds as `i32`. It rounds toward 0, and keeps the low bits of
/// the integer. A float that does not fit `i32` is an error on the host; on a GPU, the result is not defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToInteger {
    /// The type that is cast to.
    pub to: IntegerType,
}

impl Operator for ToInteger {
    fn name(&self) -> &'static str {
        "to_integer"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        inputs.expect_one_of(0, &[DType::F32, DType::I32])?;
        Ok(TensorType::new(DType::I32, inputs.shape(0).clone()))
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let x = inputs.tensor(0);
        let cast =
            |(index, &v): (usize, &f32)| truncate(v).map(|v| self.to.wrap(v)).ok_or(EvalError::NotAnInteger { index });
        let y: Result<Vec<i32>, EvalError> = match x {
            Tensor::I32(x) => Ok(x.iter().map(|&v| self.to.wrap(v)).collect()),
            _ => inputs.f32s(0).iter().enumerate().map(cast).collect(),
        };
        Ok(integers(x.shape(), y?))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.to)
    }
}

/// Elementwise arithmetic of `i32`. Inputs: a and b, broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Int32 {
    /// The function.
    pub op: Int32Op,
    /// Whether a result beyond `i32` is an error on the host, since the integers stand for wider ones. Otherwise, and on a GPU, the
    /// result wraps around. A division by 0 is an error on the host in any case; a GPU returns the dividend.
    pub checked: bool,
}

impl Operator for Int32 {
    fn name(&self) -> &'static str {
        "int32"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I32, DType::I32])?;
        Ok(TensorType::new(DType::I32, broadcast(inputs.shape(0), inputs.shape(1))?))
    }

    fn permute(&mut self, _: &[usize]) -> Option<Aligned> {
        Some(Aligned::All)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (Tensor::I32(a), Tensor::I32(b)) = (inputs.tensor(0), inputs.tensor(1)) else { unreachable!("{CHECKED}") };
        let y = super::elementwise::zip(a, b, |a, b| self.op.eval(a, b, self.checked));
        if let Some(index) = y.elements().iter().position(Option::is_none) {
            return Err(EvalError::NotAnInteger { index });
        }
        Ok(integers(y.shape(), y.iter().copied().flatten().collect()))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}{}", self.op, if self.checked { " checked" } else { "" })
    }
}
