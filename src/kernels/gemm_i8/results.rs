//! Where the results of a task of blocks of 64 channels belong.

// The prefetch.
#![allow(unsafe_code)]

use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
use std::ops::Range;

use super::block::COLS;
use crate::numerics::gemm::tasks::Task;

/// Where the results of a task belong.
pub(super) struct Results {
    first_row: usize,
    /// The first channel of the task's results, their number, and the number of all channels.
    first_col: usize,
    cols: usize,
    n: usize,
}

impl Results {
    pub(super) fn new(n: usize, task: &Task) -> Self {
        let first_col = task.blocks.start * COLS;
        let cols = n.min(task.blocks.end * COLS) - first_col;
        Self { first_row: task.rows.start, first_col, cols, n }
    }

    /// Runs the epilogue of a tile whose first row is row `at` of the task.
    #[inline(always)]
    pub(super) fn finish<T>(
        &self,
        sums: &[[i32; COLS]],
        block: usize,
        at: usize,
        y: &mut [T],
        finish: &impl Fn(usize, usize, &mut [T], &[i32]),
    ) {
        let first = block * COLS;
        let (col, width) = (first - self.first_col, COLS.min(self.n - first));
        for (row, sums) in sums.iter().enumerate() {
            let y = &mut y[(at + row) * self.cols + col..];
            let row = self.first_row + at + row;
            // This branch has a length that the compiler knows.
            if width == COLS {
                finish(row, first, &mut y[..COLS], sums);
            } else {
                finish(row, first, &mut y[..width], &sums[..width]);
            }
        }
    }

    /// Asks for the lines of the cache to which a tile's results will be written: rows are far apart, so that no processor foresees them.
    #[inline(always)]
    pub(super) fn prefetch<T>(&self, block: usize, rows: Range<usize>, y: &[T]) {
        let first = block * COLS;
        let (col, width) = (first - self.first_col, COLS.min(self.n - first));
        for row in rows {
            let y = &y[row * self.cols + col..][..width];
            for line in (0..size_of_val(y)).step_by(64) {
                let at = y.as_ptr().cast::<i8>().wrapping_add(line);
                // SAFETY: a prefetch reads nothing that the program sees, and the address is one of `y`.
                unsafe { _mm_prefetch::<_MM_HINT_ET0>(at) };
            }
        }
    }
}
