//! Floats and texts in messages.

use std::fmt;

/// A float in a message. A player, which is built without the feature `flow`, rounds it to six digits: the shortest digits that give the same
/// float again take 5 kB of a page, with gzip.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number<T>(pub(crate) T);

#[cfg(feature = "flow")]
impl<T: fmt::Display> fmt::Display for Number<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "flow")]
impl<T: fmt::LowerExp> fmt::LowerExp for Number<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(not(feature = "flow"))]
impl<T: Copy + Into<f64>> fmt::Display for Number<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rounded(self.0.into(), f)
    }
}

#[cfg(not(feature = "flow"))]
impl<T: Copy + Into<f64>> fmt::LowerExp for Number<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        rounded(self.0.into(), f)
    }
}

/// Writes six digits and an exponent.
#[cfg(any(test, not(feature = "flow")))]
fn rounded(value: f64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if value.is_nan() {
        return f.write_str("NaN");
    }
    if value.is_sign_negative() {
        f.write_str("-")?;
    }
    let (mut digits, mut exponent) = (value.abs(), 0);
    if digits == 0.0 || digits == f64::INFINITY {
        return f.write_str(if digits == 0.0 { "0" } else { "inf" });
    }
    while digits >= 999_999.5 {
        digits /= 10.0;
        exponent += 1;
    }
    while digits < 99_999.95 {
        digits *= 10.0;
        exponent -= 1;
    }
    let digits = (digits + 0.5) as u32;
    write!(f, "{}.{:05}e{}", digits / 100_000, digits % 100_000, exponent + 5)
}

/// A text of a file in a message, in quotes and on one line. A player replaces control characters by `?`:
/// escapes need tables of all characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quoted<'t>(pub(crate) &'t str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if cfg!(feature = "flow") {
            return fmt::Debug::fmt(self.0, f);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            fmt::Write::write_char(f, if c.is_control() { '?' } else { c })?;
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rounded(f64);

    impl fmt::Display for Rounded {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            rounded(self.0, f)
        }
    }

    #[test]
    fn texts_stay_on_their_line() {
        assert_eq!(Quoted("fc1.weight").to_string(), "\"fc1.weight\"");
        let shown = Quoted("a\n\u{1b}b").to_string();
        assert!(shown.starts_with("\"a") && shown.ends_with("b\"") && !shown.contains(char::is_control), "{shown}");
    }

    #[test]
    fn rounded_to_six_digits() {
        let text = |value| Rounded(value).to_string();
        assert_eq!(text(1.0), "1.00000e0");
        assert_eq!(text(-0.1), "-1.00000e-1");
        assert_eq!(text(999_999.4), "9.99999e5");
        assert_eq!(text(999_999.6), "1.00000e6");
        assert_eq!(text(123_456_789.0), "1.23457e8");
        assert_eq!([text(0.0), text(-0.0), text(f64::NAN)], ["0", "-0", "NaN"]);
        assert_eq!([text(f64::INFINITY), text(f64::NEG_INFINITY)], ["inf", "-inf"]);
        for exponent in 1..255u32 {
            for fraction in [0, 1, 0x2a_1234, 0x7f_ffff] {
                let value = f64::from(f32::from_bits(exponent << 23 | fraction));
                let (text, near) = (text(value), text(value).parse::<f64>().expect("a number"));
                assert!((near - value).abs() <= value * 5.1e-6, "{value:e} is written as {text}");
                assert_eq!(text.find('.'), Some(1), "{text}");
            }
        }
    }
}
