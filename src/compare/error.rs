//! Errors of comparisons.

use crate::interp::InterpError;
use crate::values::DType;

/// The reason why two graphs could not be compared.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// One of the graphs could not be run.
    #[error(transparent)]
    Interp(#[from] InterpError),
    /// A node has different shapes in the two graphs.
    #[error("{node}: its shape is {actual:?}, but {expected:?} in the reference")]
    Shape {
        /// The node.
        node: String,
        /// Its shape in the graph under test.
        actual: Vec<usize>,
        /// Its shape in the reference.
        expected: Vec<usize>,
    },
    /// No node of one graph has the origin of a node of the other.
    #[error("the graphs have no node in common: the first is of {reference}, the second of {actual}")]
    NothingShared {
        /// A node of the reference.
        reference: String,
        /// A node of the graph under test.
        actual: String,
    },
    /// The values of an output are integers without a scale, such as ids.
    #[error("{node}: its values are {dtype} without a scale, which cannot be compared")]
    NotReal {
        /// The output.
        node: String,
        /// The type of its values.
        dtype: DType,
    },
    /// Two slices of values differ in length.
    #[error("{actual} values, but {expected} in the reference")]
    Lengths {
        /// Values under test.
        actual: usize,
        /// Values of the reference.
        expected: usize,
    },
    /// The graphs have different numbers of outputs.
    #[error("{actual} outputs, but {expected} in the reference")]
    Outputs {
        /// Outputs of the graph under test.
        actual: usize,
        /// Outputs of the reference.
        expected: usize,
    },
}
