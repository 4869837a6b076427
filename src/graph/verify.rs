//! The invariants that every pass must keep.

use std::collections::HashSet;

use super::{Graph, GraphError, accumulator, check_declared, infer};
use crate::ops::Input;
use crate::ops::{Op, TensorType};

/// Checks all invariants of a graph.
pub(super) fn verify(graph: &Graph) -> Result<(), GraphError> {
    let mut names = HashSet::new();
    for (id, node) in graph.iter() {
        if !names.insert(node.name.as_str()) {
            return Err(GraphError::DuplicateName { name: node.name.clone() });
        }
        if let Some(input) = node.inputs.iter().find(|input| **input >= id) {
            let (node, nodes) = (node.name.clone(), id.index());
            return Err(GraphError::Order { node, input: input.index(), nodes });
        }
        if let Op::Input(Input) = node.op {
            check_declared(&node.name, &node.shape)?;
            continue; // Shape and type of an input are declared, not inferred.
        }
        let inputs: Vec<_> = node.inputs.iter().map(|&id| graph.node(id)).collect();
        let TensorType { shape, dtype } = infer(&node.name, &node.op, &inputs)?;
        accumulator::check(&graph.nodes, &node.name, &node.op, &node.inputs)?;
        if (&shape, dtype) != (&node.shape, node.dtype) {
            return Err(GraphError::Inconsistent {
                node: node.name.clone(),
                stored: format!("{}{}", node.dtype, node.shape),
                inferred: format!("{dtype}{shape}"),
            });
        }
    }
    outputs(graph)
}

/// Checks the lists of inputs and outputs.
fn outputs(graph: &Graph) -> Result<(), GraphError> {
    let error = |node: &str, problem| Err(GraphError::Output { node: node.to_owned(), problem });
    if graph.outputs.is_empty() {
        return error("graph", "has no output");
    }
    let mut seen = vec![false; graph.nodes.len()];
    for &id in &graph.outputs {
        let Some(node) = graph.nodes.get(id.index()) else {
            return error("graph", "has an output that is not one of its nodes");
        };
        if std::mem::replace(&mut seen[id.index()], true) {
            return error(&node.name, "is listed twice among the outputs");
        }
    }
    if graph.output_names.len() != graph.outputs.len() {
        return error("graph", "has not one name for each output");
    }
    let mut listed = vec![false; graph.nodes.len()];
    for id in &graph.inputs {
        listed.get_mut(id.index()).into_iter().for_each(|listed| *listed = true);
    }
    let is_input = graph.nodes.iter().map(|node| matches!(node.op, Op::Input(Input)));
    if !is_input.eq(listed) {
        return error("graph", "lists inputs that are not its input nodes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::graph::{Graph, GraphBuilder, GraphError, Node, NodeId};
    use crate::values::Shape;

    fn graph() -> Graph {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(2)).expect("an input");
        let y = g.relu("y", x).expect("a relu");
        g.finish([y]).expect("a graph")
    }

    struct Parts {
        nodes: Vec<Node>,
        inputs: Vec<NodeId>,
        outputs: Vec<NodeId>,
    }

    /// Breaks each invariant, as a wrong pass could.
    #[test]
    fn broken_graphs_are_refused() {
        let broken = |change: fn(&mut Parts)| {
            let Graph { nodes, inputs, outputs, output_names, modules, declared } = graph();
            let mut parts = Parts { nodes: nodes.to_vec(), inputs, outputs };
            change(&mut parts);
            let (nodes, inputs, outputs) = (parts.nodes.into(), parts.inputs, parts.outputs);
            Graph { nodes, inputs, outputs, output_names, modules, declared }.verify()
        };
        let e = broken(|parts| parts.nodes[1].shape = Shape::rows(3));
        assert!(matches!(e, Err(GraphError::Inconsistent { node, .. }) if node == "y"));
        let e = broken(|parts| parts.nodes[1].inputs[0] = NodeId::new(1));
        assert!(matches!(e, Err(GraphError::Order { node, input: 1, nodes: 1 }) if node == "y"));
        let e = broken(|parts| parts.nodes[1].name = "x".to_owned());
        assert!(matches!(e, Err(GraphError::DuplicateName { name }) if name == "x"));
        assert!(matches!(broken(|parts| parts.inputs.clear()), Err(GraphError::Output { .. })));
        assert!(matches!(broken(|parts| parts.outputs[0] = NodeId::new(7)), Err(GraphError::Output { .. })));
        assert_eq!(graph().verify(), Ok(()));
    }
}
