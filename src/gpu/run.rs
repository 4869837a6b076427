//! A model bound to buffers: what is recorded every frame.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::choice::{Candidate, pick};
use super::engine::Shared;
use super::error::GpuError;
use super::general::{Size, TILE};
use super::memory::Memory;
use super::tile::Grid;
use super::transfer::timed_passes;

/// A model bound to buffers. Recording it allocates nothing on the device and writes nothing from the host, so that any
/// number of recordings, with different numbers of rows, may be submitted together or apart.
///
/// What one run computes between its inputs and outputs lies in memory of its own: runs of one model may be recorded in any order,
/// also before one submission.
#[derive(Debug)]
pub struct Run {
    shared: Arc<Shared>,
    dispatches: Vec<Dispatch>,
    max_rows: usize,
    /// Bytes from one digit of the table of rows to the next.
    digit_stride: u32,
    memory: Memory,
    debug_groups: bool,
}

#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) name: String,
    pub(super) bind_group: wgpu::BindGroup,
    /// Rows of work for each row of the batch, or in all.
    pub(super) rows_factor: u64,
    pub(super) batched: bool,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Linear(LinearWork),
    Words {
        pipeline: wgpu::ComputePipeline,
        /// Threads for each four matrix rows, so that dense words, which rows may share, are counted too.
        words_of_4_rows: u64,
    },
    General {
        pipeline: wgpu::ComputePipeline,
        size: Size,
        /// Of tiles: the first, and how many this dispatch may have.
        first_group: u64,
        most_groups: u64,
    },
}

/// Some columns and rows of a linear layer.
#[derive(Debug)]
pub(super) struct LinearWork {
    pub(super) n: usize,
    pub(super) first_row: u64,
    pub(super) end_row: u64,
    pub(super) quads: u64,
    pub(super) tiles: Vec<LinearTile>,
    /// What follows where K was divided.
    pub(super) finish: Option<wgpu::ComputePipeline>,
    /// Parts into which K is divided.
    pub(super) parts: u32,
    /// The most rows for which it may be.
    pub(super) most_divided: u64,
}

#[derive(Debug, Clone)]
pub(super) struct LinearTile {
    pub(super) candidate: Candidate,
    pub(super) whole: wgpu::ComputePipeline,
    /// For a part of K.
    pub(super) part: Option<wgpu::ComputePipeline>,
}

/// What a dispatch records: a pipeline and a grid, twice where K is divided; nothing, where the batch has no such rows.
type Recorded<'d> = [Option<(&'d wgpu::ComputePipeline, Grid)>; 2];

impl Dispatch {
    /// The rows of the batch that this dispatch sees.
    fn rows(&self, rows: usize) -> usize {
        if self.batched { rows } else { 1 }
    }

    fn at(&self, rows: usize, limit: u32) -> Recorded<'_> {
        self.work.at((self.rows(rows) as u64).saturating_mul(self.rows_factor), limit)
    }

    /// # Errors
    /// [`GpuError::Limit`] if a grid is too large.
    pub(super) fn check(&self, rows: usize, limit: u32) -> Result<(), GpuError> {
        // Fewer rows may take another tile, with more groups along the columns.
        if let Work::Linear(linear) = &self.work {
            let one_row = |tile: &LinearTile| tile.candidate.tile.grid(1, linear.n, limit);
            linear.tiles.iter().try_for_each(|tile| one_row(tile).check(&self.name, limit).map(drop))?;
        }
        self.at(rows, limit).iter().flatten().try_for_each(|(_, grid)| grid.check(&self.name, limit).map(drop))
    }

    fn record(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        rows: usize,
        digit_stride: u32,
        limit: u32,
    ) -> Result<(), GpuError> {
        let rows_here = self.rows(rows);
        let offsets = [rows_here / 256, rows_here % 256].map(|digit| digit as u32 * digit_stride);
        for (at, (pipeline, grid)) in self.at(rows, limit).into_iter().flatten().enumerate() {
            let [x, y, z] = grid.check(&self.name, limit)?;
            pass.set_pipeline(pipeline);
            if at == 0 {
                pass.set_bind_group(0, &self.bind_group, &offsets);
            }
            pass.dispatch_workgroups(x, y, z);
        }
        Ok(())
    }
}

impl Work {
    /// For `m` matrix rows.
    fn at(&self, m: u64, limit: u32) -> Recorded<'_> {
        match self {
            Self::Linear(linear) => linear.at(m, limit),
            Self::Words { pipeline, words_of_4_rows } => {
                let words = m.saturating_mul(*words_of_4_rows).div_ceil(4);
                [Some((pipeline, Grid::of_words(words, limit))), None]
            }
            Self::General { pipeline, size, first_group, most_groups } => {
                let grid = match *size {
                    Size::Threads(per_row) => Grid::of_words(m.saturating_mul(per_row), limit),
                    Size::Groups => Grid::of_groups(m, limit),
                    Size::Once => Grid([1, 1, 1]),
                    Size::Tiles { n, .. } => {
                        let tiles = size.row_tiles(m).saturating_sub(*first_group).min(*most_groups);
                        if tiles == 0 {
                            return [None, None];
                        }
                        let y = tiles.min(limit.into());
                        Grid([n.div_ceil(TILE), y, tiles.div_ceil(y)])
                    }
                };
                [Some((pipeline, grid)), None]
            }
        }
    }
}

impl LinearWork {
    fn at(&self, m: u64, limit: u32) -> Recorded<'_> {
        let rows = m.min(self.end_row).saturating_sub(self.first_row);
        if rows == 0 {
            return [None, None];
        }
        let at = pick(self.tiles.iter().map(|tile| &tile.candidate), m, self.n);
        let LinearTile { candidate, whole, part } = &self.tiles[at];
        let grid = candidate.tile.grid(rows, self.n, limit);
        let divided = grid.groups() < candidate.split_below && rows <= self.most_divided && grid.0[2] == 1;
        match (part, &self.finish) {
            (Some(part), Some(finish)) if divided => {
                let Grid([x, y, _]) = grid;
                let quads = Grid::of_words(rows * self.quads, limit);
                [Some((part, Grid([x, y, self.parts.into()]))), Some((finish, quads))]
            }
            _ => [Some((whole, grid)), None],
        }
    }
}

impl Run {
    pub(super) fn new(
        shared: Arc<Shared>,
        dispatches: Vec<Dispatch>,
        max_rows: usize,
        digit_stride: u32,
        memory: Memory,
        debug_groups: bool,
    ) -> Self {
        Self { shared, dispatches, max_rows, digit_stride, memory, debug_groups }
    }

    /// Records the program for `rows` rows, as one compute pass.
    ///
    /// # Errors
    /// [`GpuError::Rows`] unless `rows` is from 1 to what was bound, [`GpuError::DeviceLost`] if the device was lost. Nothing is
    /// recorded then.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, rows: usize) -> Result<(), GpuError> {
        self.check(rows)?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some("enfold"), timestamp_writes: None };
        self.record_in(&mut encoder.begin_compute_pass(&descriptor), rows)
    }

    /// Records the program for `rows` rows in a compute pass of the caller's. Bind group 0 and the pipeline are left changed.
    ///
    /// # Errors
    /// As [`Run::record`]; but a loss of the device is an error here once any other call has noticed it, or
    /// [`Engine::mark_lost`](super::Engine::mark_lost) has told.
    pub fn record_in(&self, pass: &mut wgpu::ComputePass<'_>, rows: usize) -> Result<(), GpuError> {
        self.shared.check_marked_lost()?;
        check_rows(rows, self.max_rows)?;
        let limit = self.shared.limits.max_compute_workgroups_per_dimension;
        for dispatch in &self.dispatches {
            if self.debug_groups {
                pass.push_debug_group(&dispatch.name);
            }
            let recorded = dispatch.record(pass, rows, self.digit_stride, limit);
            if self.debug_groups {
                pass.pop_debug_group();
            }
            recorded?;
        }
        Ok(())
    }

    /// How long each step takes on the device, by timestamp queries: a diagnosis, which runs the program once for `rows` rows with
    /// what the input buffers hold. Submits work and waits for it.
    ///
    /// # Errors
    /// [`GpuError::Feature`] on a device without `Features::TIMESTAMP_QUERY`, and as [`Run::record`].
    pub async fn timings(&self, rows: usize) -> Result<Timings, GpuError> {
        self.check(rows)?;
        let Shared { device, queue, limits, .. } = &*self.shared;
        let limit = limits.max_compute_workgroups_per_dimension;
        let record = |at: usize, pass: &mut wgpu::ComputePass<'_>| {
            self.dispatches[at].record(pass, rows, self.digit_stride, limit)
        };
        let durations = timed_passes(device, queue, self.dispatches.len(), record).await?;
        let names = self.dispatches.iter().map(|dispatch| dispatch.name.clone());
        Ok(Timings { steps: names.zip(durations).map(|(name, duration)| StepTiming { name, duration }).collect() })
    }

    /// The most rows that can be recorded.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Dispatches of a recording of [`Run::max_rows`] rows.
    #[must_use]
    pub fn dispatches(&self) -> usize {
        let limit = self.shared.limits.max_compute_workgroups_per_dimension;
        self.dispatches.iter().map(|dispatch| dispatch.at(self.max_rows, limit).iter().flatten().count()).sum()
    }

    /// Device memory of this run and of its model.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.memory
    }

    fn check(&self, rows: usize) -> Result<(), GpuError> {
        self.shared.check_lost()?;
        check_rows(rows, self.max_rows)
    }
}

pub(super) fn check_rows(actual: usize, max: usize) -> Result<(), GpuError> {
    if (1..=max).contains(&actual) { Ok(()) } else { Err(GpuError::Rows { actual, max }) }
}

/// What the steps of a run took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// In execution order; steps that share a dispatch are one, under the name of the first.
    pub steps: Vec<StepTiming>,
}

/// What a step took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTiming {
    /// Name of the node.
    pub name: String,
    /// On the device's clock.
    pub duration: Duration,
}

/// One line a step.
impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        for StepTiming { name, duration } in &self.steps {
            writeln!(f, "{name:<width$} {:>10.1} us", duration.as_secs_f64() * 1e6)?;
        }
        Ok(())
    }
}
