//! Lowering: from an integer graph to a [`Program`].
//!
//! `lower` matches the nodes that [`reference()`](crate::quantize::reference()) makes, one or two to a step, and never looks
//! for quantize/dequantize patterns: what has no integer form was decided there.

use std::collections::HashMap;
use std::sync::Arc;

use crate::graph::{FloatNode, Graph, Node, NodeId, Op};
use crate::program::{Dequantize, Epilogue, Program, ProgramError, QLinear, Quantize, Step, Value, ValueId, ValueType};
use crate::qparams::{QParams, TensorQParams};
use crate::tensor::{DType, Tensor};

/// Why a graph could not be lowered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LowerError {
    /// Nodes without an integer form; all of them.
    #[error("{} of {total} nodes have no integer form:{}", nodes.len(), list(nodes))]
    NoIntegerForm {
        /// Every such node with its reason.
        nodes: Vec<FloatNode>,
        /// Nodes of the graph.
        total: usize,
    },
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
}

/// Lowers an integer graph with float inputs and outputs.
///
/// # Errors
/// [`LowerError::NoIntegerForm`] lists all nodes that stay float, each with its reason.
pub fn lower(graph: &Graph) -> Result<Program, LowerError> {
    lower_with(graph, &LowerOptions::default())
}

/// Lowers an integer graph.
///
/// # Errors
/// As [`lower`].
pub fn lower_with(graph: &Graph, options: &LowerOptions) -> Result<Program, LowerError> {
    let mut lowering = Lowering {
        graph,
        options: *options,
        users: graph.users(),
        values: Vec::new(),
        value_of: HashMap::new(),
        inputs: Vec::new(),
        steps: Vec::new(),
        refused: Vec::new(),
    };
    for (id, node) in graph.iter() {
        lowering.node(id, node);
    }
    let outputs = lowering.outputs();
    let Lowering { values, inputs, steps, refused, .. } = lowering;
    if !refused.is_empty() {
        return Err(LowerError::NoIntegerForm { nodes: refused, total: graph.nodes().len() });
    }
    Ok(Program::new(values, inputs, outputs, steps)?)
}

struct Lowering<'g> {
    graph: &'g Graph,
    options: LowerOptions,
    users: Vec<Vec<NodeId>>,
    values: Vec<Value>,
    /// The value that holds a node's result.
    value_of: HashMap<NodeId, ValueId>,
    inputs: Vec<ValueId>,
    steps: Vec<Step>,
    refused: Vec<FloatNode>,
}

impl Lowering<'_> {
    fn node(&mut self, id: NodeId, node: &Node) {
        match &node.op {
            Op::Input => self.input(id, node),
            Op::Constant(_) => {}
            Op::Quantize { qparams: TensorQParams::PerTensor(qparams), range } => {
                let input = node.inputs[0];
                if self.is_int8_input(input) {
                    self.alias(id, input);
                    return;
                }
                let Some(input) = self.read(id, input) else { return };
                let Some(output) = self.write(id, Some(*qparams)) else { return };
                let (name, qparams, range) = (node.name.clone(), *qparams, *range);
                self.steps.push(Step::Quantize(Quantize { name, input, output, qparams, range }));
            }
            Op::Dequantize { qparams: TensorQParams::PerTensor(qparams) } => {
                if self.leaves_as_int8(id) {
                    self.alias(id, node.inputs[0]);
                    return;
                }
                let Some(input) = self.read(id, node.inputs[0]) else { return };
                let Some(output) = self.write(id, None) else { return };
                let name = node.name.clone();
                self.steps.push(Step::Dequantize(Dequantize { name, input, output, qparams: *qparams }));
            }
            Op::IntegerLinear { fraction_bits } => self.linear(id, node, *fraction_bits),
            // Written by the step of their accumulator, or refused with it.
            Op::Requantize { .. } | Op::ScaleAccumulator { .. } => {
                if !matches!(self.graph.node(node.inputs[0]).op, Op::IntegerLinear { .. }) {
                    self.refuse(id, "its accumulator does not come from an integer_linear");
                }
            }
            _ => {
                let reason = node.float_reason.clone();
                let reason = reason.unwrap_or_else(|| "the graph is not in integer form; see `reference`".to_owned());
                self.refuse(id, reason);
            }
        }
    }

    fn input(&mut self, id: NodeId, node: &Node) {
        let codes = self.int8_input(id);
        let value_type = if codes.is_some() || node.dtype == DType::I8 { ValueType::I8 } else { ValueType::F32 };
        if !matches!(node.dtype, DType::F32 | DType::I8) {
            return self.refuse(id, format!("an input of {} has no step that reads it", node.dtype));
        }
        if let Some(value) = self.write_as(id, value_type, codes) {
            self.inputs.push(value);
        }
    }

    fn linear(&mut self, id: NodeId, node: &Node, fraction_bits: u32) {
        let [x, w, bias] = node.inputs[..] else { return };
        let end = match self.users[id.index()].as_slice() {
            [end] if !self.graph.outputs().contains(&id) => *end,
            _ => return self.refuse(id, "its accumulator is not read by exactly one node"),
        };
        let Some((weight, bias)) = self.i8(w).zip(self.i32(bias)) else {
            return self.refuse(id, "its weight and bias codes are not constants");
        };
        let end_node = self.graph.node(end);
        let Some(factors) = end_node.inputs.get(1).and_then(|&f| self.f32(f)) else {
            return self.refuse(id, "its factors are not a constant");
        };
        let (qparams, epilogue) = match end_node.op {
            Op::Requantize { qparams, lo, hi } => {
                let zero_point = qparams.zero_point();
                (Some(qparams), Epilogue::Requantize { multiplier: factors, zero_point, lo, hi })
            }
            Op::ScaleAccumulator { relu } => (None, Epilogue::Scale { scale: factors, relu }),
            _ => return self.refuse(id, "its accumulator is neither requantized nor scaled"),
        };
        let Some(input) = self.read(id, x) else { return };
        let Some(output) = self.write(end, qparams) else { return };
        let dims = self.graph.node(w).shape.dims();
        self.steps.push(Step::Linear(QLinear {
            name: node.name.clone(),
            input,
            output,
            weight,
            n: dims[0],
            k: dims[1],
            bias,
            fraction_bits,
            epilogue,
        }));
    }

    fn outputs(&mut self) -> Vec<ValueId> {
        let mut outputs = Vec::with_capacity(self.graph.outputs().len());
        for &id in self.graph.outputs() {
            match self.value_of.get(&id) {
                Some(value) if outputs.contains(value) => self.refuse(id, "is the same int8 value as another output"),
                Some(value) if self.inputs.contains(value) => {
                    self.refuse(id, "is an output that no step computes: it is an input");
                }
                Some(value) => outputs.push(*value),
                None if matches!(self.graph.node(id).op, Op::Constant(_)) => {
                    self.refuse(id, "is an output that no step computes: it is a constant");
                }
                None => {} // refused before
            }
        }
        outputs
    }

    fn refuse(&mut self, id: NodeId, reason: impl Into<String>) {
        let node = self.graph.node(id);
        self.refused.push(FloatNode { name: node.name.clone(), op: node.op.name(), reason: reason.into() });
    }

    /// The value of an earlier node; none if that was refused, which its own reason explains.
    fn read(&mut self, reader: NodeId, id: NodeId) -> Option<ValueId> {
        if matches!(self.graph.node(id).op, Op::Constant(_)) {
            self.refuse(reader, "it reads a constant, which no step computes");
        }
        self.value_of.get(&id).copied()
    }

    fn alias(&mut self, id: NodeId, of: NodeId) {
        if let Some(&value) = self.value_of.get(&of) {
            self.value_of.insert(id, value);
        }
    }

    fn write(&mut self, id: NodeId, qparams: Option<QParams>) -> Option<ValueId> {
        let value_type = if qparams.is_some() { ValueType::I8 } else { ValueType::F32 };
        self.write_as(id, value_type, qparams)
    }

    fn write_as(&mut self, id: NodeId, value_type: ValueType, qparams: Option<QParams>) -> Option<ValueId> {
        let node = self.graph.node(id);
        if !node.shape.is_batched() || node.shape.dims().is_empty() {
            self.refuse(id, format!("its shape {} is not [rows, …, columns]", node.shape));
            return None;
        }
        let value = ValueId::new(self.values.len());
        self.values.push(Value { name: node.name.clone(), value_type, dims: node.shape.dims().to_vec(), qparams });
        self.value_of.insert(id, value);
        Some(value)
    }

    /// How an input is quantized, if it may enter as int8: by all its readers, in one way.
    fn int8_input(&self, id: NodeId) -> Option<QParams> {
        if !self.options.int8_inputs || self.graph.outputs().contains(&id) {
            return None;
        }
        let mut ways = self.users[id.index()].iter().map(|&user| match &self.graph.node(user).op {
            Op::Quantize { qparams: TensorQParams::PerTensor(q), range } => Some((*q, *range)),
            _ => None,
        });
        let first = ways.next()??;
        ways.all(|way| way == Some(first)).then_some(first.0)
    }

    fn is_int8_input(&self, id: NodeId) -> bool {
        matches!(self.graph.node(id).op, Op::Input) && self.int8_input(id).is_some()
    }

    /// Whether a dequantize only feeds the caller, who takes int8.
    fn leaves_as_int8(&self, id: NodeId) -> bool {
        self.options.int8_outputs && self.graph.outputs().contains(&id) && self.users[id.index()].is_empty()
    }

    fn constant(&self, id: NodeId) -> Option<&Tensor> {
        match &self.graph.node(id).op {
            Op::Constant(tensor) => Some(tensor),
            _ => None,
        }
    }

    fn i8(&self, id: NodeId) -> Option<Arc<[i8]>> {
        self.constant(id)?.as_i8().map(Into::into)
    }

    fn i32(&self, id: NodeId) -> Option<Arc<[i32]>> {
        self.constant(id)?.as_i32().map(Into::into)
    }

    fn f32(&self, id: NodeId) -> Option<Arc<[f32]>> {
        self.constant(id)?.as_f32().map(Into::into)
    }
}
