//! Nodes that a quantizer was told to leave in float stay float, whatever is quantized around them.

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::ops::{Add, Mul, Op};
use enfold::quantize::{ConvertOptions, Quantizer, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use super::{prepared, symmetric, tensor};

type Build = fn(&mut GraphBuilder, NodeId, NodeId) -> NodeId;

/// Every operator that becomes an integer node between quantized values, with or without an annotation. The node is called "left"
/// and reads two quantized values.
const MEMBERS: [(&str, Build); 12] = [
    ("gelu", |g, a, _| g.gelu("left", a).expect("a node")),
    ("clamp", |g, a, _| g.clamp("left", a, -0.5, 0.5).expect("a node")),
    ("relu", |g, a, _| g.relu("left", a).expect("a node")),
    ("add", |g, a, b| g.add("left", a, b).expect("a node")),
    ("mul", |g, a, b| g.mul("left", a, b).expect("a node")),
    ("add_scalar", |g, a, _| g.add_scalar("left", a, 0.5).expect("a node")),
    ("concat", |g, a, b| g.concat("left", &[a, b], 1).expect("a node")),
    ("reshape", |g, a, _| g.reshape("left", a, &[6, 1]).expect("a node")),
    ("flatten", |g, a, _| {
        let a = g.reshape("apart", a, &[2, 3]).expect("a node");
        g.flatten("left", a, 1).expect("a node")
    }),
    ("slice", |g, a, _| g.slice("left", a, 1, 1..4).expect("a node")),
    ("max", |g, a, _| {
        let a = g.reshape("apart", a, &[2, 3]).expect("a node");
        g.max("left", a, 1).expect("a node")
    }),
    ("linear", |g, a, _| g.linear("left", a, tensor(3, &[6, 6]), None).expect("a layer")),
];

fn graph(build: Build) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let [a, b] = ["a", "b"].map(|name| g.linear(name, x, tensor(1, &[6, 4]), None).expect("a layer"));
    let h = build(&mut g, a, b);
    let k = g.linear("other", a, tensor(4, &[3, 6]), None).expect("a layer");
    // A layer reads the result, so that the node stands between quantized values.
    let y = g.mul("behind", h, h).expect("a product");
    g.finish([y, k]).expect("a graph")
}

/// The reason why the node called "left" is float in the integer form; `None` if it is not.
fn float_reason(graph: &Graph, quantizer: &dyn Quantizer) -> Option<String> {
    let quantized = convert(&prepared(graph, quantizer), &ConvertOptions::default()).expect("converted");
    // Archives keep the reason too.
    let bytes = enfold::archive::to_bytes(&quantized).expect("bytes");
    let quantized = enfold::archive::from_bytes(&bytes).expect("the same");
    let integers = to_integer(&quantized).expect("rewritten");
    let left = |node: &&enfold::graph::FloatNode| node.name == "left";
    integers.summary().float.iter().find(left).map(|node| node.reason.clone())
}

#[test]
fn nodes_that_are_named_stay_float() {
    for (what, build) in MEMBERS {
        let graph = graph(build);
        let all = WgpuQuantizer::new().set_global(symmetric());
        assert_eq!(float_reason(&graph, &all), None, "{what}: without the mark it is an integer node");
        let named = all.clone().set_module_name("left", None);
        assert_eq!(float_reason(&graph, &named).as_deref(), Some("module name \"left\" is left in float"), "{what}");
        let operator = graph.node(graph.find("left").expect("the node")).op.name();
        if !["linear", "mul", "add_scalar"].contains(&operator) {
            let by_operator = all.clone().set_operator_type(operator, None);
            assert!(float_reason(&graph, &by_operator).is_some_and(|r| r.contains(operator)), "{what}");
        }
        if let Op::Add(Add) | Op::Mul(Mul) | Op::Concat(_) | Op::Linear(_) =
            graph.node(graph.find("left").expect("the node")).op
        {
            let filtered = all.set_filter_function(|node| node.name != "left");
            assert_eq!(float_reason(&graph, &filtered).as_deref(), Some("the filter function leaves it out"), "{what}");
        }
    }
}

/// A value that only passes through to an output stays float.
#[test]
fn caches_pass_through_as_they_are() {
    let cache = |read_by_layer: bool| {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::batched(&[1, 4])).expect("an input");
        let past = g.input("past", Shape::batched(&[3, 6])).expect("an input");
        let new = g.linear("k", x, tensor(1, &[6, 4]), None).expect("a layer");
        let present = g.concat("present", &[past, new], 1).expect("joined");
        let moved = g.transpose("moved", past, &[0, 2, 1]).expect("turned");
        let both = g.concat("both", &[moved, moved], 1).expect("joined");
        let y = g.linear("y", if read_by_layer { present } else { new }, tensor(2, &[2, 6]), None).expect("a layer");
        g.finish([y, present, both]).expect("a graph")
    };
    let x = tensor(5, &[2, 1, 4]);
    let past = Tensor::from_f32(&[2, 3, 6], tensor(6, &[36]).as_f32().expect("floats").to_vec()).expect("lengths fit");
    let run = |graph: &Graph, islands: bool| {
        let quantizer = WgpuQuantizer::new().set_global(symmetric()).float_islands(islands);
        let mut prepared = enfold::quantize::prepare(graph, &quantizer).expect("prepared");
        prepared.observe(&[&x, &past]).expect("observed");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        let integers = to_integer(&quantized).expect("rewritten");
        enfold::interp::Interpreter::new(&integers).run(&[&x, &past]).expect("runs")
    };
    let kept = |outputs: &[Tensor]| {
        let (present, past) = (outputs[1].as_f32().expect("floats"), past.as_f32().expect("floats"));
        present.chunks(24).zip(past.chunks(18)).all(|(present, past)| present[..18] == *past)
    };
    let graph = cache(false);
    let outputs = run(&graph, true);
    assert!(kept(&outputs), "the cache is rounded");
    let plain = enfold::interp::Interpreter::new(&graph).run(&[&x, &past]).expect("runs");
    assert_eq!(outputs[2], plain[2], "what is moved and joined");
    assert!(!kept(&run(&graph, false)), "without islands it is rounded");
    assert!(!kept(&run(&cache(true), true)), "an integer layer reads its codes");
}

/// Integers have no scale, however they are concatenated and moved.
#[test]
fn integers_that_are_joined_and_moved() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let mask = g.typed_input("mask", Shape::rows(3), DType::I32).expect("an input");
    let joined = g.concat("joined", &[mask, mask], 1).expect("joined");
    let moved = g.reshape("moved", joined, &[2, 3]).expect("a node");
    let part = g.slice("part", moved, 1, 1..2).expect("a node");
    let y = g.linear("y", x, tensor(1, &[2, 4]), None).expect("a layer");
    let graph = g.finish([y, part]).expect("a graph");
    let inputs = [tensor(2, &[1, 4]), Tensor::from_i32(&[1, 3], vec![7, 8, 9]).expect("three")];
    for config in [symmetric(), symmetric().dynamic()] {
        let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        prepared.observe(&inputs).expect("observed");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        let outputs = Interpreter::new(&to_integer(&quantized).expect("rewritten")).run(&inputs).expect("runs");
        assert_eq!(outputs[1].as_i32(), Some(&[7, 8, 9][..]));
    }
}
