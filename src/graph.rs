//! The graph: an append-only arena of nodes, one result each.
//!
//! Every stage of the flow is a [`Graph`]: the float network, the prepared one with its observers, the quantize/dequantize
//! form and the integer form. A node reads only nodes with smaller ids, so the order of the arena is an execution order.
//! Names are unique and hierarchical (`blocks.0.fc1`). `origin` is the name of the float node that a node stems from;
//! every pass copies it, so that a number can be traced from the integer form back to the network.
//!
//! Only the leading dimension, `rows`, varies at run time (see [`Shape`]); an operator that would move it is refused.
//!
//! Graphs are built by [`GraphBuilder`] and never edited: a pass rebuilds the graph through a [`Rewriter`], and
//! [`Graph::verify`] checks the result in debug builds and tests.

mod accumulator;
mod builder;
mod display;
mod rewrite;
mod summary;
mod verify;
#[cfg(feature = "flow")]
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ops::{Constant, Op, OpError, Operand, Quantize, TensorType, check_elements};
use crate::values::{Contents, DType, Shape};

pub use builder::GraphBuilder;
pub use rewrite::Rewriter;
pub use summary::{FloatNode, Summary};
#[cfg(feature = "flow")]
pub use weights::Weights;
#[cfg(feature = "flow")]
pub(crate) use weights::nearest;

/// The identifier of a node of one graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct NodeId(u32);

impl NodeId {
    pub(crate) fn new(index: usize) -> Self {
        // An overflow cannot happen: four billion nodes do not fit in memory.
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Returns the index into [`Graph::nodes`].
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operation and its result.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Name, unique in its graph.
    pub name: String,
    /// Operator, with its parameters.
    pub op: Op,
    /// Nodes that the operator reads, in the order that [`Op`] documents.
    pub inputs: Vec<NodeId>,
    /// Shape of the result.
    pub shape: Shape,
    /// Element type of the result.
    pub dtype: DType,
    /// Name of the float node that the node stems from. In a float graph, it is the node's own name.
    pub origin: String,
    /// Reason why the node computes in float. [`prepare`](crate::quantize::prepare()) sets it for nodes that the quantizer was told to
    /// leave in float, and [`to_integer`](crate::quantize::to_integer()) for all that have no integer form.
    pub float_reason: Option<String>,
}

/// A network: nodes in execution order. Cloning is cheap, since clones share the nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    nodes: Arc<[Node]>,
    inputs: Vec<NodeId>,
    outputs: Vec<NodeId>,
    /// Names of the outputs.
    output_names: Arc<[String]>,
    /// Module types by path.
    modules: Arc<BTreeMap<String, String>>,
    declared: Arc<DeclaredTypes>,
}

/// Element types that the imported ONNX file declares for inputs and outputs, where they differ from the types in the graph. Maps
/// the name of an input or output to the ONNX name of its type. An export declares them again.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct DeclaredTypes {
    /// Types of inputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
    /// Types of outputs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, String>,
}

impl Graph {
    /// Returns the module types by path, as given to [`GraphBuilder::module`].
    #[must_use]
    pub fn modules(&self) -> &BTreeMap<String, String> {
        &self.modules
    }

    /// Returns the element types that the imported file declares for inputs and outputs, where they differ from the graph's.
    /// Every pass keeps them.
    #[must_use]
    pub fn declared_types(&self) -> &DeclaredTypes {
        &self.declared
    }

    /// Returns all nodes, in execution order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns all nodes with their ids, in execution order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId::new(i), n))
    }

    /// Returns the node with this id.
    ///
    /// # Panics
    /// Panics if the graph has no such node: `id` belongs to a larger graph.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Returns the bits that hold the values of a quantized node: those that the constant or quantize node which it comes from states,
    /// else 8.
    pub(crate) fn bits(&self, id: NodeId) -> u32 {
        let node = self.node(id);
        match &node.op {
            Op::Constant(Constant { bits, .. }) => bits.unwrap_or(8),
            Op::Quantize(Quantize { range, .. }) => range.bits(),
            op if op.moves_values() => node.inputs.iter().map(|&input| self.bits(input)).max().unwrap_or(8),
            _ => 8,
        }
    }

    /// Finds the node called `name`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.iter().find(|(_, n)| n.name == name).map(|(id, _)| id)
    }

    /// Returns the inputs in the order in which a run takes them.
    #[must_use]
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// Returns the outputs in the order in which a run returns them.
    #[must_use]
    pub fn outputs(&self) -> &[NodeId] {
        &self.outputs
    }

    /// Names of the outputs, in their order. They are those given to [`GraphBuilder::finish_named`], else the origins of the output
    /// nodes. Every pass keeps them.
    #[must_use]
    pub fn output_names(&self) -> &[String] {
        &self.output_names
    }

    /// Lists, for every node, the nodes that read it, in execution order. A node that reads it twice is listed once.
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

    /// Returns, for every node, whether it is an output. Callers that ask about many nodes avoid a search for each.
    pub(crate) fn output_flags(&self) -> Vec<bool> {
        let mut flags = vec![false; self.nodes.len()];
        self.outputs.iter().for_each(|id| flags[id.index()] = true);
        flags
    }

    /// Returns the same graph with other values of constants. The values have the same shapes and types.
    pub(crate) fn with_constants(&self, value: impl Fn(NodeId) -> Option<Arc<crate::values::Tensor>>) -> Self {
        let node = |(id, node): (NodeId, &Node)| match (&node.op, value(id)) {
            (Op::Constant(_), Some(value)) => Node { op: Constant::new(value).into(), ..node.clone() },
            _ => node.clone(),
        };
        Self { nodes: self.iter().map(node).collect(), ..self.clone() }
    }

    /// Checks the invariants of a graph: order, unique names, arity, and that shapes and types are what inference gives.
    ///
    /// # Errors
    /// Returns [`GraphError`] for the first node that breaks an invariant.
    pub fn verify(&self) -> Result<(), GraphError> {
        verify::verify(self)
    }

    /// Makes a graph of nodes that the rewriter has built, with the names and modules of `source`.
    fn from_parts(nodes: Vec<Node>, inputs: Vec<NodeId>, outputs: Vec<NodeId>, source: &Self) -> Self {
        let (output_names, modules) = (Arc::clone(&source.output_names), Arc::clone(&source.modules));
        let declared = Arc::clone(&source.declared);
        let graph = Self { nodes: nodes.into(), inputs, outputs, output_names, modules, declared };
        debug_assert_eq!(graph.verify(), Ok(()));
        graph
    }
}

/// Refuses an input whose declared shape has too many elements.
fn check_declared(name: &str, shape: &Shape) -> Result<(), GraphError> {
    check_elements(shape).map_err(|source| GraphError::Op { node: name.to_owned(), source })
}

/// Infers shape and type of the result of `op` on nodes. `name` is for error messages.
pub(crate) fn infer(name: &str, op: &Op, inputs: &[&Node]) -> Result<TensorType, GraphError> {
    let inputs: Vec<Operand<'_>> =
        inputs.iter().map(|node| Operand { dtype: node.dtype, shape: &node.shape }).collect();
    op.infer(&inputs).map_err(|source| GraphError::Op { node: name.to_owned(), source })
}

/// Replaces the tensor of a constant by an equal one that `contents` already has, so that it is in memory once.
fn share(contents: &mut Contents, op: Op) -> Op {
    match op {
        Op::Constant(Constant { tensor, bits }) => {
            Op::Constant(Constant { tensor: contents.first(&tensor, 0).0, bits })
        }
        op => op,
    }
}

/// The error of building, rewriting or verifying a graph. Every variant names the node.
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
        /// Number of nodes before it.
        nodes: usize,
    },
    /// An operator refuses its inputs or parameters.
    #[error("{node}: {source}")]
    Op {
        /// The node.
        node: String,
        /// The problem.
        source: OpError,
    },
    /// A weight or bias is NaN or infinite.
    #[error("{node}: element {index} is {}; weights must be finite", crate::values::Number(*value))]
    NonFinite {
        /// Name of the constant.
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
    /// A file of weights cannot be read.
    #[error("{file}: {problem}")]
    WeightFile {
        /// The file.
        file: String,
        /// Description of the problem.
        problem: String,
    },
    /// A file has no tensor with the name that a layer asks for.
    #[error("{file} has no tensor {name} among {tensors}; the nearest are: {}", if near.is_empty() { "none".to_owned() } else { near.join(", ") })]
    NoWeight {
        /// The file.
        file: String,
        /// The name of the tensor.
        name: String,
        /// Number of tensors in the file.
        tensors: usize,
        /// The most similar names, with their shapes.
        near: Vec<String>,
    },
    /// A tensor of a file has elements that no tensor here has.
    #[error("{name}: its elements are {dtype}, expected one of F32, F16, BF16, I8, I32 and I64")]
    WeightType {
        /// The name of the tensor.
        name: String,
        /// The type of its elements.
        dtype: String,
    },
    /// The lists of inputs and outputs are not valid.
    #[error("{node}: {problem}")]
    Output {
        /// The output, or "graph".
        node: String,
        /// Description of the problem.
        problem: &'static str,
    },
}
