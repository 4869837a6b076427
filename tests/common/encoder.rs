//! A small sentence encoder as an ONNX file, its int8 forms, and how near their embeddings are to those of the float model.

use enfold::onnx::{ImportOptions, load};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare};
use enfold::{Graph, Tensor};

use crate::random::Random;

const BATCH: usize = 4;
const SEQ: usize = 16;

/// One int8 form.
pub(crate) struct Form {
    pub(crate) name: &'static str,
    /// Q/DQ.
    pub(crate) graph: Graph,
    /// The smallest cosine that any row may have with the float model's. ONNX Runtime's own forms reach 0.9997 and 0.9996.
    pub(crate) bound: f64,
}

pub(crate) fn float() -> Graph {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/onnx/tiny_bert.onnx");
    load(path, &ImportOptions::with_dims([("batch", BATCH), ("seq", SEQ)])).expect("a model of the tests")
}

pub(crate) fn forms(float: &Graph) -> Vec<Form> {
    let config = || QuantizationConfig::symmetric().per_channel();
    let form = |name, config, matmul, bound| {
        let quantizer = WgpuQuantizer::new().set_global(config).quantize_matmul(matmul).float_islands(true);
        let mut prepared = prepare(float, &quantizer).expect("prepare");
        for batch in 0..16 {
            prepared.observe(&batches(float, 100 + batch)).expect("observe");
        }
        Form { name, graph: convert(&prepared, &ConvertOptions::default()).expect("convert"), bound }
    };
    vec![
        form("dynamic, per token", config().dynamic_per_token(), false, 0.9995),
        form("dynamic, per token, with attention", config().dynamic_per_token(), true, 0.9995),
        form("static, per channel", config(), false, 0.999),
        form("static, per channel, with attention", config(), true, 0.999),
    ]
}

/// Random ids and a mask of random lengths, in the order of the graph's inputs.
pub(crate) fn batches(graph: &Graph, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let lengths: Vec<usize> = (0..BATCH).map(|_| 1 + random.below(SEQ)).collect();
    let tensor = |name: &str, random: &mut Random| {
        let value = |at: usize| match name {
            "attention_mask" => i32::from(at % SEQ < lengths[at / SEQ]),
            _ => random.between(0, 199),
        };
        Tensor::from_i32(&[BATCH, SEQ], (0..BATCH * SEQ).map(value).collect()).expect("as many")
    };
    graph.inputs().iter().map(|&id| tensor(&graph.node(id).name, &mut random)).collect()
}

/// The smallest cosine of a row with the row expected.
pub(crate) fn worst_cosine(actual: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(actual.shape(), expected.shape());
    let width = expected.shape()[1];
    let (actual, expected) = (actual.as_f32().expect("floats"), expected.as_f32().expect("floats"));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let rows = actual.chunks(width).zip(expected.chunks(width));
    let cosine = |(a, b): (&[f32], &[f32])| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    // A NaN is near nothing.
    rows.map(cosine).map(|c| if c.is_nan() { -1.0 } else { c }).fold(1.0, f64::min)
}
