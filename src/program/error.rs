//! The error of programs.

use super::ValueType;
use crate::ops::OpError;
use crate::values::{Number, QParams, QuantizedTensorError};

/// Formats qparams, which may not be known.
fn text(qparams: Option<&QParams>) -> String {
    match qparams {
        Some(qparams) => format!("scale {:e} and zero point {}", Number(qparams.scale()), qparams.zero_point()),
        None => "none that is known".to_owned(),
    }
}

/// The error of checking a [`Program`](super::Program). Every variant names the step or value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// A step reads or writes a value that does not exist.
    #[error("step {step}: value {index} does not exist, the program has {values}")]
    UnknownValue {
        /// The step, or "program" for its inputs and outputs.
        step: String,
        /// The missing index.
        index: usize,
        /// Number of values.
        values: usize,
    },
    /// A value is not written exactly once before it is read, or its type does not fit its use.
    #[error("value {value}: {problem}")]
    Order {
        /// The value.
        value: String,
        /// Description of the problem.
        problem: &'static str,
    },
    /// A value has no elements.
    #[error("value {value}: dimensions {dims:?}; none may be 0")]
    Dims {
        /// The value.
        value: String,
        /// Its dimensions.
        dims: Vec<usize>,
    },
    /// A value has more elements than fit in memory.
    #[error("value {value}: dimensions {dims:?} hold more than {max} elements", max = crate::values::MAX_ELEMENTS)]
    Elements {
        /// The value.
        value: String,
        /// Its dimensions.
        dims: Vec<usize>,
    },
    /// A constant does not have the type and shape of its value.
    #[error("value {value}: the constant is {actual}, expected {shape}")]
    Constant {
        /// The value.
        value: String,
        /// Type and shape of the constant.
        actual: String,
        /// Type and shape of the value.
        shape: String,
    },
    /// The shape of a step's output does not follow from those of its inputs.
    #[error("step {step}: inputs {} do not give {output}", inputs.join(", "))]
    Shapes {
        /// The step.
        step: String,
        /// The shapes of its inputs.
        inputs: Vec<String>,
        /// The shape of its output.
        output: String,
    },
    /// Two sizes that must agree do not.
    #[error("step {step}: {what} is {actual}, expected {expected}")]
    Size {
        /// The step.
        step: String,
        /// The size in question.
        what: &'static str,
        /// Its value.
        actual: usize,
        /// The value that it must have.
        expected: usize,
    },
    /// A value has the wrong element type for its use.
    #[error("step {step}: value {value} is {actual:?}, expected {expected:?}")]
    Type {
        /// The step.
        step: String,
        /// The value.
        value: String,
        /// Its type.
        actual: ValueType,
        /// The type that the step requires.
        expected: ValueType,
    },
    /// A per-channel factor is not a positive normal `f32`.
    #[error("step {step}: channel {channel}: factor {:e} is not a positive normal f32", Number(*factor))]
    Factor {
        /// The step.
        step: String,
        /// The channel.
        channel: usize,
        /// The factor.
        factor: f32,
    },
    /// A number of a channel does not follow from the layer's weights.
    #[error("step {step}: channel {channel}: {what} is {actual}, expected {expected}")]
    Channel {
        /// The step.
        step: String,
        /// The channel.
        channel: usize,
        /// The number in question.
        what: &'static str,
        /// Its value.
        actual: i64,
        /// The value that it must have.
        expected: i64,
    },
    /// The scale or zero point of a value differs from that of the step which writes it.
    #[error("step {step}: value {value} has {}, expected {}", text(Some(actual)), text(expected.as_ref()))]
    QParams {
        /// The step.
        step: String,
        /// The value.
        value: String,
        /// The qparams of the value.
        actual: QParams,
        /// The qparams that the step gives it; `None` if they are not known.
        expected: Option<QParams>,
    },
    /// The quantized range of a step does not fit int8, or its zero point does not.
    #[error("step {step}: quantized values {lo}..={hi} with zero point {zero_point} are not a range of int8")]
    QuantizedRange {
        /// The step.
        step: String,
        /// Smallest quantized value.
        lo: i32,
        /// Largest quantized value.
        hi: i32,
        /// Zero point.
        zero_point: i32,
    },
    /// An operator refuses its inputs or parameters.
    #[error("step {step}: {source} (inputs {}, output {output})", inputs.join(", "))]
    Op {
        /// The step.
        step: String,
        /// The problem.
        source: Box<OpError>,
        /// The shapes of its inputs.
        inputs: Vec<String>,
        /// The shape of its output.
        output: String,
    },
    /// A program cannot contain an operator as a step.
    #[error("step {step}: {op} {problem}")]
    NoStep {
        /// The step.
        step: String,
        /// The operator.
        op: &'static str,
        /// Description of the problem.
        problem: &'static str,
    },
    /// The bits of a layer's weight do not hold it.
    #[error("step {step}: weight: {source}")]
    Bits {
        /// The step.
        step: String,
        /// The problem.
        source: QuantizedTensorError,
    },
    /// The sum of a channel may overflow `i32` (equation 4).
    #[error(
        "step {step}: channel {channel}: |products| up to {products} and |bias| {bias} at {fraction_bits} fraction bits \
         exceed the i32 accumulator ({max})", max = i32::MAX
    )]
    Accumulator {
        /// The step.
        step: String,
        /// The channel.
        channel: usize,
        /// Bound on the magnitude of the sum of products, shifted by the fraction bits.
        products: i64,
        /// Magnitude of the folded bias.
        bias: i64,
        /// Number of fraction bits, `p` of equation 4.
        fraction_bits: u32,
    },
}
