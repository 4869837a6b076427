//! Pools over images with the channels last: one output pixel at a time, all channels together.

use rayon::prelude::*;

use super::epilogue::{Int8Output, requantize_row};
use super::step_run::{Output, StepRun, TASK};
use crate::numerics::{self, float, vectorized};
use crate::ops::{AveragePool, AverageWindows, ImageLayout, Images, IntegerAveragePool, MaxPool, Op};
use crate::program::StepOp;
use crate::values::Tensor;
use crate::values::slices::{CHECKED, codes, f32s, i8s, tensor};

pub(super) fn run(run: &mut StepRun<'_>) -> Option<Output> {
    let StepOp::Op(op) = &run.step.op else { return None };
    Some(Ok(match op {
        Op::MaxPool(pool) => max_pool(run.x(), pool, run.shape),
        Op::AveragePool(AveragePool { windows, .. }) => {
            let mean = |y: &mut [f32], sums: &[f32], count: usize| {
                y.iter_mut().zip(sums).for_each(|(y, &sum)| *y = float::div(float::canonical(sum), count as f32));
            };
            let add = |sum: &mut f32, &v: &f32| *sum += float::canonical(v);
            tensor(run.shape.to_vec(), average(f32s(run.x()), run.x().shape(), windows, add, mean))
        }
        Op::IntegerAveragePool(pool) => integer_average_pool(run.x(), pool, run.shape),
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
                        sums.iter_mut().zip(&image[pixel * channels..]).for_each(|(sum, v)| add(sum, v));
                    }
                    mean(y, &sums, row.count * column.count);
                },
            );
        },
    );
    y
}

fn max_pool(x: &Tensor, pool: &MaxPool, shape: &[usize]) -> Tensor {
    let images = pool.images(x.shape());
    match x {
        Tensor::F32(x) => {
            let max = |y: &mut f32, &v: &f32| *y = numerics::maximum(*y, v);
            tensor(shape.to_vec(), largest(x.elements(), &images, f32::NEG_INFINITY, max))
        }
        Tensor::I8(x) => codes(shape, largest(x.elements(), &images, i8::MIN, |y, &v| *y = (*y).max(v))),
        _ => unreachable!("{CHECKED}"),
    }
}

/// Computes the largest elements under each window.
fn largest<T: Copy + Send + Sync>(x: &[T], images: &Images, smallest: T, max: impl Fn(&mut T, &T) + Sync) -> Vec<T> {
    let (channels, pixels) = (images.channels, images.output_pixels());
    let image_length = images.input[0] * images.input[1] * channels;
    let mut y = vec![smallest; images.count * pixels * channels];
    y.par_chunks_exact_mut(channels.max(1)).with_min_len(TASK.div_ceil(channels.max(1))).enumerate().for_each(
        |(at, y)| {
            let image = &x[at / pixels * image_length..][..image_length];
            vectorized(
                #[inline(always)]
                || {
                    for pixel in images.pixels(at % pixels).flatten() {
                        y.iter_mut().zip(&image[pixel * channels..]).for_each(|(y, v)| max(y, v));
                    }
                },
            );
        },
    );
    y
}
