//! Which node can divide the channels of a value.

use crate::graph::{Graph, NodeId};
use crate::interp::{self, InterpError, Interpreter};
use crate::ops::{ConvTranspose, Op, Unary, UnaryOp};
use crate::quantize::accuracy::statistics::Channels;
use crate::quantize::accuracy::weights::known_weight;
use crate::values::Tensor;
use crate::values::slices::f32s;

/// The node that can divide the channels of a value.
pub(super) enum Producer {
    /// A norm with a weight (and a bias) for each channel. `copy`: others read its value too. `between`: the nodes from the norm on.
    Norm { norm: NodeId, copy: bool, between: Vec<NodeId> },
    /// A layer with a known weight, whose output channels are those of the value. `between`: the nodes from the layer on.
    Layer { layer: NodeId, between: Vec<NodeId> },
    /// No node: a product has to be inserted.
    None,
}

/// Finds the node that can divide the channels of `value` for its readers.
pub(super) fn producer(
    graph: &Graph,
    users: &[Vec<NodeId>],
    interpreter: &Interpreter,
    value: &Channels,
) -> Result<Producer, InterpError> {
    let outputs = graph.output_flags();
    let read_alone = !outputs[value.id.index()] && users[value.id.index()].iter().all(|id| value.readers.contains(id));
    let has_weight = |id: NodeId| {
        let channels = value.maxima.len();
        let known =
            |&input: &NodeId| matches!(interpreter.constant_value(input), Ok(Some(t)) if t.shape() == [channels]);
        graph.node(id).inputs[1..].iter().all(known)
    };
    if matches!(graph.node(value.id).op, Op::LayerNorm(_) | Op::RmsNorm(_))
        && value.axis + 1 == graph.node(value.id).shape.rank()
        && has_weight(value.id)
    {
        return Ok(Producer::Norm { norm: value.id, copy: !read_alone, between: vec![value.id] });
    }
    if !read_alone {
        return Ok(Producer::None);
    }
    // The nodes from the value back to its producer, each read by the next one alone.
    let mut between = Vec::new();
    let mut at = value.id;
    let found = loop {
        let node = graph.node(at);
        if at != value.id && (outputs[at.index()] || users[at.index()].len() != 1) {
            return Ok(Producer::None);
        }
        between.push(at);
        at = match &node.op {
            Op::Linear(_) | Op::Conv(_) | Op::ConvTranspose(ConvTranspose { groups: 1, .. }) => break at,
            Op::BatchNorm(_) if has_weight(at) => break at,
            Op::Unary(Unary { op: UnaryOp::Relu })
            | Op::Reshape(_)
            | Op::Flatten(_)
            | Op::Transpose(_)
            | Op::MaxPool(_)
            | Op::AveragePool(_) => node.inputs[0],
            // Channels of the right factor are channels of the product, unless it is the left factor too.
            Op::MatMul(_) if node.inputs[0] != node.inputs[1] => node.inputs[1],
            // The factor that a layer computes directly, as in gated feed-forward networks.
            Op::Mul(_) => {
                let is_layer = |id: &&NodeId| {
                    graph.node(**id).shape == node.shape && matches!(graph.node(**id).op, Op::Linear(_) | Op::Conv(_))
                };
                match node.inputs.iter().find(is_layer) {
                    Some(&factor) if node.inputs[0] != node.inputs[1] => factor,
                    _ => return Ok(Producer::None),
                }
            }
            _ => return Ok(Producer::None),
        };
    };
    between.reverse();
    if !same_channels(graph, &between, found, value)? {
        return Ok(Producer::None);
    }
    if matches!(graph.node(found).op, Op::BatchNorm(_)) {
        return Ok(Producer::Norm { norm: found, copy: false, between });
    }
    let inputs = &graph.node(found).inputs;
    let bias_is_known = inputs.get(2).is_none_or(|&bias| matches!(interpreter.constant_value(bias), Ok(Some(_))));
    Ok(match known_weight(interpreter, found)? {
        Some(_) if bias_is_known => Producer::Layer { layer: found, between },
        _ => Producer::None,
    })
}

/// Whether channel `j` of the value has its elements from channel `j` of the producer alone. The number of the channel is followed from the
/// producer through the nodes in between, for one row.
fn same_channels(graph: &Graph, between: &[NodeId], from: NodeId, value: &Channels) -> Result<bool, InterpError> {
    let filled = |id: NodeId, axis: usize| {
        let shape = graph.node(id).shape.with_rows(1);
        let inner = shape[axis + 1..].iter().product::<usize>().max(1);
        let numbers = (0..shape.iter().product::<usize>()).map(|at| (at / inner % shape[axis]) as f32).collect();
        Tensor::from_f32(&shape, numbers)
    };
    let node = graph.node(from);
    let axis = if matches!(node.op, Op::Linear(_)) { node.shape.rank() - 1 } else { 1 };
    let (Ok(mut numbers), Ok(expected)) = (filled(from, axis), filled(value.id, value.axis)) else { return Ok(false) };
    for &id in &between[1..] {
        let node = graph.node(id);
        let shape = node.shape.with_rows(1);
        numbers = match &node.op {
            Op::Reshape(_) | Op::Flatten(_) | Op::Transpose(_) => interp::evaluate(node, &[&numbers])?,
            Op::MatMul(_) => {
                // Each row of the product is a sum over the rows of the right factor: all must have the same numbers.
                let (rows, columns) = (numbers.shape()[numbers.shape().len() - 2], shape[shape.len() - 1]);
                let mut result = Vec::new();
                for matrix in f32s(&numbers).chunks_exact((rows * columns).max(1)) {
                    let (first, rest) = matrix.split_at(columns);
                    if rest.chunks_exact(columns).any(|row| row != first) {
                        return Ok(false);
                    }
                    (0..shape[shape.len() - 2]).for_each(|_| result.extend_from_slice(first));
                }
                match Tensor::from_f32(&shape, result) {
                    Ok(result) => result,
                    Err(_) => return Ok(false),
                }
            }
            // The channels stay where they are; pools have other pixels.
            Op::MaxPool(_) | Op::AveragePool(_) => match filled(id, 1) {
                Ok(filled) => {
                    let channels = numbers.shape()[1];
                    let inner = numbers.len() / channels.max(1);
                    let (first, shape) = (f32s(&numbers), node.shape.with_rows(1));
                    if shape[1] != channels || (0..channels).any(|c| first[c * inner] != c as f32) {
                        return Ok(false);
                    }
                    filled
                }
                Err(_) => return Ok(false),
            },
            _ => numbers,
        };
    }
    Ok(numbers == expected)
}
