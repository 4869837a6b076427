//! How much each choice for each layer costs in accuracy.

use std::collections::HashSet;

use strum::IntoEnumIterator;

use super::clip::clipped;
use super::error::AccuracyError;
use super::plan::LayerChoice;
use crate::graph::{Graph, NodeId};
use crate::interp::{self, Interpreter};
use crate::numerics::EPS;
use crate::ops::{self, ChooseQParams, Op};
use crate::quantize::spec::{ObservedSpec, QuantizationSpec};
use crate::quantize::{Observer, QuantizationConfig};
use crate::values::slices::{f32s, like};
use crate::values::{DType, Tensor, TensorQParams};

/// The error of each choice for each layer, measured on the float network.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerSensitivities {
    /// The linear layers and convolutions with known weights on which an output depends, in the order of the graph.
    pub layers: Vec<LayerSensitivity>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerSensitivity {
    /// The layer.
    pub name: String,
    /// Elements of its weight.
    pub elements: usize,
    /// The errors of its choices.
    pub errors: Vec<ChoiceError>,
}

/// The error of one layer if it alone is quantized. A noise is the sum of squared errors over the sum of squares of the float values; 0 is
/// no error.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ChoiceError {
    /// The choice.
    pub choice: LayerChoice,
    /// The noise of the layer's own output.
    pub layer_noise: f64,
    /// The noise of the network's worst output.
    pub output_noise: f64,
}

impl ChoiceError {
    /// Returns a noise as a signal to quantization noise ratio in dB; infinite without noise.
    #[must_use]
    pub fn to_db(noise: f64) -> f64 {
        -10.0 * noise.log10()
    }
}

/// Measures, on one batch, the error of each choice for each layer alone: the layer computes on quantized inputs and weights, and the rest of
/// the network in float. Only the nodes behind a layer are computed again. All values of the batch are in memory.
///
/// `progress` is called after each layer, with the number of layers done and of all layers.
///
/// # Errors
/// Returns [`AccuracyError::Interp`] for inputs that do not fit, and [`AccuracyError::NonFinite`] for a value that is NaN or infinite.
pub fn layer_sensitivities(
    graph: &Graph,
    inputs: &[Tensor],
    mut progress: impl FnMut(usize, usize),
) -> Result<LayerSensitivities, AccuracyError> {
    let interpreter = Interpreter::new(graph);
    interpreter.check_inputs(inputs)?;
    let feeds: Vec<_> = graph.inputs().iter().copied().zip(inputs).collect();
    let computed = |id: &NodeId| matches!(interpreter.constant_value(*id), Ok(None));
    let nodes: Vec<NodeId> = graph.iter().map(|(id, _)| id).filter(computed).collect();
    let values = interpreter.run_nodes(&feeds, &nodes)?;
    let value = |id: NodeId| nodes.binary_search(&id).ok().map(|at| &values[at]);
    let outputs: Vec<NodeId> =
        graph.outputs().iter().copied().filter(|id| graph.node(*id).dtype == DType::F32).collect();
    for &id in &outputs {
        if let Some((index, number)) = value(id).and_then(Tensor::first_non_finite) {
            return Err(AccuracyError::NonFinite { node: graph.node(id).name.clone(), index, value: number });
        }
    }
    let users = graph.users();
    let mut layers = Vec::new();
    let all: Vec<NodeId> = nodes.iter().copied().filter(|&id| is_layer(graph, id)).collect();
    for (done, &layer) in all.iter().enumerate() {
        let behind = behind(&users, layer);
        let node = graph.node(layer);
        let reached: Vec<NodeId> = outputs.iter().copied().filter(|id| behind.contains(id)).collect();
        let weight = interpreter.constant_value(node.inputs[1])?;
        let (Some(weight), Some(x), false) = (weight, value(node.inputs[0]), reached.is_empty()) else {
            progress(done + 1, all.len());
            continue;
        };
        if let Some((index, number)) = x.first_non_finite() {
            let node = graph.node(node.inputs[0]).name.clone();
            return Err(AccuracyError::NonFinite { node, index, value: number });
        }
        let bias = node.inputs.get(2).map(|&id| interpreter.constant_value(id)).transpose()?.flatten();
        let bias = bias.as_deref().or_else(|| node.inputs.get(2).and_then(|&id| value(id)));
        let mut errors = Vec::new();
        for choice in LayerChoice::iter() {
            let dynamic = choice.config().is_some_and(|config| config.is_dynamic());
            if dynamic && !matches!(node.op, Op::Linear(_)) {
                continue;
            }
            let mut error = ChoiceError { choice, layer_noise: 0.0, output_noise: 0.0 };
            if let Some(config) = choice.config() {
                let (x, weight) = quantized(&graph.node(node.inputs[0]).name, x, &weight, &config)?;
                let mut arguments = vec![&x, &weight];
                arguments.extend(bias);
                let y = interp::evaluate(node, &arguments)?;
                let own = value(layer).expect("a layer is computed");
                error.layer_noise = noise(own, &y);
                // What is not behind the layer keeps its value.
                let kept = nodes.iter().copied().zip(&values).filter(|(id, _)| !behind.contains(id));
                let feeds: Vec<(NodeId, &Tensor)> = kept.chain([(layer, &y)]).collect();
                let found = interpreter.run_nodes(&feeds, &reached)?;
                let of_output = |(&id, found): (&NodeId, &Tensor)| value(id).map_or(0.0, |own| noise(own, found));
                error.output_noise = reached.iter().zip(&found).map(of_output).fold(0.0, f64::max);
            }
            errors.push(error);
        }
        layers.push(LayerSensitivity { name: node.name.clone(), elements: weight.len(), errors });
        progress(done + 1, all.len());
    }
    Ok(LayerSensitivities { layers })
}

fn is_layer(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op, Op::Linear(_) | Op::Conv(_))
}

/// The nodes whose values depend on a node, itself included.
fn behind(users: &[Vec<NodeId>], from: NodeId) -> HashSet<NodeId> {
    let mut found = HashSet::from([from]);
    let mut pending = vec![from];
    while let Some(id) = pending.pop() {
        pending.extend(users[id.index()].iter().copied().filter(|&user| found.insert(user)));
    }
    found
}

/// The inputs and the weight of a layer, quantized and dequantized. Weights of few bits are clipped.
fn quantized(
    name: &str,
    x: &Tensor,
    weight: &Tensor,
    config: &QuantizationConfig,
) -> Result<(Tensor, Tensor), AccuracyError> {
    let named = |source| AccuracyError::Observer { node: name.to_owned(), source };
    let observed = |spec: &Option<QuantizationSpec>| match spec {
        Some(QuantizationSpec::Observed(spec)) => *spec,
        _ => unreachable!("the choices have observed specs"),
    };
    let (activation, of_weight) = (observed(&config.input_activation), observed(&config.weight));
    let qparams = |spec: ObservedSpec, value: &Tensor| {
        let mut observer = Observer::new(spec)?;
        observer.observe(value)?;
        observer.calculate_qparams()
    };
    let fake = |value: &Tensor, qparams: &TensorQParams, spec: ObservedSpec| {
        let mut y = vec![0.0; value.len()];
        ops::fake_quantize(&mut y, f32s(value), value.shape(), qparams, spec.range);
        like(value, y)
    };
    let x = if activation.is_dynamic() {
        let choose = ChooseQParams { qscheme: activation.qscheme, range: activation.range, eps: EPS };
        let non_finite = |index| AccuracyError::NonFinite { node: name.to_owned(), index, value: f32s(x)[index] };
        ops::fake_quantize_dynamic(x, choose).map_err(non_finite)?
    } else {
        fake(x, &qparams(activation, x).map_err(named)?, activation)
    };
    let mut of_parts = qparams(of_weight, weight).map_err(named)?;
    if of_weight.qscheme.bits < 8 {
        of_parts = clipped(f32s(weight), weight.shape(), &of_parts, of_weight.range).1;
    }
    Ok((x, fake(weight, &of_parts, of_weight)))
}

/// The sum of squared errors over the sum of squares.
fn noise(own: &Tensor, found: &Tensor) -> f64 {
    let (own, found) = (f32s(own), f32s(found));
    let signal = own.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
    let error = own.iter().zip(found).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
    match error {
        0.0 => 0.0,
        // A quantized layer may have a result that is not finite, which no choice may have.
        error if error.is_nan() => f64::INFINITY,
        error => error / signal.max(f64::MIN_POSITIVE),
    }
}
