//! Integer graphs that are wrong on purpose, for negative controls.

use enfold::graph::{NodeId, Rewriter};
use enfold::ops::{Constant, Input, IntegerLinear, Op};
use enfold::{Graph, Tensor};

/// The integer graph with every node's op passed through `change`.
fn rebuilt(graph: &Graph, mut change: impl FnMut(NodeId, &Op) -> Op) -> Graph {
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        if matches!(node.op, Op::Input(Input)) {
            rewriter.copy(id).expect("copied");
            continue;
        }
        let inputs = node.inputs.iter().map(|&input| rewriter.get(input).expect("seen")).collect();
        let new = rewriter.add(&node.name, change(id, &node.op), inputs, &node.origin).expect("valid");
        rewriter.replace(id, new);
    }
    rewriter.finish().expect("a graph")
}

/// The same graph with its biases rounded to whole steps.
pub(crate) fn without_fraction_bits(graph: &Graph) -> Graph {
    let bits = |id: NodeId| {
        graph.nodes().iter().find_map(|n| match n.op {
            Op::IntegerLinear(IntegerLinear { fraction_bits }) if n.inputs[2] == id => Some(fraction_bits),
            _ => None,
        })
    };
    let factor_bits = |id: NodeId| {
        graph.nodes().iter().find_map(|n| match n.op {
            Op::Requantize(_) | Op::ScaleAccumulator(_) if n.inputs[1] == id => bits(graph.node(n.inputs[0]).inputs[2]),
            _ => None,
        })
    };
    rebuilt(graph, |id, op| match (op, bits(id), factor_bits(id)) {
        (Op::IntegerLinear(_), ..) => Op::IntegerLinear(IntegerLinear { fraction_bits: 0 }),
        (Op::Constant(Constant { tensor: t, .. }), Some(p), _) => {
            let steps = f64::from(1u32 << p);
            let round = |&b: &i32| (f64::from(b) / steps).round_ties_even() as i32;
            let biases: Vec<i32> = t.as_i32().expect("biases").iter().map(round).collect();
            Op::Constant(Constant::new(Tensor::from_i32(t.shape(), biases).expect("lengths fit")))
        }
        (Op::Constant(Constant { tensor: t, .. }), _, Some(p)) => {
            let factors = t.as_f32().expect("factors").iter().map(|f| f * (1u32 << p) as f32).collect();
            Op::Constant(Constant::new(Tensor::from_f32(t.shape(), factors).expect("lengths fit")))
        }
        (op, ..) => op.clone(),
    })
}

/// The same graph with one weight of the first layer changed by one.
pub(crate) fn with_changed_weight(graph: &Graph) -> Graph {
    let weight = graph.nodes().iter().find_map(|n| match n.op {
        Op::IntegerLinear(_) => Some(n.inputs[1]),
        _ => None,
    });
    rebuilt(graph, |id, op| match op {
        Op::Constant(Constant { tensor: t, .. }) if Some(id) == weight => {
            let mut codes = t.as_i8().expect("codes").to_vec();
            codes[0] -= codes[0].signum() | 1;
            Op::Constant(Constant::new(Tensor::from_i8(t.shape(), codes).expect("lengths fit")))
        }
        op => op.clone(),
    })
}
