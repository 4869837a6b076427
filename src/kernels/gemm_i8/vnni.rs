//! The int8 product on processors with VNNI, whose `vpdpbusd` adds four products of u8 and int8 to an `i32` and saturates nothing.
//!
//! Activations become u8 by flipping their top bit, which adds 128; the caller subtracts 128 · Σw. Weights are stored as blocks of
//! [`COLS`] channels, groups of four features side by side. A tile of up to six rows and a block keeps its sums in registers: 24 of the 32
//! of AVX-512. AVX-VNNI has 16 registers of half the size, and takes a block in four parts.
//!
//! Weights of 4 bits share a byte with those of another part of the block, and weights of 2 bits with those of three others, so that few
//! rows read half or a quarter of the memory. No field is moved out of its byte: sums over whole bytes, less those over the bytes without
//! their lowest field, are the sums of that field, shifted.
//!
//! Processors with AMX read the same blocks as tiles, for many rows.

// A call to a function that needs these instructions is unsafe. The only calls are below, after the check.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_add_epi32, _mm256_and_si256, _mm256_dpbusd_avx_epi32, _mm256_set1_epi8, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_srav_epi32, _mm256_sub_epi32, _mm512_add_epi32, _mm512_and_si512, _mm512_dpbusd_epi32,
    _mm512_set1_epi8, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_srav_epi32, _mm512_sub_epi32,
};
use std::cell::Cell;
use std::ops::Range;

use super::amx;
use super::block::{COLS, GROUP, PARTS, Weights};
use super::fields::{base, bits, from_field, in_field};
use super::results::Results;
use super::{ALONE, Activations};
use crate::numerics::gemm::After;
use crate::numerics::gemm::tasks::{Division, Task, tiles};
use crate::parallel::*;
use crate::values::pages::Pages;

/// Rows of the largest tile.
const ROWS: usize = 6;
/// Largest size of the activations of a task: with a block of weights they stay in an L2 cache.
const TASK_BYTES: usize = 1 << 18;
/// Largest size of the results of a task that other steps read.
const RESULT_BYTES: usize = 1 << 19;

/// Most features of weights of fewer than 8 bits: sums over whole bytes, of at most 255 · 128 each, fit `i32`.
const MOST_OF_FIELDS: usize = 1 << 16;

/// The instructions of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vnni {
    /// AMX for many rows, and AVX-512 for few.
    Amx,
    Avx512,
    Avx,
}

impl Vnni {
    /// Whether this processor has them.
    pub(super) fn is_available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Self::Amx => Self::Avx512.is_available() && amx::is_available(),
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
    /// Groups of features, whole tiles for AMX.
    pub(super) groups: usize,
    vnni: Vnni,
    /// Parts that share a byte: 1, 2 or 4.
    pub(super) fields: usize,
    /// The least weight of those that share bytes.
    pub(super) lowest: i32,
    /// Weights `[n / COLS][groups][PARTS / fields]`, padded with weights of 0.
    weights: Pages<Weights>,
}

impl Blocks {
    /// Packs `weight[n, k]`, row-major.
    ///
    /// # Panics
    /// Panics if the instructions are not available.
    pub(super) fn new(weight: &[i8], n: usize, k: usize, vnni: Vnni) -> Self {
        assert!(vnni.is_available(), "a product for {vnni:?} VNNI on a processor without it");
        let groups = match vnni {
            Vnni::Amx => k.div_ceil(amx::FEATURES) * (amx::FEATURES / GROUP),
            _ => k.div_ceil(GROUP),
        };
        let (least, most) = weight.iter().fold((0, 0), |(least, most), &w| (w.min(least), w.max(most)));
        let (fields, lowest) = match i32::from(most) - i32::from(least) {
            _ if k > MOST_OF_FIELDS => (1, -128),
            0..4 => (4, least.into()),
            4..16 => (2, least.into()),
            _ => (1, -128),
        };
        let in_group = PARTS / fields;
        let mut weights = Pages::<Weights>::zeroed(n.div_ceil(COLS) * groups * in_group);
        if groups > 0 {
            let blocks = weights.par_chunks_exact_mut(groups * in_group).zip(weight.par_chunks(COLS * k));
            blocks.for_each(|(block, weight)| {
                for col in 0..COLS {
                    let row = weight.chunks_exact(k).nth(col).unwrap_or(&[]);
                    let (part, first) = (col / (COLS / PARTS), col % (COLS / PARTS) * GROUP);
                    for (group, to) in block.chunks_exact_mut(in_group).enumerate() {
                        let to = &mut to[part / fields].0[first..][..GROUP];
                        for (feature, to) in to.iter_mut().enumerate() {
                            let w = row.get(group * GROUP + feature).copied().unwrap_or(0);
                            *to |= in_field(i32::from(w) - lowest, part % fields, fields);
                        }
                    }
                }
            });
        }
        Self { n, k, groups, vnni, fields, lowest, weights }
    }

    /// The weights of a block.
    pub(super) fn block(&self, block: usize) -> &[Weights] {
        let length = self.groups * PARTS / self.fields;
        &self.weights[block * length..][..length]
    }

    /// Calls `finish(row, channel, y, sums)` with the sums `Σ_k (x[m, k] + 128) · w[n, k]`, wrapping, of consecutive channels of each
    /// row, from `channel` on, and their part of `y[m, n]`.
    pub(super) fn product<T, F>(&self, y: &mut [T], x: Activations<'_>, m: usize, finish: &F, after: After<'_, T>)
    where
        T: Copy + Default + Send,
        F: Fn(usize, usize, &mut [T], &[i32]) + Sync,
    {
        let (n, k) = (self.n, self.k);
        let has_tiles = self.vnni == Vnni::Amx && m >= amx::LEAST_ROWS;
        let (tile_rows, task_bytes, alone) = match has_tiles {
            true => (amx::ROWS, amx::TASK_BYTES, amx::ALONE),
            false => (ROWS, TASK_BYTES, ALONE),
        };
        let most = task_bytes / k.max(1);
        // The results that others read stay in an L2 cache as well.
        let most = if after.is_some() { most.min(RESULT_BYTES / (n * size_of::<T>()).max(1)) } else { most };
        let task_rows = most / tile_rows * tile_rows;
        let task_rows = task_rows.clamp(4 * ROWS.max(tile_rows / 2), 512 / tile_rows * tile_rows);
        let division = Division { m, n, k, block: COLS, tile_rows, task_rows, alone };
        division.run(y, after, |task, y| {
            if has_tiles && task.rows.len() >= amx::LEAST_ROWS {
                // SAFETY: `new` has checked the instructions.
                return unsafe { self.task_amx(task, x, y, finish) };
            }
            x.with_rows(task.rows.clone(), k, |x| {
                let mut flipped = FLIPPED.take();
                match self.vnni {
                    // SAFETY: the functions need the instructions that `new` has checked, and nothing else.
                    Vnni::Amx | Vnni::Avx512 => unsafe { self.task_avx512(task, &mut flipped, x, y, finish) },
                    // SAFETY: as above.
                    Vnni::Avx => unsafe { self.task_avx(task, &mut flipped, x, y, finish) },
                }
                FLIPPED.set(flipped);
            });
        });
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn task_amx<T, F>(&self, task: Task, x: Activations<'_>, y: &mut [T], finish: &F)
    where
        T: Copy,
        F: Fn(usize, usize, &mut [T], &[i32]),
    {
        let results = Results::new(self.n, &task);
        amx::with_activations(x, task.rows.clone(), self.k, |tiles| {
            let mut sums = amx::Sums::new();
            for block in task.blocks.clone() {
                tiles.for_block(self, block, &mut sums, |at, sums| {
                    results.finish(&sums[..sums.len().min(task.rows.len() - at)], block, at, y, finish);
                });
            }
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
        let (work, results) = (Work::new(self, &task, flipped, x), Results::new(self.n, &task));
        let mut sums = [[_mm512_setzero_si512(); PARTS]; ROWS];
        for block in task.blocks.clone() {
            let weights = self.block(block);
            let mut at = 0;
            for rows in tiles(task.rows.len()) {
                match self.fields {
                    1 => rows_avx512::<1>(&mut sums, &work, at..at + rows, weights),
                    2 => rows_avx512::<2>(&mut sums, &work, at..at + rows, weights),
                    _ => rows_avx512::<4>(&mut sums, &work, at..at + rows, weights),
                }
                results.finish(bytemuck::must_cast_slice(&sums[..rows]), block, at, y, finish);
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
        let (work, results) = (Work::new(self, &task, flipped, x), Results::new(self.n, &task));
        let mut sums = [[[_mm256_setzero_si256(); 2]; PARTS]; ROWS];
        for block in task.blocks.clone() {
            let weights = self.block(block);
            let mut at = 0;
            for rows in tiles(task.rows.len()) {
                match self.fields {
                    1 => rows_avx::<1>(&mut sums, &work, at..at + rows, weights),
                    2 => rows_avx::<2>(&mut sums, &work, at..at + rows, weights),
                    _ => rows_avx::<4>(&mut sums, &work, at..at + rows, weights),
                }
                results.finish(bytemuck::must_cast_slice(&sums[..rows]), block, at, y, finish);
                at += rows;
            }
        }
    }
}

/// The activations of a task.
struct Work<'t> {
    /// Activations `[rows][groups]`, of four features each.
    flipped: &'t [i32],
    groups: usize,
    /// The sum of the activations of each row; empty where no two weights share a byte.
    row_sums: Vec<i32>,
    lowest: i32,
}

impl<'t> Work<'t> {
    #[inline(always)]
    fn new(blocks: &Blocks, task: &Task, flipped: &'t mut Vec<i32>, x: &[i8]) -> Self {
        let (k, groups) = (blocks.k, blocks.groups);
        flipped.resize(task.rows.len() * groups, 0);
        if k == groups * GROUP {
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
                // The weights of what pads a row are 0.
                flipped[whole.len()..].fill(flip(last));
            }
        }
        let mut row_sums = Vec::new();
        if blocks.fields > 1 {
            let sum_of =
                |row: &[i32]| -> i32 { bytemuck::must_cast_slice(row).iter().map(|&x: &u8| i32::from(x)).sum() };
            row_sums.extend(flipped.chunks_exact(groups).map(sum_of));
        }
        Self { flipped, groups, row_sums, lowest: blocks.lowest }
    }

    /// The activations of `M` rows from `first` on.
    #[inline(always)]
    fn rows<const M: usize>(&self, first: usize) -> [&'t [i32]; M] {
        std::array::from_fn(|row| &self.flipped[(first + row) * self.groups..][..self.groups])
    }
}

/// Four int8 values as u8, 128 higher.
#[inline(always)]
fn flip(x: [i8; GROUP]) -> i32 {
    bytemuck::must_cast::<_, i32>(x) ^ 0x8080_8080_u32.cast_signed()
}

/// The sums of some rows of a task and a block whose bytes have `F` fields.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn rows_avx512<const F: usize>(
    sums: &mut [[__m512i; PARTS]; ROWS],
    work: &Work<'_>,
    rows: Range<usize>,
    weights: &[Weights],
) {
    match rows.len() {
        6 => tile_avx512::<6, F>(sums, work.rows(rows.start), weights),
        4 => tile_avx512::<4, F>(sums, work.rows(rows.start), weights),
        2 => tile_avx512::<2, F>(sums, work.rows(rows.start), weights),
        _ => tile_avx512::<1, F>(sums, work.rows(rows.start), weights),
    }
    if F == 1 {
        return;
    }
    for (sums, &row_sum) in sums.iter_mut().zip(&work.row_sums[rows]) {
        for part in 0..PARTS {
            let field = part % F;
            let above = if field + 1 < F { sums[part + 1] } else { _mm512_setzero_si512() };
            let shift = _mm512_set1_epi32((bits(F) as usize * field) as i32);
            let base = _mm512_set1_epi32(base(field, F, work.lowest).wrapping_mul(row_sum));
            sums[part] = _mm512_add_epi32(base, _mm512_srav_epi32(_mm512_sub_epi32(sums[part], above), shift));
        }
    }
}

/// The products of `M` rows and a block, each over the bits of a byte from a field on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
#[inline]
fn tile_avx512<const M: usize, const F: usize>(
    sums: &mut [[__m512i; PARTS]; ROWS],
    rows: [&[i32]; M],
    weights: &[Weights],
) {
    let groups = weights.len() / (PARTS / F);
    let rows = rows.map(|row| &row[..groups]);
    let mut acc = [[_mm512_setzero_si512(); PARTS]; M];
    for (group, weights) in weights.chunks_exact(PARTS / F).enumerate() {
        let mut w = [_mm512_setzero_si512(); PARTS];
        for part in 0..PARTS {
            let bytes: __m512i = bytemuck::must_cast(weights[part / F].0);
            w[part] = _mm512_and_si512(bytes, _mm512_set1_epi8(from_field(part % F, F)));
        }
        for row in 0..M {
            let x = _mm512_set1_epi32(rows[row][group]);
            for part in 0..PARTS {
                acc[row][part] = _mm512_dpbusd_epi32(acc[row][part], x, w[part]);
            }
        }
    }
    sums[..M].copy_from_slice(&acc);
}

/// [`rows_avx512`] in vectors of 256 bits.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
fn rows_avx<const F: usize>(
    sums: &mut [[[__m256i; 2]; PARTS]; ROWS],
    work: &Work<'_>,
    rows: Range<usize>,
    weights: &[Weights],
) {
    match rows.len() {
        6 => tile_avx::<6, F>(sums, work.rows(rows.start), weights),
        4 => tile_avx::<4, F>(sums, work.rows(rows.start), weights),
        2 => tile_avx::<2, F>(sums, work.rows(rows.start), weights),
        _ => tile_avx::<1, F>(sums, work.rows(rows.start), weights),
    }
    if F == 1 {
        return;
    }
    for (sums, &row_sum) in sums.iter_mut().zip(&work.row_sums[rows]) {
        for part in 0..PARTS {
            let field = part % F;
            let shift = _mm256_set1_epi32((bits(F) as usize * field) as i32);
            let base = _mm256_set1_epi32(base(field, F, work.lowest).wrapping_mul(row_sum));
            let above = if field + 1 < F { sums[part + 1] } else { [_mm256_setzero_si256(); 2] };
            for (sums, above) in sums[part].iter_mut().zip(above) {
                *sums = _mm256_add_epi32(base, _mm256_srav_epi32(_mm256_sub_epi32(*sums, above), shift));
            }
        }
    }
}

/// [`tile_avx512`] in vectors of 256 bits, one part of the block at a time.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
fn tile_avx<const M: usize, const F: usize>(
    sums: &mut [[[__m256i; 2]; PARTS]; ROWS],
    rows: [&[i32]; M],
    weights: &[Weights],
) {
    let groups = weights.len() / (PARTS / F);
    let rows = rows.map(|row| &row[..groups]);
    for part in 0..PARTS {
        let mask = _mm256_set1_epi8(from_field(part % F, F));
        let mut acc = [[_mm256_setzero_si256(); 2]; M];
        for (group, weights) in weights.chunks_exact(PARTS / F).enumerate() {
            let bytes: [__m256i; 2] = bytemuck::must_cast(weights[part / F].0);
            let w = [_mm256_and_si256(bytes[0], mask), _mm256_and_si256(bytes[1], mask)];
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
