//! The steps of a program: operators of [`ops`](crate::ops), and fused forms that only programs have.

use std::sync::Arc;

use super::ValueId;
use crate::ops::{Op, Window};

/// One step of a program: it reads values and writes one.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Name of the graph node that the step computes.
    pub name: String,
    /// The operation.
    pub op: StepOp,
    /// Values that it reads, in the order that the operator documents.
    pub inputs: Vec<ValueId>,
    /// Value that it writes.
    pub output: ValueId,
}

/// The operation of a step. Axes are counted with `rows`, if the value has them.
///
/// All engines give the same bits, except those of NaN, and except for full float products
/// ([`FloatProducts::Full`](crate::numerics::FloatProducts)), which agree within rounding.
///
/// NaN and infinities occur where IEEE 754 requires them. GPU compilers may assume that there are none, so shaders compare and select
/// by the bits of floats, and test for arguments outside the domain of a function. A compiler that assumes too much (Metal's fast
/// math) may lose a NaN or an infinity that a sum, product or quotient gives.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StepOp {
    /// An operator of graphs, unless [`lower`](crate::lower::lower) fuses or decomposes it.
    Op(Op),
    /// An int8 linear layer. Inputs: int8 activations `[…, K]`; with [`Epilogue::Dynamic`], also their dynamic qparams.
    QLinear(QLinear),
    /// An int8 convolution. Input: int8 images `[rows, H, W, C]` or `[rows, W, C]`.
    QConv(QConv),
    /// A matrix product of two int8 activations `a[…, M, K] · b[…, K, N]`, leading axes broadcast.
    QMatMul(QMatMul),
    /// A lookup table `int8 → int8`.
    QLut(QLut),
    /// A conversion `f32 → f16`, to nearest and ties to even; infinite beyond 65504. Only the caller reads the result, no step.
    ToF16,
    /// A conversion `f16 → f32`, of an input of the program. Host tensors, which hold `f32`, are rounded to f16 first.
    FromF16,
}

impl<T: Into<Op>> From<T> for StepOp {
    fn from(op: T) -> Self {
        Self::Op(op.into())
    }
}

/// An int8 linear layer, `y = epilogue((x · wᵀ) << fraction_bits + bias)`, by equations 4 to 7. The weights of a [group](WeightGroups)
/// stand for their differences to its zero point times its integer scale.
#[derive(Debug, Clone, PartialEq)]
pub struct QLinear {
    /// int8 weights `[n, k]`, row-major, each of which `bits` hold.
    pub weight: Arc<[i8]>,
    /// Number of bits that hold a weight, 2 to 8.
    pub bits: u32,
    /// The factors and zero points of groups of input features; `None` for a weight with one scale for each output channel.
    pub groups: Option<WeightGroups>,
    /// Number of output channels.
    pub n: usize,
    /// Number of input features.
    pub k: usize,
    /// `[n]`: bias of equation 4, which includes the input's zero point. Zeros if the input is quantized dynamically.
    pub bias: Arc<[i32]>,
    /// Number of fraction bits, `p` of equation 4, at most 12.
    pub fraction_bits: u32,
    /// Conversion of the accumulator to the output.
    pub epilogue: Epilogue,
}

/// The groups of input features of a weight `[n, k]`: a layer multiplies x by `multiplier · (w − zero_point)` (equation 4). The last group of
/// a channel may have fewer features.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightGroups {
    /// Input features of a group, a multiple of 4.
    pub size: usize,
    /// `[n, groups]`: an integer scale for each group, 1 to 255.
    pub multipliers: Arc<[u8]>,
    /// `[n, groups]`: a zero point for each group. A weight minus its zero point fits int8.
    pub zero_points: Arc<[i8]>,
}

impl QLinear {
    /// Returns the factors of the input features in the sum of one output channel: its weights, or those of its groups,
    /// `multiplier · (w − zero_point)`.
    pub fn factors(&self, channel: usize) -> impl Iterator<Item = i32> + '_ {
        let groups = self.groups.as_ref().map(|groups| (groups, channel * self.k.div_ceil(groups.size)));
        self.weight[channel * self.k..][..self.k].iter().enumerate().map(move |(at, &w)| match groups {
            None => i32::from(w),
            Some((groups, first)) => {
                let group = first + at / groups.size;
                i32::from(groups.multipliers[group]) * (i32::from(w) - i32::from(groups.zero_points[group]))
            }
        })
    }
}

/// An int8 convolution: an int8 linear layer of the elements under a window, tap by tap and within a tap channel by channel.
#[derive(Debug, Clone, PartialEq)]
pub struct QConv {
    /// The layer, not with [`Epilogue::Dynamic`]; `k` is the number of taps times the channels of a group.
    pub layer: QLinear,
    /// The window.
    pub window: Window,
    /// Number of groups of channels.
    pub groups: usize,
    /// The zero point of the input, which counts as the value of taps outside the image.
    pub zero_point: i32,
}

/// A matrix product of two int8 activations, `y = epilogue(Σ (a − z_a) · (b − z_b))`, by equations 9, 5 and 7.
#[derive(Debug, Clone, PartialEq)]
pub struct QMatMul {
    /// Zero point of the first input.
    pub a_zero_point: i32,
    /// Zero point of the second input.
    pub b_zero_point: i32,
    /// Conversion of the accumulator to the output; not [`Epilogue::Dynamic`].
    pub epilogue: Epilogue,
}

/// A lookup table, `y = table[x + 128]` (equation 12).
#[derive(Debug, Clone, PartialEq)]
pub struct QLut {
    /// 256 entries, those of −128 to 127.
    pub table: Arc<[i8]>,
}

/// The conversion of an `i32` accumulator to the output of a layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Epilogue {
    /// int8 output by equation 5.
    Requantize {
        /// `[n]`: multipliers, each a positive normal `f32` (equation 3).
        multiplier: Arc<[f32]>,
        /// Zero point of the output.
        zero_point: i32,
        /// Smallest quantized value; a fused ReLU has raised it to the zero point (equation 6).
        lo: i32,
        /// Largest quantized value.
        hi: i32,
    },
    /// Float output by equation 7. A fused ReLU is a maximum with 0 after the product.
    Scale {
        /// `[n]`: scales, each a positive normal `f32`.
        scale: Arc<[f32]>,
        /// Whether negative results become 0.
        relu: bool,
    },
    /// Float output by the dynamic form of equation 7.
    Dynamic {
        /// `[n]`: scales of the weight, each a positive normal `f32`.
        scale: Arc<[f32]>,
        /// `[n]`: Σ_k w\[n,k\], or the sum of [`QLinear::factors`].
        weight_sum: Arc<[i32]>,
        /// `[n]`: bias, in real units.
        bias: Arc<[f32]>,
        /// Whether negative results become 0.
        relu: bool,
    },
}

impl Epilogue {
    /// Returns the multipliers or scales, one for each output channel.
    #[must_use]
    pub fn factors(&self) -> &Arc<[f32]> {
        match self {
            Self::Requantize { multiplier, .. } => multiplier,
            Self::Scale { scale, .. } | Self::Dynamic { scale, .. } => scale,
        }
    }
}

impl StepOp {
    /// Returns the name in listings.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Op(op) => op.name(),
            Self::QLinear(QLinear { epilogue: Epilogue::Requantize { .. }, .. }) => "linear_i8_i8",
            Self::QLinear(QLinear { epilogue: Epilogue::Scale { .. }, .. }) => "linear_i8_f32",
            Self::QLinear(QLinear { epilogue: Epilogue::Dynamic { .. }, .. }) => "linear_dynamic_i8_f32",
            Self::QConv(QConv { layer: QLinear { epilogue: Epilogue::Requantize { .. }, .. }, .. }) => "conv_i8_i8",
            Self::QConv(_) => "conv_i8_f32",
            Self::QMatMul(QMatMul { epilogue: Epilogue::Requantize { .. }, .. }) => "matmul_i8_i8",
            Self::QMatMul(_) => "matmul_i8_f32",
            Self::QLut(_) => "lut_i8_i8",
            Self::ToF16 => "to_f16",
            Self::FromF16 => "from_f16",
        }
    }

    /// Returns the int8 layer of a linear step or a convolution.
    #[must_use]
    pub fn layer(&self) -> Option<&QLinear> {
        match self {
            Self::QLinear(layer) | Self::QConv(QConv { layer, .. }) => Some(layer),
            _ => None,
        }
    }
}
