//! Measures the time of a frame, by timestamps of the GPU and by the host's clock.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use wgpu::{BufferUsages, CommandEncoder, ComputePassTimestampWrites, QuerySet, RenderPassTimestampWrites};

/// The passes of a frame, in order.
#[derive(Clone, Copy)]
pub(crate) enum Pass {
    Features,
    Network,
    Draw,
}

const STAMPS: u32 = 6;

/// Writes timestamps at the beginning and at the end of each pass, and reads them when they have arrived.
pub(crate) struct Timer {
    queries: QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Nanoseconds of one tick.
    period: f32,
    /// While `staging` is being mapped, the receiver of the result.
    pending: Option<Receiver<Result<(), wgpu::BufferAsyncError>>>,
}

/// Milliseconds on the GPU, of the whole frame and of the network's pass.
#[derive(Clone, Copy)]
pub(crate) struct GpuTime {
    pub(crate) frame: f64,
    pub(crate) network: f64,
}

impl Timer {
    /// `None` if the device has no timestamp queries.
    pub(crate) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Self> {
        if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return None;
        }
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count: STAMPS };
        let buffer = |usage| {
            let size = u64::from(STAMPS * wgpu::QUERY_SIZE);
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        Some(Self {
            queries: device.create_query_set(&descriptor),
            resolved: buffer(BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC),
            staging: buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST),
            period: queue.get_timestamp_period(),
            pending: None,
        })
    }

    pub(crate) fn compute(&self, pass: Pass) -> ComputePassTimestampWrites<'_> {
        let [beginning_of_pass_write_index, end_of_pass_write_index] = write_indices(pass);
        ComputePassTimestampWrites { query_set: &self.queries, beginning_of_pass_write_index, end_of_pass_write_index }
    }

    pub(crate) fn render(&self, pass: Pass) -> RenderPassTimestampWrites<'_> {
        let [beginning_of_pass_write_index, end_of_pass_write_index] = write_indices(pass);
        RenderPassTimestampWrites { query_set: &self.queries, beginning_of_pass_write_index, end_of_pass_write_index }
    }

    /// Copies the timestamps to the host, unless the copy of an earlier frame has not arrived yet.
    pub(crate) fn resolve(&mut self, encoder: &mut CommandEncoder) {
        if self.pending.is_none() {
            encoder.resolve_query_set(&self.queries, 0..STAMPS, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, self.resolved.size());
            let (sender, receiver) = channel();
            // Sending fails if the application has ended, which is no error.
            encoder.map_buffer_on_submit(&self.staging, wgpu::MapMode::Read, .., move |mapped| {
                sender.send(mapped).ok();
            });
            self.pending = Some(receiver);
        }
    }

    /// Returns the times of the last frame whose timestamps have arrived, once.
    pub(crate) fn read(&mut self) -> Result<Option<GpuTime>> {
        let Some(mapped) = self.pending.as_ref().and_then(|pending| pending.try_recv().ok()) else { return Ok(None) };
        self.pending = None;
        mapped.context("timestamps")?;
        let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&self.staging.get_mapped_range(..)?);
        self.staging.unmap();
        let between =
            |from: usize, to: usize| stamps[to].saturating_sub(stamps[from]) as f64 * f64::from(self.period) / 1e6;
        let [begin, end] = [2 * Pass::Network as usize, 2 * Pass::Network as usize + 1];
        Ok(Some(GpuTime { frame: between(0, STAMPS as usize - 1), network: between(begin, end) }))
    }
}

/// The indices of the timestamps at the beginning and at the end of a pass.
fn write_indices(pass: Pass) -> [Option<u32>; 2] {
    [Some(2 * pass as u32), Some(2 * pass as u32 + 1)]
}

/// Collects the times of frames.
pub(crate) struct Times {
    /// Whether the device has timestamp queries.
    timestamps: bool,
    wall: Vec<f64>,
    gpu: Vec<GpuTime>,
}

impl Times {
    pub(crate) fn new(timestamps: bool) -> Self {
        Self { timestamps, wall: Vec::new(), gpu: Vec::new() }
    }

    pub(crate) fn add(&mut self, wall: Duration, gpu: Option<GpuTime>) {
        self.wall.push(wall.as_secs_f64() * 1e3);
        self.gpu.extend(gpu);
    }

    pub(crate) fn clear(&mut self) {
        self.wall.clear();
        self.gpu.clear();
    }

    /// Returns the medians in one line.
    pub(crate) fn describe(&self) -> String {
        let Some(wall) = median(self.wall.iter().copied()) else { return "no frame yet".to_owned() };
        let frame = median(self.gpu.iter().map(|time| time.frame));
        let network = median(self.gpu.iter().map(|time| time.network));
        match (frame, network) {
            (Some(frame), Some(network)) => {
                let share = 100.0 * network / frame;
                format!("{wall:.2} ms a frame, {frame:.2} ms on the GPU, network {network:.2} ms ({share:.0} %)")
            }
            _ if self.timestamps => format!("{wall:.2} ms a frame, no timestamps yet"),
            _ => format!("{wall:.2} ms a frame; the network's share takes TIMESTAMP_QUERY, which the device lacks"),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
