//! What updates do to the elements that they meet.

use super::named_enum::named_enum;
use super::{BinaryOp, float};

named_enum! {
    /// What becomes of an element that is updated.
    pub enum ScatterReduction {
        /// The last update takes the element's place.
        Replace,
        /// Updates are added to the element, one after the other.
        Add,
        /// The element is multiplied with updates, one after the other.
        Mul,
        /// The largest of the element and its updates.
        Maximum,
        /// The smallest of the element and its updates.
        Minimum,
    }
}

impl ScatterReduction {
    /// Computes an element after an update.
    #[must_use]
    pub fn eval(self, element: f32, update: f32) -> f32 {
        match self {
            Self::Replace => update,
            Self::Add => float::add(element, update),
            Self::Mul => float::mul(element, update),
            Self::Maximum => BinaryOp::Maximum.eval(element, update),
            Self::Minimum => BinaryOp::Minimum.eval(element, update),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_change_an_element_one_after_the_other() {
        let all = |of: f32, updates: [f32; 2]| {
            ScatterReduction::ALL.iter().map(|r| updates.iter().fold(of, |y, u| r.eval(y, *u))).collect::<Vec<_>>()
        };
        assert_eq!(all(3.0, [2.0, -4.0]), [-4.0, 1.0, -24.0, 3.0, -4.0]);
        // The order counts: 1 is lost beside 2²⁵.
        assert_eq!(ScatterReduction::Add.eval(ScatterReduction::Add.eval(1.0, 33_554_432.0), -33_554_432.0), 0.0);
        assert_eq!(ScatterReduction::Add.eval(ScatterReduction::Add.eval(33_554_432.0, -33_554_432.0), 1.0), 1.0);
    }
}
