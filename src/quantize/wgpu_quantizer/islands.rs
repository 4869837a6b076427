//! Float islands: values that only float nodes read stay float.

use super::super::annotation::Annotations;
use crate::graph::{Graph, NodeId};
use crate::ops::Op;

/// Removes the annotations of values that no integer node reads and that are not outputs computed by integer nodes, except annotations
/// that were `there` before. A sum or product becomes float, and a layer keeps its int8 weight and gets a float output.
pub(super) fn keep_float(graph: &Graph, annotations: &mut Annotations, there: &[bool]) {
    // Whether the quantized values of a node are wanted. Nodes are visited from last to first, readers before what they read. An output
    // is wanted if integer nodes compute it; a value that only passes through, such as a cache that is concatenated with new rows, is
    // returned to the caller as it came.
    let computed = computed(graph, annotations);
    let mut wanted: Vec<bool> = graph.output_flags().into_iter().zip(computed).map(|(out, by)| out && by).collect();
    let ids: Vec<NodeId> = graph.iter().map(|(id, _)| id).collect();
    for &id in ids.iter().rev() {
        let node = graph.node(id);
        if let Some(annotation) = annotations.get(id).filter(|_| !wanted[id.index()] && !there[id.index()]) {
            if super::patterns::has_weight(&node.op) || matches!(node.op, Op::MatMul(_)) {
                let mut annotation = annotation.clone();
                annotation.output_qspec = None;
                annotations.set(id, annotation);
            } else {
                annotations.remove(id);
                annotations.leave_float(id, "no integer node reads its result");
            }
        }
        // Operators that move quantized values, and functions of one element, want the quantized values of their inputs if theirs are
        // wanted.
        let passed = node.inputs.iter().filter(|_| passes_on(&node.op) && wanted[id.index()]);
        let annotated = annotations.get(id).into_iter().flat_map(|annotation| &annotation.input_qspec_map);
        let annotated = annotated.filter(|(_, spec)| spec.is_some()).map(|(input, _)| input);
        let read: Vec<NodeId> = passed.chain(annotated).copied().collect();
        // A node of another graph, which another quantizer may have named, is refused later.
        read.iter().for_each(|input| wanted.get_mut(input.index()).into_iter().for_each(|wanted| *wanted = true));
    }
}

/// For each node, whether integer nodes compute its value, or move a value that integer nodes have computed.
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
