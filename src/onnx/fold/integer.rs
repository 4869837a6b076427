//! Casts, and arithmetic of known integers, which wraps around in their types.

use half::{bf16, f16};

use super::elementwise::Arithmetic;
use super::{Fold, Folded, one};
use crate::onnx::host::{Data, Host, Length, NEEDS_ROWS};
use crate::onnx::integers::{held, range, wrap};
use crate::onnx::proto::data_type as ty;
use crate::onnx::tensor::{is_float, type_name};
use crate::ops::IntegerType;

impl Fold<'_> {
    pub(in crate::onnx) fn cast(&mut self) -> Folded {
        let to = i32::try_from(self.node.int("to", 0)?).unwrap_or(0);
        self.cast_to(to)
    }

    pub(in crate::onnx) fn cast_like(&mut self) -> Folded {
        let to = self.input(1)?.data_type;
        self.cast_to(to)
    }

    fn cast_to(&mut self, data_type: i32) -> Folded {
        let x = self.input(0)?;
        let size = match data_type {
            _ if is_float(data_type) => 4,
            ty::BOOL => 1,
            _ => x.data.size().max(8),
        };
        self.budget.take(x.data.len(), size)?;
        let data = match data_type {
            ty::FLOAT | ty::DOUBLE => Data::F32(x.to_floats()?),
            ty::FLOAT16 => Data::F32(x.to_floats()?.into_iter().map(|v| f16::from_f32(v).to_f32()).collect()),
            ty::BFLOAT16 => Data::F32(x.to_floats()?.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect()),
            ty::BOOL => Data::Bool(match &x.data {
                Data::F32(v) => v.iter().map(|&v| v != 0.0).collect(),
                Data::I64(v) => v.iter().map(|&v| v != 0).collect(),
                Data::Bool(v) => v.clone(),
                // A multiple of `rows` is at least 1.
                Data::Lengths(v) => v.iter().map(|v| *v != Length::Known(0)).collect(),
            }),
            ty::INT64 | ty::INT32 | ty::INT16 | ty::INT8 | ty::UINT64 | ty::UINT32 | ty::UINT16 | ty::UINT8 => {
                let cut = |v: i128| wrap(v, data_type);
                match &x.data {
                    Data::F32(v) => {
                        let cut = |&v: &f32| cut(whole(v, x.data_type, data_type)?);
                        Data::I64(v.iter().map(cut).collect::<Result<_, _>>()?)
                    }
                    Data::Bool(v) => Data::I64(v.iter().map(|&v| v.into()).collect()),
                    Data::I64(v) => Data::I64(v.iter().map(|&v| cut(v.into())).collect::<Result<_, _>>()?),
                    Data::Lengths(_) if is_narrow(data_type) => {
                        return Err(format!("{NEEDS_ROWS}, which may wrap around as {}", type_name(data_type)));
                    }
                    Data::Lengths(v) => Data::Lengths(v.clone()),
                }
            }
            other => return Err(format!("it casts to {}", type_name(other))),
        };
        one(Host { data, data_type, ..(*x).clone() })
    }
}

/// Arithmetic of two integers of a type. Results wrap around in types of up to 32 bits; beyond wider types they are an error.
pub(super) fn integers(op: Arithmetic, a: i64, b: i64, fmod: bool, data_type: i32) -> Result<i64, String> {
    let (x, y) = (i128::from(a), i128::from(b));
    let result = match op {
        Arithmetic::Add => Some(x + y),
        Arithmetic::Sub => Some(x - y),
        Arithmetic::Mul => Some(x * y),
        Arithmetic::Div => x.checked_div(y),
        Arithmetic::Mod if fmod => x.checked_rem(y),
        // The remainder has the sign of the divisor.
        Arithmetic::Mod => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
        // No exponent is too large for the bases 0 and 1.
        Arithmetic::Pow if matches!(a, 0 | 1) && b > 0 => Some(x),
        Arithmetic::Pow if b < 0 => return Err(format!("the integer {a} to the power {b} is no integer")),
        Arithmetic::Pow => u32::try_from(b).ok().and_then(|b| match held(data_type) {
            // The low bits of a product depend on the low bits of its factors only.
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

/// A float without its fraction, for a cast to integers. Floats of 64 bits are kept in 32 bits, which may have rounded large ones, so
/// those are refused. For types that `i32` holds, the float must fit `i32`, as at run time.
fn whole(v: f32, from: i32, to: i32) -> Result<i128, String> {
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
fn is_narrow(data_type: i32) -> bool {
    held(data_type).is_some_and(|to| to != IntegerType::I32)
}
