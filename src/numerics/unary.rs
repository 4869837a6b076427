//! Float functions of one element: in `f32` by equation 11, which all engines compute to the bit, and in `f64` with `libm` for lookup
//! tables and as what tests compare with.

use half::{bf16, f16};

use super::float::functions;
use super::named_enum::named_enum;
use super::simd::vectorized;

named_enum! {
    /// A float function of one element.
    pub enum UnaryOp {
        /// `max(x, 0)`.
        Relu,
        /// `1 / (1 + e^−x)`.
        Sigmoid,
        /// Hyperbolic tangent.
        Tanh,
        /// `x · Φ(x)` with the error function.
        Gelu,
        /// `0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))`.
        GeluTanh,
        /// `x · sigmoid(x)`.
        Silu,
        /// Square root; NaN for negative numbers.
        Sqrt,
        /// `e^x`.
        Exp,
        /// Natural logarithm; NaN for negative numbers.
        Log,
        /// The error function.
        Erf,
        /// `|x|`.
        Abs,
        /// 1 for positive numbers, else 0, also for NaN.
        Step,
        /// 1 for positive numbers, −1 for negative ones; zeros and NaN stay as they are.
        Sign,
        /// The nearest f16, ties to even; infinite from 65520 on. NaN stays NaN.
        RoundF16,
        /// The nearest bf16, ties to even. NaN stays NaN.
        RoundBf16,
        /// Sine of an angle in radians; NaN of infinities.
        Sin,
        /// Cosine of an angle in radians; NaN of infinities.
        Cos,
        /// The nearest integer, ties to even.
        Round,
        /// The largest integer that is not above `x`.
        Floor,
        /// The smallest integer that is not below `x`.
        Ceil,
        /// 1 of NaN, else 0.
        IsNan,
    }
}

impl UnaryOp {
    /// Computes the function in `f64`. NaN gives NaN, except that the step gives 0 and [`IsNan`](Self::IsNan) gives 1. At −∞,
    /// GELU and SiLU are −∞ · 0, which is NaN, as in ONNX and PyTorch. Rounding to 16 bits converts `x` to `f32` first.
    #[must_use]
    pub fn eval(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        match self {
            Self::Relu if x < 0.0 => 0.0,
            Self::Relu => x,
            Self::Sigmoid => sigmoid(x),
            Self::Tanh => libm::tanh(x),
            Self::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + libm::tanh(inner))
            }
            Self::Silu => x * sigmoid(x),
            Self::Sqrt => x.sqrt(),
            Self::Exp => libm::exp(x),
            Self::Log => libm::log(x),
            Self::Erf => libm::erf(x),
            Self::Abs => x.abs(),
            Self::Step => f64::from(u8::from(x > 0.0)),
            Self::Sign if x == 0.0 => x,
            // `signum` would give the sign of a NaN.
            Self::Sign if x.is_nan() => x,
            Self::Sign => x.signum(),
            Self::RoundF16 => f16::from_f32(x as f32).to_f64(),
            Self::RoundBf16 => bf16::from_f32(x as f32).to_f64(),
            Self::Sin => libm::sin(x),
            Self::Cos => libm::cos(x),
            Self::Round => x.round_ties_even(),
            Self::Floor => x.floor(),
            Self::Ceil => x.ceil(),
            Self::IsNan => f64::from(u8::from(x.is_nan())),
        }
    }

    /// Computes the function in `f32` (equation 11): the bits that every engine gives.
    #[must_use]
    pub fn eval_f32(self, x: f32) -> f32 {
        let mut y = [x];
        self.apply(&mut y);
        y[0]
    }

    /// Computes [`UnaryOp::eval_f32`] of each element, in place, with vector instructions.
    pub(crate) fn apply(self, x: &mut [f32]) {
        match self {
            // ReLU is the most frequent function. A comparison in f32 is faster and gives the same bits.
            Self::Relu => each(
                x,
                #[inline(always)]
                |x| if x < 0.0 { 0.0 } else { x },
            ),
            Self::Sigmoid => each(x, functions::sigmoid),
            Self::Tanh => each(x, functions::tanh),
            Self::Gelu => each(x, functions::gelu),
            Self::GeluTanh => each(x, functions::gelu_tanh),
            Self::Silu => each(x, functions::silu),
            Self::Sqrt => each(x, functions::sqrt),
            Self::Exp => each(x, functions::exp),
            Self::Log => each(x, functions::log),
            Self::Erf => each(x, functions::erf),
            Self::Sin => each(x, functions::sin),
            Self::Cos => each(x, functions::cos),
            // These select or round, so f64 gives the bits of f32.
            Self::Abs
            | Self::Step
            | Self::Sign
            | Self::RoundF16
            | Self::RoundBf16
            | Self::Round
            | Self::Floor
            | Self::Ceil
            | Self::IsNan => x.iter_mut().for_each(|x| *x = self.eval(f64::from(*x)) as f32),
        }
    }

    /// Computes the derivative in `f64`. At 0, the derivative of ReLU and of the absolute value is 0. The derivative of the step,
    /// the sign, [`IsNan`](Self::IsNan) and the roundings to integers is 0 everywhere, and that of rounding to 16 bits is 1
    /// everywhere (a straight-through gradient).
    #[must_use]
    pub fn derivative(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        match self {
            Self::Relu => f64::from(u8::from(x > 0.0)),
            Self::Sigmoid => sigmoid(x) * sigmoid(-x),
            Self::Tanh => 1.0 - libm::tanh(x).powi(2),
            Self::Gelu => {
                let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
                0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)) + x * density
            }
            Self::GeluTanh => {
                let factor = (2.0 / std::f64::consts::PI).sqrt();
                let t = libm::tanh(factor * (x + 0.044_715 * x * x * x));
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * factor * (1.0 + 3.0 * 0.044_715 * x * x)
            }
            Self::Silu => sigmoid(x) * (1.0 + x * sigmoid(-x)),
            Self::Sqrt => 0.5 / x.sqrt(),
            Self::Exp => libm::exp(x),
            Self::Log => 1.0 / x,
            Self::Erf => 2.0 / std::f64::consts::PI.sqrt() * libm::exp(-x * x),
            Self::Abs if x == 0.0 => 0.0,
            Self::Abs => x.signum(),
            Self::Step | Self::Sign | Self::Round | Self::Floor | Self::Ceil | Self::IsNan => 0.0,
            Self::Sin => libm::cos(x),
            Self::Cos => -libm::sin(x),
            Self::RoundF16 | Self::RoundBf16 => 1.0,
        }
    }
}

/// Applies a function to each element, in vectors.
#[inline(always)]
fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
    vectorized(
        #[inline(always)]
        || {
            for x in x {
                *x = f(*x);
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shaders number the functions in this order.
    #[test]
    fn the_list_is_in_the_order_of_the_declaration() {
        assert!(UnaryOp::ALL.iter().enumerate().all(|(at, op)| *op as usize == at));
    }

    #[test]
    fn known_values() {
        // torch 2.9.1 computed these in f64, and from the square root on Python's math.
        for (op, x, y) in [
            (UnaryOp::Relu, -1.0, 0.0),
            (UnaryOp::Sigmoid, 1.0, 0.731_058_578_630_004_9),
            (UnaryOp::Tanh, 0.5, 0.462_117_157_260_009_8),
            (UnaryOp::Gelu, 1.0, 0.841_344_746_068_542_9),
            (UnaryOp::GeluTanh, 1.0, 0.841_191_990_608_306_9),
            (UnaryOp::Silu, 2.0, 1.761_594_155_955_764_6),
            (UnaryOp::Sqrt, 3.0, 1.732_050_807_568_877_2),
            (UnaryOp::Exp, 2.0, 7.389_056_098_930_65),
            (UnaryOp::Log, 3.0, 1.098_612_288_668_109_8),
            (UnaryOp::Erf, 0.5, 0.520_499_877_813_046_5),
            (UnaryOp::Abs, -3.0, 3.0),
            (UnaryOp::Step, 1e-30, 1.0),
            (UnaryOp::Step, 0.0, 0.0),
            (UnaryOp::Step, f64::NAN, 0.0),
            (UnaryOp::Sign, -1e-30, -1.0),
            (UnaryOp::Sign, 7.0, 1.0),
            (UnaryOp::RoundF16, 0.1, 0.099_975_585_937_5),
            (UnaryOp::RoundF16, 65_519.99, 65_504.0),
            (UnaryOp::RoundBf16, 0.1, 0.100_097_656_25),
            (UnaryOp::Sin, 2.0, 0.909_297_426_825_681_7),
            (UnaryOp::Cos, 2.0, -0.416_146_836_547_142_4),
            (UnaryOp::Round, 2.5, 2.0),
            (UnaryOp::Floor, -1e-30, -1.0),
            (UnaryOp::Ceil, 1e-30, 1.0),
            (UnaryOp::IsNan, f64::NAN, 1.0),
            (UnaryOp::IsNan, f64::INFINITY, 0.0),
        ] {
            approx::assert_relative_eq!(op.eval(x), y, max_relative = 1e-12);
        }
    }

    #[test]
    fn limits() {
        for (op, low, high) in [
            (UnaryOp::Relu, 0.0, f64::INFINITY),
            (UnaryOp::Sigmoid, 0.0, 1.0),
            (UnaryOp::Tanh, -1.0, 1.0),
            (UnaryOp::Exp, 0.0, f64::INFINITY),
            (UnaryOp::Erf, -1.0, 1.0),
            (UnaryOp::Abs, f64::INFINITY, f64::INFINITY),
            (UnaryOp::Step, 0.0, 1.0),
            (UnaryOp::Sign, -1.0, 1.0),
            (UnaryOp::RoundF16, f64::NEG_INFINITY, f64::INFINITY),
            (UnaryOp::RoundBf16, f64::NEG_INFINITY, f64::INFINITY),
        ] {
            assert_eq!((op.eval(f64::NEG_INFINITY), op.eval(f64::INFINITY)), (low, high), "{op:?}");
        }
        for op in [UnaryOp::Gelu, UnaryOp::GeluTanh, UnaryOp::Silu] {
            let (low, high) = (op.eval(f64::NEG_INFINITY), op.eval(f64::INFINITY));
            assert!(low.is_nan() && high == f64::INFINITY, "{op:?}: {low} and {high}");
        }
    }
}
