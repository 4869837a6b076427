//! The int8 product on processors with VNNI, whose `vpdpbusd` adds four products of u8 and int8 to an `i32` and saturates nothing.
//!
//! Activations become u8 by flipping their top bit, which adds 128; the caller subtracts 128 · Σw. Weights are stored as blocks of
//! [`COLS`] channels, groups of four features side by side. A tile of up to six rows and a block keeps its sums in registers: 24 of the 32
//! of AVX-512. AVX-VNNI has 16 registers of half the size, and takes a block in four parts.

// A call to a function that needs these instructions is unsafe. The only calls are below, after the check.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_dpbusd_avx_epi32, _mm256_set1_epi32, _mm256_setzero_si256, _mm512_dpbusd_epi32,
    _mm512_set1_epi32, _mm512_setzero_si512,
};
use std::cell::Cell;

use super::tasks::{Division, Task, tiles};
use crate::parallel::*;

/// Channels of a block.
const COLS: usize = 64;
/// Features of a group: their products with one channel are one 32-bit lane.
const GROUP: usize = 4;
/// Rows of the largest tile.
const ROWS: usize = 6;
/// Largest size of the activations of a task: with a block of weights they stay in an L2 cache.
const TASK_BYTES: usize = 1 << 18;

/// The weights of a block for one group of features, `[COLS][GROUP]`.
type Weights = [i8; COLS * GROUP];

/// The instructions of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vnni {
    Avx512,
    Avx,
}

impl Vnni {
    /// Whether this processor has them.
    pub(super) fn is_available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Self::Avx512 => has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni"),
            Self::Avx => has!("avx2") && has!("avxvnni"),
        }
    }
}

thread_local! {
    /// The activations of the last task of this thread: fresh memory would cost page faults.
    static FLIPPED: Cell<Vec<i32>> = const { Cell::new(Vec::new()) };
}

/// A weight `[n, k]` in blocks.
pub(super) struct Blocks {
    n: usize,
    k: usize,
    vnni: Vnni,
    /// Weights `[n / COLS][k / GROUP]`, padded with zeros.
    weights: Vec<Weights>,
}

impl Blocks {
    /// Packs `weight[n, k]`, row-major.
    ///
    /// # Panics
    /// Panics if the instructions are not available.
    pub(super) fn new(weight: &[i8], n: usize, k: usize, vnni: Vnni) -> Self {
        assert!(vnni.is_available(), "a product for {vnni:?} VNNI on a processor without it");
        let groups = k.div_ceil(GROUP);
        let mut weights = vec![[0; COLS * GROUP]; n.div_ceil(COLS) * groups];
        if groups > 0 {
            weights.par_chunks_exact_mut(groups).zip(weight.par_chunks(COLS * k)).for_each(|(block, weight)| {
                for (col, row) in weight.chunks_exact(k).enumerate() {
                    for (to, from) in block.iter_mut().zip(row.chunks(GROUP)) {
                        to[col * GROUP..][..from.len()].copy_from_slice(from);
                    }
                }
            });
        }
        Self { n, k, vnni, weights }
    }

    /// Calls `finish(row, channel, y, sums)` with the sums `Σ_k (x[m, k] + 128) · w[n, k]`, wrapping, of consecutive channels of each
    /// row, from `channel` on, and their part of `y[m, n]`.
    pub(super) fn product<T, F>(&self, y: &mut [T], x: &[i8], m: usize, finish: &F)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        let (n, k) = (self.n, self.k);
        let task_rows = (TASK_BYTES / k.max(1) / ROWS * ROWS).clamp(4 * ROWS, 512 / ROWS * ROWS);
        let division = Division { m, n, k, block: COLS, tile_rows: ROWS, task_rows };
        division.run(y, |task, y| {
            let mut flipped = FLIPPED.take();
            match self.vnni {
                // SAFETY: the functions need the instructions that `new` has checked, and nothing else.
                Vnni::Avx512 => unsafe { self.task_avx512(task, &mut flipped, x, y, finish) },
                // SAFETY: as above.
                Vnni::Avx => unsafe { self.task_avx(task, &mut flipped, x, y, finish) },
            }
            FLIPPED.set(flipped);
        });
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn task_avx512<T: Copy, F: Fn(usize, usize, &mut [T], &[i32])>(
        &self,
        task: Task,
        flipped: &mut Vec<i32>,
        x: &[i8],
        y: &mut [T],
        finish: &F,
    ) {
        let work = Work::new(self, &task, flipped, x);
        let mut sums = [[_mm512_setzero_si512(); 4]; ROWS];
        for block in task.blocks.clone() {
            let weights = &self.weights[block * work.groups..][..work.groups];
            let mut at = 0;
            for rows in tiles(task.rows.len()) {
                match rows {
                    6 => tile_avx512::<6>(&mut sums, work.rows(at), weights),
                    4 => tile_avx512::<4>(&mut sums, work.rows(at), weights),
                    2 => tile_avx512::<2>(&mut sums, work.rows(at), weights),
                    _ => tile_avx512::<1>(&mut sums, work.rows(at), weights),
                }
                work.finish(bytemuck::must_cast_slice(&sums[..rows]), block, at, y, finish);
                at += rows;
            }
        }
    }

    #[target_feature(enable = "avx2,avxvnni")]
    fn task_avx<T: Copy, F: Fn(usize, usize, &mut [T], &[i32])>(
        &self,
        task: Task,
        flipped: &mut Vec<i32>,
        x: &[i8],
        y: &mut [T],
        finish: &F,
    ) {
        let work = Work::new(self, &task, flipped, x);
        let mut sums = [[[_mm256_setzero_si256(); 2]; 4]; ROWS];
        for block in task.blocks.clone() {
            let weights = &self.weights[block * work.groups..][..work.groups];
            let mut at = 0;
            for rows in tiles(task.rows.len()) {
                match rows {
                    6 => tile_avx::<6>(&mut sums, work.rows(at), weights),
                    4 => tile_avx::<4>(&mut sums, work.rows(at), weights),
                    2 => tile_avx::<2>(&mut sums, work.rows(at), weights),
                    _ => tile_avx::<1>(&mut sums, work.rows(at), weights),
                }
                work.finish(bytemuck::must_cast_slice(&sums[..rows]), block, at, y, finish);
                at += rows;
            }
        }
    }
}

/// The activations of a task, and where its results belong.
struct Work<'t> {
    /// Activations `[rows][groups]`, of four features each.
    flipped: &'t [i32],
    groups: usize,
    first_row: usize,
    /// The first channel of the task's results, their number, and the number of all channels.
    first_col: usize,
    cols: usize,
    n: usize,
}

impl<'t> Work<'t> {
    #[inline(always)]
    fn new(blocks: &Blocks, task: &Task, flipped: &'t mut Vec<i32>, x: &[i8]) -> Self {
        let (n, k, groups) = (blocks.n, blocks.k, blocks.k.div_ceil(GROUP));
        let x = &x[task.rows.start * k..task.rows.end * k];
        flipped.resize(task.rows.len() * groups, 0);
        if k.is_multiple_of(GROUP) {
            let (x, _) = x.as_chunks::<GROUP>();
            for (flipped, x) in flipped.iter_mut().zip(x) {
                *flipped = flip(*x);
            }
        } else {
            for (flipped, x) in flipped.chunks_exact_mut(groups).zip(x.chunks_exact(k)) {
                let (whole, rest) = x.as_chunks::<GROUP>();
                for (flipped, x) in flipped.iter_mut().zip(whole) {
                    *flipped = flip(*x);
                }
                let mut last = [0; GROUP];
                last[..rest.len()].copy_from_slice(rest);
                flipped[groups - 1] = flip(last);
            }
        }
        let first_col = task.blocks.start * COLS;
        let cols = n.min(task.blocks.end * COLS) - first_col;
        Self { flipped, groups, first_row: task.rows.start, first_col, cols, n }
    }

    /// The activations of `M` rows from `first` on.
    #[inline(always)]
    fn rows<const M: usize>(&self, first: usize) -> [&'t [i32]; M] {
        std::array::from_fn(|row| &self.flipped[(first + row) * self.groups..][..self.groups])
    }

    /// Runs the epilogue of a tile whose first row is row `at` of the task.
    #[inline(always)]
    fn finish<T>(
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

/// Four int8 values as u8, 128 higher.
#[inline(always)]
fn flip(x: [i8; GROUP]) -> i32 {
    bytemuck::must_cast::<_, i32>(x) ^ 0x8080_8080_u32.cast_signed()
}

/// The products of `M` rows and a block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn tile_avx512<const M: usize>(sums: &mut [[__m512i; 4]; ROWS], rows: [&[i32]; M], weights: &[Weights]) {
    let rows = rows.map(|row| &row[..weights.len()]);
    let mut acc = [[_mm512_setzero_si512(); 4]; M];
    for (group, weights) in weights.iter().enumerate() {
        let w: &[[i8; COLS]; 4] = bytemuck::must_cast_ref(weights);
        let w: [__m512i; 4] = [0, 1, 2, 3].map(|part| bytemuck::must_cast(w[part]));
        for row in 0..M {
            let x = _mm512_set1_epi32(rows[row][group]);
            for part in 0..4 {
                acc[row][part] = _mm512_dpbusd_epi32(acc[row][part], x, w[part]);
            }
        }
    }
    sums[..M].copy_from_slice(&acc);
}

/// The products of `M` rows and a block, a quarter of its channels at a time.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
fn tile_avx<const M: usize>(sums: &mut [[[__m256i; 2]; 4]; ROWS], rows: [&[i32]; M], weights: &[Weights]) {
    let rows = rows.map(|row| &row[..weights.len()]);
    for part in 0..4 {
        let mut acc = [[_mm256_setzero_si256(); 2]; M];
        for (group, weights) in weights.iter().enumerate() {
            let w: &[[[i8; COLS / 2]; 2]; 4] = bytemuck::must_cast_ref(weights);
            let w: [__m256i; 2] = [0, 1].map(|half| bytemuck::must_cast(w[part][half]));
            for row in 0..M {
                let x = _mm256_set1_epi32(rows[row][group]);
                for half in 0..2 {
                    acc[row][half] = _mm256_dpbusd_avx_epi32(acc[row][half], x, w[half]);
                }
            }
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            sums[part] = acc;
        }
    }
}
