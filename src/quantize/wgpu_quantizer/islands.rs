//! Values that only float nodes read.

use super::super::annotation::Annotations;
use crate::graph::{Graph, NodeId, Op};

/// Takes back the annotations of what no integer node reads, except those that were `there` before: a sum or product stays float, a
/// layer keeps its int8 weight and gets a float output.
pub(super) fn keep_float(graph: &Graph, annotations: &mut Annotations, there: &[bool]) {
    let users = graph.users();
    // Whether a node's result is wanted as codes; readers come later in the graph, so they are known first.
    let mut wanted = vec![false; graph.nodes().len()];
    let ids: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
    for &id in ids.iter().rev() {
        let reads = |user: NodeId| {
            let annotated = annotations.get(user).is_some_and(|annotation| {
                annotation.input_qspec_map.iter().any(|(input, spec)| *input == id && spec.is_some())
            });
            // What moves codes, or is a table of them, passes the question on.
            annotated || (passes_on(&graph.node(user).op) && wanted[user.index()])
        };
        wanted[id.index()] = graph.outputs().contains(&id) || users[id.index()].iter().any(|&user| reads(user));
        let Some(annotation) = annotations.get(id).filter(|_| !wanted[id.index()] && !there[id.index()]) else {
            continue;
        };
        if matches!(graph.node(id).op, Op::Linear | Op::MatMul) {
            let mut annotation = annotation.clone();
            annotation.output_qspec = None;
            annotations.set(id, annotation);
        } else {
            annotations.remove(id);
            annotations.leave_float(id, "no integer node reads its result");
        }
    }
}

fn passes_on(op: &Op) -> bool {
    super::patterns::shares(op) || matches!(op, Op::Unary(_) | Op::Clamp { .. })
}
