//! One node: from the values of its inputs to its own. Shapes and types were checked when the graph was built, and the
//! given values when the run began.

use super::InterpError;
use crate::graph::{Node, Op};
use crate::kernels::slices::{codes, f32s, i8s, i32s, integers, like, rows_before_last, tensor, with_last};
use crate::kernels::{self, Channels, Codes, Int8Product, Int8Weight, PackedWeight};
use crate::qparams::{QuantRange, TensorQParams};
use crate::tensor::Tensor;

/// A constant weight in the layout of its product.
#[derive(Debug)]
pub(super) enum Packed {
    F32(PackedWeight),
    I8(Int8Weight),
}

impl Packed {
    /// `weight` is `[N, K]`, of a type that a product takes.
    pub(super) fn new(weight: &Tensor) -> Self {
        let (n, k) = (weight.shape()[0], weight.shape()[1]);
        match weight {
            Tensor::I8(_) => Self::I8(Int8Weight::new(i8s(weight), n, k, Int8Product::best(k))),
            _ => Self::F32(PackedWeight::new(f32s(weight), n, k)),
        }
    }
}

pub(super) fn eval(node: &Node, inputs: &[&Tensor], packed: Option<&Packed>) -> Result<Tensor, InterpError> {
    let x = inputs.first().copied();
    let Some(x) = x else {
        // Inputs are fed and constants known; nothing else is without inputs.
        return Err(InterpError::NotFed { node: node.name.clone() });
    };
    Ok(match &node.op {
        Op::Input | Op::Constant(_) | Op::Observe { .. } => x.clone(),
        Op::Linear => {
            let packed = match packed {
                Some(Packed::F32(packed)) => Some(packed),
                _ => None,
            };
            linear(x, inputs[1], packed, inputs.get(2).map(|b| f32s(b)))
        }
        Op::MatMul => kernels::matmul_f32(x, inputs[1]),
        Op::Add => kernels::zip_f32(x, inputs[1], |a, b| a + b),
        Op::Mul => kernels::zip_f32(x, inputs[1], |a, b| a * b),
        Op::Div => kernels::zip_f32(x, inputs[1], |a, b| a / b),
        Op::Binary(op) => kernels::binary(*op, x.clone(), inputs[1]),
        Op::Where => kernels::choose(x, inputs[1], inputs[2]),
        Op::Clamp { min, max } => like(x, f32s(x).iter().map(|v| v.clamp(*min, *max)).collect()),
        Op::ToFloat => like(x, kernels::to_float(i32s(x))),
        Op::ToInteger { to } => kernels::to_integer(x, *to).map_err(no_integer(node))?,
        Op::Int32 { op, checked } => kernels::int32(*op, *checked, x, inputs[1]).map_err(no_integer(node))?,
        Op::AddScalar { value } => like(x, f32s(x).iter().map(|v| v + value).collect()),
        Op::MulScalar { value } => like(x, f32s(x).iter().map(|v| v * value).collect()),
        Op::Unary(op) => like(x, kernels::unary(*op, f32s(x))),
        Op::Reshape { .. } | Op::Flatten { .. } => {
            kernels::reshape(x, &node.shape.with_rows(x.shape().first().copied().unwrap_or(1)))
        }
        Op::Transpose { perm } => kernels::transpose(x, perm),
        Op::Concat { axis } => kernels::concat(inputs, *axis),
        Op::Slice { axis, start, end } => kernels::slice(x, *axis, *start..*end),
        Op::Sum { axis, checked } if x.as_i32().is_some() => {
            kernels::sum_i32(x, *axis, *checked).map_err(no_integer(node))?
        }
        Op::Sum { axis, .. } => kernels::sum(x, *axis),
        Op::Max { axis } => kernels::max(x, *axis),
        Op::Softmax { axis } => kernels::along_axis(x, *axis, kernels::softmax_rows),
        Op::LayerNorm { eps } => like(x, kernels::layer_norm(f32s(x), f32s(inputs[1]), f32s(inputs[2]), *eps)),
        Op::BatchNorm { eps } => {
            let inner = x.shape()[2..].iter().product();
            let statistics = [1, 2, 3, 4].map(|i| f32s(inputs[i]));
            like(x, kernels::batch_norm(f32s(x), inner, statistics, *eps))
        }
        Op::Embedding => kernels::embedding(x, inputs[1]).map_err(|kernels::NoSuchRow(index, id)| InterpError::Id {
            node: node.name.clone(),
            index,
            id,
            rows: inputs[1].shape()[0],
        })?,
        Op::Quantize { qparams, range } => quantize(&node.name, x, qparams, *range)?,
        Op::Dequantize { qparams } => match x {
            Tensor::I32(_) => like(x, kernels::dequantize_i32(i32s(x), x.shape(), qparams)),
            _ => like(x, kernels::dequantize(i8s(x), x.shape(), qparams)),
        },
        Op::ChooseQParams { qscheme, range, eps } => {
            kernels::choose_qparams(x, *qscheme, *range, *eps).map_err(|index| InterpError::Range {
                node: node.name.clone(),
                index,
                value: f32s(x)[index].to_string(),
            })?
        }
        Op::QuantizeDynamic { range } => kernels::quantize_dynamic(x, f32s(inputs[1]), *range),
        Op::DequantizeDynamic => kernels::dequantize_dynamic(x, f32s(inputs[1])),
        Op::IntegerLinear { fraction_bits } => {
            let packed = match packed {
                Some(Packed::I8(packed)) => Some(packed),
                _ => None,
            };
            kernels::integer_linear(x, inputs[1], packed, i32s(inputs[2]), *fraction_bits)
        }
        Op::IntegerMatMul { a_zero_point, b_zero_point } => {
            kernels::matmul_i8(x, inputs[1], *a_zero_point, *b_zero_point)
        }
        Op::IntegerMatMulDynamic { relu } => {
            kernels::matmul_dynamic_i8(x, inputs[1], f32s(inputs[2]), f32s(inputs[3]), *relu)
        }
        Op::Requantize { qparams, lo, hi } => kernels::requantize(x, f32s(inputs[1]), qparams.zero_point(), *lo, *hi),
        Op::ScaleAccumulator { relu } => kernels::scale_accumulator(x, f32s(inputs[1]), *relu),
        Op::ScaleAccumulatorDynamic { relu } => {
            let channels = Channels { weight_sums: i32s(inputs[2]), scales: f32s(inputs[3]), bias: f32s(inputs[4]) };
            kernels::scale_accumulator_dynamic(x, f32s(inputs[1]), channels, *relu)
        }
        Op::IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi } => {
            let y = Codes { zero_point: qparams.zero_point(), lo: *lo, hi: *hi };
            kernels::add_i8(x, inputs[1], [*a_zero_point, *b_zero_point], *multipliers, y)
        }
        Op::IntegerMul { a_zero_point, b_zero_point, multiplier, qparams, lo, hi } => {
            let y = Codes { zero_point: qparams.zero_point(), lo: *lo, hi: *hi };
            kernels::mul_i8(x, inputs[1], [*a_zero_point, *b_zero_point], *multiplier, y)
        }
        Op::Table { .. } => kernels::table(x, i8s(inputs[1])),
    })
}

fn no_integer(node: &Node) -> impl Fn(kernels::NoInteger) -> InterpError + '_ {
    |kernels::NoInteger(index)| InterpError::NoInteger { node: node.name.clone(), index }
}

fn quantize(name: &str, x: &Tensor, qparams: &TensorQParams, range: QuantRange) -> Result<Tensor, InterpError> {
    let quantized = match range {
        QuantRange::INT32 => kernels::quantize_i32(f32s(x), x.shape(), qparams).map(|data| integers(x.shape(), data)),
        _ => kernels::quantize(f32s(x), x.shape(), qparams, range).map(|data| codes(x.shape(), data)),
    };
    quantized.map_err(|kernels::NotANumber(index)| InterpError::NotANumber { node: name.to_owned(), index })
}

fn linear(x: &Tensor, weight: &Tensor, packed: Option<&PackedWeight>, bias: Option<&[f32]>) -> Tensor {
    let (n, k) = (weight.shape()[0], weight.shape()[1]);
    let m = rows_before_last(x.shape());
    tensor(with_last(x.shape(), n), kernels::linear(f32s(x), [m, n, k], f32s(weight), packed, bias))
}
