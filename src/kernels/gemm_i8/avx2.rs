//! The exact int8 product on AVX2: tiles of sums that stay in registers.
//!
//! int8 values are widened to i16, since `vpmaddwd`, which adds two products of i16 into i32, is exact for all of them:
//! 2 · 128 · 128. The u8 · i8 instruction of this generation of processors multiplies twice as many, but saturates at 16 bits and
//! needs a second multiplication to reach 32: three instructions where this kernel takes four. On a Zen 3 core that is 92 against
//! 76 billion products a second, the price of being exact.
//!
//! Weights are stored as panels of [`COLS`] channels, with pairs of features side by side. A task widens one block of a panel into
//! the L1 cache and multiplies all of its rows with it.

// A call to a function that needs AVX2 is unsafe. The only call is below, after the check.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m256i, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_madd_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256,
};

use super::pairs::panels;
use super::{ALONE, Activations};
use crate::numerics::gemm::After;
use crate::numerics::gemm::tasks::{Division, Task, tiles};
use crate::values::pages::Pages;

/// Channels of a panel: their sums fill two registers.
const COLS: usize = 16;
/// Rows of the largest tile: with [`COLS`] it fills twelve of sixteen registers with sums.
const ROWS: usize = 6;
/// Pairs of features of a block, a multiple of [`GROUP`]. Widened, a block takes 12 KiB of an L1 cache of 32.
const PAIRS: usize = 192;
/// Consecutive pairs of one row that fill a register, so that rows are packed without moving single values.
const GROUP: usize = 8;
/// Largest size of the widened values of a task: they stay in an L2 cache of 512 KiB.
const TASK_BYTES: usize = 1 << 18;

/// The sums of a row and a panel.
type Sums = [__m256i; 2];

/// Whether this processor has AVX2.
pub(super) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

/// A weight `[n, k]` in panels.
pub(super) struct Panels {
    n: usize,
    k: usize,
    /// Weights `[n / COLS][pairs][COLS][2]`, padded with zeros.
    weights: Weights,
}

enum Weights {
    Int8(Pages<[i8; 2 * COLS]>),
    /// Factors of 16 bits need no widening: `vpmaddwd` is exact for a product of one with an int8 value.
    Int16(Pages<[i16; 2 * COLS]>),
}

impl Panels {
    /// Packs `weight[n, k]`, row-major.
    pub(super) fn new(weight: &[i8], n: usize, k: usize) -> Self {
        Self { n, k, weights: Weights::Int8(panels(weight, n, k, padded_pairs(k))) }
    }

    /// Packs factors `[n, k]` of 16 bits, row-major.
    pub(super) fn of_16_bits(factors: &[i16], n: usize, k: usize) -> Self {
        Self { n, k, weights: Weights::Int16(panels(factors, n, k, padded_pairs(k))) }
    }

    /// Calls `finish(row, channel, y, sums)` with the sums `Σ_k x[m, k] · w[n, k]`, wrapping, of consecutive channels of each row,
    /// from `channel` on, and their part of `y[m, n]`.
    ///
    /// # Panics
    /// Panics if the instructions are not [`available`].
    pub(super) fn product<T, F>(&self, y: &mut [T], x: Activations<'_>, m: usize, finish: &F, after: After<'_, T>)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        assert!(available(), "a product for AVX2 on a processor without it");
        let (n, k) = (self.n, self.k);
        let division = Division { m, n, k, block: COLS, tile_rows: ROWS, task_rows: task_rows(k), alone: ALONE };
        division.run(y, after, |task, y| {
            x.with_rows(task.rows.clone(), k, |x| {
                // SAFETY: the function needs AVX2, which the assertion above has checked, and nothing else.
                unsafe { self.task(task, x, y, finish) }
            });
        });
    }

    /// Runs one task with its activations. `y` holds the channels of the task's panels only.
    #[target_feature(enable = "avx2")]
    fn task<T: Copy, F: Fn(usize, usize, &mut [T], &[i32])>(&self, task: Task, x: &[i8], y: &mut [T], finish: &F) {
        let Task { rows, blocks: panels } = task;
        let pairs = padded_pairs(self.k);
        let first_col = panels.start * COLS;
        let stride = self.n.min(panels.end * COLS) - first_col;
        let x = pack(x, rows.len(), self.k);
        let mut sums = vec![[_mm256_setzero_si256(); 2]; rows.len()];
        let mut widened = [[_mm256_setzero_si256(); 2]; PAIRS];
        for panel in panels {
            sums.fill([_mm256_setzero_si256(); 2]);
            for done in (0..pairs).step_by(PAIRS) {
                let (first, length) = (panel * pairs + done, PAIRS.min(pairs - done));
                let widened = &mut widened[..length];
                match &self.weights {
                    Weights::Int8(weights) => widen(widened, &weights[first..][..length]),
                    Weights::Int16(weights) => {
                        let block = widened.iter_mut().zip(&weights[first..][..length]);
                        block.for_each(|(widened, pair)| *widened = bytemuck::must_cast(*pair));
                    }
                }
                let mut at = 0;
                for rows in tiles(rows.len()) {
                    let x = &x[(at * pairs + done * rows) / GROUP..][..length / GROUP * rows];
                    let sums = &mut sums[at..][..rows];
                    match rows {
                        6 => tile::<6>(sums, x, widened),
                        4 => tile::<4>(sums, x, widened),
                        2 => tile::<2>(sums, x, widened),
                        _ => tile::<1>(sums, x, widened),
                    }
                    at += rows;
                }
            }
            let col = panel * COLS - first_col;
            let width = COLS.min(stride - col);
            for ((row, y), sums) in rows.clone().zip(y.chunks_exact_mut(stride)).zip(&sums) {
                let sums: [i32; COLS] = bytemuck::must_cast(*sums);
                // This branch has a length that the compiler knows.
                if width == COLS {
                    finish(row, panel * COLS, &mut y[col..][..COLS], &sums);
                } else {
                    finish(row, panel * COLS, &mut y[col..][..width], &sums[..width]);
                }
            }
        }
    }
}

/// Largest number of rows of a task, a multiple of [`ROWS`].
fn task_rows(k: usize) -> usize {
    let rows = TASK_BYTES / (2 * k).max(1);
    (rows / ROWS * ROWS).clamp(2 * ROWS, 512 / ROWS * ROWS)
}

/// Number of pairs of features, rounded up to whole groups.
fn padded_pairs(k: usize) -> usize {
    k.div_ceil(2).next_multiple_of(GROUP)
}

/// Widens `x[rows, k]` to pairs of i16, tile by tile: `[tile][group][row of the tile][GROUP]`, padded with zeros.
#[target_feature(enable = "avx2")]
fn pack(x: &[i8], rows: usize, k: usize) -> Vec<[i32; GROUP]> {
    let groups = padded_pairs(k) / GROUP;
    let mut packed = vec![[0; GROUP]; rows * groups];
    let widened: &mut [[i16; 2 * GROUP]] = bytemuck::must_cast_slice_mut(&mut packed);
    let mut at = 0;
    for tile in tiles(rows) {
        let widened = &mut widened[at * groups..][..tile * groups];
        for row in 0..tile {
            let (whole, rest) = x[(at + row) * k..][..k].as_chunks::<{ 2 * GROUP }>();
            for (group, x) in whole.iter().enumerate() {
                widened[group * tile + row] = bytemuck::must_cast(_mm256_cvtepi8_epi16(bytemuck::must_cast(*x)));
            }
            if !rest.is_empty() {
                let last = &mut widened[whole.len() * tile + row];
                last.iter_mut().zip(rest).for_each(|(widened, &x)| *widened = x.into());
            }
        }
        at += tile;
    }
    packed
}

/// Widens a block of a panel to i16.
#[target_feature(enable = "avx2")]
fn widen(widened: &mut [Sums], block: &[[i8; 2 * COLS]]) {
    for (widened, pair) in widened.iter_mut().zip(block) {
        let [low, high]: [__m128i; 2] = bytemuck::must_cast(*pair);
        *widened = [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)];
    }
}

/// Adds the products of `M` rows and a block of a panel.
#[target_feature(enable = "avx2")]
fn tile<const M: usize>(sums: &mut [Sums], x: &[[i32; GROUP]], widened: &[Sums]) {
    let mut acc = [[_mm256_setzero_si256(); 2]; M];
    for (x, widened) in x.as_chunks::<M>().0.iter().zip(widened.as_chunks::<GROUP>().0) {
        for (pair, w) in widened.iter().enumerate() {
            for row in 0..M {
                let x = _mm256_set1_epi32(x[row][pair]);
                acc[row][0] = _mm256_add_epi32(acc[row][0], _mm256_madd_epi16(x, w[0]));
                acc[row][1] = _mm256_add_epi32(acc[row][1], _mm256_madd_epi16(x, w[1]));
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        *sums = [_mm256_add_epi32(sums[0], acc[0]), _mm256_add_epi32(sums[1], acc[1])];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_whole_tiles_that_fit() {
        for (k, rows) in [(0, 510), (1, 510), (384, 336), (1536, 84), (1 << 20, 12)] {
            assert_eq!(task_rows(k), rows, "k {k}");
        }
    }
}
