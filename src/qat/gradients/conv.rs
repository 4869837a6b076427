//! Gradients of convolutions.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::{Backward, Rule};
use crate::numerics::{FloatProducts, gemm};
use crate::ops::{Conv, ConvTranspose, ImageLayout, Images, Op, Window};
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    match op {
        Op::Conv(Conv { window, groups, products: FloatProducts::Full }) => Some(Box::new(move |b, dx| {
            let layer = Layer::new(b, window, *groups, f32s(b.inputs[1]));
            match b.at {
                0 => layer.of_input(b.dy, dx),
                1 => dx.copy_from_slice(&layer.of_weight(f32s(b.inputs[0]), b.dy)),
                _ => of_bias(b, dx),
            }
        })),
        Op::ConvTranspose(conv @ ConvTranspose { products: FloatProducts::Full, .. }) => {
            Some(Box::new(move |b, dx| {
                let (_, mirrored) = conv.mirrored(f32s(b.inputs[1]), b.inputs[1].shape());
                let layer = Layer::new(b, &conv.as_conv(), conv.groups, &mirrored);
                match b.at {
                    0 => layer.of_input(b.dy, dx),
                    1 => {
                        let gradient = layer.of_weight(f32s(b.inputs[0]), b.dy);
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

/// A convolution with its weight `[N, C / groups, taps]`.
struct Layer<'w> {
    images: Images,
    groups: usize,
    n: usize,
    weight: &'w [f32],
}

/// The gradient `[n, pixels]` at some of the pixels.
fn at<'d>(dy: &'d [f32], pixels: usize, range: &Range<usize>) -> Cow<'d, [f32]> {
    if range.len() == pixels {
        return dy.into();
    }
    let mut part = Vec::with_capacity(dy.len() / pixels * range.len());
    dy.chunks_exact(pixels).for_each(|row| part.extend_from_slice(&row[range.clone()]));
    part.into()
}

impl<'w> Layer<'w> {
    fn new(b: &Backward<'_>, window: &Window, groups: usize, weight: &'w [f32]) -> Self {
        let images = Images::new(b.inputs[0].shape(), window, ImageLayout::ChannelsFirst);
        Self { images, groups, n: b.y.shape()[1], weight }
    }

    /// Output channels and products of a group, and output pixels.
    fn sizes(&self) -> [usize; 3] {
        let k = self.images.taps() * self.images.channels / self.groups;
        [self.n / self.groups, k, self.images.output_pixels()]
    }

    fn image_length(&self) -> usize {
        self.images.input[0] * self.images.input[1] * self.images.channels
    }

    /// The gradient of the columns, `wᵀ · dy`, added to the elements that they were collected from.
    fn of_input(&self, dy: &[f32], dx: &mut [f32]) {
        let [n, k, pixels] = self.sizes();
        let pack = |weight| gemm::PackedLeft::transposed(weight, k, n);
        let weights: Vec<gemm::PackedLeft<'_>> = self.weight.chunks_exact(n * k).map(pack).collect();
        let images = dx.par_chunks_exact_mut(self.image_length()).zip(dy.par_chunks_exact(self.n * pixels));
        images.for_each_init(Vec::new, |columns, (dx, dy)| {
            dx.fill(0.0);
            let groups = dx.chunks_exact_mut(self.image_length() / self.groups).zip(dy.chunks_exact(n * pixels));
            for ((dx, dy), weight) in groups.zip(&weights) {
                for block in self.images.blocks(k) {
                    columns.resize(k * block.len(), 0.0);
                    weight.product(columns, &at(dy, pixels, &block), block.len(), None);
                    self.images.add_columns(dx, columns, &block);
                }
            }
        });
    }

    /// The gradient of the weight, `Σ dy · columnsᵀ` over the images, in their order.
    fn of_weight(&self, x: &[f32], dy: &[f32]) -> Vec<f32> {
        let [n, k, pixels] = self.sizes();
        let of_image = |columns: &mut Vec<f32>, (x, dy): (&[f32], &[f32])| {
            let mut gradient = vec![0.0; self.weight.len()];
            let mut part = vec![0.0; n * k];
            let groups = x.chunks_exact(self.image_length() / self.groups).zip(dy.chunks_exact(n * pixels));
            for ((x, dy), gradient) in groups.zip(gradient.chunks_exact_mut(n * k)) {
                for block in self.images.blocks(k) {
                    let columns = self.images.columns(columns, x, &block);
                    let sizes = [n, k, block.len()];
                    gemm::linear_into(&mut part, &at(dy, pixels, &block), sizes, columns, None, None, None);
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
            for gradient in images.map_init(Vec::new, of_image).collect::<Vec<_>>() {
                sums.iter_mut().zip(gradient).for_each(|(sum, v)| *sum += f64::from(v));
            }
        }
        sums.into_iter().map(|sum| sum as f32).collect()
    }
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

    /// Gradients of several groups and blocks of pixels, with strides, padding and dilation, are the sums over taps that define them.
    #[test]
    fn gradients_are_sums_over_taps() {
        for (window, [height, width]) in [
            (Window::new(&[3, 2]).with_stride(&[2, 1]).with_padding(&[1, 1]), [130, 100]),
            (Window::new(&[2, 3]).with_stride(&[1, 2]).with_padding(&[0, 2]).with_dilation(&[3, 2]), [9, 11]),
            (Window::new(&[1, 1]), [90, 80]),
        ] {
            let [rows, channels, n, groups] = [2, 4, 6, 2];
            let images = Images::new(&[rows, channels, height, width], &window, ImageLayout::ChannelsFirst);
            let (taps, group_channels) = (images.taps(), channels / groups);
            let (plane, pixels) = (height * width, images.output_pixels());
            let values = |count: usize, step: usize| -> Vec<f32> {
                (0..count).map(|i| (i * step % 53) as f32 * 0.1 - 2.5).collect()
            };
            let weight = values(n * group_channels * taps, 29);
            let x = values(rows * channels * plane, 31);
            let dy = values(rows * n * pixels, 37);
            let layer = Layer { images, groups, n, weight: &weight };
            let blocks = images.blocks(taps * group_channels).count();
            assert_eq!(blocks > 1, height == 130, "one of the cases has several blocks");
            let (mut of_x, mut of_weight) = (vec![0f64; x.len()], vec![0f64; weight.len()]);
            for (at, &dy) in dy.iter().enumerate() {
                let (row, channel, output) = (at / pixels / n, at / pixels % n, at % pixels);
                for c in 0..group_channels {
                    let plane_at = (row * channels + channel / (n / groups) * group_channels + c) * plane;
                    for (tap, pixel) in images.pixels(output).enumerate() {
                        let Some(pixel) = pixel else { continue };
                        let w = (channel * group_channels + c) * taps + tap;
                        of_x[plane_at + pixel] += f64::from(dy) * f64::from(weight[w]);
                        of_weight[w] += f64::from(dy) * f64::from(x[plane_at + pixel]);
                    }
                }
            }
            let mut dx = vec![f32::NAN; x.len()];
            layer.of_input(&dy, &mut dx);
            for (got, expected) in [(dx, of_x), (layer.of_weight(&x, &dy), of_weight)] {
                assert!(expected.iter().any(|v| v.abs() > 1.0));
                for (&got, &expected) in got.iter().zip(&expected) {
                    approx::assert_relative_eq!(f64::from(got), expected, max_relative = 1e-4, epsilon = 1e-2);
                }
            }
        }
    }
}
