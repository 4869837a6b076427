//! Comparison of a device's result with the right one.

use crate::gpu::device::error::GpuError;
use crate::values::Tensor;

/// How a result agrees with the right one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Agreement {
    /// All bits are the same; NaN has one pattern.
    Exact,
    /// Floats differ within rounding, or where infinities and NaN are right and the device's compiler assumed that there are none; or
    /// int8 values that were quantized from floats differ by a step. The first difference: index, the device's result, the right one.
    Near(usize, f32, f32),
}

/// Floats agree within this, relative to the larger of 1 and the right result.
const TOLERANCE: f32 = 1e-5;

/// Compares every element, and their number: missing elements are no right answer. Elements may be near if the kernel computes in
/// floats, else they are equal.
///
/// # Errors
/// Returns [`GpuError::KnownAnswer`] for the first element that is wrong.
pub(crate) fn compare(
    kernel: &str,
    actual: &Tensor,
    expected: &Tensor,
    may_be_near: bool,
) -> Result<Agreement, GpuError> {
    if actual.len() != expected.len() || actual.dtype() != expected.dtype() {
        let [got, right] = [actual, expected].map(|t| format!("{} elements of {}", t.len(), t.dtype()));
        let message = format!("known-answer test: {got}, expected {right}");
        return Err(GpuError::Device { what: kernel.to_owned(), message });
    }
    let wrong = |index: usize, actual: i64, expected: i64| GpuError::KnownAnswer {
        kernel: kernel.to_owned(),
        index,
        actual,
        expected,
    };
    let mut near = None;
    match (actual, expected) {
        (Tensor::F32(actual), Tensor::F32(expected)) => {
            for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
                if bits(actual) == bits(expected) {
                    continue;
                }
                // A compiler that assumes finite numbers may lose an infinity or NaN, but makes none.
                let within = expected.is_finite() && (actual - expected).abs() <= TOLERANCE * expected.abs().max(1.0);
                let is_near = within || !(expected.is_finite() || !actual.is_finite() && !expected.is_nan());
                if !(may_be_near && is_near) {
                    return Err(wrong(index, bits(actual).into(), bits(expected).into()));
                }
                near.get_or_insert((index, actual, expected));
            }
        }
        _ => {
            // Norms may quantize their result.
            let steps = i64::from(may_be_near);
            for (index, (actual, expected)) in integers(actual).zip(integers(expected)).enumerate() {
                if (actual - expected).abs() > steps {
                    return Err(wrong(index, actual, expected));
                }
                if actual != expected {
                    near.get_or_insert((index, actual as f32, expected as f32));
                }
            }
        }
    }
    Ok(near.map_or(Agreement::Exact, |(index, actual, expected)| Agreement::Near(index, actual, expected)))
}

/// The bits of a float, where NaN has one pattern.
fn bits(v: f32) -> u32 {
    if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }
}

fn integers(tensor: &Tensor) -> Box<dyn Iterator<Item = i64> + '_> {
    match tensor {
        Tensor::I8(a) => Box::new(a.iter().map(|&v| v.into())),
        Tensor::I32(a) => Box::new(a.iter().map(|&v| v.into())),
        Tensor::I64(a) => Box::new(a.iter().copied()),
        Tensor::F32(_) => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn i8s(values: &[i8]) -> Tensor {
        Tensor::from_i8(&[values.len()], values.to_vec()).expect("fits")
    }

    fn f32s(values: &[f32]) -> Tensor {
        Tensor::from_f32(&[values.len()], values.to_vec()).expect("fits")
    }

    #[test]
    fn a_wrong_element_is_named() {
        let error = compare("linear_i8_i8", &i8s(&[1, 2, 3]), &i8s(&[1, 5, 3]), false).expect_err("differs");
        let kernel = "linear_i8_i8".to_owned();
        assert_eq!(error, GpuError::KnownAnswer { kernel, index: 1, actual: 2, expected: 5 });
        assert_eq!(compare("norm", &i8s(&[1, 2]), &i8s(&[1, 3]), true), Ok(Agreement::Near(1, 2.0, 3.0)));
        assert!(compare("norm", &i8s(&[1, 2]), &i8s(&[1, 4]), true).is_err());
    }

    #[test]
    fn missing_answers_are_wrong() {
        let of = |actual: &[i8], expected: &[i8]| {
            compare("lut_i8_i8", &i8s(actual), &i8s(expected), true).map_err(|e| e.to_string())
        };
        assert_eq!(of(&[1, 2], &[1, 2]), Ok(Agreement::Exact));
        for (actual, expected, numbers) in [
            (&[][..], &[1, 2][..], "0 elements of i8, expected 2"),
            (&[1, 2, 3], &[1, 2], "3 elements of i8, expected 2"),
        ] {
            let error = of(actual, expected).expect_err(numbers);
            assert!(error.contains("lut_i8_i8") && error.contains(numbers), "{error}");
        }
    }

    #[test]
    fn floats_are_right_or_near_or_wrong() {
        let [nan, infinity] = [f32::NAN, f32::INFINITY];
        let of = |actual: f32, expected: f32| compare("exp", &f32s(&[actual]), &f32s(&[expected]), true);
        for (actual, expected) in [(1.0, 1.0), (nan, f32::from_bits(0xffc0_1234)), (infinity, infinity)] {
            assert_eq!(of(actual, expected), Ok(Agreement::Exact), "{actual} for {expected}");
        }
        for (actual, expected) in [(1.000_001, 1.0), (0.0, -0.0), (3.0, nan), (f32::MAX, infinity), (infinity, nan)] {
            assert!(matches!(of(actual, expected), Ok(Agreement::Near(..))), "{actual} for {expected}");
            // A sum of integers that loses its last bit is wrong.
            assert!(compare("linear", &f32s(&[actual]), &f32s(&[expected]), false).is_err(), "{actual} for {expected}");
        }
        for (actual, expected) in
            [(1.001, 1.0), (nan, 1.0), (infinity, 1.0), (0.0, 1.0), (nan, infinity), (-infinity, infinity)]
        {
            assert!(of(actual, expected).is_err(), "{actual} for {expected}");
        }
    }
}
