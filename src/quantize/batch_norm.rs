//! Folds a batch norm that follows a linear layer or a convolution into the weight and bias of the layer.

use std::collections::{HashMap, HashSet};

use crate::graph::{Graph, GraphError, NodeId, Rewriter};
use crate::ops::{BatchNorm, Constant, Op, Transpose};
use crate::values::Tensor;

/// Folds every batch norm whose channels are those of the layer that feeds it: of a convolution; of a linear layer directly, if the
/// layer's output has two axes, or through a transpose that moves the layer's channels to axis 1. The layer and the batch norm must have
/// no other reader between them, and constant parameters.
///
/// # Errors
/// Returns [`GraphError::NonFinite`] for a variance that has no real root.
///
/// With `r = 1 / √(variance + eps)`, `w' = w · (γ · r)` for each output channel and `b' = ((b − mean) · r) · γ + β`, in `f32` and in this
/// order, as PyTorch folds.
pub(super) fn fold_batch_norm(graph: &Graph) -> Result<(Graph, Vec<FoldedNorm>), GraphError> {
    let users = graph.users();
    let constant = |id: NodeId| matches!(graph.node(id).op, Op::Constant(_));
    let layer_of = foldable(graph, &users);
    let norm_of: HashMap<NodeId, NodeId> = layer_of.iter().map(|(&norm, &layer)| (layer, norm)).collect();
    if layer_of.is_empty() {
        return Ok((graph.clone(), Vec::new()));
    }
    // Constants that only folded layers and norms read are replaced.
    let folded = |id: &NodeId| norm_of.contains_key(id) || layer_of.contains_key(id);
    let gone: HashSet<NodeId> = graph
        .iter()
        .filter(|(id, _)| constant(*id) && !users[id.index()].is_empty() && users[id.index()].iter().all(folded))
        .map(|(id, _)| id)
        .collect();
    let constant_value = |id: NodeId| match &graph.node(id).op {
        Op::Constant(Constant { tensor, .. }) => &**tensor,
        _ => unreachable!("only layers and norms of constants are folded"),
    };
    let mut norms = Vec::new();
    let mut rewriter = Rewriter::new(graph);
    for (id, node) in graph.iter() {
        if gone.contains(&id) {
            continue;
        }
        if layer_of.contains_key(&id) {
            // The folded layer now computes the value of the norm.
            let input = rewriter.get(node.inputs[0])?;
            rewriter.set_origin(input, &node.origin);
            rewriter.replace(id, input);
        } else if let Some(&norm) = norm_of.get(&id) {
            let norm = FoldedNorm::of(graph, id, norm);
            let (weight, bias) = norm.fold(constant_value);
            norms.push(norm);
            let constant = |rewriter: &mut Rewriter<'_>, suffix: &str, value: Tensor| {
                let name = format!("{}.{suffix}", node.name);
                if let Some((index, value)) = value.first_non_finite() {
                    return Err(GraphError::NonFinite { node: name, index, value });
                }
                rewriter.add(&name, Constant::new(value), Vec::new(), &node.origin)
            };
            let inputs = vec![
                rewriter.get(node.inputs[0])?,
                constant(&mut rewriter, "weight", weight)?,
                constant(&mut rewriter, "bias", bias)?,
            ];
            let new = rewriter.copy_with(id, inputs)?;
            // No node of the float graph has the value of the folded layer, unless the norm reads it directly.
            rewriter.set_origin(new, &format!("{}.folded", node.origin));
        } else {
            rewriter.copy(id)?;
        }
    }
    Ok((rewriter.finish()?, norms))
}

/// The layer of each batch norm that can be folded.
fn foldable(graph: &Graph, users: &[Vec<NodeId>]) -> HashMap<NodeId, NodeId> {
    let outputs = graph.output_flags();
    let alone = |id: NodeId| users[id.index()].len() == 1 && !outputs[id.index()];
    let constants = |ids: &[NodeId]| ids.iter().all(|&id| matches!(graph.node(id).op, Op::Constant(_)));
    let mut layer_of = HashMap::new();
    for (id, node) in graph.iter().filter(|(_, node)| matches!(node.op, Op::BatchNorm(_))) {
        let mut linear = node.inputs[0];
        let mut channel_axis = graph.node(linear).shape.rank() - 1;
        if let Op::Transpose(Transpose { perm }) = &graph.node(linear).op {
            channel_axis = perm.iter().position(|&axis| axis == perm.len() - 1).expect("a permutation");
            if !alone(linear) {
                continue;
            }
            linear = graph.node(linear).inputs[0];
        }
        let layer = graph.node(linear);
        match layer.op {
            Op::Linear(_) => {}
            Op::Conv(_) | Op::ConvTranspose(_) if linear == node.inputs[0] => channel_axis = 1,
            _ => continue,
        }
        if channel_axis == 1 && alone(linear) && constants(&layer.inputs[1..]) && constants(&node.inputs[1..]) {
            layer_of.insert(id, linear);
        } else {
            let (norm, layer) = (&node.name, &layer.name);
            log::warn!("{norm}: is not folded into {layer}: its channels are not the layer's, or others read it");
        }
    }
    layer_of
}

/// A batch norm that was folded into its layer, with the constants that both had before.
#[derive(Debug, Clone)]
pub(crate) struct FoldedNorm {
    /// The layer's name, which it keeps.
    pub(crate) layer: String,
    /// The layer's weight and bias `[N]`, if it has one: constants of the graph before folding.
    pub(crate) weight: NodeId,
    pub(crate) bias: Option<NodeId>,
    /// Where the output channels of the weight lie.
    pub(crate) channels: WeightChannels,
    /// Mean, variance, γ and β, each `[N]`: constants of the graph before folding.
    pub(crate) statistics: [NodeId; 4],
    /// Added to the variance.
    pub(crate) eps: f32,
}

impl FoldedNorm {
    fn of(graph: &Graph, linear: NodeId, norm: NodeId) -> Self {
        let (layer, norm) = (graph.node(linear), graph.node(norm));
        let eps = match norm.op {
            Op::BatchNorm(BatchNorm { eps }) => eps,
            _ => 0.0,
        };
        let statistics = [1, 2, 3, 4].map(|i| norm.inputs[i]);
        let channels = match &layer.op {
            Op::ConvTranspose(conv) => WeightChannels::Transposed { groups: conv.groups },
            _ => WeightChannels::First,
        };
        let (name, weight, bias) = (layer.name.clone(), layer.inputs[1], layer.inputs.get(2).copied());
        Self { layer: name, weight, bias, channels, statistics, eps }
    }

    /// Weight and bias with the batch norm folded in; `value` gives those of the constants.
    pub(crate) fn fold<'t>(&self, value: impl Fn(NodeId) -> &'t Tensor) -> (Tensor, Tensor) {
        let values = |id: NodeId| value(id).as_f32().expect("its constants are floats");
        let [mean, variance, gamma, beta] = self.statistics.map(values);
        let n = gamma.len();
        let inv_std: Vec<f32> = variance.iter().map(|&variance| 1.0 / (variance + self.eps).sqrt()).collect();
        let factors: Vec<f32> = gamma.iter().zip(&inv_std).map(|(gamma, inv_std)| gamma * inv_std).collect();
        let channel = self.channels.of(value(self.weight).shape());
        let weight = values(self.weight).iter().enumerate().map(|(at, w)| w * factors[channel(at)]).collect();
        let bias = self.bias.map_or_else(|| vec![0.0; n], |bias| values(bias).to_vec());
        let shifted = |c: usize| ((bias[c] - mean[c]) * inv_std[c]) * gamma[c] + beta[c];
        let bias = (0..n).map(shifted).collect();
        const FITS: &str = "lengths are those of the layer";
        (Tensor::from_f32(value(self.weight).shape(), weight).expect(FITS), Tensor::from_f32(&[n], bias).expect(FITS))
    }
}

/// Where the output channels of a weight lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WeightChannels {
    /// `[N, …]`.
    First,
    /// `[C, N / groups, …]`, of a transposed convolution.
    Transposed { groups: usize },
}

impl WeightChannels {
    /// Returns the output channel of each element of a weight of a shape, by its row-major index.
    pub(crate) fn of(self, shape: &[usize]) -> impl Fn(usize) -> usize {
        let inner = shape[1..].iter().product::<usize>().max(1);
        let taps = shape.iter().skip(2).product::<usize>().max(1);
        let (c, n) = (shape[0], shape.get(1).copied().unwrap_or(1));
        move |at| match self {
            Self::First => at / inner,
            Self::Transposed { groups } => at / inner * groups / c * n + at % inner / taps,
        }
    }
}

/// `γ / √(variance + eps)`.
pub(crate) fn factor(gamma: f32, variance: f32, eps: f32) -> f64 {
    f64::from(gamma) / (f64::from(variance) + f64::from(eps)).sqrt()
}
