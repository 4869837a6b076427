//! The integer form against the quantize/dequantize form: each integer operator, with inputs from the latter, is at most one step away,
//! for at most 0.02 % of all values.

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::ops::{Constant, Dequantize, Input, Op};
use enfold::quantize::{
    ConvertOptions, ObserverKind, QuantizationConfig, QuantizationSpec, WgpuQuantizer, convert, prepare, to_integer,
};
use enfold::values::{DType, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::golden;
use crate::nets;
use crate::oracle::{Codes, compare_ops};
use crate::random::Random;
use crate::report::report;
use crate::wrong;

/// The integer form of torchao truncates where it should round, and fails on several of the cases, so the oracle is the
/// quantize/dequantize form of the same case.
#[test]
fn integer_ops_equal_the_golden_networks() {
    let kinds = ["pt2e/static", "pt2e/dynamic", "pt2e/static/reference", "pt2e/dynamic/reference", "settings", "conv"];
    for kind in kinds {
        let mut total = Codes::default();
        let mut graphs = 0;
        for (name, quantized, x) in golden::quantized_networks(&[kind]) {
            let integers = to_integer(&quantized).expect("rewritten");
            if name.contains("static") && ["mlp", "linear", "tied", "views", "cat"].iter().any(|m| name.contains(m)) {
                only_integers(&integers).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
            let codes = compare_ops(&quantized, &integers, &[&x]).unwrap_or_else(|e| panic!("{name}: {e}"));
            total.add(codes);
            graphs += 1;
        }
        report(&format!(
            "golden {kind}: {graphs} files compared, integer ops: {} of {} codes one step apart, {} floats",
            total.apart, total.compared, total.floats
        ));
        assert!(total.within_bar() || total.compared == 0 && total.floats > 0, "{kind}: {total:?}");
    }
}

/// No float is computed between the quantize nodes at the inputs and the dequantize nodes at the outputs.
fn only_integers(graph: &Graph) -> Result<(), String> {
    for node in graph.nodes() {
        let between = matches!(node.op, Op::Input(Input) | Op::Constant(_) | Op::Dequantize(_));
        if node.dtype == DType::F32 && !between {
            return Err(format!("{} is {}: {:?}", node.name, node.op.name(), node.float_reason));
        }
        let at_an_input = |id: &NodeId| matches!(graph.node(*id).op, Op::Input(Input));
        if matches!(node.op, Op::Quantize(_)) && !node.inputs.iter().all(at_an_input) {
            return Err(format!("{} quantizes in the middle", node.name));
        }
    }
    Ok(())
}

/// A random network, quantized one of many ways, with the batch to compare on.
fn random_net(seed: u64) -> (Graph, Graph, Tensor) {
    let mut random = Random::new(seed);
    let net = nets::Net::random(&mut random);
    let mut config = QuantizationConfig::symmetric();
    if seed.is_multiple_of(2) {
        config = config.per_channel();
    }
    if seed.is_multiple_of(3) {
        config = config.activation_observer(ObserverKind::MinMax);
    }
    if seed.is_multiple_of(5) {
        config = config.float_output();
    }
    // Weights of 2 to 8 bits.
    if let Some(QuantizationSpec::Observed(weight)) = &mut config.weight {
        let most = [1, 3, 7, 127, 127, 127][random.below(6)];
        weight.range = QuantRange::new(-most, most).expect("valid");
        weight.eps = f32::MIN_POSITIVE;
    }
    let mut prepared = prepare(&net.graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
    for _ in 0..3 {
        prepared.observe(&[net.batch(&mut random)]).expect("observed");
    }
    let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
    let integers = to_integer(&quantized).expect("rewritten");
    assert!(integers.summary().float.is_empty(), "seed {seed}: {}", integers.summary());
    (quantized, integers, net.batch(&mut random))
}

#[test]
fn integer_ops_equal_a_thousand_random_networks() {
    let mut total = Codes::default();
    for seed in 0..1000 {
        let (quantized, integers, x) = random_net(seed);
        let codes = compare_ops(&quantized, &integers, &[&x]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        total.add(codes);
    }
    report(&format!("integer ops, 1000 random networks: {} of {} codes one step apart", total.apart, total.compared));
    assert!(total.within_bar(), "{total:?}");
}

/// A bias that is rounded to whole steps changes more values than the bound admits.
#[test]
fn a_bias_without_fraction_bits_is_caught() {
    let mut total = Codes::default();
    for seed in (0..200u64).filter(|seed| !seed.is_multiple_of(5)) {
        let (quantized, integers, x) = random_net(seed);
        let rounded = wrong::without_fraction_bits(&integers);
        if let Ok(codes) = compare_ops(&quantized, &rounded, &[&x]) {
            total.add(codes);
        }
    }
    report(&format!("negative control, no fraction bits: {} of {} codes apart", total.apart, total.compared));
    assert!(!total.within_bar(), "{total:?} passes, so the bar proves nothing");
}

#[test]
fn one_weight_changed_by_one_is_caught() {
    let (quantized, integers, x) = random_net(4);
    assert!(compare_ops(&quantized, &integers, &[&x]).is_ok_and(Codes::within_bar));
    let changed = wrong::with_changed_weight(&integers);
    let caught = match compare_ops(&quantized, &changed, &[&x]) {
        Ok(codes) => !codes.within_bar(),
        Err(named) => named.contains("element"),
    };
    assert!(caught, "a changed weight passes");
}

/// A difference of one step may grow on the way to the output, so only the SQNR of outputs is bounded.
#[test]
fn whole_networks_keep_their_signal() {
    for seed in 0..100 {
        let (quantized, integers, x) = random_net(seed);
        let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run").swap_remove(0);
        let (expected, got) = (run(&quantized), run(&integers));
        let (expected, got) = (expected.as_f32().expect("float"), got.as_f32().expect("float"));
        let signal: f64 = expected.iter().map(|&v| f64::from(v).powi(2)).sum();
        let noise: f64 = expected.iter().zip(got).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!(noise <= signal * 1e-3, "seed {seed}: signal {signal:e}, noise {noise:e}");
    }
}

#[test]
fn the_option_of_convert_gives_the_same_integers() {
    let mut random = Random::new(11);
    let net = nets::Net::random(&mut random);
    let quantizer = WgpuQuantizer::new().set_global(QuantizationConfig::symmetric());
    let mut prepared = prepare(&net.graph, &quantizer).expect("prepared");
    prepared.observe(&[net.batch(&mut random)]).expect("observed");
    let options = ConvertOptions { use_reference_representation: true, ..ConvertOptions::default() };
    let integers = convert(&prepared, &options).expect("converted");
    let folded = convert(&prepared, &ConvertOptions::default()).expect("converted");
    assert_eq!(integers, to_integer(&folded).expect("rewritten"));

    // Without folding, the weights are quantized when the graph runs; the integer form folds them itself.
    let unfolded = ConvertOptions { fold_quantize: false, ..ConvertOptions::default() };
    let unfolded = convert(&prepared, &unfolded).expect("converted");
    let quantizes = |graph: &Graph| {
        let constant = |id| matches!(graph.node(id).op, Op::Constant(_));
        graph.iter().filter(|(_, n)| matches!(n.op, Op::Quantize(_)) && constant(n.inputs[0])).count()
    };
    assert!(quantizes(&unfolded) > 0 && quantizes(&folded) == 0);
    let x = net.batch(&mut random);
    let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
    assert_eq!(run(&unfolded), run(&folded));
    assert_eq!(run(&to_integer(&unfolded).expect("rewritten")), run(&integers));
}

/// The reference form of PyTorch is made for per-tensor weights.
#[test]
fn per_tensor_weights_have_one_scale() {
    let (quantized, ..) = random_net(1);
    let per_tensor = |op: &Op| matches!(op, Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(_) }));
    assert!(quantized.nodes().iter().filter(|n| matches!(n.op, Op::Dequantize(_))).all(|n| per_tensor(&n.op)));
}

/// Element i is ((i · a) mod m − o) / d: exact in f32.
fn seq(n: usize, a: usize, m: usize, o: i32, d: f32) -> Vec<f32> {
    (0..n).map(|i| ((i * a % m) as i32 - o) as f32 / d).collect()
}

/// One layer, every number computed by torchao 0.15.0. Its own integer form truncates, and gives −1.0230 for the last element.
#[test]
fn a_worked_example_equals_torchao() {
    let x = Tensor::from_f32(&[2, 4], seq(8, 5, 17, 8, 4.0)).expect("lengths fit");
    let scales = [0.005_905_512, 0.003_937_008, 0.005_905_512];
    let first: [i8; 4] = [-127, 21, -106, 42];
    let plain = [1.775_603_2, 0.905_440_03, 1.399_316_4, -0.023_517_923, -1.222_932, -1.034_788_6];
    let rectified = [1.780_380_2, 0.907_644_8, 1.403_358_6, 0.0, 0.0, 0.0];
    for (per_channel, relu) in [(false, false), (true, false), (false, true)] {
        let mut g = GraphBuilder::new();
        let input = g.input("x", Shape::rows(4)).expect("an input");
        let weight = Tensor::from_f32(&[3, 4], seq(12, 7, 13, 6, 8.0)).expect("lengths fit");
        let bias = Tensor::from_f32(&[3], vec![0.25, -0.5, 0.125]).expect("lengths fit");
        let mut y = g.linear("fc", input, weight, Some(bias)).expect("a layer");
        if relu {
            y = g.relu("relu", y).expect("a relu");
        }
        let config = QuantizationConfig::symmetric();
        let config = if per_channel { config.per_channel() } else { config };
        let graph = g.finish([y]).expect("a graph");
        let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        prepared.observe(&[&x]).expect("observed");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");

        let weight = quantized.node(quantized.find("fc.weight.quantize").expect("codes"));
        let Op::Constant(Constant { tensor: codes, .. }) = &weight.op else { panic!("{weight:?} is not folded") };
        let second: [i8; 4] = if per_channel { [-127, 95, -95, 127] } else { [-85, 64, -64, 85] };
        let expected = [first, second, [-42, 106, -21, 127]].concat();
        assert_eq!(codes.as_i8(), Some(expected.as_slice()));
        let of = |name: &str| match &quantized.node(quantized.find(name).expect(name)).op {
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(q) }) => vec![(q.scale(), q.zero_point())],
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerChannel { channels, .. } }) => {
                channels.iter().map(|q| (q.scale(), q.zero_point())).collect()
            }
            other => panic!("{name} is {other:?}"),
        };
        let weight_scales = if per_channel { &scales[..] } else { &scales[..1] };
        let (y_scale, y_zero) = if relu { (0.006_981_883, -128) } else { (0.011_758_962, -24) };
        let output = if relu { "relu.dequantize" } else { "fc.dequantize" };
        for (name, expected) in [
            ("fc.weight.dequantize", weight_scales.iter().map(|&s| (s, 0)).collect::<Vec<_>>()),
            ("x.dequantize", vec![(0.014_698_702, 8)]),
            (output, vec![(y_scale, y_zero)]),
        ] {
            for (got, expected) in of(name).iter().zip(&expected) {
                approx::assert_relative_eq!(got.0, expected.0, max_relative = 1e-6);
                assert_eq!(got.1, expected.1, "{name}");
            }
            assert_eq!(of(name).len(), expected.len(), "{name}");
        }
        for graph in [quantized.clone(), to_integer(&quantized).expect("rewritten")] {
            let y = Interpreter::new(&graph).run(&[&x]).expect("run");
            for (got, expected) in y[0].as_f32().expect("floats").iter().zip(if relu { rectified } else { plain }) {
                approx::assert_abs_diff_eq!(*got, expected, epsilon = 1e-6);
            }
        }
    }
}
