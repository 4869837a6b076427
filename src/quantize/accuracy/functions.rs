//! Ranges of values that only functions of one element read.

use rayon::prelude::*;

use super::error::AccuracyError;
use crate::graph::NodeId;
use crate::numerics;
use crate::ops::{Observe, ObserverId, Op, Unary, UnaryOp};
use crate::quantize::PreparedGraph;
use crate::quantize::spec::{ObservedSpec, QuantizationSpec};
use crate::values::{QParams, TensorQParams};

/// A range that was fitted to the functions that read the value.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct FittedRange {
    /// The value.
    pub name: String,
    /// The smallest and the largest value of the range.
    pub range: (f32, f32),
    /// The squared error behind the functions, compared with that of the observer's own range; less than 1.
    pub error: f64,
}

/// Parts into which a range is cut at both ends.
const STEPS: usize = 40;

/// Sets the range of each value that only functions of one element read, such as the input of a GELU, to the one with the least squared error
/// behind the functions: a GELU is nearly 0 for all numbers below −4, so that steps there are wasted. It looks at the histograms of
/// calibration, so observers without a histogram keep their ranges.
///
/// # Errors
/// Returns [`AccuracyError::Observer`] for an observer that has observed nothing.
pub fn fit_ranges(prepared: &mut PreparedGraph) -> Result<Vec<FittedRange>, AccuracyError> {
    let graph = prepared.graph();
    let (users, outputs) = (graph.users(), graph.output_flags());
    let mut nodes: Vec<Vec<NodeId>> = vec![Vec::new(); prepared.observers().len()];
    for (id, node) in graph.iter() {
        if let Op::Observe(Observe { observer: ObserverId(at) }) = node.op {
            nodes[at].push(id);
        }
    }
    let mut found = Vec::new();
    for (at, observer) in prepared.observers().iter().enumerate() {
        let (&[node], QuantizationSpec::Observed(spec)) = (&nodes[at][..], observer.spec()) else { continue };
        let (Some(counts), &[range]) = (observer.histogram(), &observer.min_max()[..]) else { continue };
        let function = |&user: &NodeId| match graph.node(user).op {
            Op::Unary(Unary { op }) => Some(op),
            _ => None,
        };
        let functions: Option<Vec<UnaryOp>> = users[node.index()].iter().map(function).collect();
        let Some(functions) = functions.filter(|all| !all.is_empty() && !outputs[node.index()]) else { continue };
        let name = graph.node(graph.node(node).inputs[0]).name.clone();
        let own = observer.calculate_qparams();
        let own = own.map_err(|source| AccuracyError::Observer { node: name.clone(), source })?;
        let (Some(own), false) = (own.per_tensor(), spec.is_dynamic()) else { continue };
        if let Some((qparams, range, error)) = fit(&counts, range, spec, &functions, own) {
            found.push((at, qparams, FittedRange { name, range, error }));
        }
    }
    let (edits, report): (Vec<_>, Vec<_>) =
        found.into_iter().map(|(at, qparams, fitted)| ((at, TensorQParams::PerTensor(qparams)), fitted)).unzip();
    prepared.edit(&std::collections::HashMap::new(), edits);
    Ok(report)
}

/// Returns the qparams with the least error behind the functions, their range, and the error compared with that of `own`; `None` if none is
/// better.
fn fit(
    counts: &[f32],
    (min, max): (f32, f32),
    spec: &ObservedSpec,
    functions: &[UnaryOp],
    own: QParams,
) -> Option<(QParams, (f32, f32), f64)> {
    let width = (max - min) / counts.len() as f32;
    // The centre of each bin that holds values, its count, and the functions of it.
    let bins: Vec<(f32, f64, Vec<f64>)> = counts
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0.0)
        .map(|(bin, &count)| {
            let centre = min + width * (bin as f32 + 0.5);
            (centre, f64::from(count), functions.iter().map(|f| f64::from(f.eval_f32(centre))).collect())
        })
        .collect();
    let (lo, hi) = (spec.range.quant_min(), spec.range.quant_max());
    let error = |q: QParams| -> f64 {
        let (scale, z) = (q.scale(), q.zero_point());
        let levels = (lo..=hi).map(|code| numerics::dequantize(code, scale, z));
        let levels: Vec<Vec<f64>> =
            levels.map(|v| functions.iter().map(|f| f64::from(f.eval_f32(v))).collect()).collect();
        let of_bin = |(centre, count, values): &(f32, f64, Vec<f64>)| {
            let code = numerics::quantize(*centre, q.inv_scale(), z, lo, hi);
            let restored = &levels[(code - lo) as usize];
            count * values.iter().zip(restored).map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        };
        bins.iter().map(of_bin).sum()
    };
    let rule = if spec.qscheme.is_symmetric() { numerics::symmetric_qparams } else { numerics::affine_qparams };
    let windows: Vec<(usize, usize)> =
        (0..STEPS).flat_map(|low| (0..STEPS - low).map(move |high| (low, high))).collect();
    let tried = windows.par_iter().filter_map(|&(low, high)| {
        let step = (max - min) / STEPS as f32;
        let range = (min + step * low as f32, max - step * high as f32);
        let (scale, z) = rule(range.0, range.1, lo, hi, spec.eps);
        let qparams = QParams::new(scale, z).ok()?;
        Some((qparams, range, error(qparams)))
    });
    // The first of equal ones, whatever the number of threads.
    let all: Vec<_> = tried.collect();
    let best = all.into_iter().reduce(|best, next| if next.2 < best.2 { next } else { best })?;
    let before = error(own);
    (best.2 < before).then(|| (best.0, best.1, best.2 / before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::QuantizationConfig;

    /// A GELU of values in −10..=10, uniformly distributed: nearly all negative values have the result 0, so that the range begins at about
    /// −3. A linear function needs the whole range.
    #[test]
    fn a_range_begins_where_the_function_is_no_longer_zero() {
        let Some(QuantizationSpec::Observed(spec)) = QuantizationConfig::symmetric().input_activation else {
            panic!("an observed spec")
        };
        let (scale, z) = numerics::affine_qparams(-10.0, 10.0, -128, 127, spec.eps);
        let own = QParams::new(scale, z).expect("qparams");
        let counts = vec![10.0; 2048];
        let (qparams, range, error) =
            fit(&counts, (-10.0, 10.0), &spec, &[UnaryOp::Gelu], own).expect("a better range");
        assert!((-4.0..=-2.0).contains(&range.0) && range.1 > 9.9 && error < 0.6, "{range:?} {error}");
        assert!(qparams.scale() < 0.8 * own.scale(), "{qparams:?}");
        assert_eq!(fit(&counts, (-10.0, 10.0), &spec, &[UnaryOp::Gelu, UnaryOp::Abs], own), None);
    }
}
