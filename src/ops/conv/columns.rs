//! Float products of convolutions, for images with the channels first: the elements under the windows are the columns of a matrix, with a
//! row for each channel and tap, so that neighbours in an image are neighbours in a row.

use std::ops::Range;

use crate::numerics::gemm;
use crate::ops::images::Images;
use crate::parallel::*;

/// Bytes of columns that are in memory at a time. They stay in an L2 cache.
const BLOCK_BYTES: usize = 1 << 18;

/// The fewest output pixels of a block, so that the product of a block is worth its start.
const MIN_BLOCK: usize = 64;

/// A run of neighbouring output pixels of a block, and the input pixel under a tap of the first of them.
type Span = (Range<usize>, usize);

impl Images {
    /// Returns blocks of output pixels whose columns, of `k` elements each, fit in a cache.
    pub(crate) fn blocks(&self, k: usize) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
        let pixels = self.output_pixels();
        let block = (BLOCK_BYTES / size_of::<f32>() / k.max(1)).max(MIN_BLOCK);
        (0..pixels).step_by(block).map(move |first| first..pixels.min(first + block))
    }

    /// The output pixels of a block whose window has an input pixel under a tap.
    fn spans(&self, block: &Range<usize>, [row_tap, column_tap]: [usize; 2]) -> Vec<Span> {
        let ([rows, columns], [height, width], outputs) = (self.window, self.input, self.output[1]);
        let mut spans = Vec::new();
        for y in block.start / outputs..block.end.div_ceil(outputs) {
            let Some(row) = rows.input(y, row_tap, height) else { continue };
            // The block's pixels in this row.
            let first = block.start.saturating_sub(y * outputs);
            let end = (block.end - y * outputs).min(outputs);
            let input = |x: usize| columns.input(x, column_tap, width).map(|column| row * width + column);
            let place = |x: usize| y * outputs + x - block.start;
            if columns.input_dilation == 1 {
                // Outputs whose tap is inside the image are neighbours.
                let Some(first) = (first..end).find(|&x| input(x).is_some()) else { continue };
                let Some(last) = (first..end).rev().find(|&x| input(x).is_some()) else { continue };
                spans.extend(input(first).map(|from| (place(first)..place(last) + 1, from)));
            } else {
                spans.extend((first..end).filter_map(|x| Some((place(x)..place(x) + 1, input(x)?))));
            }
        }
        spans
    }

    /// Calls `visit` for each tap, with its number and its spans.
    fn for_each_tap(&self, block: &Range<usize>, mut visit: impl FnMut(usize, &[Span])) {
        let columns = self.window[1].size;
        (0..self.taps()).for_each(|tap| visit(tap, &self.spans(block, [tap / columns, tap % columns])));
    }

    /// Returns the elements `[channels, taps, pixels]` under the windows of a block of output pixels of an image `[channels, H, W]`, in
    /// `columns` or in the image itself.
    pub(crate) fn columns<'c>(&self, columns: &'c mut Vec<f32>, image: &'c [f32], block: &Range<usize>) -> &'c [f32] {
        let (plane, taps, stride) = (self.input[0] * self.input[1], self.taps(), self.window[1].stride);
        if self.is_pointwise() && block.len() == plane {
            return image;
        }
        let length = image.len() / plane.max(1) * taps * block.len();
        columns.resize(length, 0.0);
        self.for_each_tap(block, |tap, spans| {
            let of_channels = columns.chunks_exact_mut(taps * block.len()).zip(image.chunks_exact(plane));
            for (to, image) in of_channels {
                let to = &mut to[tap * block.len()..][..block.len()];
                let mut end = 0;
                for (range, from) in spans {
                    to[end..range.start].fill(0.0);
                    end = range.end;
                    let (to, from) = (&mut to[range.clone()], &image[*from..]);
                    if stride == 1 {
                        to.copy_from_slice(&from[..to.len()]);
                    } else {
                        to.iter_mut().zip(from.iter().step_by(stride)).for_each(|(to, &from)| *to = from);
                    }
                }
                to[end..].fill(0.0);
            }
        });
        columns
    }

    /// Adds columns, as [`columns`](Self::columns) returns them, to the elements of the image from which they come.
    pub(crate) fn add_columns(&self, image: &mut [f32], columns: &[f32], block: &Range<usize>) {
        let (plane, taps, stride) = (self.input[0] * self.input[1], self.taps(), self.window[1].stride);
        self.for_each_tap(block, |tap, spans| {
            let of_channels = columns.chunks_exact(taps * block.len()).zip(image.chunks_exact_mut(plane));
            for (from, image) in of_channels {
                let from = &from[tap * block.len()..][..block.len()];
                for (range, to) in spans {
                    let (from, to) = (&from[range.clone()], &mut image[*to..]);
                    if stride == 1 {
                        to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
                    } else {
                        to.iter_mut().step_by(stride).zip(from).for_each(|(to, &from)| *to += from);
                    }
                }
            }
        });
    }
}

/// Computes a convolution of images `[rows, C, H, W]` with a weight `[N, C / groups, taps]`.
pub(super) fn convolve_full(
    x: &[f32],
    images: &Images,
    [n, groups]: [usize; 2],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let (group_n, channels, pixels) = (n / groups, images.channels / groups, images.output_pixels());
    let (k, group_length) = (images.taps() * channels, images.input[0] * images.input[1] * channels);
    let weights = weight.chunks_exact((group_n * k).max(1));
    let weights: Vec<gemm::PackedLeft<'_>> = weights.map(|weight| gemm::PackedLeft::new(weight, group_n, k)).collect();
    let product = |group: usize, image: &[f32], block: &Range<usize>, columns: &mut Vec<f32>, y: &mut [f32]| {
        let columns = images.columns(columns, &image[group * group_length..][..group_length], block);
        let bias = bias.map(|bias| &bias[group * group_n..][..group_n]);
        weights[group].product(y, columns, block.len(), bias);
    };
    let blocks: Vec<(usize, Range<usize>)> =
        (0..groups).flat_map(|group| images.blocks(k).map(move |block| (group, block))).collect();
    let mut y = vec![0.0; images.count * n * pixels];
    let of_images = y.par_chunks_exact_mut((n * pixels).max(1)).zip(x.par_chunks_exact((groups * group_length).max(1)));
    of_images.for_each(|(y, image)| {
        // The result of a block is a part of each channel's pixels.
        let parts = blocks.par_iter().map_init(Vec::new, |columns, (group, block)| {
            let mut part = vec![0.0; group_n * block.len()];
            product(*group, image, block, columns, &mut part);
            part
        });
        for ((group, block), part) in blocks.iter().zip(parts.collect::<Vec<_>>()) {
            let of_group = y[group * group_n * pixels..].chunks_exact_mut(pixels);
            for (y, part) in of_group.zip(part.chunks_exact(block.len())) {
                y[block.clone()].copy_from_slice(part);
            }
        }
    });
    y
}
