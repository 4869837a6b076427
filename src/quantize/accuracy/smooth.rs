//! Smoothing: outliers of activations move into weights (SmoothQuant: Xiao et al. 2022; with layers as producers, cross-layer
//! equalization: Nagel et al. 2019).
//!
//! A layer computes `Σ_j x_j · w_nj`. Each channel `j` of x is divided by `s_j`, and the column `j` of the weight multiplied by it. The
//! sum is the same, but x has a narrower range. `s_j = a_j^α / w_j^(1−α)`, divided by the mean of all `s`, where `a_j` is the largest
//! magnitude of the channel in calibration, and `w_j` that of the column in all layers that read x.

mod apply;
mod error_of;
mod producer;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::apply::{Edits, apply};
use self::error_of::{LayerErrors, Ranges};
use self::producer::{Producer, producer};
use super::error::AccuracyError;
use super::statistics::{ChannelStatistics, Channels};
use super::weights::{known_weight, matrix};
use crate::graph::{Graph, NodeId};

/// The options of [`smooth`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SmoothOptions {
    /// α in 0..=1: how much of the range of activations moves into weights. 0.8 by default. The original paper has 0.5, which made
    /// encoders worse.
    pub alpha: f32,
    /// Tries several α for each value, and takes the one with the least error of the layers' int8 outputs on the samples.
    pub search: bool,
    /// The network will be quantized dynamically: the ranges of activations are those of their values. Otherwise, observers may clip them.
    pub dynamic: bool,
    /// The same with a range for each token, where smoothing has less to gain.
    #[serde(default)]
    pub per_token: bool,
    /// Inserted products, and the functions that they follow, get a reason to stay in float ([`Node::float_reason`](crate::graph::Node)). On by
    /// default: a value that is quantized before it is smoothed gains nothing.
    pub float_products: bool,
}

impl Default for SmoothOptions {
    fn default() -> Self {
        Self { alpha: 0.8, search: false, dynamic: false, per_token: false, float_products: true }
    }
}

impl SmoothOptions {
    /// Returns the options with another α.
    #[must_use]
    pub fn with_alpha(self, alpha: f32) -> Self {
        Self { alpha, ..self }
    }

    /// Returns the options with a search for α.
    #[must_use]
    pub fn with_search(self, search: bool) -> Self {
        Self { search, ..self }
    }

    /// Returns the options for dynamic quantization, or for static.
    #[must_use]
    pub fn with_dynamic(self, dynamic: bool) -> Self {
        Self { dynamic, per_token: self.per_token && dynamic, ..self }
    }

    /// Returns the options for dynamic quantization with a range for each token, or for one range.
    #[must_use]
    pub fn with_per_token(self, per_token: bool) -> Self {
        Self { dynamic: self.dynamic || per_token, per_token, ..self }
    }

    /// Returns the options whose products, and the functions in front of them, stay in float, or are quantized like other nodes.
    #[must_use]
    pub fn with_float_products(self, float_products: bool) -> Self {
        Self { float_products, ..self }
    }
}

/// The values of α that a search tries.
const SEARCHED: [f32; 7] = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// The error of another α in a search, as a share of the default's, from which on it is clearly better.
const CLEARLY: f64 = 0.6;

/// A product in front of a layer pays if it halves the squared error of the layer's output.
const PAYS: f64 = 0.5;

/// A float graph after [`smooth`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Smoothed {
    /// The graph. Its outputs are those of the original, up to rounding.
    pub graph: Graph,
    /// The values that layers read, in the order of the graph.
    pub values: Vec<SmoothedValue>,
    /// Names of the nodes that have got a reason to stay in float, which [`WgpuQuantizer`](crate::quantize::WgpuQuantizer) obeys and archives
    /// keep: inserted products, and the functions that they follow.
    pub float: Vec<String>,
}

/// One value that layers read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct SmoothedValue {
    /// The node of the value.
    pub name: String,
    /// The layers that read it.
    pub layers: Vec<String>,
    /// The node that divides its channels.
    pub place: SmoothingPlace,
    /// α, if the value was smoothed.
    pub alpha: Option<f32>,
    /// The squared error of the layers' int8 outputs on the samples, compared with that before.
    pub error: f64,
}

/// The node that divides the channels of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SmoothingPlace {
    /// The weight and bias of a norm that only these layers read.
    Norm(String),
    /// A copy of a norm for these layers; others read the norm itself.
    NormCopy(String),
    /// The weight and bias of the layer that computes the value.
    Layer(String),
    /// A product in front of the layers.
    Product,
}

impl fmt::Display for SmoothedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (read by {}): ", self.name, self.layers.join(", "))?;
        let Some(alpha) = self.alpha else { return f.write_str("not smoothed, the error would not shrink enough") };
        match &self.place {
            SmoothingPlace::Norm(norm) => write!(f, "in the weight of {norm}")?,
            SmoothingPlace::NormCopy(norm) => write!(f, "in a copy of {norm}")?,
            SmoothingPlace::Layer(layer) => write!(f, "in the weight of {layer}")?,
            SmoothingPlace::Product => f.write_str("by a product")?,
        }
        write!(f, ", alpha {alpha}, {:.2} of the squared error", self.error)
    }
}

impl fmt::Display for Smoothed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values.iter().try_for_each(|value| writeln!(f, "{value}"))
    }
}

/// Smooths the values that linear layers and convolutions read, by the statistics of calibration. A value stays as it is if the error of
/// its layers' int8 outputs would not shrink, or, where a product has to be inserted, not by half.
///
/// # Errors
/// Returns [`AccuracyError::OtherGraph`] for statistics of another graph, [`AccuracyError::NoData`] for statistics of no batch, and
/// [`AccuracyError::Parameter`] for an α outside 0..=1.
pub fn smooth(
    graph: &Graph,
    statistics: &ChannelStatistics,
    options: &SmoothOptions,
) -> Result<Smoothed, AccuracyError> {
    AccuracyError::check("alpha", f64::from(options.alpha), 0.0, 1.0)?;
    if let Some(problem) = super::statistics::difference(graph, statistics.interpreter().graph()) {
        return Err(AccuracyError::OtherGraph { problem });
    }
    if statistics.batches() == 0 {
        return Err(AccuracyError::NoData);
    }
    let users = graph.users();
    let mut edits = Edits::default();
    let mut values = Vec::new();
    // The weight of a layer that divides its outputs is known before the columns of that weight are looked at.
    for value in statistics.values().iter().rev() {
        values.extend(smooth_value(graph, &users, statistics, value, options, &mut edits)?);
    }
    values.reverse();
    let (graph, float) = apply(graph, statistics.interpreter(), &edits, options.float_products)?;
    Ok(Smoothed { graph, values, float })
}

fn smooth_value(
    graph: &Graph,
    users: &[Vec<NodeId>],
    statistics: &ChannelStatistics,
    value: &Channels,
    options: &SmoothOptions,
    edits: &mut Edits,
) -> Result<Option<SmoothedValue>, AccuracyError> {
    let channels = value.maxima.len();
    let (mut matrices, mut rows_of_scales) = (Vec::new(), Vec::new());
    for &layer in &value.readers {
        let Some(weight) = known_weight(statistics.interpreter(), layer)? else { return Ok(None) };
        let taps = weight.len() / (weight.shape()[0] * channels).max(1);
        let mut matrix = matrix(&weight);
        if let Some(scales) = edits.of_outputs(layer) {
            let rows = matrix.chunks_exact_mut(channels * taps).zip(scales);
            rows.for_each(|(row, scale)| row.iter_mut().for_each(|w| *w = (f64::from(*w) / scale) as f32));
        }
        matrices.extend(matrix);
        rows_of_scales.resize(rows_of_scales.len() + weight.shape()[0], taps);
    }
    // A value that layers read along two axes is divided along one of them.
    if channels == 0 || value.samples.is_empty() || edits.divides(value.id) {
        return Ok(None);
    }
    let producer = producer(graph, users, statistics.interpreter(), value)?;
    let errors = LayerErrors::new(&value.samples, (&matrices, &rows_of_scales), channels, Ranges::of(options));
    let before = errors.of(None);
    let candidates = if options.search { &SEARCHED[..] } else { std::slice::from_ref(&options.alpha) };
    let tried = candidates.iter().map(|&alpha| {
        let scales = scales(&value.maxima, &matrices, alpha);
        (errors.of(Some(&scales)), alpha, scales)
    });
    // The samples are few: another α than the default must be clearly better.
    let weighed = |(error, alpha, _): &(f64, f32, Vec<f64>)| {
        if *alpha == SmoothOptions::default().alpha { error * CLEARLY } else { *error }
    };
    let best = tried.reduce(|best, next| if weighed(&next) < weighed(&best) { next } else { best });
    let enough = if matches!(producer, Producer::None) { PAYS } else { 1.0 };
    let best = best.filter(|(after, ..)| *after < before * enough);
    let name = |id: NodeId| graph.node(id).name.clone();
    let place = match &producer {
        Producer::Norm { norm, copy: false, .. } => SmoothingPlace::Norm(name(*norm)),
        Producer::Norm { norm, copy: true, .. } => SmoothingPlace::NormCopy(name(*norm)),
        Producer::Layer { layer, .. } => SmoothingPlace::Layer(name(*layer)),
        Producer::None => SmoothingPlace::Product,
    };
    let (alpha, error) = best.as_ref().map_or((None, 1.0), |(after, alpha, _)| (Some(*alpha), after / before));
    if let Some((_, _, scales)) = best {
        edits.add(value, producer, scales);
    }
    Ok(Some(SmoothedValue {
        name: name(value.id),
        layers: value.readers.iter().map(|&id| name(id)).collect(),
        place,
        alpha,
        error,
    }))
}

/// The divisor of each channel. A channel that is never active, or that no layer reads, keeps 1.
fn scales(maxima: &[f32], matrix: &[f32], alpha: f32) -> Vec<f64> {
    let mut columns = vec![0f32; maxima.len()];
    for row in matrix.chunks_exact(maxima.len()) {
        columns.iter_mut().zip(row).for_each(|(max, w)| *max = max.max(w.abs()));
    }
    let alpha = f64::from(alpha);
    let scale = |(&a, &w): (&f32, &f32)| {
        (a > 0.0 && w > 0.0).then(|| f64::from(a).powf(alpha) / f64::from(w).powf(1.0 - alpha))
    };
    let scales: Vec<Option<f64>> = maxima.iter().zip(&columns).map(scale).collect();
    let live: Vec<f64> = scales.iter().flatten().copied().collect();
    let mean = live.iter().sum::<f64>() / live.len().max(1) as f64;
    // Far from 1, a channel would leave the range of f32, or its quantized weights that of their type.
    scales.into_iter().map(|scale| scale.map_or(1.0, |scale| (scale / mean).clamp(1e-4, 1e4))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_follow_the_formula() {
        // Two live channels, one never active, one that no layer reads.
        let found = scales(&[8.0, 2.0, 0.0, 5.0], &[0.5, -4.0, 1.0, 0.0, -0.25, 1.0, 3.0, 0.0], 0.5);
        let [a, b] = [(8f64 / 0.5).sqrt(), (2f64 / 4.0).sqrt()];
        let mean = (a + b) / 2.0;
        for (found, expected) in found.iter().zip([a / mean, b / mean, 1.0, 1.0]) {
            approx::assert_relative_eq!(*found, expected, max_relative = 1e-12);
        }
        // With α = 1, all channels get the same range.
        let found = scales(&[8.0, 2.0], &[0.5, -4.0], 1.0);
        approx::assert_relative_eq!(8.0 / found[0], 2.0 / found[1], max_relative = 1e-12);
    }

    /// The scales of `tests/accuracy/reference.py`.
    #[test]
    fn scales_equal_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/accuracy/reference.safetensors");
        let bytes = std::fs::read(path).expect("a file of the tests");
        let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
        let values = |name: String| -> Vec<f32> {
            let data = file.tensor(&name).expect("a tensor").data().to_vec();
            data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
        };
        for name in ["small", "blocks", "wide"] {
            let (inputs, weight) = (values(format!("{name}.inputs")), values(format!("{name}.weight")));
            for alpha in [0.5, 0.8] {
                let expected = values(format!("{name}.smoothing.{alpha}"));
                let mut maxima = vec![0f32; expected.len()];
                for token in inputs.chunks_exact(expected.len()) {
                    maxima.iter_mut().zip(token).for_each(|(max, x)| *max = max.max(x.abs()));
                }
                let found = scales(&maxima, &weight, alpha);
                for (found, &expected) in found.iter().zip(&expected) {
                    approx::assert_relative_eq!(*found, f64::from(expected), max_relative = 1e-6);
                }
                assert!(
                    scales(&maxima, &weight, alpha + 0.01)
                        .iter()
                        .zip(&expected)
                        .any(|(a, &b)| (a - f64::from(b)).abs() > 1e-3)
                );
            }
        }
    }
}
