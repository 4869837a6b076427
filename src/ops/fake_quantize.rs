//! Fake quantization, which training uses: quantization and dequantization in one pass, with its gradient.

use super::Op;
use super::operands::Arguments;
use super::quantize::{ChooseQParams, Dequantize, DequantizeDynamic, Quantize, QuantizeDynamic, for_each_channel};
use crate::numerics;
use crate::values::{QuantRange, Shape, Tensor, TensorQParams};

/// Fake-quantizes `x` into `y`, by equations 2 and 1 in one pass. It gives the bits of [`Quantize`] and [`Dequantize`]. NaN stays NaN.
pub(crate) fn fake_quantize(y: &mut [f32], x: &[f32], shape: &[usize], qparams: &TensorQParams, range: QuantRange) {
    for_each_channel(
        y,
        x,
        shape,
        qparams,
        #[inline(always)]
        |y: &mut [f32], x: &[f32], q| {
            let (inv_scale, scale, z) = (q.inv_scale(), q.scale(), q.zero_point());
            let (lo, hi) = ((range.quant_min() - z) as f32, (range.quant_max() - z) as f32);
            for (y, &x) in y.iter_mut().zip(x) {
                let steps = (x * inv_scale).clamp(lo, hi);
                *y = if x.is_nan() { x } else { numerics::round_small(steps) * scale };
            }
        },
    );
}

/// Fake-quantizes to [`QuantRange::INT32`] into a new tensor. A tensor with a NaN is returned unchanged.
pub(crate) fn fake_quantize_i32(x: &Tensor, qparams: &TensorQParams) -> Tensor {
    let quantize = Op::from(Quantize::new(qparams.clone(), QuantRange::INT32));
    let eval =
        |op: &Op, x: &Tensor| op.eval(&Arguments { tensors: &[x], output: &Shape::fixed(x.shape()), packed: None });
    let dequantize = Op::from(Dequantize { qparams: qparams.clone() });
    eval(&quantize, x).and_then(|q| eval(&dequantize, &q)).unwrap_or_else(|_| x.clone())
}

/// Fake-quantizes with dynamic qparams.
///
/// # Errors
/// Returns the row-major index of the first value that is not finite, or that makes the range overflow.
pub(crate) fn fake_quantize_dynamic(x: &Tensor, choose: ChooseQParams) -> Result<Tensor, usize> {
    let eval = |op: Op, tensors: &[&Tensor]| {
        let result = op.eval(&Arguments { tensors, output: &Shape::fixed(x.shape()), packed: None });
        result.map_err(|error| error.index())
    };
    let qparams = eval(choose.into(), &[x])?;
    let quantized = eval(QuantizeDynamic { range: choose.range }.into(), &[x, &qparams])?;
    eval(DequantizeDynamic.into(), &[&quantized, &qparams])
}

/// Computes the straight-through gradient of [`fake_quantize`], in place: `dy` where the quantized value before the clamp is in
/// `range`, else 0.
pub(crate) fn straight_through(dy: &mut [f32], x: &[f32], shape: &[usize], qparams: &TensorQParams, range: QuantRange) {
    for_each_channel(
        dy,
        x,
        shape,
        qparams,
        #[inline(always)]
        |dy: &mut [f32], x: &[f32], q| {
            let (inv_scale, z) = (q.inv_scale(), q.zero_point());
            let (lo, hi) = ((range.quant_min() - z) as f32, (range.quant_max() - z) as f32);
            for (dy, &x) in dy.iter_mut().zip(x) {
                // The clamp keeps the rounding exact. One step beyond the range is enough to be outside.
                let steps = numerics::round_small((x * inv_scale).clamp(lo - 1.0, hi + 1.0));
                *dy = if steps >= lo && steps <= hi { *dy } else { 0.0 };
            }
        },
    );
}
