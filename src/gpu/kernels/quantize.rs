//! Kernels that quantize and dequantize, with static and dynamic qparams.

pub(crate) mod fused;

use super::case::{CaseBuilder, ROWS, everyday, int8, tensor};
use super::config::Config;
use super::dispatch::{Bound, Operand, Planned, PlannedDispatch, Planning, two_floats_a_row};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, kernels};
use super::layout::{padded_rows, row_words};
use super::wgsl::shader;
use crate::gpu::device::shader::{Binding, FIRST_STORAGE, Shader, storage, wgsl_struct};
use crate::numerics::{self, QuantizeRule};
use crate::ops::{ChooseQParams, Dequantize, DequantizeDynamic, Op, Quantize, QuantizeDynamic};
use crate::program::{StepOp, Value};
use crate::values::slices::CHECKED;
use crate::values::{QParams, QScheme, QuantRange, Shape, TensorQParams};

wgsl_struct! {
    /// `QuantizeParams` of `quantize/params.wgsl`.
    QuantizeParams {
        rows_factor: u32, cols: u32, row_words: u32, scale: f32, inv_scale: f32, zero_point: i32, quant_min: i32,
        quant_max: i32, eps: f32, rule: u32, qparams_stride: u32, zero: u32, range_groups: u32, unused_0: u32, unused_1: u32,
        unused_2: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const QPARAMS: u32 = 5;
const RANGES: u32 = 6;

static STATIC_SHADER: Shader = shader! {
    "quantize_static", QuantizeParams, [], storage! { a: A, a_vecs: A, y: Y, y_vecs: Y },
    [THREAD, GRID, FLOAT, FLOATS, QUANTIZE],
    ["quantize/params", "quantize/static"]
};

const DYNAMIC_STORAGE: &[Binding] = storage! { a: A, y: Y, qparams: QPARAMS, ranges: RANGES };

/// The shaders without and with subgroup operations.
static DYNAMIC_SHADERS: [Shader; 2] = [
    Shader {
        overrides: &["THREADS"],
        ..shader! {
            "quantize_dynamic", QuantizeParams, [], DYNAMIC_STORAGE,
            [THREAD, WORKGROUP_REDUCE, GRID, BYTES, FLOAT, FLOATS, QUANTIZE, QPARAMS], ["quantize/params", "quantize/dynamic"]
        }
    },
    Shader {
        overrides: &["THREADS"],
        subgroups: true,
        ..shader! {
            "quantize_dynamic_subgroup", QuantizeParams, [], DYNAMIC_STORAGE,
            [SUBGROUP_REDUCE, GRID, BYTES, FLOAT, FLOATS, QUANTIZE, QPARAMS], ["quantize/params", "quantize/dynamic"]
        }
    },
];

kernels! {
    QuantizeKernel {
        Quantize = "quantize_f32_i8",
        QuantizeVec4 = "quantize_vec4_f32_i8",
        /// Divides by the scale.
        QuantizeDivide = "quantize_divide_f32_i8",
        QuantizeDivideVec4 = "quantize_divide_vec4_f32_i8",
        Dequantize = "dequantize_i8_f32",
        DequantizeVec4 = "dequantize_vec4_i8_f32",
        /// Finds the smallest and the largest element of each row.
        Range = "range_f32_f32",
        RangeWide = "range_f32_f32",
        ChoosePerToken = "choose_per_token_f32_f32",
        ChoosePerTensor = "choose_per_tensor_f32_f32",
        QuantizeDynamic = "quantize_dynamic_f32_i8",
        QuantizeDynamicWide = "quantize_dynamic_f32_i8",
        /// Chooses qparams and quantizes with them.
        QuantizePerToken = "quantize_per_token_f32_i8",
        QuantizePerTokenWide = "quantize_per_token_f32_i8",
        /// Finds the smallest and the largest of some elements of all rows.
        GroupRange = "group_range_f32_f32",
        GroupRangeWide = "group_range_f32_f32",
        /// Chooses the qparams of all rows and quantizes with them.
        QuantizePerTensor = "quantize_per_tensor_f32_i8",
        QuantizePerTensorWide = "quantize_per_tensor_f32_i8",
        DequantizeDynamic = "dequantize_dynamic_i8_f32",
    }
}

impl Kernel for QuantizeKernel {
    fn shader(self, options: KernelOptions) -> &'static Shader {
        match self {
            Self::Quantize
            | Self::QuantizeVec4
            | Self::QuantizeDivide
            | Self::QuantizeDivideVec4
            | Self::Dequantize
            | Self::DequantizeVec4 => &STATIC_SHADER,
            _ => &DYNAMIC_SHADERS[usize::from(options.subgroups)],
        }
    }

    fn entry(self) -> &'static str {
        self.into()
    }

    fn overrides(self, options: KernelOptions) -> Vec<(&'static str, u32)> {
        match self {
            Self::RangeWide
            | Self::GroupRangeWide
            | Self::QuantizeDynamicWide
            | Self::QuantizePerTokenWide
            | Self::QuantizePerTensorWide
                if options.wide_rows =>
            {
                vec![("THREADS", 256)]
            }
            _ => Vec::new(),
        }
    }

    fn promises_bits(self) -> bool {
        true
    }
}

impl QuantizeKernel {
    /// The kernel for rows of `cols` elements: with more threads a row where they are long.
    fn for_rows(self, cols: usize) -> Self {
        match self {
            Self::Range if cols > WIDE_COLS => Self::RangeWide,
            Self::QuantizeDynamic if cols > WIDE_COLS => Self::QuantizeDynamicWide,
            Self::QuantizePerToken if cols > WIDE_COLS => Self::QuantizePerTokenWide,
            Self::GroupRange if cols > WIDE_COLS => Self::GroupRangeWide,
            Self::QuantizePerTensor if cols > WIDE_COLS => Self::QuantizePerTensorWide,
            kernel => kernel,
        }
    }
}

/// The most workgroups that find ranges, and the most that quantize, each of which reads all ranges. They suffice for a GPU, or for a CPU.
fn groups_per_tensor(config: &Config) -> [u32; 2] {
    if config.wide_rows { [256, 1024] } else { [16, 16] }
}

/// The most elements of a row for which 64 threads suffice.
const WIDE_COLS: usize = 1024;

/// The stride from the dynamic qparams of one row to those of the next.
pub(crate) fn qparams_stride(qparams: &Value) -> u32 {
    if qparams.shape == Shape::fixed(&[2]) { 0 } else { 2 }
}

/// The qparams of a static step.
pub(crate) fn per_tensor(qparams: &TensorQParams) -> QParams {
    qparams.per_tensor().unwrap_or_else(|| unreachable!("a step quantizes per tensor"))
}

/// The dispatches of a step that quantizes, dequantizes or chooses qparams.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let step = fused.step(planning.program);
    let y = planning.value(step.output);
    let whole = !padded_rows(y.cols());
    let words = row_words(y.cols()) as u64;
    let mut params = params_of(y);
    let (kernel, size) = match &step.op {
        StepOp::Op(Op::Quantize(Quantize { qparams, range, rule })) => {
            set_static(&mut params, per_tensor(qparams));
            set_range(&mut params, *range);
            let kernel = match (rule, whole) {
                (QuantizeRule::Divide, true) => QuantizeKernel::QuantizeDivideVec4,
                (QuantizeRule::Divide, false) => QuantizeKernel::QuantizeDivide,
                (_, true) => QuantizeKernel::QuantizeVec4,
                (_, false) => QuantizeKernel::Quantize,
            };
            (kernel, GridSize::Threads(words))
        }
        StepOp::Op(Op::Dequantize(Dequantize { qparams })) => {
            set_static(&mut params, per_tensor(qparams));
            let kernel = if whole { QuantizeKernel::DequantizeVec4 } else { QuantizeKernel::Dequantize };
            (kernel, GridSize::Threads(words))
        }
        StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range })) => {
            set_range(&mut params, *range);
            (QuantizeKernel::QuantizeDynamic.for_rows(y.cols()), GridSize::Workgroups)
        }
        StepOp::Op(Op::DequantizeDynamic(DequantizeDynamic)) => {
            (QuantizeKernel::DequantizeDynamic, GridSize::Threads(y.cols() as u64))
        }
        StepOp::Op(Op::ChooseQParams(ChooseQParams { qscheme, range, eps })) => {
            return Ok(Some(choose_qparams(planning, fused, *qscheme, *range, *eps)));
        }
        _ => return Ok(None),
    };
    let mut reads = vec![planning.at(A, step.inputs[0])];
    if let Some(&qparams) = step.inputs.get(1) {
        params.qparams_stride = qparams_stride(planning.value(qparams));
        reads.push(planning.at(QPARAMS, qparams));
    }
    let dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, step.output)])]))
}

fn params_of(value: &Value) -> QuantizeParams {
    let (rows_factor, cols) = (value.rows_factor() as u32, value.cols() as u32);
    QuantizeParams { rows_factor, cols, row_words: row_words(value.cols()) as u32, ..QuantizeParams::default() }
}

fn set_static(params: &mut QuantizeParams, qparams: QParams) {
    (params.scale, params.inv_scale, params.zero_point) = (qparams.scale(), qparams.inv_scale(), qparams.zero_point());
}

fn set_range(params: &mut QuantizeParams, range: QuantRange) {
    (params.quant_min, params.quant_max) = (range.quant_min(), range.quant_max());
}

/// The ranges of the rows and then the qparams. If a quantization is fused, one dispatch computes the qparams of each row and quantizes;
/// for qparams of the whole value, a dispatch finds ranges, and another does the rest.
fn choose_qparams(
    planning: &Planning<'_>,
    fused: &FusedStep,
    qscheme: QScheme,
    range: QuantRange,
    eps: f32,
) -> Vec<PlannedDispatch> {
    let step = fused.step(planning.program);
    let x = planning.input(fused, 0);
    let mut params = params_of(x);
    set_range(&mut params, range);
    let [range_groups, groups] = groups_per_tensor(planning.config);
    (params.eps, params.range_groups) = (eps, range_groups);
    params.rule = if qscheme.is_per_token() { 2 } else { qscheme.is_symmetric().into() };
    let single = |kernel, size| PlannedDispatch::single(planning, &step.name, x, kernel, &params, size);
    let read = planning.at(A, step.inputs[0]);
    let of_rows = two_floats_a_row(x, planning.max_rows);
    let is_grouped = fused.quantize.is_some() && !qscheme.is_per_token();
    let bytes = Some(if is_grouped { of_rows.clamp(8, u64::from(range_groups) * 8) } else { of_rows });
    let ranges = |binding| Bound { binding, operand: Operand::Temporary(step.output), bytes };
    if is_grouped {
        let writes = [planning.at(Y, fused.last_step(planning.program).output), planning.at(QPARAMS, step.output)];
        let [range, quantize] = [QuantizeKernel::GroupRange, QuantizeKernel::QuantizePerTensor];
        let [range_grid, grid] = [range_groups, groups].map(|groups| GridSize::AtMost(groups.into()));
        return vec![
            single(range.for_rows(x.cols()), range_grid).binding([read], [ranges(Y)]),
            single(quantize.for_rows(x.cols()), grid).binding([read, ranges(RANGES)], writes),
        ];
    }
    if fused.quantize.is_some() {
        let writes = [planning.at(Y, fused.last_step(planning.program).output), planning.at(QPARAMS, step.output)];
        let kernel = QuantizeKernel::QuantizePerToken.for_rows(x.cols());
        return vec![single(kernel, GridSize::Workgroups).binding([read], writes)];
    }
    let (kernel, size) = if qscheme.is_per_token() {
        (QuantizeKernel::ChoosePerToken, GridSize::Threads(1))
    } else {
        (QuantizeKernel::ChoosePerTensor, GridSize::Single)
    };
    vec![
        single(QuantizeKernel::Range.for_rows(x.cols()), GridSize::Workgroups).binding([read], [ranges(Y)]),
        single(kernel, size).binding([ranges(A)], [planning.at(Y, step.output)]),
    ]
}

/// Static and dynamic quantization.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    known_static(case);
    // They read each other's results, so they are tested together.
    use QuantizeKernel as K;
    let of_any = [K::ChoosePerTensor, K::ChoosePerToken, K::DequantizeDynamic];
    let of_rows = [K::QuantizeDynamic, K::QuantizePerToken, K::Range, K::GroupRange, K::QuantizePerTensor];
    let needs = |case: &CaseBuilder<'_>, cols| of_rows.into_iter().any(|kernel| case.needs(kernel.for_rows(cols)));
    if needs(case, COLS) || of_any.into_iter().any(|kernel| case.needs(kernel)) {
        case.always(|case| known_dynamic(case, COLS));
    }
    if needs(case, LONG_COLS) {
        case.always(|case| known_dynamic(case, LONG_COLS));
    }
}

/// Ties, and values that saturate or are not finite, in rows with and without padding.
fn known_static(case: &mut CaseBuilder<'_>) {
    const X: [f32; 16] = [
        0.0,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        0.499_999_97,
        1e-40,
        1e9,
        -1e9,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        127.5,
        -125.5,
        -3.0,
    ];
    let Ok(qparams) = QParams::new(1.0, -3) else { return };
    let Ok(tenth) = QParams::new(0.3, 7) else { return };
    use QuantizeKernel as K;
    for (cols, quantize, divide, dequantize) in [
        (13, K::Quantize, K::QuantizeDivide, K::Dequantize),
        (16, K::QuantizeVec4, K::QuantizeDivideVec4, K::DequantizeVec4),
    ] {
        let shape = [ROWS, cols];
        let x = case.input(tensor(&shape, |i| X[i % 16]));
        // Steps and halves of 0.3, where a division and a product differ, beside the others.
        let tie = |i: usize| if i.is_multiple_of(3) { X[i / 3 % 16] } else { (i as f32 - 40.0) * 0.15 };
        let ties = case.input(tensor(&shape, tie));
        for (kernel, rule) in [(quantize, QuantizeRule::Multiply), (divide, QuantizeRule::Divide)] {
            for (x, value, qparams) in
                [(x, &(|i: usize| X[i % 16]) as &dyn Fn(usize) -> f32, qparams), (ties, &tie, tenth)]
            {
                let op = Quantize { rule, ..Quantize::new(qparams, QuantRange::INT8) };
                let quantized = |i: usize| rule.quantize(value(i), qparams, -128, 127) as i8;
                case.output(kernel, op, &[x], tensor(&shape, quantized));
            }
        }
        let q = case.input(tensor(&shape, |i| int8(i, 0)));
        case.computed(dequantize, Dequantize { qparams: qparams.into() }, &[q]);
    }
}

/// Columns of rows: more than a workgroup has threads, and more than four times as many as a workgroup of long rows has.
const COLS: usize = 326;
const LONG_COLS: usize = 1390;

/// A row of everyday numbers, a row of the largest, a row of zeros.
fn dynamic_value(i: usize, cols: usize) -> f32 {
    match i / cols {
        0 => f32::from(int8(i, 0)) / 7.0,
        1 => f32::from(int8(i, 1)) * -1e36,
        _ => 0.0,
    }
}

fn known_dynamic(case: &mut CaseBuilder<'_>, cols: usize) {
    let range = QuantRange::INT8;
    let x = case.input(tensor(&[ROWS, cols], |i| dynamic_value(i, cols)));
    let choose = |qscheme| ChooseQParams { qscheme, range, eps: numerics::EPS };
    // The qparams and quantized values of each row in one dispatch, and the qparams alone.
    let per_token = choose(QScheme::per_token_affine());
    let qparams = case.computed(QuantizeKernel::QuantizePerToken.for_rows(cols), per_token, &[x]);
    let q = case.computed(QuantizeKernel::QuantizePerToken.for_rows(cols), QuantizeDynamic { range }, &[x, qparams]);
    case.computed(QuantizeKernel::ChoosePerToken, per_token, &[x]);
    case.computed(QuantizeKernel::DequantizeDynamic, DequantizeDynamic, &[q, qparams]);
    // Other ranges than those that the kernels above have left in memory.
    let smaller = case.input(tensor(&[ROWS, cols], |i| dynamic_value(i, cols) * 0.375));
    // More rows than workgroups, whose numbers do not divide the elements, of which the last is the largest.
    let last = ROWS * 401 * 7 - 1;
    let many = case.input(tensor(&[ROWS, 401, 7], |i| if i == last { 33.0 } else { everyday(i) }));
    // The qparams of all rows, with their quantized values and alone; and given qparams.
    for qscheme in [QScheme::per_tensor_affine(), QScheme::per_tensor_symmetric()] {
        let kernel = QuantizeKernel::QuantizePerTensor.for_rows(cols);
        let qparams = case.computed(kernel, choose(qscheme), &[smaller]);
        case.computed(kernel, QuantizeDynamic { range }, &[smaller, qparams]);
        if cols == COLS {
            let qparams = case.computed(kernel, choose(qscheme), &[many]);
            case.computed(kernel, QuantizeDynamic { range }, &[many, qparams]);
        }
        let qparams = case.computed(QuantizeKernel::ChoosePerTensor, choose(qscheme), &[x]);
        let narrow = QuantRange::new(-7, 7).expect(CHECKED);
        case.computed(QuantizeKernel::QuantizeDynamic.for_rows(cols), QuantizeDynamic { range: narrow }, &[x, qparams]);
    }
}
