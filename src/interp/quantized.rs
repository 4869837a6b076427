//! Quantize and the integer ops: the equations of [`numerics`](crate::numerics), one op each.
//!
//! The scalar functions are applied as they are written there, without blocking: this is the reference that engines are
//! held to.

use rayon::prelude::*;

use super::InterpError;
use super::slices::{codes, f32s, i8s, i32s, integers, like, rows_before_last, with_last};
use crate::kernels::{self, Int8Product, Int8Weight};
use crate::numerics;
use crate::qparams::{QuantRange, TensorQParams};
use crate::tensor::Tensor;

pub(super) fn quantize(
    name: &str,
    x: &Tensor,
    qparams: &TensorQParams,
    range: QuantRange,
) -> Result<Tensor, InterpError> {
    match kernels::quantize(f32s(x), x.shape(), qparams, range) {
        Ok(data) => Ok(codes(x.shape(), data)),
        Err(kernels::NotANumber(index)) => Err(InterpError::NotANumber { node: name.to_owned(), index }),
    }
}

/// Equation 4.
pub(super) fn integer_linear(
    x: &Tensor,
    weight: &Tensor,
    packed: Option<&Int8Weight>,
    bias: &[i32],
    fraction_bits: u32,
) -> Tensor {
    let (n, k) = (weight.shape()[0], weight.shape()[1]);
    let m = rows_before_last(x.shape());
    let mut acc = match packed {
        Some(packed) => packed.product(i8s(x), m),
        None => Int8Weight::new(i8s(weight), n, k, Int8Product::Exact).product(i8s(x), m),
    };
    if n > 0 {
        acc.par_chunks_exact_mut(n).for_each(|row| {
            // The bound of equation 4 keeps this inside i32; wrapping says what happens if a graph breaks it.
            row.iter_mut().zip(bias).for_each(|(acc, &b)| *acc = (*acc << fraction_bits).wrapping_add(b));
        });
    }
    integers(&with_last(x.shape(), n), acc)
}

/// Equation 5.
pub(super) fn requantize(acc: &Tensor, multiplier: &[f32], zero_point: i32, lo: i32, hi: i32) -> Tensor {
    let rule = |(&acc, &m): (&i32, &f32)| numerics::requantize(acc, m, zero_point, lo, hi) as i8;
    codes(acc.shape(), by_channel(acc, multiplier, rule))
}

/// Equation 7.
pub(super) fn scale_accumulator(acc: &Tensor, scale: &[f32], relu: bool) -> Tensor {
    let rule = |(&acc, &s): (&i32, &f32)| numerics::scale_accumulator(acc, s, relu);
    like(acc, by_channel(acc, scale, rule))
}

fn by_channel<T: Send + Clone + Default>(
    acc: &Tensor,
    factors: &[f32],
    rule: impl Fn((&i32, &f32)) -> T + Sync,
) -> Vec<T> {
    let mut y = vec![T::default(); acc.len()];
    let n = factors.len().max(1);
    let rows = y.par_chunks_exact_mut(n).zip(i32s(acc).par_chunks_exact(n));
    rows.for_each(|(y, acc)| y.iter_mut().zip(acc.iter().zip(factors)).for_each(|(y, pair)| *y = rule(pair)));
    y
}
