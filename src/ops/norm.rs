//! Softmax and normalizations (equation 11).

use std::fmt;

use ndarray::{ArrayViewMut1, Axis, Zip};
use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType, expect_eps, expect_size, inner_axis, rank_error};
use super::operator::Operator;
use crate::numerics::float::{self, rows};
use crate::parallel::*;
use crate::values::slices::{CHECKED, tensor};
use crate::values::{DType, Tensor};

/// Softmax, `e^x / Σ e^x`, along an axis. If all elements are −∞ (all masked), the result is NaN, as in PyTorch. Input: floats of
/// any shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Softmax {
    /// The axis along which the result sums to 1.
    pub axis: usize,
}

impl Operator for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        inner_axis(inputs.shape(0), self.axis)?;
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let Tensor::F32(x) = inputs.tensor(0) else { unreachable!("{CHECKED}") };
        let mut y = x.clone().into_array();
        if !y.is_empty() {
            let softmax = |mut line: ArrayViewMut1<'_, f32>| match line.as_slice_mut() {
                Some(line) => rows::softmax(line),
                None => {
                    let mut copy = line.to_vec();
                    rows::softmax(&mut copy);
                    line.iter_mut().zip(copy).for_each(|(v, y)| *v = y);
                }
            };
            let lines = Zip::from(y.lanes_mut(Axis(self.axis)));
            #[cfg(feature = "threads")]
            lines.par_for_each(softmax);
            #[cfg(not(feature = "threads"))]
            lines.for_each(softmax);
        }
        Ok(y.into())
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " axis {}", self.axis)
    }
}

/// Layer normalization, `(x − mean) / √(variance + eps) · weight + bias`, over the last axes, whose lengths are the shape of weight
/// and bias. Inputs: x, weight, bias.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// Number added to the variance.
    pub eps: f32,
}

impl Operator for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn module_type(&self) -> Option<&'static str> {
        Some("LayerNorm")
    }

    fn parameter_names(&self) -> &'static [&'static str] {
        &["", "weight", "bias"]
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(3)?;
        expect_eps(self.eps)?;
        let (weight, bias) = (inputs.shape(1), inputs.shape(2));
        let result = normalized(inputs)?;
        if bias != weight {
            return Err(OpError::Broadcast { left: weight.clone(), right: bias.clone() });
        }
        Ok(result)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (weight, bias) = (inputs.f32s(1), inputs.f32s(2));
        Ok(by_row(inputs, |row| rows::layer_norm(row, weight, bias, self.eps)))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " eps {:e}", self.eps)
    }
}

/// RMS normalization, `x / √(mean(x²) + eps) · weight`, over the last axes, whose lengths are the shape of the weight. Inputs: x, weight.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RmsNorm {
    /// Number added to the mean of the squares.
    pub eps: f32,
}

impl Operator for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn module_type(&self) -> Option<&'static str> {
        Some("RMSNorm")
    }

    fn parameter_names(&self) -> &'static [&'static str] {
        &["", "weight"]
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(2)?;
        expect_eps(self.eps)?;
        normalized(inputs)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let weight = inputs.f32s(1);
        Ok(by_row(inputs, |row| rows::rms_norm(row, weight, self.eps)))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " eps {:e}", self.eps)
    }
}

/// Infers the result of a normalization over the last axes of input 0, whose lengths are the shape of input 1.
fn normalized(inputs: &Operands<'_>) -> Result<TensorType, OpError> {
    let (x, weight) = (inputs.shape(0), inputs.shape(1));
    let (normalized, lengths) = (weight.fixed_dims(), x.fixed_dims());
    if weight.is_batched() || normalized.is_empty() || normalized.len() > lengths.len() {
        return Err(rank_error("weight", weight, "from 1 to the static axes of the input, none of them the batch"));
    }
    for (&actual, &expected) in normalized.iter().zip(&lengths[lengths.len() - normalized.len()..]) {
        expect_size("normalized length", actual, expected)?;
    }
    Ok(TensorType::new(DType::F32, x.clone()))
}

/// Normalizes the rows of input 0, which have as many elements as input 1.
fn by_row(inputs: &Arguments<'_>, normalize: impl Fn(&mut [f32]) + Sync + Send) -> Tensor {
    let mut y = inputs.f32s(0).to_vec();
    let n = inputs.f32s(1).len();
    if n > 0 {
        y.par_chunks_exact_mut(n).with_min_len((1 << 14) / n).for_each(normalize);
    }
    tensor(inputs.tensor(0).shape().to_vec(), y)
}

/// Batch normalization with fixed statistics, `(x − mean[c]) / √(variance[c] + eps) · weight[c] + bias[c]`, where `c` indexes axis 1,
/// computed as one product and one sum. Inputs: x, mean, variance, weight, bias, all but x of shape `[C]`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    /// Number added to the variance.
    pub eps: f32,
}

impl Operator for BatchNorm {
    fn name(&self) -> &'static str {
        "batch_norm"
    }

    fn module_type(&self) -> Option<&'static str> {
        Some("BatchNorm")
    }

    fn parameter_names(&self) -> &'static [&'static str] {
        &["", "running_mean", "running_var", "weight", "bias"]
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(5)?;
        expect_eps(self.eps)?;
        let x = inputs.shape(0);
        let channels = x.axis(1).ok_or_else(|| rank_error("input", x, "2 or more"))?;
        (1..5).try_for_each(|input| {
            inputs.expect_fixed_rank(input, "statistics", 1, "1")?;
            inputs.expect_vector(input, "channels", channels)
        })?;
        Ok(TensorType::new(DType::F32, x.clone()))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let x = inputs.tensor(0);
        let [mean, variance, weight, bias] = [1, 2, 3, 4].map(|input| inputs.f32s(input));
        let inner: usize = x.shape()[2..].iter().product();
        let mut y = inputs.f32s(0).to_vec();
        if inner > 0 {
            y.par_chunks_exact_mut(inner).enumerate().for_each(|(row, y)| {
                let c = row % mean.len();
                let (factor, offset) = self.factor_and_offset(mean[c], variance[c], weight[c], bias[c]);
                y.iter_mut().for_each(|y| *y = float::add(float::mul(*y, factor), offset));
            });
        }
        Ok(tensor(x.shape().to_vec(), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " eps {:e}", self.eps)
    }

    fn is_step(&self) -> bool {
        false
    }
}

impl BatchNorm {
    /// Computes factor and offset of a channel, whose norm is `x · factor + offset`, in `f64`, and rounds each once:
    /// `factor = weight / √(variance + eps)`, `offset = bias − mean · factor`.
    pub(crate) fn factor_and_offset(self, mean: f32, variance: f32, weight: f32, bias: f32) -> (f32, f32) {
        let factor = f64::from(weight) / (f64::from(variance) + f64::from(self.eps)).sqrt();
        let offset = f64::from(bias) - f64::from(mean) * factor;
        (factor as f32, offset as f32)
    }
}
