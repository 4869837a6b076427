//! How a user writes a network.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{DeclaredTypes, Graph, GraphError, Node, NodeId, accumulator, check_declared, infer, share};
use crate::ops::{
    Add, AddScalar, BatchNorm, Binary, BinaryOp, Clamp, Concat, Constant, Div, Embedding, Flatten, Input, LayerNorm,
    Linear, MatMul, Max, Mul, MulScalar, Op, Reshape, Slice, Softmax, Sum, TensorType, ToFloat, Transpose, Unary,
    UnaryOp, Where,
};
use crate::values::{Contents, DType, Shape, Tensor};

/// Builds a float [`Graph`] node by node; every call checks names, shapes and types.
///
/// ```
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(3))?;
/// let h = g.linear("fc1", x, Tensor::from_f32(&[2, 3], vec![0.5; 6])?, Some(Tensor::from_f32(&[2], vec![0.0; 2])?))?;
/// let y = g.relu("relu1", h)?;
/// let graph = g.finish([y])?;
/// assert_eq!(graph.node(y).shape, Shape::rows(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct GraphBuilder {
    nodes: Vec<Node>,
    names: HashSet<String>,
    inputs: Vec<NodeId>,
    modules: BTreeMap<String, String>,
    /// Constants that hold the same are one in memory.
    contents: Contents,
    declared: DeclaredTypes,
}

/// # Errors
/// Every method that adds a node returns [`GraphError::DuplicateName`] for a name that is taken, and the error of shape
/// inference if its inputs do not fit.
impl GraphBuilder {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes that the nodes whose names begin with `path.` form a module of this type, for configurations by module type.
    /// Layers with parameters are modules of their own: `Linear`, `LayerNorm`, `BatchNorm` and `Embedding`.
    pub fn module(&mut self, path: &str, module_type: &str) {
        self.modules.insert(path.to_owned(), module_type.to_owned());
    }

    /// A float input.
    pub fn input(&mut self, name: &str, shape: Shape) -> Result<NodeId, GraphError> {
        self.typed_input(name, shape, DType::F32)
    }

    /// An input of integers: `DType::I32` for ids, `DType::I8` for codes.
    pub fn typed_input(&mut self, name: &str, shape: Shape, dtype: DType) -> Result<NodeId, GraphError> {
        check_declared(name, &shape)?;
        let id = self.push(name, Op::Input(Input), Vec::new(), shape, dtype)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// A value that the graph holds.
    pub fn constant(&mut self, name: &str, value: impl Into<Tensor>) -> Result<NodeId, GraphError> {
        self.node(name, Constant::new(value.into()), &[])
    }

    /// `x[…, K] · w[N, K]ᵀ + b[N]`. The constants are called `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// [`GraphError::NonFinite`] for a NaN or infinite weight or bias.
    pub fn linear(
        &mut self,
        name: &str,
        x: NodeId,
        w: impl Into<Tensor>,
        b: Option<Tensor>,
    ) -> Result<NodeId, GraphError> {
        let w = self.parameter(&format!("{name}.weight"), w.into())?;
        let b = b.map(|b| self.parameter(&format!("{name}.bias"), b)).transpose()?;
        self.linear_nodes(name, x, w, b)
    }

    /// [`linear`](Self::linear) with a weight and bias that are nodes already, for layers that share them.
    pub fn linear_nodes(&mut self, name: &str, x: NodeId, w: NodeId, b: Option<NodeId>) -> Result<NodeId, GraphError> {
        let inputs: Vec<NodeId> = [x, w].into_iter().chain(b).collect();
        self.node(name, Linear, &inputs)
    }

    /// `a[…, M, K] · b[…, K, N]`.
    pub fn matmul(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, MatMul, &[a, b])
    }

    /// `a + b`, broadcast.
    pub fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Add, &[a, b])
    }

    /// `a / b` of each element, broadcast.
    pub fn div(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Div, &[a, b])
    }

    /// `a` where `condition` is not 0, else `b`, broadcast.
    pub fn where_(&mut self, name: &str, condition: NodeId, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Where, &[condition, a, b])
    }

    /// `a · b` of each element, broadcast.
    pub fn mul(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Mul, &[a, b])
    }

    /// `x + value`.
    pub fn add_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, GraphError> {
        self.node(name, AddScalar { value }, &[x])
    }

    /// `x · value`.
    pub fn mul_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, GraphError> {
        self.node(name, MulScalar { value }, &[x])
    }

    /// `max(x, 0)`.
    pub fn relu(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Relu, x)
    }

    /// `1 / (1 + e^−x)`.
    pub fn sigmoid(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Sigmoid, x)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Tanh, x)
    }

    /// GELU with the error function.
    pub fn gelu(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Gelu, x)
    }

    /// GELU in its tanh approximation.
    pub fn gelu_tanh(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::GeluTanh, x)
    }

    /// `x · sigmoid(x)`.
    pub fn silu(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Silu, x)
    }

    /// Any [`UnaryOp`].
    pub fn unary(&mut self, name: &str, op: UnaryOp, x: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Unary { op }, &[x])
    }

    /// Any [`BinaryOp`], broadcast.
    pub fn binary(&mut self, name: &str, op: BinaryOp, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Binary { op }, &[a, b])
    }

    /// Each element, but at least `min` and at most `max`; either may be infinite.
    pub fn clamp(&mut self, name: &str, x: NodeId, min: f32, max: f32) -> Result<NodeId, GraphError> {
        self.node(name, Clamp { min, max }, &[x])
    }

    /// Integers as floats: masks and other numbers that are not ids.
    pub fn to_float(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, ToFloat, &[x])
    }

    /// The same elements as `[rows, dims…]`, or as `[dims…]` if `x` has no batch.
    pub fn reshape(&mut self, name: &str, x: NodeId, dims: &[usize]) -> Result<NodeId, GraphError> {
        self.node(name, Reshape { dims: dims.to_vec() }, &[x])
    }

    /// Merges the axes from `start_axis` to the last.
    pub fn flatten(&mut self, name: &str, x: NodeId, start_axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Flatten { start_axis }, &[x])
    }

    /// Axis `i` of the result is axis `perm[i]` of `x`; with a batch, `perm[0]` is 0.
    pub fn transpose(&mut self, name: &str, x: NodeId, perm: &[usize]) -> Result<NodeId, GraphError> {
        self.node(name, Transpose { perm: perm.to_vec() }, &[x])
    }

    /// Joins two or more tensors along `axis`.
    pub fn concat(&mut self, name: &str, xs: &[NodeId], axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Concat { axis }, xs)
    }

    /// The elements `start..end` along `axis`.
    pub fn slice(
        &mut self,
        name: &str,
        x: NodeId,
        axis: usize,
        range: std::ops::Range<usize>,
    ) -> Result<NodeId, GraphError> {
        self.node(name, Slice { axis, start: range.start, end: range.end }, &[x])
    }

    /// The sum of the elements along `axis`, which the result lacks; of integers, it wraps around.
    pub fn sum(&mut self, name: &str, x: NodeId, axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Sum { axis, checked: false }, &[x])
    }

    /// The largest element along `axis`, which the result lacks: max pooling over tokens, say.
    pub fn max(&mut self, name: &str, x: NodeId, axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Max { axis }, &[x])
    }

    /// Softmax along `axis`.
    pub fn softmax(&mut self, name: &str, x: NodeId, axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Softmax { axis }, &[x])
    }

    /// Layer normalization over the last axes, whose shape `weight` and `bias` have. The constants are called
    /// `{name}.weight` and `{name}.bias`.
    pub fn layer_norm(
        &mut self,
        name: &str,
        x: NodeId,
        weight: impl Into<Tensor>,
        bias: impl Into<Tensor>,
        eps: f32,
    ) -> Result<NodeId, GraphError> {
        let weight = self.parameter(&format!("{name}.weight"), weight.into())?;
        let bias = self.parameter(&format!("{name}.bias"), bias.into())?;
        self.node(name, LayerNorm { eps }, &[x, weight, bias])
    }

    /// Batch normalization over axis 1 with fixed statistics: `(x − mean) / √(variance + eps) · weight + bias`, all
    /// four `[C]`. The constants are called `{name}.running_mean`, `.running_var`, `.weight` and `.bias`.
    pub fn batch_norm(
        &mut self,
        name: &str,
        x: NodeId,
        [mean, variance, weight, bias]: [Tensor; 4],
        eps: f32,
    ) -> Result<NodeId, GraphError> {
        let mean = self.parameter(&format!("{name}.running_mean"), mean)?;
        let variance = self.parameter(&format!("{name}.running_var"), variance)?;
        let weight = self.parameter(&format!("{name}.weight"), weight)?;
        let bias = self.parameter(&format!("{name}.bias"), bias)?;
        self.node(name, BatchNorm { eps }, &[x, mean, variance, weight, bias])
    }

    /// Row `ids` of a table `[V, D]`. The constant is called `{name}.weight`.
    pub fn embedding(&mut self, name: &str, ids: NodeId, table: impl Into<Tensor>) -> Result<NodeId, GraphError> {
        let table = self.parameter(&format!("{name}.weight"), table.into())?;
        self.node(name, Embedding, &[ids, table])
    }

    /// Any op on any nodes: how integer graphs are written by hand.
    pub fn node(&mut self, name: &str, op: impl Into<Op>, inputs: &[NodeId]) -> Result<NodeId, GraphError> {
        let op = op.into();
        let nodes = self.nodes.len();
        if let Some(input) = inputs.iter().find(|input| input.index() >= nodes) {
            return Err(GraphError::Order { node: name.to_owned(), input: input.index(), nodes });
        }
        let read: Vec<&Node> = inputs.iter().map(|id| &self.nodes[id.index()]).collect();
        let TensorType { shape, dtype } = infer(name, &op, &read)?;
        accumulator::check(&self.nodes, name, &op, inputs)?;
        self.push(name, op, inputs.to_vec(), shape, dtype)
    }

    /// The finished graph.
    ///
    /// # Errors
    /// [`GraphError::Output`] if there is no output, or one is listed twice.
    pub fn finish(self, outputs: impl IntoIterator<Item = NodeId>) -> Result<Graph, GraphError> {
        let outputs: Vec<NodeId> = outputs.into_iter().collect();
        // An output that is no node is refused below.
        let origin = |id: &NodeId| self.nodes.get(id.index()).map(|node| node.origin.clone()).unwrap_or_default();
        let names: Vec<String> = outputs.iter().map(origin).collect();
        self.finish_parts(outputs, names)
    }

    /// The finished graph, with outputs that have names of their own ([`Graph::output_names`]).
    ///
    /// # Errors
    /// As [`finish`](Self::finish), and [`GraphError::DuplicateName`] if two outputs have one name.
    pub fn finish_named(self, outputs: impl IntoIterator<Item = (NodeId, String)>) -> Result<Graph, GraphError> {
        let (outputs, names): (Vec<NodeId>, Vec<String>) = outputs.into_iter().unzip();
        let mut seen = HashSet::new();
        if let Some(name) = names.iter().find(|name| !seen.insert(name.as_str())) {
            return Err(GraphError::DuplicateName { name: name.clone() });
        }
        self.finish_parts(outputs, names)
    }

    fn finish_parts(self, outputs: Vec<NodeId>, names: Vec<String>) -> Result<Graph, GraphError> {
        let modules = Arc::new(self.modules);
        let output_names = names.into();
        let declared = Arc::new(self.declared);
        let graph = Graph { nodes: self.nodes.into(), inputs: self.inputs, outputs, output_names, modules, declared };
        graph.verify()?;
        Ok(graph)
    }

    /// Sets the types that inputs and outputs have in a file.
    pub(crate) fn declare(&mut self, declared: DeclaredTypes) {
        self.declared = declared;
    }

    /// Sets what a file knows of the node added last.
    pub(crate) fn tell_last(&mut self, origin: &str, float_reason: Option<&str>) {
        if let Some(node) = self.nodes.last_mut() {
            node.origin = origin.to_owned();
            node.float_reason = float_reason.map(str::to_owned);
        }
    }

    fn parameter(&mut self, name: &str, value: Tensor) -> Result<NodeId, GraphError> {
        if let Some((index, value)) = value.first_non_finite() {
            return Err(GraphError::NonFinite { node: name.to_owned(), index, value });
        }
        self.constant(name, value)
    }

    fn push(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<NodeId>,
        shape: Shape,
        dtype: DType,
    ) -> Result<NodeId, GraphError> {
        if !self.names.insert(name.to_owned()) {
            return Err(GraphError::DuplicateName { name: name.to_owned() });
        }
        let op = share(&mut self.contents, op);
        let (name, origin) = (name.to_owned(), name.to_owned());
        self.nodes.push(Node { name, op, inputs, shape, dtype, origin, float_reason: None });
        Ok(NodeId::new(self.nodes.len() - 1))
    }
}
