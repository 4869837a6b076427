//! The error of the CPU engine.

use crate::values::{DType, Shape};

/// The error of the CPU engine. Every variant names the input or step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// The number of inputs is wrong.
    #[error("{actual} inputs for a program that takes {expected}")]
    InputCount {
        /// Number of inputs given.
        actual: usize,
        /// Number of inputs that the program takes.
        expected: usize,
    },
    /// An input has the wrong shape.
    #[error("input {input}: the given shape is {actual:?}, expected {expected}")]
    Shape {
        /// The input.
        input: String,
        /// The given shape.
        actual: Vec<usize>,
        /// The input's shape.
        expected: Shape,
    },
    /// An input has the wrong element type.
    #[error("input {input}: the given type is {actual}, expected {expected}")]
    DType {
        /// The input.
        input: String,
        /// The given type.
        actual: DType,
        /// The input's type.
        expected: DType,
    },
    /// A batch is empty.
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
        /// Its number of rows.
        actual: usize,
        /// Number of rows of the first input.
        expected: usize,
    },
    /// The batch has so many rows that a value would not fit in memory.
    #[error("value {value}: {rows} rows of {shape} are more than {max} elements", max = crate::values::MAX_ELEMENTS)]
    Elements {
        /// The value.
        value: String,
        /// Its shape.
        shape: Shape,
        /// Number of rows given.
        rows: usize,
    },
    /// A value to quantize is NaN.
    #[error("{step}: element {index} is NaN, which has no quantized value")]
    NotANumber {
        /// The quantize step.
        step: String,
        /// Row-major index of the first NaN.
        index: usize,
    },
    /// A result does not fit `i32`.
    #[error("{step}: element {index} does not fit i32: it is too large, not a number, or divided by 0")]
    NoInteger {
        /// The step.
        step: String,
        /// Row-major index of the first such element of the result.
        index: usize,
    },
    /// A value that is quantized dynamically is not finite, or its range overflows.
    #[error(
        "{step}: element {index} is {value}; values quantized dynamically must be finite and span less than f32::MAX"
    )]
    Range {
        /// The step that chooses scale and zero point.
        step: String,
        /// Row-major index of the first such element.
        index: usize,
        /// The element.
        value: String,
    },
    /// An id is outside the embedding table.
    #[error("{step}: element {index} is id {id}, the table has rows 0 to {}", rows - 1)]
    Id {
        /// The step.
        step: String,
        /// Row-major index of the id.
        index: usize,
        /// The id.
        id: i32,
        /// Number of rows of the table.
        rows: usize,
    },
    /// The backend `rten-gemm` is requested, and is not exact.
    #[error(
        "{step}: the int8 products of rten-gemm are not exact for k {k} on this processor (exact up to {max})",
        max = crate::kernels::rten_max_k()
    )]
    Inexact {
        /// The linear step.
        step: String,
        /// Its number of input features.
        k: usize,
    },
    /// A backend is requested whose instructions this processor lacks.
    #[error("{step}: this processor lacks the instructions of the GEMM backend {backend}")]
    Unavailable {
        /// The linear step.
        step: String,
        /// The backend.
        backend: String,
    },
}
