//! Ranges of weights with the least squared error.

use std::collections::HashMap;

use rayon::prelude::*;

use super::error::AccuracyError;
use super::weights::{PreparedWeight, parts, prepared_weights};
use crate::numerics;
use crate::quantize::PreparedGraph;
use crate::values::slices::f32s;
use crate::values::{GroupQParams, QParams, QParamsError, QuantRange, TensorQParams};

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

/// Narrows the range of each weight that is quantized to where the squared error of its values is least, for each of its channels or groups
/// if it has a scale for each: to 20 to 100 percent. With few bits, a narrower range costs less in its clipped values than it gains in its
/// step.
///
/// # Errors
/// Returns [`AccuracyError::Observer`] for a weight whose observer has no parameters.
pub fn clip_weights(prepared: &mut PreparedGraph) -> Result<Vec<ClippedWeight>, AccuracyError> {
    let (mut edits, mut report) = (Vec::new(), Vec::new());
    for weight in prepared_weights(prepared)? {
        let PreparedWeight { name, value, observer, .. } = weight;
        let (before, qparams, after) = clipped(f32s(&value), value.shape(), &weight.qparams, weight.range);
        edits.push((observer, qparams));
        report.push(ClippedWeight { name, error: if before > 0.0 { after / before } else { 1.0 } });
    }
    prepared.edit(&HashMap::new(), edits);
    Ok(report)
}

/// Returns the squared error of a weight, the qparams with the least squared error, and that error.
pub(super) fn clipped(
    values: &[f32],
    shape: &[usize],
    qparams: &TensorQParams,
    range: QuantRange,
) -> (f64, TensorQParams, f64) {
    let parts = parts(values, shape, qparams);
    let error = |qparams: &TensorQParams| -> f64 {
        let parts = parts.par_iter().zip(qparams.channels());
        parts.map(|(values, &qparams)| squared_error(values, qparams, range)).collect::<Vec<_>>().into_iter().sum()
    };
    let best: Vec<QParams> =
        parts.par_iter().zip(qparams.channels()).map(|(values, &qparams)| clip(values, qparams, range)).collect();
    let narrow = match qparams {
        TensorQParams::PerTensor(_) => TensorQParams::PerTensor(best[0]),
        TensorQParams::PerChannel { ch_axis, .. } => {
            TensorQParams::PerChannel { channels: best.into(), ch_axis: *ch_axis }
        }
        // The scales of groups are products with integers, so they move a little.
        TensorQParams::PerGroup(groups) => match rescaled(groups, &best) {
            Ok(groups) => TensorQParams::PerGroup(groups),
            Err(_) => qparams.clone(),
        },
    };
    let [before, after] = [qparams, &narrow].map(error);
    if after < before { (before, narrow, after) } else { (before, qparams.clone(), before) }
}

/// Groups with other scales, as products with integers, and the same zero points.
fn rescaled(groups: &GroupQParams, scales: &[QParams]) -> Result<GroupQParams, QParamsError> {
    let (size, of_row) = (groups.size(), groups.groups_per_row());
    let floats: Vec<f32> = scales.iter().map(QParams::scale).collect();
    let zero_points: Vec<i32> = scales.iter().map(QParams::zero_point).collect();
    GroupQParams::new(size, of_row, &floats, &zero_points)?.with_integer_scales(u8::MAX)
}

/// Returns the qparams with the least squared error. Both ends of the range shrink by the same share, so that the zero point stays.
fn clip(values: &[f32], full: QParams, range: QuantRange) -> QParams {
    let mut best = (full, squared_error(values, full, range));
    for share in SHARES {
        let Ok(narrow) = QParams::new(full.scale() * share as f32 / 100.0, full.zero_point()) else { continue };
        let error = squared_error(values, narrow, range);
        if error < best.1 {
            best = (narrow, error);
        }
    }
    best.0
}

/// The sum of the squared errors of values that are quantized.
fn squared_error(values: &[f32], qparams: QParams, range: QuantRange) -> f64 {
    const LANES: usize = 8;
    numerics::vectorized(
        #[inline(always)]
        || {
            let (inv_scale, scale) = (qparams.inv_scale(), qparams.scale());
            let z = qparams.zero_point();
            let (lo, hi) = ((range.quant_min() - z) as f32, (range.quant_max() - z) as f32);
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
        let full = QParams::new(largest, 0).expect("a scale");
        let best = clip(&values, full, range);
        let [before, after] = [full, best].map(|qparams| squared_error(&values, qparams, range));
        assert!((best.scale() - 1.224).abs() < 0.03, "{}", best.scale());
        assert!((after / 100_000.0 - 0.190).abs() < 0.005 && before > 4.0 * after, "{before} {after}");
        // No other step of a fine grid has less error.
        for step in 100..500 {
            let other = QParams::new(step as f32 / 200.0, 0).expect("a scale");
            assert!(squared_error(&values, other, range) > after * 0.999, "{step}");
        }
    }
}
