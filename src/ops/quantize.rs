//! Conversions between floats and quantized values, with static and dynamic quantization parameters (qparams).

mod loops;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::loops::{each_channel, each_row, first_nan};
pub(super) use self::loops::{for_each_channel, qparams_of_row};
use super::error::{EvalError, OpError};
use super::operands::{Arguments, Operands, TensorType, parameter, rank_error};
use super::operator::{Aligned, Operator, moved};
use crate::numerics::{self, QuantizeRule};
use crate::values::slices::{codes, integers, tensor, with_last};
use crate::values::{
    DType, Granularity, MAX_SCALE, MIN_SCALE, Number, QParams, QScheme, QuantRange, Shape, Symmetry, Tensor,
    TensorQParams,
};

/// Quantization `f32 → int8` (equation 2), or to `i32` with [`QuantRange::INT32`]. Input: floats of any shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantize {
    /// Scale and zero point, of the tensor or of each channel.
    pub qparams: TensorQParams,
    /// The range of quantized values.
    pub range: QuantRange,
    /// How floats are scaled.
    #[serde(default, skip_serializing_if = "QuantizeRule::is_default")]
    pub rule: QuantizeRule,
}

impl Quantize {
    /// Creates a quantization that multiplies by the reciprocal of the scale, as PyTorch does.
    #[must_use]
    pub fn new(qparams: impl Into<TensorQParams>, range: QuantRange) -> Self {
        Self { qparams: qparams.into(), range, rule: QuantizeRule::Multiply }
    }
}

impl Operator for Quantize {
    fn name(&self) -> &'static str {
        match self.qparams {
            TensorQParams::PerTensor(_) => "quantize_per_tensor",
            TensorQParams::PerChannel { .. } => "quantize_per_channel",
            TensorQParams::PerGroup(_) => "quantize_per_group",
        }
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        inputs.expect_channels(&self.qparams)?;
        self.qparams.check_range(self.range)?;
        if self.range == QuantRange::INT32 {
            expect_zeros(&self.qparams)?;
        }
        Ok(TensorType::new(self.range.dtype(), inputs.shape(0).clone()))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        permute(&mut self.qparams, perm)?;
        Some(Aligned::First)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (x, shape) = (inputs.f32s(0), inputs.tensor(0).shape());
        if let Some(index) = first_nan(x) {
            return Err(EvalError::NotANumber { index });
        }
        if self.range == QuantRange::INT32 {
            // The conversion saturates. The zero point is 0.
            let rule = |v: f32, q: QParams| self.rule.steps(v, q).round_ties_even() as i32;
            return Ok(integers(shape, each_channel(x, shape, &self.qparams, rule)));
        }
        let (lo, hi) = (self.range.quant_min(), self.range.quant_max());
        let q = each_channel(
            x,
            shape,
            &self.qparams,
            #[inline(always)]
            |v, q| self.rule.quantize(v, q, lo, hi) as i8,
        );
        Ok(codes(shape, q))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {} range {}", self.qparams, self.range)?;
        if self.rule.is_default() { Ok(()) } else { write!(f, " {}", self.rule) }
    }
}

/// Dequantization `int8 → f32` (equation 1), or `i32 → f32` for biases. Input: quantized values of any shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dequantize {
    /// Scale and zero point, of the tensor or of each channel.
    pub qparams: TensorQParams,
}

impl Operator for Dequantize {
    fn name(&self) -> &'static str {
        match self.qparams {
            TensorQParams::PerTensor(_) => "dequantize_per_tensor",
            TensorQParams::PerChannel { .. } => "dequantize_per_channel",
            TensorQParams::PerGroup(_) => "dequantize_per_group",
        }
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        inputs.expect_one_of(0, &[DType::I8, DType::I32])?;
        inputs.expect_channels(&self.qparams)?;
        if inputs.dtype(0) == DType::I32 {
            expect_zeros(&self.qparams)?;
        }
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        permute(&mut self.qparams, perm)?;
        Some(Aligned::First)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let shape = inputs.tensor(0).shape();
        let y = match inputs.tensor(0) {
            // Integers of 32 bits are biases, whose zero point is 0.
            Tensor::I32(x) => each_channel(x.elements(), shape, &self.qparams, |v, q| v as f32 * q.scale()),
            _ => each_channel(inputs.i8s(0), shape, &self.qparams, |v, q| {
                numerics::dequantize(v.into(), q.scale(), q.zero_point())
            }),
        };
        Ok(tensor(shape.to_vec(), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.qparams)
    }
}

/// Checks that `i32` values, which are biases, have the zero point 0.
fn expect_zeros(qparams: &TensorQParams) -> Result<(), OpError> {
    match qparams.channels().iter().find(|qparams| qparams.zero_point() != 0) {
        Some(qparams) => Err(parameter("zero point", qparams.zero_point(), "must be 0 for i32")),
        None => Ok(()),
    }
}

/// Dynamic qparams of a float tensor (equation 10): scale and zero point, both as floats. Output: `[2]` for the tensor, or `[…, 2]` for
/// each row of the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChooseQParams {
    /// Scheme, per tensor or per token.
    pub qscheme: QScheme,
    /// The range of quantized values.
    pub range: QuantRange,
    /// The smallest scale.
    pub eps: f32,
}

impl Operator for ChooseQParams {
    fn name(&self) -> &'static str {
        "choose_qparams"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        if !(MIN_SCALE..=MAX_SCALE).contains(&self.eps) {
            return Err(parameter("eps", Number(self.eps), "must be a usable scale"));
        }
        self.qscheme.check_range(self.range)?;
        let shape = match (self.qscheme.granularity, self.qscheme.symmetry) {
            (Granularity::Tensor, _) => Shape::fixed(&[2]),
            (Granularity::Token, Symmetry::Affine) => per_token(inputs)?,
            _ => return Err(parameter("scheme", self.qscheme, "is not chosen at run time")),
        };
        Ok(TensorType::new(DType::F32, shape))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (x, shape) = (inputs.f32s(0), inputs.tensor(0).shape());
        let (shape, row) = if self.qscheme.is_per_token() {
            (with_last(shape, 2), shape.last().copied().unwrap_or(1))
        } else {
            (vec![2], x.len())
        };
        if row == 0 {
            return Ok(tensor(shape.clone(), [self.eps, 0.0].repeat(shape.iter().product::<usize>() / 2)));
        }
        let qparams = x.chunks_exact(row).enumerate().map(|(at, values)| self.choose(at * row, values));
        Ok(tensor(shape, qparams.collect::<Result<Vec<_>, _>>()?.concat()))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {} range {} eps {:e}", self.qscheme, self.range, self.eps)
    }

    fn is_integer(&self) -> bool {
        true
    }
}

impl ChooseQParams {
    /// Computes scale and zero point of values, the first of which has row-major index `first`.
    fn choose(&self, first: usize, values: &[f32]) -> Result<[f32; 2], EvalError> {
        let widen = |(min, max): (f32, f32), &v: &f32| (if v < min { v } else { min }, if v > max { v } else { max });
        let (min, max) = values.iter().fold((0.0, 0.0), widen);
        let (lo, hi) = (self.range.quant_min(), self.range.quant_max());
        let rule = match (self.qscheme.granularity, self.qscheme.symmetry) {
            (Granularity::Token, _) => numerics::per_token_qparams,
            (_, Symmetry::Symmetric) => numerics::symmetric_qparams,
            (_, Symmetry::Affine) => numerics::affine_qparams,
        };
        let (scale, zero_point) = rule(min, max, lo, hi, self.eps);
        // A range that overflows f32 is refused like values that are not finite.
        let largest = |v: &f32| !scale.is_finite() && v.abs() >= max.max(-min);
        match values.iter().position(|v| !v.is_finite()).or_else(|| values.iter().position(largest)) {
            None => Ok([scale, zero_point as f32]),
            Some(at) => Err(EvalError::Range { index: first + at, value: Number(values[at]).to_string() }),
        }
    }
}

/// Quantization `f32 → int8` (equation 2). Inputs: x, and its dynamic qparams, computed by [`ChooseQParams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantizeDynamic {
    /// The range of quantized values, inside int8.
    pub range: QuantRange,
}

impl Operator for QuantizeDynamic {
    fn name(&self) -> &'static str {
        "quantize_dynamic"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(2)?;
        expect_dynamic_qparams(inputs, 1)?;
        if self.range == QuantRange::INT32 {
            return Err(parameter("quantized range", self.range, "must fit int8"));
        }
        Ok(TensorType::new(DType::I8, inputs.shape(0).clone()))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (lo, hi) = (self.range.quant_min(), self.range.quant_max());
        let rule = |v: f32, (scale, zero_point)| numerics::quantize(v, 1.0 / scale, zero_point, lo, hi) as i8;
        let shape = inputs.tensor(0).shape();
        Ok(codes(shape, each_row(inputs.f32s(0), shape, inputs.f32s(1), rule)))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " range {}", self.range)
    }

    fn is_integer(&self) -> bool {
        true
    }
}

/// Dequantization `int8 → f32` (equation 1). Inputs: quantized values, and their dynamic qparams, computed by [`ChooseQParams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DequantizeDynamic;

impl Operator for DequantizeDynamic {
    fn name(&self) -> &'static str {
        "dequantize_dynamic"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8, DType::F32])?;
        expect_dynamic_qparams(inputs, 1)?;
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let rule = |v: i8, (scale, zero_point)| numerics::dequantize(v.into(), scale, zero_point);
        let shape = inputs.tensor(0).shape();
        Ok(tensor(shape.to_vec(), each_row(inputs.i8s(0), shape, inputs.f32s(1), rule)))
    }

    fn is_integer(&self) -> bool {
        true
    }
}

/// Moves the channel axis of a tensor whose axes are permuted. Groups lie along the last axis, in row-major order.
fn permute(qparams: &mut TensorQParams, perm: &[usize]) -> Option<()> {
    match qparams {
        TensorQParams::PerTensor(_) => {}
        TensorQParams::PerChannel { ch_axis, .. } => *ch_axis = moved(perm, *ch_axis),
        TensorQParams::PerGroup(_) => return None,
    }
    Some(())
}

/// Checks that input `at` has the shape of dynamic qparams of input 0, for the tensor or for each row.
pub(super) fn expect_dynamic_qparams(inputs: &Operands<'_>, at: usize) -> Result<(), OpError> {
    let qparams = inputs.shape(at);
    if *qparams == Shape::fixed(&[2]) || *qparams == per_token(inputs)? {
        return Ok(());
    }
    Err(OpError::Broadcast { left: inputs.shape(0).clone(), right: qparams.clone() })
}

/// Returns the shape of dynamic qparams for each row of input 0.
fn per_token(inputs: &Operands<'_>) -> Result<Shape, OpError> {
    let x = inputs.shape(0);
    x.last().ok_or_else(|| rank_error("input", x, "a last axis of static length"))?;
    Ok(x.with_last(2))
}
