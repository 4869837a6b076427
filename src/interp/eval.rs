//! One node: from the values of its inputs to its own. Shapes and types were checked when the graph was built, and the
//! given values when the run began.

use super::slices::{f32s, i8s, i32s, like, rows_before_last, tensor, with_last};
use super::{InterpError, broadcast, movement, quantized};
use crate::graph::{Node, Op};
use crate::kernels::{self, Int8Product, Int8Weight, PackedWeight};
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
        Op::MatMul => broadcast::matmul(x, inputs[1]),
        Op::Add => broadcast::zip(x, inputs[1], |a, b| a + b),
        Op::Mul => broadcast::zip(x, inputs[1], |a, b| a * b),
        Op::Unary(op) => like(x, kernels::unary(*op, f32s(x))),
        Op::Reshape { .. } | Op::Flatten { .. } => movement::reshape(x, &node.shape),
        Op::Transpose { perm } => movement::transpose(x, perm),
        Op::Concat { axis } => movement::concat(inputs, *axis),
        Op::Softmax { axis } => movement::along_last(x, *axis, kernels::softmax_rows),
        Op::LayerNorm { eps } => like(x, kernels::layer_norm(f32s(x), f32s(inputs[1]), f32s(inputs[2]), *eps)),
        Op::BatchNorm { eps } => {
            let inner = x.shape()[2..].iter().product();
            let statistics = [1, 2, 3, 4].map(|i| f32s(inputs[i]));
            like(x, kernels::batch_norm(f32s(x), inner, statistics, *eps))
        }
        Op::Embedding => movement::embedding(&node.name, x, inputs[1])?,
        Op::Quantize { qparams, range } => quantized::quantize(&node.name, x, qparams, *range)?,
        Op::Dequantize { qparams } => like(x, kernels::dequantize(i8s(x), x.shape(), qparams)),
        Op::IntegerLinear { fraction_bits } => {
            let packed = match packed {
                Some(Packed::I8(packed)) => Some(packed),
                _ => None,
            };
            quantized::integer_linear(x, inputs[1], packed, i32s(inputs[2]), *fraction_bits)
        }
        Op::Requantize { qparams, lo, hi } => quantized::requantize(x, f32s(inputs[1]), qparams.zero_point(), *lo, *hi),
        Op::ScaleAccumulator { relu } => quantized::scale_accumulator(x, f32s(inputs[1]), *relu),
    })
}

fn linear(x: &Tensor, weight: &Tensor, packed: Option<&PackedWeight>, bias: Option<&[f32]>) -> Tensor {
    let (n, k) = (weight.shape()[0], weight.shape()[1]);
    let m = rows_before_last(x.shape());
    tensor(with_last(x.shape(), n), kernels::linear(f32s(x), [m, n, k], f32s(weight), packed, bias))
}
