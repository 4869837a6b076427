//! Values that only float nodes read.

use super::super::annotation::Annotations;
use crate::graph::{Graph, NodeId};
use crate::ops::{Linear, MatMul, Op};

/// Takes back the annotations of what no integer node reads or has computed for the caller, except those that were `there`
/// before: a sum or product stays float, a layer keeps its int8 weight and gets a float output.
pub(super) fn keep_float(graph: &Graph, annotations: &mut Annotations, there: &[bool]) {
    // Whether a node's result is wanted as codes; readers come later in the graph, so they have said so first. An output is, if
    // integer nodes have computed it: what only passes through, such as a cache that is joined with new rows, is the caller's
    // to keep as it is.
    let computed = computed(graph, annotations);
    let mut wanted: Vec<bool> = graph.output_flags().into_iter().zip(computed).map(|(out, by)| out && by).collect();
    let ids: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
    for &id in ids.iter().rev() {
        let node = graph.node(id);
        if let Some(annotation) = annotations.get(id).filter(|_| !wanted[id.index()] && !there[id.index()]) {
            if matches!(node.op, Op::Linear(Linear) | Op::MatMul(MatMul)) {
                let mut annotation = annotation.clone();
                annotation.output_qspec = None;
                annotations.set(id, annotation);
            } else {
                annotations.remove(id);
                annotations.leave_float(id, "no integer node reads its result");
            }
        }
        // What moves codes, or is a table of them, passes the question on.
        let passed = node.inputs.iter().filter(|_| passes_on(&node.op) && wanted[id.index()]);
        let annotated = annotations.get(id).into_iter().flat_map(|annotation| &annotation.input_qspec_map);
        let annotated = annotated.filter(|(_, spec)| spec.is_some()).map(|(input, _)| input);
        let read: Vec<NodeId> = passed.chain(annotated).copied().collect();
        // Another quantizer may have named a node of another graph, which is refused later.
        read.iter().for_each(|input| wanted.get_mut(input.index()).into_iter().for_each(|wanted| *wanted = true));
    }
}

/// For each node, whether integer nodes, which have annotations, compute all of it, or only move what they have computed.
fn computed(graph: &Graph, annotations: &Annotations) -> Vec<bool> {
    let mut computed: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for (id, node) in graph.iter() {
        computed.push(match &node.op {
            Op::Constant(_) => true,
            op if super::patterns::shares(op) || matches!(op, Op::Concat(_)) => {
                node.inputs.iter().all(|input| computed[input.index()])
            }
            _ => annotations.get(id).is_some(),
        });
    }
    computed
}

fn passes_on(op: &Op) -> bool {
    super::patterns::shares(op) || matches!(op, Op::Unary(_) | Op::Clamp(_))
}
