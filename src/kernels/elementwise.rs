//! Kernels that apply a function to each element.

use rayon::prelude::*;

use super::TASK;
use crate::numerics::UnaryOp;

/// Computes `y[i] = op(x[i])`.
pub(crate) fn unary(op: UnaryOp, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    unary_into(op, x, &mut y);
    y
}

/// Like [`unary`], but writes into a buffer.
pub(crate) fn unary_into(op: UnaryOp, x: &[f32], y: &mut [f32]) {
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| match op {
        UnaryOp::Relu => y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x < 0.0 { 0.0 } else { x }),
        _ => y.iter_mut().zip(x).for_each(|(y, &x)| *y = op.eval(f64::from(x)) as f32),
    });
}

/// Converts integers to floats, to nearest.
pub(crate) fn to_float(x: &[i32]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_equal_the_scalar_function() {
        let x: Vec<f32> =
            (-400..400i16).map(|i| f32::from(i) / 37.0).chain([f32::INFINITY, f32::NEG_INFINITY]).collect();
        for &op in UnaryOp::ALL {
            for (&x, y) in x.iter().zip(unary(op, &x)) {
                assert_eq!(y.to_bits(), (op.eval(f64::from(x)) as f32).to_bits(), "{op:?} {x}");
            }
            let of_nan = unary(op, &[f32::NAN])[0];
            match op {
                UnaryOp::Step => assert_eq!(of_nan, 0.0),
                UnaryOp::IsNan => assert_eq!(of_nan, 1.0),
                _ => assert!(of_nan.is_nan(), "{op:?}: {of_nan}"),
            }
        }
    }
}
