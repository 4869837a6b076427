//! Means of the elements under windows.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lengths::with_lengths;
use super::pooled;
use crate::numerics::{self, float};
use crate::ops::error::{EvalError, OpError};
use crate::ops::images::Images;
use crate::ops::linear::write_range;
use crate::ops::operands::{
    Arguments, Operands, TensorType, expect_int8_range, expect_zero_points, inner_axis, parameter,
};
use crate::ops::operator::Operator;
use crate::ops::window::{ImageLayout, Window, WindowAxis};
use crate::parallel::*;
use crate::values::slices::{CHECKED, codes, tensor};
use crate::values::{DType, Number, QParams, Shape, Tensor};

/// The windows of an average pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AverageWindows {
    /// A window that slides.
    Sliding {
        /// The window, with a dilation of 1.
        window: Window,
        /// Whether a last window that begins inside the image but ends behind the padding has a result.
        ceil_mode: bool,
        /// Whether padding counts as elements of 0. What `ceil_mode` adds behind the padding never counts.
        count_include_pad: bool,
    },
    /// Windows that divide the image into as many parts along each axis as the result has elements: output `i` of `o` averages the
    /// elements `⌊i · n / o⌋` to `⌈(i + 1) · n / o⌉ − 1` of `n`.
    Adaptive {
        /// Lengths of the axes of the result: one or two.
        output: Vec<usize>,
    },
}

/// The windows along one axis: the elements `start..end` of each output, and the number that their sum is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) count: usize,
}

impl AverageWindows {
    fn axes(&self) -> usize {
        match self {
            Self::Sliding { window, .. } => window.axes.len(),
            Self::Adaptive { output } => output.len(),
        }
    }

    /// Returns the windows along one axis of a length that inference has accepted.
    pub(crate) fn spans(&self, axis: usize, length: usize) -> Vec<Span> {
        (0..self.outputs(axis, length)).map(|output| self.span(axis, length, output)).collect()
    }

    /// Returns the number of windows along such an axis.
    fn outputs(&self, axis: usize, length: usize) -> usize {
        match self {
            Self::Sliding { window, ceil_mode: true, .. } => window.axes[axis].ceil(length).outputs(length),
            Self::Sliding { window, .. } => window.axes[axis].outputs(length),
            Self::Adaptive { output } => output[axis],
        }
    }

    /// Returns one of the windows along such an axis.
    fn span(&self, axis: usize, length: usize, output: usize) -> Span {
        match self {
            Self::Sliding { window, count_include_pad, .. } => {
                let axis = window.axes[axis];
                let inside = |position: i64| position.clamp(0, length as i64) as usize;
                let first = (output * axis.stride) as i64 - axis.before;
                let last = (first + axis.size as i64).min(length as i64 + axis.after);
                let (start, end) = (inside(first), inside(last));
                let count = if *count_include_pad { (last - first) as usize } else { end - start };
                Span { start, end, count }
            }
            Self::Adaptive { output: outputs } => {
                let outputs = outputs[axis];
                let (start, end) = (output * length / outputs, ((output + 1) * length).div_ceil(outputs));
                Span { start, end, count: end - start }
            }
        }
    }

    /// Returns the windows along height and width of images with a shape; the height of an image with one axis is 1.
    pub(crate) fn spans_of(&self, shape: &[usize], layout: ImageLayout) -> [Vec<Span>; 2] {
        let one = vec![Span { start: 0, end: 1, count: 1 }];
        match shape[layout.first_axis()..][..self.axes()] {
            [width] => [one, self.spans(0, width)],
            [height, width] => [self.spans(0, height), self.spans(1, width)],
            _ => unreachable!("{CHECKED}"),
        }
    }

    fn infer(&self, x: &Shape, layout: ImageLayout) -> Result<Shape, OpError> {
        match self {
            Self::Sliding { window, ceil_mode, .. } => {
                if let Some(axis) = window.axes.iter().find(|axis| axis.dilation != 1) {
                    return Err(parameter("dilation", axis.dilation, "must be 1 in an average pool"));
                }
                pooled(x, window, *ceil_mode, layout)
            }
            Self::Adaptive { output } => {
                let names = ["2 more than the output of the pool", "length of a pooled axis"];
                with_lengths(x, output, layout, names)
            }
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sliding { window, ceil_mode, count_include_pad } => {
                let flag = |set: bool, name: &'static str| if set { name } else { "" };
                write!(
                    f,
                    " {window}{}{}",
                    flag(*ceil_mode, " ceil_mode"),
                    flag(*count_include_pad, " count_include_pad")
                )
            }
            Self::Adaptive { output } => write!(f, " output {output:?}"),
        }
    }
}

/// The mean of the elements under a window. Input: floats `[rows, C, H, W]` or `[rows, C, W]`. Elements are added in row-major order,
/// then the sum is divided by their number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AveragePool {
    /// The windows.
    pub windows: AverageWindows,
    /// The layout of the images.
    #[serde(default, skip_serializing_if = "ImageLayout::is_default")]
    pub layout: ImageLayout,
}

impl AveragePool {
    /// Creates a pool whose window slides. Padding counts, as is PyTorch's default.
    #[must_use]
    pub fn new(window: Window) -> Self {
        AverageWindows::Sliding { window, ceil_mode: false, count_include_pad: true }.into()
    }

    /// Creates a pool to a size of the result.
    #[must_use]
    pub fn adaptive(output: &[usize]) -> Self {
        AverageWindows::Adaptive { output: output.to_vec() }.into()
    }
}

impl From<AverageWindows> for AveragePool {
    fn from(windows: AverageWindows) -> Self {
        Self { windows, layout: ImageLayout::ChannelsFirst }
    }
}

impl Operator for AveragePool {
    fn name(&self) -> &'static str {
        match self.windows {
            AverageWindows::Sliding { .. } => "average_pool",
            AverageWindows::Adaptive { .. } => "adaptive_average_pool",
        }
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        Ok(TensorType::new(DType::F32, self.windows.infer(inputs.shape(0), self.layout)?))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let shape = inputs.tensor(0).shape();
        let add = |sum: f32, v: f32| sum + float::canonical(v);
        let mean = |sum: f32, count: usize| float::div(float::canonical(sum), count as f32);
        let y = average(inputs.f32s(0), shape, &self.windows, self.layout, 0.0, add, mean);
        Ok(tensor(inputs.output.with_rows(shape[0]), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.windows.write(f)?;
        self.layout.write(f)
    }
}

/// The mean of int8 values under a window, `requantize(Σ (x − z_x))` with the multiplier `s_x / (s_y · count)` (equation 13). Input: int8
/// `[rows, C, H, W]` or `[rows, C, W]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntegerAveragePool {
    /// The windows.
    pub windows: AverageWindows,
    /// Scale and zero point of the input.
    pub x: QParams,
    /// Scale and zero point of the result.
    pub y: QParams,
    /// Smallest quantized value.
    pub lo: i32,
    /// Largest quantized value.
    pub hi: i32,
    /// The layout of the images.
    #[serde(default, skip_serializing_if = "ImageLayout::is_default")]
    pub layout: ImageLayout,
}

impl IntegerAveragePool {
    /// The multiplier of a sum of `count` elements.
    pub(crate) fn multiplier(&self, count: usize) -> f32 {
        numerics::average_multiplier(self.x.scale(), self.y.scale(), count).unwrap_or(f32::NAN)
    }
}

impl Operator for IntegerAveragePool {
    fn name(&self) -> &'static str {
        "integer_average_pool"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8])?;
        expect_int8_range(self.lo, self.hi)?;
        expect_zero_points(&[self.x.zero_point(), self.y.zero_point()])?;
        let x = inputs.shape(0);
        let shape = self.windows.infer(x, self.layout)?;
        let lengths = (0..self.windows.axes()).map(|axis| inner_axis(x, self.layout.first_axis() + axis));
        let [mut least, mut most] = [1usize; 2];
        for (axis, length) in lengths.enumerate() {
            let length = length?;
            let counts =
                || (0..self.windows.outputs(axis, length)).map(|output| self.windows.span(axis, length, output).count);
            most = most.saturating_mul(counts().max().unwrap_or(1));
            least = least.saturating_mul(counts().min().unwrap_or(1));
        }
        // 255 · 2²³ < 2³¹.
        if most > 1 << 23 {
            return Err(parameter("elements under a window", most, "must be at most 8388608 (equation 13)"));
        }
        for count in [least, most] {
            if numerics::average_multiplier(self.x.scale(), self.y.scale(), count.max(1)).is_none() {
                let value = format!("{:e} / ({:e} · {count})", Number(self.x.scale()), Number(self.y.scale()));
                return Err(parameter("multiplier", value, "must be a normal f32 (equation 13)"));
            }
        }
        Ok(TensorType::new(DType::I8, shape))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (shape, zero_point) = (inputs.tensor(0).shape(), self.x.zero_point());
        let mean =
            |sum, count| numerics::requantize(sum, self.multiplier(count), self.y.zero_point(), self.lo, self.hi) as i8;
        let add = |sum: i32, v: i8| sum + i32::from(v) - zero_point;
        let y = average(inputs.i8s(0), shape, &self.windows, self.layout, 0, add, mean);
        Ok(codes(&inputs.output.with_rows(shape[0]), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.windows.write(f)?;
        write!(f, " of scale {:e} zero_point {}", self.x.scale(), self.x.zero_point())?;
        write_range(f, self.y, self.lo, self.hi)?;
        self.layout.write(f)
    }

    fn is_integer(&self) -> bool {
        true
    }
}

/// Computes `mean(sum, count)` of each window.
fn average<T: Copy + Sync, S: Copy + Sync, R: Copy + Default + Send>(
    x: &[T],
    shape: &[usize],
    windows: &AverageWindows,
    layout: ImageLayout,
    zero: S,
    add: impl Fn(S, T) -> S + Sync,
    mean: impl Fn(S, usize) -> R + Sync,
) -> Vec<R> {
    let spans = windows.spans_of(shape, layout);
    let identity = Window { axes: vec![WindowAxis::IDENTITY; shape.len() - 2] };
    let images = Images::new(shape, &identity, layout);
    let (channels, [height, width]) = (images.channels, images.input);
    let [rows, columns] = &spans;
    let (input_pixels, pixels) = (height * width, rows.len() * columns.len());
    let mut y = vec![R::default(); images.count * pixels * channels];
    y.par_chunks_exact_mut((pixels * channels).max(1)).enumerate().for_each(|(image, y)| {
        let x = &x[image * input_pixels * channels..][..input_pixels * channels];
        for (at, row) in rows.iter().enumerate() {
            for (column_at, column) in columns.iter().enumerate() {
                for channel in 0..channels {
                    let mut sum = zero;
                    for pixel in
                        (row.start..row.end).flat_map(|y| (column.start..column.end).map(move |x| y * width + x))
                    {
                        sum = add(sum, x[images.index(pixel, channel, [input_pixels, channels])]);
                    }
                    let output = at * columns.len() + column_at;
                    y[images.index(output, channel, [pixels, channels])] = mean(sum, row.count * column.count);
                }
            }
        }
    });
    y
}
