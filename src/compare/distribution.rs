//! Histograms of values, and the range that quantized values can represent.

use std::borrow::Borrow;
use std::collections::HashMap;

use super::error::CompareError;
use super::index::Index;
use super::isolate::{Weight, weight};
use super::values::{Values, clipping, floats};
use crate::graph::{Graph, NodeId};
use crate::interp::Interpreter;
use crate::values::Tensor;

/// The values of one tensor, counted in equal bins.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// The smallest value, where the first bin begins.
    pub min: f32,
    /// The largest value, where the last bin ends.
    pub max: f32,
    /// Values in each bin. One bin if all values are equal, none without a value.
    pub counts: Vec<u64>,
    /// The range that quantized values can represent; `None` if the tensor is not quantized, or quantized dynamically.
    pub clipping: Option<Clipping>,
}

/// The smallest and largest real value that quantized values can represent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clipping {
    /// The range of the tensor, or of the channel with the widest.
    pub widest: (f32, f32),
    /// The range of the channel with the narrowest, if each channel has its own.
    pub narrowest: Option<(f32, f32)>,
}

/// The distributions of one float node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeDistributions {
    /// The float node, as in [`NodeComparison::origin`](crate::compare::NodeComparison::origin).
    pub origin: String,
    /// Its values in the reference, with the range that they are quantized to in the graph under test.
    pub activation: Distribution,
    /// Its weight in the reference, likewise, if it is a layer.
    pub weight: Option<Distribution>,
}

/// Counts the values in the reference of every node that [`compare`](crate::compare::compare()) compares, in the same order, in
/// `bins` bins. Values that are not finite are not counted.
///
/// # Errors
/// [`CompareError`] names the node or input that does not fit.
pub fn distributions<T: Borrow<Tensor>>(
    reference: &Graph,
    actual: &Graph,
    inputs: &[T],
    bins: usize,
) -> Result<Vec<NodeDistributions>, CompareError> {
    let inputs: Vec<&Tensor> = inputs.iter().map(Borrow::borrow).collect();
    let truth = Interpreter::new(reference);
    let values = Values::of(&truth, &inputs)?;
    let under_test = Interpreter::new(actual);
    let (of_truth, of_actual) = (&values.index, &Index::new(actual));
    let others: HashMap<String, NodeId> = Values::comparable(&under_test, of_actual)?.1;
    let mut all = Vec::new();
    for (origin, id) in &values.ordered {
        let Some(&other) = others.get(origin) else { continue };
        if of_truth.is_input(origin) || of_actual.is_input(origin) {
            continue;
        }
        let range = clipping(actual, of_actual, other).map(|range| Clipping { widest: range, narrowest: None });
        let activation = Distribution::of(floats(&values.reals[id]), bins, range);
        let weight = match (of_truth.layer_of(origin), of_actual.layer_of(origin)) {
            (Some(layer), Some(own)) => match weight(&truth, of_truth, layer)? {
                Some(expected) => {
                    let clipping = weight(&under_test, of_actual, own)?.and_then(|got| got.clipping());
                    Some(Distribution::of(&expected.reals, bins, clipping))
                }
                None => None,
            },
            _ => None,
        };
        all.push(NodeDistributions { origin: origin.clone(), activation, weight });
    }
    Ok(all)
}

impl Distribution {
    /// Counts values in at most `bins` bins.
    #[must_use]
    pub fn of(values: &[f32], bins: usize, clipping: Option<Clipping>) -> Self {
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        let (min, max) = finite().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
        if min > max {
            return Self { min: 0.0, max: 0.0, counts: Vec::new(), clipping };
        }
        let bins = if min == max { 1 } else { bins.max(1) };
        let mut counts = vec![0; bins];
        // The difference of two f32 may overflow f32, so this is f64.
        let per_bin = bins as f64 / (f64::from(max) - f64::from(min)).max(f64::MIN_POSITIVE);
        for v in finite() {
            let at = ((f64::from(v) - f64::from(min)) * per_bin) as usize;
            counts[at.min(bins - 1)] += 1;
        }
        Self { min, max, counts, clipping }
    }
}

impl Weight {
    /// The range of the tensor and of its narrowest channel: ± the largest magnitude.
    fn clipping(&self) -> Option<Clipping> {
        let largest = |values: &[f32]| values.iter().fold(0f32, |most, v| most.max(v.abs()));
        if !self.quantized || self.reals.is_empty() {
            return None;
        }
        let all = largest(&self.reals);
        let narrowest = self.per_channel.then(|| self.reals.chunks(self.k.max(1)).map(largest).fold(all, f32::min));
        Some(Clipping { widest: (-all, all), narrowest: narrowest.map(|range| (-range, range)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_once() {
        let values = [0.0, 0.1, 0.26, 0.5, 0.99, 1.0, f32::NAN, f32::INFINITY];
        let d = Distribution::of(&values, 4, None);
        assert_eq!((d.min, d.max, d.counts), (0.0, 1.0, vec![2, 1, 1, 2]));
        assert_eq!(Distribution::of(&[3.0; 5], 4, None).counts, [5]);
        assert!(Distribution::of(&[f32::NAN], 4, None).counts.is_empty());
        let d = Distribution::of(&[f32::MIN, 0.0, f32::MAX], 2, None);
        assert_eq!(d.counts, [1, 2], "a range wider than f32");
    }

    #[test]
    fn ranges_of_channels() {
        let weight = Weight { reals: vec![1.0, -4.0, 0.5, 0.25], k: 2, quantized: true, per_channel: true };
        let clipping = weight.clipping().expect("quantized");
        assert_eq!((clipping.widest, clipping.narrowest), ((-4.0, 4.0), Some((-0.5, 0.5))));
        assert_eq!(Weight { per_channel: false, ..weight.clone() }.clipping().expect("quantized").narrowest, None);
        assert_eq!(Weight { quantized: false, ..weight }.clipping(), None);
    }
}
