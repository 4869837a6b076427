//! The Cholesky factor of the inverse of a matrix.

use rayon::prelude::*;

use crate::numerics::vectorized;

/// Columns that are computed together.
const BLOCK: usize = 64;

/// Returns the upper triangular `R` with `A⁻¹ = Rᵀ · R` for a symmetric matrix `A[k, k]`; `None` if `A` is not positive definite.
///
/// With the order of rows and columns reversed, `A = L · Lᵀ` becomes `A = U · Uᵀ` with `U` upper triangular, so that `R = U⁻¹`: the reverse
/// of `L⁻¹`. No inverse of `A` is computed.
pub(super) fn inverse_factor(a: &[f64], k: usize) -> Option<Vec<f64>> {
    let mut l: Vec<f64> = a.iter().rev().copied().collect();
    cholesky(&mut l, k)?;
    let mut inverse = inverse_of_lower(&l, k);
    inverse.reverse();
    Some(inverse)
}

/// The product of two vectors, in 16 sums.
#[inline(always)]
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 16;
    let mut sums = [0f64; LANES];
    let ((a_blocks, a_rest), (b_blocks, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

/// Replaces the lower triangle of a symmetric matrix by its Cholesky factor.
fn cholesky(a: &mut [f64], k: usize) -> Option<()> {
    for first in (0..k).step_by(BLOCK) {
        let end = k.min(first + BLOCK);
        let (block, below) = a.split_at_mut(end * k);
        for i in first..end {
            let (above, row) = block.split_at_mut(i * k);
            for j in first..i {
                let other = &above[j * k..][..=j];
                row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
            }
            let rest = row[i] - dot(&row[..i], &row[..i]);
            if rest.is_nan() || rest <= 0.0 {
                return None;
            }
            row[i] = rest.sqrt();
        }
        below.par_chunks_exact_mut(k).for_each(|row| {
            vectorized(
                #[inline(always)]
                || {
                    for j in first..end {
                        let other = &block[j * k..][..=j];
                        row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
                    }
                },
            );
        });
    }
    Some(())
}

/// Returns the inverse of a lower triangular matrix: `M_i = (e_i − Σ_{j<i} L_ij · M_j) / L_ii`, in stripes of columns.
fn inverse_of_lower(l: &[f64], k: usize) -> Vec<f64> {
    let stripe = |first: usize| {
        vectorized(
            #[inline(always)]
            || {
                let width = BLOCK.min(k - first);
                let mut m = vec![0f64; (k - first) * width];
                for i in first..k {
                    let (done, rest) = m.split_at_mut((i - first) * width);
                    let row = &mut rest[..width];
                    if i - first < width {
                        row[i - first] = 1.0;
                    }
                    for (&factor, done) in l[i * k + first..][..i - first].iter().zip(done.chunks_exact(width)) {
                        for (m, d) in row.iter_mut().zip(done) {
                            *m -= factor * d;
                        }
                    }
                    for m in row.iter_mut() {
                        *m /= l[i * k + i];
                    }
                }
                m
            },
        )
    };
    let firsts: Vec<usize> = (0..k).step_by(BLOCK).collect();
    let stripes: Vec<Vec<f64>> = firsts.par_iter().map(|&first| stripe(first)).collect();
    let mut inverse = vec![0f64; k * k];
    for (first, stripe) in firsts.into_iter().zip(stripes) {
        let width = BLOCK.min(k - first);
        for (i, row) in stripe.chunks_exact(width).enumerate() {
            inverse[(first + i) * k + first..][..width].copy_from_slice(row);
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_gives_the_inverse() {
        let mut random = fastrand::Rng::with_seed(5);
        for k in [1, 2, 17, 64, 65, 200] {
            // A product of a random matrix and its transpose, damped.
            let x: Vec<f64> = (0..k * 2 * k).map(|_| random.f64() - 0.4).collect();
            let mut a = vec![0f64; k * k];
            for (i, row) in a.chunks_exact_mut(k).enumerate() {
                for (j, a) in row.iter_mut().enumerate() {
                    *a = dot(&x[i * 2 * k..][..2 * k], &x[j * 2 * k..][..2 * k]) + if i == j { 0.1 } else { 0.0 };
                }
            }
            let r = inverse_factor(&a, k).expect("positive definite");
            assert!((0..k).all(|i| r[i * k + i] > 0.0 && (0..i).all(|j| r[i * k + j] == 0.0)), "upper triangular");
            // A · (Rᵀ · R) is the identity.
            let product = |i: usize, j: usize| (0..=i.min(j)).map(|m| r[m * k + i] * r[m * k + j]).sum::<f64>();
            let inverse: Vec<f64> = (0..k * k).map(|at| product(at / k, at % k)).collect();
            for i in 0..k {
                for j in 0..k {
                    let one = (0..k).map(|m| a[i * k + m] * inverse[m * k + j]).sum::<f64>();
                    approx::assert_abs_diff_eq!(one, if i == j { 1.0 } else { 0.0 }, epsilon = 1e-8);
                }
            }
        }
        assert_eq!(inverse_factor(&[1.0, 2.0, 2.0, 1.0], 2), None, "not positive definite");
        assert_eq!(inverse_factor(&[f64::NAN], 1), None);
    }
}
