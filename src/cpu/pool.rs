//! Pools and resizes of images with the channels last: one output pixel at a time, all channels together.

use super::epilogue::{Int8Output, requantize_row};
use super::step_run::{Output, StepRun};
use super::task_size::TASK;
use crate::numerics::{self, float, vectorized};
use crate::ops::{
    AveragePool, AverageWindows, ImageLayout, Images, IntegerAveragePool, IntegerResizeLinear, MaxPool, Op, ResizeGrid,
    ResizedAxis,
};
use crate::parallel::*;
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{CHECKED, codes, f32s, i8s, tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    Some(Ok(match op {
        Op::MaxPool(pool) => max_pool(run, pool),
        Op::AveragePool(AveragePool { windows, .. }) => {
            let mean = |y: &mut [f32], sums: &[f32], count: usize| {
                y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = float::div(float::canonical(sum), count as f32));
            };
            let add = |sum: &mut f32, &v: &f32| *sum += float::canonical(v);
            tensor(run.shape.to_vec(), average(f32s(run.x()), run.x().shape(), windows, add, mean))
        }
        Op::IntegerAveragePool(pool) => integer_average_pool(run.x(), pool, run.shape),
        Op::ResizeLinear(resize) => resize_linear(run.x(), &resize.grid, run.shape),
        Op::IntegerResizeLinear(resize) => integer_resize_linear(run.x(), resize, run.shape),
        _ => return None,
    }))
}

fn integer_average_pool(x: &Tensor, pool: &IntegerAveragePool, shape: &[usize]) -> Tensor {
    let (z, channels) = (pool.x.zero_point(), x.shape().last().copied().unwrap_or(0));
    let output = Int8Output { zero_point: pool.y.zero_point(), lo: pool.lo, hi: pool.hi };
    let (zeros, mut multipliers) = (vec![0; channels], Vec::new());
    for count in counts(x.shape(), &pool.windows) {
        multipliers.push((count, vec![pool.multiplier(count); channels]));
    }
    let mean = |q: &mut [i8], sums: &[i32], count: usize| {
        let at = multipliers.binary_search_by_key(&count, |(count, _)| *count).expect("all counts are known");
        requantize_row(q, sums, &zeros, &multipliers[at].1, 0, output);
    };
    let add = |sum: &mut i32, &v: &i8| *sum += i32::from(v) - z;
    codes(shape, average(i8s(x), x.shape(), &pool.windows, add, mean))
}

/// The numbers of elements that sums are divided by, in ascending order.
fn counts(shape: &[usize], windows: &AverageWindows) -> Vec<usize> {
    let [rows, columns] = windows.spans_of(shape, ImageLayout::ChannelsLast);
    let mut counts: Vec<usize> =
        rows.iter().flat_map(|row| columns.iter().map(|column| row.count * column.count)).collect();
    counts.sort_unstable();
    counts.dedup();
    counts
}

/// Computes `mean(y, sums, count)` of each output pixel, with the sums of all channels.
fn average<T: Sync, S: Copy + Default, R: Copy + Default + Send>(
    x: &[T],
    shape: &[usize],
    windows: &AverageWindows,
    add: impl Fn(&mut S, &T) + Sync,
    mean: impl Fn(&mut [R], &[S], usize) + Sync,
) -> Vec<R> {
    let [rows, columns] = windows.spans_of(shape, ImageLayout::ChannelsLast);
    let channels = shape.last().copied().unwrap_or(0);
    let width = shape[shape.len() - 2];
    let image_length = shape[1..].iter().product::<usize>();
    let pixels = rows.len() * columns.len();
    let mut y = vec![R::default(); shape[0] * pixels * channels];
    y.par_chunks_exact_mut(channels.max(1)).with_min_len(TASK.div_ceil(channels.max(1))).enumerate().for_each(
        |(at, y)| {
            let (row, column) = (rows[at % pixels / columns.len()], columns[at % columns.len()]);
            let image = &x[at / pixels * image_length..][..image_length];
            let mut sums = vec![S::default(); channels];
            vectorized(
                #[inline(always)]
                || {
                    for pixel in
                        (row.start..row.end).flat_map(|y| (column.start..column.end).map(move |x| y * width + x))
                    {
                        for (sum, v) in sums.iter_mut().zip(&image[pixel * channels..]) {
                            add(sum, v);
                        }
                    }
                    mean(y, &sums, row.count * column.count);
                },
            );
        },
    );
    y
}

fn max_pool(run: &mut StepRun<'_>, pool: &MaxPool) -> Tensor {
    let (x, shape) = (run.first.as_deref().expect(CHECKED), run.shape);
    let (images, length) = (pool.images(x.shape()), shape.iter().product());
    match x {
        Tensor::F32(x) => {
            let y = largest(
                run.pool.take(length),
                x.elements(),
                &images,
                f32::NEG_INFINITY,
                #[inline(always)]
                |y, &v| *y = numerics::maximum(*y, v),
            );
            tensor(shape.to_vec(), y)
        }
        Tensor::I8(x) => {
            let y = largest(
                run.pool.take_int8(length),
                x.elements(),
                &images,
                i8::MIN,
                #[inline(always)]
                |y, &v| *y = (*y).max(v),
            );
            codes(shape, y)
        }
        _ => unreachable!("{CHECKED}"),
    }
}

/// Channels whose largest values stay in registers.
const CHANNELS: usize = 32;

/// Computes the largest elements under each window, into `y`.
fn largest<T: Copy + Send + Sync>(
    mut y: Vec<T>,
    x: &[T],
    images: &Images,
    smallest: T,
    max: impl Fn(&mut T, &T) + Sync,
) -> Vec<T> {
    let (channels, pixels) = (images.channels, images.output_pixels());
    let image_length = images.input[0] * images.input[1] * channels;
    let tasks = y.par_chunks_exact_mut(channels.max(1)).with_min_len(TASK.div_ceil(channels.max(1))).enumerate();
    tasks.for_each_init(
        || Vec::with_capacity(images.taps()),
        |under, (at, y)| {
            let image = &x[at / pixels * image_length..][..image_length];
            under.clear();
            under.extend(images.pixels(at % pixels).flatten().map(|pixel| &image[pixel * channels..][..channels]));
            vectorized(
                #[inline(always)]
                || {
                    let (blocks, rest) = y.as_chunks_mut::<CHANNELS>();
                    let first = blocks.len() * CHANNELS;
                    for (block, y) in blocks.iter_mut().enumerate() {
                        // Values of its own stay in registers.
                        let mut largest = [smallest; CHANNELS];
                        for pixel in &*under {
                            for (y, v) in largest.iter_mut().zip(&pixel[block * CHANNELS..][..CHANNELS]) {
                                max(y, v);
                            }
                        }
                        *y = largest;
                    }
                    rest.fill(smallest);
                    for pixel in &*under {
                        for (y, v) in rest.iter_mut().zip(&pixel[first..]) {
                            max(y, v);
                        }
                    }
                },
            );
        },
    );
    y
}

fn resize_linear(x: &Tensor, grid: &ResizeGrid, shape: &[usize]) -> Tensor {
    let axes = grid.axes_of(x.shape(), ImageLayout::ChannelsLast);
    let mix = |a: f32, b: f32, [u, v]: [f32; 2]| float::add(float::mul(a, u), float::mul(b, v));
    let y = resized(f32s(x), x.shape(), &axes, |y, corners, row, column| {
        let (v, u) = (axes[0].floats(row), axes[1].floats(column));
        for (channel, y) in y.iter_mut().enumerate() {
            let [above, below] = corners.map(|[a, b]| mix(a[channel], b[channel], u));
            *y = mix(above, below, v);
        }
    });
    tensor(shape.to_vec(), y)
}

fn integer_resize_linear(x: &Tensor, resize: &IntegerResizeLinear, shape: &[usize]) -> Tensor {
    let axes = resize.grid.axes_of(x.shape(), ImageLayout::ChannelsLast);
    let (z, channels) = (resize.x.zero_point(), x.shape().last().copied().unwrap_or(0));
    let output = Int8Output { zero_point: resize.y.zero_point(), lo: resize.lo, hi: resize.hi };
    let (zeros, multipliers) = (vec![0; channels], vec![resize.multiplier(&axes); channels]);
    let y = resized(i8s(x), x.shape(), &axes, |y, corners, row, column| {
        let (v, u) = (axes[0].integers(row), axes[1].integers(column));
        let mut sums = vec![0i32; channels];
        for (corners, v) in corners.into_iter().zip(v) {
            for (corner, u) in corners.into_iter().zip(u) {
                sums.iter_mut().zip(corner).for_each(|(sum, &q)| *sum += v * u * (i32::from(q) - z));
            }
        }
        requantize_row(y, &sums, &zeros, &multipliers, 0, output);
    });
    codes(shape, y)
}

/// Computes `mix(y, corners, row, column)` of each output pixel, with the channels of the four pixels around it.
fn resized<T: Copy + Default + Send + Sync>(
    x: &[T],
    shape: &[usize],
    [rows, columns]: &[ResizedAxis; 2],
    mix: impl Fn(&mut [T], [[&[T]; 2]; 2], usize, usize) + Sync,
) -> Vec<T> {
    let channels = shape.last().copied().unwrap_or(0);
    let width = shape[shape.len() - 2];
    let image_length = shape[1..].iter().product::<usize>();
    let pixels = rows.outputs.len() * columns.outputs.len();
    let mut y = vec![T::default(); shape[0] * pixels * channels];
    y.par_chunks_exact_mut(channels.max(1)).with_min_len(TASK.div_ceil(channels.max(1))).enumerate().for_each(
        |(at, y)| {
            let (row, column) = (at % pixels / columns.outputs.len(), at % columns.outputs.len());
            let image = &x[at / pixels * image_length..][..image_length];
            let pixel = |y: usize, x: usize| &image[(y * width + x) * channels..][..channels];
            let [ys, xs] = [rows.outputs[row].elements, columns.outputs[column].elements];
            let corners = ys.map(|y| xs.map(|x| pixel(y, x)));
            vectorized(
                #[inline(always)]
                || mix(y, corners, row, column),
            );
        },
    );
    y
}
