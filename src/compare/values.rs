//! The values of a graph that can be compared, in real units.

use std::collections::HashMap;

use super::index::Index;
use crate::graph::{Graph, NodeId};
use crate::interp::{InterpError, Interpreter};
use crate::numerics;
use crate::ops::{IntegerAdd, IntegerMul, Op, Quantize, Requantize};
use crate::values::{DType, QParams, Tensor};

/// The values of a graph that can be compared, in real units.
pub(super) struct Values {
    /// For each origin, the last node that has it, in execution order of the first.
    pub(super) ordered: Vec<(String, NodeId)>,
    pub(super) by_origin: HashMap<String, NodeId>,
    pub(super) reals: HashMap<NodeId, Tensor>,
    pub(super) index: Index,
}

impl Values {
    /// The origins of all nodes whose values can be compared, in execution order of the first node with each, and the last node with
    /// each.
    pub(super) fn comparable(
        interpreter: &Interpreter,
        index: &Index,
    ) -> Result<(Vec<String>, HashMap<String, NodeId>), InterpError> {
        let graph = interpreter.graph();
        let mut by_origin: HashMap<String, NodeId> = HashMap::new();
        let mut order = Vec::new();
        for (id, node) in graph.iter() {
            let real = matches!(node.dtype, DType::F32 | DType::I8) && !matches!(node.op, Op::ChooseQParams(_));
            let known = node.dtype == DType::F32 || index.qparams(id).is_some();
            if !real || !known || interpreter.constant_value(id)?.is_some() {
                continue;
            }
            if by_origin.insert(node.origin.clone(), id).is_none() {
                order.push(node.origin.clone());
            }
        }
        Ok((order, by_origin))
    }

    pub(super) fn of(interpreter: &Interpreter, inputs: &[&Tensor]) -> Result<Self, InterpError> {
        let graph = interpreter.graph();
        let index = Index::new(graph);
        let (order, by_origin) = Self::comparable(interpreter, &index)?;
        let feeds: Vec<_> = graph.inputs().iter().copied().zip(inputs.iter().copied()).collect();
        let wanted: Vec<NodeId> = order.iter().map(|origin| by_origin[origin]).collect();
        if inputs.len() != graph.inputs().len() {
            return Err(InterpError::InputCount { actual: inputs.len(), expected: graph.inputs().len() });
        }
        let values = interpreter.run_nodes(&feeds, &wanted)?;
        let reals = wanted.iter().zip(values).map(|(&id, value)| (id, real(&index, id, value))).collect();
        let ordered = order.into_iter().zip(wanted).collect();
        Ok(Self { ordered, by_origin, reals, index })
    }
}

/// The smallest and largest quantized value that a node may have.
fn quantized_range(graph: &Graph, index: &Index, id: NodeId) -> Option<(i32, i32)> {
    match &graph.node(id).op {
        Op::Quantize(Quantize { range, .. }) => Some((range.quant_min(), range.quant_max())),
        Op::Requantize(Requantize { lo, hi, .. })
        | Op::IntegerAdd(IntegerAdd { lo, hi, .. })
        | Op::IntegerMul(IntegerMul { lo, hi, .. }) => Some((*lo, *hi)),
        _ => index.qparams(id).map(|_| (-128, 127)),
    }
}

/// Converts quantized values to real units; other values are unchanged.
pub(super) fn real(index: &Index, id: NodeId, value: Tensor) -> Tensor {
    match (value, index.qparams(id)) {
        (Tensor::I8(values), Some(q)) => {
            Tensor::from(values.map(|&value| numerics::dequantize(value.into(), q.scale(), q.zero_point())))
        }
        (value, _) => value,
    }
}

/// The qparams and the quantized range of a node's value.
fn quantized_to(graph: &Graph, index: &Index, id: NodeId) -> Option<(QParams, (i32, i32))> {
    let quantized = match graph.node(id).op {
        Op::Dequantize(_) => graph.node(id).inputs[0],
        _ => id,
    };
    Some((index.qparams(quantized)?, quantized_range(graph, index, quantized)?))
}

/// The smallest and largest real value that a node can have.
pub(super) fn clipping(graph: &Graph, index: &Index, id: NodeId) -> Option<(f32, f32)> {
    let (qparams, (lo, hi)) = quantized_to(graph, index, id)?;
    let real = |value: i32| numerics::dequantize(value, qparams.scale(), qparams.zero_point());
    Some((real(lo), real(hi)))
}

/// The share of the reference's values that are more than half a step outside the quantized range.
pub(super) fn saturated(graph: &Graph, index: &Index, id: NodeId, reference: &[f32]) -> Option<f64> {
    let (qparams, (lo, hi)) = quantized_to(graph, index, id)?;
    let limit = |value: i32, half: f32| ((value - qparams.zero_point()) as f32 + half) * qparams.scale();
    let (low, high) = (limit(lo, -0.5), limit(hi, 0.5));
    let beyond = reference.iter().filter(|v| **v < low || **v > high).count();
    Some(beyond as f64 / reference.len().max(1) as f64)
}

pub(super) fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("only real values are compared")
}
