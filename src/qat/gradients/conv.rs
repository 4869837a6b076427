//! Gradients of convolutions.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::{Backward, Rule};
use crate::numerics::{FloatProducts, gemm};
use crate::ops::{Conv, ConvTranspose, ImageLayout, Images, Op, Window, by_tap, transpose_matrix};
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

/// Elements under windows that are in memory at a time, for each image.
const PATCHES: usize = 1 << 20;

/// A convolution with its weight `[N, taps, C / groups]`.
struct Layer {
    images: Images,
    groups: usize,
    n: usize,
    weight: Vec<f32>,
    /// Output pixels whose patches are in memory at a time, for each image.
    block: usize,
}

/// The gradient `[n, pixels]` at some of the pixels.
fn at<'d>(dy: &'d [f32], pixels: usize, range: &Range<usize>) -> Cow<'d, [f32]> {
    if range.len() == pixels {
        return dy.into();
    }
    dy.chunks_exact(pixels).flat_map(|row| &row[range.clone()]).copied().collect()
}

impl Layer {
    fn new(b: &Backward<'_>, window: &Window, groups: usize, weight: &[f32]) -> Self {
        let images = Images::new(b.inputs[0].shape(), window, ImageLayout::ChannelsFirst);
        let k = images.taps() * images.channels / groups;
        let block = (PATCHES / k.max(1)).clamp(1, images.output_pixels().max(1));
        Self { images, groups, n: b.y.shape()[1], weight: weight.to_vec(), block }
    }

    /// Output channels and products of a group, and output pixels.
    fn sizes(&self) -> [usize; 3] {
        let k = self.images.taps() * self.images.channels / self.groups;
        [self.n / self.groups, k, self.images.output_pixels()]
    }

    /// The output pixels of an image, in blocks.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> {
        let (pixels, block) = (self.images.output_pixels(), self.block);
        (0..pixels).step_by(block).map(move |first| first..pixels.min(first + block))
    }

    fn image_length(&self) -> usize {
        self.images.input[0] * self.images.input[1] * self.images.channels
    }

    /// The gradient of the patches, `dyᵀ · w`, added to the elements that they were collected from.
    fn of_input(&self, dy: &[f32], dx: &mut [f32]) {
        let ([n, k, pixels], all) = (self.sizes(), self.images.channels);
        let channels = all / self.groups;
        let images = dx.par_chunks_exact_mut(self.image_length()).zip(dy.par_chunks_exact(self.n * pixels));
        images.for_each(|(dx, dy)| {
            // With the channels last, the elements under a tap are neighbours.
            let mut sums = vec![0.0; dx.len()];
            let mut patches = vec![0.0; self.block * k];
            for (group, dy) in dy.chunks_exact(n * pixels).enumerate() {
                let weight = &self.weight[group * n * k..][..n * k];
                for block in self.blocks() {
                    let patches = &mut patches[..block.len() * k];
                    gemm::matmul_transposed(patches, &at(dy, pixels, &block), weight, [block.len(), k, n]);
                    for (output, patch) in block.zip(patches.chunks_exact(k)) {
                        for (tap, pixel) in patch.chunks_exact(channels).zip(self.images.pixels(output)) {
                            let Some(pixel) = pixel else { continue };
                            let sums = &mut sums[pixel * all + group * channels..][..channels];
                            sums.iter_mut().zip(tap).for_each(|(sum, &d)| *sum += d);
                        }
                    }
                }
            }
            dx.copy_from_slice(&transpose_matrix(&sums, all));
        });
    }

    /// The gradient of the weight, `Σ dy · patches` over the images, in their order.
    fn of_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let ([n, k, pixels], channels) = (self.sizes(), self.images.channels / self.groups);
        let channels_last = Images { layout: ImageLayout::ChannelsLast, ..self.images };
        let of_image = |(x, dy): (&[f32], &[f32])| {
            let image = transpose_matrix(x, x.len() / self.images.channels);
            let mut gradient = vec![0.0; self.weight.len()];
            let (mut patches, mut part) = (vec![0.0; self.block * k], vec![0.0; n * k]);
            for (group, (dy, gradient)) in dy.chunks_exact(n * pixels).zip(gradient.chunks_exact_mut(n * k)).enumerate()
            {
                for block in self.blocks() {
                    let patches = &mut patches[..block.len() * k];
                    for (output, patch) in block.clone().zip(patches.chunks_exact_mut(k)) {
                        channels_last.patch(patch, &image, output, [group * channels, channels], 0.0);
                    }
                    gemm::matmul(&mut part, &at(dy, pixels, &block), patches, [n, k, block.len()]);
                    gradient.iter_mut().zip(&part).for_each(|(sum, v)| *sum += v);
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of pixels add up to the gradients of all pixels at once.
    #[test]
    fn blocks_of_patches_change_no_gradient() {
        let window = Window::new(&[3, 2]).with_stride(&[2, 1]).with_padding(&[1, 1]);
        let layer = |block: Option<usize>| {
            let images = Images::new(&[2, 4, 7, 5], &window, ImageLayout::ChannelsFirst);
            let weight = (0..6 * 6 * 2).map(|i| (i * 29 % 47) as f32 * 0.1 - 2.0).collect();
            let block = block.unwrap_or(images.output_pixels());
            Layer { images, groups: 2, n: 6, weight, block }
        };
        let whole = layer(None);
        let x: Vec<f32> = (0..2 * whole.image_length()).map(|i| (i * 31 % 53) as f32 * 0.1 - 2.5).collect();
        let dy: Vec<f32> = (0..2 * 6 * whole.block).map(|i| (i * 37 % 59) as f32 * 0.1 - 3.0).collect();
        let gradients = |layer: &Layer| {
            let mut dx = vec![f32::NAN; x.len()];
            layer.of_input(&dy, &mut dx);
            [dx, layer.of_weight(&x, &dy)]
        };
        let expected = gradients(&whole);
        assert!(expected.iter().all(|gradient| gradient.iter().any(|v| v.abs() > 1.0)));
        for block in [1, 5, 23] {
            assert!(block < whole.block);
            for (got, expected) in gradients(&layer(Some(block))).iter().zip(&expected) {
                for (&got, &expected) in got.iter().zip(expected) {
                    approx::assert_relative_eq!(got, expected, max_relative = 1e-5, epsilon = 1e-4);
                }
            }
        }
    }
}
