//! Known integers, which wrap around in their types.

use super::elementwise::Arithmetic;
use crate::onnx::integers::{held, range, wrap};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::type_name;
use crate::ops::IntegerType;

/// Integers of a type, where results wrap around; lengths are refused instead.
pub(super) fn integers(op: Arithmetic, a: i64, b: i64, fmod: bool, data_type: i32) -> Result<i64, String> {
    let (x, y) = (i128::from(a), i128::from(b));
    let result = match op {
        Arithmetic::Add => Some(x + y),
        Arithmetic::Sub => Some(x - y),
        Arithmetic::Mul => Some(x * y),
        Arithmetic::Div => x.checked_div(y),
        Arithmetic::Mod if fmod => x.checked_rem(y),
        // The sign of the divisor, as in Python.
        Arithmetic::Mod => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
        // 1 to any power is 1, so that no exponent is too large for that.
        Arithmetic::Pow if matches!(a, 0 | 1) && b > 0 => Some(x),
        Arithmetic::Pow if b < 0 => return Err(format!("the integer {a} to the power {b} is no integer")),
        Arithmetic::Pow => u32::try_from(b).ok().and_then(|b| match held(data_type) {
            // What is cut off in between would be cut off in the end.
            Some(_) => Some(x.wrapping_pow(b)),
            None => x.checked_pow(b),
        }),
        Arithmetic::Min => Some(x.min(y)),
        Arithmetic::Max => Some(x.max(y)),
    };
    let result = result.ok_or_else(|| format!("integers {a} and {b} overflow, or divide by 0"))?;
    wrap(result, data_type).map_err(|problem| format!("integers {a} and {b}: {problem}"))
}

/// An integer to the power of a float, without its fraction.
pub(super) fn power(a: i64, b: f32, data_type: i32) -> Result<i64, String> {
    if b >= 0.0 && b.fract() == 0.0 && b < 64.0 {
        return integers(Arithmetic::Pow, a, b as i64, false, data_type);
    }
    let (low, high) = range(data_type);
    let result = libm::pow(a as f64, b.into());
    if result.is_nan() || result >= high as f64 || result <= low as f64 - 1.0 {
        return Err(format!("the integer {a} to the power {b} is beyond {}", type_name(data_type)));
    }
    Ok(result as i64)
}

/// A float without its fraction, on the way to a type of integers. Those of 64 bits are kept in 32, which may have rounded them.
/// What `i32` holds becomes an `i32` first, as at run time, where one beyond is refused.
pub(super) fn whole(v: f32, from: i32, to: i32) -> Result<i128, String> {
    let limit = match (from, held(to)) {
        (ty::DOUBLE, _) => 16_777_216.0,
        (_, Some(_)) => 2_147_483_648.0,
        (_, None) => 9_223_372_036_854_775_808.0,
    };
    if v.abs() < limit || v == -limit {
        return Ok(v as i128);
    }
    Err(format!("it casts {v} of type {} to {}", type_name(from), type_name(to)))
}

/// Whether a type has fewer than 32 bits.
pub(super) fn is_narrow(data_type: i32) -> bool {
    held(data_type).is_some_and(|to| to != IntegerType::I32)
}
