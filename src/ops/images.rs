//! Windows over images in memory.

use super::window::{ImageLayout, Window, WindowAxis};

/// The sizes of a window that slides over images in memory. A window over one axis has a height of 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Images {
    /// Number of images.
    pub(crate) count: usize,
    pub(crate) channels: usize,
    /// Height and width of an image.
    pub(crate) input: [usize; 2],
    /// Height and width of the result.
    pub(crate) output: [usize; 2],
    pub(crate) window: [WindowAxis; 2],
    pub(crate) layout: ImageLayout,
}

impl Images {
    /// Returns the sizes for an input of a shape that inference has accepted.
    pub(crate) fn new(shape: &[usize], window: &Window, layout: ImageLayout) -> Self {
        let channels = shape[layout.channel_axis(shape.len())];
        let axes = &shape[layout.first_axis()..][..window.axes.len()];
        let input = if let [width] = *axes { [1, width] } else { [axes[0], axes[1]] };
        let window = window.two_axes();
        let output = [0, 1].map(|axis| window[axis].outputs(input[axis]));
        Self { count: shape[0], channels, input, output, window, layout }
    }

    pub(crate) fn taps(&self) -> usize {
        self.window[0].size * self.window[1].size
    }

    /// Whether each output pixel is computed from the input pixel in its place alone.
    pub(crate) fn is_pointwise(&self) -> bool {
        self.taps() == 1
            && self.input == self.output
            && self.window.iter().all(|axis| axis.before == 0 && axis.stride == 1)
    }

    /// The number of pixels of an output image.
    pub(crate) fn output_pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The input pixel under each tap of an output pixel, taps in row-major order; `None` for padding.
    pub(crate) fn pixels(&self, output: usize) -> impl Iterator<Item = Option<usize>> + use<> {
        let Self { window: [rows, columns], input: [height, width], .. } = *self;
        let (y, x) = (output / self.output[1], output % self.output[1]);
        (0..rows.size).flat_map(move |row| {
            let row = rows.input(y, row, height);
            (0..columns.size).map(move |column| Some(row? * width + columns.input(x, column, width)?))
        })
    }

    /// The index of an element in an image of `pixels` pixels and `channels` channels.
    pub(crate) fn index(&self, pixel: usize, channel: usize, [pixels, channels]: [usize; 2]) -> usize {
        match self.layout {
            ImageLayout::ChannelsFirst => channel * pixels + pixel,
            ImageLayout::ChannelsLast => pixel * channels + channel,
        }
    }

    /// Collects the elements of channels `first..first + channels` under the window of an output pixel: for each tap, the channels.
    pub(crate) fn patch<T: Copy>(
        &self,
        patch: &mut [T],
        image: &[T],
        output: usize,
        [first, channels]: [usize; 2],
        fill: T,
    ) {
        let columns = self.window[1];
        if self.layout == ImageLayout::ChannelsLast && channels == self.channels && columns.is_contiguous() {
            return self.patch_rows(patch, image, output, fill);
        }
        let sizes = [self.input[0] * self.input[1], self.channels];
        for (tap, pixel) in patch.chunks_exact_mut(channels).zip(self.pixels(output)) {
            match (pixel, self.layout) {
                (None, _) => tap.fill(fill),
                (Some(pixel), ImageLayout::ChannelsLast) => {
                    tap.copy_from_slice(&image[self.index(pixel, first, sizes)..][..channels]);
                }
                (Some(pixel), ImageLayout::ChannelsFirst) => {
                    let from = image[self.index(pixel, first, sizes)..].iter().step_by(sizes[0]);
                    tap.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
                }
            }
        }
    }

    /// Collects all channels under a window whose taps along a row are neighbours in memory: a row of taps at a time.
    fn patch_rows<T: Copy>(&self, patch: &mut [T], image: &[T], output: usize, fill: T) {
        let Self { channels, window: [rows, columns], input: [height, width], .. } = *self;
        let (y, x) = (output / self.output[1], (output % self.output[1] * columns.stride) as i64 - columns.before);
        let inside = |at: i64| (at - x).clamp(0, columns.size as i64) as usize;
        let (first, end) = (inside(0), inside(width as i64));
        for (row, taps) in patch.chunks_exact_mut(columns.size * channels).enumerate() {
            match rows.input(y, row, height).filter(|_| first < end) {
                None => taps.fill(fill),
                Some(row) => {
                    let from = (row * width + (x + first as i64) as usize) * channels;
                    let length = (end - first) * channels;
                    taps[..first * channels].fill(fill);
                    taps[first * channels..][..length].copy_from_slice(&image[from..][..length]);
                    taps[end * channels..].fill(fill);
                }
            }
        }
    }
}
