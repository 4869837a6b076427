//! SIMD float functions, for the CPU engine. They are held to tolerances, while the interpreter and lookup tables use `libm`.

use rayon::prelude::*;
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{ApproxGelu, Gelu, Sigmoid, Silu, Softmax, Tanh};

use super::{TASK, unary_into};
use crate::numerics::UnaryOp;

/// Computes `x[i] = op(x[i])` in place, within 5e-7 · max(1, |x|) of the exact function.
pub(crate) fn unary_in_place(op: UnaryOp, x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(|x| match op {
        UnaryOp::Sigmoid => Sigmoid {}.map_mut(x),
        UnaryOp::Tanh => Tanh {}.map_mut(x),
        UnaryOp::Gelu => Gelu {}.map_mut(x),
        UnaryOp::GeluTanh => ApproxGelu {}.map_mut(x),
        UnaryOp::Silu => Silu {}.map_mut(x),
        // The other functions have no SIMD form here.
        _ => {
            let y = &mut x.to_vec()[..];
            unary_into(op, y, x);
        }
    });
}

/// Computes the softmax of each row of `cols` elements, in place. For a row of −∞ (all masked) it is NaN, as in PyTorch.
pub(crate) fn softmax_in_place(x: &mut [f32], cols: usize) {
    if cols == 0 {
        return;
    }
    x.par_chunks_mut(TASK.div_ceil(cols) * cols).for_each(|x| {
        x.chunks_exact_mut(cols).for_each(|row| {
            Softmax::new_mut(row).dispatch();
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::unary;

    const SIMD: [UnaryOp; 5] = [UnaryOp::Sigmoid, UnaryOp::Tanh, UnaryOp::Gelu, UnaryOp::GeluTanh, UnaryOp::Silu];

    /// The largest error of a SIMD function over many arguments, in units of max(1, |x|).
    fn error(op: UnaryOp, against: impl Fn(f64) -> f64) -> f64 {
        let fine = (-40_000..=40_000i32).map(|i| i as f32 / 1999.0);
        let x: Vec<f32> = fine.chain([-3e38, -1e20, -1e5, -200.0, -88.0, 88.0, 200.0, 1e5, 1e20]).collect();
        let mut y = x.clone();
        unary_in_place(op, &mut y);
        let errors =
            x.iter().zip(&y).map(|(&x, &y)| (f64::from(y) - against(x.into())).abs() / f64::from(x.abs().max(1.0)));
        errors.fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
    }

    #[test]
    fn functions_are_close_to_f64() {
        for op in SIMD {
            let error = error(op, |x| op.eval(x));
            assert!(error <= 5e-7, "{op:?}: {error:e}");
        }
        // The two forms of GELU differ by more than that, so that the test would notice a mix-up.
        let error = error(UnaryOp::Gelu, |x| UnaryOp::GeluTanh.eval(x));
        assert!(error > 1e-4, "{error:e}");
    }

    #[test]
    fn other_functions_are_those_of_the_interpreter() {
        let x: Vec<f32> = (-400..=400i16).map(|i| f32::from(i) / 37.0).collect();
        for &op in UnaryOp::ALL.iter().filter(|op| !SIMD.contains(op)) {
            let mut y = x.clone();
            unary_in_place(op, &mut y);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&y), bits(&unary(op, &x)), "{op:?}");
        }
    }

    #[test]
    fn functions_have_their_limits() {
        for op in SIMD {
            let mut y = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
            unary_in_place(op, &mut y);
            for (x, y) in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN].into_iter().zip(y) {
                let limit = op.eval(x.into()) as f32;
                assert!(y == limit || y.is_nan() && limit.is_nan(), "{op:?} of {x}: {y}, expected {limit}");
            }
        }
    }

    #[test]
    fn softmax_is_close_to_f64() {
        for cols in [1, 2, 7, 8, 17, 64, 1000] {
            let x: Vec<f32> = (0..3 * cols).map(|i| ((i * 37) % 101) as f32 / 7.0 - 9.0).collect();
            let mut y = x.clone();
            // This element is masked.
            y[0] -= 10_000.0;
            let masked = y.clone();
            softmax_in_place(&mut y, cols);
            for (y, x) in y.chunks(cols).zip(masked.chunks(cols)) {
                let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let e: Vec<f64> = x.iter().map(|&v| libm::exp(f64::from(v) - f64::from(max))).collect();
                let sum: f64 = e.iter().sum();
                for (at, (&y, e)) in y.iter().zip(&e).enumerate() {
                    assert!(
                        (f64::from(y) - e / sum).abs() <= 1e-6,
                        "{cols} columns: {y} at {at}, expected {}",
                        e / sum
                    );
                }
            }
        }
    }

    #[test]
    fn softmax_of_nan_is_nan() {
        let (mask, nan) = (f32::NEG_INFINITY, f32::NAN);
        let mut y = [mask, mask, mask, 1.0, nan, 2.0, 0.0, mask, 0.0];
        softmax_in_place(&mut y, 3);
        assert!(y[..6].iter().all(|v| v.is_nan()), "{y:?}");
        assert_eq!(y[6..], [0.5, 0.0, 0.5]);
    }
}
