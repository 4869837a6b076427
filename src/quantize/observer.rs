//! Observers: the statistics from which scales and zero points are derived.

mod error;
mod groups;
mod histogram;
mod statistics;

use std::sync::Arc;

use self::histogram::Window;
pub(crate) use self::histogram::{Histogram, Histograms};
use super::spec::{DerivedSpec, FixedQParamsSpec, ObservedSpec, ObserverKind, QuantizationSpec};
use crate::numerics;
use crate::numerics::Range;
use crate::values::{Granularity, QParams, QScheme, QuantRange, Tensor, TensorQParams, check_size};

pub use error::ObserverError;

/// An observer of tensors, which derives [`TensorQParams`] from their statistics.
///
/// Calibration can be sharded: observers of the same spec that saw different batches [`merge`](Self::merge) into one.
#[derive(Debug, Clone, PartialEq)]
pub struct Observer {
    spec: QuantizationSpec,
    state: State,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum State {
    /// One range, or one for each channel; empty until the first tensor.
    Ranges(Vec<Range>),
    /// One range for each group, row by row, and the groups of a row; empty until the first tensor.
    Groups(Vec<Range>, usize),
    Histograms(Histograms),
    /// No statistics: the qparams are dynamic, fixed or derived.
    Nothing,
    /// Qparams that were trained.
    Known(TensorQParams),
}

impl Observer {
    /// Creates an observer that has observed nothing.
    ///
    /// # Errors
    /// Returns [`ObserverError::PerChannelHistogram`], [`ObserverError::Scheme`], [`ObserverError::Bits`] and
    /// [`ObserverError::Parameter`] for a spec that contradicts itself.
    pub fn new(spec: ObservedSpec) -> Result<Self, ObserverError> {
        let ObservedSpec { qscheme, observer, range, eps } = spec;
        let parameter = |what, value: f32, min, max| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(ObserverError::Parameter { what, value, min, max })
        };
        parameter("eps", eps, f32::MIN_POSITIVE, crate::values::MAX_SCALE)?;
        match observer {
            ObserverKind::MovingAverageMinMax { averaging_constant } => {
                parameter("averaging constant", averaging_constant, 0.0, 1.0)?;
            }
            ObserverKind::Percentile { fraction } => parameter("fraction", fraction, 0.0, 1.0)?,
            ObserverKind::Placeholder => parameter("eps", eps, crate::values::MIN_SCALE, crate::values::MAX_SCALE)?,
            ObserverKind::MinMax | ObserverKind::Histogram | ObserverKind::Mse => {}
        }
        let dynamic = observer == ObserverKind::Placeholder;
        let supported = match qscheme.granularity {
            Granularity::Channel { .. } if observer.is_histogram() => return Err(ObserverError::PerChannelHistogram),
            Granularity::Tensor => true,
            Granularity::Channel { .. } => !dynamic,
            Granularity::Token => dynamic && !qscheme.is_symmetric(),
            Granularity::Group { axis: 1, size } => {
                check_size(size).map_err(|source| ObserverError::Bits { source })?;
                !dynamic && !observer.is_histogram()
            }
            Granularity::Group { .. } => false,
        };
        if !supported || range == QuantRange::INT32 {
            return Err(ObserverError::Scheme { qscheme, observer });
        }
        qscheme.check_range(range).map_err(|source| ObserverError::Bits { source })?;
        let state = match observer {
            _ if qscheme.group_size().is_some() => State::Groups(Vec::new(), 0),
            ObserverKind::MinMax | ObserverKind::MovingAverageMinMax { .. } => State::Ranges(Vec::new()),
            ObserverKind::Placeholder => State::Nothing,
            ObserverKind::Histogram | ObserverKind::Percentile { .. } | ObserverKind::Mse => {
                State::Histograms(Histograms::default())
            }
        };
        Ok(Self { spec: QuantizationSpec::Observed(spec), state })
    }

    /// Creates an observer that keeps no statistics and has fixed qparams.
    #[must_use]
    pub fn fixed(spec: FixedQParamsSpec) -> Self {
        Self { spec: spec.into(), state: State::Nothing }
    }

    /// Creates an observer that keeps no statistics; [`PreparedGraph`](super::PreparedGraph) asks the rule for its qparams.
    #[must_use]
    pub fn derived(spec: DerivedSpec) -> Self {
        Self { spec: spec.into(), state: State::Nothing }
    }

    /// Returns the spec, which is never [`QuantizationSpec::Shared`].
    #[must_use]
    pub fn spec(&self) -> &QuantizationSpec {
        &self.spec
    }

    /// Returns the range of quantized values.
    #[must_use]
    pub fn range(&self) -> QuantRange {
        match &self.spec {
            QuantizationSpec::Observed(spec) => spec.range,
            QuantizationSpec::FixedQParams(spec) => spec.range,
            QuantizationSpec::Derived(spec) => spec.range,
            QuantizationSpec::Shared(_) => QuantRange::INT8,
        }
    }

    /// The spec, if tensors are observed.
    fn observed(&self) -> Option<&ObservedSpec> {
        match &self.spec {
            QuantizationSpec::Observed(spec) => Some(spec),
            _ => None,
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// The same observer with trained qparams in place of its statistics.
    pub(super) fn with_known(self, qparams: TensorQParams) -> Self {
        Self { state: State::Known(qparams), ..self }
    }

    /// The same observer with statistics from a file; `None` if they do not fit the spec.
    pub(crate) fn with_state(mut self, state: State) -> Option<Self> {
        let fits = match (&state, self.observed()) {
            (State::Known(qparams), Some(spec)) => {
                let (ch_axis, group_size) = match qparams {
                    TensorQParams::PerTensor(_) => (None, None),
                    TensorQParams::PerChannel { ch_axis, .. } => (Some(*ch_axis), None),
                    TensorQParams::PerGroup(groups) => (None, Some(groups.size())),
                };
                let granularity = (spec.qscheme.ch_axis(), spec.qscheme.group_size());
                !spec.is_dynamic() && granularity == (ch_axis, group_size) && qparams.check_range(spec.range).is_ok()
            }
            (State::Groups(ranges, of_row), Some(_)) if !ranges.len().is_multiple_of((*of_row).max(1)) => false,
            (State::Groups(ranges, 0), Some(_)) if !ranges.is_empty() => false,
            // Without channels there is one range, or none yet.
            (State::Ranges(ranges), Some(spec)) if spec.qscheme.ch_axis().is_none() && ranges.len() > 1 => false,
            _ => std::mem::discriminant(&self.state) == std::mem::discriminant(&state),
        };
        if !fits {
            return None;
        }
        self.state = state;
        Some(self)
    }

    /// Updates the statistics with one tensor; a tensor without elements changes nothing.
    ///
    /// # Errors
    /// Returns [`ObserverError::NonFinite`], [`ObserverError::DType`] and [`ObserverError::Channels`], all before anything has
    /// changed.
    pub fn observe(&mut self, x: &Tensor) -> Result<(), ObserverError> {
        let values = x.as_f32().ok_or(ObserverError::DType { actual: x.dtype() })?;
        let Some(&ObservedSpec { qscheme, observer, .. }) = self.observed() else { return Ok(()) };
        if values.is_empty() {
            return Ok(());
        }
        match &mut self.state {
            State::Histograms(histograms) => {
                let Range { min, max } = statistics::range_of(values)?;
                histograms.add(values, min, max);
            }
            State::Ranges(state) => {
                let seen = match qscheme.ch_axis() {
                    None => vec![statistics::range_of(values)?],
                    Some(ch_axis) => statistics::channel_ranges(values, x.shape(), ch_axis)?,
                };
                if state.is_empty() {
                    *state = seen;
                    return Ok(());
                }
                check_channels(qscheme, seen.len(), state.len())?;
                state.iter_mut().zip(seen).for_each(|(old, new)| *old = merged(observer, *old, new));
            }
            State::Groups(state, of_row) => {
                let size = qscheme.group_size().unwrap_or(1);
                let (seen, seen_of_row) = statistics::group_ranges(values, x.shape(), size)?;
                if state.is_empty() {
                    (*state, *of_row) = (seen, seen_of_row);
                    return Ok(());
                }
                check_groups(size, (&seen, seen_of_row), (state, *of_row))?;
                state.iter_mut().zip(seen).for_each(|(old, new)| *old = merged(observer, *old, new));
            }
            State::Nothing | State::Known(_) => {}
        }
        Ok(())
    }

    /// Merges the statistics of another observer of the same spec, so that calibration can be sharded over processes or machines.
    /// Merging is associative, and changes nothing if `other` has observed nothing.
    ///
    /// Min/max observers give exactly the qparams of one pass over all batches. Histogram observers keep the counts of each shard and
    /// spread them over common bins once, when qparams are calculated, which moves each count by at most one bin. (One pass spreads its
    /// counts whenever its range grows.)
    ///
    /// # Errors
    /// Returns [`ObserverError::MergeSpecs`], [`ObserverError::MergeMovingAverage`], [`ObserverError::MergeTrained`] and
    /// [`ObserverError::Channels`], all before anything has changed.
    pub fn merge(&mut self, other: &Self) -> Result<(), ObserverError> {
        self.check_spec(other)?;
        match (&self.state, &other.state) {
            (State::Known(mine), State::Known(theirs)) if mine == theirs => return Ok(()),
            (State::Known(_), _) | (_, State::Known(_)) => return Err(ObserverError::MergeTrained),
            _ => {}
        }
        if let Some(ObservedSpec { observer: ObserverKind::MovingAverageMinMax { .. }, .. }) = self.observed() {
            return Err(ObserverError::MergeMovingAverage);
        }
        match (&mut self.state, &other.state) {
            (State::Ranges(mine), State::Ranges(theirs)) if !theirs.is_empty() => {
                if mine.is_empty() {
                    mine.clone_from(theirs);
                    return Ok(());
                }
                if let QuantizationSpec::Observed(spec) = &self.spec {
                    check_channels(spec.qscheme, theirs.len(), mine.len())?;
                }
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.merge(*theirs));
            }
            (State::Groups(mine, of_row), State::Groups(theirs, their_of_row)) if !theirs.is_empty() => {
                if mine.is_empty() {
                    (*mine, *of_row) = (theirs.clone(), *their_of_row);
                    return Ok(());
                }
                let size = self.spec.group_size().unwrap_or(1);
                check_groups(size, (theirs, *their_of_row), (mine, *of_row))?;
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine = mine.merge(*theirs));
            }
            (State::Histograms(mine), State::Histograms(theirs)) => mine.merge(theirs),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn check_spec(&self, other: &Self) -> Result<(), ObserverError> {
        if self.spec == other.spec {
            return Ok(());
        }
        let (this, other) = (self.spec.to_string(), other.spec.to_string());
        Err(ObserverError::MergeSpecs { this, other })
    }

    /// Returns the smallest and largest observed value, of the tensor, or of each channel or group; empty before the first tensor.
    #[must_use]
    pub fn min_max(&self) -> Vec<(f32, f32)> {
        match &self.state {
            State::Ranges(ranges) | State::Groups(ranges, _) => ranges.iter().map(|r| (r.min, r.max)).collect(),
            State::Histograms(histograms) => histograms.min_max().into_iter().collect(),
            State::Nothing | State::Known(_) => Vec::new(),
        }
    }

    /// Returns the counts of a histogram observer, over 2048 equal bins between its smallest and largest value; `None` before the
    /// first tensor.
    #[must_use]
    pub fn histogram(&self) -> Option<Vec<f32>> {
        match &self.state {
            State::Histograms(histograms) => histograms.combined().map(|h| h.counts().to_vec()),
            _ => None,
        }
    }

    /// Returns the range that the qparams are derived from: the observed range, or the part of it that a histogram keeps.
    #[must_use]
    pub fn kept_range(&self) -> Vec<(f32, f32)> {
        match (&self.state, self.observed()) {
            (State::Histograms(histograms), Some(spec)) => {
                let window = match spec.observer {
                    ObserverKind::Percentile { fraction } => Window::Quantiles { fraction },
                    ObserverKind::Mse => Window::LeastSquares(*spec),
                    _ => Window::Greedy,
                };
                histograms.combined().map(|h| h.kept_range(window)).into_iter().collect()
            }
            _ => self.min_max(),
        }
    }

    /// Returns scale and zero point, of the tensor, of each channel or of each group. The scales of groups are the nearest products of a
    /// scale for each row and an integer of 1 to 255, since only those have an integer form.
    ///
    /// # Errors
    /// Returns [`ObserverError::Uncalibrated`] before the first tensor, [`ObserverError::QParams`] for a range whose scale is
    /// not usable (for example one wider than the largest `f32`), [`ObserverError::Dynamic`] and
    /// [`ObserverError::Derived`] where this observer cannot know them.
    pub fn calculate_qparams(&self) -> Result<TensorQParams, ObserverError> {
        let spec = match &self.spec {
            QuantizationSpec::Observed(spec) if spec.is_dynamic() => return Err(ObserverError::Dynamic),
            QuantizationSpec::Observed(spec) => spec,
            QuantizationSpec::FixedQParams(spec) => return Ok(TensorQParams::PerTensor(spec.qparams)),
            QuantizationSpec::Derived(_) | QuantizationSpec::Shared(_) => return Err(ObserverError::Derived),
        };
        if let State::Known(qparams) = &self.state {
            return Ok(qparams.clone());
        }
        if let (State::Groups(ranges, of_row), Some(size)) = (&self.state, spec.qscheme.group_size()) {
            return groups::qparams(spec, size, *of_row, ranges);
        }
        let ranges = self.kept_range();
        let largest = ranges.iter().fold(0f32, |largest, (min, max)| largest.max(-min).max(*max));
        let steps = (spec.range.quant_max() - spec.range.quant_min()) as f32 / 2.0;
        let spec = &ObservedSpec { eps: smallest_scale(spec, largest / steps), ..*spec };
        of_channels(spec, ranges.into_iter().map(|(min, max)| qparams_of(spec, min, max)))
    }
}

/// The qparams of a tensor from those of its channels; a tensor that is quantized per tensor has one channel.
pub(super) fn of_channels(
    spec: &ObservedSpec,
    channels: impl Iterator<Item = Result<QParams, ObserverError>>,
) -> Result<TensorQParams, ObserverError> {
    let channels = channels.collect::<Result<Arc<[_]>, _>>()?;
    match (channels.first(), spec.qscheme.ch_axis()) {
        (None, _) => Err(ObserverError::Uncalibrated),
        (Some(&one), None) => Ok(TensorQParams::PerTensor(one)),
        (Some(_), Some(ch_axis)) => Ok(TensorQParams::PerChannel { channels, ch_axis }),
    }
}

/// The function from a range of values, the range of quantized values and the smallest scale to scale and zero point.
fn qparams_rule(spec: &ObservedSpec) -> fn(f32, f32, i32, i32, f32) -> (f32, i32) {
    if spec.qscheme.is_symmetric() { numerics::symmetric_qparams } else { numerics::affine_qparams }
}

/// The smallest scale of channels whose largest scale is this one; 0 for zeros. Channels far below all others make no difference at the output,
/// and zeros are exact with any scale, but a bias in steps of a very small scale would not fit i32, and take its layer out of the integers.
pub(super) fn smallest_scale(spec: &ObservedSpec, largest: f32) -> f32 {
    let of_largest = if largest == 0.0 { numerics::EPS } else { (largest / 4096.0).min(numerics::EPS) };
    spec.eps.max(of_largest)
}

fn qparams_of(spec: &ObservedSpec, min: f32, max: f32) -> Result<QParams, ObserverError> {
    let ObservedSpec { range, eps, .. } = *spec;
    let (scale, zero_point) = qparams_rule(spec)(min, max, range.quant_min(), range.quant_max(), eps);
    QParams::new(scale, zero_point).map_err(|source| ObserverError::QParams { min, max, source })
}

/// The range of all batches, from that of those before and that of a new one.
fn merged(observer: ObserverKind, old: Range, new: Range) -> Range {
    match observer {
        ObserverKind::MovingAverageMinMax { averaging_constant: c } => {
            Range { min: old.min + c * (new.min - old.min), max: old.max + c * (new.max - old.max) }
        }
        _ => old.merge(new),
    }
}

/// Checks that a tensor has the groups of those before. Both are ranges, and the groups of a row.
fn check_groups(size: usize, actual: (&[Range], usize), expected: (&[Range], usize)) -> Result<(), ObserverError> {
    if (actual.0.len(), actual.1) == (expected.0.len(), expected.1) {
        return Ok(());
    }
    let (actual, expected) = (actual.0.len(), expected.0.len());
    Err(ObserverError::Groups { size, actual, expected })
}

fn check_channels(qscheme: QScheme, actual: usize, expected: usize) -> Result<(), ObserverError> {
    match qscheme.ch_axis() {
        Some(ch_axis) if actual != expected => Err(ObserverError::Channels { ch_axis, actual, expected }),
        _ => Ok(()),
    }
}

/// [`DerivedRule::BiasScale`](super::DerivedRule::BiasScale): `s_x · s_w` in `f32`, zero point 0.
pub(super) fn bias_scale(from: &[TensorQParams]) -> Result<TensorQParams, String> {
    let [TensorQParams::PerTensor(x), w] = from else {
        return Err(format!("{} sources, expected an input with one scale and a weight", from.len()));
    };
    let product = |w: &QParams| QParams::new(x.scale() * w.scale(), 0).map_err(|e| e.to_string());
    Ok(match w {
        TensorQParams::PerTensor(w) => TensorQParams::PerTensor(product(w)?),
        // Each row has one bias, and several scales.
        TensorQParams::PerGroup(_) => return Err("its weight has a scale for each group".to_owned()),
        TensorQParams::PerChannel { channels, .. } => {
            TensorQParams::PerChannel { channels: channels.iter().map(product).collect::<Result<_, _>>()?, ch_axis: 0 }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::{QScheme, QuantRange};

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
        let mut o = observer(ObserverKind::MinMax, QScheme::per_channel_symmetric(1));
        o.observe(&x).expect("finite");
        assert_eq!(o.min_max(), [(0.0, 7.0), (2.0, 9.0), (4.0, 11.0)]);
        let wrong = tensor(&[2, 2, 2], vec![0.0; 8]);
        assert_eq!(o.observe(&wrong), Err(ObserverError::Channels { ch_axis: 1, actual: 2, expected: 3 }));
    }

    #[test]
    fn a_refused_tensor_changes_nothing() {
        for kind in [ObserverKind::MinMax, ObserverKind::Histogram] {
            let mut o = observer(kind, QScheme::per_tensor_affine());
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
        let mut o = observer(ObserverKind::MinMax, QScheme::per_tensor_affine());
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
            qscheme: QScheme::per_channel_symmetric(0),
            observer: ObserverKind::Histogram,
            eps: numerics::EPS,
        };
        assert_eq!(Observer::new(spec), Err(ObserverError::PerChannelHistogram));
    }

    #[test]
    fn schemes_that_no_observer_supports_are_refused() {
        let new = |qscheme, observer| {
            Observer::new(ObservedSpec { range: QuantRange::INT8, qscheme, observer, eps: numerics::EPS })
        };
        let first_axis = Granularity::Group { axis: 0, size: 32 };
        let first_axis = QScheme { granularity: first_axis, ..QScheme::per_tensor_affine() };
        let group = QScheme::per_group_affine(32);
        let token = QScheme { symmetry: crate::values::Symmetry::Symmetric, ..QScheme::per_token_affine() };
        for (qscheme, observer) in [
            (first_axis, ObserverKind::MinMax),
            (group, ObserverKind::Mse),
            (group, ObserverKind::Placeholder),
            (token, ObserverKind::Placeholder),
            (QScheme::per_token_affine(), ObserverKind::MinMax),
        ] {
            assert_eq!(new(qscheme, observer), Err(ObserverError::Scheme { qscheme, observer }));
        }
        let error = new(QScheme::per_tensor_affine().with_bits(4), ObserverKind::MinMax).expect_err("4 bits");
        assert!(error.to_string().contains("4 bits do not hold quantized values of -128..=127"), "{error}");
    }
}
