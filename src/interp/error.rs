//! Why a run failed.

use crate::ops::EvalError;
use crate::values::{DType, Shape};

/// Why a graph could not be run. Every variant names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpError {
    /// Too few or too many inputs.
    #[error("{actual} inputs for a graph that takes {expected}")]
    InputCount {
        /// Inputs given.
        actual: usize,
        /// Inputs taken.
        expected: usize,
    },
    /// A given value has the wrong shape.
    #[error("{node}: the given shape is {actual:?}, expected {expected}")]
    Shape {
        /// The node.
        node: String,
        /// The given shape.
        actual: Vec<usize>,
        /// The node's shape.
        expected: Shape,
    },
    /// A given value has the wrong element type.
    #[error("{node}: the given type is {actual}, expected {expected}")]
    DType {
        /// The node.
        node: String,
        /// The given type.
        actual: DType,
        /// The node's type.
        expected: DType,
    },
    /// An empty batch.
    #[error("{node}: the batch has 0 rows, expected at least 1")]
    NoRows {
        /// The node.
        node: String,
    },
    /// Two given values have different batches.
    #[error("{node}: the batch has {actual} rows, but that of {other} has {expected}")]
    Rows {
        /// The node.
        node: String,
        /// Its rows.
        actual: usize,
        /// The first batched value given.
        other: String,
        /// The rows of that.
        expected: usize,
    },
    /// A batch of so many rows would hold more elements than memory can.
    #[error("{node}: {rows} rows of {shape} are more than {max} elements", max = crate::values::MAX_ELEMENTS)]
    Elements {
        /// The node.
        node: String,
        /// Its shape.
        shape: Shape,
        /// The rows given.
        rows: usize,
    },
    /// An input that the wanted nodes depend on was not given.
    #[error("{node}: is needed, and no value was given")]
    NotFed {
        /// The input.
        node: String,
    },
    /// An id of another graph.
    #[error("node {index} does not exist, the graph has {nodes}")]
    UnknownNode {
        /// The id's index.
        index: usize,
        /// Nodes of the graph.
        nodes: usize,
    },
    /// A NaN has no code.
    #[error("{node}: element {index} is NaN, which has no code")]
    NotANumber {
        /// The quantize node.
        node: String,
        /// Row-major index of the first NaN.
        index: usize,
    },
    /// An embedding id outside the table.
    #[error("{node}: id {id} at element {index} is outside the table of {rows} rows")]
    Id {
        /// The embedding node.
        node: String,
        /// Row-major index of the first such id.
        index: usize,
        /// The id.
        id: i32,
        /// Rows of the table.
        rows: usize,
    },
    /// A result that integers of 32 bits do not hold.
    #[error("{node}: element {index} is no integer of 32 bits: it is too large, not a number, or divided by 0")]
    NoInteger {
        /// The node.
        node: String,
        /// Row-major index of the first such element of the result.
        index: usize,
    },
    /// The range of a value that is quantized dynamically is not usable.
    #[error(
        "{node}: element {index} is {value}; values quantized dynamically must be finite and span less than f32::MAX"
    )]
    Range {
        /// The node that chooses scale and zero point.
        node: String,
        /// Row-major index of the first such element.
        index: usize,
        /// The element.
        value: String,
    },
}

impl InterpError {
    pub(super) fn new(node: &str, source: EvalError) -> Self {
        let node = node.to_owned();
        match source {
            EvalError::NotANumber { index } => Self::NotANumber { node, index },
            EvalError::Id { index, id, rows } => Self::Id { node, index, id, rows },
            EvalError::NotAnInteger { index } => Self::NoInteger { node, index },
            EvalError::Range { index, value } => Self::Range { node, index, value },
        }
    }
}
