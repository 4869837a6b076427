//! Elementwise operators on two tensors whose shapes broadcast.

use std::borrow::Cow;

use super::broadcast::{Operand, broadcast_shape};
use super::epilogue::Int8Output;
use super::error::CpuError;
use super::step_run::{Output, StepRun};
use super::task_size::task_len;
use crate::numerics::{self, AddMultipliers, BinaryOp, Int32Op, float};
use crate::ops::{Binary, Int32, Mask, Op};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::slices::{CHECKED, integers};
use crate::values::{RowMajor, Tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    let rest = run.rest;
    Some(Ok(match *op {
        Op::Add(_) => zip_f32(run.take_x(), rest[0], float::add),
        Op::Mul(_) => zip_f32(run.take_x(), rest[0], float::mul),
        Op::Div(_) => zip_f32(run.take_x(), rest[0], float::div),
        Op::Binary(Binary { op }) => binary(op, run.take_x(), rest[0]),
        Op::Mask(Mask { inverted }) => zip_f32(run.take_x(), rest[0], mask(inverted)),
        Op::Int32(Int32 { op, checked }) => {
            let no_integer = |index| CpuError::NoInteger { step: run.name(), index };
            return Some(int32(op, checked, run.x(), rest[0]).map_err(no_integer));
        }
        Op::IntegerAdd(a) => {
            let y = Int8Output { zero_point: a.qparams.zero_point(), lo: a.lo, hi: a.hi };
            add_i8(run.x(), rest[0], [a.a_zero_point, a.b_zero_point], a.multipliers, y)
        }
        Op::IntegerMul(m) => {
            let y = Int8Output { zero_point: m.qparams.zero_point(), lo: m.lo, hi: m.hi };
            mul_i8(run.x(), rest[0], [m.a_zero_point, m.b_zero_point], m.multiplier, y)
        }
        _ => return None,
    }))
}

/// Computes `f(a, b)` of each pair of floats, broadcast. It reuses the buffer of `a` where `a` has the shape of the result.
fn zip_f32(a: Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32 + Sync + Send) -> Tensor {
    match (a, b) {
        (Tensor::F32(a), Tensor::F32(b)) => Tensor::from(zip(Cow::Owned(a), b, f)),
        _ => unreachable!("{CHECKED}"),
    }
}

/// Computes `op(a, b)` of each pair of floats, broadcast. It reuses the buffer of `a` where `a` has the shape of the result.
fn binary(op: BinaryOp, a: Tensor, b: &Tensor) -> Tensor {
    // Each function has a loop of its own, so that the loop vectorizes.
    match op {
        BinaryOp::Equal => zip_f32(a, b, |a, b| BinaryOp::Equal.eval(a, b)),
        BinaryOp::Less => zip_f32(a, b, |a, b| BinaryOp::Less.eval(a, b)),
        BinaryOp::LessOrEqual => zip_f32(a, b, |a, b| BinaryOp::LessOrEqual.eval(a, b)),
        BinaryOp::Maximum => zip_f32(a, b, numerics::maximum),
        BinaryOp::Minimum => zip_f32(a, b, numerics::minimum),
    }
}

/// Returns the function of `x` and a mask that gives `x` where the mask is not 0 (if `inverted`, where it is 0), and −0 elsewhere.
fn mask(inverted: bool) -> impl Fn(f32, f32) -> f32 + Sync + Send {
    move |x, condition| if (condition != 0.0) != inverted { x } else { -0.0 }
}

/// Computes `op(a, b)` of each pair of integers, broadcast. The error is the row-major index of the first result that does not fit `i32`.
fn int32(op: Int32Op, checked: bool, a: &Tensor, b: &Tensor) -> Result<Tensor, usize> {
    let (Tensor::I32(a), Tensor::I32(b)) = (a, b) else { unreachable!("{CHECKED}") };
    let shape = broadcast_shape(a.shape(), b.shape());
    let [a, b] = [a, b].map(|x| if x.shape() == shape { Cow::Borrowed(x) } else { Cow::Owned(spread(x, &shape)) });
    let pairs = a.iter().zip(b.iter()).enumerate();
    let data = pairs.map(|(at, (&a, &b))| op.eval(a, b, checked).ok_or(at));
    Ok(integers(&shape, data.collect::<Result<_, _>>()?))
}

/// Adds quantized values (equation 8), broadcast.
fn add_i8(a: &Tensor, b: &Tensor, zero_points: [i32; 2], m: AddMultipliers, y: Int8Output) -> Tensor {
    let [a_zero, b_zero] = zero_points;
    zip_i8(a, b, |a, b| numerics::add(i32::from(a) - a_zero, i32::from(b) - b_zero, m, y.zero_point, y.lo, y.hi) as i8)
}

/// Multiplies quantized values element by element (equation 9 with K = 1, then equation 5), broadcast.
fn mul_i8(a: &Tensor, b: &Tensor, zero_points: [i32; 2], multiplier: f32, y: Int8Output) -> Tensor {
    let [a_zero, b_zero] = zero_points;
    zip_i8(a, b, |a, b| {
        let acc = (i32::from(a) - a_zero) * (i32::from(b) - b_zero);
        numerics::requantize(acc, multiplier, y.zero_point, y.lo, y.hi) as i8
    })
}

/// Computes `f(a, b)` of each pair of quantized values, broadcast.
fn zip_i8(a: &Tensor, b: &Tensor, f: impl Fn(i8, i8) -> i8 + Sync + Send) -> Tensor {
    match (a, b) {
        (Tensor::I8(a), Tensor::I8(b)) => Tensor::from(zip(Cow::Borrowed(a), b, f)),
        _ => unreachable!("{CHECKED}"),
    }
}

fn zip<T>(a: Cow<'_, RowMajor<T>>, b: &RowMajor<T>, f: impl Fn(T, T) -> T + Sync + Send) -> RowMajor<T>
where
    T: Copy + Default + Send + Sync,
{
    let shape = broadcast_shape(a.shape(), b.shape());
    if a.shape() == shape {
        let mut y = a.into_owned();
        zip_assign(&mut y, b, f);
        return y;
    }
    if b.shape() == shape {
        let mut y = b.clone();
        zip_assign(&mut y, &a, |b, a| f(a, b));
        return y;
    }
    // Neither has the shape of the result: `a` gets it, so that only one loop is there for each function.
    let mut y = spread(&a, &shape);
    zip_assign(&mut y, b, f);
    y
}

/// Broadcasts to a shape.
fn spread<T: Copy + Default + Send + Sync>(x: &RowMajor<T>, shape: &[usize]) -> RowMajor<T> {
    let mut y = RowMajor::new(shape, vec![T::default(); shape.iter().product()]).expect(CHECKED);
    zip_assign(&mut y, x, |_, x| x);
    y
}

/// Sets `y` to `f(y, b)`, with `b` broadcast to the shape of `y`.
fn zip_assign<T>(y: &mut RowMajor<T>, b: &RowMajor<T>, f: impl Fn(T, T) -> T + Sync)
where
    T: Copy + Send + Sync,
{
    let shape = y.shape().to_vec();
    let (operand, task) = (Operand::new(b.elements(), b.shape(), &shape), task_len(y.len(), 1));
    let y = y.elements_mut();
    y.par_chunks_mut(task).enumerate().for_each(|(at, y)| {
        operand.zip(y, at * task, &f);
    });
}
