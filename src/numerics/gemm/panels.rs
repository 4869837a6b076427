//! Float products with a weight that is packed once, `y[m, n] = x[m, k] · weight[n, k]ᵀ + bias[n]`. Sums run over the inner dimension in order.

use std::cell::Cell;
use std::ops::Range;

use super::after::After;
use super::lanes::{
    Ahead, InTiles, Lanes, MOST_LANES, Results, VECTORS, floats, lanes_of_processor, tile, vectors, with_lanes,
};
use super::strided::{Strided, pack};
use super::tasks::{Division, Task};
use crate::values::pages::Pages;

/// Rows of the largest tile.
const ROWS: usize = 8;
/// Features that are multiplied at a time: with so many a panel stays in an L1 cache for all rows of a task.
const FEATURES: usize = 1 << 8;
/// Channels for which it is worth to copy so many features of the rows.
const WORTH_A_COPY: usize = 1 << 7;
/// Most rows of a task: so many features of them stay in an L2 cache.
const TASK_ROWS: usize = 1 << 7;
/// Bytes that a tile asks for with each feature, at most: one line of a cache.
const MOST_AHEAD: usize = 64;
/// Multiply-adds that one thread computes sooner than it wakes another.
const ALONE: usize = 1 << 21;

thread_local! {
    /// The memory of the last task of this thread: fresh memory would cost page faults.
    static SCRATCH: Cell<Scratch> = const { Cell::new(Scratch { copy: Vec::new(), starts: Vec::new(), runs: Vec::new() }) };
}

/// Memory of a task.
#[derive(Default)]
struct Scratch {
    /// Some features of the rows, one row behind the other: where rows are far apart, they share few lines of a cache.
    copy: Vec<f32>,
    /// Where the rows begin.
    starts: Vec<usize>,
    /// The runs of some features.
    runs: Vec<Range<usize>>,
}

/// Rows of the left factor inside of a slice: those of a matrix, or the pixels under each place of a window.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'r> {
    pub(crate) data: &'r [f32],
    /// Where a row begins.
    pub(crate) start: &'r (dyn Fn(usize) -> usize + Sync),
    /// The features of a row, as runs of neighbours, counted from where the row begins.
    pub(crate) runs: &'r [Range<usize>],
}

impl Rows<'_> {
    /// Finds the runs of some features.
    fn runs_of(&self, runs: &mut Vec<Range<usize>>, features: &Range<usize>) {
        runs.clear();
        let mut first = 0;
        for run in self.runs {
            // Features of the run.
            let [start, end] = [features.start, features.end].map(|at| at.clamp(first, first + run.len()) - first);
            if start < end {
                runs.push(run.start + start..run.start + end);
            }
            first += run.len();
        }
    }
}

/// A line of a cache: loads across two lines take twice as long.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// The parts of the features that are multiplied at a time, of about the same size, in whole lines of a cache: at least one, since without
/// features there is a bias all the same.
fn parts_of(k: usize) -> impl Iterator<Item = Range<usize>> {
    let part = features_of_part(k);
    (0..k.max(1)).step_by(part).map(move |start| start..k.min(start + part))
}

/// The features of each part but the last.
fn features_of_part(k: usize) -> usize {
    k.div_ceil(k.div_ceil(FEATURES).max(1)).next_multiple_of(16).max(16)
}

/// A weight `[n, k]` in panels of channels, one behind the other for each part of the features: `[parts][panels][features][width]`.
#[derive(Debug)]
pub(crate) struct Panels {
    n: usize,
    k: usize,
    width: usize,
    weight: Pages<Line>,
}

impl Panels {
    /// Packs `weight[n, k]`, row-major.
    pub(super) fn new(weight: &[f32], n: usize, k: usize) -> Self {
        let (width, mut panels) = (VECTORS * lanes_of_processor(), Vec::new());
        let padded = n.next_multiple_of(width);
        let mut lines = Pages::<Line>::zeroed((padded * k).div_ceil(16));
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

    /// Computes the product with the rows of a matrix `x[m, k]`.
    pub(super) fn product(&self, y: &mut [f32], x: &[f32], m: usize, bias: Option<&[f32]>, after: After<'_, f32>) {
        let (k, start) = (self.k, |row| row * self.k);
        self.product_of(y, Rows { data: x, start: &start, runs: std::slice::from_ref(&(0..k)) }, m, bias, after);
    }

    /// Computes the product with `m` rows.
    pub(super) fn product_of(
        &self,
        y: &mut [f32],
        rows: Rows<'_>,
        m: usize,
        bias: Option<&[f32]>,
        after: After<'_, f32>,
    ) {
        let left = rows;
        let Self { n, k, width, ref weight } = *self;
        let weight: &[f32] = bytemuck::must_cast_slice(weight);
        let division = Division { m, n, k, block: width, tile_rows: ROWS, task_rows: TASK_ROWS, alone: ALONE };
        division.run(y, after, |Task { rows, blocks }, y| {
            let (first, cols) = (blocks.start * width, n.min(blocks.end * width) - blocks.start * width);
            let mut scratch = SCRATCH.take();
            scratch.starts.clear();
            scratch.starts.extend(rows.map(left.start));
            let (padded, bias) = (n.next_multiple_of(width), bias.map(|bias| &bias[first..]));
            with_lanes(Part { y, left, scratch: &mut scratch, weight, padded, first, cols, k, bias });
            SCRATCH.set(scratch);
        });
    }
}

/// Some channels of some rows.
struct Part<'p> {
    y: &'p mut [f32],
    left: Rows<'p>,
    scratch: &'p mut Scratch,
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
    /// Adds the products of some features with `HEIGHT` rows of a panel, from channel `first` on, as tile `at` of so many.
    #[inline(always)]
    fn tile<const HEIGHT: usize>(
        &mut self,
        lanes: impl Lanes,
        row: usize,
        (at, tiles): (usize, usize),
        first: usize,
        features: &Range<usize>,
    ) {
        let (cols, k, width) = (self.cols, self.k, VECTORS * lanes.len());
        let Scratch { copy, starts, runs } = &*self.scratch;
        let of_copy = 0..features.len();
        let (left, starts, runs): (_, [usize; HEIGHT], _) = match copy.is_empty() {
            true => (self.left.data, std::array::from_fn(|at| starts[row + at]), &runs[..]),
            false => (&copy[..], std::array::from_fn(|at| (row + at) * of_copy.len()), std::slice::from_ref(&of_copy)),
        };
        let panel = features.start * self.padded + (self.first + first) * features.len();
        let next = match first + width < cols {
            true => panel + features.len() * width,
            false => features.end * self.padded + self.first * features_of_part(k).min(k - features.end),
        };
        let (weight, next) = (&self.weight[panel..][..features.len() * width], &self.weight[next..]);
        // Each tile of the panel asks for its share of the next one.
        let step = (width * size_of::<f32>()).div_ceil(tiles).min(MOST_AHEAD);
        let from = next.get(next.len().min(weight.len()) * at / tiles..).unwrap_or(&[]);
        let columns = width.min(cols - first);
        let bias = self.bias.filter(|_| features.end == k).map(|bias| &bias[first..][..columns]);
        let results = Sums { y: &mut self.y[row * cols + first..], cols, columns, goes_on: features.start > 0, bias };
        tile::<HEIGHT>(lanes, (left, starts, runs), weight, Some(Ahead { from, step }), results);
    }
}

/// The heights of the tiles that make up `rows` rows, of at most `most`, 4 or 8. A processor multiplies four rows in the time of one, since it
/// waits for each sum, and five rows or more take as long as they are many.
fn heights(rows: usize, most: usize) -> impl Iterator<Item = usize> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let height = match left {
            0 => return None,
            9 if most == 8 => 4,
            5 | 10 if most == 8 => 5,
            _ => [most, 4, 2, 1].into_iter().find(|&height| height <= left.min(most))?,
        };
        left -= height;
        Some(height)
    })
}

/// Some columns of rows that are `cols` long.
struct Sums<'y> {
    y: &'y mut [f32],
    cols: usize,
    columns: usize,
    /// Whether there are sums of features before.
    goes_on: bool,
    /// The bias, behind the last features.
    bias: Option<&'y [f32]>,
}

impl Results for Sums<'_> {
    #[inline(always)]
    fn begin<L: Lanes>(&self, lanes: L, row: usize) -> Option<[L::Vector; VECTORS]> {
        if !self.goes_on {
            return None;
        }
        let y = &self.y[row * self.cols..][..self.columns];
        if y.len() == VECTORS * lanes.len() {
            return Some(vectors(lanes, y));
        }
        let mut floats = [0f32; VECTORS * MOST_LANES];
        floats[..y.len()].copy_from_slice(y);
        Some(vectors(lanes, &floats))
    }

    #[inline(always)]
    fn store<L: Lanes>(&mut self, lanes: L, row: usize, mut sums: [L::Vector; VECTORS]) {
        let y = &mut self.y[row * self.cols..][..self.columns];
        if y.len() == VECTORS * lanes.len() {
            if let Some(bias) = self.bias {
                let bias = vectors(lanes, bias);
                sums = std::array::from_fn(|vector| lanes.mul_add(1.0, bias[vector], sums[vector]));
            }
            for (sums, y) in sums.into_iter().zip(y.chunks_exact_mut(lanes.len())) {
                lanes.store(sums, y);
            }
            return;
        }
        let sums = floats(lanes, sums);
        match self.bias {
            Some(bias) => y.iter_mut().zip(sums).zip(bias).for_each(|((y, sum), bias)| *y = sum + bias),
            None => y.copy_from_slice(&sums[..y.len()]),
        }
    }
}

impl InTiles for Part<'_> {
    #[inline(always)]
    fn run<const ROWS: usize>(mut self, lanes: impl Lanes) {
        let rows = self.y.len() / self.cols;
        let tiles = heights(rows, ROWS).count();
        for features in parts_of(self.k) {
            let Scratch { copy, starts, runs } = &mut *self.scratch;
            self.left.runs_of(runs, &features);
            copy.clear();
            // Windows overlap: their rows share lines as they are.
            if features.len() < self.k && self.cols >= WORTH_A_COPY && self.left.runs.len() == 1 {
                for start in starts {
                    runs.iter().for_each(|run| copy.extend_from_slice(&self.left.data[*start..][run.clone()]));
                }
            }
            for first in (0..self.cols).step_by(VECTORS * lanes.len()) {
                let mut row = 0;
                for (at, height) in heights(rows, ROWS).enumerate() {
                    let at = (at, tiles);
                    match height {
                        height if height == ROWS => self.tile::<ROWS>(lanes, row, at, first, &features),
                        5 if ROWS > 5 => self.tile::<5>(lanes, row, at, first, &features),
                        4 if ROWS > 4 => self.tile::<4>(lanes, row, at, first, &features),
                        2 => self.tile::<2>(lanes, row, at, first, &features),
                        _ => self.tile::<1>(lanes, row, at, first, &features),
                    }
                    row += height;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heights_are_all_rows_and_few_tiles_of_few_rows() {
        for most in [4, 8] {
            for rows in 0..200 {
                let heights: Vec<usize> = heights(rows, most).collect();
                assert_eq!(heights.iter().sum::<usize>(), rows, "{heights:?}");
                assert!(heights.iter().all(|height| [1, 2, 4, 5, 8].contains(height) && *height <= most));
                // In fours of rows, what tiles take.
                let time = heights.iter().map(|&height| height.max(4)).sum::<usize>();
                assert!(time <= rows + 5, "{rows} rows take {time}: {heights:?}");
            }
        }
        assert_eq!(heights(49, 8).collect::<Vec<_>>(), [8, 8, 8, 8, 8, 4, 5]);
    }

    /// All features once, in parts of about the same size.
    #[test]
    fn parts_are_all_features() {
        for k in [1, 15, 16, 147, 255, 256, 257, 576, 1000, 1152, 4608] {
            let parts: Vec<_> = parts_of(k).collect();
            assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..k).collect::<Vec<_>>(), "{k}");
            assert!(parts.iter().all(|part| part.len() <= FEATURES), "{parts:?}");
            assert_eq!(parts.len(), k.div_ceil(FEATURES), "{parts:?}");
        }
        assert_eq!(parts_of(0).map(|part| part.len()).collect::<Vec<_>>(), [0]);
    }
}
