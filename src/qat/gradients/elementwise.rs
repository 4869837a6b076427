//! Gradients of operators on two elements, or on an element and a number.

use super::{Backward, Rule, identity};
use crate::ops::{self, Add, AddScalar, Binary, BinaryOp, Div, Mul, MulScalar, Op, Where};
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    Some(match op {
        Op::Add(Add) => Box::new(|b, dx| b.sum_to(b.dy, dx)),
        Op::AddScalar(AddScalar { .. }) => Box::new(identity),
        Op::Mul(Mul) => Box::new(|b, dx| {
            let product = ops::zip_f32(&b.dy_tensor(), b.inputs[1 - b.at], |dy, other| dy * other);
            b.sum_to(f32s(&product), dx);
        }),
        Op::MulScalar(MulScalar { value }) => {
            Box::new(move |b, dx| dx.iter_mut().zip(b.dy).for_each(|(dx, dy)| *dx = dy * value))
        }
        Op::Div(Div) => Box::new(div),
        Op::Binary(Binary { op: BinaryOp::Maximum | BinaryOp::Minimum }) => Box::new(larger_or_smaller),
        // A comparison is 0 or 1 and has no slope.
        Op::Binary(_) => Box::new(|_, dx| dx.fill(0.0)),
        Op::Where(Where) => Box::new(select),
        _ => return None,
    })
}

/// `da = dy / b`, `db = −dy · a / b²`.
fn div(b: &Backward<'_>, dx: &mut [f32]) {
    let mut quotient = ops::zip_f32(&b.dy_tensor(), b.inputs[1], |dy, b| dy / b);
    if b.at == 1 {
        quotient = ops::zip_f32(&quotient, b.y, |d, y| -d * y);
    }
    b.sum_to(f32s(&quotient), dx);
}

/// The gradient goes to the first input where that is the result, also of equal ones, and to the second elsewhere.
fn larger_or_smaller(b: &Backward<'_>, dx: &mut [f32]) {
    let taken = ops::zip_f32(b.inputs[0], b.y, |a, y| f32::from(a == y || a.is_nan()));
    let taken = ops::zip_f32(&b.dy_tensor(), &taken, where_condition(b.at == 0));
    b.sum_to(f32s(&taken), dx);
}

/// The gradient goes to the value that was taken; the condition has none.
fn select(b: &Backward<'_>, dx: &mut [f32]) {
    if b.at == 0 {
        return dx.fill(0.0);
    }
    let taken = ops::zip_f32(&b.dy_tensor(), b.inputs[0], where_condition(b.at == 1));
    b.sum_to(f32s(&taken), dx);
}

/// `dy` where the condition is what is asked for, else 0.
fn where_condition(holds: bool) -> impl Fn(f32, f32) -> f32 + Sync + Send {
    move |dy, condition| if (condition != 0.0) == holds { dy } else { 0.0 }
}
