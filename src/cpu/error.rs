//! Why the CPU engine refused.

use crate::values::{DType, Shape};

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
    /// A batch of so many rows would hold more elements than memory can.
    #[error("value {value}: {rows} rows of {shape} are more than {max} elements", max = crate::values::MAX_ELEMENTS)]
    Elements {
        /// The value.
        value: String,
        /// Its shape.
        shape: Shape,
        /// The rows given.
        rows: usize,
    },
    /// A NaN has no code.
    #[error("{step}: element {index} is NaN, which has no code")]
    NotANumber {
        /// The quantize step.
        step: String,
        /// Row-major index of the first NaN.
        index: usize,
    },
    /// A result that integers of 32 bits do not hold.
    #[error("{step}: element {index} is no integer of 32 bits: it is too large, not a number, or divided by 0")]
    NoInteger {
        /// The step.
        step: String,
        /// Row-major index of the first such element of the result.
        index: usize,
    },
    /// The range of a value that is quantized dynamically is not usable.
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
    /// An id is not a row of its table.
    #[error("{step}: element {index} is id {id}, the table has rows 0 to {}", rows - 1)]
    Id {
        /// The step.
        step: String,
        /// Row-major index of the id.
        index: usize,
        /// The id.
        id: i32,
        /// Rows of the table.
        rows: usize,
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
    /// A product was asked for that this processor lacks the instructions for.
    #[error("{step}: this processor lacks the int8 product {product}")]
    Unavailable {
        /// The linear step.
        step: String,
        /// The product, with its instructions.
        product: String,
    },
}
