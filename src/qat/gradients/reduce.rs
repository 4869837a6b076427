//! Gradients of reductions.

use super::{Lines, Rule};
use crate::ops::{Max, Op, Sum};
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    Some(match op {
        Op::Max(Max { axis }) => Box::new(move |b, dx| max(f32s(b.x()), Lines::new(b.x().shape(), *axis), b.dy, dx)),
        Op::Sum(Sum { axis, .. }) => Box::new(move |b, dx| sum(Lines::new(b.x().shape(), *axis), b.dy, dx)),
        _ => return None,
    })
}

/// Every element of a line gets the gradient of its sum.
fn sum(lines: Lines, dy: &[f32], dx: &mut [f32]) {
    for (start, &dy) in lines.starts(dx.len()).zip(dy) {
        (0..lines.length).for_each(|i| dx[start + i * lines.inner] = dy);
    }
}

/// The first of the largest elements of a line gets the whole gradient.
fn max(x: &[f32], lines: Lines, dy: &[f32], dx: &mut [f32]) {
    dx.fill(0.0);
    for (start, &dy) in lines.starts(x.len()).zip(dy) {
        let at = |i: usize| start + i * lines.inner;
        let first = (1..lines.length).fold(0, |first, i| if x[at(i)] > x[at(first)] { i } else { first });
        dx[at(first)] = dy;
    }
}
