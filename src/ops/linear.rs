//! Linear layers in float, and in integers with the epilogues of their accumulator.

mod groups;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{EvalError, OpError};
use super::operands::{
    Arguments, Operands, TensorType, expect_int8_range, expect_size, inner_axis, parameter, rank_error,
};
use super::operator::{Aligned, Operator, moved};
use crate::numerics::float::products::{factors, product, transposed_factors};
use crate::numerics::{self, FloatProducts, FloatProductsRecord, MAX_FRACTION_BITS, gemm};
use crate::parallel::*;
use crate::values::slices::{codes, integers, rows_before_last, tensor, with_last};
use crate::values::{DType, QParams, Shape, Tensor};
pub use groups::IntegerLinearGroups;

/// Linear layer, `x[…, K] · w[N, K]ᵀ (+ b[N])`, all floats. Inputs: x, w, and b if the layer has a bias. Output: `[…, N]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "Option<FloatProductsRecord>", into = "Option<FloatProductsRecord>")]
pub struct Linear {
    /// How floats are multiplied and added.
    pub products: FloatProducts,
}

impl From<Option<FloatProductsRecord>> for Linear {
    fn from(record: Option<FloatProductsRecord>) -> Self {
        Self { products: record.into() }
    }
}

impl From<Linear> for Option<FloatProductsRecord> {
    fn from(operator: Linear) -> Self {
        operator.products.into()
    }
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn module_type(&self) -> Option<&'static str> {
        Some("Linear")
    }

    fn parameter_names(&self) -> &'static [&'static str] {
        &["", "weight", "bias"]
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(if inputs.len() == 3 { 3 } else { 2 })?;
        Ok(TensorType::new(DType::F32, linear_shape(inputs)?))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let [m, n, k] = sizes(inputs);
        let bias = inputs.tensors.get(2).map(|_| inputs.f32s(2));
        let (x, weight) = (inputs.f32s(0), inputs.f32s(1));
        let y = match self.products {
            FloatProducts::Full => gemm::linear(x, [m, n, k], weight, inputs.packed, bias),
            FloatProducts::Reproducible => {
                let mut y = vec![0.0; m * n];
                product(&mut y, &factors(x), &transposed_factors(weight, n, k), [n, k], bias);
                y
            }
        };
        Ok(tensor(with_last(inputs.tensor(0).shape(), n), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_products(f, self.products)
    }
}

impl Linear {
    /// Whether [`Arguments::packed`] is of use.
    pub(crate) fn packs_weight(self) -> bool {
        self.products == FloatProducts::Full
    }
}

/// Writes the kind of products unless they are full.
pub(super) fn write_products(f: &mut fmt::Formatter<'_>, products: FloatProducts) -> fmt::Result {
    match products {
        FloatProducts::Full => Ok(()),
        FloatProducts::Reproducible => write!(f, " {products}"),
    }
}

/// The accumulator of an int8 linear layer (equation 4), in `i32`. Inputs: x `[…, K]` int8, w `[N, K]` int8, bias `[N]` i32. Output:
/// `[…, N]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegerLinear {
    /// Number of fraction bits, `p` of equation 4: 0 to 12.
    pub fraction_bits: u32,
}

impl Operator for IntegerLinear {
    fn name(&self) -> &'static str {
        "integer_linear"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8, DType::I8, DType::I32])?;
        if self.fraction_bits > MAX_FRACTION_BITS {
            return Err(parameter("fraction_bits", self.fraction_bits, "must be at most 12 (equation 4)"));
        }
        Ok(TensorType::new(DType::I32, linear_shape(inputs)?))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let [m, n, k] = sizes(inputs);
        let mut acc = gemm::integer_linear(inputs.i8s(0), inputs.i8s(1), [m, n, k]);
        let bias = inputs.i32s(2);
        if n > 0 {
            acc.par_chunks_exact_mut(n).for_each(|row| {
                // The bound of equation 4 keeps this inside i32. A graph that breaks the bound wraps around.
                row.iter_mut().zip(bias).for_each(|(acc, &b)| *acc = (*acc << self.fraction_bits).wrapping_add(b));
            });
        }
        Ok(integers(&with_last(inputs.tensor(0).shape(), n), acc))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " fraction_bits {}", self.fraction_bits)
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Requantization of an accumulator, `i32 → int8` (equation 5). Inputs: acc `[…, N]`, multiplier `[N]`. The channels of an image need
/// not be the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Requantize {
    /// Scale and zero point of the result. Only the zero point enters the arithmetic.
    pub qparams: QParams,
    /// Smallest quantized value. A fused ReLU has raised it to the zero point (equation 6).
    pub lo: i32,
    /// Largest quantized value.
    pub hi: i32,
    /// The axis of the accumulator along which the multipliers lie; `None` for the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ch_axis: Option<usize>,
}

impl Operator for Requantize {
    fn name(&self) -> &'static str {
        "requantize"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        expect_int8_range(self.lo, self.hi)?;
        Ok(TensorType::new(DType::I8, accumulator_shape(inputs, self.ch_axis)?))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        self.ch_axis = Some(moved(perm, self.ch_axis.unwrap_or(perm.len() - 1)));
        Some(Aligned::First)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let zero_point = self.qparams.zero_point();
        let rule = |acc, multiplier| numerics::requantize(acc, multiplier, zero_point, self.lo, self.hi) as i8;
        Ok(codes(inputs.tensor(0).shape(), each_channel(inputs, self.ch_axis, rule)))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_range(f, self.qparams, self.lo, self.hi)?;
        write_channels(f, self.ch_axis)
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Scaling of an accumulator, `i32 → f32` (equation 7, static). Inputs: acc `[…, N]`, scale `[N]`. The channels of an image need not
/// be the last axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleAccumulator {
    /// Whether a ReLU is fused: negative results become 0.
    pub relu: bool,
    /// The axis of the accumulator along which the scales lie; `None` for the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ch_axis: Option<usize>,
}

impl Operator for ScaleAccumulator {
    fn name(&self) -> &'static str {
        "scale_accumulator"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        Ok(TensorType::new(DType::F32, accumulator_shape(inputs, self.ch_axis)?))
    }

    fn permute(&mut self, perm: &[usize]) -> Option<Aligned> {
        self.ch_axis = Some(moved(perm, self.ch_axis.unwrap_or(perm.len() - 1)));
        Some(Aligned::First)
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let y = each_channel(inputs, self.ch_axis, |acc, scale| numerics::scale_accumulator(acc, scale, self.relu));
        Ok(tensor(inputs.tensor(0).shape().to_vec(), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.relu { " relu" } else { "" })?;
        write_channels(f, self.ch_axis)
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Scaling of an accumulator, `i32 → f32` (equation 7, dynamic). Inputs: acc `[…, N]`, the dynamic qparams of x, weight sums `[N]`
/// (i32), weight scales `[N]`, bias `[N]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleAccumulatorDynamic {
    /// Whether a ReLU is fused: negative results become 0.
    pub relu: bool,
}

impl Operator for ScaleAccumulatorDynamic {
    fn name(&self) -> &'static str {
        "scale_accumulator_dynamic"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I32, DType::F32, DType::I32, DType::F32, DType::F32])?;
        super::quantize::expect_dynamic_qparams(inputs, 1)?;
        let n = inputs.features()?;
        for (input, what) in [(2, "weight sums"), (3, "weight scales"), (4, "bias length")] {
            inputs.expect_vector(input, what, n)?;
        }
        Ok(TensorType::new(DType::F32, inputs.shape(0).clone()))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (sums, scales, bias) = (inputs.i32s(2), inputs.f32s(3), inputs.f32s(4));
        let acc = inputs.i32s(0);
        let n = scales.len().max(1);
        let mut y = vec![0f32; acc.len()];
        y.par_chunks_exact_mut(n).zip(acc.par_chunks_exact(n)).enumerate().for_each(|(row, (y, acc))| {
            let x = super::quantize::qparams_of_row(inputs.f32s(1), row);
            for (channel, (y, &acc)) in y.iter_mut().zip(acc).enumerate() {
                let weight = (scales[channel], sums[channel]);
                *y = numerics::scale_accumulator_dynamic(acc, x, weight, bias[channel], self.relu);
            }
        });
        Ok(tensor(inputs.tensor(0).shape().to_vec(), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.relu { " relu" } else { "" })
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Infers the shape `[…, N]` of x `[…, K]`, w `[N, K]` and, if given, bias `[N]`.
fn linear_shape(inputs: &Operands<'_>) -> Result<Shape, OpError> {
    inputs.expect_fixed_rank(1, "weight", 2, "2")?;
    let (x, w) = (inputs.shape(0), inputs.shape(1).fixed_dims());
    let (n, k) = (w[0], w[1]);
    expect_size("input features", inputs.features()?, k)?;
    if inputs.len() > 2 {
        inputs.expect_vector(2, "bias length", n)?;
    }
    Ok(x.with_last(n))
}

/// Returns the shape of an accumulator `[…, N]`, and checks that there is one factor for each channel.
fn accumulator_shape(inputs: &Operands<'_>, ch_axis: Option<usize>) -> Result<Shape, OpError> {
    inputs.expect_dtypes(&[DType::I32, DType::F32])?;
    inputs.expect_fixed_rank(1, "factors", 1, "1")?;
    let shape = inputs.shape(0);
    let n = match ch_axis {
        Some(axis) => inner_axis(shape, axis)?,
        None => shape.last().ok_or_else(|| rank_error("input", shape, "a last axis of static length"))?,
    };
    inputs.expect_vector(1, "factors", n)?;
    Ok(shape.clone())
}

/// Returns M, N and K of a linear layer.
fn sizes(inputs: &Arguments<'_>) -> [usize; 3] {
    let weight = inputs.tensor(1).shape();
    [rows_before_last(inputs.tensor(0).shape()), weight[0], weight[1]]
}

/// Computes `rule(acc, factor)` of each accumulator and the factor of its channel.
fn each_channel<T: Send>(
    inputs: &Arguments<'_>,
    ch_axis: Option<usize>,
    rule: impl Fn(i32, f32) -> T + Sync + Send,
) -> Vec<T> {
    let (factors, shape) = (inputs.f32s(1), inputs.tensor(0).shape());
    let inner: usize = ch_axis.map_or(1, |axis| shape[axis + 1..].iter().product());
    let of = |at: usize| factors[at / inner % factors.len()];
    inputs.i32s(0).par_iter().enumerate().map(|(at, &acc)| rule(acc, of(at))).collect()
}

/// Writes the axis of the channels unless it is the last.
fn write_channels(f: &mut fmt::Formatter<'_>, ch_axis: Option<usize>) -> fmt::Result {
    ch_axis.map_or(Ok(()), |axis| write!(f, " ch_axis {axis}"))
}

/// Writes the parameters of an operator whose result is int8.
pub(super) fn write_range(f: &mut fmt::Formatter<'_>, qparams: QParams, lo: i32, hi: i32) -> fmt::Result {
    write!(f, " scale {:e} zero_point {} range {lo}..={hi}", qparams.scale(), qparams.zero_point())
}
