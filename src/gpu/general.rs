//! The constants of the kernels that take any shapes.

use super::axes::{Axis, axes, broadcast, set_axes, transposed};
use super::error::GpuError;
use super::fuse::Group;
use super::layout::{OpParams, row_words};
use super::pipeline::GeneralKernel;
use crate::numerics::{Int32Op, UnaryOp};
use crate::ops::{
    Add, Binary, ChooseQParams, Clamp, DequantizeDynamic, Div, Embedding, Int32, IntegerMatMulDynamic, LayerNorm,
    Linear, Mask, MatMul, Max, Mul, Op, Quantize, QuantizeDynamic, Slice, Softmax, Sum, ToFloat, ToInteger, Transpose,
    Unary,
};
use crate::program::{Epilogue, Program, Step, StepOp, Value, ValueType};
use crate::values::Shape;

/// Rows and columns of a matmul's tile.
pub(super) const TILE: u64 = 64;

/// How many threads or groups a dispatch needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// So many threads for each row.
    Threads(u64),
    /// One group for each row.
    Groups,
    /// One group in all.
    Once,
    /// Tiles of [`TILE`] rows and columns; of matrices of `m` rows, or of one matrix with all rows if that is 0.
    Tiles { m: u64, n: u64 },
}

impl Size {
    /// Tiles along the rows, for `rows` of them: of one matrix with all rows, or of a stack of matrices. 0 of other sizes.
    pub(super) fn row_tiles(self, rows: u64) -> u64 {
        match self {
            Self::Tiles { m, .. } => rows.checked_div(m).map_or(rows.div_ceil(TILE), |stack| stack * m.div_ceil(TILE)),
            _ => 0,
        }
    }
}

/// One dispatch of a general kernel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct General {
    pub(super) kernel: GeneralKernel,
    pub(super) params: OpParams,
    /// Rows of work for each row of the batch, or in all.
    pub(super) rows_factor: usize,
    pub(super) batched: bool,
    pub(super) size: Size,
}

/// Everything of a dispatch that follows from its result's shape.
fn over(value: &Value, kernel: &'static str, size: Size) -> General {
    let params = OpParams {
        rows_factor: value.rows_factor() as u32,
        cols: value.cols() as u32,
        row_words: row_words(value.cols()) as u32,
        ..OpParams::default()
    };
    let (kernel, batched) = (GeneralKernel::new(kernel), value.shape.is_batched());
    General { kernel, params, rows_factor: value.rows_factor(), batched, size }
}

/// A kernel on each element, whose inputs are broadcast or walked through in another order.
fn elementwise(
    step: &Step,
    y: &Value,
    kernel: &'static str,
    a_strides: &[usize],
    b_strides: &[usize],
) -> Result<General, GpuError> {
    let result = axes(y);
    let last = result.len() - 1;
    let words = y.cols().div_ceil(4);
    let threads = if y.value_type == ValueType::I8 { words } else { y.cols() };
    let mut general = over(y, kernel, Size::Threads(threads as u64));
    let params = &mut general.params;
    (params.row_words, params.a_col, params.b_col) = (words as u32, a_strides[last] as u32, b_strides[last] as u32);
    let lengths: Vec<Option<usize>> = result[..last].iter().map(|axis| axis.length).collect();
    let y_strides: Vec<usize> = result.iter().map(|axis| axis.stride).collect();
    set_axes(&step.name, params, &lengths, [&a_strides[..last], &b_strides[..last], &y_strides[..last]])?;
    Ok(general)
}

/// The kernel of single elements that `flat` names, if all operands lie alike, or the second repeats: what is at the end of a
/// value's axes is at the end of its memory.
fn flat(program: &Program, step: &Step, flat: &'static str) -> Option<General> {
    let y = program.value(step.output);
    let dims = y.shape.fixed_dims();
    let vector = if y.value_type == ValueType::I8 { 16 } else { 4 };
    let whole = y.value_type == ValueType::I8 || y.cols().is_multiple_of(4);
    let a = program.value(step.inputs[0]);
    if a.shape != y.shape || !whole {
        return None;
    }
    let vectors = |value: &Value| (value.rows_factor() * value.cols().div_ceil(vector)) as u32;
    let b_vecs = match step.inputs.get(1).map(|&b| program.value(b)) {
        None => 1,
        Some(b) if b.shape == y.shape => u32::MAX,
        Some(b) => {
            let own = b.shape.fixed_dims();
            let repeats = !b.shape.is_batched() && b.shape.last().is_some() && dims.ends_with(&own);
            repeats.then(|| vectors(b))?
        }
    };
    let row = y.cols().div_ceil(vector);
    let mut general = over(y, flat, Size::Threads(row as u64));
    (general.params.row_words, general.params.b_vecs) = (row as u32, b_vecs);
    Some(general)
}

/// The dispatch of a group of steps that a general kernel executes. `part` counts the two dispatches that choose
/// parameters.
pub(super) fn general(program: &Program, group: &Group, part: usize) -> Result<General, GpuError> {
    let step = &program.steps()[group.main];
    let value = |at: usize| program.value(step.inputs[at]);
    let y = program.value(step.output);
    let floats = y.value_type != ValueType::I8;
    let pair = |flat_kernel: &'static str, kernel: &'static str| {
        if let Some(flat) = flat(program, step, flat_kernel) {
            return Ok(flat);
        }
        let result = axes(y);
        elementwise(step, y, kernel, &broadcast(value(0), &result), &broadcast(value(1), &result))
    };
    let single = |flat_kernel: &'static str, kernel: &'static str| {
        if let Some(flat) = flat(program, step, flat_kernel) {
            return Ok(flat);
        }
        let strides = broadcast(value(0), &axes(y));
        elementwise(step, y, kernel, &strides, &vec![0; strides.len()])
    };
    Ok(match &step.op {
        StepOp::Op(Op::Quantize(_))
        | StepOp::Op(Op::Dequantize(_))
        | StepOp::QLinear(_)
        | StepOp::Op(Op::Concat(_)) => {
            unreachable!("{} has a kernel of its own, or several dispatches", step.op.name())
        }
        StepOp::Op(Op::IntegerAdd(add)) => {
            let mut general = pair("add_flat_i8_i8", "add_i8_i8")?;
            let params = &mut general.params;
            (params.a_zero_point, params.b_zero_point) = (add.a_zero_point, add.b_zero_point);
            (params.a_multiplier, params.b_multiplier) = (add.multipliers.a, add.multipliers.b);
            params.shift = add.multipliers.shift;
            (params.zero_point, params.lo, params.hi) = (add.qparams.zero_point(), add.lo, add.hi);
            general
        }
        StepOp::Op(Op::IntegerMul(mul)) => {
            let mut general = pair("mul_flat_i8_i8", "mul_i8_i8")?;
            let params = &mut general.params;
            (params.a_zero_point, params.b_zero_point) = (mul.a_zero_point, mul.b_zero_point);
            params.factor = mul.multiplier;
            (params.zero_point, params.lo, params.hi) = (mul.qparams.zero_point(), mul.lo, mul.hi);
            general
        }
        StepOp::QLut(_) => single("table_flat_i8_i8", "table_i8_i8")?,
        StepOp::QMatMul(matmul) => {
            let to_float = !matches!(matmul.epilogue, Epilogue::Requantize { .. });
            let mut general = matrices(program, group, if to_float { "matmul_i8_f32" } else { "matmul_i8_i8" })?;
            let params = &mut general.params;
            (params.a_zero_point, params.b_zero_point) = (matmul.a_zero_point, matmul.b_zero_point);
            match matmul.epilogue {
                Epilogue::Requantize { zero_point, lo, hi, .. } => {
                    (params.zero_point, params.lo, params.hi) = (zero_point, lo, hi);
                }
                Epilogue::Scale { relu, .. } | Epilogue::Dynamic { relu, .. } => params.relu = relu.into(),
            }
            general
        }
        StepOp::Op(Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu })) => {
            let mut general = matrices(program, group, "matmul_i8_f32")?;
            general.kernel.flags = &["DYNAMIC"];
            (general.params.relu, general.params.b_col) = ((*relu).into(), pair_stride(value(2)));
            general
        }
        StepOp::Op(Op::ChooseQParams(ChooseQParams { qscheme, range, eps })) => {
            let x = value(0);
            let per_token = qscheme.is_per_token();
            let (kernel, size) = match part {
                _ if group.quantize.is_some() => ("quantize_per_token_f32_i8", Size::Groups),
                0 => ("range_f32_f32", Size::Groups),
                _ if per_token => ("choose_per_token_f32_f32", Size::Threads(1)),
                _ => ("choose_per_tensor_f32_f32", Size::Once),
            };
            let mut general = over(x, kernel, size);
            let params = &mut general.params;
            (params.lo, params.hi, params.factor) = (range.quant_min(), range.quant_max(), *eps);
            params.kind = if per_token { 2 } else { qscheme.is_symmetric().into() };
            general
        }
        StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range })) => {
            let mut general = over(y, "quantize_dynamic_f32_i8", Size::Groups);
            let params = &mut general.params;
            (params.lo, params.hi, params.b_col) = (range.quant_min(), range.quant_max(), pair_stride(value(1)));
            general
        }
        StepOp::Op(Op::DequantizeDynamic(DequantizeDynamic)) => {
            let mut general = over(y, "dequantize_dynamic_i8_f32", Size::Threads(y.cols() as u64));
            (general.params.b_col, general.params.a_words) = (pair_stride(value(1)), row_words(y.cols()) as u32);
            general
        }
        StepOp::ToF16 => {
            // Two a thread; rows may share words.
            over(y, "half_f32_f16", Size::Threads(y.cols() as u64))
        }
        StepOp::Op(Op::Reshape(_)) if floats => {
            let mut general = over(y, "copy_f32_f32", Size::Threads(y.cols() as u64));
            let cols = y.cols() as u32;
            (general.params.axes[0], general.params.rank, general.params.a_col) = ([0, cols, 0, cols], 1, 1);
            general
        }
        StepOp::Op(Op::Reshape(_)) => {
            let mut general = over(y, "reshape_i8_i8", Size::Threads(row_words(y.cols()) as u64));
            let x = value(0).cols();
            (general.params.a_cols, general.params.a_words) = (x as u32, row_words(x) as u32);
            general
        }
        StepOp::Op(Op::Transpose(Transpose { perm })) => {
            let strides = transposed(value(0), perm).iter().map(|axis| axis.stride).collect::<Vec<_>>();
            let kernel = if floats { "copy_f32_f32" } else { "copy_i8_i8" };
            elementwise(step, y, kernel, &strides, &vec![0; strides.len()])?
        }
        StepOp::Op(Op::Slice(Slice { axis, start, .. })) => {
            let from = axes(value(0));
            let strides: Vec<usize> = from.iter().map(|axis| axis.stride).collect();
            let kernel = if floats { "copy_f32_f32" } else { "copy_i8_i8" };
            let mut general = elementwise(step, y, kernel, &strides, &vec![0; strides.len()])?;
            general.params.a_offset = (start * from[*axis].stride) as u32;
            general
        }
        StepOp::Op(Op::ToFloat(ToFloat)) => {
            let strides = broadcast(value(0), &axes(y));
            elementwise(step, y, "to_float_i32_f32", &strides, &vec![0; strides.len()])?
        }
        StepOp::Op(Op::ToInteger(ToInteger { to })) => {
            let strides = broadcast(value(0), &axes(y));
            let mut general = elementwise(step, y, "to_integer", &strides, &vec![0; strides.len()])?;
            general.params.kind = (value(0).value_type == ValueType::F32).into();
            (general.params.shift, general.params.relu) = (32 - to.bits(), to.is_signed().into());
            general
        }
        StepOp::Op(Op::Int32(Int32 { op, .. })) => {
            let result = axes(y);
            let strides = [0, 1].map(|at| broadcast(value(at), &result));
            let mut general = elementwise(step, y, "int32_i32_i32", &strides[0], &strides[1])?;
            general.params.kind = int32_kind(*op);
            general
        }
        StepOp::Op(Op::Sum(Sum { axis, .. })) => {
            let kernel = if y.value_type == ValueType::I32 { "sum_i32_i32" } else { "sum_f32_f32" };
            together(step, value(0), y, *axis, kernel)?
        }
        StepOp::Op(Op::Max(Max { axis })) => {
            let kernel = match y.value_type {
                ValueType::I8 => "max_i8_i8",
                ValueType::I32 => "max_i32_i32",
                ValueType::F32 | ValueType::F16 => "max_f32_f32",
            };
            together(step, value(0), y, *axis, kernel)?
        }
        StepOp::Op(Op::Embedding(Embedding)) => {
            let mut general = over(y, "gather_i32_f32", Size::Threads(y.cols() as u64));
            general.params.k = value(1).shape.axis(0).expect("a table has rows") as u32;
            general
        }
        StepOp::Op(Op::Add(Add)) => pair("add_flat_f32_f32", "add_f32_f32")?,
        StepOp::Op(Op::Mul(Mul)) => pair("mul_flat_f32_f32", "mul_f32_f32")?,
        StepOp::Op(Op::Div(Div)) => pair("div_flat_f32_f32", "div_f32_f32")?,
        &StepOp::Op(Op::Binary(Binary { op })) => {
            let mut general = pair("binary_flat_f32_f32", "binary_f32_f32")?;
            general.params.kind = op as u32;
            general
        }
        &StepOp::Op(Op::Mask(Mask { inverted })) => {
            let mut general = pair("keep_flat_f32_f32", "keep_f32_f32")?;
            general.params.kind = inverted.into();
            general
        }
        &StepOp::Op(Op::Clamp(Clamp { min, max })) => {
            let mut general = single("clamp_flat_f32_f32", "clamp_f32_f32")?;
            (general.params.low, general.params.high) = (min, max);
            general
        }
        StepOp::Op(Op::Unary(Unary { op })) => {
            let mut general = single("unary_flat_f32_f32", "unary_f32_f32")?;
            general.params.kind = unary_kind(*op);
            general
        }
        StepOp::Op(Op::MatMul(MatMul)) => matrices(program, group, "matmul_f32_f32")?,
        StepOp::Op(Op::Linear(Linear)) => {
            let mut general = over(y, "matmul_f32_f32", Size::Tiles { m: 0, n: y.cols() as u64 });
            let k = value(0).cols() as u32;
            let params = &mut general.params;
            (params.k, params.a_row, params.b_k, params.b_n) = (k, k, 1, k);
            general.kernel.flags = match (step.inputs.len() == 3, group.function.is_some()) {
                (false, false) => &[],
                (false, true) => &["UNARY"],
                (true, false) => &["BIAS"],
                (true, true) => &["BIAS", "UNARY"],
            };
            params.kind = group.unary(program).map_or(0, unary_kind);
            general
        }
        StepOp::Op(Op::Softmax(Softmax { axis })) => {
            let axis = &axes(y)[*axis];
            lines(y, "softmax_f32_f32", axis.length.unwrap_or(1), axis.stride)
        }
        StepOp::Op(Op::LayerNorm(LayerNorm { eps })) => layer_norm(program, group, *eps),
        StepOp::Op(op) => unreachable!("no program has a step of {}", op.name()),
    })
}

/// Which function, as the shaders count them.
pub(super) fn unary_kind(op: UnaryOp) -> u32 {
    // In the order in which they are declared, which is that of the list.
    op as u32
}

/// Which arithmetic, as the shaders count it.
fn int32_kind(op: Int32Op) -> u32 {
    op as u32
}

/// From one row's scale and zero point to the next.
fn pair_stride(pairs: &Value) -> u32 {
    if pairs.shape == Shape::fixed(&[2]) { 0 } else { 2 }
}

fn layer_norm(program: &Program, group: &Group, eps: f32) -> General {
    let step = &program.steps()[group.main];
    let y = program.value(step.output);
    let length = program.value(step.inputs[1]).shape.fixed_dims().iter().product();
    let mut general = lines(y, "layer_norm_f32_f32", length, 1);
    let params = &mut general.params;
    params.factor = eps;
    let quantize = group.quantize.map(|quantize| &program.steps()[quantize].op);
    if let Some(StepOp::Op(Op::Quantize(Quantize { qparams, range }))) = quantize {
        let qparams = qparams.per_tensor().expect("a step quantizes per tensor");
        (params.zero_point, params.inv_scale) = (qparams.zero_point(), qparams.inv_scale());
        (params.lo, params.hi) = (range.quant_min(), range.quant_max());
    }
    general.kernel.flags = match (group.before.is_some(), group.keeps_sum, quantize.is_some()) {
        (false, _, false) => &[],
        (false, _, true) => &["QUANTIZE"],
        (true, false, false) => &["ADD"],
        (true, false, true) => &["ADD", "QUANTIZE"],
        (true, true, false) => &["ADD", "KEEP_SUM"],
        (true, true, true) => &["ADD", "KEEP_SUM", "QUANTIZE"],
    };
    general
}

/// A group for each line of `length` elements, `stride` apart.
fn lines(y: &Value, kernel: &'static str, length: usize, stride: usize) -> General {
    let mut general = over(y, kernel, Size::Groups);
    general.rows_factor = y.rows_factor() * y.cols() / length;
    let params = &mut general.params;
    (params.rows_factor, params.k, params.a_col) = (general.rows_factor as u32, length as u32, stride as u32);
    general
}

/// A kernel that makes one element of those along an axis, which the result lacks.
fn together(step: &Step, x: &Value, y: &Value, axis: usize, kernel: &'static str) -> Result<General, GpuError> {
    let mut from = axes(x);
    let axis = from.remove(axis);
    let mut strides: Vec<usize> = from.iter().map(|axis| axis.stride).collect();
    strides.resize(axes(y).len(), 0);
    let mut general = elementwise(step, y, kernel, &strides, &vec![0; strides.len()])?;
    (general.params.k, general.params.b_k) = (axis.length.unwrap_or(1) as u32, axis.stride as u32);
    Ok(general)
}

/// The dispatches of a concat, one for each input: its rows are copied to where they belong.
pub(super) fn concat(program: &Program, step: &Step, axis: usize) -> Result<Vec<General>, GpuError> {
    let mut before = 0;
    let mut parts = Vec::with_capacity(step.inputs.len());
    for &input in &step.inputs {
        parts.push(concat_part(program, step, program.value(input), axis, before)?);
        before += program.value(input).shape.axis(axis).unwrap_or(0);
    }
    Ok(parts)
}

/// One input of a concat, with so many elements along the axis before it.
fn concat_part(program: &Program, step: &Step, x: &Value, axis: usize, before: usize) -> Result<General, GpuError> {
    let y = program.value(step.output);
    let (from, to) = (axes(x), axes(y));
    let offset = before * to[axis].stride;
    let last = from.len() - 1;
    let (kernel, threads) = match x.value_type {
        ValueType::I8 => ("copy_i8_i8", (offset % 4 + x.cols()).div_ceil(4)),
        ValueType::F32 | ValueType::F16 | ValueType::I32 => ("copy_f32_f32", x.cols()),
    };
    let mut general = over(x, kernel, Size::Threads(threads as u64));
    let params = &mut general.params;
    (params.row_words, params.a_col, params.y_offset) = (threads as u32, 1, offset as u32);
    let lengths: Vec<Option<usize>> = from[..last].iter().map(|axis| axis.length).collect();
    let strides = |axes: &[Axis]| axes[..last].iter().map(|axis| axis.stride).collect::<Vec<_>>();
    set_axes(&step.name, params, &lengths, [&strides(&from), &vec![0; last], &strides(&to)])?;
    Ok(general)
}

/// `a[…, M, K] · b[…, K, N]`, each perhaps walked through in the order of a transpose.
fn matrices(program: &Program, group: &Group, kernel: &'static str) -> Result<General, GpuError> {
    let step = &program.steps()[group.main];
    let operand = |at: usize| match group.transposes[at].map(|transpose| &program.steps()[transpose]) {
        Some(Step { op: StepOp::Op(Op::Transpose(Transpose { perm })), inputs, .. }) => {
            transposed(program.value(inputs[0]), perm)
        }
        _ => axes(program.value(step.inputs[at])),
    };
    let [a, b] = [operand(0), operand(1)];
    let y = program.value(step.output);
    let result = axes(y);
    let stack = result.len() - 2;
    // The rows of the only matrix may be the batch.
    let m = result[stack].length.unwrap_or(0);
    let mut general = over(y, kernel, Size::Tiles { m: m as u64, n: y.cols() as u64 });
    let params = &mut general.params;
    let [.., a_row, a_column] = a[..] else { unreachable!("a matrix has two axes") };
    let [.., b_row, b_column] = b[..] else { unreachable!("a matrix has two axes") };
    (params.k, params.m) = (a_column.length.unwrap_or(1) as u32, m as u32);
    (params.a_row, params.b_k, params.b_n) = (a_row.stride as u32, b_row.stride as u32, b_column.stride as u32);
    // Strides along the stack: the matrices themselves are of other lengths, so those axes are cut off first.
    let strides = |own: &[Axis]| {
        let own = &own[..own.len() - 2];
        let skip = stack - own.len();
        let stride = |at: usize| match at.checked_sub(skip).map(|at| own[at]) {
            Some(own) if own.length == result[at].length => own.stride,
            _ => 0,
        };
        (0..stack).map(stride).collect::<Vec<_>>()
    };
    let lengths: Vec<Option<usize>> = result[..stack].iter().map(|axis| axis.length).collect();
    set_axes(&step.name, params, &lengths, [&strides(&a), &strides(&b), &strides(&result)])?;
    Ok(general)
}
