//! Exports of dynamically quantized graphs, read again, and functions and arithmetic that only look like theirs.

use super::super::{ExportOptions, ImportOptions, export, import};
use super::dynamic::X;
use super::*;
use crate::graph::{GraphBuilder, NodeId};
use crate::ops::{ChooseQParams, Dequantize, DequantizeDynamic, QuantizeDynamic};
use crate::values::{MIN_SCALE, QScheme, QuantRange, Shape, TensorQParams};

/// A dynamic layer as `convert` makes it.
fn layer(qscheme: QScheme, range: QuantRange) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let choose = ChooseQParams { qscheme, range, eps: 1e-5 };
    let mut node = |name: &str, op: Op, inputs: &[NodeId]| g.node(name, op, inputs).expect("a node");
    let qparams = node("qparams", choose.into(), &[x]);
    let values = node("values", QuantizeDynamic { range }.into(), &[x, qparams]);
    let real = node("real", DequantizeDynamic.into(), &[values, qparams]);
    let weight = g.constant("w", Tensor::from_i8(&[2, 3], vec![100, -50, 3, 7, -128, 127]).expect("fits"));
    let qparams = TensorQParams::per_channel(&[0.5, 0.25], &[0, 0], 0).expect("valid");
    let weight = weight.expect("a constant");
    let weight = g.node("w.dequantize", Dequantize { qparams }, &[weight]).expect("a node");
    let y = g.linear_nodes("fc", real, weight, None).expect("a layer");
    g.finish([y]).expect("a graph")
}

/// What is exported is imported again, whether ONNX has an operator for it or not.
#[test]
fn exports_are_read_as_they_were() {
    let narrow = QuantRange::new(-100, 90).expect("valid");
    let x = tensor(&[2, 3], &X);
    for (qscheme, range) in [
        (QScheme::per_tensor_affine(), QuantRange::INT8),
        (QScheme::per_tensor_affine(), narrow),
        (QScheme::per_tensor_symmetric(), QuantRange::new(-127, 127).expect("valid")),
        (QScheme::per_token_affine(), QuantRange::INT8),
        (QScheme::per_token_affine(), narrow),
    ] {
        let graph = layer(qscheme, range);
        let bytes = export(&graph, &ExportOptions::default()).expect("exported");
        let read = import(bytes, None, &ImportOptions::default()).expect("imported");
        let mut wanted = ops(&graph);
        let mut found = ops(&read);
        wanted.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, wanted, "{qscheme} {range}: {read}");
        let choose = |graph: &Graph| {
            graph.nodes().iter().find_map(|node| match node.op {
                Op::ChooseQParams(choose) => Some(choose),
                _ => None,
            })
        };
        let (own, other) = (choose(&graph).expect("chosen"), choose(&read).expect("chosen"));
        assert_eq!((own.qscheme, own.range), (other.qscheme, other.range));
        // The operator has no smallest scale.
        let by_operator = qscheme == QScheme::per_tensor_affine() && range == QuantRange::INT8;
        assert_eq!(other.eps, if by_operator { MIN_SCALE } else { own.eps });
        assert_eq!(run(&read, std::slice::from_ref(&x)), run(&graph, std::slice::from_ref(&x)), "{qscheme} {range}");
    }
}

/// A layer whose input is quantized per token in floats, as older versions of this crate exported it.
const SPELLED: &[(&str, &str, &str)] = &[
    ("ReduceMin", "x", "smallest"),
    ("ReduceMax", "x", "largest"),
    ("Min", "smallest zero", "min"),
    ("Max", "largest zero", "max"),
    ("Sub", "max min", "span"),
    ("Div", "span steps", "step"),
    ("Max", "step eps", "scale"),
    ("Div", "one scale", "inv_scale"),
    ("Div", "min scale", "low"),
    ("Div", "max scale", "high"),
    ("Sub", "quant_min low", "from_lo"),
    ("Sub", "quant_max high", "from_hi"),
    ("Add", "quant_min low", "off_lo"),
    ("Add", "quant_max high", "off_hi"),
    ("Add", "off_lo off_hi", "off"),
    ("Greater", "off zero", "from_low"),
    ("Where", "from_low from_lo from_hi", "either"),
    ("Clip", "either quant_min quant_max", "clipped"),
    ("Round", "clipped", "zero_point"),
    ("Sub", "quant_min zero_point", "lo"),
    ("Sub", "quant_max zero_point", "hi"),
    ("Mul", "x inv_scale", "multiplied"),
    ("Round", "multiplied", "rounded"),
    ("Max", "rounded lo", "raised"),
    ("Min", "raised hi", "values"),
    ("Mul", "values scale", "real"),
    ("MatMul", "real w", "y"),
];

/// Near misses of the arithmetic that was exported stay arithmetic.
#[test]
fn arithmetic_that_is_none_of_ours() {
    let scalars = [("zero", 0.0), ("one", 1.0), ("eps", 1e-5), ("quant_min", -128.0), ("quant_max", 127.0)];
    let mut build = Build::new(17).input("x", &["batch", "3"]).floats("w", &[3, 1], &[1.0, 2.0, 3.0]);
    for (name, value) in scalars.into_iter().chain([("steps", 255.0)]) {
        build = build.floats(name, &[], &[value]);
    }
    for &(op_type, inputs, output) in SPELLED {
        build = build.node(op_type, inputs, output);
        if op_type.starts_with("Reduce") {
            build = build.list("axes", &[-1]).int("keepdims", 1);
        }
    }
    let build = build.output("y");
    let chooses = |build: &Build| ops(&build.done(&[])).contains(&"choose_qparams");
    assert!(chooses(&build));
    let mut kept = 0;
    for at in 0..SPELLED.len() {
        let mut build = build.clone();
        if changed(&mut build.graph().node[at]) {
            kept += 1;
            assert!(!chooses(&build), "node {at}");
        }
    }
    assert!(kept > 12, "{kept}");
}

/// Makes another operator of a node, if it is arithmetic.
fn changed(node: &mut crate::onnx::proto::NodeProto) -> bool {
    let other = match node.op_type.as_str() {
        "Min" => "Max",
        "Max" => "Min",
        "Sub" => "Add",
        "Add" | "Div" => "Sub",
        "Round" => "Floor",
        _ => return false,
    };
    other.clone_into(&mut node.op_type);
    true
}

/// A function that has the name of an exported one but other nodes is what its nodes are.
#[test]
fn functions_that_are_none_of_ours() {
    use prost::Message as _;
    let bytes =
        export(&layer(QScheme::per_token_affine(), QuantRange::INT8), &ExportOptions::default()).expect("exported");
    let model = crate::onnx::proto::ModelProto::decode(&*bytes).expect("a model");
    let chooses = |model: &crate::onnx::proto::ModelProto| {
        let graph = import(model.encode_to_vec(), None, &ImportOptions::default());
        graph.is_ok_and(|graph| ops(&graph).contains(&"choose_qparams"))
    };
    assert!(chooses(&model));
    let mut kept = 0;
    let quantize = |model: &crate::onnx::proto::ModelProto| {
        model.functions.iter().position(|function| function.name == "DynamicQuantizePerToken").expect("a function")
    };
    let at = quantize(&model);
    for node in 0..model.functions[at].node.len() {
        let mut model = model.clone();
        if changed(&mut model.functions[at].node[node]) {
            kept += 1;
            assert!(!chooses(&model), "node {node}");
        }
    }
    assert!(kept > 12, "{kept}");
    // Numbers that no quantized value has are refused by name.
    let mut model = model;
    let tensors = &mut model.graph.as_mut().expect("a graph").initializer;
    let lowest = tensors.iter_mut().find(|tensor| tensor.name.ends_with("quant_min")).expect("a number");
    lowest.raw_data = (-500f32).to_le_bytes().to_vec().into();
    let error = import(model.encode_to_vec(), None, &ImportOptions::default()).expect_err("refused").to_string();
    assert!(error.contains("its quantized values are from -500 to 127, expected integers of 8 bits"), "{error}");
}
