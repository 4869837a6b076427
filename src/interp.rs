//! The interpreter: evaluates any graph of the flow on the CPU, node by node.
//!
//! Integer graphs follow the equations of [`numerics`](crate::numerics), and every engine must give the same bits. Float graphs and
//! the quantize/dequantize form use the matrix products of `rten-gemm`. Values that depend on constants only are computed once, when
//! first needed, and kept.

mod duplicates;
mod error;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use crate::graph::{Graph, Node, NodeId};
use crate::ops::{Arguments, Constant, Input, Observe, ObserverId, Op, PackedWeight};
use crate::values::Tensor;
use crate::values::slices::{f32s, rows_before_last};

pub use error::InterpError;

/// An interpreter that evaluates one graph.
///
/// ```
/// use enfold::interp::Interpreter;
/// use enfold::{GraphBuilder, Shape, Tensor};
///
/// let mut g = GraphBuilder::new();
/// let x = g.input("x", Shape::rows(2))?;
/// let h = g.linear("fc", x, Tensor::from_f32(&[1, 2], vec![1.0, -1.0])?, None)?;
/// let y = g.relu("relu", h)?;
/// let interpreter = Interpreter::new(&g.finish([y])?);
///
/// // Two rows, and one output `[rows, 1]`.
/// let outputs = interpreter.run(&[Tensor::from_f32(&[2, 2], vec![3.0, 1.0, 1.0, 3.0])?])?;
/// assert_eq!(outputs[0].as_f32(), Some(&[2.0, 0.0][..]));
///
/// // The value of one node, for given values of the nodes that it reads.
/// let h_value = Tensor::from_f32(&[1, 1], vec![-5.0])?;
/// let outputs = interpreter.run_nodes(&[(h, &h_value)], &[y])?;
/// assert_eq!(outputs[0].as_f32(), Some(&[0.0][..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Interpreter {
    graph: Graph,
    /// For each node, whether it depends on constants only.
    constant: Vec<bool>,
    /// For each constant node, the first one with the same value, at whose index `values` and `packed` store it. For other nodes, the
    /// node itself.
    first_duplicate: Vec<NodeId>,
    /// For each constant node, its value once it is needed.
    values: Vec<OnceLock<Arc<Tensor>>>,
    /// For each constant node that is a weight, its value in the layout of the GEMM kernel, once it is needed.
    packed: Vec<OnceLock<PackedWeight>>,
}

/// A value during a run: given by the caller, or computed.
#[derive(Clone)]
enum Value<'t> {
    Fed(&'t Tensor),
    Computed(Arc<Tensor>),
}

impl Value<'_> {
    fn tensor(&self) -> &Tensor {
        match self {
            Self::Fed(tensor) => tensor,
            Self::Computed(tensor) => tensor,
        }
    }

    fn into_tensor(self) -> Tensor {
        match self {
            Self::Fed(tensor) => tensor.clone(),
            Self::Computed(tensor) => Arc::unwrap_or_clone(tensor),
        }
    }
}

/// Evaluates one node. An error names it.
fn eval(node: &Node, inputs: &[&Tensor], packed: Option<&PackedWeight>) -> Result<Tensor, InterpError> {
    let arguments = Arguments { tensors: inputs, output: &node.shape, packed };
    node.op.eval(&arguments).map_err(|source| InterpError::new(&node.name, source))
}

/// Evaluates one node for values of its inputs, whose shapes and types fit.
pub(crate) fn evaluate(node: &Node, inputs: &[&Tensor]) -> Result<Tensor, InterpError> {
    eval(node, inputs, None)
}

impl Interpreter {
    /// Prepares to run `graph`. Constants are computed and weights packed when a run first needs them.
    #[must_use]
    pub fn new(graph: &Graph) -> Self {
        let mut constant = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            constant.push(match node.op {
                Op::Constant(_) => true,
                Op::Input(Input) => false,
                _ => node.inputs.iter().all(|input| constant[input.index()]),
            });
        }
        let values = graph.nodes().iter().map(|_| OnceLock::new()).collect();
        let packed = graph.nodes().iter().map(|_| OnceLock::new()).collect();
        let first_duplicate = duplicates::first_duplicates(graph, &constant);
        Self { graph: graph.clone(), constant, first_duplicate, values, packed }
    }

    /// Returns the graph that the interpreter evaluates.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Evaluates the outputs, in the order of [`Graph::outputs`], for inputs in the order of [`Graph::inputs`]. All batched inputs have
    /// the same number of rows, at least one.
    ///
    /// # Errors
    /// Returns [`InterpError`], which names the input that does not fit, or the node that has no result for its values.
    pub fn run<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<Vec<Tensor>, InterpError> {
        self.run_with(inputs, &mut |_, _, _| {})
    }

    /// Evaluates the graph like [`run`](Self::run), and calls `observe` with every value that passes an observe node, in
    /// execution order, except for constants.
    ///
    /// # Errors
    /// Returns the errors of [`run`](Self::run).
    pub fn run_with<T: Borrow<Tensor>>(
        &self,
        inputs: &[T],
        observe: &mut dyn FnMut(NodeId, ObserverId, &Tensor),
    ) -> Result<Vec<Tensor>, InterpError> {
        self.execute(&self.feeds(inputs)?, self.graph.outputs(), observe)
    }

    /// Checks that inputs fit the graph.
    pub(crate) fn check_inputs<T: Borrow<Tensor>>(&self, inputs: &[T]) -> Result<(), InterpError> {
        self.check_feeds(&self.feeds(inputs)?, &[]).map(drop)
    }

    fn feeds<'t, T: Borrow<Tensor>>(&self, inputs: &'t [T]) -> Result<Vec<(NodeId, &'t Tensor)>, InterpError> {
        let (actual, expected) = (inputs.len(), self.graph.inputs().len());
        if actual != expected {
            return Err(InterpError::InputCount { actual, expected });
        }
        Ok(self.graph.inputs().iter().copied().zip(inputs.iter().map(Borrow::borrow)).collect())
    }

    /// Evaluates the nodes `wanted` for given values of other nodes. Only the nodes between them are computed. This way, one layer can
    /// run on the values of another graph.
    ///
    /// # Errors
    /// Returns the errors of [`run`](Self::run), and [`InterpError::NotFed`] for an input that is needed and not given.
    pub fn run_nodes(&self, feeds: &[(NodeId, &Tensor)], wanted: &[NodeId]) -> Result<Vec<Tensor>, InterpError> {
        self.execute(feeds, wanted, &mut |_, _, _| {})
    }

    /// Evaluates a node that depends on constants only. The result is `None` if the node depends on an input.
    ///
    /// # Errors
    /// Returns [`InterpError::NotANumber`] for a NaN that is quantized, [`InterpError::Id`] for an id outside the embedding table, and
    /// [`InterpError::UnknownNode`] for a node of another graph.
    pub fn constant_value(&self, id: NodeId) -> Result<Option<Arc<Tensor>>, InterpError> {
        if id.index() >= self.constant.len() {
            return Err(InterpError::UnknownNode { index: id.index(), nodes: self.constant.len() });
        }
        if !self.constant[id.index()] {
            return Ok(None);
        }
        let id = self.first_duplicate[id.index()];
        if let Some(value) = self.values[id.index()].get() {
            return Ok(Some(value.clone()));
        }
        // Recursion could overflow the stack on a long chain of nodes. Each node is visited once, since n nodes may have 2ⁿ paths.
        let mut found = HashSet::from([id]);
        let mut needed = vec![id];
        let mut next = 0;
        while let Some(node) = needed.get(next) {
            let inputs = self.graph.node(*node).inputs.iter().map(|input| self.first_duplicate[input.index()]);
            let unknown = inputs.filter(|input| self.values[input.index()].get().is_none());
            needed.extend(unknown.filter(|&input| found.insert(input)).collect::<Vec<_>>());
            next += 1;
        }
        // Ids ascend along every path, so this is an execution order.
        needed.sort_unstable();
        for id in needed {
            let node = self.graph.node(id);
            let value = |input: &NodeId| self.values[self.first_duplicate[input.index()].index()].get();
            let inputs: Vec<&Arc<Tensor>> = node.inputs.iter().filter_map(value).collect();
            let value = match &node.op {
                Op::Constant(Constant { tensor, .. }) => tensor.clone(),
                Op::Observe(_) => inputs[0].clone(),
                _ => Arc::new(eval(node, &inputs.iter().map(|t| &***t).collect::<Vec<_>>(), None)?),
            };
            self.values[id.index()].get_or_init(|| value);
        }
        Ok(self.values[id.index()].get().cloned())
    }

    fn execute(
        &self,
        feeds: &[(NodeId, &Tensor)],
        wanted: &[NodeId],
        observe: &mut dyn FnMut(NodeId, ObserverId, &Tensor),
    ) -> Result<Vec<Tensor>, InterpError> {
        let rows = self.check_feeds(feeds, wanted)?;
        let mut values: HashMap<NodeId, Value<'_>> =
            feeds.iter().map(|&(id, tensor)| (id, Value::Fed(tensor))).collect();
        // The number of times that each value will still be read. Only needed nodes are listed, so that evaluating one node of a
        // large graph costs no more than the nodes it depends on. The walk goes from the last node back: readers come first.
        let mut reads: BTreeMap<NodeId, u32> = BTreeMap::new();
        wanted.iter().for_each(|id| *reads.entry(*id).or_default() += 1);
        let mut next = reads.keys().next_back().copied();
        while let Some(id) = next {
            if !values.contains_key(&id) && !self.constant[id.index()] {
                let node = self.graph.node(id);
                if matches!(node.op, Op::Input(Input)) {
                    return Err(InterpError::NotFed { node: node.name.clone() });
                }
                // An input with an axis of length 0 may have any number of rows, and other values would not fit in memory.
                if !node.shape.fits(rows) {
                    let (node, shape) = (node.name.clone(), node.shape.clone());
                    return Err(InterpError::Elements { node, shape, rows });
                }
                node.inputs.iter().for_each(|input| *reads.entry(*input).or_default() += 1);
            }
            next = reads.range(..id).next_back().map(|(id, _)| *id);
        }
        for id in reads.keys().copied().collect::<Vec<_>>() {
            if values.contains_key(&id) {
                continue;
            }
            if let Some(value) = self.constant_value(id)? {
                values.insert(id, Value::Computed(value));
                continue;
            }
            let node = self.graph.node(id);
            let inputs: Vec<Value<'_>> = node.inputs.iter().filter_map(|input| values.get(input).cloned()).collect();
            for input in &node.inputs {
                let left = reads.entry(*input).or_default();
                *left -= 1;
                if *left == 0 {
                    values.remove(input);
                }
            }
            let value = match node.op {
                Op::Observe(Observe { observer }) => {
                    observe(id, observer, inputs[0].tensor());
                    inputs[0].clone()
                }
                _ => {
                    let tensors: Vec<&Tensor> = inputs.iter().map(Value::tensor).collect();
                    Value::Computed(Arc::new(eval(node, &tensors, self.packed(node, &tensors))?))
                }
            };
            values.insert(id, value);
        }
        let value = |id: &NodeId| values.get(id).cloned();
        let kept: Vec<Value<'_>> = wanted.iter().filter_map(value).collect();
        drop(values);
        Ok(kept.into_iter().map(Value::into_tensor).collect())
    }

    /// Returns the packed weight of a linear layer whose weight is constant. It is packed for the first batch of more than one row.
    fn packed(&self, node: &Node, inputs: &[&Tensor]) -> Option<&PackedWeight> {
        let weight = *node.inputs.get(1)?;
        if !matches!(node.op, Op::Linear(linear) if linear.packs_weight()) || !self.constant[weight.index()] {
            return None;
        }
        let packed = &self.packed[self.first_duplicate[weight.index()].index()];
        // For one row, packing the weight would take longer than the product, which can read it unpacked.
        if rows_before_last(inputs[0].shape()) == 1 {
            return packed.get();
        }
        let (n, k) = (inputs[1].shape()[0], inputs[1].shape()[1]);
        Some(packed.get_or_init(|| PackedWeight::new(f32s(inputs[1]), n, k)))
    }

    /// Checks given values, and returns the number of rows of the batch: 1 if no given value is batched.
    fn check_feeds(&self, feeds: &[(NodeId, &Tensor)], wanted: &[NodeId]) -> Result<usize, InterpError> {
        let nodes = self.graph.nodes();
        for id in feeds.iter().map(|(id, _)| id).chain(wanted) {
            if id.index() >= nodes.len() {
                return Err(InterpError::UnknownNode { index: id.index(), nodes: nodes.len() });
            }
        }
        let mut first: Option<(&str, usize)> = None;
        for &(id, tensor) in feeds {
            let node = self.graph.node(id);
            let name = || node.name.clone();
            if tensor.dtype() != node.dtype {
                return Err(InterpError::DType { node: name(), actual: tensor.dtype(), expected: node.dtype });
            }
            if !node.shape.admits(tensor.shape()) {
                let (actual, expected) = (tensor.shape().to_vec(), node.shape.clone());
                return Err(InterpError::Shape { node: name(), actual, expected });
            }
            if !node.shape.is_batched() {
                continue;
            }
            let rows = tensor.shape()[0];
            if rows == 0 {
                return Err(InterpError::NoRows { node: name() });
            }
            match first {
                Some((other, expected)) if expected != rows => {
                    return Err(InterpError::Rows { node: name(), actual: rows, other: other.to_owned(), expected });
                }
                _ => first = Some((&node.name, rows)),
            }
        }
        Ok(first.map_or(1, |(_, rows)| rows))
    }
}
