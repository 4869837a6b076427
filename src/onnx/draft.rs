//! The graph under construction: nodes in execution order, whose names need not be unique yet.

use super::dims::elements;
use super::names::short;
use crate::graph::{GraphError, Node, NodeId, infer};
use crate::ops::{Constant, Input, Op, TensorType};
use crate::values::{DType, Shape, Tensor};

/// The nodes that exist so far. The `origin` of a constant is the parameter that it holds, that of another node the module that it is
/// named after; without these, it is empty.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) nodes: Vec<Node>,
    /// The largest number of nodes.
    limit: usize,
}

impl Draft {
    /// An empty graph for a file of `file_bytes`. Some ONNX nodes become ten nodes, so their number is limited by the size of the file.
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

    /// A constant that holds the parameter called `parameter`; the name is empty if it holds none.
    pub(super) fn constant(&mut self, parameter: &str, tensor: Tensor) -> NodeId {
        let (shape, dtype) = (Shape::fixed(tensor.shape()), tensor.dtype());
        let id = self.push("", Constant::new(tensor).into(), Vec::new(), shape, dtype);
        self.nodes[id.index()].origin = short(parameter).to_owned();
        id
    }

    /// A node that is neither an input nor a constant. An error says why the operator does not take these inputs.
    pub(super) fn add(&mut self, name: &str, op: impl Into<Op>, inputs: &[NodeId]) -> Result<NodeId, String> {
        let op = op.into();
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

/// The message of an error without the name of the node, which the caller adds.
fn problem(name: &str, error: &GraphError) -> String {
    let text = error.to_string();
    text.strip_prefix(name).and_then(|rest| rest.strip_prefix(": ")).map(str::to_owned).unwrap_or(text)
}
