//! Metrics: how far the values of one tensor are from those of another. All of them take the reference first.

use super::error::CompareError;

/// Returns the signal to quantization noise ratio (SQNR) in dB: `20 · log10(‖actual‖ / ‖actual − reference‖)`, infinite if both
/// are equal. The signal is `actual`, as in PyTorch's numeric debugger.
///
/// ```
/// let db = enfold::compare::sqnr_db(&[3.0, 3.5], &[3.0, 4.0])?;
/// assert!((db - 20.0).abs() < 1e-9);
/// # Ok::<(), enfold::compare::CompareError>(())
/// ```
///
/// # Errors
/// Returns [`CompareError::Lengths`] for slices of different lengths.
pub fn sqnr_db(reference: &[f32], actual: &[f32]) -> Result<f64, CompareError> {
    let noise = squared_error(reference, actual)?;
    if noise == 0.0 {
        return Ok(f64::INFINITY);
    }
    Ok(10.0 * (dot(actual, actual) / noise).log10())
}

/// Returns the mean squared error, in the squared unit of the values; 0 for empty slices.
///
/// # Errors
/// Returns [`CompareError::Lengths`] for slices of different lengths.
pub fn mse(reference: &[f32], actual: &[f32]) -> Result<f64, CompareError> {
    Ok(squared_error(reference, actual)? / actual.len().max(1) as f64)
}

/// Returns the cosine of the angle between two vectors; NaN if one of them is zero, which has no direction.
///
/// # Errors
/// Returns [`CompareError::Lengths`] for slices of different lengths.
pub fn cosine(reference: &[f32], actual: &[f32]) -> Result<f64, CompareError> {
    check_lengths(reference, actual)?;
    let length = |v: &[f32]| dot(v, v).sqrt();
    Ok(dot(reference, actual) / (length(actual) * length(reference)))
}

fn check_lengths(reference: &[f32], actual: &[f32]) -> Result<(), CompareError> {
    if actual.len() == reference.len() {
        return Ok(());
    }
    Err(CompareError::Lengths { actual: actual.len(), expected: reference.len() })
}

fn squared_error(reference: &[f32], actual: &[f32]) -> Result<f64, CompareError> {
    check_lengths(reference, actual)?;
    Ok(actual.iter().zip(reference).map(|(&a, &r)| (f64::from(a) - f64::from(r)).powi(2)).sum())
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() -> Result<(), CompareError> {
        let (r, a) = ([3.0, 3.5], [3.0, 4.0]);
        approx::assert_relative_eq!(sqnr_db(&r, &a)?, 20.0);
        approx::assert_relative_eq!(mse(&r, &a)?, 0.125);
        approx::assert_relative_eq!(cosine(&[1.0, 1.0], &[1.0, 0.0])?, 0.5f64.sqrt());
        assert_eq!((sqnr_db(&a, &a)?, mse(&[], &[])?), (f64::INFINITY, 0.0));
        for (r, a) in [([3.0, 4.0], [0.0, 0.0]), ([0.0, 0.0], [3.0, 4.0]), ([0.0, 0.0], [0.0, 0.0])] {
            assert!(cosine(&r, &a)?.is_nan(), "{r:?} and {a:?}");
        }
        Ok(())
    }

    #[test]
    fn lengths_must_agree() {
        for metric in [sqnr_db, mse, cosine] {
            let error = metric(&[1.0, 2.0], &[1.0]).expect_err("two and one");
            assert_eq!(error, CompareError::Lengths { actual: 1, expected: 2 });
        }
    }
}
