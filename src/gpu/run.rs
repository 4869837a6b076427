//! A model bound to buffers, which is recorded every frame.

use std::sync::Arc;
use std::time::Duration;

use super::bound::Bound;
use super::device::Device;
use super::device::error::GpuError;
use super::device::transfer::timed_passes;
use super::device::wait::Poll;
use super::indirect::Arguments;
use super::kernels::dispatch::{Recorded, Rows, Work};
use super::memory::Memory;
use super::timings::{StepTiming, Timings};

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
    pub(super) device: Arc<Device>,
    /// What the model needs to give it other weights.
    #[expect(dead_code, reason = "the model holds no more than a weak reference")]
    pub(super) bound: Arc<Bound>,
    pub(super) dispatches: Vec<Dispatch>,
    /// What a run needs whose number of rows may be in a buffer.
    pub(super) indirect: Option<Indirect>,
    pub(super) max_rows: usize,
    /// Bytes from one entry of the buffer of numbers of rows to the next.
    pub(super) digit_stride: u32,
    pub(super) memory: Memory,
    pub(super) options: RunOptions,
}

/// What a run needs whose number of rows may be in a buffer.
#[derive(Debug)]
pub(super) struct Indirect {
    /// The grids of the dispatches with rows, in their order.
    pub(super) arguments: Arguments,
    /// Their bind groups with that number of rows; `None` for dispatches whose work is always the same.
    pub(super) bind_groups: Vec<Option<wgpu::BindGroup>>,
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
    /// ```no_run
    /// # fn frame(
    /// #     run: &enfold::gpu::Run, device: &wgpu::Device, queue: &wgpu::Queue, input: &wgpu::Buffer,
    /// # ) -> Result<(), enfold::gpu::GpuError> {
    /// queue.write_buffer(input, 0, bytemuck::cast_slice(&[1.0f32, 0.2])); // one row of two features
    /// let mut encoder = device.create_command_encoder(&Default::default());
    /// run.record(&mut encoder, 1)?; // what is recorded after it reads the output buffer
    /// queue.submit([encoder.finish()]);
    /// # Ok(())
    /// # }
    /// ```
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
    /// ```no_run
    /// # fn frame(
    /// #     run: &enfold::gpu::Run, encoder: &mut wgpu::CommandEncoder, queries: &wgpu::QuerySet,
    /// # ) -> Result<(), enfold::gpu::GpuError> {
    /// // A pass with the application's label and timestamps.
    /// let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
    ///     label: Some("network"),
    ///     timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
    ///         query_set: queries,
    ///         beginning_of_pass_write_index: Some(0),
    ///         end_of_pass_write_index: Some(1),
    ///     }),
    /// });
    /// run.record_in(&mut pass, 17)
    /// # }
    /// ```
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

    /// Records the program for as many rows as the `u32` at `offset` bytes of a buffer says when the device comes to it, for particles,
    /// rays or tiles that the device itself counts: no rows for 0, and [`Run::max_rows`] for more than that. The results have the bits of
    /// [`Run::record`], and as there, rows beyond the number are not written, but for the rest of a word of 4 bytes.
    ///
    /// ```no_run
    /// # async fn rays(
    /// #     model: &enfold::gpu::Model, features: &wgpu::Buffer, colors: &wgpu::Buffer, hits: &wgpu::Buffer,
    /// #     encoder: &mut wgpu::CommandEncoder,
    /// # ) -> Result<(), enfold::gpu::GpuError> {
    /// let run = model.bind_indirect(&[features], &[colors], 1 << 16).await?; // once
    /// // In every frame, after the pass that has appended `features` and counted them in `hits`:
    /// run.record_indirect(encoder, hits, 0)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It records a copy of the number, and one compute pass, whose first dispatch computes the grids of the others. Each step takes the
    /// kernel that is best for the most rows, so a bound that is much too large costs time. Steps whose values have no rows run always.
    ///
    /// # Errors
    /// Returns [`GpuError::NotIndirect`] for a run of [`Model::bind`](super::Model::bind), [`GpuError::BufferUsage`] for a buffer without the usage
    /// `COPY_SRC`, [`GpuError::BufferOffset`] for an offset that is not a multiple of 4, [`GpuError::BufferSize`] for one beyond its end,
    /// and [`GpuError::DeviceLost`] if the device was lost. Nothing is recorded then.
    pub fn record_indirect(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        rows: &wgpu::Buffer,
        offset: u64,
    ) -> Result<(), GpuError> {
        self.device.check_lost()?;
        let Indirect { arguments, bind_groups } = self.indirect.as_ref().ok_or(GpuError::NotIndirect)?;
        let (name, needed) = ("the number of rows".to_owned(), wgpu::BufferUsages::COPY_SRC);
        if !rows.usage().contains(needed) {
            return Err(GpuError::BufferUsage { name, actual: rows.usage(), needed });
        }
        if !offset.is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT) {
            let alignment = wgpu::COPY_BUFFER_ALIGNMENT;
            return Err(GpuError::BufferOffset { name, actual: offset, alignment });
        }
        let size = size_of::<u32>() as u64;
        if offset.saturating_add(size) > rows.size() {
            let needed = offset.saturating_add(size);
            return Err(GpuError::BufferSize { name, actual: rows.size(), needed, rows: 1 });
        }
        encoder.copy_buffer_to_buffer(rows, offset, &arguments.count, 0, size);
        let descriptor = wgpu::ComputePassDescriptor { label: Some("enfold"), timestamp_writes: None };
        let mut pass = encoder.begin_compute_pass(&descriptor);
        arguments.record(&mut pass);
        let limit = self.device.limits.max_compute_workgroups_per_dimension;
        let mut slots = 0..;
        for (dispatch, bind_group) in self.dispatches.iter().zip(bind_groups) {
            if self.options.debug_groups {
                pass.push_debug_group(&dispatch.name);
            }
            match bind_group {
                None => dispatch.record(&mut pass, 1, self.digit_stride, limit)?,
                Some(bind_group) => {
                    let most = dispatch.rows.matrix(self.max_rows);
                    pass.set_pipeline(dispatch.work.whole_at(most));
                    pass.set_bind_group(0, bind_group, &[0, arguments.digit_stride]);
                    slots.next().into_iter().for_each(|slot| arguments.dispatch(&mut pass, slot));
                }
            }
            if self.options.debug_groups {
                pass.pop_debug_group();
            }
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
        Ok(self.timings_from(durations))
    }

    /// Records the program for `rows` rows, with a compute pass for each step that writes the times of its begin and its end into the
    /// caller's query set, from query `first` on: two queries for each step of [`Run::timings_of`]. The caller resolves them with those of
    /// its own passes. For the time of the whole network, begin a pass with timestamps and give it to [`Run::record_in`].
    ///
    /// ```no_run
    /// # use enfold::gpu::{GpuError, Run, Timings};
    /// # fn frame(
    /// #     run: &Run, encoder: &mut wgpu::CommandEncoder, queries: &wgpu::QuerySet, resolved: &wgpu::Buffer,
    /// # ) -> Result<(), GpuError> {
    /// run.record_timed(encoder, 17, queries, 0)?;
    /// encoder.resolve_query_set(queries, 0..run.queries(), resolved, 0);
    /// # Ok(())
    /// # }
    /// # fn later(run: &Run, ticks: &[u64], queue: &wgpu::Queue) -> Timings {
    /// // Once `resolved` was read:
    /// run.timings_of(ticks, queue.get_timestamp_period())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returns [`GpuError::Feature`] on a device without `Features::TIMESTAMP_QUERY`, [`GpuError::Queries`] for a query set with fewer
    /// queries, and the errors of [`Run::record`]. Nothing is recorded then.
    pub fn record_timed(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        rows: usize,
        queries: &wgpu::QuerySet,
        first: u32,
    ) -> Result<(), GpuError> {
        self.check(rows)?;
        let needed = wgpu::Features::TIMESTAMP_QUERY;
        if !self.device.wgpu.features().contains(needed) {
            return Err(GpuError::Feature { what: "timing by the device", needed });
        }
        let (actual, needed) = (queries.count(), u64::from(first) + u64::from(self.queries()));
        if u64::from(actual) < needed {
            return Err(GpuError::Queries { actual, needed, first });
        }
        let limit = self.device.limits.max_compute_workgroups_per_dimension;
        for (at, dispatch) in (first..).step_by(2).zip(&self.dispatches) {
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: queries,
                beginning_of_pass_write_index: Some(at),
                end_of_pass_write_index: Some(at + 1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some(&dispatch.name), timestamp_writes };
            dispatch.record(&mut encoder.begin_compute_pass(&descriptor), rows, self.digit_stride, limit)?;
        }
        Ok(())
    }

    /// Returns the number of queries that [`Run::record_timed`] writes.
    #[must_use]
    pub fn queries(&self) -> u32 {
        2 * self.dispatches.len() as u32
    }

    /// Returns the times of the steps from what [`Run::record_timed`] has written, and the nanoseconds of a tick.
    #[must_use]
    pub fn timings_of(&self, ticks: &[u64], period: f32) -> Timings {
        let nanoseconds = |pair: &[u64]| pair[1].saturating_sub(pair[0]) as f64 * f64::from(period);
        let durations = ticks.chunks_exact(2).map(|pair| Duration::from_secs_f64(nanoseconds(pair) * 1e-9));
        self.timings_from(durations)
    }

    fn timings_from(&self, durations: impl IntoIterator<Item = Duration>) -> Timings {
        let step = |(dispatch, duration): (&Dispatch, Duration)| {
            let (name, kernels) = (dispatch.name.clone(), dispatch.kernels.clone());
            StepTiming { name, kernels, duration }
        };
        Timings { steps: self.dispatches.iter().zip(durations).map(step).collect() }
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
