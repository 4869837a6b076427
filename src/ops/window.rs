//! Windows that slide over images, for convolutions and pools.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::OpError;
use super::operands::{inner_axis, parameter, rank_error};
use crate::values::{Dim, Shape};

/// The most elements that a window may slide over along an axis, with padding: positions and products of them fit `i32`.
const MAX_SPAN: i64 = 1 << 24;

/// Where the channels of an image lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ImageLayout {
    /// `[rows, C, H, W]` or `[rows, C, W]`, as in PyTorch and ONNX.
    #[default]
    ChannelsFirst,
    /// `[rows, H, W, C]` or `[rows, W, C]`, as in programs.
    ChannelsLast,
}

impl ImageLayout {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the axis of the channels of an image with `rank` axes.
    pub(crate) fn channel_axis(self, rank: usize) -> usize {
        match self {
            Self::ChannelsFirst => 1,
            Self::ChannelsLast => rank - 1,
        }
    }

    /// Returns the first of the axes that a window slides over.
    pub(crate) fn first_axis(self) -> usize {
        match self {
            Self::ChannelsFirst => 2,
            Self::ChannelsLast => 1,
        }
    }

    pub(super) fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_default() { "" } else { " channels_last" })
    }
}

/// A window along one axis of an image. Tap `t` of output `o` is the input at `(o · stride + t · dilation − before) / input_dilation`,
/// if that is a whole number inside the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WindowAxis {
    /// Number of taps.
    pub size: usize,
    /// Distance between the windows of neighbouring outputs.
    pub stride: usize,
    /// Distance between neighbouring taps.
    pub dilation: usize,
    /// Elements of padding before the image. Negative if a window starts inside the image, which happens in the integer form of a
    /// transposed convolution only.
    pub before: i64,
    /// Elements of padding after the image; negative as `before` may be.
    pub after: i64,
    /// Distance between neighbouring elements of the input, between which there is padding. 1 except in the integer form of a
    /// transposed convolution, where it is the stride.
    pub input_dilation: usize,
}

impl WindowAxis {
    /// The window of one tap that sees each element.
    pub(crate) const IDENTITY: Self = Self { size: 1, stride: 1, dilation: 1, before: 0, after: 0, input_dilation: 1 };

    /// The number of elements from the first tap to the last.
    fn extent(self) -> i64 {
        (self.size as i64 - 1) * self.dilation as i64 + 1
    }

    /// Whether neighbouring taps see neighbouring elements.
    pub(super) fn is_contiguous(self) -> bool {
        self.dilation == 1 && self.input_dilation == 1
    }

    /// The number of elements that the window slides over.
    fn span(self, length: usize) -> i64 {
        (length as i64 - 1) * self.input_dilation as i64 + 1 + self.before + self.after
    }

    /// Returns the number of outputs, for an axis that [`Window::check`] has accepted.
    pub(crate) fn outputs(self, length: usize) -> usize {
        ((self.span(length) - self.extent()) / self.stride as i64 + 1) as usize
    }

    /// Returns the index of the input under a tap of an output; `None` for padding.
    pub(crate) fn input(self, output: usize, tap: usize, length: usize) -> Option<usize> {
        let position = (output * self.stride + tap * self.dilation) as i64 - self.before;
        let (step, at) = (self.input_dilation as i64, usize::try_from(position).ok()?);
        if step == 1 {
            // The usual case needs no divisions.
            return (at < length).then_some(at);
        }
        (position % step == 0 && at / self.input_dilation < length).then_some(at / self.input_dilation)
    }

    /// Adds the outputs of `ceil_mode`: windows that begin inside the image or the padding before it, but end behind the padding. The
    /// first window may end there too, by less than a stride.
    pub(super) fn ceil(mut self, length: usize) -> Self {
        let missing = self.extent() - self.span(length);
        if missing > 0 {
            self.after += if missing < self.stride as i64 { missing } else { 0 };
            return self;
        }
        let (rest, stride) = ((self.span(length) - self.extent()) % self.stride as i64, self.stride as i64);
        let begins = (self.outputs(length) as i64) * stride;
        if rest != 0 && begins < length as i64 + self.before {
            self.after += stride - rest;
        }
        self
    }
}

/// A window that slides over an image, with one [`WindowAxis`] for each of its one or two axes.
///
/// ```
/// use enfold::ops::Window;
///
/// // A kernel of 3 by 3 that halves the image.
/// let window = Window::new(&[3, 3]).with_stride(&[2, 2]).with_padding(&[1, 1]);
/// assert_eq!(window.to_string(), "3x3 stride 2x2 padding 1x1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The axes.
    pub axes: Vec<WindowAxis>,
}

impl Window {
    /// Creates a window of a size along each axis, with strides and dilations of 1 and no padding.
    #[must_use]
    pub fn new(size: &[usize]) -> Self {
        Self { axes: size.iter().map(|&size| WindowAxis { size, ..WindowAxis::IDENTITY }).collect() }
    }

    /// Sets the stride along each axis.
    #[must_use]
    pub fn with_stride(self, stride: &[usize]) -> Self {
        self.with(stride, |axis, stride| axis.stride = stride)
    }

    /// Sets the padding before and after the image along each axis.
    #[must_use]
    pub fn with_padding(self, padding: &[usize]) -> Self {
        self.with_uneven_padding(padding, padding)
    }

    /// Sets the padding before and that after the image along each axis.
    #[must_use]
    pub fn with_uneven_padding(self, before: &[usize], after: &[usize]) -> Self {
        let window = self.with(before, |axis, before| axis.before = i64::try_from(before).unwrap_or(i64::MAX));
        window.with(after, |axis, after| axis.after = i64::try_from(after).unwrap_or(i64::MAX))
    }

    /// Sets the dilation along each axis.
    #[must_use]
    pub fn with_dilation(self, dilation: &[usize]) -> Self {
        self.with(dilation, |axis, dilation| axis.dilation = dilation)
    }

    /// Sets a parameter. A wrong number of values becomes a window that inference refuses.
    fn with(mut self, values: &[usize], set: impl Fn(&mut WindowAxis, usize)) -> Self {
        self.axes.resize(self.axes.len().max(values.len()), WindowAxis { size: 0, ..WindowAxis::IDENTITY });
        for (at, axis) in self.axes.iter_mut().enumerate() {
            match values.get(at) {
                Some(&value) => set(axis, value),
                None => axis.size = 0,
            }
        }
        self
    }

    /// Returns the number of taps.
    #[must_use]
    pub fn taps(&self) -> usize {
        self.axes.iter().fold(1, |taps, axis| taps.saturating_mul(axis.size))
    }

    /// Returns the sizes of the axes.
    #[must_use]
    pub fn size(&self) -> Vec<usize> {
        self.axes.iter().map(|axis| axis.size).collect()
    }

    /// Whether the result is the input: one tap that sees each element.
    pub(crate) fn is_identity(&self) -> bool {
        self.axes.iter().all(|&axis| axis == WindowAxis::IDENTITY)
    }

    /// Whether there is padding between the elements of the input.
    pub(crate) fn has_gaps(&self) -> bool {
        self.axes.iter().any(|axis| axis.input_dilation > 1)
    }

    /// The axes of a two-dimensional window; a window over one axis has a height of 1.
    pub(crate) fn two_axes(&self) -> [WindowAxis; 2] {
        match self.axes[..] {
            [width] => [WindowAxis::IDENTITY, width],
            _ => [self.axes[0], self.axes[1]],
        }
    }

    /// Checks the window of an operator that users write: padding that is not negative, and no input dilation.
    pub(super) fn check_simple(&self) -> Result<(), OpError> {
        for axis in &self.axes {
            if axis.before < 0 || axis.after < 0 {
                return Err(parameter("padding", axis.before.min(axis.after), "must not be negative"));
            }
            if axis.input_dilation != 1 {
                return Err(parameter("input dilation", axis.input_dilation, "must be 1"));
            }
        }
        Ok(())
    }

    /// Checks the window against an image, and returns the shape of the result, with `channels` channels.
    pub(super) fn infer(&self, x: &Shape, layout: ImageLayout, channels: usize) -> Result<Shape, OpError> {
        let rank = self.check_rank(x)?;
        let mut dims = x.dims().to_vec();
        dims[layout.channel_axis(rank)] = Dim::Fixed(channels);
        for (at, axis) in self.axes.iter().enumerate() {
            let at = layout.first_axis() + at;
            dims[at] = Dim::Fixed(axis.infer(inner_axis(x, at)?)?);
        }
        Ok(Shape::from_dims(dims).expect("the batch stays in front"))
    }

    /// Checks the number of axes of an image, and returns it.
    fn check_rank(&self, x: &Shape) -> Result<usize, OpError> {
        let rank = self.axes.len() + 2;
        if !(3..=4).contains(&rank) {
            return Err(parameter("axes of the window", self.axes.len(), "must be 1 or 2"));
        }
        if x.rank() != rank {
            let expected =
                if rank == 3 { "3: rows, channels and width" } else { "4: rows, channels, height and width" };
            return Err(rank_error("image", x, expected));
        }
        Ok(rank)
    }

    /// Returns the window with the outputs that `ceil_mode` adds for an image.
    pub(super) fn ceil(&self, x: &Shape, layout: ImageLayout) -> Result<Self, OpError> {
        self.check_rank(x)?;
        let axis = |(at, axis): (usize, &WindowAxis)| {
            let length = inner_axis(x, layout.first_axis() + at)?;
            axis.check_span(length)?;
            Ok(axis.ceil(length))
        };
        Ok(Self { axes: self.axes.iter().enumerate().map(axis).collect::<Result<_, OpError>>()? })
    }
}

impl WindowAxis {
    /// Checks the numbers that do not depend on an image.
    pub(super) fn check(self) -> Result<(), OpError> {
        for (what, value) in [
            ("window size", self.size),
            ("stride", self.stride),
            ("dilation", self.dilation),
            ("input dilation", self.input_dilation),
        ] {
            if value == 0 || value as u64 > MAX_SPAN as u64 {
                return Err(parameter(what, value, "must be 1 to 16777216"));
            }
        }
        Ok(())
    }

    /// Checks that positions over an axis of `length` elements fit their type.
    fn check_span(self, length: usize) -> Result<(), OpError> {
        self.check()?;
        if length == 0 || self.before.saturating_abs().max(self.after.saturating_abs()) > MAX_SPAN {
            let value = format!("{} and {} around {length} elements", self.before, self.after);
            return Err(parameter("padding", value, "must be at most 16777216, around at least 1 element"));
        }
        if length as u64 > MAX_SPAN as u64 || self.span(length).max(self.extent()) > MAX_SPAN {
            let value = format!("over {length} elements");
            return Err(parameter("window", value, "must span at most 16777216 elements"));
        }
        Ok(())
    }

    /// Returns the number of outputs for an axis of `length` elements.
    fn infer(self, length: usize) -> Result<usize, OpError> {
        self.check_span(length)?;
        if self.extent() > self.span(length) {
            let value = format!(
                "over {} elements, of an image of {length}, {} with padding,",
                self.extent(),
                self.span(length)
            );
            return Err(parameter("window", value, "must not be larger than the padded image"));
        }
        Ok(self.outputs(length))
    }
}

/// Formats the parameters that are not the default, as listings do.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut write = |name: &str, value: &dyn Fn(&WindowAxis) -> String, default: &str| {
            let values: Vec<String> = self.axes.iter().map(value).collect();
            match values.iter().all(|value| value == default) {
                true => Ok(()),
                false => write!(f, "{name}{}", values.join("x")),
            }
        };
        write("", &|axis| axis.size.to_string(), "")?;
        write(" stride ", &|axis| axis.stride.to_string(), "1")?;
        let padding = |axis: &WindowAxis| match axis.before == axis.after {
            true => axis.before.to_string(),
            false => format!("{}..{}", axis.before, axis.after),
        };
        write(" padding ", &padding, "0")?;
        write(" dilation ", &|axis| axis.dilation.to_string(), "1")?;
        write(" input_dilation ", &|axis| axis.input_dilation.to_string(), "1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `⌊span / stride⌋ + 1` outputs, and one more in `ceil_mode` if its window does not begin in the padding behind the image.
    #[test]
    fn outputs_are_counted_as_in_pytorch() {
        let axis = |size, stride, padding, dilation| WindowAxis {
            size,
            stride,
            dilation,
            before: padding,
            after: padding,
            input_dilation: 1,
        };
        for (axis, length, floor, ceil) in [
            (axis(3, 1, 1, 1), 7, 7, 7),
            (axis(3, 2, 0, 1), 6, 2, 3),
            (axis(2, 2, 0, 1), 7, 3, 4),
            (axis(3, 2, 1, 2), 7, 3, 3),
            // The third window would begin at 6 − 1, behind the image of 5.
            (axis(2, 3, 1, 1), 5, 2, 2),
            (axis(1, 3, 0, 1), 2, 1, 1),
            (axis(2, 2, 1, 1), 3, 2, 2),
            (axis(2, 3, 1, 1), 4, 2, 2),
        ] {
            assert_eq!(axis.infer(length), Ok(floor), "{axis:?} over {length}");
            assert_eq!(axis.ceil(length).infer(length), Ok(ceil), "{axis:?} over {length}, ceil");
        }
        // A window over 3 begins inside an image of 2; one over 4 with a stride of 2 is refused there too.
        let larger = axis(3, 2, 0, 1);
        assert!(larger.infer(2).is_err());
        assert_eq!(larger.ceil(2).infer(2), Ok(1));
        assert!(axis(4, 2, 0, 1).ceil(2).infer(2).is_err());
    }

    #[test]
    fn taps_outside_the_image_are_padding() {
        let axis = WindowAxis { size: 3, stride: 2, dilation: 2, before: 1, after: 1, input_dilation: 1 };
        let taps = |o| (0..3).map(|t| axis.input(o, t, 6)).collect::<Vec<_>>();
        assert_eq!(taps(0), [None, Some(1), Some(3)]);
        assert_eq!(taps(1), [Some(1), Some(3), Some(5)]);
        let holes = WindowAxis { size: 2, stride: 1, dilation: 1, before: 1, after: 1, input_dilation: 2 };
        let taps = |o| (0..2).map(|t| holes.input(o, t, 2)).collect::<Vec<_>>();
        assert_eq!([taps(0), taps(1), taps(2)], [[None, Some(0)], [Some(0), None], [None, Some(1)]]);
        assert_eq!(holes.outputs(2), 4);
    }
}
