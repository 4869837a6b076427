//! The last step of an import: from a draft to a graph.

use std::collections::BTreeSet;

use crate::graph::{DeclaredTypes, Graph, GraphBuilder, Node, NodeId};
use crate::onnx::draft::Draft;
use crate::onnx::error::OnnxError;
use crate::onnx::names::{Names, clean};
use crate::onnx::patterns;
use crate::ops::{Input, Op};

/// The graph of a draft: patterns become layers, names become unique, and nodes that no output needs are left out.
pub(super) fn finish(
    mut draft: Draft,
    mut outputs: Vec<(NodeId, String)>,
    declared: DeclaredTypes,
) -> Result<Graph, OnnxError> {
    let ids: BTreeSet<NodeId> = outputs.iter().map(|(id, _)| *id).collect();
    patterns::apply(&mut draft, &ids);
    let nodes = draft.nodes;
    let mut live = vec![false; nodes.len()];
    outputs.iter().for_each(|(id, _)| live[id.index()] = true);
    for (at, node) in nodes.iter().enumerate().rev() {
        if live[at] {
            node.inputs.iter().for_each(|input| live[input.index()] = true);
        }
        live[at] |= matches!(node.op, Op::Input(Input));
    }
    let named = unique_names(&nodes, &live);
    let mut builder = GraphBuilder::new();
    builder.declare(declared);
    let mut map: Vec<Option<NodeId>> = vec![None; nodes.len()];
    // Constants stand before the first node that reads them. Constants that are outputs and that no node reads come last.
    let (constants, others): (Vec<usize>, Vec<usize>) =
        (0..nodes.len()).filter(|&at| live[at]).partition(|&at| matches!(nodes[at].op, Op::Constant(_)));
    let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
    for at in others.into_iter().chain(constants) {
        let constants: Vec<usize> = nodes[at].iter().flat_map(|node| &node.inputs).map(|id| id.index()).collect();
        for at in constants.into_iter().chain([at]) {
            let Some(node) = nodes[at].take() else { continue };
            let float_reason = node.float_reason;
            let inputs: Vec<NodeId> = node.inputs.iter().filter_map(|id| map[id.index()]).collect();
            map[at] = Some(match node.op {
                Op::Input(Input) => builder.typed_input(&named[at], node.shape, node.dtype)?,
                op => builder.node(&named[at], op, &inputs)?,
            });
            if float_reason.is_some() {
                builder.tell_last(&named[at], float_reason.as_deref());
            }
        }
    }
    for (id, _) in &mut outputs {
        if let Some(new) = map[id.index()] {
            *id = new;
        }
    }
    Ok(builder.finish_named(outputs)?)
}

/// Unique names of all nodes: inputs keep theirs, constants are named after the first node that reads them.
fn unique_names(nodes: &[Node], live: &[bool]) -> Vec<String> {
    let mut names = Names::default();
    let mut result = vec![String::new(); nodes.len()];
    let is_constant = |at: usize| matches!(nodes[at].op, Op::Constant(_));
    let is_dequantized =
        |at: usize| matches!(nodes[at].op, Op::Dequantize(_)) && is_constant(nodes[at].inputs[0].index());
    for (at, node) in nodes.iter().enumerate() {
        if matches!(node.op, Op::Input(Input)) {
            result[at] = names.unique(&node.name);
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        if live[at] && !matches!(node.op, Op::Input(Input) | Op::Constant(_) | Op::Dequantize(_)) {
            result[at] = names.unique(&node.name);
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        if !live[at] || is_constant(at) {
            continue;
        }
        if matches!(node.op, Op::Dequantize(_)) {
            if !is_dequantized(at) && result[at].is_empty() {
                result[at] = names.unique(&node.name);
            }
            continue;
        }
        for (position, input) in node.inputs.iter().map(|input| input.index()).enumerate() {
            if !result[input].is_empty() || !(is_constant(input) || is_dequantized(input)) {
                continue;
            }
            let wanted = match node.op.parameter_names().get(position) {
                Some(role) if !role.is_empty() => format!("{}.{role}", result[at]),
                _ if !nodes[input].origin.is_empty() => clean(&nodes[input].origin),
                _ => format!("{}.constant", result[at]),
            };
            if is_constant(input) {
                result[input] = names.unique(&wanted);
                continue;
            }
            // A dequantized constant and its quantized values are named after the parameter that they are.
            result[input] = names.unique(&format!("{wanted}.dequantize"));
            let quantized = nodes[input].inputs[0].index();
            if result[quantized].is_empty() {
                result[quantized] = names.unique(&format!("{wanted}.quantize"));
            }
        }
    }
    // The constants that are left are outputs.
    for (at, node) in nodes.iter().enumerate() {
        if live[at] && result[at].is_empty() {
            result[at] = names.unique(if node.name.is_empty() { &node.origin } else { &node.name });
        }
    }
    result
}
