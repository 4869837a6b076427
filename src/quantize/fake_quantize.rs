//! Fake quantization: rounds float values to those that int8 can hold, and passes gradients straight through.

use super::observer::{Observer, ObserverError, State, of_channels, smallest_scale};
use super::spec::{ObservedSpec, QuantizationSpec};
use crate::numerics;
use crate::ops::{self, ChooseQParams};
use crate::values::slices::{f32s, like};
use crate::values::{MAX_SCALE, MIN_SCALE, QParams, QuantRange, Tensor, TensorQParams};

/// The rule from an observed range to scale and zero point in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum QParamsRule {
    /// The rule of [`convert()`](super::convert()), so that training and the converted graph agree.
    #[default]
    Convert,
    /// The rule of PyTorch's fused module, which trains with it and converts with the other one: they differ by up to half a percent.
    /// Use it for comparisons with PyTorch only.
    TorchFused,
}

/// An observer that also quantizes and dequantizes its value, with the straight-through gradient.
///
/// The usual schedule: observers and fake quantization on; then, for the last epochs, observers off, so that scales rest.
#[derive(Debug, Clone)]
pub struct FakeQuantize {
    observer: Observer,
    rule: QParamsRule,
    observer_enabled: bool,
    fake_quant_enabled: bool,
    qparams: Option<TensorQParams>,
    learned: Option<LearnedStep>,
}

/// Scale and zero point as parameters (LSQ: Esser et al. 2020, in the form of PyTorch's `_LearnableFakeQuantize`).
#[derive(Debug, Clone)]
pub(crate) struct LearnedStep {
    /// One, or one for each channel.
    pub(crate) scale: Vec<f32>,
    pub(crate) zero_point: Vec<f32>,
    pub(crate) scale_gradient: Vec<f32>,
    pub(crate) zero_point_gradient: Vec<f32>,
    symmetric: bool,
    scale_gradients: bool,
}

impl FakeQuantize {
    /// Creates a fake quantizer that observes and quantizes.
    #[must_use]
    pub fn new(observer: Observer) -> Self {
        Self {
            observer,
            rule: QParamsRule::Convert,
            observer_enabled: true,
            fake_quant_enabled: true,
            qparams: None,
            learned: None,
        }
    }

    /// Creates a fake quantizer with known qparams.
    ///
    /// # Errors
    /// Returns [`ObserverError`] for a spec that contradicts itself, or that `qparams` do not fit: another range or other
    /// channels.
    pub fn with_qparams(spec: ObservedSpec, qparams: TensorQParams) -> Result<Self, ObserverError> {
        let observer = Observer::new(spec)?;
        let (qscheme, observer_kind) = (spec.qscheme, spec.observer);
        let known = observer.with_state(State::Known(qparams));
        let known = known.ok_or(ObserverError::Scheme { qscheme, observer: observer_kind })?;
        Ok(Self { observer_enabled: false, ..Self::new(known) })
    }

    /// Returns the observer.
    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Whether forward passes update the observed range. On at first; learned steps have it off.
    pub fn enable_observer(&mut self, on: bool) {
        self.observer_enabled = on && self.learned.is_none();
    }

    /// Whether values are quantized. On at first.
    pub fn enable_fake_quant(&mut self, on: bool) {
        self.fake_quant_enabled = on;
    }

    /// Whether values are quantized.
    #[must_use]
    pub fn is_fake_quant_enabled(&self) -> bool {
        self.fake_quant_enabled
    }

    /// Sets the rule from ranges to qparams.
    pub fn set_rule(&mut self, rule: QParamsRule) {
        self.rule = rule;
        self.qparams = None;
    }

    /// Makes scale and zero point parameters that are trained, starting from those of the observer, which is switched off. With
    /// `scale_gradients`, their gradients are divided by `√(elements · quant_max)`.
    ///
    /// # Errors
    /// Returns [`ObserverError`] if the observer has no parameters to start from: it has seen nothing, or they are dynamic or
    /// derived. Scales of groups are not learned: [`ObserverError::Scheme`].
    pub fn learn_step(&mut self, scale_gradients: bool) -> Result<(), ObserverError> {
        let QuantizationSpec::Observed(spec) = self.observer.spec() else {
            return self.observer.calculate_qparams().and(Err(ObserverError::Derived));
        };
        let symmetric = spec.qscheme.is_symmetric();
        if spec.qscheme.group_size().is_some() {
            let (qscheme, observer) = (spec.qscheme, spec.observer);
            return Err(ObserverError::Scheme { qscheme, observer });
        }
        let channels = self.observer.calculate_qparams()?.channels().to_vec();
        let n = channels.len();
        self.learned = Some(LearnedStep {
            scale: channels.iter().map(QParams::scale).collect(),
            zero_point: channels.iter().map(|q| q.zero_point() as f32).collect(),
            scale_gradient: vec![0.0; n],
            zero_point_gradient: vec![0.0; n],
            symmetric,
            scale_gradients,
        });
        self.observer_enabled = false;
        Ok(())
    }

    /// Whether [`learn_step`](Self::learn_step) was called.
    #[must_use]
    pub fn learns_step(&self) -> bool {
        self.learned.is_some()
    }

    pub(crate) fn learned_mut(&mut self) -> Option<&mut LearnedStep> {
        self.learned.as_mut()
    }

    /// Returns the qparams of the last pass; `None` before the first, and for dynamic quantization.
    #[must_use]
    pub fn qparams(&self) -> Option<&TensorQParams> {
        self.qparams.as_ref()
    }

    /// The qparams that convert will use.
    ///
    /// # Errors
    /// Returns the same errors as [`Observer::calculate_qparams`].
    pub(crate) fn calculate_qparams(&self) -> Result<TensorQParams, ObserverError> {
        match (&self.learned, self.observer.spec()) {
            (Some(learned), QuantizationSpec::Observed(spec)) => learned.qparams(spec),
            _ => self.observer.calculate_qparams(),
        }
    }

    /// An observer with the qparams of this fake quantizer, for convert.
    pub(crate) fn to_observer(&self) -> Result<Observer, ObserverError> {
        Ok(match self.learned {
            Some(_) => self.observer.clone().with_known(self.calculate_qparams()?),
            None => self.observer.clone(),
        })
    }

    /// Returns the fake-quantized value. Updates the observed range before, if the observer is on.
    ///
    /// # Errors
    /// Returns [`ObserverError`] for values that are not finite while they are observed, and parameters that are not known yet.
    pub fn forward(&mut self, x: &Tensor) -> Result<Tensor, ObserverError> {
        self.forward_with(x, true, None, Vec::new())
    }

    /// Does the same as [`forward`](Self::forward). `observe` is whether this pass may update the range, `derived` are qparams that are
    /// derived from those of others, and the result is written to `buffer`.
    ///
    /// # Errors
    /// Returns [`ObserverError`] for values that are not finite while they are observed, and parameters that are not known yet.
    pub(crate) fn forward_with(
        &mut self,
        x: &Tensor,
        observe: bool,
        derived: Option<TensorQParams>,
        mut buffer: Vec<f32>,
    ) -> Result<Tensor, ObserverError> {
        buffer.resize(x.len(), 0.0);
        if observe && self.observer_enabled {
            self.observer.observe(x)?;
            self.qparams = None;
        }
        if !self.fake_quant_enabled {
            buffer.copy_from_slice(f32s(x));
            return Ok(like(x, buffer));
        }
        if let Some(spec) = self.dynamic() {
            let ObservedSpec { qscheme, range, eps, .. } = *spec;
            return ops::fake_quantize_dynamic(x, ChooseQParams { qscheme, range, eps })
                .map_err(|index| ObserverError::NonFinite { index, value: f32s(x)[index] });
        }
        let qparams = match (derived, &self.learned, self.rule) {
            (Some(derived), ..) => derived,
            (None, Some(_), _) => self.calculate_qparams()?,
            (None, None, _) if self.qparams.is_some() => self.qparams.take().ok_or(ObserverError::Uncalibrated)?,
            (None, None, QParamsRule::Convert) => self.observer.calculate_qparams()?,
            (None, None, QParamsRule::TorchFused) => torch_fused_qparams(&self.observer)?,
        };
        let y = fake_quantize(x, &qparams, self.observer.range(), buffer);
        self.qparams = Some(qparams);
        Ok(y)
    }

    /// Sets the gradients of learned steps to 0. Gradients of several values that share a step add up from here on.
    pub(crate) fn start_gradients(&mut self) {
        if let Some(learned) = &mut self.learned {
            learned.scale_gradient.fill(0.0);
            learned.zero_point_gradient.fill(0.0);
        }
    }

    /// Turns the gradient of the result of the last pass into that of `x`, of the same length: it passes straight through where the
    /// quantized value was in range before it was clipped, and is 0 elsewhere. The gradients of a learned step are kept.
    pub fn backward(&mut self, x: &Tensor, dy: &mut [f32]) {
        // Dynamic ranges cover all values, except for less than a step through rounding.
        let Some(qparams) = self.qparams.as_ref().filter(|_| self.fake_quant_enabled && self.dynamic().is_none())
        else {
            return;
        };
        if let Some(learned) = &mut self.learned {
            learned.gradients(x, dy, qparams, self.observer.range());
        }
        if self.observer.range() != QuantRange::INT32 {
            ops::straight_through(dy, f32s(x), x.shape(), qparams, self.observer.range());
        }
    }

    fn dynamic(&self) -> Option<&ObservedSpec> {
        match self.observer.spec() {
            QuantizationSpec::Observed(spec) if spec.is_dynamic() => Some(spec),
            _ => None,
        }
    }
}

fn fake_quantize(x: &Tensor, qparams: &TensorQParams, range: QuantRange, mut y: Vec<f32>) -> Tensor {
    if range == QuantRange::INT32 {
        return ops::fake_quantize_i32(x, qparams);
    }
    ops::fake_quantize(&mut y, f32s(x), x.shape(), qparams, range);
    like(x, y)
}

impl LearnedStep {
    /// The nearest qparams that an int8 tensor can have.
    fn qparams(&self, spec: &ObservedSpec) -> Result<TensorQParams, ObserverError> {
        let (lo, hi) = (spec.range.quant_min(), spec.range.quant_max());
        let smallest = smallest_scale(spec, self.scale.iter().fold(0.0, |largest, &scale| largest.max(scale)));
        let of = |(&scale, &zero_point): (&f32, &f32)| {
            // A NaN, from a gradient that was NaN, becomes the smallest scale.
            let scale = scale.max(smallest).clamp(MIN_SCALE, MAX_SCALE);
            let zero_point = if self.symmetric { 0 } else { (zero_point.round_ties_even() as i32).clamp(lo, hi) };
            QParams::new(scale, zero_point).map_err(|source| ObserverError::QParams { min: scale, max: scale, source })
        };
        of_channels(spec, self.scale.iter().zip(&self.zero_point).map(of))
    }

    /// Adds the gradients of scale and zero point: `∂y/∂s = (y − x)/s` in range, `∂y/∂s = q − z` and `∂y/∂z = −s` beyond.
    fn gradients(&mut self, x: &Tensor, dy: &[f32], qparams: &TensorQParams, range: QuantRange) {
        let (channels, inner): (&[QParams], usize) = match qparams {
            TensorQParams::PerTensor(q) => (std::slice::from_ref(q), x.len().max(1)),
            // `learn_step` refuses groups.
            TensorQParams::PerGroup(_) => return,
            TensorQParams::PerChannel { channels, ch_axis } => {
                (channels, x.shape()[ch_axis + 1..].iter().product::<usize>().max(1))
            }
        };
        let factor = match self.scale_gradients {
            true => 1.0 / (x.len() as f64 * f64::from(range.quant_max())).sqrt(),
            false => 1.0,
        };
        let mut sums = vec![(0f64, 0f64); channels.len()];
        let (lo, hi) = (f64::from(range.quant_min()), f64::from(range.quant_max()));
        for (run, (x, dy)) in f32s(x).chunks(inner).zip(dy.chunks(inner)).enumerate() {
            let channel = run % channels.len();
            let (q, sum) = (channels[channel], &mut sums[channel]);
            let (s, z) = (f64::from(q.scale()), f64::from(q.zero_point()));
            for (&x, &dy) in x.iter().zip(dy) {
                let quantized = f64::from((x * q.inv_scale()).round_ties_even()) + z;
                let dy = f64::from(dy);
                if quantized < lo || quantized > hi {
                    sum.0 += dy * (quantized.clamp(lo, hi) - z);
                    sum.1 -= dy * s;
                } else {
                    sum.0 += dy * ((quantized - z) - f64::from(x) / s);
                }
            }
        }
        for (channel, (scale, zero_point)) in sums.into_iter().enumerate() {
            self.scale_gradient[channel] += (scale * factor) as f32;
            self.zero_point_gradient[channel] += if self.symmetric { 0.0 } else { (zero_point * factor) as f32 };
        }
    }
}

/// The qparams that PyTorch's fused module trains with.
fn torch_fused_qparams(observer: &Observer) -> Result<TensorQParams, ObserverError> {
    let QuantizationSpec::Observed(spec) = observer.spec() else { return observer.calculate_qparams() };
    let (lo, hi) = (spec.range.quant_min(), spec.range.quant_max());
    let of = |(min, max): (f32, f32)| {
        let (scale, zero_point) = numerics::torch_fused_qparams(min, max, lo, hi, spec.qscheme.is_symmetric());
        QParams::new(scale, zero_point).map_err(|source| ObserverError::QParams { min, max, source })
    };
    if spec.qscheme.group_size().is_some() {
        return observer.calculate_qparams();
    }
    of_channels(spec, observer.min_max().into_iter().map(of))
}
