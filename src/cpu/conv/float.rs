//! Convolutions of floats in one group: products of a weight with the pixels under each place of a window.

use std::cell::Cell;
#[cfg(feature = "threads")]
use std::ops::Range;

use super::TASK;
#[cfg(feature = "threads")]
use crate::numerics::gemm::{After, PackedWeight, Rows};
use crate::ops::Images;
use crate::parallel::*;

/// Floats of the images that are padded at a time, if one is not larger, and of the patches that are collected at a time: they stay in an L2
/// cache.
#[cfg(feature = "threads")]
const PADDED: usize = 1 << 18;
const PATCHES: usize = 1 << 18;
/// The fewest patches for which a weight is read once.
const LEAST_PATCHES: usize = 64;
/// The most floats of an image that is padded: a larger copy takes more memory than patches.
#[cfg(feature = "threads")]
const MOST_PADDED: usize = 1 << 21;
/// The shortest run of neighbours that is read where it lies.
#[cfg(feature = "threads")]
const LEAST_RUN: usize = 16;

thread_local! {
    /// The images or patches of the last convolution of this thread: fresh memory would cost page faults.
    static SCRATCH: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Images whose windows have all of their pixels inside, with padding.
#[cfg(feature = "threads")]
pub(in crate::cpu) struct PaddedImages<'i> {
    x: &'i [f32],
    images: &'i Images,
    fill: f32,
    /// Height and width with padding.
    sizes: [usize; 2],
}

#[cfg(feature = "threads")]
impl<'i> PaddedImages<'i> {
    /// Returns `None` where patches are faster or take less memory.
    pub(in crate::cpu) fn new(x: &'i [f32], images: &'i Images, fill: f32) -> Option<Self> {
        let size = |axis: usize| {
            let window = images.window[axis];
            let padding = usize::try_from(window.before).ok()? + usize::try_from(window.after).ok()?;
            (window.input_dilation == 1).then_some(images.input[axis] + padding)
        };
        let padded = Self { x, images, fill, sizes: [size(0)?, size(1)?] };
        let is_small =
            padded.sizes == images.input || padded.sizes[0] * padded.sizes[1] * images.channels <= MOST_PADDED;
        (is_small && padded.runs().all(|run| run.len() >= LEAST_RUN)).then_some(padded)
    }

    /// Where the features of a window lie, counted from its first pixel.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let Images { channels, window: [rows, columns], .. } = *self.images;
        // Neighbouring taps are one run.
        let (taps, length) =
            if columns.dilation == 1 { (1, columns.size * channels) } else { (columns.size, channels) };
        let width = self.sizes[1];
        (0..rows.size).flat_map(move |row| {
            (0..taps).map(move |tap| {
                let first = (row * rows.dilation * width + tap * columns.dilation) * channels;
                first..first + length
            })
        })
    }

    /// Computes `y[pixels, n]` by a packed weight, and calls `after` with each part of the result, as in [`After`].
    pub(in crate::cpu) fn convolve(
        &self,
        y: &mut [f32],
        n: usize,
        weight: &PackedWeight,
        bias: Option<&[f32]>,
        after: After<'_, f32>,
    ) {
        if y.is_empty() {
            return;
        }
        let Self { x, images, sizes: [height, width], .. } = *self;
        let Images { channels, window: [rows, columns], output: [_, output_width], .. } = *images;
        let (pixels, is_padded) = (images.output_pixels(), self.sizes != images.input);
        let start = |row: usize| {
            let (image, pixel) = (row / pixels, row % pixels);
            let (y, x) = (pixel / output_width * rows.stride, pixel % output_width * columns.stride);
            ((image * height + y) * width + x) * channels
        };
        let runs: Vec<Range<usize>> = self.runs().collect();
        let [length, padded] = [images.input[0] * images.input[1], height * width].map(|pixels| pixels * channels);
        let group = if is_padded { (PADDED / padded).clamp(1, images.count) } else { images.count };
        let mut scratch = SCRATCH.take();
        for (at, y) in y.chunks_mut(group * pixels * n).enumerate() {
            let x = &x[at * group * length..][..y.len() / (pixels * n) * length];
            let data = if is_padded {
                scratch.resize(x.len() / length * padded, 0.0);
                self.pad(&mut scratch, x);
                &scratch
            } else {
                x
            };
            let (rows, first) = (y.len() / n, at * group * pixels);
            let of_group = |row: usize, col: usize, cols: usize, y: &mut [f32]| {
                if let Some(after) = after {
                    after(first + row, col, cols, y);
                }
            };
            weight.product(y, Rows { data, start: &start, runs: &runs }, rows, bias, Some(&of_group));
        }
        SCRATCH.set(scratch);
    }

    /// Copies images and pads them.
    fn pad(&self, padded: &mut [f32], x: &[f32]) {
        let Images { channels, window, input: [height, width], .. } = *self.images;
        let [above, left] = [0, 1].map(|axis| window[axis].before as usize);
        let (row, left) = (width * channels, left * channels);
        let padded_row = self.sizes[1] * channels;
        let tasks = padded.par_chunks_exact_mut(padded_row).with_min_len(TASK.div_ceil(padded_row)).enumerate();
        tasks.for_each(|(at, to)| {
            let (image, y) = (at / self.sizes[0], (at % self.sizes[0]).checked_sub(above));
            match y.filter(|&y| y < height) {
                None => to.fill(self.fill),
                Some(y) => {
                    to[..left].fill(self.fill);
                    to[left..][..row].copy_from_slice(&x[(image * height + y) * row..][..row]);
                    to[left + row..].fill(self.fill);
                }
            }
        });
    }
}

/// Computes `product(y, first, patches)` of `y[pixels, n]` from the pixel `first` on, block by block.
pub(in crate::cpu) fn by_patches(
    y: &mut [f32],
    (x, images, fill): (&[f32], &Images, f32),
    [n, k]: [usize; 2],
    mut product: impl FnMut(&mut [f32], usize, &[f32]),
) {
    let (pixels, image_length) = (images.output_pixels(), images.input[0] * images.input[1] * images.channels);
    let (rows, most) = (y.len() / n.max(1), (PATCHES / k.max(1)).max(LEAST_PATCHES));
    // Blocks of about the same size.
    let block = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
    let mut patches = SCRATCH.take();
    for (at, y) in y.chunks_mut((block * n).max(1)).enumerate() {
        patches.resize(y.len() / n * k, 0.0);
        let tasks = patches.par_chunks_exact_mut(k.max(1)).with_min_len(TASK.div_ceil(k.max(1))).enumerate();
        tasks.for_each(|(row, patch): (usize, &mut [f32])| {
            let row = at * block + row;
            let image = &x[row / pixels * image_length..][..image_length];
            images.patch(patch, image, row % pixels, [0, images.channels], fill);
        });
        product(y, at * block, &patches);
    }
    SCRATCH.set(patches);
}

#[cfg(all(test, feature = "threads"))]
mod tests {
    use super::*;
    use crate::numerics::gemm;
    use crate::ops::{ImageLayout, Window, WindowAxis};

    fn value(i: usize) -> f32 {
        let random = (i as u32).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b);
        random as i32 as f32 * 1e-9
    }

    fn axis(size: usize, stride: usize, dilation: usize, [before, after]: [i64; 2]) -> WindowAxis {
        WindowAxis { size, stride, dilation, before, after, input_dilation: 1 }
    }

    /// Windows over images have the bits of patches, which are collected, multiplied, and followed by the same function of each element.
    #[test]
    fn images_have_the_bits_of_patches() {
        let plain = axis(3, 1, 1, [1, 1]);
        // Count, height, width and channels of the images; the window's axes; the columns of the weight.
        let cases = [
            ([1, 9, 11, 16], [plain, plain], 33),
            ([3, 7, 7, 40], [plain, plain], 140),
            ([2, 8, 9, 24], [axis(3, 2, 1, [0, 1]), axis(3, 2, 1, [1, 0])], 64),
            ([1, 14, 12, 32], [axis(3, 1, 2, [2, 2]), axis(3, 2, 3, [1, 3])], 40),
            ([5, 6, 6, 300], [WindowAxis::IDENTITY, WindowAxis::IDENTITY], 130),
            ([2, 6, 7, 20], [axis(1, 2, 1, [0, 0]), axis(1, 3, 1, [0, 0])], 7),
            ([2, 1, 50, 16], [WindowAxis::IDENTITY, axis(5, 1, 1, [2, 2])], 20),
            ([4, 40, 40, 64], [plain, plain], 34),
        ];
        for ([count, height, width, channels], window, n) in cases {
            let window = Window { axes: window.to_vec() };
            let images = Images::new(&[count, height, width, channels], &window, ImageLayout::ChannelsLast);
            let (k, m) = (images.taps() * channels, count * images.output_pixels());
            let x: Vec<f32> = (0..count * height * width * channels).map(value).collect();
            let weight: Vec<f32> = (0..n * k).map(|i| value(i + 77)).collect();
            let bias: Vec<f32> = (0..n).map(value).collect();
            let packed = PackedWeight::new(&weight, n, k);
            let after = |row: usize, col: usize, cols: usize, y: &mut [f32]| {
                for (at, y) in y.iter_mut().enumerate() {
                    *y = *y * 0.5 + value((row + at / cols) * n + col + at % cols);
                }
            };
            let (mut y, mut expected) = (vec![f32::NAN; m * n], vec![f32::NAN; m * n]);
            let padded = PaddedImages::new(&x, &images, 0.25).expect("their runs are long");
            padded.convolve(&mut y, n, &packed, Some(&bias), Some(&after));
            by_patches(&mut expected, (&x, &images, 0.25), [n, k], |y, first, patches| {
                let after = |row: usize, col: usize, cols: usize, y: &mut [f32]| after(first + row, col, cols, y);
                let sizes = [y.len() / n, n, k];
                gemm::linear_of_block(y, patches, sizes, &weight, Some(&packed), Some(&bias), Some(&after));
            });
            let differs = y.iter().zip(&expected).position(|(y, expected)| y.to_bits() != expected.to_bits());
            assert_eq!(differs, None, "{count} images of {height} x {width} x {channels}, {window}");
            assert!(y.iter().all(|y| y.is_finite()), "{window}");
            // The control: one changed element of the last image is noticed.
            let mut changed = x.clone();
            let middle = ((count - 1) * height * width + height / 2 * width + width / 2) * channels;
            changed[middle..].iter_mut().for_each(|x| *x += 1.0);
            let changed_images = PaddedImages::new(&changed, &images, 0.25).expect("their runs are long");
            changed_images.convolve(&mut y, n, &packed, Some(&bias), Some(&after));
            assert!(y != expected, "{window}");
        }
    }

    /// No images, and no columns.
    #[test]
    fn nothing_has_no_result() {
        for (count, n) in [(0, 8), (2, 0)] {
            for padding in [0, 1] {
                let window = Window { axes: vec![axis(3, 1, 1, [padding; 2]); 2] };
                let images = Images::new(&[count, 6, 6, 16], &window, ImageLayout::ChannelsLast);
                let x = vec![0.0; count * 36 * 16];
                let padded = PaddedImages::new(&x, &images, 0.0).expect("their runs are long");
                let weight = vec![0.0; n * 144];
                padded.convolve(&mut [], n, &PackedWeight::new(&weight, n, 144), None, None);
                by_patches(&mut [], (&x, &images, 0.0), [n, 144], |_, _, _| panic!("there is nothing"));
            }
        }
    }

    /// Windows that start inside an image or slide over spread elements, few neighbours, and padding that outweighs the image.
    #[test]
    fn other_windows_take_patches() {
        let is_read = |channels: usize, window: [WindowAxis; 2]| {
            let window = Window { axes: window.to_vec() };
            let images = Images::new(&[1, 6, 6, channels], &window, ImageLayout::ChannelsLast);
            PaddedImages::new(&vec![0.0; 36 * channels], &images, 0.0).is_some()
        };
        let plain = axis(3, 1, 1, [1, 1]);
        assert!(is_read(16, [plain, plain]));
        assert!(!is_read(16, [plain, axis(3, 1, 1, [-1, 1])]));
        assert!(!is_read(16, [plain, WindowAxis { input_dilation: 2, ..plain }]));
        assert!(!is_read(5, [plain, plain]));
        assert!(!is_read(8, [plain, axis(3, 1, 2, [1, 1])]));
        assert!(!is_read(16, [axis(3, 9, 1, [3000, 3000]), axis(3, 9, 1, [9, 20])]));
    }
}
