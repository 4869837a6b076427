//! Gradients of convolutions.

use rayon::prelude::*;

use super::{Backward, Rule};
use crate::numerics::{FloatProducts, gemm};
use crate::ops::{Conv, ConvTranspose, ImageLayout, Images, Op, Window, by_tap};
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    match op {
        Op::Conv(Conv { window, groups, products: FloatProducts::Full }) => Some(Box::new(move |b, dx| {
            let (weight, shape) = (f32s(b.inputs[1]), b.inputs[1].shape());
            let layer = Layer::new(b, window, *groups, &by_tap(weight, shape));
            match b.at {
                0 => layer.of_input(b.dy, dx),
                1 => from_taps(&layer.of_weight(f32s(b.inputs[0]), b.dy), shape, dx),
                _ => of_bias(b, dx),
            }
        })),
        Op::ConvTranspose(conv @ ConvTranspose { products: FloatProducts::Full, .. }) => {
            Some(Box::new(move |b, dx| {
                let (mirrored_shape, mirrored) = conv.mirrored(f32s(b.inputs[1]), b.inputs[1].shape());
                let layer = Layer::new(b, &conv.as_conv(), conv.groups, &by_tap(&mirrored, &mirrored_shape));
                match b.at {
                    0 => layer.of_input(b.dy, dx),
                    1 => {
                        let mut gradient = vec![0.0; dx.len()];
                        from_taps(&layer.of_weight(f32s(b.inputs[0]), b.dy), &mirrored_shape, &mut gradient);
                        // The place in the mirrored weight of each element of the weight.
                        let places: Vec<usize> = (0..dx.len()).collect();
                        let (_, places) = conv.mirrored(&places, b.inputs[1].shape());
                        places.into_iter().zip(gradient).for_each(|(place, gradient)| dx[place] = gradient);
                    }
                    _ => of_bias(b, dx),
                }
            }))
        }
        _ => None,
    }
}

/// Images whose gradients are in memory at a time.
const BLOCK: usize = 8;

/// A convolution with its weight `[N, taps, C / groups]`.
struct Layer {
    images: Images,
    groups: usize,
    n: usize,
    weight: Vec<f32>,
}

impl Layer {
    fn new(b: &Backward<'_>, window: &Window, groups: usize, weight: &[f32]) -> Self {
        let images = Images::new(b.inputs[0].shape(), window, ImageLayout::ChannelsFirst);
        Self { images, groups, n: b.y.shape()[1], weight: weight.to_vec() }
    }

    /// Output channels and products of a group, and output pixels.
    fn sizes(&self) -> [usize; 3] {
        let k = self.images.taps() * self.images.channels / self.groups;
        [self.n / self.groups, k, self.images.output_pixels()]
    }

    fn image_length(&self) -> usize {
        self.images.input[0] * self.images.input[1] * self.images.channels
    }

    /// The gradient of the patches, `dyᵀ · w`, added to the elements that they were collected from.
    fn of_input(&self, dy: &[f32], dx: &mut [f32]) {
        let ([n, k, pixels], channels) = (self.sizes(), self.images.channels / self.groups);
        let input_pixels = self.images.input[0] * self.images.input[1];
        let images = dx.par_chunks_exact_mut(self.image_length()).zip(dy.par_chunks_exact(self.n * pixels));
        images.for_each(|(dx, dy)| {
            dx.fill(0.0);
            let mut patches = vec![0.0; pixels * k];
            for (group, dy) in dy.chunks_exact(n * pixels).enumerate() {
                let weight = &self.weight[group * n * k..][..n * k];
                gemm::matmul_transposed(&mut patches, dy, weight, [pixels, k, n]);
                for (output, patch) in patches.chunks_exact(k).enumerate() {
                    for (tap, pixel) in patch.chunks_exact(channels).zip(self.images.pixels(output)) {
                        let Some(pixel) = pixel else { continue };
                        for (channel, &d) in tap.iter().enumerate() {
                            dx[(group * channels + channel) * input_pixels + pixel] += d;
                        }
                    }
                }
            }
        });
    }

    /// The gradient of the weight, `Σ dy · patches` over the images, in their order.
    fn of_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let ([n, k, pixels], channels) = (self.sizes(), self.images.channels / self.groups);
        let of_image = |(x, dy): (&[f32], &[f32])| {
            let mut gradient = vec![0.0; self.weight.len()];
            let mut patches = vec![0.0; pixels * k];
            for (group, (dy, gradient)) in dy.chunks_exact(n * pixels).zip(gradient.chunks_exact_mut(n * k)).enumerate()
            {
                for (output, patch) in patches.chunks_exact_mut(k).enumerate() {
                    self.images.patch(patch, x, output, [group * channels, channels], 0.0);
                }
                gemm::matmul(gradient, dy, &patches, [n, k, pixels]);
            }
            gradient
        };
        let mut sums = vec![0f64; self.weight.len()];
        // Blocks, so that few gradients are in memory at a time.
        let (x_block, dy_block) = (BLOCK * self.image_length(), BLOCK * self.n * pixels);
        for (x, dy) in x.chunks(x_block).zip(dy.chunks(dy_block)) {
            let images = x.par_chunks_exact(self.image_length()).zip(dy.par_chunks_exact(self.n * pixels));
            for gradient in images.map(of_image).collect::<Vec<_>>() {
                sums.iter_mut().zip(gradient).for_each(|(sum, v)| *sum += f64::from(v));
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }
}

/// Writes a gradient `[N, taps, C]` of a weight in the order `[N, C, taps…]`, which is `shape`.
fn from_taps(gradient: &[f32], shape: &[usize], dx: &mut [f32]) {
    let places: Vec<usize> = (0..dx.len()).collect();
    by_tap(&places, shape).into_iter().zip(gradient).for_each(|(place, &gradient)| dx[place] = gradient);
}

/// The sum of the gradient over images and pixels.
fn of_bias(b: &Backward<'_>, dx: &mut [f32]) {
    let pixels = b.y.shape()[2..].iter().product::<usize>();
    let mut sums = vec![0f64; dx.len()];
    for (at, dy) in b.dy.chunks_exact(pixels.max(1)).enumerate() {
        sums[at % dx.len()] += dy.iter().map(|&v| f64::from(v)).sum::<f64>();
    }
    dx.iter_mut().zip(sums).for_each(|(dx, sum)| *dx = sum as f32);
}
