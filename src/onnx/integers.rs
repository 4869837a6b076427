//! ONNX's types of integers: what they hold, and how arithmetic in them wraps around.

use super::proto::data_type as ty;
use super::tensor::type_name;
use crate::ops::IntegerType;

/// Whether a type is one of integers that operators compute on.
pub(super) fn is_integer(data_type: i32) -> bool {
    bits(data_type).is_some()
}

/// Its bits, and whether it has a sign.
fn bits(data_type: i32) -> Option<(u32, bool)> {
    Some(match data_type {
        ty::INT8 => (8, true),
        ty::INT16 => (16, true),
        ty::INT32 => (32, true),
        ty::INT64 => (64, true),
        ty::UINT8 => (8, false),
        ty::UINT16 => (16, false),
        ty::UINT32 => (32, false),
        ty::UINT64 => (64, false),
        _ => return None,
    })
}

/// The least and the largest value of a type.
pub(super) fn range(data_type: i32) -> (i128, i128) {
    match bits(data_type) {
        Some((bits, true)) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        Some((bits, false)) => (0, (1 << bits) - 1),
        None => (i128::MIN, i128::MAX),
    }
}

/// A result in its type, where it wraps around; lengths, which are of 64 bits, are refused instead, as is what `i64` lacks.
pub(super) fn wrap(v: i128, data_type: i32) -> Result<i64, String> {
    let wrapped = match bits(data_type) {
        Some((bits @ ..=32, true)) => (v << (128 - bits)) >> (128 - bits),
        Some((bits @ ..=32, false)) => v & ((1 << bits) - 1),
        _ => v,
    };
    let (low, _) = range(data_type);
    match i64::try_from(wrapped) {
        Ok(wrapped) if i128::from(wrapped) >= low => Ok(wrapped),
        _ => Err(format!("an integer overflows: {v} is beyond {}", type_name(data_type))),
    }
}

/// What an `i32` must be cut to after arithmetic that wraps around; `None` of types that `i32` does not hold, whose results must
/// fit it.
pub(super) fn held(data_type: i32) -> Option<IntegerType> {
    Some(match data_type {
        ty::INT8 => IntegerType::I8,
        ty::UINT8 => IntegerType::U8,
        ty::INT16 => IntegerType::I16,
        ty::UINT16 => IntegerType::U16,
        ty::INT32 => IntegerType::I32,
        _ => return None,
    })
}
