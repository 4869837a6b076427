//! Gradients of operators that move elements: the gradient moves back.

use ndarray::{ArrayViewMutD, Axis, IxDyn};

use super::{Backward, LENGTHS, Rule, copy, identity, view};
use crate::ops::{Concat, Op, Slice, Transpose};

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    Some(match op {
        Op::Reshape(_) | Op::Flatten(_) => Box::new(identity),
        Op::Transpose(Transpose { perm }) => Box::new(move |b, dx| {
            let mut back = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(to, &from)| back[from] = to);
            copy(view(b.dy, b.y.shape()).permuted_axes(IxDyn(&back)), dx);
        }),
        Op::Concat(Concat { axis }) => Box::new(move |b, dx| concat(b, *axis, dx)),
        Op::Slice(Slice { axis, start, end }) => Box::new(move |b, dx| {
            dx.fill(0.0);
            let mut whole = ArrayViewMutD::from_shape(IxDyn(b.x().shape()), dx).expect(LENGTHS);
            whole.slice_axis_inplace(Axis(*axis), (*start..*end).into());
            whole.assign(&view(b.dy, b.y.shape()));
        }),
        _ => return None,
    })
}

/// Each input gets its own range of the gradient.
fn concat(b: &Backward<'_>, axis: usize, dx: &mut [f32]) {
    let before: usize = b.inputs[..b.at].iter().map(|input| input.shape()[axis]).sum();
    let mut part = view(b.dy, b.y.shape());
    part.slice_axis_inplace(Axis(axis), (before..before + b.x().shape()[axis]).into());
    copy(part, dx);
}
