//! Every operator has inference, interpretation, and a lowering or a reason. A walk over the enum finds operators that the table lacks.

use std::collections::BTreeSet;

use enfold::interp::Interpreter;
use enfold::lower::{LowerError, lower};
use enfold::ops::{Observe, ObserverId, Op, OpKind};
use enfold::{GraphBuilder, Shape, Tensor, cpu};
use strum::IntoEnumIterator;

use crate::cases::difference;
use crate::ops::{f32s, table};

#[test]
fn every_op_is_inferred_interpreted_and_lowered_or_refused() {
    let mut seen = BTreeSet::new();
    for case in table() {
        let name = case.name;
        seen.extend(case.graph.nodes().iter().map(|node| node.op.kind()));
        assert_eq!(case.graph.verify(), Ok(()), "{name}");
        let got = Interpreter::new(&case.graph).run(&case.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        let output = case.graph.node(case.graph.outputs()[0]);
        assert!(output.shape.admits(got[0].shape()) && output.dtype == got[0].dtype(), "{name}: {:?}", got[0].shape());
        assert_eq!(got[0].shape(), case.expected.shape(), "{name}");
        match (&got[0], &case.expected) {
            (got, expected) if case.exact => assert_eq!(difference(got, expected), None, "{name}"),
            (Tensor::F32(got), Tensor::F32(expected)) => {
                for (got, expected) in got.iter().zip(expected) {
                    approx::assert_abs_diff_eq!(got, expected, epsilon = 1e-6);
                }
            }
            (got, expected) => assert_eq!(got, expected, "{name}"),
        }
        let program = lower(&case.graph).unwrap_or_else(|e| panic!("{name}: {e}"));
        let engine = cpu::Engine::new(&program).unwrap_or_else(|e| panic!("{name}: {e}"));
        let by_cpu = engine.run(&case.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(difference(&by_cpu[0], &got[0]), None, "{name}");
        let listing = case.graph.to_string();
        assert_eq!(listing.lines().count(), case.graph.nodes().len() + 1, "{name}: one line a node\n{listing}");
    }
    // Lowering refuses one op, by name: a graph that is still being calibrated.
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let y = g.node("seen", Op::Observe(Observe { observer: ObserverId(0) }), &[x]).expect("an observer");
    let graph = g.finish([y]).expect("a graph");
    let x = f32s(&[1, 3], &[1.0, 2.0, 3.0]);
    assert_eq!(Interpreter::new(&graph).run(&[&x]).expect("run")[0], x);
    seen.extend(graph.nodes().iter().map(|node| node.op.kind()));
    match lower(&graph) {
        Err(LowerError::Unsupported { nodes, .. }) => assert_eq!(nodes[0].name, "seen"),
        other => panic!("{other:?}"),
    }
    let missing: Vec<OpKind> = OpKind::iter().filter(|kind| !seen.contains(kind)).collect();
    assert!(missing.is_empty(), "operators without a row: {missing:?}");
}

/// Empty axes and products over nothing are ordinary values.
#[test]
fn axes_of_length_zero_and_one() {
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(0)).expect("an input");
    let y = g.linear("fc", x, f32s(&[2, 0], &[]), Some(f32s(&[2], &[1.0, 2.0]))).expect("a layer");
    let y = g.softmax("softmax", y, 1).expect("softmax");
    let graph = g.finish([y]).expect("a graph");
    let got = Interpreter::new(&graph).run(&[f32s(&[3, 0], &[])]).expect("run");
    approx::assert_abs_diff_eq!(got[0].as_f32().expect("floats")[1], 0.731_058_6, epsilon = 1e-6);
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let y = g.linear("none", x, f32s(&[0, 3], &[]), None).expect("a layer");
    let graph = g.finish([y]).expect("a graph");
    assert_eq!(Interpreter::new(&graph).run(&[f32s(&[2, 3], &[0.0; 6])]).expect("run")[0].shape(), [2, 0]);
}
