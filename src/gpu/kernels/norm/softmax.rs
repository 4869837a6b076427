//! Softmax, alone and of scaled and masked scores.

use strum::IntoEnumIterator;

use super::{A, LINES, NormParams, Y, line_value, lines};
use crate::gpu::device::error::GpuError;
use crate::gpu::device::shader::{Binding, Shader, storage, wgsl_struct};
use crate::gpu::kernels::case::{CaseBuilder, ROWS, everyday, tensor};
use crate::gpu::kernels::dispatch::{PlannedDispatch, Planning};
use crate::gpu::kernels::fused_step::FusedStep;
use crate::gpu::kernels::grid::GridSize;
use crate::gpu::kernels::kernel::{Kernel, KernelOptions, flags};
use crate::gpu::kernels::strided::{Strided, axes, broadcast};
use crate::gpu::kernels::wgsl::shader;
use crate::ops::{Add, Mul, Softmax};
use crate::program::{Program, Step, ValueId};

const SOFTMAX_STORAGE: &[Binding] = storage! { a: A, y: Y };
/// The shaders without and with subgroup operations.
static SOFTMAX: [Shader; 2] = [
    Shader {
        overrides: &["THREADS", "HELD"],
        ..shader! {
            "softmax", NormParams, [], SOFTMAX_STORAGE,
            [THREAD, WORKGROUP_REDUCE, WORKGROUP_SUM, GRID, FLOAT, FLOATS], ["norm/params", "norm/softmax_plain", "norm/softmax"]
        }
    },
    Shader {
        overrides: &["THREADS", "HELD"],
        subgroups: true,
        ..shader! {
            "softmax_subgroup", NormParams, [], SOFTMAX_STORAGE,
            [SUBGROUP_REDUCE, WORKGROUP_SUM, GRID, FLOAT, FLOATS], ["norm/params", "norm/softmax_plain", "norm/softmax"]
        }
    },
];

wgsl_struct! {
    /// `ScaledSoftmaxParams` of `norm/softmax_scaled.wgsl`.
    ScaledSoftmaxParams { strided: Strided, scale: f32, zero: u32, unused_0: u32, unused_1: u32 }
}

const MASK: u32 = 5;

const SCALED_SOFTMAX_STORAGE: &[Binding] = storage! { a: A, y: Y, mask: MASK };

/// The shaders of lines without and with a scale and a mask.
static SHORT_SOFTMAX: [Shader; 2] = [
    shader! {
        "softmax_short", NormParams, [], SOFTMAX_STORAGE,
        [THREAD, GRID, FLOAT, FLOATS, EIGHT_THREADS], ["norm/params", "norm/softmax_plain", "norm/softmax_short"]
    },
    Shader {
        overrides: &["SCALE", "MASK"],
        ..shader! {
            "softmax_short_scaled", ScaledSoftmaxParams, [Strided], SCALED_SOFTMAX_STORAGE,
            [THREAD, GRID, FLOAT, FLOATS, EIGHT_THREADS, STRIDED], ["norm/softmax_scaled", "norm/softmax_short"]
        }
    },
];

/// The shaders without and with subgroup operations.
static SCALED_SOFTMAX: [Shader; 2] = [
    Shader {
        overrides: &["THREADS", "HELD", "SCALE", "MASK"],
        ..shader! {
            "softmax_scaled", ScaledSoftmaxParams, [Strided], SCALED_SOFTMAX_STORAGE,
            [THREAD, WORKGROUP_REDUCE, WORKGROUP_SUM, GRID, FLOAT, FLOATS, STRIDED], ["norm/softmax_scaled", "norm/softmax"]
        }
    },
    Shader {
        overrides: &["THREADS", "HELD", "SCALE", "MASK"],
        subgroups: true,
        ..shader! {
            "softmax_scaled_subgroup", ScaledSoftmaxParams, [Strided], SCALED_SOFTMAX_STORAGE,
            [SUBGROUP_REDUCE, WORKGROUP_SUM, GRID, FLOAT, FLOATS, STRIDED], ["norm/softmax_scaled", "norm/softmax"]
        }
    },
];

/// The lines for which a softmax kernel is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum SoftmaxLines {
    /// Of up to 128 elements: eight threads a line.
    Short,
    /// Of up to 1,024 elements, which workgroup memory holds: 64 threads a line.
    Held,
    /// Of any length: 64 threads a line, which read it three times.
    Any,
}

impl SoftmaxLines {
    fn of(length: usize) -> Self {
        match length {
            ..=128 => Self::Short,
            129..=1024 => Self::Held,
            _ => Self::Any,
        }
    }

    fn overrides(self) -> Vec<(&'static str, u32)> {
        if self == Self::Held { vec![("HELD", 1024)] } else { Vec::new() }
    }

    fn grid(self) -> GridSize {
        if self == Self::Short { GridSize::Threads(8) } else { GridSize::Workgroups }
    }
}

/// A softmax kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SoftmaxKernel {
    Plain {
        lines: SoftmaxLines,
    },
    /// Of elements that are multiplied by a number first, and then added to a mask.
    Scaled {
        lines: SoftmaxLines,
        scale: bool,
        mask: bool,
    },
}

impl SoftmaxKernel {
    /// The kernels for lines of each length.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        SoftmaxLines::iter().flat_map(|lines| [Self::Plain { lines }, Self::Scaled { lines, scale: true, mask: true }])
    }
}

impl Kernel for SoftmaxKernel {
    fn shader(self, options: KernelOptions) -> &'static Shader {
        let subgroups = usize::from(options.subgroups);
        match self {
            Self::Plain { lines: SoftmaxLines::Short } => &SHORT_SOFTMAX[0],
            Self::Scaled { lines: SoftmaxLines::Short, .. } => &SHORT_SOFTMAX[1],
            Self::Plain { .. } => &SOFTMAX[subgroups],
            Self::Scaled { .. } => &SCALED_SOFTMAX[subgroups],
        }
    }

    fn entry(self) -> &'static str {
        let (Self::Plain { lines } | Self::Scaled { lines, .. }) = self;
        if lines == SoftmaxLines::Short { "softmax_short_f32_f32" } else { "softmax_f32_f32" }
    }

    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        match self {
            Self::Plain { lines } => lines.overrides(),
            Self::Scaled { lines, scale, mask } => {
                [lines.overrides(), flags(&[("SCALE", scale), ("MASK", mask)])].concat()
            }
        }
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        true
    }
}

pub(super) fn softmax(planning: &Planning<'_>, fused: &FusedStep, axis: usize) -> PlannedDispatch {
    let step = fused.step(planning.program);
    let axis = axes(planning.output(fused))[axis];
    let (length, stride) = (axis.length.unwrap_or(1), axis.stride as u32);
    let params = NormParams { stride, ..NormParams::default() };
    let of_length = SoftmaxLines::of(length);
    let kernel = SoftmaxKernel::Plain { lines: of_length };
    let dispatch = lines(planning, fused, kernel, of_length.grid(), params, length);
    dispatch.binding([planning.at(A, step.inputs[0])], [planning.at(Y, step.output)])
}

/// A value and the number that a product multiplies it by; `None` unless one operand is a constant of one element.
pub(crate) fn scaled(program: &Program, step: &Step) -> Option<(ValueId, f32)> {
    let number = |at: usize| match program.constant(step.inputs[at])?.as_f32()? {
        &[number] => Some(number),
        _ => None,
    };
    let (own, number) = match (number(0), number(1)) {
        (_, Some(number)) => (step.inputs[0], number),
        (Some(number), None) => (step.inputs[1], number),
        (None, None) => return None,
    };
    (program.value(own).shape == program.value(step.output).shape).then_some((own, number))
}

/// The operand of a sum that has the shape of the result, and the mask, which is broadcast.
pub(crate) fn masked(program: &Program, step: &Step) -> Option<(ValueId, ValueId)> {
    let y = &program.value(step.output).shape;
    let has_shape = |at: usize| program.value(step.inputs[at]).shape == *y;
    match (has_shape(0), has_shape(1)) {
        (true, _) => Some((step.inputs[0], step.inputs[1])),
        (false, true) => Some((step.inputs[1], step.inputs[0])),
        (false, false) => None,
    }
}

/// A softmax of rows, with the product and the sum before it.
///
/// # Errors
/// Returns [`GpuError::Limit`] if the mask walks through too many axes in another order.
pub(super) fn scaled_softmax(planning: &Planning<'_>, fused: &FusedStep) -> Result<PlannedDispatch, GpuError> {
    let program = planning.program;
    let step = fused.step(program);
    let y = planning.value(step.output);
    let mut params = ScaledSoftmaxParams::default();
    let mut x = step.inputs[0];
    let mut reads = Vec::new();
    let mut strides = vec![0; axes(y).len()];
    if let Some((own, mask)) = fused.mask.and_then(|mask| masked(program, &program.steps()[mask])) {
        x = own;
        strides = broadcast(planning.value(mask), &axes(y));
        reads.push(planning.at(MASK, mask));
    }
    if let Some((own, scale)) = fused.scale.and_then(|scale| scaled(program, &program.steps()[scale])) {
        (x, params.scale) = (own, scale);
    }
    reads.insert(0, planning.at(A, x));
    params.strided = Strided::elementwise(&step.name, y, &vec![0; strides.len()], &strides)?;
    let lines = SoftmaxLines::of(params.strided.cols as usize);
    let kernel = SoftmaxKernel::Scaled { lines, scale: fused.scale.is_some(), mask: fused.mask.is_some() };
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, lines.grid());
    Ok(dispatch.binding(reads, [planning.at(Y, step.output)]))
}

/// Softmax of short and long lines, and along two axes.
pub(super) fn known_answer(case: &mut CaseBuilder<'_>) {
    for (lines, length, kinds) in
        [(SoftmaxLines::Short, 93, LINES), (SoftmaxLines::Held, 326, LINES), (SoftmaxLines::Any, 1390, LINES)]
    {
        known_softmax(case, lines, length, kinds);
    }
}

/// Softmax of lines of several kinds, with everything that is fused with it.
fn known_softmax(case: &mut CaseBuilder<'_>, of_length: SoftmaxLines, length: usize, kinds: usize) {
    let lines = case.input(tensor(&[ROWS, kinds, length], |i| line_value(i / length % kinds, i)));
    let plain = SoftmaxKernel::Plain { lines: of_length };
    case.computed(plain, Softmax { axis: 2 }, &[lines]);
    if of_length == SoftmaxLines::Short {
        case.computed(plain, Softmax { axis: 1 }, &[lines]);
    }
    for (scale, mask) in [(true, false), (false, true), (true, true)] {
        let kernel = SoftmaxKernel::Scaled { lines: of_length, scale, mask };
        if case.needs(kernel) {
            let mut x = lines;
            if scale {
                let number = case.constant(tensor(&[], |_| 0.37f32));
                x = case.intermediate(Mul, &[x, number]);
            }
            if mask {
                // One number for each element of a row of the batch, and −∞ in places.
                let value = |i: usize| if i.is_multiple_of(5) { f32::NEG_INFINITY } else { everyday(i) };
                let mask = case.input(tensor(&[ROWS, 1, length], value));
                x = case.intermediate(Add, &[x, mask]);
            }
            case.computed(kernel, Softmax { axis: 2 }, &[x]);
        }
    }
}
