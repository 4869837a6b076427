//! ONNX files against the outputs that ONNX Runtime gave for them.

use std::path::{Path, PathBuf};

use enfold::interp::Interpreter;
use enfold::onnx::{ImportOptions, load};
use enfold::{Graph, Tensor};
use safetensors::{Dtype, SafeTensors};

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/onnx")
}

pub(crate) fn options(dims: &[(&str, usize)]) -> ImportOptions {
    ImportOptions::new().dims(dims.iter().copied())
}

pub(crate) fn model(name: &str, dims: &[(&str, usize)]) -> Graph {
    let graph = load(folder().join(format!("{name}.onnx")), &options(dims)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(graph.verify(), Ok(()));
    graph
}

/// The inputs of a model in the order of the graph, and ONNX Runtime's outputs.
pub(crate) fn data(name: &str, graph: &Graph) -> (Vec<Tensor>, Vec<Tensor>) {
    let bytes = std::fs::read(folder().join(format!("{name}.safetensors"))).expect("data beside the model");
    let file = SafeTensors::deserialize(&bytes).expect("a sound file");
    let read = |name: &str| {
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
    };
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
        eprintln!("worst difference {worst:e} of max {max:e}");
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
        println!("{graph}");
        let (inputs, expected) = data(name, &graph);
        assert!(matches(&graph, &inputs, &expected), "{name} {dims:?}");
    }
}
