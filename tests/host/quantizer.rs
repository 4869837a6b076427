//! The WgpuQuantizer: the nodes that it quantizes, their specs, and the observers that they share.

mod functions;
mod left;
mod masks;
mod slices;

use enfold::interp::Interpreter;
use enfold::numerics::EPS;
use enfold::ops::{Conv, Dequantize, Linear, MaxPool, Op, Quantize, Window};
use enfold::quantize::{
    Annotations, ComposableQuantizer, ConvertOptions, EdgeOrNode, ObservedSpec, ObserverKind, PrepareError,
    PreparedGraph, QuantizationAnnotation, QuantizationConfig, QuantizationSpec, Quantizer, WgpuQuantizer, convert,
    prepare, to_integer,
};
use enfold::values::{QParams, QScheme, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

fn tensor(seed: u64, shape: &[usize]) -> Tensor {
    let data = Random::new(seed).normals(shape.iter().product(), 0.5);
    Tensor::from_f32(shape, data).expect("lengths fit")
}

/// Two blocks of two layers, with a residual sum, and a head.
fn blocks() -> Graph {
    let mut g = GraphBuilder::new();
    g.module("blocks.0", "Block");
    g.module("blocks.1", "Block");
    let mut h = g.input("x", Shape::rows(8)).expect("an input");
    for i in 0..2 {
        let before = h;
        h = g.linear(&format!("blocks.{i}.fc1"), h, tensor(i, &[12, 8]), Some(tensor(9, &[12]))).expect("a layer");
        h = g.relu(&format!("blocks.{i}.relu"), h).expect("a relu");
        h = g.linear(&format!("blocks.{i}.fc2"), h, tensor(i + 2, &[8, 12]), None).expect("a layer");
        h = g.add(&format!("blocks.{i}.add"), before, h).expect("a sum");
    }
    let y = g.linear("head", h, tensor(7, &[3, 8]), None).expect("a layer");
    g.finish([y]).expect("a graph")
}

fn symmetric() -> QuantizationConfig {
    QuantizationConfig::symmetric()
}

fn prepared(graph: &Graph, quantizer: &dyn Quantizer) -> PreparedGraph {
    let mut prepared = prepare(graph, quantizer).expect("prepared");
    let shape = graph.node(graph.inputs()[0]).shape.with_rows(16);
    prepared.observe(&[tensor(99, &shape)]).expect("observed");
    prepared
}

fn converted(graph: &Graph, quantizer: &dyn Quantizer) -> Graph {
    convert(&prepared(graph, quantizer), &ConvertOptions::default()).expect("converted")
}

/// The names of all quantized compute nodes.
fn quantized(graph: &Graph, quantizer: &WgpuQuantizer) -> Vec<String> {
    prepare(graph, quantizer).expect("prepared").summary().quantized.iter().map(|node| node.name.clone()).collect()
}

/// Whether the weight of a layer is quantized per channel; `None` if it is float.
fn weight_channels(graph: &Graph, layer: &str) -> Option<bool> {
    let weight = graph.node(graph.node(graph.find(layer).expect("the layer")).inputs[1]);
    match &weight.op {
        Op::Dequantize(Dequantize { qparams }) => Some(matches!(qparams, TensorQParams::PerChannel { .. })),
        _ => None,
    }
}

#[test]
fn names_come_before_types_operators_and_the_global_configuration() {
    let graph = blocks();
    let quantizer = WgpuQuantizer::new()
        .set_global(symmetric())
        .set_operator_type("linear", symmetric().per_channel())
        .set_module_type("Block", symmetric())
        .set_module_name("blocks.1.fc1", symmetric().per_channel());
    let q = converted(&graph, &quantizer);
    // The first is configured by its operator, the second by its type, and the third by its name, although its type is configured too.
    assert_eq!(weight_channels(&q, "head"), Some(true));
    assert_eq!(weight_channels(&q, "blocks.0.fc1"), Some(false));
    assert_eq!(weight_channels(&q, "blocks.1.fc1"), Some(true));
    assert_eq!(weight_channels(&q, "blocks.1.fc2"), Some(false));
    // The order of the calls does not matter between kinds.
    let other = WgpuQuantizer::new()
        .set_module_name("blocks.1.fc1", symmetric().per_channel())
        .set_module_type("Block", symmetric())
        .set_operator_type("linear", symmetric().per_channel())
        .set_global(symmetric());
    assert_eq!(converted(&graph, &other), q);
}

/// A node of a configured module never gets the configuration of its operator type or the global one.
#[test]
fn nodes_of_a_configured_module_never_fall_through() {
    let graph = blocks();
    let linears = ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1", "blocks.1.fc2"];
    let dynamic = || WgpuQuantizer::new().set_module_type("Block", symmetric().dynamic());
    for quantizer in [dynamic().set_operator_type("add", symmetric()), dynamic().set_global(symmetric())] {
        let mut names = quantized(&graph, &quantizer);
        names.retain(|name| name != "head");
        assert_eq!(names, linears);
    }
}

/// A ReLU belongs to the operator before it, whose type was configured.
#[test]
fn an_operator_type_takes_the_relu_with_it() {
    let graph = blocks();
    let quantizer = WgpuQuantizer::new().set_operator_type("linear", symmetric());
    let q = converted(&graph, &quantizer);
    assert!(q.find("blocks.0.relu.quantize").is_some() && q.find("blocks.0.fc1.quantize").is_none(), "{q}");
}

#[test]
fn a_module_covers_all_below_it_and_no_namesake() {
    let graph = blocks();
    let only = quantized(&graph, &WgpuQuantizer::new().set_module_name("blocks.0", symmetric()));
    assert_eq!(only, ["blocks.0.fc1", "blocks.0.relu", "blocks.0.fc2", "blocks.0.add"]);
    let without = WgpuQuantizer::new().set_global(symmetric()).set_module_name("blocks.0", None);
    let rest = quantized(&graph, &without);
    assert_eq!(rest, ["blocks.1.fc1", "blocks.1.relu", "blocks.1.fc2", "blocks.1.add", "head"]);
    // "blocks.1" is no prefix of "blocks.10".
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(8)).expect("an input");
    let h = g.linear("blocks.1.fc", x, tensor(1, &[8, 8]), None).expect("a layer");
    let y = g.linear("blocks.10.fc", h, tensor(1, &[8, 8]), None).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    assert_eq!(quantized(&graph, &WgpuQuantizer::new().set_module_name("blocks.1", symmetric())), ["blocks.1.fc"]);
}

#[test]
fn layers_left_in_float_say_why_and_run() {
    let graph = blocks();
    let quantizer = WgpuQuantizer::new()
        .set_global(symmetric())
        .set_module_name("blocks.1.fc2", None)
        .set_operator_type("add", None);
    let prepared = prepared(&graph, &quantizer);
    let summary = prepared.summary();
    let reason = |name: &str| summary.float.iter().find(|n| n.name == name).map(|n| n.reason.clone());
    assert_eq!(reason("blocks.1.fc2").as_deref(), Some("module name \"blocks.1.fc2\" is left in float"));
    assert_eq!(reason("blocks.0.add").as_deref(), Some("operator type \"add\" is left in float"));
    let text = summary.to_string();
    for line in [
        "6 nodes quantized",
        "  blocks.0.fc1 (linear)",
        "    x: -128..=127 per tensor affine histogram (observer",
        "    blocks.0.fc1.weight: -127..=127 per tensor symmetric min/max (observer",
        "3 nodes left in float",
        "  blocks.1.fc2 (linear): module name \"blocks.1.fc2\" is left in float",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    let integers = to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten");
    let float: Vec<String> = integers.summary().float.into_iter().map(|node| node.name).collect();
    assert_eq!(float, ["blocks.0.add", "blocks.1.fc2", "blocks.1.add"]);
    let program = enfold::lower::lower(&integers).expect("each node has a step");
    let x = tensor(3, &[4, 8]);
    let got = enfold::cpu::Engine::new(&program).expect("an engine").run(&[&x]).expect("run");
    assert_eq!(got, Interpreter::new(&integers).run(&[&x]).expect("run"));
}

#[test]
fn filters_and_dynamic_configurations_leave_nodes_out() {
    let graph = blocks();
    let quantizer = WgpuQuantizer::new().set_global(symmetric()).set_filter_function(|node| !node.name.contains("fc2"));
    assert!(quantized(&graph, &quantizer).iter().all(|name| !name.contains("fc2")));
    let prepared = prepare(&graph, &quantizer).expect("prepared");
    let reason = prepared.summary().float.iter().find(|n| n.name == "blocks.0.fc2").expect("listed").reason.clone();
    assert_eq!(reason, "the filter function leaves it out");
    let dynamic = prepare(&graph, &WgpuQuantizer::new().set_global(symmetric().dynamic())).expect("prepared");
    let reasons: Vec<&str> =
        dynamic.summary().float.iter().filter(|n| n.op == "add").map(|n| n.reason.as_str()).collect();
    assert_eq!(reasons, ["its configuration is dynamic, which quantizes linear layers and matmul only"; 2]);
}

#[test]
fn configurations_differ_as_they_say() {
    let observed = |spec: &Option<QuantizationSpec>| match spec {
        Some(QuantizationSpec::Observed(spec)) => *spec,
        other => panic!("{other:?}"),
    };
    let qat = symmetric().qat();
    assert_eq!(observed(&qat.input_activation).observer, ObserverKind::MOVING_AVERAGE);
    assert_eq!(observed(&qat.weight).observer, ObserverKind::MOVING_AVERAGE);
    let dynamic = symmetric().dynamic().qat();
    assert!(dynamic.is_dynamic() && dynamic.output_activation.is_none());
    assert_eq!(observed(&symmetric().dynamic_per_token().input_activation).qscheme, QScheme::per_token_affine());
    let narrow = QuantRange::new(-8, 7).expect("valid");
    let custom = symmetric().weight_range(narrow).activation_range(QuantRange::INT8_NARROW);
    assert_eq!(
        (observed(&custom.weight).range, observed(&custom.output_activation).range),
        (narrow, QuantRange::INT8_NARROW)
    );
}

/// Each scalar is a constant with an observer of its own; one that is out of all proportion stays float.
#[test]
fn scalars_become_constants() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.add_scalar("shift", x, 0.75).expect("a sum");
    let y = g.mul_scalar("mask", h, 3.5e15).expect("a product");
    let graph = g.finish([y]).expect("a graph");
    let prepared = prepared(&graph, &WgpuQuantizer::new().set_global(symmetric()));
    assert!(prepared.graph().find("shift.scalar.observe").is_some(), "{}", prepared.graph());
    let float = &prepared.summary().float;
    assert_eq!(float.len(), 1, "{}", prepared.summary());
    assert!(float[0].name == "mask" && float[0].reason.contains("mask.scalar is larger"), "{}", float[0].reason);
    let integers = to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten");
    assert!(integers.nodes().iter().any(|n| matches!(n.op, Op::IntegerAdd(_))), "{integers}");
}

/// Annotates one node's output.
struct Takes {
    node: &'static str,
    observer: ObserverKind,
}

impl Quantizer for Takes {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        let spec = activation(self.observer);
        let annotation = QuantizationAnnotation { output_qspec: Some(spec), ..Default::default() };
        annotations.set(graph.find(self.node).expect("the node"), annotation);
        Ok(annotations)
    }
}

fn activation(observer: ObserverKind) -> QuantizationSpec {
    let (range, qscheme) = (QuantRange::INT8, QScheme::per_tensor_affine());
    ObservedSpec { range, qscheme, observer, eps: EPS }.into()
}

#[test]
fn composed_quantizers_respect_each_other() {
    let graph = blocks();
    let first = || Box::new(Takes { node: "head", observer: ObserverKind::MinMax });
    let composed = ComposableQuantizer::new(vec![first(), Box::new(WgpuQuantizer::new().set_global(symmetric()))]);
    let summary = prepare(&graph, &composed).expect("prepared").summary().clone();
    let head = summary.quantized.iter().find(|n| n.name == "head").expect("quantized");
    assert_eq!(head.points.len(), 1, "only what the first quantizer says: {summary}");
    assert!(summary.quantized.iter().any(|n| n.name == "blocks.0.fc1"), "{summary}");
    let same = ComposableQuantizer::new(vec![first(), first()]);
    assert!(prepare(&graph, &same).is_ok(), "the same again changes nothing");
    let other = ComposableQuantizer::new(vec![first(), Box::new(Takes { node: "head", observer: ObserverKind::Mse })]);
    let error = prepare(&graph, &other).expect_err("tampered with");
    assert_eq!(error, PrepareError::Overwritten { quantizer: 1, node: "head".to_owned(), owner: 0 });
}

/// Each tensor of a shared observer counts, as in PyTorch, also one that only moves the values of others.
#[test]
fn a_shared_observer_observes_every_tensor() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[2, 4])).expect("an input");
    let a = g.linear("a", x, tensor(1, &[3, 4]), None).expect("a layer");
    let f = g.flatten("flat", a, 1).expect("flattened");
    let b = g.linear("b", f, tensor(2, &[6, 6]), None).expect("a layer");
    let y = g.concat("cat", &[f, b], 1).expect("joined");
    let graph = g.finish([y]).expect("a graph");
    // Whose concatenation shares the observer of its inputs.
    let prepared = prepared(&graph, &WgpuQuantizer::new().set_global(symmetric()).xnnpack_compatible(true));
    let sites = prepared.graph().nodes().iter().filter(|n| matches!(n.op, Op::Observe(_))).count();
    let totals: Vec<f32> = prepared.observers().iter().filter_map(|o| o.histogram()).map(|h| h.iter().sum()).collect();
    // There are 16 rows. x has 8 values a row; a, flat and b have 6, cat has 12, and they share one observer.
    assert_eq!(totals, [128.0, 16.0 * 30.0], "{}", prepared.graph());
    assert!(sites > totals.len() + 2, "{sites} sites");
}

/// A pool that keeps the size of an image has other values than the image, so that its result is observed too.
#[test]
fn a_pool_of_the_same_size_is_observed() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[2, 4, 4])).expect("an input");
    let window = || Window::new(&[3, 3]).with_padding(&[1, 1]);
    let h = g.conv("a", x, tensor(1, &[2, 2, 3, 3]), None, Conv::new(window())).expect("a conv");
    let h = g.relu("relu", h).expect("a relu");
    let h = g.max_pool("pool", h, MaxPool::new(window())).expect("a pool");
    let y = g.conv("b", h, tensor(2, &[2, 2, 3, 3]), None, Conv::new(window())).expect("a conv");
    let graph = g.finish([y]).expect("a graph");
    let prepared = prepared(&graph, &WgpuQuantizer::new().set_global(symmetric()));
    let totals: Vec<f32> = prepared.observers().iter().filter_map(|o| o.histogram()).map(|h| h.iter().sum()).collect();
    // There are 16 rows of 32 values: those of x, those of the ReLU and those of the pool, and those of b.
    assert_eq!(totals, [16.0 * 32.0, 16.0 * 64.0, 16.0 * 32.0], "{}", prepared.graph());
}

/// Operators that move, clip or select quantized values stay integer: they share one observer, and no float step is between two layers.
#[test]
fn ops_that_share_an_observer_stay_in_codes() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[3, 4])).expect("an input");
    let h = g.linear("a", x, tensor(1, &[6, 4]), None).expect("a layer");
    let h = g.transpose("turn", h, &[0, 2, 1]).expect("moved");
    let h = g.relu("clip", h).expect("a relu");
    let h = g.reshape("fold", h, &[2, 9]).expect("moved");
    let h = g.max("pool", h, 1).expect("picked");
    let h = g.flatten("flat", h, 1).expect("moved");
    let y = g.linear("b", h, tensor(2, &[5, 9]), None).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    let prepared = prepared(&graph, &WgpuQuantizer::new().set_global(symmetric()));
    // x, the moved value, the output and two weights.
    assert_eq!(prepared.observers().len(), 5, "{}", prepared.summary());
    // There are 16 rows: the observer observes 18 values of a, 18 results of the ReLU and 9 of the pool. All of them are moved once
    // more, which would count each of them twice and change no frequency.
    let totals: Vec<f32> = prepared.observers().iter().filter_map(|o| o.histogram()).map(|h| h.iter().sum()).collect();
    assert_eq!(totals, [16.0 * 12.0, 16.0 * 45.0, 16.0 * 5.0], "{}", prepared.graph());
    let integers = to_integer(&convert(&prepared, &ConvertOptions::default()).expect("converted")).expect("rewritten");
    assert!(integers.summary().float.is_empty(), "{}", integers.summary());
    for name in ["turn", "fold", "pool", "flat"] {
        let moved = integers.nodes().iter().find(|n| n.origin == name).expect(name);
        assert_eq!(moved.dtype, enfold::values::DType::I8, "{integers}");
    }
    let program = enfold::lower::lower(&integers).expect("lowered");
    for value in program.values() {
        let codes = value.value_type == enfold::program::ValueType::I8;
        assert_eq!(value.qparams.is_some(), codes, "{}: codes say what they mean", value.name);
    }
}

/// The consumer decides whether edges whose specs agree share implicitly.
#[test]
fn implicit_sharing_can_be_refused() {
    struct Fan {
        share: bool,
    }
    impl Quantizer for Fan {
        fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
            let mut annotations = Annotations::new(graph);
            for (id, node) in graph.iter().filter(|(_, n)| n.op == Op::Linear(Linear::default())) {
                annotations.set(
                    id,
                    QuantizationAnnotation {
                        input_qspec_map: vec![(node.inputs[0], Some(activation(ObserverKind::MinMax)))],
                        output_qspec: None,
                        allow_implicit_sharing: self.share,
                    },
                );
            }
            Ok(annotations)
        }
    }
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let outputs = [1, 2].map(|i| g.linear(&format!("fc{i}"), x, tensor(i, &[3, 4]), None).expect("a layer"));
    let graph = g.finish(outputs).expect("a graph");
    let observers = |share| prepare(&graph, &Fan { share }).expect("prepared").observers().len();
    assert_eq!((observers(true), observers(false)), (1, 2));
}

/// A chain of shared specs is one group, and a spec that shares the value of a node shares with all its consumers.
#[test]
fn sharing_is_transitive() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let y = g.input("y", Shape::rows(3)).expect("an input");
    let a = g.concat("a", &[x, y], 1).expect("joined");
    let b = g.concat("b", &[a, x], 1).expect("joined");
    let c = g.concat("c", &[b, y], 1).expect("joined");
    let graph = g.finish([c]).expect("a graph");
    let xnnpack = WgpuQuantizer::new().set_global(symmetric()).xnnpack_compatible(true);
    let prepared = prepare(&graph, &xnnpack).expect("prepared");
    assert_eq!(prepared.observers().len(), 1, "{}", prepared.summary());
    // Without that sharing: x, y, and the results of a, b and c.
    let own = prepare(&graph, &WgpuQuantizer::new().set_global(symmetric())).expect("prepared");
    assert_eq!(own.observers().len(), 5, "{}", own.summary());
    let same_twice = {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(4)).expect("an input");
        let y = g.concat("twice", &[x, x], 1).expect("joined");
        g.finish([y]).expect("a graph")
    };
    assert_eq!(
        prepare(&same_twice, &WgpuQuantizer::new().set_global(symmetric())).expect("prepared").observers().len(),
        1
    );
}

/// A layer with a batch norm after it, of rank 2, or through the transpose that moves channels to axis 1.
fn normed(dims: &[usize], through: bool) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(dims)).expect("an input");
    let k = dims[dims.len() - 1];
    let mut h = g.linear("fc", x, tensor(1, &[5, k]), Some(tensor(2, &[5]))).expect("a layer");
    if through {
        h = g.transpose("move", h, &[0, 2, 1]).expect("moved");
    }
    let channels = if dims.len() == 1 || through { 5 } else { dims[0] };
    let positive = Tensor::from_f32(&[channels], vec![0.7; channels]).expect("lengths fit");
    let statistics = [tensor(3, &[channels]), positive, tensor(4, &[channels]), tensor(5, &[channels])];
    let y = g.batch_norm("bn", h, statistics, 1e-5).expect("a norm");
    let y = g.relu("relu", y).expect("a relu");
    g.finish([y]).expect("a graph")
}

#[test]
fn batch_norms_are_folded_where_their_channels_are_the_layers() {
    for (dims, through, folds) in [(&[4][..], false, true), (&[3, 4], true, true), (&[3, 4], false, false)] {
        let graph = normed(dims, through);
        let prepared = prepare(&graph, &WgpuQuantizer::new()).expect("prepared");
        let left = prepared.graph().nodes().iter().any(|n| matches!(n.op, Op::BatchNorm(_)));
        assert_eq!(left, !folds, "{dims:?}: {}", prepared.graph());
        let x = tensor(8, &[&[6], dims].concat());
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run").swap_remove(0);
        let (before, after) = (run(&graph), run(prepared.graph()));
        for (a, b) in before.as_f32().expect("floats").iter().zip(after.as_f32().expect("floats")) {
            approx::assert_abs_diff_eq!(*a, *b, epsilon = 1e-5);
        }
        // A norm that is not folded runs on the engines as a scale and an offset.
        let program = enfold::lower::lower(&graph).expect("lowered");
        let by_cpu = enfold::cpu::Engine::new(&program).expect("an engine").run(&[&x]).expect("run");
        for (a, b) in before.as_f32().expect("floats").iter().zip(by_cpu[0].as_f32().expect("floats")) {
            approx::assert_abs_diff_eq!(*a, *b, epsilon = 1e-5);
        }
    }
}

/// A layer that others read before the norm is not folded.
#[test]
fn a_layer_that_is_read_before_its_batch_norm_is_not_folded() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc", x, tensor(1, &[5, 4]), None).expect("a layer");
    let statistics = [0.5, 2.0, 1.5, 0.1].map(|v| Tensor::from_f32(&[5], vec![v; 5]).expect("fits"));
    let y = g.batch_norm("bn", h, statistics, 1e-5).expect("a norm");
    let z = g.tanh("tanh", h).expect("tanh");
    let graph = g.finish([y, z]).expect("a graph");
    let prepared = prepare(&graph, &WgpuQuantizer::new()).expect("prepared");
    let x = tensor(8, &[3, 4]);
    let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
    assert_eq!(run(prepared.graph()), run(&graph));
}

/// A negative variance has no square root, so it is refused by name and not folded into NaN.
#[test]
fn a_batch_norm_of_negative_variance_is_refused() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("fc", x, tensor(1, &[5, 4]), None).expect("a layer");
    let statistics = [0.0, -1.0, 1.0, 0.0].map(|v| Tensor::from_f32(&[5], vec![v; 5]).expect("fits"));
    let y = g.batch_norm("bn", h, statistics, 1e-5).expect("a norm");
    let error = prepare(&g.finish([y]).expect("a graph"), &WgpuQuantizer::new()).expect_err("no root").to_string();
    assert!(error.contains("fc.weight") && error.contains("NaN"), "{error}");
}

/// After folding, the layer and its ReLU are one integer layer, and the debugger still finds its origin.
#[test]
fn a_folded_layer_is_quantized_with_its_relu() {
    let graph = normed(&[4], false);
    let q = converted(&graph, &WgpuQuantizer::new().set_global(symmetric()));
    assert!(q.find("relu.quantize").is_some() && q.find("fc.quantize").is_none(), "{q}");
    let comparison = enfold::compare::compare(&graph, &q, &[tensor(8, &[6, 4])]).expect("comparable");
    let origins: Vec<&str> = comparison.nodes.iter().map(|n| n.origin.as_str()).collect();
    assert_eq!(origins, ["bn", "relu"], "{comparison}");
    assert!(comparison.nodes.iter().all(|n| n.sqnr_db > 30.0), "{comparison}");
}

/// Points with specs that cannot be one observer.
struct Shares {
    specs: Vec<(&'static str, Option<QuantizationSpec>)>,
}

impl Quantizer for Shares {
    fn annotate(&self, graph: &Graph) -> Result<Annotations, PrepareError> {
        let mut annotations = Annotations::new(graph);
        for (name, spec) in &self.specs {
            let id = graph.find(name).expect("the node");
            let input = graph.node(id).inputs.first().copied();
            let mut annotation = QuantizationAnnotation { output_qspec: spec.clone(), ..Default::default() };
            if spec.is_none() {
                annotation.input_qspec_map = input.map(|input| (input, None)).into_iter().collect();
            }
            annotations.set(id, annotation);
        }
        Ok(annotations)
    }
}

#[test]
fn shares_that_cannot_be_are_refused_by_both_names() {
    let graph = blocks();
    let node = |name: &str| EdgeOrNode::Node(graph.find(name).expect("the node"));
    let spec = |qscheme, observer| Some(ObservedSpec { range: QuantRange::INT8, qscheme, observer, eps: EPS }.into());
    let per_tensor = spec(QScheme::per_tensor_affine(), ObserverKind::MinMax);
    let channels = spec(QScheme::per_channel_affine(1), ObserverKind::MinMax);
    let dynamic = spec(QScheme::per_tensor_affine(), ObserverKind::Placeholder);
    let share = |name: &str| Some(QuantizationSpec::Shared(node(name)));
    let edge = EdgeOrNode::Edge {
        producer: graph.find("blocks.1.add").expect("the node"),
        consumer: graph.find("head").expect("the node"),
    };
    for (specs, names) in [
        (vec![("head", share("blocks.0.fc1"))], vec!["head", "blocks.0.fc1", "not annotated"]),
        (
            vec![("blocks.0.fc1", share("head")), ("head", share("blocks.0.fc1"))],
            vec!["blocks.0.fc1", "head", "circle"],
        ),
        (
            vec![("head", None), ("blocks.0.fc1", Some(QuantizationSpec::Shared(edge)))],
            vec!["blocks.0.fc1", "blocks.1.add -> head", "stays in float"],
        ),
        (
            vec![("blocks.0.fc1", channels), ("blocks.0.fc2", share("blocks.0.fc1"))],
            vec!["blocks.0.fc2", "blocks.0.fc1", "12 channels", "8"],
        ),
        (
            vec![("blocks.0.fc1", dynamic), ("blocks.0.fc2", share("blocks.0.fc1"))],
            vec!["blocks.0.fc2", "blocks.0.fc1", "dynamic"],
        ),
    ] {
        let error = prepare(&graph, &Shares { specs }).expect_err("refused").to_string();
        assert!(names.iter().all(|name| error.contains(name)), "{names:?} not in {error:?}");
    }
    let fine = vec![("blocks.0.fc1", per_tensor), ("blocks.0.fc2", share("blocks.0.fc1"))];
    assert_eq!(prepare(&graph, &Shares { specs: fine }).expect("prepared").observers().len(), 1);
}

/// TensorRT requires zero points of 0. The largest magnitude becomes ±127, and is no tie.
#[test]
fn symmetric_activations_have_zero_points_of_0() {
    let zero_points = |config: QuantizationConfig| {
        let graph = converted(&blocks(), &WgpuQuantizer::new().set_global(config));
        let of = |op: &Op| match op {
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(q), range, .. }) => {
                Some((q.zero_point(), range.quant_min()))
            }
            _ => None,
        };
        graph.nodes().iter().filter_map(|node| of(&node.op)).collect::<Vec<_>>()
    };
    let affine = zero_points(symmetric());
    assert!(affine.contains(&(-128, -128)), "{affine:?}");
    let all = zero_points(symmetric().symmetric_activations());
    assert!(all.len() == affine.len() && all.iter().all(|of| *of == (0, -127)), "{all:?}");

    let config = symmetric().symmetric_activations().activation_observer(ObserverKind::MinMax);
    let graph = converted(&blocks(), &WgpuQuantizer::new().set_global(config));
    let largest = tensor(99, &[16, 8]).as_f32().expect("floats").iter().fold(0f32, |most, v| most.max(v.abs()));
    let quantize = &graph.node(graph.find("x.quantize").expect("the input's")).op;
    let expected = TensorQParams::PerTensor(QParams::new(largest / 127.0, 0).expect("valid"));
    assert_eq!(*quantize, Op::Quantize(Quantize::new(expected, QuantRange::INT8_NARROW)));

    let dynamic = symmetric().dynamic_per_token().symmetric_activations();
    let Some(QuantizationSpec::Observed(spec)) = dynamic.input_activation else { panic!("no spec") };
    assert_eq!((spec.qscheme, spec.is_dynamic()), (QScheme::per_tensor_symmetric(), true));
}
