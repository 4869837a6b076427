//! The constants of linear dispatches, and of those that handle one word at a time.

use super::general::unary_kind;
use super::layout::{BLOCK_COLS, LinearParams, TensorParams, k_vecs, row_words};
use super::model::WeightPart;
use super::pipeline::{LinearEnd, TensorKernel};
use super::plan::{Planned, PlannedKernel};
use crate::ops::{Dequantize, IntegerAdd, Op, Quantize};
use crate::program::{Epilogue, Program, QLinear, Step, StepOp, Value, ValueType};
use crate::values::Shape;

/// Parts into which K is divided, and the fewest words of 16 codes in one.
const K_PARTS: u32 = 8;
const LEAST_PART_VECS: u32 = 8;

/// What becomes of a layer's sums, and whether halves are written.
pub(super) fn linear_end(planned: &Planned, linear: &QLinear) -> (LinearEnd, bool) {
    let PlannedKernel::Linear(group) = &planned.kernel else { unreachable!("of a linear kernel") };
    let end = match (&linear.epilogue, group.function) {
        (Epilogue::Requantize { .. }, _) if group.table.is_some() => LinearEnd::Table,
        (Epilogue::Requantize { .. }, _) if group.sum.is_some() => LinearEnd::Add,
        (Epilogue::Requantize { .. }, _) => LinearEnd::Int8,
        (Epilogue::Scale { .. }, None) => LinearEnd::Float,
        (Epilogue::Scale { .. }, Some(_)) => LinearEnd::FloatUnary,
        (Epilogue::Dynamic { .. }, None) => LinearEnd::Dynamic,
        (Epilogue::Dynamic { .. }, Some(_)) => LinearEnd::DynamicUnary,
    };
    (end, group.halves)
}

/// Words of 16 codes of each part of K, where it is divided.
pub(super) fn part_vecs(linear: &QLinear) -> u32 {
    let vecs = k_vecs(linear.k) as u32;
    vecs.div_ceil(K_PARTS).max(LEAST_PART_VECS).next_multiple_of(4)
}

/// The constants of a linear dispatch. Sizes fit, as `bind` checks.
pub(super) fn linear_params(
    program: &Program,
    planned: &Planned,
    weight: &WeightPart,
    first_row: u64,
    end_row: u64,
) -> LinearParams {
    let PlannedKernel::Linear(group) = &planned.kernel else { unreachable!("of a linear kernel") };
    let step = &program.steps()[group.main];
    let StepOp::QLinear(linear) = &step.op else { unreachable!("a linear kernel executes a linear step") };
    let value = &program.values()[planned.value];
    let (zero_point, lo, hi, relu) = match linear.epilogue {
        Epilogue::Requantize { zero_point, lo, hi, .. } => (zero_point, lo - zero_point, hi - zero_point, false),
        Epilogue::Scale { relu, .. } | Epilogue::Dynamic { relu, .. } => (0, 0, 0, relu),
    };
    let one_pair = |id: &_| program.value(*id).shape == Shape::fixed(&[2]);
    let mut params = LinearParams {
        k_vecs: k_vecs(linear.k) as u32,
        n: linear.n as u32,
        row_words: row_words(value.cols()) as u32,
        rows_factor: value.rows_factor() as u32,
        first_row: u32::try_from(first_row).unwrap_or(u32::MAX),
        end_row: u32::try_from(end_row).unwrap_or(u32::MAX),
        first_quad: (weight.first_column / 4) as u32,
        quads: (weight.columns.div_ceil(BLOCK_COLS) * BLOCK_COLS / 4) as u32,
        part_vecs: part_vecs(linear),
        fraction_bits: linear.fraction_bits,
        zero_point,
        lo: lo as f32,
        hi: hi as f32,
        relu: relu.into(),
        pair_stride: step.inputs.get(1).map_or(0, |pairs| if one_pair(pairs) { 0 } else { 2 }),
        unary: group.unary(program).map_or(0, unary_kind),
        ..LinearParams::default()
    };
    if let Some((sum, StepOp::Op(Op::IntegerAdd(add)))) =
        group.sum.map(|sum| &program.steps()[sum]).map(|sum| (sum, &sum.op))
    {
        add_params(&mut params, step, sum, add);
    }
    params
}

/// Equation 8, with the layer's own codes as one operand.
fn add_params(params: &mut LinearParams, linear: &Step, sum: &Step, add: &IntegerAdd) {
    let a = (add.a_zero_point, add.multipliers.a);
    let b = (add.b_zero_point, add.multipliers.b);
    let (own, other) = if sum.inputs[0] == linear.output { (a, b) } else { (b, a) };
    (params.own_zero_point, params.own_multiplier) = own;
    (params.other_zero_point, params.other_multiplier) = other;
    params.shift = add.multipliers.shift;
    (params.sum_zero_point, params.sum_lo, params.sum_hi) = (add.qparams.zero_point(), add.lo, add.hi);
}

pub(super) fn tensor_params(
    program: &Program,
    value: &Value,
    kernel: TensorKernel,
    step: Option<usize>,
) -> TensorParams {
    let row_words = match (kernel, value.value_type) {
        (TensorKernel::Copy, ValueType::F32 | ValueType::I32) => value.cols(),
        _ => row_words(value.cols()),
    };
    let params = TensorParams {
        cols: value.cols() as u32,
        row_words: row_words as u32,
        rows_factor: value.rows_factor() as u32,
        zero_point: 0,
        factor: 1.0,
        lo: 0.0,
        hi: 0.0,
    };
    match step.map(|step| &program.steps()[step].op) {
        Some(StepOp::Op(Op::Quantize(Quantize { qparams, range }))) => {
            let qparams = qparams.per_tensor().expect("a step quantizes per tensor");
            let zero_point = qparams.zero_point();
            let [lo, hi] = [range.quant_min(), range.quant_max()].map(|code| (code - zero_point) as f32);
            TensorParams { zero_point, factor: qparams.inv_scale(), lo, hi, ..params }
        }
        Some(StepOp::Op(Op::Dequantize(Dequantize { qparams }))) => {
            let qparams = qparams.per_tensor().expect("a step dequantizes per tensor");
            TensorParams { zero_point: qparams.zero_point(), factor: qparams.scale(), ..params }
        }
        _ => params,
    }
}
