//! The steps: what is done to values, one equation or two each.

use std::sync::Arc;

use super::ValueId;
use crate::qparams::{QParams, QuantRange};

/// `f32 → int8` by equation 2.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantize {
    /// Name of the graph node.
    pub name: String,
    /// A float value.
    pub input: ValueId,
    /// An int8 value of the same shape.
    pub output: ValueId,
    /// Scale and zero point of the output.
    pub qparams: QParams,
    /// The codes.
    pub range: QuantRange,
}

/// `int8 → f32` by equation 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Dequantize {
    /// Name of the graph node.
    pub name: String,
    /// An int8 value.
    pub input: ValueId,
    /// A float value of the same shape.
    pub output: ValueId,
    /// Scale and zero point of the input.
    pub qparams: QParams,
}

/// An int8 linear layer, `y = epilogue((x · wᵀ) << fraction_bits + bias)`, by equations 4 to 7.
#[derive(Debug, Clone, PartialEq)]
pub struct QLinear {
    /// Name of the graph node.
    pub name: String,
    /// int8 activations `[m, k]`.
    pub input: ValueId,
    /// int8 or float activations `[m, n]`, as the epilogue says.
    pub output: ValueId,
    /// int8 weights `[n, k]`, row-major. Any code of int8 may occur.
    pub weight: Arc<[i8]>,
    /// Output channels.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// `[n]`: the bias of equation 4, which carries the input's zero point.
    pub bias: Arc<[i32]>,
    /// `p` of equation 4, at most 8.
    pub fraction_bits: u32,
    /// What becomes of the accumulator.
    pub epilogue: Epilogue,
}

/// What becomes of a linear layer's `i32` accumulator.
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
}

/// One step of a program.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// `f32 → int8`.
    Quantize(Quantize),
    /// int8 linear layer.
    Linear(QLinear),
    /// `int8 → f32`.
    Dequantize(Dequantize),
}

impl Step {
    /// Name of the graph node.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Quantize(s) => &s.name,
            Self::Linear(s) => &s.name,
            Self::Dequantize(s) => &s.name,
        }
    }

    /// The value it reads.
    #[must_use]
    pub fn input(&self) -> ValueId {
        match self {
            Self::Quantize(s) => s.input,
            Self::Linear(s) => s.input,
            Self::Dequantize(s) => s.input,
        }
    }

    /// The value it writes.
    #[must_use]
    pub fn output(&self) -> ValueId {
        match self {
            Self::Quantize(s) => s.output,
            Self::Linear(s) => s.output,
            Self::Dequantize(s) => s.output,
        }
    }
}
