//! Networks of images and sound from ONNX files: floats are ONNX Runtime's, and int8 is as near to them as ONNX Runtime's own.
//!
//! `tests/onnx/images.py` wrote the files.

use enfold::compare::{cosine, sqnr_db};
use enfold::interp::Interpreter;
use enfold::lower::lower;
use enfold::onnx::{ExportOptions, ImportOptions, Preset, export, import};
use enfold::ops::Op;
use enfold::quantize::{
    ConvertOptions, ObserverKind, QuantizationConfig, Quantizer, WgpuQuantizer, convert, prepare, to_integer,
};
use enfold::values::QuantRange;
use enfold::{Graph, Tensor, cpu};

use crate::onnx::{folder, model, options, stored};
use crate::report::report;

/// Each network, and the shape of one input.
const NETWORKS: [(&str, &[usize]); 5] = [
    ("residual", &[3, 16, 16]),
    ("separable", &[3, 16, 16]),
    ("encoder_decoder", &[3, 16, 16]),
    ("inception", &[3, 16, 16]),
    ("audio", &[1, 256]),
];

/// Rows that calibrate, of how many at once, and rows of the test batch, which come after them. As in `images.py`.
const CALIBRATION: usize = 64;
const CALIBRATION_BATCH: usize = 8;
const TEST: usize = 32;

/// Of the largest value expected.
const FLOAT_TOLERANCE: f32 = 1e-4;
/// The smallest cosine that an image may have with its float output.
const COSINE: f64 = 0.99;
/// How much worse than ONNX Runtime's the SQNR may be.
const SQNR_DB: f64 = 1.0;

/// A number in [-1, 1) that looks random, a multiple of 2^-15, of each index. As in `images.py`.
fn hashed(index: u32) -> f32 {
    let mix = |h: u32, factor: u32| (h ^ (h >> 16)).wrapping_mul(factor);
    let h = mix(mix(index, 0x7FEB_352D), 0x846C_A68B);
    (h >> 16) as f32 / 32768.0 - 1.0
}

/// Rows from the first on: half of each value is noise, and half is the same in a whole plane. As in `images.py`.
fn batch(image: &[usize], first: usize, rows: usize) -> Tensor {
    let row: usize = image.iter().product();
    let plane: usize = image[1..].iter().product();
    let value = |at: usize| 0.5 * (hashed(at as u32) + hashed((at / plane) as u32 + (1 << 31)));
    let values = (first * row..(first + rows) * row).map(value).collect();
    Tensor::from_f32(&[&[rows], image].concat(), values).expect("as many")
}

fn test_batch(image: &[usize]) -> Tensor {
    batch(image, CALIBRATION, TEST)
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("floats")
}

fn interpreted(graph: &Graph, x: &Tensor) -> Tensor {
    Interpreter::new(graph).run(&[x]).expect("a run").swap_remove(0)
}

fn on_cpu(graph: &Graph, x: &Tensor) -> Tensor {
    let program = lower(graph).expect("a program");
    cpu::Engine::new(&program).expect("an engine").run(&[x]).expect("a run").swap_remove(0)
}

/// The largest difference relative to the largest value expected; an error that names the element if it is over the tolerance.
fn near(actual: &Tensor, expected: &Tensor, tolerance: f32) -> Result<f32, String> {
    assert_eq!(actual.shape(), expected.shape());
    let largest = floats(expected).iter().fold(0f32, |m, v| m.max(v.abs()));
    let mut worst = 0f32;
    for (at, (&a, &e)) in floats(actual).iter().zip(floats(expected)).enumerate() {
        let apart = (a - e).abs() / largest;
        // A NaN is near nothing.
        if apart.is_nan() || apart > tolerance {
            return Err(format!("element {at} is {a}, expected {e}: {apart:.1e} of the largest value apart"));
        }
        worst = worst.max(apart);
    }
    Ok(worst)
}

/// The smallest cosine of an image's outputs with those of the float model.
fn worst_cosine(actual: &Tensor, expected: &Tensor) -> f64 {
    let width = expected.len() / TEST;
    let rows = floats(actual).chunks(width).zip(floats(expected).chunks(width));
    rows.map(|(a, e)| cosine(e, a).expect("as many")).map(|c| if c.is_nan() { -1.0 } else { c }).fold(1.0, f64::min)
}

fn quantizer(config: QuantizationConfig) -> WgpuQuantizer {
    WgpuQuantizer::new().set_global(config.per_channel().activation_observer(ObserverKind::MinMax))
}

/// The quantize/dequantize graph, calibrated on the same rows as ONNX Runtime's.
fn quantized(float: &Graph, image: &[usize], quantizer: &dyn Quantizer) -> Graph {
    let mut prepared = prepare(float, quantizer).expect("prepared");
    for first in (0..CALIBRATION).step_by(CALIBRATION_BATCH) {
        prepared.observe(&[batch(image, first, CALIBRATION_BATCH)]).expect("observed");
    }
    convert(&prepared, &ConvertOptions::default()).expect("converted")
}

fn integers(float: &Graph, image: &[usize], quantizer: &dyn Quantizer) -> Graph {
    to_integer(&quantized(float, image, quantizer)).expect("an integer form")
}

#[test]
fn float_networks_agree_with_onnx_runtime() {
    for (name, image) in NETWORKS {
        let graph = model(name, &[]);
        let (x, expected) = (test_batch(image), stored(name)("float"));
        for (engine, y) in [("interpreter", interpreted(&graph, &x)), ("cpu", on_cpu(&graph, &x))] {
            let worst = near(&y, &expected, FLOAT_TOLERANCE).unwrap_or_else(|e| panic!("{name}, {engine}: {e}"));
            report(&format!("{name}, float, {engine}: {worst:.1e} of the largest value from ONNX Runtime"));
        }
    }
}

/// Every network with the crate's quantizer; with ranges shared as PyTorch's has them, the SQNR is reported.
#[test]
fn int8_networks_are_as_near_to_float_as_onnx_runtimes() {
    for (name, image) in NETWORKS {
        let float = model(name, &[]);
        let (x, read) = (test_batch(image), stored(name));
        let (expected, theirs) = (read("float"), read("int8"));
        let db = |y: &Tensor| sqnr_db(floats(&expected), floats(y)).expect("as many");
        let graph = integers(&float, image, &quantizer(QuantizationConfig::symmetric()));
        let summary = graph.summary();
        assert!(summary.float.is_empty(), "{name}: {summary}\n{graph}");
        let y = interpreted(&graph, &x);
        near(&on_cpu(&graph, &x), &y, 0.0).unwrap_or_else(|e| panic!("{name}, cpu: {e}"));
        let xnnpack = quantizer(QuantizationConfig::symmetric()).xnnpack_compatible(true);
        let shared = interpreted(&integers(&float, image, &xnnpack), &x);
        let (cosine, ours, shared, theirs) = (worst_cosine(&y, &expected), db(&y), db(&shared), db(&theirs));
        report(&format!(
            "{name}, int8: cosine at least {cosine:.5}, {ours:.2} dB, as XNNPACK {shared:.2} dB, ONNX Runtime {theirs:.2} dB"
        ));
        assert!(cosine >= COSINE, "{name}: cosine {cosine}, expected {COSINE}");
        assert!(ours >= theirs - SQNR_DB, "{name}: {ours:.2} dB, ONNX Runtime {theirs:.2} dB");
    }
}

/// Files for ONNX Runtime hold biases as integers of the accumulator's scale, where a graph rounds them to a fraction of that: a network
/// that is read again may be a step apart from the one that was exported, but stays as it is from then on. With biases in float, as for
/// TensorRT, every network is read as it was, bit for bit.
#[test]
fn exported_networks_are_read_as_they_were() {
    let again = |graph: &Graph, preset: Preset| {
        let options = ExportOptions { preset, ..ExportOptions::default() };
        import(export(graph, &options).expect("exported"), None, &ImportOptions::default()).expect("imported")
    };
    let mut apart = 0;
    for (name, image) in NETWORKS {
        let (float, x) = (model(name, &[]), test_batch(image));
        let run = |graph: &Graph| on_cpu(&to_integer(graph).expect("an integer form"), &x);
        let graph = quantized(&float, image, &quantizer(QuantizationConfig::symmetric()));
        let read = again(&graph, Preset::OnnxRuntime);
        let (own, once) = (run(&graph), run(&read));
        // The biases that are rounded already stay as they are.
        assert_eq!(run(&again(&read, Preset::OnnxRuntime)), once, "{name}");
        // Few values flip, in a network or two.
        apart += usize::from(own != once);
        let config = QuantizationConfig::symmetric().symmetric_activations();
        let graph = quantized(&float, image, &quantizer(config));
        let read = again(&graph, Preset::TensorRt);
        assert_eq!(run(&read), run(&graph), "{name}");
        let in_float = to_integer(&read).expect("an integer form").summary().float.len();
        assert_eq!(in_float, 0, "{name}: {read}");
    }
    assert!(apart > 0, "no bias was rounded");
}

/// The comparison of floats notices that one weight has the other sign, and names an element.
#[test]
fn a_weight_of_the_other_sign_is_noticed() {
    for (name, image) in NETWORKS {
        let mut bytes = std::fs::read(folder().join(format!("{name}.onnx"))).expect("a model");
        // The largest value of the largest constant that the file holds as it is in the graph.
        let graph = model(name, &[]);
        let constants = graph.nodes().iter().filter_map(|node| match &node.op {
            Op::Constant(constant) => constant.tensor.as_f32(),
            _ => None,
        });
        let found = constants.filter_map(|values| {
            let needle: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let start = bytes.windows(needle.len()).position(|window| window == needle)?;
            Some((values, start))
        });
        let (values, start) = found.max_by_key(|(values, _)| values.len()).expect("a weight in the file");
        let at = (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).expect("values");
        bytes[start + 4 * at + 3] ^= 0x80;
        let changed = import(bytes, None, &options(&[])).expect("a graph");
        let y = interpreted(&changed, &test_batch(image));
        let noticed = near(&y, &stored(name)("float"), FLOAT_TOLERANCE);
        assert!(noticed.as_ref().is_err_and(|e| e.starts_with("element")), "{name}: {noticed:?}");
    }
}

/// Weights of four bits do not reach ONNX Runtime's SQNR, so the bar means something.
#[test]
fn four_bit_weights_are_noticed() {
    for (name, image) in NETWORKS {
        let few_bits = QuantizationConfig::symmetric().weight_range(QuantRange::new(-7, 7).expect("valid"));
        let graph = integers(&model(name, &[]), image, &quantizer(few_bits));
        let (y, read) = (interpreted(&graph, &test_batch(image)), stored(name));
        let db = |y: &Tensor| sqnr_db(floats(&read("float")), floats(y)).expect("as many");
        assert!(db(&y) < db(&read("int8")) - SQNR_DB, "{name}: {:.2} dB", db(&y));
    }
}
