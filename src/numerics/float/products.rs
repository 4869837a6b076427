//! Float products that are reproducible: factors of 12 significant bits, so that each product is exact in `f32`, and sums in the order
//! of the inner dimension. A fused and an unfused multiply-add of exact products are the same number.

use std::ops::Range;

use super::{INFINITY, MAGNITUDE, NAN, SIGN, add, canonical, select};
use crate::numerics::vectorized;
use crate::parallel::*;

/// Rounds a factor to 12 significant bits, ties to even. Magnitudes below 2⁻⁵⁰ become 0 and those above 2⁶⁰ infinite, so that no
/// product is subnormal and none overflows.
#[inline(always)]
pub(crate) fn factor(x: f32) -> f32 {
    const LOW: u32 = 0x2680_0000;
    const HIGH: u32 = 0x5d80_0000;
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7ff + ((bits >> 12) & 1)) & 0xffff_f000;
    let magnitude = rounded & MAGNITUDE;
    let bounded = select(magnitude < LOW, 0, select(magnitude > HIGH, INFINITY | (bits & SIGN), rounded));
    f32::from_bits(select(bits & MAGNITUDE > INFINITY, NAN, bounded))
}

/// [`factor`] of each element.
pub(crate) fn factors(x: &[f32]) -> Vec<f32> {
    let mut y = x.to_vec();
    vectorized(
        #[inline(always)]
        || {
            for v in &mut y {
                *v = factor(*v);
            }
        },
    );
    y
}

/// [`factor`] of each element of a weight `[n, k]`, as `[k, n]`.
pub(crate) fn transposed_factors(weight: &[f32], n: usize, k: usize) -> Vec<f32> {
    let mut y = vec![0.0; n * k];
    for (at, row) in weight.chunks_exact(k.max(1)).enumerate() {
        row.iter().enumerate().for_each(|(feature, &w)| y[feature * n + at] = factor(w));
    }
    y
}

/// Columns of the sums of several rows that stay in registers, and of those of few rows.
const COLS: usize = 16;
const COLS_OF_FEW: usize = 64;
/// Multiply-adds that are worth a parallel task.
pub(crate) const TASK: usize = 1 << 17;

/// Rows of the sums that stay in registers: AVX-512 has twice as many, of twice the size.
fn tile_rows() -> usize {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return 8;
    }
    4
}

/// Computes `y[m, n] = a[m, k] · b[k, n] (+ bias[n])` of factors that [`factor`] has rounded.
pub(crate) fn product(y: &mut [f32], a: &[f32], b: &[f32], [n, k]: [usize; 2], bias: Option<&[f32]>) {
    if n == 0 {
        return;
    }
    match tile_rows() {
        8 => by_rows::<8>(y, a, b, [n, k], bias),
        _ => by_rows::<4>(y, a, b, [n, k], bias),
    }
}

/// Computes [`product`] in tiles of `ROWS` rows.
fn by_rows<const ROWS: usize>(y: &mut [f32], a: &[f32], b: &[f32], [n, k]: [usize; 2], bias: Option<&[f32]>) {
    let tiles = TASK.div_ceil(ROWS * n * k.max(1));
    y.par_chunks_mut(tiles * ROWS * n).enumerate().for_each(|(at, y)| {
        let a = &a[at * tiles * ROWS * k..][..y.len() / n * k];
        vectorized(
            #[inline(always)]
            || {
                for (tile, y) in y.chunks_mut(ROWS * n).enumerate() {
                    let a = &a[tile * ROWS * k..][..y.len() / n * k];
                    if y.len() == ROWS * n {
                        rows::<ROWS, COLS>(y, 0..n, a, b, [n, k], bias);
                    } else {
                        for (row, y) in y.chunks_exact_mut(n).enumerate() {
                            let (a, wide) = (&a[row * k..][..k], n / COLS_OF_FEW * COLS_OF_FEW);
                            rows::<1, COLS_OF_FEW>(y, 0..wide, a, b, [n, k], bias);
                            rows::<1, COLS>(y, wide..n, a, b, [n, k], bias);
                        }
                    }
                }
            },
        );
    });
}

/// Computes some columns of `ROWS` rows of [`product`].
#[inline(always)]
fn rows<const ROWS: usize, const COLS: usize>(
    y: &mut [f32],
    all: Range<usize>,
    a: &[f32],
    b: &[f32],
    [n, k]: [usize; 2],
    bias: Option<&[f32]>,
) {
    let mut first = all.start;
    while first < all.end {
        let columns = COLS.min(all.end - first);
        let mut sums = [[0f32; COLS]; ROWS];
        if columns == COLS {
            for i in 0..k {
                let b: &[f32; COLS] = b[i * n + first..].first_chunk().expect("columns are left");
                for row in 0..ROWS {
                    let a = a[row * k + i];
                    for column in 0..COLS {
                        sums[row][column] += a * b[column];
                    }
                }
            }
        } else {
            for (sums, a) in sums.iter_mut().zip(a.chunks_exact(k.max(1))) {
                for (i, &a) in a.iter().enumerate() {
                    let b = &b[i * n + first..][..columns];
                    for (sum, &b) in sums.iter_mut().zip(b) {
                        *sum += a * b;
                    }
                }
            }
        }
        for (y, sums) in y.chunks_exact_mut(n).zip(&sums) {
            for (column, y) in y[first..][..columns].iter_mut().enumerate() {
                *y = match bias {
                    Some(bias) => add(sums[column], bias[first + column]),
                    None => canonical(sums[column]),
                };
            }
        }
        first += columns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_have_twelve_bits() {
        let even = 1.0 + 2f32.powi(-11);
        for (x, expected) in [
            (1.0, 1.0),
            (1.0 + 2f32.powi(-12), 1.0),
            (even + 2f32.powi(-12), 1.0 + 2f32.powi(-10)),
            (-even, -even),
            (2f32.powi(-50), 2f32.powi(-50)),
            (2f32.powi(-51), 0.0),
            (2f32.powi(60), 2f32.powi(60)),
            (-2f32.powi(61), f32::NEG_INFINITY),
            (f32::INFINITY, f32::INFINITY),
            (-0.0, 0.0),
        ] {
            assert_eq!(factor(x).to_bits(), f32::to_bits(expected), "{x:e}");
        }
        assert!(factor(f32::from_bits(0x7fff_ffff)).is_nan() && factor(f32::from_bits(0xffc0_0000)).is_nan());
    }

    fn values(length: usize, seed: u32) -> Vec<f32> {
        let random = |i: usize| (i as u32 + seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b);
        (0..length).map(|i| random(i) as i32 as f32 * 1e-9).collect()
    }

    /// One after the other, whether or not a multiply-add is fused, and in any tile.
    #[test]
    fn sums_have_one_order() {
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [4, 16, 33], [9, 37, 130], [5, 0, 3], [2, 3, 0]] {
            let (a, b, bias) = (factors(&values(m * k, 1)), factors(&values(k * n, 2)), values(n, 3));
            for bias in [None, Some(&bias[..])] {
                let mut y = vec![f32::NAN; m * n];
                product(&mut y, &a, &b, [n, k], bias);
                for (at, &y) in y.iter().enumerate() {
                    let (row, column) = (at / n, at % n);
                    let sum = (0..k).fold(0f32, |sum, i| a[row * k + i].mul_add(b[i * n + column], sum));
                    let expected = bias.map_or(canonical(sum), |bias| add(sum, bias[column]));
                    assert_eq!(y.to_bits(), expected.to_bits(), "{m} x {k} x {n}, element {at}");
                }
            }
        }
        // Factors of all 24 bits show the difference.
        let (a, b) = (values(64, 1), values(64, 2));
        let fused = a.iter().zip(&b).fold(0f32, |sum, (&a, &b)| a.mul_add(b, sum));
        assert_ne!(fused, a.iter().zip(&b).fold(0f32, |sum, (&a, &b)| a * b + sum));
    }

    #[test]
    fn a_weight_is_transposed() {
        assert_eq!(transposed_factors(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
