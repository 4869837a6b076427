//! One small example an op: what interpreter and engines must make of it.

#[path = "ops/blocks.rs"]
mod blocks;
#[path = "ops/comparisons.rs"]
mod comparisons;
#[path = "ops/images.rs"]
mod images;
#[path = "ops/integers.rs"]
mod integers;
#[path = "ops/transformers.rs"]
mod transformers;

use enfold::graph::{GraphError, NodeId};
use enfold::numerics::{AddMultipliers, EPS, FloatProducts, QuantizeRule};
use enfold::ops::{
    ChooseQParams, Dequantize, DequantizeDynamic, Embedding, IntegerAdd, IntegerLinear, IntegerLinearGroups,
    IntegerMatMul, IntegerMatMulDynamic, IntegerMul, Linear, Lut, MatMul, Op, Quantize, QuantizeDynamic, Requantize,
    ScaleAccumulator, ScaleAccumulatorDynamic,
};
use enfold::values::{DType, QParams, QScheme, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

/// One small graph.
pub(crate) struct OpCase {
    pub(crate) name: &'static str,
    pub(crate) graph: Graph,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) expected: Tensor,
    /// Whether GPUs promise the bits of the interpreter.
    #[allow(dead_code)]
    pub(crate) exact: bool,
}

pub(crate) fn f32s(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_f32(shape, data.to_vec()).expect("lengths fit")
}

fn case(
    name: &'static str,
    build: impl FnOnce(&mut GraphBuilder) -> Result<NodeId, GraphError>,
    inputs: Vec<Tensor>,
    expected: Tensor,
    exact: bool,
) -> OpCase {
    let mut g = GraphBuilder::new();
    let output = build(&mut g).unwrap_or_else(|e| panic!("{name}: {e}"));
    let graph = g.finish([output]).unwrap_or_else(|e| panic!("{name}: {e}"));
    OpCase { name, graph, inputs, expected, exact }
}

/// One small example an op, with results worked out by hand or, for the transcendental ones, by torch 2.9.1 or Python.
pub(crate) fn table() -> Vec<OpCase> {
    let x23 = || f32s(&[2, 3], &[1.0, -2.0, 3.0, 0.5, 0.0, -1.0]);
    let x = |g: &mut GraphBuilder, dims: &[usize]| g.input("x", Shape::batched(dims));
    let per_tensor = |scale, z| TensorQParams::PerTensor(QParams::new(scale, z).expect("valid"));
    let i8s = |shape: &[usize], data: &[i8]| Tensor::from_i8(shape, data.to_vec()).expect("lengths fit");
    let i32s = |shape: &[usize], data: &[i32]| Tensor::from_i32(shape, data.to_vec()).expect("lengths fit");
    let mut rows = vec![
        case(
            "linear",
            |g| {
                let x = x(g, &[3])?;
                g.linear("y", x, f32s(&[2, 3], &[1.0, 2.0, 3.0, -1.0, 0.0, 1.0]), Some(f32s(&[2], &[10.0, 20.0])))
            },
            vec![x23()],
            f32s(&[2, 2], &[16.0, 22.0, 7.5, 18.5]),
            false,
        ),
        case(
            "linear without bias, rank 3",
            |g| {
                let x = x(g, &[2, 1])?;
                g.linear("y", x, f32s(&[2, 1], &[1.0, -1.0]), None)
            },
            vec![f32s(&[1, 2, 1], &[3.0, 4.0])],
            f32s(&[1, 2, 2], &[3.0, -3.0, 4.0, -4.0]),
            false,
        ),
        case(
            "matmul",
            |g| {
                let x = x(g, &[2, 2])?;
                let y = g.constant("b", f32s(&[2, 1], &[1.0, 10.0]))?;
                g.matmul("y", x, y)
            },
            vec![f32s(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])],
            f32s(&[2, 2, 1], &[21.0, 43.0, 65.0, 87.0]),
            false,
        ),
        // Twelve bits hold 4097 / 4096 as 1, and 3 as it is.
        case(
            "reproducible linear",
            |g| {
                let x = x(g, &[2])?;
                let w = g.constant("w", f32s(&[2, 2], &[4097.0 / 4096.0, 3.0, -1.0, 0.5]))?;
                let b = g.constant("b", f32s(&[2], &[0.25, 8193.0 / 8192.0]))?;
                g.node("y", Linear { products: FloatProducts::Reproducible }, &[x, w, b])
            },
            vec![f32s(&[2, 2], &[1.0, 2.0, 8193.0, 1.0])],
            f32s(&[2, 2], &[7.25, 8193.0 / 8192.0, 8195.25, -8190.5 + 1.0 / 8192.0]),
            true,
        ),
        case(
            "reproducible matmul, both stacks broadcast",
            |g| {
                let a = x(g, &[1, 2, 1])?;
                let b = g.constant("b", f32s(&[2, 1, 2], &[1.0, 4097.0, 10.0, -20.0]))?;
                g.node("y", MatMul { products: FloatProducts::Reproducible }, &[a, b])
            },
            vec![f32s(&[1, 1, 2, 1], &[3.0, 4097.0 / 4096.0])],
            f32s(&[1, 2, 2, 2], &[3.0, 12288.0, 1.0, 4096.0, 30.0, -60.0, 10.0, -20.0]),
            true,
        ),
        case(
            "matmul of two stacks",
            |g| {
                let a = x(g, &[1, 2])?;
                let b = g.input("b", Shape::batched(&[2, 1]))?;
                g.matmul("y", a, b)
            },
            vec![f32s(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]), f32s(&[2, 2, 1], &[1.0, 1.0, 2.0, 10.0])],
            f32s(&[2, 1, 1], &[3.0, 46.0]),
            false,
        ),
        case(
            "matmul with a broadcast stack",
            |g| {
                let a = x(g, &[2, 1, 1])?;
                let b = g.constant("b", f32s(&[2, 1, 2], &[1.0, 2.0, 10.0, 20.0]))?;
                g.matmul("y", a, b)
            },
            vec![f32s(&[1, 2, 1, 1], &[3.0, 4.0])],
            f32s(&[1, 2, 1, 2], &[3.0, 6.0, 40.0, 80.0]),
            false,
        ),
        case(
            "matmul with stacks that broadcast both ways",
            |g| {
                let a = x(g, &[2, 1, 1, 1])?;
                let b = g.constant("b", f32s(&[2, 3, 1, 1], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))?;
                g.matmul("y", a, b)
            },
            vec![f32s(&[1, 2, 1, 1, 1], &[1.0, 10.0])],
            f32s(&[1, 2, 3, 1, 1], &[1.0, 2.0, 3.0, 40.0, 50.0, 60.0]),
            false,
        ),
        case(
            "add, broadcast",
            |g| {
                let x = x(g, &[3])?;
                let b = g.constant("b", f32s(&[3], &[1.0, 2.0, 3.0]))?;
                g.add("y", x, b)
            },
            vec![x23()],
            f32s(&[2, 3], &[2.0, 0.0, 6.0, 1.5, 2.0, 2.0]),
            false,
        ),
        case(
            "mul, a column with a row",
            |g| {
                let x = x(g, &[1])?;
                let b = g.constant("b", f32s(&[1, 2], &[2.0, 3.0]))?;
                g.mul("y", x, b)
            },
            vec![f32s(&[2, 1], &[5.0, 7.0])],
            f32s(&[2, 2], &[10.0, 15.0, 14.0, 21.0]),
            false,
        ),
        case(
            "relu",
            |g| {
                let x = x(g, &[3])?;
                g.relu("y", x)
            },
            vec![x23()],
            f32s(&[2, 3], &[1.0, 0.0, 3.0, 0.5, 0.0, 0.0]),
            false,
        ),
        case(
            "silu",
            |g| {
                let x = x(g, &[3])?;
                g.silu("y", x)
            },
            vec![f32s(&[1, 3], &[0.0, 1.0, -2.0])],
            f32s(&[1, 3], &[0.0, 0.731_058_6, -0.238_405_84]),
            false,
        ),
        case(
            "reshape",
            |g| {
                let x = x(g, &[2, 3])?;
                g.reshape("y", x, &[3, 2])
            },
            vec![f32s(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
            f32s(&[1, 3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            false,
        ),
        case(
            "flatten",
            |g| {
                let x = x(g, &[2, 1, 2])?;
                g.flatten("y", x, 1)
            },
            vec![f32s(&[1, 2, 1, 2], &[1.0, 2.0, 3.0, 4.0])],
            f32s(&[1, 4], &[1.0, 2.0, 3.0, 4.0]),
            false,
        ),
        case(
            "transpose",
            |g| {
                let x = x(g, &[2, 3])?;
                g.transpose("y", x, &[0, 2, 1])
            },
            vec![f32s(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
            f32s(&[1, 3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]),
            false,
        ),
        case(
            "max",
            |g| {
                let x = x(g, &[2, 3])?;
                g.max("y", x, 1)
            },
            vec![f32s(&[1, 2, 3], &[1.0, -2.0, 3.0, 0.5, 5.0, -6.0])],
            f32s(&[1, 3], &[1.0, 5.0, 3.0]),
            true,
        ),
        case(
            "concat",
            |g| {
                let x = x(g, &[2])?;
                let z = g.input("z", Shape::rows(1))?;
                g.concat("y", &[x, z], 1)
            },
            vec![f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), f32s(&[2, 1], &[9.0, 8.0])],
            f32s(&[2, 3], &[1.0, 2.0, 9.0, 3.0, 4.0, 8.0]),
            false,
        ),
        case(
            "softmax over an inner axis",
            |g| {
                let x = x(g, &[2, 2])?;
                g.softmax("y", x, 1)
            },
            vec![f32s(&[1, 2, 2], &[0.0, 1.0, 0.0, 3.0])],
            f32s(&[1, 2, 2], &[0.5, 0.119_202_92, 0.5, 0.880_797_1]),
            false,
        ),
        case(
            "layer norm",
            |g| {
                let x = x(g, &[3])?;
                g.layer_norm("y", x, f32s(&[3], &[1.0, 2.0, 1.0]), f32s(&[3], &[0.0, 0.0, 5.0]), 1e-5)
            },
            vec![f32s(&[1, 3], &[1.0, 2.0, 3.0])],
            f32s(&[1, 3], &[-1.224_735_6, 0.0, 6.224_735_7]),
            false,
        ),
        case(
            "rms norm",
            |g| {
                let x = x(g, &[3])?;
                g.rms_norm("y", x, f32s(&[3], &[1.0, 2.0, -1.0]), 1e-5)
            },
            vec![f32s(&[2, 3], &[1.0, 2.0, 3.0, 0.0, 0.0, 0.0])],
            f32s(&[2, 3], &[0.462_909_55, 1.851_638_2, -1.388_728_7, 0.0, 0.0, -0.0]),
            false,
        ),
        case(
            "rms norm over two axes",
            |g| {
                let x = x(g, &[2, 2])?;
                g.rms_norm("y", x, f32s(&[2, 2], &[1.0, 2.0, 1.0, 1.0]), 0.5)
            },
            // The mean of the squares is 3.5.
            vec![f32s(&[1, 2, 2], &[1.0, 2.0, 3.0, 0.0])],
            f32s(&[1, 2, 2], &[0.5, 2.0, 1.5, 0.0]),
            false,
        ),
        case(
            "batch norm",
            |g| {
                let x = x(g, &[2])?;
                let c = |data: [f32; 2]| f32s(&[2], &data);
                g.batch_norm("y", x, [c([1.0, 0.0]), c([4.0, 1.0]), c([2.0, 1.0]), c([0.5, -1.0])], 0.0)
            },
            vec![f32s(&[1, 2], &[5.0, 3.0])],
            f32s(&[1, 2], &[4.5, 2.0]),
            false,
        ),
        case(
            "embedding",
            |g| {
                let ids = g.typed_input("ids", Shape::rows(2), DType::I32)?;
                g.embedding("y", ids, f32s(&[3, 1], &[10.0, 20.0, 30.0]))
            },
            vec![i32s(&[1, 2], &[2, 0])],
            f32s(&[1, 2, 1], &[30.0, 10.0]),
            false,
        ),
        case(
            "embedding, ids from the end",
            |g| {
                let ids = g.typed_input("ids", Shape::rows(4), DType::I32)?;
                let table = g.constant("table", f32s(&[3, 2], &[10.0, 11.0, 20.0, 21.0, 30.0, 31.0]))?;
                g.node("y", Embedding { from_end: true }, &[ids, table])
            },
            vec![i32s(&[1, 4], &[-1, 0, -3, 2])],
            f32s(&[1, 4, 2], &[30.0, 31.0, 10.0, 11.0, 10.0, 11.0, 30.0, 31.0]),
            true,
        ),
        case(
            "quantize",
            |g| {
                let x = x(g, &[3])?;
                g.node("y", Op::Quantize(Quantize::new(per_tensor(0.5, 1), QuantRange::INT8)), &[x])
            },
            vec![x23()],
            i8s(&[2, 3], &[3, -3, 7, 2, 1, -1]),
            true,
        ),
        // −8.25 is more than −27.5 steps of 0.3 after a division, and −27.5 after a product; −9.15 is −30.5, and less.
        case(
            "quantize by a division",
            |g| {
                let x = x(g, &[3])?;
                let rule = QuantizeRule::Divide;
                g.node(
                    "y",
                    Op::Quantize(Quantize { rule, ..Quantize::new(per_tensor(0.3, 1), QuantRange::INT8) }),
                    &[x],
                )
            },
            vec![f32s(&[2, 3], &[-8.25, -9.150_001, 0.6, -0.05, 1000.0, -1e-40])],
            i8s(&[2, 3], &[-26, -29, 3, 1, 127, 1]),
            true,
        ),
        case(
            "dequantize",
            |g| {
                let x = g.typed_input("x", Shape::rows(2), DType::I8)?;
                g.node("y", Op::Dequantize(Dequantize { qparams: per_tensor(0.5, 1) }), &[x])
            },
            vec![i8s(&[1, 2], &[3, -128])],
            f32s(&[1, 2], &[1.0, -64.5]),
            true,
        ),
        case(
            "integer linear and requantize",
            |g| {
                let x = g.typed_input("x", Shape::rows(2), DType::I8)?;
                let w = g.constant("w", i8s(&[2, 2], &[1, 2, -1, 0]))?;
                let b = g.constant("b", i32s(&[2], &[1, 2]))?;
                let acc = g.node("acc", Op::IntegerLinear(IntegerLinear { fraction_bits: 1 }), &[x, w, b])?;
                let m = g.constant("m", f32s(&[2], &[0.5, 0.5]))?;
                g.node(
                    "y",
                    Op::Requantize(Requantize {
                        qparams: QParams::new(1.0, 3).expect("valid"),
                        lo: 3,
                        hi: 127,
                        ch_axis: None,
                    }),
                    &[acc, m],
                )
            },
            // acc: 2 · (10 + 2 · 20) + 1 = 101 and 2 · −10 + 2 = −18; times 0.5, plus 3, at least 3.
            vec![i8s(&[1, 2], &[10, 20])],
            i8s(&[1, 2], &[53, 3]),
            true,
        ),
        case(
            "integer linear with groups and scale",
            |g| {
                let x = g.typed_input("x", Shape::rows(6), DType::I8)?;
                let w = g.constant("w", i8s(&[2, 6], &[1, 2, -1, 0, 3, 4, 0, 0, 0, 1, 7, -8]))?;
                let b = g.constant("b", i32s(&[2], &[1, 2]))?;
                let m = g.constant("m", i32s(&[2, 2], &[255, 2, 3, 1]))?;
                let z = g.constant("z", i8s(&[2, 2], &[0, 1, -1, 7]))?;
                let op = IntegerLinearGroups { fraction_bits: 1, group_size: 4 };
                let acc = g.node("acc", op, &[x, w, b, m, z])?;
                let s = g.constant("s", f32s(&[2], &[0.5, 0.25]))?;
                g.node("y", Op::ScaleAccumulator(ScaleAccumulator { relu: false, ch_axis: None }), &[acc, s])
            },
            // 255 · (1 + 4 − 3) + 2 · (5 · 2 + 6 · 3) = 566 and 3 · (1 + 2 + 3 + 4 · 2) + 6 · −15 = −48; times 2, plus 1 and 2.
            vec![i8s(&[1, 6], &[1, 2, 3, 4, 5, 6])],
            f32s(&[1, 2], &[566.5, -23.5]),
            true,
        ),
        case(
            "integer linear and scale",
            |g| {
                let x = g.typed_input("x", Shape::rows(2), DType::I8)?;
                let w = g.constant("w", i8s(&[2, 2], &[1, 2, -1, 0]))?;
                let b = g.constant("b", i32s(&[2], &[1, 2]))?;
                let acc = g.node("acc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[x, w, b])?;
                let s = g.constant("s", f32s(&[2], &[0.5, 0.25]))?;
                g.node("y", Op::ScaleAccumulator(ScaleAccumulator { relu: true, ch_axis: None }), &[acc, s])
            },
            vec![i8s(&[1, 2], &[10, 20])],
            f32s(&[1, 2], &[25.5, 0.0]),
            true,
        ),
        case(
            "add and mul of scalars",
            |g| {
                let x = x(g, &[3])?;
                let x = g.add_scalar("a", x, 0.5)?;
                g.mul_scalar("y", x, -2.0)
            },
            vec![x23()],
            f32s(&[2, 3], &[-3.0, 3.0, -7.0, -2.0, -1.0, 1.0]),
            false,
        ),
        case(
            "dynamic linear layer with relu, per tensor",
            |g| {
                let x = x(g, &[2])?;
                let range = QuantRange::INT8;
                let choose =
                    Op::ChooseQParams(ChooseQParams { qscheme: QScheme::per_tensor_affine(), range, eps: EPS });
                let pairs = g.node("pairs", choose, &[x])?;
                let q = g.node("q", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, pairs])?;
                let w = g.constant("w", i8s(&[2, 2], &[1, 2, -1, 0]))?;
                let zeros = g.constant("zeros", i32s(&[2], &[0, 0]))?;
                let acc = g.node("acc", Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }), &[q, w, zeros])?;
                let sums = g.constant("sums", i32s(&[2], &[3, -1]))?;
                let scales = g.constant("scales", f32s(&[2], &[1.0, 2.0]))?;
                let bias = g.constant("bias", f32s(&[2], &[0.5, 0.25]))?;
                g.node(
                    "y",
                    Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu: true }),
                    &[acc, pairs, sums, scales, bias],
                )
            },
            // Scale 2, zero point −128 + 64 = −64: 255 · 2 = 510 from −128 to 382.
            vec![f32s(&[1, 2], &[-128.0, 382.0])],
            f32s(&[1, 2], &[636.5, 256.25]),
            false,
        ),
        case(
            "dynamic quantize and dequantize, per token",
            |g| {
                let x = x(g, &[2])?;
                let range = QuantRange::INT8;
                let choose = Op::ChooseQParams(ChooseQParams { qscheme: QScheme::per_token_affine(), range, eps: EPS });
                let pairs = g.node("pairs", choose, &[x])?;
                let q = g.node("q", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, pairs])?;
                g.node("y", Op::DequantizeDynamic(DequantizeDynamic), &[q, pairs])
            },
            // Scales 2 and 1: the second row does not feel the first.
            vec![f32s(&[2, 2], &[-128.0, 382.0, 0.0, 255.0])],
            f32s(&[2, 2], &[-128.0, 382.0, 0.0, 255.0]),
            true,
        ),
        case(
            "dynamic quantize and dequantize, per token, without a batch",
            |g| {
                let x = g.input("x", Shape::fixed(&[2, 2]))?;
                let range = QuantRange::INT8;
                let choose = Op::ChooseQParams(ChooseQParams { qscheme: QScheme::per_token_affine(), range, eps: EPS });
                let pairs = g.node("pairs", choose, &[x])?;
                let q = g.node("q", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, pairs])?;
                g.node("y", Op::DequantizeDynamic(DequantizeDynamic), &[q, pairs])
            },
            vec![f32s(&[2, 2], &[-128.0, 382.0, 0.0, 255.0])],
            f32s(&[2, 2], &[-128.0, 382.0, 0.0, 255.0]),
            true,
        ),
        case(
            "integer add, broadcast",
            |g| {
                let a = g.typed_input("x", Shape::rows(2), DType::I8)?;
                let b = g.constant("b", i8s(&[2], &[4, -128]))?;
                let multipliers = AddMultipliers::new(0.5, 1.0, 1.0).expect("usable");
                let qparams = QParams::new(1.0, 3).expect("valid");
                let op = Op::IntegerAdd(IntegerAdd {
                    a_zero_point: 1,
                    b_zero_point: 2,
                    multipliers,
                    qparams,
                    lo: 3,
                    hi: 127,
                });
                g.node("y", op, &[a, b])
            },
            // (6 − 1) / 2 + 4 − 2 = 4.5, to even 4, plus 3; and far below 3.
            vec![i8s(&[1, 2], &[6, 0])],
            i8s(&[1, 2], &[7, 3]),
            true,
        ),
        case(
            "integer mul, broadcast",
            |g| {
                let a = g.typed_input("x", Shape::rows(2), DType::I8)?;
                let b = g.constant("b", i8s(&[1], &[4]))?;
                let qparams = QParams::new(1.0, 3).expect("valid");
                let op = Op::IntegerMul(IntegerMul {
                    a_zero_point: 1,
                    b_zero_point: 2,
                    multiplier: 0.25,
                    qparams,
                    lo: -128,
                    hi: 127,
                });
                g.node("y", op, &[a, b])
            },
            vec![i8s(&[1, 2], &[6, 0])],
            i8s(&[1, 2], &[5, 3]),
            true,
        ),
        case(
            "integer matmul and requantize",
            |g| {
                let a = g.typed_input("x", Shape::batched(&[1, 2]), DType::I8)?;
                let b = g.constant("b", i8s(&[2, 2], &[1, 2, 3, 4]))?;
                let acc =
                    g.node("acc", Op::IntegerMatMul(IntegerMatMul { a_zero_point: 1, b_zero_point: -1 }), &[a, b])?;
                let m = g.constant("m", f32s(&[2], &[1.0, 1.0]))?;
                g.node(
                    "y",
                    Op::Requantize(Requantize {
                        qparams: QParams::new(1.0, 0).expect("valid"),
                        lo: -128,
                        hi: 127,
                        ch_axis: None,
                    }),
                    &[acc, m],
                )
            },
            // 2 · 2 + 3 · 4 and 2 · 3 + 3 · 5.
            vec![i8s(&[1, 1, 2], &[3, 4])],
            i8s(&[1, 1, 2], &[16, 21]),
            true,
        ),
        case(
            "dynamic integer matmul, per token",
            |g| {
                let a = g.typed_input("x", Shape::batched(&[2, 2]), DType::I8)?;
                let a_pairs = g.input("pairs", Shape::batched(&[2, 2]))?;
                let b = g.constant("b", i8s(&[2, 2], &[1, 2, 3, 4]))?;
                let b_pairs = g.constant("b.pairs", f32s(&[2], &[0.25, -1.0]))?;
                g.node("y", Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: false }), &[a, b, a_pairs, b_pairs])
            },
            // 2 · 2 + 3 · 4 and 2 · 3 + 3 · 5, by 0.5 · 0.25; −127 · 2 + 128 · 4 and −127 · 3 + 128 · 5, by 2 · 0.25.
            vec![i8s(&[1, 2, 2], &[3, 4, -128, 127]), f32s(&[1, 2, 2], &[0.5, 1.0, 2.0, -1.0])],
            f32s(&[1, 2, 2], &[2.0, 2.625, 129.0, 129.5]),
            true,
        ),
        case(
            "dynamic integer matmul with relu, per tensor, with a broadcast stack",
            |g| {
                let a = g.typed_input("x", Shape::batched(&[1, 1, 2]), DType::I8)?;
                let a_pairs = g.constant("pairs", f32s(&[2], &[0.5, -128.0]))?;
                let b = g.constant("b", i8s(&[2, 2, 1], &[127, -128, 0, 126]))?;
                let b_pairs = g.constant("b.pairs", f32s(&[2], &[2.0, 127.0]))?;
                let y = g.node(
                    "m",
                    Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: false }),
                    &[a, b, a_pairs, b_pairs],
                )?;
                let z = g.node(
                    "z",
                    Op::IntegerMatMulDynamic(IntegerMatMulDynamic { relu: true }),
                    &[a, b, a_pairs, b_pairs],
                )?;
                g.concat("y", &[y, z], 3)
            },
            // 255 · 0 − 3 · 255 and −255 · 127 − 3 · 1.
            vec![i8s(&[1, 1, 1, 2], &[127, -125])],
            f32s(&[1, 2, 1, 2], &[-765.0, 0.0, -32_388.0, 0.0]),
            true,
        ),
        case(
            "table",
            |g| {
                let x = g.typed_input("x", Shape::rows(3), DType::I8)?;
                let table: Vec<i8> = (-128..=127i8).map(|code| code / 2).collect();
                let table = g.constant("table", i8s(&[256], &table))?;
                g.node("y", Op::Lut(Lut { qparams: QParams::new(1.0, 3).expect("valid") }), &[x, table])
            },
            vec![i8s(&[1, 3], &[-128, 0, 127])],
            i8s(&[1, 3], &[-64, 0, 63]),
            true,
        ),
        case(
            "concat along a middle axis",
            |g| {
                let x = x(g, &[2, 2])?;
                let c = g.relu("c", x)?;
                g.concat("y", &[x, c, x], 1)
            },
            vec![f32s(&[2, 2, 2], &[1.0, -2.0, 3.0, 4.0, -5.0, 6.0, -7.0, 8.0])],
            f32s(
                &[2, 6, 2],
                &[
                    1.0, -2.0, 3.0, 4.0, 1.0, 0.0, 3.0, 4.0, 1.0, -2.0, 3.0, 4.0, -5.0, 6.0, -7.0, 8.0, 0.0, 6.0, 0.0,
                    8.0, -5.0, 6.0, -7.0, 8.0,
                ],
            ),
            true,
        ),
        case(
            "concat of codes along a middle axis",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[2, 3]), DType::I8)?;
                let t = g.transpose("t", x, &[0, 2, 1])?;
                let t = g.reshape("r", t, &[2, 3])?;
                g.concat("y", &[x, t], 1)
            },
            vec![i8s(&[2, 2, 3], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])],
            i8s(&[2, 4, 3], &[1, 2, 3, 4, 5, 6, 1, 4, 2, 5, 3, 6, 7, 8, 9, 10, 11, 12, 7, 10, 8, 11, 9, 12]),
            true,
        ),
        case(
            "softmax of values far from 0, and of a mask",
            |g| {
                let x = x(g, &[3])?;
                g.softmax("y", x, 1)
            },
            vec![f32s(&[3, 3], &[-500.0, -501.0, f32::NEG_INFINITY, 500.0, 499.0, 0.0, 0.0, f32::NEG_INFINITY, 0.0])],
            f32s(&[3, 3], &[0.731_058_6, 0.268_941_43, 0.0, 0.731_058_6, 0.268_941_43, 0.0, 0.5, 0.0, 0.5]),
            false,
        ),
        case(
            "max of codes",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[2, 3]), DType::I8)?;
                g.max("y", x, 2)
            },
            vec![i8s(&[2, 2, 3], &[1, 2, -3, -7, -5, -6, 127, -128, 0, -128, -128, -128])],
            i8s(&[2, 2], &[2, -5, 127, -128]),
            true,
        ),
        case(
            "reshape, transpose and concat of codes",
            |g| {
                let x = g.typed_input("x", Shape::batched(&[2, 3]), DType::I8)?;
                let t = g.transpose("t", x, &[0, 2, 1])?;
                let r = g.reshape("r", t, &[2, 3])?;
                g.concat("y", &[x, r], 2)
            },
            vec![i8s(&[1, 2, 3], &[1, 2, 3, 4, 5, 6])],
            i8s(&[1, 2, 6], &[1, 2, 3, 1, 4, 2, 4, 5, 6, 5, 3, 6]),
            true,
        ),
    ];
    rows.extend(blocks::table());
    rows.extend(comparisons::table());
    rows.extend(images::rows());
    rows.extend(transformers::table());
    rows.extend(integers::table());
    rows
}
