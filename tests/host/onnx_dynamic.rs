//! Models of dynamic quantizers and of 16 bits: what they are in integers.

use std::path::Path;

use enfold::Graph;
use enfold::graph::Summary;
use enfold::interp::Interpreter;
use enfold::onnx::{ExportOptions, ImportOptions, export, import, load};
use enfold::ops::Op;
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};

use crate::random::Random;

fn case(name: &str, dims: &[(&str, usize)]) -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name).join("model.onnx");
    load(path, &ImportOptions::with_dims(dims.iter().copied())).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn summary(name: &str, dims: &[(&str, usize)]) -> Summary {
    to_integer(&case(name, dims)).expect("integers").summary()
}

#[test]
fn layers_of_dynamic_quantizers_are_integers() {
    for name in ["ort-dyn-s8", "ort-dyn-s8-pc"] {
        let summary = summary(name, &[]);
        assert_eq!((summary.integer.len(), summary.float.len()), (2, 0), "{name}: {summary}");
        assert!(summary.integer.iter().all(|line| line.contains("input quantized dynamically")), "{name}: {summary}");
    }
    for name in ["bert-dyn-s8", "bert-dyn-s8-ortopt-basic"] {
        let summary = summary(name, &[("seq", 6)]);
        let dynamic = summary.integer.iter().filter(|line| line.contains("quantized dynamically")).count();
        assert_eq!(dynamic, 6, "{name}: {summary}");
    }
    // Weights whose zero point is not that of int8 stay float, with the reason.
    let summary = summary("ort-dyn-u8", &[]);
    let reasons = summary.float.iter().filter(|node| node.op == "linear").map(|node| node.reason.as_str());
    let zero = |v: i32| format!("channel 0 of its weight has zero point {v}, expected 0");
    assert_eq!(Vec::from_iter(reasons), [zero(-9), zero(16)]);
}

#[test]
fn sixteen_bits_stay_float_with_the_reason() {
    let summary = summary("q-int16", &[]);
    assert!(summary.integer.is_empty(), "{summary}");
    let reasons = summary.float.iter().filter(|node| node.reason == "quantized values of uint16 have no integer form");
    assert!(reasons.count() >= 5, "{summary}");
}

/// The quantized graph, written and read again, gives the same integers: each output has the same bits.
#[test]
fn dynamic_exports_are_read_as_they_were() {
    let net = crate::onnx_export::nets::mlp();
    let symmetric = QuantizationConfig::symmetric;
    for (name, config) in [
        ("per tensor", symmetric().dynamic()),
        ("per channel", symmetric().per_channel().dynamic()),
        ("per token", symmetric().per_channel().dynamic_per_token()),
    ] {
        let prepared = prepare(&net.graph, &WgpuQuantizer::new().set_global(config)).expect("prepared");
        let graph = convert(&prepared, &ConvertOptions::default()).expect("converted");
        let bytes = export(&graph, &ExportOptions::default()).expect("exported");
        let read = import(bytes, None, &ImportOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let [graph, read] = [graph, read].map(|graph| to_integer(&graph).expect("integers"));
        let [own, other] = [&graph, &read].map(|graph| {
            let accumulators = graph.nodes().iter().filter(|node| matches!(node.op, Op::IntegerLinear(_)));
            accumulators.count()
        });
        assert_eq!(own, other, "{name}: {read}");
        assert!(own > 0, "{name}");
        let inputs = net.batch(&mut Random::new(3), 8);
        let run = |graph: &Graph| Interpreter::new(graph).run(&inputs).expect("outputs");
        assert_eq!(run(&graph), run(&read), "{name}");
    }
}
