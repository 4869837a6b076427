//! The places of observers, quantize and dequantize nodes in networks where they are not obvious.

use enfold::graph::Rewriter;
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::numerics::FloatProducts;
use enfold::ops::{Dequantize, Op, Quantize, Requantize, Unary, UnaryOp};
use enfold::program::ValueType;
use enfold::quantize::{
    ConvertOptions, ObserverKind, PreparedGraph, QuantizationConfig, QuantizationSpec, ToIntegerOptions, WgpuQuantizer,
    convert, prepare, to_integer, to_integer_with_options,
};
use enfold::values::{QParams, QScheme, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

fn weight(n: usize, k: usize, seed: u64) -> Tensor {
    Tensor::from_f32(&[n, k], Random::new(seed).normals(n * k, 0.5)).expect("lengths fit")
}

fn batch(k: usize) -> Tensor {
    Tensor::from_f32(&[5, k], Random::new(99).normals(5 * k, 1.0)).expect("lengths fit")
}

fn prepared(graph: &Graph, config: QuantizationConfig) -> PreparedGraph {
    let mut prepared = prepare(graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
    let k = graph.node(graph.inputs()[0]).shape.fixed_dims()[0];
    prepared.observe(&[batch(k)]).expect("observed");
    prepared
}

fn quantized(graph: &Graph) -> Graph {
    convert(&prepared(graph, QuantizationConfig::symmetric()), &ConvertOptions::default()).expect("converted")
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.nodes().iter().filter(|n| n.op.name() == op).count()
}

/// x → fc1 and fc2, both of which are annotated, and tanh, which is not.
fn fan() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let a = g.linear("fc1", x, weight(3, 4, 1), None).expect("a layer");
    let b = g.linear("fc2", x, weight(3, 4, 2), None).expect("a layer");
    let c = g.tanh("tanh", x).expect("tanh");
    g.finish([a, b, c]).expect("a graph")
}

#[test]
fn each_annotated_consumer_gets_a_dequantize_of_its_own() {
    let quantized = quantized(&fan());
    let x = quantized.find("x.quantize").expect("one quantize node");
    let readers = quantized.users()[x.index()].len();
    assert_eq!((count(&quantized, "quantize_per_tensor"), readers), (3, 2), "{quantized}");
    // The consumer without annotation reads the float input.
    let tanh = quantized.node(quantized.find("tanh").expect("tanh"));
    assert_eq!(tanh.inputs, [quantized.inputs()[0]]);
    let linears: Vec<_> = ["fc1", "fc2"].map(|name| quantized.node(quantized.find(name).expect(name)).inputs[0]).into();
    assert_ne!(linears[0], linears[1]);
}

/// Two consumers of one value share its observer, since their specs agree; it observes the value once a batch.
#[test]
fn one_observer_serves_equal_specs() {
    let prepared = prepared(&fan(), QuantizationConfig::symmetric());
    assert_eq!(count(prepared.graph(), "observe"), 5, "x, two weights, two outputs");
    assert_eq!(prepared.observers().len(), 5);
    let histogram = prepared.observers().iter().find_map(|o| o.histogram().filter(|h| h.iter().sum::<f32>() == 20.0));
    assert!(histogram.is_some(), "x is counted once: 5 rows of 4");
}

/// A weight is observed when the graph is prepared, and calibration leaves its observer alone.
#[test]
fn constants_are_observed_once() {
    let graph = fan();
    let config = QuantizationConfig::symmetric();
    let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
    let seen = |p: &PreparedGraph| -> Vec<bool> { p.observers().iter().map(|o| !o.min_max().is_empty()).collect() };
    assert_eq!(seen(&prepared).iter().filter(|s| **s).count(), 2, "the two weights");
    let before = prepared.observers().to_vec();
    prepared.observe(&[batch(4)]).expect("observed");
    for (old, new) in before.iter().zip(prepared.observers()).filter(|(old, _)| !old.min_max().is_empty()) {
        assert_eq!(old, new);
    }
    assert!(seen(&prepared).iter().all(|s| *s));
}

/// A ReLU is fused with the layer only if nothing else reads the layer.
#[test]
fn a_layer_that_is_read_elsewhere_keeps_its_relu_apart() {
    for outputs in 1..3 {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(4)).expect("an input");
        let h = g.linear("fc", x, weight(3, 4, 1), None).expect("a layer");
        let y = g.relu("relu", h).expect("a relu");
        let graph = g.finish([y, h].into_iter().take(outputs)).expect("a graph");
        let quantized = quantized(&graph);
        let fused = outputs == 1;
        assert!(quantized.find("relu.quantize").is_some(), "{quantized}");
        assert_eq!(quantized.find("fc.quantize").is_some(), !fused, "{quantized}");
        // A ReLU that is not fused shares the qparams of the layer, and becomes a lookup table.
        let summary = to_integer(&quantized).expect("rewritten").summary();
        assert!(summary.float.is_empty(), "{summary}");
        assert_eq!(summary.integer.len(), outputs, "{summary}");
    }
}

/// By equation 6, a fused ReLU raises the smallest quantized value to the zero point.
#[test]
fn a_relu_before_a_symmetric_output_clamps_at_the_zero_point() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc", x, weight(8, 4, 1), None).expect("a layer");
    let y = g.relu("relu", h).expect("a relu");
    let graph = g.finish([y]).expect("a graph");
    let mut config = QuantizationConfig::symmetric().activation_observer(ObserverKind::MinMax);
    for spec in [&mut config.input_activation, &mut config.output_activation] {
        let Some(QuantizationSpec::Observed(spec)) = spec else { panic!("no spec") };
        spec.qscheme = QScheme::per_tensor_symmetric();
    }
    let quantized = convert(&prepared(&graph, config), &ConvertOptions::default()).expect("converted");
    let integers = to_integer(&quantized).expect("rewritten");
    let last = integers.node(integers.find("relu.quantize").expect("the requantize node"));
    assert!(matches!(last.op, Op::Requantize(Requantize { lo: 0, hi: 127, .. })), "{integers}");
    let x = batch(4);
    let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run").swap_remove(0);
    let (expected, got) = (run(&quantized), run(&integers));
    let smallest = got.as_f32().expect("floats").iter().copied().fold(f32::INFINITY, f32::min);
    assert_eq!(smallest, 0.0, "some sum is negative, and becomes 0");
    assert_eq!(got, expected);
}

/// An input that is quantized in two ways cannot enter as int8; it stays float, and each way is a step.
#[test]
fn int8_inputs_need_one_way_of_quantizing() {
    for second in [0.1, 0.2] {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(16)).expect("an input");
        let quantize = |scale| {
            let qparams = TensorQParams::PerTensor(QParams::new(scale, 0).expect("valid"));
            Op::Quantize(Quantize::new(qparams, QuantRange::INT8))
        };
        let dequantize = |scale| {
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(QParams::new(scale, 0).expect("valid")) })
        };
        let a = g.node("a", quantize(0.1), &[x]).expect("a");
        let b = g.node("b", quantize(second), &[x]).expect("b");
        let a = g.node("fa", dequantize(0.1), &[a]).expect("fa");
        let b = g.node("fb", dequantize(second), &[b]).expect("fb");
        let graph = g.finish([a, b]).expect("a graph");
        let options = LowerOptions { int8_inputs: true, int8_outputs: false, ..LowerOptions::default() };
        let program = lower_with(&graph, &options).expect("lowered");
        let one_way = second == 0.1;
        let expected = if one_way { (ValueType::I8, 2) } else { (ValueType::F32, 4) };
        let input = program.value(program.inputs()[0]);
        assert_eq!((input.value_type, program.steps().len()), expected, "{program}");
    }
}

/// Names and origins lead from the integer form back to the network.
#[test]
fn every_node_knows_where_it_comes_from() {
    let graph = fan();
    let integers = to_integer(&quantized(&graph)).expect("rewritten");
    for node in integers.nodes() {
        assert!(graph.find(&node.origin).is_some(), "{} comes from {}", node.name, node.origin);
    }
    let fc1 = integers.node(integers.find("fc1.quantize").expect("the requantize node"));
    assert_eq!(fc1.origin, "fc1");
    assert!(matches!(integers.node(integers.find("tanh").expect("tanh")).op, Op::Unary(Unary { op: UnaryOp::Tanh })));
}

/// A pass that copies a node keeps the reason why it stays float.
#[test]
fn copies_keep_their_reasons() {
    let integers = to_integer(&quantized(&fan())).expect("rewritten");
    let mut rewriter = Rewriter::new(&integers);
    for (id, _) in integers.iter() {
        rewriter.copy(id).expect("copied");
    }
    let copy = rewriter.finish().expect("a graph");
    assert!(!integers.summary().float.is_empty());
    assert_eq!((copy.summary(), &copy), (integers.summary(), &integers));
    assert_eq!(to_integer(&integers).expect("rewritten"), integers, "what is in integers stays as it is");
}

/// Quantized values with other qparams or a wider range than the output are not passed on unchanged.
#[test]
fn codes_are_passed_on_only_where_they_mean_the_same() {
    let quantize = |g: &mut GraphBuilder, name: &str, x, scale, range| {
        let qparams = TensorQParams::PerTensor(QParams::new(scale, 0).expect("valid"));
        let codes =
            g.node(&format!("{name}.q"), Op::Quantize(Quantize::new(qparams.clone(), range)), &[x]).expect("codes");
        g.node(&format!("{name}.dq"), Op::Dequantize(Dequantize { qparams }), &[codes]).expect("reals")
    };
    let few = QuantRange::new(-10, 10).expect("valid");
    let x = Tensor::from_f32(&[1, 4], vec![5.0, -5.0, 0.5, 2.0]).expect("fits");
    for (scale, range, largest) in [(0.1, few, 1.0), (0.02, QuantRange::INT8, 2.56), (0.1, QuantRange::INT8, 5.0)] {
        for through in ["nothing", "relu", "reshape", "concat"] {
            let mut g = GraphBuilder::new();
            let input = g.input("x", Shape::rows(4)).expect("an input");
            let h = quantize(&mut g, "x", input, 0.1, QuantRange::INT8);
            let h = match through {
                "relu" => g.relu("relu", h).expect("a relu"),
                "reshape" => g.reshape("pairs", h, &[2, 2]).expect("moved"),
                "concat" => {
                    let other = quantize(&mut g, "other", input, 0.3, QuantRange::INT8);
                    g.concat("both", &[h, other], 1).expect("joined")
                }
                _ => h,
            };
            let y = quantize(&mut g, "y", h, scale, range);
            let graph = g.finish([y]).expect("a graph");
            let integers = to_integer(&graph).expect("rewritten");
            assert!(integers.summary().float.is_empty(), "{through}: {}", integers.summary());
            let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
            assert_eq!(run(&integers), run(&graph), "{through}: {integers}");
            let program = enfold::lower::lower(&integers).expect("lowered");
            assert_eq!(enfold::cpu::Engine::new(&program).expect("an engine").run(&[&x]).expect("run"), run(&graph));
            let clipped = &run(&graph)[0];
            let most = clipped.as_f32().expect("reals").iter().fold(0f32, |most, v| most.max(v.abs()));
            approx::assert_relative_eq!(most, largest, max_relative = 0.02);
        }
    }
}

/// An affine weight, which another program may have made, has no integer form: its layer states the reason, and runs.
#[test]
fn affine_weights_stay_float_and_say_so() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(2)).expect("an input");
    let of = |z| TensorQParams::PerTensor(QParams::new(0.1, z).expect("valid"));
    let codes = g.node("x.q", Op::Quantize(Quantize::new(of(0), QuantRange::INT8)), &[x]).expect("codes");
    let h = g.node("x.dq", Op::Dequantize(Dequantize { qparams: of(0) }), &[codes]).expect("reals");
    let w = g.constant("w", Tensor::from_i8(&[1, 2], vec![5, -3]).expect("fits")).expect("codes");
    let w = g.node("w.dq", Op::Dequantize(Dequantize { qparams: of(3) }), &[w]).expect("reals");
    let y = g.linear_nodes("fc", h, w, None).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    let full = ToIntegerOptions { float_products: FloatProducts::Full };
    let integers = to_integer_with_options(&graph, &full).expect("rewritten");
    let reasons: Vec<String> = integers.summary().float.iter().map(ToString::to_string).collect();
    assert!(reasons.len() == 1 && reasons[0].contains("fc") && reasons[0].contains("zero point 3"), "{reasons:?}");
    let x = Tensor::from_f32(&[1, 2], vec![1.0, 2.0]).expect("fits");
    let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
    assert_eq!(run(&integers), run(&graph));
    // By default, the factors have twelve bits: 0.1 · 2, −0.1 · 6 and the inputs 1 and 2 are rounded.
    let reproducible = run(&to_integer(&graph).expect("rewritten"));
    let difference = (reproducible[0].as_f32().expect("floats")[0] + 1.0).abs();
    assert!(difference > 0.0 && difference < 1e-3, "{difference:e}");
}

/// Nodes without annotation share the dequantize node of the value that they read.
#[test]
fn consumers_that_are_not_annotated_share_a_dequantize() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc", x, weight(3, 4, 1), None).expect("a layer");
    let (a, b) = (g.tanh("a", h).expect("tanh"), g.sigmoid("b", h).expect("sigmoid"));
    let quantized = quantized(&g.finish([a, b]).expect("a graph"));
    let reads = ["a", "b"].map(|name| quantized.node(quantized.find(name).expect(name)).inputs[0]);
    assert_eq!(reads[0], reads[1], "{quantized}");
}

/// A partly quantized network can be quantized further, and the quantized part does not change.
#[test]
fn a_quantized_network_can_be_quantized_further() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc1", x, weight(6, 4, 1), None).expect("a layer");
    let h = g.tanh("tanh", h).expect("tanh");
    let y = g.linear("fc2", h, weight(3, 6, 2), None).expect("a layer");
    let float = g.finish([y]).expect("a graph");
    let only = |graph: &Graph, name: &str| {
        let quantizer = WgpuQuantizer::new().set_module_name(name, QuantizationConfig::symmetric());
        let mut prepared = prepare(graph, &quantizer).expect("prepared");
        prepared.observe(&[batch(4)]).expect("observed");
        convert(&prepared, &ConvertOptions::default()).expect("converted")
    };
    let once = only(&float, "fc1");
    let twice = only(&once, "fc2");
    for name in ["x.quantize", "fc1.weight.quantize", "fc1.quantize"] {
        let of = |graph: &Graph| graph.node(graph.find(name).expect(name)).op.clone();
        assert_eq!(of(&once), of(&twice), "{name}");
    }
    let integers = to_integer(&twice).expect("rewritten");
    assert!(integers.summary().float.is_empty(), "{}", integers.summary());
    let together = {
        let mut prepared =
            prepare(&float, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric())).expect("prepared");
        prepared.observe(&[batch(4)]).expect("observed");
        convert(&prepared, &ConvertOptions::default()).expect("converted")
    };
    let db = |graph: &Graph| enfold::compare::compare(&float, graph, &[batch(4)]).expect("comparable").output_sqnr_db;
    assert!(db(&twice) > db(&together) - 6.0, "{} and {} dB", db(&twice), db(&together));
}

/// Nodes that compute a weight from constants are folded into its quantized values, and other nodes are unchanged.
#[test]
fn what_computes_a_weight_is_folded_and_other_constants_are_not() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let stored = g.constant("stored", weight(4, 3, 1)).expect("a constant");
    let turned = g.transpose("turned", stored, &[1, 0]).expect("moved");
    let y = g.linear_nodes("fc", x, turned, None).expect("a layer");
    let other = g.constant("other", weight(1, 4, 2)).expect("a constant");
    let moved = g.transpose("moved", other, &[1, 0]).expect("moved");
    let moved = g.reshape("row", moved, &[4]).expect("moved");
    let z = g.unary("tanh", UnaryOp::Tanh, x).expect("tanh");
    let z = g.softmax("softmax", z, 1).expect("softmax");
    let z = g.concat("both", &[z, x], 1).expect("joined");
    let graph = g.finish([y, z, moved]).expect("a graph");
    let quantizer = WgpuQuantizer::new().set_module_name("fc", QuantizationConfig::symmetric());
    let mut prepared = prepare(&graph, &quantizer).expect("prepared");
    prepared.observe(&[batch(4)]).expect("observed");
    let unfolded = ConvertOptions { fold_quantize: false, ..ConvertOptions::default() };
    let (folded, unfolded) =
        [ConvertOptions::default(), unfolded].map(|o| convert(&prepared, &o).expect("converted")).into();
    assert!(unfolded.find("stored").is_some() && unfolded.find("turned").is_some(), "{unfolded}");
    assert!(folded.find("stored").is_none() && folded.find("turned").is_none(), "{folded}");
    let codes = folded.node(folded.find("turned.quantize").expect("the weight"));
    assert!(matches!(codes.op, Op::Constant(_)) && codes.shape == Shape::fixed(&[3, 4]), "{folded}");
    assert!(folded.find("other").is_some() && folded.find("moved").is_some(), "{folded}");
    let run = |graph: &Graph| Interpreter::new(graph).run(&[batch(4)]).expect("run");
    assert_eq!(run(&folded), run(&unfolded));
}

/// A convolution that has taken in a batch norm with a large variance has small weights. They keep their 8 bits, and channels of zeros, or of
/// nearly nothing, with a bias stay in integers. With XNNPACK's smallest scale, 2⁻¹², they are all rounded to 0.
#[test]
fn small_weights_keep_their_bits() {
    let x = |factor: f32| {
        let values = Random::new(99).normals(5 * 8, 1.0).iter().map(|v| v * factor).collect();
        Tensor::from_f32(&[5, 8], values).expect("as many")
    };
    let sqnr = |factor: f32, config: QuantizationConfig| {
        let mut values: Vec<f32> = Random::new(7).normals(6 * 8, 0.5).iter().map(|v| v / factor).collect();
        let channels: Vec<&mut [f32]> = values.chunks_exact_mut(8).collect();
        for (channel, size) in channels.into_iter().zip([0.0, 1e-20, 1e-6]) {
            channel.iter_mut().for_each(|w| *w *= size);
        }
        let mut g = GraphBuilder::new();
        let input = g.input("x", Shape::rows(8)).expect("an input");
        let weight = Tensor::from_f32(&[6, 8], values).expect("as many");
        let bias = Tensor::from_f32(&[6], vec![50.0, 50.0, 50.0, 0.5, 0.5, 0.5]).expect("as many");
        let y = g.linear("layer", input, weight, Some(bias)).expect("a layer");
        let graph = g.finish([y]).expect("a graph");
        let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        prepared.observe(&[x(factor)]).expect("observed");
        let integers =
            to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("integers");
        assert_eq!(count(&integers, "linear"), 0, "{}", integers.summary());
        let run = |graph| Interpreter::new(graph).run(&[x(factor)]).expect("a run").swap_remove(0);
        // The channels of ordinary weights.
        let of = |y: Tensor| -> Vec<f32> {
            y.as_f32().expect("floats").chunks_exact(6).flat_map(|row| row[3..].to_vec()).collect()
        };
        enfold::compare::sqnr_db(&of(run(&graph)), &of(run(&integers))).expect("as many")
    };
    let config = || QuantizationConfig::symmetric().per_channel();
    for factor in [1.0, 1e4] {
        let db = sqnr(factor, config().dynamic());
        assert!(db > 30.0, "weights divided by {factor}: {db} dB");
    }
    let xnnpack = || config().dynamic().smallest_weight_scale(enfold::numerics::EPS);
    assert!(sqnr(1.0, xnnpack()) > 30.0 && sqnr(1e4, xnnpack()) < 10.0);
    // A layer leaves the integers, whose bias does not fit: static ones have it in their sums.
    for factor in [1.0, 1e4] {
        sqnr(factor, config());
    }
}
