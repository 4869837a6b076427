//! Runs one node of the graph under test with the inputs that it has in the reference.

use std::collections::{HashMap, HashSet};

use super::error::CompareError;
use super::index::Index;
use super::metrics::sqnr_db;
use super::values::{Values, real};
use crate::graph::NodeId;
use crate::interp::{InterpError, Interpreter};
use crate::numerics;
use crate::ops::{Dequantize, DequantizeDynamic, Input, IntegerLinear, IntegerLinearGroups, Op, Requantize};
use crate::values::{DType, Tensor};

pub(super) struct Actual<'a> {
    pub(super) interpreter: &'a Interpreter,
    /// The index of the graph under test.
    pub(super) index: &'a Index,
    pub(super) reference: &'a Values,
    /// The inputs of both graphs.
    pub(super) inputs: &'a [&'a Tensor],
}

impl Actual<'_> {
    /// The value of a node when all values that it reads come from the reference, quantized where the node reads quantized values. The
    /// nodes that quantize its inputs are run with it.
    pub(super) fn run(&self, id: NodeId) -> Result<Tensor, InterpError> {
        let graph = self.interpreter.graph();
        let origin = &graph.node(id).origin;
        let mut fed: HashMap<NodeId, Tensor> = HashMap::new();
        let mut seen = HashSet::new();
        let mut pending = vec![id];
        while let Some(at) = pending.pop() {
            if !seen.insert(at) || self.interpreter.constant_value(at)?.is_some() {
                continue;
            }
            let node = graph.node(at);
            let of_another = node.origin != *origin || matches!(node.op, Op::Input(Input));
            if of_another
                && at != id
                && !quantizes(&node.op)
                && let Some(value) = self.value(at)
            {
                fed.insert(at, value);
                continue;
            }
            // Ids and masks are the same in both.
            if let Some(at_input) = self.index.input_at(at) {
                fed.insert(at, self.inputs[at_input].clone());
            }
            pending.extend(&node.inputs);
        }
        let feeds: Vec<_> = fed.iter().map(|(&id, tensor)| (id, tensor)).collect();
        let value = self.interpreter.run_nodes(&feeds, &[id])?.swap_remove(0);
        Ok(real(self.index, id, value))
    }

    /// The value of a node's origin in the reference, quantized if the node is.
    fn value(&self, id: NodeId) -> Option<Tensor> {
        let graph = self.interpreter.graph();
        let node = graph.node(id);
        let reference = self.reference.by_origin.get(&node.origin)?;
        let value = &self.reference.reals[reference];
        let quantized = |q: crate::values::QParams| {
            let quantize = |&v: &f32| numerics::quantize(v, q.inv_scale(), q.zero_point(), -128, 127) as i8;
            Tensor::from_i8(value.shape(), value.as_f32()?.iter().map(quantize).collect()).ok()
        };
        let fits = node.shape.admits(value.shape());
        match node.dtype {
            DType::F32 if fits => Some(value.clone()),
            DType::I8 if fits => quantized(self.index.qparams(id)?),
            _ => None,
        }
    }

    /// Signal to quantization noise of the weight of the layer with this origin, in dB.
    pub(super) fn weight_sqnr_db(&self, origin: &str, truth: &Interpreter) -> Result<Option<f64>, CompareError> {
        let of_truth = &self.reference.index;
        let (Some(layer), Some(own)) = (of_truth.layer_of(origin), self.index.layer_of(origin)) else {
            return Ok(None);
        };
        let weights = (weight(truth, of_truth, layer)?, weight(self.interpreter, self.index, own)?);
        let (Some(expected), Some(got)) = weights else { return Ok(None) };
        (got.reals.len() == expected.reals.len()).then(|| sqnr_db(&expected.reals, &got.reals)).transpose()
    }
}

/// Whether a node has the origin of the value that it quantizes.
fn quantizes(op: &Op) -> bool {
    matches!(
        op,
        Op::Quantize(_)
            | Op::Dequantize(_)
            | Op::ChooseQParams(_)
            | Op::QuantizeDynamic(_)
            | Op::DequantizeDynamic(DequantizeDynamic)
    )
}

/// The weight of a layer in real units, K elements for each of N channels.
#[derive(Debug, Clone)]
pub(super) struct Weight {
    pub(super) reals: Vec<f32>,
    pub(super) k: usize,
    /// Whether it is quantized.
    pub(super) quantized: bool,
    /// Whether it is quantized per channel.
    pub(super) per_channel: bool,
}

/// The weight of a layer; `None` if it is not known.
pub(super) fn weight(interpreter: &Interpreter, index: &Index, layer: NodeId) -> Result<Option<Weight>, InterpError> {
    let graph = interpreter.graph();
    let node = graph.node(layer);
    let Some(weight) = interpreter.constant_value(node.inputs[1])? else { return Ok(None) };
    let k = weight.shape().iter().skip(1).product::<usize>().max(1);
    let fraction_bits = match &node.op {
        Op::IntegerLinear(IntegerLinear { fraction_bits }) => Some(*fraction_bits),
        Op::IntegerLinearGroups(IntegerLinearGroups { fraction_bits, .. }) => Some(*fraction_bits),
        Op::IntegerConv(conv) => Some(conv.fraction_bits),
        _ => None,
    };
    let Some(fraction_bits) = fraction_bits else {
        let Some(reals) = weight.as_f32().map(<[f32]>::to_vec) else { return Ok(None) };
        let op = &graph.node(node.inputs[1]).op;
        let per_channel = match op {
            Op::Dequantize(Dequantize { qparams }) => qparams.per_tensor().is_none(),
            _ => false,
        };
        return Ok(Some(Weight { reals, k, quantized: matches!(op, Op::Dequantize(_)), per_channel }));
    };
    // The scales are in the factors of the epilogue.
    let Some(epilogue) = index.reader_of(layer).map(|reader| graph.node(reader)) else { return Ok(None) };
    let factors = match epilogue.op {
        Op::ScaleAccumulatorDynamic(_) => epilogue.inputs[3],
        _ => epilogue.inputs[1],
    };
    let Some(factors) = interpreter.constant_value(factors)? else { return Ok(None) };
    let x_scale = index.qparams(node.inputs[0]).map(|x| f64::from(x.scale()));
    let steps = f64::from(1u32 << fraction_bits);
    let unit = match (&epilogue.op, x_scale) {
        (Op::ScaleAccumulatorDynamic(_), _) => 1.0,
        (Op::Requantize(Requantize { qparams, .. }), Some(x)) => f64::from(qparams.scale()) * steps / x,
        (Op::ScaleAccumulator(_), Some(x)) => steps / x,
        _ => return Ok(None),
    };
    let (Some(values), Some(factors)) = (weight.as_i8(), factors.as_f32()) else { return Ok(None) };
    let groups = match &node.op {
        Op::IntegerLinearGroups(IntegerLinearGroups { group_size, .. }) => {
            let constants = [3, 4].map(|at| interpreter.constant_value(node.inputs[at]));
            let [Some(multipliers), Some(zero_points)] = constants.map(|tensor| tensor.ok().flatten()) else {
                return Ok(None);
            };
            Some((*group_size, multipliers, zero_points))
        }
        _ => None,
    };
    // A weight in steps of its channel.
    let steps = |at: usize, value: i8| match &groups {
        None => f64::from(value),
        Some((size, multipliers, zero_points)) => {
            let group = at / k * k.div_ceil(*size) + at % k / size;
            let zero_point = zero_points.as_i8().map_or(0, |zero_points| zero_points[group]);
            let multiplier = multipliers.as_i32().map_or(1, |multipliers| multipliers[group]);
            (f64::from(value) - f64::from(zero_point)) * f64::from(multiplier)
        }
    };
    let real = |(at, &value): (usize, &i8)| (steps(at, value) * f64::from(factors[at / k]) * unit) as f32;
    let reals = values.iter().enumerate().map(real).collect();
    // A scale for the tensor is repeated for each channel.
    let per_channel = factors.windows(2).any(|pair| pair[0] != pair[1]);
    Ok(Some(Weight { reals, k, quantized: true, per_channel }))
}
