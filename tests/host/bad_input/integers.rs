//! Integer and dynamic ops that a graph or a program cannot hold: types, shapes and numbers.

use std::sync::Arc;

use enfold::graph::{GraphBuilder, GraphError, NodeId};
use enfold::numerics::AddMultipliers;
use enfold::ops::{
    AddScalar, ChooseQParams, Concat, Dequantize, DequantizeDynamic, Embedding, IntegerAdd, IntegerLinear,
    IntegerMatMul, IntegerMatMulDynamic, IntegerMul, LayerNorm, Lut, Max, Op, Quantize, QuantizeDynamic, Requantize,
    Reshape, ScaleAccumulatorDynamic, Softmax, Transpose,
};
use enfold::program::{Epilogue, Program, ProgramError, QLut, QMatMul, Step, StepOp, Value, ValueId, ValueType};
use enfold::values::{DType, QParams, QScheme, QuantRange};
use enfold::{Error, Graph, Shape, Tensor};

use super::{built, check, f32s, row};

fn unit() -> QParams {
    QParams::new(1.0, 0).expect("valid")
}

fn add(zero_point: i32, lo: i32, multipliers: AddMultipliers) -> Op {
    Op::IntegerAdd(IntegerAdd { a_zero_point: zero_point, b_zero_point: 0, multipliers, qparams: unit(), lo, hi: 127 })
}

fn mul(multiplier: f32, b_zero_point: i32) -> Op {
    Op::IntegerMul(IntegerMul { a_zero_point: 0, b_zero_point, multiplier, qparams: unit(), lo: -128, hi: 127 })
}

fn choose(qscheme: QScheme, eps: f32) -> Op {
    Op::ChooseQParams(ChooseQParams { qscheme, range: QuantRange::INT8, eps })
}

/// The node `y` of the op, on inputs `a`, `b`, `c`, … of these types and shapes.
pub(super) fn node(op: Op, inputs: &[(DType, Shape)]) -> Result<NodeId, GraphError> {
    let mut g = GraphBuilder::new();
    let ids: Vec<NodeId> = inputs
        .iter()
        .enumerate()
        .map(|(at, (dtype, shape))| g.typed_input(&format!("in{at}"), shape.clone(), *dtype).expect("an input"))
        .collect();
    g.node("y", op, &ids)
}

#[test]
fn nodes() {
    let i8s = |dims: &[usize]| (DType::I8, Shape::batched(dims));
    let f32s = |dims: &[usize]| (DType::F32, Shape::batched(dims));
    let fixed = |dtype, dims: &[usize]| (dtype, Shape::fixed(dims));
    let _qparams = QParams::new(1.0, 0).expect("valid");
    let good = AddMultipliers::new(1.0, 0.5, 1.0).expect("usable");
    let bad = AddMultipliers { a: -1, ..good };
    let matmul = |zero_point| Op::IntegerMatMul(IntegerMatMul { a_zero_point: zero_point, b_zero_point: 0 });
    let requantize = |lo, hi| Op::Requantize(Requantize { qparams: unit(), lo, hi, ch_axis: None });
    let acc = || (DType::I32, Shape::batched(&[3]));
    let (tensor, token) = (QScheme::per_tensor_affine(), QScheme::per_token_affine());
    let pairs = || fixed(DType::F32, &[2]);
    let dynamic = Op::QuantizeDynamic(QuantizeDynamic { range: QuantRange::INT8 });
    let scale = Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu: false });
    let product = Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: false });
    assert!(node(product.clone(), &[i8s(&[2, 3]), i8s(&[3, 2]), f32s(&[2, 2]), pairs()]).is_ok());
    let per_channel = |dtype, n| fixed(dtype, &[n]);
    assert!(node(add(0, -128, good), &[i8s(&[3]), i8s(&[3])]).is_ok());
    assert!(node(choose(token, 1e-6), &[f32s(&[4])]).is_ok());
    let table = vec![
        row("a sum of floats", node(add(0, -128, good), &[i8s(&[3]), f32s(&[3])]), &["y:", "f32", "i8"]),
        row("a zero point that is no code", node(add(200, -128, good), &[i8s(&[3]), i8s(&[3])]), &["y:", "200", "127"]),
        row("codes beyond int8", node(add(0, -129, good), &[i8s(&[3]), i8s(&[3])]), &["y:", "-129..=127"]),
        row("unusable multipliers", node(add(0, -128, bad), &[i8s(&[3]), i8s(&[3])]), &["y:", "-1", "equation 8"]),
        row(
            "a sum that does not broadcast",
            node(add(0, -128, good), &[i8s(&[3]), i8s(&[4])]),
            &["[rows, 3]", "[rows, 4]"],
        ),
        row("a multiplier of 0", node(mul(0.0, 0), &[i8s(&[3]), i8s(&[3])]), &["y:", "multiplier", "0"]),
        row("a negative multiplier", node(mul(-0.5, 0), &[i8s(&[3]), i8s(&[3])]), &["y:", "-0.5"]),
        row("a product's zero point", node(mul(0.5, -129), &[i8s(&[3]), i8s(&[3])]), &["y:", "-129"]),
        row("factors that do not fit", node(matmul(0), &[i8s(&[2, 3]), i8s(&[4, 2])]), &["y:", "inner", "4", "3"]),
        row("a sum over the batch", node(matmul(0), &[i8s(&[3]), i8s(&[2])]), &["y:", "batch"]),
        row(
            "a sum that could overflow",
            node(matmul(0), &[i8s(&[1, 33_026]), i8s(&[33_026, 1])]),
            &["y:", "33026", "33025"],
        ),
        row(
            "a dynamic product without pairs",
            node(product.clone(), &[i8s(&[2, 3]), i8s(&[3, 2])]),
            &["y:", "2 inputs", "4"],
        ),
        row(
            "a dynamic product of floats",
            node(product.clone(), &[i8s(&[2, 3]), f32s(&[3, 2]), pairs(), pairs()]),
            &["y:", "input 1", "f32", "i8"],
        ),
        row(
            "a dynamic product's pairs of codes",
            node(product.clone(), &[i8s(&[2, 3]), i8s(&[3, 2]), pairs(), fixed(DType::I8, &[2])]),
            &["y:", "input 3", "i8", "f32"],
        ),
        row(
            "a dynamic product's pairs of other rows",
            node(product.clone(), &[i8s(&[2, 3]), i8s(&[3, 2]), f32s(&[3, 2]), pairs()]),
            &["y:", "[rows, 2, 3]", "[rows, 3, 2]"],
        ),
        row(
            "a dynamic product with a scale for each row of the sum",
            node(product.clone(), &[i8s(&[2, 3]), i8s(&[3, 2]), pairs(), f32s(&[3, 2])]),
            &["y:", "right factor", "[rows, 3, 2]", "[2]"],
        ),
        row(
            "a dynamic product that does not fit",
            node(product.clone(), &[i8s(&[2, 3]), i8s(&[4, 2]), pairs(), pairs()]),
            &["y:", "inner", "4", "3"],
        ),
        row(
            "a dynamic sum that could overflow",
            node(product, &[i8s(&[1, 33_026]), i8s(&[33_026, 1]), pairs(), pairs()]),
            &["y:", "33026", "33025"],
        ),
        row("codes in the wrong order", node(requantize(5, 4), &[acc(), per_channel(DType::F32, 3)]), &["y:", "5..=4"]),
        row("a factor too few", node(requantize(0, 4), &[acc(), per_channel(DType::F32, 2)]), &["y:", "2", "3"]),
        row(
            "a table of 255 entries",
            node(Op::Lut(Lut { qparams: unit() }), &[i8s(&[3]), fixed(DType::I8, &[255])]),
            &["y:", "255", "256"],
        ),
        row(
            "a scheme for weights",
            node(choose(QScheme::per_channel_affine(1), 1e-6), &[f32s(&[3])]),
            &["y:", "scheme"],
        ),
        row("an eps of 0", node(choose(tensor, 0.0), &[f32s(&[3])]), &["y:", "eps"]),
        row("tokens without a last axis", node(choose(token, 1e-6), &[f32s(&[])]), &["y:", "1 axes", "last axis"]),
        row(
            "pairs of other rows",
            node(dynamic.clone(), &[f32s(&[4, 3]), f32s(&[5, 2])]),
            &["[rows, 4, 3]", "[rows, 5, 2]"],
        ),
        row(
            "pairs that are none",
            node(Op::DequantizeDynamic(DequantizeDynamic), &[i8s(&[3]), f32s(&[3])]),
            &["[rows, 3]"],
        ),
        row(
            "int32 codes",
            node(Op::QuantizeDynamic(QuantizeDynamic { range: QuantRange::INT32 }), &[f32s(&[3]), pairs()]),
            &["y:", "int8"],
        ),
        row(
            "a sum of weights too few",
            node(
                scale,
                &[acc(), pairs(), per_channel(DType::I32, 2), per_channel(DType::F32, 3), per_channel(DType::F32, 3)],
            ),
            &["y:", "weight sums", "2", "3"],
        ),
        row(
            "an infinite number",
            node(Op::AddScalar(AddScalar { value: f32::INFINITY }), &[f32s(&[3])]),
            &["y:", "scalar", "inf"],
        ),
        row("the largest along the batch", node(Op::Max(Max { axis: 0 }), &[f32s(&[3])]), &["y:", "batch"]),
        row("the largest of nothing", node(Op::Max(Max { axis: 1 }), &[i8s(&[0, 3])]), &["y:", "length", "0", "1"]),
        row(
            "the largest of 64 bits",
            node(Op::Max(Max { axis: 1 }), &[(DType::I64, Shape::rows(3))]),
            &["y:", "i64", "f32"],
        ),
        row("one part to join", node(Op::Concat(Concat { axis: 1 }), &[f32s(&[3])]), &["y:", "1", "2"]),
        row("parts of two types", node(Op::Concat(Concat { axis: 1 }), &[f32s(&[3]), i8s(&[3])]), &["y:", "i8", "f32"]),
        row(
            "parts of two lengths",
            node(Op::Concat(Concat { axis: 2 }), &[f32s(&[3, 2]), f32s(&[4, 2])]),
            &["y:", "not joined", "4", "3"],
        ),
        row(
            "parts joined along the batch",
            node(Op::Concat(Concat { axis: 0 }), &[f32s(&[3]), f32s(&[3])]),
            &["y:", "batch"],
        ),
    ];
    check(table);
    let empty = built(|g| g.input("x", Shape::rows(2)).and_then(|x| g.concat("join", &[x], 1)));
    check(vec![row("one part by the builder", empty, &["join", "1", "2"])]);
}

/// A program of one step on these values, the last of which is its output.
pub(super) fn program(op: StepOp, values: &[(ValueType, Shape)]) -> Result<Program, ProgramError> {
    let named = |(at, (value_type, shape)): (usize, &(ValueType, Shape))| {
        let qparams = (*value_type == ValueType::I8).then(unit);
        Value { name: format!("v{at}"), value_type: *value_type, shape: shape.clone(), qparams }
    };
    let ids: Vec<ValueId> = (0..values.len()).map(ValueId::new).collect();
    let (inputs, output) = ids.split_at(values.len() - 1);
    let step = Step { name: "step".to_owned(), op, inputs: inputs.to_vec(), output: output[0] };
    let values = values.iter().enumerate().map(named).collect();
    Program::new(values, Vec::new(), inputs.to_vec(), output.to_vec(), vec![step])
}

#[test]
fn steps() {
    let i8s = |dims: &[usize]| (ValueType::I8, Shape::batched(dims));
    let floats = |dims: &[usize]| (ValueType::F32, Shape::batched(dims));
    let ids = |dims: &[usize]| (ValueType::I32, Shape::batched(dims));
    let qparams = QParams::new(1.0, 0).expect("valid");
    let good = AddMultipliers::new(1.0, 0.5, 1.0).expect("usable");
    let add = |zero_point, lo, multipliers| {
        let (a_zero_point, b_zero_point) = (zero_point, 0);
        StepOp::Op(Op::IntegerAdd(IntegerAdd { a_zero_point, b_zero_point, multipliers, qparams, lo, hi: 127 }))
    };
    let mul = |multiplier| {
        StepOp::Op(Op::IntegerMul(IntegerMul {
            a_zero_point: 0,
            b_zero_point: 0,
            multiplier,
            qparams,
            lo: -128,
            hi: 127,
        }))
    };
    let matmul = |epilogue| StepOp::QMatMul(QMatMul { a_zero_point: 0, b_zero_point: 0, epilogue });
    let product = StepOp::Op(Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: false }));
    let pair = || (ValueType::F32, Shape::fixed(&[2]));
    let scale = |n| Epilogue::Scale { scale: vec![0.5; n].into(), relu: false };
    let choose = |qscheme, eps| StepOp::Op(Op::ChooseQParams(ChooseQParams { qscheme, range: QuantRange::INT8, eps }));
    let table = |n| StepOp::QLut(QLut { table: vec![0i8; n].into() });
    let softmax = |axis| StepOp::Op(Op::Softmax(Softmax { axis }));
    let three = [i8s(&[3]), i8s(&[3]), i8s(&[3])];
    assert!(program(add(0, -128, good), &three).is_ok());
    assert!(program(matmul(scale(2)), &[i8s(&[4, 3]), i8s(&[3, 2]), floats(&[4, 2])]).is_ok());
    let tokens = [i8s(&[4, 3]), i8s(&[3, 2]), floats(&[4, 2]), pair(), floats(&[4, 2])];
    assert!(program(product.clone(), &tokens).is_ok());
    let table = vec![
        row("one part of a sum", program(add(0, -128, good), &three[1..]), &["step", "inputs is 1", "2"]),
        row(
            "a sum of floats",
            program(add(0, -128, good), &[floats(&[3]), i8s(&[3]), i8s(&[3])]),
            &["v0", "F32", "I8"],
        ),
        row("a zero point that is no code", program(add(-129, -128, good), &three), &["step", "-129"]),
        row("codes beyond int8", program(add(0, -130, good), &three), &["step", "-130..=127"]),
        row(
            "unusable multipliers",
            program(add(0, -128, AddMultipliers { a: 1 << 22, ..good }), &three),
            &["step", "multipliers", "4194304"],
        ),
        row(
            "a sum that does not broadcast",
            program(add(0, -128, good), &[i8s(&[3]), i8s(&[2]), i8s(&[3])]),
            &["step", "[rows, 2]"],
        ),
        row("a multiplier that is NaN", program(mul(f32::NAN), &three), &["step", "NaN"]),
        row(
            "inner dimensions",
            program(matmul(scale(2)), &[i8s(&[4, 3]), i8s(&[2, 2]), floats(&[4, 2])]),
            &["[rows, 2, 2]"],
        ),
        row(
            "factors",
            program(matmul(scale(3)), &[i8s(&[4, 3]), i8s(&[3, 2]), floats(&[4, 2])]),
            &["factors", "3", "2"],
        ),
        row(
            "a sum that could overflow",
            program(matmul(scale(1)), &[i8s(&[1, 40_000]), i8s(&[40_000, 1]), floats(&[1, 1])]),
            &["step", "40000", "33025"],
        ),
        row(
            "a dynamic product of activations",
            program(
                matmul(Epilogue::Dynamic {
                    weight_sum: Arc::new([0, 0]),
                    scale: Arc::new([1.0, 1.0]),
                    bias: Arc::new([0.0, 0.0]),
                    relu: false,
                }),
                &[i8s(&[4, 3]), i8s(&[3, 2]), floats(&[4, 2])],
            ),
            &["step", "dynamic"],
        ),
        row(
            "a dynamic product without pairs",
            program(product.clone(), &[i8s(&[4, 3]), i8s(&[3, 2]), floats(&[4, 2])]),
            &["step", "inputs is 2", "4"],
        ),
        row(
            "a dynamic product to codes",
            program(product.clone(), &[i8s(&[4, 3]), i8s(&[3, 2]), pair(), pair(), i8s(&[4, 2])]),
            &["step", "v4", "I8", "F32"],
        ),
        row(
            "a dynamic product's pairs of other rows",
            program(product.clone(), &[i8s(&[4, 3]), i8s(&[3, 2]), floats(&[3, 2]), pair(), floats(&[4, 2])]),
            &["step", "[rows, 3, 2]"],
        ),
        row(
            "a dynamic product with a scale for each row of the sum",
            program(product.clone(), &[i8s(&[4, 3]), i8s(&[3, 2]), pair(), floats(&[3, 2]), floats(&[4, 2])]),
            &["step", "[rows, 3, 2]"],
        ),
        row(
            "a dynamic sum that could overflow",
            program(product, &[i8s(&[1, 40_000]), i8s(&[40_000, 1]), pair(), pair(), floats(&[1, 1])]),
            &["step", "40000", "33025"],
        ),
        row("a table of 3 entries", program(table(3), &three[..2]), &["step", "3", "256"]),
        row(
            "a table that changes the shape",
            program(table(256), &[i8s(&[3]), i8s(&[4])]),
            &["[rows, 3]", "[rows, 4]"],
        ),
        row(
            "an eps of 0",
            program(choose(QScheme::per_token_affine(), 0.0), &[floats(&[3]), floats(&[2])]),
            &["step", "eps 0 "],
        ),
        row(
            "one pair for all tokens",
            program(choose(QScheme::per_token_affine(), 1e-6), &[floats(&[4, 3]), floats(&[2])]),
            &["[rows, 2]"],
        ),
        row(
            "pairs of other rows",
            program(
                StepOp::Op(Op::QuantizeDynamic(QuantizeDynamic { range: QuantRange::INT8 })),
                &[floats(&[4, 3]), floats(&[5, 2]), i8s(&[4, 3])],
            ),
            &["[rows, 5, 2]"],
        ),
        row(
            "parts that do not join",
            program(StepOp::Op(Op::Concat(Concat { axis: 1 })), &[i8s(&[3]), i8s(&[3]), i8s(&[7])]),
            &["[rows, 7]"],
        ),
        row(
            "parts joined along the batch",
            program(StepOp::Op(Op::Concat(Concat { axis: 0 })), &[i8s(&[3]), i8s(&[3]), i8s(&[3])]),
            &["[rows, 3]"],
        ),
        row(
            "a reshape to another size",
            program(StepOp::from(Reshape { dims: vec![2, 2] }), &[i8s(&[3]), i8s(&[2, 2])]),
            &["[rows, 2, 2]"],
        ),
        row(
            "no permutation",
            program(StepOp::Op(Op::Transpose(Transpose { perm: vec![0, 1, 1] })), &[i8s(&[3, 2]), i8s(&[2, 3])]),
            &["[rows, 2, 3]"],
        ),
        row(
            "a table of one axis",
            program(
                StepOp::Op(Op::Embedding(Embedding::default())),
                &[ids(&[]), (ValueType::F32, Shape::fixed(&[9])), floats(&[9])],
            ),
            &["[9]"],
        ),
        row("a softmax along the batch", program(softmax(0), &[floats(&[3]), floats(&[3])]), &["step", "[rows, 3]"]),
        row("a softmax along nothing", program(softmax(2), &[floats(&[3]), floats(&[3])]), &["step", "[rows, 3]"]),
        row(
            "a negative eps",
            program(
                StepOp::Op(Op::LayerNorm(LayerNorm { eps: -1.0 })),
                &[
                    floats(&[3]),
                    (ValueType::F32, Shape::fixed(&[3])),
                    (ValueType::F32, Shape::fixed(&[3])),
                    floats(&[3]),
                ],
            ),
            &["step", "eps -1 "],
        ),
        row(
            "the largest along the batch",
            program(StepOp::Op(Op::Max(Max { axis: 0 })), &[i8s(&[]), (ValueType::I8, Shape::fixed(&[]))]),
            &["step", "[rows]"],
        ),
        row(
            "the largest of other elements",
            program(StepOp::Op(Op::Max(Max { axis: 1 })), &[i8s(&[3, 2]), i8s(&[3])]),
            &["[rows, 3]"],
        ),
        row(
            "the largest id",
            program(StepOp::Op(Op::Max(Max { axis: 1 })), &[ids(&[3]), floats(&[])]),
            &["v1", "F32", "I32"],
        ),
    ];
    covers!(
        table,
        Error::Program(ProgramError::Size { .. }),
        Error::Program(ProgramError::Type { .. }),
        Error::Program(ProgramError::Shapes { .. }),
    );
    check(table);
}

/// A saved integer graph could hold any number: lowering checks what inference cannot see.
#[test]
fn constants_that_no_step_takes() {
    let factors = |value: f32| {
        built(|g| {
            let x = g.typed_input("x", Shape::rows(2), DType::I8)?;
            let w = g.constant("w", Tensor::from_i8(&[1, 2], vec![1; 2]).expect("fits"))?;
            let b = g.constant("b", Tensor::from_i32(&[1], vec![0]).expect("fits"))?;
            let m = g.constant("m", f32s(&[1], value))?;
            let acc = g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[x, w, b])?;
            g.node("y", Op::Requantize(Requantize { qparams: unit(), lo: -128, hi: 127, ch_axis: None }), &[acc, m])
        })
        .expect("a graph")
    };
    assert!(enfold::lower::lower(&factors(0.5)).is_ok());
    let table = vec![
        row("a multiplier of 0", enfold::lower::lower(&factors(0.0)), &["fc", "channel 0", "0e0"]),
        row("a negative multiplier", enfold::lower::lower(&factors(-0.5)), &["fc", "channel 0", "-5e-1"]),
    ];
    check(table);
}

/// A layer whose scale is found at run time, from these constants: fraction bits, bias and sums of the weights.
fn dynamic(fraction_bits: u32, bias: [i32; 2], sums: [i32; 2]) -> Result<Graph, GraphError> {
    built(|g| {
        let x = g.input("x", Shape::rows(2))?;
        let pairs = g.node("pairs", choose(QScheme::per_tensor_affine(), 1e-6), &[x])?;
        let codes = g.node("codes", Op::QuantizeDynamic(QuantizeDynamic { range: QuantRange::INT8 }), &[x, pairs])?;
        let w = g.constant("w", Tensor::from_i8(&[2, 2], vec![1, 2, 3, -4]).expect("fits"))?;
        let b = g.constant("b", Tensor::from_i32(&[2], bias.to_vec()).expect("fits"))?;
        let acc = g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits }), &[codes, w, b])?;
        let sums = g.constant("sums", Tensor::from_i32(&[2], sums.to_vec()).expect("fits"))?;
        let (scales, bias) = (g.constant("scales", f32s(&[2], 0.5))?, g.constant("bias", f32s(&[2], 0.5))?);
        g.node(
            "y",
            Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu: false }),
            &[acc, pairs, sums, scales, bias],
        )
    })
}

/// The interpreter would compute what the engines do not, so no graph holds it.
#[test]
fn sums_whose_scale_is_found_at_run_time() {
    assert!(dynamic(0, [0, 0], [3, -1]).is_ok());
    let table = vec![
        row("a bias in the sum", dynamic(0, [0, 9], [3, -1]), &["y:", "bias", "9 of channel 1", "must be 0"]),
        row("fraction bits", dynamic(2, [0, 0], [3, -1]), &["y:", "fraction_bits", "2", "must be 0"]),
        row("sums of other weights", dynamic(0, [0, 0], [4, -1]), &["y:", "4 of channel 0", "sum to 3"]),
    ];
    check(table);
}

/// No output is lost: each has a step, or a reason why there is none.
#[test]
fn outputs_without_steps() {
    let i8s = |shape: &[usize]| Tensor::from_i8(shape, vec![1; shape.iter().product()]).expect("fits");
    let late = built(|g| {
        let x = g.input("x", Shape::rows(2))?;
        let first = g.node("first", choose(QScheme::per_tensor_affine(), 1e-6), &[x])?;
        let codes = g.node("codes", Op::QuantizeDynamic(QuantizeDynamic { range: QuantRange::INT8 }), &[x, first])?;
        let (w, b) = (g.constant("w", i8s(&[1, 2]))?, g.constant("b", Tensor::from_i32(&[1], vec![0]).expect("fits"))?);
        let acc = g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[codes, w, b])?;
        let late = g.node("late", choose(QScheme::per_tensor_affine(), 1e-6), &[x])?;
        let sums = g.constant("sums", Tensor::from_i32(&[1], vec![2]).expect("fits"))?;
        let (scales, bias) = (g.constant("scales", f32s(&[1], 0.5))?, g.constant("bias", f32s(&[1], 0.5))?);
        g.node(
            "y",
            Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu: false }),
            &[acc, late, sums, scales, bias],
        )
    });
    let known_sum = built(|g| {
        let factors = g.input("factors", Shape::fixed(&[1]))?;
        let (x, w) = (g.constant("x", i8s(&[3, 2]))?, g.constant("w", i8s(&[1, 2]))?);
        let b = g.constant("b", Tensor::from_i32(&[1], vec![0]).expect("fits"))?;
        let acc = g.node("fc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[x, w, b])?;
        g.node("y", Op::Requantize(Requantize { qparams: unit(), lo: -128, hi: 127, ch_axis: None }), &[acc, factors])
    });
    let wide = |id: i64| {
        built(|g| {
            g.input("x", Shape::rows(2))?;
            g.constant("ids", Tensor::from_i64(&[2], vec![5, id]).expect("fits"))
        })
        .expect("a graph")
    };
    let lowered = |graph: Result<Graph, GraphError>| enfold::lower::lower(&graph.expect("a graph"));
    assert!(lowered(Ok(wide(7))).is_ok_and(|program| program.outputs().len() == 1));
    let table = vec![
        row("scales that come after the sums", lowered(late), &["fc", "computed after its sums"]),
        row("a constant sum with factors that are none", lowered(known_sum), &["y", "is a constant"]),
        row("an id that i32 does not hold", lowered(Ok(wide(1 << 32))), &["ids", "element 1", "4294967296", "i32"]),
    ];
    check(table);
}

/// A file may hold a weight of i32 values: no integer layer reads it, so it stays float, with its bias.
#[test]
fn weights_of_wide_codes_stay_float() {
    use enfold::values::TensorQParams;
    let per_tensor = || TensorQParams::PerTensor(unit());
    let graph = built(|g| {
        let x = g.input("x", Shape::rows(2))?;
        let q = g.node("q", Op::Quantize(Quantize::new(per_tensor(), QuantRange::INT8)), &[x])?;
        let dq = g.node("dq", Op::Dequantize(Dequantize { qparams: per_tensor() }), &[q])?;
        let w = g.constant("w", Tensor::from_i32(&[1, 2], vec![300, -2]).expect("fits"))?;
        let w = g.node("dw", Op::Dequantize(Dequantize { qparams: per_tensor() }), &[w])?;
        let b = g.constant("b", f32s(&[1], 0.5))?;
        g.linear_nodes("fc", dq, w, Some(b))
    });
    let integers = enfold::quantize::to_integer(&graph.expect("a graph")).expect("rewritten");
    let reasons: Vec<String> = integers.summary().float.iter().map(ToString::to_string).collect();
    assert!(reasons.iter().any(|reason| reason.contains("fc") && reason.contains("is of i32")), "{reasons:?}");
    let y = enfold::interp::Interpreter::new(&integers).run(&[f32s(&[1, 2], 1.0)]).expect("run");
    assert_eq!(y[0].as_f32(), Some(&[298.5][..]));
}
