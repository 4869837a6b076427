//! Convolutions of int8, and the elements under a window.

mod float;

#[cfg(feature = "threads")]
pub(super) use self::float::PaddedImages;
pub(super) use self::float::by_patches;
use super::epilogue::{Int8Output, requantize_row, scale_row};
use super::int8_layer::{Int8Layer, Weight};
use super::step_run::{Output, StepRun};
use crate::numerics::vectorized;
use crate::ops::{ImageLayout, Images, Op, Unfold, unfold};
use crate::parallel::*;
use crate::program::{Epilogue, QConv, QLinear, StepOp};
use crate::values::Tensor;
use crate::values::slices::{CHECKED, codes, f32s, i8s, tensor};

/// The size of the patches that are collected at a time: they stay in an L2 cache.
const PATCH_BYTES: usize = 1 << 18;

/// Multiply-adds that are worth a parallel task.
const TASK: usize = 1 << 16;

/// Channels of a depthwise convolution whose sums stay in registers.
const CHANNELS: usize = 32;
/// The same for the channels that are left: as many as a register of AVX2 holds.
const FEW_CHANNELS: usize = 8;

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let shape = run.shape;
    Some(Ok(match &run.step.op {
        StepOp::QConv(conv) => {
            let (weight, x) = (run.weight.expect(CHECKED), run.first.as_deref().expect(CHECKED));
            let images = Images::new(x.shape(), &conv.window, ImageLayout::ChannelsLast);
            let QLinear { n, fraction_bits: shift, ref epilogue, .. } = conv.layer;
            let (rows, x) = (images.count * images.output_pixels(), i8s(x));
            let bias = match weight {
                Weight::Int8(layer) => &layer.bias[..],
                _ => &conv.layer.bias[..],
            };
            match epilogue {
                Epilogue::Requantize { multiplier, zero_point, lo, hi } => {
                    let output = Int8Output { zero_point: *zero_point, lo: *lo, hi: *hi };
                    let mut y = run.pool.take_int8(rows * n);
                    convolve(
                        &mut y,
                        x,
                        (conv, &images, weight),
                        #[inline(always)]
                        |col: usize, q: &mut [i8], sums: &[i32]| {
                            requantize_row(q, sums, &bias[col..], &multiplier[col..], shift, output);
                        },
                    );
                    codes(shape, y)
                }
                Epilogue::Scale { scale, relu } => {
                    let mut y = run.pool.take(rows * n);
                    convolve(
                        &mut y,
                        x,
                        (conv, &images, weight),
                        #[inline(always)]
                        |col: usize, y: &mut [f32], sums: &[i32]| {
                            scale_row(y, sums, &bias[col..], &scale[col..], shift, *relu);
                        },
                    );
                    tensor(shape.to_vec(), y)
                }
                Epilogue::Dynamic { .. } => unreachable!("{CHECKED}"),
            }
        }
        StepOp::Op(Op::Unfold(Unfold { window })) => {
            let images = Images::new(run.x().shape(), window, ImageLayout::ChannelsLast);
            match run.x() {
                Tensor::F32(x) => tensor(shape.to_vec(), unfold(x.elements(), &images, f32s(run.rest[0])[0])),
                Tensor::I8(x) => codes(shape, unfold(x.elements(), &images, i8s(run.rest[0])[0])),
                _ => unreachable!("{CHECKED}"),
            }
        }
        _ => return None,
    }))
}

/// Computes `finish(channel, y, sums)` of each output pixel, with the sums of consecutive channels from `channel` on.
fn convolve<T: Copy + Default + Send>(
    y: &mut [T],
    x: &[i8],
    (conv, images, weight): (&QConv, &Images, &Weight),
    finish: impl Fn(usize, &mut [T], &[i32]) + Sync,
) {
    let (n, pixels) = (conv.layer.n, images.output_pixels());
    let image_length = images.input[0] * images.input[1] * images.channels;
    let image = |row: usize| &x[row / pixels * image_length..][..image_length];
    match weight {
        // The pixels themselves are the patches.
        Weight::Int8(layer) if images.is_pointwise() => layer.weight.map(
            y,
            x,
            y.len() / n,
            #[inline(always)]
            |_, col: usize, y: &mut [T], sums: &[i32]| finish(col, y, sums),
        ),
        Weight::Int8(layer) => dense(y, (conv, images, layer), image, finish),
        Weight::Taps(taps) => {
            let (rows, padding) = (TASK.div_ceil(taps.len()), vec![conv.zero_point as i8; n]);
            y.par_chunks_mut(rows * n).enumerate().for_each_init(
                || (vec![0i32; n], Vec::with_capacity(images.taps())),
                |(sums, under_window), (task, y)| {
                    vectorized(
                        #[inline(always)]
                        || {
                            for (at, y) in y.chunks_exact_mut(n).enumerate() {
                                let row = task * rows + at;
                                let image = image(row);
                                let pixel = |pixel: usize| &image[pixel * n..][..n];
                                under_window.clear();
                                under_window
                                    .extend(images.pixels(row % pixels).map(|at| at.map_or(&padding[..], pixel)));
                                depthwise(sums, under_window, taps);
                                finish(0, y, sums);
                            }
                        },
                    );
                },
            );
        }
        _ => {
            let channels = images.channels / conv.groups;
            let (k, rows) = (conv.layer.k, TASK.div_ceil(conv.layer.weight.len()));
            y.par_chunks_mut(rows * n).enumerate().for_each_init(
                || (vec![0i32; n], vec![0i8; k]),
                |(sums, patch), (task, y)| {
                    for (at, y) in y.chunks_exact_mut(n).enumerate() {
                        let row = task * rows + at;
                        for (group, sums) in sums.chunks_exact_mut(n / conv.groups).enumerate() {
                            let (of_group, fill) = ([group * channels, channels], conv.zero_point as i8);
                            images.patch(patch, image(row), row % pixels, of_group, fill);
                            let weight = &conv.layer.weight[group * sums.len() * k..];
                            vectorized(
                                #[inline(always)]
                                || products(sums, patch, weight),
                            );
                        }
                        finish(0, y, sums);
                    }
                },
            );
        }
    }
}

/// Computes a convolution of one group by the products of linear layers, on blocks of patches.
fn dense<'x, T: Copy + Default + Send>(
    y: &mut [T],
    (conv, images, layer): (&QConv, &Images, &Int8Layer),
    image: impl Fn(usize) -> &'x [i8] + Sync,
    finish: impl Fn(usize, &mut [T], &[i32]) + Sync,
) {
    let (n, k, pixels) = (conv.layer.n, conv.layer.k, images.output_pixels());
    let block = (PATCH_BYTES / k).clamp(16, 4096);
    let blocks = y.len().div_ceil(block * n);
    let run = |patches: &mut Vec<i8>, (at, y): (usize, &mut [T])| {
        let rows = y.len() / n;
        patches.resize(rows * k, 0);
        let fill = conv.zero_point as i8;
        let collect = |(row, patch): (usize, &mut [i8])| {
            let row = at * block + row;
            images.patch(patch, image(row), row % pixels, [0, images.channels], fill);
        };
        match blocks {
            // One block: the threads share its patches.
            1 => patches.par_chunks_exact_mut(k).with_min_len(TASK.div_ceil(k)).enumerate().for_each(collect),
            _ => patches.chunks_exact_mut(k).enumerate().for_each(collect),
        }
        layer.weight.map(
            y,
            patches,
            rows,
            #[inline(always)]
            |_, col: usize, y: &mut [T], sums: &[i32]| finish(col, y, sums),
        );
    };
    match blocks {
        1 => run(&mut Vec::new(), (0, y)),
        _ => y.par_chunks_mut(block * n).enumerate().for_each_init(Vec::new, run),
    }
}

/// Computes the sums of one output pixel where each channel is a group of its own, from the pixels `[C]` under the taps. `taps` is
/// `[taps, C]`.
#[inline(always)]
fn depthwise(sums: &mut [i32], pixels: &[&[i8]], taps: &[i8]) {
    let channels = sums.len();
    let (blocks, rest) = sums.as_chunks_mut::<CHANNELS>();
    let first_of_rest = blocks.len() * CHANNELS;
    for (block, sums) in blocks.iter_mut().enumerate() {
        *sums = depthwise_block(pixels, taps, block * CHANNELS, channels);
    }
    let (blocks, rest) = rest.as_chunks_mut::<FEW_CHANNELS>();
    for (block, sums) in blocks.iter_mut().enumerate() {
        *sums = depthwise_block(pixels, taps, first_of_rest + block * FEW_CHANNELS, channels);
    }
    let first = channels - rest.len();
    for (at, sum) in rest.iter_mut().enumerate() {
        [*sum] = depthwise_block(pixels, taps, first + at, channels);
    }
}

/// Computes the sums of the channels from `first` on.
#[inline(always)]
fn depthwise_block<const N: usize>(pixels: &[&[i8]], taps: &[i8], first: usize, channels: usize) -> [i32; N] {
    let mut sums = [0i32; N];
    for (x, w) in pixels.iter().zip(taps.chunks_exact(channels)) {
        for ((sum, &x), &w) in sums.iter_mut().zip(&x[first..][..N]).zip(&w[first..][..N]) {
            *sum = sum.wrapping_add(i32::from(i16::from(x) * i16::from(w)));
        }
    }
    sums
}

/// Computes `Σ_k x[k] · w[n, k]` of each channel of a group.
#[inline(always)]
fn products(sums: &mut [i32], x: &[i8], weight: &[i8]) {
    for (sum, weight) in sums.iter_mut().zip(weight.chunks_exact(x.len())) {
        let product = |(&x, &w): (&i8, &i8)| i32::from(i16::from(x) * i16::from(w));
        *sum = x.iter().zip(weight).map(product).fold(0, i32::wrapping_add);
    }
}

/// Reorders the weight `[C, taps]` of a convolution whose every channel is a group with one output to `[taps, C]`; `None` for others.
pub(super) fn taps(conv: &QConv) -> Option<Vec<i8>> {
    let QLinear { n, k, ref weight, .. } = conv.layer;
    let taps = conv.window.taps();
    (n == conv.groups && k == taps)
        .then(|| (0..taps).flat_map(|tap| weight[tap..].iter().step_by(k)).copied().collect())
}
