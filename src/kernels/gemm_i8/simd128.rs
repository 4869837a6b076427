//! The exact int8 product on WebAssembly's vectors of 128 bits: tiles of sums that stay in registers.
//!
//! int8 values are widened to i16, since `i32x4.dot_i16x8_s`, which adds two products of i16 into i32, is exact for all of them. The
//! relaxed dot product of int8 multiplies twice as many, but is exact for weights of 7 bits only: whether it takes a negative weight for
//! a u8, and saturates sums of 16 bits, depends on the processor.
//!
//! Weights are stored as panels of [`COLS`] channels, with pairs of features side by side. A module has these instructions or does not
//! load, so that there is nothing to ask at run time.

use std::arch::wasm32::{
    i16x8_extend_high_i8x16, i16x8_extend_low_i8x16, i32x4_add, i32x4_dot_i16x8, i32x4_splat, v128,
};

use super::pairs::panels;
use super::{ALONE, Activations};
use crate::numerics::gemm::After;
use crate::numerics::gemm::tasks::{Division, Task, tiles};
use crate::parallel::*;
use crate::values::pages::Pages;

/// Channels of a panel: their sums fill two registers.
const COLS: usize = 8;
/// Rows of the largest tile: with [`COLS`] it fills twelve of the sixteen registers of x86 with sums.
const ROWS: usize = 6;
/// Largest size of the widened values of a task: they stay in an L2 cache.
const TASK_BYTES: usize = 1 << 18;

/// The sums of a row and a panel.
type Sums = [v128; 2];

/// Whether the module has vectors.
pub(super) fn available() -> bool {
    true
}

/// The weights of a pair of features and a panel, `[COLS][2]`.
trait Pair: Copy + Sync {
    fn widened(self) -> [v128; 2];
}

impl Pair for [i8; 2 * COLS] {
    #[inline(always)]
    fn widened(self) -> [v128; 2] {
        let bytes = bytemuck::must_cast(self);
        [i16x8_extend_low_i8x16(bytes), i16x8_extend_high_i8x16(bytes)]
    }
}

/// Factors of 16 bits need no widening: the product of one and an int8 value has 23 bits.
impl Pair for [i16; 2 * COLS] {
    #[inline(always)]
    fn widened(self) -> [v128; 2] {
        bytemuck::must_cast(self)
    }
}

/// A weight `[n, k]` in panels.
pub(super) struct Panels {
    n: usize,
    k: usize,
    /// Weights `[n / COLS][k / 2][COLS][2]`, padded with zeros.
    weights: Weights,
}

enum Weights {
    Int8(Pages<[i8; 2 * COLS]>),
    Int16(Pages<[i16; 2 * COLS]>),
}

impl Panels {
    /// Packs `weight[n, k]`, row-major.
    pub(super) fn new(weight: &[i8], n: usize, k: usize) -> Self {
        Self { n, k, weights: Weights::Int8(panels(weight, n, k, k.div_ceil(2))) }
    }

    /// Packs factors `[n, k]` of 16 bits, row-major.
    pub(super) fn of_16_bits(factors: &[i16], n: usize, k: usize) -> Self {
        Self { n, k, weights: Weights::Int16(panels(factors, n, k, k.div_ceil(2))) }
    }

    /// Calls `finish(row, channel, y, sums)` with the sums `Σ_k x[m, k] · w[n, k]`, wrapping, of consecutive channels of each row,
    /// from `channel` on, and their part of `y[m, n]`.
    pub(super) fn product<T, F>(&self, y: &mut [T], x: Activations<'_>, m: usize, finish: &F, after: After<'_, T>)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        let (n, k) = (self.n, self.k);
        let task_rows = (TASK_BYTES / (2 * k).max(1) / ROWS * ROWS).clamp(2 * ROWS, 512 / ROWS * ROWS);
        let division = Division { m, n, k, block: COLS, tile_rows: ROWS, task_rows, alone: ALONE };
        division.run(y, after, |task, y| {
            let x = x.with_rows(task.rows.clone(), k, |x| widen(x, task.rows.len(), k));
            match &self.weights {
                Weights::Int8(weights) => self.task(task, weights, &x, y, finish),
                Weights::Int16(weights) => self.task(task, weights, &x, y, finish),
            }
        });
    }

    /// Runs one task with its widened activations. `y` holds the channels of the task's panels only.
    fn task<T: Copy>(
        &self,
        task: Task,
        weights: &[impl Pair],
        x: &[i32],
        y: &mut [T],
        finish: &impl Fn(usize, usize, &mut [T], &[i32]),
    ) {
        let pairs = self.k.div_ceil(2);
        let first_col = task.blocks.start * COLS;
        let stride = self.n.min(task.blocks.end * COLS) - first_col;
        let mut sums = [[0; COLS]; ROWS];
        for panel in task.blocks {
            let weights = &weights[panel * pairs..][..pairs];
            let (first, mut at) = (panel * COLS, 0);
            let (col, width) = (first - first_col, COLS.min(self.n - first));
            for rows in tiles(task.rows.len()) {
                let sums = &mut sums[..rows];
                let x = &x[at * pairs..][..rows * pairs];
                match rows {
                    6 => tile::<6>(sums, x, weights),
                    4 => tile::<4>(sums, x, weights),
                    2 => tile::<2>(sums, x, weights),
                    _ => tile::<1>(sums, x, weights),
                }
                for (row, sums) in sums.iter().enumerate() {
                    let y = &mut y[(at + row) * stride + col..][..width];
                    finish(task.rows.start + at + row, first, y, &sums[..width]);
                }
                at += rows;
            }
        }
    }
}

/// Widens `x[rows, k]` to pairs of i16, tile by tile, `[tile][k / 2][row of the tile]`, padded with zeros.
fn widen(x: &[i8], rows: usize, k: usize) -> Vec<i32> {
    let pairs = k.div_ceil(2);
    let mut widened = vec![0; rows * pairs];
    if pairs == 0 {
        return widened;
    }
    let mut at = 0;
    for tile in tiles(rows) {
        let widened = &mut widened[at * pairs..][..tile * pairs];
        for row in 0..tile {
            let (whole, rest) = x[(at + row) * k..][..k].as_chunks();
            let pairs = whole.iter().copied().chain(rest.first().map(|&last| [last, 0]));
            for (widened, [first, second]) in widened[row..].iter_mut().step_by(tile).zip(pairs) {
                *widened = bytemuck::must_cast([i16::from(first), i16::from(second)]);
            }
        }
        at += tile;
    }
    widened
}

/// The products of `M` rows, at most [`ROWS`], and a panel.
fn tile<const M: usize>(sums: &mut [[i32; COLS]], x: &[i32], weights: &[impl Pair]) {
    let mut acc: [Sums; M] = [[i32x4_splat(0); 2]; M];
    for (x, weights) in x.as_chunks::<M>().0.iter().zip(weights) {
        let w = weights.widened();
        // Not a loop, since in small code, as a page has it, loops stay loops, and their sums in memory.
        if M > 0 {
            add(&mut acc[0], x[0], w);
        }
        if M > 1 {
            add(&mut acc[1], x[1], w);
        }
        if M > 2 {
            add(&mut acc[2], x[2], w);
        }
        if M > 3 {
            add(&mut acc[3], x[3], w);
        }
        if M > 4 {
            add(&mut acc[4], x[4], w);
        }
        if M > 5 {
            add(&mut acc[5], x[5], w);
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        *sums = bytemuck::must_cast(acc);
    }
}

/// Adds the products of a pair of features of one row.
#[inline(always)]
fn add(acc: &mut Sums, x: i32, w: [v128; 2]) {
    let x = i32x4_splat(x);
    *acc = [i32x4_add(acc[0], i32x4_dot_i16x8(x, w[0])), i32x4_add(acc[1], i32x4_dot_i16x8(x, w[1]))];
}
