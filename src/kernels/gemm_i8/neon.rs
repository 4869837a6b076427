//! The int8 product on aarch64 processors with dot products (`sdot`) or matrix products (`smmla`) of int8, which add four or eight products
//! to an `i32` and saturate nothing.
//!
//! Both multiply int8 by int8, so that activations are read as they are. Weights are stored as panels of [`COLS`] channels, in steps of
//! [`FEATURES`] features. A tile of up to six rows and a panel keeps its sums in 24 of 32 registers. `sdot` multiplies four features of four
//! channels with those of one row, which it takes from a lane, and `smmla` eight features of two channels with those of two rows: for one
//! row, whose partner is zeros, it is no slower than `sdot`.
//!
//! Stable Rust has the names of these features, but not yet their functions, hence [`sdot`] and [`smmla`] in assembly.

// Functions that need these instructions are unsafe to call. The only calls are below, after the check.
#![allow(unsafe_code)]

use std::arch::aarch64::{int8x16_t, int32x4_t, vdupq_n_s32};
use std::arch::asm;
use std::cell::Cell;

use super::{ALONE, Activations};
use crate::numerics::gemm::After;
use crate::numerics::gemm::tasks::{Division, Task, tiles};
use crate::parallel::*;

/// Channels of a panel.
const COLS: usize = 16;
/// Features of a step.
const FEATURES: usize = 16;
/// Rows of the largest tile.
const ROWS: usize = 6;
/// Largest size of the activations of a task: with a panel of weights they stay in an L2 cache.
const TASK_BYTES: usize = 1 << 18;

/// The bytes of a register.
type Bytes = [i8; 16];
/// The weights of a step, in the order in which the instructions take them.
type Step = [Bytes; COLS * FEATURES / 16];

/// The instructions of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Neon {
    I8mm,
    Dotprod,
}

impl Neon {
    /// Whether this processor has them.
    pub(super) fn is_available(self) -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        // Lanes are counted from the first byte in memory.
        cfg!(target_endian = "little")
            && match self {
                Self::I8mm => has!("i8mm"),
                Self::Dotprod => has!("dotprod"),
            }
    }

    /// Features and channels that one instruction takes.
    fn shape(self) -> [usize; 2] {
        match self {
            Self::I8mm => [8, 2],
            Self::Dotprod => [4, 4],
        }
    }
}

thread_local! {
    /// The activations of the last task of this thread: fresh memory would cost page faults.
    static PACKED: Cell<Vec<Bytes>> = const { Cell::new(Vec::new()) };
}

/// A weight `[n, k]` in panels.
pub(super) struct Panels {
    n: usize,
    k: usize,
    neon: Neon,
    /// Weights `[n / COLS][k / FEATURES]`, padded with zeros.
    weights: Vec<Step>,
}

impl Panels {
    /// Packs `weight[n, k]`, row-major.
    ///
    /// # Panics
    /// Panics if the instructions are not available.
    pub(super) fn new(weight: &[i8], n: usize, k: usize, neon: Neon) -> Self {
        assert!(neon.is_available(), "a product by {neon:?} on a processor without it");
        let steps = k.div_ceil(FEATURES);
        let mut weights = vec![[[0; 16]; COLS * FEATURES / 16]; n.div_ceil(COLS) * steps];
        if steps > 0 {
            let [features, cols] = neon.shape();
            weights.par_chunks_exact_mut(steps).zip(weight.par_chunks(COLS * k)).for_each(|(panel, weight)| {
                for (col, row) in weight.chunks_exact(k).enumerate() {
                    for (step, row) in panel.iter_mut().zip(row.chunks(FEATURES)) {
                        for (group, w) in row.chunks(features).enumerate() {
                            let to = &mut step[group * (COLS / cols) + col / cols];
                            to[col % cols * features..][..w.len()].copy_from_slice(w);
                        }
                    }
                }
            });
        }
        Self { n, k, neon, weights }
    }

    /// Calls `finish(row, channel, y, sums)` with the sums `Σ_k x[m, k] · w[n, k]`, wrapping, of consecutive channels of each row,
    /// from `channel` on, and their part of `y[m, n]`.
    pub(super) fn product<T, F>(&self, y: &mut [T], x: Activations<'_>, m: usize, finish: &F, after: After<'_, T>)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        let (n, k) = (self.n, self.k);
        let task_rows = (TASK_BYTES / k.max(1) / ROWS * ROWS).clamp(4 * ROWS, 512 / ROWS * ROWS);
        let division = Division { m, n, k, block: COLS, tile_rows: ROWS, task_rows, alone: ALONE };
        division.run(y, after, |task, y| {
            x.with_rows(task.rows.clone(), k, |x| {
                let mut packed = PACKED.take();
                match self.neon {
                    // Whole rows are steps already.
                    Neon::Dotprod if k.is_multiple_of(FEATURES) => self.task(task, x.as_chunks().0, y, finish),
                    Neon::Dotprod => {
                        pack(&mut packed, x, k);
                        self.task(task, &packed, y, finish);
                    }
                    Neon::I8mm => {
                        pack_pairs(&mut packed, x, k);
                        self.task(task, &packed, y, finish);
                    }
                }
                PACKED.set(packed);
            });
        });
    }

    /// Runs one task with its packed activations. `y` holds the channels of the task's panels only.
    fn task<T: Copy>(&self, task: Task, x: &[Bytes], y: &mut [T], finish: &impl Fn(usize, usize, &mut [T], &[i32])) {
        let steps = self.k.div_ceil(FEATURES);
        let first_col = task.blocks.start * COLS;
        let stride = self.n.min(task.blocks.end * COLS) - first_col;
        let mut sums = [[0; COLS]; ROWS];
        for panel in task.blocks {
            let weights = &self.weights[panel * steps..][..steps];
            let (first, mut at) = (panel * COLS, 0);
            let (col, width) = (first - first_col, COLS.min(self.n - first));
            for rows in tiles(task.rows.len()) {
                let sums = &mut sums[..rows];
                // Both layouts have `steps` registers for a row; before the last tile, rows are whole pairs.
                let x = &x[at * steps..];
                // SAFETY: the functions need the instructions that `new` has checked, and nothing else.
                unsafe {
                    match (self.neon, rows) {
                        (Neon::Dotprod, 6) => tile_dotprod::<6>(sums, x, weights),
                        (Neon::Dotprod, 4) => tile_dotprod::<4>(sums, x, weights),
                        (Neon::Dotprod, 2) => tile_dotprod::<2>(sums, x, weights),
                        (Neon::Dotprod, _) => tile_dotprod::<1>(sums, x, weights),
                        (Neon::I8mm, 6) => tile_i8mm::<3>(sums, x, weights),
                        (Neon::I8mm, 4) => tile_i8mm::<2>(sums, x, weights),
                        (Neon::I8mm, _) => tile_i8mm::<1>(sums, x, weights),
                    }
                }
                for (row, sums) in sums.iter().enumerate() {
                    let y = &mut y[(at + row) * stride + col..];
                    let row = task.rows.start + at + row;
                    // This branch has a length that the compiler knows.
                    if width == COLS {
                        finish(row, first, &mut y[..COLS], sums);
                    } else {
                        finish(row, first, &mut y[..width], &sums[..width]);
                    }
                }
                at += rows;
            }
        }
    }
}

/// Pads the rows of `x[rows, k]` to whole steps.
fn pack(packed: &mut Vec<Bytes>, x: &[i8], k: usize) {
    let steps = k.div_ceil(FEATURES);
    packed.clear();
    packed.resize(x.len() / k * steps, [0; 16]);
    for (packed, x) in packed.chunks_exact_mut(steps).zip(x.chunks_exact(k)) {
        packed.as_flattened_mut()[..k].copy_from_slice(x);
    }
}

/// Packs `x[rows, k]` in pairs of rows, `[rows / 2][k / 8][2][8]`, padded with zeros to whole pairs and steps.
fn pack_pairs(packed: &mut Vec<Bytes>, x: &[i8], k: usize) {
    let steps = k.div_ceil(FEATURES);
    packed.clear();
    packed.resize((x.len() / k).next_multiple_of(2) * steps, [0; 16]);
    for (packed, x) in packed.chunks_exact_mut(2 * steps).zip(x.chunks(2 * k)) {
        for (row, x) in x.chunks_exact(k).enumerate() {
            let (whole, rest) = x.as_chunks::<8>();
            for (packed, x) in packed.iter_mut().zip(whole) {
                packed[8 * row..][..8].copy_from_slice(x);
            }
            if !rest.is_empty() {
                packed[whole.len()][8 * row..][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

/// The products of `M` rows and a panel.
#[target_feature(enable = "neon,dotprod")]
fn tile_dotprod<const M: usize>(sums: &mut [[i32; COLS]], x: &[Bytes], weights: &[Step]) {
    let steps = weights.len();
    let rows: [&[Bytes]; M] = std::array::from_fn(|row| &x[row * steps..][..steps]);
    let mut acc = [[vdupq_n_s32(0); COLS / 4]; M];
    for (step, weights) in weights.iter().enumerate() {
        let mut x = [bytemuck::must_cast([0i8; 16]); M];
        for row in 0..M {
            x[row] = bytemuck::must_cast(rows[row][step]);
        }
        let [lane_0, lane_1, lane_2, lane_3] = weights.as_chunks::<{ COLS / 4 }>().0 else {
            unreachable!("a step has four groups of features")
        };
        lane::<0, M>(&mut acc, &x, lane_0);
        lane::<1, M>(&mut acc, &x, lane_1);
        lane::<2, M>(&mut acc, &x, lane_2);
        lane::<3, M>(&mut acc, &x, lane_3);
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        *sums = bytemuck::must_cast(acc);
    }
}

/// Adds the products of the activations in a lane.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn lane<const LANE: i32, const M: usize>(
    acc: &mut [[int32x4_t; COLS / 4]; M],
    x: &[int8x16_t; M],
    weights: &[Bytes; COLS / 4],
) {
    for part in 0..COLS / 4 {
        let w = bytemuck::must_cast(weights[part]);
        for row in 0..M {
            acc[row][part] = sdot::<LANE>(acc[row][part], w, x[row]);
        }
    }
}

/// The products of `P` pairs of rows and a panel. `sums` may lack the last row.
#[target_feature(enable = "neon,i8mm")]
fn tile_i8mm<const P: usize>(sums: &mut [[i32; COLS]], x: &[Bytes], weights: &[Step]) {
    let groups = 2 * weights.len();
    let pairs: [&[Bytes]; P] = std::array::from_fn(|pair| &x[pair * groups..][..groups]);
    let mut acc = [[vdupq_n_s32(0); COLS / 2]; P];
    for (group, weights) in weights.as_flattened().as_chunks::<{ COLS / 2 }>().0.iter().enumerate() {
        let mut x = [bytemuck::must_cast([0i8; 16]); P];
        for pair in 0..P {
            x[pair] = bytemuck::must_cast(pairs[pair][group]);
        }
        for part in 0..COLS / 2 {
            let w = bytemuck::must_cast(weights[part]);
            for pair in 0..P {
                acc[pair][part] = smmla(acc[pair][part], x[pair], w);
            }
        }
    }
    for (sums, acc) in sums.chunks_mut(2).zip(acc) {
        let acc: [[[i32; 2]; 2]; COLS / 2] = bytemuck::must_cast(acc);
        for (row, sums) in sums.iter_mut().enumerate() {
            for part in 0..COLS / 2 {
                sums[2 * part..][..2].copy_from_slice(&acc[part][row]);
            }
        }
    }
}

/// Adds to each of four sums the products of four weights with the same four activations, those of lane `LANE`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn sdot<const LANE: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction, which the function's features allow, computes one register from three.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Adds to the sums `[2 rows][2 channels]` the products of eight activations of each row and eight weights of each channel.
#[target_feature(enable = "neon,i8mm")]
#[inline]
fn smmla(mut acc: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction, which the function's features allow, computes one register from three.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b",
            acc = inout(vreg) acc, x = in(vreg) x, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
