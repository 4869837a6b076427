//! GPTQ: rounds weights one input feature after another, and lets the features that are left make up for each error (Frantar et al. 2022).

mod factor;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rayon::prelude::*;

use self::factor::inverse_factor;
use super::error::AccuracyError;
use super::hessians::{Hessians, Moments};
use super::statistics::difference_of_structure;
use super::weights::{PreparedWeight, prepared_weights};
use crate::graph::{Graph, NodeId};
use crate::ops::Op;
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
    /// The squared error of the layer's outputs in calibration, compared with that of rounding to nearest.
    pub error: f64,
}

/// Features whose errors are spread together, so that a block of the factor stays in a cache.
const BLOCK: usize = 128;

/// Rows of a weight that one task rounds.
const ROWS: usize = 16;

/// Rounds the weights of linear layers, in the ranges that their observers have: of min/max, or clipped. The rounded weights replace the
/// constants of the prepared graph, and their observers keep the ranges. A weight that layers with different inputs share stays as it is.
///
/// For each feature `j` in turn, with `R` the upper Cholesky factor of the inverse of the damped Hessian, `w_j` is rounded to `q_j`, and
/// `(w_j − q_j) / R_jj · R_jk` is subtracted from each feature `k` that is left.
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
    weights.retain(|weight| values_of(prepared.graph(), weight.constant) == 1);
    let (mut constants, mut observers) = (HashMap::new(), Vec::new());
    let mut report = Vec::new();
    for value in hessians.values() {
        let of_value: Vec<&PreparedWeight> =
            value.layers.iter().filter_map(|&layer| weight_of(prepared, &weights, layer)).collect();
        if of_value.is_empty() || value.sums.is_empty() {
            continue;
        }
        let order = order(value, options.activation_order);
        let factor = inverse_factor(&damped(value, &order, options.damping), value.features);
        let singular = || AccuracyError::Singular {
            layer: of_value[0].name.clone(),
            features: value.features,
            damping: options.damping,
        };
        let factor = factor.ok_or_else(singular)?;
        for weight in of_value {
            let rounded = round(weight, &factor, &order);
            let [before, after] = [&nearest(weight), &rounded].map(|w| output_error(weight, w, &value.sums));
            let error = if before > 0.0 { after / before } else { 1.0 };
            let tensor = Tensor::from_f32(weight.value.shape(), rounded).expect("as many values");
            report.push(RoundedWeight { name: weight.name.clone(), error });
            constants.insert(weight.constant, Arc::new(tensor));
            observers.push((weight.observer, weight.qparams.clone()));
        }
    }
    prepared.edit(&constants, observers);
    Ok(report)
}

/// The number of values that linear layers with this weight read.
fn values_of(graph: &Graph, constant: NodeId) -> usize {
    let unobserved = |mut id: NodeId| {
        while matches!(graph.node(id).op, Op::Observe(_)) {
            id = graph.node(id).inputs[0];
        }
        id
    };
    let layers = graph.nodes().iter().filter(|node| matches!(node.op, Op::Linear(_)));
    let of_weight = layers.filter(|node| unobserved(node.inputs[1]) == constant);
    of_weight.map(|node| unobserved(node.inputs[0])).collect::<HashSet<_>>().len()
}

/// The weight of a linear layer.
fn weight_of<'w>(prepared: &PreparedGraph, weights: &'w [PreparedWeight], layer: NodeId) -> Option<&'w PreparedWeight> {
    let observed = prepared.graph().node(layer).inputs[1];
    let constant = prepared.graph().node(observed).inputs.first().copied();
    weights.iter().find(|weight| Some(weight.constant) == constant)
}

/// The features in the order in which they are rounded.
fn order(value: &Moments, by_moments: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..value.features).collect();
    if by_moments {
        let moment = |j: usize| value.sums[j * value.features + j];
        order.sort_by(|&a, &b| moment(b).total_cmp(&moment(a)));
    }
    order
}

/// The Hessian in another order, with its diagonal damped. A feature that is never active gets a diagonal of 1: it depends on no other.
fn damped(value: &Moments, order: &[usize], damping: f64) -> Vec<f64> {
    let k = value.features;
    let diagonal = |j: usize| value.sums[j * k + j];
    let mean = order.iter().map(|&j| diagonal(j)).sum::<f64>() / k as f64;
    let mut hessian: Vec<f64> = order.iter().flat_map(|&i| order.iter().map(move |&j| value.sums[i * k + j])).collect();
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

fn nearest(weight: &PreparedWeight) -> Vec<f32> {
    let k = weight.value.shape()[1];
    let round = |(at, &w): (usize, &f32)| to_grid(f64::from(w), grid(weight, at / k, at % k), weight.range) as f32;
    f32s(&weight.value).iter().enumerate().map(round).collect()
}

/// Rounds the rows of a weight, each on its own.
fn round(weight: &PreparedWeight, factor: &[f64], order: &[usize]) -> Vec<f32> {
    let k = order.len();
    let mut rounded = vec![0f32; weight.value.len()];
    let tasks = rounded.par_chunks_mut(ROWS * k).zip(f32s(&weight.value).par_chunks(ROWS * k)).enumerate();
    tasks.for_each(|(task, (to, from))| {
        for (at, (to, from)) in to.chunks_exact_mut(k).zip(from.chunks_exact(k)).enumerate() {
            let mut row: Vec<f64> = order.iter().map(|&j| f64::from(from[j])).collect();
            let grids: Vec<QParams> = order.iter().map(|&j| grid(weight, task * ROWS + at, j)).collect();
            round_row(&mut row, factor, &grids, weight.range);
            order.iter().zip(row).for_each(|(&j, w)| to[j] = w as f32);
        }
    });
    rounded
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

/// The squared error of a layer's outputs, `Σ_n eᵀ H e` with `e` the error of the row `n` of the weight.
fn output_error(weight: &PreparedWeight, rounded: &[f32], hessian: &[f64]) -> f64 {
    let k = weight.value.shape()[1];
    let rows = f32s(&weight.value).par_chunks(k).zip(rounded.par_chunks(k));
    let of_row = |(w, q): (&[f32], &[f32])| {
        let errors: Vec<f64> = w.iter().zip(q).map(|(&w, &q)| f64::from(w) - f64::from(q)).collect();
        let of_feature =
            |(error, row): (&f64, &[f64])| error * row.iter().zip(&errors).map(|(h, e)| h * e).sum::<f64>();
        errors.iter().zip(hessian.chunks_exact(k)).map(of_feature).sum::<f64>()
    };
    rows.map(of_row).collect::<Vec<_>>().into_iter().sum()
}
