//! int8 convolutions. Those of one group are products of the kernels of linear layers, whose rows are the elements under a window
//! (implicit GEMM); those of more groups have kernels of their own.

pub(crate) mod grouped;
mod known_answer;
pub(crate) mod unfold;

pub(crate) use known_answer::{known_answer, patches_answer};

use super::config::Config;
use super::dispatch::{Bound, Operand, PlannedDispatch, Planning};
use super::fused_step::FusedStep;
use super::kernel::Kernel;
use super::layout::{VEC, k_vecs, matrix_rows, row_words};
use super::linear;
use super::linear::tile::TileShape;
use super::linear::tuning::LayerShape;
use super::linear::weights::WeightBits;
use super::linear::{LinearEpilogue, LinearPipeline, LinearRows};
use crate::gpu::device::pipeline::PipelineKey;
use crate::gpu::device::shader::wgsl_struct;
use crate::ops::{ImageLayout, Images};
use crate::program::{QConv, QLinear, Step, StepOp, Value};

wgsl_struct! {
    /// `Window` of `shared/window.wgsl`.
    Window {
        height: u32, width: u32, output_width: u32, output_pixels: u32, taps_y: u32, taps_x: u32, stride_y: u32, stride_x: u32,
        dilation_y: u32, dilation_x: u32, before_y: i32, before_x: i32, input_dilation_y: u32, input_dilation_x: u32,
        per_taps_x: u32, per_pixel_vecs: u32,
    }
}

/// `2^20 / divisor`, rounded up: exact quotients of numbers below 4096 by divisors up to 256.
fn reciprocal(divisor: usize) -> u32 {
    (1usize << 20).div_ceil(divisor.max(1)) as u32
}

/// Whether shaders can divide by [`reciprocal`]s.
fn has_reciprocals(conv: &QConv) -> bool {
    let (taps, vecs) = (conv.window.taps(), k_vecs(channels(conv)));
    taps.saturating_mul(vecs) < 4096 && vecs <= 256 && conv.window.two_axes()[1].size <= 256
}

impl Window {
    /// The window over images of a shape `[rows, …, channels]`.
    pub(crate) fn of(images: &Images) -> Self {
        let ([y, x], [height, width]) = (images.window, images.input);
        Self {
            height: height as u32,
            width: width as u32,
            output_width: images.output[1] as u32,
            output_pixels: images.output_pixels() as u32,
            taps_y: y.size as u32,
            taps_x: x.size as u32,
            stride_y: y.stride as u32,
            stride_x: x.stride as u32,
            dilation_y: y.dilation as u32,
            dilation_x: x.dilation as u32,
            before_y: y.before as i32,
            before_x: x.before as i32,
            input_dilation_y: y.input_dilation as u32,
            input_dilation_x: x.input_dilation as u32,
            per_taps_x: reciprocal(x.size),
            per_pixel_vecs: reciprocal(k_vecs(images.channels)),
        }
    }
}

/// What the kernels of a convolution know of its images.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ImageParams {
    pub(crate) window: Window,
    pub(crate) pixel_vecs: u32,
    /// Four int8 values of padding.
    pub(crate) padding: u32,
    pub(crate) group_inputs: u32,
    pub(crate) group_outputs: u32,
}

impl ImageParams {
    /// Those of a convolution that reads its images itself; zeros for other steps.
    pub(crate) fn of(step: &Step, x: &Value) -> Self {
        let StepOp::QConv(conv) = &step.op else { return Self::default() };
        if unfolds(conv) {
            return Self::default();
        }
        Self {
            window: Window::of(&images(conv, x)),
            pixel_vecs: k_vecs(x.cols()) as u32,
            padding: padding(conv),
            group_inputs: channels(conv) as u32,
            group_outputs: (conv.layer.n / conv.groups) as u32,
        }
    }
}

fn images(conv: &QConv, x: &Value) -> Images {
    Images::new(&x.shape.with_rows(1), &conv.window, ImageLayout::ChannelsLast)
}

fn padding(conv: &QConv) -> u32 {
    u32::from_ne_bytes([conv.zero_point as i8 as u8; 4])
}

/// Input channels of a group.
fn channels(conv: &QConv) -> usize {
    conv.layer.k / conv.window.taps()
}

/// Whether there is padding between the elements of the input.
fn has_gaps(conv: &QConv) -> bool {
    conv.window.axes.iter().any(|axis| axis.input_dilation != 1)
}

/// Whether the elements under each window are copied before the product: with few channels, most of a vector of 16 would be padding; and
/// the kernels of products do not divide, as gaps between elements ask for.
pub(crate) fn unfolds(conv: &QConv) -> bool {
    let implicit = conv.window.taps().saturating_mul(k_vecs(channels(conv)));
    conv.groups == 1 && (implicit > 2 * k_vecs(conv.layer.k) || has_gaps(conv) || !has_reciprocals(conv))
}

/// The rows of the matrix that the kernels of linear layers multiply.
pub(crate) fn rows_of(op: &StepOp) -> LinearRows {
    match op {
        StepOp::QConv(conv) if !unfolds(conv) => LinearRows::Patches,
        _ => LinearRows::Matrix,
    }
}

/// What tuning measures of a convolution of one group: the shape of its layer.
pub(crate) fn layer_shape(config: &Config, conv: &QConv) -> LayerShape {
    let layer = layer(conv);
    let rows = if unfolds(conv) { LinearRows::Matrix } else { LinearRows::Patches };
    LayerShape { n: layer.n, k: layer.k, bits: config.weight_bits(&layer), rows }
}

/// The layer that computes a convolution of one group: where it reads whole vectors of channels, they count as features.
fn layer(conv: &QConv) -> QLinear {
    let k = if unfolds(conv) { conv.layer.k } else { conv.window.taps() * k_vecs(channels(conv)) * VEC };
    QLinear { k, ..conv.layer.clone() }
}

/// That layer with its weight, in which padding has weights of 0.
pub(crate) fn layer_with_weight(conv: &QConv) -> QLinear {
    let (layer, channels) = (layer(conv), channels(conv));
    if layer.k == conv.layer.k {
        return layer;
    }
    let padded = k_vecs(channels) * VEC;
    let mut weight = vec![0; conv.layer.n * layer.k];
    for (padded, tap) in weight.chunks_exact_mut(padded).zip(conv.layer.weight.chunks_exact(channels)) {
        padded[..channels].copy_from_slice(tap);
    }
    QLinear { weight: weight.into(), ..layer }
}

/// The dispatches of a convolution; none before its weight is packed.
pub(crate) fn plan(planning: &Planning<'_>, fused: &FusedStep, conv: &QConv) -> Vec<PlannedDispatch> {
    if planning.weights.get(fused.main).is_none() {
        return Vec::new();
    }
    if conv.groups > 1 {
        return grouped::plan(planning, fused, conv);
    }
    let mut dispatches = linear::plan::plan(planning, fused, &layer(conv));
    if unfolds(conv) {
        let (x, y) = (planning.input(fused, 0), planning.output(fused));
        let bytes = matrix_rows(y, planning.max_rows).saturating_mul(4 * row_words(conv.layer.k) as u64);
        let patches = Bound {
            binding: linear::X,
            operand: Operand::Temporary(fused.step(planning.program).output),
            bytes: Some(bytes),
        };
        for read in dispatches.iter_mut().flat_map(|dispatch| &mut dispatch.reads) {
            if read.binding == linear::X {
                *read = patches;
            }
        }
        let step = fused.step(planning.program);
        let y = Bound { binding: unfold::Y, ..patches };
        let copy = unfold::dispatch(planning, step, &images(conv, x), (x, planning.output(fused)), padding(conv), y);
        dispatches.insert(0, copy);
    }
    dispatches
}

/// The pipelines whose known answers a convolution needs.
pub(crate) fn needed(planning: &Planning<'_>, fused: &FusedStep, conv: &QConv) -> Vec<PipelineKey> {
    let options = planning.config.kernel_options();
    let mut needed = linear::known_answer::needed(planning, fused, &layer(conv));
    if conv.groups > 1 {
        needed.push(grouped::GroupedKernel::plain(conv).pipeline(options));
    } else if unfolds(conv) {
        let images = images(conv, planning.input(fused, 0));
        needed.push(unfold::UnfoldKernel::of(true, &images).pipeline(options));
    } else {
        needed.push(known_answer::stand_in(planning.config).pipeline(options));
    }
    needed
}

/// The pipeline that [`patches_answer`] tests for a tile shape: of whole layers, or of parts of K.
pub(crate) fn tile_pipeline(config: &Config, tile: TileShape, divided: bool) -> PipelineKey {
    let epilogue = if divided { LinearEpilogue::Partial } else { LinearEpilogue::ToI8 };
    let (bits, rows) = (WeightBits::Eight, LinearRows::Patches);
    LinearPipeline::Layer { tile, bits, epilogue, to_f16: false, coopmat: config.choice.coopmat, rows }
        .pipeline(config.kernel_options())
}

/// The pipeline of a product of patches, of a layer of `n` and `k` at `pixels` output pixels.
fn patches_at(config: &Config, n: usize, k: usize, pixels: u64) -> LinearPipeline {
    let layer = LayerShape { n, k, bits: WeightBits::Eight, rows: LinearRows::Patches };
    linear::plan::pipeline_at(config, layer, pixels, LinearEpilogue::ToI8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_with_a_reciprocal_are_quotients() {
        for divisor in 1..=256usize {
            for number in 0..4096u32 {
                assert_eq!((number * reciprocal(divisor)) >> 20, number / divisor as u32, "{number} / {divisor}");
            }
        }
    }
}
