//! Shape and type of what the integer form is made of.

use super::check::Check;
use super::{broadcast, linear_shape, matmul, with_last};
use crate::graph::{GraphError, Op};
use crate::numerics::{MAX_FRACTION_BITS, MAX_MATMUL_K};
use crate::qparams::{QScheme, QuantRange};
use crate::tensor::{DType, Shape};

/// Inference of the ops that no float graph has.
pub(super) fn infer(check: &Check<'_>, op: &Op) -> Result<(Shape, DType), GraphError> {
    match op {
        Op::IntegerLinear { fraction_bits } => {
            check.arity(3)?;
            check.dtype(0, DType::I8)?;
            check.dtype(1, DType::I8)?;
            check.dtype(2, DType::I32)?;
            if *fraction_bits > MAX_FRACTION_BITS {
                return Err(check.parameter("fraction_bits", fraction_bits, "at most 8 (equation 4)"));
            }
            Ok((linear_shape(check)?, DType::I32))
        }
        Op::IntegerMatMul { a_zero_point, b_zero_point } => {
            check.int8s(2)?;
            check.zero_point(*a_zero_point)?;
            check.zero_point(*b_zero_point)?;
            Ok((integer_matmul(check)?, DType::I32))
        }
        Op::IntegerMatMulDynamic { .. } => {
            check.arity(4)?;
            for (input, dtype) in [DType::I8, DType::I8, DType::F32, DType::F32].into_iter().enumerate() {
                check.dtype(input, dtype)?;
            }
            let shape = integer_matmul(check)?;
            dynamic_qparams(check, 2)?;
            let pairs = check.shape(3);
            if *pairs != Shape::fixed(&[2]) {
                return Err(check.parameter("pairs of the right factor", pairs, "must be [2]: one for the tensor"));
            }
            Ok((shape, DType::F32))
        }
        Op::Requantize { lo, hi, .. } => {
            check.code_range(*lo, *hi)?;
            Ok((accumulator(check)?, DType::I8))
        }
        Op::ScaleAccumulator { .. } => Ok((accumulator(check)?, DType::F32)),
        Op::IntegerAdd { a_zero_point, b_zero_point, multipliers, lo, hi, .. } => {
            check.int8s(2)?;
            check.zero_point(*a_zero_point)?;
            check.zero_point(*b_zero_point)?;
            check.code_range(*lo, *hi)?;
            if !multipliers.are_usable() {
                return Err(check.parameter("multipliers", format!("{multipliers:?}"), "are those of equation 8"));
            }
            Ok((broadcast(check, check.shape(0), check.shape(1))?, DType::I8))
        }
        Op::IntegerMul { a_zero_point, b_zero_point, multiplier, lo, hi, .. } => {
            check.int8s(2)?;
            check.zero_point(*a_zero_point)?;
            check.zero_point(*b_zero_point)?;
            check.code_range(*lo, *hi)?;
            if !multiplier.is_normal() || *multiplier < 0.0 {
                return Err(check.parameter("multiplier", multiplier, "must be a positive normal f32"));
            }
            Ok((broadcast(check, check.shape(0), check.shape(1))?, DType::I8))
        }
        Op::Table { .. } => {
            check.int8s(2)?;
            check.fixed_rank(1, "table", 1, "1")?;
            check.size("length of the table", check.shape(1).dims()[0], 256)?;
            Ok((check.shape(0).clone(), DType::I8))
        }
        Op::ChooseQParams { qscheme, eps, .. } => {
            check.floats(1)?;
            if !(crate::qparams::MIN_SCALE..=crate::qparams::MAX_SCALE).contains(eps) {
                return Err(check.parameter("eps", eps, "must be a usable scale"));
            }
            let shape = match qscheme {
                QScheme::PerTensorAffine | QScheme::PerTensorSymmetric => Shape::fixed(&[2]),
                QScheme::PerTokenAffine => per_token(check)?,
                _ => return Err(check.parameter("scheme", format!("{qscheme:?}"), "is not chosen at run time")),
            };
            Ok((shape, DType::F32))
        }
        Op::QuantizeDynamic { range } => {
            check.floats(2)?;
            dynamic_qparams(check, 1)?;
            if *range == QuantRange::INT32 {
                return Err(check.parameter("codes", range, "must fit int8"));
            }
            Ok((check.shape(0).clone(), DType::I8))
        }
        Op::DequantizeDynamic => {
            check.arity(2)?;
            check.dtype(0, DType::I8)?;
            check.dtype(1, DType::F32)?;
            dynamic_qparams(check, 1)?;
            Ok((check.shape(0).clone(), DType::F32))
        }
        Op::ScaleAccumulatorDynamic { .. } => {
            check.arity(5)?;
            for (input, dtype) in [DType::I32, DType::F32, DType::I32, DType::F32, DType::F32].into_iter().enumerate() {
                check.dtype(input, dtype)?;
            }
            dynamic_qparams(check, 1)?;
            let shape = check.shape(0);
            let n = shape.last().ok_or_else(|| check.rank("input", shape, "a last axis of static length"))?;
            for (input, what) in [(2, "weight sums"), (3, "weight scales"), (4, "bias length")] {
                check.fixed_rank(input, what, 1, "1")?;
                check.size(what, check.shape(input).dims()[0], n)?;
            }
            Ok((shape.clone(), DType::F32))
        }
        other => Err(check.parameter("op", other.name(), "has no inference")),
    }
}

fn per_token(check: &Check<'_>) -> Result<Shape, GraphError> {
    let x = check.shape(0);
    x.last().ok_or_else(|| check.rank("input", x, "a last axis of static length"))?;
    Ok(with_last(x, 2))
}

/// The shape of a product whose sums fit `i32`.
fn integer_matmul(check: &Check<'_>) -> Result<Shape, GraphError> {
    let shape = matmul(check)?;
    let x = check.shape(0);
    let k = x.last().ok_or_else(|| check.rank("input", x, "a last axis of static length"))?;
    if k > MAX_MATMUL_K {
        return Err(check.parameter("inner dimension", k, "at most 33,025 (equation 9)"));
    }
    Ok(shape)
}

/// Input `at` holds a scale and a zero point for all of input 0, or for each of its rows.
fn dynamic_qparams(check: &Check<'_>, at: usize) -> Result<(), GraphError> {
    let qparams = check.shape(at);
    if *qparams == Shape::fixed(&[2]) || *qparams == per_token(check)? {
        return Ok(());
    }
    let (left, right) = (check.shape(0).clone(), qparams.clone());
    Err(GraphError::Broadcast { node: check.name.to_owned(), left, right })
}

fn accumulator(check: &Check<'_>) -> Result<Shape, GraphError> {
    check.arity(2)?;
    check.dtype(0, DType::I32)?;
    check.dtype(1, DType::F32)?;
    check.fixed_rank(1, "factors", 1, "1")?;
    let shape = check.shape(0);
    let n = shape.last().ok_or_else(|| check.rank("input", shape, "a last axis of static length"))?;
    check.size("factors", check.shape(1).dims()[0], n)?;
    Ok(shape.clone())
}
