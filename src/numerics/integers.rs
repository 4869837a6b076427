//! Arithmetic of plain integers, those that no scale belongs to: ids, lengths, masks.

/// What is made of two `i32`.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    strum::Display,
    strum::EnumIter,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum Int32Op {
    /// `a + b`.
    Add,
    /// `a − b`.
    Sub,
    /// `a · b`.
    Mul,
    /// `a / b`, toward 0.
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

impl Int32Op {
    /// Every function, in the order of the shaders.
    pub const ALL: &[Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The name in listings and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The result; `None` of a division by 0 and, if `checked`, of what does not fit `i32`, which otherwise wraps around.
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

/// Integers of up to 32 bits.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    serde::Serialize,
    serde::Deserialize,
    strum::Display,
    strum::EnumIter,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[non_exhaustive]
pub enum IntegerType {
    /// −128 to 127.
    I8,
    /// 0 to 255.
    U8,
    /// −32768 to 32767.
    I16,
    /// 0 to 65535.
    U16,
    /// All that `i32` holds.
    I32,
}

impl IntegerType {
    /// Every type.
    pub const ALL: &[Self] = <Self as strum::VariantArray>::VARIANTS;

    /// How many low bits it keeps.
    #[must_use]
    pub fn bits(self) -> u32 {
        match self {
            Self::I8 | Self::U8 => 8,
            Self::I16 | Self::U16 => 16,
            Self::I32 => 32,
        }
    }

    /// Whether the highest of them is a sign.
    #[must_use]
    pub fn is_signed(self) -> bool {
        matches!(self, Self::I8 | Self::I16 | Self::I32)
    }

    /// `v` cut to the type.
    #[must_use]
    pub fn wrap(self, v: i32) -> i32 {
        let shift = 32 - self.bits();
        if self.is_signed() { (v << shift) >> shift } else { (((v as u32) << shift) >> shift) as i32 }
    }
}

/// A float without its fraction; `None` of NaN and of what does not fit `i32`.
pub(crate) fn truncate(v: f32) -> Option<i32> {
    // -2^31 is a float, 2^31 the first beyond.
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
