//! Inserts observers into a graph.

use std::collections::{HashMap, HashSet};

use super::error::PrepareError;
use crate::graph::{Graph, GraphError, Node, NodeId, Rewriter};
use crate::ops::{Input, Observe, ObserverId, Op};
use crate::quantize::annotation::{Annotations, EdgeOrNode};
use crate::quantize::sharing::Groups;
use crate::values::DType;

/// Refuses annotations of inputs that a node does not read, and of values that are not float.
pub(super) fn check_inputs(graph: &Graph, annotations: &Annotations) -> Result<(), PrepareError> {
    for (id, node) in graph.iter() {
        let Some(annotation) = annotations.get(id) else { continue };
        let inputs: HashSet<NodeId> = node.inputs.iter().copied().collect();
        if let Some(&(other, _)) = annotation.input_qspec_map.iter().find(|(producer, _)| !inputs.contains(producer)) {
            let (node, input) = (node.name.clone(), EdgeOrNode::Node(other).describe(graph));
            return Err(PrepareError::NoSuchInput { node, input });
        }
    }
    for (point, _) in annotations.points(graph).filter(|(_, spec)| spec.is_some()) {
        let (EdgeOrNode::Edge { producer: id, .. } | EdgeOrNode::Node(id)) = point;
        let dtype = graph.node(id).dtype;
        if dtype != DType::F32 {
            return Err(PrepareError::NotFloat { point: point.describe(graph), dtype });
        }
    }
    Ok(())
}

/// Inserts `observe` nodes. Returns the graph, and its annotated nodes.
pub(super) fn insert(
    graph: &Graph,
    annotations: &Annotations,
    groups: &Groups,
) -> Result<(Graph, HashSet<NodeId>), PrepareError> {
    let mut rewriter = Rewriter::new(graph);
    // The observe node of each value and observer.
    let mut observed: HashMap<(NodeId, usize), NodeId> = HashMap::new();
    let mut annotated_names = HashSet::new();
    for (id, node) in graph.iter() {
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for &producer in &node.inputs {
            let current = rewriter.get(producer)?;
            let Some(group) = groups.observed(EdgeOrNode::Edge { producer, consumer: id }) else {
                inputs.push(current);
                continue;
            };
            // If the output of the producer has the same observer, its consumers read that observe node already.
            if groups.observed(EdgeOrNode::Node(producer)) == Some(group) {
                inputs.push(current);
                continue;
            }
            let seen = match observed.get(&(current, group)) {
                Some(&seen) => seen,
                None => observe(&mut rewriter, current, group)?,
            };
            observed.insert((current, group), seen);
            inputs.push(seen);
        }
        let new = rewriter.copy_with(id, inputs)?;
        if let Some(reason) = annotations.float_reason(id).filter(|_| stays_float(annotations, id, node)) {
            rewriter.stays_float(new, reason);
        }
        if annotations.get(id).is_some() {
            annotated_names.insert(node.name.clone());
        }
        if let Some(group) = groups.observed(EdgeOrNode::Node(id)) {
            let seen = observe(&mut rewriter, new, group)?;
            rewriter.replace(id, seen);
        }
    }
    let prepared = rewriter.finish()?;
    let annotated = prepared.iter().filter(|(_, n)| annotated_names.contains(&n.name)).map(|(id, _)| id).collect();
    Ok((prepared, annotated))
}

/// Whether a node must stay float in the integer form.
fn stays_float(annotations: &Annotations, id: NodeId, node: &Node) -> bool {
    let computes = !matches!(node.op, Op::Input(Input) | Op::Constant(_)) && node.dtype == DType::F32;
    computes && annotations.is_kept_float(id) && annotations.get(id).is_none()
}

fn observe(rewriter: &mut Rewriter<'_>, value: NodeId, group: usize) -> Result<NodeId, GraphError> {
    let node = rewriter.node(value);
    let (name, origin) = (format!("{}.observe", node.name), node.origin.clone());
    rewriter.add(&name, Op::Observe(Observe { observer: ObserverId(group) }), vec![value], &origin)
}
