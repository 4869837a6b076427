//! Arithmetic of plain integers, which have no scale: ids, lengths, masks.

use super::named_enum::named_enum;
named_enum! {
    /// A function of two `i32`.
    pub enum Int32Op {
        /// `a + b`.
        Add,
        /// `a − b`.
        Sub,
        /// `a · b`.
        Mul,
        /// `a / b`, rounded toward 0.
        Div,
        /// The smaller one.
        Min,
        /// The larger one.
        Max,
        /// 1 where `a = b`, else 0.
        Equal,
        /// 1 where `a < b`, else 0.
        Less,
    }
}

impl Int32Op {
    /// Computes the function. A result that does not fit `i32` is `None` if `checked`, else it wraps around. A division by 0 is
    /// `None` in any case.
    #[must_use]
    pub fn eval(self, a: i32, b: i32, checked: bool) -> Option<i32> {
        let exact = match self {
            Self::Add => a.checked_add(b),
            Self::Sub => a.checked_sub(b),
            Self::Mul => a.checked_mul(b),
            Self::Div if b == 0 => return None,
            Self::Div => a.checked_div(b),
            Self::Min => Some(a.min(b)),
            Self::Max => Some(a.max(b)),
            Self::Equal => Some((a == b).into()),
            Self::Less => Some((a < b).into()),
        };
        if checked {
            return exact;
        }
        exact.or_else(|| {
            Some(match self {
                Self::Add => a.wrapping_add(b),
                Self::Sub => a.wrapping_sub(b),
                Self::Mul => a.wrapping_mul(b),
                _ => a.wrapping_div(b),
            })
        })
    }
}

named_enum! {
    /// An integer type of up to 32 bits.
    pub enum IntegerType {
        /// −128 to 127.
        I8,
        /// 0 to 255.
        U8,
        /// −32768 to 32767.
        I16,
        /// 0 to 65535.
        U16,
        /// −2³¹ to 2³¹ − 1.
        I32,
    }
}

impl IntegerType {
    /// Returns the number of bits.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::I8 | Self::U8 => 8,
            Self::I16 | Self::U16 => 16,
            Self::I32 => 32,
        }
    }

    /// Whether the type has a sign.
    #[must_use]
    pub fn is_signed(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I32)
    }

    /// Casts `v` to the type: keeps the low bits.
    #[must_use]
    pub fn wrap(self, v: i32) -> i32 {
        let shift = 32 - self.bits();
        if self.is_signed() { (v << shift) >> shift } else { (((v as u32) << shift) >> shift) as i32 }
    }
}

/// Converts a float to `i32`, rounded toward 0. The result is `None` for NaN and for floats that do not fit.
pub(crate) fn truncate(v: f32) -> Option<i32> {
    // Both bounds are floats: −2^31 fits, and 2^31 is the first float that does not.
    let fits = (-2_147_483_648.0..2_147_483_648.0).contains(&v);
    fits.then_some(v as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_at_the_ends_of_i32() {
        let (low, high) = (i32::MIN, i32::MAX);
        for (op, a, b, exact, wrapped) in [
            (Int32Op::Add, high, 1, None, Some(low)),
            (Int32Op::Sub, low, 1, None, Some(high)),
            (Int32Op::Mul, 65_536, 65_536, None, Some(0)),
            (Int32Op::Div, low, -1, None, Some(low)),
            (Int32Op::Div, 7, 0, None, None),
            (Int32Op::Div, -7, 2, Some(-3), Some(-3)),
            (Int32Op::Min, low, high, Some(low), Some(low)),
            (Int32Op::Max, low, high, Some(high), Some(high)),
            (Int32Op::Equal, 16_777_217, 16_777_216, Some(0), Some(0)),
            (Int32Op::Less, low, high, Some(1), Some(1)),
        ] {
            assert_eq!((op.eval(a, b, true), op.eval(a, b, false)), (exact, wrapped), "{op:?} {a} {b}");
        }
    }

    #[test]
    fn casts_wrap_around() {
        for v in [i32::MIN, -129, -1, 0, 127, 128, 255, 256, 300, 32_768, 65_536, i32::MAX] {
            let expected = [v as i8 as i32, v as u8 as i32, v as i16 as i32, v as u16 as i32, v];
            let wrapped: Vec<i32> = IntegerType::ALL.iter().map(|to| to.wrap(v)).collect();
            assert_eq!(wrapped, expected, "{v}");
        }
        let floats = [1.9, -1.9, f32::NAN, 2_147_483_648.0, -2_147_483_648.0, f32::INFINITY];
        assert_eq!(floats.map(truncate), [Some(1), Some(-1), None, None, Some(i32::MIN), None]);
    }
}
