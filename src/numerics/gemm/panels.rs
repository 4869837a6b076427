//! Float products with a weight that is packed once, `y[m, n] = x[m, k] · weight[n, k]ᵀ + bias[n]`. Sums run over the inner dimension in order.

use super::lanes::{InTiles, Lanes, VECTORS, lanes_of_processor, tile, with_lanes};
use super::strided::{Strided, pack};
use super::tasks::{Division, Task};

/// Rows of the largest tile.
const ROWS: usize = 8;
/// Largest size of the activations of a task: with a panel of weights they stay in an L2 cache.
const TASK_BYTES: usize = 1 << 18;
/// Multiply-adds that one thread computes sooner than it wakes another.
const ALONE: usize = 1 << 18;
/// With more features, a panel does not stay in an L2 cache.
const MOST_FEATURES: usize = 1 << 12;

/// A weight `[n, k]` in panels of channels.
#[derive(Debug)]
pub(crate) struct Panels {
    n: usize,
    k: usize,
    width: usize,
    weight: Vec<f32>,
}

impl Panels {
    /// Packs `weight[n, k]`, row-major. `None` if it has too many features for these loops.
    pub(super) fn new(weight: &[f32], n: usize, k: usize) -> Option<Self> {
        let (width, mut panels) = (VECTORS * lanes_of_processor(), Vec::new());
        if k > MOST_FEATURES && n > 0 {
            return None;
        }
        pack(&mut panels, width, Strided { data: weight, row: 1, col: k }, [n, k], |v| v);
        Some(Self { n, k, width, weight: panels })
    }

    /// The numbers of channels and of features.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.n, self.k)
    }

    /// Computes the product.
    pub(super) fn product(&self, y: &mut [f32], x: &[f32], m: usize, bias: Option<&[f32]>) {
        let Self { n, k, width, ref weight } = *self;
        let task_rows = (TASK_BYTES / (4 * k.max(1)) / ROWS * ROWS).clamp(4 * ROWS, 512);
        let division = Division { m, n, k, block: width, tile_rows: ROWS, task_rows, alone: ALONE };
        division.run(y, None, |Task { rows, blocks }, y| {
            let (first, cols) = (blocks.start * width, n.min(blocks.end * width) - blocks.start * width);
            let (x, weight) = (&x[rows.start * k..rows.end * k], &weight[blocks.start * width * k..]);
            with_lanes(Part { y, x, weight, cols, k, bias: bias.map(|bias| &bias[first..]) });
        });
    }
}

/// Some channels of some rows.
struct Part<'p> {
    y: &'p mut [f32],
    x: &'p [f32],
    weight: &'p [f32],
    cols: usize,
    k: usize,
    bias: Option<&'p [f32]>,
}

impl Part<'_> {
    /// Computes `HEIGHT` rows of a panel from channel `first` on.
    #[inline(always)]
    fn tile<const HEIGHT: usize>(&mut self, lanes: impl Lanes, row: usize, first: usize) {
        let (cols, k, width) = (self.cols, self.k, VECTORS * lanes.len());
        let columns = width.min(cols - first);
        let bias = self.bias.map(|bias| &bias[first..][..columns]);
        let y = &mut *self.y;
        tile::<HEIGHT>(
            lanes,
            &self.x[row * k..],
            &self.weight[first * k..][..k * width],
            k,
            #[inline(always)]
            |at, sums| {
                let y = &mut y[(row + at) * cols + first..][..columns];
                match bias {
                    Some(bias) => {
                        for ((y, sum), bias) in y.iter_mut().zip(sums).zip(bias) {
                            *y = sum + bias;
                        }
                    }
                    None => y.copy_from_slice(&sums[..columns]),
                }
            },
        );
    }
}

impl InTiles for Part<'_> {
    #[inline(always)]
    fn run<const ROWS: usize>(mut self, lanes: impl Lanes) {
        let rows = self.y.len() / self.cols;
        for first in (0..self.cols).step_by(VECTORS * lanes.len()) {
            let mut row = 0;
            while row < rows {
                match rows - row {
                    left if left >= ROWS => {
                        self.tile::<ROWS>(lanes, row, first);
                        row += ROWS;
                    }
                    2.. => {
                        self.tile::<2>(lanes, row, first);
                        row += 2;
                    }
                    _ => {
                        self.tile::<1>(lanes, row, first);
                        row += 1;
                    }
                }
            }
        }
    }
}
