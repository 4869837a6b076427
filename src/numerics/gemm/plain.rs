//! Float products by plain loops, for builds without `rten-gemm`. Each sum runs over K in order.

use super::after::After;

/// A weight `[N, K]`, which these loops read as it is.
#[derive(Debug)]
pub(crate) struct PackedWeight;

impl PackedWeight {
    pub(crate) fn new(_: &[f32], _: usize, _: usize) -> Self {
        Self
    }
}

/// The left factor `a[m, k]` of several products.
pub(crate) struct PackedLeft<'a> {
    a: &'a [f32],
    k: usize,
}

impl<'a> PackedLeft<'a> {
    pub(crate) fn new(a: &'a [f32], _: usize, k: usize) -> Self {
        Self { a, k }
    }

    /// Computes `y[m, n] = a[m, k] · b[k, n] + bias[m]`.
    pub(crate) fn product(&self, y: &mut [f32], b: &[f32], n: usize, bias: Option<&[f32]>) {
        if y.is_empty() {
            return;
        }
        for (row, y) in y.chunks_exact_mut(n).enumerate() {
            y.fill(0.0);
            add_products(y, &self.a[row * self.k..][..self.k], b);
            if let Some(bias) = bias {
                y.iter_mut().for_each(|y| *y += bias[row]);
            }
        }
    }
}

/// Adds `a[k] · b[k, n]` to `y[n]`.
fn add_products(y: &mut [f32], a: &[f32], b: &[f32]) {
    for (&a, b) in a.iter().zip(b.chunks_exact(y.len())) {
        y.iter_mut().zip(b).for_each(|(y, &b)| *y += a * b);
    }
}

/// Computes `x[m, k] · weight[n, k]ᵀ + bias[n]`.
pub(crate) fn linear(
    x: &[f32],
    [m, n, k]: [usize; 3],
    weight: &[f32],
    packed: Option<&PackedWeight>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut y = vec![0.0; m * n];
    linear_into(&mut y, x, [m, n, k], weight, packed, bias, None);
    y
}

/// Computes [`linear_into`] for a block of rows.
pub(crate) use linear_into as linear_of_block;

/// Computes [`linear`] into a buffer `y[m, n]`, and calls `after` with the result.
pub(crate) fn linear_into(
    y: &mut [f32],
    x: &[f32],
    [_, n, k]: [usize; 3],
    weight: &[f32],
    _: Option<&PackedWeight>,
    bias: Option<&[f32]>,
    after: After<'_, f32>,
) {
    if y.is_empty() {
        return;
    }
    for (row, y) in y.chunks_exact_mut(n).enumerate() {
        let x = &x[row * k..][..k];
        for (col, y) in y.iter_mut().enumerate() {
            let products = x.iter().zip(&weight[col * k..][..k]).map(|(x, w)| x * w);
            *y = products.sum::<f32>() + bias.map_or(0.0, |bias| bias[col]);
        }
    }
    if let Some(after) = after {
        after(0, 0, n, y);
    }
}

/// Computes `y[m, n] = a[m, k] · b[k, n]`.
pub(crate) fn matmul(y: &mut [f32], a: &[f32], b: &[f32], [m, n, k]: [usize; 3]) {
    PackedLeft::new(a, m, k).product(y, b, n, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_small_integers() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, -1.0, 0.5, 2.0, -2.0, 3.0]);
        let mut y = [0.0; 4];
        matmul(&mut y, &a, &b, [2, 2, 3]);
        assert_eq!(y, [-4.0, 12.0, -5.5, 24.0]);
        // The same with the right factor transposed, and a bias.
        let weight = [1.0, 0.5, -2.0, -1.0, 2.0, 3.0];
        assert_eq!(linear(&a, [2, 2, 3], &weight, None, Some(&[1.0, -1.0])), [-3.0, 11.0, -4.5, 23.0]);
        assert_eq!(linear(&[], [2, 2, 0], &[], None, Some(&[1.0, -1.0])), [1.0, -1.0, 1.0, -1.0]);
    }
}
