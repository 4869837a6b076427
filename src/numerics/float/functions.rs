//! Float functions of one element: polynomials of Cephes (exp, log, tanh, sine), of Norbert Juffa (error function), and what follows
//! from them.

use super::angle::sine;
use super::{
    INFINITY, MAGIC, MAGIC_BITS, MAGNITUDE, NAN, SIGN, canonical, div, flush, is_special, normal, select, select_f32,
};

/// Evaluates a polynomial at `x` by Horner's rule, the highest coefficient first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut p = coefficients[0];
    let mut i = 1;
    while i < N {
        p = p * x + coefficients[i];
        i += 1;
    }
    p
}

/// The magnitude of a number.
#[inline(always)]
fn magnitude(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & MAGNITUDE)
}

/// A magnitude with the sign of another number.
#[inline(always)]
fn with_sign_of(magnitude: f32, x: f32) -> f32 {
    f32::from_bits(magnitude.to_bits() | x.to_bits() & SIGN)
}

/// Replaces what is not finite by 0.
#[inline(always)]
fn finite(x: f32) -> f32 {
    f32::from_bits(select(is_special(x), 0, x.to_bits()))
}

/// The result `y` of a finite `x`, else the limit `low` at −∞ or `high` at ∞, or NaN.
#[inline(always)]
fn limits(x: f32, y: f32, low: u32, high: u32) -> f32 {
    let bits = x.to_bits();
    let limit = select(bits & MAGNITUDE > INFINITY, NAN, select(bits >> 31 == 1, low, high));
    canonical(f32::from_bits(select(is_special(x), limit, y.to_bits())))
}

/// Numbers with larger bits, which are all below −69.31471, have an exponential below 2⁻¹⁰⁰.
const EXP_LOW: u32 = 0xc28a_a122;
/// 88.72283: larger numbers have an infinite exponential.
const EXP_HIGH: u32 = 0x42b1_7217;

/// e^x for −69.31471 ≤ x ≤ 88.72283.
#[inline(always)]
fn exp_core(x: f32) -> f32 {
    let j = x * std::f32::consts::LOG2_E + MAGIC;
    let n = (j.to_bits() as i32).wrapping_sub(MAGIC_BITS);
    let whole = j - MAGIC;
    let r = (x - whole * 0.693_359_375) + whole * 2.121_944_40e-4;
    let p = polynomial(
        r,
        [1.987_569_15e-4, 1.398_199_95e-3, 8.333_451_91e-3, 4.166_579_59e-2, 1.666_666_55e-1, 5.000_000_12e-1],
    );
    let y = (p * (r * r) + r) + 1.0;
    f32::from_bits((y.to_bits() as i32).wrapping_add(n.wrapping_shl(23)) as u32)
}

/// e^x for x ≤ 0.
#[inline(always)]
pub(super) fn exp_of_negative(x: f32) -> f32 {
    let under = x.to_bits() > EXP_LOW;
    select_f32(under, 0.0, exp_core(select_f32(under, 0.0, x)))
}

#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = canonical(x);
    let bits = x.to_bits();
    let under = bits > EXP_LOW;
    let over = bits as i32 > EXP_HIGH as i32;
    let y = exp_core(select_f32(under | over, 0.0, x)).to_bits();
    let high = select(bits > INFINITY, NAN, INFINITY);
    canonical(f32::from_bits(select(under, 0, select(over, high, y))))
}

#[inline(always)]
fn sigmoid_core(x: f32) -> f32 {
    let e = exp_of_negative(f32::from_bits(x.to_bits() | SIGN));
    flush(select_f32(x.to_bits() >> 31 == 1, e, 1.0) / (1.0 + e))
}

#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    let x = canonical(x);
    limits(x, sigmoid_core(finite(x)), 0, 1f32.to_bits())
}

#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    let x = canonical(x);
    let v = finite(x);
    limits(x, v * sigmoid_core(v), NAN, INFINITY)
}

/// `x · sigmoid(1.5957691 x + 0.071354816 x³)`, which is the form with tanh.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    let x = canonical(x);
    let v = finite(x);
    let c = select_f32(magnitude(v).to_bits() > 16f32.to_bits(), with_sign_of(16.0, v), v);
    let inner = c * ((c * c) * 0.071_354_816 + 1.595_769_12);
    limits(x, v * sigmoid_core(inner), NAN, INFINITY)
}

#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let x = canonical(x);
    let v = finite(x);
    let a = magnitude(v);
    let a = select_f32(a.to_bits() > 10f32.to_bits(), 10.0, a);
    let large = 1.0 - flush(2.0 / (exp_core(a + a) + 1.0));
    let s = a * a;
    let p = polynomial(s, [-5.704_988_73e-3, 2.063_908_88e-2, -5.373_971_56e-2, 1.333_144_22e-1, -3.333_328_19e-1]);
    let small = (p * s) * a + a;
    let y = select_f32(a.to_bits() > 0.625f32.to_bits(), large, small);
    limits(x, with_sign_of(y, v), (-1f32).to_bits(), 1f32.to_bits())
}

/// Up to here, [`erf_small`] computes the error function.
const ERF_SPLIT: f32 = 0.927_734_375;

/// 1 − erf(t) for t above [`ERF_SPLIT`].
#[inline(always)]
fn erfc_core(t: f32) -> f32 {
    let t = select_f32(t.to_bits() > 10f32.to_bits(), 10.0, t);
    let high = polynomial(t, [-1.728_534_7e-5, 3.831_971_26e-4]);
    let low = polynomial(t, [-3.883_964_38e-3, 2.425_462_19e-2]);
    let p = polynomial(t, [high * (t * t) + low, -1.067_778_77e-1, -6.348_468_66e-1, -1.287_175_12e-1]);
    exp_of_negative(f32::from_bits((p * t - t).to_bits() | SIGN))
}

/// erf(t) for t up to [`ERF_SPLIT`].
#[inline(always)]
fn erf_small(t: f32) -> f32 {
    let p = polynomial(
        t * t,
        [-5.967_617_03e-4, 4.991_194_23e-3, -2.676_813_49e-2, 1.128_199_25e-1, -3.761_253_36e-1, 1.283_791_66e-1],
    );
    p * t + t
}

#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let x = canonical(x);
    let v = finite(x);
    let t = magnitude(v);
    let is_large = t.to_bits() > ERF_SPLIT.to_bits();
    let large = 1.0 - erfc_core(select_f32(is_large, t, 1.0));
    let small = erf_small(select_f32(is_large, 0.0, t));
    let y = with_sign_of(select_f32(is_large, large, small), v);
    limits(x, y, (-1f32).to_bits(), 1f32.to_bits())
}

/// `x · Φ(x)`: near 0 `x · (½ + ½ erf(x/√2))`, beyond it `x · (1 − ½ erfc(|x|/√2))` or, for negative x, `x · ½ erfc(|x|/√2)`.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    let x = canonical(x);
    let v = finite(x);
    let t = magnitude(v) * std::f32::consts::FRAC_1_SQRT_2;
    let is_large = t.to_bits() > ERF_SPLIT.to_bits();
    let tail = 0.5 * erfc_core(select_f32(is_large, t, 1.0));
    let large = select_f32(v.to_bits() >> 31 == 1, tail, 1.0 - tail);
    let e = erf_small(select_f32(is_large, 0.0, t));
    let small = 0.5 * with_sign_of(e, v) + 0.5;
    limits(x, v * select_f32(is_large, large, small), NAN, INFINITY)
}

/// The square root, correctly rounded, also of subnormal numbers.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    canonical(x.sqrt())
}

/// 1 / √x.
#[inline(always)]
pub(crate) fn inverse_sqrt(x: f32) -> f32 {
    div(1.0, sqrt(normal(x)))
}

/// The natural logarithm, also of subnormal numbers.
#[inline(always)]
pub(crate) fn log(x: f32) -> f32 {
    let bits = x.to_bits();
    let defined = bits.wrapping_sub(1) < INFINITY - 1;
    // A subnormal number is this many times 2^-149.
    let subnormal = bits < 0x0080_0000;
    let scaled = select(subnormal, (((bits & 0x007f_ffff) as i32) as f32).to_bits(), bits);
    let i = select(defined, scaled, 1f32.to_bits()).wrapping_sub(0x3f35_04f3);
    let e = (((i as i32) >> 23) - (select(subnormal, 149, 0) as i32)) as f32;
    let m = f32::from_bits((i & 0x007f_ffff).wrapping_add(0x3f35_04f3)) - 1.0;
    let s = m * m;
    let p = polynomial(
        m,
        [
            7.037_683_63e-2,
            -1.151_461_03e-1,
            1.167_699_87e-1,
            -1.242_014_08e-1,
            1.424_932_28e-1,
            -1.666_805_77e-1,
            2.000_071_48e-1,
            -2.499_999_4e-1,
            3.333_333_12e-1,
        ],
    );
    let y = (m + (((p * m) * s - e * 2.121_944_40e-4) - 0.5 * s)) + e * 0.693_359_375;
    let zero = bits & MAGNITUDE == 0;
    let limit = select(zero, INFINITY | SIGN, select(bits == INFINITY, INFINITY, NAN));
    canonical(f32::from_bits(select(defined, y.to_bits(), limit)))
}

#[inline(always)]
pub(crate) fn sin(x: f32) -> f32 {
    sine(x, 0)
}

#[inline(always)]
pub(crate) fn cos(x: f32) -> f32 {
    sine(x, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::UnaryOp;

    /// Numbers of every exponent and sign, everyday numbers, and both sides of each threshold.
    fn arguments() -> Vec<f32> {
        let exponents = (0..=254u32).flat_map(|e| (0..8u32).map(move |m| (e << 23) | (m * 0x000f_1357)));
        let everyday = (0..80_000).map(|i| ((i as f32 - 40_000.0) / 2_111.0).to_bits());
        let thresholds =
            [EXP_LOW, EXP_HIGH, ERF_SPLIT.to_bits(), 0.625f32.to_bits(), 1.312_015_f32.to_bits(), 0x3f49_0fda];
        let near = thresholds.into_iter().flat_map(|t| (t - 3)..=(t + 3));
        exponents.chain(everyday).chain(near).flat_map(|b| [b, b ^ SIGN]).map(f32::from_bits).collect()
    }

    /// The largest errors: in units of the last place of results above 1e-27 in magnitude, and absolute, in terms of max(1, |x|, |f(x)|). GELU's
    /// negative tail is accurate in absolute terms only.
    #[test]
    fn functions_are_accurate() {
        for (op, most_ulp) in [
            (UnaryOp::Exp, 1.0),
            (UnaryOp::Sigmoid, 2.5),
            (UnaryOp::Tanh, 1.4),
            (UnaryOp::Silu, 3.2),
            (UnaryOp::Sqrt, 0.5),
            (UnaryOp::Log, 0.8),
            (UnaryOp::Erf, 1.6),
            (UnaryOp::Sin, 3.2),
            (UnaryOp::Cos, 3.2),
            (UnaryOp::Gelu, f64::INFINITY),
            (UnaryOp::GeluTanh, f64::INFINITY),
        ] {
            let (mut ulp, mut absolute) = (0f64, 0f64);
            for x in arguments() {
                let (got, exact) = (f64::from(op.eval_f32(x)), op.eval(x.into()));
                if !exact.is_finite() || (exact as f32).is_infinite() {
                    let expected = f64::from(exact as f32);
                    assert!(got == expected || got.is_nan() && exact.is_nan(), "{op:?} of {x:e}: {got:e}");
                    continue;
                }
                let error = (got - exact).abs();
                if op != UnaryOp::Exp {
                    absolute = absolute.max(error / f64::from(x).abs().max(exact.abs()).max(1.0));
                }
                if exact.abs() > 1e-27 {
                    let place = f64::from(f32::from_bits((exact.abs() as f32).to_bits() & INFINITY)) * 2f64.powi(-23);
                    ulp = ulp.max(error / place);
                }
            }
            assert!(ulp <= most_ulp, "{op:?}: {ulp} units in the last place");
            assert!(absolute <= 1.6e-7, "{op:?}: {absolute:e}");
        }
    }

    #[test]
    fn functions_have_their_limits() {
        let [low, high, nan] = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
        for (op, at_low, at_high) in [
            (UnaryOp::Exp, 0.0, high),
            (UnaryOp::Sigmoid, 0.0, 1.0),
            (UnaryOp::Tanh, -1.0, 1.0),
            (UnaryOp::Silu, nan, high),
            (UnaryOp::Gelu, nan, high),
            (UnaryOp::GeluTanh, nan, high),
            (UnaryOp::Erf, -1.0, 1.0),
            (UnaryOp::Sqrt, nan, high),
            (UnaryOp::Log, nan, high),
            (UnaryOp::Sin, nan, nan),
            (UnaryOp::Cos, nan, nan),
        ] {
            for (x, expected) in [(low, at_low), (high, at_high), (nan, nan), (f32::from_bits(0xffc0_1234), nan)] {
                let got = op.eval_f32(x);
                assert!(got == expected || got.to_bits() == NAN && expected.is_nan(), "{op:?} of {x}: {got}");
            }
        }
        assert_eq!((log(0.0), log(-0.0)), (low, low));
    }

    #[test]
    fn the_inverse_root_is_accurate() {
        for i in 1..10_000u32 {
            let x = i as f32 * 0.37;
            let exact = 1.0 / f64::from(x).sqrt();
            assert!((f64::from(inverse_sqrt(x)) - exact).abs() <= 1.5 * exact * 2f64.powi(-23), "{x}");
        }
    }
}
