//! How far two vectors are apart.

fn sum(pairs: impl Iterator<Item = f64>) -> f64 {
    pairs.sum()
}

/// Signal to quantization noise in dB: `20 · log10(‖actual‖ / ‖actual − reference‖)`; infinite where both are equal. The
/// signal is that of `actual`, as in PyTorch's numeric debugger.
#[must_use]
pub fn sqnr_db(actual: &[f32], reference: &[f32]) -> f64 {
    let noise = sum(actual.iter().zip(reference).map(|(&a, &r)| (f64::from(a) - f64::from(r)).powi(2)));
    if noise == 0.0 {
        return f64::INFINITY;
    }
    let signal = sum(actual.iter().map(|&a| f64::from(a).powi(2)));
    10.0 * (signal / noise).log10()
}

/// Mean squared error; 0 for nothing.
#[must_use]
pub fn mse(actual: &[f32], reference: &[f32]) -> f64 {
    let noise = sum(actual.iter().zip(reference).map(|(&a, &r)| (f64::from(a) - f64::from(r)).powi(2)));
    noise / actual.len().max(1) as f64
}

/// Cosine of the angle between two vectors; NaN if one of them is zero, which has no direction.
#[must_use]
pub fn cosine(actual: &[f32], reference: &[f32]) -> f64 {
    let product = sum(actual.iter().zip(reference).map(|(&a, &r)| f64::from(a) * f64::from(r)));
    let length = |v: &[f32]| sum(v.iter().map(|&v| f64::from(v).powi(2))).sqrt();
    product / (length(actual) * length(reference))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let (a, r) = ([3.0, 4.0], [3.0, 3.5]);
        approx::assert_relative_eq!(sqnr_db(&a, &r), 20.0);
        approx::assert_relative_eq!(mse(&a, &r), 0.125);
        approx::assert_relative_eq!(cosine(&[1.0, 0.0], &[1.0, 1.0]), 0.5f64.sqrt());
        assert_eq!((sqnr_db(&a, &a), mse(&[], &[])), (f64::INFINITY, 0.0));
        for (a, r) in [([0.0, 0.0], [3.0, 4.0]), ([3.0, 4.0], [0.0, 0.0]), ([0.0, 0.0], [0.0, 0.0])] {
            assert!(cosine(&a, &r).is_nan(), "{a:?} and {r:?}");
        }
    }
}
