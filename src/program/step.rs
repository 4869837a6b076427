//! The steps: what is done to values, one equation or two each.

use std::sync::Arc;

use super::ValueId;
use crate::numerics::{AddMultipliers, BinaryOp, Int32Op, IntegerType, UnaryOp};
use crate::qparams::{QParams, QScheme, QuantRange};

/// One step of a program: it reads values and writes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Name of the graph node.
    pub name: String,
    /// What is done.
    pub op: StepOp,
    /// The values that it reads, in the order that [`StepOp`] documents.
    pub inputs: Vec<ValueId>,
    /// The value that it writes.
    pub output: ValueId,
}

/// What a step does. Axes are counted with `rows`, if the value has them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StepOp {
    /// `f32 → int8` by equation 2.
    Quantize {
        /// Scale and zero point of the output.
        qparams: QParams,
        /// The codes.
        range: QuantRange,
    },
    /// `int8 → f32` by equation 1.
    Dequantize {
        /// Scale and zero point of the input.
        qparams: QParams,
    },
    /// int8 linear layer. Inputs: int8 activations `[m, k]`; with [`Epilogue::Dynamic`], also the pairs of their scales and zero
    /// points.
    Linear(QLinear),
    /// Product of two int8 activations `a[…, M, K] · b[…, K, N]`, leading axes broadcast.
    MatMul(QMatMul),
    /// Product of two int8 activations whose parameters are found at run time, `a[…, M, K] · b[…, K, N]`, leading axes broadcast,
    /// to float by equation 9d. Inputs: a, b, the pairs of a, `[2]` or `[…, M, 2]`, and those of b, `[2]`.
    MatMulDynamic {
        /// Whether negative results become 0.
        relu: bool,
    },
    /// `int8 + int8 → int8` by equation 8, broadcast.
    Add(QAdd),
    /// `int8 · int8 → int8` of each element by equations 9 and 5, broadcast.
    Mul(QMul),
    /// `int8 → int8`: entry `code + 128` of 256.
    Table {
        /// The entries.
        table: Arc<[i8]>,
    },
    /// Pairs of scale and zero point of a float value by equation 10: `[2]`, or `[…, 2]` for each row.
    ChooseQParams {
        /// Per tensor or per token.
        qscheme: QScheme,
        /// The codes.
        range: QuantRange,
        /// The smallest scale.
        eps: f32,
    },
    /// `f32 → int8` by equation 2. Inputs: the value, and its pairs.
    QuantizeDynamic {
        /// The codes.
        range: QuantRange,
    },
    /// `int8 → f32` by equation 1. Inputs: the codes, and their pairs.
    DequantizeDynamic,
    /// `f32 → f16`, to nearest and ties to even; beyond 65504 infinite. Only the caller reads halves.
    ToHalf,
    /// Joins values of one type along an axis.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// The same elements, in the same order, of a value of any type.
    Reshape,
    /// Axis `i` of the output is axis `perm[i]` of the input, of any type.
    Transpose {
        /// A permutation of all axes.
        perm: Vec<usize>,
    },
    /// The elements `start..end` along an axis, of any type: the same bits.
    Slice {
        /// The axis.
        axis: usize,
        /// The first element taken.
        start: usize,
        /// Behind the last element taken; above `start`.
        end: usize,
    },
    /// `i32 → f32`, to nearest and ties to even: the same bits on every engine.
    ToFloat,
    /// `f32 → i32` or `i32 → i32`: the fraction is cut off, and what remains is cut to a type. Floats that are no `i32` are an
    /// error on the CPU; a GPU may make anything of them.
    ToInteger {
        /// The type whose values result.
        to: IntegerType,
    },
    /// Arithmetic of two `i32`, broadcast: the same bits on every engine, but for what is an error on the CPU.
    Int32 {
        /// What is computed.
        op: Int32Op,
        /// Whether a result beyond `i32` is an error on the CPU; otherwise, and on a GPU, it wraps around. A division by 0 is an
        /// error on the CPU in any case, and gives the dividend on a GPU.
        checked: bool,
    },
    /// The sum of the `i32` along an axis, which the output lacks: the same bits on every engine, but for what is an error on the
    /// CPU.
    SumInt32 {
        /// The axis.
        axis: usize,
        /// Whether a sum beyond `i32` is an error on the CPU; otherwise, and on a GPU, it wraps around.
        checked: bool,
    },
    /// The largest element along an axis, which the output lacks, of floats, codes or `i32`; NaN if there is one. The same
    /// bits on every engine.
    Max {
        /// The axis.
        axis: usize,
    },
    /// Rows of a table. Inputs: ids (`i32`), table `[V, D]` (`f32`). Ids that the table lacks are an error on the CPU, and
    /// give the nearest row on a GPU.
    Gather,
    /// What stays float. Held to tolerances, not to bits; but what only compares and chooses gives the same bits on every engine:
    /// [`FloatOp::Binary`], [`FloatOp::Clamp`], [`FloatOp::Keep`], and of the functions ReLU, the absolute value, the step and
    /// the sign.
    ///
    /// NaN and infinities are where IEEE 754 has them, on GPUs too, whose compilers may assume that there are none: shaders compare
    /// and choose by the bits of floats, and arguments for which a function has no value give NaN by a test of theirs. What
    /// remains to a GPU is arithmetic, also in the sum that ends a choice between two values: it may take subnormal numbers for
    /// 0, of either sign, and compilers that assume too much (Metal's fast math) may lose a NaN or an infinity that a sum, product
    /// or quotient makes.
    Float(FloatOp),
}

/// A step on floats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FloatOp {
    /// `x[…, K] · w[N, K]ᵀ (+ b[N])`. Inputs: x, w, and b unless it has none.
    Linear,
    /// `a[…, M, K] · b[…, K, N]`, leading axes broadcast.
    MatMul,
    /// Sum, broadcast.
    Add,
    /// Product of each element, broadcast.
    Mul,
    /// Quotient of each element, broadcast.
    Div,
    /// The first input where the second is not 0 (NaN is not), and elsewhere −0, which changes nothing that it is added to: two of
    /// these and a sum choose between two values. Broadcast; the bits of an element.
    Keep {
        /// Whether to keep the elements where the second input is 0 instead.
        inverted: bool,
    },
    /// A function of each element. NaN stays NaN, but for the step, and is made where a function has no value.
    Unary(UnaryOp),
    /// A comparison of each pair, or the larger or smaller of it, broadcast.
    Binary(BinaryOp),
    /// Each element, but at least `min` and at most `max`; either may be infinite. The bits of an element or of a bound. NaN stays
    /// NaN.
    Clamp {
        /// The smallest result.
        min: f32,
        /// The largest result; not below `min`.
        max: f32,
    },
    /// The sum of the elements along an axis, which the output lacks.
    Sum {
        /// The axis.
        axis: usize,
    },
    /// `e^x / Σ e^x` along an axis.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// Normalization over the last axes, those of the weight. Inputs: x, weight, bias.
    LayerNorm {
        /// Added to the variance.
        eps: f32,
    },
}

/// An int8 linear layer, `y = epilogue((x · wᵀ) << fraction_bits + bias)`, by equations 4 to 7.
#[derive(Debug, Clone, PartialEq)]
pub struct QLinear {
    /// int8 weights `[n, k]`, row-major. Any code of int8 may occur.
    pub weight: Arc<[i8]>,
    /// Output channels.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// `[n]`: the bias of equation 4, which carries the input's zero point; zeros if that is dynamic.
    pub bias: Arc<[i32]>,
    /// `p` of equation 4, at most 8.
    pub fraction_bits: u32,
    /// What becomes of the accumulator.
    pub epilogue: Epilogue,
}

/// A product of two int8 activations, `y = epilogue(Σ (a − z_a) · (b − z_b))`, by equations 9, 5 and 7.
#[derive(Debug, Clone, PartialEq)]
pub struct QMatMul {
    /// Zero point of the first input.
    pub a_zero_point: i32,
    /// Zero point of the second input.
    pub b_zero_point: i32,
    /// What becomes of the accumulator; not [`Epilogue::Dynamic`].
    pub epilogue: Epilogue,
}

/// A sum of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QAdd {
    /// Zero point of the first input.
    pub a_zero_point: i32,
    /// Zero point of the second input.
    pub b_zero_point: i32,
    /// The ratios of the input scales to the output scale.
    pub multipliers: AddMultipliers,
    /// Zero point of the output.
    pub zero_point: i32,
    /// Smallest code.
    pub lo: i32,
    /// Largest code.
    pub hi: i32,
}

/// A product of codes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QMul {
    /// Zero point of the first input.
    pub a_zero_point: i32,
    /// Zero point of the second input.
    pub b_zero_point: i32,
    /// A positive normal `f32`.
    pub multiplier: f32,
    /// Zero point of the output.
    pub zero_point: i32,
    /// Smallest code.
    pub lo: i32,
    /// Largest code.
    pub hi: i32,
}

/// What becomes of an `i32` accumulator.
#[derive(Debug, Clone, PartialEq)]
pub enum Epilogue {
    /// int8 output by equation 5.
    Requantize {
        /// `[n]`, each a positive normal `f32` (equation 3).
        multiplier: Arc<[f32]>,
        /// Zero point of the output.
        zero_point: i32,
        /// Smallest code; a fused ReLU has raised it to the zero point (equation 6).
        lo: i32,
        /// Largest code.
        hi: i32,
    },
    /// Float output by equation 7; a fused ReLU is a maximum with 0 after the product.
    Scale {
        /// `[n]`, each a positive normal `f32`.
        scale: Arc<[f32]>,
        /// Whether negative results become 0.
        relu: bool,
    },
    /// Float output by the dynamic form of equation 7.
    Dynamic {
        /// `[n]`: scales of the weight, each a positive normal `f32`.
        scale: Arc<[f32]>,
        /// `[n]`: Σ_k w\[n,k\].
        weight_sum: Arc<[i32]>,
        /// `[n]`, in real units.
        bias: Arc<[f32]>,
        /// Whether negative results become 0.
        relu: bool,
    },
}

impl Epilogue {
    /// Multipliers or scales, one for each output channel.
    #[must_use]
    pub fn factors(&self) -> &Arc<[f32]> {
        match self {
            Self::Requantize { multiplier, .. } => multiplier,
            Self::Scale { scale, .. } | Self::Dynamic { scale, .. } => scale,
        }
    }
}

impl StepOp {
    /// The name in listings, that of the kernel's entry point where there is one.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Quantize { .. } => "quantize_f32_i8",
            Self::Dequantize { .. } => "dequantize_i8_f32",
            Self::Linear(QLinear { epilogue: Epilogue::Requantize { .. }, .. }) => "linear_i8_i8",
            Self::Linear(QLinear { epilogue: Epilogue::Scale { .. }, .. }) => "linear_i8_f32",
            Self::Linear(QLinear { epilogue: Epilogue::Dynamic { .. }, .. }) => "linear_dynamic_i8_f32",
            Self::MatMul(QMatMul { epilogue: Epilogue::Requantize { .. }, .. }) => "matmul_i8_i8",
            Self::MatMul(_) => "matmul_i8_f32",
            Self::MatMulDynamic { .. } => "matmul_dynamic_i8_f32",
            Self::Add(_) => "add_i8_i8",
            Self::Mul(_) => "mul_i8_i8",
            Self::Table { .. } => "table_i8_i8",
            Self::ChooseQParams { .. } => "choose_qparams_f32_f32",
            Self::QuantizeDynamic { .. } => "quantize_dynamic_f32_i8",
            Self::DequantizeDynamic => "dequantize_dynamic_i8_f32",
            Self::ToHalf => "half_f32_f16",
            Self::Concat { .. } => "concat",
            Self::Reshape => "reshape",
            Self::Transpose { .. } => "transpose",
            Self::Slice { .. } => "slice",
            Self::ToFloat => "to_float_i32_f32",
            Self::ToInteger { .. } => "to_integer",
            Self::Int32 { .. } => "int32_i32_i32",
            Self::SumInt32 { .. } => "sum_i32_i32",
            Self::Max { .. } => "max",
            Self::Gather => "gather_i32_f32",
            Self::Float(FloatOp::Linear) => "linear_f32_f32",
            Self::Float(FloatOp::MatMul) => "matmul_f32_f32",
            Self::Float(FloatOp::Add) => "add_f32_f32",
            Self::Float(FloatOp::Mul) => "mul_f32_f32",
            Self::Float(FloatOp::Div) => "div_f32_f32",
            Self::Float(FloatOp::Keep { .. }) => "keep_f32_f32",
            Self::Float(FloatOp::Unary(_)) => "unary_f32_f32",
            Self::Float(FloatOp::Binary(_)) => "binary_f32_f32",
            Self::Float(FloatOp::Clamp { .. }) => "clamp_f32_f32",
            Self::Float(FloatOp::Sum { .. }) => "sum_f32_f32",
            Self::Float(FloatOp::Softmax { .. }) => "softmax_f32_f32",
            Self::Float(FloatOp::LayerNorm { .. }) => "layer_norm_f32_f32",
        }
    }
}
