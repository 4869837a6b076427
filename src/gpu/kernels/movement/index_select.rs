//! Kernels that move elements at known indices along an axis.

use crate::gpu::device::shader::{FIRST_STORAGE, Shader, read, read_write, wgsl_struct};
use crate::gpu::kernels::case::{CaseBuilder, WIDE, int8, tensor};
use crate::gpu::kernels::dispatch::{Bound, Operand, Planned, PlannedDispatch, Planning};
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::grid::GridSize;
use crate::gpu::kernels::kernel::{Kernel, KernelOptions, kernels};
use crate::gpu::kernels::layout::row_words;
use crate::gpu::kernels::wgsl::shader;
use crate::ops::{IndexSelect, Op};
use crate::program::{StepOp, Value, ValueType};

wgsl_struct! {
    /// `IndexSelectParams` of `movement/index_select.wgsl`.
    IndexSelectParams {
        rows_factor: u32, cols: u32, row_threads: u32, a_words: u32, y_words: u32, count: u32, length: u32, inner: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const INDICES: u32 = 5;

static SHADER: Shader = shader! {
    "movement_index_select", IndexSelectParams, [],
    &[read_write("a", A), read_write("y", Y), read("indices", INDICES)],
    [THREAD, GRID, BYTES],
    ["movement/index_select"]
};

kernels! {
    IndexSelectKernel {
        F32 = "index_select_f32_f32",
        I8 = "index_select_i8_i8",
    }
}

impl Kernel for IndexSelectKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        &SHADER
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn promises_bits(self) -> bool {
        true
    }
}

/// The dispatches of an index select.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let StepOp::Op(Op::IndexSelect(IndexSelect { axis, indices })) = &step.op else { return Ok(None) };
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let is_int8 = y.value_type == ValueType::I8;
    let words = |value: &Value| if is_int8 { row_words(value.cols()) } else { value.cols() };
    let row_threads = if is_int8 { y.cols().div_ceil(4) } else { y.cols() };
    let rank = x.shape.rank();
    // The rows between the axis and the last one.
    let inner = (axis + 1..rank.saturating_sub(1)).map(|axis| x.shape.axis(axis).unwrap_or(1)).product::<usize>();
    let params = IndexSelectParams {
        rows_factor: y.rows_factor() as u32,
        cols: y.cols() as u32,
        row_threads: row_threads as u32,
        a_words: words(x) as u32,
        y_words: words(y) as u32,
        count: indices.len() as u32,
        length: x.shape.axis(*axis).unwrap_or(1) as u32,
        inner: if axis + 1 == rank { 0 } else { inner as u32 },
    };
    let kernel = if is_int8 { IndexSelectKernel::I8 } else { IndexSelectKernel::F32 };
    let size = GridSize::Threads(row_threads as u64);
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    let reads = [planning.at(A, step.inputs[0]), Bound::whole(INDICES, Operand::StepBuffer(fused.main))];
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
}

/// The last axis and another one.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let x = case.input(tensor(&WIDE, |i| int8(i, 0)));
    let floats = case.input(tensor(&WIDE, |i| i as f32));
    for (axis, indices) in [(1, vec![2, 0, 0, 1, 2]), (2, vec![20, 3, 3, 0, 19, 7])] {
        let select = || IndexSelect { axis, indices: indices.clone() };
        case.computed(IndexSelectKernel::I8, select(), &[x]);
        case.computed(IndexSelectKernel::F32, select(), &[floats]);
    }
}
