//! Functions of two floats that only compare and select, so that every engine gives the same bits.

use super::named_enum::named_enum;
named_enum! {
    /// A function of two floats. +0 and −0 are equal. A comparison is 1 where it holds, else 0, also if an operand is NaN. Maximum and
    /// minimum are NaN if an operand is.
    pub enum BinaryOp {
        /// Whether `a` equals `b`.
        Equal,
        /// Whether `a` is less than `b`.
        Less,
        /// Whether `a` is at most `b`.
        LessOrEqual,
        /// The larger of the two; `a` if they are equal.
        Maximum,
        /// The smaller of the two; `a` if they are equal.
        Minimum,
    }
}

impl BinaryOp {
    /// Computes the function.
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

/// Computes [`BinaryOp::Maximum`]. Unlike [`f32::max`], it gives NaN if an operand is NaN.
pub(crate) fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || !(b > a || b.is_nan()) { a } else { b }
}

/// Computes [`BinaryOp::Minimum`]. Unlike [`f32::min`], it gives NaN if an operand is NaN.
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
