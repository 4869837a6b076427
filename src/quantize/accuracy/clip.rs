//! Ranges of weights with the least squared error.

use std::collections::HashMap;

use rayon::prelude::*;

use super::error::AccuracyError;
use super::weights::{PreparedWeight, prepared_weights};
use crate::numerics;
use crate::quantize::PreparedGraph;
use crate::values::{QParams, QuantRange, TensorQParams};

/// A weight whose range was clipped.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ClippedWeight {
    /// The weight.
    pub name: String,
    /// The squared error of its values, compared with that of the range of all values; at most 1.
    pub error: f64,
}

/// The shares of a range that are tried, in percent.
const SHARES: std::ops::RangeInclusive<u32> = 20..=100;

/// Narrows the range of each symmetric weight that is quantized to where the squared error of its values is least, for each of its
/// channels if it has a scale for each: of 20 to 100 percent of the largest magnitude. With few bits, a narrower range costs less in its
/// clipped values than it gains in its step.
///
/// # Errors
/// Returns [`AccuracyError::Observer`] for a weight whose observer has no parameters.
pub fn clip_weights(prepared: &mut PreparedGraph) -> Result<Vec<ClippedWeight>, AccuracyError> {
    let weights = prepared_weights(prepared)?;
    let clip = |weight: &PreparedWeight| {
        let channels: Vec<QParams> = weight.qparams.channels().to_vec();
        if channels.iter().any(|q| q.zero_point() != 0) {
            return None;
        }
        let range = weight.range;
        let clipped: Vec<(QParams, [f64; 2])> = weight
            .channels()
            .into_par_iter()
            .zip(&channels)
            .map(|(values, &qparams)| clip(&values, qparams, range))
            .collect();
        let [before, after] = [0, 1].map(|at| clipped.iter().map(|(_, errors)| errors[at]).sum::<f64>());
        let channels: Vec<QParams> = clipped.into_iter().map(|(qparams, _)| qparams).collect();
        let qparams = match &weight.qparams {
            TensorQParams::PerTensor(_) => TensorQParams::PerTensor(channels[0]),
            TensorQParams::PerChannel { ch_axis, .. } => {
                TensorQParams::PerChannel { channels: channels.into(), ch_axis: *ch_axis }
            }
        };
        let error = if before > 0.0 { after / before } else { 1.0 };
        Some((weight.observer, qparams, ClippedWeight { name: weight.name.clone(), error }))
    };
    let found: Vec<_> = weights.iter().filter_map(clip).collect();
    let (edits, report): (Vec<_>, Vec<_>) =
        found.into_iter().map(|(observer, qparams, clipped)| ((observer, qparams), clipped)).unzip();
    prepared.edit(&HashMap::new(), edits);
    Ok(report)
}

/// Returns the qparams with the least squared error, and the errors before and after.
pub(super) fn clip(values: &[f32], full: QParams, range: QuantRange) -> (QParams, [f64; 2]) {
    let before = squared_error(values, full, range);
    let mut best = (full, before);
    for share in SHARES {
        let Ok(narrow) = QParams::new(full.scale() * share as f32 / 100.0, 0) else { continue };
        let error = squared_error(values, narrow, range);
        if error < best.1 {
            best = (narrow, error);
        }
    }
    (best.0, [before, best.1])
}

/// The sum of the squared errors of values that are quantized symmetrically.
pub(super) fn squared_error(values: &[f32], qparams: QParams, range: QuantRange) -> f64 {
    const LANES: usize = 8;
    numerics::vectorized(
        #[inline(always)]
        || {
            let (inv_scale, scale) = (qparams.inv_scale(), qparams.scale());
            let (lo, hi) = (range.quant_min() as f32, range.quant_max() as f32);
            let error = |v: f32| {
                let error = numerics::round_small((v * inv_scale).clamp(lo, hi)) * scale - v;
                f64::from(error) * f64::from(error)
            };
            let mut sums = [0f64; LANES];
            let (blocks, rest) = values.as_chunks::<LANES>();
            for block in blocks {
                for lane in 0..LANES {
                    sums[lane] += error(block[lane]);
                }
            }
            sums.iter().sum::<f64>() + rest.iter().map(|&v| error(v)).sum::<f64>()
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A weight of the normal distribution with 2 bits: the best step of three levels is 1.224 of the standard deviation (Max 1960).
    #[test]
    fn the_best_range_of_a_normal_distribution() {
        let mut random = fastrand::Rng::with_seed(3);
        let normal = |_| {
            let [a, b] = [random.f64(), random.f64()];
            ((-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
        };
        let values: Vec<f32> = (0..100_000).map(normal).collect();
        let range = QuantRange::new(-1, 1).expect("a range");
        let largest = values.iter().fold(0f32, |max, v| max.max(v.abs()));
        let (best, [before, after]) = clip(&values, QParams::new(largest, 0).expect("a scale"), range);
        assert!((best.scale() - 1.224).abs() < 0.03, "{}", best.scale());
        assert!((after / 100_000.0 - 0.190).abs() < 0.005 && before > 4.0 * after, "{before} {after}");
        // No other step of a fine grid has less error.
        for step in 100..500 {
            let other = QParams::new(step as f32 / 200.0, 0).expect("a scale");
            assert!(squared_error(&values, other, range) > after * 0.999, "{step}");
        }
    }
}
