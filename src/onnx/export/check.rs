//! Checks of a graph before anything is written, so that an error can list all nodes that cannot be exported.

use super::options::{ExportError, Inexpressible, Preset};
use super::{pool, quantize};
use crate::graph::{Graph, Node, NodeId};
use crate::ops::{Dequantize, Op, Quantize};
use crate::values::TensorQParams;

/// Returns for each node whether an output depends on it.
pub(super) fn needed(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    graph.outputs().iter().for_each(|id| needed[id.index()] = true);
    for (at, node) in graph.nodes().iter().enumerate().rev() {
        if needed[at] {
            node.inputs.iter().for_each(|id| needed[id.index()] = true);
        }
    }
    needed
}

/// Refuses a graph. The error lists every node that is to blame.
pub(super) fn check(graph: &Graph, preset: Preset, needed: &[bool]) -> Result<(), ExportError> {
    let nodes = || graph.iter().filter(|(id, _)| needed[id.index()]);
    let mut integers = nodes().filter(|(_, node)| node.op.is_integer() && !quantize::is_dynamic(&node.op));
    if let Some((_, node)) = integers.next() {
        return Err(ExportError::Integers { node: node.name.clone(), op: node.op.name(), count: 1 + integers.count() });
    }
    let users = graph.users();
    let refused: Vec<Inexpressible> = nodes()
        .filter_map(|(id, node)| {
            let readers: Vec<&Node> =
                users[id.index()].iter().filter(|user| needed[user.index()]).map(|user| graph.node(*user)).collect();
            let reason = inexpressible(graph, id, node, &readers, preset)?;
            Some(Inexpressible { node: node.name.clone(), op: node.op.name(), reason })
        })
        .collect();
    if !refused.is_empty() {
        return Err(ExportError::Inexpressible { preset, nodes: refused });
    }
    if preset == Preset::TensorRt {
        let quantizing: Vec<(&Node, i32)> =
            nodes().filter_map(|(_, node)| Some((node, off_zero(qparams(&node.op)?)))).collect();
        let of = quantizing.len();
        let off = quantizing.into_iter().filter(|(_, zero_point)| *zero_point != 0);
        let nodes: Vec<(String, i32)> = off.map(|(node, zero_point)| (node.name.clone(), zero_point)).collect();
        if !nodes.is_empty() {
            return Err(ExportError::Asymmetric { nodes, of });
        }
    }
    Ok(())
}

/// The reason why a node has no form in ONNX.
fn inexpressible(graph: &Graph, id: NodeId, node: &Node, readers: &[&Node], preset: Preset) -> Option<String> {
    if node.shape.fixed_dims().contains(&0) {
        return Some(format!("its shape {} has an axis of length 0", node.shape));
    }
    pool::refusal(graph, node).or_else(|| quantize::refusal(graph, id, readers, preset))
}

fn qparams(op: &Op) -> Option<&TensorQParams> {
    match op {
        Op::Quantize(Quantize { qparams, .. }) | Op::Dequantize(Dequantize { qparams }) => Some(qparams),
        _ => None,
    }
}

/// The first zero point that is not 0, or 0.
fn off_zero(qparams: &TensorQParams) -> i32 {
    qparams.channels().iter().map(|q| q.zero_point()).find(|zero_point| *zero_point != 0).unwrap_or(0)
}
