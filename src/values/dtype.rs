//! Element types.

use serde::{Deserialize, Serialize};

/// The element type of a [`Tensor`](crate::Tensor).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display, strum::EnumIter)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 8-bit integer: quantized values.
    I8,
    /// 32-bit integer: accumulators, biases, ids.
    I32,
    /// 64-bit integer.
    I64,
}
