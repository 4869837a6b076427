//! Layers with known weights, as matrices.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::AccuracyError;
use crate::graph::{Graph, NodeId};
use crate::interp::{InterpError, Interpreter};
use crate::ops::{Constant, Conv, Observe, ObserverId, Op};
use crate::quantize::PreparedGraph;
use crate::quantize::spec::QuantizationSpec;
use crate::values::slices::f32s;
use crate::values::{QuantRange, Tensor, TensorQParams};

/// The axis of the channels of the value that a layer reads: the last for a linear layer, and 1 for a convolution. `None` for other
/// nodes, and for convolutions whose groups read parts of the channels.
pub(super) fn channel_axis(graph: &Graph, layer: NodeId) -> Option<usize> {
    let node = graph.node(layer);
    match &node.op {
        Op::Linear(_) => Some(graph.node(node.inputs[0]).shape.rank() - 1),
        Op::Conv(Conv { groups: 1, .. }) => Some(1),
        _ => None,
    }
}

/// The weight of a layer if it is known.
pub(super) fn known_weight(interpreter: &Interpreter, layer: NodeId) -> Result<Option<Arc<Tensor>>, InterpError> {
    let weight = interpreter.graph().node(layer).inputs[1];
    Ok(interpreter.constant_value(weight)?.filter(|weight| weight.as_f32().is_some() && !weight.is_empty()))
}

/// A weight `[N, C, taps…]` as a matrix `[N · taps, C]`, whose columns are the input channels.
pub(super) fn matrix(weight: &Tensor) -> Vec<f32> {
    let shape = weight.shape();
    let taps = shape[2..].iter().product::<usize>();
    let values = f32s(weight);
    let mut matrix = Vec::with_capacity(values.len());
    for kernel in values.chunks_exact(shape[1] * taps) {
        (0..taps).for_each(|tap| matrix.extend(kernel[tap..].iter().step_by(taps)));
    }
    matrix
}

/// The quantized weight of a layer in a prepared graph.
pub(super) struct PreparedWeight {
    pub(super) name: String,
    /// The constant, and the index of its observer.
    pub(super) constant: NodeId,
    pub(super) observer: usize,
    pub(super) value: Arc<Tensor>,
    /// Scales and zero points, and the range of quantized values.
    pub(super) qparams: TensorQParams,
    pub(super) range: QuantRange,
}

/// Returns the weights of linear layers and convolutions that are constants with an observer of their own.
pub(super) fn prepared_weights(prepared: &PreparedGraph) -> Result<Vec<PreparedWeight>, AccuracyError> {
    let graph = prepared.graph();
    let mut observed: HashMap<usize, usize> = HashMap::new();
    for node in graph.nodes() {
        if let Op::Observe(Observe { observer: ObserverId(at) }) = node.op {
            *observed.entry(at).or_default() += 1;
        }
    }
    let mut weights: Vec<PreparedWeight> = Vec::new();
    for node in graph.nodes().iter().filter(|node| node.op.is_layer() && node.inputs.len() > 1) {
        let observe = graph.node(node.inputs[1]);
        let Op::Observe(Observe { observer: ObserverId(observer) }) = observe.op else { continue };
        let constant = observe.inputs[0];
        let (Op::Constant(Constant { tensor, .. }), 1) = (&graph.node(constant).op, observed[&observer]) else {
            continue;
        };
        let QuantizationSpec::Observed(spec) = prepared.observers()[observer].spec() else { continue };
        let known = weights.iter().any(|weight| weight.constant == constant);
        if spec.is_dynamic() || tensor.as_f32().is_none() || tensor.is_empty() || known {
            continue;
        }
        let name = graph.node(constant).name.clone();
        let error = |source| AccuracyError::Observer { node: name.clone(), source };
        let qparams = prepared.observers()[observer].calculate_qparams().map_err(error)?;
        let (value, range) = (tensor.clone(), spec.range);
        weights.push(PreparedWeight { name, constant, observer, value, qparams, range });
    }
    Ok(weights)
}

/// The values of a weight that have qparams of their own: all values, those of each channel, or those of each group of each row.
pub(super) fn parts(values: &[f32], shape: &[usize], qparams: &TensorQParams) -> Vec<Vec<f32>> {
    match qparams {
        TensorQParams::PerTensor(_) => vec![values.to_vec()],
        TensorQParams::PerChannel { ch_axis, channels } => {
            let inner = shape[ch_axis + 1..].iter().product::<usize>().max(1);
            let mut of_channels = vec![Vec::with_capacity(values.len() / channels.len()); channels.len()];
            for (run, values) in values.chunks_exact(inner).enumerate() {
                of_channels[run % channels.len()].extend_from_slice(values);
            }
            of_channels
        }
        TensorQParams::PerGroup(groups) => {
            let rows = values.chunks_exact(shape[shape.len() - 1].max(1));
            rows.flat_map(|row| row.chunks(groups.size()).map(<[f32]>::to_vec)).collect()
        }
    }
}
