//! Tests of the contents of exported files. `tests/onnx/check_with_onnxruntime.py` checks that ONNX Runtime computes the same numbers.

mod images;
mod products;

use prost::Message as _;

use super::*;
use crate::graph::{GraphBuilder, NodeId, Rewriter};
use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, TensorProto, data_type};
use crate::ops::{ChooseQParams, Constant, Dequantize, DequantizeDynamic, Op, Quantize, QuantizeDynamic, UnaryOp};
use crate::values::{DType, QParams, QScheme, QuantRange, Shape, Tensor, TensorQParams};

fn exported(graph: &Graph, options: &ExportOptions) -> GraphProto {
    let bytes = export(graph, options).expect("exported");
    let model = ModelProto::decode(&*bytes).expect("a model");
    assert_eq!((model.ir_version, model.opset_import[0].version), (8, 17));
    model.graph.expect("a graph")
}

fn ops(graph: &GraphProto) -> Vec<&str> {
    graph.node.iter().map(|node| node.op_type.as_str()).collect()
}

fn node<'g>(graph: &'g GraphProto, op: &str) -> &'g NodeProto {
    let mut found = graph.node.iter().filter(|node| node.op_type == op);
    let node = found.next().unwrap_or_else(|| panic!("no {op} among {:?}", ops(graph)));
    assert!(found.next().is_none(), "more than one {op}");
    node
}

/// The node that makes a value.
fn maker<'g>(graph: &'g GraphProto, value: &str) -> &'g NodeProto {
    graph.node.iter().find(|node| node.output.iter().any(|output| output == value)).expect("a node")
}

fn initializer<'g>(graph: &'g GraphProto, name: &str) -> &'g TensorProto {
    graph.initializer.iter().find(|tensor| tensor.name == name).expect("an initializer")
}

fn floats(tensor: &TensorProto) -> Vec<f32> {
    assert_eq!(tensor.data_type, data_type::FLOAT);
    tensor.raw_data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn attribute(node: &NodeProto, name: &str) -> i64 {
    node.attribute.iter().find(|attribute| attribute.name == name).expect("an attribute").i
}

fn per_tensor(scale: f32, zero_point: i32) -> TensorQParams {
    TensorQParams::PerTensor(QParams::new(scale, zero_point).expect("valid"))
}

fn f32s(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::from_f32(shape, data.to_vec()).expect("lengths fit")
}

fn pair(g: &mut GraphBuilder, name: &str, x: NodeId, qparams: TensorQParams, range: QuantRange) -> NodeId {
    let quantize = Op::Quantize(Quantize::new(qparams.clone(), range));
    let codes = g.node(&format!("{name}.quantize"), quantize, &[x]).expect("a node");
    g.node(&format!("{name}.dequantize"), Op::Dequantize(Dequantize { qparams }), &[codes]).expect("a node")
}

/// A weight `[2, 3]` of quantized values, with one scale for each of two channels.
fn weight(g: &mut GraphBuilder, codes: [i8; 6], bits: Option<u32>) -> NodeId {
    let tensor = Tensor::from_i8(&[2, 3], codes.to_vec()).expect("lengths fit");
    let codes = g.node("fc.weight", Constant { bits, ..Constant::new(tensor) }, &[]);
    let qparams = TensorQParams::per_channel(&[0.5, 0.25], &[0, 0], 0).expect("valid");
    g.node("fc.weight.dequantize", Op::Dequantize(Dequantize { qparams }), &[codes.expect("a constant")])
        .expect("a node")
}

const CODES: [i8; 6] = [127, -2, 3, 4, 5, -126];

/// A static layer with ReLU on inputs of shape `[rows, dims…]`, with `zero_point` for all activations.
fn layer(dims: &[usize], codes: [i8; 6], zero_point: i32, range: QuantRange) -> Graph {
    layer_of_bits(dims, (codes, None), zero_point, range)
}

/// [`layer`], with a weight that may state its bits.
fn layer_of_bits(dims: &[usize], (codes, bits): ([i8; 6], Option<u32>), zero_point: i32, range: QuantRange) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(dims)).expect("an input");
    let x = pair(&mut g, "x", x, per_tensor(0.125, zero_point), range);
    let w = weight(&mut g, codes, bits);
    let b = g.constant("fc.bias", f32s(&[2], &[1.0, -0.7])).expect("a constant");
    let y = g.linear_nodes("fc", x, w, Some(b)).expect("a layer");
    let y = g.relu("relu", y).expect("a relu");
    let y = pair(&mut g, "relu", y, per_tensor(0.25, zero_point), range);
    g.finish([y]).expect("a graph")
}

#[test]
fn a_static_layer_is_a_gemm_between_pairs() {
    let graph = exported(
        &layer(&[3], CODES, -5, QuantRange::INT8),
        &ExportOptions { batch: "n".to_owned(), ..ExportOptions::default() },
    );
    let expected = [
        "QuantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "DequantizeLinear",
        "Gemm",
        "Relu",
        "QuantizeLinear",
        "DequantizeLinear",
    ];
    assert_eq!(ops(&graph), expected);
    let gemm = node(&graph, "Gemm");
    assert_eq!((gemm.name.as_str(), attribute(gemm, "transB")), ("fc", 1));

    let x = maker(&graph, &gemm.input[0]);
    assert_eq!(floats(initializer(&graph, &x.input[1])), [0.125]);
    let zero_point = initializer(&graph, &x.input[2]);
    // Activations are uint8, 128 higher.
    assert_eq!((zero_point.data_type, zero_point.raw_data[0]), (data_type::UINT8, 123));
    // A quantize/dequantize pair has one scale and one zero point.
    assert_eq!(maker(&graph, &x.input[0]).input[1..], x.input[1..]);

    let w = maker(&graph, &gemm.input[1]);
    assert_eq!(attribute(w, "axis"), 0);
    assert_eq!(floats(initializer(&graph, &w.input[1])), [0.5, 0.25]);
    let codes = initializer(&graph, &w.input[0]);
    assert_eq!((codes.dims.as_slice(), codes.data_type), ([2, 3].as_slice(), data_type::INT8));
    assert_eq!(codes.raw_data, CODES.map(|code| code as u8).as_slice());

    // Biases at the scales 0.125 · 0.5 and 0.125 · 0.25, without a zero point: 16, and −22.4 to nearest.
    let b = maker(&graph, &gemm.input[2]);
    assert_eq!((b.input.len(), floats(initializer(&graph, &b.input[1]))), (2, vec![0.0625, 0.03125]));
    let codes = initializer(&graph, &b.input[0]);
    assert_eq!(codes.data_type, data_type::INT32);
    assert_eq!(codes.raw_data, [16i32.to_le_bytes(), (-22i32).to_le_bytes()].concat());

    let dims = |value: &crate::onnx::proto::ValueInfoProto| {
        let shape = value.r#type.clone().and_then(|t| t.tensor_type).and_then(|t| t.shape).expect("a shape");
        shape.dim.into_iter().map(|d| (d.dim_value, d.dim_param)).collect::<Vec<_>>()
    };
    assert_eq!(dims(&graph.input[0]), [(None, Some("n".to_owned())), (Some(3), None)]);
    assert_eq!(dims(&graph.output[0]), [(None, Some("n".to_owned())), (Some(2), None)]);
}

/// The output has the name of the float node; that node's own value gives way.
#[test]
fn outputs_have_the_names_of_their_float_nodes() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let y = g.relu("y", x).expect("a node");
    let c = g.constant("c", f32s(&[1], &[1.0])).expect("a constant");
    let float = g.finish([y, x, c]).expect("a graph");
    let mut rewriter = Rewriter::new(&float);
    for id in [x, y, c] {
        rewriter.copy(id).expect("a node");
    }
    let (qparams, range) = (per_tensor(1.0, 0), QuantRange::INT8);
    let inputs = vec![rewriter.get(y).expect("a node")];
    let codes = rewriter.add("y.quantize", Op::Quantize(Quantize::new(qparams.clone(), range)), inputs, "y");
    let codes = vec![codes.expect("a node")];
    let real = rewriter.add("y.dequantize", Op::Dequantize(Dequantize { qparams }), codes, "y").expect("a node");
    rewriter.replace(y, real);
    let graph = rewriter.finish().expect("a graph");
    let graph = exported(&graph, &ExportOptions::default());
    let outputs: Vec<&str> = graph.output.iter().map(|value| value.name.as_str()).collect();
    // An input cannot be an output of the same name.
    assert_eq!(outputs, ["y", "x.1", "c"]);
    assert_eq!(maker(&graph, "y").op_type, "DequantizeLinear");
    assert_eq!((node(&graph, "Relu").name.as_str(), node(&graph, "Relu").output[0].as_str()), ("y", "y.1"));
    assert_eq!(maker(&graph, "c").op_type, "Identity");
}

#[test]
fn beyond_two_axes_the_weight_is_transposed() {
    let graph = exported(&layer(&[4, 3], CODES, -5, QuantRange::INT8), &ExportOptions::default());
    let product = node(&graph, "MatMul");
    let w = maker(&graph, &product.input[1]);
    assert_eq!(attribute(w, "axis"), 1);
    let codes = initializer(&graph, &w.input[0]);
    assert_eq!(codes.dims, [3, 2]);
    assert_eq!(codes.raw_data, [127i8, 4, -2, 5, 3, -126].map(|code| code as u8).as_slice());
    let sum = node(&graph, "Add");
    assert_eq!((sum.name.as_str(), &sum.input[0]), ("fc", &product.output[0]));
    assert_eq!(floats(initializer(&graph, &sum.input[1])), [1.0, -0.7]);
}

#[test]
fn biases_are_float_where_rounding_would_show() {
    let is_float = |graph: &Graph, preset| {
        let graph = exported(graph, &ExportOptions { preset, ..ExportOptions::default() });
        let bias = node(&graph, "Gemm").input[2].clone();
        graph.initializer.iter().any(|tensor| tensor.name == bias && tensor.data_type == data_type::FLOAT)
    };
    assert!(!is_float(&layer(&[3], CODES, 0, QuantRange::INT8), Preset::OnnxRuntime));
    // Small values of 8 bits are not values of few bits.
    let small = CODES.map(|code| code / 16);
    assert!(!is_float(&layer(&[3], small, 0, QuantRange::INT8), Preset::OnnxRuntime));
    let of_bits = |bits| layer_of_bits(&[3], (small, Some(bits)), 0, QuantRange::INT8);
    assert!(is_float(&of_bits(4), Preset::OnnxRuntime) && !is_float(&of_bits(8), Preset::OnnxRuntime));
    assert!(is_float(&layer(&[3], CODES, 0, QuantRange::INT8), Preset::TensorRt));
}

#[test]
fn codes_of_less_than_int8_are_clipped() {
    let graph = exported(&layer(&[3], CODES, 2, QuantRange::INT8), &ExportOptions::default());
    assert!(!ops(&graph).contains(&"Clip"), "{:?}", ops(&graph));
    let range = QuantRange::new(-64, 63).expect("valid");
    let graph = exported(&layer(&[3], CODES, 2, range), &ExportOptions::default());
    let clip = maker(&graph, "x.quantize");
    assert_eq!((clip.op_type.as_str(), maker(&graph, &clip.input[0]).op_type.as_str()), ("Clip", "QuantizeLinear"));
    let bound = |at: usize| initializer(&graph, &clip.input[at]);
    assert_eq!(
        [bound(1), bound(2)].map(|tensor| (tensor.data_type, tensor.raw_data[0])),
        [(data_type::UINT8, 64), (data_type::UINT8, 191)]
    );

    // Behind a ReLU, the smallest value is that of 0.
    let clip = maker(&graph, "relu.quantize");
    assert_eq!(initializer(&graph, &clip.input[1]).raw_data[0], 130);
    assert!(!ops(&graph).contains(&"Relu"), "{:?}", ops(&graph));

    let options = ExportOptions { preset: Preset::TensorRt, ..ExportOptions::default() };
    let graph = exported(&layer(&[3], CODES, 0, range), &options);
    assert!(ops(&graph).contains(&"Relu"), "{:?}", ops(&graph));
    let clip = maker(&graph, &maker(&graph, "x.quantize").input[0]);
    assert_eq!(clip.op_type, "Clip");
    let bound = |at: usize| floats(initializer(&graph, &clip.input[at]))[0];
    assert_eq!([bound(1), bound(2)], [-64.0 * 0.125, 63.0 * 0.125]);
}

/// A dynamic layer with one of the schemes.
fn dynamic(qscheme: QScheme) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let range = QuantRange::INT8;
    let choose = Op::ChooseQParams(ChooseQParams { qscheme, range, eps: 0.001 });
    let pairs = g.node("pairs", choose, &[x]).expect("a node");
    let codes = g.node("codes", Op::QuantizeDynamic(QuantizeDynamic { range }), &[x, pairs]).expect("a node");
    let x = g.node("real", Op::DequantizeDynamic(DequantizeDynamic), &[codes, pairs]).expect("a node");
    let w = weight(&mut g, CODES, None);
    let y = g.linear_nodes("fc", x, w, None).expect("a layer");
    g.finish([y]).expect("a graph")
}

/// A dynamic layer is a product of integers, and nothing dequantizes its input.
#[test]
fn dynamic_quantization_is_an_operator_or_a_function() {
    let graph = exported(&dynamic(QScheme::per_tensor_affine()), &ExportOptions::default());
    assert_eq!(ops(&graph), ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul"]);
    let [product, quantize] = ["MatMulInteger", "DynamicQuantizeLinear"].map(|op| node(&graph, op));
    assert_eq!([&product.input[0], &product.input[2]], [&quantize.output[0], &quantize.output[2]]);
    assert_eq!(initializer(&graph, &product.input[1]).dims, [3, 2]);

    for (qscheme, function, rest) in [
        (QScheme::per_token_affine(), "DynamicQuantizePerToken", &["MatMulPerToken"][..]),
        (
            QScheme::per_tensor_symmetric(),
            "DynamicQuantizePerTensorSymmetric",
            &["MatMulInteger", "Cast", "Mul", "Mul"],
        ),
    ] {
        let graph = dynamic(qscheme);
        let model = super::model(&graph, &ExportOptions::default()).expect("exported");
        let defined: Vec<&str> = model.functions.iter().map(|function| function.name.as_str()).collect();
        assert_eq!(defined.contains(&"MatMulPerToken"), qscheme.is_per_token(), "{defined:?}");
        let domains: Vec<&str> = model.opset_import.iter().map(|set| set.domain.as_str()).collect();
        assert!(defined.contains(&function) && domains == ["", "enfold"], "{defined:?} {domains:?}");
        let graph = model.graph.expect("a graph");
        assert_eq!(ops(&graph), [&[function], rest].concat());
        let eps = floats(initializer(&graph, "pairs.eps"));
        assert_eq!(eps, [0.001], "{qscheme}");
    }
}

#[test]
fn ids_are_cast_from_int64() {
    let mut g = GraphBuilder::new();
    let ids = g.typed_input("ids", Shape::rows(2), DType::I32).expect("an input");
    let y = g.embedding("words", ids, f32s(&[2, 1], &[1.0, 2.0])).expect("a node");
    let graph = exported(&g.finish([y]).expect("a graph"), &ExportOptions::default());
    let input = graph.input[0].r#type.clone().and_then(|t| t.tensor_type).expect("a tensor");
    assert_eq!(input.elem_type, data_type::INT64);
    assert_eq!(ops(&graph), ["Cast", "Gather"]);
    let gather = node(&graph, "Gather");
    assert_eq!((gather.input[0].as_str(), gather.input[1].as_str()), ("words.weight", "ids.int32"));
}

#[test]
fn functions_decompose_into_what_readers_look_for() {
    let of = |op: UnaryOp| {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(3)).expect("an input");
        let y = g.unary("y", op, x).expect("a node");
        let graph = exported(&g.finish([y]).expect("a graph"), &ExportOptions::default());
        assert_eq!(graph.node.last().map(|node| node.name.as_str()), Some("y"), "{op:?}");
        ops(&graph).join(" ")
    };
    assert_eq!(of(UnaryOp::Gelu), "Div Erf Add Mul Mul");
    assert_eq!(of(UnaryOp::GeluTanh), "Pow Mul Add Mul Tanh Add Mul Mul");
    assert_eq!(of(UnaryOp::Silu), "Sigmoid Mul");
    assert_eq!(of(UnaryOp::Step), "Greater Cast");
    assert_eq!(of(UnaryOp::RoundF16), "Cast Cast");
    assert_eq!(of(UnaryOp::RoundBf16), "Cast Cast");
    for &op in UnaryOp::ALL {
        assert!(!of(op).is_empty(), "{op:?}");
    }
}

#[test]
fn bounds_that_are_infinite_are_left_out() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let above = g.clamp("above", x, 0.5, f32::INFINITY).expect("a node");
    let below = g.clamp("below", x, f32::NEG_INFINITY, 0.5).expect("a node");
    let graph = exported(&g.finish([above, below]).expect("a graph"), &ExportOptions::default());
    assert_eq!(maker(&graph, "above").input, ["x", "above.min"]);
    assert_eq!(maker(&graph, "below").input, ["x", "", "below.max"]);
}

/// Any batch runs: the first length of a reshape is that of its input.
#[test]
fn reshapes_keep_the_batch() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[2, 3])).expect("an input");
    let y = g.reshape("y", x, &[6]).expect("a node");
    let graph = exported(&g.finish([y]).expect("a graph"), &ExportOptions::default());
    let dims = &initializer(&graph, "y.shape").raw_data;
    assert_eq!(*dims, [0i64.to_le_bytes(), 6i64.to_le_bytes()].concat());
}

/// Inputs and outputs are declared as they were in the file that a graph comes from, by way of every pass.
#[test]
fn types_stay_as_they_were_declared() {
    use crate::onnx::build::{Build, value};
    let numbers: Vec<i32> = crate::onnx::tensor::numbers().map(|(number, _)| number).collect();
    let floats = [data_type::FLOAT, data_type::FLOAT16, data_type::DOUBLE, data_type::BFLOAT16];
    for elem_type in numbers {
        let op = match elem_type {
            data_type::INT8 => continue, // Codes, whose type is the graph's.
            data_type::BOOL => "Not",
            float if floats.contains(&float) => "Relu",
            _ => "Identity",
        };
        let mut build = Build::new(17).node(op, "v", "y");
        build.graph().input.push(value("v", elem_type, &["batch", "2"]));
        build.graph().output.push(value("y", elem_type, &["batch", "2"]));
        let graph = build.done(&[]);
        let mut rewriter = Rewriter::new(&graph);
        for (id, _) in graph.iter() {
            rewriter.copy(id).expect("a copy");
        }
        let file = exported(&rewriter.finish().expect("a graph"), &ExportOptions::default());
        let declared = |value: &crate::onnx::proto::ValueInfoProto| {
            value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).expect("a tensor").elem_type
        };
        assert_eq!((declared(&file.input[0]), declared(&file.output[0])), (elem_type, elem_type));
        // The nodes that read and write these values have casts.
        let cast = ![data_type::FLOAT, data_type::INT32].contains(&elem_type);
        if cast {
            assert_eq!(attribute(maker(&file, "y"), "to"), i64::from(elem_type));
        }
        let first = file.node.iter().find(|node| node.input.iter().any(|input| input == "v")).expect("a reader");
        assert_eq!(first.op_type == "Cast", cast, "{elem_type}");
    }
}

/// 200,000 values of one name: trying all numbers again for each takes 2·10¹⁰ looks, which is hours.
#[test]
fn names_that_are_asked_for_again_take_a_step_each() {
    let mut writer = writer::Writer::default();
    assert_eq!(["n", "n.2", "n", "n", "n.2"].map(|wish| writer.unique(wish)), ["n", "n.2", "n.1", "n.3", "n.2.1"]);
    let last = (0..200_000).map(|_| writer.unique("n")).last();
    assert_eq!(last.as_deref(), Some("n.200003"));
}
