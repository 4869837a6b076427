//! The error of layers' int8 outputs on a sample of tokens.

use super::SmoothOptions;
use crate::numerics::{self, gemm};
use crate::quantize::spec::QuantizationSpec;
use crate::quantize::{Observer, ObserverError, ObserverKind, QuantizationConfig};
use crate::values::{QParams, Tensor};

/// Where the ranges of activations come from.
#[derive(Clone, Copy)]
pub(super) enum Ranges {
    /// An observer, which may clip them.
    Observed,
    /// The values at run time.
    Dynamic,
    /// The values of each token at run time.
    PerToken,
}

impl Ranges {
    pub(super) fn of(options: &SmoothOptions) -> Self {
        match (options.per_token, options.dynamic) {
            (true, _) => Self::PerToken,
            (false, true) => Self::Dynamic,
            (false, false) => Self::Observed,
        }
    }
}

/// Layers that read the same tokens, as one matrix.
pub(super) struct LayerErrors<'a> {
    /// Tokens `[samples, channels]`.
    samples: &'a [f32],
    /// Weights `[rows, channels]`.
    matrix: &'a [f32],
    /// The numbers of consecutive rows that have a scale in common: the taps of an output channel.
    rows_of_scales: &'a [usize],
    channels: usize,
    ranges: Ranges,
    /// The outputs in float.
    outputs: Vec<f32>,
}

impl<'a> LayerErrors<'a> {
    pub(super) fn new(
        samples: &'a [f32],
        (matrix, rows_of_scales): (&'a [f32], &'a [usize]),
        channels: usize,
        ranges: Ranges,
    ) -> Self {
        let mut errors = Self { samples, matrix, rows_of_scales, channels, ranges, outputs: Vec::new() };
        errors.outputs = errors.products(samples, matrix);
        errors
    }

    fn products(&self, samples: &[f32], matrix: &[f32]) -> Vec<f32> {
        let sizes = [samples.len() / self.channels, matrix.len() / self.channels, self.channels];
        gemm::linear(samples, sizes, matrix, None, None)
    }

    /// The sum of the squared errors of the outputs, if each channel of the samples is divided by its scale and each column of the weights
    /// multiplied by it, before both are quantized to int8: the samples with one scale and zero point, or one of each token, and the weights
    /// with a scale for each output channel. Infinite for samples that have no scale.
    pub(super) fn of(&self, scales: Option<&[f64]>) -> f64 {
        let scaled = |values: &[f32], change: fn(f64, f64) -> f64| -> Vec<f32> {
            let Some(scales) = scales else { return values.to_vec() };
            let of_row = |row: &[f32]| -> Vec<f32> {
                row.iter().zip(scales).map(|(&v, &scale)| change(f64::from(v), scale) as f32).collect()
            };
            values.chunks_exact(self.channels).flat_map(of_row).collect()
        };
        let mut matrix = scaled(self.matrix, |w, scale| w * scale);
        let mut rest = &mut matrix[..];
        for &rows in self.rows_of_scales {
            let (of_scale, behind) = std::mem::take(&mut rest).split_at_mut(rows * self.channels);
            let step = (of_scale.iter().fold(0f32, |max, w| max.max(w.abs())) / 127.0).max(f32::MIN_POSITIVE);
            of_scale.iter_mut().for_each(|w| *w = numerics::round_small((*w / step).clamp(-127.0, 127.0)) * step);
            rest = behind;
        }
        let mut samples = scaled(self.samples, |x, scale| x / scale);
        if self.quantize(&mut samples).is_err() {
            return f64::INFINITY;
        }
        let outputs = self.products(&samples, &matrix);
        outputs.iter().zip(&self.outputs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>()
    }

    /// Quantizes and dequantizes samples.
    fn quantize(&self, samples: &mut [f32]) -> Result<(), ObserverError> {
        match self.ranges {
            Ranges::Observed | Ranges::Dynamic => round(samples, self.qparams(samples)?),
            Ranges::PerToken => {
                for token in samples.chunks_exact_mut(self.channels) {
                    round(token, self.qparams(token)?);
                }
            }
        }
        Ok(())
    }

    /// The scale and zero point of samples.
    fn qparams(&self, samples: &[f32]) -> Result<QParams, ObserverError> {
        let config = QuantizationConfig::symmetric();
        let config = match self.ranges {
            Ranges::Observed => config,
            Ranges::Dynamic | Ranges::PerToken => config.activation_observer(ObserverKind::MinMax),
        };
        let Some(QuantizationSpec::Observed(spec)) = config.input_activation else {
            return Err(ObserverError::Dynamic);
        };
        let mut observer = Observer::new(spec)?;
        observer.observe(&Tensor::from(ndarray::ArrayView1::from(samples).to_owned()))?;
        observer.calculate_qparams()?.per_tensor().ok_or(ObserverError::Dynamic)
    }
}

/// Quantizes and dequantizes values.
fn round(values: &mut [f32], qparams: QParams) {
    let (step, z) = (qparams.scale(), qparams.zero_point());
    let (lo, hi) = ((-128 - z) as f32, (127 - z) as f32);
    values.iter_mut().for_each(|x| *x = numerics::round_small((*x / step).clamp(lo, hi)) * step);
}
