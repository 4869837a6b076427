//! The execution of one step.

use std::borrow::Cow;

use super::buffer_pool::BufferPool;
use super::error::CpuError;
use super::linear::Weight;
use super::options::Functions;
use crate::kernels::{self, Int8Output};
use crate::numerics::gemm;
use crate::ops::{
    Binary, ChooseQParams, Clamp, Concat, Dequantize, Int32, IntegerMatMulDynamic, LayerNorm, Mask, Max, Op, Quantize,
    QuantizeDynamic, Slice, Softmax, Sum, ToInteger, Transpose, Unary,
};
use crate::program::{Epilogue, Step, StepOp};
use crate::values::Tensor;
use crate::values::slices::{self, CHECKED, f32s, f32s_mut, i8s, tensor};

/// One step of a run, with everything it needs beside its inputs.
pub(super) struct StepRun<'r> {
    pub(super) step: &'r Step,
    /// The packed weight, if the step has one.
    pub(super) weight: Option<&'r Weight>,
    /// The shape of the output.
    pub(super) shape: Vec<usize>,
    pub(super) functions: Functions,
    pub(super) pool: &'r mut BufferPool,
}

impl StepRun<'_> {
    /// Runs the step. `x` is the first input, whose buffer the step may reuse if it is owned. `rest` are the other inputs.
    pub(super) fn run(self, x: Cow<'_, Tensor>, rest: &[&Tensor]) -> Result<Tensor, CpuError> {
        Ok(match &self.step.op {
            StepOp::QLinear(linear) => match self.weight {
                Some(Weight::Int8(layer)) => {
                    let dynamic_qparams = rest.first().map(|qparams| f32s(qparams));
                    layer.run(linear, i8s(&x), dynamic_qparams, &self.shape, self.pool)
                }
                _ => unreachable!("every int8 layer has a weight"),
            },
            StepOp::QMatMul(m) => {
                let acc = kernels::matmul_i8(&x, rest[0], m.a_zero_point, m.b_zero_point);
                match &m.epilogue {
                    Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                        kernels::requantize(&acc, multiplier, *zero_point, *lo, *hi)
                    }
                    Epilogue::Scale { scale, relu } => kernels::scale_accumulator(&acc, scale, *relu),
                    Epilogue::Dynamic { .. } => unreachable!("{CHECKED}"),
                }
            }
            StepOp::QLut(lut) => kernels::lut(&x, &lut.table),
            StepOp::ToF16 => tensor(self.shape, f32s(&x).iter().map(|&v| half::f16::from_f32(v).to_f32()).collect()),
            StepOp::Op(op) if op.is_integer() => integer(self.step, op, &x, rest)?,
            StepOp::Op(op) => self.operator(op, x, rest)?,
        })
    }

    /// Runs conversions, operators that move values, and those that can fail.
    fn operator(self, op: &Op, own: Cow<'_, Tensor>, rest: &[&Tensor]) -> Result<Tensor, CpuError> {
        let (step, x) = (self.step, &*own);
        Ok(match op {
            Op::Quantize(Quantize { qparams, range }) => {
                let nan = |kernels::NotANumber(index)| CpuError::NotANumber { step: step.name.clone(), index };
                slices::codes(&self.shape, kernels::quantize(f32s(x), &[], qparams, *range).map_err(nan)?)
            }
            Op::Dequantize(Dequantize { qparams }) => tensor(self.shape, kernels::dequantize(i8s(x), &[], qparams)),
            Op::Concat(Concat { axis }) => kernels::concat(&[&[x], rest].concat(), *axis),
            Op::Reshape(_) => kernels::reshape_onto(own.into_owned(), &self.shape),
            Op::Transpose(Transpose { perm }) if x.as_f32().is_some() => {
                kernels::transpose_f32(x, perm, self.pool.take(x.len()))
            }
            Op::Transpose(Transpose { perm }) => kernels::transpose(x, perm),
            &Op::Slice(Slice { axis, start, end }) => kernels::slice(x, axis, start..end),
            Op::ToFloat(_) => tensor(self.shape, kernels::to_float(slices::i32s(x))),
            Op::ToInteger(ToInteger { to }) => kernels::to_integer(x, *to).map_err(no_integer(step))?,
            &Op::Int32(Int32 { op, checked }) => kernels::int32(op, checked, x, rest[0]).map_err(no_integer(step))?,
            &Op::Sum(Sum { axis, checked }) if x.as_i32().is_some() => {
                kernels::sum_i32(x, axis, checked).map_err(no_integer(step))?
            }
            Op::Max(Max { axis }) => kernels::max(x, *axis),
            Op::Embedding(_) => {
                let rows = rest[0].shape()[0];
                kernels::embedding(x, rest[0]).map_err(|kernels::NoSuchRow(index, id)| CpuError::Id {
                    step: step.name.clone(),
                    index,
                    id,
                    rows,
                })?
            }
            op => self.float(op, own, rest),
        })
    }

    /// Runs float arithmetic.
    fn float(self, op: &Op, own: Cow<'_, Tensor>, rest: &[&Tensor]) -> Tensor {
        let Self { weight, shape, functions, pool, .. } = self;
        match *op {
            Op::Linear(_) => {
                let (n, k) = (rest[0].shape()[0], rest[0].shape()[1]);
                let packed = match weight {
                    Some(Weight::F32(packed)) => Some(&**packed),
                    _ => None,
                };
                let m = slices::rows_before_last(own.shape());
                let bias = rest.get(1).map(|b| f32s(b));
                let mut y = pool.take(m * n);
                gemm::linear_into(&mut y, f32s(&own), [m, n, k], f32s(rest[0]), packed, bias);
                tensor(shape, y)
            }
            Op::MatMul(_) => kernels::matmul_f32_into(&own, rest[0], pool.take(shape.iter().product())),
            Op::Add(_) => kernels::zip_f32_onto(own.into_owned(), rest[0], |a, b| a + b),
            Op::Mul(_) => kernels::zip_f32_onto(own.into_owned(), rest[0], |a, b| a * b),
            Op::Div(_) => kernels::zip_f32_onto(own.into_owned(), rest[0], |a, b| a / b),
            Op::Binary(Binary { op }) => kernels::binary(op, own.into_owned(), rest[0]),
            Op::Mask(Mask { inverted }) => kernels::zip_f32_onto(own.into_owned(), rest[0], kernels::mask(inverted)),
            Op::Clamp(Clamp { min, max }) => {
                let mut y = own.into_owned();
                f32s_mut(&mut y).iter_mut().for_each(|v| *v = v.clamp(min, max));
                y
            }
            Op::Sum(Sum { axis, .. }) => kernels::sum(&own, axis),
            Op::Unary(Unary { op }) if functions == Functions::Libm => tensor(shape, kernels::unary(op, f32s(&own))),
            Op::Unary(Unary { op }) => {
                let mut y = own.into_owned();
                kernels::unary_in_place(op, f32s_mut(&mut y));
                y
            }
            Op::Softmax(Softmax { axis }) => {
                let rows = match functions {
                    Functions::Vectors => kernels::softmax_in_place,
                    Functions::Libm => kernels::softmax_rows,
                };
                kernels::along_axis_onto(own.into_owned(), axis, rows)
            }
            Op::LayerNorm(LayerNorm { eps }) => {
                let mut y = own.into_owned();
                kernels::layer_norm_in_place(f32s_mut(&mut y), f32s(rest[0]), f32s(rest[1]), eps);
                y
            }
            _ => unreachable!("{CHECKED}"),
        }
    }
}

/// Runs an operator on quantized values.
fn integer(step: &Step, op: &Op, x: &Tensor, rest: &[&Tensor]) -> Result<Tensor, CpuError> {
    Ok(match *op {
        Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu }) => {
            kernels::matmul_dynamic_i8(x, rest[0], f32s(rest[1]), f32s(rest[2]), relu)
        }
        Op::IntegerAdd(a) => {
            let y = Int8Output { zero_point: a.qparams.zero_point(), lo: a.lo, hi: a.hi };
            kernels::add_i8(x, rest[0], [a.a_zero_point, a.b_zero_point], a.multipliers, y)
        }
        Op::IntegerMul(m) => {
            let y = Int8Output { zero_point: m.qparams.zero_point(), lo: m.lo, hi: m.hi };
            kernels::mul_i8(x, rest[0], [m.a_zero_point, m.b_zero_point], m.multiplier, y)
        }
        Op::ChooseQParams(ChooseQParams { qscheme, range, eps }) => {
            let range_error = |index: usize| {
                let value = f32s(x)[index].to_string();
                CpuError::Range { step: step.name.clone(), index, value }
            };
            kernels::choose_qparams(x, qscheme, range, eps).map_err(range_error)?
        }
        Op::QuantizeDynamic(QuantizeDynamic { range }) => kernels::quantize_dynamic(x, f32s(rest[0]), range),
        Op::DequantizeDynamic(_) => kernels::dequantize_dynamic(x, f32s(rest[0])),
        _ => unreachable!("{CHECKED}"),
    })
}

/// Converts the error of a kernel on integers.
fn no_integer(step: &Step) -> impl Fn(kernels::NoInteger) -> CpuError + '_ {
    |kernels::NoInteger(index)| CpuError::NoInteger { step: step.name.clone(), index }
}

/// Whether a step can write its result into the buffer of its first input.
pub(super) fn is_in_place(op: &StepOp) -> bool {
    match op {
        StepOp::Op(Op::Reshape(_) | Op::Softmax(_) | Op::LayerNorm(_)) => true,
        StepOp::Op(op) => op.is_pointwise() && !op.is_integer(),
        _ => false,
    }
}
