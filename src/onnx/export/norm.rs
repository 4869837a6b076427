//! Normalizations and softmax.

use super::exporter::Exporter;
use super::writer::int;
use crate::graph::NodeId;
use crate::onnx::attributes::{float_attribute, int_attribute, ints_attribute};
use crate::ops::{BatchNorm, LayerNorm, Op, RmsNorm, Softmax};

pub(super) fn write(exporter: &mut Exporter<'_>, id: NodeId) -> bool {
    let node = exporter.graph.node(id);
    match node.op {
        Op::Softmax(Softmax { axis }) => exporter.plain(id, "Softmax", vec![int_attribute("axis", int(axis))]),
        Op::LayerNorm(LayerNorm { eps }) => {
            let rank = |at: usize| exporter.graph.node(node.inputs[at]).shape.rank();
            let axis = int_attribute("axis", int(rank(0) - rank(1)));
            exporter.plain(id, "LayerNormalization", vec![axis, float_attribute("epsilon", eps)]);
        }
        // The file's opset has no RMSNormalization.
        Op::RmsNorm(RmsNorm { eps }) => {
            let rank = |at: usize| exporter.graph.node(node.inputs[at]).shape.rank();
            let axes = (rank(0) - rank(1)..rank(0)).map(int).collect();
            let ([x, weight], mut parts) = exporter.start(id);
            let squares = parts.op("Mul", "squares", &[&x, &x]);
            let mean = parts.op_with("ReduceMean", "mean", &[squares], vec![ints_attribute("axes", axes)]);
            let eps = parts.scalar("eps", eps);
            let sum = parts.op("Add", "sum", &[mean, eps]);
            let rms = parts.op("Sqrt", "rms", &[sum]);
            let normalized = parts.op("Div", "normalized", &[x, rms]);
            parts.last("Mul", &[normalized, weight]);
        }
        Op::BatchNorm(BatchNorm { eps }) => {
            let inputs = exporter.inputs(id);
            // The inputs of the graph's operator are x, mean, variance, weight and bias.
            let inputs = [0, 3, 4, 1, 2].map(|at: usize| &inputs[at]);
            exporter.parts(id).last_with("BatchNormalization", &inputs, vec![float_attribute("epsilon", eps)]);
        }
        _ => return false,
    }
    true
}
