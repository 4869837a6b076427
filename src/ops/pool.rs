//! Pools over images, and images of another size.

mod average;
mod lengths;
mod resize;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use self::average::{AveragePool, AverageWindows, IntegerAveragePool};
pub(crate) use self::resize::ResizedAxis;
pub use self::resize::{IntegerResizeLinear, ResizeCoordinates, ResizeGrid, ResizeLinear};
use super::error::{EvalError, OpError};
use super::images::Images;
use super::operands::{Arguments, Operands, TensorType, inner_axis, parameter, rank_error};
use super::operator::Operator;
use super::window::{ImageLayout, Window};
use crate::numerics;
use crate::parallel::*;
use crate::values::slices::{CHECKED, codes, tensor};
use crate::values::{DType, Shape, Tensor};

/// The largest element under a window. Input: floats or quantized values, `[rows, C, H, W]` or `[rows, C, W]`. Padding never is the
/// largest: a dilated window that sees nothing else gives −∞ or −128. The result is NaN if an element under the window is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPool {
    /// The window. Its padding is smaller than its extent.
    pub window: Window,
    /// Whether a last window that begins inside the image but ends behind the padding has a result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ceil_mode: bool,
    /// The layout of the images.
    #[serde(default, skip_serializing_if = "ImageLayout::is_default")]
    pub layout: ImageLayout,
}

impl MaxPool {
    /// Creates a pool with `ceil_mode` off.
    #[must_use]
    pub fn new(window: Window) -> Self {
        Self { window, ceil_mode: false, layout: ImageLayout::ChannelsFirst }
    }

    /// Sets `ceil_mode`.
    #[must_use]
    pub fn with_ceil_mode(self, ceil_mode: bool) -> Self {
        Self { ceil_mode, ..self }
    }

    /// Returns the window, with the outputs of `ceil_mode`, over images of a shape.
    pub(crate) fn images(&self, shape: &[usize]) -> Images {
        images(shape, &self.window, self.ceil_mode, self.layout)
    }
}

/// The sizes of a pool over images of a shape, which inference has accepted.
fn images(shape: &[usize], window: &Window, ceil_mode: bool, layout: ImageLayout) -> Images {
    match ceil_mode {
        true => Images::new(shape, &window.ceil(&Shape::fixed(shape), layout).expect(CHECKED), layout),
        false => Images::new(shape, window, layout),
    }
}

/// Infers the shape of a pool.
fn pooled(x: &Shape, window: &Window, ceil_mode: bool, layout: ImageLayout) -> Result<Shape, OpError> {
    window.check_simple()?;
    if x.rank() < 3 {
        return Err(rank_error("image", x, "3 or 4"));
    }
    let channels = inner_axis(x, layout.channel_axis(x.rank()))?;
    for axis in &window.axes {
        let padding = axis.before.max(axis.after);
        let extent = (axis.size as i64).saturating_sub(1).saturating_mul(axis.dilation as i64).saturating_add(1);
        if padding >= extent && padding > 0 {
            let value = format!("{padding} around a window over {extent}");
            return Err(parameter("padding", value, "must be smaller than what the window spans"));
        }
    }
    match ceil_mode {
        true => window.ceil(x, layout)?.infer(x, layout, channels),
        false => window.infer(x, layout, channels),
    }
}

impl Operator for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn infer(&self, inputs: &Operands<'_>) -> Result<TensorType, OpError> {
        inputs.expect_arity(1)?;
        inputs.expect_one_of(0, &[DType::F32, DType::I8])?;
        let shape = pooled(inputs.shape(0), &self.window, self.ceil_mode, self.layout)?;
        Ok(TensorType::new(inputs.dtype(0), shape))
    }

    fn eval(&self, inputs: &Arguments<'_>) -> Result<Tensor, EvalError> {
        let images = self.images(inputs.tensor(0).shape());
        let shape = inputs.output.with_rows(images.count);
        Ok(match inputs.tensor(0) {
            Tensor::F32(x) => tensor(
                shape,
                pool(x.elements(), &images, |window| {
                    window.fold(f32::NEG_INFINITY, |a, (_, b)| numerics::maximum(a, b))
                }),
            ),
            Tensor::I8(x) => {
                codes(&shape, pool(x.elements(), &images, |window| window.map(|(_, v)| v).max().unwrap_or(i8::MIN)))
            }
            _ => unreachable!("{CHECKED}"),
        })
    }

    fn parameters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " {}{}", self.window, if self.ceil_mode { " ceil_mode" } else { "" })?;
        self.layout.write(f)
    }

    fn moves_values(&self) -> bool {
        true
    }
}

/// Computes `reduce` of the elements under each window, with their taps, in row-major order of the taps.
fn pool<T: Copy + Sync, R: Copy + Default + Send>(
    x: &[T],
    images: &Images,
    reduce: impl Fn(&mut dyn Iterator<Item = (usize, T)>) -> R + Sync,
) -> Vec<R> {
    let (pixels, channels) = (images.output_pixels(), images.channels);
    let input_pixels = images.input[0] * images.input[1];
    let mut y = vec![R::default(); images.count * pixels * channels];
    y.par_chunks_exact_mut((pixels * channels).max(1)).enumerate().for_each(|(image, y)| {
        let x = &x[image * input_pixels * channels..][..input_pixels * channels];
        for output in 0..pixels {
            let taps: Vec<(usize, usize)> =
                images.pixels(output).enumerate().filter_map(|(tap, pixel)| Some((tap, pixel?))).collect();
            for channel in 0..channels {
                let element =
                    |&(tap, pixel): &(usize, usize)| (tap, x[images.index(pixel, channel, [input_pixels, channels])]);
                y[images.index(output, channel, [pixels, channels])] = reduce(&mut taps.iter().map(element));
            }
        }
    });
    y
}
