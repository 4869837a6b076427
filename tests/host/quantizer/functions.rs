//! Chains of functions between quantized values become lookup tables, unless the result of a value is NaN.

use enfold::graph::NodeId;
use enfold::interp::Interpreter;
use enfold::ops::{Dequantize, Op, Quantize, Unary, UnaryOp};
use enfold::quantize::{ConvertOptions, QuantizationConfig, WgpuQuantizer, convert, to_integer};
use enfold::values::{QParams, QuantRange, TensorQParams};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use super::{prepared, symmetric, tensor};
use crate::oracle::compare_ops;

/// The integer form of a layer, a chain and a layer, and its quantize/dequantize form.
fn chain(config: QuantizationConfig, build: impl FnOnce(&mut GraphBuilder, NodeId) -> NodeId) -> [Graph; 2] {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = g.linear("in", x, tensor(1, &[6, 4]), None).expect("a layer");
    let h = build(&mut g, h);
    let y = g.linear("out", h, tensor(2, &[3, 6]), None).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    let prepared = prepared(&graph, &WgpuQuantizer::new().set_global(config));
    let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
    let integers = to_integer(&quantized).expect("rewritten");
    [quantized, integers]
}

fn tables(graph: &Graph) -> usize {
    graph.nodes().iter().filter(|n| matches!(n.op, Op::Lut(_))).count()
}

/// A clamp is a function like others: first, last, and between them.
#[test]
fn clamps_are_in_the_table_of_their_chain() {
    let [quantized, integers] = chain(symmetric(), |g, h| {
        let h = g.clamp("first", h, -1.0, f32::INFINITY).expect("a clamp");
        let h = g.tanh("tanh", h).expect("tanh");
        let h = g.clamp("between", h, 0.05, 0.9).expect("a clamp");
        let h = g.unary("log", UnaryOp::Log, h).expect("log");
        g.clamp("last", h, -2.0, -0.25).expect("a clamp")
    });
    assert!(integers.summary().float.is_empty(), "{}", integers.summary());
    assert_eq!(tables(&integers), 1, "{integers}");
    let x = tensor(5, &[40, 4]);
    assert!(compare_ops(&quantized, &integers, &[&x]).expect("the oracle agrees").compared > 0);
    // The lookup table is that of all five functions: without one of them, other values come out.
    let [_, without] = chain(symmetric(), |g, h| {
        let h = g.clamp("first", h, -1.0, f32::INFINITY).expect("a clamp");
        let h = g.tanh("tanh", h).expect("tanh");
        let h = g.clamp("between", h, 0.05, 0.9).expect("a clamp");
        g.unary("log", UnaryOp::Log, h).expect("log")
    });
    let table = |graph: &Graph| {
        let table = graph.nodes().iter().find(|n| matches!(n.op, Op::Lut(_))).expect("a table").inputs[1];
        graph.node(table).op.clone()
    };
    assert_ne!(table(&integers), table(&without));
}

/// Two functions between int8 values with this zero point and range.
fn between_codes(op: UnaryOp, zero_point: i32, range: QuantRange) -> Graph {
    let mut g = GraphBuilder::new();
    let per_tensor = |scale, z| TensorQParams::PerTensor(QParams::new(scale, z).expect("valid"));
    let codes = |g: &mut GraphBuilder, name: &str, x, qparams: TensorQParams, range| {
        let q = g.node(&format!("{name}.quantize"), Op::Quantize(Quantize::new(qparams.clone(), range)), &[x])?;
        g.node(&format!("{name}.dequantize"), Op::Dequantize(Dequantize { qparams }), &[q])
    };
    let x = g.input("x", Shape::rows(4)).expect("an input");
    let h = codes(&mut g, "x", x, per_tensor(0.5, zero_point), range).expect("codes");
    let h = g.clamp("first", h, -1e3, 1e3).expect("a function");
    let h = g.unary("second", op, h).expect("a function");
    let h = g.tanh("third", h).expect("a function");
    let y = codes(&mut g, "y", h, per_tensor(0.01, 0), QuantRange::INT8).expect("codes");
    to_integer(&g.finish([y]).expect("a graph")).expect("rewritten")
}

/// NaN has no quantized value, so the chain stays float, and the reason names the function and the value.
#[test]
fn chains_that_make_nan_stay_in_float() {
    let from = |lo| QuantRange::new(lo, 127).expect("valid");
    for op in [UnaryOp::Sqrt, UnaryOp::Log] {
        let name = Op::Unary(Unary { op }).name();
        for (zero_point, range, bad) in [
            (0, QuantRange::INT8, Some("-128, which is -6.4e1")),
            (0, QuantRange::INT8_NARROW, Some("-127, which is -6.35e1")),
            (-127, QuantRange::INT8, Some("-128, which is -5e-1")),
            // Values that never occur do no harm, and minus infinity is clamped.
            (-127, QuantRange::INT8_NARROW, None),
            (0, from(0), None),
            (-128, QuantRange::INT8, None),
        ] {
            let graph = between_codes(op, zero_point, range);
            let summary = graph.summary();
            let reason = summary.float.iter().find(|n| n.name == "first").map(|n| n.reason.clone());
            let expected = bad.map(|code| {
                format!("{name} at second makes NaN of the quantized value {code}, and no quantized value is NaN")
            });
            assert_eq!(reason, expected, "zero point {zero_point}, codes {range}");
            assert_eq!((tables(&graph), summary.float.len()), if bad.is_some() { (0, 3) } else { (1, 0) }, "{graph}");
            // Both forms run on inputs without NaN results.
            let x = Tensor::from_f32(&[1, 4], vec![0.5, 1.0, 7.5, 30.0]).expect("lengths fit");
            let y = Interpreter::new(&graph).run(&[&x]).expect("run").swap_remove(0);
            let expected = |x: f32| (op.eval(x.into()).tanh() * 100.0).round() / 100.0;
            for (y, x) in y.as_f32().expect("floats").iter().zip(x.as_f32().expect("floats")) {
                approx::assert_abs_diff_eq!(f64::from(*y), expected(*x), epsilon = 1e-6);
            }
        }
    }
    // The absolute value gives no NaN.
    assert_eq!(tables(&between_codes(UnaryOp::Abs, 0, QuantRange::INT8)), 1);
}
