//! Transfers between host and device, and timestamps.

use std::time::Duration;

use super::error::GpuError;
use super::scope::{Pending, failure, failure_now};
use super::wait::{Answer, Poll, answered};

/// Creates a buffer with contents.
pub(crate) fn upload(
    pending: &mut Pending,
    name: &str,
    contents: &[u8],
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer, GpuError> {
    let buffer = create(pending, name, contents.len() as u64, usage, true)?;
    let mapped = buffer.get_mapped_range_mut(..).map(|mut view| {
        view.slice(..contents.len()).copy_from_slice(contents);
    });
    mapped.map_err(|error| failure_now(pending.device(), name, error))?;
    buffer.unmap();
    Ok(buffer)
}

/// Creates a buffer without contents.
pub(crate) fn allocate(
    pending: &mut Pending,
    name: &str,
    size: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer, GpuError> {
    create(pending, name, size, usage, false)
}

fn create(
    pending: &mut Pending,
    name: &str,
    size: u64,
    usage: wgpu::BufferUsages,
    mapped_at_creation: bool,
) -> Result<wgpu::Buffer, GpuError> {
    let device = pending.device().clone();
    let size = buffer_size(&device, name, size)?;
    let descriptor = wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation };
    pending.make(name, || device.create_buffer(&descriptor))
}

/// Rounds a size up to whole words, and compares it with the device's limit.
fn buffer_size(device: &wgpu::Device, name: &str, size: u64) -> Result<u64, GpuError> {
    let size = size.next_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT).max(wgpu::COPY_BUFFER_ALIGNMENT);
    let limit = device.limits().max_buffer_size;
    if size > limit {
        return Err(GpuError::Limit { name: name.to_owned(), what: "bytes of a buffer", actual: size, limit });
    }
    Ok(size)
}

/// Submits a copy of the first `size` bytes of `buffer`, and waits for them.
pub(crate) async fn download(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    poll: Poll,
    name: &str,
    buffer: &wgpu::Buffer,
    size: u64,
) -> Result<Vec<u8>, GpuError> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let mut pending = Pending::new(device);
    let staging = allocate(&mut pending, name, size, usage)?;
    let (answer, receiver) = Answer::new();
    let submission = pending.make(name, || {
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(name) });
        encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, staging.size());
        let submission = queue.submit([encoder.finish()]);
        map(&staging, &answer);
        submission
    })?;
    pending.done().await?;
    answered(device, poll, name, Some(submission), (answer, receiver)).await?;
    let bytes = unmapped(device, name, &staging).await?;
    Ok(bytes.into_iter().take(size as usize).collect())
}

/// Asks for the contents of a buffer.
pub(crate) fn map(staging: &wgpu::Buffer, answer: &Answer<()>) {
    let answer = answer.clone();
    staging.map_async(wgpu::MapMode::Read, .., move |result| answer.give(result.map_err(|error| error.to_string())));
}

/// The contents of a buffer that is mapped, and is not any more.
pub(crate) async fn unmapped(device: &wgpu::Device, name: &str, staging: &wgpu::Buffer) -> Result<Vec<u8>, GpuError> {
    let bytes = match staging.get_mapped_range(..) {
        Ok(view) => view.to_vec(),
        Err(error) => return Err(failure(device, name, error).await),
    };
    staging.unmap();
    Ok(bytes)
}

/// Measures each of `passes` compute passes by the device's clock. Submits them together and waits for them.
pub(crate) async fn timed_passes(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    poll: Poll,
    passes: usize,
    mut record: impl FnMut(usize, &mut wgpu::ComputePass<'_>) -> Result<(), GpuError>,
) -> Result<Vec<Duration>, GpuError> {
    let needed = wgpu::Features::TIMESTAMP_QUERY;
    if !device.features().contains(needed) {
        return Err(GpuError::Feature { what: "timing by the device", needed });
    }
    // A query set holds so many.
    let most = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;
    let mut durations = Vec::with_capacity(passes);
    for first in (0..passes).step_by(most) {
        let here = most.min(passes - first);
        let count = 2 * here as u32;
        let size = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let mut pending = Pending::new(device);
        let resolved = allocate(&mut pending, "timestamps", size, usage)?;
        let descriptor = wgpu::QuerySetDescriptor { label: Some("enfold"), ty: wgpu::QueryType::Timestamp, count };
        let query_set = pending.make("timestamps", || device.create_query_set(&descriptor))?;
        pending.done().await?;
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("enfold") });
        for at in 0..here {
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: &query_set,
                beginning_of_pass_write_index: Some(2 * at as u32),
                end_of_pass_write_index: Some(2 * at as u32 + 1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some("enfold"), timestamp_writes };
            record(first + at, &mut encoder.begin_compute_pass(&descriptor))?;
        }
        encoder.resolve_query_set(&query_set, 0..count, &resolved, 0);
        queue.submit([encoder.finish()]);
        let ticks: Vec<u64> =
            bytemuck::pod_collect_to_vec(&download(device, queue, poll, "timestamps", &resolved, size).await?);
        let nanoseconds = |ticks: u64| ticks as f64 * f64::from(queue.get_timestamp_period());
        let duration = |pair: &[u64]| Duration::from_secs_f64(nanoseconds(pair[1].saturating_sub(pair[0])) * 1e-9);
        durations.extend(ticks.chunks_exact(2).map(duration));
    }
    Ok(durations)
}
