//! The values of a pass: parameters, constants and computed values.

use std::sync::Arc;

use super::norm::NormLayer;
use super::parameter::Parameter;
use crate::graph::{Graph, NodeId};
use crate::ops::{Constant, Op};
use crate::quantize::trained::FoldedNorm;
use crate::values::{DType, Tensor};

/// The source of a node's value.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Parameter(usize),
    Fixed(Arc<Tensor>),
    /// The weight of a layer into which a batch norm was folded.
    FoldedWeight(usize),
    /// The bias of such a layer.
    FoldedBias(usize),
    /// The pass: the node is an input, or is computed.
    Pass,
}

/// Values by node.
#[derive(Debug, Clone)]
pub(super) struct Values {
    pub(super) parameters: Vec<Parameter>,
    pub(super) sources: Vec<Source>,
    pub(super) norms: Vec<NormLayer>,
    pass: Vec<Option<Tensor>>,
}

impl Values {
    /// The parameters of a prepared graph; `float` is the graph before its batch norms were folded.
    pub(super) fn new(float: &Graph, graph: &Graph, folded: Vec<FoldedNorm>) -> Self {
        let source = |node: &crate::graph::Node| match &node.op {
            Op::Constant(Constant { tensor, .. }) => Source::Fixed(Arc::clone(tensor)),
            _ => Source::Pass,
        };
        let mut values = Self {
            parameters: Vec::new(),
            sources: graph.nodes().iter().map(source).collect(),
            norms: Vec::new(),
            pass: vec![None; graph.nodes().len()],
        };
        for folded in folded {
            values.fold(float, graph, folded);
        }
        for node in graph.nodes() {
            let parameters = node.op.parameter_names().iter().zip(&node.inputs);
            for (name, &input) in parameters.filter(|(name, _)| !name.is_empty()) {
                let id = moved_from(graph, input);
                let constant = graph.node(id);
                if let (Source::Fixed(tensor), DType::F32) = (&values.sources[id.index()], constant.dtype) {
                    let (value, trained) = ((**tensor).clone(), !name.starts_with("running_"));
                    values.sources[id.index()] = Source::Parameter(values.add(constant.name.clone(), value, trained));
                }
            }
        }
        values
    }

    fn add(&mut self, name: String, value: Tensor, trained: bool) -> usize {
        self.parameters.push(Parameter { name, value, trained, buffer: !trained });
        self.parameters.len() - 1
    }

    /// Adds the parameters of a layer into which a batch norm was folded: those from before folding.
    fn fold(&mut self, float: &Graph, graph: &Graph, folded: FoldedNorm) {
        let Some(layer) = graph.find(&folded.layer) else { return };
        let mut parameter = |id: NodeId, trained| {
            let node = float.node(id);
            let value = match &node.op {
                Op::Constant(Constant { tensor, .. }) => (**tensor).clone(),
                _ => Tensor::from(ndarray::arr0(0f32)),
            };
            self.add(node.name.clone(), value, trained)
        };
        let weight = parameter(folded.weight, true);
        let bias = folded.bias.map(|bias| parameter(bias, true));
        let [mean, variance, gamma, beta] = folded.statistics;
        let [mean, variance] = [mean, variance].map(|id| parameter(id, false));
        let [gamma, beta] = [gamma, beta].map(|id| parameter(id, true));
        let at = self.norms.len();
        let inputs = &graph.node(layer).inputs;
        let [of_weight, of_bias] = [1, 2].map(|input| moved_from(graph, inputs[input]));
        self.sources[of_weight.index()] = Source::FoldedWeight(at);
        self.sources[of_bias.index()] = Source::FoldedBias(at);
        let parameters = [weight, mean, variance, gamma, beta];
        let constants = [of_weight, of_bias];
        self.norms.push(NormLayer::new(layer, constants, parameters, bias, folded, &self.parameters));
    }

    pub(super) fn is_pass(&self, id: NodeId) -> bool {
        matches!(self.sources[id.index()], Source::Pass)
    }

    /// The value of a node. A computed value exists after the pass has reached its node.
    pub(super) fn get(&self, id: NodeId) -> &Tensor {
        match &self.sources[id.index()] {
            Source::Parameter(at) => &self.parameters[*at].value,
            Source::Fixed(tensor) => tensor,
            Source::FoldedWeight(norm) => &self.norms[*norm].weight,
            Source::FoldedBias(norm) => &self.norms[*norm].bias,
            Source::Pass => self.pass[id.index()].as_ref().expect("values come in the order of the graph"),
        }
    }

    pub(super) fn floats(&self, id: NodeId) -> &[f32] {
        self.get(id).as_f32().expect("gradients are of floats")
    }

    pub(super) fn set(&mut self, id: NodeId, value: Tensor) {
        self.pass[id.index()] = Some(value);
    }

    /// Memory for the next value of a node: that of its last value, if it had the same length. The contents are arbitrary.
    pub(super) fn buffer(&mut self, id: NodeId, length: usize) -> Vec<f32> {
        let last = match self.pass[id.index()].take() {
            Some(Tensor::F32(a)) => a.into_vec(),
            _ => Vec::new(),
        };
        if last.len() == length { last } else { vec![0.0; length] }
    }

    /// The current parameters, with batch norms folded, without the values of a pass.
    pub(super) fn at_rest(&self) -> Self {
        let mut values = Self {
            parameters: self.parameters.clone(),
            sources: self.sources.clone(),
            norms: self.norms.clone(),
            pass: vec![None; self.pass.len()],
        };
        values.fold_norms();
        values
    }

    /// Folds all batch norms with the current parameters.
    pub(super) fn fold_norms(&mut self) {
        let Self { norms, parameters, .. } = self;
        norms.iter_mut().for_each(|norm| norm.fold(parameters));
    }

    /// The parameter that a node holds.
    pub(super) fn parameter_of(&self, id: NodeId) -> Option<usize> {
        match self.sources[id.index()] {
            Source::Parameter(at) => Some(at),
            _ => None,
        }
    }
}

/// The node whose value an input has, before it was observed, transposed or reshaped.
fn moved_from(graph: &Graph, mut id: NodeId) -> NodeId {
    while matches!(graph.node(id).op, Op::Observe(_) | Op::Transpose(_) | Op::Reshape(_) | Op::Flatten(_)) {
        id = graph.node(id).inputs[0];
    }
    id
}
