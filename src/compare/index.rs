//! What is asked of a graph for each of its nodes, found in one walk.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, NodeId};
use crate::ops::{IntegerAdd, IntegerMul, Linear, Lut, Op, Quantize, Requantize};
use crate::values::{DType, QParams, TensorQParams};

#[derive(Debug)]
pub(super) struct Index {
    meanings: Vec<Option<QParams>>,
    /// The first linear layer that stands for each float node.
    layers: HashMap<String, NodeId>,
    /// The first node that reads each node before all else.
    readers: HashMap<NodeId, NodeId>,
    /// Where each input stands among the inputs.
    inputs: HashMap<NodeId, usize>,
    input_origins: HashSet<String>,
}

impl Index {
    pub(super) fn new(graph: &Graph) -> Self {
        let mut meanings: Vec<Option<QParams>> = Vec::with_capacity(graph.nodes().len());
        let (mut layers, mut readers) = (HashMap::new(), HashMap::new());
        for (id, node) in graph.iter() {
            meanings.push(match &node.op {
                Op::Quantize(Quantize { qparams: TensorQParams::PerTensor(qparams), .. })
                    if node.dtype == DType::I8 =>
                {
                    Some(*qparams)
                }
                Op::Requantize(Requantize { qparams, .. }) | Op::Lut(Lut { qparams }) => Some(*qparams),
                Op::IntegerAdd(IntegerAdd { qparams, .. }) | Op::IntegerMul(IntegerMul { qparams, .. }) => {
                    Some(*qparams)
                }
                // What moves codes keeps their meaning.
                Op::Reshape(_) | Op::Flatten(_) | Op::Transpose(_) | Op::Concat(_) | Op::Max(_) | Op::Slice(_)
                    if node.dtype == DType::I8 =>
                {
                    meanings[node.inputs[0].index()]
                }
                _ => None,
            });
            if matches!(node.op, Op::Linear(Linear) | Op::IntegerLinear(_)) {
                layers.entry(node.origin.clone()).or_insert(id);
            }
            if let Some(&first) = node.inputs.first() {
                readers.entry(first).or_insert(id);
            }
        }
        let inputs = graph.inputs().iter().enumerate().map(|(at, &id)| (id, at)).collect();
        let input_origins = graph.inputs().iter().map(|&id| graph.node(id).origin.clone()).collect();
        Self { meanings, layers, readers, inputs, input_origins }
    }

    /// What the codes of a node mean.
    pub(super) fn meaning(&self, id: NodeId) -> Option<QParams> {
        self.meanings[id.index()]
    }

    /// The linear layer that stands for a float node.
    pub(super) fn layer_of(&self, origin: &str) -> Option<NodeId> {
        self.layers.get(origin).copied()
    }

    /// The first node that reads another before all else: what follows an accumulator.
    pub(super) fn reader_of(&self, id: NodeId) -> Option<NodeId> {
        self.readers.get(&id).copied()
    }

    /// Where an input stands among the inputs.
    pub(super) fn input_at(&self, id: NodeId) -> Option<usize> {
        self.inputs.get(&id).copied()
    }

    /// Whether a float node is an input of the graph: that is quantized, but computes nothing.
    pub(super) fn is_input(&self, origin: &str) -> bool {
        self.input_origins.contains(origin)
    }
}
