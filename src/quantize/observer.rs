//! Observers: the statistics from which scales and zero points are derived.

mod histogram;

use std::sync::Arc;

use rayon::prelude::*;

use self::histogram::Histogram;
use super::spec::{ObservedSpec, ObserverKind};
use crate::numerics;
use crate::qparams::{QParams, QParamsError, TensorQParams};
use crate::tensor::{DType, Tensor};

/// Why an observer refused a tensor, or has no parameters to give.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObserverError {
    /// A value is NaN or infinite. The statistics are as before.
    #[error("element {index} is {value}; observed values must be finite")]
    NonFinite {
        /// Row-major index of the first such value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// The tensor is not float.
    #[error("the tensor is {actual}, expected f32")]
    DType {
        /// Its type.
        actual: DType,
    },
    /// The channel axis does not exist or has changed its length.
    #[error("{actual} channels on axis {ch_axis}, expected {expected}")]
    Channels {
        /// The channel axis.
        ch_axis: usize,
        /// Channels of this tensor, 0 if it lacks the axis.
        actual: usize,
        /// Channels seen before, at least 1.
        expected: usize,
    },
    /// Nothing has been observed.
    #[error("nothing has been observed")]
    Uncalibrated,
    /// A histogram has no channels.
    #[error("a histogram observes whole tensors; per channel, use ObserverKind::MinMax")]
    PerChannelHistogram,
    /// The range leads to unusable parameters.
    #[error("range {min:e}..={max:e}: {source}")]
    QParams {
        /// Smallest value seen.
        min: f32,
        /// Largest value seen.
        max: f32,
        /// What is wrong.
        source: QParamsError,
    },
}

/// Watches tensors and derives [`TensorQParams`] from them.
#[derive(Debug, Clone, PartialEq)]
pub struct Observer {
    spec: ObservedSpec,
    state: State,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// One range, or one per channel; empty until the first tensor.
    MinMax(Vec<Range>),
    Histogram(Option<Histogram>),
}

/// The smallest and largest value seen.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Range {
    min: f32,
    max: f32,
}

impl Range {
    const EMPTY: Self = Self { min: f32::INFINITY, max: f32::NEG_INFINITY };

    fn merge(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

impl Observer {
    /// An observer that has seen nothing.
    ///
    /// # Errors
    /// [`ObserverError::PerChannelHistogram`].
    pub fn new(spec: ObservedSpec) -> Result<Self, ObserverError> {
        let state = match spec.observer {
            ObserverKind::MinMax => State::MinMax(Vec::new()),
            ObserverKind::Histogram if spec.qscheme.ch_axis().is_some() => {
                return Err(ObserverError::PerChannelHistogram);
            }
            ObserverKind::Histogram => State::Histogram(None),
        };
        Ok(Self { spec, state })
    }

    /// What it was made from.
    #[must_use]
    pub fn spec(&self) -> &ObservedSpec {
        &self.spec
    }

    /// Takes one tensor into the statistics; a tensor without elements changes nothing.
    ///
    /// # Errors
    /// [`ObserverError::NonFinite`], [`ObserverError::DType`] and [`ObserverError::Channels`], all before anything has
    /// changed.
    pub fn observe(&mut self, x: &Tensor) -> Result<(), ObserverError> {
        let values = x.as_f32().ok_or(ObserverError::DType { actual: x.dtype() })?;
        if values.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Histogram(state) => {
                let Range { min, max } = range_of(values)?;
                match state {
                    Some(histogram) => histogram.add(values, min, max),
                    None => *state = Some(Histogram::new(values, min, max)),
                }
            }
            State::MinMax(state) => {
                let seen = match self.spec.qscheme.ch_axis() {
                    None => vec![range_of(values)?],
                    Some(ch_axis) => channel_ranges(values, x.shape(), ch_axis)?,
                };
                if state.is_empty() {
                    *state = seen;
                } else if state.len() == seen.len() {
                    state.iter_mut().zip(seen).for_each(|(old, new)| *old = old.merge(new));
                } else {
                    let ch_axis = self.spec.qscheme.ch_axis().unwrap_or_default();
                    return Err(ObserverError::Channels { ch_axis, actual: seen.len(), expected: state.len() });
                }
            }
        }
        Ok(())
    }

    /// The smallest and largest value seen, of the tensor or of each channel; empty before the first tensor.
    #[must_use]
    pub fn min_max(&self) -> Vec<(f32, f32)> {
        match &self.state {
            State::MinMax(ranges) => ranges.iter().map(|r| (r.min, r.max)).collect(),
            State::Histogram(histogram) => histogram.iter().map(Histogram::min_max).collect(),
        }
    }

    /// The counts of a histogram observer, over equal bins between its smallest and largest value.
    #[must_use]
    pub fn histogram(&self) -> Option<&[f32]> {
        match &self.state {
            State::Histogram(Some(histogram)) => Some(histogram.counts()),
            _ => None,
        }
    }

    /// The range that the parameters are derived from: what was seen, or what a histogram keeps of it.
    #[must_use]
    pub fn kept_range(&self) -> Vec<(f32, f32)> {
        match &self.state {
            State::MinMax(_) => self.min_max(),
            State::Histogram(histogram) => histogram.iter().map(Histogram::kept_range).collect(),
        }
    }

    /// Scale and zero point, of the tensor or of each channel.
    ///
    /// # Errors
    /// [`ObserverError::Uncalibrated`] before the first tensor, [`ObserverError::QParams`] for a range whose scale is
    /// not usable (for example one wider than the largest `f32`).
    pub fn calculate_qparams(&self) -> Result<TensorQParams, ObserverError> {
        let ranges = self.kept_range();
        if ranges.is_empty() {
            return Err(ObserverError::Uncalibrated);
        }
        let mut channels = ranges.into_iter().map(|(min, max)| self.qparams_of(min, max));
        match self.spec.qscheme.ch_axis() {
            None => channels.next().unwrap_or(Err(ObserverError::Uncalibrated)).map(TensorQParams::PerTensor),
            Some(ch_axis) => {
                let channels = channels.collect::<Result<Arc<[_]>, _>>()?;
                Ok(TensorQParams::PerChannel { channels, ch_axis })
            }
        }
    }

    fn qparams_of(&self, min: f32, max: f32) -> Result<QParams, ObserverError> {
        let ObservedSpec { range, qscheme, eps, .. } = self.spec;
        let rule = if qscheme.is_symmetric() { numerics::symmetric_qparams } else { numerics::affine_qparams };
        let (scale, zero_point) = rule(min, max, range.quant_min(), range.quant_max(), eps);
        QParams::new(scale, zero_point).map_err(|source| ObserverError::QParams { min, max, source })
    }
}

/// Smallest and largest of a non-empty slice, which must be finite.
fn range_of(values: &[f32]) -> Result<Range, ObserverError> {
    // Large enough that a task outweighs its start, small enough to share out.
    const BLOCK: usize = 1 << 16;
    let (range, finite) =
        values.par_chunks(BLOCK).map(block_range).reduce(|| (Range::EMPTY, true), |a, b| (a.0.merge(b.0), a.1 & b.1));
    if finite { Ok(range) } else { Err(first_non_finite(values)) }
}

/// Range of one block, and whether all of it is finite; sixteen lanes at a time, so that it vectorises.
fn block_range(values: &[f32]) -> (Range, bool) {
    const LANES: usize = 16;
    let (mut min, mut max) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut finite = [true; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            let v = block[lane];
            min[lane] = if v < min[lane] { v } else { min[lane] };
            max[lane] = if v > max[lane] { v } else { max[lane] };
            finite[lane] &= v.abs() < f32::INFINITY;
        }
    }
    let mut range = Range::EMPTY;
    for lane in 0..LANES {
        range = range.merge(Range { min: min[lane], max: max[lane] });
    }
    let mut all = finite.iter().all(|&f| f);
    for &v in rest {
        range = range.merge(Range { min: v, max: v });
        all &= v.is_finite();
    }
    (range, all)
}

fn first_non_finite(values: &[f32]) -> ObserverError {
    let index = values.iter().position(|v| !v.is_finite()).unwrap_or_default();
    ObserverError::NonFinite { index, value: values[index] }
}

/// One range per index of `ch_axis`.
fn channel_ranges(values: &[f32], shape: &[usize], ch_axis: usize) -> Result<Vec<Range>, ObserverError> {
    let channels = shape.get(ch_axis).copied().unwrap_or_default();
    if channels == 0 {
        return Err(ObserverError::Channels { ch_axis, actual: 0, expected: 1 });
    }
    let inner: usize = shape[ch_axis + 1..].iter().product();
    let outer_stride = channels * inner;
    let ranges: Vec<(Range, bool)> = (0..channels)
        .into_par_iter()
        .map(|channel| {
            values
                .chunks_exact(outer_stride)
                .map(|outer| block_range(&outer[channel * inner..(channel + 1) * inner]))
                .fold((Range::EMPTY, true), |a, b| (a.0.merge(b.0), a.1 & b.1))
        })
        .collect();
    if !ranges.iter().all(|(_, finite)| *finite) {
        return Err(first_non_finite(values));
    }
    Ok(ranges.into_iter().map(|(range, _)| range).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qparams::{QScheme, QuantRange};

    fn observer(observer: ObserverKind, qscheme: QScheme) -> Observer {
        Observer::new(ObservedSpec { range: QuantRange::INT8, qscheme, observer, eps: numerics::EPS })
            .expect("a valid spec")
    }

    fn tensor(shape: &[usize], data: Vec<f32>) -> Tensor {
        Tensor::from_f32(shape, data).expect("lengths agree")
    }

    #[test]
    fn channels_of_any_axis() {
        let x = tensor(&[2, 3, 2], (0..12u8).map(f32::from).collect());
        let mut o = observer(ObserverKind::MinMax, QScheme::PerChannelSymmetric { ch_axis: 1 });
        o.observe(&x).expect("finite");
        assert_eq!(o.min_max(), [(0.0, 7.0), (2.0, 9.0), (4.0, 11.0)]);
        let wrong = tensor(&[2, 2, 2], vec![0.0; 8]);
        assert_eq!(o.observe(&wrong), Err(ObserverError::Channels { ch_axis: 1, actual: 2, expected: 3 }));
    }

    #[test]
    fn a_refused_tensor_changes_nothing() {
        for kind in [ObserverKind::MinMax, ObserverKind::Histogram] {
            let mut o = observer(kind, QScheme::PerTensorAffine);
            o.observe(&tensor(&[40], (0..40u8).map(f32::from).collect())).expect("finite");
            let before = o.clone();
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut data = vec![100.0; 40];
                data[33] = bad;
                let e = o.observe(&tensor(&[40], data)).expect_err("not finite");
                assert!(matches!(e, ObserverError::NonFinite { index: 33, .. }), "{e}");
            }
            assert_eq!(o, before);
        }
    }

    #[test]
    fn uncalibrated_and_too_wide() {
        let mut o = observer(ObserverKind::MinMax, QScheme::PerTensorAffine);
        assert_eq!(o.calculate_qparams(), Err(ObserverError::Uncalibrated));
        o.observe(&tensor(&[0], vec![])).expect("nothing to see");
        assert_eq!(o.calculate_qparams(), Err(ObserverError::Uncalibrated));
        o.observe(&tensor(&[2], vec![-3e38, 3e38])).expect("finite");
        assert!(matches!(o.calculate_qparams(), Err(ObserverError::QParams { .. })));
    }

    #[test]
    fn histograms_have_no_channels() {
        let spec = ObservedSpec {
            range: QuantRange::INT8,
            qscheme: QScheme::PerChannelSymmetric { ch_axis: 0 },
            observer: ObserverKind::Histogram,
            eps: numerics::EPS,
        };
        assert_eq!(Observer::new(spec), Err(ObserverError::PerChannelHistogram));
    }
}
