//! Work that grows with the nodes of a graph, not with the ways that lead through it, nor with the square of anything.
//!
//! Nothing is timed: where a pass walks twice over what it has seen, these tests take hours.

use enfold::compare::{compare, distributions};
use enfold::interp::Interpreter;
use enfold::lower::{LowerOptions, lower_with};
use enfold::onnx::{self, ExportOptions, ImportOptions};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, prepare, to_integer};
use enfold::{Graph, GraphBuilder, Shape, Tensor, archive, cpu};

fn f32s(shape: &[usize], value: f32) -> Tensor {
    Tensor::from_f32(shape, vec![value; shape.iter().product()]).expect("lengths fit")
}

/// All stages of a graph, and what is asked about them.
fn flow(graph: &Graph, x: &Tensor, config: &QuantizationConfig) {
    Interpreter::new(graph).run(&[x]).expect("runs");
    let quantizer = WgpuQuantizer::new().set_global(config.clone()).quantize_matmul(true).float_islands(true);
    let mut prepared = prepare(graph, &quantizer).expect("prepared");
    if !config.is_dynamic() {
        prepared.observe(&[x]).expect("observed");
        let state = archive::prepared_to_bytes(&prepared).expect("bytes");
        prepared.merge(&archive::prepared_from_bytes(&state).expect("the same")).expect("merged");
    }
    let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
    let integers = to_integer(&quantized).expect("integers");
    assert!(!integers.summary().integer.is_empty());
    let options = LowerOptions { int8_inputs: true, int8_outputs: true, ..LowerOptions::default() };
    let program = lower_with(&to_integer(&quantized).expect("integers"), &LowerOptions::default()).expect("lowered");
    lower_with(&integers, &options).expect("lowered");
    cpu::Engine::new(&program).expect("an engine").run(&[x]).expect("runs");
    let comparison = compare(graph, &quantized, &[x]).expect("compared");
    let spread = distributions(graph, &quantized, &[x], 4).expect("counted");
    assert_eq!(comparison.nodes.len(), spread.len());
    let file = onnx::export(&quantized, &ExportOptions::default()).expect("exported");
    // The importer does not read the operators of dynamic quantization.
    if !config.is_dynamic() {
        onnx::import(file, None, &ImportOptions::default()).expect("imported");
    }
}

/// 64 nodes follow each other, and each reads the one before twice: 2⁶⁴ paths lead through them.
#[test]
fn ways_are_not_counted() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(2)).expect("an input");
    let w = g.constant("w", f32s(&[2, 2], 0.25)).expect("a constant");
    let (mut sum, mut constant) = (x, g.constant("c", f32s(&[2], 1e-3)).expect("a constant"));
    for i in 0..64 {
        // A sum of a value and a function of it, of constants too, and a value that is sliced in two and concatenated again.
        let half = g.mul_scalar(&format!("half{i}"), sum, 0.5).expect("a product");
        let layer = g.linear_nodes(&format!("layer{i}"), half, w, None).expect("a layer");
        sum = g.add(&format!("sum{i}"), half, layer).expect("a sum");
        let [a, b] = [0, 1].map(|at| g.slice(&format!("s{i}.{at}"), sum, 1, at..at + 1).expect("a part"));
        sum = g.concat(&format!("joined{i}"), &[b, a], 1).expect("joined");
        let relu = g.mul_scalar(&format!("c{i}.half"), constant, 0.5).expect("a product");
        let other = g.mul_scalar(&format!("c{i}.other"), constant, 0.5).expect("a product");
        constant = g.add(&format!("c{i}"), relu, other).expect("a sum");
    }
    let y = g.add("y", sum, constant).expect("a sum");
    let graph = g.finish([y]).expect("a graph");
    let x = Tensor::from_f32(&[3, 2], vec![0.5, -1.0, 0.25, 2.0, -0.75, 1.0]).expect("lengths fit");
    for config in [QuantizationConfig::symmetric(), QuantizationConfig::symmetric().dynamic_per_token()] {
        flow(&graph, &x, &config);
    }
}
