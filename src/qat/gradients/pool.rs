//! Gradients of pools and resizes.

use super::{Backward, Rule};
use crate::ops::{AveragePool, ImageLayout, MaxPool, Op, ResizeLinear};
use crate::values::slices::f32s;

pub(super) fn rule(op: &Op) -> Option<Rule<'_>> {
    Some(match op {
        Op::MaxPool(pool) if pool.layout == ImageLayout::ChannelsFirst => Box::new(move |b, dx| max_pool(b, pool, dx)),
        Op::AveragePool(pool) if pool.layout == ImageLayout::ChannelsFirst => {
            Box::new(move |b, dx| average_pool(b, pool, dx))
        }
        Op::ResizeLinear(resize) if resize.layout == ImageLayout::ChannelsFirst => {
            Box::new(move |b, dx| resize_linear(b, resize, dx))
        }
        _ => return None,
    })
}

/// The first of the largest elements under a window gets its gradient.
fn max_pool(b: &Backward<'_>, pool: &MaxPool, dx: &mut [f32]) {
    let images = pool.images(b.x().shape());
    let (inputs, outputs) = (images.input[0] * images.input[1], images.output_pixels());
    dx.fill(0.0);
    let channels = f32s(b.x()).chunks_exact(inputs).zip(dx.chunks_exact_mut(inputs));
    for ((x, dx), dy) in channels.zip(b.dy.chunks_exact(outputs)) {
        for (output, &dy) in dy.iter().enumerate() {
            let larger = |a: usize, b: usize| if x[b] > x[a] { b } else { a };
            if let Some(largest) = images.pixels(output).flatten().reduce(larger) {
                dx[largest] += dy;
            }
        }
    }
}

/// Each element under a window gets its share of the gradient.
fn average_pool(b: &Backward<'_>, pool: &AveragePool, dx: &mut [f32]) {
    let shape = b.x().shape();
    let [rows, columns] = pool.windows.spans_of(shape, ImageLayout::ChannelsFirst);
    let width = shape[shape.len() - 1];
    let inputs = shape[2..].iter().product::<usize>();
    dx.fill(0.0);
    for (dx, dy) in dx.chunks_exact_mut(inputs).zip(b.dy.chunks_exact(rows.len() * columns.len())) {
        for (at, &dy) in dy.iter().enumerate() {
            let (row, column) = (rows[at / columns.len()], columns[at % columns.len()]);
            let share = dy / (row.count * column.count) as f32;
            for y in row.start..row.end {
                dx[y * width + column.start..y * width + column.end].iter_mut().for_each(|dx| *dx += share);
            }
        }
    }
}

/// Each of the four neighbours of an element gets the gradient times its weight.
fn resize_linear(b: &Backward<'_>, resize: &ResizeLinear, dx: &mut [f32]) {
    let shape = b.x().shape();
    let [rows, columns] = resize.grid.axes_of(shape, ImageLayout::ChannelsFirst);
    let (width, outputs) = (shape[shape.len() - 1], columns.outputs.len());
    let inputs = shape[2..].iter().product::<usize>();
    dx.fill(0.0);
    for (dx, dy) in dx.chunks_exact_mut(inputs).zip(b.dy.chunks_exact(rows.outputs.len() * outputs)) {
        for (at, &dy) in dy.iter().enumerate() {
            let (row, column) = (at / outputs, at % outputs);
            for (y, v) in rows.outputs[row].elements.into_iter().zip(rows.floats(row)) {
                for (x, u) in columns.outputs[column].elements.into_iter().zip(columns.floats(column)) {
                    dx[y * width + x] += dy * v * u;
                }
            }
        }
    }
}
