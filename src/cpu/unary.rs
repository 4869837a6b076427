//! Functions of each element.

use super::error::CpuError;
use super::fusion::{Fused, apply_to_all};
use super::step_run::{Output, StepRun};
use super::task_size::task_len;
use crate::numerics::{IntegerType, truncate};
use crate::ops::{Op, ToInteger};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{codes, f32s, f32s_mut, i8s, i32s, integers, like};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let op = match &run.step.op {
        StepOp::QLut(table) => {
            let y = run.pool.take_int8(run.x().len());
            return Some(Ok(lut(y, run.x(), &table.table)));
        }
        StepOp::ToF16 | StepOp::FromF16 => return Some(Ok(in_place(run, |x| *x = half::f16::from_f32(*x).to_f32()))),
        StepOp::Op(op) => op,
        _ => return None,
    };
    Some(Ok(match *op {
        Op::Unary(_) | Op::Clamp(_) => {
            let function = [Fused::new(run.step, run.shape, run.rest)];
            let mut y = run.take_x();
            apply_to_all(&function, f32s_mut(&mut y), 1);
            y
        }
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
fn lut(mut y: Vec<i8>, x: &Tensor, table: &[i8]) -> Tensor {
    let task = task_len(y.len(), 1);
    y.par_chunks_mut(task).zip(i8s(x).par_chunks(task)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = table[(i32::from(x) + 128) as usize]);
    });
    codes(x.shape(), y)
}
