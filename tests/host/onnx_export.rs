//! Export to ONNX: what is refused, and the models that ONNX Runtime is given by `tests/onnx/check_with_onnxruntime.py`.

pub(crate) mod nets;
mod read;
mod write;

use enfold::interp::Interpreter;
use enfold::onnx::{ExportError, ExportOptions, ImportOptions, Preset, export, import, save};
use enfold::ops::{ChooseQParams, Op, Quantize, QuantizeDynamic};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::values::{DType, QParams, QScheme, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;
use nets::Net;

fn tensorrt() -> ExportOptions {
    ExportOptions { preset: Preset::TensorRt, ..ExportOptions::default() }
}

fn quantized(net: &Net, config: QuantizationConfig) -> Graph {
    let mut random = Random::new(5);
    let mut prepared = prepare(&net.graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
    prepared.observe(&net.batch(&mut random, 8)).expect("observed");
    convert(&prepared, &ConvertOptions::default()).expect("converted")
}

#[test]
fn presets_have_names() {
    for preset in [Preset::OnnxRuntime, Preset::TensorRt] {
        assert_eq!(preset.to_string().parse(), Ok(preset));
    }
    assert_eq!(Preset::default(), Preset::OnnxRuntime);
    let error = "tflite".parse::<Preset>().expect_err("unknown").to_string();
    assert!(error.contains("\"tflite\"") && error.contains("onnxruntime and tensorrt"), "{error}");
}

#[test]
fn tensorrt_refuses_zero_points_by_name() {
    let net = nets::mlp();
    let affine = quantized(&net, QuantizationConfig::symmetric().per_channel());
    let Err(ExportError::Asymmetric { nodes, of }) = export(&affine, &tensorrt()) else {
        panic!("affine activations were exported")
    };
    // Four values are quantized; those after a ReLU have the zero point −128. Weights have none.
    assert!(nodes.contains(&("relu.0.quantize".to_owned(), -128)) && of > nodes.len(), "{nodes:?} of {of}");
    let message = ExportError::Asymmetric { nodes, of }.to_string();
    assert!(message.contains("relu.0.quantize (-128)") && message.contains("symmetric_activations()"), "{message}");

    let symmetric = quantized(&net, QuantizationConfig::symmetric().per_channel().symmetric_activations());
    assert!(export(&symmetric, &tensorrt()).is_ok());
    assert!(export(&affine, &ExportOptions::default()).is_ok());
}

#[test]
fn tensorrt_refuses_scales_that_are_found_at_run_time() {
    let graph = quantized(&nets::mlp(), QuantizationConfig::symmetric().dynamic());
    let Err(ExportError::Inexpressible { nodes, .. }) = export(&graph, &tensorrt()) else {
        panic!("dynamic quantization was exported")
    };
    // Each of three layers chooses, quantizes and dequantizes.
    assert_eq!(nodes.len(), 9, "{nodes:?}");
    assert!(nodes.iter().all(|node| node.reason.contains("quantize statically")), "{nodes:?}");
}

#[test]
fn the_integer_form_is_refused_with_what_to_do() {
    let graph = to_integer(&quantized(&nets::mlp(), QuantizationConfig::symmetric())).expect("integers");
    let error = export(&graph, &ExportOptions::default()).expect_err("integers");
    assert!(matches!(&error, ExportError::Integers { op: "integer_linear", count: 6, .. }), "{error:?}");
    assert!(error.to_string().contains("export the quantize/dequantize graph"), "{error}");
}

/// The error lists all nodes, except those that no output needs.
#[test]
fn every_node_without_a_form_is_listed() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let range = QuantRange::new(-3, 3).expect("valid");
    let qparams = TensorQParams::per_channel(&[1.0, 2.0, 3.0], &[0; 3], 1).expect("valid");
    let narrow = g.node("narrow", Op::Quantize(Quantize::new(qparams, range)), &[x]).expect("a node");
    let wide = TensorQParams::PerTensor(QParams::new(1.0, 0).expect("valid"));
    let wide = g.node("wide", Op::Quantize(Quantize::new(wide, QuantRange::INT32)), &[x]).expect("a node");
    let choose =
        Op::ChooseQParams(ChooseQParams { qscheme: QScheme::per_token_affine(), range: QuantRange::INT8, eps: 1e-6 });
    let pairs = g.node("pairs", choose, &[x]).expect("a node");
    let codes =
        g.node("codes", Op::QuantizeDynamic(QuantizeDynamic { range: QuantRange::INT8 }), &[x, pairs]).expect("a node");
    g.slice("unneeded", wide, 1, 0..0).expect("a node");
    let graph = g.finish([narrow, wide, codes]).expect("a graph");
    let error = export(&graph, &ExportOptions::default()).expect_err("no form");
    let Error { names, text } = Error::of(&error);
    assert_eq!(names, ["narrow", "wide", "codes"], "{text}");
    assert!(text.starts_with("3 nodes have no form in ONNX for onnxruntime: narrow (quantize_per_channel):"), "{text}");
}

struct Error {
    names: Vec<String>,
    text: String,
}

impl Error {
    fn of(error: &ExportError) -> Self {
        let names = match error {
            ExportError::Inexpressible { nodes, .. } => nodes.iter().map(|node| node.node.clone()).collect(),
            _ => Vec::new(),
        };
        Self { names, text: error.to_string() }
    }
}

/// Every operator has a form in ONNX, belongs to the integer form, or is listed here.
#[test]
fn every_op_is_exported_or_refused_by_name() {
    let (mut exported, mut integers) = (0, 0);
    let mut refused = std::collections::BTreeSet::new();
    for case in crate::ops::table() {
        match export(&case.graph, &ExportOptions::default()) {
            Ok(_) => exported += 1,
            Err(ExportError::Integers { .. }) => integers += 1,
            Err(ExportError::Inexpressible { nodes, .. }) => refused.extend(nodes.iter().map(|node| node.op)),
            Err(other) => panic!("{}: {other}", case.name),
        }
    }
    // The adaptive pool of the table has windows of two lengths; updates of blocks of a batch, and their maximum, have no form.
    assert_eq!(Vec::from_iter(refused), ["adaptive_average_pool", "scatter_nd", "unfold"]);
    assert!(exported >= 25 && integers >= 8, "{exported} exported, {integers} of the integer form");
}

/// The quantized graph of convolutions, written and read again, is integers throughout, and gives the same to a step.
#[test]
fn quantized_convolutions_are_read_as_they_were() {
    let net = nets::images();
    let quantized = quantized(&net, QuantizationConfig::symmetric().per_channel());
    let bytes = export(&quantized, &ExportOptions::default()).expect("exported");
    let read = import(bytes, None, &ImportOptions::default()).expect("imported");
    let layers = |graph: &Graph| {
        let names = graph.nodes().iter().map(|node| node.op.name());
        names.filter(|name| name.starts_with("conv") || *name == "linear").collect::<Vec<_>>()
    };
    assert_eq!(layers(&read), ["conv", "conv", "conv", "conv_transpose", "linear"]);
    // Biases of such layers are quantized to 32 bits, for each channel.
    let bias = read.find("conv.0.bias.quantize").map(|id| read.node(id).dtype);
    assert_eq!(bias, Some(DType::I32), "{read}");
    let integers = to_integer(&read).expect("an integer form");
    let summary = integers.summary();
    assert!(summary.float.is_empty() && summary.integer.len() >= 5, "{summary}\n{read}");
    let batch = net.batch(&mut Random::new(3), 4);
    let outputs = |graph: &Graph| Interpreter::new(graph).run(&batch).expect("a run");
    let expected = outputs(&quantized);
    // The means have the scale of the image that they are of, which has the largest values.
    let largest = |tensor: &Tensor| tensor.as_f32().expect("floats").iter().fold(0f32, |most, v| most.max(v.abs()));
    let most = expected.iter().map(largest).fold(0.0, f32::max);
    for graph in [&read, &integers] {
        for (actual, expected) in outputs(graph).iter().zip(&expected) {
            // A value that flips by one of 255 steps moves some behind it by several, but few values flip.
            let (worst, _) = crate::onnx::difference(actual, expected);
            let (a, e) = (actual.as_f32().expect("floats"), expected.as_f32().expect("floats"));
            let mean = a.iter().zip(e).map(|(a, e)| (a - e).abs()).sum::<f32>() / a.len() as f32;
            assert!(worst <= 0.06 * most && mean <= 0.004 * most, "{worst} and {mean} on average, of {most}");
        }
    }
}

#[test]
fn a_prepared_graph_must_be_converted_first() {
    let prepared = prepare(&nets::mlp().graph, &WgpuQuantizer::new().set_global(QuantizationConfig::symmetric()));
    let error = export(prepared.expect("prepared").graph(), &ExportOptions::default()).expect_err("observers");
    assert!(error.to_string().contains("convert the graph first"), "{error}");
}

#[test]
fn names_of_the_batch_and_of_files_are_checked() {
    let graph = nets::mlp().graph;
    for name in ["", " ", "8"] {
        let error =
            export(&graph, &ExportOptions { batch: name.to_owned(), ..ExportOptions::default() }).expect_err("no name");
        assert_eq!(error, ExportError::BatchName { name: name.to_owned() });
    }
    let missing = std::env::temp_dir().join("enfold-no-such-folder").join("model.onnx");
    match save(&graph, &missing, &ExportOptions::default()) {
        Err(ExportError::Io { path, .. }) => assert_eq!(path, missing.display().to_string()),
        other => panic!("{other:?}"),
    }
}
