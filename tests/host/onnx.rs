//! Imported ONNX files against the outputs of ONNX Runtime.

use std::path::{Path, PathBuf};

use enfold::interp::Interpreter;
use enfold::onnx::{ImportOptions, OnnxError, import, load};
use enfold::ops::Op;
use enfold::quantize::to_integer;
use enfold::{Graph, Tensor};
use safetensors::{Dtype, SafeTensors};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx")
}

pub(crate) fn options(dims: &[(&str, usize)]) -> ImportOptions {
    ImportOptions::with_dims(dims.iter().copied())
}

pub(crate) fn model(name: &str, dims: &[(&str, usize)]) -> Graph {
    let graph = load(folder().join(format!("{name}.onnx")), &options(dims)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(graph.verify(), Ok(()));
    graph
}

/// Reads tensors of the file beside a model by name.
pub(crate) fn stored(name: &str) -> impl Fn(&str) -> Tensor {
    let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).expect("data beside the model");
    move |name| {
        let file = SafeTensors::deserialize(&bytes).expect("a sound file");
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        match view.dtype() {
            Dtype::F32 => {
                let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four")));
                Tensor::from_f32(view.shape(), values.collect()).expect("as many as the shape says")
            }
            Dtype::I64 => {
                let value = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("eight")) as i32;
                Tensor::from_i32(view.shape(), view.data().chunks_exact(8).map(value).collect()).expect("as many")
            }
            other => panic!("{name} is {other:?}"),
        }
    }
}

/// The inputs of a model in the order of the graph, and ONNX Runtime's outputs.
pub(crate) fn data(name: &str, graph: &Graph) -> (Vec<Tensor>, Vec<Tensor>) {
    let read = stored(name);
    let inputs = graph.inputs().iter().map(|&id| read(&format!("in.{}", graph.node(id).name))).collect();
    let outputs = (0..graph.outputs().len()).map(|at| read(&format!("out.{at}"))).collect();
    (inputs, outputs)
}

/// The largest difference, and the largest absolute value expected.
pub(crate) fn difference(actual: &Tensor, expected: &Tensor) -> (f32, f32) {
    assert_eq!(actual.shape(), expected.shape());
    let (actual, expected) = (actual.as_f32().expect("floats"), expected.as_f32().expect("floats"));
    let worst =
        |worst: f32, (a, e): (&f32, &f32)| if (a - e).is_nan() { f32::INFINITY } else { worst.max((a - e).abs()) };
    (actual.iter().zip(expected).fold(0.0, worst), expected.iter().fold(0.0, |m: f32, v| m.max(v.abs())))
}

/// Whether every output is within 1e-4 of the largest one expected.
fn matches(graph: &Graph, inputs: &[Tensor], expected: &[Tensor]) -> bool {
    let outputs = Interpreter::new(graph).run(inputs).expect("a run");
    assert_eq!(outputs.len(), expected.len());
    outputs.iter().zip(expected).all(|(actual, expected)| {
        let (worst, max) = difference(actual, expected);
        worst <= 1e-4 * max
    })
}

const FLOAT: [(&str, &[(&str, usize)]); 5] = [
    ("digits_mlp", &[]),
    ("digits_mlp", &[("batch", 32)]),
    ("gated_ffn", &[("seq", 7)]),
    ("gated_ffn", &[("batch", 2), ("seq", 7)]),
    ("tiny_bert", &[("batch", 3), ("seq", 16)]),
];

#[test]
fn float_models_agree_with_onnx_runtime() {
    for (name, dims) in FLOAT {
        let graph = model(name, dims);
        let (inputs, expected) = data(name, &graph);
        assert!(matches(&graph, &inputs, &expected), "{name} {dims:?}");
    }
}

/// The comparison must notice that one weight was changed.
#[test]
fn a_changed_weight_is_noticed() {
    for (name, dims) in [FLOAT[0], FLOAT[2], FLOAT[4]] {
        let path = folder().join(format!("{name}.onnx"));
        let mut bytes = std::fs::read(path).expect("a model");
        // The last floats of a file of these are biases or weights: a quarter from the end, they are inside of one.
        let at = bytes.len() / 2 / 4 * 4;
        let graph = model(name, dims);
        let (inputs, expected) = data(name, &graph);
        let caught = (0..64).any(|step| {
            let mut changed = bytes.clone();
            changed[at + step..at + step + 4].copy_from_slice(&3.0f32.to_le_bytes());
            match import(changed, None, &options(dims)) {
                Ok(graph) => !matches(&graph, &inputs, &expected),
                Err(_) => false,
            }
        });
        bytes.clear();
        assert!(caught, "{name}");
    }
}

#[test]
fn outputs_and_inputs_keep_their_names() {
    let graph = model("digits_mlp", &[]);
    let names: Vec<&str> = graph.nodes().iter().map(|node| node.name.as_str()).collect();
    let expected =
        ["image", "0.weight", "0.bias", "0", "relu0", "2.weight", "2.bias", "2", "relu1", "4.weight", "4.bias", "4"];
    assert_eq!(names, expected);
    assert_eq!(graph.output_names(), ["logits"]);
    // Passes and archives keep them.
    let prepared = enfold::quantize::prepare(&graph, &enfold::quantize::WgpuQuantizer::new()).expect("prepared");
    assert_eq!(prepared.graph().output_names(), ["logits"]);
    let bytes = enfold::archive::to_bytes(&graph).expect("bytes");
    assert_eq!(enfold::archive::from_bytes(&bytes).expect("a graph"), graph);
    // The outputs of a graph without given names are called after their origins.
    let mut g = enfold::GraphBuilder::new();
    let x = g.input("x", enfold::Shape::rows(2)).expect("an input");
    let y = g.relu("y", x).expect("a relu");
    assert_eq!(g.finish([y]).expect("a graph").output_names(), ["y"]);
}

#[test]
fn the_layers_of_an_encoder_are_found() {
    let graph = model("tiny_bert", &[("batch", 3), ("seq", 16)]);
    let count = |name: &str| graph.nodes().iter().filter(|node| node.op.name() == name).count();
    let found = ["linear", "layer_norm", "gelu", "softmax", "matmul", "embedding"].map(count);
    assert_eq!(found, [12, 5, 2, 2, 4, 1], "{graph}");
    assert!(graph.nodes().iter().all(|node| !matches!(node.op, Op::Linear(_)) || node.inputs.len() == 3), "{graph}");
    for name in ["m.encoder.layer.0.attention.self.query", "m.encoder.layer.1.attention.self.MatMul"] {
        assert!(graph.find(name).is_some(), "{name} is not in\n{graph}");
    }
    // Without a batch, its mask cannot be gathered: every node in the way is listed, with what to do.
    let e = load(folder().join("tiny_bert.onnx"), &options(&[("seq", 16)])).expect_err("the batch is needed");
    assert!(matches!(&e, OnnxError::Unsupported(nodes) if !nodes.is_empty()), "{e}");
    assert!(e.to_string().contains("give batch a length, as in batch=8"), "{e}");
}

/// The quantize/dequantize graph and its integer form against ONNX Runtime.
#[test]
fn a_quantized_model_is_integers_throughout() {
    let step = 0.176_684_07;
    for dims in [&[][..], &[("batch", 32)]] {
        let graph = model("digits_mlp.qdq", dims);
        let (inputs, expected) = data("digits_mlp.qdq", &graph);
        let integers = to_integer(&graph).expect("an integer form");
        let summary = integers.summary();
        assert!(summary.float.is_empty() && summary.integer.len() == 3, "{summary}\n{graph}");
        for graph in [&graph, &integers] {
            let outputs = Interpreter::new(graph).run(&inputs).expect("a run");
            let (worst, _) = difference(&outputs[0], &expected[0]);
            assert!(worst <= 1.001 * step, "{worst} is more than a step of {step}");
        }
        // The comparison notices two steps.
        let moved: Vec<f32> = expected[0].as_f32().expect("floats").iter().map(|v| v + 2.0 * step).collect();
        let moved = Tensor::from_f32(expected[0].shape(), moved).expect("as many");
        let outputs = Interpreter::new(&graph).run(&inputs).expect("a run");
        assert!(difference(&outputs[0], &moved).0 > 1.001 * step);
    }
    // The layers are those of a converted graph, by name and kind.
    let graph = model("digits_mlp.qdq", &[]);
    for name in ["0.weight.quantize", "0.weight.dequantize", "0.bias.quantize", "0.bias.dequantize", "0", "2", "4"] {
        assert!(graph.find(name).is_some(), "{name} is not in\n{graph}");
    }
}

/// A broken file gives an error, or another graph if the damage is in a number, and never a panic.
#[test]
fn broken_files_are_refused_or_read() {
    let mut random = fastrand::Rng::with_seed(6);
    for (name, dims, every, flips) in [
        ("gated_ffn", &[("seq", 7)][..], 97, 600),
        ("digits_mlp.qdq", &[], 97, 600),
        ("digits_mlp", &[], 1997, 100),
        ("tiny_bert", &[("batch", 3), ("seq", 16)], 4999, 300),
    ] {
        let bytes = std::fs::read(folder().join(format!("{name}.onnx"))).expect("a model");
        let options = options(dims);
        let mut refused = 0;
        for length in (0..bytes.len()).step_by(every) {
            refused += usize::from(import(bytes[..length].to_vec(), None, &options).is_err());
        }
        // A cut between two fields may leave a whole model, but hardly ever does.
        assert!(refused + 2 >= bytes.len() / every, "{name}: {refused}");
        // Flips hit mostly weights; so half of them go where the nodes are.
        let head = nodes_of(&bytes);
        for flip in 0..flips {
            let mut broken = bytes.clone();
            let range = if flip % 2 == 0 { 0..bytes.len() } else { head.clone() };
            for _ in 0..1 + flip % 3 {
                let at = random.usize(range.clone());
                broken[at] ^= 1 << random.u8(0..8);
            }
            if let Ok(graph) = import(broken, None, &options) {
                assert_eq!(graph.verify(), Ok(()));
            }
        }
    }
}

/// The range of a file that holds its nodes: the first 6 KB, since the graph begins with them.
fn nodes_of(bytes: &[u8]) -> std::ops::Range<usize> {
    0..bytes.len().min(6 << 10)
}

/// Errors and options can be sent between threads.
#[test]
fn errors_and_options_travel() {
    fn travels<T: Send + Sync + 'static>() {}
    travels::<OnnxError>();
    travels::<ImportOptions>();
    let e = load(folder().join("none.onnx"), &ImportOptions::default()).expect_err("no such file");
    assert!(matches!(enfold::Error::from(e), enfold::Error::Onnx(OnnxError::Io { .. })));
}
