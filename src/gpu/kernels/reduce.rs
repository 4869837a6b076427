//! Kernels that reduce one axis: sums, perhaps of products and with a function that follows, and maxima.

use super::case::{CaseBuilder, ROWS, WIDE, any_float, everyday, int8, int32, special, tensor};
use super::dispatch::{Planned, PlannedDispatch, Planning};
use super::function::function;
use super::fused_step::FusedStep;
use super::grid::GridSize;
use super::kernel::{Kernel, KernelOptions, flags};
use super::strided::{Strided, axes, broadcast};
use super::wgsl::shader;
use crate::gpu::device::shader::{Chosen, FIRST_STORAGE, Piece, Shader, storage, wgsl_struct};
use crate::numerics::UnaryOp;
use crate::ops::{Clamp, Div, Max, Mul, Op, Sum, ToFloat, Unary};
use crate::program::{StepOp, ValueId, ValueType};

wgsl_struct! {
    /// `ReduceParams` of `reduce/params.wgsl`.
    ReduceParams {
        strided: Strided, length: u32, stride: u32, b_stride: u32, zero: u32, low: u32, high: u32, unused_0: u32, unused_1: u32,
    }
}

const A: u32 = FIRST_STORAGE;
const Y: u32 = 4;
const B: u32 = 5;

static SHADER: Shader = shader! {
    "reduce", ReduceParams, [Strided], storage! { a: A, y: Y },
    [THREAD, GRID, BYTES, FLOATS, STRIDED, ELEMENTS, WORDS],
    ["reduce/params", "reduce/reduce"]
};

static SUMS_SHADER: Shader = Shader {
    overrides: &["THREADS", "PRODUCT", "SQUARE", "A_INTEGER", "B_INTEGER", "MEAN"],
    ..shader! {
        "reduce_sums", ReduceParams, [Strided], storage! { a: A, y: Y, b: B },
        [THREAD, WORKGROUP_REDUCE, WORKGROUP_SUM, GRID, F16, FLOAT, FLOATS, FUNCTIONS, POINTWISE, STRIDED, ELEMENTS],
        ["reduce/params", "reduce/sums"]
    }
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReduceKernel {
    SumF32(SumKernel),
    SumI32,
    MaxF32,
    MaxI32,
    MaxI8,
}

/// A kernel of sums of floats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SumKernel {
    /// Whether it sums along the last axis, which has an order of its own (equation 11).
    is_last: bool,
    summands: Summands,
    /// Whether the operands are integers, which it casts first.
    integers: [bool; 2],
    /// Whether it divides a sum of products, along another axis than the last, by the sum of the second factors.
    is_mean: bool,
    /// The function that follows.
    function: Option<UnaryOp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Summands {
    Elements,
    Products,
    Squares,
}

impl ReduceKernel {
    /// All kernels, but those of products and sums that a cast or a function is fused with are there once.
    pub(crate) fn iter() -> impl Iterator<Item = Self> {
        use Summands::{Elements, Products, Squares};
        let sqrt = Some(UnaryOp::Sqrt);
        let sums = [
            (Elements, [false; 2], None),
            (Products, [false; 2], None),
            (Squares, [false; 2], None),
            (Elements, [true, false], None),
            (Products, [false, true], None),
            (Squares, [false; 2], sqrt),
        ];
        let of = move |is_last| {
            sums.map(|(summands, integers, function)| {
                Self::SumF32(SumKernel { is_last, summands, integers, is_mean: false, function })
            })
        };
        let mean =
            SumKernel { is_last: false, summands: Products, integers: [false, true], is_mean: true, function: None };
        let others = [Self::SumF32(mean), Self::SumI32, Self::MaxF32, Self::MaxI32, Self::MaxI8];
        [false, true].into_iter().flat_map(of).chain(others)
    }
}

impl Kernel for ReduceKernel {
    fn shader(self, _options: KernelOptions) -> &'static Shader {
        if matches!(self, Self::SumF32(_)) { &SUMS_SHADER } else { &SHADER }
    }

    fn entry(self) -> &'static str {
        match self {
            Self::SumF32(SumKernel { is_last: false, .. }) => "sum_f32_f32",
            Self::SumF32(SumKernel { is_last: true, .. }) => "sum_rows_f32_f32",
            Self::SumI32 => "sum_i32_i32",
            Self::MaxF32 => "max_f32_f32",
            Self::MaxI32 => "max_i32_i32",
            Self::MaxI8 => "max_i8_i8",
        }
    }

    fn chosen(self, _options: KernelOptions) -> Chosen {
        match self {
            Self::SumF32(sum) => function(sum.function).alone(),
            _ => Piece::NONE.alone(),
        }
    }

    fn overrides(self, _options: KernelOptions) -> Vec<(&'static str, u32)> {
        let Self::SumF32(SumKernel { summands, integers: [a, b], is_mean, .. }) = self else { return Vec::new() };
        let (products, squares) = (summands == Summands::Products, summands == Summands::Squares);
        flags(&[("PRODUCT", products), ("SQUARE", squares), ("A_INTEGER", a), ("B_INTEGER", b), ("MEAN", is_mean)])
    }

    fn promises_bits(self) -> bool {
        true
    }

    fn may_be_near(self) -> bool {
        matches!(self, Self::SumF32(_))
    }
}

/// The dispatch of a reduction, perhaps of products.
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
    let (x, y) = (planning.input(fused, 0), planning.output(fused));
    let is_last = axis + 1 == x.shape.rank();
    let product = fused.product.map(|product| &planning.program.steps()[product]);
    let mut operands = product.map_or_else(|| vec![step.inputs[0]], |product| product.inputs.clone());
    operands.dedup();
    let summands = match (product, operands.len()) {
        (None, _) => Summands::Elements,
        (Some(_), 1) => Summands::Squares,
        (Some(_), _) => Summands::Products,
    };
    let mut casts = fused.casts;
    // The weights of a mean come second. The order of factors changes no product.
    if fused.mean.is_some_and(|mean| planning.program.steps()[mean.total].inputs[0] == operands[0]) {
        operands.reverse();
        casts.reverse();
    }
    // The operands of casts in place of their results.
    for (operand, cast) in operands.iter_mut().zip(casts) {
        *operand = cast.map_or(*operand, |cast| planning.program.steps()[cast].inputs[0]);
    }
    let (integers, function) = (casts.map(|cast| cast.is_some()), fused.unary_op(planning.program));
    // A square has one operand.
    let integers = if operands.len() == 1 { [integers[0], false] } else { integers };
    let kernel = match (is_sum, y.value_type) {
        (true, ValueType::I32) => ReduceKernel::SumI32,
        (true, _) => {
            let is_mean = fused.mean.is_some();
            ReduceKernel::SumF32(SumKernel { is_last, summands, integers, is_mean, function })
        }
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
    let clamp = fused.mean.and_then(|mean| mean.clamp).map(|clamp| &planning.program.steps()[clamp].op);
    let [low, high] = match clamp {
        Some(StepOp::Op(Op::Clamp(Clamp { min, max }))) => [*min, *max],
        _ => [f32::NEG_INFINITY, f32::INFINITY],
    }
    .map(f32::to_bits);
    let params = ReduceParams { strided, length, stride, b_stride, low, high, ..ReduceParams::default() };
    let size = if is_row_sum { GridSize::Workgroups } else { GridSize::Threads(strided.row_threads.into()) };
    let mut dispatch = PlannedDispatch::single(planning, &step.name, y, kernel, &params, size);
    if is_row_sum {
        dispatch.rows.factor = strided.rows_factor.into();
    }
    let reads = operands.iter().zip([A, B]).map(|(&id, binding)| planning.at(binding, id));
    Ok(Some(vec![dispatch.binding(reads, [planning.at(Y, fused.last_step(planning.program).output)])]))
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
    let functions = UnaryOp::ALL.iter().map(|&op| Some(op)).chain([None]);
    for function in functions {
        for (is_last, summands) in [false, true]
            .into_iter()
            .flat_map(|is_last| [Summands::Elements, Summands::Products, Summands::Squares].map(|of| (is_last, of)))
        {
            for (integers, is_mean) in [[false; 2], [true, false], [false, true], [true; 2]]
                .into_iter()
                .flat_map(|integers| [false, true].map(|is_mean| (integers, is_mean)))
            {
                let kernel = SumKernel { is_last, summands, integers, is_mean, function };
                // No plan has such a kernel.
                if is_mean && (is_last || summands != Summands::Products || function.is_some()) {
                    continue;
                }
                // Without a list of kernels, some stand for all.
                let stands_for_others = ReduceKernel::iter().any(|other| other == ReduceKernel::SumF32(kernel));
                let has_them = summands == Summands::Products || !integers[1];
                let is_needed = if case.tests_all() { stands_for_others } else { has_them };
                if is_needed && case.needs(ReduceKernel::SumF32(kernel)) {
                    known_sums(case, kernel);
                }
            }
        }
    }
}

/// Sums of everyday numbers, which differ with the order, and of any numbers.
fn known_sums(case: &mut CaseBuilder<'_>, sum: SumKernel) {
    let SumKernel { is_last, summands, integers, is_mean, function } = sum;
    let kernel = ReduceKernel::SumF32(sum);
    for f in [everyday, any_float] {
        let mut operand = |shape: &[usize], f: &dyn Fn(usize) -> f32, is_integer: bool| -> ValueId {
            if !is_integer {
                return case.input(tensor(shape, f));
            }
            let x = case.input(tensor(shape, int32));
            case.intermediate(ToFloat, &[x])
        };
        let x = operand(&[ROWS, 70, 150], &f, integers[usize::from(summands == Summands::Products)]);
        let column = match summands {
            Summands::Products => operand(&[ROWS, 70, 1], &|i| f(i * 3 + 2), integers[0]),
            Summands::Elements | Summands::Squares => x,
        };
        let summand = if summands == Summands::Elements { x } else { case.intermediate(Mul, &[column, x]) };
        let op = Sum { axis: if is_last { 2 } else { 1 }, checked: false };
        if is_mean {
            let sum = case.intermediate(op, &[summand]);
            let total = case.intermediate(op, &[column]);
            let total = case.intermediate(Clamp { min: -20.5, max: 1e9 }, &[total]);
            case.computed(kernel, Div, &[sum, total]);
            continue;
        }
        match function {
            None => case.computed(kernel, op, &[summand]),
            Some(function) => {
                let sum = case.intermediate(op, &[summand]);
                case.computed(kernel, Unary { op: function }, &[sum])
            }
        };
    }
}
