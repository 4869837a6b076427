//! Kernels that copy the elements under a window.

use super::Window;
use crate::gpu::device::shader::{FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::gpu::kernels::dispatch::{Bound, Planned, PlannedDispatch, Planning};
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::grid::GridSize;
use crate::gpu::kernels::kernel::{Kernel, KernelOptions, flags, kernels};
use crate::gpu::kernels::layout::row_words;
use crate::gpu::kernels::wgsl::shader;
use crate::ops::{ImageLayout, Images, Op};
use crate::program::{Step, StepOp, Value, ValueType};
use crate::values::Tensor;

wgsl_struct! {
    /// `UnfoldParams` of `conv/unfold.wgsl`.
    UnfoldParams {
        window: Window, rows_factor: u32, channels: u32, cols: u32, row_threads: u32, a_words: u32, y_words: u32, padding: u32,
        unused_0: u32,
    }
}

const A: u32 = FIRST_STORAGE;
pub(crate) const Y: u32 = 4;

static SHADER: Shader = Shader {
    overrides: &["GAPS"],
    ..shader! {
        "conv_unfold", UnfoldParams, [Window], storage! { a: A, y: Y },
        [THREAD, GRID, BYTES, WINDOW],
        ["conv/unfold"]
    }
};

kernels! {
    UnfoldKernel {
        F32 = "unfold_f32_f32",
        I8 = "unfold_i8_i8",
        /// With padding between the elements of the input.
        F32Gaps = "unfold_f32_f32",
        I8Gaps = "unfold_i8_i8",
    }
}

impl Kernel for UnfoldKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        &SHADER
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        flags(&[("GAPS", matches!(self, Self::F32Gaps | Self::I8Gaps))])
    }

    fn promises_bits(self) -> bool {
        true
    }
}

impl UnfoldKernel {
    pub(super) fn of(is_int8: bool, images: &Images) -> Self {
        let has_gaps = images.window.iter().any(|axis| axis.input_dilation != 1);
        match (is_int8, has_gaps) {
            (true, false) => Self::I8,
            (true, true) => Self::I8Gaps,
            (false, false) => Self::F32,
            (false, true) => Self::F32Gaps,
        }
    }
}

/// The dispatches of an unfold step.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let StepOp::Op(Op::Unfold(unfold)) = &step.op else { return Ok(None) };
    let (x, y) = (planning.input(fused, 0), planning.value(step.output));
    let images = Images::new(&x.shape.with_rows(1), &unfold.window, ImageLayout::ChannelsLast);
    let padding = match planning.program.constant(step.inputs[1]) {
        Some(Tensor::F32(value)) => value.elements()[0].to_bits(),
        Some(Tensor::I8(value)) => u32::from_ne_bytes([value.elements()[0] as u8; 4]),
        _ => 0,
    };
    let output = planning.at(Y, step.output);
    Ok(Some(vec![dispatch(planning, step, &images, (x, y), padding, output)]))
}

/// The dispatch that copies the patches of `x` to `to`; `y` is a value with a pixel for each window.
pub(super) fn dispatch(
    planning: &Planning<'_>,
    step: &Step,
    images: &Images,
    (x, y): (&Value, &Value),
    padding: u32,
    to: Bound,
) -> PlannedDispatch {
    let cols = images.taps() * images.channels;
    let is_int8 = x.value_type == ValueType::I8;
    let words = |cols: usize| if is_int8 { row_words(cols) } else { cols };
    let row_threads = if is_int8 { cols.div_ceil(4) } else { cols };
    let params = UnfoldParams {
        window: Window::of(images),
        rows_factor: y.rows_factor() as u32,
        channels: images.channels as u32,
        cols: cols as u32,
        row_threads: row_threads as u32,
        a_words: words(images.channels) as u32,
        y_words: words(cols) as u32,
        padding,
        unused_0: 0,
    };
    let kernel = UnfoldKernel::of(is_int8, images);
    let dispatch =
        PlannedDispatch::single(planning, &step.name, y, kernel, &params, GridSize::Threads(row_threads as u64));
    dispatch.binding([planning.at(A, step.inputs[0])], [to])
}
