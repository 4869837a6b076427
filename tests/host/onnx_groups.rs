//! Group-wise weights in ONNX files: `MatMulNBits`.

use enfold::interp::Interpreter;
use enfold::onnx::{ExportError, ExportOptions, ImportOptions, Preset, export, import};
use enfold::ops::{Constant, Dequantize, IntegerLinearGroups, Linear, Op};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::{GroupQParams, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::cases::difference;
use crate::random::Random;
use crate::report::report;

fn layer(n: usize, k: usize) -> (Graph, Tensor) {
    let mut random = Random::new((n * k) as u64);
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(k)).expect("an input");
    let w = Tensor::from_f32(&[n, k], random.normals(n * k, 0.05)).expect("fits");
    let b = Tensor::from_f32(&[n], random.normals(n, 0.1)).expect("fits");
    let y = g.linear("fc", x, w, Some(b)).expect("a layer");
    (g.finish([y]).expect("a graph"), Tensor::from_f32(&[5, k], random.normals(5 * k, 1.0)).expect("fits"))
}

fn groups() -> ImportOptions {
    ImportOptions { integer_groups: true, ..ImportOptions::default() }
}

/// The quantized weight, and the integer scales and zero points of its groups.
fn integers_of(graph: &Graph) -> Vec<Tensor> {
    let is_layer = |op: &Op| matches!(op, Op::IntegerLinearGroups(_));
    let node = graph.nodes().iter().find(|node| is_layer(&node.op)).expect("a layer of groups");
    [1, 3, 4].map(|at| (**graph.node(node.inputs[at]).op.constant().expect("a constant")).clone()).into()
}

/// A file that enfold writes gives the same integers again: static, dynamic, with and without zero points.
#[test]
fn exports_come_back() {
    let (mut files, mut equal) = (0, 0);
    let config = QuantizationConfig::symmetric();
    for (n, k) in [(20, 64), (7, 100)] {
        let (graph, batch) = layer(n, k);
        for config in [
            config.clone(),
            config.clone().float_output(),
            config.clone().dynamic(),
            config.clone().dynamic_per_token(),
        ] {
            for (bits, size, asymmetric) in [(4, 32, false), (4, 16, true), (8, 64, false), (2, 32, true)] {
                let config = config.clone().weight_bits(bits).weight_group(size);
                let config = if asymmetric { config.asymmetric_weights() } else { config };
                let mut prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
                prepared.observe(&[&batch]).expect("observed");
                let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
                let bytes = export(&quantized, &ExportOptions::default()).expect("exported");
                let back = import(bytes.clone(), None, &groups()).expect("imported");
                let [ours, theirs] = [&quantized, &back].map(|graph| to_integer(graph).expect("integers"));
                assert!(theirs.summary().float.is_empty(), "{}", theirs.summary());
                assert_eq!(integers_of(&theirs), integers_of(&ours), "{bits} bits, groups of {size}");
                let [a, b] =
                    [&ours, &theirs].map(|graph| Interpreter::new(graph).run(&[&batch]).expect("run").swap_remove(0));
                // The scale of a channel may be one unit in the last place away.
                let [x, y] = [a.as_f32().expect("floats"), b.as_f32().expect("floats")];
                let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(x.iter().zip(y).all(|(a, b)| (a - b).abs() <= 1e-5 * largest), "{bits} bits, groups of {size}");
                equal += usize::from(difference(&a, &b).is_none());
                files += 1;
            }
        }
    }
    report(&format!("group-wise layers in ONNX: {files} files give the same integers, {equal} of them the same bits"));
}

/// A file of weights alone: in float by default, and in integers with activations quantized for each row on request.
#[test]
fn weights_alone_become_integers_on_request() {
    let mut random = Random::new(5);
    let (n, k, size) = (12, 64, 16);
    let scales: Vec<f32> = (0..n * k / size).map(|_| 0.01 + random.uniform() as f32 * 0.05).collect();
    let zero_points: Vec<i32> = (0..scales.len()).map(|_| random.between(-8, 7)).collect();
    let qparams = GroupQParams::new(size, k / size, &scales, &zero_points).expect("valid");
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(k)).expect("an input");
    let codes = (0..n * k).map(|_| random.between(-8, 7) as i8).collect();
    let constant = Constant { bits: Some(4), ..Constant::new(Tensor::from_i8(&[n, k], codes).expect("fits")) };
    let w = g.node("fc.weight", constant, &[]).expect("a constant");
    let w = g.node("fc.weight.dq", Dequantize { qparams: TensorQParams::PerGroup(qparams) }, &[w]).expect("reals");
    let y = g.node("fc", Linear::default(), &[x, w]).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    let batch = Tensor::from_f32(&[3, k], random.normals(3 * k, 1.0)).expect("fits");
    let expected = Interpreter::new(&graph).run(&[&batch]).expect("run").swap_remove(0);
    let bytes = export(&graph, &ExportOptions::default()).expect("exported");
    let run = |graph: &Graph| Interpreter::new(graph).run(&[&batch]).expect("run").swap_remove(0);
    let largest = expected.as_f32().expect("floats").iter().fold(0f32, |m, v| m.max(v.abs()));
    let apart = |y: &Tensor| {
        let pairs = y.as_f32().expect("floats").iter().zip(expected.as_f32().expect("floats"));
        pairs.fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
    };
    let float = import(bytes.clone(), None, &ImportOptions::default()).expect("imported");
    assert!(apart(&run(&float)) < 1e-5 && float.nodes().iter().all(|node| !matches!(node.op, Op::Dequantize(_))));
    let integers = to_integer(&import(bytes, None, &groups()).expect("imported")).expect("integers");
    assert!(integers.summary().float.is_empty(), "{}", integers.summary());
    let op = Op::from(IntegerLinearGroups { fraction_bits: 0, group_size: size });
    assert!(integers.nodes().iter().any(|node| node.op == op), "{integers}");
    let error = apart(&run(&integers));
    assert!(error < 0.02 && error > 1e-6, "{error}");
}

#[test]
fn what_has_no_form_says_why() {
    let export_of = |size: usize, options: &ExportOptions| {
        let (graph, _) = layer(4, 96);
        let config = QuantizationConfig::symmetric().dynamic_per_token().weight_bits(4).weight_group(size);
        let prepared = prepare(&graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
        match export(&quantized, options) {
            Err(ExportError::Inexpressible { nodes, .. }) => nodes.into_iter().map(|node| node.reason).collect(),
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        }
    };
    let reason = export_of(48, &ExportOptions::default());
    assert!(reason.contains("its groups have 48 features") && reason.contains("16, 32, 64, 128 or 256"), "{reason}");
    let reason = export_of(32, &ExportOptions { preset: Preset::TensorRt, ..ExportOptions::default() });
    assert!(reason.contains("TensorRT has no layers with a scale for each group"), "{reason}");
    assert_eq!(export_of(32, &ExportOptions::default()), "");
}
