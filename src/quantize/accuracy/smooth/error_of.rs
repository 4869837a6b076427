//! The error of layers' int8 outputs on a sample of tokens.

use crate::numerics::{self, gemm};

/// Layers that read the same tokens, as one matrix.
pub(super) struct LayerErrors<'a> {
    /// Tokens `[samples, channels]`.
    samples: &'a [f32],
    /// Weights `[rows, channels]`.
    matrix: &'a [f32],
    channels: usize,
    /// Shares of the samples' range that are tried.
    ranges: &'static [f32],
    /// The outputs in float.
    outputs: Vec<f32>,
}

/// Observers of static ranges clip a range where that costs less than it gains.
const CLIPPED: [f32; 4] = [1.0, 0.85, 0.7, 0.55];

impl<'a> LayerErrors<'a> {
    /// `dynamic`: ranges are those of the samples. Otherwise, they may be clipped.
    pub(super) fn new(samples: &'a [f32], matrix: &'a [f32], channels: usize, dynamic: bool) -> Self {
        let ranges = if dynamic { &CLIPPED[..1] } else { &CLIPPED };
        let mut errors = Self { samples, matrix, channels, ranges, outputs: Vec::new() };
        errors.outputs = errors.products(samples, matrix);
        errors
    }

    fn products(&self, samples: &[f32], matrix: &[f32]) -> Vec<f32> {
        let sizes = [samples.len() / self.channels, matrix.len() / self.channels, self.channels];
        gemm::linear(samples, sizes, matrix, None, None)
    }

    /// The sum of the squared errors of the outputs, if each channel of the samples is divided by its scale and each column of the weights
    /// multiplied by it, before both are quantized to int8: the samples with one scale and zero point, the weights with a scale for each row.
    /// Of several ranges of the samples, the best one counts.
    pub(super) fn of(&self, scales: Option<&[f64]>) -> f64 {
        let scaled = |values: &[f32], change: fn(f64, f64) -> f64| -> Vec<f32> {
            let Some(scales) = scales else { return values.to_vec() };
            let of_row = |row: &[f32]| -> Vec<f32> {
                row.iter().zip(scales).map(|(&v, &scale)| change(f64::from(v), scale) as f32).collect()
            };
            values.chunks_exact(self.channels).flat_map(of_row).collect()
        };
        let mut matrix = scaled(self.matrix, |w, scale| w * scale);
        for row in matrix.chunks_exact_mut(self.channels) {
            let step = (row.iter().fold(0f32, |max, w| max.max(w.abs())) / 127.0).max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|w| *w = numerics::round_small((*w / step).clamp(-127.0, 127.0)) * step);
        }
        let samples = scaled(self.samples, |x, scale| x / scale);
        let (min, max) = samples.iter().fold((0f32, 0f32), |(min, max), &x| (min.min(x), max.max(x)));
        let error = |share: &f32| {
            let step = ((max - min) * share / 255.0).max(f32::MIN_POSITIVE);
            let zero_point = (-128.0 - min * share / step).round_ties_even();
            let (lo, hi) = (-128.0 - zero_point, 127.0 - zero_point);
            let quantized = samples.iter().map(|x| numerics::round_small((x / step).clamp(lo, hi)) * step);
            let outputs = self.products(&quantized.collect::<Vec<_>>(), &matrix);
            outputs.iter().zip(&self.outputs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>()
        };
        self.ranges.iter().map(error).fold(f64::INFINITY, f64::min)
    }
}
