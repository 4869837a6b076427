//! Compares the outputs of a case with the expected ones, within the case's tolerance.

use std::collections::BTreeMap;

use serde_json::Value;

use super::array::Array;

/// The tolerance for floats.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// Allows `atol + rtol * max(abs(expected))`, with the largest element of the output.
    Output { rtol: f64, atol: f64 },
    /// Allows `atol + rtol * abs(expected)` for each element.
    Element { rtol: f64, atol: f64 },
    /// Allows one step of this size in at most 1 % of the elements, rounded up.
    Steps(f64),
}

/// Reads the tolerance of one output of a case.
fn bound(case: &Value, output: usize) -> Option<Bound> {
    match &case["steps"] {
        Value::Null => {
            let (rtol, atol) = (case["rtol"].as_f64()?, case["atol"].as_f64()?);
            let each = case["each"].as_bool().unwrap_or(false);
            Some(if each { Bound::Element { rtol, atol } } else { Bound::Output { rtol, atol } })
        }
        Value::Array(steps) => Some(Bound::Steps(steps.get(output)?.as_f64()?)),
        step => Some(Bound::Steps(step.as_f64()?)),
    }
}

/// Compares the names, shapes and values of all outputs. An error names the output, the element, and both numbers.
pub(super) fn compare(
    case: &Value,
    actual: &BTreeMap<String, Array>,
    expected: &BTreeMap<String, Array>,
) -> Result<(), String> {
    let names = |arrays: &BTreeMap<String, Array>| arrays.keys().cloned().collect::<Vec<_>>();
    if names(actual) != names(expected) {
        return Err(format!("outputs {:?}, expected {:?}", names(actual), names(expected)));
    }
    for (index, (name, expected)) in expected.iter().enumerate() {
        let actual = &actual[name];
        if actual.shape != expected.shape {
            return Err(format!("{name} has shape {:?}, expected {:?}", actual.shape, expected.shape));
        }
        let bound = bound(case, index).ok_or("neither steps nor rtol and atol in case.json")?;
        values(bound, actual, expected).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn values(bound: Bound, actual: &Array, expected: &Array) -> Result<(), String> {
    let finite = expected.values.iter().map(|v| v.abs()).filter(|v| v.is_finite());
    let largest = finite.fold(0.0, f64::max);
    let mut steps_off = 0;
    for (at, (&a, &e)) in actual.values.iter().zip(&expected.values).enumerate() {
        let right = if !expected.is_float {
            a == e
        } else if !e.is_finite() {
            a == e || (a.is_nan() && e.is_nan())
        } else {
            match bound {
                Bound::Output { rtol, atol } => (a - e).abs() <= atol + rtol * largest,
                Bound::Element { rtol, atol } => (a - e).abs() <= atol + rtol * e.abs(),
                Bound::Steps(step) => {
                    // The product of a scale and an integer has a rounding error of f32.
                    let (off, rest) = (((a - e) / step).round(), ((a - e) / step).fract().abs());
                    steps_off += usize::from(off != 0.0);
                    let between = rest.min(1.0 - rest) * step;
                    off.abs() <= 1.0 && between <= largest * f64::from(f32::EPSILON)
                }
            }
        };
        if !right {
            return Err(format!("element {at} is {a:e}, expected {e:e}, by {bound:?}"));
        }
    }
    let allowed = expected.values.len().div_ceil(100);
    if steps_off > allowed {
        return Err(format!("{steps_off} of {} elements are one step off; {allowed} may be", expected.values.len()));
    }
    Ok(())
}

/// The comparison must fail for a changed element, shape or name.
#[test]
fn what_differs_is_noticed() {
    let array = |values: &[f64], is_float| Array { shape: vec![values.len()], is_float, values: values.to_vec() };
    let outputs = |array: Array| BTreeMap::from([("y".to_owned(), array)]);
    let expected = [1.0, -200.0, f64::NAN, f64::INFINITY];
    let check = |case: Value, values: &[f64], is_float| {
        let expected = outputs(array(&expected, is_float));
        compare(&case, &outputs(array(values, is_float)), &expected)
    };
    let whole = serde_json::json!({ "rtol": 1e-3, "atol": 0.0 });
    let each = serde_json::json!({ "rtol": 1e-3, "atol": 0.0, "each": true });
    let steps = serde_json::json!({ "steps": 0.5 });
    for case in [&whole, &each, &steps] {
        check(case.clone(), &expected, true).unwrap();
        for (at, wrong) in [(0, 2.0), (1, 200.0), (1, f64::NAN), (2, 0.0), (3, f64::NEG_INFINITY), (3, 3.4e38)] {
            let mut values = expected;
            values[at] = wrong;
            let error = check(case.clone(), &values, true).unwrap_err();
            assert!(error.contains(&format!("y: element {at} is")), "{error}");
        }
        check(case.clone(), &expected[..3], true).unwrap_err();
    }
    // An error of 0.1 is below a thousandth of the largest element, and above a thousandth of its own.
    let near = [1.1, -200.0, f64::NAN, f64::INFINITY];
    check(whole.clone(), &near, true).unwrap();
    check(each, &near, true).unwrap_err();
    // One element of four may be a step off. Half a step is refused, and so are two elements.
    check(steps.clone(), &[1.5, -200.0, f64::NAN, f64::INFINITY], true).unwrap();
    check(steps.clone(), &[1.25, -200.0, f64::NAN, f64::INFINITY], true).unwrap_err();
    check(steps, &[1.5, -199.5, f64::NAN, f64::INFINITY], true).unwrap_err();
    // Integers must be equal.
    let integers =
        |a: f64, e: f64| values(Bound::Output { rtol: 1.0, atol: 1.0 }, &array(&[a], false), &array(&[e], false));
    integers(16_777_216.0, 16_777_217.0).unwrap_err();
    integers(3.0, 4.0).unwrap_err();
    let other = BTreeMap::from([("z".to_owned(), array(&[1.0], true))]);
    assert!(compare(&whole, &other, &outputs(array(&[1.0], true))).unwrap_err().contains("outputs"));
}
