//! Operators of graphs and programs.
//!
//! Each operator is one struct in the file of its family. It holds the parameters and states everything about the operator that does
//! not depend on an engine: name, shape and type inference, scalar evaluation, and which kind of operator it is. [`Op`] is the closed
//! enum of all operators. Graphs, programs and the ONNX importer use the same ones. Tests compare every engine with the evaluation
//! here, which follows the equations of [`numerics`](crate::numerics); for float products, and for integer products, whose sums are
//! exact in any order, it uses a library.

mod conv;
mod elementwise;
mod embedding;
mod error;
mod fake_quantize;
mod images;
mod integer;
mod linear;
mod matmul;
mod movement;
mod norm;
mod observe;
mod operands;
mod operator;
mod pool;
mod quantize;
mod reduce;
mod unary;
mod window;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::conv::{Conv, ConvTranspose, IntegerConv, Unfold};
pub(crate) use self::conv::{by_tap, unfold};
pub(crate) use self::elementwise::zip_f32;
pub use self::elementwise::{Add, AddScalar, Binary, Div, IntegerAdd, IntegerMul, Mask, Mul, MulScalar, Where};
pub(crate) use self::embedding::Blocks;
pub use self::embedding::{Embedding, GatherNd, ScatterNd};
pub(crate) use self::error::EvalError;
pub use self::error::OpError;
pub(crate) use self::fake_quantize::{fake_quantize, fake_quantize_dynamic, fake_quantize_i32, straight_through};
pub(crate) use self::images::Images;
pub use self::integer::{Int32, ToFloat, ToInteger};
pub use self::linear::{
    IntegerLinear, IntegerLinearGroups, Linear, Requantize, ScaleAccumulator, ScaleAccumulatorDynamic,
};
pub(crate) use self::matmul::matmul_f32;
pub use self::matmul::{IntegerMatMul, IntegerMatMulDynamic, MatMul};
pub(crate) use self::movement::transposed;
pub use self::movement::{Concat, Flatten, IndexSelect, Pad, Reshape, Slice, Transpose};
pub use self::norm::{BatchNorm, LayerNorm, RmsNorm, Softmax};
pub use self::observe::{Observe, ObserverId};
pub use self::operands::TensorType;
pub(crate) use self::operands::{Arguments, Operand, Operands};
pub(crate) use self::operator::Aligned;
use self::operator::Operator;
pub(crate) use self::pool::ResizedAxis;
pub use self::pool::{
    AveragePool, AverageWindows, IntegerAveragePool, IntegerResizeLinear, MaxPool, ResizeCoordinates, ResizeGrid,
    ResizeLinear,
};
pub use self::quantize::{ChooseQParams, Dequantize, DequantizeDynamic, Quantize, QuantizeDynamic};
pub use self::reduce::{Max, Sum};
pub(crate) use self::unary::unary_in_place;
pub use self::unary::{Clamp, Lut, Unary};
pub use self::window::{ImageLayout, Window, WindowAxis};
pub(crate) use crate::numerics::gemm::PackedWeight;
pub use crate::numerics::{BinaryOp, Int32Op, IntegerType, ScatterReduction, UnaryOp};
use crate::values::{QuantizedTensor, Tensor, check_bits};

macro_rules! operators {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// An operator with its parameters. In shapes, `…` stands for any number of leading axes.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, strum::EnumDiscriminants)]
        #[serde(rename_all = "snake_case")]
        #[strum_discriminants(name(OpKind), derive(strum::EnumIter, Hash, PartialOrd, Ord), doc = "An operator without its parameters.")]
        #[non_exhaustive]
        pub enum Op {
            $($(#[$doc])* $name($name),)*
        }

        $(impl From<$name> for Op {
            fn from(operator: $name) -> Self {
                Self::$name(operator)
            }
        })*

        impl Op {
            fn operator(&self) -> &dyn Operator {
                match self {
                    $(Self::$name(operator) => operator,)*
                }
            }

            /// Computes the result, by the scalar equations. The inputs have shapes and types that inference admits.
            pub(crate) fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
                match self {
                    $(Self::$name(operator) => operator.eval(inputs),)*
                }
            }

            pub(crate) fn write_parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name(operator) => operator.parameters(f),)*
                }
            }

            fn operator_mut(&mut self) -> &mut dyn Operator {
                match self {
                    $(Self::$name(operator) => operator,)*
                }
            }
        }
    };
}

operators! {
    /// A value that the caller provides.
    Input,
    /// A value that the graph holds.
    Constant,
    /// `x[…, K] · w[N, K]ᵀ (+ b[N])`.
    Linear,
    /// Convolution in one or two dimensions.
    Conv,
    /// Transposed convolution in one or two dimensions.
    ConvTranspose,
    /// `a[…, M, K] · b[…, K, N]`.
    MatMul,
    /// Elementwise sum `a + b`.
    Add,
    /// Elementwise product `a · b`.
    Mul,
    /// Elementwise quotient `a / b`.
    Div,
    /// Selection of one of two values by a condition.
    Where,
    /// The elements where a mask is not 0, and −0 elsewhere.
    Mask,
    /// The sum of each element and one number.
    AddScalar,
    /// The product of each element and one number.
    MulScalar,
    /// A function of each element.
    Unary,
    /// A comparison of two elements, or their maximum or minimum.
    Binary,
    /// Each element, limited to a range.
    Clamp,
    /// `i32 → f32`.
    ToFloat,
    /// `f32 → i32`, or a cast between integers.
    ToInteger,
    /// Arithmetic of two `i32` tensors.
    Int32,
    /// The same elements in another shape.
    Reshape,
    /// Merges axes.
    Flatten,
    /// Permutes axes.
    Transpose,
    /// Concatenates tensors along an axis.
    Concat,
    /// A range of elements along an axis.
    Slice,
    /// Elements of one value around a tensor.
    Pad,
    /// Elements at known indices along an axis.
    IndexSelect,
    /// The elements under a window, for each of its positions.
    Unfold,
    /// The largest element under a window.
    MaxPool,
    /// The mean of the elements under a window.
    AveragePool,
    /// An image of another size, by linear interpolation.
    ResizeLinear,
    /// The largest element along an axis.
    Max,
    /// The sum of the elements along an axis.
    Sum,
    /// `e^x / Σ e^x` along an axis.
    Softmax,
    /// Normalization over the last axes.
    LayerNorm,
    /// Normalization over the last axes by the root of the mean square.
    RmsNorm,
    /// Normalization of channels with fixed statistics.
    BatchNorm,
    /// Rows of an embedding table.
    Embedding,
    /// Blocks of a tensor at coordinates that are computed at run time.
    GatherNd,
    /// A tensor with updates of blocks at coordinates that are computed at run time.
    ScatterNd,
    /// The input, unchanged, which an observer sees.
    Observe,
    /// `f32 → int8` (equation 2).
    Quantize,
    /// `int8 → f32` (equation 1).
    Dequantize,
    /// Dynamic quantization parameters (equation 10).
    ChooseQParams,
    /// `f32 → int8` with dynamic quantization parameters.
    QuantizeDynamic,
    /// `int8 → f32` with dynamic quantization parameters.
    DequantizeDynamic,
    /// The accumulator of an int8 linear layer (equation 4).
    IntegerLinear,
    /// The accumulator of an int8 linear layer with group-wise weights (equation 4).
    IntegerLinearGroups,
    /// The accumulator of an int8 convolution (equation 4).
    IntegerConv,
    /// The mean of int8 values under a window (equation 13).
    IntegerAveragePool,
    /// An image of int8 values of another size, by linear interpolation (equation 13).
    IntegerResizeLinear,
    /// `i32 → int8` (equation 5).
    Requantize,
    /// `i32 → f32` (equation 7).
    ScaleAccumulator,
    /// `i32 → f32` with dynamic quantization parameters (equation 7).
    ScaleAccumulatorDynamic,
    /// `int8 + int8 → int8` (equation 8).
    IntegerAdd,
    /// Elementwise `int8 · int8 → int8` (equations 9 and 5).
    IntegerMul,
    /// The accumulator of a product of two int8 tensors (equation 9).
    IntegerMatMul,
    /// A product of two int8 tensors with dynamic quantization parameters (equation 9d).
    IntegerMatMulDynamic,
    /// `int8 → int8` by a lookup table of 256 entries.
    Lut,
}

impl Op {
    /// Returns the name in listings and in configurations by operator type.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.operator().name()
    }

    /// Returns the operator without its parameters.
    #[must_use]
    pub fn kind(&self) -> OpKind {
        self.into()
    }

    /// Returns the PyTorch module that the operator is, if that module has parameters: `"Linear"`.
    pub(crate) fn module_type(&self) -> Option<&'static str> {
        self.operator().module_type()
    }

    /// Returns the names that the inputs have as parameters of that module, in the order of the inputs; empty for other inputs.
    pub(crate) fn parameter_names(&self) -> &'static [&'static str] {
        self.operator().parameter_names()
    }

    /// Whether each element of the result is an element of an input, unchanged, so that the operator works on any type and quantized
    /// values keep their scale and zero point.
    #[must_use]
    pub fn moves_values(&self) -> bool {
        self.operator().moves_values()
    }

    /// Whether the operator belongs to the integer form of a graph: it computes with quantized values.
    #[must_use]
    pub fn is_integer(&self) -> bool {
        self.operator().is_integer()
    }

    /// Whether the operator sums products with a weight or with another activation: a layer of a network.
    #[must_use]
    pub fn is_layer(&self) -> bool {
        self.operator().is_layer()
    }

    /// Whether a step of a program computes the operator as it is.
    pub(crate) fn is_step(&self) -> bool {
        self.operator().is_step()
    }

    /// Returns the operator that computes the same of inputs whose axes are permuted, and gives the result permuted likewise.
    pub(crate) fn permuted(&self, perm: &[usize]) -> Option<(Self, Aligned)> {
        let mut op = self.clone();
        let aligned = op.operator_mut().permute(perm)?;
        Some((op, aligned))
    }

    /// Infers shape and type of the result.
    pub(crate) fn infer(&self, inputs: &[Operand<'_>]) -> Result<TensorType, OpError> {
        let result = self.operator().infer(&Operands(inputs))?;
        check_elements(&result.shape)?;
        Ok(result)
    }

    /// Computes the result of an operator that may have a scale for each channel or group, which steps of programs have not, as
    /// [`eval`](Self::eval) does. `None` for other operators.
    #[cfg(any(test, not(feature = "flow")))]
    pub(crate) fn eval_scales(&self, inputs: &Arguments<'_>) -> Option<Result<Tensor, EvalError>> {
        match self {
            Self::Quantize(quantize) => Some(quantize.eval(inputs)),
            Self::Dequantize(dequantize) => Some(dequantize.eval(inputs)),
            _ => None,
        }
    }

    /// Returns the tensor of a constant, and `None` for other operators.
    #[must_use]
    pub fn constant(&self) -> Option<&Arc<Tensor>> {
        match self {
            Self::Constant(Constant { tensor, .. }) => Some(tensor),
            _ => None,
        }
    }
}

/// Formats the name and the parameters as a listing does: `softmax axis 1`.
impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.write_parameters(f)
    }
}

/// Refuses a shape with too many elements, so that numbers derived from a shape do not overflow.
pub(crate) fn check_elements(shape: &crate::values::Shape) -> Result<(), OpError> {
    match shape.elements() {
        Some(_) => Ok(()),
        None => Err(OpError::Elements { shape: shape.clone() }),
    }
}

/// A value that the caller provides. No inputs; its shape and type are declared, not inferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input;

impl Operator for Input {
    fn name(&self) -> &'static str {
        "input"
    }

    fn infer(&self, _: &Operands<'_>) -> Result<TensorType, OpError> {
        Err(operands::parameter("input", "no shape", "an input is declared, not inferred"))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        unreachable!("an input of shape {} is given, not computed", inputs.output)
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// A value that the graph holds. No inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constant {
    /// The value. Files store it beside the operator.
    #[serde(skip, default = "empty")]
    pub tensor: Arc<Tensor>,
    /// The bits that hold each element of a quantized tensor, 2 to 8. `None` if the tensor is not quantized, or if nothing has stated its
    /// bits: then they are 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits: Option<u32>,
}

impl Constant {
    /// Creates a constant without stated bits.
    #[must_use]
    pub fn new(tensor: impl Into<Arc<Tensor>>) -> Self {
        Self { tensor: tensor.into(), bits: None }
    }
}

/// The quantized values, with their bits. Scales and zero points are those of the operators that read the constant.
impl From<&QuantizedTensor> for Constant {
    fn from(quantized: &QuantizedTensor) -> Self {
        Self { tensor: Arc::clone(quantized.tensor()), bits: Some(quantized.bits()) }
    }
}

fn empty() -> Arc<Tensor> {
    Arc::new(crate::values::slices::tensor(vec![0], Vec::new()))
}

impl Operator for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(0)?;
        if let Some(bits) = self.bits {
            check_bits(&self.tensor, bits)?;
        }
        Ok(TensorType::new(self.tensor.dtype(), crate::values::Shape::fixed(self.tensor.shape())))
    }

    fn eval(&self, _: &Arguments<'_>) -> Result<Tensor, EvalError> {
        Ok((*self.tensor).clone())
    }

    fn is_step(&self) -> bool {
        false
    }
}
