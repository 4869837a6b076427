//! The scaling of a float before it is rounded to a quantized value.

use super::float;
use super::named_enum::named_enum;
use super::quantize_steps;
use crate::values::QParams;

named_enum! {
    /// How quantization scales a float (equation 2). Both are one rounding of the same quotient but for the rounding of the reciprocal:
    /// results differ at ties and beside them.
    #[derive(Default)]
    pub enum QuantizeRule {
        /// `x · (1 / scale)`, as PyTorch does.
        #[default]
        Multiply,
        /// `x / scale`, as ONNX does.
        Divide,
    }
}

impl QuantizeRule {
    /// Whether it is the default.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::Multiply
    }

    /// Scales a float to steps, which are not rounded yet.
    #[inline(always)]
    pub(crate) fn steps(self, x: f32, qparams: QParams) -> f32 {
        match self {
            Self::Multiply => x * qparams.inv_scale(),
            Self::Divide => float::div(x, qparams.scale()),
        }
    }

    /// Quantizes one element to `quant_min..=quant_max`. NaN gives the zero point.
    #[must_use]
    #[inline(always)]
    pub fn quantize(self, x: f32, qparams: QParams, quant_min: i32, quant_max: i32) -> i32 {
        quantize_steps(self.steps(x, qparams), qparams.zero_point(), quant_min, quant_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At scale 0.3, −8.25 is −27.499998 steps after a division, and −27.5 after a product.
    #[test]
    fn ties_differ() {
        let qparams = QParams::new(0.3, 0).expect("valid");
        let differ = (-120..120).filter(|&i| {
            let x = (i as f32 + 0.5) * qparams.scale();
            let of = |rule: QuantizeRule| rule.quantize(x, qparams, -128, 127);
            let exact = (x / 0.3f32).round_ties_even().clamp(-128.0, 127.0) as i32;
            assert_eq!(of(QuantizeRule::Divide), exact, "{x}");
            of(QuantizeRule::Multiply) != exact
        });
        assert!(differ.count() > 10);
    }
}
