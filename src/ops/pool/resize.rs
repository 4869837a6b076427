//! Images of another size, by linear interpolation between neighbouring elements.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::lengths::with_lengths;
use crate::numerics::{self, float};
use crate::ops::error::{EvalError, OpError};
use crate::ops::linear::write_range;
use crate::ops::operands::{
    Arguments, Operands, TensorType, expect_int8_range, expect_zero_points, inner_axis, parameter,
};
use crate::ops::operator::Operator;
use crate::ops::window::ImageLayout;
use crate::parallel::*;
use crate::values::slices::{CHECKED, codes, tensor};
use crate::values::{DType, Number, QParams, Shape, Tensor};

/// Where output `o` of `out` lies among the `n` elements of an axis. A position outside the axis is that of the nearest element.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResizeCoordinates {
    /// `(o + ½) · n / out − ½`: PyTorch's default, `half_pixel` in ONNX.
    #[default]
    HalfPixel,
    /// `o · (n − 1) / (out − 1)`, so that the corners keep their places: PyTorch's `align_corners=True`.
    AlignCorners,
    /// `o · n / out`: `asymmetric` in ONNX.
    Asymmetric,
}

/// The size of the result, and where its elements lie in the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeGrid {
    /// Lengths of the axes of the result: width, or height and width.
    pub output: Vec<usize>,
    /// Where the elements of the result lie.
    #[serde(default)]
    pub coordinates: ResizeCoordinates,
}

/// The two elements of one axis that an output lies between, and the share of the second one in units of one over the denominator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Neighbours {
    pub(crate) elements: [usize; 2],
    pub(crate) share: u32,
}

/// The outputs along one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ResizedAxis {
    /// What the shares of two neighbours add up to.
    pub(crate) denominator: u32,
    pub(crate) outputs: Vec<Neighbours>,
}

impl ResizeCoordinates {
    /// The positions of the outputs of an axis with at least one element, as numerators over one denominator.
    fn positions(self, length: usize, outputs: usize) -> (impl Iterator<Item = i64>, i64) {
        let (n, out) = (length as i64, outputs as i64);
        let denominator = match self {
            Self::HalfPixel => 2 * out,
            Self::AlignCorners => (out - 1).max(1),
            Self::Asymmetric => out,
        };
        let numerators = (0..out).map(move |o| {
            let numerator = match self {
                Self::HalfPixel => (2 * o + 1) * n - out,
                Self::AlignCorners => o * (n - 1),
                Self::Asymmetric => o * n,
            };
            numerator.clamp(0, (n - 1) * denominator)
        });
        (numerators, denominator)
    }

    /// The largest number that divides the numerators and the denominator of the positions.
    fn divisor(self, length: usize, outputs: usize) -> i64 {
        let (mut numerators, denominator) = self.positions(length, outputs);
        numerators.try_fold(denominator, |a, b| (a != 1).then(|| gcd(a, b))).unwrap_or(1)
    }

    /// What the shares of two neighbours add up to.
    fn denominator(self, length: usize, outputs: usize) -> usize {
        (self.positions(length, outputs).1 / self.divisor(length, outputs)) as usize
    }
}

impl ResizedAxis {
    /// The outputs of an axis with at least one element. The shares are exact: all have the smallest common denominator.
    fn new(coordinates: ResizeCoordinates, length: usize, outputs: usize) -> Self {
        let divisor = coordinates.divisor(length, outputs);
        let (numerators, denominator) = coordinates.positions(length, outputs);
        let denominator = denominator / divisor;
        let neighbours = |numerator: i64| {
            let (numerator, last) = (numerator / divisor, length - 1);
            let first = (numerator / denominator) as usize;
            Neighbours { elements: [first, (first + 1).min(last)], share: (numerator % denominator) as u32 }
        };
        Self { denominator: denominator as u32, outputs: numerators.map(neighbours).collect() }
    }

    /// The weights of the two neighbours of an output, as integers.
    pub(crate) fn integers(&self, output: usize) -> [i32; 2] {
        let share = self.outputs[output].share;
        [(self.denominator - share) as i32, share as i32]
    }

    /// The weights of the two neighbours of an output, rounded to `f32` each.
    pub(crate) fn floats(&self, output: usize) -> [f32; 2] {
        self.integers(output).map(|weight| (f64::from(weight) / f64::from(self.denominator)) as f32)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl ResizeGrid {
    /// Returns the outputs along height and width of images with a shape that inference has accepted; the height of an image with one
    /// axis is 1.
    pub(crate) fn axes_of(&self, shape: &[usize], layout: ImageLayout) -> [ResizedAxis; 2] {
        let axis = |at: usize| {
            let length = shape[layout.first_axis() + at];
            ResizedAxis::new(self.coordinates, length, self.output[at])
        };
        match self.output.len() {
            1 => [ResizedAxis::new(ResizeCoordinates::Asymmetric, 1, 1), axis(0)],
            2 => [axis(0), axis(1)],
            _ => unreachable!("{CHECKED}"),
        }
    }

    fn infer(&self, x: &Shape, layout: ImageLayout) -> Result<Shape, OpError> {
        let names = ["2 more than the output of the resize", "length of a resized axis"];
        with_lengths(x, &self.output, layout, names)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let coordinates = match self.coordinates {
            ResizeCoordinates::HalfPixel => "",
            ResizeCoordinates::AlignCorners => " align_corners",
            ResizeCoordinates::Asymmetric => " asymmetric",
        };
        write!(f, " to {:?}{coordinates}", self.output)
    }
}

/// An image of another size, by linear interpolation along width, then along height. Input: floats `[rows, C, H, W]` or
/// `[rows, C, W]`. The result is `(x₀₀·u₀ + x₀₁·u₁)·v₀ + (x₁₀·u₀ + x₁₁·u₁)·v₁` with the weights `u` and `v` of an element's two neighbours
/// along width and height, as in PyTorch's `interpolate` with `mode="bilinear"` or `mode="linear"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeLinear {
    /// The size of the result, and where its elements lie in the input.
    pub grid: ResizeGrid,
    /// The layout of the images.
    #[serde(default, skip_serializing_if = "ImageLayout::is_default")]
    pub layout: ImageLayout,
}

impl ResizeLinear {
    /// Creates a resize to a width, or a height and a width, with the coordinates that are PyTorch's default.
    #[must_use]
    pub fn new(output: &[usize]) -> Self {
        let grid = ResizeGrid { output: output.to_vec(), coordinates: ResizeCoordinates::HalfPixel };
        Self { grid, layout: ImageLayout::ChannelsFirst }
    }

    /// Sets where the elements of the result lie.
    #[must_use]
    pub fn with_coordinates(mut self, coordinates: ResizeCoordinates) -> Self {
        self.grid.coordinates = coordinates;
        self
    }
}

impl Operator for ResizeLinear {
    fn name(&self) -> &'static str {
        "resize_linear"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(1)?;
        Ok(TensorType::new(DType::F32, self.grid.infer(inputs.shape(0), self.layout)?))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let shape = inputs.tensor(0).shape();
        let axes = self.grid.axes_of(shape, self.layout);
        let weights = [0, 1].map(|axis: usize| (0..axes[axis].outputs.len()).map(|o| axes[axis].floats(o)).collect());
        let mix = |[a, b]: [f32; 2], [u, v]: [f32; 2]| float::add(float::mul(a, u), float::mul(b, v));
        let y = resized(inputs.f32s(0), shape, &axes, self.layout, &weights, |corners, v, u| {
            mix([mix(corners[0], u), mix(corners[1], u)], v)
        });
        Ok(tensor(inputs.output.with_rows(shape[0]), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.grid.write(f)?;
        self.layout.write(f)
    }
}

/// A linear interpolation of int8 values: `requantize(Σ v · u · (x − z_x))` over the four neighbours of an element, with integer weights
/// and the multiplier `s_x / (s_y · d)`, where `d` is the product of the weights' denominators (equation 13). Input: int8
/// `[rows, C, H, W]` or `[rows, C, W]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntegerResizeLinear {
    /// The size of the result, and where its elements lie in the input.
    pub grid: ResizeGrid,
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

impl IntegerResizeLinear {
    /// The multiplier of the sums.
    pub(crate) fn multiplier(&self, axes: &[ResizedAxis; 2]) -> f32 {
        let count = axes.iter().map(|axis| axis.denominator as usize).product();
        numerics::average_multiplier(self.x.scale(), self.y.scale(), count).unwrap_or(f32::NAN)
    }
}

impl Operator for IntegerResizeLinear {
    fn name(&self) -> &'static str {
        "integer_resize_linear"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8])?;
        expect_int8_range(self.lo, self.hi)?;
        expect_zero_points(&[self.x.zero_point(), self.y.zero_point()])?;
        let x = inputs.shape(0);
        let shape = self.grid.infer(x, self.layout)?;
        let mut denominators = Vec::with_capacity(2);
        for (at, &outputs) in self.grid.output.iter().enumerate() {
            let length = inner_axis(x, self.layout.first_axis() + at)?;
            denominators.push(self.grid.coordinates.denominator(length, outputs));
        }
        let count = denominators.iter().fold(1usize, |count, &d| count.saturating_mul(d));
        // 255 · 2²³ < 2³¹.
        if count > 1 << 23 {
            let value = format!("{denominators:?}");
            return Err(parameter(
                "denominators of the weights",
                value,
                "must have a product of at most 8388608 (equation 13)",
            ));
        }
        if numerics::average_multiplier(self.x.scale(), self.y.scale(), count).is_none() {
            let value = format!("{:e} / ({:e} · {count})", Number(self.x.scale()), Number(self.y.scale()));
            return Err(parameter("multiplier", value, "must be a normal f32 (equation 13)"));
        }
        Ok(TensorType::new(DType::I8, shape))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (shape, zero_point) = (inputs.tensor(0).shape(), self.x.zero_point());
        let axes = self.grid.axes_of(shape, self.layout);
        let multiplier = self.multiplier(&axes);
        let weights = [0, 1].map(|axis: usize| (0..axes[axis].outputs.len()).map(|o| axes[axis].integers(o)).collect());
        let y = resized(inputs.i8s(0), shape, &axes, self.layout, &weights, |corners, v: [i32; 2], u: [i32; 2]| {
            let value = |y: usize, x: usize| v[y] * u[x] * (i32::from(corners[y][x]) - zero_point);
            let sum = value(0, 0) + value(0, 1) + value(1, 0) + value(1, 1);
            numerics::requantize(sum, multiplier, self.y.zero_point(), self.lo, self.hi) as i8
        });
        Ok(codes(&inputs.output.with_rows(shape[0]), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.grid.write(f)?;
        write!(f, " of scale {:e} zero_point {}", self.x.scale(), self.x.zero_point())?;
        write_range(f, self.y, self.lo, self.hi)?;
        self.layout.write(f)
    }

    fn is_integer(&self) -> bool {
        true
    }
}

/// Computes `mix(corners, v, u)` of each element of the result, with the elements `corners[row][column]` around it and the weights of
/// its rows and columns.
fn resized<T: Copy + Default + Send + Sync, W: Copy + Sync>(
    x: &[T],
    shape: &[usize],
    [rows, columns]: &[ResizedAxis; 2],
    layout: ImageLayout,
    weights: &[Vec<[W; 2]>; 2],
    mix: impl Fn([[T; 2]; 2], [W; 2], [W; 2]) -> T + Sync,
) -> Vec<T> {
    let width = shape[layout.first_axis() + shape.len() - 3];
    let channels = shape[layout.channel_axis(shape.len())];
    let image_length: usize = shape[1..].iter().product();
    let input_pixels = image_length.checked_div(channels).unwrap_or(0);
    let pixels = rows.outputs.len() * columns.outputs.len();
    // The distance of neighbouring pixels of a channel and that of neighbouring channels of a pixel.
    let strides = |pixels: usize| match layout {
        ImageLayout::ChannelsFirst => [1, pixels],
        ImageLayout::ChannelsLast => [channels, 1],
    };
    let (from, to) = (strides(input_pixels), strides(pixels));
    let mut y = vec![T::default(); shape[0] * pixels * channels];
    y.par_chunks_exact_mut((pixels * channels).max(1)).enumerate().for_each(|(image, y)| {
        let x = &x[image * image_length..][..image_length];
        for pixel in 0..pixels {
            let (row, column) = (pixel / columns.outputs.len(), pixel % columns.outputs.len());
            let [ys, xs] = [rows.outputs[row].elements, columns.outputs[column].elements];
            for channel in 0..channels {
                let element = |y: usize, at: usize| x[(y * width + at) * from[0] + channel * from[1]];
                let corners = ys.map(|y| xs.map(|x| element(y, x)));
                y[pixel * to[0] + channel * to[1]] = mix(corners, weights[0][row], weights[1][column]);
            }
        }
    });
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions as fractions, from the definitions.
    #[test]
    fn neighbours_and_their_exact_shares() {
        for (coordinates, length, outputs) in (1..9).flat_map(|n| (1..14).map(move |o| (n, o))).flat_map(|(n, o)| {
            [ResizeCoordinates::HalfPixel, ResizeCoordinates::AlignCorners, ResizeCoordinates::Asymmetric]
                .map(|coordinates| (coordinates, n, o))
        }) {
            let axis = ResizedAxis::new(coordinates, length, outputs);
            assert_eq!(axis.outputs.len(), outputs);
            for (o, neighbours) in axis.outputs.iter().enumerate() {
                let (n, out, o) = (length as f64, outputs as f64, o as f64);
                let position = match coordinates {
                    ResizeCoordinates::HalfPixel => (o + 0.5) * n / out - 0.5,
                    ResizeCoordinates::AlignCorners if outputs == 1 => 0.0,
                    ResizeCoordinates::AlignCorners => o * (n - 1.0) / (out - 1.0),
                    ResizeCoordinates::Asymmetric => o * n / out,
                };
                let [first, second] = neighbours.elements;
                let found = first as f64 + f64::from(neighbours.share) / f64::from(axis.denominator);
                let expected = position.clamp(0.0, n - 1.0);
                assert!(
                    (found - expected).abs() < 1e-12,
                    "{coordinates:?} {length} {outputs}: {found}, not {expected}"
                );
                assert!(second == first + 1 || (second == first && first == length - 1), "{first} and {second}");
                assert!(neighbours.share < axis.denominator);
            }
        }
        // Twice as many: quarters. The same number: no shares.
        assert_eq!(ResizedAxis::new(ResizeCoordinates::HalfPixel, 5, 10).denominator, 4);
        assert_eq!(ResizedAxis::new(ResizeCoordinates::HalfPixel, 7, 7).denominator, 1);
    }
}
