//! Where the results of a task of blocks of 64 channels belong.

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
}
