//! Lowering: from an integer graph to a [`Program`].
//!
//! Each node becomes a step, or two nodes together: an accumulator and the node that requantizes or scales it. `lower` never looks for
//! quantize/dequantize patterns: [`to_integer()`](crate::quantize::to_integer()) has decided what has no integer form, and that becomes
//! steps on floats. Float graphs lower too. Operators that no step computes are decomposed first, and values that depend on constants
//! only are computed once.

mod decompose;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::graph::{FloatNode, Graph, GraphError, Node, NodeId};
use crate::interp::{InterpError, Interpreter};
use crate::ops::{
    Dequantize, IntegerLinear, IntegerMatMul, Lut, Op, Quantize, Requantize, Reshape, ScaleAccumulator,
    ScaleAccumulatorDynamic,
};
use crate::program::{
    Epilogue, Program, ProgramError, QLinear, QLut, QMatMul, Step, StepOp, Value, ValueId, ValueType,
};
use crate::values::{Contents, DType, QParams, QuantRange, Shape, Tensor, TensorQParams};

/// Why a graph could not be lowered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// Nodes without a step; all of them.
    #[error("{} of {total} nodes have no step:{}", nodes.len(), list(nodes))]
    Unsupported {
        /// Every such node with its reason.
        nodes: Vec<FloatNode>,
        /// Nodes of the graph.
        total: usize,
    },
    /// A constant could not be computed.
    #[error(transparent)]
    Constant(#[from] InterpError),
    /// A node could not be decomposed.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The program is not valid.
    #[error(transparent)]
    Program(#[from] ProgramError),
}

fn list(nodes: &[FloatNode]) -> String {
    nodes.iter().map(|node| format!("\n  {node}")).collect()
}

/// What a program takes and returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LowerOptions {
    /// Inputs that are only ever quantized one way enter as int8, so that chained models skip a round trip. Off by
    /// default: inputs are float.
    pub int8_inputs: bool,
    /// Outputs that are only dequantized leave as int8. Off by default: outputs are float.
    pub int8_outputs: bool,
    /// Float outputs leave as 16-bit floats, rounded to nearest with ties to even, for half of the bytes. Off by default.
    pub f16_outputs: bool,
}

/// Lowers an integer graph with float inputs and outputs.
///
/// # Errors
/// [`LowerError::Unsupported`] lists all nodes that no step can compute, each with the reason.
pub fn lower(graph: &Graph) -> Result<Program, LowerError> {
    lower_with(graph, &LowerOptions::default())
}

/// Lowers an integer graph.
///
/// # Errors
/// As [`lower`].
pub fn lower_with(graph: &Graph, options: &LowerOptions) -> Result<Program, LowerError> {
    let total = graph.nodes().len();
    let graph = &decompose::decompose(graph)?;
    let interpreter = Interpreter::new(graph);
    let mut constants = HashMap::new();
    for (id, _) in graph.iter() {
        if let Some(value) = interpreter.constant_value(id)? {
            constants.insert(id, value);
        }
    }
    let mut lowering = Lowering {
        graph,
        options: *options,
        users: graph.users(),
        is_output: graph.output_flags(),
        known: constants,
        values: Vec::new(),
        constants: Vec::new(),
        contents: Contents::default(),
        codes: HashMap::new(),
        value_of: HashMap::new(),
        inputs: Vec::new(),
        steps: Vec::new(),
        refused: Vec::new(),
    };
    for (id, node) in graph.iter() {
        if !lowering.known.contains_key(&id) {
            lowering.node(id, node);
        }
    }
    let outputs = lowering.outputs();
    let Lowering { values, constants, inputs, steps, refused, .. } = lowering;
    if !refused.is_empty() {
        return Err(LowerError::Unsupported { nodes: refused, total });
    }
    Ok(Program::new(values, constants, inputs, outputs, steps)?)
}

struct Lowering<'g> {
    graph: &'g Graph,
    options: LowerOptions,
    users: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
    /// The values of all nodes that depend on constants only.
    known: HashMap<NodeId, Arc<Tensor>>,
    values: Vec<Value>,
    constants: Vec<(ValueId, Arc<Tensor>)>,
    /// The constants by what they hold: each is one value, however many nodes hold it.
    contents: Contents,
    /// Codes that several steps read are in memory once, by the tensor that holds them, which `known` keeps.
    codes: HashMap<*const Tensor, Arc<[i8]>>,
    /// The value that holds a node's result.
    value_of: HashMap<NodeId, ValueId>,
    inputs: Vec<ValueId>,
    steps: Vec<Step>,
    refused: Vec<FloatNode>,
}

impl Lowering<'_> {
    fn node(&mut self, id: NodeId, node: &Node) {
        match &node.op {
            Op::Input(_) => self.input(id, node),
            Op::Constant(_) => {}
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(qparams), range })
                if *range != QuantRange::INT32 =>
            {
                if self.is_int8_input(node.inputs[0]) {
                    return self.alias(id, node.inputs[0]);
                }
                self.step(id, Some(*qparams));
            }
            Op::Dequantize(Dequantize { qparams: TensorQParams::PerTensor(_) }) => {
                if self.leaves_as_int8(id) {
                    return self.alias(id, node.inputs[0]);
                }
                self.step(id, None);
            }
            Op::Quantize(_) | Op::Dequantize(_) => {
                self.refuse(id, "only constants can have a scale for each channel, or quantized values of i32");
            }
            Op::IntegerLinear(IntegerLinear { fraction_bits }) => self.linear(id, node, *fraction_bits),
            &Op::IntegerMatMul(IntegerMatMul { a_zero_point, b_zero_point }) => {
                let Some((end, qparams, epilogue)) = self.epilogue(id) else { return };
                let op = StepOp::QMatMul(QMatMul { a_zero_point, b_zero_point, epilogue });
                self.step_for(end, &node.name, op, &node.inputs, qparams);
            }
            Op::Requantize(_) | Op::ScaleAccumulator(_) | Op::ScaleAccumulatorDynamic(_) => {
                self.check_epilogue(id, node)
            }
            Op::IntegerAdd(add) => self.step(id, Some(add.qparams)),
            Op::IntegerMul(mul) => self.step(id, Some(mul.qparams)),
            Op::Lut(Lut { qparams }) => match self.i8(node.inputs[1]) {
                Some(table) => {
                    let op = StepOp::QLut(QLut { table });
                    self.step_for(id, &node.name, op, &node.inputs[..1], Some(*qparams));
                }
                None => self.refuse(id, "its lookup table is not a constant"),
            },
            Op::BatchNorm(_) => self.refuse(id, "its statistics are not constants"),
            Op::Observe(_) => self.refuse(id, "the graph is still being calibrated; convert it first"),
            op if op.moves_values() => self.step(id, self.qparams_of(node.inputs[0])),
            _ => self.step(id, None),
        }
    }

    /// An epilogue is part of the step of its accumulator, or is refused with it.
    fn check_epilogue(&mut self, id: NodeId, node: &Node) {
        let acc = &self.graph.node(node.inputs[0]).op;
        if !matches!(acc, Op::IntegerLinear(_) | Op::IntegerMatMul(_)) {
            self.refuse(id, "its accumulator does not come from a linear layer or a matmul");
        } else if self.known.contains_key(&node.inputs[0]) {
            self.refuse(id, "its accumulator is a constant, but its factors are not");
        }
    }

    fn input(&mut self, id: NodeId, node: &Node) {
        let codes = self.int8_input(id);
        let value_type = match node.dtype {
            _ if codes.is_some() => ValueType::I8,
            DType::F32 => ValueType::F32,
            DType::I8 => ValueType::I8,
            DType::I32 => ValueType::I32,
            DType::I64 => return self.refuse(id, "no step reads i64"),
        };
        let value = self.value(&node.name, value_type, node.shape.clone(), codes);
        self.value_of.insert(id, value);
        self.inputs.push(value);
    }

    fn linear(&mut self, id: NodeId, node: &Node, fraction_bits: u32) {
        let [x, w, bias] = node.inputs[..] else { return };
        let Some((end, qparams, epilogue)) = self.epilogue(id) else { return };
        let Some((weight, bias)) = self.i8(w).zip(self.i32(bias)) else {
            return self.refuse(id, "its weight and bias codes are not constants");
        };
        let dims = self.graph.node(w).shape.fixed_dims();
        let (n, k) = (dims[0], dims[1]);
        let mut inputs = vec![x];
        if let Epilogue::Dynamic { .. } = epilogue {
            let pairs = self.graph.node(end).inputs[1];
            if pairs > id && !self.known.contains_key(&pairs) {
                return self.refuse(id, "its scales and zero points are computed after its sums");
            }
            inputs.push(pairs);
        }
        let op = StepOp::QLinear(QLinear { weight, n, k, bias, fraction_bits, epilogue });
        self.step_for(end, &node.name, op, &inputs, qparams);
    }

    /// The node that reads an accumulator, the scale and zero point of its result, and the epilogue that it is.
    fn epilogue(&mut self, acc: NodeId) -> Option<(NodeId, Option<QParams>, Epilogue)> {
        let end = match self.users[acc.index()].as_slice() {
            [end] if !self.is_output[acc.index()] => *end,
            _ => {
                self.refuse(acc, "its accumulator is not read by exactly one node");
                return None;
            }
        };
        let node = self.graph.node(end);
        let vector = |at: usize| node.inputs.get(at).and_then(|&f| self.f32(f));
        let made = match node.op {
            Op::Requantize(Requantize { qparams, lo, hi }) => vector(1).map(|multiplier| {
                let zero_point = qparams.zero_point();
                (Some(qparams), Epilogue::Requantize { multiplier, zero_point, lo, hi })
            }),
            Op::ScaleAccumulator(ScaleAccumulator { relu }) => {
                vector(1).map(|scale| (None, Epilogue::Scale { scale, relu }))
            }
            Op::ScaleAccumulatorDynamic(ScaleAccumulatorDynamic { relu }) => {
                let sums = node.inputs.get(2).and_then(|&sums| self.i32(sums));
                vector(3)
                    .zip(vector(4))
                    .zip(sums)
                    .map(|((scale, bias), weight_sum)| (None, Epilogue::Dynamic { scale, weight_sum, bias, relu }))
            }
            _ => {
                self.refuse(acc, "its accumulator is neither requantized nor scaled");
                return None;
            }
        };
        if made.is_none() {
            self.refuse(acc, "its factors are not constants");
        }
        made.map(|(qparams, epilogue)| (end, qparams, epilogue))
    }

    /// Outputs that no step writes, or that two nodes share, are copied. Their values have the outputs' names, as callers know them.
    fn outputs(&mut self) -> Vec<ValueId> {
        let mut outputs = Vec::with_capacity(self.graph.outputs().len());
        let refused: HashSet<String> = self.refused.iter().map(|node| node.name.clone()).collect();
        let mut free: HashSet<ValueId> = self.steps.iter().map(|step| step.output).collect();
        for (&id, output_name) in self.graph.outputs().iter().zip(self.graph.output_names()) {
            if refused.contains(&self.graph.node(id).name) {
                continue;
            }
            let Some(value) = self.read(id) else {
                // A program without one of its outputs is never made: if no reason is listed yet, this is one.
                if self.refused.is_empty() {
                    self.refuse(id, "something that it reads has no step");
                }
                continue;
            };
            if self.options.f16_outputs && self.values[value.index()].value_type == ValueType::F32 {
                let name = format!("{}.half", self.graph.node(id).name);
                let half = self.value(output_name, ValueType::F16, self.values[value.index()].shape.clone(), None);
                self.steps.push(Step { name, op: StepOp::ToF16, inputs: vec![value], output: half });
                outputs.push(half);
                continue;
            }
            if free.remove(&value) {
                self.values[value.index()].name.clone_from(output_name);
                outputs.push(value);
                continue;
            }
            let Value { value_type, shape, qparams, .. } = self.values[value.index()].clone();
            let name = format!("{}.copy", self.graph.node(id).name);
            let op = StepOp::from(Reshape { dims: shape.fixed_dims() });
            let copy = self.value(output_name, value_type, shape, qparams);
            self.steps.push(Step { name, op, inputs: vec![value], output: copy });
            outputs.push(copy);
        }
        outputs
    }

    fn refuse(&mut self, id: NodeId, reason: impl Into<String>) {
        let node = self.graph.node(id);
        self.refused.push(FloatNode { name: node.name.clone(), op: node.op.name(), reason: reason.into() });
    }

    /// A step that computes a node's operator as it is.
    fn step(&mut self, id: NodeId, qparams: Option<QParams>) {
        let node = self.graph.node(id);
        self.step_for(id, &node.name, StepOp::Op(node.op.clone()), &node.inputs, qparams);
    }

    /// A step that writes a node's value. Nothing if an input was refused, which its own reason explains.
    fn step_for(&mut self, id: NodeId, name: &str, op: StepOp, inputs: &[NodeId], qparams: Option<QParams>) {
        let inputs: Option<Vec<ValueId>> = inputs.iter().map(|&input| self.read(input)).collect();
        if let Some(inputs) = inputs {
            self.push(id, name, op, inputs, qparams);
        }
    }

    fn push(&mut self, id: NodeId, name: &str, op: StepOp, inputs: Vec<ValueId>, qparams: Option<QParams>) {
        let node = self.graph.node(id);
        if node.shape.fixed_dims().contains(&0) {
            return self.refuse(id, format!("its shape {} has an axis of length 0", node.shape));
        }
        let value_type = match node.dtype {
            DType::I8 => ValueType::I8,
            DType::I32 => ValueType::I32,
            DType::F32 => ValueType::F32,
            DType::I64 => return self.refuse(id, "no step writes i64"),
        };
        let output = self.value(&node.name, value_type, node.shape.clone(), qparams);
        self.value_of.insert(id, output);
        self.steps.push(Step { name: name.to_owned(), op, inputs, output });
    }

    /// The value of an earlier node; none if that was refused.
    fn read(&mut self, id: NodeId) -> Option<ValueId> {
        if let Some(&value) = self.value_of.get(&id) {
            return Some(value);
        }
        let tensor = self.known.get(&id)?.clone();
        let tensor = match narrowed(tensor) {
            Ok(tensor) => tensor,
            Err((index, value)) => {
                self.refuse(id, format!("element {index} is {value}, which does not fit i32, and no step writes i64"));
                return None;
            }
        };
        let value = self.constant(&self.graph.node(id).name, tensor);
        self.value_of.insert(id, value);
        Some(value)
    }

    /// A value of the program; `tensor` is not of i64, which [`narrowed`] sees to.
    fn constant(&mut self, name: &str, tensor: impl Into<Arc<Tensor>>) -> ValueId {
        let tensor = tensor.into();
        let value_type = match tensor.dtype() {
            DType::F32 => ValueType::F32,
            DType::I8 => ValueType::I8,
            DType::I32 | DType::I64 => ValueType::I32,
        };
        let next = self.values.len();
        let (tensor, number) = self.contents.first(&tensor, next);
        if number < next {
            return ValueId::new(number);
        }
        let value = self.value(name, value_type, Shape::fixed(tensor.shape()), None);
        self.constants.push((value, tensor));
        value
    }

    fn value(&mut self, name: &str, value_type: ValueType, shape: Shape, qparams: Option<QParams>) -> ValueId {
        self.values.push(Value { name: name.to_owned(), value_type, shape, qparams });
        ValueId::new(self.values.len() - 1)
    }

    fn alias(&mut self, id: NodeId, of: NodeId) {
        if let Some(value) = self.read(of) {
            self.value_of.insert(id, value);
        }
    }

    /// Scale and zero point of an earlier node.
    fn qparams_of(&self, id: NodeId) -> Option<QParams> {
        self.values[self.value_of.get(&id)?.index()].qparams
    }

    /// How an input is quantized, if it may enter as int8: by all its readers, in one way.
    fn int8_input(&self, id: NodeId) -> Option<QParams> {
        if !self.options.int8_inputs || self.is_output[id.index()] {
            return None;
        }
        let mut ways = self.users[id.index()].iter().map(|&user| match &self.graph.node(user).op {
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(q), range }) => Some((*q, *range)),
            _ => None,
        });
        let first = ways.next()??;
        ways.all(|way| way == Some(first)).then_some(first.0)
    }

    fn is_int8_input(&self, id: NodeId) -> bool {
        // Known since the input was met, which all of its readers ask about.
        matches!(self.graph.node(id).op, Op::Input(_)) && self.qparams_of(id).is_some()
    }

    /// Whether a dequantize only feeds the caller, who takes int8.
    fn leaves_as_int8(&self, id: NodeId) -> bool {
        self.options.int8_outputs && self.is_output[id.index()] && self.users[id.index()].is_empty()
    }

    fn i8(&mut self, id: NodeId) -> Option<Arc<[i8]>> {
        let tensor = self.known.get(&id)?;
        let codes = tensor.as_i8()?;
        Some(self.codes.entry(Arc::as_ptr(tensor)).or_insert_with(|| codes.into()).clone())
    }

    fn i32(&self, id: NodeId) -> Option<Arc<[i32]>> {
        self.known.get(&id)?.as_i32().map(Into::into)
    }

    fn f32(&self, id: NodeId) -> Option<Arc<[f32]>> {
        self.known.get(&id)?.as_f32().map(Into::into)
    }
}

/// A constant of i64 as i32, if all its elements fit; else the first that does not.
fn narrowed(tensor: Arc<Tensor>) -> Result<Arc<Tensor>, (usize, i64)> {
    let Tensor::I64(wide) = &*tensor else { return Ok(tensor) };
    if let Some((index, &value)) = wide.iter().enumerate().find(|(_, value)| i32::try_from(**value).is_err()) {
        return Err((index, value));
    }
    Ok(Arc::new(Tensor::from(wide.mapv(|value| value as i32))))
}
