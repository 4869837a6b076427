//! Fusion: what follows a product element by element or row by row runs on each part of its result while that is in cache; and a float
//! convolution collects the patches of some pixels, an int8 layer quantizes some rows, just before it multiplies them.

use super::broadcast::Operand;
use super::task_size::task_len;
use crate::numerics::float::{self, rows};
use crate::numerics::{UnaryOp, vectorized};
use crate::ops::{Clamp, LayerNorm, Op, QuantizeDynamic, RmsNorm, Softmax, Unary, Unfold};
use crate::parallel::*;
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, ValueId};
use crate::values::slices::{CHECKED, f32s};
use crate::values::{DType, QuantRange, Tensor};

/// Which steps run with a product before or after them.
#[derive(Debug)]
pub(super) struct Fusions {
    /// For each step, the steps that run with it, in order.
    pub(super) after: Vec<Vec<usize>>,
    /// For each step, the step that computes some rows of its first input just before it multiplies them: an `unfold` or a
    /// `quantize_dynamic` without other readers.
    pub(super) before: Vec<Option<usize>>,
    /// For each step, whether it runs with another one.
    pub(super) is_fused: Vec<bool>,
}

impl Fusions {
    /// Finds the chains of a program: each step is the only reader of the one before it, and its other operands are there when the product
    /// runs. Values of `is_view` are not.
    pub(super) fn of(program: &Program, is_view: impl Fn(ValueId) -> bool) -> Self {
        let steps = program.steps();
        let mut readers = vec![Vec::new(); program.values().len()];
        let mut made_at = vec![None; program.values().len()];
        for (at, step) in steps.iter().enumerate() {
            step.inputs.iter().for_each(|id| readers[id.index()].push(at));
            made_at[step.output.index()] = Some(at);
        }
        program.outputs().iter().for_each(|id| readers[id.index()].push(steps.len()));
        let (mut after, mut is_fused) = (vec![Vec::new(); steps.len()], vec![false; steps.len()]);
        for (at, product) in steps.iter().enumerate() {
            let Some(whole_rows) = gives_whole_rows(program, product) else { continue };
            let shape = &program.value(product.output).shape;
            let mut last = product.output;
            while let [next] = readers[last.index()][..]
                && let Some(step) = steps.get(next)
                && can_follow(program, step, last, whole_rows)
                && program.value(step.output).shape == *shape
                && step
                    .inputs
                    .iter()
                    .all(|&id| id == last || made_at[id.index()].is_none_or(|made_at| made_at < at) && !is_view(id))
            {
                after[at].push(next);
                is_fused[next] = true;
                last = step.output;
            }
        }
        let mut before = vec![None; steps.len()];
        for (at, step) in steps.iter().enumerate() {
            if let [next] = readers[step.output.index()][..]
                && let Some(product) = steps.get(next)
                && product.inputs[0] == step.output
                && can_precede(program, step, product)
            {
                before[next] = Some(at);
                is_fused[at] = true;
            }
        }
        Self { after, before, is_fused }
    }
}

/// Whether a step hands over whole rows of floats when others run with it, or only parts of rows; `None` if none does.
fn gives_whole_rows(program: &Program, step: &Step) -> Option<bool> {
    match &step.op {
        // Without a packed weight, the library has no parts.
        StepOp::Op(Op::Linear(_)) if program.constant(step.inputs[1]).is_some() => Some(false),
        StepOp::QLinear(QLinear { epilogue: Epilogue::Scale { .. } | Epilogue::Dynamic { .. }, .. }) => Some(false),
        StepOp::Op(Op::MatMul(_) | Op::IntegerMatMulDynamic(_)) => Some(true),
        _ => None,
    }
}

/// Whether a step can compute some rows of what a product reads.
fn can_precede(program: &Program, step: &Step, product: &Step) -> bool {
    match (&step.op, &product.op) {
        (StepOp::Op(Op::Unfold(_)), StepOp::Op(Op::Linear(_))) => {
            program.value(step.output).value_type.dtype() == DType::F32 && program.constant(step.inputs[1]).is_some()
        }
        // The product reads the same dynamic qparams.
        (StepOp::Op(Op::QuantizeDynamic(_)), StepOp::QLinear(_)) => product.inputs[1..] == step.inputs[1..],
        _ => false,
    }
}

/// What computes some rows of the first input of a product just before it multiplies them.
pub(super) enum Before<'r> {
    /// A step that collects patches, and what pads them.
    Patches(&'r Unfold, f32),
    /// A step that quantizes with dynamic qparams.
    Quantize(QuantRange),
}

impl<'r> Before<'r> {
    /// Makes what a step does for a product. `constant` is its second input.
    pub(super) fn new(step: &'r Step, constant: Option<&Tensor>) -> Self {
        match &step.op {
            StepOp::Op(Op::Unfold(op)) => Self::Patches(op, f32s(constant.expect(CHECKED))[0]),
            StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range })) => Self::Quantize(*range),
            _ => unreachable!("it can precede a product"),
        }
    }
}

/// Whether a step can run on parts of a value.
fn can_follow(program: &Program, step: &Step, value: ValueId, whole_rows: bool) -> bool {
    let StepOp::Op(op) = &step.op else { return false };
    let rank = |id: ValueId| program.value(id).shape.rank();
    let reads = step.inputs.iter().filter(|&&id| id == value).count();
    match op {
        Op::Add(_) | Op::Mul(_) => reads == 1,
        Op::Unary(_) | Op::Clamp(_) => true,
        Op::Softmax(Softmax { axis }) => whole_rows && axis + 1 == rank(value),
        // A norm over several axes has a weight of as many.
        Op::LayerNorm(_) | Op::RmsNorm(_) => {
            whole_rows && reads == 1 && step.inputs[0] == value && rank(step.inputs[1]) == 1
        }
        _ => false,
    }
}

/// A step that can run on parts of a value: on those of a product's result, or by itself.
pub(super) enum Fused<'r> {
    Add(Operand<'r, f32>),
    Mul(Operand<'r, f32>),
    Unary(UnaryOp),
    Clamp(f32, f32),
    Softmax,
    LayerNorm(&'r [f32], &'r [f32], f32),
    RmsNorm(&'r [f32], f32),
}

impl<'r> Fused<'r> {
    /// Makes what a step does to a value of a shape. `others` are its other operands.
    pub(super) fn new(step: &Step, shape: &[usize], others: &[&'r Tensor]) -> Self {
        let StepOp::Op(op) = &step.op else { unreachable!("it can follow a product") };
        let operand = |x: &'r Tensor| Operand::new(f32s(x), x.shape(), shape);
        match *op {
            Op::Add(_) => Self::Add(operand(others[0])),
            Op::Mul(_) => Self::Mul(operand(others[0])),
            Op::Unary(Unary { op }) => Self::Unary(op),
            Op::Clamp(Clamp { min, max }) => Self::Clamp(min, max),
            Op::Softmax(_) => Self::Softmax,
            Op::LayerNorm(LayerNorm { eps }) => Self::LayerNorm(f32s(others[0]), f32s(others[1]), eps),
            Op::RmsNorm(RmsNorm { eps }) => Self::RmsNorm(f32s(others[0]), eps),
            _ => unreachable!("it can follow a product"),
        }
    }

    /// Runs on the elements of `y` from `first` on, in place. `n` is the length of a row.
    #[expect(
        clippy::redundant_closure,
        reason = "a function that is passed by its name may not be inlined, and has no vectors then"
    )]
    fn apply(&self, y: &mut [f32], first: usize, n: usize) {
        match *self {
            Self::Add(ref other) => other.zip(y, first, float::add),
            Self::Mul(ref other) => other.zip(y, first, float::mul),
            Self::Unary(op) => op.apply(y),
            Self::Clamp(min, max) => vectorized(
                #[inline(always)]
                || {
                    for y in y {
                        *y = y.clamp(min, max);
                    }
                },
            ),
            Self::Softmax => rows_of(
                y,
                n,
                #[inline(always)]
                |row| rows::softmax(row),
            ),
            Self::LayerNorm(weight, bias, eps) => rows_of(
                y,
                weight.len(),
                #[inline(always)]
                |row| rows::layer_norm(row, weight, bias, eps),
            ),
            Self::RmsNorm(weight, eps) => rows_of(
                y,
                weight.len(),
                #[inline(always)]
                |row| rows::rms_norm(row, weight, eps),
            ),
        }
    }
}

/// Runs steps on the elements of `y` from `first` on, in place. `n` is the length of a row.
pub(super) fn apply(fused: &[Fused<'_>], y: &mut [f32], first: usize, n: usize) {
    for fused in fused {
        fused.apply(y, first, n);
    }
}

/// Runs steps on the columns from `col` on of some rows from `row` on, in place: `y[rows, cols]`. `n` is the length of a whole row.
pub(super) fn apply_to_part(fused: &[Fused<'_>], y: &mut [f32], row: usize, [col, cols]: [usize; 2], n: usize) {
    if cols == n {
        return apply(fused, y, row * n, n);
    }
    for (at, y) in y.chunks_exact_mut(cols).enumerate() {
        apply(fused, y, (row + at) * n + col, n);
    }
}

/// Runs steps on a whole value, in parallel parts.
pub(super) fn apply_to_all(fused: &[Fused<'_>], y: &mut [f32], n: usize) {
    if !fused.is_empty() && !y.is_empty() {
        let task = task_len(y.len(), n);
        y.par_chunks_mut(task).enumerate().for_each(|(at, y)| apply(fused, y, at * task, n));
    }
}

#[inline(always)]
fn rows_of(y: &mut [f32], n: usize, run: impl Fn(&mut [f32])) {
    vectorized(
        #[inline(always)]
        || {
            for row in y.chunks_exact_mut(n.max(1)) {
                run(row);
            }
        },
    );
}
