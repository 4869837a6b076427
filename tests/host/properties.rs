//! Properties of every graph: proptest draws graphs, and shrinks those that break a property.

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::ops::{Linear, Op};
use enfold::quantize::{ConvertOptions, ObserverKind, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::{Graph, GraphBuilder, Shape, Tensor, cpu};
use proptest::prelude::*;

use crate::cases::difference;
use crate::random::Random;

/// One more node on top of what is there.
#[derive(Debug, Clone, Copy)]
enum Layer {
    Linear {
        n: usize,
        bias: bool,
    },
    Relu,
    Tanh,
    Residual,
    Softmax,
    Norm,
    /// A second reader and output of the current value.
    Output,
}

fn layer() -> impl Strategy<Value = Layer> {
    prop_oneof![
        4 => (1usize..20, any::<bool>()).prop_map(|(n, bias)| Layer::Linear { n, bias }),
        3 => Just(Layer::Relu),
        1 => Just(Layer::Tanh),
        1 => Just(Layer::Residual),
        1 => Just(Layer::Softmax),
        1 => Just(Layer::Norm),
        1 => Just(Layer::Output),
    ]
}

#[derive(Debug, Clone)]
struct Plan {
    layers: Vec<Layer>,
    inputs: usize,
    middle: Option<usize>,
    per_channel: bool,
    minmax: bool,
    float_output: bool,
    fold: bool,
    seed: u64,
}

fn plan() -> impl Strategy<Value = Plan> {
    let net = (prop::collection::vec(layer(), 1..9), 1usize..20, prop::option::of(1usize..4));
    let config = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.8));
    (net, config, any::<u64>()).prop_map(
        |((layers, inputs, middle), (per_channel, minmax, float_output, fold), seed)| Plan {
            layers,
            inputs,
            middle,
            per_channel,
            minmax,
            float_output,
            fold,
            seed,
        },
    )
}

fn dims(plan: &Plan) -> Vec<usize> {
    plan.middle.into_iter().chain([plan.inputs]).collect()
}

fn float_graph(plan: &Plan) -> Graph {
    let mut random = Random::new(plan.seed);
    let mut g = GraphBuilder::new();
    let mut h = g.input("x", Shape::batched(&dims(plan))).expect("an input");
    let (mut width, mut before, mut before_width) = (plan.inputs, h, plan.inputs);
    let mut outputs = Vec::<NodeId>::new();
    let last_axis = dims(plan).len();
    let tensor = |shape: &[usize], data| Tensor::from_f32(shape, data).expect("lengths fit");
    for (i, layer) in plan.layers.iter().enumerate() {
        let new = match *layer {
            Layer::Linear { n, bias } => {
                let weight = tensor(&[n, width], random.normals(n * width, 0.5));
                let bias = bias.then(|| tensor(&[n], random.normals(n, 0.5)));
                (before, before_width, width) = (h, width, n);
                g.linear(&format!("fc{i}"), h, weight, bias)
            }
            Layer::Relu => g.relu(&format!("relu{i}"), h),
            Layer::Tanh => g.tanh(&format!("tanh{i}"), h),
            Layer::Residual if before_width == width => g.add(&format!("add{i}"), before, h),
            Layer::Residual => continue,
            Layer::Softmax => g.softmax(&format!("softmax{i}"), h, last_axis),
            Layer::Norm => {
                let (w, b) = (tensor(&[width], vec![1.0; width]), tensor(&[width], vec![0.0; width]));
                g.layer_norm(&format!("norm{i}"), h, w, b, 1e-5)
            }
            Layer::Output => {
                if !outputs.contains(&h) {
                    outputs.push(h);
                }
                continue;
            }
        };
        h = new.expect("a node");
    }
    if !outputs.contains(&h) {
        outputs.push(h);
    }
    g.finish(outputs).expect("a graph")
}

fn batch(plan: &Plan, rows: usize, seed: u64) -> Tensor {
    let shape: Vec<usize> = [rows].into_iter().chain(dims(plan)).collect();
    let data = Random::new(seed).normals(shape.iter().product(), 1.0);
    Tensor::from_f32(&shape, data).expect("lengths fit")
}

/// Every stage of the flow.
fn stages(plan: &Plan) -> [Graph; 4] {
    let float = float_graph(plan);
    let mut config = QuantizationConfig::symmetric();
    if plan.per_channel {
        config = config.per_channel();
    }
    if plan.minmax {
        config = config.activation_observer(ObserverKind::MinMax);
    }
    if plan.float_output {
        config = config.float_output();
    }
    let mut prepared = prepare(&float, &WgpuQuantizer::new().set_global(config)).expect("prepared");
    prepared.observe(&[batch(plan, 5, plan.seed)]).expect("observed");
    let options = ConvertOptions { fold_quantize: plan.fold, ..ConvertOptions::default() };
    let quantized = convert(&prepared, &options).expect("converted");
    let integers = to_integer(&quantized).expect("rewritten");
    [float, prepared.graph().clone(), quantized, integers]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_verifier_holds_after_every_pass(plan in plan()) {
        for graph in stages(&plan) {
            prop_assert_eq!(graph.verify(), Ok(()));
        }
    }

    /// Observers do not change what a graph computes.
    #[test]
    fn a_prepared_graph_computes_what_the_float_graph_does(plan in plan()) {
        let [float, prepared, ..] = stages(&plan);
        let x = batch(&plan, 3, 1);
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
        prop_assert_eq!(run(&float), run(&prepared));
    }

    /// `to_integer` rewrites each annotated layer, or says why not.
    #[test]
    fn every_linear_layer_is_rewritten_or_listed(plan in plan()) {
        let [_, _, quantized, integers] = stages(&plan);
        let summary = integers.summary();
        for node in quantized.nodes().iter().filter(|n| n.op == Op::Linear(Linear::default())) {
            let id = integers.find(&node.name).expect("the node keeps its name");
            let rewritten = matches!(integers.node(id).op, Op::IntegerLinear(_));
            let listed = summary.float.iter().any(|f| f.name == node.name && !f.reason.is_empty());
            prop_assert!(rewritten != listed, "{}: rewritten {rewritten}, listed {listed}", node.name);
            // Every node that this quantizer annotates has an integer form.
            prop_assert!(rewritten, "{}", summary);
        }
        for node in integers.nodes() {
            prop_assert!(integers.find(&node.name).is_some_and(|id| !integers.node(id).origin.is_empty()));
        }
    }

    /// Each of these graphs lowers, and the CPU engine gives the interpreter's bits, of floats too.
    #[test]
    fn every_graph_lowers_and_runs_bit_for_bit(plan in plan()) {
        let [float, _, quantized, integers] = stages(&plan);
        for graph in [float, quantized, integers] {
            let program = match lower(&graph) {
                Ok(program) => program,
                Err(e) => return Err(TestCaseError::fail(e.to_string())),
            };
            let x = batch(&plan, 4, 2);
            let got = cpu::Engine::new(&program).expect("an engine").run(&[&x]).expect("run");
            let expected = Interpreter::new(&graph).run(&[&x]).expect("run");
            for (got, expected) in got.iter().zip(&expected) {
                prop_assert_eq!(difference(got, expected), None);
            }
        }
    }
}
