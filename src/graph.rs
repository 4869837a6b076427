//! The graph: an append-only arena of nodes, one result each.
//!
//! Every stage of the flow is a [`Graph`]: the float network, the prepared one with its observers, the quantize/dequantize
//! form and the integer form. A node reads only nodes with smaller ids, so the order of the arena is an execution order.
//! Names are unique and hierarchical (`blocks.0.fc1`). `origin` is the name of the float node that a node stems from;
//! every pass copies it, so that a number can be traced from the integer form back to the network.
//!
//! Only the leading dimension, `rows`, varies at run time (see [`Shape`]); an op that would move it is refused.
//!
//! Graphs are built by [`GraphBuilder`] and never edited: a pass rebuilds the graph through a [`Rewriter`], and
//! [`Graph::verify`] checks the result in debug builds and tests.

mod accumulator;
mod builder;
mod display;
mod rewrite;
mod summary;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ops::{Constant, Op, OpError, Operand, TensorType, check_elements};
use crate::values::{Contents, DType, Shape};

pub use builder::GraphBuilder;
pub use rewrite::Rewriter;
pub use summary::{FloatNode, Summary};

/// Names a node of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct NodeId(u32);

impl NodeId {
    pub(crate) fn new(index: usize) -> Self {
        // Four billion nodes do not fit in memory.
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Position in [`Graph::nodes`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operation and its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Unique in its graph.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// What it reads, in the order that [`Op`] documents.
    pub inputs: Vec<NodeId>,
    /// Shape of the result.
    pub shape: Shape,
    /// Element type of the result.
    pub dtype: DType,
    /// The name of the float node that it stems from; its own name in a float graph.
    pub origin: String,
    /// Why this node computes in float: in an integer graph, set by [`to_integer`](crate::quantize::to_integer()); before that, set by
    /// [`prepare`](crate::quantize::prepare()) of what its quantizer was told to leave, whatever is quantized around it.
    pub float_reason: Option<String>,
}

/// A network; cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    nodes: Arc<[Node]>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    /// What outputs are called, one name each.
    output_names: Arc<[String]>,
    /// Types of modules, by path.
    modules: Arc<BTreeMap<String, String>>,
    declared: Arc<DeclaredTypes>,
}

/// The types of inputs and outputs in the file that a graph was imported from, where the graph computes in others: ONNX's names of
/// types, by name of the input or output. An export declares them again.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct DeclaredTypes {
    /// Of inputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Of outputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
}

impl Graph {
    /// The types of modules that the builder was told, by path.
    #[must_use]
    pub fn modules(&self) -> &BTreeMap<String, String> {
        &self.modules
    }

    /// The types that inputs and outputs had in the file that the graph was imported from, where they differ from the graph's.
    /// Every pass keeps them.
    #[must_use]
    pub fn declared_types(&self) -> &DeclaredTypes {
        &self.declared
    }

    /// All nodes in execution order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All nodes with their ids, in execution order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId::new(i), n))
    }

    /// What `id` names.
    ///
    /// # Panics
    /// If the graph has no such node: `id` belongs to a larger graph.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The node called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.iter().find(|(_, n)| n.name == name).map(|(id, _)| id)
    }

    /// The inputs in the order in which a run takes them.
    #[must_use]
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// The outputs in the order in which a run returns them.
    #[must_use]
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// What the outputs are called, in their order: as [`GraphBuilder::finish_named`] was told, else as the origins of their
    /// nodes. Every pass keeps them.
    #[must_use]
    pub fn output_names(&self) -> &[String] {
        &self.output_names
    }

    /// For every node, the nodes that read it, in execution order; a node that reads it twice is listed once.
    #[must_use]
    pub fn users(&self) -> Vec<Vec<NodeId>> {
        let mut users = vec![Vec::new(); self.nodes.len()];
        for (id, node) in self.iter() {
            for input in &node.inputs {
                let list = &mut users[input.index()];
                if list.last() != Some(&id) {
                    list.push(id);
                }
            }
        }
        users
    }

    /// For every node, whether it is an output: to ask about all nodes, without a walk through the outputs for each.
    pub(crate) fn output_flags(&self) -> Vec<bool> {
        let mut flags = vec![false; self.nodes.len()];
        self.outputs.iter().for_each(|id| flags[id.index()] = true);
        flags
    }

    /// The same graph with other values of constants, of the same shapes and types.
    pub(crate) fn with_constants(&self, value: impl Fn(NodeId) -> Option<Arc<crate::values::Tensor>>) -> Self {
        let node = |(id, node): (NodeId, &Node)| match (&node.op, value(id)) {
            (Op::Constant(_), Some(value)) => Node { op: Op::Constant(Constant { tensor: value }), ..node.clone() },
            _ => node.clone(),
        };
        Self { nodes: self.iter().map(node).collect(), ..self.clone() }
    }

    /// Checks what every pass must keep: order, unique names, arity, and that shapes and types are what inference gives.
    ///
    /// # Errors
    /// [`GraphError`] for the first node that breaks a rule.
    pub fn verify(&self) -> Result<(), GraphError> {
        verify::verify(self)
    }

    /// Used by the rewriter only, which maintains the invariants. All but nodes is as in `source`.
    fn from_parts(nodes: Vec<Node>, inputs: Vec<NodeId>, outputs: Vec<NodeId>, source: &Self) -> Self {
        let (output_names, modules) = (Arc::clone(&source.output_names), Arc::clone(&source.modules));
        let declared = Arc::clone(&source.declared);
        let graph = Self { nodes: nodes.into(), inputs, outputs, output_names, modules, declared };
        debug_assert_eq!(graph.verify(), Ok(()));
        graph
    }
}

/// Refuses the declared shape of an input that holds too many elements.
fn check_declared(name: &str, shape: &Shape) -> Result<(), GraphError> {
    check_elements(shape).map_err(|source| GraphError::Op { node: name.to_owned(), source })
}

/// Shape and type of the result of `op` on nodes; `name` is for messages.
pub(crate) fn infer(name: &str, op: &Op, inputs: &[&Node]) -> Result<TensorType, GraphError> {
    let inputs: Vec<Operand<'_>> =
        inputs.iter().map(|node| Operand { dtype: node.dtype, shape: &node.shape }).collect();
    op.infer(&inputs).map_err(|source| GraphError::Op { node: name.to_owned(), source })
}

/// The op with the first constant that was seen of what its own holds.
fn share(contents: &mut Contents, op: Op) -> Op {
    match op {
        Op::Constant(Constant { tensor }) => Op::Constant(Constant { tensor: contents.first(&tensor, 0).0 }),
        op => op,
    }
}

/// Why a graph or a node was refused. Every variant names the node.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Two nodes have one name.
    #[error("two nodes are called {name}")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A node reads something that is not an earlier node of the graph.
    #[error("{node}: reads node {input}, but only {nodes} nodes come before it")]
    Order {
        /// The reading node.
        node: String,
        /// The index that it reads.
        input: usize,
        /// How many nodes precede it.
        nodes: usize,
    },
    /// An operator does not take its inputs or parameters.
    #[error("{node}: {source}")]
    Op {
        /// The node.
        node: String,
        /// The problem.
        source: OpError,
    },
    /// A weight or bias is NaN or infinite.
    #[error("{node}: element {index} is {value}; weights must be finite")]
    NonFinite {
        /// The constant.
        node: String,
        /// Row-major index of the first such element.
        index: usize,
        /// The element.
        value: f32,
    },
    /// The stored shape or type is not what inference gives.
    #[error("{node}: is stored as {stored}, but its inputs make it {inferred}")]
    Inconsistent {
        /// The node.
        node: String,
        /// Stored shape and type.
        stored: String,
        /// Inferred shape and type.
        inferred: String,
    },
    /// The graph has no output, or one twice.
    #[error("{node}: {problem}")]
    Output {
        /// The output, or "graph".
        node: String,
        /// What is wrong.
        problem: &'static str,
    },
}
