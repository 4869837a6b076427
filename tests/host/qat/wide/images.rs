//! Operators on images in `f64`, by the definitions of PyTorch: one output or one input at a time.

use enfold::ops::{AverageWindows, Conv, ConvTranspose, MaxPool, ResizeCoordinates, ResizeGrid, Window};
use ndarray::IxDyn;

use super::Array;

/// Images and weights with two axes; those with one get a height of 1.
fn two(x: &Array) -> Array {
    match *x.shape() {
        [a, b, width] => x.to_shape(IxDyn(&[a, b, 1, width])).expect("fits").to_owned(),
        _ => x.clone(),
    }
}

/// The result without the height that `two` has added.
fn back(y: Array, rank: usize) -> Array {
    match (rank, y.shape()) {
        (3, &[a, b, _, width]) => y.to_shape(IxDyn(&[a, b, width])).expect("fits").to_owned(),
        _ => y,
    }
}

/// A parameter of the axes of a window.
fn both(window: &Window, of: impl Fn(&enfold::ops::WindowAxis) -> i64, one: i64) -> [i64; 2] {
    match &window.axes[..] {
        [width] => [one, of(width)],
        [height, width] => [of(height), of(width)],
        other => panic!("{other:?}"),
    }
}

struct Geometry {
    size: [i64; 2],
    stride: [i64; 2],
    dilation: [i64; 2],
    before: [i64; 2],
    after: [i64; 2],
}

impl Geometry {
    fn of(window: &Window) -> Self {
        Self {
            size: both(window, |axis| axis.size as i64, 1),
            stride: both(window, |axis| axis.stride as i64, 1),
            dilation: both(window, |axis| axis.dilation as i64, 1),
            before: both(window, |axis| axis.before, 0),
            after: both(window, |axis| axis.after, 0),
        }
    }

    fn span(&self, axis: usize, length: usize) -> i64 {
        length as i64 + self.before[axis] + self.after[axis] - self.dilation[axis] * (self.size[axis] - 1) - 1
    }

    fn outputs(&self, axis: usize, length: usize, ceil: bool) -> usize {
        let (span, stride) = (self.span(axis, length), self.stride[axis]);
        let mut outputs = if ceil { (span + stride - 1) / stride } else { span / stride } + 1;
        if ceil && (outputs - 1) * stride >= length as i64 + self.before[axis] {
            outputs -= 1;
        }
        outputs as usize
    }

    /// The input under a tap.
    fn at(&self, axis: usize, output: usize, tap: i64, length: usize) -> Option<usize> {
        let at = output as i64 * self.stride[axis] + tap * self.dilation[axis] - self.before[axis];
        (0..length as i64).contains(&at).then_some(at as usize)
    }
}

pub(super) fn conv(x: &Array, w: &Array, b: Option<&Array>, conv: &Conv) -> Array {
    let rank = x.ndim();
    let (x, w, g) = (two(x), two(w), Geometry::of(&conv.window));
    let (c, n) = (x.shape()[1] / conv.groups, w.shape()[0]);
    let lengths = [x.shape()[2], x.shape()[3]];
    let [height, width] = [0, 1].map(|axis| g.outputs(axis, lengths[axis], false));
    let y = Array::from_shape_fn(IxDyn(&[x.shape()[0], n, height, width]), |at| {
        let group = at[1] / (n / conv.groups);
        let mut sum = b.map_or(0.0, |b| b[[at[1]]]);
        for (ky, kx) in (0..g.size[0]).flat_map(|ky| (0..g.size[1]).map(move |kx| (ky, kx))) {
            let (Some(iy), Some(ix)) = (g.at(0, at[2], ky, lengths[0]), g.at(1, at[3], kx, lengths[1])) else {
                continue;
            };
            for i in 0..c {
                sum += x[[at[0], group * c + i, iy, ix]] * w[[at[1], i, ky as usize, kx as usize]];
            }
        }
        sum
    });
    back(y, rank)
}

/// Each input adds to the outputs under its window.
pub(super) fn conv_transpose(x: &Array, w: &Array, b: Option<&Array>, conv: &ConvTranspose) -> Array {
    let rank = x.ndim();
    let (x, w, g) = (two(x), two(w), Geometry::of(&conv.window));
    let (c, n) = (x.shape()[1] / conv.groups, w.shape()[1]);
    let extra = match conv.output_padding[..] {
        [width] => [0, width],
        [height, width] => [height, width],
        ref other => panic!("{other:?}"),
    };
    let lengths = [0, 1].map(|axis| {
        (x.shape()[2 + axis] as i64 - 1) * g.stride[axis] - g.before[axis] - g.after[axis]
            + g.dilation[axis] * (g.size[axis] - 1)
            + extra[axis] as i64
            + 1
    });
    let shape = [x.shape()[0], n * conv.groups, lengths[0] as usize, lengths[1] as usize];
    let mut y = Array::from_shape_fn(IxDyn(&shape), |at| b.map_or(0.0, |b| b[[at[1]]]));
    for (at, &x) in x.indexed_iter() {
        let group = at[1] / c;
        for (w_at, &w) in w.index_axis(ndarray::Axis(0), at[1]).indexed_iter() {
            let place = |axis: usize| {
                at[2 + axis] as i64 * g.stride[axis] + w_at[1 + axis] as i64 * g.dilation[axis] - g.before[axis]
            };
            let (oy, ox) = (place(0), place(1));
            if (0..lengths[0]).contains(&oy) && (0..lengths[1]).contains(&ox) {
                y[[at[0], group * n + w_at[0], oy as usize, ox as usize]] += x * w;
            }
        }
    }
    back(y, rank)
}

pub(super) fn max_pool(x: &Array, pool: &MaxPool) -> Array {
    let rank = x.ndim();
    let (x, g) = (two(x), Geometry::of(&pool.window));
    let lengths = [x.shape()[2], x.shape()[3]];
    let [height, width] = [0, 1].map(|axis| g.outputs(axis, lengths[axis], pool.ceil_mode));
    let y = Array::from_shape_fn(IxDyn(&[x.shape()[0], x.shape()[1], height, width]), |at| {
        let taps = (0..g.size[0]).flat_map(|ky| (0..g.size[1]).map(move |kx| (ky, kx)));
        let inside =
            taps.filter_map(|(ky, kx)| Some((g.at(0, at[2], ky, lengths[0])?, g.at(1, at[3], kx, lengths[1])?)));
        inside.map(|(iy, ix)| x[[at[0], at[1], iy, ix]]).fold(f64::NEG_INFINITY, f64::max)
    });
    back(y, rank)
}

pub(crate) fn average_pool(x: &Array, windows: &AverageWindows) -> Array {
    let rank = x.ndim();
    let x = two(x);
    // Along each axis: first and last element, which may lie in the padding, and how many are counted.
    let axis = |axis: usize| -> Vec<(i64, i64, i64)> {
        let n = x.shape()[2 + axis] as i64;
        match windows {
            AverageWindows::Sliding { window, ceil_mode, count_include_pad } => {
                let g = Geometry::of(window);
                let window = |o: usize| {
                    let first = o as i64 * g.stride[axis] - g.before[axis];
                    let end = (first + g.size[axis]).min(n + g.after[axis]);
                    let inside = end.min(n) - first.max(0);
                    (first, end, if *count_include_pad { end - first } else { inside })
                };
                (0..g.outputs(axis, n as usize, *ceil_mode)).map(window).collect()
            }
            AverageWindows::Adaptive { output } => {
                let outputs = if output.len() == 1 { [1, output[0]][axis] } else { output[axis] } as i64;
                let window = |o: i64| {
                    let (first, end) = (o * n / outputs, ((o + 1) * n + outputs - 1) / outputs);
                    (first, end, end - first)
                };
                (0..outputs).map(window).collect()
            }
            other => panic!("{other:?}"),
        }
    };
    let [rows, columns] = [axis(0), axis(1)];
    let y = Array::from_shape_fn(IxDyn(&[x.shape()[0], x.shape()[1], rows.len(), columns.len()]), |at| {
        let ((top, bottom, height), (left, right, width)) = (rows[at[2]], columns[at[3]]);
        let mut sum = 0.0;
        for (iy, ix) in (top.max(0)..bottom).flat_map(|iy| (left.max(0)..right).map(move |ix| (iy, ix))) {
            sum += x.get(IxDyn(&[at[0], at[1], iy as usize, ix as usize])).copied().unwrap_or(0.0);
        }
        sum / (height * width) as f64
    });
    back(y, rank)
}

/// Weighted sums of the two nearest elements along each axis.
pub(crate) fn resize_linear(x: &Array, grid: &ResizeGrid) -> Array {
    let mut y = x.clone();
    for (at, &outputs) in grid.output.iter().enumerate() {
        let axis = ndarray::Axis(2 + at);
        let (n, out) = (y.len_of(axis) as f64, outputs as f64);
        let lines = (0..outputs).map(|o| {
            let position = match grid.coordinates {
                ResizeCoordinates::HalfPixel => (o as f64 + 0.5) * (n / out) - 0.5,
                ResizeCoordinates::AlignCorners if outputs == 1 => 0.0,
                ResizeCoordinates::AlignCorners => o as f64 * ((n - 1.0) / (out - 1.0)),
                ResizeCoordinates::Asymmetric => o as f64 * (n / out),
                other => panic!("{other:?}"),
            };
            let position = position.clamp(0.0, n - 1.0);
            let (first, share) = (position.floor(), position.fract());
            let line = |at: f64| y.index_axis(axis, at.min(n - 1.0) as usize).to_owned();
            line(first) * (1.0 - share) + line(first + 1.0) * share
        });
        let lines: Vec<_> = lines.collect();
        let views: Vec<_> = lines.iter().map(|line| line.view()).collect();
        y = ndarray::stack(axis, &views).expect("lines of one shape");
    }
    y
}
