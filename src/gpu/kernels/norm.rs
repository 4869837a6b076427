//! Kernels that normalize: layer norm and RMS norm, and softmax.

pub(crate) mod softmax;

use strum::IntoEnumIterator;

use super::case::{CaseBuilder, ROWS, any_float, everyday, special, tensor};
use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, flags};
use super::layout::row_words;
use super::quantize::fused::{StaticQuantize, quantize_bits};
use super::wgsl::shader;
use crate::gpu::device::shader::{Chosen, FIRST_STORAGE, Piece, Shader, storage, wgsl_struct};
use crate::numerics::{self, QuantizeRule};
use crate::ops::{Add, ChooseQParams, LayerNorm, Op, Quantize, QuantizeDynamic, RmsNorm, Softmax};
use crate::program::{Step, StepOp};
use crate::values::slices::CHECKED;
use crate::values::{QParams, QScheme, QuantRange};

wgsl_struct! {
    /// `NormParams` of `norm/params.wgsl`.
    NormParams {
        rows_factor: u32, length: u32, stride: u32, row_words: u32, eps: f32, factor: f32, zero_point: i32,
        lo: f32, hi: f32, qparams_eps: f32, zero: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const WEIGHT: u32 = 5;
const BIAS: u32 = 6;
const ADDEND: u32 = 7;
const SUM: u32 = 8;
const QUANTIZED: u32 = 9;
const LINE_QPARAMS: u32 = 10;

/// The shaders of norms that write one type of result, without and with subgroup operations.
macro_rules! norm_shaders {
    ($name:literal, $overrides:expr, $storage:expr, [$($file:literal),*]) => {
        [
            norm_shaders!($name, false, [THREAD, WORKGROUP_REDUCE], $overrides, $storage, [$($file),*]),
            norm_shaders!(concat!($name, "_subgroup"), true, [SUBGROUP_REDUCE], $overrides, $storage, [$($file),*]),
        ]
    };
    ($name:expr, $subgroups:literal, [$($threads:ident),*], $overrides:expr, $storage:expr, [$($file:literal),*]) => {
        Shader {
            overrides: $overrides,
            subgroups: $subgroups,
            ..shader! {
                $name, NormParams, [], $storage,
                [$($threads,)* WORKGROUP_SUM, GRID, FLOAT, FLOATS, QUANTIZE, QPARAMS], ["norm/params", "norm/layer_norm", $($file),*]
            }
        }
    };
}

static TO_F32: [Shader; 2] = norm_shaders!(
    "layer_norm",
    &["THREADS", "HELD", "CENTER", "ADD", "KEEP_SUM"],
    storage! { a: A, y: Y, weight: WEIGHT, bias: BIAS, addend: ADDEND, sum: SUM },
    ["norm/to_f32"]
);
static TO_I8: [Shader; 2] = norm_shaders!(
    "layer_norm_i8",
    &["THREADS", "HELD", "CENTER", "ADD", "KEEP_SUM", "KEEP"],
    storage! { a: A, y: Y, weight: WEIGHT, bias: BIAS, addend: ADDEND, sum: SUM, quantized: QUANTIZED },
    ["norm/store_i8", "norm/to_i8"]
);
static TO_I8_PER_TOKEN: [Shader; 2] = norm_shaders!(
    "layer_norm_i8_per_token",
    &["THREADS", "HELD", "CENTER", "ADD", "KEEP_SUM", "KEEP"],
    storage! { a: A, y: Y, weight: WEIGHT, bias: BIAS, addend: ADDEND, sum: SUM, quantized: QUANTIZED, qparams: LINE_QPARAMS },
    ["norm/store_i8", "norm/to_i8_per_token"]
);

/// The elements of a line that workgroup memory holds, so that a kernel reads each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum Held {
    /// Up to 1,024.
    Short,
    /// Up to 4,096, where a device has the memory.
    Long,
    /// None: lines may be of any length.
    Nothing,
}

impl Held {
    /// What suits lines of `length` elements on a device.
    fn of(length: usize, result: NormResult, limits: &wgpu::Limits) -> Self {
        // The elements, 64 sums, and where there are qparams, those and the ranges of 256 threads.
        let others = if result == NormResult::PerToken { 64 + 3 + 2 * 256 } else { 64 };
        let long_bytes = 4 * (Self::Long.elements() + others);
        match length {
            ..=1024 => Self::Short,
            1025..=4096 if long_bytes <= limits.max_compute_workgroup_storage_size => Self::Long,
            _ => Self::Nothing,
        }
    }

    fn elements(self) -> u32 {
        match self {
            Self::Short => 1024,
            Self::Long => 4096,
            Self::Nothing => 1,
        }
    }

    /// The threads of a norm's workgroup.
    fn threads(self, options: KernelOptions) -> u32 {
        if options.wide_rows && self != Self::Short { 256 } else { 64 }
    }
}

/// What a norm writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumIter)]
pub(crate) enum NormResult {
    Floats,
    /// int8 values with static qparams.
    Static,
    /// int8 values with the qparams of each line, and those.
    PerToken,
}

/// A kernel of layer norms and RMS norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NormKernel {
    held: Held,
    /// Whether the mean is subtracted and a bias added. Without both it is an RMS norm.
    center: bool,
    /// Whether a value is added first.
    add: bool,
    /// Whether that sum is written too.
    keep_sum: bool,
    result: NormResult,
    /// How static qparams quantize.
    rule: QuantizeRule,
    /// Whether floats are written beside int8 values.
    keep: bool,
}

impl NormKernel {
    /// A kernel for lines of each length and each result, and one that divides.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        let rule = QuantizeRule::Multiply;
        let of = move |held, result| Self { held, center: true, add: true, keep_sum: true, result, rule, keep: false };
        let divides = Self { rule: QuantizeRule::Divide, ..of(Held::Short, NormResult::Static) };
        Held::iter().flat_map(move |held| NormResult::iter().map(move |result| of(held, result))).chain([divides])
    }
}

impl Kernel for NormKernel {
    fn shader(self, options: KernelOptions) -> &'static Shader {
        let shaders = match self.result {
            NormResult::Floats => &TO_F32,
            NormResult::Static => &TO_I8,
            NormResult::PerToken => &TO_I8_PER_TOKEN,
        };
        &shaders[usize::from(options.subgroups)]
    }

    fn entry(self) -> &'static str {
        match self.result {
            NormResult::Floats => "layer_norm_f32_f32",
            NormResult::Static => "layer_norm_f32_i8",
            NormResult::PerToken => "layer_norm_per_token_f32_i8",
        }
    }

    fn chosen(self, _options: KernelOptions) -> Chosen {
        let piece = if self.result == NormResult::Floats { Piece::NONE } else { quantize_bits(self.rule) };
        piece.alone()
    }

    fn overrides(self, options: KernelOptions) -> Vec<(&'static str, u32)> {
        let Self { held, center, add, keep_sum, keep, .. } = self;
        let own = [("CENTER", center), ("ADD", add), ("KEEP_SUM", keep_sum), ("KEEP", keep)];
        [vec![("THREADS", held.threads(options)), ("HELD", held.elements())], flags(&own)].concat()
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        true
    }
}

/// Whether a step can add a value first and quantize its result.
pub(crate) fn adds_and_quantizes(op: &StepOp) -> bool {
    matches!(op, StepOp::Op(Op::LayerNorm(_) | Op::RmsNorm(_)))
}

/// The dispatch of a softmax or a norm.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep) -> Planned {
    let dispatch = match fused.step(planning.program).op {
        StepOp::Op(Op::Softmax(_)) if fused.scale.is_some() || fused.mask.is_some() => {
            softmax::scaled_softmax(planning, fused)?
        }
        StepOp::Op(Op::Softmax(Softmax { axis })) => softmax::softmax(planning, fused, axis),
        StepOp::Op(Op::LayerNorm(LayerNorm { eps })) => layer_norm(planning, fused, eps, true),
        StepOp::Op(Op::RmsNorm(RmsNorm { eps })) => layer_norm(planning, fused, eps, false),
        _ => return Ok(None),
    };
    Ok(Some(vec![dispatch]))
}

fn layer_norm(planning: &Planning<'_>, fused: &FusedStep, eps: f32, center: bool) -> PlannedDispatch {
    let program = planning.program;
    let step = fused.step(program);
    let length = planning.input(fused, 1).shape.fixed_dims().iter().product();
    let mut params = NormParams { stride: 1, eps, ..NormParams::default() };
    let quantize = fused.quantize.map(|quantize| &program.steps()[quantize]);
    let choose = fused.choose.map(|choose| &program.steps()[choose]);
    let mut rule = QuantizeRule::Multiply;
    let result = match quantize.map(|quantize| &quantize.op) {
        Some(StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range }))) => {
            [params.lo, params.hi] = [range.quant_min(), range.quant_max()].map(|q| q as f32);
            NormResult::PerToken
        }
        Some(op) => {
            let own = StaticQuantize::of(op).unwrap_or_else(|| unreachable!("{} does not quantize", op.name()));
            (params.factor, params.zero_point, params.lo, params.hi) = (own.factor, own.zero_point, own.lo, own.hi);
            rule = own.rule;
            NormResult::Static
        }
        None => NormResult::Floats,
    };
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
    writes.extend(quantize.map(|quantize| planning.at(QUANTIZED, quantize.output)));
    if let Some(Step { op: StepOp::Op(Op::ChooseQParams(ChooseQParams { eps, .. })), output, .. }) = choose {
        params.qparams_eps = *eps;
        writes.push(planning.at(LINE_QPARAMS, *output));
    }
    let (add, keep) = (fused.add_before.is_some(), quantize.is_some() && fused.keeps_norm);
    writes.extend((keep || quantize.is_none()).then(|| planning.at(Y, step.output)));
    let held = Held::of(length, result, &planning.config.limits);
    let kernel = NormKernel { held, center, add, keep_sum: add && fused.keeps_sum, result, rule, keep };
    lines(planning, fused, kernel, GridSize::Workgroups, params, length).binding(reads, writes)
}

/// The dispatch of a kernel on lines of `length` elements, with a grid of so much for each line.
fn lines(
    planning: &Planning<'_>,
    fused: &FusedStep,
    kernel: impl Kernel,
    grid: GridSize,
    params: NormParams,
    length: usize,
) -> PlannedDispatch {
    let step = fused.step(planning.program);
    let y = planning.value(step.output);
    let lines = y.rows_factor() * y.cols() / length;
    let (rows_factor, length, row_words) = (lines as u32, length as u32, row_words(y.cols()) as u32);
    let params = NormParams { rows_factor, length, row_words, ..params };
    let mut dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, grid);
    dispatch.rows.factor = lines as u64;
    dispatch
}

/// Lines of a row of the cases.
const LINES: usize = 9;

/// Element `i` of a line of everyday, large, tiny, equal, partly masked, wholly masked, special or random numbers.
fn line_value(line: usize, i: usize) -> f32 {
    match line {
        0 => everyday(i),
        1 => everyday(i) * 1e16,
        2 => everyday(i) * 1e-29,
        3 => 3.3,
        4 if !i.is_multiple_of(3) => f32::NEG_INFINITY,
        4 => everyday(i),
        5 => f32::NEG_INFINITY,
        6 => f32::MIN,
        7 => special(i),
        _ => any_float(i),
    }
}

impl Held {
    /// The length of the lines that test it: no multiple of the threads of a workgroup.
    fn known_length(self) -> usize {
        match self {
            Self::Short => 326,
            Self::Long => 1390,
            Self::Nothing => 4210,
        }
    }

    /// The kinds of lines that test it: all, except where another kernel differs in the length only.
    fn known_lines(self) -> usize {
        if self == Self::Long { 2 } else { LINES }
    }
}

/// Softmax along two axes, and norms with everything that is fused with them.
pub(crate) fn known_answer(case: &mut CaseBuilder<'_>) {
    softmax::known_answer(case);
    let all = Held::iter().flat_map(|held| NormResult::iter().map(move |result| (held, result)));
    for (held, result) in all {
        if Held::of(held.known_length(), result, &case.config.limits) != held {
            continue;
        }
        for (center, (add, keep_sum)) in [true, false]
            .into_iter()
            .flat_map(|center| [(false, false), (true, false), (true, true)].map(|sum| (center, sum)))
        {
            let rules = [QuantizeRule::Multiply, QuantizeRule::Divide].into_iter();
            let rules = rules.filter(|rule| result == NormResult::Static || *rule == QuantizeRule::Multiply);
            let keeps = [false, true].into_iter().filter(|keep| !keep || result != NormResult::Floats);
            for (rule, keep) in rules.flat_map(|rule| keeps.clone().map(move |keep| (rule, keep))) {
                let kernel = NormKernel { held, center, add, keep_sum, result, rule, keep };
                // Without a list of kernels, some stand for all long lines.
                let stands_for_others = held == Held::Short || center && keep_sum || !center && !add;
                if (stands_for_others || !case.tests_all()) && case.needs(kernel) {
                    known_norm(case, kernel);
                }
            }
        }
    }
}

/// A norm of everyday, large, tiny and equal numbers; of all kinds of lines if its result is not quantized.
fn known_norm(case: &mut CaseBuilder<'_>, kernel: NormKernel) {
    let NormKernel { held, center, add, keep_sum, result, rule, keep } = kernel;
    let (length, kinds) = (held.known_length(), held.known_lines());
    let kinds = if result == NormResult::Floats { kinds } else { kinds.min(4) };
    let shape = [ROWS, kinds, length];
    let mut x = case.input(tensor(&shape, |i| line_value(i / length % kinds, i)));
    if add {
        let addend = case.input(tensor(&shape, |i| everyday(i + 7)));
        x = if keep_sum { case.computed(kernel, Add, &[x, addend]) } else { case.intermediate(Add, &[x, addend]) };
    }
    let [weight, bias] = [1, 2].map(|seed| case.constant(tensor(&[length], |i| everyday(i + seed * 100))));
    let op: Op = if center { LayerNorm { eps: 1e-5 }.into() } else { RmsNorm { eps: 1e-5 }.into() };
    let inputs = if center { vec![x, weight, bias] } else { vec![x, weight] };
    if result == NormResult::Floats {
        case.computed(kernel, op, &inputs);
        return;
    }
    let y = if keep { case.computed(kernel, op, &inputs) } else { case.intermediate(op, &inputs) };
    let range = QuantRange::INT8;
    if result == NormResult::Static {
        // Other values than those that the kernel of the other rule may have left in memory.
        let (scale, zero_point) = if rule == QuantizeRule::Divide { (0.3, 7) } else { (0.1, 3) };
        let quantize = Quantize::new(QParams::new(scale, zero_point).expect(CHECKED), range);
        case.computed(kernel, Quantize { rule, ..quantize }, &[y]);
    } else {
        let choose = ChooseQParams { qscheme: QScheme::per_token_affine(), range, eps: numerics::EPS };
        let qparams = case.computed(kernel, choose, &[y]);
        case.computed(kernel, QuantizeDynamic { range }, &[y, qparams]);
    }
}
