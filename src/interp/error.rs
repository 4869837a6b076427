//! The error of the interpreter.

use crate::ops::EvalError;
use crate::values::{DType, Shape};

/// The error of a run of a graph. Every variant names the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InterpError {
    /// The number of inputs is wrong.
    #[error("{actual} inputs for a graph that takes {expected}")]
    InputCount {
        /// Number of inputs given.
        actual: usize,
        /// Number of inputs that the graph takes.
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
    /// A batch is empty.
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
        /// Number of rows of the node.
        actual: usize,
        /// Name of the first batched value given.
        other: String,
        /// Its number of rows.
        expected: usize,
    },
    /// The batch has so many rows that a value would not fit in memory.
    #[error("{node}: {rows} rows of {shape} are more than {max} elements", max = crate::values::MAX_ELEMENTS)]
    Elements {
        /// The node.
        node: String,
        /// Its shape.
        shape: Shape,
        /// Number of rows given.
        rows: usize,
    },
    /// An input that the wanted nodes depend on was not given.
    #[error("{node}: is needed, and no value was given")]
    NotFed {
        /// The input.
        node: String,
    },
    /// A node id belongs to another graph.
    #[error("node {index} does not exist, the graph has {nodes}")]
    UnknownNode {
        /// Index of the id.
        index: usize,
        /// Number of nodes of the graph.
        nodes: usize,
    },
    /// A value to quantize is NaN.
    #[error("{node}: element {index} is NaN, which has no quantized value")]
    NotANumber {
        /// The quantize node.
        node: String,
        /// Row-major index of the first NaN.
        index: usize,
    },
    /// An id is outside the embedding table.
    #[error("{node}: id {id} at element {index} is outside the table of {rows} rows")]
    Id {
        /// The embedding node.
        node: String,
        /// Row-major index of the first such id.
        index: usize,
        /// The id.
        id: i32,
        /// Number of rows of the table.
        rows: usize,
    },
    /// A result does not fit `i32`.
    #[error("{node}: element {index} does not fit i32: it is too large, not a number, or divided by 0")]
    NoInteger {
        /// The node.
        node: String,
        /// Row-major index of the first such element of the result.
        index: usize,
    },
    /// A value that is quantized dynamically is not finite, or its range overflows.
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
    pub(crate) fn new(node: &str, source: EvalError) -> Self {
        let node = node.to_owned();
        match source {
            EvalError::NotANumber { index } => Self::NotANumber { node, index },
            EvalError::Id { index, id, rows } => Self::Id { node, index, id, rows },
            EvalError::NotAnInteger { index } => Self::NoInteger { node, index },
            EvalError::Range { index, value } => Self::Range { node, index, value },
        }
    }
}
