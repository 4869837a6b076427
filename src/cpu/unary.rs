//! Functions of each element. The SIMD forms of the float functions are held to tolerances; the interpreter and lookup tables use `libm`.

use rayon::prelude::*;
use rten_simd::SimdUnaryOp;
use rten_vecmath::{ApproxGelu, Gelu, Sigmoid, Silu, Tanh};

use super::error::CpuError;
use super::options::Functions;
use super::step_run::{Output, StepRun, TASK};
use crate::numerics::{IntegerType, UnaryOp, truncate};
use crate::ops::{Clamp, Op, ToInteger, Unary};
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{codes, f32s, f32s_mut, i8s, i32s, integers, like};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let op = match &run.step.op {
        StepOp::QLut(table) => return Some(Ok(lut(run.x(), &table.table))),
        StepOp::ToF16 => return Some(Ok(in_place(run, |x| *x = half::f16::from_f32(*x).to_f32()))),
        StepOp::Op(op) => op,
        _ => return None,
    };
    Some(Ok(match *op {
        Op::Unary(Unary { op }) => {
            let mut y = run.take_x();
            match run.functions {
                Functions::Vectors => unary_simd(op, f32s_mut(&mut y)),
                Functions::Libm => unary(op, f32s_mut(&mut y)),
            }
            y
        }
        Op::Clamp(Clamp { min, max }) => in_place(run, |x| *x = x.clamp(min, max)),
        Op::ToFloat(_) => like(run.x(), i32s(run.x()).iter().map(|&x| x as f32).collect()),
        Op::ToInteger(ToInteger { to }) => {
            let no_integer = |index| CpuError::NoInteger { step: run.name(), index };
            return Some(to_integer(run.x(), to).map_err(no_integer));
        }
        _ => return None,
    }))
}

/// Applies `f` to each float of the first input, in its buffer.
fn in_place(run: &mut StepRun<'_>, f: impl Fn(&mut f32)) -> Tensor {
    let mut y = run.take_x();
    f32s_mut(&mut y).iter_mut().for_each(f);
    y
}

/// Computes `x[i] = op(x[i])` in place, with the interpreter's bits.
fn unary(op: UnaryOp, x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(|x| match op {
        UnaryOp::Relu => x.iter_mut().for_each(|x| *x = if *x < 0.0 { 0.0 } else { *x }),
        _ => x.iter_mut().for_each(|x| *x = op.eval(f64::from(*x)) as f32),
    });
}

/// Computes `x[i] = op(x[i])` in place, within 5e-7 · max(1, |x|) of the exact function.
fn unary_simd(op: UnaryOp, x: &mut [f32]) {
    x.par_chunks_mut(TASK).for_each(|x| match op {
        UnaryOp::Sigmoid => Sigmoid {}.map_mut(x),
        UnaryOp::Tanh => Tanh {}.map_mut(x),
        UnaryOp::Gelu => Gelu {}.map_mut(x),
        UnaryOp::GeluTanh => ApproxGelu {}.map_mut(x),
        UnaryOp::Silu => Silu {}.map_mut(x),
        // The other functions have no SIMD form here.
        _ => unary(op, x),
    });
}

/// Casts floats or integers to an integer type. The error is the row-major index of the first float without one.
fn to_integer(x: &Tensor, to: IntegerType) -> Result<Tensor, usize> {
    let data = match x {
        Tensor::I32(_) => i32s(x).iter().map(|&v| to.wrap(v)).collect(),
        _ => {
            let whole = f32s(x).iter().enumerate().map(|(at, &v)| truncate(v).ok_or(at));
            whole.map(|v| v.map(|v| to.wrap(v))).collect::<Result<_, _>>()?
        }
    };
    Ok(integers(x.shape(), data))
}

/// Looks up each element: entry `x + 128` of a lookup table of 256 entries.
fn lut(x: &Tensor, table: &[i8]) -> Tensor {
    let mut y = vec![0i8; x.len()];
    y.par_chunks_mut(TASK).zip(i8s(x).par_chunks(TASK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = table[(i32::from(x) + 128) as usize]);
    });
    codes(x.shape(), y)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMD: [UnaryOp; 5] = [UnaryOp::Sigmoid, UnaryOp::Tanh, UnaryOp::Gelu, UnaryOp::GeluTanh, UnaryOp::Silu];

    fn computed(op: UnaryOp, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        unary(op, &mut y);
        y
    }

    #[test]
    fn slices_equal_the_scalar_function() {
        let x: Vec<f32> =
            (-400..400i16).map(|i| f32::from(i) / 37.0).chain([f32::INFINITY, f32::NEG_INFINITY]).collect();
        for &op in UnaryOp::ALL {
            for (&x, y) in x.iter().zip(computed(op, &x)) {
                assert_eq!(y.to_bits(), (op.eval(f64::from(x)) as f32).to_bits(), "{op:?} {x}");
            }
            let of_nan = computed(op, &[f32::NAN])[0];
            match op {
                UnaryOp::Step => assert_eq!(of_nan, 0.0),
                UnaryOp::IsNan => assert_eq!(of_nan, 1.0),
                _ => assert!(of_nan.is_nan(), "{op:?}: {of_nan}"),
            }
        }
    }

    /// The largest error of a SIMD function over many arguments, in units of max(1, |x|).
    fn error(op: UnaryOp, against: impl Fn(f64) -> f64) -> f64 {
        let fine = (-40_000..=40_000i32).map(|i| i as f32 / 1999.0);
        let x: Vec<f32> = fine.chain([-3e38, -1e20, -1e5, -200.0, -88.0, 88.0, 200.0, 1e5, 1e20]).collect();
        let mut y = x.clone();
        unary_simd(op, &mut y);
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
            unary_simd(op, &mut y);
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&y), bits(&computed(op, &x)), "{op:?}");
        }
    }

    #[test]
    fn functions_have_their_limits() {
        for op in SIMD {
            let mut y = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
            unary_simd(op, &mut y);
            for (x, y) in [f32::NEG_INFINITY, f32::INFINITY, f32::NAN].into_iter().zip(y) {
                let limit = op.eval(x.into()) as f32;
                assert!(y == limit || y.is_nan() && limit.is_nan(), "{op:?} of {x}: {y}, expected {limit}");
            }
        }
    }
}
