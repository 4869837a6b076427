//! A model bound to buffers, which is recorded every frame.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::device::Device;
use super::device::error::GpuError;
use super::device::transfer::timed_passes;
use super::device::wait::Poll;
use super::kernels::dispatch::{Recorded, Rows, Work};
use super::memory::Memory;

/// A model bound to buffers. Recording it allocates nothing on the device and writes nothing from the host, so that any
/// number of recordings, with different numbers of rows, may be submitted together or apart.
///
/// Each run has its own memory for intermediate values: runs of one model may be recorded in any order, also before one submission.
///
/// ```no_run
/// # fn frame(run: &enfold::gpu::Run, device: &wgpu::Device, queue: &wgpu::Queue) -> Result<(), enfold::gpu::GpuError> {
/// let mut encoder = device.create_command_encoder(&Default::default());
/// run.record(&mut encoder, 17)?; // 17 of at most `max_rows` rows
/// queue.submit([encoder.finish()]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Run {
    device: Arc<Device>,
    dispatches: Vec<Dispatch>,
    max_rows: usize,
    /// Bytes from one entry of the buffer of numbers of rows to the next.
    digit_stride: u32,
    memory: Memory,
    options: RunOptions,
}

/// The engine's options that concern recording and measuring.
#[derive(Debug, Clone, Copy)]
pub(super) struct RunOptions {
    pub(super) debug_groups: bool,
    pub(super) poll: Poll,
}

/// A bound dispatch.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) name: String,
    /// The entry point, or those of a linear layer's tile shapes.
    pub(super) kernels: String,
    /// The nodes that it computes besides that of its name.
    pub(super) fused: Vec<String>,
    /// Bytes of the buffers that it binds, at the most rows.
    pub(super) bytes: u64,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) rows: Rows,
    pub(super) work: Work<wgpu::ComputePipeline>,
}

impl Dispatch {
    fn at(&self, rows: usize, limit: u32) -> Recorded<'_, wgpu::ComputePipeline> {
        self.work.at(self.rows.matrix(rows), limit)
    }

    /// Checks the grids for `rows` rows.
    ///
    /// # Errors
    /// Returns [`GpuError::Limit`] if a grid is too large.
    pub(super) fn check(&self, rows: usize, limit: u32) -> Result<(), GpuError> {
        if let Work::Linear(linear) = &self.work {
            linear.grids_of_one_row(limit).try_for_each(|grid| grid.check(&self.name, limit).map(drop))?;
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
        let rows_here = self.rows.of_batch(rows);
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

impl Run {
    pub(super) fn new(
        device: Arc<Device>,
        dispatches: Vec<Dispatch>,
        max_rows: usize,
        digit_stride: u32,
        memory: Memory,
        options: RunOptions,
    ) -> Self {
        Self { device, dispatches, max_rows, digit_stride, memory, options }
    }

    /// Describes the plan of the run, one line for each dispatch: its node, its kernel, its workgroups at the most rows, the bytes of the
    /// buffers that it binds for them, and the nodes that are fused with it. A reshape that moves nothing has no line.
    ///
    /// ```no_run
    /// # fn plan(run: &enfold::gpu::Run) {
    /// eprintln!("{}\n{}", run.describe(), run.memory());
    /// # }
    /// ```
    #[must_use]
    pub fn describe(&self) -> String {
        let limit = self.device.limits.max_compute_workgroups_per_dimension;
        let line = |(at, dispatch): (usize, &Dispatch)| {
            let grids = dispatch.at(self.max_rows, limit);
            let groups: u64 = grids.iter().flatten().map(|(_, grid)| grid.count()).sum();
            let Dispatch { name, kernels, bytes, fused, .. } = dispatch;
            let with = if fused.is_empty() { String::new() } else { format!(", with {}", fused.join(", ")) };
            format!("{at:4} {name}: {kernels}, {groups} workgroups, {bytes} bytes{with}")
        };
        self.dispatches.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Records the program for `rows` rows, as one compute pass.
    ///
    /// # Errors
    /// Returns [`GpuError::Rows`] unless `rows` is from 1 to what was bound, [`GpuError::DeviceLost`] if the device was lost.
    /// Nothing is recorded then.
    pub fn record(&self, encoder: &mut wgpu::CommandEncoder, rows: usize) -> Result<(), GpuError> {
        self.check(rows)?;
        let descriptor = wgpu::ComputePassDescriptor { label: Some("enfold"), timestamp_writes: None };
        self.record_in(&mut encoder.begin_compute_pass(&descriptor), rows)
    }

    /// Records the program for `rows` rows in one of the caller's compute passes. It changes bind group 0 and the pipeline.
    ///
    /// # Errors
    /// Returns the same errors as [`Run::record`]; but this call reports a loss of the device only after another call has noticed
    /// it, or after [`Engine::mark_lost`](super::Engine::mark_lost).
    pub fn record_in(&self, pass: &mut wgpu::ComputePass<'_>, rows: usize) -> Result<(), GpuError> {
        self.device.check_marked_lost()?;
        check_rows(rows, self.max_rows)?;
        let limit = self.device.limits.max_compute_workgroups_per_dimension;
        for dispatch in &self.dispatches {
            if self.options.debug_groups {
                pass.push_debug_group(&dispatch.name);
            }
            let recorded = dispatch.record(pass, rows, self.digit_stride, limit);
            if self.options.debug_groups {
                pass.pop_debug_group();
            }
            recorded?;
        }
        Ok(())
    }

    /// Measures each step on the device by timestamp queries. It runs the program once for `rows` rows, with the present contents of
    /// the input buffers. Submits work and waits for it, without blocking.
    ///
    /// ```no_run
    /// # async fn slowest(run: &enfold::gpu::Run) -> Result<(), enfold::gpu::GpuError> {
    /// let timings = run.timings(64).await?;
    /// let slowest = timings.steps.iter().max_by_key(|step| step.duration);
    /// # let _ = slowest;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`GpuError::Feature`] on a device without `Features::TIMESTAMP_QUERY`, and the errors of [`Run::record`].
    pub async fn timings(&self, rows: usize) -> Result<Timings, GpuError> {
        self.check(rows)?;
        let Device { wgpu, queue, limits, .. } = &*self.device;
        let limit = limits.max_compute_workgroups_per_dimension;
        let record = |at: usize, pass: &mut wgpu::ComputePass<'_>| {
            self.dispatches[at].record(pass, rows, self.digit_stride, limit)
        };
        let durations = timed_passes(wgpu, queue, self.options.poll, self.dispatches.len(), record).await?;
        let step = |(dispatch, duration): (&Dispatch, Duration)| {
            let (name, kernels) = (dispatch.name.clone(), dispatch.kernels.clone());
            StepTiming { name, kernels, duration }
        };
        Ok(Timings { steps: self.dispatches.iter().zip(durations).map(step).collect() })
    }

    /// Returns the largest number of rows that can be recorded.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Returns the number of dispatches of a recording of [`Run::max_rows`] rows.
    #[must_use]
    pub fn dispatches(&self) -> usize {
        let limit = self.device.limits.max_compute_workgroups_per_dimension;
        self.dispatches.iter().map(|dispatch| dispatch.at(self.max_rows, limit).iter().flatten().count()).sum()
    }

    /// Returns the device memory of this run and of its model.
    #[must_use]
    pub fn memory(&self) -> Memory {
        self.memory
    }

    fn check(&self, rows: usize) -> Result<(), GpuError> {
        self.device.check_lost()?;
        check_rows(rows, self.max_rows)
    }
}

pub(super) fn check_rows(actual: usize, max: usize) -> Result<(), GpuError> {
    if (1..=max).contains(&actual) { Ok(()) } else { Err(GpuError::Rows { actual, max }) }
}

/// The durations of a run's steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// The steps in execution order. Fused steps are one entry, with the name of one of them, as in [`Run::describe`].
    pub steps: Vec<StepTiming>,
}

/// The duration of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepTiming {
    /// The name of the node.
    pub name: String,
    /// The entry point of its kernel, or those of the tile shapes of a linear layer for different numbers of rows.
    pub kernels: String,
    /// The duration by the device's clock.
    pub duration: Duration,
}

/// One line a step.
impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or(0);
        for StepTiming { name, kernels, duration } in &self.steps {
            writeln!(f, "{name:<width$} {:>10.1} us {kernels}", duration.as_secs_f64() * 1e6)?;
        }
        Ok(())
    }
}
