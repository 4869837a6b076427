//! Reductions along an axis.

use std::fmt;

use ndarray::{Axis, Zip};
use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType, inner_axis, parameter, without_axis};
use super::operator::Operator;
use crate::numerics;
use crate::numerics::float::rows;
use crate::values::slices::CHECKED;
use crate::values::{DType, Tensor};

/// The sum of the elements along an axis, which the result lacks. Input: floats or `i32`. Floats are added in the order of equation 11:
/// along the last axis by 64 partial sums, along another in blocks of 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// The axis, which is not the batch.
    pub axis: usize,
    /// Whether a sum of `i32` that does not fit `i32` is an error on the host, as for [`Int32`](super::Int32). Otherwise, and on a GPU,
    /// it wraps around. Sums of floats ignore this flag.
    pub checked: bool,
}

impl Operator for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        inputs.expect_one_of(0, &[DType::F32, DType::I32])?;
        inner_axis(inputs.shape(0), self.axis)?;
        Ok(TensorType::new(inputs.dtype(0), without_axis(inputs.shape(0), self.axis)))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let axis = Axis(self.axis);
        let sums = match inputs.tensor(0) {
            Tensor::F32(x) => {
                let is_last = self.axis + 1 == x.shape().len();
                let sum = |line: ndarray::ArrayView1<'_, f32>| {
                    let (line, mut sum) = (line.to_vec(), [0.0]);
                    if is_last {
                        return rows::sum(&line);
                    }
                    rows::sum_columns(&line, &mut sum);
                    sum[0]
                };
                return Ok(Zip::from(x.array().lanes(axis)).map_collect(sum).into());
            }
            Tensor::I32(x) => {
                Zip::from(x.array().lanes(axis)).map_collect(|line| line.iter().map(|&v| i64::from(v)).sum::<i64>())
            }
            _ => unreachable!("{CHECKED}"),
        };
        if let Some(index) = sums.iter().position(|&sum| self.checked && i32::try_from(sum).is_err()) {
            return Err(EvalError::NotAnInteger { index });
        }
        Ok(sums.mapv(|sum| sum as i32).into())
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " axis {}{}", self.axis, if self.checked { " checked" } else { "" })
    }
}

/// The largest element along an axis, which the result lacks. Input: floats, quantized values or `i32`. The result is NaN if an element
/// is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Max {
    /// The axis, which is not the batch and not empty.
    pub axis: usize,
}

impl Operator for Max {
    fn name(&self) -> &'static str {
        "max"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        inputs.expect_one_of(0, &[DType::F32, DType::I8, DType::I32])?;
        if inner_axis(inputs.shape(0), self.axis)? == 0 {
            return Err(parameter("length of the axis", 0, "must be at least 1: an empty axis has no largest element"));
        }
        Ok(TensorType::new(inputs.dtype(0), without_axis(inputs.shape(0), self.axis)))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let axis = Axis(self.axis);
        Ok(match inputs.tensor(0) {
            Tensor::F32(x) => x.array().fold_axis(axis, f32::NEG_INFINITY, |&a, &b| numerics::maximum(a, b)).into(),
            Tensor::I8(x) => x.array().fold_axis(axis, i8::MIN, |&a, &b| a.max(b)).into(),
            Tensor::I32(x) => x.array().fold_axis(axis, i32::MIN, |&a, &b| a.max(b)).into(),
            Tensor::I64(_) => unreachable!("{CHECKED}"),
        })
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " axis {}", self.axis)
    }

    fn moves_values(&self) -> bool {
        true
    }
}
