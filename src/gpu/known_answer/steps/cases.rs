//! The cases: what the equations make of inputs that are hard to get right.

use std::sync::Arc;

use super::{Maker, ROWS, code, tensor};
use crate::gpu::plan::{LINEAR_SUM, LINEAR_TABLE, MATMUL_DYNAMIC};
use crate::numerics::{self, AddMultipliers, BinaryOp, Int32Op, IntegerType, UnaryOp};
use crate::ops::{
    Binary, ChooseQParams, Clamp, Concat, DequantizeDynamic, Embedding, Int32, IntegerAdd, IntegerMatMulDynamic,
    IntegerMul, Mask, Max, Op, QuantizeDynamic, Reshape, Slice, Sum, ToFloat, ToInteger, Transpose, Unary,
};
use crate::program::{Epilogue, QLinear, QLut, QMatMul, StepOp, ValueId, ValueType};
use crate::values::{QParams, QScheme, QuantRange, Shape};

/// Values `[ROWS, 3, 21]` and columns `[ROWS, 3, 1]`, whose rows have padding.
const COLS: usize = 21;
const WIDE: [usize; 3] = [ROWS, 3, COLS];
const COLUMN: [usize; 3] = [ROWS, 3, 1];

pub(super) fn add(case: &mut Maker) {
    let a = case.input(tensor(&WIDE, |i| code(i, 0)));
    let b = case.input(tensor(&WIDE, |i| code(i, 1)));
    let column = case.input(tensor(&COLUMN, |i| code(i, 2)));
    let (a_zero_point, b_zero_point, zero_point, lo, hi) = (3, -7, 5, -100, 127);
    let qparams = QParams::new(1.0, zero_point).expect("valid");
    // Sums that saturate, and sums that are ties.
    let first = AddMultipliers { a: 700_001, b: 1 << 20, shift: 20 };
    let second = AddMultipliers { a: 1, b: 2, shift: 2 };
    let sum = |a: i8, b: i8, multipliers| {
        let (a, b) = (i32::from(a) - a_zero_point, i32::from(b) - b_zero_point);
        numerics::add(a, b, multipliers, zero_point, lo, hi) as i8
    };
    let op = |multipliers| {
        StepOp::Op(Op::IntegerAdd(IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi }))
    };
    case.output("add_flat_i8_i8", op(first), &[a, b], tensor(&WIDE, |i| sum(code(i, 0), code(i, 1), first)));
    let expected = tensor(&WIDE, |i| sum(code(i, 0), code(i / COLS, 2), second));
    case.output("add_i8_i8", op(second), &[a, column], expected);
    // Behind a layer, in its dispatch.
    if !case.needs(LINEAR_SUM) {
        return;
    }
    let (layer, codes) = Layer::new(-128, 256).step(case, 9);
    let others = case.input(tensor(&[ROWS, Layer::N], |i| code(i, 3)));
    let expected = tensor(&[ROWS, Layer::N], |i| sum(codes[i], code(i, 3), first));
    case.output(LINEAR_SUM, op(first), &[layer, others], expected);
}

pub(super) fn mul(case: &mut Maker) {
    let a = case.input(tensor(&WIDE, |i| code(i, 0)));
    let b = case.input(tensor(&WIDE, |i| code(i, 1)));
    let column = case.input(tensor(&COLUMN, |i| code(i, 2)));
    let (a_zero_point, b_zero_point, zero_point, lo, hi) = (-9, 4, -5, -128, 120);
    let qparams = QParams::new(1.0, zero_point).expect("valid");
    let product = |a: i8, b: i8, multiplier| {
        let acc = (i32::from(a) - a_zero_point) * (i32::from(b) - b_zero_point);
        numerics::requantize(acc, multiplier, zero_point, lo, hi) as i8
    };
    let op =
        |multiplier| StepOp::Op(Op::IntegerMul(IntegerMul { a_zero_point, b_zero_point, multiplier, qparams, lo, hi }));
    // Halves are ties.
    let (first, second) = (1.0 / 64.0, 0.5);
    case.output("mul_flat_i8_i8", op(first), &[a, b], tensor(&WIDE, |i| product(code(i, 0), code(i, 1), first)));
    let expected = tensor(&WIDE, |i| product(code(i, 0), code(i / COLS, 2), second));
    case.output("mul_i8_i8", op(second), &[a, column], expected);
}

pub(super) fn table(case: &mut Maker) {
    let entries: Arc<[i8]> = (0..256).map(|i| code(i, 5)).collect();
    let entry = |code: i8| entries[(i32::from(code) + 128) as usize];
    let op = || StepOp::QLut(QLut { table: Arc::clone(&entries) });
    let x = case.input(tensor(&[ROWS, 90], |i| code(i, 0)));
    case.output("table_flat_i8_i8", op(), &[x], tensor(&[ROWS, 90], |i| entry(code(i, 0))));
    if !case.needs(LINEAR_TABLE) {
        return;
    }
    let (layer, codes) = Layer::new(-128, 256).step(case, 9);
    case.output(LINEAR_TABLE, op(), &[layer], tensor(&[ROWS, Layer::N], |i| entry(codes[i])));
}

pub(super) fn few_bits(case: &mut Maker, kernel: &'static str, lowest: i32, weights: i32) {
    if !case.needs(kernel) {
        return;
    }
    let (layer, codes) = Layer::new(lowest, weights).step(case, 9);
    case.answer(kernel, layer, tensor(&[ROWS, Layer::N], |i| codes[i]));
}

/// A linear layer of weights from `lowest` on.
struct Layer {
    weight: Vec<i8>,
    bias: Vec<i32>,
    multiplier: Vec<f32>,
}

impl Layer {
    // Beyond one block of columns, and one word of features.
    const N: usize = 70;
    const K: usize = 37;
    const ZERO_POINT: i32 = -3;

    fn new(lowest: i32, weights: i32) -> Self {
        let weight =
            (0..Self::N * Self::K).map(|i| (lowest + i32::from(code(i, 6)).rem_euclid(weights)) as i8).collect();
        // Some saturate, some are halves.
        let multiplier = [1e-3, 0.5, 1.0 / 3.0, 7e-3].into_iter().cycle().take(Self::N).collect();
        Self { weight, bias: (0..Self::N as i32).map(|n| n * 101 - 3000).collect(), multiplier }
    }

    /// Adds it to a case, with an input of its own; its value, and its codes.
    fn step(&self, case: &mut Maker, seed: usize) -> (ValueId, Vec<i8>) {
        let (n, k, zero_point) = (Self::N, Self::K, Self::ZERO_POINT);
        let x = case.input(tensor(&[ROWS, k], |i| code(i, seed)));
        let multiplier = self.multiplier.as_slice().into();
        let epilogue = Epilogue::Requantize { multiplier, zero_point, lo: -128, hi: 127 };
        let (weight, bias) = (self.weight.as_slice().into(), self.bias.as_slice().into());
        let op = StepOp::QLinear(QLinear { weight, bits: 8, n, k, bias, fraction_bits: 0, epilogue });
        let layer = case.step(op, &[x], ValueType::I8, Shape::rows(n));
        let of = |at: usize| {
            let (row, channel) = (at / n, at % n);
            let product = |i: usize| i32::from(code(row * k + i, seed)) * i32::from(self.weight[channel * k + i]);
            let acc = (0..k).map(product).sum::<i32>() + self.bias[channel];
            numerics::requantize(acc, self.multiplier[channel], zero_point, -128, 127) as i8
        };
        (layer, (0..ROWS * n).map(of).collect())
    }
}

/// Products of `[ROWS, M, K]` and `[ROWS, K, N]`.
const M: usize = 5;
const K: usize = 37;
const N: usize = 9;

/// Element `i` of the product, where the right factor lies either way round.
fn products(i: usize, zero_points: [i32; 2], turned: bool) -> i32 {
    let (stack, row, column) = (i / N / M, i / N % M, i % N);
    let of = |k: usize| {
        let a = i32::from(code((stack * M + row) * K + k, 0)) - zero_points[0];
        let at = if turned { (stack * N + column) * K + k } else { (stack * K + k) * N + column };
        a * (i32::from(code(at, 1)) - zero_points[1])
    };
    (0..K).map(of).sum()
}

pub(super) fn matmul(case: &mut Maker) {
    let a = case.input(tensor(&[ROWS, M, K], |i| code(i, 0)));
    let b = case.input(tensor(&[ROWS, K, N], |i| code(i, 1)));
    let z = [11, -128];
    let shape = [ROWS, M, N];
    let op = |epilogue| StepOp::QMatMul(QMatMul { a_zero_point: z[0], b_zero_point: z[1], epilogue });
    let multipliers: Vec<f32> = (0..N).map(|n| [1e-4, 0.5, 3e-4][n % 3]).collect();
    let multiplier = multipliers.as_slice().into();
    let epilogue = Epilogue::Requantize { multiplier, zero_point: 6, lo: -120, hi: 127 };
    let to_code = |i: usize| numerics::requantize(products(i, z, false), multipliers[i % N], 6, -120, 127) as i8;
    case.output("matmul_i8_i8", op(epilogue), &[a, b], tensor(&shape, to_code));
    if !case.needs("matmul_i8_f32") {
        return;
    }
    let turned = case.input(tensor(&[ROWS, N, K], |i| code(i, 1)));
    let perm = StepOp::Op(Op::Transpose(Transpose { perm: vec![0, 2, 1] }));
    let turned = case.step(perm, &[turned], ValueType::I8, Shape::batched(&[K, N]));
    let epilogue = Epilogue::Scale { scale: multipliers.as_slice().into(), relu: true };
    let to_float = |i: usize| numerics::scale_accumulator(products(i, z, true), multipliers[i % N], true);
    case.output("matmul_i8_f32", op(epilogue), &[a, turned], tensor(&shape, to_float));
}

pub(super) fn matmul_dynamic(case: &mut Maker) {
    let a = case.input(tensor(&[ROWS, M, K], |i| code(i, 0)));
    let b = case.input(tensor(&[ROWS, K, N], |i| code(i, 1)));
    // Powers of two: in whatever order a device multiplies by them, nothing is rounded twice.
    let (a_scale, a_zero_point) = (|row: usize| 1.0 / (1 << (row % 3)) as f32, |row: usize| row as i32 * 9 - 60);
    let pair = |i: usize| if i.is_multiple_of(2) { a_scale(i / 2) } else { a_zero_point(i / 2) as f32 };
    let a_pairs = case.input(tensor(&[ROWS, M, 2], pair));
    let b_pairs = case.constant(tensor(&[2], |i| [0.25f32, -5.0][i]));
    let expected = tensor(&[ROWS, M, N], |i| {
        let acc = products(i, [a_zero_point(i / N), -5], false);
        numerics::scale_matmul_dynamic(acc, a_scale(i / N), 0.25, true)
    });
    let op = StepOp::Op(Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: true }));
    case.output(MATMUL_DYNAMIC, op, &[a, b, a_pairs, b_pairs], expected);
}

pub(super) fn dynamic(case: &mut Maker) {
    // They read each other's results: all of them, or none.
    const KERNELS: [&str; 6] = [
        "range_f32_f32",
        "quantize_per_token_f32_i8",
        "choose_per_token_f32_f32",
        "choose_per_tensor_f32_f32",
        "quantize_dynamic_f32_i8",
        "dequantize_dynamic_i8_f32",
    ];
    match &mut case.needed {
        Some(needed) if KERNELS.iter().any(|kernel| needed.contains(kernel)) => needed.extend(KERNELS),
        Some(_) => return,
        None => {}
    }
    // Longer than a group of threads. A row of everyday numbers, one of the largest, one of zeros.
    let cols = 70;
    let of = |i: usize| match i / cols {
        0 => f32::from(code(i, 0)) / 7.0,
        1 => f32::from(code(i, 1)) * -1e36,
        _ => 0.0,
    };
    let x = case.input(tensor(&[ROWS, cols], of));
    let range = QuantRange::INT8;
    let (lo, hi, eps) = (range.quant_min(), range.quant_max(), numerics::EPS);
    let choose = |qscheme| StepOp::Op(Op::ChooseQParams(ChooseQParams { qscheme, range, eps }));
    let ends =
        |values: std::ops::Range<usize>| values.map(of).fold((0f32, 0f32), |(low, high), v| (low.min(v), high.max(v)));
    let of_row = |row: usize| {
        let (low, high) = ends(row * cols..(row + 1) * cols);
        numerics::per_token_qparams(low, high, lo, hi, eps)
    };
    let pair = |i: usize, (scale, zero_point): (f32, i32)| if i.is_multiple_of(2) { scale } else { zero_point as f32 };
    let quantized =
        |x: f32, (scale, zero_point): (f32, i32)| numerics::quantize(x, 1.0 / scale, zero_point, lo, hi) as i8;
    // Scales and codes of each row in one dispatch, and the scales alone.
    let pairs = tensor(&[ROWS, 2], |i| pair(i, of_row(i / 2)));
    let per_token = case.output("quantize_per_token_f32_i8", choose(QScheme::per_token_affine()), &[x], pairs.clone());
    let codes = tensor(&[ROWS, cols], |i| quantized(of(i), of_row(i / cols)));
    let q = case.output(
        "quantize_per_token_f32_i8",
        StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range })),
        &[x, per_token],
        codes,
    );
    case.output("choose_per_token_f32_f32", choose(QScheme::per_token_affine()), &[x], pairs);
    let floats = tensor(&[ROWS, cols], |i| {
        let (scale, zero_point) = of_row(i / cols);
        numerics::dequantize(quantized(of(i), (scale, zero_point)).into(), scale, zero_point)
    });
    case.output(
        "dequantize_dynamic_i8_f32",
        StepOp::Op(Op::DequantizeDynamic(DequantizeDynamic)),
        &[q, per_token],
        floats,
    );
    // One pair for all.
    let (low, high) = ends(0..ROWS * cols);
    let affine = numerics::affine_qparams(low, high, lo, hi, eps);
    let symmetric = numerics::symmetric_qparams(low, high, lo, hi, eps);
    for (qscheme, qparams) in [(QScheme::per_tensor_affine(), affine), (QScheme::per_tensor_symmetric(), symmetric)] {
        let pairs = case.step(choose(qscheme), &[x], ValueType::F32, Shape::fixed(&[2]));
        case.answer("choose_per_tensor_f32_f32", pairs, tensor(&[2], |i| pair(i, qparams)));
        let codes = tensor(&[ROWS, cols], |i| quantized(of(i), qparams));
        case.output(
            "quantize_dynamic_f32_i8",
            StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range })),
            &[x, pairs],
            codes,
        );
    }
}

pub(super) fn moves(case: &mut Maker) {
    let x = case.input(tensor(&WIDE, |i| code(i, 0)));
    let floats = case.input(tensor(&WIDE, |i| i as f32));
    // Where element `i` of each result comes from.
    let turned = |i: usize| i / (3 * COLS) * 3 * COLS + i % 3 * COLS + i / 3 % COLS;
    let perm = || StepOp::Op(Op::Transpose(Transpose { perm: vec![0, 2, 1] }));
    case.output("copy_i8_i8", perm(), &[x], tensor(&[ROWS, COLS, 3], |i| code(turned(i), 0)));
    case.output("copy_f32_f32", perm(), &[floats], tensor(&[ROWS, COLS, 3], |i| turned(i) as f32));
    case.output(
        "reshape_i8_i8",
        StepOp::from(Reshape { dims: vec![3 * COLS] }),
        &[x],
        tensor(&[ROWS, 3 * COLS], |i| code(i, 0)),
    );
    let cut = |i: usize| i / 7 * COLS + 5 + i % 7;
    let slice = StepOp::Op(Op::Slice(Slice { axis: 2, start: 5, end: 12 }));
    let part = case.output("copy_i8_i8", slice, &[x], tensor(&[ROWS, 3, 7], |i| code(cut(i), 0)));
    // Its second part begins within a word.
    let joined = |i: usize| {
        let (row, column) = (i / (7 + COLS), i % (7 + COLS));
        if column < 7 { cut(row * 7 + column) } else { row * COLS + column - 7 }
    };
    let expected = tensor(&[ROWS, 3, 7 + COLS], |i| code(joined(i), 0));
    case.output("copy_i8_i8", StepOp::Op(Op::Concat(Concat { axis: 2 })), &[part, x], expected);
}

/// What is compared and chosen.
const SPECIAL: [u32; 12] = [
    0x7fc0_0000,
    0x7f80_0000,
    0xff80_0000,
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x0080_0000,
];

fn special(i: usize) -> f32 {
    f32::from_bits(SPECIAL[i % SPECIAL.len()])
}

pub(super) fn max(case: &mut Maker) {
    let x = case.input(tensor(&WIDE, |i| code(i, 0)));
    let place = |i: usize, row: usize| i / COLS * 3 * COLS + row * COLS + i % COLS;
    let largest = |i: usize| [0, 1, 2].map(|row| code(place(i, row), 0)).into_iter().max().unwrap_or(0);
    case.output("max_i8_i8", StepOp::Op(Op::Max(Max { axis: 1 })), &[x], tensor(&[ROWS, COLS], largest));
    let integers = case.input(tensor(&WIDE, integer));
    let largest = |i: usize| [0, 1, 2].map(|row| integer(place(i, row))).into_iter().max().unwrap_or(0);
    case.output("max_i32_i32", StepOp::Op(Op::Max(Max { axis: 1 })), &[integers], tensor(&[ROWS, COLS], largest));
    // Each with each; a row of the lowest has no other largest.
    let pair = |i: usize| special(if i.is_multiple_of(2) { i / 24 } else { i / 2 });
    let floats = case.input(tensor(&[ROWS, 144, 2], pair));
    let larger = |i: usize| numerics::maximum(pair(2 * i), pair(2 * i + 1));
    case.output("max_f32_f32", StepOp::Op(Op::Max(Max { axis: 2 })), &[floats], tensor(&[ROWS, 144], larger));
}

/// Integers of all magnitudes, and the ends.
fn integer(i: usize) -> i32 {
    match i % 16 {
        0 => i32::MIN,
        1 => i32::MAX,
        _ => (i as i32).wrapping_mul(-1_640_531_527) >> (i % 29),
    }
}

pub(super) fn integers(case: &mut Maker) {
    let x = case.input(tensor(&WIDE, integer));
    let column = case.input(tensor(&COLUMN, |i| [3, -1, i32::MIN, i32::MAX][i % 4]));
    for &op in Int32Op::ALL {
        let of = |i: usize| op.eval(integer(i), [3, -1, i32::MIN, i32::MAX][i / COLS % 4], false).unwrap_or(0);
        let step = StepOp::Op(Op::Int32(Int32 { op, checked: false }));
        case.output("int32_i32_i32", step, &[x, column], tensor(&WIDE, of));
    }
    let floats = case.input(tensor(&WIDE, |i| integer(i) as f32 / 4096.0));
    for &to in IntegerType::ALL {
        case.output(
            "to_integer",
            StepOp::Op(Op::ToInteger(ToInteger { to })),
            &[x],
            tensor(&WIDE, |i| to.wrap(integer(i))),
        );
        let of = |i: usize| to.wrap(numerics::truncate(integer(i) as f32 / 4096.0).unwrap_or(0));
        case.output("to_integer", StepOp::Op(Op::ToInteger(ToInteger { to })), &[floats], tensor(&WIDE, of));
    }
    let rows = |i: usize| [0, 1, 2].map(|row| integer(i / COLS * 3 * COLS + row * COLS + i % COLS));
    let sum = |i: usize| rows(i).into_iter().fold(0i32, i32::wrapping_add);
    case.output("sum_i32_i32", StepOp::Op(Op::Sum(Sum { axis: 1, checked: false })), &[x], tensor(&[ROWS, COLS], sum));
}

pub(super) fn to_float(case: &mut Maker) {
    // Those of more than 24 bits are rounded.
    let of = |i: usize| (i as i32).wrapping_mul(-1_640_531_527) >> (i % 9);
    let x = case.input(tensor(&[ROWS, 50], of));
    case.output("to_float_i32_f32", StepOp::Op(Op::ToFloat(ToFloat)), &[x], tensor(&[ROWS, 50], |i| of(i) as f32));
}

pub(super) fn gather(case: &mut Maker) {
    let table = case.constant(tensor(&[6, 5], special));
    // An id that the table lacks gives the nearest row.
    let id = |i: usize| i as i32 * 5 % 11 - 3;
    let ids = case.input(tensor(&[ROWS, 4], id));
    let expected = tensor(&[ROWS, 4, 5], |i| special(id(i / 5).clamp(0, 5) as usize * 5 + i % 5));
    case.output("gather_i32_f32", StepOp::Op(Op::Embedding(Embedding)), &[ids, table], expected);
}

pub(super) fn half(case: &mut Maker) {
    let x = case.input(tensor(&[ROWS, 36], between_halves));
    let expected = tensor(&[ROWS, 36], |i| half::f16::from_f32(between_halves(i)).to_f32());
    case.output("half_f32_f16", StepOp::ToF16, &[x], expected);
}

/// Ties, overflow, subnormal halves.
fn between_halves(i: usize) -> f32 {
    match i % 3 {
        0 => special(i / 3),
        1 => f32::from_bits(0x3f80_1000 + (i as u32) * 0x1000),
        _ => (i as f32 - 20.0) * 2f32.powi(i as i32 % 50 - 30),
    }
}

pub(super) fn choose(case: &mut Maker) {
    let (wide, column) = ([ROWS, 12, 12], [ROWS, 12, 1]);
    let x = case.input(tensor(&wide, special));
    let y = case.input(tensor(&column, special));
    let z = case.input(tensor(&wide, |i| special(i / 12)));
    let float = StepOp::Op;
    for &op in BinaryOp::ALL {
        let expected = tensor(&wide, |i| op.eval(special(i), special(i / 12)));
        case.output("binary_flat_f32_f32", float(Op::Binary(Binary { op })), &[x, z], expected.clone());
        case.output("binary_f32_f32", float(Op::Binary(Binary { op })), &[x, y], expected);
    }
    for inverted in [false, true] {
        let kept = |i: usize| if (special(i / 12) != 0.0) != inverted { special(i) } else { -0.0 };
        case.output("keep_flat_f32_f32", float(Op::Mask(Mask { inverted })), &[x, z], tensor(&wide, kept));
        case.output("keep_f32_f32", float(Op::Mask(Mask { inverted })), &[x, y], tensor(&wide, kept));
    }
    let clamp = Op::Clamp(Clamp { min: -1.0, max: special(5) });
    let expected = tensor(&wide, |i| special(i).clamp(-1.0, special(5)));
    case.output("clamp_flat_f32_f32", float(clamp.clone()), &[x], expected);
    case.output("clamp_f32_f32", float(clamp), &[y], tensor(&column, |i| special(i).clamp(-1.0, special(5))));
    let x = case.input(tensor(&wide, between_halves));
    let y = case.input(tensor(&column, between_halves));
    for op in [UnaryOp::Relu, UnaryOp::Abs, UnaryOp::Step, UnaryOp::Sign, UnaryOp::RoundF16, UnaryOp::RoundBf16] {
        let of = |i: usize| op.eval(between_halves(i).into()) as f32;
        case.output("unary_flat_f32_f32", float(Op::Unary(Unary { op })), &[x], tensor(&wide, of));
        case.output("unary_f32_f32", float(Op::Unary(Unary { op })), &[y], tensor(&column, of));
    }
}
