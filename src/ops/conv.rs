//! Convolutions in float and in integers.

mod columns;
mod products;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use self::products::{by_tap, unfold};
use self::products::{convolve, convolve_f32};
use super::error::{EvalError, OpError};
use super::images::Images;
use super::linear::write_products;
use super::operands::{
    Arguments, Operands, TensorType, expect_size, expect_zero_points, inner_axis, parameter, rank_error,
};
use super::operator::Operator;
use super::window::{ImageLayout, Window, WindowAxis};
use crate::numerics::{FloatProducts, MAX_FRACTION_BITS, gemm};
use crate::values::slices::{CHECKED, integers, tensor};
use crate::values::{DType, Shape, Tensor};

/// Convolution in one or two dimensions, all floats: each output is the sum of the elements under a window, each times its weight,
/// plus a bias. Inputs: x `[rows, C, H, W]` or `[rows, C, W]`, w `[N, C / groups, kh, kw]` or `[N, C / groups, kw]`, and b `[N]` if the
/// layer has a bias. Output: `[rows, N, H', W']`, with `H' = ⌊(H + padding − dilation · (kh − 1) − 1) / stride⌋ + 1`.
///
/// Reproducible products are added tap by tap, and within a tap channel by channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// The window. Its size is that of the weight.
    pub window: Window,
    /// Number of groups of channels; outputs of a group see the inputs of the group only.
    pub groups: usize,
    /// How floats are multiplied and added.
    #[serde(default, skip_serializing_if = "is_full")]
    pub products: FloatProducts,
}

fn is_full(products: &FloatProducts) -> bool {
    *products == FloatProducts::Full
}

impl Conv {
    /// Creates a convolution with one group.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self { window, groups: 1, products: FloatProducts::Full }
    }

    /// Sets the number of groups.
    #[must_use]
    pub fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }
}

impl Operator for Conv {
    fn name(&self) -> &'static str {
        "conv"
    }

    fn module_type(&self) -> Option<&'static str> {
        Some(if self.window.axes.len() == 1 { "Conv1d" } else { "Conv2d" })
    }

    fn parameter_names(&self) -> &'static [&'static str] {
        &["", "weight", "bias"]
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(if inputs.len() == 3 { 3 } else { 2 })?;
        self.window.check_simple()?;
        Ok(TensorType::new(DType::F32, conv_shape(inputs, &self.window, self.groups, ImageLayout::ChannelsFirst)?))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let weight = (inputs.f32s(1), inputs.tensor(1).shape());
        Ok(convolve_f32(inputs, &self.window, self.groups, weight, self.products))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}{}", self.window, Groups(self.groups))?;
        write_products(f, self.products)
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// Transposed convolution in one or two dimensions, all floats: each input adds to the outputs under a window. Inputs: x
/// `[rows, C, H, W]` or `[rows, C, W]`, w `[C, N / groups, kh, kw]` or `[C, N / groups, kw]`, and b `[N]` if the layer has a bias.
/// Output: `[rows, N, H', W']`, with `H' = (H − 1) · stride − padding + dilation · (kh − 1) + output_padding + 1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvTranspose {
    /// The window. Its size is that of the weight, its padding is cut off from the result.
    pub window: Window,
    /// Elements added after the result along each axis, fewer than the stride or the dilation.
    pub output_padding: Vec<usize>,
    /// Number of groups of channels.
    pub groups: usize,
    /// How floats are multiplied and added.
    #[serde(default, skip_serializing_if = "is_full")]
    pub products: FloatProducts,
}

impl ConvTranspose {
    /// Creates a transposed convolution with one group and no output padding.
    #[must_use]
    pub fn new(window: Window) -> Self {
        let output_padding = vec![0; window.axes.len()];
        Self { window, output_padding, groups: 1, products: FloatProducts::Full }
    }

    /// Sets the number of groups.
    #[must_use]
    pub fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Sets the output padding along each axis.
    #[must_use]
    pub fn with_output_padding(self, output_padding: &[usize]) -> Self {
        Self { output_padding: output_padding.to_vec(), ..self }
    }

    /// Returns the window of the convolution that computes the same: it slides over the input with holes between its elements, and its
    /// weight is that of [`ConvTranspose::mirrored`].
    pub(crate) fn as_conv(&self) -> Window {
        let axis = |(axis, &output_padding): (&WindowAxis, &usize)| {
            let reach = (axis.size as i64 - 1) * axis.dilation as i64;
            WindowAxis {
                stride: 1,
                before: reach - axis.before,
                after: reach - axis.after + output_padding as i64,
                input_dilation: axis.stride,
                ..*axis
            }
        };
        Window { axes: self.window.axes.iter().zip(&self.output_padding).map(axis).collect() }
    }

    /// Returns the weight `[N, C / groups, kh, kw]` of that convolution, for a weight `[C, N / groups, kh, kw]`: with the taps in
    /// reverse order.
    pub(crate) fn mirrored<T: Copy>(&self, weight: &[T], shape: &[usize]) -> (Vec<usize>, Vec<T>) {
        let (c, n, taps) = (shape[0] / self.groups, shape[1], shape[2..].iter().product::<usize>());
        let mut mirrored = Vec::with_capacity(weight.len());
        for output in 0..self.groups * n {
            let (group, output) = (output / n, output % n);
            for input in group * c..(group + 1) * c {
                mirrored.extend(weight[(input * n + output) * taps..][..taps].iter().rev());
            }
        }
        let shape = [self.groups * n, c].iter().chain(&shape[2..]).copied().collect();
        (shape, mirrored)
    }
}

impl Operator for ConvTranspose {
    fn name(&self) -> &'static str {
        "conv_transpose"
    }

    fn module_type(&self) -> Option<&'static str> {
        Some(if self.window.axes.len() == 1 { "ConvTranspose1d" } else { "ConvTranspose2d" })
    }

    fn parameter_names(&self) -> &'static [&'static str] {
        &["", "weight", "bias"]
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_floats(if inputs.len() == 3 { 3 } else { 2 })?;
        self.window.check_simple()?;
        expect_size("axes of the output padding", self.output_padding.len(), self.window.axes.len())?;
        for (axis, &output_padding) in self.window.axes.iter().zip(&self.output_padding) {
            // The window must be sound before its mirror image is computed.
            axis.check()?;
            if output_padding != 0 && output_padding >= axis.stride.max(axis.dilation) {
                let value = format!("{output_padding} with stride {} and dilation {}", axis.stride, axis.dilation);
                return Err(parameter("output padding", value, "must be smaller than the stride or the dilation"));
            }
        }
        let (x, w) = (inputs.shape(0), weight_dims(inputs, &self.window)?);
        let channels = inner_axis(x, 1)?;
        expect_size("input channels", channels, w[0])?;
        check_groups(channels, self.groups, "input channels")?;
        let n = w[1].saturating_mul(self.groups);
        if inputs.len() == 3 {
            inputs.expect_vector(2, "bias length", n)?;
        }
        let shape = self.as_conv().infer(x, ImageLayout::ChannelsFirst, n)?;
        Ok(TensorType::new(DType::F32, shape))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (shape, weight) = self.mirrored(inputs.f32s(1), inputs.tensor(1).shape());
        Ok(convolve_f32(inputs, &self.as_conv(), self.groups, (&weight, &shape), self.products))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.window)?;
        if self.output_padding.iter().any(|&padding| padding != 0) {
            write!(f, " output_padding {:?}", self.output_padding)?;
        }
        write!(f, "{}", Groups(self.groups))?;
        write_products(f, self.products)
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// The accumulator of an int8 convolution (equation 4), in `i32`; transposed convolutions become convolutions with an input dilation.
/// Inputs: x int8 `[rows, C, H, W]` or `[rows, C, W]`, w int8 `[N, C / groups, kh, kw]` or `[N, C / groups, kw]`, bias `[N]` i32.
/// A tap outside the image counts as the zero point. Output: `[rows, N, H', W']`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntegerConv {
    /// The window.
    pub window: Window,
    /// Number of groups of channels.
    pub groups: usize,
    /// The zero point of x.
    pub zero_point: i32,
    /// Number of fraction bits, `p` of equation 4: 0 to 12.
    pub fraction_bits: u32,
    /// The layout of x and of the result.
    #[serde(default, skip_serializing_if = "ImageLayout::is_default")]
    pub layout: ImageLayout,
}

impl Operator for IntegerConv {
    fn name(&self) -> &'static str {
        "integer_conv"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_dtypes(&[DType::I8, DType::I8, DType::I32])?;
        expect_zero_points(&[self.zero_point])?;
        if self.fraction_bits > MAX_FRACTION_BITS {
            return Err(parameter("fraction_bits", self.fraction_bits, "must be at most 12 (equation 4)"));
        }
        Ok(TensorType::new(DType::I32, conv_shape(inputs, &self.window, self.groups, self.layout)?))
    }

    fn is_layer(&self) -> bool {
        true
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let (shape, n) = (inputs.tensor(0).shape(), inputs.tensor(1).shape()[0]);
        let images = Images::new(shape, &self.window, self.layout);
        let weight = by_tap(inputs.i8s(1), inputs.tensor(1).shape());
        let (bias, group_n) = (inputs.i32s(2), n / self.groups);
        let k = images.taps() * images.channels / self.groups;
        let y = convolve(inputs.i8s(0), &images, [n, self.groups], self.zero_point as i8, |group, patches| {
            let weight = &weight[group * group_n * k..][..group_n * k];
            let mut acc = gemm::integer_linear(patches, weight, [patches.len() / k, group_n, k]);
            let bias = &bias[group * group_n..][..group_n];
            // The bound of equation 4 keeps this inside i32. A graph that breaks the bound wraps around.
            for row in acc.chunks_exact_mut(group_n) {
                row.iter_mut().zip(bias).for_each(|(acc, &b)| *acc = (*acc << self.fraction_bits).wrapping_add(b));
            }
            acc
        });
        Ok(integers(&inputs.output.with_rows(images.count), y))
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}{}", self.window, Groups(self.groups))?;
        write!(f, " zero_point {} fraction_bits {}", self.zero_point, self.fraction_bits)?;
        self.layout.write(f)
    }

    fn is_integer(&self) -> bool {
        true
    }

    fn is_step(&self) -> bool {
        false
    }
}

/// The elements under a window, for each of its positions (im2col): `[rows, H, W, C]` to `[rows, H', W', taps · C]`, the channels of
/// the first tap first; `[rows, W, C]` likewise. Inputs: x of any type, and the value of padding, of shape `[]` and the same type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfold {
    /// The window.
    pub window: Window,
}

impl Operator for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(2)?;
        inputs.expect_one_of(0, &[DType::F32, DType::I8])?;
        inputs.expect_dtype(1, inputs.dtype(0))?;
        inputs.expect_fixed_rank(1, "padding value", 0, "0")?;
        let x = inputs.shape(0);
        let rank = x.rank();
        if rank == 0 {
            return Err(rank_error("image", x, "3 or 4"));
        }
        let channels = inner_axis(x, rank - 1)?;
        // If the product saturates, the result has too many elements, which `Op::infer` refuses.
        let columns = channels.saturating_mul(self.window.taps());
        let shape = self.window.infer(x, ImageLayout::ChannelsLast, columns)?;
        Ok(TensorType::new(inputs.dtype(0), shape))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let images = Images::new(inputs.tensor(0).shape(), &self.window, ImageLayout::ChannelsLast);
        let shape = inputs.output.with_rows(images.count);
        Ok(match inputs.tensor(0) {
            Tensor::F32(x) => tensor(shape, unfold(x.elements(), &images, inputs.f32s(1)[0])),
            Tensor::I8(x) => crate::values::slices::codes(&shape, unfold(x.elements(), &images, inputs.i8s(1)[0])),
            _ => unreachable!("{CHECKED}"),
        })
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}", self.window)
    }
}

/// Writes a number of groups unless it is 1.
struct Groups(usize);

impl fmt::Display for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 1 { Ok(()) } else { write!(f, " groups {}", self.0) }
    }
}

/// Returns the lengths of the axes of a weight, whose window is `window`.
fn weight_dims(inputs: &Operands<'_>, window: &Window) -> Result<Vec<usize>, OpError> {
    let (rank, expected) = if window.axes.len() == 1 { (3, "3") } else { (4, "4") };
    inputs.expect_fixed_rank(1, "weight", rank, expected)?;
    let dims = inputs.shape(1).fixed_dims();
    for (&actual, axis) in dims[2..].iter().zip(&window.axes) {
        expect_size("size of the weight along an axis of the window", actual, axis.size)?;
    }
    Ok(dims)
}

/// Checks that groups divide a number of channels.
fn check_groups(channels: usize, groups: usize, what: &'static str) -> Result<(), OpError> {
    if groups == 0 || channels == 0 || !channels.is_multiple_of(groups) {
        let value = format!("{groups} for {channels} {what}");
        return Err(parameter("number of groups", value, "must divide the channels, of which there is at least 1"));
    }
    Ok(())
}

/// Infers the shape of a convolution of x with w and, if given, a bias.
fn conv_shape(inputs: &Operands<'_>, window: &Window, groups: usize, layout: ImageLayout) -> Result<Shape, OpError> {
    if !(1..=2).contains(&window.axes.len()) {
        return Err(parameter("axes of the window", window.axes.len(), "must be 1 or 2"));
    }
    let (x, w) = (inputs.shape(0), weight_dims(inputs, window)?);
    let shape = window.infer(x, layout, w[0])?;
    let channels = inner_axis(x, layout.channel_axis(x.rank()))?;
    check_groups(channels, groups, "input channels")?;
    check_groups(w[0], groups, "output channels")?;
    expect_size("input channels of a group", channels / groups, w[1])?;
    if inputs.len() == 3 {
        inputs.expect_vector(2, "bias length", w[0])?;
    }
    Ok(shape)
}
