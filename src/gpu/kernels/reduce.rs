//! Kernels that reduce one axis: sums and maxima.

use super::case::{CaseBuilder, ROWS, WIDE, any_float, everyday, int8, int32, special, tensor};
use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, kernels};
use super::strided::{Strided, axes, strides};
use super::wgsl::shader;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::ops::{Max, Op, Sum};
use crate::program::{StepOp, ValueType};

wgsl_struct! {
    /// `ReduceParams` of `reduce/reduce.wgsl`.
    ReduceParams { strided: Strided, length: u32, stride: u32, zero: u32, unused_0: u32 }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;

static SHADER: Shader = Shader {
    overrides: &["THREADS"],
    ..shader! {
        "reduce", ReduceParams, [Strided], storage! { a: A, y: Y },
        [THREAD, WORKGROUP_REDUCE, WORKGROUP_SUM, GRID, BYTES, FLOAT, FLOATS, STRIDED, ELEMENTS, WORDS],
        ["reduce/reduce"]
    }
};

kernels! {
    ReduceKernel {
        SumF32 = "sum_f32_f32",
        /// Along the last axis.
        SumRowsF32 = "sum_rows_f32_f32",
        SumI32 = "sum_i32_i32",
        MaxF32 = "max_f32_f32",
        MaxI32 = "max_i32_i32",
        MaxI8 = "max_i8_i8",
    }
}

impl Kernel for ReduceKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        &SHADER
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        matches!(self, Self::SumF32 | Self::SumRowsF32)
    }
}

/// The dispatch of a reduction. Sums of floats along the last axis have an order of their own (equation 11).
///
/// # Errors
/// Returns [`GpuError::Limit`] if the operand has too many axes.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let bind = |dispatch: PlannedDispatch| {
        Ok(Some(vec![dispatch.binding([planning.at(A, step.inputs[0])], [planning.at(Y, step.output)])]))
    };
    if let StepOp::Op(Op::Sum(Sum { axis, .. })) = step.op
        && axis + 1 == x.shape.rank()
        && y.value_type == ValueType::F32
    {
        return bind(sum_rows(planning, fused));
    }
    let (axis, kernel) = match step.op {
        StepOp::Op(Op::Sum(Sum { axis, .. })) => match y.value_type {
            ValueType::I32 => (axis, ReduceKernel::SumI32),
            _ => (axis, ReduceKernel::SumF32),
        },
        StepOp::Op(Op::Max(Max { axis })) => match y.value_type {
            ValueType::I8 => (axis, ReduceKernel::MaxI8),
            ValueType::I32 => (axis, ReduceKernel::MaxI32),
            ValueType::F32 | ValueType::F16 => (axis, ReduceKernel::MaxF32),
        },
        _ => return Ok(None),
    };
    let mut kept = axes(x);
    let axis = kept.remove(axis);
    let mut strides = strides(&kept);
    strides.resize(axes(y).len(), 0);
    let strided = Strided::unary(step, y, &strides)?;
    let (length, stride) = (axis.length.unwrap_or(1) as u32, axis.stride as u32);
    let params = ReduceParams { strided, length, stride, ..ReduceParams::default() };
    let size = GridSize::Threads(strided.row_threads.into());
    bind(PlannedDispatch::single(planning, &step.name, y, kernel, &params, size))
}

/// Sums floats along the last axis, one row a workgroup.
fn sum_rows(planning: &Planning<'_>, fused: &FusedStep) -> PlannedDispatch {
    let step = fused.step(planning.program);
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let rows = y.rows_factor() * y.cols();
    let length = axes(x).last().and_then(|axis| axis.length).unwrap_or(1) as u32;
    let strided = Strided { rows_factor: rows as u32, ..Strided::default() };
    let params = ReduceParams { strided, length, ..ReduceParams::default() };
    let mut dispatch =
        PlannedDispatch::single(planning, &step.name, y, ReduceKernel::SumRowsF32, &params, GridSize::Workgroups);
    dispatch.rows.factor = rows as u64;
    dispatch
}

/// Sums and maxima.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let x = case.input(tensor(&WIDE, |i| int8(i, 0)));
    case.computed(ReduceKernel::MaxI8, Max { axis: 1 }, &[x]);
    let integers = case.input(tensor(&WIDE, int32));
    case.computed(ReduceKernel::MaxI32, Max { axis: 1 }, &[integers]);
    case.computed(ReduceKernel::SumI32, Sum { axis: 1, checked: false }, &[integers]);
    // Each special float with each; a pair of the lowest has no larger element.
    let pair = |i: usize| special(if i.is_multiple_of(2) { i / 24 } else { i / 2 });
    let floats = case.input(tensor(&[ROWS, 144, 2], pair));
    case.computed(ReduceKernel::MaxF32, Max { axis: 2 }, &[floats]);
    // Everyday numbers, whose sums differ with the order, and any numbers.
    for f in [everyday, any_float] {
        let x = case.input(tensor(&[ROWS, 70, 150], f));
        case.computed(ReduceKernel::SumF32, Sum { axis: 1, checked: false }, &[x]);
        case.computed(ReduceKernel::SumRowsF32, Sum { axis: 2, checked: false }, &[x]);
    }
}
