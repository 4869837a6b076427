//! Writes scales into the weights of a graph.

use std::collections::HashMap;

use super::producer::Producer;
use crate::graph::{Graph, GraphError, NodeId, Rewriter};
use crate::interp::Interpreter;
use crate::ops::{Constant, ConvTranspose, Mul, Op};
use crate::quantize::accuracy::error::AccuracyError;
use crate::quantize::accuracy::statistics::Channels;
use crate::values::Tensor;
use crate::values::slices::f32s;

/// What smoothing changes, by node.
#[derive(Default)]
pub(super) struct Edits {
    /// Layers whose outputs are divided, and norms.
    outputs: HashMap<NodeId, Vec<f64>>,
    /// Layers whose inputs have been divided, with the value that they read.
    inputs: HashMap<NodeId, Vec<f64>>,
    /// Values that get a divided copy, along an axis: a copy of a norm, or a product.
    copies: HashMap<NodeId, (Vec<f64>, usize)>,
    /// Nodes whose values are divided.
    divided: Vec<NodeId>,
}

impl Edits {
    /// The divisors of a layer's outputs.
    pub(super) fn of_outputs(&self, layer: NodeId) -> Option<&[f64]> {
        self.outputs.get(&layer).map(Vec::as_slice)
    }

    /// Whether a value is divided already.
    pub(super) fn divides(&self, value: NodeId) -> bool {
        self.copies.contains_key(&value) || self.divided.contains(&value)
    }

    pub(super) fn add(&mut self, value: &Channels, producer: Producer, scales: Vec<f64>) {
        self.inputs.extend(value.readers.iter().map(|&layer| (layer, scales.clone())));
        match producer {
            Producer::Norm { norm, copy: false, between } | Producer::Layer { layer: norm, between } => {
                self.outputs.insert(norm, scales);
                self.divided.extend(between);
            }
            Producer::Norm { copy: true, .. } | Producer::None => {
                self.copies.insert(value.id, (scales, value.axis));
            }
        }
    }
}

/// Rebuilds the graph. Returns it with the names of the nodes that stay in float: if asked for, inserted products and the functions in front
/// of them.
pub(super) fn apply(
    graph: &Graph,
    interpreter: &Interpreter,
    edits: &Edits,
    in_float: bool,
) -> Result<(Graph, Vec<String>), AccuracyError> {
    let users = graph.users();
    let edited = |id: &NodeId| edits.outputs.contains_key(id) || edits.inputs.contains_key(id);
    let outputs = graph.output_flags();
    let is_constant = |id: NodeId| matches!(graph.node(id).op, Op::Constant(_)) && !outputs[id.index()];
    let mut rewriter = Rewriter::new(graph);
    let mut copies: HashMap<NodeId, NodeId> = HashMap::new();
    let mut float = Vec::new();
    for (id, node) in graph.iter() {
        // Constants that only changed nodes read are replaced, and leave their names.
        if is_constant(id) && !users[id.index()].is_empty() && users[id.index()].iter().all(edited) {
            continue;
        }
        if edited(&id) {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for (at, &input) in node.inputs.iter().enumerate() {
                let new = match (at, interpreter.constant_value(input)?) {
                    (0, _) => match edits.inputs.get(&id).and_then(|_| copies.get(&input)) {
                        Some(&copy) => copy,
                        None => rewriter.get(input)?,
                    },
                    (_, Some(value)) => {
                        let scales = [edits.inputs.get(&id), edits.outputs.get(&id)].map(|s| s.map(Vec::as_slice));
                        let scaled = scaled(&node.op, at, &value, scales);
                        let original = graph.node(input);
                        constant(&mut rewriter, &original.name, scaled, &original.origin)?
                    }
                    _ => rewriter.get(input)?,
                };
                inputs.push(new);
            }
            rewriter.copy_with(id, inputs)?;
        } else {
            rewriter.copy(id)?;
        }
        if edits.divided.contains(&id) {
            // The value is no longer that of the original node.
            let new = rewriter.get(id)?;
            rewriter.set_origin(new, &format!("{}.smoothed", node.origin));
        }
        if let Some((scales, axis)) = edits.copies.get(&id) {
            let copy = divided_copy(graph, &mut rewriter, interpreter, id, (scales, *axis))?;
            if in_float && matches!(rewriter.node(copy).op, Op::Mul(_)) {
                let function = matches!(node.op, Op::Unary(_) | Op::Mul(_)).then(|| rewriter.get(id)).transpose()?;
                for id in [Some(copy), function].into_iter().flatten() {
                    rewriter
                        .stays_float(id, "its channels have very different ranges until smoothing has divided them");
                    float.push(rewriter.node(id).name.clone());
                }
            }
            copies.insert(id, copy);
        }
    }
    Ok((rewriter.finish()?, float))
}

/// Adds a copy of a value whose channels are divided: of a norm, with another weight and bias; of other nodes, a product.
fn divided_copy(
    graph: &Graph,
    rewriter: &mut Rewriter<'_>,
    interpreter: &Interpreter,
    id: NodeId,
    (scales, axis): (&[f64], usize),
) -> Result<NodeId, AccuracyError> {
    let node = graph.node(id);
    let name = format!("{}.smoothed", node.name);
    if matches!(node.op, Op::LayerNorm(_) | Op::RmsNorm(_)) {
        let mut inputs = vec![rewriter.get(node.inputs[0])?];
        for (at, &input) in node.inputs.iter().enumerate().skip(1) {
            let Some(value) = interpreter.constant_value(input)? else { continue };
            let scaled = scaled(&node.op, at, &value, [None, Some(scales)]);
            inputs.push(constant(rewriter, &format!("{}.smoothed", graph.node(input).name), scaled, &name)?);
        }
        return Ok(rewriter.add(&name, node.op.clone(), inputs, &name)?);
    }
    let mut shape = vec![1; node.shape.rank()];
    shape[axis] = scales.len();
    let factors = scales.iter().map(|scale| (1.0 / scale) as f32).collect();
    let factors = Tensor::from_f32(&shape, factors).expect("a factor for each channel");
    let factors = constant(rewriter, &format!("{name}.factors"), factors, &name)?;
    let value = rewriter.get(id)?;
    Ok(rewriter.add(&name, Mul, vec![value, factors], &name)?)
}

fn constant(rewriter: &mut Rewriter<'_>, name: &str, value: Tensor, origin: &str) -> Result<NodeId, GraphError> {
    if let Some((index, value)) = value.first_non_finite() {
        return Err(GraphError::NonFinite { node: name.to_owned(), index, value });
    }
    rewriter.add(name, Constant::new(value), Vec::new(), origin)
}

/// A parameter of a node (its input `at`) with the scales of its input and output channels.
fn scaled(op: &Op, at: usize, value: &Tensor, [inputs, outputs]: [Option<&[f64]>; 2]) -> Tensor {
    let shape = value.shape();
    let values = f32s(value);
    let per_output = |outputs: &[f64], n: usize| -> Vec<f32> {
        values.iter().enumerate().map(|(i, &v)| (f64::from(v) / outputs[i / (values.len() / n)]) as f32).collect()
    };
    let result = match (op, at) {
        (Op::BatchNorm(_), 1 | 2) => values.to_vec(),
        (Op::LayerNorm(_) | Op::RmsNorm(_) | Op::BatchNorm(_), _) | (_, 2) => match outputs {
            Some(outputs) => per_output(outputs, shape[0]),
            None => values.to_vec(),
        },
        // The weight of a transposed convolution is [C, N, taps…].
        (Op::ConvTranspose(ConvTranspose { .. }), _) => {
            let taps = shape[2..].iter().product::<usize>();
            let scale = |i: usize| outputs.map_or(1.0, |outputs| outputs[i / taps % shape[1]]);
            values.iter().enumerate().map(|(i, &v)| (f64::from(v) / scale(i)) as f32).collect()
        }
        _ => {
            let taps = shape[2..].iter().product::<usize>();
            let scale = |i: usize| {
                let input = inputs.map_or(1.0, |inputs| inputs[i / taps % shape[1]]);
                input / outputs.map_or(1.0, |outputs| outputs[i / taps / shape[1]])
            };
            values.iter().enumerate().map(|(i, &v)| (f64::from(v) * scale(i)) as f32).collect()
        }
    };
    Tensor::from_f32(shape, result).expect("as many values")
}
