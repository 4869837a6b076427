//! The builder of graphs.

mod composed;
#[cfg(feature = "flow")]
mod from_file;
mod images;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::{DeclaredTypes, Graph, GraphError, Node, NodeId, accumulator, check_declared, infer, share};
use crate::ops::{
    Add, AddScalar, BatchNorm, Binary, BinaryOp, Clamp, Concat, Constant, Div, Embedding, Flatten, Input, LayerNorm,
    Linear, MatMul, Max, Mul, MulScalar, Op, Pad, Reshape, RmsNorm, Slice, Softmax, Sum, TensorType, ToFloat,
    Transpose, Unary, UnaryOp, Where,
};
use crate::values::{Contents, DType, Shape, Tensor};

/// A builder of a float [`Graph`], node by node; every call checks names, shapes and types.
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
    /// Tensors of constants, so that equal ones are in memory once.
    contents: Contents,
    declared: DeclaredTypes,
}

/// # Errors
/// Every method that adds a node returns [`GraphError::DuplicateName`] for a name that is taken, and [`GraphError::Op`] if the
/// operator refuses its inputs.
impl GraphBuilder {
    /// Creates a builder of an empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Declares that the nodes whose names begin with `path.` form a module of this type, for configurations by module type.
    /// Layers with parameters are modules themselves: `Linear`, `LayerNorm`, `RMSNorm`, `BatchNorm` and `Embedding`.
    pub fn module(&mut self, path: &str, module_type: &str) {
        self.modules.insert(path.to_owned(), module_type.to_owned());
    }

    /// Adds a float input.
    pub fn input(&mut self, name: &str, shape: Shape) -> Result<NodeId, GraphError> {
        self.typed_input(name, shape, DType::F32)
    }

    /// Adds an input of any element type: `DType::I32` for ids, `DType::I8` for quantized values.
    pub fn typed_input(&mut self, name: &str, shape: Shape, dtype: DType) -> Result<NodeId, GraphError> {
        check_declared(name, &shape)?;
        let id = self.push(name, Op::Input(Input), Vec::new(), shape, dtype)?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, value: impl Into<Tensor>) -> Result<NodeId, GraphError> {
        self.node(name, Constant::new(value.into()), &[])
    }

    /// Adds a linear layer, `x[…, K] · w[N, K]ᵀ + b[N]`. The constants are called `{name}.weight` and `{name}.bias`.
    ///
    /// # Errors
    /// Returns [`GraphError::NonFinite`] for a NaN or infinite weight or bias.
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

    /// Adds a linear layer like [`linear`](Self::linear), but with a weight and a bias that are nodes already, for layers that
    /// share them.
    pub fn linear_nodes(&mut self, name: &str, x: NodeId, w: NodeId, b: Option<NodeId>) -> Result<NodeId, GraphError> {
        let inputs: Vec<NodeId> = [x, w].into_iter().chain(b).collect();
        self.node(name, Linear::default(), &inputs)
    }

    /// Adds a matrix product, `a[…, M, K] · b[…, K, N]`; leading axes broadcast.
    pub fn matmul(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, MatMul::default(), &[a, b])
    }

    /// Adds an elementwise sum, `a + b`, broadcast.
    pub fn add(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Add, &[a, b])
    }

    /// Adds an elementwise quotient, `a / b`, broadcast.
    pub fn div(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Div, &[a, b])
    }

    /// Adds a selection: `a` where `condition` is not 0, else `b`, broadcast.
    pub fn where_(&mut self, name: &str, condition: NodeId, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Where, &[condition, a, b])
    }

    /// Adds an elementwise product, `a · b`, broadcast.
    pub fn mul(&mut self, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Mul, &[a, b])
    }

    /// Adds the sum `x + value`.
    pub fn add_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, GraphError> {
        self.node(name, AddScalar { value }, &[x])
    }

    /// Adds the product `x · value`.
    pub fn mul_scalar(&mut self, name: &str, x: NodeId, value: f32) -> Result<NodeId, GraphError> {
        self.node(name, MulScalar { value }, &[x])
    }

    /// Adds a ReLU, `max(x, 0)`.
    pub fn relu(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Relu, x)
    }

    /// Adds a sigmoid, `1 / (1 + e^−x)`.
    pub fn sigmoid(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Sigmoid, x)
    }

    /// Adds a hyperbolic tangent.
    pub fn tanh(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Tanh, x)
    }

    /// Adds a GELU with the error function.
    pub fn gelu(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Gelu, x)
    }

    /// Adds a GELU in its tanh approximation.
    pub fn gelu_tanh(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::GeluTanh, x)
    }

    /// Adds a SiLU, `x · sigmoid(x)`.
    pub fn silu(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.unary(name, UnaryOp::Silu, x)
    }

    /// Adds any [`UnaryOp`].
    pub fn unary(&mut self, name: &str, op: UnaryOp, x: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Unary { op }, &[x])
    }

    /// Adds any [`BinaryOp`], broadcast.
    pub fn binary(&mut self, name: &str, op: BinaryOp, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, Binary { op }, &[a, b])
    }

    /// Adds a clamp of each element to `min..=max`. Either bound may be infinite.
    pub fn clamp(&mut self, name: &str, x: NodeId, min: f32, max: f32) -> Result<NodeId, GraphError> {
        self.node(name, Clamp { min, max }, &[x])
    }

    /// Adds a conversion of integers to floats, for masks and other numbers that are not ids.
    pub fn to_float(&mut self, name: &str, x: NodeId) -> Result<NodeId, GraphError> {
        self.node(name, ToFloat, &[x])
    }

    /// Adds a reshape to `[rows, dims…]`, or to `[dims…]` if `x` has no batch.
    pub fn reshape(&mut self, name: &str, x: NodeId, dims: &[usize]) -> Result<NodeId, GraphError> {
        self.node(name, Reshape { dims: dims.to_vec() }, &[x])
    }

    /// Adds a flatten, which merges the axes from `start_axis` to the last.
    pub fn flatten(&mut self, name: &str, x: NodeId, start_axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Flatten { start_axis }, &[x])
    }

    /// Adds a transpose: axis `i` of the result is axis `perm[i]` of `x`. With a batch, `perm[0]` must be 0.
    pub fn transpose(&mut self, name: &str, x: NodeId, perm: &[usize]) -> Result<NodeId, GraphError> {
        self.node(name, Transpose { perm: perm.to_vec() }, &[x])
    }

    /// Adds a concatenation of two or more tensors along `axis`.
    pub fn concat(&mut self, name: &str, xs: &[NodeId], axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Concat { axis }, xs)
    }

    /// Adds a slice: the elements in `range` along `axis`.
    pub fn slice(
        &mut self,
        name: &str,
        x: NodeId,
        axis: usize,
        range: std::ops::Range<usize>,
    ) -> Result<NodeId, GraphError> {
        self.node(name, Slice { axis, start: range.start, end: range.end }, &[x])
    }

    /// Adds the sum of the elements along `axis`, which the result lacks. A sum of integers wraps around.
    pub fn sum(&mut self, name: &str, x: NodeId, axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Sum { axis, checked: false }, &[x])
    }

    /// Adds a pad: `before[axis]` elements of `value` before `x`, and `after[axis]` after it, along each axis. With a batch, both
    /// are 0 for axis 0. The constant is called `{name}.value`.
    pub fn pad(
        &mut self,
        name: &str,
        x: NodeId,
        before: &[usize],
        after: &[usize],
        value: f32,
    ) -> Result<NodeId, GraphError> {
        let value = self.constant(&format!("{name}.value"), ndarray::arr0(value))?;
        self.node(name, Pad { before: before.to_vec(), after: after.to_vec() }, &[x, value])
    }

    /// Adds the largest element along `axis`, which the result lacks: max pooling over tokens, for example.
    pub fn max(&mut self, name: &str, x: NodeId, axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Max { axis }, &[x])
    }

    /// Adds a softmax along `axis`.
    pub fn softmax(&mut self, name: &str, x: NodeId, axis: usize) -> Result<NodeId, GraphError> {
        self.node(name, Softmax { axis }, &[x])
    }

    /// Adds a layer normalization over the last axes, whose lengths are the shape of `weight` and `bias`. The constants are called
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

    /// Adds an RMS normalization, `x / √(mean(x²) + eps) · weight`, over the last axes, whose lengths are the shape of `weight`. The
    /// constant is called `{name}.weight`.
    pub fn rms_norm(
        &mut self,
        name: &str,
        x: NodeId,
        weight: impl Into<Tensor>,
        eps: f32,
    ) -> Result<NodeId, GraphError> {
        let weight = self.parameter(&format!("{name}.weight"), weight.into())?;
        self.node(name, RmsNorm { eps }, &[x, weight])
    }

    /// Adds a batch normalization over axis 1 with fixed statistics: `(x − mean) / √(variance + eps) · weight + bias`, all
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

    /// Adds an embedding: rows `ids` of a table `[V, D]`. The constant is called `{name}.weight`.
    pub fn embedding(&mut self, name: &str, ids: NodeId, table: impl Into<Tensor>) -> Result<NodeId, GraphError> {
        let table = self.parameter(&format!("{name}.weight"), table.into())?;
        self.node(name, Embedding::default(), &[ids, table])
    }

    /// Adds any operator on any nodes. This is the way to build integer graphs.
    ///
    /// # Errors
    /// Also returns [`GraphError::Order`] for an input that is not a node of this builder.
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

    /// Returns the shape of a node that was added; `None` for a node of another graph.
    #[must_use]
    pub fn shape(&self, id: NodeId) -> Option<&Shape> {
        self.nodes.get(id.index()).map(|node| &node.shape)
    }

    /// Finishes the graph. The outputs are named after their nodes.
    ///
    /// # Errors
    /// Returns [`GraphError::Output`] if there is no output, or one is listed twice.
    pub fn finish(self, outputs: impl IntoIterator<Item = NodeId>) -> Result<Graph, GraphError> {
        let outputs: Vec<NodeId> = outputs.into_iter().collect();
        // `finish_parts` refuses an output that is not a node.
        let origin = |id: &NodeId| self.nodes.get(id.index()).map(|node| node.origin.clone()).unwrap_or_default();
        let names: Vec<String> = outputs.iter().map(origin).collect();
        self.finish_parts(outputs, names)
    }

    /// Finishes the graph, with names for its outputs ([`Graph::output_names`]).
    ///
    /// # Errors
    /// Returns [`GraphError::Output`] like [`finish`](Self::finish), and [`GraphError::DuplicateName`] if two outputs have one name.
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

    /// Sets the element types that a file declares for inputs and outputs.
    pub(crate) fn declare(&mut self, declared: DeclaredTypes) {
        self.declared = declared;
    }

    /// Sets the origin and the float reason of the node added last, as an archive stores them.
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
