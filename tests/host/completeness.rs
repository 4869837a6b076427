//! Every op has inference, interpretation, and a lowering or a reason. The table is checked for gaps by an exhaustive match:
//! a new op does not compile until it is numbered here, and fails until it has a row.

use enfold::graph::{ObserverId, Op, UnaryOp};
use enfold::interp::Interpreter;
use enfold::lower::{LowerError, lower};
use enfold::{GraphBuilder, Shape, Tensor, cpu};

use crate::cases::{BITS, difference};
use crate::ops::{f32s, table};

const OPS: usize = 43;

fn number(op: &Op) -> usize {
    match op {
        Op::Input => 0,
        Op::Constant(_) => 1,
        Op::Linear => 2,
        Op::MatMul => 3,
        Op::Add => 4,
        Op::Mul => 5,
        Op::Unary(UnaryOp::Relu) => 6,
        Op::Unary(_) => 7,
        Op::Reshape { .. } => 8,
        Op::Flatten { .. } => 9,
        Op::Transpose { .. } => 10,
        Op::Concat { .. } => 11,
        Op::Softmax { .. } => 12,
        Op::LayerNorm { .. } => 13,
        Op::BatchNorm { .. } => 14,
        Op::Embedding => 15,
        Op::Observe { .. } => 16,
        Op::Quantize { .. } => 17,
        Op::Dequantize { .. } => 18,
        Op::IntegerLinear { .. } => 19,
        Op::Requantize { .. } => 20,
        Op::ScaleAccumulator { .. } => 21,
        Op::AddScalar { .. } => 22,
        Op::MulScalar { .. } => 23,
        Op::ChooseQParams { .. } => 24,
        Op::QuantizeDynamic { .. } => 25,
        Op::DequantizeDynamic => 26,
        Op::ScaleAccumulatorDynamic { .. } => 27,
        Op::IntegerAdd { .. } => 28,
        Op::IntegerMul { .. } => 29,
        Op::IntegerMatMul { .. } => 30,
        Op::Table { .. } => 31,
        Op::Max { .. } => 32,
        Op::IntegerMatMulDynamic { .. } => 33,
        Op::Div => 34,
        Op::Clamp { .. } => 35,
        Op::ToFloat => 36,
        Op::Slice { .. } => 37,
        Op::Sum { .. } => 38,
        Op::Where => 39,
        Op::Binary(_) => 40,
        Op::ToInteger { .. } => 41,
        Op::Int32 { .. } => 42,
    }
}

#[test]
fn every_op_is_inferred_interpreted_and_lowered_or_refused() {
    let mut seen = [false; OPS];
    for case in table() {
        let name = case.name;
        case.graph.nodes().iter().for_each(|node| seen[number(&node.op)] = true);
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
        for options in [BITS, cpu::Options::default()] {
            let engine = cpu::Engine::with_options(&program, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            let by_cpu = engine.run(&case.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
            match (&by_cpu[0], &got[0]) {
                // Functions in vectors have other last bits.
                (Tensor::F32(by_cpu), Tensor::F32(got)) if options != BITS && !case.exact => {
                    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
                    assert!(by_cpu.iter().zip(got).all(close), "{name}: {by_cpu}, expected {got}");
                }
                (by_cpu, got) => assert_eq!(difference(by_cpu, got), None, "{name}"),
            }
        }
        let listing = case.graph.to_string();
        assert_eq!(listing.lines().count(), case.graph.nodes().len() + 1, "{name}: one line a node\n{listing}");
    }
    // Lowering refuses one op, by name: a graph that is still being calibrated.
    let mut g = GraphBuilder::new();
    let x = g.input("x", Shape::rows(3)).expect("an input");
    let y = g.node("seen", Op::Observe { observer: ObserverId(0) }, &[x]).expect("an observer");
    let graph = g.finish([y]).expect("a graph");
    let x = f32s(&[1, 3], &[1.0, 2.0, 3.0]);
    assert_eq!(Interpreter::new(&graph).run(&[&x]).expect("run")[0], x);
    graph.nodes().iter().for_each(|node| seen[number(&node.op)] = true);
    match lower(&graph) {
        Err(LowerError::Unsupported { nodes, .. }) => assert_eq!(nodes[0].name, "seen"),
        other => panic!("{other:?}"),
    }
    let missing: Vec<usize> = (0..OPS).filter(|&op| !seen[op]).collect();
    assert!(missing.is_empty(), "ops without a row, by number: {missing:?}");
}

/// Whatever an op is, training either goes through it and back or says by name that it cannot.
#[test]
fn every_op_has_a_gradient_or_a_refusal() {
    use enfold::qat::{QatError, TrainableGraph};
    let (mut trained, mut refused) = (0, 0);
    for case in table() {
        let name = case.name;
        match TrainableGraph::new(&case.graph) {
            Ok(mut model) => {
                // A batch norm in training refuses batches without a variance, and none of these is about that.
                model.freeze_norms(true);
                let outputs = model.forward(&case.inputs).unwrap_or_else(|e| panic!("{name}: {e}"));
                model.backward(&outputs).unwrap_or_else(|e| panic!("{name}: {e}"));
                trained += 1;
            }
            Err(QatError::NoGradient { .. } | QatError::NoParameters) => refused += 1,
            Err(other) => panic!("{name}: {other}"),
        }
    }
    assert!(trained >= 3 && refused >= 10, "{trained} trained, {refused} refused");
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
