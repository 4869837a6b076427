//! The tasks of a product, which threads run: ranges of rows, or of blocks of channels where there are too few rows for all threads.

use std::ops::Range;

use super::after::After;
use crate::parallel::*;

/// Up to this many rows, tasks split the channels instead of the rows; and up to so many if the weight is large, since each task reads all
/// weights of its channels.
const FEW_ROWS: usize = 16;
const FEW_ROWS_OF_LARGE: usize = 64;
const LARGE: usize = 1 << 18;

/// The part of a product that one thread computes.
pub(crate) struct Task {
    pub(crate) rows: Range<usize>,
    /// Blocks of channels.
    pub(crate) blocks: Range<usize>,
}

/// The sizes of a product, and how it is divided.
pub(crate) struct Division {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Channels of a block; the last block may have fewer.
    pub(crate) block: usize,
    /// Rows of a tile, and the most rows of a task, a multiple of that.
    pub(crate) tile_rows: usize,
    pub(crate) task_rows: usize,
    /// Multiply-adds that one thread computes sooner than it wakes another.
    pub(crate) alone: usize,
}

/// The same within a region, whose other threads look for work.
pub(crate) fn alone_now(alone: usize) -> usize {
    if is_awake() { alone >> 4 } else { alone }
}

impl Division {
    /// Calls `run(task, y)` for each task, and `after` it. `y` holds the channels of the task's blocks only.
    pub(crate) fn run<T>(&self, y: &mut [T], after: After<'_, T>, run: impl Fn(Task, &mut [T]) + Sync)
    where
        T: Copy + Default + Send,
    {
        let Self { m, n, k, block, tile_rows, task_rows, alone } = *self;
        let (blocks, threads) = (n.div_ceil(block), current_num_threads());
        if y.is_empty() {
            return;
        }
        let run = |task: Task, y: &mut [T]| {
            let (row, col) = (task.rows.start, task.blocks.start * block);
            let cols = n.min(task.blocks.end * block) - col;
            run(task, y);
            if let Some(after) = after {
                after(row, col, cols, y);
            }
        };
        if threads == 1 || m.saturating_mul(n).saturating_mul(k) <= alone_now(alone) {
            for rows in shares(m, 1, task_rows, tile_rows) {
                let y = &mut y[rows.start * n..rows.end * n];
                run(Task { rows, blocks: 0..blocks }, y);
            }
            return;
        }
        let few = if n * k > LARGE { FEW_ROWS_OF_LARGE } else { FEW_ROWS };
        let has_rows = m > few && m.div_ceil(tile_rows) >= threads.min(blocks);
        if has_rows || blocks == 1 {
            let mut left = y;
            let tasks = shares(m, threads, task_rows, tile_rows).map(|rows| {
                let (y, rest) = std::mem::take(&mut left).split_at_mut(rows.len() * n);
                left = rest;
                (rows, y)
            });
            let tasks: Vec<_> = tasks.collect();
            return tasks.into_par_iter().for_each(|(rows, y)| run(Task { rows, blocks: 0..blocks }, y));
        }
        let share = blocks.div_ceil(threads);
        let blocks_of = |at: usize| at * share..blocks.min((at + 1) * share);
        if m == 1 {
            let tasks = y.par_chunks_mut(share * block).enumerate();
            return tasks.for_each(|(at, y)| run(Task { rows: 0..1, blocks: blocks_of(at) }, y));
        }
        // The channels of a task are not contiguous in `y`, so tasks write into buffers.
        let parts: Vec<(usize, Vec<T>)> = (0..blocks.div_ceil(share))
            .into_par_iter()
            .map(|at| {
                let blocks = blocks_of(at);
                let cols = n.min(blocks.end * block) - blocks.start * block;
                let mut part = vec![T::default(); m * cols];
                run(Task { rows: 0..m, blocks }, &mut part);
                (at * share * block, part)
            })
            .collect();
        for (first, part) in parts {
            let cols = part.len() / m;
            for (y, part) in y.chunks_exact_mut(n).zip(part.chunks_exact(cols)) {
                y[first..][..cols].copy_from_slice(part);
            }
        }
    }
}

/// The heights of the tiles that make up `rows` rows, in order: as many of the largest as fit, then smaller ones.
pub(crate) fn tiles(rows: usize) -> impl Iterator<Item = usize> {
    let mut left = rows;
    std::iter::from_fn(move || {
        let tile = [6, 4, 2, 1].into_iter().find(|&tile| tile <= left)?;
        left -= tile;
        Some(tile)
    })
}

/// Splits `m` rows into tasks of at most about `most` rows. Every thread gets the same number of tasks, and tasks have about the
/// same number of tiles.
fn shares(m: usize, threads: usize, most: usize, tile_rows: usize) -> impl Iterator<Item = Range<usize>> {
    let tiles = m.div_ceil(tile_rows);
    let tasks = threads * m.div_ceil(threads * most);
    let first = move |task: usize| m.min(task * tiles / tasks * tile_rows);
    (0..tasks).map(move |task| first(task)..first(task + 1)).filter(|rows| !rows.is_empty())
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "threads")]
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn shares_are_all_rows_once_and_even() {
        for (m, threads, most) in [(1, 2, 12), (17, 2, 12), (512, 2, 84), (512, 2, 336), (513, 3, 96), (5000, 8, 510)] {
            let shares: Vec<_> = shares(m, threads, most, 6).collect();
            let rows: Vec<usize> = shares.iter().cloned().flatten().collect();
            assert_eq!(rows, (0..m).collect::<Vec<_>>(), "{m} rows, {threads} threads");
            let tiles = shares.iter().map(|rows| rows.len().div_ceil(6));
            let (least, largest) = (tiles.clone().min(), tiles.max());
            assert!(largest <= least.map(|least| least + 1), "{least:?} to {largest:?} tiles of {m} rows");
            assert!(shares.iter().all(|rows| rows.len() <= most + 6), "{shares:?} of at most {most}");
        }
    }

    /// Every element is in one task, with the channels of its blocks, whatever the number of threads; and all threads have tasks.
    #[cfg(feature = "threads")]
    #[test]
    fn tasks_cover_every_element_once() {
        for threads in [1, 2, 3, 5, 40] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            for (m, n, k) in
                [(1, 4099, 1024), (1, 5, 3), (3, 4099, 1024), (16, 640, 1000), (17, 300, 4000), (100, 70, 5000)]
            {
                let (mut y, tasks) = (vec![0usize; m * n], AtomicUsize::new(0));
                let after = |row: usize, col: usize, cols: usize, y: &mut [usize]| {
                    for (at, y) in y.iter_mut().enumerate() {
                        *y = *y * 2 + (row + at / cols) * n + col + at % cols;
                    }
                };
                let division = Division { m, n, k, block: 64, tile_rows: 6, task_rows: 12, alone: 1 << 21 };
                pool.install(|| {
                    division.run(&mut y, Some(&after), |Task { rows, blocks }, y| {
                        tasks.fetch_add(1, Ordering::Relaxed);
                        let cols = blocks.start * 64..n.min(blocks.end * 64);
                        for (row, y) in rows.zip(y.chunks_exact_mut(cols.len())) {
                            cols.clone().zip(y).for_each(|(col, y)| *y += row * n + col + 1);
                        }
                    });
                });
                assert!(y.iter().enumerate().all(|(at, &y)| y == 3 * at + 2), "{threads} threads, {m} x {n} x {k}");
                let (tasks, possible) = (tasks.into_inner(), threads.min(n.div_ceil(64).max(m.div_ceil(6))));
                assert!(
                    m * n * k <= 1 << 21 || 2 * tasks >= possible,
                    "{tasks} tasks of {m} x {n} x {k} for {threads} threads"
                );
            }
        }
    }
}
