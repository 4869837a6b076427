//! Gradients of operators that move elements: the gradient moves back.

use ndarray::{ArrayViewMutD, Axis, IxDyn};

use super::{Backward, LENGTHS, Rule, copy, identity, view};
use crate::ops::{Concat, IndexSelect, Op, Pad, Slice, Transpose};

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
        Op::IndexSelect(IndexSelect { axis, indices }) => Box::new(move |b, dx| index_select(b, *axis, indices, dx)),
        Op::Pad(Pad { before, .. }) => Box::new(move |b, dx| pad(b, before, dx)),
        _ => return None,
    })
}

/// The input gets the gradient of the elements that it gave, the value the sum of all others.
fn pad(b: &Backward<'_>, before: &[usize], dx: &mut [f32]) {
    let mut inner = view(b.dy, b.y.shape());
    for (axis, (&before, &length)) in before.iter().zip(b.inputs[0].shape()).enumerate() {
        inner.slice_axis_inplace(Axis(axis), (before..before + length).into());
    }
    match b.at {
        0 => copy(inner, dx),
        _ => {
            let sum = |values: &mut dyn Iterator<Item = &f32>| values.map(|&v| f64::from(v)).sum::<f64>();
            dx[0] = (sum(&mut b.dy.iter()) - sum(&mut inner.iter())) as f32;
        }
    }
}

/// Each input gets its own range of the gradient.
fn concat(b: &Backward<'_>, axis: usize, dx: &mut [f32]) {
    let before: usize = b.inputs[..b.at].iter().map(|input| input.shape()[axis]).sum();
    let mut part = view(b.dy, b.y.shape());
    part.slice_axis_inplace(Axis(axis), (before..before + b.x().shape()[axis]).into());
    copy(part, dx);
}

/// Each element gets the sum of the gradients of those that are made of it.
fn index_select(b: &Backward<'_>, axis: usize, indices: &[u32], dx: &mut [f32]) {
    let shape = b.x().shape();
    let (length, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    dx.fill(0.0);
    let blocks = dx.chunks_exact_mut((length * inner).max(1)).zip(b.dy.chunks_exact((indices.len() * inner).max(1)));
    for (dx, dy) in blocks {
        for (&index, dy) in indices.iter().zip(dy.chunks_exact(inner.max(1))) {
            dx[index as usize * inner..][..inner].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        }
    }
}
