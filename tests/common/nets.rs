//! Random float networks of linear layers, and integer graphs that are wrong on purpose.

use std::sync::Arc;

use enfold::graph::{NodeId, Op, Rewriter};
use enfold::{Graph, GraphBuilder, Shape, Tensor};

use crate::random::Random;

/// A network and how to draw batches for it.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) graph: Graph,
    /// Inner dimensions of the input, features last.
    dims: Vec<usize>,
    scale: f32,
    shift: f32,
}

impl Net {
    /// One to three layers, with and without bias and ReLU, inputs of rank 2 to 4.
    pub(crate) fn random(random: &mut Random) -> Self {
        let mut dims: Vec<usize> = (0..random.below(3)).map(|_| 1 + random.below(3)).collect();
        dims.push(1 + random.below(48));
        let (scale, shift) = ((random.normal() * 2.0).exp(), random.normal());
        let mut g = GraphBuilder::new();
        let mut h = g.input("x", Shape::batched(&dims)).expect("an input");
        let mut k = dims[dims.len() - 1];
        for i in 0..1 + random.below(3) {
            let n = 1 + random.below(48);
            let weight_scale = (random.normal() - 1.0).exp();
            let weight = Tensor::from_f32(&[n, k], random.normals(n * k, weight_scale)).expect("lengths fit");
            let bias_scale = weight_scale * scale * random.normal().exp();
            let bias = Tensor::from_f32(&[n], random.normals(n, bias_scale)).expect("lengths fit");
            let bias = (random.below(4) > 0).then_some(bias);
            h = g.linear(&format!("fc.{i}"), h, weight, bias).expect("a layer");
            if random.below(2) == 0 {
                h = g.relu(&format!("relu.{i}"), h).expect("a relu");
            }
            k = n;
        }
        Self { graph: g.finish([h]).expect("a graph"), dims, scale, shift }
    }

    /// Normals, off centre.
    pub(crate) fn batch(&self, random: &mut Random) -> Tensor {
        let shape: Vec<usize> = [1 + random.below(12)].into_iter().chain(self.dims.iter().copied()).collect();
        let mut data = random.normals(shape.iter().product(), self.scale);
        data.iter_mut().for_each(|v| *v += self.shift * self.scale);
        Tensor::from_f32(&shape, data).expect("lengths fit")
    }
}

/// The integer graph with every node's op passed through `change`.
pub(crate) fn rebuilt(graph: &Graph, mut change: impl FnMut(NodeId, &Op) -> Op) -> Graph {
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        if matches!(node.op, Op::Input) {
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
            Op::IntegerLinear { fraction_bits } if n.inputs[2] == id => Some(fraction_bits),
            _ => None,
        })
    };
    let factor_bits = |id: NodeId| {
        graph.nodes().iter().find_map(|n| match n.op {
            Op::Requantize { .. } | Op::ScaleAccumulator { .. } if n.inputs[1] == id => {
                bits(graph.node(n.inputs[0]).inputs[2])
            }
            _ => None,
        })
    };
    rebuilt(graph, |id, op| match (op, bits(id), factor_bits(id)) {
        (Op::IntegerLinear { .. }, ..) => Op::IntegerLinear { fraction_bits: 0 },
        (Op::Constant(t), Some(p), _) => {
            let steps = f64::from(1u32 << p);
            let round = |&b: &i32| (f64::from(b) / steps).round_ties_even() as i32;
            let biases: Vec<i32> = t.as_i32().expect("biases").iter().map(round).collect();
            Op::Constant(Arc::new(Tensor::from_i32(t.shape(), biases).expect("lengths fit")))
        }
        (Op::Constant(t), _, Some(p)) => {
            let factors = t.as_f32().expect("factors").iter().map(|f| f * (1u32 << p) as f32).collect();
            Op::Constant(Arc::new(Tensor::from_f32(t.shape(), factors).expect("lengths fit")))
        }
        (op, ..) => op.clone(),
    })
}

/// The same graph with one weight of the first layer changed by one.
pub(crate) fn with_changed_weight(graph: &Graph) -> Graph {
    let weight = graph.nodes().iter().find_map(|n| match n.op {
        Op::IntegerLinear { .. } => Some(n.inputs[1]),
        _ => None,
    });
    rebuilt(graph, |id, op| match op {
        Op::Constant(t) if Some(id) == weight => {
            let mut codes = t.as_i8().expect("codes").to_vec();
            codes[0] -= codes[0].signum() | 1;
            Op::Constant(Arc::new(Tensor::from_i8(t.shape(), codes).expect("lengths fit")))
        }
        op => op.clone(),
    })
}
