//! The closed set of operations.

use std::sync::Arc;

use crate::numerics::AddMultipliers;
pub use crate::numerics::{BinaryOp, Int32Op, IntegerType, UnaryOp};
use crate::qparams::{QParams, QScheme, QuantRange, TensorQParams};
use crate::tensor::Tensor;

/// Names an observer of a prepared graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObserverId(pub usize);

/// What a node computes. Shapes are written with `…` for any number of leading axes.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A value that the caller provides.
    Input,
    /// A value that the graph holds.
    Constant(Arc<Tensor>),
    /// `x[…, K] · w[N, K]ᵀ (+ b[N])`. Inputs: x, w, and b unless it has no bias.
    Linear,
    /// `a[…, M, K] · b[…, K, N]`, leading axes broadcast.
    MatMul,
    /// Elementwise sum of two tensors, broadcast.
    Add,
    /// Elementwise product of two tensors, broadcast.
    Mul,
    /// Elementwise quotient of two tensors, broadcast.
    Div,
    /// Of each element, one of two: inputs are a condition, `a` and `b`, broadcast, all floats. `a` where the condition is not 0
    /// (so that NaN counts as true), else `b`: chosen, so that NaN and infinities of what is not taken do not show.
    Where,
    /// The sum of each element and one number. Prepare turns the number into a constant.
    AddScalar {
        /// The number.
        value: f32,
    },
    /// The product of each element and one number. Prepare turns the number into a constant.
    MulScalar {
        /// The number.
        value: f32,
    },
    /// A function of each element.
    Unary(UnaryOp),
    /// A comparison of each pair of elements, or the larger or smaller of them, broadcast.
    Binary(BinaryOp),
    /// Each element, but at least `min` and at most `max`; either may be infinite.
    Clamp {
        /// The smallest result.
        min: f32,
        /// The largest result; not below `min`.
        max: f32,
    },
    /// `i32 → f32`, to nearest: masks and other numbers that are not ids.
    ToFloat,
    /// `f32 → i32` or `i32 → i32`: the fraction is cut off, and of what remains the low bits that the type has are kept, as in a
    /// cast between integers. On the host, a float that is no `i32` is an error; what a GPU makes of it is not defined.
    ToInteger {
        /// The type whose values result.
        to: IntegerType,
    },
    /// Arithmetic of two `i32` tensors, broadcast.
    Int32 {
        /// What is computed.
        op: Int32Op,
        /// Whether the integers stand for wider ones, so that a result beyond `i32` is an error on the host. Otherwise, and on a
        /// GPU, it wraps around. A division by 0 is an error on the host in any case; a GPU makes the dividend of it.
        checked: bool,
    },
    /// The same elements in the same order. `dims` are the static dimensions: `rows` stays in front.
    Reshape {
        /// Static dimensions of the result.
        dims: Vec<usize>,
    },
    /// Merges the axes from `start_axis` to the last into one.
    Flatten {
        /// The first axis merged.
        start_axis: usize,
    },
    /// Axis `i` of the result is axis `perm[i]` of the input.
    Transpose {
        /// A permutation of all axes.
        perm: Vec<usize>,
    },
    /// Joins two or more tensors along an axis.
    Concat {
        /// The axis joined.
        axis: usize,
    },
    /// The elements `start..end` along an axis, of any type.
    Slice {
        /// The axis.
        axis: usize,
        /// The first element taken.
        start: usize,
        /// Behind the last element taken.
        end: usize,
    },
    /// The largest element along an axis, which the result lacks; of floats, codes or `i32`.
    Max {
        /// The axis.
        axis: usize,
    },
    /// The sum of the elements along an axis, which the result lacks; of floats or of `i32`.
    Sum {
        /// The axis.
        axis: usize,
        /// Of `i32`, as for [`Int32`](Self::Int32): whether a sum beyond `i32` is an error on the host. Otherwise, and on a GPU, it
        /// wraps around. Of floats, it says nothing.
        checked: bool,
    },
    /// `e^x / Σ e^x` along an axis.
    Softmax {
        /// The axis that sums to 1.
        axis: usize,
    },
    /// Normalizes over the last axes, those of the weight. Inputs: x, weight, bias.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// Inference form over axis 1. Inputs: x, mean, variance, weight, bias, all but x of shape `[C]`.
    BatchNorm {
        /// Added to the variance.
        eps: f32,
    },
    /// Rows of a table. Inputs: ids (`i32`), table `[V, D]`; the result appends `D` to the shape of ids.
    Embedding,
    /// The input, seen by an observer on its way.
    Observe {
        /// Which observer of the prepared graph.
        observer: ObserverId,
    },
    /// `f32 → int8`, equation 2; to `i32` with [`QuantRange::INT32`].
    Quantize {
        /// Scale and zero point, of the tensor or of each channel.
        qparams: TensorQParams,
        /// The codes.
        range: QuantRange,
    },
    /// `int8 → f32`, equation 1; biases also from `i32`.
    Dequantize {
        /// Scale and zero point, of the tensor or of each channel.
        qparams: TensorQParams,
    },
    /// Scale and zero point of a value, found when it is known (equation 10): pairs `[2]` for the tensor, or `[…, 2]` for each
    /// row of the last axis.
    ChooseQParams {
        /// Per tensor, or per token.
        qscheme: QScheme,
        /// The codes.
        range: QuantRange,
        /// The smallest scale.
        eps: f32,
    },
    /// `f32 → int8`, equation 2. Inputs: x, and the pairs of a [`Op::ChooseQParams`].
    QuantizeDynamic {
        /// The codes.
        range: QuantRange,
    },
    /// `int8 → f32`, equation 1. Inputs: codes, and the pairs of a [`Op::ChooseQParams`].
    DequantizeDynamic,
    /// The accumulator of equation 4, in `i32`. Inputs: x `[…, K]` int8, w `[N, K]` int8, bias `[N]` i32.
    IntegerLinear {
        /// `p` of equation 4.
        fraction_bits: u32,
    },
    /// `i32 → int8`, equation 5. Inputs: acc `[…, N]`, multiplier `[N]`.
    Requantize {
        /// Meaning of the result's codes. Only the zero point enters the arithmetic.
        qparams: QParams,
        /// Smallest code; a fused ReLU has raised it to the zero point (equation 6).
        lo: i32,
        /// Largest code.
        hi: i32,
    },
    /// `i32 → f32`, equation 7. Inputs: acc `[…, N]`, scale `[N]`.
    ScaleAccumulator {
        /// Whether negative results become 0: a fused ReLU.
        relu: bool,
    },
    /// `i32 → f32`, the dynamic form of equation 7. Inputs: acc `[…, N]`, the pairs of a [`Op::ChooseQParams`], weight sums
    /// `[N]` (i32), weight scales `[N]`, bias `[N]`.
    ScaleAccumulatorDynamic {
        /// Whether negative results become 0: a fused ReLU.
        relu: bool,
    },
    /// `int8 + int8 → int8`, equation 8, broadcast.
    IntegerAdd {
        /// Zero point of the first input.
        a_zero_point: i32,
        /// Zero point of the second input.
        b_zero_point: i32,
        /// The ratios of the input scales to the output scale.
        multipliers: AddMultipliers,
        /// Meaning of the result's codes. Only the zero point enters the arithmetic.
        qparams: QParams,
        /// Smallest code.
        lo: i32,
        /// Largest code.
        hi: i32,
    },
    /// `int8 · int8 → int8` of each element, equations 9 and 5, broadcast.
    IntegerMul {
        /// Zero point of the first input.
        a_zero_point: i32,
        /// Zero point of the second input.
        b_zero_point: i32,
        /// The product of the input scales over the output scale.
        multiplier: f32,
        /// Meaning of the result's codes. Only the zero point enters the arithmetic.
        qparams: QParams,
        /// Smallest code.
        lo: i32,
        /// Largest code.
        hi: i32,
    },
    /// `Σ (a − z_a) · (b − z_b)` of `a[…, M, K]` and `b[…, K, N]`, both int8, in `i32` (equation 9).
    IntegerMatMul {
        /// Zero point of the first input.
        a_zero_point: i32,
        /// Zero point of the second input.
        b_zero_point: i32,
    },
    /// `int8 · int8 → f32`, equation 9d: `a[…, M, K] · b[…, K, N]`, leading axes broadcast. Inputs: a and b, both int8, then the
    /// pairs of a [`Op::ChooseQParams`] for each: those of a for the tensor or for each row, those of b for the tensor.
    IntegerMatMulDynamic {
        /// Whether negative results become 0: a fused ReLU.
        relu: bool,
    },
    /// `int8 → int8`: entry `code + 128` of a table `[256]`. Inputs: codes, table.
    Table {
        /// Meaning of the result's codes.
        qparams: QParams,
    },
}

impl Op {
    /// The name used in listings and, later, by operator-type configurations.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Constant(_) => "constant",
            Self::Linear => "linear",
            Self::MatMul => "matmul",
            Self::Add => "add",
            Self::Mul => "mul",
            Self::Div => "div",
            Self::Where => "where",
            Self::Unary(UnaryOp::Relu) => "relu",
            Self::Unary(UnaryOp::Sigmoid) => "sigmoid",
            Self::Unary(UnaryOp::Tanh) => "tanh",
            Self::Unary(UnaryOp::Gelu) => "gelu",
            Self::Unary(UnaryOp::GeluTanh) => "gelu_tanh",
            Self::Unary(UnaryOp::Silu) => "silu",
            Self::Unary(UnaryOp::Sqrt) => "sqrt",
            Self::Unary(UnaryOp::Exp) => "exp",
            Self::Unary(UnaryOp::Log) => "log",
            Self::Unary(UnaryOp::Erf) => "erf",
            Self::Unary(UnaryOp::Abs) => "abs",
            Self::Unary(UnaryOp::Step) => "step",
            Self::Unary(UnaryOp::Sign) => "sign",
            Self::Unary(UnaryOp::RoundF16) => "round_f16",
            Self::Unary(UnaryOp::RoundBf16) => "round_bf16",
            Self::Binary(BinaryOp::Equal) => "equal",
            Self::Binary(BinaryOp::Less) => "less",
            Self::Binary(BinaryOp::LessOrEqual) => "less_or_equal",
            Self::Binary(BinaryOp::Maximum) => "maximum",
            Self::Binary(BinaryOp::Minimum) => "minimum",
            Self::Clamp { .. } => "clamp",
            Self::ToFloat => "to_float",
            Self::ToInteger { .. } => "to_integer",
            Self::Int32 { .. } => "int32",
            Self::AddScalar { .. } => "add_scalar",
            Self::MulScalar { .. } => "mul_scalar",
            Self::Reshape { .. } => "reshape",
            Self::Flatten { .. } => "flatten",
            Self::Transpose { .. } => "transpose",
            Self::Concat { .. } => "concat",
            Self::Slice { .. } => "slice",
            Self::Max { .. } => "max",
            Self::Sum { .. } => "sum",
            Self::Softmax { .. } => "softmax",
            Self::LayerNorm { .. } => "layer_norm",
            Self::BatchNorm { .. } => "batch_norm",
            Self::Embedding => "embedding",
            Self::Observe { .. } => "observe",
            Self::Quantize { qparams: TensorQParams::PerTensor(_), .. } => "quantize_per_tensor",
            Self::Quantize { qparams: TensorQParams::PerChannel { .. }, .. } => "quantize_per_channel",
            Self::Dequantize { qparams: TensorQParams::PerTensor(_) } => "dequantize_per_tensor",
            Self::Dequantize { qparams: TensorQParams::PerChannel { .. } } => "dequantize_per_channel",
            Self::IntegerLinear { .. } => "integer_linear",
            Self::Requantize { .. } => "requantize",
            Self::ScaleAccumulator { .. } => "scale_accumulator",
            Self::ChooseQParams { .. } => "choose_qparams",
            Self::QuantizeDynamic { .. } => "quantize_dynamic",
            Self::DequantizeDynamic => "dequantize_dynamic",
            Self::ScaleAccumulatorDynamic { .. } => "scale_accumulator_dynamic",
            Self::IntegerAdd { .. } => "integer_add",
            Self::IntegerMul { .. } => "integer_mul",
            Self::IntegerMatMul { .. } => "integer_matmul",
            Self::IntegerMatMulDynamic { .. } => "integer_matmul_dynamic",
            Self::Table { .. } => "table",
        }
    }
}
