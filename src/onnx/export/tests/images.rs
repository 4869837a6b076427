//! Convolutions and pools in exported files.

use super::*;
use crate::ops::{AveragePool, AverageWindows, Conv, ConvTranspose, IndexSelect, Window};

fn ints<'g>(node: &'g NodeProto, name: &str) -> &'g [i64] {
    &node.attribute.iter().find(|attribute| attribute.name == name).expect("an attribute").ints
}

/// A quantized layer on a line, with a bias of 1 and −0.7 for its outputs, and scales 0.5 and 0.25 along `ch_axis` of its weight.
fn layer(op: impl Into<Op>, shape: &[usize], ch_axis: usize) -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[shape[if ch_axis == 0 { 1 } else { 0 }], 4])).expect("an input");
    let x = pair(&mut g, "x", x, per_tensor(0.125, -5), QuantRange::INT8);
    let codes = Tensor::from_i8(shape, (0..shape.iter().product()).map(|i: usize| i as i8 - 4).collect());
    let w = g.constant("m.weight", codes.expect("lengths fit")).expect("a constant");
    let qparams = TensorQParams::per_channel(&[0.5, 0.25], &[0, 0], ch_axis).expect("valid");
    let w = g.node("m.weight.dequantize", Op::Dequantize(Dequantize { qparams }), &[w]).expect("a node");
    let b = g.constant("m.bias", f32s(&[2], &[1.0, -0.7])).expect("a constant");
    let y = g.node("m", op, &[x, w, b]).expect("a layer");
    let y = pair(&mut g, "y", y, per_tensor(0.25, -5), QuantRange::INT8);
    g.finish([y]).expect("a graph")
}

/// Weights keep their axes, and have their scales along the axis of the outputs; biases are codes of 32 bits.
#[test]
fn a_quantized_convolution_stands_between_pairs() {
    let window = Window::new(&[2]).with_stride(&[2]).with_uneven_padding(&[1], &[0]).with_dilation(&[2]);
    let transposed = ConvTranspose::new(window.clone()).with_output_padding(&[1]);
    for (graph, op_type, axis) in
        [(layer(Conv::new(window), &[2, 3, 2], 0), "Conv", 0), (layer(transposed, &[3, 2, 2], 1), "ConvTranspose", 1)]
    {
        let tensorrt = ExportOptions { preset: Preset::TensorRt, ..ExportOptions::default() };
        assert!(matches!(export(&graph, &tensorrt), Err(ExportError::Asymmetric { .. })));
        let graph = exported(&graph, &ExportOptions::default());
        let conv = node(&graph, op_type);
        assert_eq!((ints(conv, "kernel_shape"), ints(conv, "strides")), ([2].as_slice(), [2].as_slice()));
        assert_eq!((ints(conv, "pads"), ints(conv, "dilations")), ([1, 0].as_slice(), [2].as_slice()));
        assert_eq!(attribute(conv, "group"), 1);
        let weight = maker(&graph, &conv.input[1]);
        assert_eq!((weight.op_type.as_str(), attribute(weight, "axis")), ("DequantizeLinear", axis));
        let bias = maker(&graph, &conv.input[2]);
        assert_eq!((bias.op_type.as_str(), attribute(bias, "axis")), ("DequantizeLinear", 0));
        // At the scales 0.125 · 0.5 and 0.125 · 0.25: 16, and −22.4 to nearest.
        assert_eq!(floats(initializer(&graph, &bias.input[1])), [0.0625, 0.03125]);
        let codes = initializer(&graph, &bias.input[0]);
        assert_eq!(codes.data_type, data_type::INT32);
        assert_eq!(codes.raw_data, [16i32.to_le_bytes(), (-22i32).to_le_bytes()].concat());
    }
}

#[test]
fn pools_and_selected_elements() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[2, 4, 6])).expect("an input");
    let window = Window::new(&[2, 3]).with_stride(&[2, 3]);
    let sliding = AverageWindows::Sliding { window, ceil_mode: true, count_include_pad: false };
    let a = g.average_pool("sliding", x, sliding.into()).expect("a pool");
    let b = g.average_pool("even", x, AveragePool::adaptive(&[2, 3])).expect("a pool");
    let c = g.average_pool("global", x, AveragePool::adaptive(&[1, 1])).expect("a pool");
    let d = g.node("select", IndexSelect { axis: 3, indices: vec![5, 0] }, &[x]).expect("a node");
    let graph = exported(&g.finish([a, b, c, d]).expect("a graph"), &ExportOptions::default());
    assert_eq!(ops(&graph), ["AveragePool", "AveragePool", "GlobalAveragePool", "Gather"]);
    let [sliding, even] = [&graph.node[0], &graph.node[1]];
    assert_eq!((ints(sliding, "kernel_shape"), ints(sliding, "pads")), ([2, 3].as_slice(), [0; 4].as_slice()));
    assert_eq!((attribute(sliding, "ceil_mode"), attribute(sliding, "count_include_pad")), (1, 0));
    assert_eq!((ints(even, "kernel_shape"), ints(even, "strides")), ([2, 2].as_slice(), [2, 2].as_slice()));
    let gather = node(&graph, "Gather");
    let indices = initializer(&graph, &gather.input[1]);
    assert_eq!((attribute(gather, "axis"), indices.data_type), (3, data_type::INT64));
    assert_eq!(indices.raw_data, [5i64.to_le_bytes(), 0i64.to_le_bytes()].concat());
}
