//! The graph while it is made: nodes in execution order, with names that need not be unique yet.

use super::dims::elements;
use super::names::short;
use crate::graph::{GraphError, Node, NodeId, infer};
use crate::ops::{Constant, Input, Op, TensorType};
use crate::values::{DType, Shape, Tensor};

/// Nodes so far. The `origin` of a node is the parameter that it is, or is named after; else it is empty.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) nodes: Vec<Node>,
    /// How many nodes there may be.
    limit: usize,
}

impl Draft {
    /// An empty one, for a file of so many bytes: some of its nodes become ten here, which must not fill the memory.
    pub(super) fn new(file_bytes: usize) -> Self {
        Self { nodes: Vec::new(), limit: 100_000 + file_bytes / 64 }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(super) fn shape(&self, id: NodeId) -> &Shape {
        &self.node(id).shape
    }

    pub(super) fn input(&mut self, name: &str, shape: Shape, dtype: DType) -> NodeId {
        self.push(name, Op::Input(Input), Vec::new(), shape, dtype)
    }

    /// A constant that belongs to the parameter called `parameter`, if it does.
    pub(super) fn constant(&mut self, parameter: &str, tensor: Tensor) -> NodeId {
        let (shape, dtype) = (Shape::fixed(tensor.shape()), tensor.dtype());
        let id = self.push("", Constant::new(tensor).into(), Vec::new(), shape, dtype);
        self.nodes[id.index()].origin = short(parameter).to_owned();
        id
    }

    /// Any other node.
    pub(super) fn add(&mut self, name: &str, op: Op, inputs: &[NodeId]) -> Result<NodeId, String> {
        if self.nodes.len() >= self.limit {
            return Err(format!(
                "the graph would have more than {} nodes, too many for a file of that size",
                self.limit
            ));
        }
        let read: Vec<&Node> = inputs.iter().map(|&id| self.node(id)).collect();
        let TensorType { shape, dtype } = infer(name, &op, &read).map_err(|e| problem(name, &e))?;
        if elements(&shape.fixed_dims()).is_none() {
            return Err(format!("its result {shape} is too large"));
        }
        Ok(self.push(name, op, inputs.to_vec(), shape, dtype))
    }

    fn push(&mut self, name: &str, op: Op, inputs: Vec<NodeId>, shape: Shape, dtype: DType) -> NodeId {
        let (name, origin) = (name.to_owned(), String::new());
        self.nodes.push(Node { name, op, inputs, shape, dtype, origin, float_reason: None });
        NodeId::new(self.nodes.len() - 1)
    }
}

/// The message of an error without the name of its node, which is said elsewhere.
fn problem(name: &str, error: &GraphError) -> String {
    let text = error.to_string();
    text.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).map(str::to_owned).unwrap_or(text)
}
