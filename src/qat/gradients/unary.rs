//! Gradients of functions of one element.

use rayon::prelude::*;

use super::Rule;
use crate::ops::{Clamp, Op, Unary, UnaryOp};
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    Some(match op {
        Op::Unary(Unary { op }) => Box::new(move |b, dx| unary(*op, f32s(b.x()), b.dy, dx)),
        Op::Clamp(Clamp { min, max }) => Box::new(move |b, dx| {
            let inside = |x: f32| *min <= x && x <= *max;
            dx.iter_mut().zip(f32s(b.x())).zip(b.dy).for_each(|((dx, &x), &dy)| *dx = if inside(x) { dy } else { 0.0 });
        }),
        _ => return None,
    })
}

/// `dx = dy · f′(x)`, computed in `f64`.
fn unary(op: UnaryOp, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    const TASK: usize = 1 << 14;
    dx.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).zip(dy.par_chunks(TASK)).for_each(|((dx, x), dy)| match op {
        UnaryOp::Relu => {
            dx.iter_mut().zip(x).zip(dy).for_each(|((dx, &x), &dy)| *dx = if x > 0.0 { dy } else { 0.0 });
        }
        _ => {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = (f64::from(dy) * op.derivative(f64::from(x))) as f32;
            }
        }
    });
}
