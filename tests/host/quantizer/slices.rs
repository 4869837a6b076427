//! Slices keep the qparams of the value that they are cut from.

use enfold::interp::Interpreter;
use enfold::ops::Op;
use enfold::quantize::{ConvertOptions, WgpuQuantizer, convert, to_integer};
use enfold::values::DType;
use enfold::{Graph, GraphBuilder, Shape, cpu};

use super::{prepared, symmetric, tensor};
use crate::cases::difference;
use crate::oracle::compare_ops;

/// One layer for two gates, whose slices are moved, cut again, reduced by Max and concatenated.
fn gates() -> Graph {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::batched(&[3, 4])).expect("an input");
    let h = g.linear("both", x, tensor(1, &[10, 4]), None).expect("a layer");
    let a = g.slice("a", h, 2, 0..5).expect("a slice");
    let b = g.slice("b", h, 2, 5..10).expect("a slice");
    let b = g.reshape("flat", b, &[15]).expect("moved");
    let b = g.slice("inner", b, 1, 1..13).expect("a slice");
    let b = g.reshape("folded", b, &[4, 3]).expect("moved");
    let b = g.max("picked", b, 2).expect("picked");
    let a = g.transpose("turned", a, &[0, 2, 1]).expect("moved");
    let a = g.max("largest", a, 1).expect("picked");
    let a = g.relu("clipped", a).expect("a relu");
    let y = g.concat("joined", &[a, b], 1).expect("joined");
    let y = g.linear("out", y, tensor(2, &[2, 7]), None).expect("a layer");
    g.finish([y]).expect("a graph")
}

#[test]
fn slices_share_the_observer_of_their_source() {
    let graph = gates();
    let prepared = prepared(&graph, &WgpuQuantizer::new().set_global(symmetric()));
    // The observers are those of x, of the value that is cut and moved, of the output, and of two weights.
    assert_eq!(prepared.observers().len(), 5, "{}", prepared.summary());
    // There are 16 rows: the observer observes every tensor between the layers, since slices make some values more frequent.
    let totals: Vec<f32> = prepared.observers().iter().filter_map(|o| o.histogram()).map(|h| h.iter().sum()).collect();
    assert_eq!(
        totals,
        [16.0 * 12.0, 16.0 * (30.0 + 2.0 * 15.0 + 15.0 + 2.0 * 12.0 + 4.0 + 15.0 + 3.0 + 3.0 + 7.0), 16.0 * 2.0],
        "{}",
        prepared.graph()
    );
    let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
    let integers = to_integer(&quantized).expect("rewritten");
    assert!(integers.summary().float.is_empty(), "{}", integers.summary());
    for name in ["a", "b", "inner"] {
        let cut = integers.nodes().iter().find(|n| n.origin == name).expect(name);
        assert!(cut.dtype == DType::I8 && matches!(cut.op, Op::Slice(_)), "{integers}");
    }
    let program = enfold::lower::lower(&integers).expect("lowered");
    for value in program.values() {
        let codes = value.value_type == enfold::program::ValueType::I8;
        assert_eq!(value.qparams.is_some(), codes, "{}: codes say what they mean", value.name);
    }
    let x = tensor(5, &[4, 3, 4]);
    let codes = compare_ops(&quantized, &integers, &[&x]).expect("the oracle agrees");
    assert!(codes.compared > 0);
    let expected = Interpreter::new(&integers).run(&[&x]).expect("run");
    let got = cpu::Engine::new(&program).expect("an engine").run(&[&x]).expect("run");
    assert_eq!(difference(&got[0], &expected[0]), None);
    // The debugger compares slices of quantized values in real units.
    let comparison = enfold::compare::compare(&graph, &integers, &[&x]).expect("comparable");
    for name in ["a", "b", "inner"] {
        let node = comparison.nodes.iter().find(|n| n.origin == name).expect(name);
        assert!(node.sqnr_db > 30.0, "{name}: {comparison}");
    }
}

/// A slice whose output has other qparams passes through a lookup table.
#[test]
fn slices_between_two_scales() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(6)).expect("an input");
    let h = g.slice("cut", x, 1, 1..5).expect("a slice");
    let y = g.linear("out", h, tensor(2, &[2, 4]), None).expect("a layer");
    let z = g.linear("all", x, tensor(3, &[2, 6]), None).expect("a layer");
    let y = g.add("sum", y, z).expect("a sum");
    let graph = g.finish([y]).expect("a graph");
    let prepared = prepared(&graph, &WgpuQuantizer::new().set_global(symmetric()));
    let quantized = convert(&prepared, &ConvertOptions::default()).expect("converted");
    let integers = to_integer(&quantized).expect("rewritten");
    let x = tensor(5, &[4, 6]);
    assert!(compare_ops(&quantized, &integers, &[&x]).expect("the oracle agrees").compared > 0);
    let expected = Interpreter::new(&integers).run(&[&x]).expect("run");
    let got = cpu::Engine::new(&enfold::lower::lower(&integers).expect("lowered")).expect("an engine");
    assert_eq!(difference(&got.run(&[&x]).expect("run")[0], &expected[0]), None);
}
