//! The conversion of nodes to steps.

mod layers;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::LowerOptions;
use super::error::LowerError;
use crate::graph::{FloatNode, Graph, Node, NodeId};
use crate::ops::{Dequantize, IntegerLinear, IntegerLinearGroups, IntegerMatMul, Lut, Op, Quantize, Reshape};
use crate::program::{Program, QLut, QMatMul, Step, StepOp, Value, ValueId, ValueType};
use crate::values::{Contents, DType, QParams, QuantRange, Shape, Tensor, TensorQParams};

/// The state of lowering one graph.
pub(super) struct Lowering<'g> {
    graph: &'g Graph,
    options: LowerOptions,
    users: Vec<Vec<NodeId>>,
    is_output: Vec<bool>,
    /// The values of all nodes that depend on constants only.
    known: Vec<Option<Arc<Tensor>>>,
    values: Vec<Value>,
    constants: Vec<(ValueId, Arc<Tensor>)>,
    /// Tensors of constants, so that equal ones become one value.
    contents: Contents,
    /// Elements of int8 constants that steps own, so that they are in memory once. The key is the tensor in `known`.
    int8_constants: HashMap<*const Tensor, Arc<[i8]>>,
    /// Weights of convolutions in the order of programs, by the tensor in `known`.
    conv_weights: HashMap<*const Tensor, Arc<[i8]>>,
    /// The value that holds a node's result.
    value_of: Vec<Option<ValueId>>,
    inputs: Vec<ValueId>,
    steps: Vec<Step>,
    refused: Vec<FloatNode>,
}

impl<'g> Lowering<'g> {
    /// Begins to lower `graph`. `known` has the values of all nodes that depend on constants only.
    pub(super) fn new(graph: &'g Graph, options: LowerOptions, known: Vec<Option<Arc<Tensor>>>) -> Self {
        Self {
            graph,
            options,
            users: graph.users(),
            is_output: graph.output_flags(),
            known,
            values: Vec::new(),
            constants: Vec::new(),
            contents: Contents::default(),
            int8_constants: HashMap::new(),
            conv_weights: HashMap::new(),
            value_of: vec![None; graph.nodes().len()],
            inputs: Vec::new(),
            steps: Vec::new(),
            refused: Vec::new(),
        }
    }

    /// Adds the outputs, and makes the program. `total` is the number of nodes of the graph, for the error.
    pub(super) fn finish(mut self, total: usize) -> Result<Program, LowerError> {
        let outputs = self.outputs();
        let Self { values, constants, inputs, steps, refused, .. } = self;
        if !refused.is_empty() {
            return Err(LowerError::Unsupported { nodes: refused, total });
        }
        Ok(Program::new(values, constants, inputs, outputs, steps)?)
    }

    /// Adds the step of a node, or the reason why there is none. Constants and nodes that belong to another step add nothing.
    pub(super) fn node(&mut self, id: NodeId, node: &Node) {
        if self.known(id).is_some() {
            return;
        }
        match &node.op {
            Op::Input(_) => self.input(id, node),
            Op::Constant(_) => {}
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(qparams), range, .. })
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
            Op::IntegerLinear(IntegerLinear { fraction_bits }) => self.linear(id, node, *fraction_bits, None),
            Op::IntegerLinearGroups(IntegerLinearGroups { fraction_bits, group_size }) => {
                match self.groups(node, *group_size) {
                    Ok(groups) => self.linear(id, node, *fraction_bits, Some(groups)),
                    Err(reason) => self.refuse(id, reason),
                }
            }
            Op::IntegerConv(conv) => self.conv(id, node, conv),
            Op::IntegerAveragePool(pool) => self.step(id, Some(pool.y)),
            Op::IntegerResizeLinear(resize) => self.step(id, Some(resize.y)),
            &Op::IntegerMatMul(IntegerMatMul { a_zero_point, b_zero_point }) => {
                let Some((reader, qparams, epilogue)) = self.epilogue(id) else { return };
                let op = StepOp::QMatMul(QMatMul { a_zero_point, b_zero_point, epilogue });
                self.step_for(reader, &node.name, op, &node.inputs, qparams);
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

    /// Adds an input of the program.
    fn input(&mut self, id: NodeId, node: &Node) {
        let qparams = self.int8_input(id);
        let value_type = match node.dtype {
            _ if qparams.is_some() => ValueType::I8,
            DType::F32 => ValueType::F32,
            DType::I8 => ValueType::I8,
            DType::I32 => ValueType::I32,
            DType::I64 => return self.refuse(id, "no step reads i64"),
        };
        if self.options.f16_inputs && value_type == ValueType::F32 {
            let f16 = self.value(&node.name, ValueType::F16, node.shape.clone(), None);
            let name = format!("{}.f32", node.name);
            let value = self.value(&name, ValueType::F32, node.shape.clone(), None);
            self.steps.push(Step { name, op: StepOp::FromF16, inputs: vec![f16], output: value });
            self.value_of[id.index()] = Some(value);
            self.inputs.push(f16);
            return;
        }
        let value = self.value(&node.name, value_type, node.shape.clone(), qparams);
        self.value_of[id.index()] = Some(value);
        self.inputs.push(value);
    }

    /// Returns the outputs of the program, whose values get the names of the graph's outputs. An output that no step writes, or that
    /// another output shares, is copied.
    fn outputs(&mut self) -> Vec<ValueId> {
        let mut outputs = Vec::with_capacity(self.graph.outputs().len());
        let refused: HashSet<String> = self.refused.iter().map(|node| node.name.clone()).collect();
        let mut free = vec![false; self.values.len()];
        self.steps.iter().for_each(|step| free[step.output.index()] = true);
        for (&id, output_name) in self.graph.outputs().iter().zip(self.graph.output_names()) {
            if refused.contains(&self.graph.node(id).name) {
                continue;
            }
            let Some(value) = self.read(id) else {
                // The program would lack an output, so there must be at least one reason.
                if self.refused.is_empty() {
                    self.refuse(id, "something that it reads has no step");
                }
                continue;
            };
            if self.options.f16_outputs && self.values[value.index()].value_type == ValueType::F32 {
                let name = format!("{}.f16", self.graph.node(id).name);
                let f16 = self.value(output_name, ValueType::F16, self.values[value.index()].shape.clone(), None);
                self.steps.push(Step { name, op: StepOp::ToF16, inputs: vec![value], output: f16 });
                outputs.push(f16);
                continue;
            }
            // Values that are added here belong to no output.
            if free.get_mut(value.index()).is_some_and(std::mem::take) {
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

    /// Lists a node as one that no step can compute.
    fn refuse(&mut self, id: NodeId, reason: impl Into<String>) {
        let node = self.graph.node(id);
        self.refused.push(FloatNode { name: node.name.clone(), op: node.op.name(), reason: reason.into() });
    }

    /// Adds a step that computes the operator of a node as it is.
    fn step(&mut self, id: NodeId, qparams: Option<QParams>) {
        let node = self.graph.node(id);
        self.step_for(id, &node.name, StepOp::Op(node.op.clone()), &node.inputs, qparams);
    }

    /// Adds a step that writes the value of a node. If an input was refused, it adds nothing, since that reason is listed.
    fn step_for(&mut self, id: NodeId, name: &str, op: StepOp, inputs: &[NodeId], qparams: Option<QParams>) {
        let inputs: Option<Vec<ValueId>> = inputs.iter().map(|&input| self.read(input)).collect();
        if let Some(inputs) = inputs {
            self.push(id, name, op, inputs, qparams);
        }
    }

    /// Adds a step and its value, or the reason why the value is not possible.
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
        self.value_of[id.index()] = Some(output);
        self.steps.push(Step { name: name.to_owned(), op, inputs, output });
    }

    /// The value of a node that depends on constants only.
    fn known(&self, id: NodeId) -> Option<&Arc<Tensor>> {
        self.known[id.index()].as_ref()
    }

    /// Returns the value of an earlier node, and `None` if the node was refused.
    fn read(&mut self, id: NodeId) -> Option<ValueId> {
        if let Some(value) = self.value_of[id.index()] {
            return Some(value);
        }
        let tensor = self.known(id)?.clone();
        let tensor = match narrowed(tensor) {
            Ok(tensor) => tensor,
            Err((index, value)) => {
                self.refuse(id, format!("element {index} is {value}, which does not fit i32, and no step writes i64"));
                return None;
            }
        };
        let value = self.constant(&self.graph.node(id).name, tensor);
        self.value_of[id.index()] = Some(value);
        Some(value)
    }

    /// Returns the value of a constant, and adds it if it is new. `tensor` is not of i64, since [`narrowed`] has converted it.
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

    /// Adds a value.
    fn value(&mut self, name: &str, value_type: ValueType, shape: Shape, qparams: Option<QParams>) -> ValueId {
        self.values.push(Value { name: name.to_owned(), value_type, shape, qparams });
        ValueId::new(self.values.len() - 1)
    }

    /// Gives a node the value of another one.
    fn alias(&mut self, id: NodeId, of: NodeId) {
        if let Some(value) = self.read(of) {
            self.value_of[id.index()] = Some(value);
        }
    }

    /// Returns the qparams of the value of an earlier node.
    fn qparams_of(&self, id: NodeId) -> Option<QParams> {
        self.values[self.value_of[id.index()]?.index()].qparams
    }

    /// Returns the qparams of an input that may be int8, since all its readers quantize it with the same qparams and range.
    fn int8_input(&self, id: NodeId) -> Option<QParams> {
        if !self.options.int8_inputs || self.is_output[id.index()] {
            return None;
        }
        let mut quantizations = self.users[id.index()].iter().map(|&user| match &self.graph.node(user).op {
            Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(q), range, rule }) => Some((*q, *range, *rule)),
            _ => None,
        });
        let first = quantizations.next()??;
        quantizations.all(|other| other == Some(first)).then_some(first.0)
    }

    fn is_int8_input(&self, id: NodeId) -> bool {
        // `input` has set the qparams, since inputs come before their readers.
        matches!(self.graph.node(id).op, Op::Input(_)) && self.qparams_of(id).is_some()
    }

    /// Whether only the caller reads a dequantized value, and takes int8 instead.
    fn leaves_as_int8(&self, id: NodeId) -> bool {
        self.options.int8_outputs && self.is_output[id.index()] && self.users[id.index()].is_empty()
    }

    fn i8(&mut self, id: NodeId) -> Option<Arc<[i8]>> {
        let tensor = self.known[id.index()].as_ref()?;
        let elements = tensor.as_i8()?;
        Some(self.int8_constants.entry(Arc::as_ptr(tensor)).or_insert_with(|| elements.into()).clone())
    }

    fn i32(&self, id: NodeId) -> Option<Arc<[i32]>> {
        self.known(id)?.as_i32().map(Into::into)
    }

    fn f32(&self, id: NodeId) -> Option<Arc<[f32]>> {
        self.known(id)?.as_f32().map(Into::into)
    }
}

/// Converts a constant of i64 to i32. An error is the index and the value of the first element that does not fit.
pub(super) fn narrowed(tensor: Arc<Tensor>) -> Result<Arc<Tensor>, (usize, i64)> {
    let Tensor::I64(elements) = &*tensor else { return Ok(tensor) };
    if let Some((index, &value)) = elements.iter().enumerate().find(|(_, value)| i32::try_from(**value).is_err()) {
        return Err((index, value));
    }
    Ok(Arc::new(Tensor::from(elements.map(|&value| value as i32))))
}
