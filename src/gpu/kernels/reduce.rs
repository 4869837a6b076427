//! Kernels that reduce one axis: sums and maxima.

use super::case::{CaseBuilder, ROWS, WIDE, any_float, everyday, int8, int32, special, tensor};
use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, kernels};
use super::strided::{Strided, axes, broadcast};
use super::wgsl::shader;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::ops::{Max, Mul, Op, Sum};
use crate::program::{StepOp, ValueType};

wgsl_struct! {
    /// `ReduceParams` of `reduce/reduce.wgsl`.
    ReduceParams { strided: Strided, length: u32, stride: u32, b_stride: u32, zero: u32 }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const B: u32 = 5;

static SHADER: Shader = Shader {
    overrides: &["THREADS", "PRODUCT", "SQUARE"],
    ..shader! {
        "reduce", ReduceParams, [Strided], storage! { a: A, y: Y, b: B },
        [THREAD, WORKGROUP_REDUCE, WORKGROUP_SUM, GRID, BYTES, FLOAT, FLOATS, STRIDED, ELEMENTS, WORDS],
        ["reduce/reduce"]
    }
};

kernels! {
    ReduceKernel {
        SumF32 = "sum_f32_f32",
        /// Along the last axis.
        SumRowsF32 = "sum_rows_f32_f32",
        /// Of products of two values.
        SumProductF32 = "sum_f32_f32",
        SumRowsProductF32 = "sum_rows_f32_f32",
        /// Of squares.
        SumSquareF32 = "sum_f32_f32",
        SumRowsSquareF32 = "sum_rows_f32_f32",
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

    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        match self {
            Self::SumProductF32 | Self::SumRowsProductF32 => vec![("PRODUCT", 1)],
            Self::SumSquareF32 | Self::SumRowsSquareF32 => vec![("SQUARE", 1)],
            _ => Vec::new(),
        }
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        !matches!(self, Self::SumI32 | Self::MaxF32 | Self::MaxI32 | Self::MaxI8)
    }
}

/// The kernel of a sum of floats along the last axis or another, of `operands` different values.
fn sum_kernel(is_last: bool, is_product: bool, operands: usize) -> ReduceKernel {
    match (is_last, is_product, operands) {
        (false, false, _) => ReduceKernel::SumF32,
        (false, true, 1) => ReduceKernel::SumSquareF32,
        (false, true, _) => ReduceKernel::SumProductF32,
        (true, false, _) => ReduceKernel::SumRowsF32,
        (true, true, 1) => ReduceKernel::SumRowsSquareF32,
        (true, true, _) => ReduceKernel::SumRowsProductF32,
    }
}

/// The dispatch of a reduction, perhaps of products. Sums of floats along the last axis have an order of their own (equation 11).
///
/// # Errors
/// Returns [`GpuError::Limit`](crate::gpu::GpuError::Limit) if the operands have too many axes.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let (axis, is_sum) = match step.op {
        StepOp::Op(Op::Sum(Sum { axis, .. })) => (axis, true),
        StepOp::Op(Op::Max(Max { axis })) => (axis, false),
        _ => return Ok(None),
    };
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let is_last = axis + 1 == x.shape.rank();
    let product = fused.product.map(|product| &planning.program.steps()[product]);
    let mut operands = product.map_or_else(|| vec![step.inputs[0]], |product| product.inputs.clone());
    operands.dedup();
    let kernel = match (is_sum, y.value_type) {
        (true, ValueType::I32) => ReduceKernel::SumI32,
        (true, _) => sum_kernel(is_last, product.is_some(), operands.len()),
        (false, ValueType::I8) => ReduceKernel::MaxI8,
        (false, ValueType::I32) => ReduceKernel::MaxI32,
        (false, ValueType::F32 | ValueType::F16) => ReduceKernel::MaxF32,
    };
    let all = axes(x);
    let along = |at: usize| match operands.get(at) {
        Some(&id) => broadcast(planning.value(id), &all),
        None => vec![0; all.len()],
    };
    let (mut a, mut b) = (along(0), along(1));
    let (stride, b_stride) = (a.remove(axis) as u32, b.remove(axis) as u32);
    let length = all[axis].length.unwrap_or(1) as u32;
    let is_row_sum = is_last && is_sum && y.value_type == ValueType::F32;
    let strided = if is_row_sum {
        let mut strided = Strided { rows_factor: (y.rows_factor() * y.cols()) as u32, ..Strided::default() };
        let kept = &all[..axis];
        strided.set_axes(&step.name, kept, [&a, &b, &vec![0; kept.len()]])?;
        strided
    } else {
        let rank = axes(y).len();
        a.resize(rank, 0);
        b.resize(rank, 0);
        Strided::elementwise(&step.name, y, &a, &b)?
    };
    let params = ReduceParams { strided, length, stride, b_stride, ..ReduceParams::default() };
    let size = if is_row_sum { GridSize::Workgroups } else { GridSize::Threads(strided.row_threads.into()) };
    let mut dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    if is_row_sum {
        dispatch.rows.factor = strided.rows_factor.into();
    }
    let reads = operands.iter().zip([A, B]).map(|(&id, binding)| planning.at(binding, id));
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
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
        let column = case.input(tensor(&[ROWS, 70, 1], |i| f(i * 3 + 2)));
        for (axis, products, squares) in [
            (1, ReduceKernel::SumProductF32, ReduceKernel::SumSquareF32),
            (2, ReduceKernel::SumRowsProductF32, ReduceKernel::SumRowsSquareF32),
        ] {
            let product = case.intermediate(Mul, &[column, x]);
            case.computed(products, Sum { axis, checked: false }, &[product]);
            let square = case.intermediate(Mul, &[x, x]);
            case.computed(squares, Sum { axis, checked: false }, &[square]);
        }
    }
}
