//! Float products with a weight that is packed once, `y[m, n] = x[m, k] · weight[n, k]ᵀ + bias[n]`. Sums run over the inner dimension in order.

use std::cell::Cell;
use std::ops::Range;

use super::lanes::{InTiles, Lanes, VECTORS, lanes_of_processor, tile, with_lanes};
use super::strided::{Strided, pack};
use super::tasks::{Division, Task};

/// Rows of the largest tile.
const ROWS: usize = 8;
/// Features that are multiplied at a time: with so many a panel stays in an L1 cache for all rows of a task.
const FEATURES: usize = 1 << 8;
/// Channels for which it is worth to copy so many features of the rows.
const WORTH_A_COPY: usize = 1 << 7;
/// Most rows of a task: so many features of them stay in an L2 cache.
const TASK_ROWS: usize = 1 << 7;
/// Multiply-adds that one thread computes sooner than it wakes another.
const ALONE: usize = 1 << 18;

thread_local! {
    /// The copy of the last task of this thread: fresh memory would cost page faults.
    static COPY: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// A line of a cache: loads across two lines take twice as long.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// The parts of the features that are multiplied at a time: at least one, since without features there is a bias all the same.
fn parts_of(k: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k.max(1)).step_by(FEATURES).map(move |start| start..k.min(start + FEATURES))
}

/// A weight `[n, k]` in panels of channels, one behind the other for each part of the features: `[parts][panels][features][width]`.
#[derive(Debug)]
pub(crate) struct Panels {
    n: usize,
    k: usize,
    width: usize,
    weight: Vec<Line>,
}

impl Panels {
    /// Packs `weight[n, k]`, row-major.
    pub(super) fn new(weight: &[f32], n: usize, k: usize) -> Self {
        let (width, mut panels) = (VECTORS * lanes_of_processor(), Vec::new());
        let padded = n.next_multiple_of(width);
        let mut lines = vec![Line([0.0; 16]); (padded * k).div_ceil(16)];
        let floats: &mut [f32] = bytemuck::must_cast_slice_mut(&mut lines);
        for features in parts_of(k) {
            let (data, length) = (weight.get(features.start..).unwrap_or(&[]), features.len());
            pack(&mut panels, width, Strided { data, row: 1, col: k }, [n, length], |v| v);
            floats[features.start * padded..][..panels.len()].copy_from_slice(&panels);
        }
        let weight = lines;
        Self { n, k, width, weight }
    }

    /// The numbers of channels and of features.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// Computes the product.
    pub(super) fn product(&self, y: &mut [f32], x: &[f32], m: usize, bias: Option<&[f32]>) {
        let Self { n, k, width, ref weight } = *self;
        let weight: &[f32] = bytemuck::must_cast_slice(weight);
        let division = Division { m, n, k, block: width, tile_rows: ROWS, task_rows: TASK_ROWS, alone: ALONE };
        division.run(y, None, |Task { rows, blocks }, y| {
            let (first, cols) = (blocks.start * width, n.min(blocks.end * width) - blocks.start * width);
            let (x, padded) = (&x[rows.start * k..rows.end * k], n.next_multiple_of(width));
            let mut copy = COPY.take();
            with_lanes(Part {
                y,
                x,
                copy: &mut copy,
                weight,
                padded,
                first,
                cols,
                k,
                bias: bias.map(|bias| &bias[first..]),
            });
            COPY.set(copy);
        });
    }
}

/// Some channels of some rows.
struct Part<'p> {
    y: &'p mut [f32],
    x: &'p [f32],
    /// Some features of the rows of `x`, one row behind the other: where rows are far apart, they share few lines of a cache.
    copy: &'p mut Vec<f32>,
    /// The whole weight, and its channels, padded to whole panels.
    weight: &'p [f32],
    padded: usize,
    /// The first channel, and their number.
    first: usize,
    cols: usize,
    k: usize,
    bias: Option<&'p [f32]>,
}

impl Part<'_> {
    /// Adds the products of some features with `HEIGHT` rows of a panel, from channel `first` on.
    #[inline(always)]
    fn tile<const HEIGHT: usize>(&mut self, lanes: impl Lanes, row: usize, first: usize, features: &Range<usize>) {
        let (cols, k, width) = (self.cols, self.k, VECTORS * lanes.len());
        let (x, stride) = match self.copy.is_empty() {
            true => (&self.x[features.start..], k),
            false => (&self.copy[..], features.len()),
        };
        let panel = features.start * self.padded + (self.first + first) * features.len();
        let columns = width.min(cols - first);
        let bias = self.bias.filter(|_| features.end == k).map(|bias| &bias[first..][..columns]);
        let y = Cell::from_mut(&mut *self.y).as_slice_of_cells();
        let of_row = |at: usize| &y[(row + at) * cols + first..][..columns];
        tile::<HEIGHT>(
            lanes,
            (&x[row * stride..], stride),
            (&self.weight[panel..][..features.len() * width], row == 0),
            features.len(),
            #[inline(always)]
            |at, sums| {
                let goes_on = features.start > 0;
                if goes_on {
                    sums.iter_mut().zip(of_row(at)).for_each(|(sum, y)| *sum = y.get());
                }
                goes_on
            },
            #[inline(always)]
            |at, sums| match bias {
                Some(bias) => {
                    for ((y, sum), bias) in of_row(at).iter().zip(sums).zip(bias) {
                        y.set(sum + bias);
                    }
                }
                None => of_row(at).iter().zip(sums).for_each(|(y, &sum)| y.set(sum)),
            },
        );
    }
}

impl InTiles for Part<'_> {
    #[inline(always)]
    fn run<const ROWS: usize>(mut self, lanes: impl Lanes) {
        let rows = self.y.len() / self.cols;
        for features in parts_of(self.k) {
            self.copy.clear();
            if features.len() < self.k && self.cols >= WORTH_A_COPY {
                self.x.chunks_exact(self.k).for_each(|x| self.copy.extend_from_slice(&x[features.clone()]));
            }
            for first in (0..self.cols).step_by(VECTORS * lanes.len()) {
                let mut row = 0;
                while row < rows {
                    match rows - row {
                        left if left >= ROWS => {
                            self.tile::<ROWS>(lanes, row, first, &features);
                            row += ROWS;
                        }
                        2.. => {
                            self.tile::<2>(lanes, row, first, &features);
                            row += 2;
                        }
                        _ => {
                            self.tile::<1>(lanes, row, first, &features);
                            row += 1;
                        }
                    }
                }
            }
        }
    }
}
