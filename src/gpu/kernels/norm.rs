//! Kernels that normalize: softmax, layer norm and RMS norm.

use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, flags};
use super::layout::row_words;
use super::quantize::per_tensor;
use super::strided::axes;
use super::wgsl::shader;
use crate::gpu::device::shader::{Binding, FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::ops::{LayerNorm, Op, Quantize, RmsNorm, Softmax};
use crate::program::StepOp;

wgsl_struct! {
    /// `NormParams` of `norm/params.wgsl`.
    NormParams {
        rows_factor: u32, length: u32, stride: u32, row_words: u32, eps: f32, inv_scale: f32, zero_point: i32,
        lo: f32, hi: f32,
    }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const WEIGHT: u32 = 5;
const BIAS: u32 = 6;
const ADDEND: u32 = 7;
const SUM: u32 = 8;

const SOFTMAX_STORAGE: &[Binding] = storage! { a: A, y: Y };
const LAYER_NORM_STORAGE: &[Binding] = storage! { a: A, y: Y, weight: WEIGHT, bias: BIAS, addend: ADDEND, sum: SUM };

/// The shaders without and with subgroup operations.
static SOFTMAX: [Shader; 2] = [
    shader! {
        "softmax", NormParams, [], SOFTMAX_STORAGE,
        [THREAD, WORKGROUP_REDUCE, GRID, FLOATS], ["norm/params", "norm/softmax"]
    },
    Shader {
        subgroups: true,
        ..shader! {
            "softmax_subgroup", NormParams, [], SOFTMAX_STORAGE,
            [SUBGROUP_REDUCE, GRID, FLOATS], ["norm/params", "norm/softmax"]
        }
    },
];

const LAYER_NORM_OVERRIDES: &[&str] = &["CENTER", "ADD", "KEEP_SUM", "QUANTIZE"];

/// The shaders without and with subgroup operations.
static LAYER_NORM: [Shader; 2] = [
    Shader {
        overrides: LAYER_NORM_OVERRIDES,
        ..shader! {
            "layer_norm", NormParams, [], LAYER_NORM_STORAGE,
            [THREAD, WORKGROUP_REDUCE, GRID, FLOATS, QUANTIZE], ["norm/params", "norm/layer_norm"]
        }
    },
    Shader {
        overrides: LAYER_NORM_OVERRIDES,
        subgroups: true,
        ..shader! {
            "layer_norm_subgroup", NormParams, [], LAYER_NORM_STORAGE,
            [SUBGROUP_REDUCE, GRID, FLOATS, QUANTIZE], ["norm/params", "norm/layer_norm"]
        }
    },
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum NormKernel {
    Softmax,
    LayerNorm {
        /// Whether the mean is subtracted and a bias added. Without both it is an RMS norm.
        center: bool,
        /// Whether a value is added first.
        add: bool,
        /// Whether that sum is written too.
        keep_sum: bool,
        /// Whether int8 values are written.
        quantize: bool,
    },
}

impl Kernel for NormKernel {
    fn shader(self, options: KernelOptions) -> &'static Shader {
        let shaders = if self == Self::Softmax { &SOFTMAX } else { &LAYER_NORM };
        &shaders[usize::from(options.subgroups)]
    }

    fn entry(self) -> &'static str {
        match self {
            Self::Softmax => "softmax_f32_f32",
            Self::LayerNorm { .. } => "layer_norm_f32_f32",
        }
    }

    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        match self {
            Self::Softmax => Vec::new(),
            Self::LayerNorm { center, add, keep_sum, quantize } => {
                flags(&[("CENTER", center), ("ADD", add), ("KEEP_SUM", keep_sum), ("QUANTIZE", quantize)])
            }
        }
    }

    fn promises_bits(self) -> bool {
        false
    }
}

/// Whether a step can add a value first and quantize its result.
pub(crate) fn adds_and_quantizes(op: &StepOp) -> bool {
    matches!(op, StepOp::Op(Op::LayerNorm(_) | Op::RmsNorm(_)))
}

/// The dispatch of a softmax or a norm.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let dispatch = match fused.step(planning.program).op {
        StepOp::Op(Op::Softmax(Softmax { axis })) => softmax(planning, fused, axis),
        StepOp::Op(Op::LayerNorm(LayerNorm { eps })) => layer_norm(planning, fused, eps, true),
        StepOp::Op(Op::RmsNorm(RmsNorm { eps })) => layer_norm(planning, fused, eps, false),
        _ => return Ok(None),
    };
    Ok(Some(vec![dispatch]))
}

fn softmax(planning: &Planning<'_>, fused: &FusedStep, axis: usize) -> PlannedDispatch {
    let step = fused.step(planning.program);
    let axis = axes(planning.output(fused))[axis];
    let (length, stride) = (axis.length.unwrap_or(1), axis.stride as u32);
    let params = NormParams { stride, ..NormParams::default() };
    let dispatch = lines(planning, fused, NormKernel::Softmax, params, length);
    dispatch.binding([planning.at(A, step.inputs[0])], [planning.at(Y, step.output)])
}

fn layer_norm(planning: &Planning<'_>, fused: &FusedStep, eps: f32, center: bool) -> PlannedDispatch {
    let program = planning.program;
    let step = fused.step(program);
    let length = planning.input(fused, 1).shape.fixed_dims().iter().product();
    let mut params = NormParams { stride: 1, eps, ..NormParams::default() };
    let quantize = fused.quantize.map(|quantize| &program.steps()[quantize].op);
    if let Some(StepOp::Op(Op::Quantize(Quantize { qparams, range }))) = quantize {
        let qparams = per_tensor(qparams);
        (params.zero_point, params.inv_scale) = (qparams.zero_point(), qparams.inv_scale());
        [params.lo, params.hi] = [range.quant_min(), range.quant_max()].map(|q| (q - qparams.zero_point()) as f32);
    }
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    match fused.add_before.map(|add| &program.steps()[add]) {
        Some(add) => {
            reads.extend([planning.at(A, add.inputs[0]), planning.at(ADDEND, add.inputs[1])]);
            writes.extend(fused.keeps_sum.then(|| planning.at(SUM, add.output)));
        }
        None => reads.push(planning.at(A, step.inputs[0])),
    }
    reads.push(planning.at(WEIGHT, step.inputs[1]));
    reads.extend(step.inputs.get(2).map(|&bias| planning.at(BIAS, bias)));
    writes.insert(0, planning.at(Y, fused.last_step(program).output));
    let (add, quantize) = (fused.add_before.is_some(), quantize.is_some());
    let kernel = NormKernel::LayerNorm { center, add, keep_sum: add && fused.keeps_sum, quantize };
    lines(planning, fused, kernel, params, length).binding(reads, writes)
}

/// A workgroup for each line of `length` elements.
fn lines(
    planning: &Planning<'_>,
    fused: &FusedStep,
    kernel: NormKernel,
    params: NormParams,
    length: usize,
) -> PlannedDispatch {
    let step = fused.step(planning.program);
    let y = planning.value(step.output);
    let lines = y.rows_factor() * y.cols() / length;
    let (rows_factor, length, row_words) = (lines as u32, length as u32, row_words(y.cols()) as u32);
    let params = NormParams { rows_factor, length, row_words, ..params };
    let mut dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, GridSize::Workgroups);
    dispatch.rows.factor = lines as u64;
    dispatch
}
