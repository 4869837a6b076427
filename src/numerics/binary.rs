//! Functions of two floats that only compare and choose: the same bits on every engine.

/// A function of two floats. Both zeros are equal. Comparisons are 1 where they hold and 0 elsewhere, also where an operand is
/// NaN; the larger and the smaller of two are NaN if either is.
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
pub enum BinaryOp {
    /// Whether `a` equals `b`.
    Equal,
    /// Whether `a` is less than `b`.
    Less,
    /// Whether `a` is at most `b`.
    LessOrEqual,
    /// The larger of the two, the first of equal ones.
    Maximum,
    /// The smaller of the two, the first of equal ones.
    Minimum,
}

impl BinaryOp {
    /// Every function, in the order of the shaders.
    pub const ALL: &[Self] = <Self as strum::VariantArray>::VARIANTS;

    /// The name in listings and files.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// The function itself.
    #[must_use]
    pub fn eval(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Equal => f32::from(a == b),
            Self::Less => f32::from(a < b),
            Self::LessOrEqual => f32::from(a <= b),
            Self::Maximum => maximum(a, b),
            Self::Minimum => minimum(a, b),
        }
    }
}

/// As [`BinaryOp::Maximum`]: unlike [`f32::max`], NaN if either is.
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || !(b > a || b.is_nan()) { a } else { b }
}

/// As [`BinaryOp::Minimum`]: unlike [`f32::min`], NaN if either is.
pub(crate) fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() || !(b < a || b.is_nan()) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nan_equals_nothing_and_is_chosen() {
        const NAN: f32 = f32::NAN;
        for (a, b, expected) in [
            (1.0, 2.0, [0.0, 1.0, 1.0, 2.0, 1.0]),
            (2.0, 1.0, [0.0, 0.0, 0.0, 2.0, 1.0]),
            (-0.0, 0.0, [1.0, 0.0, 1.0, -0.0, -0.0]),
            (f32::INFINITY, f32::INFINITY, [1.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]),
            (f32::NEG_INFINITY, 1e-45, [0.0, 1.0, 1.0, 1e-45, f32::NEG_INFINITY]),
            (NAN, 1.0, [0.0, 0.0, 0.0, NAN, NAN]),
            (1.0, NAN, [0.0, 0.0, 0.0, NAN, NAN]),
            (NAN, NAN, [0.0, 0.0, 0.0, NAN, NAN]),
        ] {
            let got: Vec<u32> = BinaryOp::ALL.iter().map(|op| op.eval(a, b).to_bits()).collect();
            assert_eq!(got, expected.map(f32::to_bits), "{a} and {b}");
        }
    }
}
