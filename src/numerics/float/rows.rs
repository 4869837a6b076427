//! Sums in a fixed order, and what normalizes rows by them.
//!
//! A sum along a row: partial sum `l` of 64 adds the elements l, l + 64, … in order; then partial sum l adds partial sum l + 32, then
//! l + 16, and so on. A sum along another axis: blocks of 32 elements in order, then the sums of the blocks in order.

use super::functions::{exp_of_negative, inverse_sqrt};
use super::{NAN, TINY, canonical, div, flush, is_special, number_of, order_of};

/// The number of partial sums of a row.
pub(crate) const LANES: usize = 64;
/// The number of elements of a block along another axis.
const BLOCK: usize = 32;

/// Computes `Σ f(x[i])` along a row. The results of `f` are canonical.
#[inline(always)]
fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] += f(block[lane]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane += f(v);
    }
    sum_of_lanes(lanes)
}

/// Combines the upper half of some lanes with the lower: `N` are left. A loop over the halvings would keep the lanes in memory.
#[inline(always)]
fn halved<T: Copy + Default, const N: usize>(lanes: &[T], combine: impl Fn(T, T) -> T) -> [T; N] {
    let mut halved = [T::default(); N];
    for lane in 0..N {
        halved[lane] = combine(lanes[lane], lanes[lane + N]);
    }
    halved
}

/// Combines lanes to one, the upper half with the lower, as often as there are two halves.
#[inline(always)]
fn combined<T: Copy + Default>(lanes: [T; LANES / 2], combine: impl Fn(T, T) -> T) -> T {
    let lanes: [T; 16] = halved(&lanes, &combine);
    let lanes: [T; 8] = halved(&lanes, &combine);
    let lanes: [T; 4] = halved(&lanes, &combine);
    let lanes: [T; 2] = halved(&lanes, &combine);
    combine(lanes[0], lanes[1])
}

/// Adds partial sums: the upper half to the lower, as often as there are two halves.
#[inline(always)]
pub(crate) fn sum_of_lanes(lanes: [f32; LANES]) -> f32 {
    combined(halved(&lanes, |a, b| a + b), |a, b| a + b)
}

/// The sum of a row.
#[inline(always)]
pub(crate) fn sum(row: &[f32]) -> f32 {
    canonical(sum_of(row, canonical))
}

/// The sums of columns: `sums[i]` adds the elements i of all rows, which have its length.
#[inline(always)]
pub(crate) fn sum_columns(rows: &[f32], sums: &mut [f32]) {
    let n = sums.len();
    sums.fill(0.0);
    if n == 0 {
        return;
    }
    let mut part = vec![0f32; n];
    for block in rows.chunks(BLOCK * n) {
        part.fill(0.0);
        for row in block.chunks_exact(n) {
            for (part, &v) in part.iter_mut().zip(row) {
                *part += canonical(v);
            }
        }
        for (sum, &part) in sums.iter_mut().zip(&part) {
            *sum += part;
        }
    }
    for sum in sums {
        *sum = canonical(*sum);
    }
}

/// Computes the softmax of a row, in place. A row with NaN or ∞, or of −∞ only (all masked), becomes NaN, as in PyTorch.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32]) {
    let mut largest = [i32::MIN; 32];
    let (blocks, rest) = row.as_chunks::<32>();
    for block in blocks {
        for lane in 0..32 {
            largest[lane] = largest[lane].max(order_of(canonical(block[lane])));
        }
    }
    for (largest, &v) in largest.iter_mut().zip(rest) {
        *largest = (*largest).max(order_of(canonical(v)));
    }
    let largest = number_of(if row.is_empty() { 0 } else { combined(largest, i32::max) });
    if is_special(largest) {
        return row.fill(f32::from_bits(NAN));
    }
    let mut lanes = [0f32; LANES];
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            block[lane] = exp_of_negative(canonical(block[lane]) - largest);
            lanes[lane] += block[lane];
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *v = exp_of_negative(canonical(*v) - largest);
        *lane += *v;
    }
    let inv_sum = flush(1.0 / sum_of_lanes(lanes));
    for v in row {
        *v = canonical(*v * inv_sum);
    }
}

/// The square, at least 2⁻¹⁰⁰.
#[inline(always)]
fn square(x: f32) -> f32 {
    f32::from_bits((x * x).to_bits().max(TINY))
}

/// `1 / √(sum / n + eps)`; NaN if a sum is not finite.
#[inline(always)]
fn inverse_deviation(sum: f32, n: f32, eps: f32) -> f32 {
    let variance = canonical(div(sum, n) + canonical(eps));
    if is_special(sum) || is_special(variance) {
        return f32::from_bits(NAN);
    }
    inverse_sqrt(variance)
}

/// Normalizes a row, in place: `(x − mean) / √(variance + eps) · weight + bias`. A row whose sums are not finite becomes NaN.
#[inline(always)]
pub(crate) fn layer_norm(row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let n = row.len() as f32;
    let total = sum_of(row, canonical);
    let mean = div(total, n);
    let squares = sum_of(
        row,
        #[inline(always)]
        |v| square(canonical(v) - mean),
    );
    let inv_std = inverse_deviation(squares, n, eps);
    if is_special(total) || is_special(inv_std) {
        return row.fill(f32::from_bits(NAN));
    }
    let (weight, bias) = (&weight[..row.len()], &bias[..row.len()]);
    for i in 0..row.len() {
        let v = flush((canonical(row[i]) - mean) * inv_std);
        row[i] = canonical(flush(v * canonical(weight[i])) + canonical(bias[i]));
    }
}

/// Normalizes a row, in place: `x / √(mean(x²) + eps) · weight`. A row whose sum is not finite becomes NaN.
#[inline(always)]
pub(crate) fn rms_norm(row: &mut [f32], weight: &[f32], eps: f32) {
    let squares = sum_of(
        row,
        #[inline(always)]
        |v| square(canonical(v)),
    );
    let inv_rms = inverse_deviation(squares, row.len() as f32, eps);
    if is_special(inv_rms) {
        return row.fill(f32::from_bits(NAN));
    }
    let weight = &weight[..row.len()];
    for i in 0..row.len() {
        row[i] = canonical(flush(canonical(row[i]) * inv_rms) * canonical(weight[i]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 8] = [1, 2, 7, 63, 64, 65, 384, 1000];

    fn values(length: usize) -> Vec<f32> {
        (0..length as u32).map(|i| i.wrapping_mul(0x9e37_79b9) as i32 as f32 * 3e-9).collect()
    }

    /// The order of the sums, written out.
    #[test]
    fn sums_have_one_order() {
        let mut differ = 0;
        for length in LENGTHS {
            let row = values(length);
            let mut lanes = vec![0f32; LANES];
            row.iter().enumerate().for_each(|(i, v)| lanes[i % LANES] += v);
            while lanes.len() > 1 {
                let (low, high) = lanes.split_at(lanes.len() / 2);
                lanes = low.iter().zip(high).map(|(a, b)| a + b).collect();
            }
            assert_eq!(sum(&row).to_bits(), lanes[0].to_bits(), "{length}");
            let blocks = row.chunks(BLOCK).map(|block| block.iter().fold(0f32, |sum, v| sum + v));
            let expected = blocks.fold(0f32, |sum, v| sum + v);
            let mut columns = [0.0];
            sum_columns(&row, &mut columns);
            assert_eq!(columns[0].to_bits(), expected.to_bits(), "{length}");
            differ += usize::from(columns[0].to_bits() != lanes[0].to_bits());
        }
        assert!(differ > 2, "the orders do not show");
    }

    #[test]
    fn rows_are_close_to_f64() {
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        for length in LENGTHS {
            let (x, weight, bias) = (values(length), values(length + 3).split_off(3), values(length + 5).split_off(5));
            let [x64, w64, b64] = [&x, &weight, &bias].map(|v| wide(v));
            let n = length as f64;
            let largest = x64.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = x64.iter().map(|v| libm::exp(v - largest)).sum();
            let mean = x64.iter().sum::<f64>() / n;
            let of = |center: f64| 1.0 / (x64.iter().map(|v| (v - center).powi(2)).sum::<f64>() / n + 1e-3).sqrt();
            let (inv_std, inv_rms) = (of(mean), of(0.0));
            let [mut softmax_y, mut layer_y, mut rms_y] = [x.clone(), x.clone(), x.clone()];
            softmax(&mut softmax_y);
            layer_norm(&mut layer_y, &weight, &bias, 1e-3);
            rms_norm(&mut rms_y, &weight, 1e-3);
            for i in 0..length {
                for (name, got, exact) in [
                    ("softmax", softmax_y[i], libm::exp(x64[i] - largest) / total),
                    ("layer norm", layer_y[i], (x64[i] - mean) * inv_std * w64[i] + b64[i]),
                    ("RMS norm", rms_y[i], x64[i] * inv_rms * w64[i]),
                ] {
                    assert!(
                        (f64::from(got) - exact).abs() <= 5e-6 * exact.abs().max(1.0),
                        "{name} of {length}: {got}, {exact}"
                    );
                }
            }
        }
    }
}
