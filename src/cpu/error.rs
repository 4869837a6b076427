//! Why the CPU engine refused.

use crate::tensor::DType;

/// Why a program could not be run on the CPU. Every variant names the input or step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// Too few or too many inputs.
    #[error("{actual} inputs for a program that takes {expected}")]
    InputCount {
        /// Inputs given.
        actual: usize,
        /// Inputs taken.
        expected: usize,
    },
    /// An input has the wrong shape.
    #[error("input {input}: the given shape is {actual:?}, expected rows and then {expected:?}")]
    Shape {
        /// The input.
        input: String,
        /// The given shape.
        actual: Vec<usize>,
        /// The dimensions after `rows`.
        expected: Vec<usize>,
    },
    /// An input has the wrong element type.
    #[error("input {input}: the given type is {actual}, expected {expected}")]
    DType {
        /// The input.
        input: String,
        /// The given type.
        actual: DType,
        /// The type taken.
        expected: DType,
    },
    /// An empty batch.
    #[error("input {input}: the batch has 0 rows, expected at least 1")]
    NoRows {
        /// The input.
        input: String,
    },
    /// Two inputs have different batches.
    #[error("input {input}: the batch has {actual} rows, but that of the first input has {expected}")]
    Rows {
        /// The input.
        input: String,
        /// Its rows.
        actual: usize,
        /// The rows of the first.
        expected: usize,
    },
    /// A NaN has no code.
    #[error("{step}: element {index} is NaN, which has no code")]
    NotANumber {
        /// The quantize step.
        step: String,
        /// Row-major index of the first NaN.
        index: usize,
    },
    /// The library's product was asked for where it is not exact.
    #[error(
        "{step}: the library's int8 product is not exact for k {k} on this processor (exact up to {max})",
        max = crate::kernels::library_max_k()
    )]
    Inexact {
        /// The linear step.
        step: String,
        /// Its input features.
        k: usize,
    },
}
