//! Errors of operators. They do not name the node: the graph, program or run that contains the operator adds the name.

use crate::values::{DType, QParamsError, QuantizedTensorError, Shape};

/// The error of inference: an operator refuses its inputs or parameters.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// The number of inputs is wrong.
    #[error("{actual} inputs, expected {expected}")]
    Arity {
        /// Number of inputs given.
        actual: usize,
        /// Number of inputs that the operator takes.
        expected: usize,
    },
    /// An input has the wrong element type.
    #[error("input {input} is {actual}, expected {expected}")]
    DType {
        /// The position of the input.
        input: usize,
        /// Its type.
        actual: DType,
        /// The type that the operator takes.
        expected: DType,
    },
    /// Two sizes that must agree do not.
    #[error("{what} is {actual}, expected {expected}")]
    Size {
        /// The size in question.
        what: &'static str,
        /// Its value.
        actual: usize,
        /// The value that it must have.
        expected: usize,
    },
    /// A shape has more elements than fit in memory, for any batch. Axes of length 0 count as 1.
    #[error("shape {shape} holds more than {max} elements", max = crate::values::MAX_ELEMENTS)]
    Elements {
        /// The shape.
        shape: Shape,
    },
    /// An input has too few or too many axes.
    #[error("{what} has {actual} axes, expected {expected}")]
    Rank {
        /// The input in question.
        what: &'static str,
        /// Its number of axes.
        actual: usize,
        /// The number that the operator takes.
        expected: &'static str,
    },
    /// Two shapes do not broadcast.
    #[error("shapes {left} and {right} do not broadcast")]
    Broadcast {
        /// First shape.
        left: Shape,
        /// Second shape.
        right: Shape,
    },
    /// The operator would move, merge or mix the batch dimension.
    #[error("{problem}; only the leading dimension may vary, and it stays in front")]
    Batch {
        /// Description of the operation that is not possible.
        problem: &'static str,
    },
    /// A parameter of the operator is out of its range.
    #[error("{what} {value} is not usable: {rule}")]
    Parameter {
        /// The parameter.
        what: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Quantization parameters do not fit the operator.
    #[error(transparent)]
    QParams(#[from] QParamsError),
    /// The bits of a constant do not hold its quantized values.
    #[error(transparent)]
    Bits(#[from] QuantizedTensorError),
}

/// The error of evaluation: an operator has no result for the values of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EvalError {
    /// The element at a row-major index is NaN, which has no quantized value.
    NotANumber { index: usize },
    /// An id at a row-major index is outside the table.
    Id { index: usize, id: i32, rows: usize },
    /// The element of the result at a row-major index does not fit `i32`.
    NotAnInteger { index: usize },
    /// A value that is quantized dynamically is not finite, or its range overflows.
    Range { index: usize, value: String },
}

impl EvalError {
    /// Returns the row-major index of the element to blame.
    pub(crate) fn index(&self) -> usize {
        match *self {
            Self::NotANumber { index }
            | Self::Id { index, .. }
            | Self::NotAnInteger { index }
            | Self::Range { index, .. } => index,
        }
    }
}
