//! The evaluation of convolutions: products of the elements under a window and the weight, a block of output pixels at a time.

use std::borrow::Cow;

use super::columns::convolve_full;
use crate::numerics::FloatProducts;
use crate::numerics::float::products::{factor, factors, product, transposed_factors};
use crate::ops::images::Images;
use crate::ops::operands::Arguments;
use crate::ops::window::{ImageLayout, Window};
use crate::parallel::*;
use crate::values::Tensor;
use crate::values::slices::tensor;

/// Computes [`Unfold`](super::Unfold).
pub(crate) fn unfold<T: Copy + Send + Sync>(x: &[T], images: &Images, fill: T) -> Vec<T> {
    let (k, pixels) = (images.taps() * images.channels, images.output_pixels());
    let mut y = vec![fill; images.count * pixels * k];
    let image_length = images.input[0] * images.input[1] * images.channels;
    y.par_chunks_exact_mut(k.max(1)).enumerate().for_each(|(row, y)| {
        let image = &x[row / pixels * image_length..][..image_length];
        images.patch(y, image, row % pixels, [0, images.channels], fill);
    });
    y
}

/// Reorders a weight `[N, C, taps…]` to `[N, taps…, C]`, the order of [`Images::patch`].
pub(crate) fn by_tap<T: Copy>(weight: &[T], shape: &[usize]) -> Vec<T> {
    let (c, taps) = (shape[1], shape[2..].iter().product::<usize>());
    let mut reordered = Vec::with_capacity(weight.len());
    for kernel in weight.chunks_exact((c * taps).max(1)) {
        for tap in 0..taps {
            reordered.extend(kernel[tap..].iter().step_by(taps));
        }
    }
    reordered
}

/// Returns the transpose of a matrix with this many columns.
fn transpose_matrix<T: Copy>(from: &[T], columns: usize) -> Vec<T> {
    // So many lines of the result stay in an L1 cache, whatever the distance between them.
    const LINES: usize = 8;
    let (columns, mut to) = (columns.max(1), from.to_vec());
    let rows = from.len() / columns;
    for first in (0..columns).step_by(LINES) {
        for (at, row) in from.chunks_exact(columns).enumerate() {
            for (column, &value) in row.iter().enumerate().skip(first).take(LINES) {
                to[column * rows + at] = value;
            }
        }
    }
    to
}

/// Output pixels whose patches are collected at a time.
const BLOCK: usize = 256;

/// Computes a convolution block by block: `product(group, patches)` returns `[pixels, N / groups]` for the patches
/// `[pixels, taps · C / groups]`.
pub(super) fn convolve<T: Copy + Send + Sync, R: Copy + Default + Send + Sync>(
    x: &[T],
    images: &Images,
    [n, groups]: [usize; 2],
    fill: T,
    product: impl Fn(usize, &[T]) -> Vec<R> + Sync,
) -> Vec<R> {
    let (pixels, channels, group_n) = (images.output_pixels(), images.channels / groups, n / groups);
    let image_length = images.input[0] * images.input[1] * images.channels;
    let k = images.taps() * channels;
    let mut y = vec![R::default(); images.count * pixels * n];
    let channels_last = Images { layout: ImageLayout::ChannelsLast, ..*images };
    y.par_chunks_exact_mut(pixels * n).zip(x.par_chunks_exact(image_length)).for_each(|(y, image)| {
        // With the channels last, the elements under a tap are neighbours.
        let image = match images.layout {
            ImageLayout::ChannelsFirst => Cow::Owned(transpose_matrix(image, image_length / images.channels)),
            ImageLayout::ChannelsLast => Cow::Borrowed(image),
        };
        let blocks: Vec<(usize, usize)> =
            (0..groups).flat_map(|group| (0..pixels).step_by(BLOCK).map(move |first| (group, first))).collect();
        let parts: Vec<Vec<R>> = blocks
            .par_iter()
            .map(|&(group, first)| {
                let mut patches = vec![fill; BLOCK.min(pixels - first) * k];
                for (at, patch) in patches.chunks_exact_mut(k).enumerate() {
                    channels_last.patch(patch, &image, first + at, [group * channels, channels], fill);
                }
                product(group, &patches)
            })
            .collect();
        for ((group, first), part) in blocks.into_iter().zip(parts) {
            for (at, row) in part.chunks_exact(group_n).enumerate() {
                for (channel, &value) in row.iter().enumerate() {
                    y[images.index(first + at, group * group_n + channel, [pixels, n])] = value;
                }
            }
        }
    });
    y
}

/// Computes a convolution of floats, for images with the channels first and a weight of shape `[N, C / groups, taps…]`.
pub(super) fn convolve_f32(
    inputs: &Arguments<'_>,
    window: &Window,
    groups: usize,
    (weight, shape): (&[f32], &[usize]),
    products: FloatProducts,
) -> Tensor {
    let (x, bias) = (inputs.f32s(0), inputs.tensors.get(2).map(|_| inputs.f32s(2)));
    let images = Images::new(inputs.tensor(0).shape(), window, ImageLayout::ChannelsFirst);
    let n = shape[0];
    let y = match products {
        FloatProducts::Full => convolve_full(x, &images, [n, groups], weight, bias),
        FloatProducts::Reproducible => {
            let weight = by_tap(weight, shape);
            let (group_n, k) = (n / groups, images.taps() * images.channels / groups);
            let of_group = |group: usize| transposed_factors(&weight[group * group_n * k..][..group_n * k], group_n, k);
            let weights: Vec<Vec<f32>> = (0..groups).map(of_group).collect();
            convolve(&factors(x), &images, [n, groups], factor(0.0), |group, patches| {
                let mut y = vec![0.0; patches.len() / k * group_n];
                let bias = bias.map(|bias| &bias[group * group_n..][..group_n]);
                product(&mut y, patches, &weights[group], [group_n, k], bias);
                y
            })
        }
    };
    tensor(inputs.output.with_rows(images.count), y)
}
