//! GPTQ: rounds weights one input feature after another, and lets the features that are left make up for each error (Frantar et al. 2022).

mod factor;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use self::factor::{dot, inverse_factor};
use super::error::AccuracyError;
use super::hessians::{Hessians, moments};
use super::statistics::difference_of_structure;
use super::weights::{PreparedWeight, prepared_weights};
use crate::graph::NodeId;
use crate::quantize::PreparedGraph;
use crate::values::slices::f32s;
use crate::values::{QParams, QuantRange, Tensor, TensorQParams};

/// The options of [`gptq`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct GptqOptions {
    /// Added to the diagonal of the Hessian, as a share of its mean. 0.01 by default.
    pub damping: f64,
    /// Rounds the features with the largest second moments first. On by default.
    pub activation_order: bool,
}

impl Default for GptqOptions {
    fn default() -> Self {
        Self { damping: 0.01, activation_order: true }
    }
}

impl GptqOptions {
    /// Returns the options with another damping.
    #[must_use]
    pub fn with_damping(self, damping: f64) -> Self {
        Self { damping, ..self }
    }

    /// Returns the options with the order of the second moments, or that of the weight.
    #[must_use]
    pub fn with_activation_order(self, activation_order: bool) -> Self {
        Self { activation_order, ..self }
    }
}

/// A weight that [`gptq`] has rounded.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RoundedWeight {
    /// The weight.
    pub name: String,
    /// The squared error of the layer's outputs in calibration, compared with that of rounding to nearest; at most 1.
    pub error: f64,
    /// The number of output channels.
    pub rows: usize,
    /// The number of output channels for which rounding to nearest is at least as good. They are rounded to nearest.
    pub nearest_rows: usize,
}

/// Features whose errors are spread together, so that a block of the factor stays in a cache.
const BLOCK: usize = 128;

/// Rounds the weights of linear layers and convolutions, in the ranges that their observers have: of min/max, or clipped. The rounded weights
/// replace the constants of the prepared graph, and their observers keep the ranges. Which weights stay as they are, [`gptq_skips`] tells.
///
/// For each feature `j` in turn, with `R` the upper Cholesky factor of the inverse of the damped Hessian, `w_j` is rounded to `q_j`, and
/// `(w_j − q_j) / R_jj · R_jk` is subtracted from each feature `k` that is left. An output channel whose error would be larger than that of
/// rounding to nearest, which happens if clipping cuts off what was subtracted, is rounded to nearest.
///
/// # Errors
/// Returns [`AccuracyError::OtherGraph`] for sums of another graph, [`AccuracyError::NoData`] for sums of no batch,
/// [`AccuracyError::Parameter`] for a damping outside 0..=1, and [`AccuracyError::Singular`] for moments without a Cholesky factor.
pub fn gptq(
    prepared: &mut PreparedGraph,
    hessians: &Hessians,
    options: &GptqOptions,
) -> Result<Vec<RoundedWeight>, AccuracyError> {
    AccuracyError::check("damping", options.damping, 0.0, 1.0)?;
    if hessians.batches() == 0 {
        return Err(AccuracyError::NoData);
    }
    // The weights of another part may be rounded already.
    if let Some(problem) = difference_of_structure(prepared.graph(), hessians.graph()) {
        return Err(AccuracyError::OtherGraph { problem });
    }
    let mut weights = prepared_weights(prepared)?;
    let readings = readings(prepared);
    weights.retain(|weight| readings.get(&weight.constant) == Some(&1));
    let (mut constants, mut observers) = (HashMap::new(), Vec::new());
    let mut report = Vec::new();
    for value in hessians.values() {
        let of_value: Vec<&PreparedWeight> =
            value.layers.iter().filter_map(|&layer| weight_of(prepared, &weights, layer)).collect();
        let mut results = vec![Rounded::default(); of_value.len()];
        // Groups of a convolution have features and rows of their own.
        for (group, sums) in value.sums.iter().enumerate().filter(|_| !of_value.is_empty()) {
            let (moments, k) = (sums.matrix(), sums.features());
            let order = order(&moments, k, options.activation_order);
            let factor = inverse_factor(&damped(&moments, &order, options.damping), k);
            let singular =
                || AccuracyError::Singular { layer: of_value[0].name.clone(), features: k, damping: options.damping };
            let factor = factor.ok_or_else(singular)?;
            for (weight, result) in of_value.iter().zip(&mut results) {
                let rows = weight.value.shape()[0] / value.sums.len();
                result.round(weight, group * rows..(group + 1) * rows, &factor, &order, &moments);
            }
        }
        for (weight, result) in of_value.into_iter().zip(results) {
            let tensor = Tensor::from_f32(weight.value.shape(), result.values).expect("as many values");
            let error = if result.before > 0.0 { result.after / result.before } else { 1.0 };
            let (name, rows) = (weight.name.clone(), weight.value.shape()[0]);
            report.push(RoundedWeight { name, error, rows, nearest_rows: result.nearest_rows });
            constants.insert(weight.constant, Arc::new(tensor));
            observers.push((weight.observer, weight.qparams.clone()));
        }
    }
    prepared.edit(&constants, observers);
    Ok(report)
}

/// Returns the quantized weights that [`gptq`] leaves as they are, each with the reason.
///
/// # Errors
/// Returns [`AccuracyError::Observer`] for a weight whose range has no scale.
pub fn gptq_skips(prepared: &PreparedGraph) -> Result<Vec<(String, &'static str)>, AccuracyError> {
    let readings = readings(prepared);
    let reason = |weight: &PreparedWeight| match readings.get(&weight.constant) {
        Some(1) => None,
        Some(_) => Some("layers with different inputs share it"),
        None => Some("it is that of a transposed convolution"),
    };
    let weights = prepared_weights(prepared)?;
    Ok(weights.into_iter().filter_map(|weight| reason(&weight).map(|reason| (weight.name, reason))).collect())
}

/// For each weight of linear layers and convolutions, the number of different inputs that are multiplied with it.
fn readings(prepared: &PreparedGraph) -> HashMap<NodeId, usize> {
    let graph = prepared.graph();
    let mut readings = HashMap::new();
    for value in moments(prepared) {
        let constant = |layer: &NodeId| graph.node(graph.node(*layer).inputs[1]).inputs.first().copied();
        let constants: HashSet<NodeId> = value.layers.iter().filter_map(constant).collect();
        constants.into_iter().for_each(|id| *readings.entry(id).or_default() += 1);
    }
    readings
}

/// The weight of a layer.
fn weight_of<'w>(prepared: &PreparedGraph, weights: &'w [PreparedWeight], layer: NodeId) -> Option<&'w PreparedWeight> {
    let observed = prepared.graph().node(layer).inputs[1];
    let constant = prepared.graph().node(observed).inputs.first().copied();
    weights.iter().find(|weight| Some(weight.constant) == constant)
}

/// The features in the order in which they are rounded.
fn order(moments: &[f64], k: usize, by_moments: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..k).collect();
    if by_moments {
        let moment = |j: usize| moments[j * k + j];
        order.sort_by(|&a, &b| moment(b).total_cmp(&moment(a)));
    }
    order
}

/// The Hessian in another order, with its diagonal damped. A feature that is never active gets a diagonal of 1: it depends on no other.
fn damped(moments: &[f64], order: &[usize], damping: f64) -> Vec<f64> {
    let k = order.len();
    let diagonal = |j: usize| moments[j * k + j];
    let mean = order.iter().map(|&j| diagonal(j)).sum::<f64>() / k as f64;
    let mut hessian: Vec<f64> = order.iter().flat_map(|&i| order.iter().map(move |&j| moments[i * k + j])).collect();
    for (at, &j) in order.iter().enumerate() {
        hessian[at * k + at] = if diagonal(j) == 0.0 { 1.0 } else { diagonal(j) + damping * mean };
    }
    hessian
}

/// Rounds a value to the grid of a channel.
fn to_grid(w: f64, q: QParams, range: QuantRange) -> f64 {
    let (lo, hi) = (f64::from(range.quant_min() - q.zero_point()), f64::from(range.quant_max() - q.zero_point()));
    let scale = f64::from(q.scale());
    (w / scale).round_ties_even().clamp(lo, hi) * scale
}

/// The qparams of an element.
fn grid(weight: &PreparedWeight, row: usize, feature: usize) -> QParams {
    match &weight.qparams {
        TensorQParams::PerTensor(qparams) => *qparams,
        TensorQParams::PerChannel { channels, .. } => channels[row],
        TensorQParams::PerGroup(groups) => groups.groups()[row * groups.groups_per_row() + feature / groups.size()],
    }
}

/// A weight in the making.
#[derive(Debug, Clone, Default)]
struct Rounded {
    values: Vec<f32>,
    /// The squared errors of the layer's outputs, rounded to nearest and as they are.
    before: f64,
    after: f64,
    nearest_rows: usize,
}

impl Rounded {
    /// Adds the next rows of a weight, each rounded on its own.
    fn round(&mut self, weight: &PreparedWeight, rows: Range<usize>, factor: &[f64], order: &[usize], moments: &[f64]) {
        let k = order.len();
        let of_row = |row: usize| {
            let from = &f32s(&weight.value)[row * k..][..k];
            let grids: Vec<QParams> = (0..k).map(|j| grid(weight, row, j)).collect();
            let nearest = from.iter().zip(&grids).map(|(&w, &q)| to_grid(f64::from(w), q, weight.range) as f32);
            let nearest: Vec<f32> = nearest.collect();
            let mut ordered: Vec<f64> = order.iter().map(|&j| f64::from(from[j])).collect();
            let grids: Vec<QParams> = order.iter().map(|&j| grids[j]).collect();
            round_row(&mut ordered, factor, &grids, weight.range);
            let mut rounded = vec![0f32; k];
            order.iter().zip(ordered).for_each(|(&j, w)| rounded[j] = w as f32);
            let [before, after] = [&nearest, &rounded].map(|rounded| output_error(from, rounded, moments));
            // Compared so that an error that is no number counts as larger.
            if after < before { (rounded, before, after, 0) } else { (nearest, before, before, 1) }
        };
        for (values, before, after, nearest) in rows.into_par_iter().map(of_row).collect::<Vec<_>>() {
            self.values.extend(values);
            self.before += before;
            self.after += after;
            self.nearest_rows += nearest;
        }
    }
}

fn round_row(row: &mut [f64], factor: &[f64], grids: &[QParams], range: QuantRange) {
    let k = row.len();
    let subtract = |row: &mut [f64], factor: &[f64], error: f64| {
        row.iter_mut().zip(factor).for_each(|(w, r)| *w -= error * r);
    };
    let mut errors = [0f64; BLOCK];
    for first in (0..k).step_by(BLOCK) {
        let end = k.min(first + BLOCK);
        for j in first..end {
            let q = to_grid(row[j], grids[j], range);
            let error = (row[j] - q) / factor[j * k + j];
            row[j] = q;
            errors[j - first] = error;
            subtract(&mut row[j + 1..end], &factor[j * k + j + 1..][..end - j - 1], error);
        }
        for j in first..end {
            subtract(&mut row[end..], &factor[j * k + end..][..k - end], errors[j - first]);
        }
    }
}

/// The squared error of an output channel, `eᵀ H e` with `e` the error of its row of the weight.
fn output_error(row: &[f32], rounded: &[f32], hessian: &[f64]) -> f64 {
    let errors: Vec<f64> = row.iter().zip(rounded).map(|(&w, &q)| f64::from(w) - f64::from(q)).collect();
    let of_feature = |(error, row): (&f64, &[f64])| error * dot(row, &errors);
    errors.iter().zip(hessian.chunks_exact(row.len().max(1))).map(of_feature).sum()
}
