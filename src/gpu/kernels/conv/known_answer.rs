//! Known answers of convolutions and of what copies patches.

use super::grouped::GroupedKernel;
use super::patches_at;
use super::unfold::UnfoldKernel;
use crate::gpu::kernels::case::{CaseBuilder, ROWS, int8, special, tensor};
use crate::gpu::kernels::config::Config;
use crate::gpu::kernels::kernel::Kernel;
use crate::gpu::kernels::layout::{VEC, k_vecs};
use crate::gpu::kernels::linear::{LinearEpilogue, LinearPipeline};
use crate::ops::{Op, Operand, Unfold, Window};
use crate::program::{Epilogue, QConv, QLinear, StepOp, ValueType};
use crate::values::slices::{CHECKED, i8s};
use crate::values::{DType, Shape, Tensor};

const HEIGHT: usize = 5;
const WIDTH: usize = 4;
/// More than one vector of channels.
const CHANNELS: usize = 19;
const N: usize = 70;

/// A window with all that windows have: another size, stride, dilation and padding along each axis.
fn window() -> Window {
    let window = Window::new(&[3, 2]).with_stride(&[2, 1]).with_dilation(&[1, 2]);
    window.with_uneven_padding(&[1, 2], &[2, 1])
}

/// A window over an input with padding between its elements.
fn with_gaps() -> Window {
    let mut window = window();
    window.axes[0].input_dilation = 2;
    window.axes[1].input_dilation = 3;
    window
}

/// The pipeline that stands for convolutions of one group.
pub(super) fn stand_in(config: &Config) -> LinearPipeline {
    let k = window().taps() * k_vecs(CHANNELS) * VEC;
    patches_at(config, N, k, (ROWS * output_pixels()) as u64)
}

fn output_pixels() -> usize {
    let shape = Shape::fixed(&[1, HEIGHT, WIDTH, 1]);
    let operands =
        [Operand { dtype: DType::I8, shape: &shape }, Operand { dtype: DType::I8, shape: &Shape::fixed(&[]) }];
    let shape = Op::from(Unfold { window: window() }).infer(&operands).expect(CHECKED).shape;
    shape.fixed_dims()[1..3].iter().product()
}

/// A convolution and its input. Of several groups, each has `inputs` input channels.
fn conv(window: &Window, [n, groups, inputs]: [usize; 3], to_float: bool) -> (QConv, Tensor) {
    let x = tensor(&[ROWS, HEIGHT, WIDTH, groups * inputs], |i| int8(i, 4));
    let weight = tensor(&[n, inputs, 3, 2], |i| int8(i, 8));
    let bias: Vec<i32> = (0..n as i32).map(|n| n * 1013 - 7000).collect();
    let factor = |n: usize| [1e-4f32, 0.003, 1.0 / 3.0, 7e-4][n % 4];
    let factors: Vec<f32> = (0..n).map(factor).collect();
    let epilogue = if to_float {
        Epilogue::Scale { scale: factors.into(), relu: true }
    } else {
        Epilogue::Requantize { multiplier: factors.into(), zero_point: 5, lo: -120, hi: 127 }
    };
    let k = window.taps() * inputs;
    let weight = crate::ops::by_tap(i8s(&weight), weight.shape()).into();
    let layer = QLinear { weight, bits: 8, groups: None, n, k, bias: bias.into(), fraction_bits: 2, epilogue };
    (QConv { layer, window: window.clone(), groups, zero_point: -7 }, x)
}

/// Compares a convolution.
fn answer(case: &mut CaseBuilder<'_>, kernel: impl Kernel, (op, x): (QConv, Tensor)) {
    let value_type = if matches!(op.layer.epilogue, Epilogue::Scale { .. }) { ValueType::F32 } else { ValueType::I8 };
    let axes = op.window.axes.iter().zip(&x.shape()[1..3]);
    let shape: Vec<usize> = axes.map(|(axis, &length)| axis.outputs(length)).chain([op.layer.n]).collect();
    let x = case.input(x);
    let y = case.run(StepOp::QConv(op), &[x], value_type, Shape::batched(&shape));
    case.known_answer(kernel, y);
}

/// The convolution that tests the tile shapes of `case.config`.
pub(crate) fn patches_answer(case: &mut CaseBuilder<'_>) {
    answer(case, stand_in(case.config), conv(&window(), [N, 1, CHANNELS], false));
}

/// Convolutions of one and of several groups, and copies of patches.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    let kernel = stand_in(case.config);
    if case.needs(kernel) {
        patches_answer(case);
    }
    for kernel in GroupedKernel::iter().filter(|kernel| case.tests_all() || case.needs(*kernel)).collect::<Vec<_>>() {
        let sizes = if kernel.depthwise { [N, N, 1] } else { [10, 5, 3] };
        let window = if kernel.gaps { with_gaps() } else { window() };
        answer(case, kernel, conv(&window, sizes, kernel.epilogue == LinearEpilogue::ToF32));
    }
    let x = case.input(tensor(&[ROWS, HEIGHT, WIDTH, 7], |i| int8(i, 2)));
    let padding = case.constant(tensor(&[], |_| -7i8));
    case.computed(UnfoldKernel::I8, Unfold { window: window() }, &[x, padding]);
    case.computed(UnfoldKernel::I8Gaps, Unfold { window: with_gaps() }, &[x, padding]);
    let floats = case.input(tensor(&[ROWS, HEIGHT, WIDTH, 7], special));
    let padding = case.constant(tensor(&[], |_| 0.25f32));
    case.computed(UnfoldKernel::F32, Unfold { window: window() }, &[floats, padding]);
    case.computed(UnfoldKernel::F32Gaps, Unfold { window: with_gaps() }, &[floats, padding]);
}
