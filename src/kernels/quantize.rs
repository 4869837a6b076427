//! Kernels for equations 1, 2, 5 and 7 on slices.
//!
//! To round to nearest even, they add 1.5 · 2²³, which leaves no fraction bits under the rounding mode that every host runs in.
//! Unlike `round_ties_even`, this vectorizes on processors without a rounding instruction. It is correct below 2²², hence the clamp
//! comes first; clamping at integers and rounding commute.

use rayon::prelude::*;

use super::TASK;
use crate::numerics::vectorized;
use crate::values::{QParams, QuantRange, TensorQParams};

/// 1.5 · 2²³: the last bit of a sum with it counts ones.
const MAGIC: f32 = 12_582_912.0;

/// Row-major index of a NaN, which has no quantized value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotANumber(pub(crate) usize);

/// Quantizes a tensor of shape `shape` (equation 2).
pub(crate) fn quantize(
    x: &[f32],
    shape: &[usize],
    qparams: &TensorQParams,
    range: QuantRange,
) -> Result<Vec<i8>, NotANumber> {
    let mut q = vec![0i8; x.len()];
    let (channels, inner, task) = tasks(shape, qparams);
    let blocks = q.par_chunks_mut(task).zip(x.par_chunks(task)).enumerate().map(|(at, (q, x))| {
        let first = at * (task / inner);
        vectorized(
            #[inline(always)]
            || {
                let rows = q.chunks_mut(inner).zip(x.chunks(inner)).enumerate();
                rows.map(|(row, (q, x))| quantize_block(q, x, channels[(first + row) % channels.len()], range))
                    .fold(true, |a, b| a & b)
            },
        )
    });
    if blocks.reduce(|| true, |a, b| a & b) {
        return Ok(q);
    }
    Err(NotANumber(x.iter().position(|v| v.is_nan()).expect("one of them is NaN")))
}

/// Dequantizes a tensor of shape `shape` (equation 1).
pub(crate) fn dequantize(q: &[i8], shape: &[usize], qparams: &TensorQParams) -> Vec<f32> {
    let mut x = vec![0f32; q.len()];
    let (channels, inner, task) = tasks(shape, qparams);
    x.par_chunks_mut(task).zip(q.par_chunks(task)).enumerate().for_each(|(at, (x, q))| {
        let first = at * (task / inner);
        vectorized(
            #[inline(always)]
            || {
                for (row, (x, q)) in x.chunks_mut(inner).zip(q.chunks(inner)).enumerate() {
                    let channel = channels[(first + row) % channels.len()];
                    let (scale, z) = (channel.scale(), channel.zero_point());
                    x.iter_mut().zip(q).for_each(|(x, &q)| *x = (i32::from(q) - z) as f32 * scale);
                }
            },
        );
    });
    x
}

/// Returns the qparams that consecutive runs of elements take in turn, the length of a run, and the length of a task, which is a
/// multiple of it.
fn tasks<'q>(shape: &[usize], qparams: &'q TensorQParams) -> (&'q [QParams], usize, usize) {
    match qparams {
        TensorQParams::PerTensor(q) => (std::slice::from_ref(q), TASK, TASK),
        TensorQParams::PerChannel { channels, ch_axis } => {
            let inner = shape[ch_axis + 1..].iter().product::<usize>().max(1);
            (channels, inner, TASK.div_ceil(inner) * inner)
        }
    }
}

/// Quantizes elements that share qparams. Returns whether none is NaN.
#[inline(always)]
fn quantize_block(q: &mut [i8], x: &[f32], qparams: QParams, range: QuantRange) -> bool {
    let (inv_scale, z) = (qparams.inv_scale(), qparams.zero_point());
    let (lo, hi) = ((range.quant_min() - z) as f32, (range.quant_max() - z) as f32);
    let mut number = true;
    for (q, &v) in q.iter_mut().zip(x) {
        *q = rounded(clamp(v * inv_scale, lo, hi), z);
        number &= !v.is_nan();
    }
    number
}

/// Quantizes a row as [`numerics::quantize`](crate::numerics::quantize) does (equation 2): NaN gives the zero point.
#[inline(always)]
pub(super) fn quantize_row(q: &mut [i8], x: &[f32], inv_scale: f32, z: i32, range: QuantRange) {
    if z.unsigned_abs() > 1 << 20 {
        // Equation 10 gives no such zero point, but a graph may compute its own. The sum with MAGIC would not be exact.
        let rule = |x: f32| crate::numerics::quantize(x, inv_scale, z, range.quant_min(), range.quant_max());
        return q.iter_mut().zip(x).for_each(|(q, &x)| *q = rule(x) as i8);
    }
    let (lo, hi) = ((range.quant_min() - z) as f32, (range.quant_max() - z) as f32);
    for (q, &x) in q.iter_mut().zip(x) {
        let v = x * inv_scale;
        let v = if v.is_nan() { 0.0 } else { v };
        *q = rounded(clamp(v, lo, hi), z);
    }
}

/// The zero point and the range of an int8 result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Int8Output {
    pub(crate) zero_point: i32,
    pub(crate) lo: i32,
    pub(crate) hi: i32,
}

/// Requantizes the sums of one row (equation 5). The accumulator is that of equation 4, `(sum << shift) + bias`, wrapping.
#[inline(always)]
pub(crate) fn requantize_row(q: &mut [i8], sums: &[i32], bias: &[i32], multiplier: &[f32], shift: u32, y: Int8Output) {
    let Int8Output { zero_point: z, lo, hi } = y;
    let (lo, hi) = ((lo - z) as f32, (hi - z) as f32);
    for (((q, &sum), &bias), &m) in q.iter_mut().zip(sums).zip(bias).zip(multiplier) {
        let acc = (sum << shift).wrapping_add(bias);
        *q = rounded(clamp(acc as f32 * m, lo, hi), z);
    }
}

/// Scales the sums of one row to floats (equation 7). The accumulator is that of [`requantize_row`].
#[inline(always)]
pub(crate) fn scale_row(y: &mut [f32], sums: &[i32], bias: &[i32], scale: &[f32], shift: u32, relu: bool) {
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    for (((y, &sum), &bias), &s) in y.iter_mut().zip(sums).zip(bias).zip(scale) {
        let v = (sum << shift).wrapping_add(bias) as f32 * s;
        *y = if v < floor { floor } else { v };
    }
}

/// Like `f32::clamp`, in a form that compiles to two instructions. NaN gives `lo`.
#[inline(always)]
fn clamp(v: f32, lo: f32, hi: f32) -> f32 {
    let v = if v > lo { v } else { lo };
    if v < hi { v } else { hi }
}

/// Computes `rne(v) + z` for |v| < 2²², as int8.
#[inline(always)]
fn rounded(v: f32, z: i32) -> i8 {
    // The low bits of the sum hold the rounded integer in two's complement, since the low byte of MAGIC is 0.
    ((v + MAGIC).to_bits() as i32).wrapping_add(z) as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics;

    /// The values within a few ulp of each tie, and the extremes.
    fn hard_values() -> Vec<f32> {
        let near = (-600i32..=600).flat_map(|half| {
            let v = half as f32 / 2.0;
            (-3i32..=3).map(move |ulp| f32::from_bits(v.to_bits().wrapping_add_signed(ulp)))
        });
        let extremes = [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, -1e-45, 0.0, -0.0, 4e6, -4e6, 1e9];
        near.filter(|v| !v.is_nan()).chain(extremes).collect()
    }

    #[test]
    fn quantize_equals_the_scalar_rule() {
        let x = hard_values();
        for (scale, z) in [(1.0, 0), (0.1, -128), (0.3, 127), (1.7, 42), (1e-3, -5)] {
            let q = QParams::new(scale, z).expect("valid");
            for range in [QuantRange::INT8, QuantRange::INT8_NARROW] {
                let got = quantize(&x, &[x.len()], &TensorQParams::PerTensor(q), range).expect("no NaN");
                for (&v, got) in x.iter().zip(got) {
                    let expected = numerics::quantize(v, q.inv_scale(), z, range.quant_min(), range.quant_max());
                    assert_eq!(i32::from(got), expected, "{v:e} at scale {scale} zero point {z}");
                }
            }
        }
    }

    #[test]
    fn rows_equal_the_scalar_rule() {
        let x: Vec<f32> = hard_values().into_iter().chain([f32::NAN]).collect();
        for (scale, z) in [(1.0, 0), (0.1, -128), (0.3, 127), (1.7, 42), (1e-3, -5), (1e-40, 3), (1.0, 1 << 24)] {
            let inv_scale = 1.0 / scale;
            let mut quantized = vec![0; x.len()];
            quantize_row(&mut quantized, &x, inv_scale, z, QuantRange::INT8);
            for (&x, q) in x.iter().zip(quantized) {
                let expected = numerics::quantize(x, inv_scale, z, -128, 127) as i8;
                assert_eq!(q, expected, "{x:e} at scale {scale:e} zero point {z}");
            }
        }
    }

    #[test]
    fn channels_have_their_own_parameters() {
        let q = TensorQParams::per_channel(&[1.0, 0.5, 0.25], &[0, 1, 2], 1).expect("valid");
        let x: Vec<f32> = (0..12u8).map(f32::from).collect();
        let quantized = quantize(&x, &[2, 3, 2], &q, QuantRange::INT8).expect("no NaN");
        assert_eq!(quantized, [0, 1, 5, 7, 18, 22, 6, 7, 17, 19, 42, 46]);
        assert_eq!(dequantize(&quantized, &[2, 3, 2], &q), x);
    }

    #[test]
    fn nan_is_located() {
        let mut x = vec![1.0; 100_000];
        x[77_777] = f32::NAN;
        let q = TensorQParams::PerTensor(QParams::new(1.0, 0).expect("valid"));
        assert_eq!(quantize(&x, &[x.len()], &q, QuantRange::INT8), Err(NotANumber(77_777)));
    }

    #[test]
    fn requantize_equals_the_scalar_rule() {
        let sums = [0, 1, -1, 3, 5, -3, 12345, -12345, i32::MAX >> 8, i32::MIN >> 8, 1 << 24, (1 << 24) + 1];
        for m in [0.5, 0.25, 1.0 / 3.0, 1e-6, 1e30, 7e-3] {
            for (zero_point, lo, hi) in [(0, -128, 127), (-128, -128, 127), (127, -128, 127), (-3, -3, 100)] {
                for shift in [0, 1, 8] {
                    for bias in [0, 1, -77] {
                        let (n, y) = (sums.len(), Int8Output { zero_point, lo, hi });
                        let mut quantized = vec![0; n];
                        requantize_row(&mut quantized, &sums, &vec![bias; n], &vec![m; n], shift, y);
                        for (&sum, q) in sums.iter().zip(quantized) {
                            let acc = (sum << shift).wrapping_add(bias);
                            let expected = numerics::requantize(acc, m, zero_point, lo, hi);
                            assert_eq!(i32::from(q), expected, "acc {acc} multiplier {m:e} z {zero_point}");
                        }
                    }
                }
            }
        }
    }
}
