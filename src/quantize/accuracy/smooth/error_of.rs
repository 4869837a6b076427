//! The error of layers' int8 outputs on a sample of tokens.

use crate::numerics::{self, gemm};

/// Layers that read the same tokens, as one matrix.
pub(super) struct LayerErrors<'a> {
    /// Tokens `[samples, channels]`.
    samples: &'a [f32],
    /// Weights `[rows, channels]`.
    matrix: &'a [f32],
    channels: usize,
    /// The outputs in float.
    outputs: Vec<f32>,
}

impl<'a> LayerErrors<'a> {
    pub(super) fn new(samples: &'a [f32], matrix: &'a [f32], channels: usize) -> Self {
        let mut errors = Self { samples, matrix, channels, outputs: Vec::new() };
        errors.outputs = errors.products(samples, matrix);
        errors
    }

    fn products(&self, samples: &[f32], matrix: &[f32]) -> Vec<f32> {
        let sizes = [samples.len() / self.channels, matrix.len() / self.channels, self.channels];
        gemm::linear(samples, sizes, matrix, None, None)
    }

    /// The sum of the squared errors of the outputs, if each channel of the samples is divided by its scale and each column of the weights
    /// multiplied by it, before both are quantized to int8: the samples with one scale and zero point, the weights with a scale for each row.
    pub(super) fn of(&self, scales: Option<&[f64]>) -> f64 {
        let scaled = |values: &[f32], change: fn(f64, f64) -> f64| -> Vec<f32> {
            let Some(scales) = scales else { return values.to_vec() };
            let of_row = |row: &[f32]| -> Vec<f32> {
                row.iter().zip(scales).map(|(&v, &scale)| change(f64::from(v), scale) as f32).collect()
            };
            values.chunks_exact(self.channels).flat_map(of_row).collect()
        };
        let mut samples = scaled(self.samples, |x, scale| x / scale);
        let (min, max) = samples.iter().fold((0f32, 0f32), |(min, max), &x| (min.min(x), max.max(x)));
        let step = ((max - min) / 255.0).max(f32::MIN_POSITIVE);
        let zero_point = (-128.0 - min / step).round_ties_even();
        let quantized =
            |x: f32| (numerics::round_small((x / step).clamp(-256.0, 256.0)) + zero_point).clamp(-128.0, 127.0);
        samples.iter_mut().for_each(|x| *x = (quantized(*x) - zero_point) * step);
        let mut matrix = scaled(self.matrix, |w, scale| w * scale);
        for row in matrix.chunks_exact_mut(self.channels) {
            let step = (row.iter().fold(0f32, |max, w| max.max(w.abs())) / 127.0).max(f32::MIN_POSITIVE);
            row.iter_mut().for_each(|w| *w = numerics::round_small((*w / step).clamp(-127.0, 127.0)) * step);
        }
        let outputs = self.products(&samples, &matrix);
        outputs.iter().zip(&self.outputs).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
    }
}
