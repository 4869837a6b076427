//! The integer form against the quantize/dequantize form: each integer op, fed the latter's codes, is at most one step away,
//! on at most 0.02 % of all codes.

use enfold::graph::Op;
use enfold::interp::Interpreter;
use enfold::qparams::{QuantRange, TensorQParams};
use enfold::quantize::{
    ConvertOptions, ObserverKind, QuantizationConfig, QuantizationSpec, WgpuQuantizer, convert, prepare, reference,
};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::golden;
use crate::nets;
use crate::random::Random;
use crate::report::report;
use crate::wrong;

/// How many codes were compared, and how many were one step apart.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Codes {
    compared: usize,
    apart: usize,
}

/// Feeds every integer layer the codes that the quantize/dequantize graph has at its input, and compares what it makes of
/// them with that graph's own result.
fn compare_ops(quantized: &Graph, integers: &Graph, inputs: &[&Tensor]) -> Result<Codes, String> {
    let (oracle, rewritten) = (Interpreter::new(quantized), Interpreter::new(integers));
    let feeds: Vec<_> = quantized.inputs().iter().copied().zip(inputs.iter().copied()).collect();
    let value = |name: &str| -> Result<Tensor, String> {
        let id = quantized.find(name).ok_or_else(|| format!("the oracle has no {name}"))?;
        Ok(oracle.run_nodes(&feeds, &[id]).map_err(|e| e.to_string())?.swap_remove(0))
    };
    let mut codes = Codes::default();
    for (id, node) in integers.iter() {
        if !matches!(node.op, Op::Requantize { .. } | Op::ScaleAccumulator { .. }) {
            continue;
        }
        let linear = integers.node(node.inputs[0]);
        let x = linear.inputs[0];
        let x_codes = value(&integers.node(x).name)?;
        let got = rewritten.run_nodes(&[(x, &x_codes)], &[id]).map_err(|e| e.to_string())?.swap_remove(0);
        // A float output stands for the linear node or the ReLU behind it.
        let relu = format!("relu.{}", linear.name.trim_start_matches("fc."));
        let expected = match node.op {
            Op::Requantize { .. } => value(&node.name)?,
            Op::ScaleAccumulator { relu: true } => value(&relu)?,
            _ => value(&linear.name)?,
        };
        if let (Some(got), Some(expected)) = (got.as_i8(), expected.as_i8()) {
            for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
                let steps = (i32::from(got) - i32::from(expected)).abs();
                if steps > 1 {
                    return Err(format!("{}: element {at} is {got}, expected {expected}", node.name));
                }
                codes.apart += usize::from(steps == 1);
            }
            codes.compared += got.len();
        } else {
            let (got, expected) = (got.as_f32().unwrap_or_default(), expected.as_f32().unwrap_or_default());
            let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs())).max(1e-3);
            for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
                // The bias is rounded to a 256th of a step, and f32 sums to some millionths.
                if (got - expected).abs() > 1e-3 * largest {
                    return Err(format!("{}: element {at} is {got}, expected {expected}", node.name));
                }
            }
        }
    }
    Ok(codes)
}

fn within_bar(codes: Codes) -> bool {
    codes.compared > 0 && codes.apart as f64 <= 2e-4 * codes.compared as f64
}

#[test]
fn integer_ops_equal_the_golden_networks() {
    let mut total = Codes::default();
    let mut graphs = 0;
    for (name, quantized, x) in golden::quantized_networks(&["pt2e/static"])
        .into_iter()
        .filter(|n| n.0.contains("mlp") || n.0.contains("linear"))
    {
        let integers = reference(&quantized).expect("rewritten");
        assert!(integers.summary().float.is_empty(), "{name}: {}", integers.summary());
        let codes = compare_ops(&quantized, &integers, &[&x]).unwrap_or_else(|e| panic!("{name}: {e}"));
        total.compared += codes.compared;
        total.apart += codes.apart;
        graphs += 1;
    }
    report(&format!(
        "integer ops, {graphs} golden networks: {} of {} codes one step apart",
        total.apart, total.compared
    ));
    assert!(within_bar(total), "{total:?}");
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
    let integers = reference(&quantized).expect("rewritten");
    assert!(integers.summary().float.is_empty(), "seed {seed}: {}", integers.summary());
    (quantized, integers, net.batch(&mut random))
}

#[test]
fn integer_ops_equal_a_thousand_random_networks() {
    let mut total = Codes::default();
    for seed in 0..1000 {
        let (quantized, integers, x) = random_net(seed);
        let codes = compare_ops(&quantized, &integers, &[&x]).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        total.compared += codes.compared;
        total.apart += codes.apart;
    }
    report(&format!("integer ops, 1000 random networks: {} of {} codes one step apart", total.apart, total.compared));
    assert!(within_bar(total), "{total:?}");
}

/// What the bar is for: a bias rounded to whole steps flips more codes than it admits.
#[test]
fn a_bias_without_fraction_bits_is_caught() {
    let mut total = Codes::default();
    for seed in (0..200u64).filter(|seed| !seed.is_multiple_of(5)) {
        let (quantized, integers, x) = random_net(seed);
        let rounded = wrong::without_fraction_bits(&integers);
        if let Ok(codes) = compare_ops(&quantized, &rounded, &[&x]) {
            total.compared += codes.compared;
            total.apart += codes.apart;
        }
    }
    report(&format!("negative control, no fraction bits: {} of {} codes apart", total.apart, total.compared));
    assert!(!within_bar(total), "{total:?} passes, so the bar proves nothing");
}

#[test]
fn one_weight_changed_by_one_is_caught() {
    let (quantized, integers, x) = random_net(4);
    assert!(compare_ops(&quantized, &integers, &[&x]).is_ok_and(within_bar));
    let changed = wrong::with_changed_weight(&integers);
    let caught = match compare_ops(&quantized, &changed, &[&x]) {
        Ok(codes) => !within_bar(codes),
        Err(named) => named.contains("element"),
    };
    assert!(caught, "a changed weight passes");
}

/// End to end a flipped code may grow, so only the ratio of signal to noise is bounded.
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
    assert_eq!(integers, reference(&folded).expect("rewritten"));

    // Without folding, the weights are quantized when the graph runs; the integer form folds them itself.
    let unfolded = ConvertOptions { fold_quantize: false, ..ConvertOptions::default() };
    let unfolded = convert(&prepared, &unfolded).expect("converted");
    let quantizes = |graph: &Graph| {
        let constant = |id| matches!(graph.node(id).op, Op::Constant(_));
        graph.iter().filter(|(_, n)| matches!(n.op, Op::Quantize { .. }) && constant(n.inputs[0])).count()
    };
    assert!(quantizes(&unfolded) > 0 && quantizes(&folded) == 0);
    let x = net.batch(&mut random);
    let run = |graph: &Graph| Interpreter::new(graph).run(&[&x]).expect("run");
    assert_eq!(run(&unfolded), run(&folded));
    assert_eq!(run(&reference(&unfolded).expect("rewritten")), run(&integers));
}

/// A per-tensor weight is the case that upstream's reference form is made for.
#[test]
fn per_tensor_weights_have_one_scale() {
    let (quantized, ..) = random_net(1);
    let per_tensor = |op: &Op| matches!(op, Op::Dequantize { qparams: TensorQParams::PerTensor(_) });
    assert!(quantized.nodes().iter().filter(|n| matches!(n.op, Op::Dequantize { .. })).all(|n| per_tensor(&n.op)));
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
        let Op::Constant(codes) = &weight.op else { panic!("{weight:?} is not folded") };
        let second: [i8; 4] = if per_channel { [-127, 95, -95, 127] } else { [-85, 64, -64, 85] };
        let expected = [first, second, [-42, 106, -21, 127]].concat();
        assert_eq!(codes.as_i8(), Some(expected.as_slice()));
        let of = |name: &str| match &quantized.node(quantized.find(name).expect(name)).op {
            Op::Dequantize { qparams: TensorQParams::PerTensor(q) } => vec![(q.scale(), q.zero_point())],
            Op::Dequantize { qparams: TensorQParams::PerChannel { channels, .. } } => {
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
        for graph in [quantized.clone(), reference(&quantized).expect("rewritten")] {
            let y = Interpreter::new(&graph).run(&[&x]).expect("run");
            for (got, expected) in y[0].as_f32().expect("floats").iter().zip(if relu { rectified } else { plain }) {
                approx::assert_abs_diff_eq!(*got, expected, epsilon = 1e-6);
            }
        }
    }
}
