//! The rewriter, with which passes rebuild a graph.

use std::collections::{HashMap, HashSet};

use super::{Graph, GraphError, Node, NodeId, infer, share};
use crate::ops::{Input, Op, TensorType};
use crate::values::Contents;

/// A builder of a new graph from an old one. A pass walks the old nodes in order and, for each, copies it, replaces it by new
/// nodes, or leaves it out. Inputs are always kept. [`finish`](Self::finish) drops all other nodes that no output needs.
///
/// This pass replaces each ReLU by a clamp:
///
/// ```
/// use enfold::graph::{GraphError, Rewriter};
/// use enfold::ops::{Clamp, Op, Unary, UnaryOp};
/// use enfold::{Graph, GraphBuilder, Shape};
///
/// fn relu_as_clamp(graph: &Graph) -> Result<Graph, GraphError> {
///     let mut rewriter = Rewriter::new(graph);
///     for (id, node) in graph.iter() {
///         if let Op::Unary(Unary { op: UnaryOp::Relu }) = node.op {
///             let x = rewriter.get(node.inputs[0])?;
///             let clamp = Clamp { min: 0.0, max: f32::INFINITY };
///             let new = rewriter.add(&node.name, clamp, vec![x], &node.origin)?;
///             rewriter.replace(id, new);
///         } else {
///             rewriter.copy(id)?;
///         }
///     }
///     rewriter.finish()
/// }
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(3))?;
/// let y = g.relu("y", x)?;
/// let graph = relu_as_clamp(&g.finish([y])?)?;
/// assert_eq!(graph.to_string(), "x: f32[rows, 3] = input()\ny: f32[rows, 3] = clamp(x) 0..=inf\nreturn y\n");
/// # Ok::<(), GraphError>(())
/// ```
#[derive(Debug)]
pub struct Rewriter<'g> {
    source: &'g Graph,
    nodes: Vec<Node>,
    names: HashSet<String>,
    /// For each name that was requested again, the last suffix tried, so that n equal names take n steps.
    numbers: HashMap<String, u32>,
    map: Vec<Option<NodeId>>,
    /// Tensors of constants, so that equal ones are in memory once.
    contents: Contents,
}

impl<'g> Rewriter<'g> {
    /// Creates a rewriter of `source`, with an empty new graph.
    #[must_use]
    pub fn new(source: &'g Graph) -> Self {
        Self {
            source,
            nodes: Vec::new(),
            names: HashSet::new(),
            numbers: HashMap::new(),
            map: vec![None; source.nodes.len()],
            contents: Contents::default(),
        }
    }

    /// Returns the new node that replaces an old one.
    ///
    /// # Errors
    /// Returns [`GraphError::Order`] if the pass has not yet copied or replaced the old node.
    pub fn get(&self, old: NodeId) -> Result<NodeId, GraphError> {
        self.map[old.index()].ok_or_else(|| GraphError::Order {
            node: self.source.node(old).name.clone(),
            input: old.index(),
            nodes: self.nodes.len(),
        })
    }

    /// Returns the new node with this id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Copies an old node. The copy reads the nodes that replace the old inputs.
    ///
    /// # Errors
    /// Returns the errors of [`Rewriter::get`] and [`Rewriter::add`].
    pub fn copy(&mut self, old: NodeId) -> Result<NodeId, GraphError> {
        let node = self.source.node(old);
        let inputs = node.inputs.iter().map(|&input| self.get(input)).collect::<Result<_, _>>()?;
        self.copy_with(old, inputs)
    }

    /// Copies an old node, with other inputs, which are new nodes.
    ///
    /// # Errors
    /// Returns the errors of [`Rewriter::add`].
    pub fn copy_with(&mut self, old: NodeId, inputs: Vec<NodeId>) -> Result<NodeId, GraphError> {
        let node = self.source.node(old);
        let new = if matches!(node.op, Op::Input(Input)) {
            self.push(Node { inputs, ..node.clone() })
        } else {
            self.add(&node.name, node.op.clone(), inputs, &node.origin)?
        };
        self.nodes[new.index()].float_reason.clone_from(&node.float_reason);
        self.replace(old, new);
        Ok(new)
    }

    /// Adds a node that the old graph lacks. A name that is taken gets the first free suffix `_1`, `_2`, ….
    ///
    /// # Errors
    /// Returns [`GraphError::Op`] if the operator refuses its inputs.
    pub fn add(
        &mut self,
        name: &str,
        op: impl Into<Op>,
        inputs: Vec<NodeId>,
        origin: &str,
    ) -> Result<NodeId, GraphError> {
        let op = op.into();
        let read: Vec<&Node> = inputs.iter().map(|&id| self.node(id)).collect();
        let TensorType { shape, dtype } = infer(name, &op, &read)?;
        let (name, origin) = (name.to_owned(), origin.to_owned());
        Ok(self.push(Node { name, op, inputs, shape, dtype, origin, float_reason: None }))
    }

    /// Sets the reason why a new node computes in float ([`Node::float_reason`]).
    pub fn stays_float(&mut self, id: NodeId, reason: impl Into<String>) {
        self.nodes[id.index()].float_reason = Some(reason.into());
    }

    /// Sets the float node that a new node stems from ([`Node::origin`]).
    pub fn set_origin(&mut self, id: NodeId, origin: &str) {
        self.nodes[id.index()].origin = origin.to_owned();
    }

    /// Replaces the old node `old` by the new node `new`, from here on.
    pub fn replace(&mut self, old: NodeId, new: NodeId) {
        self.map[old.index()] = Some(new);
    }

    /// Finishes the new graph. Its outputs are the nodes that replace the old outputs.
    ///
    /// # Errors
    /// Returns [`GraphError::Order`] if an input or output has no replacement, and [`GraphError::Output`] if one node replaces two
    /// outputs.
    pub fn finish(self) -> Result<Graph, GraphError> {
        let mut outputs = Vec::with_capacity(self.source.outputs.len());
        let mut seen = vec![false; self.nodes.len()];
        for &old in &self.source.outputs {
            let new = self.get(old)?;
            if std::mem::replace(&mut seen[new.index()], true) {
                let node = self.node(new).name.clone();
                return Err(GraphError::Output { node, problem: "stands for two outputs" });
            }
            outputs.push(new);
        }
        let inputs = self.source.inputs.iter().map(|&old| self.get(old)).collect::<Result<Vec<_>, _>>()?;
        Ok(without_dead_nodes(self.nodes, &inputs, &outputs, self.source))
    }

    fn push(&mut self, mut node: Node) -> NodeId {
        if self.names.contains(&node.name) {
            let number = self.numbers.entry(node.name.clone()).or_default();
            node.name = loop {
                *number += 1;
                let name = format!("{}_{number}", node.name);
                if !self.names.contains(&name) {
                    break name;
                }
            };
        }
        self.names.insert(node.name.clone());
        node.op = share(&mut self.contents, node.op);
        self.nodes.push(node);
        NodeId::new(self.nodes.len() - 1)
    }
}

fn without_dead_nodes(nodes: Vec<Node>, inputs: &[NodeId], outputs: &[NodeId], source: &Graph) -> Graph {
    let mut live = vec![false; nodes.len()];
    for id in inputs.iter().chain(outputs) {
        live[id.index()] = true;
    }
    for (i, node) in nodes.iter().enumerate().rev() {
        if live[i] {
            node.inputs.iter().for_each(|input| live[input.index()] = true);
        }
    }
    let mut kept = Vec::with_capacity(nodes.len());
    let mut map = Vec::with_capacity(nodes.len());
    for (mut node, live) in nodes.into_iter().zip(live) {
        map.push(NodeId::new(kept.len()));
        if live {
            node.inputs.iter_mut().for_each(|input| *input = map[input.index()]);
            kept.push(node);
        }
    }
    let renumber = |ids: &[NodeId]| ids.iter().map(|id| map[id.index()]).collect();
    Graph::from_parts(kept, renumber(inputs), renumber(outputs), source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::GraphBuilder;
    use crate::ops::{Unary, UnaryOp};
    use crate::values::Shape;

    /// Gives 200,000 nodes one name. Trying all suffixes again for each would take 2·10¹⁰ look-ups, which is hours.
    #[test]
    fn names_that_are_requested_again_take_a_step_each() {
        let mut g = GraphBuilder::new();
        let x = g.input("x", Shape::rows(1)).expect("an input");
        let graph = g.finish([x]).expect("a graph");
        let mut rewriter = Rewriter::new(&graph);
        let x = rewriter.copy(x).expect("a copy");
        let mut name = |wish: &str| {
            let id = rewriter.add(wish, Unary { op: UnaryOp::Relu }, vec![x], wish).expect("a node");
            rewriter.node(id).name.clone()
        };
        assert_eq!(["n", "n_2", "n", "n", "n_2"].map(&mut name), ["n", "n_2", "n_1", "n_3", "n_2_1"]);
        let last = (0..200_000).map(|_| name("n")).last();
        assert_eq!(last.as_deref(), Some("n_200003"));
    }
}
