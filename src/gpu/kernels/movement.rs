//! Kernels that move values: reshape, transpose, slice, concat and pad, and the changes of layout at inputs and outputs.

pub(crate) mod index_select;

use super::case::{COLS, CaseBuilder, WIDE, int8, tensor};
use super::config::Config;
use super::dispatch::{Bound, Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, kernels};
use super::layout::row_words;
use super::strided::{Strided, axes, strides, transposed};
use super::wgsl::shader;
use crate::gpu::device::error::GpuError;
use crate::gpu::device::pipeline::PipelineKey;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::ops::{Add, Concat, Op, Pad, Reshape, Slice, Transpose};
use crate::program::{Step, StepOp, Value, ValueId, ValueType};

wgsl_struct! {
    /// `MovementParams` of `movement/params.wgsl`.
    MovementParams { strided: Strided, a_cols: u32, a_row_words: u32, unused_0: u32, unused_1: u32 }
}

pub(crate) const A: u32 = FIRST_STORAGE;
pub(crate) const Y: u32 = 4;

static STRIDED_SHADER: Shader = shader! {
    "movement_strided", MovementParams, [Strided], storage! { a: A, y: Y },
    [THREAD, GRID, BYTES, STRIDED, ELEMENTS, WORDS],
    ["movement/params", "movement/strided"]
};

static LAYOUT_SHADER: Shader = shader! {
    "movement_layout", MovementParams, [Strided], storage! { a: A, y: Y },
    [THREAD, GRID, STRIDED],
    ["movement/params", "movement/layout"]
};

kernels! {
    MovementKernel {
        CopyF32 = "copy_f32_f32",
        CopyI8 = "copy_i8_i8",
        ReshapeI8 = "reshape_i8_i8",
        /// Copies from the caller's layout to padded rows.
        Pad = "pad_i8_i8",
        /// Copies from padded rows to the caller's layout.
        Unpad = "unpad_i8_i8",
        /// Copies all words of a value.
        CopyWords = "copy_u32_u32",
    }
}

impl Kernel for MovementKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        match self {
            Self::CopyF32 | Self::CopyI8 | Self::ReshapeI8 => &STRIDED_SHADER,
            Self::Pad | Self::Unpad | Self::CopyWords => &LAYOUT_SHADER,
        }
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn promises_bits(self) -> bool {
        true
    }
}

/// The dispatch that changes the layout of a value, or copies it.
pub(crate) fn layout(
    planning: &Planning<'_>,
    value: &Value,
    kernel: MovementKernel,
    a: Bound,
    y: Bound,
) -> PlannedDispatch {
    let words = row_words(value.cols());
    let threads = match (kernel, value.value_type) {
        (MovementKernel::CopyWords, ValueType::F32 | ValueType::I32) => value.cols(),
        _ => words,
    };
    let strided = Strided::rows(value, threads);
    let (a_cols, a_row_words) = (value.cols() as u32, words as u32);
    let params = MovementParams { strided, a_cols, a_row_words, ..MovementParams::default() };
    let size = match kernel {
        MovementKernel::Unpad => GridSize::DenseWords(value.cols() as u64),
        _ => GridSize::Threads(threads as u64),
    };
    PlannedDispatch::single(planning, &value.name, value, kernel, &params, size).binding([a], [y])
}

/// The dispatches of a step that moves values.
///
/// # Errors
/// Returns [`GpuError::Limit`] if the operand walks through too many axes in another order.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let is_int8 = y.value_type == ValueType::I8;
    let copy = if is_int8 { MovementKernel::CopyI8 } else { MovementKernel::CopyF32 };
    let mut params = MovementParams::default();
    let kernel = match &step.op {
        StepOp::Op(Op::Concat(Concat { axis })) => return concat(planning, step, *axis).map(Some),
        StepOp::Op(Op::Pad(pad)) => {
            // All of the result is filled with the value, and then the input is copied into it.
            params.strided = Strided::unary(step, y, &vec![0; axes(y).len()])?;
            let size = GridSize::Threads(params.strided.row_threads.into());
            let fill = PlannedDispatch::single(planning, &step.name, y, copy, &params, size);
            let fill = fill.binding([planning.at(A, step.inputs[1])], [planning.at(Y, step.output)]);
            let offset = pad.before.iter().zip(axes(y)).map(|(before, axis)| before * axis.stride).sum();
            return Ok(Some(vec![fill, place(planning, step, step.inputs[0], offset)?]));
        }
        StepOp::Op(Op::Reshape(_)) if is_int8 => {
            params.strided = Strided::rows(y, row_words(y.cols()));
            (params.a_cols, params.a_row_words) = (x.cols() as u32, row_words(x.cols()) as u32);
            MovementKernel::ReshapeI8
        }
        StepOp::Op(Op::Reshape(_)) => {
            params.strided = Strided::rows(y, y.cols());
            let cols = y.cols() as u32;
            (params.strided.axes[0], params.strided.rank, params.strided.a_col) = ([0, cols, 0, cols], 1, 1);
            copy
        }
        StepOp::Op(Op::Transpose(Transpose { perm })) => {
            params.strided = Strided::unary(step, y, &strides(&transposed(x, perm)))?;
            copy
        }
        StepOp::Op(Op::Slice(Slice { axis, start, .. })) => {
            let from = axes(x);
            params.strided = Strided::unary(step, y, &strides(&from))?;
            params.strided.a_offset = (start * from[*axis].stride) as u32;
            copy
        }
        _ => return Ok(None),
    };
    let size = GridSize::Threads(params.strided.row_threads.into());
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    Ok(Some(vec![dispatch.binding([planning.at(A, step.inputs[0])], [planning.at(Y, step.output)])]))
}

/// One dispatch for each input, which copies its rows to their place.
fn concat(planning: &Planning<'_>, step: &Step, axis: usize) -> Result<Vec<PlannedDispatch>, GpuError> {
    let stride = axes(planning.value(step.output))[axis].stride;
    // Elements along the axis in earlier inputs.
    let mut before = 0;
    let mut dispatches = Vec::with_capacity(step.inputs.len());
    for &input in &step.inputs {
        dispatches.push(place(planning, step, input, before * stride)?);
        before += planning.value(input).shape.axis(axis).unwrap_or(0);
    }
    Ok(dispatches)
}

/// The dispatch that copies the rows of an input into the output of a step, which has as many axes. `offset` is the place of the first
/// element.
fn place(planning: &Planning<'_>, step: &Step, input: ValueId, offset: usize) -> Result<PlannedDispatch, GpuError> {
    let (x, to) = (planning.value(input), axes(planning.value(step.output)));
    let from = axes(x);
    let last = from.len() - 1;
    let (kernel, threads) = match x.value_type {
        ValueType::I8 => (MovementKernel::CopyI8, (offset % 4 + x.cols()).div_ceil(4)),
        ValueType::F32 | ValueType::F16 | ValueType::I32 => (MovementKernel::CopyF32, x.cols()),
    };
    let mut strided = Strided::rows(x, threads);
    (strided.a_col, strided.y_offset) = (1, offset as u32);
    strided.set_axes(&step.name, &from[..last], [&strides(&from), &vec![0; last], &strides(&to)])?;
    let params = MovementParams { strided, ..MovementParams::default() };
    let size = GridSize::Threads(threads as u64);
    let dispatch = PlannedDispatch::single(planning, &step.name, x, kernel, &params, size);
    Ok(dispatch.binding([planning.at(A, input)], [planning.at(Y, step.output)]))
}

/// The pipeline that copies a value, for a dispatch that would otherwise bind it twice.
pub(crate) fn copies(config: &Config) -> PipelineKey {
    MovementKernel::CopyWords.pipeline(config.kernel_options())
}

/// Transposes, reshapes, slices, concats and pads; the layouts of inputs and outputs are part of every case.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let x = case.input(tensor(&WIDE, |i| int8(i, 0)));
    let floats = case.input(tensor(&WIDE, |i| i as f32));
    case.computed(MovementKernel::CopyI8, Transpose { perm: vec![0, 2, 1] }, &[x]);
    case.computed(MovementKernel::CopyF32, Transpose { perm: vec![0, 2, 1] }, &[floats]);
    // A sum that reads a value twice gets a copy of it.
    case.computed(MovementKernel::CopyWords, Add, &[floats, floats]);
    case.computed(MovementKernel::ReshapeI8, Reshape { dims: vec![3 * COLS] }, &[x]);
    let part = case.computed(MovementKernel::CopyI8, Slice { axis: 2, start: 5, end: 12 }, &[x]);
    // The second part begins within a word.
    case.computed(MovementKernel::CopyI8, Concat { axis: 2 }, &[part, x]);
    let value = case.constant(tensor(&[], |_| -77i8));
    case.computed(MovementKernel::CopyI8, Pad { before: vec![0, 1, 2], after: vec![0, 0, 1] }, &[x, value]);
}
