//! Why a program was refused.

use super::ValueType;
use crate::ops::OpError;
use crate::values::{QParams, QuantizedTensorError};

fn text(qparams: Option<&QParams>) -> String {
    match qparams {
        Some(qparams) => format!("scale {:e} and zero point {}", qparams.scale(), qparams.zero_point()),
        None => "none that is known".to_owned(),
    }
}

/// Why a [`Program`](super::Program) was refused. Every variant names the step or value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// A step names a value that does not exist.
    #[error("step {step}: value {index} does not exist, the program has {values}")]
    UnknownValue {
        /// The step, or "program" for its inputs and outputs.
        step: String,
        /// The missing index.
        index: usize,
        /// Number of values.
        values: usize,
    },
    /// A value is not written exactly once before it is read, or is not what its type says.
    #[error("value {value}: {problem}")]
    Order {
        /// The value.
        value: String,
        /// What is wrong with it.
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
    /// A value holds more elements than memory can.
    #[error("value {value}: dimensions {dims:?} hold more than {max} elements", max = crate::values::MAX_ELEMENTS)]
    Elements {
        /// The value.
        value: String,
        /// Its dimensions.
        dims: Vec<usize>,
    },
    /// A constant is not what its value says.
    #[error("value {value}: the constant is {actual}, expected {shape}")]
    Constant {
        /// The value.
        value: String,
        /// Type and shape of the constant.
        actual: String,
        /// Type and shape of the value.
        shape: String,
    },
    /// A step cannot make its output's shape of those of its inputs.
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
        /// What it must be.
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
        /// The type that the step takes.
        expected: ValueType,
    },
    /// A per-channel factor is not a positive normal `f32`.
    #[error("step {step}: channel {channel}: factor {factor:e} is not a positive normal f32")]
    Factor {
        /// The step.
        step: String,
        /// The channel.
        channel: usize,
        /// The factor.
        factor: f32,
    },
    /// A number of a channel is not what the rest of the layer makes it.
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
        /// What it must be.
        expected: i64,
    },
    /// A value says that its codes mean something else than what the step that writes it makes of them.
    #[error("step {step}: the codes of value {value} have {}, expected {}", text(Some(actual)), text(expected.as_ref()))]
    Meaning {
        /// The step.
        step: String,
        /// The value.
        value: String,
        /// What the value says.
        actual: QParams,
        /// What the step makes of them; `None` if that is not known.
        expected: Option<QParams>,
    },
    /// The codes that a step may write are not a range of int8, or its zero point is none.
    #[error("step {step}: codes {lo}..={hi} with zero point {zero_point} are not a range of int8")]
    Codes {
        /// The step.
        step: String,
        /// Smallest code.
        lo: i32,
        /// Largest code.
        hi: i32,
        /// Zero point.
        zero_point: i32,
    },
    /// An operator does not take the values or parameters that the step gives it.
    #[error("step {step}: {source} (inputs {}, output {output})", inputs.join(", "))]
    Op {
        /// The step.
        step: String,
        /// The problem.
        source: OpError,
        /// The shapes of its inputs.
        inputs: Vec<String>,
        /// The shape of its output.
        output: String,
    },
    /// No step computes an operator.
    #[error("step {step}: {op} {problem}")]
    NoStep {
        /// The step.
        step: String,
        /// The operator.
        op: &'static str,
        /// The problem.
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
    /// A channel's sum could leave `i32` (equation 4).
    #[error(
        "step {step}: channel {channel}: |products| up to {products} and |bias| {bias} at {fraction_bits} fraction bits \
         exceed the i32 accumulator ({max})", max = i32::MAX
    )]
    Accumulator {
        /// The step.
        step: String,
        /// The channel.
        channel: usize,
        /// Bound on the magnitude of the sum of products, fraction bits included.
        products: i64,
        /// Magnitude of the folded bias.
        bias: i64,
        /// `p` of equation 4.
        fraction_bits: u32,
    },
}
