//! The integer types of ONNX: their ranges, and how arithmetic wraps around in them.

use super::proto::data_type as ty;
use super::tensor::{self, type_name};
use crate::ops::IntegerType;

/// Whether a type is one of integers that operators compute with.
pub(super) fn is_integer(data_type: i32) -> bool {
    bits(data_type).is_some()
}

/// The number of bits of an integer type, and whether it is signed.
fn bits(data_type: i32) -> Option<(usize, bool)> {
    let signed = match data_type {
        ty::INT8 | ty::INT16 | ty::INT32 | ty::INT64 => true,
        ty::UINT8 | ty::UINT16 | ty::UINT32 | ty::UINT64 => false,
        _ => return None,
    };
    Some((tensor::bits(data_type)?, signed))
}

/// The smallest and the largest value of a type.
pub(super) fn range(data_type: i32) -> (i128, i128) {
    match bits(data_type) {
        Some((bits, true)) => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        Some((bits, false)) => (0, (1 << bits) - 1),
        None => (i128::MIN, i128::MAX),
    }
}

/// A result in its type. It wraps around in types of up to 32 bits; in wider types, such as those of lengths, an overflow is an error,
/// and so is a value that `i64` does not hold.
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

/// The type that an `i32` is cast to after arithmetic that wraps around; `None` for types that `i32` does not hold, whose results must
/// fit `i32`.
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
