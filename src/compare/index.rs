//! An index of a graph: qparams, layers and readers of its nodes, found in one walk.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, NodeId};
use crate::ops::{IntegerAdd, IntegerMul, Lut, Op, Quantize, Requantize};
use crate::values::{DType, QParams, TensorQParams};

/// Facts about each node that the comparison needs.
#[derive(Debug)]
pub(super) struct Index {
    qparams: Vec<Option<QParams>>,
    /// The first linear layer with each origin.
    layers: HashMap<String, NodeId>,
    /// The first node whose first input is each node.
    readers: HashMap<NodeId, NodeId>,
    /// The position of each input among the inputs.
    inputs: HashMap<NodeId, usize>,
    input_origins: HashSet<String>,
}

impl Index {
    pub(super) fn new(graph: &Graph) -> Self {
        let mut qparams: Vec<Option<QParams>> = Vec::with_capacity(graph.nodes().len());
        let (mut layers, mut readers) = (HashMap::new(), HashMap::new());
        for (id, node) in graph.iter() {
            qparams.push(match &node.op {
                Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(own), .. }) if node.dtype == DType::I8 => {
                    Some(*own)
                }
                Op::Requantize(Requantize { qparams: own, .. }) | Op::Lut(Lut { qparams: own }) => Some(*own),
                Op::IntegerAdd(IntegerAdd { qparams: own, .. }) | Op::IntegerMul(IntegerMul { qparams: own, .. }) => {
                    Some(*own)
                }
                Op::IntegerAveragePool(pool) => Some(pool.y),
                Op::IntegerResizeLinear(resize) => Some(resize.y),
                // Moved values keep their qparams.
                op if op.moves_values() && node.dtype == DType::I8 => qparams[node.inputs[0].index()],
                _ => None,
            });
            if matches!(
                node.op,
                Op::Linear(_) | Op::IntegerLinear(_) | Op::IntegerLinearGroups(_) | Op::Conv(_) | Op::IntegerConv(_)
            ) {
                layers.entry(node.origin.clone()).or_insert(id);
            }
            if let Some(&first) = node.inputs.first() {
                readers.entry(first).or_insert(id);
            }
        }
        let inputs = graph.inputs().iter().enumerate().map(|(at, &id)| (id, at)).collect();
        let input_origins = graph.inputs().iter().map(|&id| graph.node(id).origin.clone()).collect();
        Self { qparams, layers, readers, inputs, input_origins }
    }

    /// The qparams of a node's quantized values.
    pub(super) fn qparams(&self, id: NodeId) -> Option<QParams> {
        self.qparams[id.index()]
    }

    /// The linear layer or the convolution with the origin of a float node.
    pub(super) fn layer_of(&self, origin: &str) -> Option<NodeId> {
        self.layers.get(origin).copied()
    }

    /// The first node whose first input is `id`: the epilogue of an accumulator.
    pub(super) fn reader_of(&self, id: NodeId) -> Option<NodeId> {
        self.readers.get(&id).copied()
    }

    /// The position of an input among the inputs.
    pub(super) fn input_at(&self, id: NodeId) -> Option<usize> {
        self.inputs.get(&id).copied()
    }

    /// Whether a float node is an input of the graph, which may be quantized but computes nothing.
    pub(super) fn is_input(&self, origin: &str) -> bool {
        self.input_origins.contains(origin)
    }
}
